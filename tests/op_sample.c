// pm_op_sample: greedy is exact; a draw is repeatable, never outside of what top-k, top-p and min-p leave, and as often each id as
// the softmax of what they leave says, over seeds and over the positions of one seed. Padding ids are never drawn.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "check.h"

#define USUAL .steps = PM_STEPS_USUAL
enum { MAX_DRAWS = 4000, RESULT0 = 3 };

// Results of one run of m rows.
typedef struct draws {
    uint32_t m;
    const uint32_t *ids;
} draws;

// Draws for m rows of logits (m, stride_rows ? vocab : the same row for all), checks all that holds for any draw.
typedef struct request {
    const float *logits; // (vocab), the same for all m, or (m, vocab)
    bool each;           // the latter
    uint32_t vocab, n_valid, m;
    const struct pm_sampling *sampling; // (m)
    const struct pm_row *rows;          // (m) of the batch; output j is of row index[j]
    const uint32_t *index;
} request;

static pm_tensor logits_tensor(const request *r) {
    float *values = check_alloc((size_t)r->m * r->vocab, sizeof(float));
    for (uint32_t j = 0; j < r->m; j++)
        memcpy(values + (size_t)j * r->vocab, r->logits + (r->each ? (size_t)j * r->vocab : 0), r->vocab * sizeof(float));
    pm_tensor t = check_in_tensor(r->m, r->vocab, values);
    for (uint32_t j = 0; j < r->m; j++) // padding columns are no ids either
        for (uint32_t i = r->vocab; i < t.stride; i++)
            check_words_at(t.data)[(size_t)j * t.stride + i] = 0x7f000000;
    return t;
}

static draws draw(const request *r) {
    check_begin();
    pm_sample op = {.logits = logits_tensor(r),
                    .n_valid = r->n_valid,
                    .sampling = check_in(r->sampling, (size_t)r->m * sizeof(*r->sampling) / 4),
                    .index = check_in(r->index, r->m),
                    .rows = check_in(r->rows, (size_t)r->m * 4),
                    .scratch = check_take(pm_sample_scratch_bytes(r->m, r->n_valid)),
                    .next = check_out((uint64_t)r->m * 4),
                    .results = check_take((RESULT0 + (uint64_t)r->m) * 4),
                    .result0 = RESULT0};
    check_allow(op.scratch, 0, op.scratch.size / 4);
    check_allow(op.results, RESULT0, r->m);
    check_record();
    pm_op_sample(check_cmd, &op);
    check_run();

    const uint32_t *ids = check_got(op.results) + RESULT0;
    for (uint32_t j = 0; j < r->m; j++) {
        struct pm_row next, row = r->rows[r->index[j]];
        memcpy(&next, check_got(op.next) + (size_t)j * 4, sizeof(next));
        assert_in_range(ids[j], 0, r->n_valid - 1);
        assert_int_equal(next.token, ids[j]);
        assert_int_equal(next.seq, row.seq);
        assert_int_equal(next.pos, row.pos + 1);
        assert_int_equal(next.rope, row.rope);
    }
    return (draws){r->m, ids};
}

// ---- requests ---------------------------------------------------------------------------------------------------------

static struct pm_sampling samplings[MAX_DRAWS];
static struct pm_row rows[MAX_DRAWS];
static uint32_t indices[MAX_DRAWS];

// m outputs that differ in their seeds, or in their positions under one seed.
static request request_of(const float *logits, uint32_t vocab, uint32_t n_valid, uint32_t m, struct pm_sampling s,
                          bool over_positions) {
    for (uint32_t j = 0; j < m; j++) {
        samplings[j] = s;
        samplings[j].seed_lo = over_positions ? 42 : j;
        samplings[j].seed_hi = 0;
        indices[j] = m - 1 - j;
        rows[m - 1 - j] = (struct pm_row){.token = 77, .seq = j % 5, .pos = over_positions ? j : 100, .rope = j % 3};
    }
    return (request){
        .logits = logits, .vocab = vocab, .n_valid = n_valid, .m = m, .sampling = samplings, .rows = rows, .index = indices};
}

// vocab logits as a model has them: few large ones, n_valid of them real, then padding that would win if it were looked at.
static float *peaked_logits(uint32_t vocab, uint32_t n_valid, float spread) {
    float *logits = pm_calloc(vocab, sizeof(float)); // lives over check_begin
    assert_non_null(logits);
    for (uint32_t i = 0; i < vocab; i++)
        logits[i] = i < n_valid ? spread * check_normal() : 1e30f;
    return logits;
}

// ---- what any draw must be --------------------------------------------------------------------------------------------

static void greedy_is_exact(void **state) {
    static const uint32_t sizes[][2] = {{1, 1}, {331, 331}, {1280, 1273}, {151936, 151669}, {127, 127}, {129, 128}};
    (void)state;
    for (size_t i = 0; i < CHECK_COUNT(sizes); i++) {
        uint32_t vocab = sizes[i][0], n_valid = sizes[i][1], winners[] = {0, n_valid - 1, n_valid / 2, n_valid / 3};
        float *logits = pm_calloc(4 * (size_t)vocab, sizeof(float));
        for (uint32_t at = 0; at < 4 * vocab; at++)
            logits[at] = at % vocab < n_valid ? check_normal() : 1e30f;
        for (uint32_t j = 0; j < 4; j++) {
            logits[(size_t)j * vocab + winners[j]] = 5;
            if (j > 1)
                logits[(size_t)j * vocab + n_valid - 1] = 5; // a tie: the lower id
        }
        check_case("greedy of %u", n_valid);
        request r = request_of(logits, vocab, n_valid, 4, (struct pm_sampling){.top_p = 0.1f, .min_p = 0.5f, .top_k = 3}, false);
        r.each = true;
        draws d = draw(&r);
        for (uint32_t j = 0; j < 4; j++)
            assert_int_equal(d.ids[j], winners[j]);
        pm_free(logits);
    }
}

// The same row is drawn the same in another place of another batch.
static void a_draw_depends_on_seed_and_position_only(void **state) {
    (void)state;
    float *logits = peaked_logits(1280, 1273, 1);
    check_case("the same draws in two batches");
    struct pm_sampling s = {.temperature = 1, .top_p = 1, USUAL};
    uint32_t first[500], distinct = 0;
    request r = request_of(logits, 1280, 1273, 500, s, false);
    memcpy(first, draw(&r).ids, sizeof(first));
    r = request_of(logits, 1280, 1273, 499, s, false);
    for (uint32_t j = 0; j < 499; j++) { // outputs 499 .. 1 of the first batch
        samplings[j].seed_lo = 499 - j;
        rows[indices[j]].seq = 1000 + j;
    }
    const uint32_t *second = draw(&r).ids;
    for (uint32_t j = 0; j < 499; j++) {
        assert_int_equal(second[j], first[499 - j]);
        distinct += first[j] != first[j + 1];
    }
    assert_true(distinct > 400);
    for (uint32_t j = 0; j < 499; j++) // the high half of the seed counts
        samplings[j].seed_hi = 1;
    second = draw(&r).ids;
    for (uint32_t j = distinct = 0; j < 499; j++)
        distinct += second[j] != first[499 - j];
    assert_true(distinct > 400);
    pm_free(logits);
}

enum { // first step in the lowest digit
    TEMPERATURE_LAST =
        PM_STEP_TOP_K | PM_STEP_TYPICAL_P << 4 | PM_STEP_TOP_P << 8 | PM_STEP_MIN_P << 12 | PM_STEP_TEMPERATURE << 16,
    MIN_P_FIRST = PM_STEP_TEMPERATURE | PM_STEP_MIN_P << 4 | PM_STEP_TOP_K << 8 | PM_STEP_TOP_P << 12 | PM_STEP_TYPICAL_P << 16,
    TYPICAL_FIRST = PM_STEP_TYPICAL_P | PM_STEP_TEMPERATURE << 4 | PM_STEP_TOP_P << 8 | PM_STEP_MIN_P << 12 | PM_STEP_TOP_K << 16,
};

static const struct {
    const char *name;
    struct pm_sampling s;
    bool often; // drawn: a software driver takes 0.1 ms a draw
} filters[] = {
    {"no filter", {.temperature = 1, .top_p = 1, USUAL}, true},
    {"cool", {.temperature = 0.6f, .top_p = 1, USUAL}, false},
    {"hot", {.temperature = 3, .top_p = 1, USUAL}, false},
    {"top-k 1", {.temperature = 1, .top_p = 1, .top_k = 1, USUAL}, false},
    {"top-k 20", {.temperature = 1, .top_p = 1, .top_k = 20, USUAL}, false},
    {"top-k of all and more", {.temperature = 1, .top_p = 1, .top_k = 1000000, USUAL}, false},
    {"top-p 0.95", {.temperature = 1, .top_p = 0.95f, USUAL}, false},
    {"top-p 0.3", {.temperature = 1, .top_p = 0.3f, USUAL}, false},
    {"top-p 0", {.temperature = 1, .top_p = 0, USUAL}, false},
    {"min-p 0.05", {.temperature = 1, .top_p = 1, .min_p = 0.05f, USUAL}, false},
    {"min-p 1", {.temperature = 1, .top_p = 1, .min_p = 1, USUAL}, false},
    {"Qwen3's", {.temperature = 0.6f, .top_p = 0.95f, .top_k = 20, USUAL}, true},
    {"all", {.temperature = 1.5f, .top_p = 0.9f, .top_k = 30, .min_p = 0.04f, USUAL}, true},
    {"top-k decides over top-p", {.temperature = 2, .top_p = 0.999f, .top_k = 3, USUAL}, false},
    {"typical-p 0.9", {.temperature = 1, .top_p = 1, .typical_p = 0.9f, USUAL}, false},
    {"typical-p 0.3", {.temperature = 1, .top_p = 1, .typical_p = 0.3f, USUAL}, false},
    {"typical-p 0.2, cool", {.temperature = 0.5f, .top_p = 1, .typical_p = 0.2f, USUAL}, false},
    {"typical-p 1e-9", {.temperature = 1, .top_p = 1, .typical_p = 1e-9f, USUAL}, false},
    {"typical-p after all", {.temperature = 1.5f, .top_p = 0.95f, .top_k = 40, .min_p = 0.02f, .typical_p = 0.6f, USUAL}, false},
    {"temperature last",
     {.temperature = 2, .top_p = 0.8f, .top_k = 25, .min_p = 0.1f, .typical_p = 0.7f, .steps = TEMPERATURE_LAST},
     true},
    {"temperature last, min-p", {.temperature = 3, .top_p = 1, .min_p = 0.2f, .steps = TEMPERATURE_LAST}, false},
    {"min-p first", {.temperature = 2, .top_p = 0.8f, .top_k = 9, .min_p = 0.15f, .steps = MIN_P_FIRST}, false},
    {"typical-p first",
     {.temperature = 2, .top_p = 0.8f, .top_k = 7, .min_p = 0.3f, .typical_p = 0.4f, .steps = TYPICAL_FIRST},
     false},
    {"no step", {.temperature = 1.3f, .top_p = 0.1f, .top_k = 2, .min_p = 0.9f, .typical_p = 0.1f}, false},
};

// Probabilities are cut to multiples of 2^-30 and summed, exponentials may be off by some units in the last place: thresholds may
// be off by as much mass.
static double mass_slack(uint32_t n_valid) {
    return n_valid * 0x1p-30 + 1e-5;
}

// Typical-p before others: room at its threshold may make theirs narrower.
static bool is_mixed(const struct pm_sampling *s) {
    return s->typical_p > 0 && s->steps != PM_STEPS_USUAL;
}

static void only_kept_ids(void **state) {
    static const uint32_t sizes[][3] = {{331, 331, 64}, {1280, 1273, 64}, {151936, 151669, 3}};
    (void)state;
    for (size_t i = 0; i < CHECK_COUNT(sizes); i++) {
        float *logits = peaked_logits(sizes[i][0], sizes[i][1], 3);
        double *p = pm_calloc(sizes[i][1], sizeof(double));
        for (size_t f = 0; f < CHECK_COUNT(filters); f++) {
            if (is_mixed(&filters[f].s) && sizes[i][1] > 10000)
                continue;
            check_case("%s of %u", filters[f].name, sizes[i][1]);
            request r = request_of(logits, sizes[i][0], sizes[i][1], sizes[i][2], filters[f].s, f % 2);
            draws d = draw(&r);
            pm_ref_sample(logits, sizes[i][1], &filters[f].s, mass_slack(sizes[i][1]), p);
            for (uint32_t j = 0; j < d.m; j++)
                if (!(p[d.ids[j]] > 0))
                    fail_msg("%s: drew %u, logit %g, which is not kept", check_what, d.ids[j], (double)logits[d.ids[j]]);
        }
        pm_free(logits);
        pm_free(p);
    }
}

static void extreme_logits(void **state) {
    enum { VOCAB = 331 };
    static const float lows[] = {-INFINITY, -1e30f, -3.4e38f, NAN};
    (void)state;
    float *logits = peaked_logits(VOCAB, VOCAB, 1);
    for (size_t i = 0; i < CHECK_COUNT(lows); i++)
        for (size_t f = 0; f < CHECK_COUNT(filters); f++) {
            for (uint32_t id = 0; id < VOCAB; id++)
                logits[id] = lows[i];
            logits[200] = 7, logits[330] = 6.9f;
            check_case("%s, two logits of 7, the others %g", filters[f].name, (double)lows[i]);
            request r = request_of(logits, VOCAB, VOCAB, 32, filters[f].s, false);
            draws d = draw(&r);
            for (uint32_t j = 0; j < d.m; j++)
                if (d.ids[j] != 200 && d.ids[j] != 330)
                    fail_msg("%s: drew %u", check_what, d.ids[j]);
            logits[200] = 1e30f, logits[330] = 3e37f;
            check_case("%s, one logit of 1e30", filters[f].name);
            d = draw(&r);
            for (uint32_t j = 0; j < d.m; j++)
                assert_int_equal(d.ids[j], logits[200] > logits[330] ? 200 : 330);
        }
    pm_free(logits);
}

// All logits equal, or all -inf: any id will do, but it must be one.
static void equal_logits(void **state) {
    static const float values[] = {0, -INFINITY, 1e38f, NAN};
    float logits[331];
    (void)state;
    for (size_t i = 0; i < CHECK_COUNT(values); i++)
        for (size_t f = 0; f < CHECK_COUNT(filters); f++) {
            for (uint32_t id = 0; id < 331; id++)
                logits[id] = values[i];
            check_case("%s, all logits %g", filters[f].name, (double)values[i]);
            request r = request_of(logits, 331, 300, 8, filters[f].s, false);
            draw(&r);
        }
}

// ---- many logits ------------------------------------------------------------------------------------------------------

enum { MANY = 21000, FEW = 331 };

// FEW logits among MANY that come to nothing: at `from`, `apart` from each other. What is drawn of them.
static draws draw_among_many(const float *few, uint32_t from, uint32_t apart, struct pm_sampling s, uint32_t m) {
    float *logits = pm_calloc(MANY, sizeof(float));
    assert_non_null(logits);
    for (uint32_t i = 0; i < MANY; i++)
        logits[i] = i % 3 ? -1e30f : -INFINITY;
    for (uint32_t i = 0; i < FEW; i++)
        logits[from + i * apart] = few[i];
    request r = request_of(logits, MANY, MANY - 267, m, s, false);
    draws d = draw(&r);
    pm_free(logits);
    return d;
}

// Many logits are looked through by many workgroups, few by one. At the front of many a draw is the same as of the few alone.
static void many_are_drawn_like_few(void **state) {
    (void)state;
    float *few = peaked_logits(FEW, FEW, 3);
    for (size_t f = 0; f < CHECK_COUNT(filters); f++) {
        uint32_t ids[4];
        if (is_mixed(&filters[f].s))
            continue;
        check_case("%s of few and of many", filters[f].name);
        request r = request_of(few, FEW, FEW, 4, filters[f].s, false);
        memcpy(ids, draw(&r).ids, sizeof(ids));
        draws d = draw_among_many(few, 0, 1, filters[f].s, 4);
        for (uint32_t j = 0; j < 4; j++)
            assert_int_equal(d.ids[j], ids[j]);
    }
    pm_free(few);
}

// Wherever the best stand: over all slices, with some lanes of one slice, at the very end; as many as come through and one more.
static void the_best_are_found_anywhere(void **state) {
    static const uint32_t places[][2] = {{5, 62}, {4096, 8}, {MANY - 267 - FEW, 1}}, ks[] = {1, 20, 40, 41};
    (void)state;
    float few[FEW];
    for (uint32_t i = 0; i < FEW; i++)
        few[i] = (float)i / 64;
    for (size_t i = 0; i < CHECK_COUNT(places); i++)
        for (size_t k = 0; k < CHECK_COUNT(ks); k++) {
            check_case("the %u best at %u and so on", ks[k], places[i][0]);
            draws d = draw_among_many(few, places[i][0], places[i][1],
                                      (struct pm_sampling){.temperature = 5, .top_p = 1, .top_k = ks[k], USUAL}, 6);
            for (uint32_t j = 0; j < d.m; j++)
                assert_in_range((d.ids[j] - places[i][0]) / places[i][1], FEW - ks[k], FEW - 1);
        }
}

// Of equals, all are drawn, where greedy the first: more than a slice lets through, and more than all slices together may.
static void many_equals(void **state) {
    static const uint32_t cases[][4] = {{21000, 9000, 1, 331}, {151936, 7, 68, 2230}}; // of how many, from, apart, equals
    (void)state;
    for (size_t i = 0; i < CHECK_COUNT(cases); i++) {
        uint32_t vocab = cases[i][0], from = cases[i][1], apart = cases[i][2], n = cases[i][3], m = vocab > 30000 ? 8 : 64,
                 late = 0;
        float *logits = pm_calloc(vocab, sizeof(float));
        assert_non_null(logits);
        for (uint32_t k = 0; k < n; k++)
            logits[from + k * apart] = 2;
        check_case("%u equals of %u", n, vocab);
        request r =
            request_of(logits, vocab, vocab, m, (struct pm_sampling){.temperature = 0.01f, .top_p = 1, .top_k = 4, USUAL}, false);
        draws d = draw(&r);
        for (uint32_t j = 0; j < m; j++) {
            assert_true(logits[d.ids[j]] == 2);
            late += d.ids[j] > from + apart * (n / 2);
        }
        assert_in_range(late, m / 8, m - m / 8);
        r = request_of(logits, vocab, vocab, 1, (struct pm_sampling){.temperature = 0}, false);
        assert_int_equal(draw(&r).ids[0], from);
        pm_free(logits);
    }
}

// ---- frequencies ------------------------------------------------------------------------------------------------------

// The value that a chi-square of `freedom` degrees exceeds once in a million (Wilson and Hilferty).
static double chi_square_bound(double freedom) {
    double a = 2 / (9 * freedom);
    return freedom * pow(1 - a + 4.75 * sqrt(a), 3);
}

// Wants `counts` of `total` draws to be as `p` says; ids expected fewer than 8 times are counted together.
static void check_frequencies(const uint32_t *counts, const double *p, uint32_t n, double total) {
    double sum = 0, rest = 0, rest_count = 0;
    int bins = 0;
    for (uint32_t i = 0; i < n; i++) {
        double expected = p[i] * total;
        if (expected >= 8) {
            sum += (counts[i] - expected) * (counts[i] - expected) / expected;
            bins++;
        } else {
            rest += expected;
            rest_count += counts[i];
        }
    }
    if (rest >= 8) {
        sum += (rest_count - rest) * (rest_count - rest) / rest;
        bins++;
    } else {
        assert_true(rest_count <= rest + 6 * sqrt(rest) + 6);
    }
    if (bins > 1 && sum > chi_square_bound(bins - 1))
        fail_msg("%s: chi-square %.1f of %d degrees, bound %.1f", check_what, sum, bins - 1, chi_square_bound(bins - 1));
}

static void count_draws(const float *logits, uint32_t vocab, uint32_t n_valid, size_t filter, uint32_t n_draws,
                        bool over_positions) {
    const struct pm_sampling *s = &filters[filter].s;
    double *p = pm_calloc(n_valid, sizeof(double)), slack = mass_slack(n_valid);
    uint32_t *counts = pm_calloc(n_valid, sizeof(uint32_t));
    check_case("%s of %u over %s", filters[filter].name, n_valid, over_positions ? "positions" : "seeds");
    if (pm_ref_sample(logits, n_valid, s, slack, p) ==
        pm_ref_sample(logits, n_valid, s, -slack, p)) { // no doubt about what is kept
        request r = request_of(logits, vocab, n_valid, n_draws, *s, over_positions);
        draws d = draw(&r);
        for (uint32_t j = 0; j < d.m; j++)
            counts[d.ids[j]]++;
        check_frequencies(counts, p, n_valid, d.m);
    } else {
        fail_msg("%s: a probability at the threshold; choose other logits", check_what);
    }
    pm_free(p);
    pm_free(counts);
}

static void frequencies_over_seeds(void **state) {
    (void)state;
    float *logits = peaked_logits(331, 300, 1.5f);
    for (size_t f = 0; f < CHECK_COUNT(filters); f++)
        count_draws(logits, 331, 300, f, filters[f].often ? MAX_DRAWS : 1000, false);
    pm_free(logits);
}

static void frequencies_over_positions(void **state) {
    (void)state;
    float *logits = peaked_logits(40, 37, 1.5f);
    for (size_t f = 0; f < CHECK_COUNT(filters); f++)
        if (filters[f].often)
            count_draws(logits, 40, 37, f, MAX_DRAWS, true);
    pm_free(logits);
}

// A draw tells nothing about the next one: pairs of four ids are as often as the product of what they are alone.
static void successive_draws_are_independent(void **state) {
    static const float logits[4] = {0.3f, 1, -0.5f, 0.7f};
    (void)state;
    for (int over_positions = 0; over_positions < 2; over_positions++) {
        struct pm_sampling s = {.temperature = 1, .top_p = 1, USUAL};
        double p[4], pairs[16];
        uint32_t counts[16] = {0};
        check_case("pairs of draws over %s", over_positions ? "positions" : "seeds");
        request r = request_of(logits, 4, 4, MAX_DRAWS, s, over_positions);
        draws d = draw(&r);
        for (uint32_t j = 0; j + 1 < d.m; j += 2)
            counts[4 * d.ids[j] + d.ids[j + 1]]++;
        pm_ref_sample(logits, 4, &s, 0, p);
        for (int i = 0; i < 16; i++)
            pairs[i] = p[i / 4] * p[i % 4];
        check_frequencies(counts, pairs, 16, d.m / 2);
    }
}

// Ties with the k-th, and with the last that top-p keeps, are kept: all of them are drawn.
static void ties_are_kept(void **state) {
    static const float logits[8] = {2, 1, 1, 1, 1, 0, 0, -1};
    static const struct pm_sampling tied[] = {{.temperature = 1, .top_p = 1, .top_k = 3, USUAL},
                                              {.temperature = 1, .top_p = 0.5f, USUAL},
                                              {.temperature = 1, .top_p = 0.6f, .top_k = 2, USUAL}};
    (void)state;
    for (size_t i = 0; i < CHECK_COUNT(tied); i++) {
        double p[8];
        uint32_t counts[8] = {0};
        check_case("ties, %zu", i);
        request r = request_of(logits, 8, 8, MAX_DRAWS, tied[i], false);
        draws d = draw(&r);
        for (uint32_t j = 0; j < d.m; j++)
            counts[d.ids[j]]++;
        assert_int_equal(pm_ref_sample(logits, 8, &tied[i], 0, p), 5);
        check_frequencies(counts, p, 8, d.m);
    }
}

static int open_device(void **state) {
    (void)state;
    check_open(28);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(greedy_is_exact),
        cmocka_unit_test(a_draw_depends_on_seed_and_position_only),
        cmocka_unit_test(only_kept_ids),
        cmocka_unit_test(extreme_logits),
        cmocka_unit_test(equal_logits),
        cmocka_unit_test(many_are_drawn_like_few),
        cmocka_unit_test(the_best_are_found_anywhere),
        cmocka_unit_test(many_equals),
        cmocka_unit_test(frequencies_over_seeds),
        cmocka_unit_test(frequencies_over_positions),
        cmocka_unit_test(successive_draws_are_independent),
        cmocka_unit_test(ties_are_kept),
    };
    return cmocka_run_group_tests_name("sample", tests, open_device, check_close) != 0;
}
