// What the kernels of attention share: what they are given, and reading the cache. GROUP_ID: the number of constant GROUP, 2 unless
// the kernel says otherwise.
#include "kv.glsl"
#ifndef GROUP_ID
#define GROUP_ID 2
#endif
PM_ARGS(pm_attend_args);

layout(constant_id = 1) const uint HEAD_DIM = 128;
layout(constant_id = GROUP_ID) const uint GROUP = 4; // n_heads / n_kv_heads

layout(binding = 0) readonly buffer Q {
    float q[]; // (n, q_stride)
};
layout(binding = 1) readonly buffer Rows {
    pm_row rows[];
};
layout(binding = 2) readonly buffer Pages {
    uint pages[];
};
layout(binding = 3) readonly buffer K {
    uvec4 k[];
};
layout(binding = 4) readonly buffer V {
#if defined(KV_Q8_0)
    uint v[];
#else
    kv_pair v[];
#endif
};
layout(binding = 5) buffer Out {
    float result[]; // (n, out_stride)
};
layout(binding = 6) buffer Partial {
    float partial[]; // (n, n_heads, n_splits, HEAD_DIM + 2): sum of p v, greatest score, sum of p
};

const float LOG2_E = 1.44269504088896340736;
const float LOWEST = -3.0e38;

// The values of a chunk of keys; scale is Q8_0's.
void key_values(uvec4 chunk, float scale, out float values[KV_CHUNK]) {
    PM_UNROLL for (uint i = 0; i < 4; i++) {
#if defined(KV_Q8_0)
        PM_UNROLL for (uint j = 0; j < 4; j++) values[4 * i + j] = kv_quant(chunk[i], j) * scale;
#elif defined(KV_F16)
        vec2 pair = unpackHalf2x16(chunk[i]);
        values[2 * i] = pair.x;
        values[2 * i + 1] = pair.y;
#else
        values[i] = uintBitsToFloat(chunk[i]);
#endif
    }
}

// The scale of a chunk of the keys of a position.
float key_scale(uint page, uint pos, uint head, uint c) {
#if defined(KV_Q8_0)
    uint word = k_scale_at(page, pos, head, a.n_kv_heads, HEAD_DIM) + c / 4 * PM_PAGE;
    return kv_scales_unpack(k[word / 4][word % 4])[c / 2 % 2];
#else
    return 1;
#endif
}

// Pair number `i` of dims of the values of a position.
vec2 value_pair(uint page, uint pos, uint head, uint i) {
    uint at = v_at(page, pos, head, a.n_kv_heads, HEAD_DIM);
#if defined(KV_Q8_0)
    uint word = v[at + i / 2] >> i % 2 * 16;
    vec2 scales = kv_scales_unpack(v[v_scale_at(page, pos, head, a.n_kv_heads, HEAD_DIM) + i / 32]);
    return vec2(kv_quant(word, 0), kv_quant(word, 1)) * (i / 16 % 2 == 0 ? scales.x : scales.y);
#else
    return kv_unpack(v[at + i]);
#endif
}
