// The CPU truth of packed weights: what the blocks of a file hold, one element at a time.
#include "host/reference.h"

#include <math.h>
#include <string.h>

static uint16_t u16_at(const uint8_t *p) {
    return (uint16_t)(p[0] | p[1] << 8);
}

static float f32_at(const uint8_t *p) {
    uint32_t bits = u16_at(p) | (uint32_t)u16_at(p + 2) << 16;
    float f;
    memcpy(&f, &bits, sizeof(f));
    return f;
}

static float half_at(const uint8_t *p) {
    return pm_f16_to_f32(u16_at(p));
}

static int field(const uint8_t *p, uint32_t byte, uint32_t bit, uint32_t n_bits) {
    return p[byte] >> bit & ((1 << n_bits) - 1);
}

// Value i of 32 nibbles: 16 bytes whose low halves are values 0 .. 15 and high halves 16 .. 31.
static int nibble(const uint8_t *p, uint32_t i) {
    return field(p, i % 16, i / 16 * 4, 4);
}

// Of 256 values in superblocks: nibbles in runs of `run` bytes, of which the low halves come first; pairs of bits in runs of 32
// bytes; single bits, which make one such run.
static int nibble_of_256(const uint8_t *p, uint32_t i, uint32_t run) {
    return field(p, i / (2 * run) * run + i % run, i / run % 2 * 4, 4);
}

static int pair_of_256(const uint8_t *p, uint32_t i) {
    return field(p, i / 128 * 32 + i % 32, i / 32 % 4 * 2, 2);
}

static int bit_of_256(const uint8_t *p, uint32_t i) {
    return field(p, i % 32, i / 32, 1);
}

// Q4_K and Q5_K: 8 scales and 8 minima of 6 bits in 12 bytes; p is where those of the first four values begin.
static int six_bits(const uint8_t *p, uint32_t i, bool minimum) {
    uint32_t first = minimum ? 4 : 0;
    if (i < 4)
        return field(p, first + i, 0, 6);
    return field(p, 4 + i, first, 4) + 16 * field(p, first + i - 4, 6, 2);
}

static float q4_k_value(const uint8_t *block, uint32_t i, int quant) {
    const uint8_t *scales = block + 4;
    float scale = half_at(block) * (float)six_bits(scales, i / 32, false);
    float minimum = half_at(block + 2) * (float)six_bits(scales, i / 32, true);
    return scale * (float)quant - minimum;
}

static float q3_k_value(const uint8_t *block, uint32_t i) {
    const uint8_t *scales = block + 96;
    uint32_t j = i / 16;
    int scale = field(scales, j % 8, j / 8 * 4, 4) + 16 * field(scales, 8 + j % 4, j / 4 * 2, 2) - 32;
    return half_at(block + 108) * (float)scale * (float)(pair_of_256(block + 32, i) + 4 * bit_of_256(block, i) - 4);
}

static float q6_k_value(const uint8_t *block, uint32_t i) {
    float scale = half_at(block + 208) * (float)(int8_t)block[192 + i / 16];
    return scale * (float)(nibble_of_256(block, i, 64) + 16 * pair_of_256(block + 128, i) - 32);
}

static float iq4_value(int quant) {
    static const float values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
    return values[quant];
}

static float iq4_xs_value(const uint8_t *block, uint32_t i) {
    uint32_t j = i / 32;
    int scale = field(block, 4 + j / 2, j % 2 * 4, 4) + 16 * field(block, 2 + j / 4, j % 4 * 2, 2) - 32;
    return half_at(block) * (float)scale * iq4_value(nibble(block + 8 + 16 * j, i % 32));
}

// A power of two times a float of a sign, two bits of exponent and one of mantissa.
static float mxfp4_value(const uint8_t *block, uint32_t i) {
    static const double values[8] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
    int quant = nibble(block + 1, i);
    return (float)ldexp(quant < 8 ? values[quant] : -values[quant - 8], block[0] - 127);
}

// A sign, four bits of exponent, three of mantissa.
static float e4m3_value(uint8_t code) {
    int exponent = code >> 3 & 15, mantissa = code & 7;
    double size = exponent ? ldexp(8 + mantissa, exponent - 10) : ldexp(mantissa, -9);
    if ((code & 127) == 127)
        size = NAN;
    return (float)(code < 128 ? size : -size);
}

static float iq2_value(const uint8_t *block, uint32_t i) {
    static const float values[4] = {8, 25, 43, 60};
    float scale = half_at(block + 104) / 8 * (float)(2 * field(block, 96 + i / 32, i / 16 % 2 * 4, 4) + 1);
    float size = scale * values[pair_of_256(block, i)];
    return bit_of_256(block + 64, i) ? -size : size;
}

// Value i of a block; loader/dequant.c says what a block of each type is.
static float decode_one(pm_dtype dtype, const uint8_t *b, uint32_t i) {
    switch (dtype) {
    case PM_F32:
        return f32_at(b);
    case PM_F16:
        return half_at(b);
    case PM_BF16:
        return pm_bf16_to_f32(u16_at(b));
    case PM_Q8_0:
        return half_at(b) * (float)(int8_t)b[2 + i];
    case PM_Q4_0:
        return half_at(b) * (float)(nibble(b + 2, i) - 8);
    case PM_Q4_1:
        return half_at(b) * (float)nibble(b + 4, i) + half_at(b + 2);
    case PM_Q5_0:
        return half_at(b) * (float)(nibble(b + 6, i) + 16 * field(b, 2 + i / 8, i % 8, 1) - 16);
    case PM_Q5_1:
        return half_at(b) * (float)(nibble(b + 8, i) + 16 * field(b, 4 + i / 8, i % 8, 1)) + half_at(b + 2);
    case PM_Q2_K:
        return half_at(b + 80) * (float)field(b, i / 16, 0, 4) * (float)pair_of_256(b + 16, i) -
               half_at(b + 82) * (float)field(b, i / 16, 4, 4);
    case PM_Q3_K:
        return q3_k_value(b, i);
    case PM_Q4_K:
        return q4_k_value(b, i, nibble_of_256(b + 16, i, 32));
    case PM_Q5_K:
        return q4_k_value(b, i, nibble_of_256(b + 48, i, 32) + 16 * bit_of_256(b + 16, i));
    case PM_Q6_K:
        return q6_k_value(b, i);
    case PM_IQ4_NL:
        return half_at(b) * iq4_value(nibble(b + 2, i));
    case PM_IQ4_XS:
        return iq4_xs_value(b, i);
    case PM_MXFP4:
        return mxfp4_value(b, i);
    case PM_FP8:
        return f32_at(b) * e4m3_value(b[4 + i]);
    case PM_AWQ:
        return half_at(b) * (float)(nibble(b + 4, i) - b[2]);
    case PM_IQ2:
        return iq2_value(b, i);
    default:
        return 0;
    }
}

void pm_ref_decode(pm_dtype dtype, const void *blocks, uint64_t n, float *values) {
    const pm_dtype_info *info = pm_dtype_get(dtype);
    for (uint64_t i = 0; i < n; i++) {
        const uint8_t *block = (const uint8_t *)blocks + i / info->block_elements * info->block_bytes;
        values[i] = decode_one(dtype, block, (uint32_t)(i % info->block_elements));
    }
}
