// A workgroup of head_dim / 2 lanes a (kv head, ROWS batch rows, split of the cache), for the GROUP query heads that share the kv
// head: online softmax over tiles of WORKGROUP positions (https://arxiv.org/abs/1805.02867). Scores: a lane a position. Values: a lane
// a pair of dims. Exponentials are base 2, with log2(e) folded into q. Causality is arithmetic: the rows' positions bound the loop.
// Bytes read: K and V of the split once for all GROUP heads of all ROWS rows.
#version 450
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "attend.glsl"

layout(constant_id = 3) const uint ROWS = 1;  // more than one: they have consecutive positions of one sequence

const uint QUERIES = GROUP * ROWS;
const uint PARTS = 8; // of a query's scores in a tile, when the greatest is looked for; divides WORKGROUP

shared float q_group[QUERIES * HEAD_DIM];
shared float scores[QUERIES * WORKGROUP]; // then probabilities
shared float parts[QUERIES * PARTS];

vec2 sum_pv[QUERIES];
float greatest[QUERIES];
float sum_p[QUERIES]; // of this lane's positions

// Of the rows, and what this workgroup looks at.
struct span {
    uint n, rows; // the first batch row, and how many
    uint pos;     // of the first row
    uint end;     // no position from here on
};

bool sees(span s, uint query, uint pos) {
    return pos < s.end && pos <= s.pos + query / GROUP;
}

void add_chunk(uint c, uint at, uint page, uint pos, uint head, inout float dots[QUERIES]) {
    float values[KV_CHUNK];
    key_values(k[at + c * PM_PAGE], key_scale(page, pos, head, c), values);
    PM_UNROLL for (uint i = 0; i < KV_CHUNK; i++)
        PM_UNROLL for (uint g = 0; g < QUERIES; g++) dots[g] = fma(values[i], q_group[g * HEAD_DIM + c * KV_CHUNK + i], dots[g]);
}

void score(uint page, uint pos, uint head, span s, uint asked) {
    float dots[QUERIES];
    PM_UNROLL for (uint g = 0; g < QUERIES; g++) dots[g] = 0;
    uint at = k_at(page, pos, head, a.n_kv_heads, HEAD_DIM);
    if (QUERIES > 4) // unrolled, RADV has no registers left for more than 4 to 6 waves
        [[dont_unroll]] for (uint c = 0; c < HEAD_DIM / KV_CHUNK; c++) add_chunk(c, at, page, pos, head, dots);
    else
        for (uint c = 0; c < HEAD_DIM / KV_CHUNK; c++) add_chunk(c, at, page, pos, head, dots);
    PM_UNROLL for (uint g = 0; g < QUERIES; g++)
        scores[g * WORKGROUP + gl_LocalInvocationID.x] = sees(s, g, asked) ? dots[g] : LOWEST;
}

// parts[g * PARTS + i] = the greatest of the tile's scores i, i + PARTS, ... of query g.
void find_greatest() {
    for (uint i = gl_LocalInvocationID.x; i < QUERIES * PARTS; i += WORKGROUP) {
        float most = LOWEST;
        for (uint t = 0; t < WORKGROUP; t += PARTS)
            most = max(most, scores[i / PARTS * WORKGROUP + t + i % PARTS]);
        parts[i] = most;
    }
}

// Turns the tile's scores into probabilities relative to the greatest score so far, and rescales what was summed before.
void renew(uint g, bool seen) {
    float most = greatest[g];
    PM_UNROLL for (uint i = 0; i < PARTS; i++) most = max(most, parts[g * PARTS + i]);
    uint at = g * WORKGROUP + gl_LocalInvocationID.x;
    float p = seen ? exp2(scores[at] - most) : 0.0, old = exp2(greatest[g] - most);
    scores[at] = p;
    sum_pv[g] *= old;
    sum_p[g] = sum_p[g] * old + p;
    greatest[g] = most;
}

float sum_lanes(uint g) {
    float sum = 0;
    for (uint t = 0; t < WORKGROUP; t++)
        sum += scores[g * WORKGROUP + t];
    return sum;
}

void store(span s, uint head, uint split) {
    uint d = 2 * gl_LocalInvocationID.x;
    barrier();
    PM_UNROLL for (uint g = 0; g < QUERIES; g++) scores[g * WORKGROUP + gl_LocalInvocationID.x] = sum_p[g];
    barrier();
    PM_UNROLL for (uint g = 0; g < QUERIES; g++) {
        uint n = s.n + g / GROUP, q_head = head * GROUP + g % GROUP;
        if (g / GROUP >= s.rows)
            continue;
        float sum = sum_lanes(g);
        if (a.n_splits == 1) {
            uint to = n * a.out_stride + q_head * HEAD_DIM + d;
            result[to] = sum_pv[g].x / sum;
            result[to + 1] = sum_pv[g].y / sum;
        } else {
            uint to = ((n * a.n_heads + q_head) * a.n_splits + split) * (HEAD_DIM + 2);
            partial[to + d] = sum_pv[g].x;
            partial[to + d + 1] = sum_pv[g].y;
            if (d == 0) {
                partial[to + HEAD_DIM] = greatest[g];
                partial[to + HEAD_DIM + 1] = sum;
            }
        }
    }
}

void main() {
    uint head = gl_WorkGroupID.x, split = gl_WorkGroupID.z, lane = gl_LocalInvocationID.x;
    uint start = split * a.split_len, n = gl_WorkGroupID.y * ROWS;
    pm_row row = rows[n];
    span s = span(n, min(ROWS, a.n - n), row.pos, 0);
    s.end = row.pos + s.rows;
    if (a.n_splits > 1)
        s.end = min(s.end, start + a.split_len);

    for (uint i = lane; i < QUERIES * HEAD_DIM; i += WORKGROUP) {
        uint r = min(i / (GROUP * HEAD_DIM), s.rows - 1);
        q_group[i] = q[(n + r) * a.q_stride + head * GROUP * HEAD_DIM + i % (GROUP * HEAD_DIM)] * (a.scale * LOG2_E);
    }
    PM_UNROLL for (uint g = 0; g < QUERIES; g++) {
        sum_pv[g] = vec2(0);
        greatest[g] = LOWEST;
        sum_p[g] = 0;
    }
    barrier();

    uint table = row.seq * a.max_pages;
    for (uint tile = start; tile < s.end; tile += WORKGROUP) {
        uint pos = min(tile + lane, s.end - 1);
        score(pages[table + pos / PM_PAGE], pos, head, s, tile + lane);
        barrier();
        find_greatest();
        barrier();
        PM_UNROLL for (uint g = 0; g < QUERIES; g++) renew(g, sees(s, g, tile + lane));
        barrier();
        uint count = min(WORKGROUP, s.end - tile);
        for (uint t = 0; t < count; t++) {
            vec2 value = value_pair(pages[table + (tile + t) / PM_PAGE], tile + t, head, lane);
            PM_UNROLL for (uint g = 0; g < QUERIES; g++)
                sum_pv[g] = fma(vec2(scores[g * WORKGROUP + t]), value, sum_pv[g]);
        }
        barrier();
    }
    store(s, head, split);
}
