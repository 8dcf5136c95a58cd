// pm_op_quantize: blocks of x as whole numbers times scales, in either order of columns.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "check.h"

static void run_case(uint32_t n, uint32_t cols, float scale, pm_quants_form form) {
    check_begin();
    check_case("quantize, %u rows of %u, of size %g, %s, %s", n, cols, (double)scale,
               form.even_odd ? "even before odd" : "in order", form.wide ? "wide" : "bytes");
    float *x = check_normals((size_t)n * cols, scale), *back = check_alloc((size_t)n * cols, sizeof(float));
    for (uint32_t i = 0; i < n * cols; i++)
        x[i] *= i / 32 % 7 ? (float)(1 << i / 32 % 5) : 0; // a block of nothing now and then
    pm_tensor in = check_in_tensor(n, cols, x);
    uint32_t words = pm_ref_quants_words(cols, form.wide);
    assert_true(pm_quants_bytes(n, cols) >= (uint64_t)n * words * 4);
    pm_slice quants = check_out((uint64_t)n * words);
    check_record();
    pm_op_quantize(check_cmd, quants, in, form);
    check_run();
    double error = pm_ref_quants_error(x, n, cols, form.even_odd, form.wide, check_got(quants));
    check_worst = fmax(check_worst, error);
    if (!(error <= 1))
        fail_msg("%s: off by %g times what is allowed", check_what, error);
    pm_ref_dequantize(check_got(quants), n, cols, form.even_odd, form.wide, back);
    for (uint32_t i = 0; i < n * cols; i++) { // near by half of the scale, whatever the reference says
        double most = 0, levels = form.wide ? 32512 : 127;
        for (uint32_t k = i % cols / 32 * 32; k < cols && k < i % cols / 32 * 32 + 32; k++)
            most = fmax(most, fabs(x[i / cols * cols + k]));
        assert_true(fabs(back[i] - x[i]) <= (most < 1e-30 ? most : most / levels * 0.51));
    }
}

static pm_quants_form form_of(int i) {
    return (pm_quants_form){.even_odd = i & 1, .wide = i & 2};
}

static void every_form(void **state) {
    static const uint32_t cols[] = {32, 1, 33, 96, 2560, 5000};
    (void)state;
    for (size_t i = 0; i < CHECK_COUNT(cols); i++)
        for (int f = 0; f < 4; f++) {
            run_case(1, cols[i], 1, form_of(f));
            run_case(7, cols[i], 3, form_of(f));
        }
}

// Far from one: no scale overflows, and what is next to nothing becomes nothing.
static void all_sizes(void **state) {
    static const float sizes[] = {1e-38f, 1e-31f, 1e-29f, 1e-10f, 1e20f, 1e36f};
    (void)state;
    for (size_t i = 0; i < CHECK_COUNT(sizes); i++)
        run_case(2, 160, sizes[i], form_of((int)i));
}

static int open_device(void **state) {
    (void)state;
    check_open(4);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_form), cmocka_unit_test(all_sizes)};
    return cmocka_run_group_tests_name("quantize", tests, open_device, check_close) != 0;
}
