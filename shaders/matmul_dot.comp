// y (n, rows) = epilogue(x (n, cols) * W (rows, cols)^T) for many rows of x by packed dot products: a workgroup computes a tile of
// TILE_ROWS rows of W by TILE_COLS rows of x, two blocks of 32 columns at a time, through shared memory (16 KiB). Both factors are
// whole numbers there (quantize.comp makes those of x), whose products are added up exactly over a part of a block, which has one
// scale on either side.
// Bytes read an output: a row of W / TILE_COLS + 1.5 or 2.5 * columns / TILE_ROWS.
#version 450
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#define W_BINDING 0
#define S_BINDING 1
#include "weights.glsl"
#include "linear.glsl"
#include "dots.glsl"

const uint TILE_ROWS = PM_DOT_TILE_ROWS, TILE_COLS = PM_DOT_TILE_COLS;
const uint ROWS = 8, COLS = 4; // of an invocation; WORKGROUP is TILE_ROWS / ROWS * TILE_COLS / COLS
const uint LANES_DOWN = TILE_ROWS / ROWS;
const uint STEP = 2;    // blocks; WORKGROUP is also STEP * TILE_ROWS and STEP * TILE_COLS
const uint HELPERS = 2; // invocations that share the sum of squares of a row of x: WORKGROUP / TILE_COLS
const uint WORDS = PM_BLOCK / 4;

shared uint tile_w[STEP * WORDS * TILE_ROWS]; // [block][word][row]
shared uint tile_x[STEP * PLANES * WORDS * TILE_COLS]; // [block][plane][word][row of x]
shared float w_scales[STEP * PARTS * TILE_ROWS];
shared float w_minus[W_MINUS != 0 ? STEP * PARTS * TILE_ROWS : 1];
shared float x_scales[STEP * TILE_COLS];
shared float x_sums[W_MINUS != 0 ? STEP * PARTS * TILE_COLS : 1]; // times the scale
shared float tile_sums[TILE_COLS * LANES_DOWN];

float sums[ROWS * COLS];

// Bytes from 0 to 127, less W_BYTE_ZERO each.
uint less_zero(uint q) {
    return W_BYTE_ZERO == 0 ? q : (q | 0x80808080u) - W_BYTE_ZERO * 0x01010101u ^ 0x80808080u;
}

// An invocation unpacks a block of one row of W. Behind the last block of a row there is one of zeros.
void load_w(uint row0, uint block0) {
    uint row = gl_LocalInvocationID.x % TILE_ROWS, b = gl_LocalInvocationID.x / TILE_ROWS;
    uint safe_row = w_row(row0 + row), block = min(block0 + b, a.blocks - 1);
    packed_block p = weights_load(safe_row, block, a.blocks);
    affine f = weights_affine(safe_row, block, a.blocks, a.scale_stride);
    if (block0 + b >= a.blocks)
        f = affine(vec2(0), vec2(0));
    PM_UNROLL for (uint i = 0; i < PM_BLOCK / 8; i++) {
        uvec2 q = weights_bytes_of(p, i);
        tile_w[(b * WORDS + 2 * i) * TILE_ROWS + row] = less_zero(q.x);
        tile_w[(b * WORDS + 2 * i + 1) * TILE_ROWS + row] = less_zero(q.y);
    }
    PM_UNROLL for (uint part = 0; part < PARTS; part++) {
        w_scales[(b * PARTS + part) * TILE_ROWS + row] = either(f.scale, part);
        if (W_MINUS != 0)
            w_minus[(b * PARTS + part) * TILE_ROWS + row] = either(f.minus, part);
    }
}

// And a block of one row of x, which is number `from`.
void load_x(uint from, uint block0) {
    uint col = gl_LocalInvocationID.x % TILE_COLS, b = gl_LocalInvocationID.x / TILE_COLS;
    uint block = min(block0 + b, a.blocks - 1);
    PM_UNROLL for (uint j = 0; j < PLANES * WORDS / 4; j++) {
        uvec4 v = x_quads[x_at(from, j / (WORDS / 4), block) / 4 + j % (WORDS / 4)];
        PM_UNROLL for (uint k = 0; k < 4; k++) tile_x[(b * PLANES * WORDS + 4 * j + k) * TILE_COLS + col] = v[k];
    }
    x_affine f = x_affine_of(from, block);
    x_scales[b * TILE_COLS + col] = f.scale;
    if (W_MINUS != 0)
        PM_UNROLL for (uint part = 0; part < PARTS; part++)
            x_sums[(b * PARTS + part) * TILE_COLS + col] = f.scale * float(part == 0 ? f.sums.x : f.sums.y);
}

// sums += a part of block b.
void multiply(uint row, uint col, uint b, uint part) {
    int dots[ROWS * COLS];
    PM_UNROLL for (uint i = 0; i < ROWS * COLS; i++) dots[i] = 0;
    PM_UNROLL for (uint plane = 0; plane < PLANES; plane++) {
        uint w_first = b * WORDS + part * (WORDS / PARTS), x_first = (b * PLANES + plane) * WORDS + part * (WORDS / PARTS);
        PM_UNROLL for (uint i = 0; i < ROWS * COLS; i++) dots[i] <<= 8;
        PM_UNROLL for (uint j = 0; j < WORDS / PARTS; j++) {
            uint w[ROWS], v[COLS];
            PM_UNROLL for (uint r = 0; r < ROWS; r++) w[r] = tile_w[(w_first + j) * TILE_ROWS + row + r];
            PM_UNROLL for (uint c = 0; c < COLS; c++) v[c] = tile_x[(x_first + j) * TILE_COLS + col + c];
            PM_UNROLL for (uint r = 0; r < ROWS; r++)
                PM_UNROLL for (uint c = 0; c < COLS; c++) dots[r * COLS + c] += dotPacked4x8EXT(int(w[r]), int(v[c]));
        }
    }
    uint w_at = (b * PARTS + part) * TILE_ROWS + row, sums_at = (b * PARTS + part) * TILE_COLS + col;
    PM_UNROLL for (uint c = 0; c < COLS; c++) {
        float scale = x_scales[b * TILE_COLS + col + c];
        PM_UNROLL for (uint r = 0; r < ROWS; r++) {
            sums[r * COLS + c] = fma(float(dots[r * COLS + c]), w_scales[w_at + r] * scale, sums[r * COLS + c]);
            if (W_MINUS != 0)
                sums[r * COLS + c] = fma(-w_minus[w_at + r], x_sums[sums_at + c], sums[r * COLS + c]);
        }
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
    for (uint block = 0; block < a.blocks; block += STEP) {
        load_w(row0, block);
        load_x(from, block);
        barrier();
        [[dont_unroll]] for (uint i = 0; i < STEP * PARTS; i++) multiply(row, col, i / PARTS, i % PARTS);
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
