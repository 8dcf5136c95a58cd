// A workgroup of head_dim / 4 lanes a head of a batch row: q heads are normed, rotated and written out, k heads the same into
// the cache, v heads copied into it. A lane holds dims (i, i + 1) and (i + half, i + 1 + half): two rotations ("NeoX" pairs).
#version 450
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "rope_store.glsl"

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
