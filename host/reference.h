// The CPU truth of every verb of host/ops.h, in double and on plain arrays: rows of floats one after the other, without padding,
// pages or packing. Slow and obvious on purpose; the self-test and tests/op_*.c hold the kernels against it.
//
// `size` (NULL where it is not wanted) tells how far rounding may move a value: the absolute values that were added up to make
// it, carried through what follows. Steps that are each off by a relative e move the result by about e * size.
#ifndef PM_REFERENCE_H
#define PM_REFERENCE_H

#include "host/base.h"
#include "shaders/abi.h"

#ifdef __cplusplus
extern "C" {
#endif

// values (n) <- whole blocks of a file, any alignment
void pm_ref_decode(pm_dtype dtype, const void *blocks, uint64_t n, float *values);

// x (n, dim) = rows of table (vocab, dim) named by `rows`, normed = x * gain (dim), squares (n) = sums of x^2
void pm_ref_embed(const float *table, const float *gain, const struct pm_row *rows, uint32_t n, uint32_t dim, double *x,
                  double *normed, double *squares);

// What RMSNorm multiplies a row of dim values by, from the partial sums of their squares.
double pm_ref_norm_factor(const float *squares, uint32_t n_parts, uint32_t dim, float eps);

typedef struct pm_ref_linear_args {
    uint32_t n, rows, cols;
    const float *x;       // (n, cols); under a norm times the norm's gain already
    const float *w;       // (rows, cols)
    const float *squares; // (n, n_parts): of the norm; NULL: none
    uint32_t n_parts;
    float eps;
    const float *bias; // (rows); NULL: none
    const float *add;  // (n, rows), what the product is added to; NULL: nothing
    bool glu;          // rows come in pairs gate, up: y has rows / 2 columns
} pm_ref_linear_args;
// y (n, rows) = factor * (x * w^T) + bias + add, or y (n, rows / 2) = silu(gate) * up of it
void pm_ref_linear(const pm_ref_linear_args *a, double *y, double *size);

// numbers (PM_BLOCK): what pm_op_quantize makes of a block of x, the largest of them `most`. Returns the scale of which they are
// multiples.
double pm_ref_quantize(const float *x, int most, int *numbers);
// Rows that pm_op_quantize wrote: words of one of `cols` columns; x (n, cols) = what stands in n of them.
uint32_t pm_ref_quants_words(uint32_t cols, bool wide);
void pm_ref_dequantize(const uint32_t *quants, uint32_t n, uint32_t cols, bool even_odd, bool wide, float *x);
// How far they are from what x (n, cols) has to become, as a part of what is allowed: a few roundings of the scale, the number
// beside it at a tie.
double pm_ref_quants_error(const float *x, uint32_t n, uint32_t cols, bool even_odd, bool wide, const uint32_t *quants);

// experts, weights (n, n_used) <- the greatest of softmax of logits (n, n_experts), greatest first, of equal ones the first;
// normed: the weights of a row divided by their sum
typedef struct pm_ref_route_args {
    uint32_t n, n_experts, n_used;
    const float *logits;
    bool normed;
} pm_ref_route_args;
void pm_ref_route(const pm_ref_route_args *a, uint32_t *experts, double *weights);

typedef struct pm_ref_rope_store_args {
    uint32_t n, n_heads, n_kv_heads, head_dim;
    const float *qkv;             // (n, n_heads + 2 n_kv_heads, head_dim)
    const float *q_gain, *k_gain; // (head_dim); both NULL: no norm
    float eps;
    bool interleaved;     // as in pm_op_rope_store
    const double *angles; // (tables, n_positions, head_dim / 2, 2): cos, sin
    uint32_t n_positions;
    const struct pm_row *rows;
} pm_ref_rope_store_args;
// out (n, n_heads + 2 n_kv_heads, head_dim): q heads, then the k and v heads that go to the cache
void pm_ref_rope_store(const pm_ref_rope_store_args *a, double *out, double *size);

// held (32): what a cache of Q8_0 has in place of 32 values. Returns the scale of which they are multiples, by -127 to 127; it is a
// half of 256 times as much.
double pm_ref_kv_q8_0(const double *values, double *held);

typedef struct pm_ref_attend_args {
    uint32_t n, n_heads, n_kv_heads, head_dim;
    const float *q;     // (n, n_heads, head_dim)
    const float *k, *v; // (n_seqs, max_len, n_kv_heads, head_dim)
    uint32_t max_len;
    const struct pm_row *rows;
    float scale;
} pm_ref_attend_args;
// out (n, n_heads, head_dim)
void pm_ref_attend(const pm_ref_attend_args *a, double *out, double *size);

// The distribution that one id is drawn from: p (n_valid) sums to 1, and is 0 for what the steps drop. Greedy is 1 for the lowest
// id with the greatest logit. Ties with the last one kept are kept. `slack` moves the thresholds of top-p, min-p and typical-p by
// as much mass, outwards where it is positive: an id with p > 0 at -slack must be drawn sometimes, one with p == 0 at +slack never.
// Returns how many ids have p > 0.
uint32_t pm_ref_sample(const float *logits, uint32_t n_valid, const struct pm_sampling *sampling, double slack, double *p);

// adjusted (n_valid) = logits with bias (n_valid) and the penalties of what was seen (n_valid)
void pm_ref_adjust(const float *logits, uint32_t n_valid, const struct pm_sampling *sampling, const float *bias,
                   const uint32_t *seen, double *adjusted);

// logprobs (n_valid) = ln softmax(logits)
void pm_ref_logprobs(const float *logits, uint32_t n_valid, double *logprobs);

// What pm_op_ceiling writes: words (4) of element i of dst, exactly. type: what stands behind "ceiling_" in the kernel's name.
typedef struct pm_ref_ceiling_args {
    const char *type;
    uint32_t mode; // of "memory"
    uint32_t n, n_invocations;
    const uint32_t *src;
    uint32_t k; // of "coopmat": columns of a matrix
} pm_ref_ceiling_args;
void pm_ref_ceiling(const pm_ref_ceiling_args *a, uint32_t i, uint32_t words[4]);

#ifdef __cplusplus
}
#endif
#endif
