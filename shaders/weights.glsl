// Decodes packed weights (host/pack.c packs them): the only shader file that knows quantization bits. A row is `blocks` blocks
// of PM_BLOCK columns; what does not fill the last block is zero. The kernel says which type by a W_* define and where the
// planes are bound by W_BINDING, S_BINDING.
//   weights_load(row, block, blocks)   reads a block's words, 16 bytes at a time
//   weights_unpack(packed, j)          its columns 4j .. 4j+3, before scaling; j must be constant after unrolling
//   weights_eight(row, block, i, ...)  columns 8i .. 8i+7 of a block straight from memory, before scaling; i may vary
//   weights_scale(row, block, stride)  the block's scale; 1 where the type has none (W_SCALED is 0)

#if defined(W_F32)
#define W_WORDS 8
#define W_SCALED 0
#elif defined(W_F16) || defined(W_BF16)
#define W_WORDS 4
#define W_SCALED 0
#elif defined(W_Q8_0)
#define W_WORDS 2
#define W_SCALED 1
#elif defined(W_Q4_0)
#define W_WORDS 1
#define W_SCALED 1
#endif

layout(binding = W_BINDING) readonly buffer Weights {
    uvec4 weights[]; // (rows, blocks, W_WORDS)
};
layout(binding = W_BINDING) readonly buffer WeightWords {
    uint weight_words[]; // the same, a word at a time
};
layout(binding = S_BINDING) readonly buffer Scales {
    uint scales[]; // (rows, stride): two halves a word
};

struct packed_block {
    uvec4 words[W_WORDS];
};

packed_block weights_load(uint row, uint block, uint blocks) {
    packed_block p;
    uint at = (row * blocks + block) * W_WORDS;
    PM_UNROLL for (uint i = 0; i < W_WORDS; i++) p.words[i] = weights[at + i];
    return p;
}

float weights_scale(uint row, uint block, uint stride) {
#if W_SCALED
    uint pair = scales[row * stride + (block >> 1)];
    return unpackHalf2x16(pair >> ((block & 1) * 16)).x;
#else
    return 1.0;
#endif
}

vec4 halves_unpack(uint lo, uint hi) {
#if defined(W_BF16)
    return uintBitsToFloat(uvec4(lo << 16, lo & 0xffff0000u, hi << 16, hi & 0xffff0000u));
#else
    return vec4(unpackHalf2x16(lo), unpackHalf2x16(hi));
#endif
}

vec4 bytes_unpack(uint word) { // four signed bytes
    int w = int(word);
    return vec4(ivec4(w << 24, w << 16, w << 8, w) >> 24);
}

vec4 nibbles_unpack(uint word, uint half_word) { // four of eight signed nibbles: q - 8
    int w = int(word) << (half_word == 1 ? 0 : 16);
    return vec4(ivec4(w << 12, w << 8, w << 4, w) >> 28);
}

vec4 weights_unpack(packed_block p, uint j) {
#if defined(W_F32)
    return uintBitsToFloat(p.words[j]);
#elif defined(W_F16) || defined(W_BF16)
    return halves_unpack(p.words[j / 2][(j & 1) * 2], p.words[j / 2][(j & 1) * 2 + 1]);
#elif defined(W_Q8_0)
    return bytes_unpack(p.words[j / 4][j & 3]);
#elif defined(W_Q4_0)
    return nibbles_unpack(p.words[0][j / 2], j & 1);
#endif
}

void weights_eight(uint row, uint block, uint blocks, uint i, out vec4 lo, out vec4 hi) {
    uint at = (row * blocks + block) * W_WORDS;
#if defined(W_F32)
    lo = uintBitsToFloat(weights[at + 2 * i]);
    hi = uintBitsToFloat(weights[at + 2 * i + 1]);
#elif defined(W_F16) || defined(W_BF16)
    uvec4 words = weights[at + i];
    lo = halves_unpack(words.x, words.y);
    hi = halves_unpack(words.z, words.w);
#elif defined(W_Q8_0)
    lo = bytes_unpack(weight_words[at * 4 + 2 * i]);
    hi = bytes_unpack(weight_words[at * 4 + 2 * i + 1]);
#elif defined(W_Q4_0)
    uint word = weight_words[at * 4 + i];
    lo = nibbles_unpack(word, 0);
    hi = nibbles_unpack(word, 1);
#endif
}
