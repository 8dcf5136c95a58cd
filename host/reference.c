// Every verb of host/ops.h once more, as the formula says it.
#include "host/reference.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static void put(double *to, size_t at, double value) {
    if (to)
        to[at] = value;
}

// ---- blocks of a file -------------------------------------------------------------------------------------------------

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

// ---- embed, linear ----------------------------------------------------------------------------------------------------

void pm_ref_embed(const float *table, const float *gain, const struct pm_row *rows, uint32_t n, uint32_t dim, double *x,
                  double *normed, double *squares) {
    for (uint32_t r = 0; r < n; r++) {
        squares[r] = 0;
        for (uint32_t i = 0; i < dim; i++) {
            double value = table[(size_t)rows[r].token * dim + i];
            x[(size_t)r * dim + i] = value;
            normed[(size_t)r * dim + i] = value * gain[i];
            squares[r] += value * value;
        }
    }
}

double pm_ref_norm_factor(const float *squares, uint32_t n_parts, uint32_t dim, float eps) {
    double sum = 0;
    for (uint32_t i = 0; i < n_parts; i++)
        sum += squares[i];
    return 1 / sqrt(sum / dim + eps);
}

static double silu(double x) {
    return x / (1 + exp(-x));
}

typedef struct term {
    double value, size;
} term;

static term dot(const float *a, const float *b, uint32_t n) {
    term t = {0, 0};
    for (uint32_t i = 0; i < n; i++) {
        double product = (double)a[i] * b[i];
        t.value += product;
        t.size += fabs(product);
    }
    return t;
}

// Row r of x, under the norm if there is one, times row `row` of w, plus the bias.
static term product(const pm_ref_linear_args *a, double factor, uint32_t r, uint32_t row) {
    term t = dot(a->x + (size_t)r * a->cols, a->w + (size_t)row * a->cols, a->cols);
    t.value *= factor;
    t.size *= factor;
    if (a->bias) {
        t.value += a->bias[row];
        t.size += fabs(a->bias[row]);
    }
    return t;
}

// silu'(x) lies within [-0.1, 1.1], and exp(-x) is off by as many roundings as x is large.
static term glu(term gate, term up) {
    double s = silu(gate.value);
    double s_size = 1.1 * gate.size + (1 + fabs(gate.value)) * fabs(s);
    return (term){s * up.value, s_size * fabs(up.value) + fabs(s) * up.size};
}

void pm_ref_linear(const pm_ref_linear_args *a, double *y, double *size) {
    uint32_t y_cols = a->glu ? a->rows / 2 : a->rows;
    for (uint32_t r = 0; r < a->n; r++) {
        double factor = a->squares ? pm_ref_norm_factor(a->squares + (size_t)r * a->n_parts, a->n_parts, a->cols, a->eps) : 1;
        for (uint32_t i = 0; i < y_cols; i++) {
            size_t at = (size_t)r * y_cols + i;
            term t = a->glu ? glu(product(a, factor, r, 2 * i), product(a, factor, r, 2 * i + 1)) : product(a, factor, r, i);
            if (a->add) {
                t.value += a->add[at];
                t.size += fabs(a->add[at]);
            }
            y[at] = t.value;
            put(size, at, t.size);
        }
    }
}

// ---- x as whole numbers -----------------------------------------------------------------------------------------------

double pm_ref_quantize(const float *x, int most, int *numbers) {
    double largest = 0;
    for (int i = 0; i < PM_BLOCK; i++)
        largest = fabs(x[i]) > largest ? fabs(x[i]) : largest; // at a loop of fmax gcc 12 for Arm ends with an error of its own
    double scale = largest < 1e-30 ? 0 : largest / most;
    for (int i = 0; i < PM_BLOCK; i++)
        numbers[i] = (int)(scale > 0 ? nearbyint(x[i] / scale) : 0);
    return scale;
}

// A row of them, as abi.h says how it lies.
typedef struct quants_row {
    const uint32_t *words;
    uint32_t blocks;
    bool even_odd, wide;
} quants_row;

static uint32_t plane_words(const quants_row *row) {
    return row->blocks * (PM_BLOCK / 4);
}

static int number_at(const quants_row *row, uint32_t i) {
    uint32_t word = row->even_odd ? i / 8 * 2 + i % 2 : i / 4, byte = row->even_odd ? i % 8 / 2 : i % 4;
    int first = (int8_t)(row->words[word] >> (8 * byte));
    return row->wide ? first * 256 + (int8_t)(row->words[plane_words(row) + word] >> (8 * byte)) : first;
}

static struct pm_quants quants_at(const quants_row *row, uint32_t block) {
    struct pm_quants quants;
    memcpy(&quants, row->words + plane_words(row) * (row->wide ? 2 : 1) + block * sizeof(quants) / 4, sizeof(quants));
    return quants;
}

static uint32_t blocks_of(uint32_t cols) {
    return (cols + PM_BLOCK - 1) / PM_BLOCK;
}

uint32_t pm_ref_quants_words(uint32_t cols, bool wide) {
    return blocks_of(cols) * (PM_BLOCK / 4 * (wide ? 2 : 1) + (uint32_t)sizeof(struct pm_quants) / 4);
}

void pm_ref_dequantize(const uint32_t *quants, uint32_t n, uint32_t cols, bool even_odd, bool wide, float *x) {
    quants_row row = {quants, blocks_of(cols), even_odd, wide};
    for (uint32_t r = 0; r < n; r++, row.words += pm_ref_quants_words(cols, wide))
        for (uint32_t i = 0; i < cols; i++)
            x[(size_t)r * cols + i] = quants_at(&row, i / PM_BLOCK).scale * (float)number_at(&row, i);
}

// A number at a tie may be either where the kernel's factor is off by some units; the scale by as many.
static double block_error(const float *x, const quants_row *row, uint32_t block) {
    int want[PM_BLOCK], sums[2] = {0, 0}, most = row->wide ? PM_QUANTS_MOST_WIDE : PM_QUANTS_MOST;
    struct pm_quants got = quants_at(row, block);
    double scale = pm_ref_quantize(x, most, want), error = got.scale == 0 ? 0 : INFINITY;
    if (scale > 0)
        error = fabs(got.scale - scale) / (8 * FLT_EPSILON * scale);
    for (uint32_t i = 0; i < PM_BLOCK; i++) {
        int number = number_at(row, block * PM_BLOCK + i);
        bool tie = scale > 0 && fabs(fabs(x[i] / scale - want[i]) - 0.5) < 4 * most * FLT_EPSILON;
        sums[i / (PM_BLOCK / 2)] += number;
        if (abs(number - want[i]) > tie)
            error = INFINITY;
    }
    return (int)got.sums[0] == sums[0] && (int)got.sums[1] == sums[1] ? error : INFINITY;
}

double pm_ref_quants_error(const float *x, uint32_t n, uint32_t cols, bool even_odd, bool wide, const uint32_t *quants) {
    quants_row row = {quants, blocks_of(cols), even_odd, wide};
    double most = 0;
    for (uint32_t r = 0; r < n; r++, row.words += pm_ref_quants_words(cols, wide))
        for (uint32_t b = 0; b < row.blocks; b++) {
            float block[PM_BLOCK] = {0};
            uint32_t left = cols - b * PM_BLOCK;
            memcpy(block, x + (size_t)r * cols + (size_t)b * PM_BLOCK, (left < PM_BLOCK ? left : PM_BLOCK) * sizeof(float));
            double error = block_error(block, &row, b);
            most = error <= most ? most : error; // what is no number too
        }
    return most;
}

// ---- route ------------------------------------------------------------------------------------------------------------

static bool is_among(const uint32_t *experts, uint32_t n, uint32_t expert) {
    for (uint32_t i = 0; i < n; i++)
        if (experts[i] == expert)
            return true;
    return false;
}

static void route_row(const pm_ref_route_args *a, const float *logits, uint32_t *experts, double *weights) {
    double sum_all = 0, sum_used = 0;
    for (uint32_t k = 0; k < a->n_used; k++) {
        uint32_t best = UINT32_MAX;
        for (uint32_t e = 0; e < a->n_experts; e++)
            if (!is_among(experts, k, e) && (best == UINT32_MAX || logits[e] > logits[best]))
                best = e;
        experts[k] = best;
        weights[k] = exp((double)logits[best] - logits[experts[0]]);
        sum_used += weights[k];
    }
    for (uint32_t e = 0; e < a->n_experts; e++)
        sum_all += exp((double)logits[e] - logits[experts[0]]);
    for (uint32_t k = 0; k < a->n_used; k++)
        weights[k] /= a->normed ? sum_used : sum_all;
}

void pm_ref_route(const pm_ref_route_args *a, uint32_t *experts, double *weights) {
    for (uint32_t r = 0; r < a->n; r++) {
        size_t at = (size_t)r * a->n_used;
        route_row(a, a->logits + (size_t)r * a->n_experts, experts + at, weights + at);
    }
}

// ---- rope_store -------------------------------------------------------------------------------------------------------

// One head: RMSNorm where there is a gain, then (lo, hi) = (lo cos - hi sin, hi cos + lo sin) of each pair (j, j + half). Kernels
// make cos and sin of sums of products that are as large as the pair is long, however small cos or sin may be.
static void norm_and_rotate(const pm_ref_rope_store_args *a, const float *head, const float *gain, const double *angles,
                            double *out, double *size) {
    uint32_t dim = a->head_dim, half = dim / 2, step = a->interleaved ? 2 : 1, gap = a->interleaved ? 1 : half;
    double squares = 0;
    for (uint32_t i = 0; i < dim; i++)
        squares += (double)head[i] * head[i];
    double factor = gain ? 1 / sqrt(squares / dim + a->eps) : 1;
    for (uint32_t j = 0; j < half; j++) {
        double lo = head[j * step] * factor * (gain ? gain[j] : 1);
        double hi = head[j * step + gap] * factor * (gain ? gain[j + half] : 1);
        double c = angles[2 * j], s = angles[2 * j + 1], terms = (fabs(lo) + fabs(hi)) * hypot(c, s);
        out[j] = lo * c - hi * s;
        out[j + half] = hi * c + lo * s;
        put(size, j, terms);
        put(size, j + half, terms);
    }
}

void pm_ref_rope_store(const pm_ref_rope_store_args *a, double *out, double *size) {
    uint32_t heads = a->n_heads + 2 * a->n_kv_heads, dim = a->head_dim;
    for (uint32_t r = 0; r < a->n; r++) {
        const double *angles = a->angles + ((size_t)a->rows[r].rope * a->n_positions + a->rows[r].pos) * dim;
        for (uint32_t h = 0; h < heads; h++) {
            size_t at = ((size_t)r * heads + h) * dim;
            if (h < a->n_heads + a->n_kv_heads) {
                const float *gain = h < a->n_heads ? a->q_gain : a->k_gain;
                norm_and_rotate(a, a->qkv + at, gain, angles, out + at, size ? size + at : NULL);
                continue;
            }
            for (uint32_t i = 0; i < dim; i++) {
                out[at + i] = a->qkv[at + i];
                put(size, at + i, 0);
            }
        }
    }
}

double pm_ref_kv_q8_0(const double *values, double *held) {
    double most = 0;
    for (int i = 0; i < 32; i++)
        most = fmax(most, fabs(values[i]));
    double half = fmin(most * 256 / 127, 65504), scale = pm_f16_to_f32(pm_f32_to_f16((float)half)) / 256.0;
    if (half < 0x1p-14)
        scale = 0;
    for (int i = 0; i < 32; i++)
        held[i] = scale > 0 ? scale * fmin(fmax(round(values[i] / scale), -127), 127) : 0;
    return scale;
}

// ---- attend -----------------------------------------------------------------------------------------------------------

// The keys (or values) of one head of one sequence: `stride` floats from position to position.
typedef struct heads {
    const float *q, *k, *v;
    size_t stride;
    uint32_t len, dim;
    double scale;
} heads;

static term score(const heads *h, uint32_t pos) {
    term t = dot(h->q, h->k + pos * h->stride, h->dim);
    return (term){t.value * h->scale, t.size * fabs(h->scale)};
}

// p_t = exp(s_t - most) / sum is off by what s_t and s_t - most are off by; the sum by the mean of that over all positions.
static void attend_head(const heads *h, double *out, double *size) {
    double most = -INFINITY, sum = 0, sum_off = 0;
    for (uint32_t t = 0; t < h->len; t++)
        most = fmax(most, score(h, t).value);
    for (uint32_t i = 0; i < h->dim; i++) {
        out[i] = 0;
        put(size, i, 0);
    }
    for (uint32_t t = 0; t < h->len; t++) {
        term s = score(h, t);
        double p = exp(s.value - most), off = 1 + s.size + (most - s.value);
        const float *v = h->v + t * h->stride;
        sum += p;
        sum_off += p * off;
        for (uint32_t i = 0; i < h->dim; i++) {
            out[i] += p * v[i];
            if (size)
                size[i] += p * off * fabs(v[i]);
        }
    }
    for (uint32_t i = 0; i < h->dim; i++) {
        out[i] /= sum;
        if (size)
            size[i] = size[i] / sum + fabs(out[i]) * sum_off / sum;
    }
}

void pm_ref_attend(const pm_ref_attend_args *a, double *out, double *size) {
    uint32_t group = a->n_heads / a->n_kv_heads;
    for (uint32_t r = 0; r < a->n; r++) {
        for (uint32_t i = 0; i < a->n_heads; i++) {
            size_t to = ((size_t)r * a->n_heads + i) * a->head_dim;
            size_t from = ((size_t)a->rows[r].seq * a->max_len * a->n_kv_heads + i / group) * a->head_dim;
            heads h = {.q = a->q + to,
                       .k = a->k + from,
                       .v = a->v + from,
                       .stride = (size_t)a->n_kv_heads * a->head_dim,
                       .len = a->rows[r].pos + 1,
                       .dim = a->head_dim,
                       .scale = a->scale};
            attend_head(&h, out + to, size ? size + to : NULL);
        }
    }
}

// ---- sample -----------------------------------------------------------------------------------------------------------

// What is no number counts as the lowest one.
static double logit(float l) {
    return l > -FLT_MAX ? l : -FLT_MAX;
}

static int descending(const void *left, const void *right) {
    double a = *(const double *)left, b = *(const double *)right;
    return a < b ? 1 : a > b ? -1 : 0;
}

// What is left of n logits: those in [low, high].
typedef struct narrowing {
    const float *logits;
    uint32_t n;
    double low, high, temperature;
    double *scores; // (n): room to sort in
} narrowing;

static bool is_left(const narrowing *w, uint32_t i) {
    return logit(w->logits[i]) >= w->low && logit(w->logits[i]) <= w->high;
}

// ln p, up to a constant.
static double exponent(const narrowing *w, double l) {
    return (l - w->high) / w->temperature;
}

static double mass_from(const narrowing *w, double low) {
    double mass = 0;
    for (uint32_t i = 0; i < w->n; i++)
        if (is_left(w, i) && logit(w->logits[i]) >= low)
            mass += exp(exponent(w, logit(w->logits[i])));
    return mass;
}

// Sorts what is left into scores; returns how many.
static uint32_t sort_left(narrowing *w) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < w->n; i++)
        if (is_left(w, i))
            w->scores[n++] = logit(w->logits[i]);
    qsort(w->scores, n, sizeof(*w->scores), descending);
    return n;
}

static void keep_top_k(narrowing *w, uint32_t k) {
    uint32_t n = sort_left(w);
    if (k > 0 && k < n)
        w->low = w->scores[k - 1];
}

// An id is kept if what is strictly greater has less than top_p of the mass.
static void keep_top_p(narrowing *w, double top_p) {
    uint32_t n = sort_left(w);
    double mass = mass_from(w, w->low), before = 0, lowest = w->scores[0];
    for (uint32_t i = 0; i < n && before / mass < top_p;) {
        lowest = w->scores[i];
        for (; i < n && w->scores[i] == lowest; i++)
            before += exp(exponent(w, lowest));
    }
    w->low = lowest;
}

// How far ln p is from what it is on average.
static double surprise(const narrowing *w, double l, double mean) {
    return fabs(exponent(w, l) - mean);
}

static double mass_within(const narrowing *w, double mean, double radius) {
    double mass = 0;
    for (uint32_t i = 0; i < w->n; i++)
        if (is_left(w, i) && surprise(w, logit(w->logits[i]), mean) <= radius)
            mass += exp(exponent(w, logit(w->logits[i])));
    return mass;
}

static double mean_exponent(const narrowing *w) {
    double mass = 0, sum = 0;
    for (uint32_t i = 0; i < w->n; i++) {
        double e = exponent(w, logit(w->logits[i])), p = is_left(w, i) ? exp(e) : 0;
        mass += p;
        sum += p > 0 ? p * e : 0;
    }
    return sum / mass;
}

// The smallest radius about the mean that holds as much mass, and the band it makes.
static void keep_typical(narrowing *w, double typical_p) {
    double mean = mean_exponent(w), wanted = typical_p * mass_from(w, w->low), low = w->high, high = w->low;
    uint32_t n = 0, most = 0, least = 0; // of how many, nearest first, the mass is looked at: least is too few but for the last
    for (uint32_t i = 0; i < w->n; i++)
        if (is_left(w, i))
            w->scores[n++] = -surprise(w, logit(w->logits[i]), mean);
    qsort(w->scores, n, sizeof(*w->scores), descending);
    for (most = n; most - least > 1;) {
        uint32_t middle = least + (most - least) / 2;
        if (mass_within(w, mean, -w->scores[middle - 1]) >= wanted)
            most = middle;
        else
            least = middle;
    }
    for (uint32_t i = 0; i < w->n; i++) {
        double l = logit(w->logits[i]);
        if (is_left(w, i) && surprise(w, l, mean) <= -w->scores[most - 1]) {
            low = fmin(low, l);
            high = fmax(high, l);
        }
    }
    w->low = low;
    w->high = high;
}

static void take_step(narrowing *w, uint32_t step, const struct pm_sampling *s, double slack) {
    if (step == PM_STEP_TEMPERATURE)
        w->temperature = s->temperature;
    if (step == PM_STEP_TOP_K)
        keep_top_k(w, s->top_k);
    if (step == PM_STEP_TOP_P && s->top_p < 1)
        keep_top_p(w, s->top_p + slack);
    if (step == PM_STEP_MIN_P && s->min_p > 0 && s->min_p - slack > 0)
        w->low = fmax(w->low, fmin(w->high, w->high + w->temperature * log(s->min_p - slack)));
    if (step == PM_STEP_TYPICAL_P && s->typical_p > 0 && s->typical_p < 1)
        keep_typical(w, s->typical_p + slack);
}

static uint32_t lowest_id_of_greatest(const float *logits, uint32_t n) {
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++)
        if (logit(logits[i]) > logit(logits[best]))
            best = i;
    return best;
}

uint32_t pm_ref_sample(const float *logits, uint32_t n_valid, const struct pm_sampling *s, double slack, double *p) {
    uint32_t best = lowest_id_of_greatest(logits, n_valid), n_kept = 0;
    bool greedy = !(s->temperature > 0);
    narrowing w = {logits, n_valid, -FLT_MAX, logit(logits[best]), 1, p};
    double sum = 0;
    for (uint32_t steps = greedy ? 0 : s->steps; steps; steps >>= 4)
        take_step(&w, steps & 15, s, slack);
    for (uint32_t i = 0; i < n_valid; i++) {
        bool kept = greedy ? i == best : is_left(&w, i);
        p[i] = !kept ? 0 : greedy ? 1 : exp((logit(logits[i]) - w.high) / s->temperature);
        sum += p[i];
        n_kept += p[i] > 0;
    }
    for (uint32_t i = 0; i < n_valid; i++)
        p[i] /= sum;
    return n_kept;
}

// ---- adjust -----------------------------------------------------------------------------------------------------------

void pm_ref_adjust(const float *logits, uint32_t n_valid, const struct pm_sampling *s, const float *bias, const uint32_t *seen,
                   double *adjusted) {
    for (uint32_t i = 0; i < n_valid; i++) {
        double l = (double)logits[i] + bias[i];
        uint32_t count = seen[i] & PM_SEEN_COUNT;
        if (seen[i])
            l = l > 0 ? l / s->repeat : l * s->repeat;
        if (count)
            l -= (double)s->frequency * count + s->presence;
        adjusted[i] = fmin(l > -FLT_MAX ? l : -FLT_MAX, FLT_MAX);
    }
}

// ---- logprobs ---------------------------------------------------------------------------------------------------------

void pm_ref_logprobs(const float *logits, uint32_t n_valid, double *logprobs) {
    double most = logit(logits[lowest_id_of_greatest(logits, n_valid)]), mass = 0;
    for (uint32_t i = 0; i < n_valid; i++)
        mass += exp(logit(logits[i]) - most);
    for (uint32_t i = 0; i < n_valid; i++)
        logprobs[i] = logit(logits[i]) - most - log(mass);
}

// ---- ceilings ---------------------------------------------------------------------------------------------------------

static void ceiling_memory(const pm_ref_ceiling_args *a, uint32_t i, uint32_t words[4]) {
    for (uint32_t w = 0; w < 4; w++) {
        words[w] = a->mode == PM_CEILING_WRITE ? 4 * i + w : a->mode == PM_CEILING_COPY ? a->src[4 * (size_t)i + w] : 0;
        for (uint32_t e = i; a->mode == PM_CEILING_READ && e < a->n; e += a->n_invocations)
            words[w] += a->src[4 * (size_t)e + w];
    }
}

// A chain adds 1 at each step; one of integers goes on from its low byte, with the sign.
static double chain_end(bool bytes, uint32_t begin) {
    int32_t x = (int32_t)begin;
    if (!bytes)
        return x + PM_CEILING_LENGTH;
    for (uint32_t k = 0; k < PM_CEILING_LENGTH; k++)
        x = (int8_t)(uint8_t)(x & 0xff) + 1;
    return x;
}

static double sum_of_chains(bool bytes, uint32_t n, uint32_t w) {
    double sum = 0;
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t c = 0; c < PM_CEILING_CHAINS; c++)
            sum += chain_end(bytes, c + i % 8 + w);
    return sum;
}

static double sum_of_matrices(uint32_t n, uint32_t k) {
    double sum = 0;
    for (uint32_t c = 0; c < PM_CEILING_CHAINS; c++)
        sum += c + (double)n * k;
    return sum;
}

void pm_ref_ceiling(const pm_ref_ceiling_args *a, uint32_t i, uint32_t words[4]) {
    if (!strcmp(a->type, "memory")) {
        ceiling_memory(a, i, words);
        return;
    }
    for (uint32_t w = 0; w < 4; w++) { // whole numbers below 2^24
        bool matrices = !strcmp(a->type, "coopmat");
        float sum = (float)(matrices ? sum_of_matrices(a->n, a->k) : sum_of_chains(!strcmp(a->type, "int_dot"), a->n, w));
        memcpy(&words[w], &sum, sizeof(sum));
    }
}
