// Sequences and passes. Everything that changes from token to token is data: the rows of the batch, the page table, how to sample.
// It is written into a mapped staging area and copied to the device by the pass itself, so that the command buffer of a pass is
// recorded once for its shape (rows, outputs, class of cache length) and replayed. When decoding, the sampler leaves the next rows
// on the device, where the next pass starts from them: the host only reads ids, one step behind.
#include <stdatomic.h>
#include <string.h>

#include "backend/model.h"

enum { N_SLOTS = PM_N_SLOTS, MAX_RECORDINGS = 16, MAX_PROFILE = 64 };

// The shape of a pass: what decides its commands.
typedef struct shape {
    uint32_t n, n_out, kv_bound;
    int slot;         // which staging area and which results
    bool consecutive; // rows are a piece of a prompt
    bool chained;     // rows come from the sampler's `next`, not from the host
    bool sample, logits;
    bool hidden;        // of the rows that ask: what the head would read, in place of logits
    uint32_t n_squares; // of a hidden row: the recording tells
    bool adjust;        // the sampler's penalties and bias
    uint32_t n_likely;  // told of the draw: the id itself and the likeliest ones; 0: nothing
} shape;

typedef struct recording {
    shape shape;
    pm_cmd *cmd;
    uint64_t used; // when; 0: empty
} recording;

// The same arrays on the device and, but for `next`, in each slot's staging.
typedef struct step {
    pm_slice rows;     // (max_rows) of struct pm_row
    pm_slice index;    // (max_out) of uint
    pm_slice sampling; // (max_out) of struct pm_sampling
    pm_slice next;     // (max_out) of struct pm_row
} step;

typedef struct generation {
    bool running;
    int seq, slot;    // slot of the pass that draws the id to be returned next
    uint32_t n_drawn; // ids returned
    bool adjust;      // as in its passes' shape
    uint32_t n_likely;
} generation;

struct pm_session {
    pm_model *model;
    uint32_t ctx, n_seqs, max_rows, max_out;
    bool profiled, exact;

    pm_slabs *slabs;
    pm_activations act;
    pm_angles angles;
    pm_slice pages, identity;
    step device, staging[N_SLOTS];
    pm_buffer *upload, *readback;
    pm_slice pages_staging;
    pm_slice results[N_SLOTS];        // (max_out) ids
    pm_slice likely[N_SLOTS];         // (n_likely) of struct pm_likely
    pm_slice logits_out;              // (max_out, vocab)
    pm_slice normed_out, squares_out; // (max_out, dim)

    // Of the generation that runs: what occurred (n_valid), bias (n_valid), and logits that both have changed (1, vocab).
    pm_slice seen, bias, adjusted;
    pm_logprob logprobs[1 + PM_MAX_LIKELY]; // of the id returned last
    int n_logprobs;

    pm_cache cache;
    uint32_t *pos; // by sequence
    recording recordings[MAX_RECORDINGS];
    uint64_t clock;
    recording *running[N_SLOTS];
    int turn;
    generation gen;
    bool replay;
    atomic_bool cancelled; // lock-free everywhere: a signal handler may set it

    pm_profile_row profile[MAX_PROFILE];
    int n_profile;
};

// ---- opening ----------------------------------------------------------------------------------------------------------

static pm_status open_slices(pm_session *s, const pm_session_sizes *sizes) {
    pm_activations *a = &s->act;
    pm_slice *const slices[PM_N_PIECES] = {
        [PM_PIECE_X] = &a->x,
        [PM_PIECE_NORMED] = &a->normed,
        [PM_PIECE_SQUARES] = &a->squares,
        [PM_PIECE_QKV] = &a->qkv,
        [PM_PIECE_Q] = &a->q,
        [PM_PIECE_ATT] = &a->att,
        [PM_PIECE_FFN] = &a->ffn,
        [PM_PIECE_ROUTER] = &a->router,
        [PM_PIECE_ROUTES] = &a->routes,
        [PM_PIECE_EXPERTS] = &a->experts,
        [PM_PIECE_PRODUCTS] = &a->products,
        [PM_PIECE_OUT_NORMED] = &a->out_normed,
        [PM_PIECE_OUT_SQUARES] = &a->out_squares,
        [PM_PIECE_LOGITS] = &a->logits,
        [PM_PIECE_ATTEND] = &a->scratch,
        [PM_PIECE_ANGLES] = &s->angles.tables,
        [PM_PIECE_PAGES] = &s->pages,
        [PM_PIECE_IDENTITY] = &s->identity,
        [PM_PIECE_ROWS] = &s->device.rows,
        [PM_PIECE_INDEX] = &s->device.index,
        [PM_PIECE_SAMPLING] = &s->device.sampling,
        [PM_PIECE_NEXT] = &s->device.next,
        [PM_PIECE_SEEN] = &s->seen,
        [PM_PIECE_BIAS] = &s->bias,
        [PM_PIECE_ADJUSTED] = &s->adjusted,
    };
    for (int i = 0; i < PM_N_PIECES; i++)
        if (sizes->pieces[i])
            PM_TRY(pm_slabs_alloc(s->slabs, sizes->pieces[i], slices[i]));
    return PM_OK;
}

static pm_status open_device_side(pm_session *s, const pm_session_sizes *sizes) {
    PM_TRY(pm_plan_check_session(s->model->dev, sizes));
    PM_TRY(pm_plan_check_bindings(s->model->dev, sizes));
    PM_TRY(pm_slabs_create(s->model->dev, sizes->scratch + sizes->cache, "session", &s->slabs));
    PM_TRY(open_slices(s, sizes));
    return pm_cache_open(s->model, sizes, s->slabs, s->pages, &s->cache);
}

static pm_slice take(pm_buffer *buffer, uint64_t *offset, uint64_t bytes) {
    pm_slice slice = pm_buffer_slice(buffer, *offset, bytes);
    *offset += pm_round_up(bytes, PM_PIECE_ALIGN);
    return slice;
}

static pm_status open_host_side(pm_session *s, const pm_session_sizes *sizes) {
    const uint64_t *bytes = sizes->pieces;
    uint64_t at = 0;
    PM_TRY(pm_buffer_create(s->model->dev, sizes->upload, PM_MEM_UPLOAD, "step", &s->upload));
    for (int i = 0; i < N_SLOTS; i++) {
        s->staging[i].rows = take(s->upload, &at, bytes[PM_PIECE_ROWS]);
        s->staging[i].index = take(s->upload, &at, bytes[PM_PIECE_INDEX]);
        s->staging[i].sampling = take(s->upload, &at, bytes[PM_PIECE_SAMPLING]);
    }
    s->pages_staging = take(s->upload, &at, bytes[PM_PIECE_PAGES]);

    at = 0;
    PM_TRY(pm_buffer_create(s->model->dev, sizes->readback, PM_MEM_READBACK, "results", &s->readback));
    for (int i = 0; i < N_SLOTS; i++) {
        s->results[i] = take(s->readback, &at, bytes[PM_PIECE_INDEX]);
        s->likely[i] = take(s->readback, &at, PM_LIKELY_BYTES);
    }
    s->logits_out = take(s->readback, &at, bytes[PM_PIECE_LOGITS]);
    s->normed_out = take(s->readback, &at, bytes[PM_PIECE_OUT_NORMED]);
    s->squares_out = take(s->readback, &at, bytes[PM_PIECE_OUT_SQUARES]);
    return PM_OK;
}

// 0, 1, 2, ...
static pm_status upload_identity(pm_session *s) {
    uint32_t *identity = pm_calloc(s->max_out, sizeof *identity);
    if (!identity)
        return pm_fail(PM_ERR_MEMORY, "no memory for a session");
    for (uint32_t i = 0; i < s->max_out; i++)
        identity[i] = i;
    pm_status status = pm_slice_write(s->model->dev, s->identity, identity, s->identity.size);
    pm_free(identity);
    return status;
}

static pm_status open_session(pm_session *s, const pm_session_options *options) {
    pm_session_sizes sizes;
    PM_TRY(pm_plan_session(s->model->dev, &s->model->config, options, &sizes));
    s->profiled = options && options->profile;
    s->exact = options && options->precision == PM_PRECISION_F32;
    s->ctx = sizes.ctx;
    s->n_seqs = sizes.n_seqs;
    s->max_rows = sizes.max_rows;
    s->max_out = sizes.max_out;
    s->pos = pm_calloc(s->n_seqs, sizeof *s->pos);
    if (!s->pos)
        return pm_fail(PM_ERR_MEMORY, "no memory for a session");
    PM_TRY(open_device_side(s, &sizes));
    PM_TRY(open_host_side(s, &sizes));
    PM_TRY(pm_angles_open(s->model, s->ctx, s->n_seqs, &s->angles));
    return upload_identity(s);
}

pm_status pm_session_open(pm_model *model, const pm_session_options *options, pm_session **session) {
    pm_session *s = pm_calloc(1, sizeof *s);
    *session = s;
    if (!s)
        return pm_fail(PM_ERR_MEMORY, "no memory for a session");
    s->model = model;
    s->replay = true;
    pm_status status = open_session(s, options);
    if (status != PM_OK)
        pm_session_close(session);
    return status;
}

void pm_session_close(pm_session **session) {
    pm_session *s = *session;
    if (!s)
        return;
    for (int i = 0; i < MAX_RECORDINGS; i++)
        pm_cmd_close(&s->recordings[i].cmd);
    pm_cache_close(&s->cache);
    pm_angles_close(&s->angles);
    pm_slabs_close(&s->slabs);
    pm_buffer_close(&s->upload);
    pm_buffer_close(&s->readback);
    pm_free(s->pos);
    pm_free(s);
    *session = NULL;
}

// ---- recordings -------------------------------------------------------------------------------------------------------

static pm_slice front(pm_slice slice, uint64_t bytes) {
    return (pm_slice){slice.buffer, slice.offset, bytes};
}

static void copy_front(pm_cmd *cmd, pm_slice dst, pm_slice src, uint64_t bytes) {
    if (bytes)
        pm_cmd_copy(cmd, front(dst, bytes), front(src, bytes));
}

static void record_input(pm_session *s, const shape *p, pm_cmd *cmd) {
    const step *from = &s->staging[p->slot];
    copy_front(cmd, s->pages, s->pages_staging, s->pages.size);
    if (p->chained) {
        copy_front(cmd, s->device.rows, s->device.next, p->n * sizeof(struct pm_row));
        return;
    }
    copy_front(cmd, s->device.rows, from->rows, p->n * sizeof(struct pm_row));
    copy_front(cmd, s->device.index, from->index, p->n_out * sizeof(uint32_t));
    if (p->sample)
        copy_front(cmd, s->device.sampling, from->sampling, p->n_out * sizeof(struct pm_sampling));
}

static void record_hidden_output(pm_session *s, shape *p, pm_cmd *cmd, const pm_hidden *hidden) {
    p->n_squares = hidden->n_parts;
    copy_front(cmd, s->normed_out, hidden->normed.data, hidden->normed.data.size);
    copy_front(cmd, s->squares_out, hidden->squares.data, hidden->squares.data.size);
}

static void record_draw(pm_session *s, const shape *p, pm_cmd *cmd, pm_tensor logits, pm_slice index) {
    const step *d = &s->device;
    uint32_t n_valid = s->model->n_valid;
    pm_tensor adjusted = p->adjust ? pm_activation(s->adjusted, 1, s->model->config.vocab_size) : logits;
    if (p->adjust)
        pm_op_adjust(cmd, &(pm_adjust){
                              .adjusted = adjusted,
                              .logits = logits,
                              .n_valid = n_valid,
                              .sampling = d->sampling,
                              .bias = s->bias,
                              .index = index,
                              .rows = d->rows,
                              .seen = s->seen,
                              .count_rows = p->chained,
                          });
    pm_op_sample(cmd, &(pm_sample){
                          .logits = adjusted,
                          .n_valid = n_valid,
                          .sampling = d->sampling,
                          .index = index,
                          .rows = d->rows,
                          .next = d->next,
                          .results = s->results[p->slot],
                      });
    if (p->n_likely > 0)
        pm_op_logprobs(cmd, &(pm_logprobs){
                                .logits = logits,
                                .n_valid = n_valid,
                                .n = p->n_likely - 1,
                                .next = d->next,
                                .likely = s->likely[p->slot],
                            });
}

static pm_status record_pass(pm_session *s, shape *p, pm_cmd *cmd) {
    pm_slice index = p->n_out == p->n ? s->identity : s->device.index;
    pm_hidden hidden;
    pm_pass pass = {
        .n = p->n,
        .n_out = p->n_out,
        .kv_bound = p->kv_bound,
        .consecutive = p->consecutive,
        .rows = s->device.rows,
        .index = index,
        .angles = &s->angles,
        .cache = &s->cache,
        .act = &s->act,
        .hidden = p->hidden ? &hidden : NULL,
    };
    pm_tensor logits;
    record_input(s, p, cmd);
    pm_forward(cmd, s->model, &pass, &logits);
    pm_cmd_label(cmd, "sample");
    if (p->sample)
        record_draw(s, p, cmd, logits, index);
    if (p->logits)
        copy_front(cmd, s->logits_out, s->act.logits, logits.data.size);
    if (p->hidden)
        record_hidden_output(s, p, cmd, &hidden);
    return pm_cmd_end(cmd);
}

// A rehearsal first, so that kernels that are new here are tried, and pipelines that are not there yet are made in parallel.
static pm_status record(pm_session *s, shape *p, pm_cmd *cmd) {
    pm_cmd_profile(cmd, s->profiled);
    pm_cmd_exact(cmd, s->exact);
    do {
        pm_cmd_begin_dry(cmd);
        PM_TRY(record_pass(s, p, cmd));
        PM_TRY(pm_cmd_prepare(cmd));
    } while (pm_cmd_is_stale(cmd));
    pm_cmd_begin(cmd);
    PM_TRY(record_pass(s, p, cmd));
    return PM_OK;
}

static bool same_shape(const shape *a, const shape *b) {
    return a->n == b->n && a->n_out == b->n_out && a->kv_bound == b->kv_bound && a->slot == b->slot &&
           a->consecutive == b->consecutive && a->chained == b->chained && a->sample == b->sample && a->logits == b->logits &&
           a->hidden == b->hidden && a->adjust == b->adjust && a->n_likely == b->n_likely;
}

// The recording of this shape, or the one used longest ago among those that do not run.
static recording *find_recording(pm_session *s, const shape *p, bool *found) {
    recording *oldest = NULL;
    for (int i = 0; i < MAX_RECORDINGS; i++) {
        recording *r = &s->recordings[i];
        *found = r->used > 0 && same_shape(&r->shape, p);
        if (*found)
            return r;
        if (r != s->running[0] && r != s->running[1] && (!oldest || r->used < oldest->used))
            oldest = r;
    }
    return oldest;
}

static void gather_profile(pm_session *s, pm_cmd *cmd) {
    int n;
    const pm_timing *timings = pm_cmd_timings(cmd, &n);
    for (int k = 0; k < s->n_profile; k++)
        s->profile[k].last = 0;
    for (int i = 0; i < n; i++) {
        int k = 0;
        while (k < s->n_profile && (s->profile[k].kernel != timings[i].kernel || s->profile[k].label != timings[i].label))
            k++;
        if (k == MAX_PROFILE)
            continue;
        if (k == s->n_profile)
            s->profile[s->n_profile++] = (pm_profile_row){.kernel = timings[i].kernel, .label = timings[i].label};
        s->profile[k].count++;
        s->profile[k].last++;
        s->profile[k].ns += timings[i].ns;
        s->profile[k].bytes += timings[i].bytes;
    }
}

static pm_status wait_slot(pm_session *s, int slot) {
    recording *r = s->running[slot];
    if (!r)
        return PM_OK;
    s->running[slot] = NULL;
    PM_TRY(pm_cmd_wait(r->cmd));
    if (s->profiled)
        gather_profile(s, r->cmd);
    return PM_OK;
}

// Submits the pass of this shape; its slot is free and its staging is filled.
static pm_status submit(pm_session *s, const shape *p) {
    bool found;
    recording *r = find_recording(s, p, &found);
    if (!r->cmd)
        PM_TRY(pm_cmd_open(s->model->dev, "pass", &r->cmd));
    if (!found || !s->replay) {
        r->used = 0;
        r->shape = *p;
        PM_TRY(record(s, &r->shape, r->cmd));
    }
    r->used = ++s->clock;
    PM_TRY(pm_cmd_submit(r->cmd));
    s->running[p->slot] = r;
    return PM_OK;
}

// ---- evaluation -------------------------------------------------------------------------------------------------------

static pm_status reserve(pm_session *s, int seq, uint32_t n_positions) {
    if (n_positions > s->ctx)
        return pm_fail(PM_ERR_CONTEXT, "%u positions do not fit the context of %u", n_positions, s->ctx);
    uint32_t before = s->cache.n_pages[seq], first = (uint32_t)seq * s->cache.max_pages + before;
    PM_TRY(pm_cache_reserve(&s->cache, seq, n_positions));
    uint32_t taken = s->cache.n_pages[seq] - before;
    if (taken > 0) // by what is new: a table of many long sequences is large
        memcpy((uint32_t *)pm_slice_map(s->pages_staging) + first, s->cache.table + first, taken * sizeof(uint32_t));
    return PM_OK;
}

pm_status pm_session_check(const pm_session *s, int seq, const int32_t *ids, size_t n) {
    if (seq < 0 || (uint32_t)seq >= s->n_seqs)
        return pm_fail(PM_ERR_USAGE, "there is no sequence %d: the session has %u", seq, s->n_seqs);
    if (s->gen.running)
        return pm_fail(PM_ERR_USAGE, "a generation is running: end it first");
    if (n == 0)
        return pm_fail(PM_ERR_USAGE, "an empty prompt");
    if (n > s->ctx - s->pos[seq])
        return pm_fail(PM_ERR_CONTEXT, "a prompt of %zu tokens does not fit: %u of %u positions are taken", n, s->pos[seq], s->ctx);
    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0 || (uint32_t)ids[i] >= s->model->config.vocab_size)
            return pm_fail(PM_ERR_USAGE, "id %d at %zu is outside the vocabulary of %u", (int)ids[i], i,
                           s->model->config.vocab_size);
    return PM_OK;
}

static struct pm_row row_of(const pm_session *s, int seq, int32_t id, uint32_t pos) {
    return (struct pm_row){.token = (uint32_t)id, .seq = (uint32_t)seq, .pos = pos, .rope = s->angles.table_of[seq]};
}

// Runs n ids of one sequence in slot `slot`, which must be free.
static pm_status run_chunk(pm_session *s, int slot, int seq, const int32_t *ids, uint32_t n, const shape *wanted) {
    uint32_t *pos = &s->pos[seq];
    PM_TRY(reserve(s, seq, *pos + n));
    struct pm_row *rows = pm_slice_map(s->staging[slot].rows);
    for (uint32_t i = 0; i < n; i++)
        rows[i] = row_of(s, seq, ids[i], *pos + i);
    *(uint32_t *)pm_slice_map(s->staging[slot].index) = n - 1;
    shape p = *wanted;
    p.n = n;
    p.slot = slot;
    p.kv_bound = pm_kv_class(*pos + n);
    p.consecutive = n > 1;
    PM_TRY(submit(s, &p));
    *pos += n;
    return PM_OK;
}

// Runs all ids in chunks that overlap on the device; `last` says what the last one shall give, in slot *slot.
static pm_status run_prompt(pm_session *s, int seq, const int32_t *ids, size_t n, const shape *last, const pm_sampler *sampler,
                            int *slot) {
    s->cancelled = false;
    for (size_t at = 0; at < n;) {
        uint32_t count = n - at < s->max_rows ? (uint32_t)(n - at) : s->max_rows;
        bool is_last = at + count == n;
        if (s->cancelled)
            return pm_fail(PM_ERR_CANCELLED, "cancelled after %zu of %zu tokens of the prompt", at, n);
        *slot = s->turn++ % N_SLOTS;
        PM_TRY(wait_slot(s, *slot));
        if (is_last && sampler)
            *(struct pm_sampling *)pm_slice_map(s->staging[*slot].sampling) = pm_sampler_pack(sampler);
        PM_TRY(run_chunk(s, *slot, seq, ids + at, count, is_last ? last : &(shape){0}));
        at += count;
    }
    return PM_OK;
}

static pm_status wait_all(pm_session *s) {
    for (int i = 0; i < N_SLOTS; i++)
        PM_TRY(wait_slot(s, i));
    return PM_OK;
}

static pm_status check_head(const pm_session *s) {
    return s->model->config.no_head ? pm_fail(PM_ERR_UNSUPPORTED, "the model has no head: it gives embeddings, no tokens") : PM_OK;
}

pm_status pm_session_eval(pm_session *s, int seq, const int32_t *ids, size_t n, const float **logits) {
    int slot;
    PM_TRY(pm_session_check(s, seq, ids, n));
    PM_TRY(logits ? check_head(s) : PM_OK);
    shape last = {.n_out = logits ? 1 : 0, .logits = logits != NULL};
    PM_TRY(run_prompt(s, seq, ids, n, &last, NULL, &slot));
    PM_TRY(wait_all(s));
    if (logits)
        *logits = pm_slice_map(s->logits_out);
    return PM_OK;
}

// Gives row i of the batch its place at the end of its sequence.
static pm_status place_row(pm_session *s, const pm_batch_row *row, struct pm_row *placed, uint32_t *longest) {
    PM_TRY(pm_session_check(s, row->seq, &row->id, 1));
    PM_TRY(reserve(s, row->seq, s->pos[row->seq] + 1));
    uint32_t pos = s->pos[row->seq]++;
    *placed = row_of(s, row->seq, row->id, pos);
    *longest = pos + 1 > *longest ? pos + 1 : *longest;
    return PM_OK;
}

// Nothing is run where a row cannot be: the sequences of those before it are then as they were.
static pm_status run_batch(pm_session *s, const pm_batch_row *batch, int n, shape *p) {
    struct pm_row *rows = pm_slice_map(s->staging[0].rows);
    uint32_t longest = 0;
    pm_status status = PM_OK;
    int placed = 0;
    while (status == PM_OK && placed < n) {
        status = place_row(s, &batch[placed], &rows[placed], &longest);
        placed += status == PM_OK;
    }
    p->kv_bound = pm_kv_class(longest);
    if (status == PM_OK)
        status = submit(s, p);
    while (status != PM_OK && placed-- > 0)
        pm_session_rewind(s, batch[placed].seq, s->pos[batch[placed].seq] - 1);
    return status;
}

pm_status pm_session_eval_batch(pm_session *s, const pm_batch_row *batch, int n, const float **logits) {
    if (n < 1 || (uint32_t)n > s->max_out)
        return pm_fail(PM_ERR_USAGE, "a batch of %d rows: 1 to %u are possible", n, s->max_out);
    PM_TRY(logits ? check_head(s) : PM_OK);
    PM_TRY(wait_all(s));
    shape p = {.n = (uint32_t)n, .n_out = logits ? (uint32_t)n : 0, .logits = logits != NULL};
    PM_TRY(run_batch(s, batch, n, &p));
    PM_TRY(wait_all(s));
    if (logits)
        *logits = pm_slice_map(s->logits_out);
    return PM_OK;
}

pm_status pm_session_eval_hidden(pm_session *s, const pm_batch_row *batch, int n, const uint32_t *index, uint32_t n_out,
                                 pm_hidden_rows *hidden) {
    PM_TRY(wait_all(s));
    shape p = {.n = (uint32_t)n, .n_out = n_out, .hidden = n_out > 0};
    memcpy(pm_slice_map(s->staging[0].index), index, n_out * sizeof *index);
    PM_TRY(run_batch(s, batch, n, &p));
    const recording *r = s->running[0];
    PM_TRY(wait_all(s));
    *hidden = (pm_hidden_rows){
        .normed = pm_slice_map(s->normed_out),
        .squares = pm_slice_map(s->squares_out),
        .stride = (uint32_t)pm_round_up(s->model->config.dim, PM_BLOCK),
        .n_squares = r->shape.n_squares,
    };
    return PM_OK;
}

// ---- generation -------------------------------------------------------------------------------------------------------

// What penalties and bias begin with. No pass runs.
static pm_status upload_adjustments(pm_session *s, const int32_t *ids, size_t n, const pm_sampler *sampler) {
    uint32_t n_valid = s->model->n_valid;
    uint64_t bytes = n_valid * sizeof(uint32_t);
    void *words = pm_calloc(n_valid, sizeof(uint32_t));
    if (!words)
        return pm_fail(PM_ERR_MEMORY, "no memory for the penalties of %u ids", n_valid);
    pm_sampler_fill_seen(sampler, ids, n, n_valid, words);
    pm_status status = pm_slice_write(s->model->dev, front(s->seen, bytes), words, bytes);
    if (status == PM_OK) {
        pm_sampler_fill_bias(sampler, n_valid, words);
        status = pm_slice_write(s->model->dev, front(s->bias, bytes), words, bytes);
    }
    pm_free(words);
    return status;
}

pm_status pm_session_start(pm_session *s, int seq, const int32_t *ids, size_t n, const pm_sampler *sampler) {
    PM_TRY(pm_session_check(s, seq, ids, n));
    PM_TRY(check_head(s));
    PM_TRY(pm_sampler_check(sampler, s->model->config.vocab_size));
    PM_TRY(wait_all(s));
    s->n_logprobs = 0;
    s->gen = (generation){.seq = seq, .adjust = pm_sampler_adjusts(sampler)};
    if (sampler->logprobs)
        s->gen.n_likely = 1 + (sampler->top_logprobs < s->model->n_valid ? sampler->top_logprobs : s->model->n_valid);
    if (s->gen.adjust)
        PM_TRY(upload_adjustments(s, ids, n, sampler));
    shape last = {.n_out = 1, .sample = true, .adjust = s->gen.adjust, .n_likely = s->gen.n_likely};
    PM_TRY(run_prompt(s, seq, ids, n, &last, sampler, &s->gen.slot));
    s->gen.running = true;
    return PM_OK;
}

// Runs the id that is being drawn, and draws the one after it.
static pm_status step_ahead(pm_session *s, int slot) {
    uint32_t *pos = &s->pos[s->gen.seq];
    PM_TRY(wait_slot(s, slot));
    PM_TRY(reserve(s, s->gen.seq, *pos + 1));
    shape p = {.n = 1,
               .n_out = 1,
               .kv_bound = pm_kv_class(*pos + 1),
               .slot = slot,
               .chained = true,
               .sample = true,
               .adjust = s->gen.adjust,
               .n_likely = s->gen.n_likely};
    PM_TRY(submit(s, &p));
    *pos += 1;
    return PM_OK;
}

// Of the slot's draw, which the pass after the next one overwrites.
static void take_logprobs(pm_session *s, int slot) {
    const struct pm_likely *likely = pm_slice_map(s->likely[slot]);
    s->n_logprobs = (int)s->gen.n_likely;
    for (int i = 0; i < s->n_logprobs; i++)
        s->logprobs[i] = (pm_logprob){(int32_t)likely[i].id, likely[i].logprob};
}

pm_status pm_session_next(pm_session *s, int32_t *id) {
    generation *g = &s->gen;
    if (!g->running)
        return pm_fail(PM_ERR_USAGE, "no generation is running");
    int other = (g->slot + 1) % N_SLOTS;
    if (g->slot < 0)
        return pm_fail(PM_ERR_CONTEXT, "the context of %u is full", s->ctx);
    bool room = s->pos[g->seq] < s->ctx;
    if (room)
        PM_TRY(step_ahead(s, other));
    PM_TRY(wait_slot(s, g->slot));
    *id = *(const int32_t *)pm_slice_map(s->results[g->slot]);
    take_logprobs(s, g->slot);
    g->slot = room ? other : -1; // -1: that was the last one
    g->n_drawn++;
    s->turn = other + 1;
    return PM_OK;
}

pm_status pm_session_end(pm_session *s) {
    generation *g = &s->gen;
    if (!g->running)
        return PM_OK;
    g->running = false;
    PM_TRY(wait_all(s));
    if (g->n_drawn > 0 && g->slot >= 0)
        pm_session_rewind(s, g->seq, s->pos[g->seq] - 1); // what was run ahead
    return PM_OK;
}

// ---- tuning -----------------------------------------------------------------------------------------------------------

// Rehearses the pass of n rows as it will be run. The products of all rehearsals but the last are lost to the next: one at a time.
static pm_status tune_pass(pm_session *s, pm_cmd *cmd, uint32_t n, double seconds, pm_tune_what what) {
    shape p = {.n = n, .n_out = 1, .kv_bound = pm_kv_class(n), .sample = true};
    do {
        pm_cmd_begin_dry(cmd);
        PM_TRY(record_pass(s, &p, cmd));
        PM_TRY(pm_cmd_prepare(cmd));
    } while (pm_cmd_is_stale(cmd));
    return pm_tune_products(s->model->dev, cmd, seconds, what);
}

// A step of decoding, a chunk, a batch: half of what is left for each.
static pm_status tune_passes(pm_session *s, pm_cmd *cmd, double seconds, pm_tune_what what) {
    const uint32_t rows[] = {1, s->max_rows, PM_BATCH_MAX / 2};
    uint64_t began = pm_now_ns();
    for (int i = 0; i < 3; i++) {
        double left = seconds - (double)(pm_now_ns() - began) / 1e9;
        if (left > 0 && rows[i] <= s->max_rows)
            PM_TRY(tune_pass(s, cmd, rows[i], i < 2 ? left / 2 : left, what));
    }
    return PM_OK;
}

pm_status pm_session_tune(pm_session *s, double seconds, bool again) {
    pm_cmd *cmd;
    if (s->gen.running)
        return pm_fail(PM_ERR_USAGE, "a generation is running: end it first");
    pm_tune_what what = again ? PM_TUNE_AGAIN : seconds < 0 ? PM_TUNE_NEW : PM_TUNE_UNFINISHED;
    if (seconds < 0)
        seconds = pm_tune_seconds(s->model->dev);
    if (!(seconds > 0))
        return PM_OK;
    PM_TRY(wait_all(s));
    PM_TRY(pm_cmd_open(s->model->dev, "rehearsal", &cmd));
    pm_cmd_note_products(cmd, true);
    pm_cmd_exact(cmd, s->exact);
    pm_status status = tune_passes(s, cmd, seconds, what);
    pm_cmd_close(&cmd);
    for (int i = 0; i < MAX_RECORDINGS; i++)
        s->recordings[i].used = 0; // they follow the old plan
    return status;
}

const pm_logprob *pm_session_logprobs(const pm_session *s, int *n) {
    *n = s->n_logprobs;
    return s->logprobs;
}

// ---- the rest ---------------------------------------------------------------------------------------------------------

uint32_t pm_session_pos(const pm_session *s, int seq) {
    return s->pos[seq];
}

void pm_session_rewind(pm_session *s, int seq, uint32_t pos) {
    if (pos >= s->pos[seq])
        return;
    s->pos[seq] = pos;
    pm_cache_shrink(&s->cache, seq, pos);
}

pm_status pm_session_set_rope_factor(pm_session *s, int seq, double factor) {
    if (seq < 0 || (uint32_t)seq >= s->n_seqs)
        return pm_fail(PM_ERR_USAGE, "there is no sequence %d: the session has %u", seq, s->n_seqs);
    if (s->gen.running)
        return pm_fail(PM_ERR_USAGE, "a generation is running: end it first");
    if (!(factor >= 1 && factor <= PM_MAX_ROPE_FACTOR))
        return pm_fail(PM_ERR_USAGE, "a rope factor of %g: 1 to %d is possible", factor, PM_MAX_ROPE_FACTOR);
    if (factor > 1 && !pm_rope_trained_ctx(&s->model->config))
        return pm_fail(PM_ERR_USAGE, "YaRN needs the context of the training, and the file does not say it");
    if (s->pos[seq] > 0)
        return pm_fail(PM_ERR_USAGE, "sequence %d holds %u positions, turned by the factor it has: rewind it to 0 first", seq,
                       s->pos[seq]);
    PM_TRY(wait_all(s));
    return pm_angles_choose(&s->angles, seq, factor);
}

double pm_session_rope_factor(const pm_session *s, int seq) {
    return s->angles.factors[s->angles.table_of[seq]];
}

void pm_session_cancel(pm_session *s) {
    s->cancelled = true;
}

uint32_t pm_session_ctx(const pm_session *s) {
    return s->ctx;
}

uint64_t pm_session_bytes(const pm_session *s) {
    return pm_slabs_bytes(s->slabs);
}

uint32_t pm_session_max_batch(const pm_session *s) {
    return s->max_out;
}

uint32_t pm_session_max_rows(const pm_session *s) {
    return s->max_rows;
}

const pm_model *pm_session_model(const pm_session *s) {
    return s->model;
}

uint32_t pm_session_logits_stride(const pm_session *s) {
    return (uint32_t)pm_round_up(s->model->config.vocab_size, PM_BLOCK);
}

const pm_profile_row *pm_session_profile(const pm_session *s, int *n) {
    *n = s->n_profile;
    return s->profile;
}

void pm_session_set_replay(pm_session *s, bool replay) {
    s->replay = replay;
}
