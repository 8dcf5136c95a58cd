// ggml's types of superblocks whose values are few: from a table (IQ1, IQ2, IQ3), -1 to 1 (TQ), 4-bit floats (NVFP4). No kernel
// reads them; repack.c makes of them what kernels read, from the integers that are unpacked here.
#include "loader/grids.h"

#include "loader/internal.h"

static uint32_t read_u16(const uint8_t *p) {
    return (uint32_t)(p[0] | p[1] << 8);
}

static uint32_t read_u32(const uint8_t *p) {
    return read_u16(p) | read_u16(p + 2) << 16;
}

static const int8_t iq2_sizes[4] = {8, 25, 43, 0};
static const int8_t iq3_xxs_sizes[16] = {4, 12, 20, 28, 36, 44, 52, 62};
static const int8_t iq3_s_sizes[16] = {1, 3, 5, 7, 9, 11, 13, 15};

// Eight values of 2 bits, or four of 4; a set bit of `signs` makes one negative.
static void put_eight(int8_t *out, uint32_t entry, uint32_t signs) {
    for (int i = 0; i < 8; i++) {
        int8_t size = iq2_sizes[entry >> (2 * i) & 3];
        out[i] = (int8_t)(signs >> i & 1 ? -size : size);
    }
}

static void put_four(int8_t *out, const int8_t sizes[16], uint32_t entry, uint32_t signs) {
    for (int i = 0; i < 4; i++) {
        int8_t size = sizes[entry >> (4 * i) & 15];
        out[i] = (int8_t)(signs >> i & 1 ? -size : size);
    }
}

// Seven signs of eight: the eighth makes the number of negative values even.
static uint32_t eight_signs(uint32_t seven) {
    uint32_t parity = seven ^ seven >> 4;
    parity ^= parity >> 2;
    parity ^= parity >> 1;
    return seven | (parity & 1) << 7;
}

// ---- the blocks -------------------------------------------------------------------------------------------------------

// 66 bytes: scale of the scales as half; for each 32 elements 4 table numbers of 8 bits, then, in 32 bits, 4 x 7 signs and the
// scale.
static void unpack_iq2_xxs(const uint8_t *src, pm_grid_block *out) {
    out->scale = pm_f16_to_f32((uint16_t)read_u16(src)) / 8;
    for (int b = 0; b < 8; b++) {
        const uint8_t *p = src + 2 + 8 * b;
        uint32_t rest = read_u32(p + 4);
        out->scales[2 * b] = out->scales[2 * b + 1] = (int8_t)(2 * (rest >> 28) + 1);
        for (int i = 0; i < 4; i++)
            put_eight(out->quants + 32 * b + 8 * i, grid_iq2_xxs[p[i]], eight_signs(rest >> (7 * i) & 127));
    }
}

// 74 bytes: half; for each 8 elements 9 bits of table number and 7 signs; 8 bytes of nibbles, a scale for each 16 elements.
static void unpack_iq2_xs(const uint8_t *src, pm_grid_block *out) {
    out->scale = pm_f16_to_f32((uint16_t)read_u16(src)) / 8;
    for (int i = 0; i < 16; i++)
        out->scales[i] = (int8_t)(2 * (src[66 + i / 2] >> (i % 2 * 4) & 15) + 1);
    for (int i = 0; i < 32; i++) {
        uint32_t word = read_u16(src + 2 + 2 * i);
        put_eight(out->quants + 8 * i, grid_iq2_xs[word & 511], eight_signs(word >> 9));
    }
}

// 82 bytes: half; the low 8 bits of 32 table numbers; 32 bytes of signs; their high 2 bits; nibbles as in IQ2_XS.
static void unpack_iq2_s(const uint8_t *src, pm_grid_block *out) {
    out->scale = pm_f16_to_f32((uint16_t)read_u16(src)) / 8;
    for (int i = 0; i < 16; i++)
        out->scales[i] = (int8_t)(2 * (src[74 + i / 2] >> (i % 2 * 4) & 15) + 1);
    for (int i = 0; i < 32; i++) {
        uint32_t number = src[2 + i] | (src[66 + i / 4] >> (i % 4 * 2) & 3u) << 8;
        put_eight(out->quants + 8 * i, grid_iq2_s[number], src[34 + i]);
    }
}

// 98 bytes: half; a table number of 8 bits for each 4 elements; for each 32 elements signs and scale as in IQ2_XXS.
static void unpack_iq3_xxs(const uint8_t *src, pm_grid_block *out) {
    out->scale = pm_f16_to_f32((uint16_t)read_u16(src)) / 4;
    for (int b = 0; b < 8; b++) {
        uint32_t rest = read_u32(src + 66 + 4 * b);
        out->scales[2 * b] = out->scales[2 * b + 1] = (int8_t)(2 * (rest >> 28) + 1);
        for (int i = 0; i < 8; i++)
            put_four(out->quants + 32 * b + 4 * i, iq3_xxs_sizes, grid_iq3_xxs[src[2 + 8 * b + i]],
                     eight_signs(rest >> (i / 2 * 7) & 127) >> (i % 2 * 4));
    }
}

// 110 bytes: half; the low 8 bits of 64 table numbers; their high bit; 32 bytes of signs; nibbles, a scale for each 32 elements.
static void unpack_iq3_s(const uint8_t *src, pm_grid_block *out) {
    out->scale = pm_f16_to_f32((uint16_t)read_u16(src));
    for (int i = 0; i < 16; i++)
        out->scales[i] = (int8_t)(2 * (src[106 + i / 4] >> (i / 2 % 2 * 4) & 15) + 1);
    for (int i = 0; i < 64; i++) {
        uint32_t number = src[2 + i] | (src[66 + i / 8] >> i % 8 & 1u) << 8;
        put_four(out->quants + 4 * i, iq3_s_sizes, grid_iq3_s[number], (uint32_t)src[74 + i / 2] >> (i % 2 * 4));
    }
}

// Eight values of -1, 0, 1, each an eighth more or less, in eighths.
static void put_ternary(int8_t *out, uint32_t entry, bool less) {
    for (int i = 0; i < 8; i++)
        out[i] = (int8_t)(8 * ((int)(entry >> (2 * i) & 3) - 1) + (less ? -1 : 1));
}

// 50 bytes: half; the low 8 bits of 32 table numbers; for each 32 elements, in 16 bits, 4 x 3 high bits, the scale, and the sign of
// the eighth.
static void unpack_iq1_s(const uint8_t *src, pm_grid_block *out) {
    out->scale = pm_f16_to_f32((uint16_t)read_u16(src)) / 8;
    for (int i = 0; i < 32; i++) {
        uint32_t word = read_u16(src + 34 + i / 4 * 2);
        out->scales[i / 2] = (int8_t)(2 * (word >> 12 & 7) + 1);
        put_ternary(out->quants + 8 * i, grid_iq1_s[src[2 + i] | (word >> (i % 4 * 3) & 7) << 8], word >> 15);
    }
}

// 56 bytes: the low 8 bits of 32 table numbers; nibbles of their high 3 bits and the sign of the eighth; 4 x 16 bits that hold 4 x
// 3 bits of scale, one for each 16 elements, and above them a quarter of the half that scales them.
static void unpack_iq1_m(const uint8_t *src, pm_grid_block *out) {
    uint32_t half = 0;
    for (int i = 0; i < 4; i++)
        half |= read_u16(src + 48 + 2 * i) >> 12 << (4 * i);
    out->scale = pm_f16_to_f32((uint16_t)half) / 8;
    for (int i = 0; i < 16; i++)
        out->scales[i] = (int8_t)(2 * (read_u16(src + 48 + i / 4 * 2) >> (i % 4 * 3) & 7) + 1);
    for (int i = 0; i < 32; i++) {
        uint32_t nibble = (uint32_t)src[32 + i / 2] >> (i % 2 * 4);
        put_ternary(out->quants + 8 * i, grid_iq1_s[src[i] | (nibble & 7) << 8], nibble >> 3 & 1);
    }
}

// 54 bytes: 48 of five values of three, 4 of four, the scale as half. A byte is the fraction v / 256, digits in base 3 behind its
// point.
static void unpack_tq1_0(const uint8_t *src, pm_grid_block *out) {
    static const uint8_t powers[5] = {1, 3, 9, 27, 81};
    out->scale = pm_f16_to_f32((uint16_t)read_u16(src + 52));
    for (int i = 0; i < 16; i++)
        out->scales[i] = 1;
    for (int i = 0; i < 256; i++) {
        int byte = i < 160 ? i % 32 : i < 240 ? 32 + i % 16 : 48 + i % 4;
        int digit = i < 160 ? i / 32 : i < 240 ? (i - 160) / 16 : (i - 240) / 4;
        out->quants[i] = (int8_t)(((uint8_t)(src[byte] * powers[digit]) * 3 >> 8) - 1);
    }
}

// 66 bytes: 2-bit values as in Q2_K, 1 means zero; the scale as half.
static void unpack_tq2_0(const uint8_t *src, pm_grid_block *out) {
    out->scale = pm_f16_to_f32((uint16_t)read_u16(src + 64));
    for (int i = 0; i < 16; i++)
        out->scales[i] = 1;
    for (int i = 0; i < 256; i++)
        out->quants[i] = (int8_t)((src[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3) - 1);
}

void pm_grid_unpack(pm_dtype dtype, const uint8_t *src, pm_grid_block *out) {
    static void (*const unpackers[])(const uint8_t *src, pm_grid_block *out) = {
        [PM_IQ2_XXS - PM_DTYPE_COUNT] = unpack_iq2_xxs, [PM_IQ2_XS - PM_DTYPE_COUNT] = unpack_iq2_xs,
        [PM_IQ2_S - PM_DTYPE_COUNT] = unpack_iq2_s,     [PM_IQ3_XXS - PM_DTYPE_COUNT] = unpack_iq3_xxs,
        [PM_IQ3_S - PM_DTYPE_COUNT] = unpack_iq3_s,     [PM_IQ1_S - PM_DTYPE_COUNT] = unpack_iq1_s,
        [PM_IQ1_M - PM_DTYPE_COUNT] = unpack_iq1_m,     [PM_TQ1_0 - PM_DTYPE_COUNT] = unpack_tq1_0,
        [PM_TQ2_0 - PM_DTYPE_COUNT] = unpack_tq2_0,
    };
    unpackers[dtype - PM_DTYPE_COUNT](src, out);
}

// Bytes 0..3 of 36: scales without a sign, one for each 16 elements, then 8 bytes of nibbles for each, low ones first.
float pm_nvfp4_unpack(const uint8_t *src, int part, int8_t quants[16]) {
    static const int8_t values[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12}; // doubled
    for (int i = 0; i < 16; i++)
        quants[i] = values[src[4 + 8 * part + i % 8] >> (i / 8 * 4) & 15];
    uint8_t code = src[part] & 127;
    return code == 127 ? 0 : pm_e4m3_to_f32(code) / 2;
}

static void dequant_nvfp4(const uint8_t *src, float *dst, size_t n) {
    for (size_t i = 0; i < n / 16; i++) {
        int8_t quants[16];
        float scale = pm_nvfp4_unpack(src + i / 4 * 36, (int)(i % 4), quants);
        for (int j = 0; j < 16; j++)
            dst[16 * i + (size_t)j] = scale * (float)quants[j];
    }
}

// Exact: a half of 11 bits times 5 bits of scale times 6 bits of value.
void pm_grid_dequant(pm_dtype dtype, const uint8_t *src, float *dst, size_t n) {
    if (dtype == PM_NVFP4) {
        dequant_nvfp4(src, dst, n);
        return;
    }
    for (size_t i = 0; i < n / 256; i++) {
        pm_grid_block block;
        pm_grid_unpack(dtype, src + i * pm_dtype_get(dtype)->block_bytes, &block);
        for (int j = 0; j < 256; j++)
            dst[256 * i + (size_t)j] = block.scale * (float)block.scales[j / 16] * (float)block.quants[j];
    }
}
