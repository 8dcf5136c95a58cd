// Contexts longer than the training: YaRN asked for where the file says nothing, and a factor for each sequence.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "model_data.h"
#include "temp.h"

static const char name[] = "qwen3-yarn";
enum { FACTOR = 4, ORIGINAL_CTX = 64, MAX_CTX = 330 }; // as its config.json has them

// The checkpoint without a word of YaRN.
static const char *plain_path(void) {
    cJSON *config = read_json(checkpoint_path(name, "config.json"));
    assert_true(cJSON_GetNumberValue(member(member(config, "rope_parameters"), "factor")) == FACTOR);
    cJSON_AddItemToObject(config, "rope_theta", cJSON_Duplicate(member(member(config, "rope_parameters"), "rope_theta"), true));
    cJSON_DeleteItemFromObject(config, "rope_parameters");
    char *text = cJSON_Print(config);
    temp_text("config.json", text);
    cJSON_free(text);
    cJSON_Delete(config);
    temp_copy(checkpoint_path(name, "model.safetensors"), "model.safetensors");
    return temp_path("");
}

static pm_model *plain_with(pm_rope_options rope) {
    pm_model *model;
    pm_model_options options = {.rope = rope};
    options.rope.given = rope.scaling != PM_ROPE_NONE;
    MUST(pm_model_open(dev, plain_path(), &options, &model));
    return model;
}

static pm_model *yarn_by_options(double factor) {
    return plain_with((pm_rope_options){.scaling = PM_ROPE_YARN, .factor = factor, .original_ctx = ORIGINAL_CTX});
}

static pm_session *session_for(pm_model *model, uint32_t n_seqs) {
    return session_of(model, (pm_session_options){.ctx = MAX_CTX, .n_seqs = n_seqs, .precision = PM_PRECISION_F32});
}

static void check_golden(pm_session *session, int seq, const golden *g, const char *what) {
    for (size_t i = 0; i < N_CASES; i++) {
        const golden_case *c = &g->cases[i];
        int32_t ids[64];
        pm_session_rewind(session, seq, 0);
        assert_close(eval(session, seq, c->ids, c->n), c->logits, g->vocab, BOUND_F32, what, i);
        pm_session_rewind(session, seq, 0);
        generate(session, seq, c->ids, c->n, &(pm_sampler){0}, ids, c->n_greedy);
        assert_memory_equal(ids, c->greedy, c->n_greedy * sizeof *ids);
    }
}

// ---- a factor for the model ---------------------------------------------------------------------------------------------

static void options_are_as_good_as_the_file(void **state) {
    (void)state;
    golden g = golden_open(name, REFERENCE);
    pm_model *model = yarn_by_options(FACTOR);
    assert_int_equal(pm_model_config(model)->max_ctx, FACTOR * ORIGINAL_CTX);
    pm_session *session = session_for(model, 1);
    assert_true(pm_session_rope_factor(session, 0) == FACTOR);
    check_golden(session, 0, &g, "YaRN by options, case");
    pm_session_close(&session);
    pm_model_close(&model);
    golden_close(&g);
}

static void nonsense_is_refused(void **state) {
    (void)state;
    pm_model *model;
    pm_model_options options = {.rope = {.given = true, .scaling = PM_ROPE_YARN}};
    assert_int_equal(pm_model_open(dev, checkpoint_path(name, ""), &options, &model), PM_ERR_USAGE);
    assert_null(model);
}

// ---- a factor for each sequence -------------------------------------------------------------------------------------------

enum { N_SEQS = 3 };
static const double factors[N_SEQS] = {1, 4, 2};

// The model's own factor, and that of each sequence, in one session that was opened without YaRN.
static void a_sequence_has_its_factor(void **state) {
    (void)state;
    golden g = golden_open(name, REFERENCE);
    pm_model *model = yarn_by_options(1);
    pm_session *session = session_for(model, 2);
    MUST(pm_session_set_rope_factor(session, 1, FACTOR));
    assert_true(pm_session_rope_factor(session, 0) == 1 && pm_session_rope_factor(session, 1) == FACTOR);
    check_golden(session, 1, &g, "YaRN of a sequence, case");
    pm_session_close(&session);
    pm_model_close(&model);
    golden_close(&g);
}

// Sequence i's logits after its prompt and after each of `steps` more ids, (1 + steps, vocab), from a model with a factor for all.
static float *logits_alone(double factor, const golden_case *c, size_t n, size_t steps, uint32_t vocab) {
    pm_model *model = yarn_by_options(factor);
    pm_session *session = session_for(model, 1);
    float *all = malloc((1 + steps) * vocab * sizeof *all);
    assert_non_null(all);
    memcpy(all, eval(session, 0, c->ids, n), vocab * sizeof *all);
    for (size_t k = 0; k < steps; k++)
        memcpy(all + (1 + k) * vocab, eval(session, 0, c->ids + n + k, 1), vocab * sizeof *all);
    pm_session_close(&session);
    pm_model_close(&model);
    return all;
}

static void factors_share_a_batch(void **state) {
    (void)state;
    enum { STEPS = 8 };
    golden g = golden_open(name, REFERENCE);
    const golden_case *c = &g.cases[3];
    const size_t n = 200;
    assert_true(c->n >= n + STEPS);
    float *want[N_SEQS];
    pm_model *model = checkpoint_open(name, false);
    pm_session *session = session_for(model, N_SEQS);
    uint32_t stride = pm_session_logits_stride(session);
    for (int i = 0; i < N_SEQS; i++) {
        want[i] = logits_alone(factors[i], c, n, STEPS, g.vocab);
        MUST(pm_session_set_rope_factor(session, i, factors[i]));
        assert_memory_equal(eval(session, i, c->ids, n), want[i], g.vocab * sizeof(float)); // the very bits
        assert_true(i == 0 || difference(want[i], want[0], g.vocab) > 5 * BOUND_F16);
    }
    for (size_t k = 0; k < STEPS; k++) {
        pm_batch_row rows[N_SEQS];
        const float *logits;
        for (int i = 0; i < N_SEQS; i++)
            rows[i] = (pm_batch_row){.seq = i, .id = c->ids[n + k]};
        MUST(pm_session_eval_batch(session, rows, N_SEQS, &logits));
        for (uint32_t i = 0; i < N_SEQS; i++)
            assert_close(logits + i * stride, want[i] + (1 + k) * g.vocab, g.vocab, BOUND_F32, "step", k);
    }
    for (int i = 0; i < N_SEQS; i++)
        free(want[i]);
    pm_session_close(&session);
    pm_model_close(&model);
    golden_close(&g);
}

// A conversation that outgrows its factor is run anew with another; one that holds anything cannot change.
static void a_factor_changes_when_empty(void **state) {
    (void)state;
    golden g = golden_open(name, REFERENCE);
    pm_model *model = checkpoint_open(name, false);
    pm_session *session = session_for(model, 2);
    assert_true(pm_session_rope_factor(session, 0) == FACTOR); // the file's
    MUST(pm_session_set_rope_factor(session, 0, 1));
    eval(session, 0, g.cases[0].ids, g.cases[0].n);
    assert_int_equal(pm_session_set_rope_factor(session, 0, FACTOR), PM_ERR_USAGE);
    assert_true(pm_session_rope_factor(session, 0) == 1);
    pm_session_rewind(session, 0, 0);
    MUST(pm_session_set_rope_factor(session, 0, FACTOR));
    check_golden(session, 0, &g, "after another factor, case");
    pm_session_close(&session);
    pm_model_close(&model);
    golden_close(&g);
}

// Beside the model's own, three; one that nobody uses any more makes room.
static void factors_are_few(void **state) {
    (void)state;
    pm_model *model = checkpoint_open(name, false);
    pm_session *session = session_for(model, 6);
    for (int i = 0; i < 3; i++)
        MUST(pm_session_set_rope_factor(session, i, i + 1));
    assert_int_equal(pm_session_set_rope_factor(session, 3, 8), PM_ERR_USAGE);
    MUST(pm_session_set_rope_factor(session, 3, FACTOR));
    MUST(pm_session_set_rope_factor(session, 2, 8));
    assert_true(pm_session_rope_factor(session, 2) == 8);
    static const double bad[] = {0, 0.99, 1e9, NAN};
    for (size_t i = 0; i < COUNT(bad); i++)
        assert_int_equal(pm_session_set_rope_factor(session, 4, bad[i]), PM_ERR_USAGE);
    assert_int_equal(pm_session_set_rope_factor(session, 6, 1), PM_ERR_USAGE);
    assert_int_equal(pm_session_set_rope_factor(session, -1, 1), PM_ERR_USAGE);
    pm_session_close(&session);
    pm_model_close(&model);
}

static void the_factor_that_is_needed(void **state) {
    (void)state;
    pm_model *model = checkpoint_open(name, false);
    static const struct {
        uint64_t n;
        double factor;
    } cases[] = {{1, 1}, {64, 1}, {65, 2}, {128, 2}, {129, 4}, {256, 4}, {UINT64_MAX, 4}};
    for (size_t i = 0; i < COUNT(cases); i++)
        assert_true(pm_model_rope_factor(model, cases[i].n) == cases[i].factor);
    pm_model_close(&model);
}

// ---- a cache in Q8_0 --------------------------------------------------------------------------------------------------------

// Half a step in a block of normal values is 0.5 % of their deviation, in keys and in values of each layer. A program in double
// that rounds the same way (tests/make_forward_data.py) ends 0.6 to 1.4 % of the largest logit from where it ends without.
#define BOUND_Q8_0 0.02

static void check_q8_0(const char *checkpoint, golden_kind kind, double bound, const float *logits) {
    golden g = golden_open(checkpoint, kind);
    pm_model *model = checkpoint_open(checkpoint, kind == TRANSFORMERS);
    pm_session *session = session_of(model, (pm_session_options){.ctx = MAX_CTX, .max_chunk = 64, .kv = PM_KV_Q8_0});
    for (size_t i = 0; i < N_CASES; i++) {
        const golden_case *c = &g.cases[i];
        pm_session_rewind(session, 0, 0);
        const float *got = eval(session, 0, c->ids, c->n), *want = logits ? logits + i * g.vocab : c->logits;
        assert_close(got, want, g.vocab, bound, checkpoint, i);
    }
    pm_session_close(&session);
    pm_model_close(&model);
    golden_close(&g);
}

static void q8_0_costs_what_it_must(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(checkpoints); i++) {
        check_q8_0(checkpoints[i], TRANSFORMERS, BOUND_Q8_0, NULL);
        check_q8_0(checkpoints[i], REFERENCE, BOUND_Q8_0, NULL);
    }
}

// A value within a rounding of the middle between two steps may go the other way; nothing else may differ.
static void q8_0_rounds_as_the_reference_does(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(checkpoints); i++) {
        char *logits;
        size_t size;
        MUST(pm_file_read(checkpoint_path(checkpoints[i], "q8_0.f32"), 1 << 20, &logits, &size));
        check_q8_0(checkpoints[i], REFERENCE, BOUND_F16, (float *)(void *)logits);
        pm_free(logits);
    }
}

// The cache's type is the options' own, whatever the precision; a page has a half for each scale.
static void types_of_cache(void **state) {
    (void)state;
    pm_model *model = checkpoint_open(name, false);
    static const struct {
        pm_precision precision;
        pm_kv_type kv;
        uint64_t bytes; // an element of 128
    } cases[] = {
        {PM_PRECISION_F16, PM_KV_DEFAULT, 256}, {PM_PRECISION_F32, PM_KV_DEFAULT, 512}, {PM_PRECISION_F32, PM_KV_F16, 256},
        {PM_PRECISION_F16, PM_KV_F32, 512},     {PM_PRECISION_F32, PM_KV_Q8_0, 136},
    };
    const pm_config *c = pm_model_config(model);
    for (size_t i = 0; i < COUNT(cases); i++) {
        pm_session_options small = {.ctx = 64, .precision = cases[i].precision, .kv = cases[i].kv}, large = small;
        large.ctx = 64 * 1024;
        large.max_chunk = small.max_chunk = 64;
        pm_plan a, b;
        pm_device_info info = *pm_device_get_info(dev);
        MUST(pm_plan_make(checkpoint_path(name, ""), &info, 1, &small, &a));
        MUST(pm_plan_make(checkpoint_path(name, ""), &info, 1, &large, &b));
        assert_int_equal(b.cache_bytes - a.cache_bytes, (64 * 1024 - 64) * 2 * c->n_layers * c->n_kv_heads * cases[i].bytes);
        assert_int_equal(a.kv_bytes, 2 * c->n_layers * c->n_kv_heads * cases[i].bytes);
    }
    pm_model_close(&model);
}

// ---- a dialog that outgrows its factor ----------------------------------------------------------------------------------

typedef struct change {
    double factor;
    size_t n_again;
    int n; // changes so far
} change;

static void note_change(void *user, double factor, size_t n_again) {
    change *c = user;
    *c = (change){factor, n_again, c->n + 1};
}

static void say(pm_dialog *d, const int32_t *ids, size_t n, change *c, int32_t *out, size_t n_out) {
    pm_str text;
    MUST(pm_dialog_start_ids(d, ids, n, &(pm_dialog_options){.rope_room = 8, .rescaled = note_change, .user = c}));
    for (size_t i = 0; i < n_out; i++)
        MUST(pm_dialog_next(d, &out[i], &text));
    MUST(pm_dialog_finish(d, &text));
}

// n_out greedy ids behind n ids, by a session that has had the factor from the first.
static void check_greedy(pm_session *session, double factor, const int32_t *ids, size_t n, const int32_t *out, size_t n_out) {
    int32_t want[64];
    pm_session_rewind(session, 1, 0);
    MUST(pm_session_set_rope_factor(session, 1, factor));
    generate(session, 1, ids, n, &(pm_sampler){0}, want, n_out);
    assert_memory_equal(out, want, n_out * sizeof *out);
}

// At the turn that needs more, in the middle of an answer, and not back before it is forgotten.
static void a_dialog_outgrows_its_factor(void **state) {
    (void)state;
    golden g = golden_open(name, REFERENCE);
    const int32_t *prompt = g.cases[3].ids;
    pm_model *model = yarn_by_options(FACTOR);
    pm_session *session = session_for(model, 2);
    pm_dialog *d;
    change c = {0};
    int32_t ids[MAX_CTX];
    MUST(pm_dialog_open(session, 0, &d));

    say(d, prompt, 50, &c, ids + 50, 10); // to 60 of 64
    assert_true(c.n == 0 && pm_session_rope_factor(session, 0) == 1);
    memcpy(ids, prompt, 50 * sizeof *ids);
    check_greedy(session, 1, ids, 50, ids + 50, 10);

    say(d, ids, 55, &c, ids + 55, 40); // on to 95, beyond 64
    assert_true(c.n == 1 && c.factor == 2 && c.n_again > 55 && c.n_again < 64 && pm_session_rope_factor(session, 0) == 2);
    check_greedy(session, 1, ids, 55, ids + 55, c.n_again + 1 - 55);
    check_greedy(session, 2, ids, c.n_again + 1, ids + c.n_again + 1, 95 - c.n_again - 1);

    memcpy(ids + 95, prompt + 95, 60 * sizeof *ids);
    say(d, ids, 155, &c, ids + 155, 5); // more than 128 from the first
    assert_true(c.n == 2 && c.factor == 4 && c.n_again == 94 && pm_session_rope_factor(session, 0) == 4);
    check_greedy(session, 4, ids, 155, ids + 155, 5);

    say(d, ids, 20, &c, ids + 200, 5); // shorter again, of the same beginning
    assert_true(c.n == 2 && pm_session_rope_factor(session, 0) == 4);
    say(d, ids + 1, 20, &c, ids + 200, 5); // another
    assert_true(c.n == 2 && pm_session_rope_factor(session, 0) == 1);
    check_greedy(session, 1, ids + 1, 20, ids + 200, 5);

    pm_dialog_close(&d);
    pm_session_close(&session);
    pm_model_close(&model);
    golden_close(&g);
}

int main(void) {
    int skip = open_device_or_skip();
    if (skip)
        return skip;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(options_are_as_good_as_the_file),   cmocka_unit_test(nonsense_is_refused),
        cmocka_unit_test(a_sequence_has_its_factor),         cmocka_unit_test(factors_share_a_batch),
        cmocka_unit_test(a_factor_changes_when_empty),       cmocka_unit_test(factors_are_few),
        cmocka_unit_test(the_factor_that_is_needed),         cmocka_unit_test(q8_0_costs_what_it_must),
        cmocka_unit_test(q8_0_rounds_as_the_reference_does), cmocka_unit_test(types_of_cache),
        cmocka_unit_test(a_dialog_outgrows_its_factor),
    };
    int failed = cmocka_run_group_tests(tests, temp_open, temp_close);
    pm_device_close(&dev);
    return failed;
}
