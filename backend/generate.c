// Generation, one step ahead of the ids that are read; and the tuning of the passes that it is made of.
#include "backend/session.h"

// What penalties and bias begin with. No pass runs.
static pm_status upload_adjustments(pm_session *s, const int32_t *ids, size_t n, const pm_sampler *sampler) {
    uint32_t n_valid = s->model->n_valid;
    uint64_t bytes = n_valid * sizeof(uint32_t);
    void *words = pm_calloc(n_valid, sizeof(uint32_t));
    if (!words)
        return pm_fail(PM_ERR_MEMORY, "no memory for the penalties of %u ids", n_valid);
    pm_sampler_fill_seen(sampler, ids, n, n_valid, words);
    pm_status status = pm_slice_write(s->model->dev, pm_buffer_slice(s->seen.buffer, s->seen.offset, bytes), words, bytes);
    if (status == PM_OK) {
        pm_sampler_fill_bias(sampler, n_valid, words);
        status = pm_slice_write(s->model->dev, pm_buffer_slice(s->bias.buffer, s->bias.offset, bytes), words, bytes);
    }
    pm_free(words);
    return status;
}

pm_status pm_session_start(pm_session *s, int seq, const int32_t *ids, size_t n, const pm_sampler *sampler) {
    PM_TRY(pm_session_check(s, seq, ids, n));
    PM_TRY(pm_session_check_head(s));
    PM_TRY(pm_sampler_check(sampler, s->model->config.vocab_size));
    PM_TRY(pm_session_wait_all(s));
    s->n_logprobs = 0;
    s->gen = (pm_generation){.seq = seq, .adjust = pm_sampler_adjusts(sampler)};
    if (sampler->logprobs)
        s->gen.n_likely = 1 + (sampler->top_logprobs < s->model->n_valid ? sampler->top_logprobs : s->model->n_valid);
    if (s->gen.adjust)
        PM_TRY(upload_adjustments(s, ids, n, sampler));
    pm_pass_shape last = {.n_out = 1, .sample = true, .adjust = s->gen.adjust, .n_likely = s->gen.n_likely};
    PM_TRY(pm_session_prompt(s, seq, ids, n, &last, sampler, &s->gen.slot));
    s->gen.running = true;
    return PM_OK;
}

// Runs the id that is being drawn, and draws the one after it.
static pm_status step_ahead(pm_session *s, int slot) {
    uint32_t *pos = &s->pos[s->gen.seq];
    PM_TRY(pm_session_wait_slot(s, slot));
    PM_TRY(pm_session_reserve(s, s->gen.seq, *pos + 1));
    pm_pass_shape p = {.n = 1,
                       .n_out = 1,
                       .kv_bound = pm_kv_class(*pos + 1),
                       .slot = slot,
                       .chained = true,
                       .sample = true,
                       .adjust = s->gen.adjust,
                       .n_likely = s->gen.n_likely};
    PM_TRY(pm_session_submit(s, &p));
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
    pm_generation *g = &s->gen;
    if (!g->running)
        return pm_fail(PM_ERR_USAGE, "no generation is running");
    int other = (g->slot + 1) % PM_N_SLOTS;
    if (g->slot < 0)
        return pm_fail(PM_ERR_CONTEXT, "the context of %u is full", s->ctx);
    bool room = s->pos[g->seq] < s->ctx;
    if (room)
        PM_TRY(step_ahead(s, other));
    PM_TRY(pm_session_wait_slot(s, g->slot));
    *id = *(const int32_t *)pm_slice_map(s->results[g->slot]);
    take_logprobs(s, g->slot);
    g->slot = room ? other : -1; // -1: that was the last one
    g->n_drawn++;
    s->turn = other + 1;
    return PM_OK;
}

pm_status pm_session_end(pm_session *s) {
    pm_generation *g = &s->gen;
    if (!g->running)
        return PM_OK;
    g->running = false;
    PM_TRY(pm_session_wait_all(s));
    if (g->n_drawn > 0 && g->slot >= 0)
        pm_session_rewind(s, g->seq, s->pos[g->seq] - 1); // what was run ahead
    return PM_OK;
}

const pm_logprob *pm_session_logprobs(const pm_session *s, int *n) {
    *n = s->n_logprobs;
    return s->logprobs;
}

// ---- tuning ----------------------------------------------------------------------------------------------------------------

// Rehearses the pass of n rows as it will be run. The products of all rehearsals but the last are lost to the next: one at a time.
static pm_status tune_pass(pm_session *s, pm_cmd *cmd, uint32_t n, double seconds, pm_tune_what what) {
    pm_pass_shape p = {.n = n, .n_out = 1, .kv_bound = pm_kv_class(n), .sample = true};
    PM_TRY(pm_session_rehearse(s, &p, cmd));
    return pm_tune_products(s->model->dev, cmd, seconds, what);
}

// A step of decoding, a chunk, a batch: half of what is left for each. A first answer does not wait for batches.
static pm_status tune_passes(pm_session *s, pm_cmd *cmd, double seconds, pm_tune_what what) {
    const uint32_t rows[] = {1, s->max_rows, PM_BATCH_MAX / 2};
    uint64_t began = pm_now_ns();
    for (int i = 0; i < (what == PM_TUNE_NEW ? 2 : 3); i++) {
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
    PM_TRY(pm_session_wait_all(s));
    PM_TRY(pm_cmd_open(s->model->dev, "rehearsal", &cmd));
    pm_cmd_note_products(cmd, true);
    pm_status status = tune_passes(s, cmd, seconds, what);
    pm_cmd_close(&cmd);
    for (int i = 0; i < PM_MAX_RECORDINGS; i++)
        s->recordings[i].used = 0; // they follow the old plan
    return status;
}
