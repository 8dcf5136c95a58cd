// Private to the backend: a model on the device, the cache, and one pass of the transformer.
#ifndef PM_MODEL_H
#define PM_MODEL_H

#include "backend/pumice.h"
#include "backend/tokenizer.h"
#include "host/ops.h"
#include "loader/loader.h"

typedef struct pm_layer {
    pm_tensor attn_norm; // (1, dim)
    pm_tensor qkv[3];    // (q_dim + 2 kv_dim, dim) in all: Q, K, V stacked, those of one type in one
    int n_qkv;
    pm_tensor qkv_bias;       // (1, q_dim + 2 kv_dim), where config.qkv_bias
    pm_tensor q_norm, k_norm; // (1, head_dim), where config.qk_norm
    pm_tensor o;              // (dim, q_dim)
    pm_tensor ffn_norm;       // (1, dim)
    pm_tensor gate_up;        // (2 ffn_dim, dim): rows of gate and up in turn
    pm_tensor down;           // (dim, ffn_dim)
} pm_layer;

struct pm_model {
    pm_device *dev;
    pm_file *file;
    pm_config config;
    pm_tokenizer *tokenizer;
    pm_slabs *slabs;
    pm_tensor embedding; // (vocab, dim)
    pm_tensor out_norm;  // (1, dim)
    pm_tensor head;      // (vocab, dim); the embedding where they are tied
    pm_layer *layers;
    uint32_t n_valid; // ids from here on are padding rows: never sampled
};

static inline uint32_t pm_q_dim(const pm_config *c) {
    return c->n_heads * c->head_dim;
}
static inline uint32_t pm_kv_dim(const pm_config *c) {
    return c->n_kv_heads * c->head_dim;
}

// ---- plan.c: bytes on the device, from the file's header alone -----------------------------------------------------------

uint64_t pm_plan_weights(const pm_file *file);

// ---- cache.c: the paged KV cache -------------------------------------------------------------------------------------------

// Pages of PM_PAGE positions; a page number stands for that page in every layer. Sequences take pages as they grow.
typedef struct pm_cache {
    uint32_t n_seqs, max_pages; // the page table is (n_seqs, max_pages)
    uint32_t *table;            // the host's copy
    uint32_t *n_pages;          // taken by each sequence
    uint32_t *free_pages;
    uint32_t n_free;
    pm_kv *layers; // views into the device's memory
} pm_cache;

pm_status pm_cache_open(const pm_model *model, uint32_t n_seqs, uint32_t ctx, pm_dtype dtype, pm_slabs *slabs, pm_slice pages,
                        pm_cache *cache);
void pm_cache_close(pm_cache *cache);
// Takes pages so that the sequence has room for n_positions. PM_ERR_CONTEXT where it cannot.
pm_status pm_cache_reserve(pm_cache *cache, int seq, uint32_t n_positions);
// Gives back the pages that n_positions do not need.
void pm_cache_shrink(pm_cache *cache, int seq, uint32_t n_positions);
uint64_t pm_cache_bytes(const pm_config *config, uint32_t n_seqs, uint32_t ctx, pm_dtype dtype);

// ---- session.c, for score.c --------------------------------------------------------------------------------------------------

// Can n >= 1 such ids run at the end of the sequence? The errors of pm_session_eval.
pm_status pm_session_check(const pm_session *session, int seq, const int32_t *ids, size_t n);
const pm_model *pm_session_model(const pm_session *session);

// ---- rope.c ------------------------------------------------------------------------------------------------------------------

// Rotation frequencies (head_dim / 2), and the factor on cos and sin: plain, linear or YaRN.
void pm_rope_frequencies(const pm_config *config, double *frequencies, double *factor);
// angles (positions, head_dim / 2) of cos, sin pairs, computed in double. The caller frees; NULL without memory.
float *pm_rope_angles(const pm_config *config, uint32_t n_positions);

// ---- forward.c ---------------------------------------------------------------------------------------------------------------

// The activations of a session, for max_rows rows and max_out outputs; views are cut from them for a pass.
typedef struct pm_activations {
    pm_slice x, normed, squares;      // (max_rows, dim)
    pm_slice qkv;                     // (max_rows, q_dim + 2 kv_dim)
    pm_slice q, att;                  // (max_rows, q_dim)
    pm_slice ffn;                     // (max_rows, ffn_dim)
    pm_slice out_normed, out_squares; // (max_out, dim)
    pm_slice logits;                  // (max_out, vocab)
    pm_slice scratch;                 // attention's partial results
} pm_activations;

// One pass: n rows in, logits of n_out of them out.
typedef struct pm_pass {
    uint32_t n, n_out;
    uint32_t kv_bound; // no row's pos + 1 exceeds it
    pm_slice rows;     // n of struct pm_row
    pm_slice index;    // n_out of uint: the rows that want logits; not read where n_out == n (all do, in order)
    pm_slice angles;
    const pm_cache *cache;
    const pm_activations *act;
} pm_pass;

// Records the transformer; *logits (n_out, vocab) is where its result will be.
void pm_forward(pm_cmd *cmd, const pm_model *model, const pm_pass *pass, pm_tensor *logits);

#endif
