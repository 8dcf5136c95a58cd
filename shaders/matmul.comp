// y (n, rows) = epilogue(x (n, cols) * W (rows, cols)^T) for many rows of x: a workgroup computes a tile of TILE_ROWS rows of W by
// TILE_COLS rows of x, a block of 32 columns at a time, through shared memory (12 KiB and the partial sums: fits the 16 KiB that
// Vulkan guarantees). The plain form: f32, no double buffer, no 16-bit arithmetic.
// Bytes read an output: a row of W / TILE_COLS + a row of x / TILE_ROWS.
#version 450
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#define W_BINDING 0
#define S_BINDING 1
#include "weights.glsl"
#include "linear.glsl"

const uint TILE_ROWS = PM_TILE_ROWS, TILE_COLS = PM_TILE_COLS;
const uint ROWS = 4, COLS = 4; // of an invocation; WORKGROUP is TILE_ROWS / ROWS * TILE_COLS / COLS
const uint LANES_DOWN = TILE_ROWS / ROWS;
const uint HELPERS = 4; // invocations that share the sum of squares of a row of x: WORKGROUP / TILE_COLS

shared float tile_w[PM_BLOCK * TILE_ROWS]; // [column][row]
shared float tile_x[PM_BLOCK * TILE_COLS]; // [column][row of x]
shared float tile_sums[TILE_COLS * LANES_DOWN];

float sums[ROWS * COLS];

// An invocation unpacks half a block of one row of W.
void load_w(uint row0, uint block) {
    uint row = gl_LocalInvocationID.x % TILE_ROWS, first = gl_LocalInvocationID.x / TILE_ROWS * (PM_BLOCK / 8);
    uint safe_row = w_row(row0 + row);
    packed_block p = weights_load(safe_row, block, a.blocks);
    affine f = weights_affine(safe_row, block, a.blocks, a.scale_stride);
    PM_UNROLL for (uint j = 0; j < PM_BLOCK / 4; j++) {
        if (j / (PM_BLOCK / 8) * (PM_BLOCK / 8) != first)
            continue;
        vec4 w = weights_scaled(weights_unpack(p, j), f, j / (PM_BLOCK / 8));
        PM_UNROLL for (uint i = 0; i < 4; i++) tile_w[(4 * j + i) * TILE_ROWS + row] = w[i];
    }
}

// WORKGROUP is a multiple of TILE_COLS: an invocation loads from one row of x, which is number `from`.
void load_x(uint from, uint block) {
    uint col = gl_LocalInvocationID.x % TILE_COLS;
    for (uint j = gl_LocalInvocationID.x / TILE_COLS; j < PM_BLOCK / 4; j += WORKGROUP / TILE_COLS) {
        vec4 v = x[from * (a.x_stride / 4) + block * (PM_BLOCK / 4) + j];
        PM_UNROLL for (uint i = 0; i < 4; i++) tile_x[(4 * j + i) * TILE_COLS + col] = v[i];
    }
}

void multiply(uint row, uint col) {
    for (uint k = 0; k < PM_BLOCK; k++) {
        float w[ROWS], v[COLS];
        PM_UNROLL for (uint r = 0; r < ROWS; r++) w[r] = tile_w[k * TILE_ROWS + row + r];
        PM_UNROLL for (uint c = 0; c < COLS; c++) v[c] = tile_x[k * TILE_COLS + col + c];
        PM_UNROLL for (uint r = 0; r < ROWS; r++)
            PM_UNROLL for (uint c = 0; c < COLS; c++) sums[r * COLS + c] = fma(w[r], v[c], sums[r * COLS + c]);
    }
}

// tile_sums[c] = the norm's factor of column c.
void find_norm_scales() {
    uint col = gl_LocalInvocationID.x / HELPERS, helper = gl_LocalInvocationID.x % HELPERS;
    uint from = x_row(col);
    float sum = 0;
    for (uint i = helper; i < a.n_parts; i += HELPERS)
        sum += squares[from * a.squares_stride + i];
    tile_sums[TILE_COLS + col * HELPERS + helper] = sum;
    barrier();
    if (helper == 0) {
        for (uint i = 1; i < HELPERS; i++)
            sum += tile_sums[TILE_COLS + col * HELPERS + i];
        tile_sums[col] = inversesqrt(sum * a.inv_dim + a.eps);
    }
    barrier();
}

void main() {
    uint tid = gl_LocalInvocationID.x;
    uint row0 = gl_WorkGroupID.x * TILE_ROWS;
    uint row = tid % LANES_DOWN * ROWS, col = tid / LANES_DOWN * COLS;
    if (!linear_begin(TILE_COLS))
        return;

    uint from = x_row(tid % TILE_COLS);
    PM_UNROLL for (uint i = 0; i < ROWS * COLS; i++) sums[i] = 0;
    for (uint block = 0; block < a.blocks; block++) {
        load_w(row0, block);
        load_x(from, block);
        barrier();
        multiply(row, col);
        barrier();
    }
    if ((EPILOGUE & PM_LINEAR_NORM) != 0)
        find_norm_scales();

    float written[COLS];
    PM_UNROLL for (uint c = 0; c < COLS; c++) {
        written[c] = 0;
        float scale = (EPILOGUE & PM_LINEAR_NORM) != 0 ? tile_sums[col + c] : 1.0;
        PM_UNROLL for (uint r = 0; r < ROWS; r += 2)
            if (row0 + row + r < a.rows && has_column(col + c))
                written[c] += linear_store(scale * vec2(sums[r * COLS + c], sums[(r + 1) * COLS + c]), row0 + row + r, y_row(col + c));
    }
    if ((EPILOGUE & PM_LINEAR_ADD) != 0) {
        PM_UNROLL for (uint c = 0; c < COLS; c++) tile_sums[(col + c) * LANES_DOWN + row / ROWS] = written[c];
        barrier();
        if (tid < TILE_COLS && has_column(tid)) {
            float sum = 0;
            for (uint i = 0; i < LANES_DOWN; i++)
                sum += tile_sums[tid * LANES_DOWN + i];
            out_squares[y_row(tid) * a.squares_stride + a.part0 + gl_WorkGroupID.x] = sum;
        }
    }
}
