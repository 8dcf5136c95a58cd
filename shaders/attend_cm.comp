// attend.comp on cooperative matrices, f16 x f16 -> f32, for a prompt: a workgroup takes the GROUP query heads that share a kv head, of
// ROWS batch rows with consecutive positions of one sequence; each of its subgroups M of these queries. Pages of the cache become
// halves in shared memory for all of them, keys as [position][dim], values turned to [dim][position], so that what a lane takes into
// a matrix lies side by side; the page's values are on their way while its keys are multiplied, then the next page's keys. Softmax
// is online, by a page. Causality is arithmetic: no page is looked at behind the last row's position.
// Bytes read: K and V of the split once for all QUERIES.
#version 450
#extension GL_GOOGLE_include_directive : require
#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#extension GL_KHR_shader_subgroup_basic : require
#extension GL_KHR_shader_subgroup_shuffle : require
#include "common.glsl"
#define GROUP_ID 3
#include "attend.glsl"

layout(constant_id = 2) const uint SUBGROUP = 32; // the pipeline is made for this size
layout(constant_id = 4) const uint M = 16;        // a matrix's queries
layout(constant_id = 5) const uint N = 16;        // its positions, or dims of values; divides PM_PAGE
layout(constant_id = 6) const uint DEPTH = 16;    // what a product sums over; divides PM_PAGE, which divides HEAD_DIM

layout(binding = 4) readonly buffer ValueQuads {
    uvec4 v_quads[]; // KV_CHUNK values each
};

const uint SUBGROUPS = WORKGROUP / SUBGROUP, QUERIES = SUBGROUPS * M;
const uint ROWS = QUERIES / GROUP; // what is left of QUERIES is nobody's
// From row to row, a multiple of 16 bytes that spreads them over the banks: halves of keys, of values, halves and floats of scores.
const uint K_STRIDE = HEAD_DIM + 8, V_STRIDE = PM_PAGE + 8, S_STRIDE = PM_PAGE + 8;
const uint K_SIZE = PM_PAGE * K_STRIDE, V_SIZE = HEAD_DIM * V_STRIDE;
const uint CHUNKS = HEAD_DIM / KV_CHUNK, QUADS = KV_CHUNK / 4; // a chunk is 16 bytes of the cache
const uint K_UNITS = PM_PAGE * CHUNKS, K_EACH = (K_UNITS + WORKGROUP - 1) / WORKGROUP;
const uint V_UNITS = K_UNITS / 2, V_EACH = (V_UNITS + WORKGROUP - 1) / WORKGROUP; // chunks of two positions
const uint LANES = SUBGROUP > M ? SUBGROUP / M : 1; // of a query, in the softmax
const uint EACH = M * LANES / SUBGROUP;             // queries of a lane
const uint FOURS = PM_PAGE / 4 / LANES;             // of a query's scores, for a lane
// All of a page's matrices at once, of small ones one: those are what software drivers have, whose compilers write out every product.
const uint COLUMNS = N < 16 ? 1 : PM_PAGE / N, STEPS = DEPTH < 16 ? 1 : PM_PAGE / DEPTH;

shared f16vec2 tile[(K_SIZE > V_SIZE ? K_SIZE : V_SIZE) / 2]; // keys, then values
// Of each subgroup: scores, then what they were summed with is worth now; probabilities, and at first slices of q.
shared vec4 scores[QUERIES * S_STRIDE / 4];
shared f16vec4 probabilities[QUERIES * S_STRIDE / 4];

coopmat<float16_t, gl_ScopeSubgroup, M, DEPTH, gl_MatrixUseA> queries[HEAD_DIM / DEPTH];
coopmat<float, gl_ScopeSubgroup, M, N, gl_MatrixUseAccumulator> sum_pv[HEAD_DIM / N];
float greatest[EACH], sum_p[EACH]; // sum_p: of this lane's positions

// No score is as low as what stands for "none so far", and what is not seen is so much lower that 2 to the difference is 0.
const float NONE = LOWEST / 4;
// Probabilities are 2^15 times as large, up to 32768: those below 2^-14 of the greatest would be subnormal halves, which a device may
// flush, and many of them count.
const float SHIFT = 15;

// Of the rows, and what this workgroup looks at.
struct span {
    uint n, rows; // the first batch row, and how many
    uint pos;     // of the first row
    uint end;     // no position from here on
    uint table, head;
};

void subgroup_barrier() {
    subgroupMemoryBarrierShared();
    subgroupBarrier();
}

// The batch row that query i of this subgroup belongs to, counted from the first; its head in the group.
uint row_of(uint i) {
    return (gl_SubgroupID * M + i) / GROUP;
}

uint head_of(uint i) {
    return (gl_SubgroupID * M + i) % GROUP;
}

uint first_score() {
    return gl_SubgroupID * M * (S_STRIDE / 4);
}

// ---- the cache's way into shared memory -----------------------------------------------------------------------------------

uvec4 next_k[K_EACH], next_v[V_EACH][2];
float k_scales[K_EACH], v_scales[V_EACH][2]; // Q8_0's

float value_scale(uint page, uint pos, uint head, uint c) {
#if defined(KV_Q8_0)
    vec2 pair = kv_scales_unpack(v[v_scale_at(page, pos, head, a.n_kv_heads, HEAD_DIM) + c / 4]);
    return c / 2 % 2 == 0 ? pair.x : pair.y;
#else
    return 1;
#endif
}

// Four of the KV_CHUNK values.
f16vec4 chunk_halves(uvec4 chunk, float scale, uint i) {
#if defined(KV_Q8_0)
    uint word = chunk[i];
    return f16vec4(vec4(kv_quant(word, 0), kv_quant(word, 1), kv_quant(word, 2), kv_quant(word, 3)) * scale);
#else
    return f16vec4(vec4(unpackHalf2x16(chunk[2 * i]), unpackHalf2x16(chunk[2 * i + 1])));
#endif
}

// Behind the last position seen it is read again: what lies there need not be numbers.
void fetch_keys(span s, uint from) {
    uint page = pages[s.table + from / PM_PAGE];
    PM_UNROLL for (uint i = 0; i < K_EACH; i++) {
        uint unit = min(gl_LocalInvocationID.x + i * WORKGROUP, K_UNITS - 1), c = unit / PM_PAGE;
        uint pos = min(from + unit % PM_PAGE, s.end - 1);
        next_k[i] = k[k_at(page, pos, s.head, a.n_kv_heads, HEAD_DIM) + c * PM_PAGE];
        k_scales[i] = key_scale(page, pos, s.head, c);
    }
}

void put_keys() {
    PM_UNROLL for (uint i = 0; i < K_EACH; i++) {
        uint unit = gl_LocalInvocationID.x + i * WORKGROUP, c = unit / PM_PAGE;
        if (K_UNITS % WORKGROUP == 0 || unit < K_UNITS)
            PM_UNROLL for (uint j = 0; j < QUADS; j++) {
                f16vec4 four = chunk_halves(next_k[i], k_scales[i], j);
                uint at = unit % PM_PAGE * (K_STRIDE / 2) + (c * QUADS + j) * 2;
                tile[at] = four.xy;
                tile[at + 1] = four.zw;
            }
    }
}

void fetch_values(span s, uint from) {
    uint page = pages[s.table + from / PM_PAGE];
    PM_UNROLL for (uint i = 0; i < V_EACH; i++) {
        uint unit = min(gl_LocalInvocationID.x + i * WORKGROUP, V_UNITS - 1), c = unit / (PM_PAGE / 2);
        PM_UNROLL for (uint j = 0; j < 2; j++) {
            uint pos = min(from + unit % (PM_PAGE / 2) * 2 + j, s.end - 1);
            next_v[i][j] = v_quads[v_at(page, pos, s.head, a.n_kv_heads, HEAD_DIM) / 4 + c];
            v_scales[i][j] = value_scale(page, pos, s.head, c);
        }
    }
}

void put_values() {
    PM_UNROLL for (uint i = 0; i < V_EACH; i++) {
        uint unit = gl_LocalInvocationID.x + i * WORKGROUP, c = unit / (PM_PAGE / 2);
        if (V_UNITS % WORKGROUP != 0 && unit >= V_UNITS)
            continue;
        PM_UNROLL for (uint j = 0; j < QUADS; j++) {
            f16vec4 first = chunk_halves(next_v[i][0], v_scales[i][0], j), second = chunk_halves(next_v[i][1], v_scales[i][1], j);
            PM_UNROLL for (uint d = 0; d < 4; d++)
                tile[(c * KV_CHUNK + j * 4 + d) * (V_STRIDE / 2) + unit % (PM_PAGE / 2)] = f16vec2(first[d], second[d]);
        }
    }
}

// ---- a page -------------------------------------------------------------------------------------------------------------------

// COLUMNS matrices of scores, from number p on.
void score_columns(uint p) {
    coopmat<float, gl_ScopeSubgroup, M, N, gl_MatrixUseAccumulator> dots[COLUMNS];
    coopmat<float16_t, gl_ScopeSubgroup, DEPTH, N, gl_MatrixUseB> keys;
    PM_UNROLL for (uint i = 0; i < COLUMNS; i++)
        dots[i] = coopmat<float, gl_ScopeSubgroup, M, N, gl_MatrixUseAccumulator>(0);
    PM_UNROLL for (uint d = 0; d < HEAD_DIM / DEPTH; d++)
        PM_UNROLL for (uint i = 0; i < COLUMNS; i++) {
            coopMatLoad(keys, tile, (p + i) * N * (K_STRIDE / 2) + d * (DEPTH / 2), K_STRIDE / 2,
                        gl_CooperativeMatrixLayoutColumnMajor);
            dots[i] = coopMatMulAdd(queries[d], keys, dots[i]);
        }
    PM_UNROLL for (uint i = 0; i < COLUMNS; i++)
        coopMatStore(dots[i], scores, first_score() + (p + i) * (N / 4), S_STRIDE / 4, gl_CooperativeMatrixLayoutRowMajor);
}

void score() {
    if (COLUMNS == PM_PAGE / N)
        score_columns(0);
    else
        [[dont_unroll]] for (uint p = 0; p < PM_PAGE / N; p += COLUMNS) score_columns(p);
    subgroup_barrier();
}

float across_max(float most) {
    PM_UNROLL for (uint l = 1; l < LANES; l *= 2) most = max(most, subgroupShuffleXor(most, l));
    return most;
}

// Turns scores into probabilities relative to the greatest score so far, and puts in the place of the scores, as often as a matrix
// has columns, what the sums so far are worth now.
void weigh(span s, uint from) {
    uint lane = gl_SubgroupInvocationID, part = lane % LANES;
    PM_UNROLL for (uint e = 0; e < EACH; e++) {
        uint i = e * (SUBGROUP / LANES) + lane / LANES, at = first_score() + i * (S_STRIDE / 4) + part;
        int seen = int(min(s.end, s.pos + row_of(i) + 1)) - int(from); // positions of the page, or less than none
        vec4 values[FOURS];
        float most = greatest[e];
        PM_UNROLL for (uint j = 0; j < FOURS; j++) {
            ivec4 place = ivec4(4 * (j * LANES + part)) + ivec4(0, 1, 2, 3);
            values[j] = mix(vec4(LOWEST), scores[at + j * LANES], lessThan(place, ivec4(seen)));
            most = max(most, max(max(values[j].x, values[j].y), max(values[j].z, values[j].w)));
        }
        most = across_max(most);
        float worth = exp2(greatest[e] - most), sum = 0;
        PM_UNROLL for (uint j = 0; j < FOURS; j++) {
            f16vec4 p = f16vec4(exp2(values[j] - (most - SHIFT)));
            probabilities[at + j * LANES] = p;
            sum += dot(vec4(p), vec4(1));
        }
        greatest[e] = most;
        sum_p[e] = sum_p[e] * worth + sum;
        subgroup_barrier(); // all scores have been read
        PM_UNROLL for (uint j = 0; j < N / 4; j += LANES)
            if (LANES <= N / 4 || part < N / 4)
                scores[at + j] = vec4(worth);
    }
    subgroup_barrier();
}

// STEPS matrices of probabilities, from number p on.
void add_steps(uint p) {
    coopmat<float16_t, gl_ScopeSubgroup, M, DEPTH, gl_MatrixUseA> weights[STEPS];
    coopmat<float16_t, gl_ScopeSubgroup, DEPTH, N, gl_MatrixUseB> values;
    PM_UNROLL for (uint i = 0; i < STEPS; i++)
        coopMatLoad(weights[i], probabilities, first_score() + (p + i) * (DEPTH / 4), S_STRIDE / 4,
                    gl_CooperativeMatrixLayoutRowMajor);
    PM_UNROLL for (uint d = 0; d < HEAD_DIM / N; d++)
        PM_UNROLL for (uint i = 0; i < STEPS; i++) {
            coopMatLoad(values, tile, d * N * (V_STRIDE / 2) + (p + i) * (DEPTH / 2), V_STRIDE / 2,
                        gl_CooperativeMatrixLayoutColumnMajor);
            sum_pv[d] = coopMatMulAdd(weights[i], values, sum_pv[d]);
        }
}

void add_values() {
    coopmat<float, gl_ScopeSubgroup, M, N, gl_MatrixUseAccumulator> worth;
    coopMatLoad(worth, scores, first_score(), S_STRIDE / 4, gl_CooperativeMatrixLayoutRowMajor);
    PM_UNROLL for (uint d = 0; d < HEAD_DIM / N; d++)
        sum_pv[d] = sum_pv[d] * worth;
    if (STEPS == PM_PAGE / DEPTH)
        add_steps(0);
    else
        [[dont_unroll]] for (uint p = 0; p < PM_PAGE / DEPTH; p += STEPS) add_steps(p);
}

// ---- before and after ---------------------------------------------------------------------------------------------------------

// A page's worth of dims at a time.
void load_queries(span s) {
    PM_UNROLL for (uint slice = 0; slice < HEAD_DIM / PM_PAGE; slice++) {
        PM_UNROLL for (uint j = 0; j < M * PM_PAGE / 4; j += SUBGROUP) { // or RADV leaves the loop around it, too, and moves matrices
            uint i = min(j + gl_SubgroupInvocationID, M * PM_PAGE / 4 - 1);
            uint query = i / (PM_PAGE / 4), row = s.n + min(row_of(query), s.rows - 1);
            uint from = row * a.q_stride + (s.head * GROUP + head_of(query)) * HEAD_DIM + slice * PM_PAGE + i % (PM_PAGE / 4) * 4;
            vec4 four = vec4(q[from], q[from + 1], q[from + 2], q[from + 3]) * (a.scale * LOG2_E);
            probabilities[first_score() + query * (S_STRIDE / 4) + i % (PM_PAGE / 4)] =
                f16vec4(clamp(four, vec4(-65504), vec4(65504)));
        }
        subgroup_barrier();
        PM_UNROLL for (uint i = 0; i < PM_PAGE / DEPTH; i++)
            coopMatLoad(queries[slice * (PM_PAGE / DEPTH) + i], probabilities, first_score() + i * (DEPTH / 4), S_STRIDE / 4,
                        gl_CooperativeMatrixLayoutRowMajor);
        subgroup_barrier();
    }
}

void store_four(span s, uint split, uint query, uint d, vec4 four) {
    uint n = s.n + row_of(query), q_head = s.head * GROUP + head_of(query);
    uint to = a.n_splits == 1 ? n * a.out_stride + q_head * HEAD_DIM + d
                              : ((n * a.n_heads + q_head) * a.n_splits + split) * (HEAD_DIM + 2) + d;
    PM_UNROLL for (uint i = 0; i < 4; i++) {
        if (a.n_splits == 1)
            result[to + i] = four[i];
        else
            partial[to + i] = four[i];
    }
}

// The greatest score and the sum of p, for who merges the splits; or what the sums are divided by, in the place of scores.
void finish_sums(span s, uint split) {
    uint lane = gl_SubgroupInvocationID, part = lane % LANES;
    PM_UNROLL for (uint e = 0; e < EACH; e++) {
        uint i = e * (SUBGROUP / LANES) + lane / LANES, at = first_score() + i * (S_STRIDE / 4) + part;
        float sum = sum_p[e];
        PM_UNROLL for (uint l = 1; l < LANES; l *= 2) sum += subgroupShuffleXor(sum, l);
        PM_UNROLL for (uint j = 0; j < N / 4; j += LANES)
            if (LANES <= N / 4 || part < N / 4)
                scores[at + j] = vec4(a.n_splits == 1 ? 1 / sum : 1);
        if (a.n_splits > 1 && part == 0 && row_of(i) < s.rows) {
            uint q_head = s.head * GROUP + head_of(i);
            uint to = (((s.n + row_of(i)) * a.n_heads + q_head) * a.n_splits + split) * (HEAD_DIM + 2) + HEAD_DIM;
            partial[to] = greatest[e] - SHIFT;
            partial[to + 1] = sum;
        }
    }
    subgroup_barrier();
}

void store(span s, uint split) {
    coopmat<float, gl_ScopeSubgroup, M, N, gl_MatrixUseAccumulator> factor;
    finish_sums(s, split);
    coopMatLoad(factor, scores, first_score(), S_STRIDE / 4, gl_CooperativeMatrixLayoutRowMajor);
    PM_UNROLL for (uint d = 0; d < HEAD_DIM / N; d++)
        sum_pv[d] = sum_pv[d] * factor;
    [[dont_unroll]] for (uint d = 0; d < HEAD_DIM / N; d++) {
        subgroup_barrier();
        PM_UNROLL for (uint m = 0; m < HEAD_DIM / N; m++)
            if (m == d)
                coopMatStore(sum_pv[m], scores, first_score(), S_STRIDE / 4, gl_CooperativeMatrixLayoutRowMajor);
        subgroup_barrier();
        for (uint i = gl_SubgroupInvocationID; i < M * N / 4; i += SUBGROUP) {
            uint query = i / (N / 4), four = i % (N / 4);
            if (row_of(query) < s.rows)
                store_four(s, split, query, d * N + four * 4, scores[first_score() + query * (S_STRIDE / 4) + four]);
        }
    }
}

void main() {
    uint split = gl_WorkGroupID.z, start = split * a.split_len, n = gl_WorkGroupID.y * ROWS;
    pm_row row = rows[n];
    span s = span(n, min(ROWS, a.n - n), row.pos, 0, row.seq * a.max_pages, gl_WorkGroupID.x);
    s.end = row.pos + s.rows;
    if (a.n_splits > 1)
        s.end = min(s.end, start + a.split_len);

    load_queries(s);
    PM_UNROLL for (uint d = 0; d < HEAD_DIM / N; d++)
        sum_pv[d] = coopmat<float, gl_ScopeSubgroup, M, N, gl_MatrixUseAccumulator>(0);
    PM_UNROLL for (uint e = 0; e < EACH; e++) {
        greatest[e] = NONE;
        sum_p[e] = 0;
    }
    fetch_keys(s, min(start, s.end - 1) / PM_PAGE * PM_PAGE);
    for (uint from = start; from < s.end; from += PM_PAGE) {
        put_keys();
        fetch_values(s, from);
        barrier();
        score();
        weigh(s, from);
        barrier();
        put_values();
        fetch_keys(s, min(from + PM_PAGE, s.end - 1) / PM_PAGE * PM_PAGE);
        barrier();
        add_values();
        barrier();
    }
    store(s, split);
}
