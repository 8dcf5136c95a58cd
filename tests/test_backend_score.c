// pm_session_score against the logits that transformers computed, against logits of eval one by one, and what it refuses.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "model_data.h"

static double log_softmax(const float *logits, uint32_t n, int32_t id) {
    double most = logits[0], sum = 0;
    for (uint32_t i = 1; i < n; i++)
        most = fmax(most, (double)logits[i]);
    for (uint32_t i = 0; i < n; i++)
        sum += exp((double)logits[i] - most);
    return (double)logits[id] - most - log(sum);
}

static double largest(const float *logits, uint32_t n) {
    double most = 0;
    for (uint32_t i = 0; i < n; i++)
        most = fmax(most, fabs((double)logits[i]));
    return most;
}

static void score(pm_session *session, int seq, const int32_t *ids, size_t n, size_t first, double *logprobs) {
    if (pm_session_score(session, seq, ids, n, first, logprobs) != PM_OK)
        fail_msg("score of %zu ids from %zu on: %s", n, first, pm_error_text());
}

static void fails_with(pm_status status, pm_status wanted, const char *text) {
    if (status != wanted || !strstr(pm_error_text(), text))
        fail_msg("wanted %d with \"%s\", got %d: %s", wanted, text, status, status ? pm_error_text() : "");
}

// Each prompt's logits are known behind its last id: they tell how likely any id is there.
static void check_golden(const char *name) {
    golden g = golden_open(name, TRANSFORMERS);
    pm_model *model = checkpoint_open(name, true);
    pm_session *session = session_of(model, (pm_session_options){.ctx = 320, .precision = PM_PRECISION_F32});
    for (int i = 0; i < N_CASES; i++) {
        const golden_case *c = &g.cases[i];
        int32_t *ids = malloc((c->n + 1) * sizeof(*ids));
        memcpy(ids, c->ids, c->n * sizeof(*ids));
        for (int k = 0; k < 2; k++) {
            double got;
            ids[c->n] = k == 0 ? c->greedy[0] : (int32_t)(((unsigned)i * 71 + (unsigned)k * 97) % g.vocab);
            pm_session_rewind(session, 0, 0);
            score(session, 0, ids, c->n + 1, c->n, &got);
            double want = log_softmax(c->logits, g.vocab, ids[c->n]);
            if (!(fabs(got - want) <= 2 * BOUND_F32 * largest(c->logits, g.vocab)))
                fail_msg("%s, case %d, id %d: %g, not %g", name, i, (int)ids[c->n], got, want);
        }
        free(ids);
    }
    pm_session_close(&session);
    pm_model_close(&model);
    golden_close(&g);
}

static void scores_are_the_goldens(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(checkpoints); i++)
        check_golden(checkpoints[i]);
}

// In batches of 8 and of 100, from anywhere, in any sequence, behind what is there already: what one eval after another says.
static void batches_are_steps(void **state) {
    (void)state;
    enum { N = 130 };
    golden g = golden_open("qwen3-yarn", REFERENCE);
    pm_model *model = checkpoint_open("qwen3-yarn", false);
    pm_session_options options = {.ctx = 160, .n_seqs = 2, .precision = PM_PRECISION_F32};
    pm_session *steps = session_of(model, options);
    options.max_batch = 100;
    pm_session *wide = session_of(model, options);
    assert_int_equal(pm_session_max_batch(steps), PM_BATCH_MAX);
    assert_int_equal(pm_session_max_batch(wide), 100);
    const int32_t *ids = g.cases[3].ids;
    double want[N], got[N];
    for (size_t i = 0; i + 1 < N; i++)
        want[i + 1] = log_softmax(eval(steps, 0, ids + i, 1), g.vocab, ids[i + 1]);
    const size_t firsts[] = {1, 2, 9, 29, 30, 31, 128, 129};
    for (size_t k = 0; k < COUNT(firsts); k++) {
        pm_session *session = k % 2 ? steps : wide;
        size_t before = k % 3 == 0 ? 0 : 1; // ids that the sequence holds already
        pm_session_rewind(session, 1, 0);
        if (firsts[k] <= before)
            before = 0;
        if (before > 0)
            eval(session, 1, ids, before);
        score(session, 1, ids + before, N - before, firsts[k] - before, got);
        assert_int_equal(pm_session_pos(session, 1), N);
        for (size_t i = firsts[k]; i < N; i++)
            if (!(fabs(got[i - firsts[k]] - want[i]) <= 1e-3))
                fail_msg("from %zu on, id %zu: %g, not %g", firsts[k], i, got[i - firsts[k]], want[i]);
    }
    pm_session_close(&steps);
    pm_session_close(&wide);
    pm_model_close(&model);
    golden_close(&g);
}

static void nonsense_is_refused(void **state) {
    (void)state;
    golden g = golden_open("qwen3-yarn", REFERENCE);
    pm_model *model = checkpoint_open("qwen3-yarn", false);
    pm_session *session = session_of(model, (pm_session_options){.ctx = 64, .max_batch = 16});
    int32_t ids[65];
    double logprobs[65];
    pm_batch_row rows[17] = {{0, 1}};
    memcpy(ids, g.cases[3].ids, sizeof(ids));
    fails_with(pm_session_score(session, 0, ids, 0, 0, logprobs), PM_ERR_USAGE, "from 0 on of 0");
    fails_with(pm_session_score(session, 0, ids, 4, 0, logprobs), PM_ERR_USAGE, "from 0 on of 4");
    fails_with(pm_session_score(session, 0, ids, 4, 4, logprobs), PM_ERR_USAGE, "from 4 on of 4");
    fails_with(pm_session_score(session, 0, ids, 65, 1, logprobs), PM_ERR_CONTEXT, "65 tokens does not fit");
    fails_with(pm_session_score(session, 1, ids, 4, 1, logprobs), PM_ERR_USAGE, "no sequence 1");
    fails_with(pm_session_eval_batch(session, rows, 17, NULL), PM_ERR_USAGE, "1 to 16");
    ids[3] = (int32_t)g.vocab; // the last one is not run for its logits, and yet
    fails_with(pm_session_score(session, 0, ids, 4, 1, logprobs), PM_ERR_USAGE, "outside the vocabulary");
    assert_int_equal(pm_session_pos(session, 0), 0);
    pm_alloc_fail_after(1);
    fails_with(pm_session_score(session, 0, ids, 3, 1, logprobs), PM_ERR_MEMORY, "no memory");
    pm_alloc_fail_after(0);
    score(session, 0, ids, 3, 1, logprobs);
    pm_session_close(&session);
    pm_model_close(&model);
    golden_close(&g);
}

// As many rows as the device binds at once, however many were asked for: a session opens, and a whole batch runs.
static void a_batch_fits_the_binding(void **state) {
    (void)state;
    override_device("PM_MAX_BINDING_BYTES", "1048576"); // 204 rows of 1280 logits of 4 bytes
    pm_model *model = model_at(TINY, false);
    pm_session *session = session_of(model, (pm_session_options){.ctx = 256, .max_batch = 100000});
    pm_batch_row rows[204] = {{0, 1}};
    uint32_t n = pm_session_max_batch(session);
    assert_int_equal(n, 204);
    const float *logits, *last;
    assert_int_equal(pm_session_eval_batch(session, rows, (int)n, &logits), PM_OK);
    last = logits + (size_t)(n - 1) * pm_session_logits_stride(session);
    assert_true(last[0] != last[1] && !isnan(last[0]));
    pm_session_close(&session);
    pm_model_close(&model);
}

int main(void) {
    int skip = open_device_or_skip();
    if (skip)
        return skip;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scores_are_the_goldens),
        cmocka_unit_test(batches_are_steps),
        cmocka_unit_test(nonsense_is_refused),
        cmocka_unit_test_teardown(a_batch_fits_the_binding, restore_device),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    pm_device_close(&dev);
    return failed;
}
