// Sampling: the host draws what the device draws, over hundreds of steps with everything on; penalties, bias and log-probabilities
// in a session are what the logits say; loops are found; nonsense is refused.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "backend/model.h"
#include "host/reference.h"
#include "model_data.h"

static pm_model *model; // the smallest checkpoint
static golden gold;
static uint32_t vocab;

enum { N_STEPS = 240 };

static pm_session *floats(uint32_t ctx) {
    return session_of(model, (pm_session_options){.ctx = ctx, .precision = PM_PRECISION_F32});
}

static pm_drawer *drawer_of(const pm_sampler *sampler, const int32_t *ids, size_t n) {
    pm_drawer *drawer;
    if (pm_drawer_open(model, sampler, ids, n, &drawer) != PM_OK)
        fail_msg("a drawer: %s", pm_error_text());
    return drawer;
}

// ---- device and host ----------------------------------------------------------------------------------------------------

static const pm_logit_bias biases[] = {{3, 4}, {5, -100}, {17, 100}, {17, 2.5f}, {44, -INFINITY}, {200, -1}};
#define BIASES           .bias = biases, .n_bias = COUNT(biases)
#define TEMPERATURE_LAST .order = {PM_BY_TOP_K, PM_BY_TYPICAL_P, PM_BY_TOP_P, PM_BY_MIN_P, PM_BY_TEMPERATURE}
#define MIN_P_FIRST      .order = {PM_BY_TEMPERATURE, PM_BY_MIN_P, PM_BY_TOP_K, PM_BY_TOP_P, PM_BY_TYPICAL_P}

static const struct {
    const char *name;
    pm_sampler s;
} samplers[] = {
    {"greedy", {.logprobs = true, .top_logprobs = 3}},
    {"greedy, penalties", {.repeat_penalty = 1.3f, .presence_penalty = 0.5f, .frequency_penalty = 0.25f, .logprobs = true}},
    {"plain", {.temperature = 1, .seed = 11}},
    {"usual", {.temperature = 0.6f, .top_k = 20, .top_p = 0.95f, .seed = 12, .presence_penalty = 1.5f}},
    {"everything",
     {.temperature = 1.4f,
      .top_k = 60,
      .top_p = 0.97f,
      .min_p = 0.02f,
      .typical_p = 0.9f,
      .seed = UINT64_MAX,
      .repeat_penalty = 1.1f,
      .presence_penalty = 0.7f,
      .frequency_penalty = -0.1f,
      BIASES,
      .logprobs = true,
      .top_logprobs = PM_TOP_LOGPROBS_MAX}},
    {"temperature last",
     {.temperature = 4,
      .top_k = 60,
      .top_p = 0.99f,
      .min_p = 0.01f,
      .typical_p = 0.95f,
      .seed = 13,
      .presence_penalty = 3,
      BIASES,
      TEMPERATURE_LAST}},
    {"min-p first",
     {.temperature = 1.5f, .top_k = 30, .top_p = 0.9f, .min_p = 0.05f, .seed = 14, .repeat_penalty = 0.9f, MIN_P_FIRST}},
};

static void compare_logprobs(const char *name, const pm_logprob *a, int n_a, const pm_logprob *b, int n_b) {
    assert_int_equal(n_a, n_b);
    for (int i = 0; i < n_a; i++)
        if (fabsf(a[i].logprob - b[i].logprob) > 1e-4f)
            fail_msg("%s: the device says ln %g of id %d, the host %g of %d", name, (double)a[i].logprob, (int)a[i].id,
                     (double)b[i].logprob, (int)b[i].id);
}

// A session draws; a judge runs its ids and hands the logits to the host's sampler.
static void compare_draws(const char *name, const pm_sampler *sampler) {
    const golden_case *c = &gold.cases[2];
    pm_session *session = floats(512), *judge = floats(512);
    pm_drawer *drawer = drawer_of(sampler, c->ids, c->n);
    const float *logits = eval(judge, 0, c->ids, c->n);
    int n_device, n_host, distinct = 0;
    int32_t id = -1, before;
    assert_int_equal(pm_session_start(session, 0, c->ids, c->n, sampler), PM_OK);
    for (int i = 0; i < N_STEPS; i++) {
        before = id;
        assert_int_equal(pm_session_next(session, &id), PM_OK);
        int32_t host = pm_drawer_next(drawer, logits, pm_session_pos(judge, 0) - 1);
        if (id != host)
            fail_msg("%s, id %d: the device drew %d, the host %d", name, i, (int)id, (int)host);
        const pm_logprob *device_told = pm_session_logprobs(session, &n_device), *told = pm_drawer_logprobs(drawer, &n_host);
        compare_logprobs(name, device_told, n_device, told, n_host);
        distinct += id != before;
        logits = eval(judge, 0, &id, 1);
    }
    if (sampler->temperature > 0 && distinct < N_STEPS / 4)
        fail_msg("%s: only %d times another id: this shows nothing", name, distinct);
    assert_int_equal(pm_session_end(session), PM_OK);
    pm_drawer_close(&drawer);
    pm_session_close(&session);
    pm_session_close(&judge);
}

static void host_and_device_draw_the_same(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(samplers); i++)
        compare_draws(samplers[i].name, &samplers[i].s);
}

static void replay_draws_the_same(void **state) {
    (void)state;
    const golden_case *c = &gold.cases[2];
    pm_session *replayed = floats(128), *recorded = floats(128);
    int32_t a[60], b[60];
    pm_session_set_replay(recorded, false);
    for (size_t i = 0; i < COUNT(samplers); i++) {
        pm_session_rewind(replayed, 0, 0);
        pm_session_rewind(recorded, 0, 0);
        generate(replayed, 0, c->ids, c->n, &samplers[i].s, a, COUNT(a));
        generate(recorded, 0, c->ids, c->n, &samplers[i].s, b, COUNT(b));
        assert_memory_equal(a, b, sizeof(a));
    }
    pm_session_close(&replayed);
    pm_session_close(&recorded);
}

// ---- what each one does -------------------------------------------------------------------------------------------------

static void a_bias_bans_and_forces(void **state) {
    (void)state;
    const golden_case *c = &gold.cases[2];
    const pm_logit_bias force = {99, 100}, ban = {c->greedy[0], -INFINITY};
    pm_session *session = floats(128);
    int32_t ids[8];
    generate(session, 0, c->ids, c->n, &(pm_sampler){.bias = &force, .n_bias = 1}, ids, COUNT(ids));
    for (size_t i = 0; i < COUNT(ids); i++)
        assert_int_equal(ids[i], 99);
    pm_session_rewind(session, 0, 0);
    generate(session, 0, c->ids, c->n, &(pm_sampler){.temperature = 5, .bias = &ban, .n_bias = 1}, ids, COUNT(ids));
    for (size_t i = 0; i < COUNT(ids); i++)
        assert_int_not_equal(ids[i], ban.id);
    pm_session_rewind(session, 0, 0); // nothing is left of it
    generate(session, 0, c->ids, c->n, &(pm_sampler){0}, ids, COUNT(ids));
    for (size_t i = 0; i < COUNT(ids); i++)
        assert_int_equal(ids[i], c->greedy[i]);
    pm_session_close(&session);
}

// A great penalty never lets an id come twice; what the prompt has does not matter to presence, but to repetition.
static void penalties_count_what_they_are_about(void **state) {
    (void)state;
    const golden_case *c = &gold.cases[2];
    pm_session *session = floats(200);
    int32_t ids[60];
    bool in_prompt = false;
    generate(session, 0, c->ids, c->n, &(pm_sampler){.presence_penalty = 1000}, ids, COUNT(ids));
    assert_int_equal(ids[0], c->greedy[0]);
    for (size_t i = 0; i < COUNT(ids); i++)
        for (size_t k = 0; k < i; k++)
            assert_int_not_equal(ids[i], ids[k]);

    const pm_logit_bias towards = {c->ids[0], 50};
    pm_session_rewind(session, 0, 0);
    generate(session, 0, c->ids, c->n, &(pm_sampler){.presence_penalty = 200, .bias = &towards, .n_bias = 1}, ids, 2);
    assert_true(ids[0] == towards.id && ids[1] != towards.id);
    pm_session_rewind(session, 0, 0);
    generate(session, 0, c->ids, c->n, &(pm_sampler){.repeat_penalty = 1000, .bias = &towards, .n_bias = 1}, ids, 10);
    for (size_t i = 0; i < 10; i++)
        for (size_t k = 0; k < c->n; k++)
            in_prompt |= ids[i] == c->ids[k];
    assert_false(in_prompt);
    pm_session_close(&session);
}

// The ids that stand before the prompt: as drawn, or as prompt.
static void history_counts(void **state) {
    (void)state;
    const golden_case *c = &gold.cases[2];
    pm_session *session = floats(64);
    int32_t id, history[] = {7, c->greedy[0]};
    pm_sampler s = {.presence_penalty = 1000, .history = history, .n_history = 2, .n_history_drawn = 1};
    generate(session, 0, c->ids, c->n, &s, &id, 1);
    assert_int_not_equal(id, c->greedy[0]);
    s.n_history_drawn = 0;
    pm_session_rewind(session, 0, 0);
    generate(session, 0, c->ids, c->n, &s, &id, 1);
    assert_int_equal(id, c->greedy[0]);
    s.repeat_penalty = 1000;
    pm_session_rewind(session, 0, 0);
    generate(session, 0, c->ids, c->n, &s, &id, 1);
    assert_int_not_equal(id, c->greedy[0]);
    pm_session_close(&session);
}

// Bias does not touch what is told: the model's own probabilities.
static void logprobs_are_of_the_model(void **state) {
    (void)state;
    const golden_case *c = &gold.cases[2];
    const pm_logit_bias force = {99, 100};
    pm_session *session = floats(64);
    double mass = 0;
    int32_t id;
    int n;
    const float *logits = copy_of(eval(session, 0, c->ids, c->n), vocab);
    pm_session_logprobs(session, &n);
    assert_int_equal(n, 0);
    for (uint32_t i = 0; i < vocab; i++)
        mass += exp((double)logits[i] - logits[c->greedy[0]]);
    pm_session_rewind(session, 0, 0);
    pm_sampler s = {.bias = &force, .n_bias = 1, .logprobs = true, .top_logprobs = 2};
    assert_int_equal(pm_session_start(session, 0, c->ids, c->n, &s), PM_OK);
    assert_int_equal(pm_session_next(session, &id), PM_OK);
    const pm_logprob *told = pm_session_logprobs(session, &n);
    assert_int_equal(n, 3);
    assert_true(id == 99 && told[0].id == 99 && told[1].id == c->greedy[0]);
    assert_float_equal(told[1].logprob, -log(mass), 1e-5);
    assert_float_equal(told[0].logprob, (double)logits[99] - logits[c->greedy[0]] - log(mass), 1e-5);
    assert_true(told[2].logprob <= told[1].logprob && told[2].id != told[1].id);
    assert_int_equal(pm_session_end(session), PM_OK);
    free((void *)(uintptr_t)logits);
    pm_session_close(&session);
}

// ---- transformers -------------------------------------------------------------------------------------------------------

// tests/data/sampling.json, which tests/make_sampling_data.py had transformers' code compute.
enum { MAX_IDS = 64, VOCAB = 320, N_DRAWS = 2000 };
typedef struct known {
    pm_sampler sampler;
    int32_t prompt[MAX_IDS], drawn[MAX_IDS];
    size_t n_prompt;
    pm_logit_bias bias[MAX_IDS];
    double p[VOCAB];
} known;

static float number(const cJSON *item, const char *name) {
    return (float)cJSON_GetNumberValue(member(item, name));
}

static size_t read_ids(const cJSON *item, const char *name, int32_t ids[MAX_IDS]) {
    size_t n = 0;
    const cJSON *id;
    cJSON_ArrayForEach(id, member(item, name)) {
        assert_true(n < MAX_IDS);
        ids[n++] = id->valueint;
    }
    return n;
}

static void read_order(const char *text, uint8_t order[PM_N_STEPS]) {
    static const char *const names[] = {"", "temp", "top-k", "top-p", "min-p", "typical-p"};
    for (int i = 0; i < PM_N_STEPS; i++, text += strcspn(text, ",") + 1)
        for (uint8_t step = 1; step <= PM_N_STEPS; step++)
            if (strcspn(text, ",") == strlen(names[step]) && !strncmp(text, names[step], strlen(names[step])))
                order[i] = step;
}

static void read_known(const cJSON *item, known *k) {
    const cJSON *pair;
    *k = (known){.sampler = {.temperature = number(item, "temperature"),
                             .top_k = (uint32_t)number(item, "top_k"),
                             .top_p = number(item, "top_p"),
                             .min_p = number(item, "min_p"),
                             .typical_p = number(item, "typical_p"),
                             .repeat_penalty = number(item, "repeat"),
                             .frequency_penalty = number(item, "frequency"),
                             .presence_penalty = number(item, "presence"),
                             .history = k->drawn,
                             .bias = k->bias}};
    read_order(cJSON_GetStringValue(member(item, "order")), k->sampler.order);
    k->n_prompt = read_ids(item, "prompt", k->prompt);
    k->sampler.n_history = k->sampler.n_history_drawn = read_ids(item, "drawn", k->drawn);
    cJSON_ArrayForEach(pair, member(item, "bias")) {
        k->bias[k->sampler.n_bias++] =
            (pm_logit_bias){cJSON_GetArrayItem(pair, 0)->valueint, (float)cJSON_GetArrayItem(pair, 1)->valuedouble};
    }
    cJSON_ArrayForEach(pair, member(item, "p")) {
        k->p[cJSON_GetArrayItem(pair, 0)->valueint] = cJSON_GetArrayItem(pair, 1)->valuedouble;
    }
}

// The reference that tests hold the kernels against.
static void check_reference(const float *logits, const known *k, int which) {
    struct pm_sampling s = pm_sampler_pack(&k->sampler);
    uint32_t seen[VOCAB];
    float bias[VOCAB], adjusted[VOCAB];
    double wanted[VOCAB], p[VOCAB];
    pm_sampler_fill_seen(&k->sampler, k->prompt, k->n_prompt, VOCAB, seen);
    pm_sampler_fill_bias(&k->sampler, VOCAB, bias);
    pm_ref_adjust(logits, VOCAB, &s, bias, seen, wanted);
    for (int i = 0; i < VOCAB; i++)
        adjusted[i] = (float)wanted[i];
    pm_ref_sample(adjusted, VOCAB, &s, 0, p);
    for (int i = 0; i < VOCAB; i++) // adjusted is rounded to floats: by as much a probability may be off
        if (fabs(p[i] - k->p[i]) > 2e-5 * k->p[i])
            fail_msg("case %d: the reference gives id %d %.9g, transformers %.9g", which, i, p[i], k->p[i]);
}

// The host's sampler: what it draws, over positions.
static void check_drawer(const float *logits, known *k, int which) {
    uint32_t counts[VOCAB] = {0};
    k->sampler.seed = 77;
    for (uint32_t pos = 0; pos < N_DRAWS; pos++) {
        pm_drawer *drawer = drawer_of(&k->sampler, k->prompt, k->n_prompt);
        counts[pm_drawer_next(drawer, logits, pos)]++;
        pm_drawer_close(&drawer);
    }
    for (int i = 0; i < VOCAB; i++) {
        double expected = k->p[i] * N_DRAWS, room = 5 * sqrt(expected * (1 - k->p[i])) + (k->p[i] > 0 ? 4 : 0);
        if (fabs(counts[i] - expected) > room)
            fail_msg("case %d: id %d came %u times, %.1f were expected", which, i, counts[i], expected);
    }
}

static void probabilities_are_those_of_transformers(void **state) {
    (void)state;
    cJSON *root = read_json(PM_TEST_DATA "/sampling.json");
    const cJSON *item, *value;
    float logits[VOCAB];
    int n = 0, which = 0;
    assert_int_equal(vocab, VOCAB);
    cJSON_ArrayForEach(value, member(root, "logits")) {
        logits[n++] = (float)value->valuedouble;
    }
    assert_int_equal(n, VOCAB);
    cJSON_ArrayForEach(item, member(root, "cases")) {
        known k;
        read_known(item, &k);
        check_reference(logits, &k, which);
        check_drawer(logits, &k, which++);
    }
    assert_int_equal(which, 16);
    cJSON_Delete(root);
}

// ---- loops --------------------------------------------------------------------------------------------------------------

// Ids at which a text that repeats a block of `block` is called a loop first; 0: never in 2000.
static uint32_t found_at(uint32_t block, uint32_t *told) {
    pm_loop_watch watch = {0};
    for (uint32_t i = 1; i <= 2000; i++) {
        *told = pm_loop_watch_next(&watch, (int32_t)((i - 1) % block * 7919 % 104729));
        if (*told)
            return i;
    }
    return 0;
}

static void loops_are_found(void **state) {
    (void)state;
    uint32_t told;
    for (uint32_t block = 1; block <= 200; block++) {
        uint32_t at = found_at(block, &told);
        uint32_t least = (16 + block - 1) / block * block; // whole blocks that make at least 16
        assert_int_equal(at, block > 64 ? 0 : 4 * least);
        assert_true(block > 64 || told == least);
    }
    pm_loop_watch watch = {0};
    for (int32_t i = 0; i < 100000; i++) // numbers that count up never repeat; their digits do not four times over
        assert_int_equal(pm_loop_watch_next(&watch, i % 10 ? i % 10 : 100 + i / 10), 0);
}

// ---- refusals and memory ------------------------------------------------------------------------------------------------

static void bad_samplers_are_refused(void **state) {
    (void)state;
    static const pm_logit_bias outside = {320, 1}, below = {-1, 1}, none = {5, NAN}, endless = {5, INFINITY};
    static const int32_t stranger = 320;
    static const pm_sampler bad[] = {
        {.temperature = 1, .typical_p = 1.5f},
        {.temperature = 1, .typical_p = NAN},
        {.repeat_penalty = -1},
        {.repeat_penalty = 1e-9f},
        {.repeat_penalty = NAN},
        {.presence_penalty = INFINITY},
        {.frequency_penalty = NAN},
        {.bias = &outside, .n_bias = 1},
        {.bias = &below, .n_bias = 1},
        {.bias = &none, .n_bias = 1},
        {.bias = &endless, .n_bias = 1},
        {.history = &stranger, .n_history = 1},
        {.history = &outside.id, .n_history = 0, .n_history_drawn = 1},
        {.order = {1, 2, 3, 4}},
        {.order = {1, 2, 3, 4, 4}},
        {.order = {1, 2, 3, 4, 6}},
        {.logprobs = true, .top_logprobs = 21},
    };
    pm_session *session = floats(64);
    for (size_t i = 0; i < COUNT(bad); i++) {
        pm_drawer *drawer;
        assert_int_equal(pm_session_start(session, 0, gold.cases[1].ids, 3, &bad[i]), PM_ERR_USAGE);
        assert_non_null(strstr(pm_error_text(), "sampling"));
        assert_int_equal(pm_session_pos(session, 0), 0);
        assert_int_equal(pm_drawer_open(model, &bad[i], gold.cases[1].ids, 3, &drawer), PM_ERR_USAGE);
        assert_null(drawer);
    }
    pm_session_close(&session);
}

static void every_allocation_may_fail(void **state) {
    (void)state;
    pm_session *session = floats(64);
    pm_status status = PM_ERR_MEMORY;
    for (long n = 1; status == PM_ERR_MEMORY; n++) {
        assert_true(n < 100);
        pm_drawer *drawer;
        pm_alloc_fail_after(n);
        status = pm_drawer_open(model, &samplers[4].s, gold.cases[1].ids, 3, &drawer);
        pm_alloc_fail_after(0);
        assert_true((status == PM_OK) == (drawer != NULL));
        pm_drawer_close(&drawer);
    }
    assert_int_equal(status, PM_OK);
    pm_alloc_fail_after(1);
    assert_int_equal(pm_session_start(session, 0, gold.cases[1].ids, 3, &samplers[4].s), PM_ERR_MEMORY);
    pm_alloc_fail_after(0);
    assert_int_equal(pm_session_pos(session, 0), 0);
    pm_session_close(&session);
}

static int open_all(void **state) {
    (void)state;
    gold = golden_open("qwen3-yarn", REFERENCE);
    model = checkpoint_open("qwen3-yarn", false);
    vocab = gold.vocab;
    return 0;
}

static int close_all(void **state) {
    (void)state;
    pm_model_close(&model);
    golden_close(&gold);
    return 0;
}

int main(void) {
    int skip = open_device_or_skip();
    if (skip)
        return skip;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(host_and_device_draw_the_same),
        cmocka_unit_test(replay_draws_the_same),
        cmocka_unit_test(a_bias_bans_and_forces),
        cmocka_unit_test(penalties_count_what_they_are_about),
        cmocka_unit_test(history_counts),
        cmocka_unit_test(logprobs_are_of_the_model),
        cmocka_unit_test(probabilities_are_those_of_transformers),
        cmocka_unit_test(loops_are_found),
        cmocka_unit_test(bad_samplers_are_refused),
        cmocka_unit_test(every_allocation_may_fail),
    };
    int failed = cmocka_run_group_tests(tests, open_all, close_all);
    pm_device_close(&dev);
    return failed;
}
