// The passes of a session: a command buffer for each shape, recorded once, filled through its slot's staging, replayed.
#include "backend/session.h"

#include <stdio.h>
#include <string.h>

static pm_slice front(pm_slice slice, uint64_t bytes) {
    return (pm_slice){slice.buffer, slice.offset, bytes};
}

static void copy_front(pm_cmd *cmd, pm_slice dst, pm_slice src, uint64_t bytes) {
    if (bytes)
        pm_cmd_copy(cmd, front(dst, bytes), front(src, bytes));
}

static void record_input(pm_session *s, const pm_pass_shape *p, pm_cmd *cmd) {
    const pm_step *from = &s->staging[p->slot];
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

static void record_hidden_output(pm_session *s, pm_pass_shape *p, pm_cmd *cmd, const pm_hidden *hidden) {
    p->n_squares = hidden->n_parts;
    copy_front(cmd, s->normed_out, hidden->normed.data, hidden->normed.data.size);
    copy_front(cmd, s->squares_out, hidden->squares.data, hidden->squares.data.size);
}

static void record_draw(pm_session *s, const pm_pass_shape *p, pm_cmd *cmd, pm_tensor logits, pm_slice index) {
    const pm_step *d = &s->device;
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
                          .scratch = s->sieved,
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

static pm_status record_pass(pm_session *s, pm_pass_shape *p, pm_cmd *cmd) {
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
    pm_cmd_section(cmd, "sample");
    if (p->sample)
        record_draw(s, p, cmd, logits, index);
    if (p->logits)
        copy_front(cmd, s->logits_out, s->act.logits, logits.data.size);
    if (p->hidden)
        record_hidden_output(s, p, cmd, &hidden);
    return pm_cmd_end(cmd);
}

pm_status pm_session_rehearse(pm_session *s, pm_pass_shape *p, pm_cmd *cmd) {
    pm_cmd_exact(cmd, s->exact);
    pm_cmd_fast(cmd, s->act.quants);
    do {
        pm_cmd_begin_dry(cmd);
        PM_TRY(record_pass(s, p, cmd));
        PM_TRY(pm_cmd_prepare(cmd));
    } while (pm_cmd_is_stale(cmd));
    return PM_OK;
}

// How long passes take is learnt by rows: one of few is about as long as one of one. Nothing is known at first.
enum { STEP_ROWS = 8 };

static uint64_t expected_ns(const pm_session *s, const pm_pass_shape *p) {
    if (p->n <= STEP_ROWS)
        return s->step_ns;
    return s->row_ns == PM_NS_UNKNOWN ? PM_NS_UNKNOWN : s->row_ns * p->n;
}

// A step takes less than a prompt.
static void learn_ns(pm_session *s, const pm_pass_shape *p, uint64_t ns) {
    if (p->n > STEP_ROWS)
        s->row_ns = ns / p->n;
    if (p->n <= STEP_ROWS || ns < s->step_ns)
        s->step_ns = ns;
}

// A rehearsal first, so that kernels that are new here are tried, and pipelines that are not there yet are made in parallel.
static pm_status record(pm_session *s, pm_pass_shape *p, pm_cmd *cmd) {
    pm_cmd_profile(cmd, s->profiled);
    PM_TRY(pm_session_rehearse(s, p, cmd));
    pm_cmd_expect(cmd, expected_ns(s, p));
    pm_cmd_begin(cmd);
    return record_pass(s, p, cmd);
}

static bool same_shape(const pm_pass_shape *a, const pm_pass_shape *b) {
    return a->n == b->n && a->n_out == b->n_out && a->kv_bound == b->kv_bound && a->slot == b->slot &&
           a->consecutive == b->consecutive && a->chained == b->chained && a->sample == b->sample && a->logits == b->logits &&
           a->hidden == b->hidden && a->adjust == b->adjust && a->n_likely == b->n_likely;
}

// The recording of this shape, or the one used longest ago among those that do not run.
static pm_recording *find_recording(pm_session *s, const pm_pass_shape *p, bool *found) {
    pm_recording *oldest = NULL;
    for (int i = 0; i < PM_MAX_RECORDINGS; i++) {
        pm_recording *r = &s->recordings[i];
        *found = r->used > 0 && same_shape(&r->shape, p);
        if (*found)
            return r;
        if (r != s->running[0] && r != s->running[1] && (!oldest || r->used < oldest->used))
            oldest = r;
    }
    return oldest;
}

static bool belongs(const pm_timing *t, const pm_profile_row *row) {
    return row->kernel == t->kernel && row->label == t->label && row->rows == t->rows && row->cols == t->cols &&
           !strcmp(row->numbers, t->numbers);
}

static pm_profile_row row_for(const pm_timing *t) {
    pm_profile_row row = {.kernel = t->kernel, .label = t->label, .rows = t->rows, .cols = t->cols};
    snprintf(row.numbers, sizeof(row.numbers), "%s", t->numbers);
    return row;
}

static void gather_profile(pm_session *s, pm_cmd *cmd) {
    int n;
    const pm_timing *timings = pm_cmd_timings(cmd, &n);
    for (int k = 0; k < s->n_profile; k++)
        s->profile[k].last = 0;
    for (int i = 0; i < n; i++) {
        int k = 0;
        while (k < s->n_profile && !belongs(&timings[i], &s->profile[k]))
            k++;
        if (k == PM_MAX_PROFILE)
            continue;
        if (k == s->n_profile)
            s->profile[s->n_profile++] = row_for(&timings[i]);
        s->profile[k].count++;
        s->profile[k].last++;
        s->profile[k].ns += timings[i].ns;
        s->profile[k].bytes += timings[i].bytes;
        s->profile[k].flops += timings[i].flops;
    }
}

pm_status pm_session_wait_slot(pm_session *s, int slot) {
    pm_recording *r = s->running[slot];
    if (!r)
        return PM_OK;
    s->running[slot] = NULL;
    PM_TRY(pm_cmd_wait(r->cmd));
    learn_ns(s, &r->shape, pm_cmd_run_ns(r->cmd));
    if (s->profiled)
        gather_profile(s, r->cmd);
    return PM_OK;
}

pm_status pm_session_wait_all(pm_session *s) {
    for (int i = 0; i < PM_N_SLOTS; i++)
        PM_TRY(pm_session_wait_slot(s, i));
    return PM_OK;
}

pm_status pm_session_submit(pm_session *s, const pm_pass_shape *p) {
    bool found;
    pm_recording *r = find_recording(s, p, &found);
    if (!r->cmd)
        PM_TRY(pm_cmd_open(s->model->dev, "pass", &r->cmd));
    if (!found || !s->replay || !pm_cmd_is_cut_for(r->cmd, expected_ns(s, p))) {
        r->used = 0;
        r->shape = *p;
        PM_TRY(record(s, &r->shape, r->cmd));
    }
    r->used = ++s->clock;
    PM_TRY(pm_cmd_submit(r->cmd));
    s->running[p->slot] = r;
    return PM_OK;
}
