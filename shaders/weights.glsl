// Decodes packed weights (host/pack.c packs them and states the layout): the only shader file that knows quantization bits. A row
// is `blocks` blocks of PM_BLOCK columns; what does not fill the last block is zero. The kernel says which type by a W_* define and
// where the planes are bound by W_BINDING, S_BINDING. A weight is quant * scale - minus.
//   weights_load(row, block, blocks)            reads a block's words, up to 16 bytes at a time
//   weights_unpack(packed, j)                   the quants of its columns 4j .. 4j+3; j must be constant after unrolling
//   weights_eight(row, block, blocks, i, ...)   the quants of columns 8i .. 8i+7 of a block straight from memory; i may vary
//   weights_affine(row, block, blocks, stride)  scale and minus of a block's halves
//   weights_scaled(quants, affine, half)        the weights of columns in that half
// W_SCALES: different scales in a block: 0, 1, 2; where it is 0 the quants are the weights. W_MINUS: 0 where minus always is.

// W_LOW, W_HIGH: words of a block's low and high bits. W_ZERO: the quant that means zero.
#if defined(W_F32)
#define W_LOW    32
#define W_SCALES 0
#elif defined(W_F16) || defined(W_BF16)
#define W_LOW    16
#define W_SCALES 0
#elif defined(W_Q8_0) || defined(W_FP8)
#define W_LOW    8
#define W_SCALES 1
#elif defined(W_Q4_0) || defined(W_IQ4_NL) || defined(W_IQ4_XS) || defined(W_MXFP4)
#define W_LOW    4
#define W_SCALES 1
#elif defined(W_Q4_1) || defined(W_Q4_K) || defined(W_AWQ)
#define W_LOW    4
#define W_SCALES 1
#define W_MINUS  1
#elif defined(W_Q5_0)
#define W_LOW    4
#define W_HIGH   1
#define W_ZERO   16
#define W_SCALES 1
#elif defined(W_Q5_1) || defined(W_Q5_K)
#define W_LOW    4
#define W_HIGH   1
#define W_SCALES 1
#define W_MINUS  1
#elif defined(W_Q6_K)
#define W_LOW    4
#define W_HIGH   2
#define W_ZERO   32
#define W_SCALES 2
#elif defined(W_Q3_K)
#define W_LOW    2
#define W_HIGH   1
#define W_ZERO   4
#define W_SCALES 2
#elif defined(W_IQ2)
#define W_LOW    2
#define W_HIGH   1
#define W_SCALES 2
#elif defined(W_Q2_K)
#define W_LOW    2
#define W_SCALES 2
#define W_MINUS  1
#endif
#ifndef W_HIGH
#define W_HIGH 0
#endif
#ifndef W_ZERO
#define W_ZERO 0
#endif
#ifndef W_MINUS
#define W_MINUS 0
#endif

layout(binding = W_BINDING) readonly buffer Weights {
    uvec4 weights[]; // (rows, row_words / 4)
};
layout(binding = W_BINDING) readonly buffer WeightPairs {
    uvec2 weight_pairs[]; // the same, two words at a time
};
layout(binding = W_BINDING) readonly buffer WeightWords {
    uint weight_words[]; // the same, a word at a time
};
layout(binding = S_BINDING) readonly buffer Scales {
    uint scales[]; // (rows, stride)
};
layout(binding = S_BINDING) readonly buffer ScaleQuads {
    uvec4 scale_quads[]; // the same, four words at a time
};

// ---- where a block lies -------------------------------------------------------------------------------------------------

// In words.
uint low_at(uint row, uint block, uint blocks) {
    uint row_words = blocks * W_LOW + (blocks * W_HIGH + 3) / 4 * 4;
    return row * row_words + block * W_LOW;
}

uint high_at(uint row, uint block, uint blocks) {
    return low_at(row, blocks, blocks) + block * W_HIGH;
}

struct packed_block {
    uvec4 low[(W_LOW + 3) / 4];
    uvec2 high;
};

packed_block weights_load(uint row, uint block, uint blocks) {
    packed_block p;
    uint at = low_at(row, block, blocks);
#if W_LOW == 2
    p.low[0] = uvec4(weight_pairs[at / 2], 0, 0);
#else
    PM_UNROLL for (uint i = 0; i < W_LOW / 4; i++) p.low[i] = weights[at / 4 + i];
#endif
#if W_HIGH == 1
    p.high = uvec2(weight_words[high_at(row, block, blocks)], 0);
#elif W_HIGH == 2
    p.high = weight_pairs[high_at(row, block, blocks) / 2];
#endif
    return p;
}

// ---- scales -------------------------------------------------------------------------------------------------------------

struct affine {
    vec2 scale, minus; // of the halves of a block
};

float either(vec2 v, uint half_block) {
    return half_block == 0 ? v.x : v.y;
}

vec4 weights_scaled(vec4 quants, affine f, uint half_block) {
    if (W_SCALES != 0)
        quants *= either(f.scale, half_block);
    if (W_MINUS != 0)
        quants -= either(f.minus, half_block);
    return quants;
}

// Half number i of those that start at word `at`.
float half_of(uint at, uint i) {
    return unpackHalf2x16(scales[at + i / 2] >> i % 2 * 16).x;
}

// Two halves, right below 2^-14 too: there Vulkan lets unpackHalf2x16 give 0, and that is where the scales of a superblock's scales
// mostly are (weights of 0.02 in Q6_K: 2e-5). Infinity and what is no number become numbers.
vec2 small_halves(uint word) {
    ivec2 bits = ivec2(word, word >> 16), size = bits & 0x7fff;
    vec2 f = mix(intBitsToFloat((size << 13) + (112 << 23)), vec2(size) * 5.9604644775390625e-8, lessThan(size, ivec2(0x400)));
    return intBitsToFloat(floatBitsToInt(f) | (bits & 0x8000) << 16);
}

float small_half_of(uint at, uint i) {
    return small_halves(scales[at + i / 2] >> i % 2 * 16).x;
}

affine weights_affine(uint row, uint block, uint blocks, uint stride) {
    affine f = affine(vec2(1), vec2(0));
    uint at = row * stride;
    uint super = block / 8, b = block % 8, supers = blocks / 8; // of superblocks
#if defined(W_Q8_0) || defined(W_Q4_0) || defined(W_Q5_0) || defined(W_IQ4_NL)
    f.scale = vec2(half_of(at, block));
#elif defined(W_Q4_1) || defined(W_Q5_1)
    vec2 d = unpackHalf2x16(scales[at + block]);
    f = affine(vec2(d.x), vec2(-d.y));
#elif defined(W_FP8)
    f.scale = vec2(uintBitsToFloat(scales[at + block / 4]));
#elif defined(W_AWQ)
    uint word = scales[at + block / 4];
    f.scale = vec2(small_halves(word).x);
    f.minus = f.scale * float(int(word >> 16));
#elif defined(W_MXFP4) // 2^(e - 128), for the quants are doubled; 0 where that is no normal float
    uint e = scales[at + block / 4] >> block % 4 * 8 & 255u;
    f.scale = vec2(uintBitsToFloat(max(e, 1u) - 1u << 23));
#elif defined(W_IQ4_XS)
    uint head = scales[at + super * 2], low = scales[at + super * 2 + 1];
    int s = int(low >> 4 * b & 15u | (head >> 16 + 2 * b & 3u) << 4) - 32;
    f.scale = vec2(small_halves(head).x * float(s));
#elif defined(W_Q4_K) || defined(W_Q5_K)
    uvec4 s = scale_quads[at / 4 + super];
    vec2 d = small_halves(s.x);
    ivec2 low = ivec2(s.yz >> 4 * b) & 15, high = ivec2(s.w >> 2 * b, s.w >> 2 * b + 16) & 3;
    d *= vec2(low | high << 4);
    f = affine(vec2(d.x), vec2(d.y));
#elif defined(W_Q6_K)
    int pair = int(scales[at + block / 2] >> block % 2 * 16);
    f.scale = small_half_of(at + supers * 4, super) * vec2(ivec2(pair << 24, pair << 16) >> 24);
#elif defined(W_Q3_K)
    uint low = scales[at + super * 3 + b / 4] >> b % 4 * 8, high = scales[at + super * 3 + 2] >> b * 4;
    ivec2 s = (ivec2(low, low >> 4) & 15 | (ivec2(high, high >> 2) & 3) << 4) - 32;
    f.scale = small_half_of(at + supers * 3, super) * vec2(s);
#elif defined(W_IQ2) // odd multiples of an eighth of the superblock's scale
    int pair = int(scales[at + super * 2 + b / 4] >> b % 4 * 8);
    f.scale = small_half_of(at + supers * 2, super) * (vec2(ivec2(pair, pair >> 4) & 15) * 0.25 + 0.125);
#elif defined(W_Q2_K)
    uint pair = scales[at + block / 2] >> block % 2 * 16;
    vec2 d = small_halves(scales[at + supers * 4 + super]);
    f = affine(d.x * vec2(ivec2(pair, pair >> 8) & 15), d.y * vec2(ivec2(pair >> 4, pair >> 12) & 15));
#endif
    return f;
}

// ---- quants -------------------------------------------------------------------------------------------------------------

vec4 halves_unpack(uint lo, uint hi) {
#if defined(W_BF16)
    return uintBitsToFloat(uvec4(lo << 16, lo & 0xffff0000u, hi << 16, hi & 0xffff0000u));
#else
    return vec4(unpackHalf2x16(lo), unpackHalf2x16(hi));
#endif
}

vec4 bytes_unpack(uint word) { // four signed bytes
    int w = int(word);
#if defined(W_FP8)
    // Four floats of a sign, four bits of exponent and three of mantissa (https://arxiv.org/abs/2209.05433, E4M3): the exponent's bias
    // is 7 where a float's is 127; below the smallest exponent the mantissa counts units of 2^-9. A size of 127, which is no number
    // there, becomes 480.
    ivec4 b = ivec4(w, w >> 8, w >> 16, w >> 24), size = b & 127;
    vec4 f = mix(intBitsToFloat((size << 20) + (120 << 23)), vec4(size) * 0.001953125, lessThan(size, ivec4(8)));
    return intBitsToFloat(floatBitsToInt(f) | (b & 128) << 24);
#else
    return vec4(ivec4(w << 24, w << 16, w << 8, w) >> 24);
#endif
}

// Entries q of a table of 16 signed bytes: shifts and selections, for a software driver has no fast gather.
#define BYTES(a, b, c, d) ivec4((a) & 255 | ((b) & 255) << 8 | ((c) & 255) << 16 | (d) << 24)
vec4 table_unpack(ivec4 q) {
#if defined(W_MXFP4)
    const ivec4 t0 = BYTES(0, 1, 2, 3), t1 = BYTES(4, 6, 8, 12), t2 = BYTES(0, -1, -2, -3), t3 = BYTES(-4, -6, -8, -12);
#else
    const ivec4 t0 = BYTES(-127, -104, -83, -65), t1 = BYTES(-49, -35, -22, -10);
    const ivec4 t2 = BYTES(1, 13, 25, 38), t3 = BYTES(53, 69, 89, 113);
#endif
    bvec4 odd = notEqual(q & 4, ivec4(0)), upper = notEqual(q & 8, ivec4(0));
    ivec4 four = mix(mix(t0, t1, odd), mix(t2, t3, odd), upper);
    return vec4(four << 24 - (q & 3) * 8 >> 24);
}

vec4 nibbles_unpack(uint word, uint half_word) { // four of eight signed nibbles
    int w = int(word) << (half_word == 1 ? 0 : 16);
    return vec4(ivec4(w << 12, w << 8, w << 4, w) >> 28);
}

// The quants of four columns, whose bits are the lowest of `low` and `high`. Signed conversions: a software driver's unsigned ones
// are slow.
vec4 quants_unpack(uint low, uint high) {
    ivec4 q = W_LOW == 2 ? ivec4(low, low >> 2, low >> 4, low >> 6) & 3 : ivec4(low, low >> 4, low >> 8, low >> 12) & 15;
    const int top = W_LOW == 2 ? 2 : 4; // where the high bits belong
    if (W_HIGH == 1)
        q |= (ivec4(high, high >> 1, high >> 2, high >> 3) & 1) << top;
    if (W_HIGH == 2)
        q |= (ivec4(high, high >> 2, high >> 4, high >> 6) & 3) << top;
#if defined(W_IQ4_NL) || defined(W_IQ4_XS) || defined(W_MXFP4)
    return table_unpack(q);
#elif defined(W_IQ2) // 8, 25, 43 and 60, and above them a sign
    ivec4 m = q & 3, size = 8 + 17 * m + (m >> 1);
    return vec4(size - (q >> 2) * 2 * size);
#else
    return vec4(q - W_ZERO);
#endif
}

vec4 weights_unpack(packed_block p, uint j) {
#if defined(W_F32)
    return uintBitsToFloat(p.low[j]);
#elif defined(W_F16) || defined(W_BF16)
    return halves_unpack(p.low[j / 2][(j & 1) * 2], p.low[j / 2][(j & 1) * 2 + 1]);
#elif defined(W_Q8_0) || defined(W_FP8)
    return bytes_unpack(p.low[j / 4][j & 3]);
#elif defined(W_Q4_0)
    return nibbles_unpack(p.low[0][j / 2], j & 1);
#else
    uint low = W_LOW == 2 ? p.low[0][j / 4] >> j % 4 * 8 : p.low[0][j / 2] >> j % 2 * 16;
    uint high = W_HIGH == 2 ? p.high[j / 4] >> j % 4 * 8 : W_HIGH == 1 ? p.high.x >> j * 4 : 0u;
    return quants_unpack(low, high);
#endif
}

void weights_eight(uint row, uint block, uint blocks, uint i, out vec4 lo, out vec4 hi) {
    uint at = low_at(row, block, blocks);
#if defined(W_F32)
    lo = uintBitsToFloat(weights[at / 4 + 2 * i]);
    hi = uintBitsToFloat(weights[at / 4 + 2 * i + 1]);
#elif defined(W_F16) || defined(W_BF16)
    uvec4 words = weights[at / 4 + i];
    lo = halves_unpack(words.x, words.y);
    hi = halves_unpack(words.z, words.w);
#elif defined(W_Q8_0) || defined(W_FP8)
    lo = bytes_unpack(weight_words[at + 2 * i]);
    hi = bytes_unpack(weight_words[at + 2 * i + 1]);
#elif defined(W_Q4_0)
    uint word = weight_words[at + i];
    lo = nibbles_unpack(word, 0);
    hi = nibbles_unpack(word, 1);
#else
    uint low = W_LOW == 2 ? weight_words[at + i / 2] >> i % 2 * 16 : weight_words[at + i], high = 0u;
#if W_HIGH == 1
    high = weight_words[high_at(row, block, blocks)] >> i * 8;
#elif W_HIGH == 2
    high = weight_words[high_at(row, block, blocks) + i / 2] >> i % 2 * 16;
#endif
    lo = quants_unpack(low, high);
    hi = quants_unpack(low >> W_LOW * 4, high >> W_HIGH * 4);
#endif
}
