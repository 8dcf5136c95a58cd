// What the kernels that turn heads and store them share: what they are given, angles, and where a value stands in the cache.
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

// (cos, sin) of the row's angle for pair j: the angle of its low part and that of its high part, one after the other.
vec2 turn(pm_row row, uint j) {
    uint table = row.rope * a.angle_rows;
    vec2 low = angles[(table + row.pos % PM_ANGLE_STEP) * HALF + j];
    vec2 high = angles[(table + PM_ANGLE_STEP + row.pos / PM_ANGLE_STEP) * HALF + j];
    return vec2(low.x * high.x - low.y * high.y, low.y * high.x + low.x * high.y);
}

#if defined(KV_Q8_0)
uint quantize(vec4 values, float scale) {
    vec4 quants = clamp(round(values * (scale > 0 ? 1 / scale : 0)), vec4(-127), vec4(127));
    uvec4 bytes = uvec4(ivec4(quants)) & 0xffu;
    return bytes.x | bytes.y << 8 | bytes.z << 16 | bytes.w << 24;
}
#else
uint k_pair(uint page, uint pos, uint head, uint dim) {
    uint chunk = k_at(page, pos, head, a.n_kv_heads, HEAD_DIM) + dim / KV_CHUNK * PM_PAGE;
    return chunk * (KV_CHUNK / 2) + dim % KV_CHUNK / 2;
}
#endif
