// The paged KV cache as kernels see it. KV_F16, KV_F32 or KV_Q8_0 says the type of its elements.
//   k page: [kv head][chunk of KV_CHUNK dims][PM_PAGE positions], 16 bytes each
//   v page: [kv head][PM_PAGE positions][pair of dims]
// KV_Q8_0: behind the chunks of a head stand its scales, [word of two][PM_PAGE positions] in a k page, [PM_PAGE positions][word of
// two] in a v page; a scale belongs to 32 dims.
#if defined(KV_Q8_0)
#define KV_CHUNK 16 // elements in 16 bytes
uint kv_scale_words(uint head_dim) {
    return (head_dim + 63) / 64;
}

// A head of a page, in words.
uint kv_head_words(uint head_dim) {
    return PM_PAGE * (head_dim / 4 + kv_scale_words(head_dim));
}

// What stands for the scale of 32 values: a half of 256 times the scale, so that no usual one is subnormal, which drivers may
// flush. It is rounded by hand: Vulkan does not say which way packHalf2x16 does.
uint kv_scale_pack(float greatest) {
    float scale = min(greatest * (256.0 / 127.0), 65504.0);
    uint bits = floatBitsToUint(scale);
    bits = (bits + 0xfffu + (bits >> 13 & 1u)) & ~0x1fffu;
    return scale < 6.103515625e-5 ? 0 : packHalf2x16(vec2(uintBitsToFloat(bits), 0));
}

vec2 kv_scales_unpack(uint word) {
    return unpackHalf2x16(word) * (1.0 / 256.0);
}

// Quant i of the four in a word.
float kv_quant(uint word, uint i) {
    return float(bitfieldExtract(int(word), int(8 * i), 8));
}
#elif defined(KV_F16)
#define KV_CHUNK 8
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
#if defined(KV_Q8_0)
    return (page * n_heads + head) * (kv_head_words(head_dim) / 4) + pos % PM_PAGE;
#else
    return (page * n_heads + head) * (head_dim / KV_CHUNK) * PM_PAGE + pos % PM_PAGE;
#endif
}

#if defined(KV_Q8_0)
// In words: four dims each, in both.
uint v_at(uint page, uint pos, uint head, uint n_heads, uint head_dim) {
    return (page * n_heads + head) * kv_head_words(head_dim) + pos % PM_PAGE * (head_dim / 4);
}

// The first word of the scales of a position; the next is PM_PAGE further on in a k page, the very next in a v page.
uint k_scale_at(uint page, uint pos, uint head, uint n_heads, uint head_dim) {
    return (page * n_heads + head) * kv_head_words(head_dim) + PM_PAGE * (head_dim / 4) + pos % PM_PAGE;
}
uint v_scale_at(uint page, uint pos, uint head, uint n_heads, uint head_dim) {
    return (page * n_heads + head) * kv_head_words(head_dim) + PM_PAGE * (head_dim / 4) + pos % PM_PAGE * kv_scale_words(head_dim);
}
#else
// In pairs.
uint v_at(uint page, uint pos, uint head, uint n_heads, uint head_dim) {
    return ((page * n_heads + head) * PM_PAGE + pos % PM_PAGE) * (head_dim / 2);
}
#endif
