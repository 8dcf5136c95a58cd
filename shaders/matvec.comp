// y (n, rows) = epilogue(x (n, cols) * W (rows, cols)^T) for few rows of x: every weight is read once for COLS of them.
// LANES invocations share ROWS rows of W and step through its blocks side by side. LANES = 1 is the form for drivers whose
// lanes are SIMD slots of a CPU: x is then the same for all lanes (one scalar load), and no lane waits for another.
// Bytes read an output: a row of W / COLS; x comes from cache.
// SUBGROUP: lanes that share a row add up by shuffles and take no shared memory (LANES must divide the subgroup); those of LANES = 1
// load values of x for one another (the subgroup must have 8 at least).
// DOTS: x comes as whole numbers (quantize.comp), and so do the weights: packed dot products, exact sums over a part of a block.
#version 450
#extension GL_GOOGLE_include_directive : require
#ifdef SUBGROUP
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_ballot : require
#extension GL_KHR_shader_subgroup_shuffle : require
#endif
#include "common.glsl"
#define W_BINDING 0
#define S_BINDING 1
#include "weights.glsl"
#include "linear.glsl"
#ifdef DOTS
#include "dots.glsl"
#endif

layout(constant_id = 2) const uint LANES = 1;
layout(constant_id = 3) const uint ROWS = 2; // even
layout(constant_id = 4) const uint COLS = 1;

const uint UNITS = WORKGROUP / LANES; // groups of lanes in a workgroup
const bool NORMED = (EPILOGUE & PM_LINEAR_NORM) != 0;
const uint SUMS = (NORMED ? ROWS + 1 : ROWS) * COLS; // of a lane: a product for each row and column, and the squares under the norm
const uint PAIRS = ROWS / 2 * COLS;                  // of rows, each with a column
const bool SHARED_LANES = LANES > 1;
#ifndef SUBGROUP
shared float lane_sums[SHARED_LANES ? SUMS * WORKGROUP : 1];
#endif
shared float lane_squares[(EPILOGUE & PM_LINEAR_ADD) != 0 ? COLS * WORKGROUP : 1];

float sums[SUMS];
uint x_rows[COLS]; // x_row of each column
float finished[SUMS]; // LANES == 1: the same where an index may vary, so that `sums` can stay in registers

#ifndef DOTS
float fma4(vec4 w, vec4 v, float sum) {
    return fma(w.w, v.w, fma(w.z, v.z, fma(w.y, v.y, fma(w.x, v.x, sum))));
}

vec4 load_x(uint c, uint block, uint j) {
    return x[x_rows[c] * (a.x_stride / 4) + block * (PM_BLOCK / 4) + j];
}

// Columns 8 i .. 8 i + 7 of a block.
#ifdef SUBGROUP
layout(binding = 2) readonly buffer XValues {
    float x_values[]; // the same as x, one by one
};

// llvmpipe up to Mesa 25 loads for each lane by itself inside a loop, 13 instructions each, even what is the same for all of them: a
// lane loads one of the eight values and hands it to the others, which is one instruction.
void load_x_eight(uint c, uint block, uint i, out vec4 lo, out vec4 hi) {
    float mine = x_values[x_rows[c] * a.x_stride + block * PM_BLOCK + 8 * i + gl_SubgroupInvocationID % 8];
    lo = vec4(subgroupBroadcast(mine, 0), subgroupBroadcast(mine, 1), subgroupBroadcast(mine, 2), subgroupBroadcast(mine, 3));
    hi = vec4(subgroupBroadcast(mine, 4), subgroupBroadcast(mine, 5), subgroupBroadcast(mine, 6), subgroupBroadcast(mine, 7));
}
#else
void load_x_eight(uint c, uint block, uint i, out vec4 lo, out vec4 hi) {
    lo = load_x(c, block, 2 * i);
    hi = load_x(c, block, 2 * i + 1);
}
#endif

// One column: scale and minus are applied to the sums of a part of a block (the half of it where halves have scales of their own, else
// the whole). More: to each weight, which serves all columns.
const bool SCALE_SUMS = W_SCALES != 0 && COLS == 1;
const bool SCALE_WEIGHTS = W_SCALES != 0 && COLS > 1;
const uint PARTS = W_SCALES == 2 ? 2 : 1;
const uint PART = PM_BLOCK / PARTS;

// sums[r] += sum of (quant * scale - minus) * x over a part of a block
void add_scaled(uint r, affine f, uint part, float dot_x, float sum_x) {
    sums[r] = fma(either(f.scale, part), dot_x, sums[r]);
    if (W_MINUS != 0)
        sums[r] = fma(-either(f.minus, part), sum_x, sums[r]);
}

// Adds a block of ROWS rows times COLS columns: every word of the block is loaded before it is used, 16 bytes at a time.
void add_block_wide(uint row, uint block) {
    packed_block p[ROWS];
    affine f[ROWS];
    PM_UNROLL for (uint r = 0; r < ROWS; r++) {
        uint safe_row = w_row(row + r);
        p[r] = weights_load(safe_row, block, a.blocks);
        f[r] = weights_affine(safe_row, block, a.blocks, a.scale_stride);
    }
    float dots[ROWS], sum_x = 0;
    PM_UNROLL for (uint r = 0; r < ROWS; r++) dots[r] = 0;
    PM_UNROLL for (uint j = 0; j < PM_BLOCK / 4; j++) {
        vec4 w[ROWS];
        PM_UNROLL for (uint r = 0; r < ROWS; r++) {
            w[r] = weights_unpack(p[r], j);
            if (SCALE_WEIGHTS)
                w[r] = weights_scaled(w[r], f[r], j * 4 / PART);
        }
        PM_UNROLL for (uint c = 0; c < COLS; c++) {
            vec4 v = load_x(c, block, j);
            if (SCALE_SUMS && W_MINUS != 0)
                sum_x += v.x + v.y + v.z + v.w;
            PM_UNROLL for (uint r = 0; r < ROWS; r++) {
                if (SCALE_SUMS)
                    dots[r] = fma4(w[r], v, dots[r]);
                else
                    sums[r * COLS + c] = fma4(w[r], v, sums[r * COLS + c]);
            }
        }
        if (SCALE_SUMS && (j + 1) * 4 % PART == 0) { // a part is complete
            PM_UNROLL for (uint r = 0; r < ROWS; r++) {
                add_scaled(r, f[r], j * 4 / PART, dots[r], sum_x);
                dots[r] = 0;
            }
            sum_x = 0;
        }
    }
}

// The same with 8 columns of the block at a time, in a loop that stays one: a software driver compiles 4 times less code (with
// 8 rows and 8 columns unrolled, LLVM 15 took ten seconds a kernel), and gains nothing from wide loads. One loop: a second around it
// for the halves cost such drivers a quarter of their speed, so that those are added up at every step.
void add_block_small(uint row, uint block) {
    affine f[ROWS];
    float dots[ROWS], sum_x = 0;
    PM_UNROLL for (uint r = 0; r < ROWS; r++) {
        f[r] = weights_affine(w_row(row + r), block, a.blocks, a.scale_stride);
        dots[r] = 0;
    }
    [[dont_unroll]] for (uint i = 0; i < PM_BLOCK / 8; i++) {
        uint part = PARTS == 2 ? i / 2 : 0;
        vec4 lo[ROWS], hi[ROWS];
        PM_UNROLL for (uint r = 0; r < ROWS; r++) {
            weights_eight(w_row(row + r), block, a.blocks, i, lo[r], hi[r]);
            if (SCALE_WEIGHTS) {
                lo[r] = weights_scaled(lo[r], f[r], part);
                hi[r] = weights_scaled(hi[r], f[r], part);
            }
        }
        PM_UNROLL for (uint c = 0; c < COLS; c++) {
            vec4 v0, v1;
            load_x_eight(c, block, i, v0, v1);
            if (SCALE_SUMS && W_MINUS != 0)
                sum_x += dot(v0 + v1, vec4(1));
            PM_UNROLL for (uint r = 0; r < ROWS; r++) {
                if (SCALE_SUMS)
                    dots[r] = fma4(hi[r], v1, fma4(lo[r], v0, dots[r]));
                else
                    sums[r * COLS + c] = fma4(hi[r], v1, fma4(lo[r], v0, sums[r * COLS + c]));
            }
        }
        if (SCALE_SUMS && PARTS == 2) {
            PM_UNROLL for (uint r = 0; r < ROWS; r++) {
                add_scaled(r, f[r], part, dots[r], sum_x);
                dots[r] = 0;
            }
            sum_x = 0;
        }
    }
    if (SCALE_SUMS && PARTS == 1)
        PM_UNROLL for (uint r = 0; r < ROWS; r++) add_scaled(r, f[r], 0, dots[r], sum_x);
}
#else
// Adds row r times column c of a part of a block, of whose quants `dots` is the product.
void add_part(uint r, uint c, affine f, x_affine v, uint part, int dots) {
    int sum_x = part == 0 ? v.sums.x : v.sums.y;
    sums[r * COLS + c] = fma(either(f.scale, part) * v.scale, float(dots - W_BYTE_ZERO * sum_x), sums[r * COLS + c]);
    if (W_MINUS != 0)
        sums[r * COLS + c] = fma(-either(f.minus, part) * v.scale, float(sum_x), sums[r * COLS + c]);
}

// Adds a block of ROWS rows times COLS columns, all of whose words are loaded before they are used.
void add_block_wide(uint row, uint block) {
    affine f[ROWS];
    uvec2 w[ROWS * PM_BLOCK / 8];
    PM_UNROLL for (uint r = 0; r < ROWS; r++) {
        uint safe_row = w_row(row + r);
        packed_block p = weights_load(safe_row, block, a.blocks);
        f[r] = weights_affine(safe_row, block, a.blocks, a.scale_stride);
        PM_UNROLL for (uint i = 0; i < PM_BLOCK / 8; i++) w[r * (PM_BLOCK / 8) + i] = weights_bytes_of(p, i);
    }
    PM_UNROLL for (uint c = 0; c < COLS; c++) {
        x_affine x_of = x_affine_of(x_rows[c], block);
        int dots[ROWS * PARTS];
        PM_UNROLL for (uint i = 0; i < ROWS * PARTS; i++) dots[i] = 0;
        PM_UNROLL for (uint plane = 0; plane < PLANES; plane++) {
            uint at = x_at(x_rows[c], plane, block) / 4;
            uvec4 v[2] = {x_quads[at], x_quads[at + 1]};
            PM_UNROLL for (uint r = 0; r < ROWS; r++) {
                PM_UNROLL for (uint i = 0; i < PARTS; i++) dots[r * PARTS + i] <<= 8;
                PM_UNROLL for (uint i = 0; i < PM_BLOCK / 8; i++) {
                    uint sum = r * PARTS + (PARTS == 2 ? i / 2 : 0);
                    dots[sum] = dot_eight(w[r * (PM_BLOCK / 8) + i], i % 2 == 0 ? v[i / 2].xy : v[i / 2].zw, dots[sum]);
                }
            }
        }
        PM_UNROLL for (uint i = 0; i < ROWS * PARTS; i++) add_part(i / PARTS, c, f[i / PARTS], x_of, i % PARTS, dots[i]);
    }
}

// The same with 8 columns of the block at a time, in a loop that stays one (see above).
void add_block_small(uint row, uint block) {
    affine f[ROWS];
    int dots[ROWS * COLS];
    PM_UNROLL for (uint r = 0; r < ROWS; r++) f[r] = weights_affine(w_row(row + r), block, a.blocks, a.scale_stride);
    PM_UNROLL for (uint i = 0; i < ROWS * COLS; i++) dots[i] = 0;
    [[dont_unroll]] for (uint i = 0; i < PM_BLOCK / 8; i++) {
        uvec2 w[ROWS];
        PM_UNROLL for (uint r = 0; r < ROWS; r++) w[r] = weights_bytes_at(w_row(row + r), block, a.blocks, i);
        bool complete = (i + 1) % (PM_BLOCK / 8 / PARTS) == 0;
        PM_UNROLL for (uint c = 0; c < COLS; c++) {
            uvec2 v = x_pairs[x_at(x_rows[c], 0, block) / 2 + i], low = PLANES == 2 ? x_pairs[x_at(x_rows[c], 1, block) / 2 + i] : uvec2(0);
            PM_UNROLL for (uint r = 0; r < ROWS; r++) {
                int high = dot_eight(w[r], v, 0);
                dots[r * COLS + c] += PLANES == 2 ? dot_eight(w[r], low, high << 8) : high;
            }
        }
        if (!complete)
            continue;
        PM_UNROLL for (uint c = 0; c < COLS; c++) {
            x_affine x_of = x_affine_of(x_rows[c], block);
            PM_UNROLL for (uint r = 0; r < ROWS; r++) {
                add_part(r, c, f[r], x_of, PARTS == 2 ? i / 2 : 0, dots[r * COLS + c]);
                dots[r * COLS + c] = 0;
            }
        }
    }
}
#endif

// Leaves the sums where pair_sums finds them.
void share_sums() {
    if (!SHARED_LANES) {
        PM_UNROLL for (uint i = 0; i < SUMS; i++) finished[i] = sums[i];
        return;
    }
#ifdef SUBGROUP
    PM_UNROLL for (uint mask = LANES / 2; mask > 0; mask /= 2)
        PM_UNROLL for (uint i = 0; i < SUMS; i++) sums[i] += subgroupShuffleXor(sums[i], mask);
#else
    PM_UNROLL for (uint i = 0; i < SUMS; i++) lane_sums[i * WORKGROUP + gl_LocalInvocationID.x] = sums[i];
    barrier();
#endif
}

#ifndef SUBGROUP
// The sum number i over the lanes that share the work of this one.
float sum_lanes(uint i) {
    if (!SHARED_LANES)
        return finished[i];
    uint first = i * WORKGROUP + gl_LocalInvocationID.x / LANES * LANES;
    float sum = 0;
    for (uint l = 0; l < LANES; l++)
        sum += lane_sums[first + l];
    return sum;
}
#endif

// The products of rows 2 (i / COLS) and the next with column i % COLS, and the sum of squares of that column.
vec3 pair_sums(uint i) {
    vec3 s = vec3(0);
#ifdef SUBGROUP
    if (SHARED_LANES) { // an index that varies would take the sums out of registers
        PM_UNROLL for (uint k = 0; k < PAIRS; k++)
            if (k == i)
                s = vec3(sums[k / COLS * 2 * COLS + k % COLS], sums[(k / COLS * 2 + 1) * COLS + k % COLS],
                         NORMED ? sums[NORMED ? ROWS * COLS + k % COLS : 0] : 0);
        return s;
    }
#define sum_lanes(i) finished[i]
#endif
    s.xy = vec2(sum_lanes(i / COLS * 2 * COLS + i % COLS), sum_lanes((i / COLS * 2 + 1) * COLS + i % COLS));
    if (NORMED)
        s.z = sum_lanes(ROWS * COLS + i % COLS);
    return s;
}

void main() {
    uint tid = gl_LocalInvocationID.x;
    uint lane = SHARED_LANES ? tid % LANES : 0;
    uint row = (gl_WorkGroupID.x * UNITS + tid / LANES) * ROWS;
    if (!linear_begin(COLS))
        return;

    PM_UNROLL for (uint i = 0; i < SUMS; i++) sums[i] = 0;
    PM_UNROLL for (uint c = 0; c < COLS; c++) x_rows[c] = x_row(c);
    for (uint i = lane; i < n_items(); i += LANES) {
        uint block;
        if (!begin_item(i, block))
            continue;
        if (SUMS_EXPERTS)
            x_rows[0] = x_row(0);
        if (SHARED_LANES)
            add_block_wide(row, block);
        else
            add_block_small(row, block);
    }
    if (NORMED)
        PM_UNROLL for (uint c = 0; c < COLS; c++)
            for (uint i = lane; i < a.n_parts; i += LANES)
                sums[ROWS * COLS + c] += squares[x_rows[c] * a.squares_stride + i];
    share_sums();

    // The lanes of a unit share its pairs of sums.
    // (Unrolled, the stores of all pairs were most of what a software driver had to compile.)
    if ((EPILOGUE & PM_LINEAR_ADD) != 0)
        [[dont_unroll]] for (uint c = 0; c < COLS; c++) lane_squares[c * WORKGROUP + tid] = 0;
    [[dont_unroll]] for (uint i = lane; i < PAIRS; i += LANES) {
        uint c = i % COLS, r = i / COLS * 2;
        if (row + r >= a.rows || !has_column(c))
            continue;
        vec3 s = pair_sums(i);
        float scale = NORMED ? inversesqrt(s.z * a.inv_dim + a.eps) : 1.0;
        float written = linear_store(s.xy * scale, row + r, y_row(c));
        if ((EPILOGUE & PM_LINEAR_ADD) != 0)
            lane_squares[c * WORKGROUP + tid] += written;
    }
    if ((EPILOGUE & PM_LINEAR_ADD) != 0) {
        barrier();
        for (uint c = tid; c < COLS && has_column(c); c += WORKGROUP) {
            float sum = 0;
            for (uint i = 0; i < WORKGROUP; i++)
                sum += lane_squares[c * WORKGROUP + i];
            out_squares[y_row(c) * a.squares_stride + a.part0 + gl_WorkGroupID.x] = sum;
        }
    }
}
