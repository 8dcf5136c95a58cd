// The paged KV cache as kernels see it. KV_F16 or KV_F32 says the type of its elements.
//   k page: [kv head][chunk of KV_CHUNK dims][PM_PAGE positions], 16 bytes each
//   v page: [kv head][PM_PAGE positions][pair of dims]
#if defined(KV_F16)
#define KV_CHUNK 8 // elements in 16 bytes
#define kv_pair uint
kv_pair kv_pack(vec2 v) {
    return packHalf2x16(v);
}
vec2 kv_unpack(kv_pair p) {
    return unpackHalf2x16(p);
}
#else
#define KV_CHUNK 4
#define kv_pair uvec2
kv_pair kv_pack(vec2 v) {
    return floatBitsToUint(v);
}
vec2 kv_unpack(kv_pair p) {
    return uintBitsToFloat(p);
}
#endif

// In units of 16 bytes: chunk c is PM_PAGE further on than chunk c - 1.
uint k_at(uint page, uint pos, uint head, uint n_heads, uint head_dim) {
    return (page * n_heads + head) * (head_dim / KV_CHUNK) * PM_PAGE + pos % PM_PAGE;
}

// In pairs.
uint v_at(uint page, uint pos, uint head, uint n_heads, uint head_dim) {
    return ((page * n_heads + head) * PM_PAGE + pos % PM_PAGE) * (head_dim / 2);
}
