// The CPU decoder of every block type. The values are exact: a test compares them bit for bit with ggml's.
#include "loader/internal.h"

#include <math.h>
#include <string.h>

// Sign, 4 bits of exponent, 3 of mantissa: a half with its exponent biased by 7 and not by 15. All ones are no number.
float pm_e4m3_to_f32(uint8_t code) {
    uint16_t half = (uint16_t)((code & 128) << 8 | (code & 127) << 7);
    return (code & 127) == 127 ? NAN : pm_f16_to_f32(half) * 256;
}

static uint16_t read_u16(const uint8_t *p) {
    return (uint16_t)(p[0] | p[1] << 8);
}

static void dequant_f32(const uint8_t *src, float *dst, size_t n) {
    for (size_t i = 0; i < n; i++) {
        uint32_t bits = read_u16(src + 4 * i) | (uint32_t)read_u16(src + 4 * i + 2) << 16;
        memcpy(&dst[i], &bits, sizeof(bits));
    }
}

static void dequant_f16(const uint8_t *src, float *dst, size_t n) {
    for (size_t i = 0; i < n; i++)
        dst[i] = pm_f16_to_f32(read_u16(src + 2 * i));
}

static void dequant_bf16(const uint8_t *src, float *dst, size_t n) {
    for (size_t i = 0; i < n; i++)
        dst[i] = pm_bf16_to_f32(read_u16(src + 2 * i));
}

// 34 bytes: scale as half, 32 signed bytes.
static void dequant_q8_0(const uint8_t *src, float *dst, size_t n) {
    for (size_t i = 0; i < n / 32; i++, src += 34, dst += 32) {
        float scale = pm_f16_to_f32(read_u16(src));
        for (int j = 0; j < 32; j++)
            dst[j] = scale * (float)(int8_t)src[2 + j];
    }
}

// 18 bytes: scale as half, 16 bytes of two 4-bit values; the low halves are elements 0..15, the high ones 16..31; 8 means zero.
static void dequant_q4_0(const uint8_t *src, float *dst, size_t n) {
    for (size_t i = 0; i < n / 32; i++, src += 18, dst += 32) {
        float scale = pm_f16_to_f32(read_u16(src));
        for (int j = 0; j < 16; j++) {
            dst[j] = scale * (float)((src[2 + j] & 15) - 8);
            dst[j + 16] = scale * (float)((src[2 + j] >> 4) - 8);
        }
    }
}

// What 4 bits mean in IQ4_NL and IQ4_XS, and in MXFP4: twice the values of a 4-bit float (sign, 2 bits of exponent, 1 of mantissa).
static const int8_t iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
static const int8_t mxfp4_values[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

// 20 bytes: scale and minimum as halves, nibbles as in Q4_0.
static void dequant_q4_1(const uint8_t *src, float *dst, size_t n) {
    for (size_t i = 0; i < n / 32; i++, src += 20, dst += 32) {
        float scale = pm_f16_to_f32(read_u16(src)), min = pm_f16_to_f32(read_u16(src + 2));
        for (int j = 0; j < 16; j++) {
            dst[j] = scale * (float)(src[4 + j] & 15) + min;
            dst[j + 16] = scale * (float)(src[4 + j] >> 4) + min;
        }
    }
}

// The 32 5-bit values of a block: a 32-bit word of the high bits, element j's in bit j, then the low bits, nibbles as in Q4_0.
static void take_5_bits(const uint8_t *src, int q[32]) {
    for (int j = 0; j < 32; j++)
        q[j] = (src[4 + j % 16] >> (j / 16 * 4) & 15) | (src[j / 8] >> j % 8 & 1) << 4;
}

// 22 bytes: scale as half, 5 bits a value; 16 means zero.
static void dequant_q5_0(const uint8_t *src, float *dst, size_t n) {
    for (size_t i = 0; i < n / 32; i++, src += 22, dst += 32) {
        int q[32];
        take_5_bits(src + 2, q);
        for (int j = 0; j < 32; j++)
            dst[j] = pm_f16_to_f32(read_u16(src)) * (float)(q[j] - 16);
    }
}

// 24 bytes: scale and minimum as halves, 5 bits a value.
static void dequant_q5_1(const uint8_t *src, float *dst, size_t n) {
    for (size_t i = 0; i < n / 32; i++, src += 24, dst += 32) {
        int q[32];
        take_5_bits(src + 4, q);
        for (int j = 0; j < 32; j++)
            dst[j] = pm_f16_to_f32(read_u16(src)) * (float)q[j] + pm_f16_to_f32(read_u16(src + 2));
    }
}

// 18 bytes: scale as half, nibbles as in Q4_0 into the table.
static void dequant_iq4_nl(const uint8_t *src, float *dst, size_t n) {
    for (size_t i = 0; i < n / 32; i++, src += 18, dst += 32)
        for (int j = 0; j < 32; j++)
            dst[j] = pm_f16_to_f32(read_u16(src)) * (float)iq4_values[src[2 + j % 16] >> (j / 16 * 4) & 15];
}

// 2^(e - 128): half of what the exponent of an MXFP4 block says, since the table holds doubled values.
static float half_power(uint8_t e) {
    uint32_t bits = e < 2 ? 0x00200000u << e : (e - 1u) << 23;
    float f;
    memcpy(&f, &bits, sizeof(f));
    return f;
}

// 17 bytes: an exponent, nibbles as in Q4_0 into the table.
static void dequant_mxfp4(const uint8_t *src, float *dst, size_t n) {
    for (size_t i = 0; i < n / 32; i++, src += 17, dst += 32)
        for (int j = 0; j < 32; j++)
            dst[j] = half_power(src[0]) * (float)mxfp4_values[src[1 + j % 16] >> (j / 16 * 4) & 15];
}

// ---- superblocks of 256 elements ----------------------------------------------------------------------------------------

// 84 bytes: a scale (low 4 bits) and a minimum (high 4 bits) for each 16 elements, 64 bytes of 2-bit values, the scale of the
// scales and that of the minima. Byte l of the values' first half holds elements l, l + 32, l + 64, l + 96 from its lowest bits up;
// the second half likewise from element 128 on.
static void dequant_q2_k(const uint8_t *src, float *dst, size_t n) {
    for (size_t i = 0; i < n / 256; i++, src += 84, dst += 256) {
        float scale = pm_f16_to_f32(read_u16(src + 80)), min = pm_f16_to_f32(read_u16(src + 82));
        for (int j = 0; j < 256; j++) {
            int q = src[16 + j / 128 * 32 + j % 32] >> (j % 128 / 32 * 2) & 3;
            dst[j] = scale * (float)(src[j / 16] & 15) * (float)q - min * (float)(src[j / 16] >> 4);
        }
    }
}

// Scale j of the 16 in a Q3_K block: the low 4 bits from 8 bytes of nibbles (low ones first), the high 2 from 4 more; 32 means
// zero.
static int q3_k_scale(const uint8_t *src, int j) {
    return ((src[j % 8] >> (j / 8 * 4) & 15) | (src[8 + j % 4] >> (j / 4 * 2) & 3) << 4) - 32;
}

// 110 bytes: 32 of high bits (bit b of byte l: element 32 b + l), 64 of the low 2 bits as in Q2_K, 12 of scales, one for each 16
// elements, and the scale of the scales. A value is 4 too great.
static void dequant_q3_k(const uint8_t *src, float *dst, size_t n) {
    for (size_t i = 0; i < n / 256; i++, src += 110, dst += 256) {
        float scale = pm_f16_to_f32(read_u16(src + 108));
        for (int j = 0; j < 256; j++) {
            int low = src[32 + j / 128 * 32 + j % 32] >> (j % 128 / 32 * 2) & 3, high = src[j % 32] >> (j / 32) & 1;
            dst[j] = scale * (float)q3_k_scale(src + 96, j / 16) * (float)(low + 4 * high - 4);
        }
    }
}

// Scale and minimum j of the 8 in the 12 bytes of a Q4_K or Q5_K block, 6 bits each: those of the first four stand in bytes 0..3
// and 4..7; of the others the low 4 bits in bytes 8..11 (the minimum's above) and the high 2 bits above those of the first four.
static void q4_k_scale(const uint8_t *src, int j, float *scale, float *min) {
    int s = j < 4 ? src[j] & 63 : (src[j + 4] & 15) | src[j - 4] >> 6 << 4;
    int m = j < 4 ? src[j + 4] & 63 : src[j + 4] >> 4 | src[j] >> 6 << 4;
    *scale = (float)s;
    *min = (float)m;
}

// 144 bytes: the scale of the scales and that of the minima, 12 bytes of both, one for each 32 elements, 128 bytes of nibbles: 32
// bytes hold 64 elements, the first half of them low.
static void dequant_q4_k(const uint8_t *src, float *dst, size_t n) {
    for (size_t i = 0; i < n / 256; i++, src += 144, dst += 256)
        for (int j = 0; j < 256; j++) {
            float scale, min;
            q4_k_scale(src + 4, j / 32, &scale, &min);
            int q = src[16 + j / 64 * 32 + j % 32] >> (j / 32 % 2 * 4) & 15;
            dst[j] = pm_f16_to_f32(read_u16(src)) * scale * (float)q - pm_f16_to_f32(read_u16(src + 2)) * min;
        }
}

// 176 bytes: as Q4_K with 32 bytes of high bits before the nibbles (bit b of byte l: element 32 b + l).
static void dequant_q5_k(const uint8_t *src, float *dst, size_t n) {
    for (size_t i = 0; i < n / 256; i++, src += 176, dst += 256)
        for (int j = 0; j < 256; j++) {
            float scale, min;
            q4_k_scale(src + 4, j / 32, &scale, &min);
            int q = (src[48 + j / 64 * 32 + j % 32] >> (j / 32 % 2 * 4) & 15) | (src[16 + j % 32] >> (j / 32) & 1) << 4;
            dst[j] = pm_f16_to_f32(read_u16(src)) * scale * (float)q - pm_f16_to_f32(read_u16(src + 2)) * min;
        }
}

// 210 bytes: 128 of the low 4 bits (64 bytes hold 128 elements, the first half of them low), 64 of the high 2 bits as in Q2_K, a
// signed scale for each 16 elements, and the scale of the scales; 32 means zero.
static void dequant_q6_k(const uint8_t *src, float *dst, size_t n) {
    for (size_t i = 0; i < n / 256; i++, src += 210, dst += 256)
        for (int j = 0; j < 256; j++) {
            int low = src[j / 128 * 64 + j % 64] >> (j % 128 / 64 * 4) & 15;
            int high = src[128 + j / 128 * 32 + j % 32] >> (j % 128 / 32 * 2) & 3;
            float scale = pm_f16_to_f32(read_u16(src + 208)) * (float)(int8_t)src[192 + j / 16];
            dst[j] = scale * (float)((low | high << 4) - 32);
        }
}

// 136 bytes: the scale of the scales, the high 2 bits of 8 scales, their low 4 bits, one for each 32 elements (32 means zero), then
// 16 bytes of nibbles for each 32 elements as in IQ4_NL.
static void dequant_iq4_xs(const uint8_t *src, float *dst, size_t n) {
    for (size_t i = 0; i < n / 256; i++, src += 136, dst += 256)
        for (int j = 0; j < 256; j++) {
            int b = j / 32, scale = ((src[4 + b / 2] >> (b % 2 * 4) & 15) | (read_u16(src + 2) >> (b * 2) & 3) << 4) - 32;
            int q = iq4_values[src[8 + b * 16 + j % 16] >> (j % 32 / 16 * 4) & 15];
            dst[j] = pm_f16_to_f32(read_u16(src)) * (float)scale * (float)q;
        }
}

// ---- made by the loader (repack.c, hf_quant.c) ----------------------------------------------------------------------------

// 36 bytes: scale as float, 32 floats of a sign, 4 bits of exponent and 3 of mantissa, without infinities
// (https://arxiv.org/abs/2209.05433, E4M3). The scale is the same in each four blocks of a row.
static void dequant_fp8(const uint8_t *src, float *dst, size_t n) {
    for (size_t i = 0; i < n / 32; i++, src += 36, dst += 32) {
        float scale;
        dequant_f32(src, &scale, 1);
        for (int j = 0; j < 32; j++)
            dst[j] = scale * pm_e4m3_to_f32(src[4 + j]);
    }
}

// 20 bytes: scale as half, zero point as 16 bits, nibbles as in Q4_0. Both are the same in each four blocks of a row.
static void dequant_awq(const uint8_t *src, float *dst, size_t n) {
    for (size_t i = 0; i < n / 32; i++, src += 20, dst += 32)
        for (int j = 0; j < 32; j++)
            dst[j] = pm_f16_to_f32(read_u16(src)) * (float)((src[4 + j % 16] >> (j / 16 * 4) & 15) - read_u16(src + 2));
}

// 106 bytes: 64 of 2-bit values and 32 of signs, as the low and the high bits of Q3_K, 8 of nibbles s, one for each 16 elements,
// and the scale of the scales 2 s + 1. A value stands for 8, 25, 43 (or 60).
static void dequant_iq2(const uint8_t *src, float *dst, size_t n) {
    for (size_t i = 0; i < n / 256; i++, src += 106, dst += 256)
        for (int j = 0; j < 256; j++) {
            int q = src[j / 128 * 32 + j % 32] >> (j % 128 / 32 * 2) & 3, size = 8 + 17 * q + q / 2;
            float scale =
                pm_f16_to_f32(read_u16(src + 104)) * 0.125f * (float)(2 * (src[96 + j / 32] >> (j / 16 % 2 * 4) & 15) + 1);
            dst[j] = scale * (float)(src[64 + j % 32] >> (j / 32) & 1 ? -size : size);
        }
}

void pm_dequant(pm_dtype dtype, const void *src, float *dst, size_t n) {
    static void (*const decoders[PM_DTYPE_COUNT])(const uint8_t *src, float *dst, size_t n) = {
#define X(id, small, ggml, elements, bytes) [PM_##id] = dequant_##small,
        PM_DTYPES(X)
#undef X
    };
    if (dtype < PM_DTYPE_COUNT)
        decoders[dtype](src, dst, n);
    else
        pm_grid_dequant(dtype, src, dst, n);
}
