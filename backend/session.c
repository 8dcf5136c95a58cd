// Sessions: opened and closed, and what they tell. pass.c runs passes, eval.c prompts and batches, generate.c answers.
#include "backend/session.h"

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
        [PM_PIECE_SIEVED] = &s->sieved,
        [PM_PIECE_NEXT] = &s->device.next,
        [PM_PIECE_SEEN] = &s->seen,
        [PM_PIECE_BIAS] = &s->bias,
        [PM_PIECE_ADJUSTED] = &s->adjusted,
        [PM_PIECE_QUANTS] = &a->quants,
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
    for (int i = 0; i < PM_N_SLOTS; i++) {
        s->staging[i].rows = take(s->upload, &at, bytes[PM_PIECE_ROWS]);
        s->staging[i].index = take(s->upload, &at, bytes[PM_PIECE_INDEX]);
        s->staging[i].sampling = take(s->upload, &at, bytes[PM_PIECE_SAMPLING]);
    }
    s->pages_staging = take(s->upload, &at, bytes[PM_PIECE_PAGES]);

    at = 0;
    PM_TRY(pm_buffer_create(s->model->dev, sizes->readback, PM_MEM_READBACK, "results", &s->readback));
    for (int i = 0; i < PM_N_SLOTS; i++) {
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
    s->row_ns = s->step_ns = PM_NS_UNKNOWN;
    pm_status status = open_session(s, options);
    if (status != PM_OK)
        pm_session_close(session);
    return status;
}

void pm_session_close(pm_session **session) {
    pm_session *s = *session;
    if (!s)
        return;
    for (int i = 0; i < PM_MAX_RECORDINGS; i++)
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

// ---- the rest --------------------------------------------------------------------------------------------------------------

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
    PM_TRY(pm_session_wait_all(s));
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
