// The CPU decoder of every block type. The values are exact: a test compares them bit for bit with ggml's.
#include "loader/loader.h"

#include <string.h>

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

void pm_dequant(pm_dtype dtype, const void *src, float *dst, size_t n) {
    static void (*const decoders[PM_DTYPE_COUNT])(const uint8_t *src, float *dst, size_t n) = {
        [PM_F32] = dequant_f32,   [PM_F16] = dequant_f16,   [PM_BF16] = dequant_bf16,
        [PM_Q8_0] = dequant_q8_0, [PM_Q4_0] = dequant_q4_0,
    };
    decoders[dtype](src, dst, n);
}
