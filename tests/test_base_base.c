// host/base.c: messages, memory that fails on demand, sizes that do not wrap, half floats against their definition.
#include "host/base.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

// ---- messages ---------------------------------------------------------------------------------------------------------

static void error_text_is_one_clean_line(void **state) {
    (void)state;
    assert_int_equal(pm_fail(PM_ERR_FILE, "%s: %d", "a\nb\x1b[31m", 7), PM_ERR_FILE);
    assert_string_equal(pm_error_text(), "a?b?[31m: 7");
    assert_int_equal(pm_fail(PM_ERR_IO, "outer: %s", pm_error_text()), PM_ERR_IO); // its own text as argument
    assert_string_equal(pm_error_text(), "outer: a?b?[31m: 7");
    pm_fail(PM_ERR_IO, "%5000d", 1);
    assert_true(strlen(pm_error_text()) > 500);
}

static pm_status passes_on(pm_status inner) {
    PM_TRY(inner);
    return PM_ERR_USAGE;
}

static void try_passes_failure_on(void **state) {
    (void)state;
    assert_int_equal(passes_on(PM_ERR_DEVICE), PM_ERR_DEVICE);
    assert_int_equal(passes_on(PM_OK), PM_ERR_USAGE);
}

typedef struct heard {
    int n;
    pm_log_level level;
    char line[64];
} heard;

static void hear(pm_log_level level, const char *line, void *user) {
    heard *h = user;
    h->n++;
    h->level = level;
    strncpy(h->line, line, sizeof(h->line) - 1);
}

static void log_keeps_its_level(void **state) {
    (void)state;
    heard h = {0};
    pm_log_to(hear, &h);
    pm_log(PM_LOG_INFO, "quiet");
    assert_int_equal(h.n, 0);
    pm_log(PM_LOG_WARN, "%d devices", 2);
    assert_int_equal(h.n, 1);
    assert_int_equal(h.level, PM_LOG_WARN);
    assert_string_equal(h.line, "2 devices");
    pm_log_set_level(PM_LOG_DEBUG);
    pm_log(PM_LOG_DEBUG, "loud");
    assert_int_equal(h.n, 2);
    pm_log_set_level(PM_LOG_WARN);
    pm_log_to(NULL, NULL);
}

// ---- memory -----------------------------------------------------------------------------------------------------------

static void allocations_fail_from_the_nth_on(void **state) {
    (void)state;
    pm_alloc_fail_after(3);
    void *a = pm_malloc(8), *b = pm_calloc(2, 8), *c = pm_malloc(8), *d = pm_realloc(NULL, 8);
    assert_int_equal(pm_alloc_count(), 4);
    pm_alloc_fail_after(0);
    assert_non_null(a);
    assert_non_null(b);
    assert_null(c);
    assert_null(d);
    pm_free(a);
    pm_free(b);
    pm_free(NULL);
}

static void zero_bytes_are_no_failure(void **state) {
    (void)state;
    void *a = pm_malloc(0), *b = pm_calloc(0, 8);
    assert_non_null(a);
    assert_non_null(b);
    pm_free(a);
    pm_free(b);
    assert_null(pm_calloc(SIZE_MAX / 2, 3));
}

static void arena_gives_zeroed_aligned_pieces(void **state) {
    (void)state;
    pm_arena arena = {0};
    uint8_t *last = NULL;
    for (size_t size = 0; size < 300000; size = size * 3 + 1) {
        uint8_t *p = pm_arena_alloc(&arena, size);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % 16, 0);
        for (size_t i = 0; i < size; i++)
            assert_int_equal(p[i], 0);
        memset(p, 0xff, size); // the next piece must not see it
        if (last && size < 100)
            assert_ptr_not_equal(p, last);
        last = p;
    }
    assert_null(pm_arena_alloc(&arena, SIZE_MAX));
    assert_null(pm_arena_alloc(&arena, SIZE_MAX - 40));
    pm_arena_close(&arena);
    assert_null(arena.blocks);

    pm_alloc_fail_after(1);
    void *none = pm_arena_alloc(&arena, 1);
    pm_alloc_fail_after(0);
    assert_null(none);
    pm_arena_close(&arena);
}

static void sizes_do_not_wrap(void **state) {
    (void)state;
    uint64_t out = 5;
    assert_int_equal(pm_mul_size(UINT64_C(1) << 32, (UINT64_C(1) << 32) - 1, &out), PM_OK);
    assert_true(out == (UINT64_C(1) << 32) * ((UINT64_C(1) << 32) - 1));
    assert_int_equal(pm_mul_size(UINT64_C(1) << 32, UINT64_C(1) << 32, &out), PM_ERR_FILE);
    assert_int_equal(pm_mul_size(UINT64_MAX, 0, &out), PM_OK);
    assert_true(out == 0);
    assert_int_equal(pm_add_size(UINT64_MAX, 1, &out), PM_ERR_FILE);
    assert_int_equal(pm_add_size(UINT64_MAX - 1, 1, &out), PM_OK);
    assert_true(out == UINT64_MAX);
    assert_true(pm_round_up(33, 32) == 64 && pm_round_up(64, 32) == 64 && pm_round_up(0, 32) == 0);
    assert_true(pm_str_is(PM_STR("abc"), "abc") && !pm_str_is(PM_STR("abc"), "ab") && pm_str_is((pm_str){NULL, 0}, ""));
}

// ---- half floats --------------------------------------------------------------------------------------------------------

// The definition: (-1)^s 2^(e-15) (1 + m/1024), subnormals without the 1.
static double half_value(unsigned h) {
    int exponent = (int)(h >> 10 & 31), mantissa = (int)(h & 1023);
    double sign = h & 0x8000 ? -1 : 1;
    if (exponent == 31)
        return mantissa ? NAN : sign * INFINITY;
    return exponent ? sign * ldexp(1024 + mantissa, exponent - 25) : sign * ldexp(mantissa, -24);
}

static void every_half_is_its_value(void **state) {
    (void)state;
    for (unsigned h = 0; h < 0x10000; h++) {
        double want = half_value(h);
        float have = pm_f16_to_f32((uint16_t)h);
        if (isnan(want)) {
            assert_true(isnan(have));
            assert_true(isnan(pm_f16_to_f32(pm_f32_to_f16(have))));
            continue;
        }
        assert_true((double)have == want && !signbit(have) == !(h & 0x8000));
        assert_int_equal(pm_f32_to_f16(have), h);
    }
}

// Between two neighbouring halves the nearer one is taken, in the middle the even one.
static void rounding_is_to_nearest_even(void **state) {
    (void)state;
    for (unsigned h = 0; h < 0x7bff; h++) {
        float low = (float)half_value(h), high = (float)half_value(h + 1), middle = low + (high - low) / 2; // exact in a float
        assert_int_equal(pm_f32_to_f16(middle), h & 1 ? h + 1 : h);
        assert_int_equal(pm_f32_to_f16(nextafterf(middle, 0)), h);
        assert_int_equal(pm_f32_to_f16(nextafterf(middle, INFINITY)), h + 1);
        assert_int_equal(pm_f32_to_f16(-nextafterf(middle, INFINITY)), 0x8000 | (h + 1));
    }
    assert_int_equal(pm_f32_to_f16(65519.996f), 0x7bff);
    assert_int_equal(pm_f32_to_f16(65520), 0x7c00);
    assert_int_equal(pm_f32_to_f16(-1e30f), 0xfc00);
    assert_int_equal(pm_f32_to_f16(1e-30f), 0);
}

static void bfloat_is_the_upper_half(void **state) {
    (void)state;
    for (unsigned b = 0; b < 0x10000; b++) {
        float value = pm_bf16_to_f32((uint16_t)b);
        if (isnan(value))
            assert_true(isnan(pm_bf16_to_f32(pm_f32_to_bf16(value))));
        else
            assert_int_equal(pm_f32_to_bf16(value), b);
    }
    assert_int_equal(pm_f32_to_bf16(1.00390625f), 0x3f80); // 1 + 2^-8: the middle, to even
    assert_int_equal(pm_f32_to_bf16(1.01171875f), 0x3f82); // 1 + 3 * 2^-8
    assert_int_equal(pm_f32_to_bf16(1.0039064f), 0x3f81);
    assert_int_equal(pm_f32_to_bf16(3.4028235e38f), 0x7f80); // overflow becomes infinity
    assert_true(isnan(pm_bf16_to_f32(pm_f32_to_bf16(NAN))));
}

static void dtypes_have_ggml_numbers(void **state) {
    (void)state;
    assert_string_equal(pm_dtype_get(PM_Q4_0)->name, "Q4_0");
    assert_int_equal(pm_dtype_get(PM_Q4_0)->ggml, 2);
    assert_int_equal(pm_dtype_get(PM_Q8_0)->block_bytes, 34);
    assert_int_equal(pm_dtype_get(PM_BF16)->ggml, 30);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(error_text_is_one_clean_line),
        cmocka_unit_test(try_passes_failure_on),
        cmocka_unit_test(log_keeps_its_level),
        cmocka_unit_test(allocations_fail_from_the_nth_on),
        cmocka_unit_test(zero_bytes_are_no_failure),
        cmocka_unit_test(arena_gives_zeroed_aligned_pieces),
        cmocka_unit_test(sizes_do_not_wrap),
        cmocka_unit_test(every_half_is_its_value),
        cmocka_unit_test(rounding_is_to_nearest_even),
        cmocka_unit_test(bfloat_is_the_upper_half),
        cmocka_unit_test(dtypes_have_ggml_numbers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
