// The plain way to what rope_store.comp does, for drivers on which that is not right: an invocation takes a head of a batch row all by
// itself. No shared memory, no barrier, nothing of subgroups.
#version 450
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "rope_store.glsl"

// A head on its way from qkv.
struct head_row {
    uint at; // its first dim in qkv
    bool pairs, turns, is_q;
    float scale; // of the norm
    pm_row row;
};

// Dims j and j + HALF as they are.
vec2 raw(head_row h, uint j) {
    uint at = h.at + j * (h.pairs ? 2 : 1);
    return vec2(qkv[at], qkv[at + (h.pairs ? 1 : HALF)]);
}

// Dims j and j + HALF, normed and turned.
vec2 turned(head_row h, uint j) {
    vec2 v = raw(h, j);
    if (!h.turns)
        return v;
    if (NORM != 0)
        v *= h.scale * (h.is_q ? vec2(q_gain[j], q_gain[j + HALF]) : vec2(k_gain[j], k_gain[j + HALF]));
    vec2 t = turn(h.row, j);
    return vec2(v.x * t.x - v.y * t.y, v.y * t.x + v.x * t.y);
}

float norm_scale(head_row h) {
    float sum = 0;
    for (uint j = 0; j < HALF; j++) {
        vec2 v = raw(h, j);
        sum += dot(v, v);
    }
    return inversesqrt(sum / HEAD_DIM + a.eps);
}

#if defined(KV_Q8_0)
float value(head_row h, uint dim) {
    return dim < HALF ? turned(h, dim).x : turned(h, dim - HALF).y;
}

// The scale of the block of 32 dims, and its words.
uint store_block(bool is_k, uint page, uint head, head_row h, uint block) {
    float most = 0;
    for (uint i = 0; i < 32; i++)
        most = max(most, abs(value(h, block * 32 + i)));
    uint scale = kv_scale_pack(most);
    for (uint dim = block * 32; dim < block * 32 + 32; dim += 4) {
        vec4 values = vec4(value(h, dim), value(h, dim + 1), value(h, dim + 2), value(h, dim + 3));
        uint word = quantize(values, kv_scales_unpack(scale).x);
        if (is_k)
            k[(k_at(page, h.row.pos, head, a.n_kv_heads, HEAD_DIM) + dim / KV_CHUNK * PM_PAGE) * 4 + dim / 4 % 4] = word;
        else
            v[v_at(page, h.row.pos, head, a.n_kv_heads, HEAD_DIM) + dim / 4] = word;
    }
    return scale;
}

void store_head(bool is_k, uint page, uint head, head_row h) {
    for (uint block = 0; block < HEAD_DIM / 32; block += 2) {
        uint both = store_block(is_k, page, head, h, block);
        if (block + 1 < HEAD_DIM / 32)
            both |= store_block(is_k, page, head, h, block + 1) << 16;
        if (is_k)
            k[k_scale_at(page, h.row.pos, head, a.n_kv_heads, HEAD_DIM) + block / 2 * PM_PAGE] = both;
        else
            v[v_scale_at(page, h.row.pos, head, a.n_kv_heads, HEAD_DIM) + block / 2] = both;
    }
}
#else
void store_head(bool is_k, uint page, uint head, head_row h) {
    uint to = v_at(page, h.row.pos, head, a.n_kv_heads, HEAD_DIM);
    for (uint j = 0; j < HALF; j += 2) {
        vec2 first = turned(h, j), second = turned(h, j + 1);
        kv_pair lo = kv_pack(vec2(first.x, second.x)), hi = kv_pack(vec2(first.y, second.y));
        if (is_k) {
            k[k_pair(page, h.row.pos, head, j)] = lo;
            k[k_pair(page, h.row.pos, head, j + HALF)] = hi;
        } else {
            v[to + j / 2] = lo;
            v[to + (j + HALF) / 2] = hi;
        }
    }
}
#endif

void main() {
    uint head = gl_GlobalInvocationID.x, n = gl_WorkGroupID.y, first_v = a.n_heads + a.n_kv_heads;
    if (head >= first_v + a.n_kv_heads)
        return;
    pm_row row = rows[n];
    head_row h = head_row(n * a.qkv_stride + head * HEAD_DIM, INTERLEAVED != 0 && head < first_v, head < first_v, head < a.n_heads, 1, row);
    if (NORM != 0 && h.turns)
        h.scale = norm_scale(h);
    if (h.is_q) {
        uint to = n * a.q_stride + head * HEAD_DIM;
        for (uint j = 0; j < HALF; j++) {
            vec2 v = turned(h, j);
            q[to + j] = v.x;
            q[to + j + HALF] = v.y;
        }
        return;
    }
    uint page = pages[row.seq * a.max_pages + row.pos / PM_PAGE];
    store_head(head < first_v, page, head < first_v ? head - a.n_heads : head - first_v, h);
}
