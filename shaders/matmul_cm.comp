// matmul.comp on cooperative matrices, f16 x f16 -> f32: a workgroup computes TILE_ROWS rows of W by TILE_COLS rows of x, a block of
// 32 columns at a time. Both become halves in shared memory; the words of the next block are on their way while this one is
// multiplied. With two BUFFERS the next block's halves go beside those that are multiplied, and subgroups wait for one another once a
// block, not twice. Rows of x are scaled by their norm before they become halves: what the norm has not divided yet may exceed a half.
// Bytes read an output: a row of W / TILE_COLS + a row of x / TILE_ROWS.
#version 450
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_shuffle : require
#include "common.glsl"
#define W_BINDING 0
#define S_BINDING 1
#include "weights.glsl"
#include "linear.glsl"

layout(constant_id = 2) const uint SUBGROUP = 32; // the pipeline is made for this size
layout(constant_id = 3) const uint M = 16;        // a matrix's rows of W, even
layout(constant_id = 4) const uint N = 16;        // rows of x
layout(constant_id = 5) const uint K = 16;        // columns, divides PM_BLOCK
layout(constant_id = 6) const uint TILE_ROWS = 128; // a multiple of WORKGROUP
layout(constant_id = 7) const uint TILE_COLS = 64;
layout(constant_id = 8) const uint DOWN = 2;    // subgroups above one another
layout(constant_id = 9) const uint BUFFERS = 1; // or 2

const uint SUBGROUPS = WORKGROUP / SUBGROUP, ACROSS = SUBGROUPS / DOWN;
const uint DOWN_M = TILE_ROWS / DOWN / M, ACROSS_N = TILE_COLS / ACROSS / N; // matrices of a subgroup
const uint STRIDE = PM_BLOCK + 8;  // halves from row to row: 80 bytes spread the rows over the banks
const uint ROWS_EACH = TILE_ROWS / WORKGROUP;
const uint QUADS = TILE_COLS * (PM_BLOCK / 4), QUADS_EACH = (QUADS + WORKGROUP - 1) / WORKGROUP;
const uint PAIRS = M / 2; // of rows in a matrix: a power of two, of lanes side by side
const bool NORM = (EPILOGUE & PM_LINEAR_NORM) != 0, ADD = (EPILOGUE & PM_LINEAR_ADD) != 0;

const uint W_QUADS = TILE_ROWS * STRIDE / 4, X_QUADS = TILE_COLS * STRIDE / 4; // of a buffer

shared f16vec4 tile_w[BUFFERS * W_QUADS]; // [buffer][row][column]
shared f16vec4 tile_x[BUFFERS * X_QUADS]; // [buffer][row of x][column]
shared float tile_y[SUBGROUPS * M * N];        // a matrix of each subgroup: [row of x][row]
shared float scales_x[NORM ? TILE_COLS : 1];
shared float tile_squares[ADD ? TILE_COLS * DOWN : 1]; // [row of x][subgroup down]

// ---- a block's way into shared memory -------------------------------------------------------------------------------------

packed_block next_w[ROWS_EACH];
affine next_scales[ROWS_EACH];
vec4 next_x[QUADS_EACH];

void fetch(uint row0, uint col0, uint block) {
    uint tid = gl_LocalInvocationID.x;
    PM_UNROLL for (uint i = 0; i < ROWS_EACH; i++) {
        uint row = min(row0 + tid + i * WORKGROUP, a.rows - 1);
        next_w[i] = weights_load(row, block, a.blocks);
        next_scales[i] = weights_affine(row, block, a.blocks, a.scale_stride);
    }
    PM_UNROLL for (uint i = 0; i < QUADS_EACH; i++) {
        uint quad = tid + i * WORKGROUP, col = min(col0 + quad / (PM_BLOCK / 4), a.n - 1);
        next_x[i] = x[col * (a.x_stride / 4) + block * (PM_BLOCK / 4) + quad % (PM_BLOCK / 4)];
    }
}

f16vec4 halves(vec4 v) {
    return f16vec4(clamp(v, vec4(-65504), vec4(65504)));
}

void unpack(uint which) {
    uint tid = gl_LocalInvocationID.x;
    PM_UNROLL for (uint i = 0; i < ROWS_EACH; i++)
        PM_UNROLL for (uint j = 0; j < PM_BLOCK / 4; j++)
            tile_w[which * W_QUADS + (tid + i * WORKGROUP) * (STRIDE / 4) + j] =
                f16vec4(weights_scaled(weights_unpack(next_w[i], j), next_scales[i], j / (PM_BLOCK / 8)));
    PM_UNROLL for (uint i = 0; i < QUADS_EACH; i++) {
        uint quad = tid + i * WORKGROUP, col = quad / (PM_BLOCK / 4);
        if (QUADS % WORKGROUP == 0 || quad < QUADS)
            tile_x[which * X_QUADS + col * (STRIDE / 4) + quad % (PM_BLOCK / 4)] = halves(NORM ? next_x[i] * scales_x[col] : next_x[i]);
    }
}

// scales_x[c] = the norm's factor of row col0 + c of x.
void find_norm_scales(uint col0) {
    for (uint c = gl_LocalInvocationID.x; c < TILE_COLS; c += WORKGROUP) {
        float sum = 0;
        for (uint i = 0; i < a.n_parts; i++)
            sum += squares[min(col0 + c, a.n - 1) * a.squares_stride + i];
        scales_x[c] = inversesqrt(sum * a.inv_dim + a.eps);
    }
    barrier();
}

// ---- products -------------------------------------------------------------------------------------------------------------

coopmat<float, gl_ScopeSubgroup, M, N, gl_MatrixUseAccumulator> sums[DOWN_M * ACROSS_N];

void multiply(uint which, uint sub_row, uint sub_col) {
    coopmat<float16_t, gl_ScopeSubgroup, M, K, gl_MatrixUseA> w[DOWN_M];
    coopmat<float16_t, gl_ScopeSubgroup, K, N, gl_MatrixUseB> v;
    PM_UNROLL for (uint k = 0; k < PM_BLOCK; k += K) {
        PM_UNROLL for (uint r = 0; r < DOWN_M; r++)
            coopMatLoad(w[r], tile_w, which * W_QUADS + (sub_row + r * M) * (STRIDE / 4) + k / 4, STRIDE / 4,
                        gl_CooperativeMatrixLayoutRowMajor);
        PM_UNROLL for (uint c = 0; c < ACROSS_N; c++) {
            coopMatLoad(v, tile_x, which * X_QUADS + (sub_col + c * N) * (STRIDE / 4) + k / 4, STRIDE / 4,
                        gl_CooperativeMatrixLayoutColumnMajor);
            PM_UNROLL for (uint r = 0; r < DOWN_M; r++)
                sums[r * ACROSS_N + c] = coopMatMulAdd(w[r], v, sums[r * ACROSS_N + c]);
        }
    }
}

// Writes a matrix whose corner is row `row` of the tile, column `col`, from its place in shared memory.
void finish(uint row0, uint col0, uint row, uint col, uint from) {
    for (uint j = 0; j < PAIRS * N; j += SUBGROUP) {
        uint i = j + gl_SubgroupInvocationID, pair = i % PAIRS, c = col + i / PAIRS, out_row = row0 + row + 2 * pair;
        uint at = from + i / PAIRS * M + 2 * pair;
        bool there = i < PAIRS * N && out_row < a.rows && col0 + c < a.n;
        float written = 0;
        if (there)
            written = linear_store(vec2(tile_y[at], tile_y[at + 1]), out_row, col0 + c);
        if (ADD) {
            PM_UNROLL for (uint l = 1; l < PAIRS; l *= 2) written += subgroupShuffleXor(written, l);
            if (there && pair == 0)
                tile_squares[c * DOWN + row / (TILE_ROWS / DOWN)] += written;
        }
    }
}

void main() {
    uint tid = gl_LocalInvocationID.x, me = gl_SubgroupID;
    uint row0 = gl_WorkGroupID.x * TILE_ROWS, col0 = a.n0 + gl_WorkGroupID.y * TILE_COLS;
    uint sub_row = me % DOWN * (TILE_ROWS / DOWN), sub_col = me / DOWN * (TILE_COLS / ACROSS);

    PM_UNROLL for (uint i = 0; i < DOWN_M * ACROSS_N; i++)
        sums[i] = coopmat<float, gl_ScopeSubgroup, M, N, gl_MatrixUseAccumulator>(0);
    if (ADD)
        for (uint i = tid; i < TILE_COLS * DOWN; i += WORKGROUP)
            tile_squares[i] = 0;
    if (NORM)
        find_norm_scales(col0);
    fetch(row0, col0, 0);
    for (uint block = 0; block < a.blocks; block++) {
        unpack(block % BUFFERS);
        barrier();
        fetch(row0, col0, min(block + 1, a.blocks - 1));
        multiply(block % BUFFERS, sub_row, sub_col);
        if (BUFFERS == 1)
            barrier(); // of two, the other was read before the barrier above
    }

    // A loop that takes one of them each time: written out, many would not all be, and the rest would leave the registers.
    [[dont_unroll]] for (uint i = 0; i < DOWN_M * ACROSS_N; i++) {
        PM_UNROLL for (uint m = 0; m < DOWN_M * ACROSS_N; m++)
            if (m == i)
                coopMatStore(sums[m], tile_y, me * M * N, M, gl_CooperativeMatrixLayoutColumnMajor);
        subgroupMemoryBarrierShared();
        subgroupBarrier();
        finish(row0, col0, sub_row + i / ACROSS_N * M, sub_col + i % ACROSS_N * N, me * M * N);
        subgroupBarrier();
    }
    if (ADD) {
        barrier();
        for (uint c = tid; c < TILE_COLS && col0 + c < a.n; c += WORKGROUP) {
            float sum = 0;
            for (uint i = 0; i < DOWN; i++)
                sum += tile_squares[c * DOWN + i];
            out_squares[(col0 + c) * a.squares_stride + a.part0 + gl_WorkGroupID.x] = sum;
        }
    }
}
