// Made-up models: the shapes of the real ones, valid values in every type, the same each time.
#include "loader/internal.h"
#include "loader/quantize.h"

#include <math.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include <setjmp.h> // cmocka.h needs it
#include <cmocka.h>

static uint64_t count(const pm_file *file) {
    size_t n;
    uint64_t sum = 0;
    const pm_tensor_view *t = pm_file_tensors(file, &n);
    for (size_t i = 0; i < n; i++)
        sum += t[i].dims[0] * t[i].dims[1] * t[i].dims[2] * t[i].dims[3];
    return sum;
}

// What the models' pages say, to the last weight.
static void test_shapes(void **state) {
    (void)state;
    static const struct {
        const char *path;
        uint64_t n_params;
    } cases[] = {
        {"synthetic:qwen3-0.6b:q8_0", 596049920},
        {"synthetic:qwen3-1.7b:F16", 1720574976},
        {"synthetic:qwen3-4b:Q4_K_M", 4022468096},
        {"synthetic:qwen3-8b:q4_0", 8190735360},
        {"synthetic:qwen3-14b:iq4_xs", 14768307200},
        {"synthetic:qwen3-32b:mxfp4", 32762123264},
        {"synthetic:qwen3-30b-a3b:q4_k_m", 30532122624},
        // the embedding, the head and the last norm, and 2 of 48 layers
        {"synthetic:qwen3-30b-a3b/2:q4_0", 2 * 151936 * 2048 + 2048 + (30532122624 - 2 * 151936 * 2048 - 2048) / 24},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        pm_file *file;
        assert_int_equal(pm_file_open(cases[i].path, &file), PM_OK);
        assert_true(count(file) == cases[i].n_params);
        assert_null(pm_file_vocab(file));
        pm_file_close(&file);
    }
}

// A strip in the middle: finite, of the size of trained weights, not all the same; as floats and as blocks.
static void check_values(const pm_tensor_view *view) {
    float values[256];
    double squares = 0;
    pm_view_floats(view, 3 * view->dims[1] + 256, 256, values);
    for (int i = 0; i < 256; i++) {
        assert_true(isfinite(values[i]) && fabsf(values[i]) < 0.1f);
        squares += (double)values[i] * values[i];
    }
    assert_true(squares > 256 * 0.015 * 0.015 && squares < 256 * 0.03 * 0.03);
}

static void test_types(void **state) {
    (void)state;
    char names[160], path[192];
    snprintf(names, sizeof(names), "%s", pm_quantize_types());
    for (char *name = names, *end; name; name = end) {
        end = strchr(name, ' ');
        if (end)
            *end++ = 0;
        pm_file *file, *again;
        uint8_t a[PM_VIEW_BYTES] = {0}, b[PM_VIEW_BYTES] = {0};
        snprintf(path, sizeof(path), "synthetic:qwen3-0.6b:%s", name);
        assert_int_equal(pm_file_open(path, &file), PM_OK);
        assert_int_equal(pm_file_open(path, &again), PM_OK);
        check_values(pm_file_find(file, "blk.5.ffn_down.weight"));
        check_values(pm_file_find(file, "token_embd.weight"));
        pm_view_read(pm_file_find(file, "blk.5.attn_v.weight"), 7, 1, 256, 256, a);
        pm_view_read(pm_file_find(again, "blk.5.attn_v.weight"), 7, 1, 256, 256, b);
        assert_memory_equal(a, b, sizeof(a));
        pm_view_read(pm_file_find(file, "blk.6.attn_v.weight"), 7, 1, 256, 256, b);
        assert_memory_not_equal(a, b, sizeof(a));
        pm_file_close(&file);
        pm_file_close(&again);
    }
}

// Experts are stacks, three dimensions; the router is small and stays in floats.
static void test_experts(void **state) {
    (void)state;
    pm_file *file;
    assert_int_equal(pm_file_open("synthetic:qwen3-30b-a3b/2:q4_k_m", &file), PM_OK);
    const pm_tensor_view *up = pm_file_find(file, "blk.1.ffn_up_exps.weight"),
                         *router = pm_file_find(file, "blk.1.ffn_gate_inp.weight");
    assert_non_null(up);
    assert_true(up->n_dims == 3 && up->dims[0] == 128 && up->dims[1] == 768 && up->dims[2] == 2048 && up->dtype == PM_Q4_K);
    assert_true(router && router->dtype == PM_F32);
    assert_null(pm_file_find(file, "blk.1.ffn_up.weight"));
    assert_true(pm_file_config(file)->n_layers == 2 && pm_file_config(file)->experts_normed);
    float first[256], last[256];
    pm_view_floats(up, 0, 256, first);
    pm_view_floats(up, 127ull * 768 * 2048, 256, last);
    assert_memory_not_equal(first, last, sizeof(first));
    pm_file_close(&file);
}

static void test_bad(void **state) {
    (void)state;
    const char *const bad[] = {"synthetic:",
                               "synthetic:qwen3-4b",
                               "synthetic:qwen3-4b:",
                               "synthetic:qwen3-4b:q4",
                               "synthetic:qwen3:q4_0",
                               "synthetic::q4_0",
                               "synthetic:qwen3-4b:q4_0:",
                               "synthetic:qwen3-4b/:q4_0",
                               "synthetic:qwen3-4b/0:q4_0",
                               "synthetic:qwen3-4b/37:q4_0",
                               "synthetic:qwen3-4b/2x:q4_0",
                               "synthetic:/2:q4_0"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        pm_file *file;
        assert_int_equal(pm_file_open(bad[i], &file), PM_ERR_USAGE);
        assert_null(file);
    }
}

static void test_no_memory(void **state) {
    (void)state;
    pm_status status = PM_ERR_MEMORY;
    for (long n = 0; status != PM_OK; n += 1 + n / 8) {
        pm_file *file;
        pm_alloc_fail_after(n);
        status = pm_file_open("synthetic:qwen3-0.6b:q8_0", &file);
        pm_alloc_fail_after(-1);
        assert_true(status == PM_OK || (status == PM_ERR_MEMORY && !file));
        pm_file_close(&file);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shapes), cmocka_unit_test(test_types),     cmocka_unit_test(test_experts),
        cmocka_unit_test(test_bad),    cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
