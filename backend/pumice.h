// The public API of Pumice: open a device and a model, evaluate prompts, draw tokens. Text in and out is in text.h, devices are in
// host.h, status and messages in base.h: this header brings them all.
//
// Ownership: who opens closes; a session must be closed before its model, a model before its device. Threads: one session, one
// thread; a device serves its sessions from one thread at a time.
#ifndef PM_PUMICE_H
#define PM_PUMICE_H

#include "backend/text.h"
#include "host/base.h"
#include "host/host.h"
#include "loader/loader.h"

#ifdef __cplusplus
extern "C" {
#endif

// ---- model ------------------------------------------------------------------------------------------------------------

typedef struct pm_model pm_model;

typedef enum pm_precision {
    PM_PRECISION_F16, // KV cache in halves; sums in f32
    PM_PRECISION_F32, // KV cache in floats too
} pm_precision;

typedef struct pm_model_options {
    // Called while weights are uploaded; may be NULL.
    void (*progress)(void *user, uint64_t done_bytes, uint64_t total_bytes);
    void *user;
    // Inverse rotary frequencies rounded to bfloat16, as a transformers model that was cast as a whole (model.to(bfloat16)) has
    // them: for comparing with what such a model computed. Far positions differ by percents from the full precision's.
    bool bf16_frequencies;
} pm_model_options;

// Opens a model folder or file and puts its weights on the device in the types they have in the file. PM_ERR_DEVICE_MEMORY, with
// the shortfall, before anything is allocated where it does not fit. options may be NULL.
pm_status pm_model_open(pm_device *dev, const char *path, const pm_model_options *options, pm_model **model);
void pm_model_close(pm_model **model);

const pm_config *pm_model_config(const pm_model *model);
// NULL where the model comes without a tokenizer.
const pm_tokenizer *pm_model_tokenizer(const pm_model *model);
pm_str pm_model_chat_template(const pm_model *model);
uint64_t pm_model_weight_bytes(const pm_model *model); // on the device
bool pm_model_is_eos(const pm_model *model, int32_t id);

// ---- session ----------------------------------------------------------------------------------------------------------

typedef struct pm_session pm_session;

// Zero is the default of each.
typedef struct pm_session_options {
    uint32_t ctx;           // positions a sequence can have; 0: what the model allows, at most 4096
    uint32_t n_seqs;        // sequences with a cache of their own; 0: 1
    uint32_t max_chunk;     // rows a pass of a prompt; 0: the device's
    pm_precision precision; // of the KV cache and of activations
    bool profile;           // time every kernel
} pm_session_options;

// PM_ERR_DEVICE_MEMORY, with the shortfall, where cache and scratch do not fit.
pm_status pm_session_open(pm_model *model, const pm_session_options *options, pm_session **session);
void pm_session_close(pm_session **session);
uint32_t pm_session_ctx(const pm_session *session);
uint64_t pm_session_bytes(const pm_session *session); // cache and scratch on the device

// Runs n >= 1 ids at the end of a sequence, in chunks. *logits (vocab_size floats) of the last one are borrowed until the next call
// on the session; logits may be NULL where they are not wanted. PM_ERR_CONTEXT, and nothing is run, when the sequence would
// exceed the context; PM_ERR_CANCELLED between chunks after pm_session_cancel.
pm_status pm_session_eval(pm_session *session, int seq, const int32_t *ids, size_t n, const float **logits);

// One pass over rows of several sequences, in order: a decode step of a batch, or pieces of prompts. n is at most
// PM_BATCH_MAX. *logits (n, pm_session_logits_stride) of every row are borrowed until the next call; may be NULL.
enum { PM_BATCH_MAX = 8 };
typedef struct pm_batch_row {
    int seq;
    int32_t id; // runs at the end of its sequence
} pm_batch_row;
pm_status pm_session_eval_batch(pm_session *session, const pm_batch_row *rows, int n, const float **logits);
uint32_t pm_session_logits_stride(const pm_session *session);

// How the next token is drawn, in the order of the fields. All zero is greedy. Numbers out of range: PM_ERR_USAGE.
typedef struct pm_sampler {
    float temperature; // 0: greedy
    uint32_t top_k;    // 0: off
    float top_p;       // 1 or 0: off
    float min_p;       // 0: off
    uint64_t seed;     // the same seed gives the same text on one device
} pm_sampler;

// Generation of one sequence. start runs n >= 1 ids like eval and draws the next id on the device; each next returns one id. The
// device is always a step ahead: it works on the next id while the caller looks at this one. end waits for it; the sequence then
// holds the prompt and every id that next returned, less the last (it was drawn, not run).
pm_status pm_session_start(pm_session *session, int seq, const int32_t *ids, size_t n, const pm_sampler *sampler);
pm_status pm_session_next(pm_session *session, int32_t *id); // PM_ERR_CONTEXT when there is no room to run another
pm_status pm_session_end(pm_session *session);

// Positions a sequence holds, and forgetting those from `pos` on.
uint32_t pm_session_pos(const pm_session *session, int seq);
void pm_session_rewind(pm_session *session, int seq, uint32_t pos);

// May be called from a signal handler or another thread: a running eval or start returns PM_ERR_CANCELLED after its present chunk.
void pm_session_cancel(pm_session *session);

// What profile gathered: sums by kernel and label. Borrowed until the next call on the session.
typedef struct pm_profile_row {
    const char *kernel;
    const char *label;
    uint64_t count, ns, bytes;
    uint32_t last; // of `count`: in the last pass
} pm_profile_row;
const pm_profile_row *pm_session_profile(const pm_session *session, int *n);

// Records every pass anew instead of replaying recordings: for tests that prove both give the same bits.
void pm_session_set_replay(pm_session *session, bool replay);

// ---- plan -------------------------------------------------------------------------------------------------------------

// What a model and a session would take of a device, and what fits.
typedef struct pm_plan {
    uint32_t ctx;           // of the session: the options' or the usual one
    uint32_t model_ctx;     // that the model was made for; 0: the file does not say
    uint64_t kv_bytes;      // of the cache for one position of one sequence
    uint64_t weight_bytes;  // what pm_model_weight_bytes will tell
    uint64_t session_bytes; // what pm_session_bytes will tell: cache_bytes + scratch_bytes
    uint64_t cache_bytes, scratch_bytes;
    uint64_t host_bytes;                   // of a session's mapped buffers
    uint64_t heap_need[16], heap_free[16]; // by heap of the device: what all of it takes, what is left for it now
    bool fits;
    char reason[256];     // why it does not
    uint32_t longest_ctx; // positions that would fit, whatever the model was made for; 0: not even the weights do
    // Where it does not fit: the widest type with which all of it would if every matrix had it, and the weights' bytes then. Static
    // text, "Q8_0"; NULL where there is none.
    const char *narrower;
    uint64_t narrower_bytes;
} pm_plan;

// Adds up for each of n devices, as pm_device_list has them, from the header of the model's file: plans[i] is that of infos[i].
// Nothing is opened or allocated on a device. options may be NULL. The file's errors are those of pm_model_open; PM_ERR_USAGE for
// options that make no sense; what does not fit is no failure. Gate and up of different types are taken to be stored as
// halves, as nearly all values allow.
pm_status pm_plan_make(const char *path, const pm_device_info *infos, int n, const pm_session_options *options, pm_plan *plans);

#ifdef __cplusplus
}
#endif
#endif
