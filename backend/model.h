// Private to the backend: a model on the device, the cache, and one pass of the transformer.
#ifndef PM_MODEL_H
#define PM_MODEL_H

#include "backend/pumice.h"
#include "backend/tokenizer.h"
#include "host/ops.h"
#include "loader/loader.h"

typedef struct pm_layer {
    pm_tensor attn_norm;      // (1, dim)
    pm_tensor qkv[3];         // (q_dim + 2 kv_dim, dim) in all: Q, K, V stacked, those of one type in one; then rows is 0
    pm_tensor qkv_bias;       // (1, q_dim + 2 kv_dim), where config.qkv_bias
    pm_tensor q_norm, k_norm; // (1, head_dim), where config.qk_norm
    pm_tensor o;              // (dim, q_dim)
    pm_tensor ffn_norm;       // (1, dim)
    pm_tensor router;         // (n_experts, dim), where the layer has experts; of each expert in turn then, with expert_ffn_dim:
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

// ---- weights.c: which tensors of the file make which matrix ----------------------------------------------------------------

// Rows of a tensor; those of a stack of matrices are counted through.
typedef struct pm_weight_part {
    const pm_tensor_view *view;
    uint32_t row0, rows;
} pm_weight_part;

enum { PM_MAX_PARTS = 3 }; // where they are not of experts
typedef struct pm_weight {
    const pm_weight_part *parts;
    int n_parts;
    uint32_t cols;
    pm_pack_order order;
    int layer;     // -1: of the model as a whole
    size_t offset; // of its pm_tensor in struct pm_layer, or in struct pm_model
    uint32_t row0; // where its rows stand in a whole of several
} pm_weight;

// Bytes of a part in its file.
uint64_t pm_weight_part_bytes(const pm_weight_part *part);
// All of a model, in the order in which they go to the device. *weights is the caller's to pm_free.
pm_status pm_weights_list(const pm_file *file, pm_weight **weights, size_t *n);

// ---- plan.c: bytes on the device, from the file's header and the options alone -----------------------------------------------

// Enough for the weights, whatever the alignment of slices.
uint64_t pm_plan_weights(const pm_weight *weights, size_t n);
// PM_ERR_DEVICE_MEMORY where the device has not so much left. path is for the message.
pm_status pm_plan_check_weights(const pm_device *dev, const char *path, uint64_t need);

// The device memory of a session, but for the cache; each a slice of its own. Shapes are told in pm_activations and session.h.
typedef enum pm_piece {
    PM_PIECE_X,
    PM_PIECE_NORMED,
    PM_PIECE_SQUARES,
    PM_PIECE_QKV,
    PM_PIECE_Q,
    PM_PIECE_ATT,
    PM_PIECE_FFN,
    PM_PIECE_ROUTER, // these four where there are experts
    PM_PIECE_ROUTES,
    PM_PIECE_EXPERTS,
    PM_PIECE_PRODUCTS,
    PM_PIECE_OUT_NORMED,
    PM_PIECE_OUT_SQUARES,
    PM_PIECE_LOGITS,
    PM_PIECE_ATTEND,
    PM_PIECE_ANGLES,
    PM_PIECE_PAGES,
    PM_PIECE_IDENTITY,
    PM_PIECE_ROWS,
    PM_PIECE_INDEX,
    PM_PIECE_SAMPLING,
    PM_PIECE_SIEVED,
    PM_PIECE_NEXT,
    PM_PIECE_SEEN,
    PM_PIECE_BIAS,
    PM_PIECE_ADJUSTED,
    PM_PIECE_QUANTS, // where products may round activations to bytes
    PM_N_PIECES
} pm_piece;

enum { PM_N_SLOTS = 2, PM_PIECE_ALIGN = 256 };                             // staging areas; what slices are at most aligned to
enum { PM_LIKELY_BYTES = (1 + PM_MAX_LIKELY) * sizeof(struct pm_likely) }; // of one output

typedef struct pm_session_sizes {
    uint32_t ctx, n_seqs, max_rows, max_out; // the options with their defaults
    pm_dtype kv_dtype;
    uint64_t pieces[PM_N_PIECES];
    uint64_t kv;             // K of one layer, or V
    uint64_t scratch, cache; // all pieces, aligned; K and V of all layers
    uint64_t upload,
        readback; // the mapped buffers: PM_N_SLOTS of rows, index, sampling, then pages; PM_N_SLOTS of ids and likely, then logits,
                  // then hidden rows
} pm_session_sizes;

// options may be NULL. PM_ERR_USAGE for what no device will ever have room for.
pm_status pm_plan_session(const pm_device *dev, const pm_config *config, const pm_session_options *options,
                          pm_session_sizes *sizes);
// PM_ERR_DEVICE_MEMORY where the device has not so much left, and where a kernel could not see a slice as a whole.
pm_status pm_plan_check_session(const pm_device *dev, const pm_session_sizes *sizes);
pm_status pm_plan_check_bindings(const pm_device *dev, const pm_session_sizes *sizes);

// Classes of cache length: the number of splits is recorded, the length itself is data.
uint32_t pm_kv_class(uint32_t n_positions);

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

static inline uint32_t pm_pages_for(uint32_t n_positions) {
    return (n_positions + PM_PAGE - 1) / PM_PAGE;
}

pm_status pm_cache_open(const pm_model *model, const pm_session_sizes *sizes, pm_slabs *slabs, pm_slice pages, pm_cache *cache);
void pm_cache_close(pm_cache *cache);
// Takes pages so that the sequence has room for n_positions. PM_ERR_CONTEXT where it cannot.
pm_status pm_cache_reserve(pm_cache *cache, int seq, uint32_t n_positions);
// Gives back the pages that n_positions do not need.
void pm_cache_shrink(pm_cache *cache, int seq, uint32_t n_positions);

// ---- sampler.c ---------------------------------------------------------------------------------------------------------------

// PM_ERR_USAGE for numbers out of range and ids outside the vocabulary.
pm_status pm_sampler_check(const pm_sampler *sampler, uint32_t vocab);
struct pm_sampling pm_sampler_pack(const pm_sampler *sampler);
// Does it change logits? Then the device wants what it does not get from pass to pass, each (n_valid): what occurred before the
// first draw, ids being the prompt, and the bias.
bool pm_sampler_adjusts(const pm_sampler *sampler);
void pm_sampler_fill_seen(const pm_sampler *sampler, const int32_t *ids, size_t n, uint32_t n_valid, uint32_t *seen);
void pm_sampler_fill_bias(const pm_sampler *sampler, uint32_t n_valid, float *bias);

// ---- session.c and eval.c, for score.c, embed.c, rerank.c --------------------------------------------------------------------

// Can n >= 1 such ids run at the end of the sequence? The errors of pm_session_eval.
pm_status pm_session_check(const pm_session *session, int seq, const int32_t *ids, size_t n);
const pm_model *pm_session_model(const pm_session *session);

// What the last norm gives, but for one factor a row: normed * rsqrt(sum of a row's squares / dim + eps).
typedef struct pm_hidden_rows {
    const float *normed, *squares; // (n_out, dim) and (n_out, n_squares), both `stride` floats from row to row
    uint32_t stride, n_squares;
} pm_hidden_rows;
uint32_t pm_session_max_rows(const pm_session *session);
// One pass over at most pm_session_max_rows rows, as pm_session_eval_batch has them, for the hidden rows of n_out of them: `index`
// in rising order; at most pm_session_max_batch. *hidden is borrowed until the next call.
pm_status pm_session_eval_hidden(pm_session *session, const pm_batch_row *rows, int n, const uint32_t *index, uint32_t n_out,
                                 pm_hidden_rows *hidden);

// ---- embed.c, for rerank.c ---------------------------------------------------------------------------------------------------

// out (dim) = row i, with its factor.
void pm_hidden_row(const pm_model *model, const pm_hidden_rows *hidden, uint32_t i, double *out);

// ---- rope.c ------------------------------------------------------------------------------------------------------------------

// Rotation frequencies (head_dim / 2), and the factor on cos and sin: plain, linear or YaRN.
void pm_rope_frequencies(const pm_config *config, double *frequencies, double *factor);
// A table of angles as pm_op_rope_store wants it, computed in double, and its rows. The caller frees; NULL without memory.
float *pm_rope_table(const pm_config *config, uint32_t n_positions);
uint32_t pm_rope_table_rows(uint32_t n_positions);
// Positions of the training, as far as the file tells; 0: it does not.
uint32_t pm_rope_trained_ctx(const pm_config *config);
// The same model with another factor: 1 is plain, else linear where the model is linear, else YaRN.
pm_config pm_rope_scaled(const pm_config *config, double factor);
// Puts what is asked for in place of what the file says; warns where they differ. PM_ERR_USAGE.
pm_status pm_rope_choose(const char *path, const pm_rope_options *options, pm_config *config);

// ---- angles.c ----------------------------------------------------------------------------------------------------------------

// The tables of angles of a session. Table 0 is the model's own and stays; the others are filled when a sequence chooses a factor.
enum { PM_ROPE_TABLES = 4, PM_MAX_ROPE_FACTOR = 1000 };
typedef struct pm_angles {
    const pm_model *model;
    pm_slice tables; // (PM_ROPE_TABLES, rows, head_dim / 2) of cos, sin
    uint32_t n_positions, n_seqs, rows;
    double factors[PM_ROPE_TABLES]; // 0: an empty table
    uint32_t *table_of;             // by sequence
} pm_angles;

uint64_t pm_angles_bytes(const pm_config *config, uint32_t n_positions);
// a->tables is there already.
pm_status pm_angles_open(const pm_model *model, uint32_t n_positions, uint32_t n_seqs, pm_angles *angles);
void pm_angles_close(pm_angles *angles);
// No pass may run, and the sequence must be empty.
pm_status pm_angles_choose(pm_angles *angles, int seq, double factor);

// ---- forward.c ---------------------------------------------------------------------------------------------------------------

// The activations of a session, for max_rows rows and max_out outputs; views are cut from them for a pass.
typedef struct pm_activations {
    pm_slice x, normed, squares;      // (max_rows, dim)
    pm_slice qkv;                     // (max_rows, q_dim + 2 kv_dim)
    pm_slice q, att;                  // (max_rows, q_dim)
    pm_slice ffn;                     // (max_rows, ffn_dim)
    pm_slice router;                  // (max_rows, n_experts): logits
    pm_slice routes;                  // pm_routes_bytes
    pm_slice experts;                 // (max_rows * n_experts_used, expert_ffn_dim)
    pm_slice products;                // (max_rows * n_experts_used, dim)
    pm_slice out_normed, out_squares; // (max_out, dim)
    pm_slice logits;                  // (max_out, vocab)
    pm_slice scratch;                 // attention's partial results
    pm_slice quants;                  // of pm_cmd_fast
} pm_activations;

// One pass: n rows in, logits of n_out of them out.
typedef struct pm_pass {
    uint32_t n, n_out;
    uint32_t kv_bound; // no row's pos + 1 exceeds it
    bool consecutive;  // the rows are one piece of one sequence
    pm_slice rows;     // n of struct pm_row
    pm_slice index;    // n_out of uint: the rows that want logits; not read where n_out == n (all do, in order)
    const pm_angles *angles;
    const pm_cache *cache;
    const pm_activations *act;
    pm_hidden *hidden; // where not NULL: gets what the head would read of the n_out rows, and the head does not run
} pm_pass;

// Records the transformer; *logits (n_out, vocab) is where its result will be.
void pm_forward(pm_cmd *cmd, const pm_model *model, const pm_pass *pass, pm_tensor *logits);

#endif
