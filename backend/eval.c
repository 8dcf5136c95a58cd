// Prompts and batches: rows get their places in the cache and run; the caller reads logits or hidden rows.
#include <string.h>

#include "backend/session.h"

pm_status pm_session_reserve(pm_session *s, int seq, uint32_t n_positions) {
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
static pm_status run_chunk(pm_session *s, int slot, int seq, const int32_t *ids, uint32_t n, const pm_pass_shape *wanted) {
    uint32_t *pos = &s->pos[seq];
    PM_TRY(pm_session_reserve(s, seq, *pos + n));
    struct pm_row *rows = pm_slice_map(s->staging[slot].rows);
    for (uint32_t i = 0; i < n; i++)
        rows[i] = row_of(s, seq, ids[i], *pos + i);
    *(uint32_t *)pm_slice_map(s->staging[slot].index) = n - 1;
    pm_pass_shape p = *wanted;
    p.n = n;
    p.slot = slot;
    p.kv_bound = pm_kv_class(*pos + n);
    p.consecutive = n > 1;
    PM_TRY(pm_session_submit(s, &p));
    *pos += n;
    return PM_OK;
}

pm_status pm_session_prompt(pm_session *s, int seq, const int32_t *ids, size_t n, const pm_pass_shape *last,
                            const pm_sampler *sampler, int *slot) {
    s->cancelled = false;
    for (size_t at = 0; at < n;) {
        uint32_t count = n - at < s->max_rows ? (uint32_t)(n - at) : s->max_rows;
        bool is_last = at + count == n;
        if (s->cancelled)
            return pm_fail(PM_ERR_CANCELLED, "cancelled after %zu of %zu tokens of the prompt", at, n);
        *slot = s->turn++ % PM_N_SLOTS;
        PM_TRY(pm_session_wait_slot(s, *slot));
        if (is_last && sampler)
            *(struct pm_sampling *)pm_slice_map(s->staging[*slot].sampling) = pm_sampler_pack(sampler);
        PM_TRY(run_chunk(s, *slot, seq, ids + at, count, is_last ? last : &(pm_pass_shape){0}));
        at += count;
    }
    return PM_OK;
}

pm_status pm_session_check_head(const pm_session *s) {
    return s->model->config.no_head ? pm_fail(PM_ERR_UNSUPPORTED, "the model has no head: it gives embeddings, no tokens") : PM_OK;
}

pm_status pm_session_eval(pm_session *s, int seq, const int32_t *ids, size_t n, const float **logits) {
    int slot;
    PM_TRY(pm_session_check(s, seq, ids, n));
    PM_TRY(logits ? pm_session_check_head(s) : PM_OK);
    pm_pass_shape last = {.n_out = logits ? 1 : 0, .logits = logits != NULL};
    PM_TRY(pm_session_prompt(s, seq, ids, n, &last, NULL, &slot));
    PM_TRY(pm_session_wait_all(s));
    if (logits)
        *logits = pm_slice_map(s->logits_out);
    return PM_OK;
}

// Gives row i of the batch its place at the end of its sequence.
static pm_status place_row(pm_session *s, const pm_batch_row *row, struct pm_row *placed, uint32_t *longest) {
    PM_TRY(pm_session_check(s, row->seq, &row->id, 1));
    PM_TRY(pm_session_reserve(s, row->seq, s->pos[row->seq] + 1));
    uint32_t pos = s->pos[row->seq]++;
    *placed = row_of(s, row->seq, row->id, pos);
    *longest = pos + 1 > *longest ? pos + 1 : *longest;
    return PM_OK;
}

// Nothing is run where a row cannot be: the sequences of those before it are then as they were.
static pm_status run_batch(pm_session *s, const pm_batch_row *batch, int n, pm_pass_shape *p) {
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
        status = pm_session_submit(s, p);
    while (status != PM_OK && placed-- > 0)
        pm_session_rewind(s, batch[placed].seq, s->pos[batch[placed].seq] - 1);
    return status;
}

pm_status pm_session_eval_batch(pm_session *s, const pm_batch_row *batch, int n, const float **logits) {
    if (n < 1 || (uint32_t)n > s->max_out)
        return pm_fail(PM_ERR_USAGE, "a batch of %d rows: 1 to %u are possible", n, s->max_out);
    PM_TRY(logits ? pm_session_check_head(s) : PM_OK);
    PM_TRY(pm_session_wait_all(s));
    pm_pass_shape p = {.n = (uint32_t)n, .n_out = logits ? (uint32_t)n : 0, .logits = logits != NULL};
    PM_TRY(run_batch(s, batch, n, &p));
    PM_TRY(pm_session_wait_all(s));
    if (logits)
        *logits = pm_slice_map(s->logits_out);
    return PM_OK;
}

pm_status pm_session_eval_hidden(pm_session *s, const pm_batch_row *batch, int n, const uint32_t *index, uint32_t n_out,
                                 pm_hidden_rows *hidden) {
    PM_TRY(pm_session_wait_all(s));
    pm_pass_shape p = {.n = (uint32_t)n, .n_out = n_out, .hidden = n_out > 0};
    memcpy(pm_slice_map(s->staging[0].index), index, n_out * sizeof *index);
    PM_TRY(run_batch(s, batch, n, &p));
    const pm_recording *r = s->running[0];
    PM_TRY(pm_session_wait_all(s));
    *hidden = (pm_hidden_rows){
        .normed = pm_slice_map(s->normed_out),
        .squares = pm_slice_map(s->squares_out),
        .stride = (uint32_t)pm_round_up(s->model->config.dim, PM_BLOCK),
        .n_squares = r->shape.n_squares,
    };
    return PM_OK;
}
