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
