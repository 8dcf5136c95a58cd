// The CPU encoders of every block type, the inverse of dequant.c, which says how blocks are laid out. Each chooses the scale (and
// the minimum) for which the weighted squared error of what it decodes to is least: a range of candidates is tried, and for the
// codes each gives, the best scale follows by least squares. Values are finite, which quantize.c sees to; what is not is encoded as
// anything.
#include "loader/quant.h"

#include <math.h>
#include <string.h>

enum { MOST_VALUES = 32 }; // of one scale

static void write_u16(uint8_t *p, uint16_t value) {
    p[0] = (uint8_t)value;
    p[1] = (uint8_t)(value >> 8);
}

// Writes f as half and returns what a decoder will read; least squares may lead a little beyond the greatest half.
static float write_half(uint8_t *p, float f) {
    uint16_t half = pm_f32_to_f16(f > 65504 ? 65504 : f < -65504 ? -65504 : f);
    write_u16(p, half);
    return pm_f16_to_f32(half);
}

// 0 for what has no inverse: then all codes mean zero.
static float inverse(float f) {
    return fabsf(f) > 1e-37f ? 1 / f : 0;
}

// The whole number in [0, most] nearest to v.
static int nearest(float v, float most) {
    v += 0.5f;
    return (int)(v > 0 ? v < most ? v : most : 0);
}

static int clamp(int v, int least, int most) {
    return v < least ? least : v > most ? most : v;
}

// The value furthest from zero, with its sign.
static float extreme(const float *x, int n) {
    float far = 0;
    for (int i = 0; i < n; i++)
        far = fabsf(x[i]) > fabsf(far) ? x[i] : far;
    return far;
}

// ---- fits: codes of one scale --------------------------------------------------------------------------------------------

// With q = code - half in [-half, half): x is about scale * q.
static void code_signed(const float *x, int n, int half, float scale, uint8_t *codes) {
    float factor = inverse(scale), zero = (float)half, most = (float)(2 * half - 1);
    for (int i = 0; i < n; i++)
        codes[i] = (uint8_t)nearest(x[i] * factor + zero, most);
}

// With codes in [0, most]: x is about scale * code - min.
static void code_affine(const float *x, int n, int most, float scale, float min, uint8_t *codes) {
    float factor = inverse(scale);
    for (int i = 0; i < n; i++)
        codes[i] = (uint8_t)nearest((x[i] + min) * factor, (float)most);
}

// How much an error of each value counts: large ones more, as in llama-quantize without an importance matrix (ggml-quants.c). It
// costs next to nothing in plain squares, and what the model says stays nearer (bench/RESULTS.md).
static void weigh(const float *x, int n, float *w) {
    float squares = 0;
    for (int i = 0; i < n; i++)
        squares += x[i] * x[i];
    float usual = sqrtf(squares / (float)n);
    for (int i = 0; i < n; i++)
        w[i] = usual + fabsf(x[i]);
}

// How much of the weighted sum of squares the codes of a scale explain, and the scale that is best for them.
typedef struct fit {
    float gain, scale, min;
} fit;

static fit fit_codes(const float *x, const float *w, int n, int half, const uint8_t *codes) {
    float xq = 0, qq = 0;
    for (int i = 0; i < n; i++) {
        float q = (float)(codes[i] - half), wq = w[i] * q;
        xq += x[i] * wq;
        qq += q * wq;
    }
    float scale = qq > 0 ? xq / qq : 0;
    return (fit){.gain = scale * xq, .scale = scale};
}

// The best scale for x in codes of [-half, half): the extreme value is tried at every tenth around -half, the end that reaches
// further, and around the other one.
static float fit_signed(const float *x, int n, int half) {
    enum { TENTHS = 9 };
    uint8_t codes[MOST_VALUES];
    float far = extreme(x, n), w[MOST_VALUES];
    fit best = {0};
    weigh(x, n, w);
    for (int i = -TENTHS; i <= TENTHS; i++) {
        code_signed(x, n, half, far / ((float)-half + 0.1f * (float)i), codes);
        fit f = fit_codes(x, w, n, half, codes);
        best = f.gain > best.gain ? f : best;
    }
    return best.scale;
}

// As fit_codes with a minimum. sign_free: the minimum may be negative too (all values above zero, far from it).
static fit fit_codes_affine(const float *x, const float *w, int n, const uint8_t *codes, bool sign_free) {
    float sx = 0, sq = 0, xq = 0, qq = 0, count = 0;
    for (int i = 0; i < n; i++) {
        float q = (float)codes[i], wq = w[i] * q;
        count += w[i];
        sx += w[i] * x[i];
        sq += wq;
        xq += x[i] * wq;
        qq += q * wq;
    }
    float determinant = count * qq - sq * sq;
    fit f = {0};
    if (determinant > 0) {
        f.scale = (count * xq - sx * sq) / determinant;
        f.min = (f.scale * sq - sx) / count;
    }
    if (determinant <= 0 || (f.min < 0 && !sign_free)) {
        f.scale = xq > 0 ? xq / qq : 0;
        f.min = 0;
    }
    f.gain = f.scale * xq - f.min * sx;
    return f;
}

// The best scale and minimum for x in codes of [0, most]: the range of the values is made smaller and larger step by step.
static fit fit_affine(const float *x, int n, int most, bool sign_free) {
    enum { STEPS = 10 };
    uint8_t codes[MOST_VALUES];
    float w[MOST_VALUES];
    weigh(x, n, w);
    float low = x[0], high = x[0];
    for (int i = 1; i < n; i++) {
        low = x[i] < low ? x[i] : low;
        high = x[i] > high ? x[i] : high;
    }
    if (!sign_free && low > 0)
        low = 0;
    fit best = {.min = -low};
    for (int i = -STEPS; i <= STEPS; i++) {
        float scale = (high - low) / ((float)most + 0.1f * (float)i);
        code_affine(x, n, most, scale, -low, codes);
        fit f = fit_codes_affine(x, w, n, codes, sign_free);
        best = f.gain > best.gain ? f : best;
    }
    return best;
}

// ---- types of one number ---------------------------------------------------------------------------------------------------

static void quant_f32(const float *x, uint8_t *dst, size_t n) {
    for (size_t i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof(bits));
        write_u16(dst + 4 * i, (uint16_t)bits);
        write_u16(dst + 4 * i + 2, (uint16_t)(bits >> 16));
    }
}

static void quant_f16(const float *x, uint8_t *dst, size_t n) {
    for (size_t i = 0; i < n; i++)
        write_u16(dst + 2 * i, pm_f32_to_f16(x[i]));
}

static void quant_bf16(const float *x, uint8_t *dst, size_t n) {
    for (size_t i = 0; i < n; i++)
        write_u16(dst + 2 * i, pm_f32_to_bf16(x[i]));
}

// ---- blocks of 32 elements ---------------------------------------------------------------------------------------------------

// So many codes that a search would win nothing: the extreme value is 127.
static void quant_q8_0(const float *x, uint8_t *dst, size_t n) {
    for (size_t i = 0; i < n / 32; i++, x += 32, dst += 34) {
        float factor = inverse(write_half(dst, fabsf(extreme(x, 32)) / 127));
        for (int j = 0; j < 32; j++)
            dst[2 + j] = (uint8_t)(int8_t)(nearest(x[j] * factor + 127, 254) - 127);
    }
}

static void pack_nibbles(const uint8_t *codes, uint8_t *dst) {
    for (int j = 0; j < 16; j++)
        dst[j] = (uint8_t)((codes[j] & 15) | (codes[j + 16] & 15) << 4);
}

// The word of the fifth bits, then nibbles.
static void pack_5_bits(const uint8_t *codes, uint8_t *dst) {
    memset(dst, 0, 4);
    for (int j = 0; j < 32; j++)
        dst[j / 8] |= (uint8_t)((codes[j] >> 4 & 1) << j % 8);
    pack_nibbles(codes, dst + 4);
}

static void quant_q4_0(const float *x, uint8_t *dst, size_t n) {
    for (size_t i = 0; i < n / 32; i++, x += 32, dst += 18) {
        uint8_t codes[32];
        code_signed(x, 32, 8, write_half(dst, fit_signed(x, 32, 8)), codes);
        pack_nibbles(codes, dst + 2);
    }
}

static void quant_q5_0(const float *x, uint8_t *dst, size_t n) {
    for (size_t i = 0; i < n / 32; i++, x += 32, dst += 22) {
        uint8_t codes[32];
        code_signed(x, 32, 16, write_half(dst, fit_signed(x, 32, 16)), codes);
        pack_5_bits(codes, dst + 2);
    }
}

// Scale and minimum as halves, and the codes that go with what they became.
static void code_with_halves(const float *x, int most, uint8_t *dst, uint8_t *codes) {
    fit f = fit_affine(x, 32, most, true);
    float scale = write_half(dst, f.scale), low = write_half(dst + 2, -f.min);
    code_affine(x, 32, most, scale, -low, codes);
}

static void quant_q4_1(const float *x, uint8_t *dst, size_t n) {
    for (size_t i = 0; i < n / 32; i++, x += 32, dst += 20) {
        uint8_t codes[32];
        code_with_halves(x, 15, dst, codes);
        pack_nibbles(codes, dst + 4);
    }
}

static void quant_q5_1(const float *x, uint8_t *dst, size_t n) {
    for (size_t i = 0; i < n / 32; i++, x += 32, dst += 24) {
        uint8_t codes[32];
        code_with_halves(x, 31, dst, codes);
        pack_5_bits(codes, dst + 4);
    }
}

// ---- tables of values ------------------------------------------------------------------------------------------------------

static const int8_t iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

// The entry of iq4_values nearest to v: 1 added for each midpoint passed.
static int nearest_iq4(float v) {
    static const float midpoints[15] = {-115.5f, -93.5f, -74, -57, -42, -28.5f, -16, -4.5f, 7, 19, 31.5f, 45.5f, 61, 79, 101};
    int code = v > midpoints[7] ? 8 : 0;
    code += v > midpoints[code + 3] ? 4 : 0;
    code += v > midpoints[code + 1] ? 2 : 0;
    return code + (v > midpoints[code] ? 1 : 0);
}

static void code_iq4(const float *x, float scale, uint8_t codes[32]) {
    float factor = inverse(scale);
    for (int i = 0; i < 32; i++)
        codes[i] = (uint8_t)nearest_iq4(x[i] * factor);
}

static fit fit_iq4_codes(const float *x, const uint8_t *codes) {
    float xq = 0, qq = 0;
    for (int i = 0; i < 32; i++) {
        float q = iq4_values[codes[i]];
        xq += x[i] * q;
        qq += q * q;
    }
    return (fit){.gain = xq / qq * xq, .scale = xq / qq}; // no value of the table is 0
}

// The extreme value is tried around either end of the table.
static float fit_iq4(const float *x) {
    enum { STEPS = 7 };
    uint8_t codes[32];
    float far = extreme(x, 32);
    fit best = {0};
    for (int i = -STEPS; i <= STEPS; i++)
        for (int end = 0; end < 16; end += 15) {
            code_iq4(x, far / (float)(iq4_values[end] + 2 * i), codes);
            fit f = fit_iq4_codes(x, codes);
            best = f.gain > best.gain ? f : best;
        }
    return best.scale;
}

static void quant_iq4_nl(const float *x, uint8_t *dst, size_t n) {
    for (size_t i = 0; i < n / 32; i++, x += 32, dst += 18) {
        uint8_t codes[32];
        code_iq4(x, write_half(dst, fit_iq4(x)), codes);
        pack_nibbles(codes, dst + 2);
    }
}

// The code of a 4-bit float nearest to v, which is twice its value: 0 1 2 3 4 6 8 12, then the same below zero.
static int nearest_mxfp4(float v) {
    static const float midpoints[7] = {0.5f, 1.5f, 2.5f, 3.5f, 5, 7, 10};
    int code = 0;
    while (code < 7 && fabsf(v) > midpoints[code])
        code++;
    return v < 0 && code ? code + 8 : code;
}

// Codes for the scale 2^(e - 128) of doubled values; returns the squared error.
static float code_mxfp4(const float *x, int e, uint8_t codes[32]) {
    static const int8_t values[8] = {0, 1, 2, 3, 4, 6, 8, 12};
    float scale = ldexpf(1, e - 128), factor = ldexpf(1, 128 - e > 127 ? 127 : 128 - e), error = 0;
    for (int i = 0; i < 32; i++) {
        int code = nearest_mxfp4(x[i] * factor);
        float left = fabsf(x[i]) - scale * (float)values[code & 7];
        codes[i] = (uint8_t)code;
        error += left * left;
    }
    return error;
}

// The greatest value lies between 4 and 8 times the scale, of which 6 is the last code, or one power lower or higher.
static void quant_mxfp4(const float *x, uint8_t *dst, size_t n) {
    for (size_t i = 0; i < n / 32; i++, x += 32, dst += 17) {
        uint8_t codes[32];
        int exponent, best = 0;
        float far = fabsf(extreme(x, 32)), least = INFINITY;
        frexpf(far, &exponent); // far in [2^(exponent - 1), 2^exponent)
        for (int e = exponent - 4; e <= exponent - 2; e++) {
            float error = code_mxfp4(x, clamp(e + 127, 1, 254), codes);
            best = error < least ? clamp(e + 127, 1, 254) : best;
            least = error < least ? error : least;
        }
        dst[0] = (uint8_t)(far > 0 ? best : 0);
        code_mxfp4(x, dst[0], codes);
        pack_nibbles(codes, dst + 1);
    }
}

// ---- superblocks of 256 elements: scales and minima are whole numbers ----------------------------------------------------------

// What the affine types share: 256 / n_parts elements a part, each with a scale and a minimum in [0, most].
typedef struct affine_block {
    int n_parts, part, most; // most: of the scales and minima
    float scale, min;        // of the scales and the minima, as written
    uint8_t scales[16], mins[16], codes[256];
} affine_block;

// Fits each part, rounds its scale and minimum to whole numbers of a common unit, then codes with what they became. halves: where
// the two units are written.
static void code_affine_block(const float *x, int most_code, uint8_t *halves, affine_block *b) {
    fit fits[16];
    float scale = 0, min = 0;
    for (int j = 0; j < b->n_parts; j++) {
        fits[j] = fit_affine(x + j * b->part, b->part, most_code, false);
        scale = fits[j].scale > scale ? fits[j].scale : scale;
        min = fits[j].min > min ? fits[j].min : min;
    }
    b->scale = write_half(halves, scale / (float)b->most);
    b->min = write_half(halves + 2, min / (float)b->most);
    for (int j = 0; j < b->n_parts; j++) {
        b->scales[j] = (uint8_t)nearest(fits[j].scale * inverse(b->scale), (float)b->most);
        b->mins[j] = (uint8_t)nearest(fits[j].min * inverse(b->min), (float)b->most);
        code_affine(x + j * b->part, b->part, most_code, b->scale * b->scales[j], b->min * b->mins[j], b->codes + j * b->part);
    }
}

// Two bits of each code from bit `low` up: byte l of each half's 32 bytes holds elements l, l + 32, l + 64 and l + 96.
static void pack_2_bits(const uint8_t codes[256], int low, uint8_t dst[64]) {
    memset(dst, 0, 64);
    for (int j = 0; j < 256; j++)
        dst[j / 128 * 32 + j % 32] |= (uint8_t)((codes[j] >> low & 3) << (j % 128 / 32 * 2));
}

static void quant_q2_k(const float *x, uint8_t *dst, size_t n) {
    for (size_t i = 0; i < n / 256; i++, x += 256, dst += 84) {
        affine_block b = {.n_parts = 16, .part = 16, .most = 15};
        code_affine_block(x, 3, dst + 80, &b);
        for (int j = 0; j < 16; j++)
            dst[j] = (uint8_t)(b.scales[j] | b.mins[j] << 4);
        pack_2_bits(b.codes, 0, dst + 16);
    }
}

// The 12 bytes of 8 scales and 8 minima of 6 bits.
static void pack_scales_6_bits(const affine_block *b, uint8_t dst[12]) {
    for (int j = 0; j < 4; j++) {
        dst[j] = (uint8_t)(b->scales[j] | b->scales[j + 4] >> 4 << 6);
        dst[j + 4] = (uint8_t)(b->mins[j] | b->mins[j + 4] >> 4 << 6);
        dst[j + 8] = (uint8_t)((b->scales[j + 4] & 15) | (b->mins[j + 4] & 15) << 4);
    }
}

// The low 4 bits: 32 bytes hold 64 elements, the first half of them low.
static void pack_low_halves(const uint8_t codes[256], uint8_t dst[128]) {
    for (int j = 0; j < 128; j++) {
        const uint8_t *pair = codes + j / 32 * 64 + j % 32;
        dst[j] = (uint8_t)((pair[0] & 15) | (pair[32] & 15) << 4);
    }
}

static void quant_q4_k(const float *x, uint8_t *dst, size_t n) {
    for (size_t i = 0; i < n / 256; i++, x += 256, dst += 144) {
        affine_block b = {.n_parts = 8, .part = 32, .most = 63};
        code_affine_block(x, 15, dst, &b);
        pack_scales_6_bits(&b, dst + 4);
        pack_low_halves(b.codes, dst + 16);
    }
}

static void quant_q5_k(const float *x, uint8_t *dst, size_t n) {
    for (size_t i = 0; i < n / 256; i++, x += 256, dst += 176) {
        affine_block b = {.n_parts = 8, .part = 32, .most = 63};
        code_affine_block(x, 31, dst, &b);
        pack_scales_6_bits(&b, dst + 4);
        memset(dst + 16, 0, 32);
        for (int j = 0; j < 256; j++)
            dst[16 + j % 32] |= (uint8_t)((b.codes[j] >> 4 & 1) << j / 32);
        pack_low_halves(b.codes, dst + 48);
    }
}

// Scales of n parts as whole numbers in [-half, half) of one unit, which is written as half to `dst` and returned.
static float round_scales(const float *scales, int n, int half, uint8_t *dst, int *whole) {
    float unit = write_half(dst, extreme(scales, n) / (float)-half);
    for (int j = 0; j < n; j++)
        whole[j] = nearest(scales[j] * inverse(unit) + (float)half, (float)(2 * half - 1)) - half;
    return unit;
}

// 16 parts with a signed scale each; `half` is of the codes.
static void code_signed_block(const float *x, int half, int half_scale, uint8_t *dst, int scales[16], uint8_t codes[256]) {
    float fitted[16];
    for (int j = 0; j < 16; j++)
        fitted[j] = fit_signed(x + 16 * j, 16, half);
    float unit = round_scales(fitted, 16, half_scale, dst, scales);
    for (int j = 0; j < 16; j++)
        code_signed(x + 16 * j, 16, half, unit * (float)scales[j], codes + 16 * j);
}

static void quant_q3_k(const float *x, uint8_t *dst, size_t n) {
    for (size_t i = 0; i < n / 256; i++, x += 256, dst += 110) {
        int scales[16];
        uint8_t codes[256];
        code_signed_block(x, 4, 32, dst + 108, scales, codes);
        memset(dst, 0, 108);
        for (int j = 0; j < 256; j++)
            dst[j % 32] |= (uint8_t)((codes[j] >> 2) << j / 32);
        pack_2_bits(codes, 0, dst + 32);
        for (int j = 0; j < 16; j++) {
            dst[96 + j % 8] |= (uint8_t)(((scales[j] + 32) & 15) << j / 8 * 4);
            dst[104 + j % 4] |= (uint8_t)((scales[j] + 32) >> 4 << j / 4 * 2);
        }
    }
}

static void quant_q6_k(const float *x, uint8_t *dst, size_t n) {
    for (size_t i = 0; i < n / 256; i++, x += 256, dst += 210) {
        int scales[16];
        uint8_t codes[256];
        code_signed_block(x, 32, 128, dst + 208, scales, codes);
        for (int j = 0; j < 128; j++) {
            const uint8_t *pair = codes + j / 64 * 128 + j % 64;
            dst[j] = (uint8_t)((pair[0] & 15) | (pair[64] & 15) << 4);
        }
        pack_2_bits(codes, 4, dst + 128);
        for (int j = 0; j < 16; j++)
            dst[192 + j] = (uint8_t)(int8_t)scales[j];
    }
}

static void quant_iq4_xs(const float *x, uint8_t *dst, size_t n) {
    for (size_t i = 0; i < n / 256; i++, x += 256, dst += 136) {
        int scales[8];
        float fitted[8];
        uint8_t codes[32];
        for (int j = 0; j < 8; j++)
            fitted[j] = fit_iq4(x + 32 * j);
        float unit = round_scales(fitted, 8, 32, dst, scales);
        memset(dst + 2, 0, 6);
        for (int j = 0; j < 8; j++) {
            dst[2 + j / 4] |= (uint8_t)((scales[j] + 32) >> 4 << j % 4 * 2);
            dst[4 + j / 2] |= (uint8_t)(((scales[j] + 32) & 15) << j % 2 * 4);
            code_iq4(x + 32 * j, unit * (float)scales[j], codes);
            pack_nibbles(codes, dst + 8 + 16 * j);
        }
    }
}

void pm_quant(pm_dtype dtype, const float *src, void *dst, size_t n) {
    static void (*const encoders[PM_DTYPE_COUNT])(const float *src, uint8_t *dst, size_t n) = {
        [PM_F32] = quant_f32,   [PM_F16] = quant_f16,       [PM_BF16] = quant_bf16,     [PM_Q8_0] = quant_q8_0,
        [PM_Q4_0] = quant_q4_0, [PM_Q4_1] = quant_q4_1,     [PM_Q5_0] = quant_q5_0,     [PM_Q5_1] = quant_q5_1,
        [PM_Q2_K] = quant_q2_k, [PM_Q3_K] = quant_q3_k,     [PM_Q4_K] = quant_q4_k,     [PM_Q5_K] = quant_q5_k,
        [PM_Q6_K] = quant_q6_k, [PM_IQ4_NL] = quant_iq4_nl, [PM_IQ4_XS] = quant_iq4_xs, [PM_MXFP4] = quant_mxfp4,
    };
    encoders[dtype](src, dst, n);
}
