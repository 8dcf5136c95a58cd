// Private to the files of a session (session.c, pass.c, eval.c, generate.c): what it holds, and what each has of the others.
//
// Everything that changes from token to token is data: the rows of the batch, the page table, how to sample. It is written into a
// mapped staging area and copied to the device by the pass itself, so that the command buffer of a pass is recorded once for its
// shape (rows, outputs, class of cache length) and replayed. When decoding, the sampler leaves the next rows on the device, where
// the next pass starts from them: the host only reads ids, one step behind.
#ifndef PM_SESSION_H
#define PM_SESSION_H

#include <stdatomic.h>

#include "backend/model.h"

enum { PM_MAX_RECORDINGS = 16, PM_MAX_PROFILE = 128 };

// The shape of a pass: what decides its commands.
typedef struct pm_pass_shape {
    uint32_t n, n_out, kv_bound;
    int slot;         // which staging area and which results
    bool consecutive; // rows are a piece of a prompt
    bool chained;     // rows come from the sampler's `next`, not from the host
    bool sample, logits;
    bool hidden;        // of the rows that ask: what the head would read, in place of logits
    uint32_t n_squares; // of a hidden row: the recording tells
    bool adjust;        // the sampler's penalties and bias
    uint32_t n_likely;  // told of the draw: the id itself and the likeliest ones; 0: nothing
} pm_pass_shape;

typedef struct pm_recording {
    pm_pass_shape shape;
    pm_cmd *cmd;
    uint64_t used; // when; 0: empty
} pm_recording;

// The same arrays on the device and, but for `next`, in each slot's staging.
typedef struct pm_step {
    pm_slice rows;     // (max_rows) of struct pm_row
    pm_slice index;    // (max_out) of uint
    pm_slice sampling; // (max_out) of struct pm_sampling
    pm_slice next;     // (max_out) of struct pm_row
} pm_step;

typedef struct pm_generation {
    bool running;
    int seq, slot;    // slot of the pass that draws the id to be returned next
    uint32_t n_drawn; // ids returned
    bool adjust;      // as in its passes' shape
    uint32_t n_likely;
} pm_generation;

struct pm_session {
    pm_model *model;
    uint32_t ctx, n_seqs, max_rows, max_out;
    bool profiled, exact;

    pm_slabs *slabs;
    pm_activations act;
    pm_angles angles;
    pm_slice pages, identity, sieved;
    pm_step device, staging[PM_N_SLOTS];
    pm_buffer *upload, *readback;
    pm_slice pages_staging;
    pm_slice results[PM_N_SLOTS];     // (max_out) ids
    pm_slice likely[PM_N_SLOTS];      // (n_likely) of struct pm_likely
    pm_slice logits_out;              // (max_out, vocab)
    pm_slice normed_out, squares_out; // (max_out, dim)

    // Of the generation that runs: what occurred (n_valid), bias (n_valid), and logits that both have changed (1, vocab).
    pm_slice seen, bias, adjusted;
    pm_logprob logprobs[1 + PM_MAX_LIKELY]; // of the id returned last
    int n_logprobs;

    pm_cache cache;
    uint32_t *pos;            // by sequence
    uint64_t row_ns, step_ns; // what was measured last: a row of a prompt, a step of decoding; PM_NS_UNKNOWN
    pm_recording recordings[PM_MAX_RECORDINGS];
    uint64_t clock;
    pm_recording *running[PM_N_SLOTS];
    int turn;
    pm_generation gen;
    bool replay;
    atomic_bool cancelled; // lock-free everywhere: a signal handler may set it

    pm_profile_row profile[PM_MAX_PROFILE];
    int n_profile;
};

// ---- pass.c ------------------------------------------------------------------------------------------------------------------

// Submits the pass of this shape, recorded anew where it was not yet; its slot is free and its staging is filled.
pm_status pm_session_submit(pm_session *session, const pm_pass_shape *shape);
// Until the slot is free; its results can then be read.
pm_status pm_session_wait_slot(pm_session *session, int slot);
pm_status pm_session_wait_all(pm_session *session);
// Tries the kernels that the pass of this shape wants and makes their pipelines; cmd is ready to be recorded.
pm_status pm_session_rehearse(pm_session *session, pm_pass_shape *shape, pm_cmd *cmd);

// ---- eval.c ------------------------------------------------------------------------------------------------------------------

pm_status pm_session_check_head(const pm_session *session);
// Pages for so many positions of a sequence. PM_ERR_CONTEXT, PM_ERR_MEMORY.
pm_status pm_session_reserve(pm_session *session, int seq, uint32_t n_positions);
// Runs all ids in chunks that overlap on the device; `last` says what the last one shall give, in slot *slot.
pm_status pm_session_prompt(pm_session *session, int seq, const int32_t *ids, size_t n, const pm_pass_shape *last,
                            const pm_sampler *sampler, int *slot);

#endif
