// A workgroup of head_dim / 4 lanes a head of a batch row: q heads are normed, rotated and written out, k heads the same into
// the cache, v heads copied into it. A lane holds dims (i, i + 1) and (i + half, i + 1 + half): two rotations ("NeoX" pairs).
#version 450
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "kv.glsl"
PM_ARGS(pm_rope_store_args);

layout(constant_id = 1) const uint HEAD_DIM = 128;
layout(constant_id = 2) const uint NORM = 1;        // per-head RMSNorm of q and k
layout(constant_id = 3) const uint INTERLEAVED = 0; // q and k heads of qkv come as dims 0, HALF, 1, HALF + 1, ...
const uint HALF = HEAD_DIM / 2;

layout(binding = 0) readonly buffer Qkv {
    float qkv[]; // (n, qkv_stride): q heads, k heads, v heads
};
layout(binding = 1) readonly buffer QGain {
    float q_gain[]; // (HEAD_DIM)
};
layout(binding = 2) readonly buffer KGain {
    float k_gain[];
};
layout(binding = 3) readonly buffer Angles {
    vec2 angles[]; // (tables, angle_rows, HALF) of cos, sin
};
layout(binding = 4) readonly buffer Rows {
    pm_row rows[];
};
layout(binding = 5) readonly buffer Pages {
    uint pages[]; // (n_seqs, max_pages)
};
layout(binding = 6) buffer Q {
    float q[]; // (n, q_stride)
};
layout(binding = 7) buffer K {
    kv_pair k[];
};
layout(binding = 8) buffer V {
    kv_pair v[];
};

shared float sums[WORKGROUP];

float head_scale(vec2 lo, vec2 hi) {
    uint lane = gl_LocalInvocationID.x;
    sums[lane] = dot(lo, lo) + dot(hi, hi);
    barrier();
    float sum = 0;
    for (uint i = 0; i < WORKGROUP; i++)
        sum += sums[i];
    return inversesqrt(sum / HEAD_DIM + a.eps);
}

// (cos, sin) of the row's angle for pair j: the angle of its low part and that of its high part, one after the other.
vec2 turn(pm_row row, uint j) {
    uint table = row.rope * a.angle_rows;
    vec2 low = angles[(table + row.pos % PM_ANGLE_STEP) * HALF + j];
    vec2 high = angles[(table + PM_ANGLE_STEP + row.pos / PM_ANGLE_STEP) * HALF + j];
    return vec2(low.x * high.x - low.y * high.y, low.y * high.x + low.x * high.y);
}

uint k_pair(uint page, uint pos, uint head, uint dim) {
    uint chunk = k_at(page, pos, head, a.n_kv_heads, HEAD_DIM) + dim / KV_CHUNK * PM_PAGE;
    return chunk * (KV_CHUNK / 2) + dim % KV_CHUNK / 2;
}

void main() {
    uint head = gl_WorkGroupID.x, n = gl_WorkGroupID.y;
    uint i = gl_LocalInvocationID.x * 2;
    pm_row row = rows[n];
    uint page = pages[row.seq * a.max_pages + row.pos / PM_PAGE];

    uint first_v = a.n_heads + a.n_kv_heads;
    bool pairs = INTERLEAVED != 0 && head < first_v;
    uint step = pairs ? 2 : 1, gap = pairs ? 1 : HALF;
    uint at = n * a.qkv_stride + head * HEAD_DIM + i * step;
    vec2 lo = vec2(qkv[at], qkv[at + step]), hi = vec2(qkv[at + gap], qkv[at + gap + step]);

    if (head >= first_v) {
        uint to = v_at(page, row.pos, head - first_v, a.n_kv_heads, HEAD_DIM);
        v[to + i / 2] = kv_pack(lo);
        v[to + (i + HALF) / 2] = kv_pack(hi);
        return;
    }

    bool is_q = head < a.n_heads;
    if (NORM != 0) {
        float scale = head_scale(lo, hi);
        if (is_q) {
            lo *= scale * vec2(q_gain[i], q_gain[i + 1]);
            hi *= scale * vec2(q_gain[i + HALF], q_gain[i + HALF + 1]);
        } else {
            lo *= scale * vec2(k_gain[i], k_gain[i + 1]);
            hi *= scale * vec2(k_gain[i + HALF], k_gain[i + HALF + 1]);
        }
    }
    vec2 t0 = turn(row, i), t1 = turn(row, i + 1);
    vec2 cosines = vec2(t0.x, t1.x), sines = vec2(t0.y, t1.y);
    vec2 out_lo = lo * cosines - hi * sines, out_hi = hi * cosines + lo * sines;

    if (is_q) {
        uint to = n * a.q_stride + head * HEAD_DIM + i;
        q[to] = out_lo.x;
        q[to + 1] = out_lo.y;
        q[to + HALF] = out_hi.x;
        q[to + HALF + 1] = out_hi.y;
    } else {
        k[k_pair(page, row.pos, head - a.n_heads, i)] = kv_pack(out_lo);
        k[k_pair(page, row.pos, head - a.n_heads, i + HALF)] = kv_pack(out_hi);
    }
}
