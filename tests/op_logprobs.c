// pm_op_logprobs: ln of the softmax for the id that was drawn and for the likeliest ones, these in falling order, the lower id
// first of equals.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "check.h"

// The place of each id in the order wanted; (n_valid).
static uint32_t place_of(const float *logits, uint32_t n_valid, uint32_t id) {
    uint32_t place = 0;
    for (uint32_t i = 0; i < n_valid; i++) {
        float l = logits[i] > -FLT_MAX ? logits[i] : -FLT_MAX, mine = logits[id] > -FLT_MAX ? logits[id] : -FLT_MAX;
        place += l > mine || (l == mine && i < id);
    }
    return place;
}

// logits (m, vocab), of which the padding would win.
static void run(const float *logits, uint32_t vocab, uint32_t n_valid, uint32_t m, uint32_t n) {
    struct pm_row *next = check_alloc(m, sizeof(*next));
    double *wanted = check_doubles(n_valid);
    uint32_t n_told = n < n_valid ? n : n_valid;
    for (uint32_t j = 0; j < m; j++)
        next[j] = (struct pm_row){.token = check_below(n_valid), .seq = 9, .pos = 9};
    pm_logprobs op = {.logits = check_in_tensor(m, vocab, logits),
                      .n_valid = n_valid,
                      .n = n,
                      .next = check_in(next, (size_t)m * 4),
                      .likely = check_take((uint64_t)m * (1 + n) * sizeof(struct pm_likely))};
    for (uint32_t j = 0; j < m; j++)
        check_allow(op.likely, (uint64_t)j * (1 + n) * 2, 2 * (1 + n_told));
    check_record();
    pm_op_logprobs(check_cmd, &op);
    check_run();
    for (uint32_t j = 0; j < m; j++) {
        const uint32_t *words = check_got(op.likely) + (size_t)j * (1 + n) * 2;
        const float *row = logits + (size_t)j * vocab;
        check_compare c = {.name = "logprobs"};
        pm_ref_logprobs(row, n_valid, wanted);
        assert_int_equal(words[0], next[j].token);
        for (uint32_t i = 0; i <= n_told; i++) {
            float got;
            memcpy(&got, words + 2 * i + 1, sizeof(got));
            assert_in_range(words[2 * i], 0, n_valid - 1);
            if (i > 0)
                assert_int_equal(place_of(row, n_valid, words[2 * i]), i - 1);
            check_one(&c, i, got, wanted[words[2 * i]], check_tolerance(n_valid, 1) + FLT_EPSILON * fabs(wanted[words[2 * i]]));
        }
        check_verdict(&c, n + 1);
    }
}

static float *with_padding(float *logits, uint32_t vocab, uint32_t n_valid, uint32_t m) {
    for (size_t i = 0; i < (size_t)m * vocab; i++)
        if (i % vocab >= n_valid)
            logits[i] = 1e30f;
    return logits;
}

static void rows_of_logits(void **state) {
    static const uint32_t sizes[][3] = {{1, 1, 1}, {331, 300, 9}, {1280, 1273, 4}, {129, 128, 2}, {17, 12, 3}, {151936, 151669, 2}};
    static const uint32_t ns[] = {0, 1, 5, 20};
    (void)state;
    for (size_t i = 0; i < CHECK_COUNT(sizes); i++)
        for (size_t k = 0; k < CHECK_COUNT(ns); k++) {
            uint32_t vocab = sizes[i][0], n_valid = sizes[i][1], m = sizes[i][2];
            check_case("%u of %u ids", ns[k], n_valid);
            check_begin();
            run(with_padding(check_normals((size_t)m * vocab, 4), vocab, n_valid, m), vocab, n_valid, m, ns[k]);
        }
}

// Few different values: the n-th is one of many equals.
static void ties(void **state) {
    (void)state;
    for (uint32_t kinds = 1; kinds < 300; kinds = kinds * 2 + 1) {
        check_case("ties of %u values", kinds);
        check_begin();
        float *logits = check_alloc(2 * 331, sizeof(float));
        for (uint32_t i = 0; i < 2 * 331; i++)
            logits[i] = (float)check_below(kinds) / 16 - 3;
        run(with_padding(logits, 331, 300, 2), 331, 300, 2, 20);
    }
}

static void extreme_logits(void **state) {
    static const float lows[] = {-INFINITY, NAN, -1e30f};
    (void)state;
    for (size_t k = 0; k < CHECK_COUNT(lows); k++) {
        check_case("three logits, the others %g", (double)lows[k]);
        check_begin();
        float *logits = check_alloc(331, sizeof(float));
        for (uint32_t i = 0; i < 331; i++)
            logits[i] = lows[k];
        logits[330] = -2, logits[7] = 40, logits[8] = 39.5f;
        run(logits, 331, 331, 1, 3);
    }
}

static int open_device(void **state) {
    (void)state;
    check_open(28);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_of_logits),
        cmocka_unit_test(ties),
        cmocka_unit_test(extreme_logits),
    };
    return cmocka_run_group_tests_name("logprobs", tests, open_device, check_close) != 0;
}
