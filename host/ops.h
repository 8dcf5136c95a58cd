// The verbs: what a forward pass may record into a command. Each is one fused step of the paper's graph and picks its kernel,
// its numbers and its dispatches by itself. All activations are F32. n is the number of rows of the batch.
#ifndef PM_OPS_H
#define PM_OPS_H

#include "host/host.h"
#include "shaders/abi.h"

#ifdef __cplusplus
extern "C" {
#endif

// The residual stream. RMSNorm is linear up to one factor a row, so whoever writes x also writes what the next norm needs:
//   normed = x * gain of the norm that reads x next, squares = partial sums of x^2, n_parts a row.
// A matrix product then takes `normed` as it stands and multiplies its result by rsqrt(mean(x^2) + eps): no norm kernel, no
// second pass over x, no barrier. (RMSNorm: https://arxiv.org/abs/1910.07467)
typedef struct pm_hidden {
    pm_tensor x;       // (n, dim)
    pm_tensor normed;  // (n, dim)
    pm_tensor squares; // (n, dim); the first n_parts of a row are used
    uint32_t n_parts;  // set by the op that wrote x last
    float eps;
} pm_hidden;

// h->x (n, dim) = rows of table (vocab, dim) named by `rows` (n of struct pm_row); gain (1, dim) is that of the norm that reads it.
void pm_op_embed(pm_cmd *cmd, pm_hidden *h, pm_tensor table, pm_tensor gain, pm_slice rows);

// dst (m, dim) = rows `index` (m of uint) of src (n, dim): of normed and squares only.
void pm_op_gather(pm_cmd *cmd, pm_hidden *dst, const pm_hidden *src, pm_slice index);

// Columns [w.row0, w.row0 + w.rows) of y = rmsnorm(h) * w^T (+ those columns of bias (1, y.cols), which may be NULL)
void pm_op_norm_linear(pm_cmd *cmd, pm_tensor y, const pm_hidden *h, pm_tensor w, const pm_tensor *bias);

// y (n, w.rows / 2) = silu(rmsnorm(h) * gate^T) * (rmsnorm(h) * up^T); w interleaves the rows of gate and up
void pm_op_norm_glu(pm_cmd *cmd, pm_tensor y, const pm_hidden *h, pm_tensor w);

// h->x (n, dim) += src (n, w.cols) * w (dim, w.cols)^T, and normed, squares for the norm whose gain (1, dim) is given
void pm_op_linear_add(pm_cmd *cmd, pm_hidden *h, pm_tensor src, pm_tensor w, pm_tensor gain);

// quants (pm_quants_bytes) <- x (n, cols): each block of PM_BLOCK columns as whole numbers times a scale, of which the largest
// value takes PM_QUANTS_MOST, wide: PM_QUANTS_MOST_WIDE; to even where two are as near. even_odd: of 8 columns in two words the
// first has the even ones. The products above do this by themselves, where pm_cmd_fast lets them.
typedef struct pm_quants_form {
    bool even_odd, wide;
} pm_quants_form;
void pm_op_quantize(pm_cmd *cmd, pm_slice quants, pm_tensor x, pm_quants_form form);

// ---- mixture of experts ---------------------------------------------------------------------------------------------------

// Which of n_experts matrices, stacked in one tensor, each of n rows is multiplied with: n_used of them, and what each result
// counts.
typedef struct pm_routes {
    pm_slice data; // pm_routes_bytes; written by pm_op_route
    uint32_t n, n_experts, n_used;
} pm_routes;
uint64_t pm_routes_bytes(uint32_t n, uint32_t n_used);

// routes <- the n_used greatest of a row's logits (n, n_experts), with weights that softmax over all gives; normed: divided by
// their sum. n_experts is at most PM_MAX_EXPERTS.
void pm_op_route(pm_cmd *cmd, const pm_routes *routes, pm_tensor logits, bool normed);

// y (n * n_used, rows of an expert / 2) = weight * norm_glu of the row with each of its experts in w (n_experts * rows, dim)
void pm_op_experts_glu(pm_cmd *cmd, pm_tensor y, const pm_hidden *h, pm_tensor w, const pm_routes *routes);

// h->x (n, dim) += the sum over a row's experts of src (n * n_used, cols) * their part of w (n_experts * dim, cols)^T, and normed,
// squares as pm_op_linear_add. products: room for an activation (n * n_used, dim).
void pm_op_experts_add(pm_cmd *cmd, pm_hidden *h, pm_tensor src, pm_tensor w, pm_tensor gain, const pm_routes *routes,
                       pm_slice products);

// ---------------------------------------------------------------------------------------------------------------------------

// The cache of one layer. k and v: pages of PM_PAGE positions; dtype F16, F32, or Q8_0, for which head_dim is a multiple of 32.
//   k page: [n_kv_heads][head_dim / e][PM_PAGE][e], e = elements in 16 bytes: lanes that take a position each read side by side
//   v page: [n_kv_heads][PM_PAGE][head_dim]
// Q8_0: bytes from -127 to 127, times a scale of 32 dims. The scales follow the bytes of their head, as halves of 256 times their
// value, two a word (the last one's other half is unused where head_dim / 32 is odd), s words a position:
//   k page: [n_kv_heads] of { [head_dim / 16][PM_PAGE][16] bytes, [s][PM_PAGE] words }
//   v page: [n_kv_heads] of { [PM_PAGE][head_dim] bytes, [PM_PAGE][s] words }
typedef struct pm_kv {
    pm_slice k, v;
    pm_dtype dtype;
    pm_slice pages; // page table, uint (n_seqs, max_pages): page of 32 positions -> page number
    uint32_t max_pages;
    uint32_t n_kv_heads, head_dim;
} pm_kv;
pm_dtype pm_kv_dtype(uint32_t bits); // the type of a cache of 8, 16 or 32 bits an element; head_dim must be whole blocks of it
uint64_t pm_kv_page_bytes(pm_dtype dtype, uint32_t n_kv_heads, uint32_t head_dim); // of k, and of v again

// q (n, n_heads * head_dim), and the cache at each row's position <- qkv (n, (n_heads + 2 n_kv_heads) * head_dim):
// per-head RMSNorm of q and k where gains (1, head_dim) are given, rotation of the pairs (j, j + head_dim / 2) by
// the row's table of angles, v as it is. interleaved: the q and k heads of qkv come as 0, head_dim / 2,
// 1, head_dim / 2 + 1, ...; they leave in order.
typedef struct pm_rope_store {
    pm_tensor q, qkv;
    const pm_tensor *q_gain, *k_gain; // both or neither
    float eps;
    bool interleaved;
    // (tables, angle_rows, head_dim / 2) of (cos, sin): first those of positions 0, 1, ... PM_ANGLE_STEP - 1, times a factor where
    // attention wants one, then those of 0, PM_ANGLE_STEP, 2 PM_ANGLE_STEP, ...
    pm_slice angles;
    uint32_t angle_rows;
    pm_slice rows;
    const pm_kv *kv;
} pm_rope_store;
void pm_op_rope_store(pm_cmd *cmd, const pm_rope_store *op);

// out (n, n_heads * head_dim) = softmax(q k^T * scale) v over the positions [0, pos] of each row's sequence; query head i uses
// kv head i / (n_heads / n_kv_heads). kv_bound: no row's pos + 1 exceeds it; it decides the split of the cache over workgroups.
typedef struct pm_attend {
    pm_tensor out, q;
    pm_slice rows;
    const pm_kv *kv;
    pm_slice scratch; // at least pm_attend_scratch_bytes
    uint32_t kv_bound;
    float scale;
    bool consecutive; // the rows have consecutive positions of one sequence: they share what they read of the cache
} pm_attend;
void pm_op_attend(pm_cmd *cmd, const pm_attend *op);
uint64_t pm_attend_scratch_bytes(const pm_device *dev, uint32_t n, uint32_t n_heads, uint32_t head_dim, uint32_t kv_bound);

// adjusted (m, vocab) = logits (m, vocab) as bias and penalties change them, for ids below n_valid: + bias (m, n_valid); an id that
// occurred: / repeat where that is above zero, * repeat below; one that was drawn: - frequency times as often, - presence. What
// occurred stands in seen (m, n_valid), see abi.h; with count_rows the batch row of each output is first counted there: its token
// is one that was drawn. The result is finite.
typedef struct pm_adjust {
    pm_tensor adjusted, logits;
    uint32_t n_valid;
    pm_slice sampling, bias, index, rows, seen;
    bool count_rows;
} pm_adjust;
void pm_op_adjust(pm_cmd *cmd, const pm_adjust *op);

// Draws one id a row of logits (m, vocab) by `sampling` (m of struct pm_sampling): ids below n_valid only. Writes the id to
// results[result0 + j], and next[j] = {id, seq, pos + 1, rope} of the batch row index[j], so that the next pass can start from it.
// The draw is argmax(logit / temperature + Gumbel noise of (seed, pos, id)) over the ids that the steps leave: the softmax
// distribution exactly, and the same on any number of workgroups (https://arxiv.org/abs/1611.01144, section 2). Each step narrows
// what those before it left; probabilities are of what is left, at the temperature once that step is past, else at 1. Top-k and
// top-p keep the likeliest, typical-p those nearest to the expected information; ties with the last one are kept. scratch: bytes as
// pm_sample_scratch_bytes says, of no meaning before and after.
typedef struct pm_sample {
    pm_tensor logits;
    uint32_t n_valid;
    pm_slice sampling, index, rows, scratch, next, results;
    uint32_t result0;
} pm_sample;
void pm_op_sample(pm_cmd *cmd, const pm_sample *op);
uint64_t pm_sample_scratch_bytes(uint32_t m, uint32_t n_valid);

// likely (m, 1 + n) of struct pm_likely = the id that next[j] names and the n <= PM_MAX_LIKELY likeliest in falling order, the
// lower id first of equals, with ln of their softmax over the ids below n_valid of logits (m, vocab). Where n_valid < n, the rest
// of a row is left as it was.
typedef struct pm_logprobs {
    pm_tensor logits;
    uint32_t n_valid, n;
    pm_slice next, likely;
} pm_logprobs;
void pm_op_logprobs(pm_cmd *cmd, const pm_logprobs *op);

// ---- ceilings -------------------------------------------------------------------------------------------------------------

// What a device can do at most, as a measuring stick: no forward pass has these. n_invocations of them run:
//   READ   dst[i] = the sum of src[i + k * n_invocations], words by themselves
//   WRITE  word w of dst = w
//   COPY   dst = src
//   the others: chains of multiply-adds, whose ends dst tells; see shaders/ceiling.comp, pm_ref_ceiling
// An element is 16 bytes; src has n of them, and so has dst where it is written or copied, else n_invocations.
typedef enum pm_ceiling_kind {
    PM_READ_BANDWIDTH,
    PM_WRITE_BANDWIDTH,
    PM_COPY_BANDWIDTH,
    PM_FMA_F32,
    PM_FMA_F16,
    PM_INT8_DOT,
    PM_COOPMAT_F16,
    PM_CEILING_COUNT
} pm_ceiling_kind;
typedef struct pm_ceiling {
    pm_ceiling_kind kind;
    pm_slice dst, src; // src: READ and COPY
    uint32_t n;        // elements; at most 4096 runs of the chains
    uint32_t n_invocations;
} pm_ceiling;
void pm_op_ceiling(pm_cmd *cmd, const pm_ceiling *op);
// Does the device have it? Invocations that make whole workgroups, about `most`. Bytes or operations of a dispatch.
bool pm_ceiling_has(const pm_device *dev, pm_ceiling_kind kind);
uint32_t pm_ceiling_invocations(const pm_device *dev, pm_ceiling_kind kind, uint32_t most);
double pm_ceiling_work(const pm_device *dev, const pm_ceiling *op);

#ifdef __cplusplus
}
#endif
#endif
