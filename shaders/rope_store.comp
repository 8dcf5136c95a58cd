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
#if defined(KV_Q8_0)
#define kv_word uint
#else
#define kv_word kv_pair
#endif
layout(binding = 7) buffer K {
    kv_word k[];
};
layout(binding = 8) buffer V {
    kv_word v[];
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

#if defined(KV_Q8_0)
shared float head_values[HEAD_DIM];
shared float greatest[WORKGROUP]; // |value| of the four of a lane

// The scale of the block that a lane begins: 8 lanes.
uint block_scale(uint first) {
    float most = 0;
    for (uint i = 0; i < 8; i++)
        most = max(most, greatest[first + i]);
    return kv_scale_pack(most);
}

uint quantize(vec4 values, float scale) {
    vec4 quants = clamp(round(values * (scale > 0 ? 1 / scale : 0)), vec4(-127), vec4(127));
    uvec4 bytes = uvec4(ivec4(quants)) & 0xffu;
    return bytes.x | bytes.y << 8 | bytes.z << 16 | bytes.w << 24;
}

// To the cache go all lanes of a head: a lane's four dims lie side by side then, in one word.
void store_head(bool is_k, uint page, uint pos, uint head, vec2 lo, vec2 hi) {
    uint lane = gl_LocalInvocationID.x, i = lane * 2, dim = lane * 4;
    head_values[i] = lo.x;
    head_values[i + 1] = lo.y;
    head_values[i + HALF] = hi.x;
    head_values[i + HALF + 1] = hi.y;
    barrier();
    vec4 values = vec4(head_values[dim], head_values[dim + 1], head_values[dim + 2], head_values[dim + 3]);
    vec4 sizes = abs(values);
    greatest[lane] = max(max(sizes.x, sizes.y), max(sizes.z, sizes.w));
    barrier();
    uint scale = block_scale(lane / 8 * 8), word = quantize(values, kv_scales_unpack(scale).x);
    if (is_k)
        k[(k_at(page, pos, head, a.n_kv_heads, HEAD_DIM) + dim / KV_CHUNK * PM_PAGE) * 4 + lane % 4] = word;
    else
        v[v_at(page, pos, head, a.n_kv_heads, HEAD_DIM) + lane] = word;
    if (lane % 16 == 0) {
        uint both = scale | (lane + 8 < WORKGROUP ? block_scale(lane + 8) << 16 : 0);
        if (is_k)
            k[k_scale_at(page, pos, head, a.n_kv_heads, HEAD_DIM) + lane / 16 * PM_PAGE] = both;
        else
            v[v_scale_at(page, pos, head, a.n_kv_heads, HEAD_DIM) + lane / 16] = both;
    }
}
#else
uint k_pair(uint page, uint pos, uint head, uint dim) {
    uint chunk = k_at(page, pos, head, a.n_kv_heads, HEAD_DIM) + dim / KV_CHUNK * PM_PAGE;
    return chunk * (KV_CHUNK / 2) + dim % KV_CHUNK / 2;
}

void store_head(bool is_k, uint page, uint pos, uint head, vec2 lo, vec2 hi) {
    uint i = gl_LocalInvocationID.x * 2;
    if (is_k) {
        k[k_pair(page, pos, head, i)] = kv_pack(lo);
        k[k_pair(page, pos, head, i + HALF)] = kv_pack(hi);
    } else {
        uint to = v_at(page, pos, head, a.n_kv_heads, HEAD_DIM);
        v[to + i / 2] = kv_pack(lo);
        v[to + (i + HALF) / 2] = kv_pack(hi);
    }
}
#endif

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
        store_head(false, page, row.pos, head - first_v, lo, hi);
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
        store_head(true, page, row.pos, head - a.n_heads, out_lo, out_hi);
    }
}
