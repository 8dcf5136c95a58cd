// Rotation frequencies and angles against numbers from elsewhere: the published ones of Qwen3-4B under YaRN, long double, and the
// rounding of bfloat16.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include <math.h>
#include <string.h>

#include "backend/model.h"

enum { HALF = 64 };

static pm_config qwen3(void) {
    return (pm_config){.head_dim = 2 * HALF, .rope = {.theta = 1000000}};
}

static pm_config qwen3_yarn(double factor) {
    pm_config c = qwen3();
    c.rope.scaling = PM_ROPE_YARN;
    c.rope.factor = factor;
    c.rope.original_ctx = 32768;
    c.rope.beta_fast = 32;
    c.rope.beta_slow = 1;
    c.rope.truncate = true;
    return c;
}

static void near(double got, double want, double relative) {
    if (!(fabs(got - want) <= relative * fabs(want)))
        fail_msg("%.17g, wanted %.17g", got, want);
}

static double plain(int j) {
    return (double)expl(-2.0L * j / (2 * HALF) * logl(1000000.0L));
}

static void plain_frequencies(void **state) {
    (void)state;
    pm_config c = qwen3();
    double f[HALF], factor;
    pm_rope_frequencies(&c, f, &factor);
    assert_true(factor == 1);
    assert_true(f[0] == 1);
    near(f[32], 0.001, 1e-14); // theta^(-1/2)
    for (int j = 0; j < HALF; j++)
        near(f[j], plain(j), 1e-14);
}

static void linear_scaling(void **state) {
    (void)state;
    pm_config c = qwen3();
    c.rope.scaling = PM_ROPE_LINEAR;
    c.rope.factor = 8;
    double f[HALF], factor;
    pm_rope_frequencies(&c, f, &factor);
    assert_true(factor == 1);
    for (int j = 0; j < HALF; j++)
        near(f[j], plain(j) / 8, 1e-14);
}

// facts/qwen3.md: low 23, high 40; 1.069315 for a factor of 2, 1.138629 for 4.
static void yarn_of_qwen3_4b(void **state) {
    (void)state;
    pm_config c = qwen3_yarn(4);
    double f[HALF], factor;
    pm_rope_frequencies(&c, f, &factor);
    near(factor, 1.138629, 1e-6);
    for (int j = 0; j < HALF; j++) {
        double ramp = j <= 23 ? 0 : j >= 40 ? 1 : (j - 23) / 17.0;
        near(f[j], plain(j) * (1 - ramp) + plain(j) / 4 * ramp, 1e-14);
    }
    c = qwen3_yarn(2);
    pm_rope_frequencies(&c, f, &factor);
    near(factor, 1.069315, 1e-6);
    near(f[63], plain(63) / 2, 1e-14);
}

static void yarn_of_the_wrong_context(void **state) {
    (void)state;
    pm_config c = qwen3_yarn(4);
    c.rope.original_ctx = 40960;
    double f[HALF], factor;
    pm_rope_frequencies(&c, f, &factor);
    near(f[24], plain(24), 1e-14); // 24 and 41
    assert_true(f[25] < plain(25) * 0.99);
    assert_true(f[40] > plain(40) / 4 * 1.01);
    near(f[41], plain(41) / 4, 1e-14);
}

static void yarn_without_truncation(void **state) {
    (void)state;
    pm_config c = qwen3_yarn(4);
    c.rope.truncate = false;
    double f[HALF], factor, low = 128 * log(32768 / (32 * 2 * acos(-1))) / (2 * log(1e6)),
                            high = 128 * log(32768 / (2 * acos(-1))) / (2 * log(1e6));
    assert_true(low > 23 && low < 24 && high > 39 && high < 40);
    pm_rope_frequencies(&c, f, &factor);
    for (int j = 24; j < 40; j++) {
        double ramp = (j - low) / (high - low);
        near(f[j], plain(j) * ((1 - ramp) + ramp / 4), 1e-13);
    }
}

static void yarn_factors(void **state) {
    (void)state;
    double f[HALF], factor;
    pm_config c = qwen3_yarn(4);
    c.rope.attention_factor = 0.75;
    pm_rope_frequencies(&c, f, &factor);
    near(factor, 0.75, 1e-15);
    c.rope.attention_factor = 0;
    c.rope.mscale = 1; // DeepSeek's pair: only both together count
    pm_rope_frequencies(&c, f, &factor);
    near(factor, 1.138629, 1e-6);
    c.rope.mscale_all_dim = 0.5;
    pm_rope_frequencies(&c, f, &factor);
    near(factor, (0.1 * log(4) + 1) / (0.05 * log(4) + 1), 1e-14);
    c = qwen3_yarn(1);
    pm_rope_frequencies(&c, f, &factor);
    assert_true(factor == 1);
    near(f[63], plain(63), 1e-14);
}

// A ramp of no width: a step, and no division by zero.
static void yarn_of_a_tiny_context(void **state) {
    (void)state;
    pm_config c = qwen3_yarn(4);
    c.rope.original_ctx = 6; // both ends become dimension 0
    double f[HALF], factor;
    pm_rope_frequencies(&c, f, &factor);
    for (int j = 0; j < HALF; j++)
        assert_true(isfinite(f[j]) && f[j] >= plain(j) / 4 * 0.999 && f[j] <= plain(j) * 1.001);
    near(f[0], plain(0), 1e-14);
    near(f[1], plain(1) / 4, 1e-14);
}

// Rounded after the ramp, as the cast of a finished model does it: to 8 bits of mantissa, to nearest.
static void frequencies_in_bfloat16(void **state) {
    (void)state;
    pm_config c = qwen3(), y = qwen3_yarn(4);
    c.rope.bf16_frequencies = y.rope.bf16_frequencies = true;
    pm_config exact_y = qwen3_yarn(4);
    double f[HALF], g[HALF], exact[HALF], factor;
    pm_rope_frequencies(&c, f, &factor);
    assert_true(f[1] == 0.8046875);   // 0.80584..., between 0.8046875 and 0.80859375
    assert_true(f[32] == 0x1.06p-10); // 0.001
    pm_rope_frequencies(&y, g, &factor);
    pm_rope_frequencies(&exact_y, exact, &factor);
    near(factor, 1.138629, 1e-6); // not rounded
    bool differs = false;
    for (int j = 0; j < HALF; j++) {
        int exponent;
        double mantissa = frexp(g[j], &exponent);
        assert_true(ldexp(mantissa, 8) == floor(ldexp(mantissa, 8)));
        assert_true(fabs(g[j] - exact[j]) <= ldexp(1, exponent - 9) * 1.00001);
        differs = differs || g[j] != exact[j];
    }
    assert_true(differs);
}

// What the kernel makes of the table: each entry is off by half a unit, each product and the sum by another half, of at most
// `factor` in all; cos and sin of one angle share it.
static void check_angles(const pm_config *c, uint32_t n, uint32_t step) {
    double f[HALF], factor;
    float *table = pm_rope_table(c, n);
    assert_non_null(table);
    pm_rope_frequencies(c, f, &factor);
    const long double bound = 4 * 0x1p-24L * (long double)factor;
    for (uint32_t pos = 0; pos < n; pos += step)
        for (uint32_t j = 0; j < HALF; j++) {
            long double angle = (long double)pos * (long double)f[j];
            const float *low = table + 2 * ((size_t)(pos % PM_ANGLE_STEP) * HALF + j);
            const float *high = table + 2 * ((size_t)(PM_ANGLE_STEP + pos / PM_ANGLE_STEP) * HALF + j);
            float cosine = low[0] * high[0] - low[1] * high[1], sine = low[1] * high[0] + low[0] * high[1];
            assert_true(fabsl(cosine - cosl(angle) * (long double)factor) < bound);
            assert_true(fabsl(sine - sinl(angle) * (long double)factor) < bound);
        }
    pm_free(table);
}

static void scaled_by(const pm_config *c, double by, double f[HALF], double *factor) {
    pm_config scaled = pm_rope_scaled(c, by);
    pm_rope_frequencies(&scaled, f, factor);
}

// A sequence's factor in place of the model's: as if the file said it.
static void other_factors(void **state) {
    (void)state;
    pm_config plain_model = qwen3(), y4 = qwen3_yarn(4), y2 = qwen3_yarn(2), models[2];
    plain_model.max_ctx = 32768;
    plain_model.rope.beta_fast = 32;
    plain_model.rope.beta_slow = 1;
    plain_model.rope.truncate = true;
    models[0] = plain_model;
    models[1] = y4;
    models[1].rope.attention_factor = 1.5; // of factor 4 alone
    double want[HALF], want_factor, got[HALF], factor;
    for (int i = 0; i < 2; i++) {
        scaled_by(&models[i], 2, got, &factor);
        pm_rope_frequencies(&y2, want, &want_factor);
        assert_memory_equal(got, want, sizeof want);
        assert_true(factor == want_factor);
        scaled_by(&models[i], 1, got, &factor);
        pm_rope_frequencies(&plain_model, want, &want_factor);
        assert_memory_equal(got, want, sizeof want);
        assert_true(factor == 1);
        scaled_by(&models[i], 4, got, &factor);
        pm_rope_frequencies(&y4, want, &want_factor);
        assert_memory_equal(got, want, sizeof want);
        assert_true(i == 1 ? factor == 1.5 : factor == want_factor);
    }
}

// What is asked for in place of what the file says, and how far it reaches.
static void choose(pm_config c, pm_rope_options o, pm_rope_scaling scaling, double factor, uint32_t original_ctx,
                   uint32_t max_ctx) {
    assert_int_equal(pm_rope_choose("file", &o, &c), PM_OK);
    assert_int_equal(c.rope.scaling, scaling);
    assert_true(c.rope.factor == factor);
    assert_int_equal(c.rope.original_ctx, original_ctx);
    assert_int_equal(c.max_ctx, max_ctx);
}

static void chosen_scalings(void **state) {
    (void)state;
    pm_config plain_model = qwen3(), y = qwen3_yarn(4), unknown = qwen3();
    plain_model.max_ctx = 40960;
    y.max_ctx = 131072;
    choose(plain_model, (pm_rope_options){.scaling = PM_ROPE_YARN, .factor = 4, .original_ctx = 32768}, PM_ROPE_YARN, 4, 32768,
           131072);
    choose(plain_model, (pm_rope_options){.scaling = PM_ROPE_YARN, .factor = 2}, PM_ROPE_YARN, 2, 40960, 81920);
    choose(plain_model, (pm_rope_options){.scaling = PM_ROPE_YARN, .factor = 1, .original_ctx = 32768}, PM_ROPE_YARN, 1, 32768,
           40960);
    choose(plain_model, (pm_rope_options){.scaling = PM_ROPE_LINEAR, .factor = 2}, PM_ROPE_LINEAR, 2, 40960, 81920);
    choose(plain_model, (pm_rope_options){.scaling = PM_ROPE_NONE}, PM_ROPE_NONE, 1, 40960, 40960);
    choose(y, (pm_rope_options){.scaling = PM_ROPE_NONE}, PM_ROPE_NONE, 1, 32768, 32768);
    choose(y, (pm_rope_options){.scaling = PM_ROPE_YARN, .factor = 2}, PM_ROPE_YARN, 2, 32768, 65536);
    static const pm_rope_options bad[] = {
        {.scaling = PM_ROPE_NONE, .factor = 2},
        {.scaling = PM_ROPE_YARN},
        {.scaling = PM_ROPE_YARN, .factor = 0.5},
        {.scaling = PM_ROPE_YARN, .factor = NAN},
        {.scaling = PM_ROPE_LINEAR, .factor = 1e9},
        {.scaling = PM_ROPE_YARN, .factor = 4}, // of a file that does not say its context
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(pm_rope_choose("file", &bad[i], &unknown), PM_ERR_USAGE);
}

static void angles_to_the_longest_context(void **state) {
    (void)state;
    pm_config c = qwen3(), y = qwen3_yarn(4);
    check_angles(&c, 300, 1);
    check_angles(&c, 131072, 997);
    check_angles(&y, 131072, 1009);
}

static void angles_without_memory(void **state) {
    (void)state;
    pm_config c = qwen3();
    for (long n = 1; n <= 2; n++) {
        pm_alloc_fail_after(n);
        assert_null(pm_rope_table(&c, 10));
        pm_alloc_fail_after(0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plain_frequencies),
        cmocka_unit_test(linear_scaling),
        cmocka_unit_test(yarn_of_qwen3_4b),
        cmocka_unit_test(yarn_of_the_wrong_context),
        cmocka_unit_test(yarn_without_truncation),
        cmocka_unit_test(yarn_factors),
        cmocka_unit_test(yarn_of_a_tiny_context),
        cmocka_unit_test(frequencies_in_bfloat16),
        cmocka_unit_test(other_factors),
        cmocka_unit_test(chosen_scalings),
        cmocka_unit_test(angles_to_the_longest_context),
        cmocka_unit_test(angles_without_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
