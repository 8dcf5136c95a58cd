// pm_op_adjust: bias, then the repetition penalty, then frequency and presence, each of the ids it is about and no other; what was
// drawn is counted; the result is finite whatever the logits are.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "check.h"

// A run of m rows over `vocab` columns, of which n_valid are ids.
typedef struct subject {
    uint32_t vocab, n_valid, m;
    float *logits, *bias; // (m, vocab), (m, n_valid)
    uint32_t *seen;       // (m, n_valid)
    struct pm_sampling *sampling;
    struct pm_row *rows;
    uint32_t *index;
    bool count_rows;
} subject;

// Every kind of id in each row: unseen, of the prompt, drawn once and often, both; biased and not.
static subject make(uint32_t vocab, uint32_t n_valid, uint32_t m, bool count_rows) {
    subject s = {.vocab = vocab, .n_valid = n_valid, .m = m, .count_rows = count_rows};
    s.logits = check_normals((size_t)m * vocab, 5);
    s.bias = check_alloc((size_t)m * n_valid, sizeof(float));
    s.seen = check_alloc((size_t)m * n_valid, sizeof(uint32_t));
    s.sampling = check_alloc(m, sizeof(*s.sampling));
    s.rows = check_alloc(m, sizeof(*s.rows));
    s.index = check_alloc(m, sizeof(*s.index));
    for (size_t i = 0; i < (size_t)m * n_valid; i++) {
        s.bias[i] = check_below(4) ? 0 : check_uniform(-100, 100);
        s.seen[i] = (check_below(3) ? 0 : PM_SEEN_IN_PROMPT) | (check_below(3) ? 0 : check_below(5));
    }
    for (uint32_t j = 0; j < m; j++) {
        float repeat = j % 3 ? check_uniform(0.5f, 2) : 1;
        s.sampling[j] = (struct pm_sampling){.repeat = repeat,
                                             .inv_repeat = 1 / repeat,
                                             .presence = j % 4 ? check_uniform(-2, 2) : 0,
                                             .frequency = j % 5 ? check_uniform(-2, 2) : 0};
        s.index[j] = m - 1 - j;
        s.rows[m - 1 - j] = (struct pm_row){.token = check_below(n_valid), .seq = j, .pos = 7};
    }
    return s;
}

// What shall have been seen, after the rows were counted.
static void count(const subject *s, uint32_t *seen) {
    memcpy(seen, s->seen, (size_t)s->m * s->n_valid * sizeof(*seen));
    for (uint32_t j = 0; j < s->m && s->count_rows; j++)
        seen[(size_t)j * s->n_valid + s->rows[s->index[j]].token]++;
}

// The subject in memory of the case.
static pm_adjust given(const subject *s) {
    size_t n = (size_t)s->m * s->n_valid;
    pm_adjust op = {.adjusted = check_out_tensor(s->m, s->vocab, s->n_valid, NULL),
                    .logits = check_in_tensor(s->m, s->vocab, s->logits),
                    .n_valid = s->n_valid,
                    .sampling = check_in(s->sampling, (size_t)s->m * sizeof(*s->sampling) / 4),
                    .bias = check_in(s->bias, n),
                    .index = check_in(s->index, s->m),
                    .rows = check_in(s->rows, (size_t)s->m * 4),
                    .seen = check_in(s->seen, n),
                    .count_rows = s->count_rows};
    if (s->count_rows)
        check_allow(op.seen, 0, n);
    return op;
}

static void run(const subject *s) {
    size_t n = (size_t)s->m * s->n_valid;
    uint32_t *wanted_seen = check_alloc(n, sizeof(*wanted_seen));
    double *wanted = check_doubles(s->n_valid);
    pm_adjust op = given(s);
    check_record();
    pm_op_adjust(check_cmd, &op);
    check_run();

    count(s, wanted_seen);
    assert_memory_equal(check_got(op.seen), wanted_seen, n * sizeof(*wanted_seen));
    for (uint32_t j = 0; j < s->m; j++) {
        const float *logits = s->logits + (size_t)j * s->vocab, *bias = s->bias + (size_t)j * s->n_valid;
        const uint32_t *seen = wanted_seen + (size_t)j * s->n_valid;
        check_compare c = {.name = "adjusted"};
        pm_ref_adjust(logits, s->n_valid, &s->sampling[j], bias, seen, wanted);
        for (uint32_t i = 0; i < s->n_valid; i++)
            check_one(&c, i, check_got_float(op.adjusted.data, (uint64_t)j * op.adjusted.stride + i), wanted[i],
                      check_tolerance(5, 2 * (fabs((double)logits[i]) + fabs((double)bias[i])) + 12));
        check_verdict(&c, s->n_valid);
    }
}

static void rows_of_all_kinds(void **state) {
    static const uint32_t sizes[][3] = {{1, 1, 1},     {331, 300, 7}, {1280, 1273, 16},
                                        {129, 128, 3}, {127, 127, 1}, {151936, 151669, 2}};
    (void)state;
    for (size_t i = 0; i < CHECK_COUNT(sizes); i++)
        for (int count_rows = 0; count_rows < 2; count_rows++) {
            check_case("%u of %u ids, %u rows%s", sizes[i][1], sizes[i][0], sizes[i][2], count_rows ? ", counted" : "");
            check_begin();
            subject s = make(sizes[i][0], sizes[i][1], sizes[i][2], count_rows);
            run(&s);
        }
}

// Without bias and penalties the logits are what they were, to the bit.
static void nothing_changes_nothing(void **state) {
    (void)state;
    check_case("all off");
    check_begin();
    subject s = make(331, 331, 4, false);
    memset(s.bias, 0, (size_t)s.m * s.n_valid * sizeof(*s.bias));
    for (uint32_t j = 0; j < s.m; j++)
        s.sampling[j] = (struct pm_sampling){.repeat = 1, .inv_repeat = 1};
    pm_adjust op = given(&s);
    check_record();
    pm_op_adjust(check_cmd, &op);
    check_run();
    for (uint32_t j = 0; j < s.m; j++)
        assert_memory_equal(check_got(op.adjusted.data) + (size_t)j * op.adjusted.stride, s.logits + (size_t)j * s.vocab,
                            s.vocab * sizeof(float));
}

static void no_number_comes_out(void **state) {
    static const float values[] = {NAN, -INFINITY, INFINITY, 3e38f, -3e38f, 0, -0.0f};
    (void)state;
    check_case("logits that are none");
    check_begin();
    subject s = make(700, 700, 2, false);
    for (uint32_t i = 0; i < 2 * 700; i++) {
        s.logits[i] = values[i % CHECK_COUNT(values)];
        s.bias[i] = i % 5 == 0 ? -FLT_MAX : i % 5 == 1 ? FLT_MAX : i % 5 == 2 ? 100 : 0;
    }
    pm_adjust op = given(&s);
    check_record();
    pm_op_adjust(check_cmd, &op);
    check_run();
    for (uint32_t j = 0; j < s.m; j++)
        for (uint32_t i = 0; i < s.vocab; i++) {
            float got = check_got_float(op.adjusted.data, (uint64_t)j * op.adjusted.stride + i);
            assert_true(fabsf(got) <= FLT_MAX);
            if (isnan(s.logits[j * 700 + i]) || s.logits[j * 700 + i] == -INFINITY)
                assert_true(got == -FLT_MAX);
        }
}

static int open_device(void **state) {
    (void)state;
    check_open(28);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_of_all_kinds),
        cmocka_unit_test(nothing_changes_nothing),
        cmocka_unit_test(no_number_comes_out),
    };
    return cmocka_run_group_tests_name("adjust", tests, open_device, check_close) != 0;
}
