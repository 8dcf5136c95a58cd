// How likely a text is to a model: what perplexity is made of.
#include <math.h>

#include "backend/model.h"

typedef struct scored_rows {
    const float *logits; // of each row, `stride` apart
    uint32_t stride, vocab_size;
    const int32_t *next; // the id that follows each row
    double *logprobs;    // of it
} scored_rows;

// ln softmax(logits)[next]
static void score_row(void *user, int i) {
    const scored_rows *r = user;
    const float *logits = r->logits + (size_t)i * r->stride;
    float most = logits[0];
    for (uint32_t id = 1; id < r->vocab_size; id++)
        most = logits[id] > most ? logits[id] : most;
    double sum = 0;
    for (uint32_t id = 0; id < r->vocab_size; id++)
        sum += expf(logits[id] - most);
    r->logprobs[i] = (double)(logits[r->next[i]] - most) - log(sum);
}

// Runs `count` ids in one pass for the probabilities of `n_scored` ids that come after the first, the second, ...
static pm_status score_pass(pm_session *s, int seq, const int32_t *ids, uint32_t count, uint32_t n_scored, pm_batch_row *rows,
                            double *logprobs) {
    scored_rows scored = {
        .stride = pm_session_logits_stride(s),
        .vocab_size = pm_model_config(pm_session_model(s))->vocab_size,
        .next = ids + 1,
        .logprobs = logprobs,
    };
    for (uint32_t i = 0; i < count; i++)
        rows[i] = (pm_batch_row){.seq = seq, .id = ids[i]};
    PM_TRY(pm_session_eval_batch(s, rows, (int)count, &scored.logits));
    pm_parallel_for((int)n_scored, score_row, &scored);
    return PM_OK;
}

static pm_status score_all(pm_session *s, int seq, const int32_t *ids, size_t n, pm_batch_row *rows, double *logprobs) {
    uint32_t most = pm_session_max_batch(s);
    for (size_t at = 0; at < n;) {
        uint32_t count = n - at < most ? (uint32_t)(n - at) : most;
        bool is_last = at + count == n; // nothing comes after the last id
        PM_TRY(score_pass(s, seq, ids + at, count, count - is_last, rows, logprobs + at));
        at += count;
    }
    return PM_OK;
}

pm_status pm_session_score(pm_session *s, int seq, const int32_t *ids, size_t n, size_t first, double *logprobs) {
    if (first < 1 || first >= n)
        return pm_fail(PM_ERR_USAGE, "the tokens from %zu on of %zu cannot be scored: something must stand before them", first, n);
    PM_TRY(pm_session_check(s, seq, ids, n));
    if (first > 1)
        PM_TRY(pm_session_eval(s, seq, ids, first - 1, NULL));
    pm_batch_row *rows = pm_calloc(pm_session_max_batch(s), sizeof *rows);
    if (!rows)
        return pm_fail(PM_ERR_MEMORY, "no memory for a batch of %u rows", pm_session_max_batch(s));
    pm_status status = score_all(s, seq, ids + first - 1, n - first + 1, rows, logprobs);
    pm_free(rows);
    return status;
}
