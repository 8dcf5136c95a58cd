// What texts mean, as vectors: the hidden state behind the last norm, pooled and brought to length 1.
#include <math.h>
#include <string.h>

#include "backend/model.h"

// Texts of several sequences share a pass: it takes ids until it is full, and the next one goes on where it stopped.
typedef struct embedding {
    pm_session *session;
    const pm_model *model;
    const pm_embed_text *texts;
    int n_texts;
    uint32_t dim;
    bool mean; // over all tokens; else the last one
    int text;  // that goes on, and how many of its ids have run
    size_t at;

    pm_batch_row *rows; // (max_rows)
    uint32_t *index;    // (max_out): rows whose hidden state is wanted
    int *owner;         // (max_out): the text of each
    double *sums;       // (n_texts, dim)
    double *row;        // (dim)
} embedding;

void pm_hidden_row(const pm_model *model, const pm_hidden_rows *hidden, uint32_t i, double *out) {
    uint32_t dim = model->config.dim;
    const float *normed = hidden->normed + (size_t)i * hidden->stride, *squares = hidden->squares + (size_t)i * hidden->stride;
    double sum = 0;
    for (uint32_t k = 0; k < hidden->n_squares; k++)
        sum += squares[k];
    double factor = 1 / sqrt(sum / dim + model->config.norm_eps);
    for (uint32_t k = 0; k < dim; k++)
        out[k] = normed[k] * factor;
}

// Fills a pass; returns its rows, and in *n_out how many of them are wanted.
static int fill_pass(embedding *e, uint32_t *n_out) {
    uint32_t most_rows = e->mean ? pm_session_max_batch(e->session) : pm_session_max_rows(e->session);
    uint32_t most_out = pm_session_max_batch(e->session), n = 0;
    *n_out = 0;
    while (e->text < e->n_texts && n < most_rows && *n_out < most_out) {
        const pm_embed_text *text = &e->texts[e->text];
        e->rows[n] = (pm_batch_row){.seq = text->seq, .id = text->ids[e->at++]};
        bool is_last = e->at == text->n;
        if (is_last || e->mean) {
            e->index[*n_out] = n;
            e->owner[(*n_out)++] = e->text;
        }
        n++;
        e->text += is_last;
        e->at = is_last ? 0 : e->at;
    }
    return (int)n;
}

static pm_status run_pass(embedding *e) {
    pm_hidden_rows hidden;
    uint32_t n_out;
    int n = fill_pass(e, &n_out);
    PM_TRY(pm_session_eval_hidden(e->session, e->rows, n, e->index, n_out, &hidden));
    for (uint32_t i = 0; i < n_out; i++) {
        double *sum = e->sums + (size_t)e->owner[i] * e->dim;
        pm_hidden_row(e->model, &hidden, i, e->row);
        for (uint32_t k = 0; k < e->dim; k++)
            sum[k] += e->row[k];
    }
    return PM_OK;
}

static void normalise(const double *from, uint32_t dims, float *to) {
    double squares = 0;
    for (uint32_t k = 0; k < dims; k++)
        squares += from[k] * from[k];
    double factor = squares > 0 ? 1 / sqrt(squares) : 0;
    for (uint32_t k = 0; k < dims; k++)
        to[k] = (float)(from[k] * factor);
}

static void empty_sequences(const embedding *e) {
    for (int i = 0; i < e->n_texts; i++)
        pm_session_rewind(e->session, e->texts[i].seq, 0);
}

static pm_status embed(embedding *e, uint32_t dims, float *out) {
    size_t max_out = pm_session_max_batch(e->session);
    e->rows = pm_calloc(pm_session_max_rows(e->session), sizeof *e->rows);
    e->index = pm_calloc(max_out, sizeof *e->index);
    e->owner = pm_calloc(max_out, sizeof *e->owner);
    e->sums = pm_calloc((size_t)e->n_texts * e->dim, sizeof *e->sums);
    e->row = pm_calloc(e->dim, sizeof *e->row);
    if (!e->rows || !e->index || !e->owner || !e->sums || !e->row)
        return pm_fail(PM_ERR_MEMORY, "no memory to embed %d texts", e->n_texts);
    pm_status status = PM_OK;
    while (status == PM_OK && e->text < e->n_texts)
        status = run_pass(e);
    empty_sequences(e);
    for (int i = 0; status == PM_OK && i < e->n_texts; i++)
        normalise(e->sums + (size_t)i * e->dim, dims, out + (size_t)i * dims);
    return status;
}

static pm_status check(const embedding *e, uint32_t dims) {
    if (e->model->config.pooling == PM_POOL_FIRST)
        return pm_fail(PM_ERR_UNSUPPORTED, "the model pools its first token, which has seen no other: supported are last and mean");
    if (dims > e->dim)
        return pm_fail(PM_ERR_USAGE, "an embedding of %u numbers: the model gives %u", dims, e->dim);
    for (int i = 0; i < e->n_texts; i++)
        for (int k = 0; k < i; k++)
            if (e->texts[k].seq == e->texts[i].seq)
                return pm_fail(PM_ERR_USAGE, "texts %d and %d are both of sequence %d", k, i, e->texts[i].seq);
    return PM_OK;
}

static pm_status check_texts(const embedding *e) {
    for (int i = 0; i < e->n_texts; i++) {
        const pm_embed_text *text = &e->texts[i];
        PM_TRY(pm_session_check(e->session, text->seq, text->ids, text->n));
        if (pm_session_pos(e->session, text->seq) > 0)
            return pm_fail(PM_ERR_USAGE, "sequence %d is not empty: a text to embed stands alone", text->seq);
    }
    return PM_OK;
}

pm_status pm_session_embed(pm_session *s, const pm_embed_text *texts, int n, uint32_t dims, float *out) {
    const pm_model *model = pm_session_model(s);
    embedding e = {
        .session = s,
        .model = model,
        .texts = texts,
        .n_texts = n,
        .dim = model->config.dim,
        .mean = model->config.pooling == PM_POOL_MEAN,
    };
    PM_TRY(check(&e, dims));
    PM_TRY(check_texts(&e));
    pm_status status = embed(&e, dims ? dims : e.dim, out);
    pm_free(e.rows);
    pm_free(e.index);
    pm_free(e.owner);
    pm_free(e.sums);
    pm_free(e.row);
    return status;
}
