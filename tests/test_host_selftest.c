// The self-test from inside: each kernel has a case, trials find what is broken on purpose, what is known is kept and never
// believed too much, and variants take each other's place. tests/app_selftest.sh shows the same from outside.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "host/ops.h"
#include "host/vk.h"
#include "temp.h"

static pm_device *dev;

// ---- fixture ----------------------------------------------------------------------------------------------------------

static void must(pm_status status) {
    if (status != PM_OK)
        print_error("%s\n", pm_error_text());
    assert_int_equal(status, PM_OK);
}

static void silent(pm_log_level level, const char *line, void *user) {
    (void)level, (void)line, (void)user;
}

static int open_all(void **state) {
    if (temp_open(state) != 0)
        return -1;
    setenv("PUMICE_CACHE", temp_folder, 1);
    pm_log_to(silent, NULL);
    if (pm_device_open(NULL, &dev) != PM_OK) {
        fprintf(stderr, "%s\n", pm_error_text());
        exit(77);
    }
    return 0;
}

static int close_all(void **state) {
    pm_device_close(&dev);
    return temp_close(state);
}

static void reopen(void) {
    pm_device_close(&dev);
    must(pm_device_open(NULL, &dev));
}

// Nothing is known, on disk neither.
static int forget(void **state) {
    (void)state;
    unsetenv("PM_BREAK");
    pm_store_write(dev, "verdicts", "\n");
    pm_store_write(dev, "trying", "\n");
    pm_store_write(dev, "plan", "\n");
    reopen();
    return 0;
}

static pm_kernel_use read_use(const char *text) {
    pm_kernel_use use;
    assert_true(pm_kernel_use_read(text, &use));
    return use;
}

// A device of its own, as a trial needs it.
static pm_fate try_use(const char *text) {
    pm_device *other;
    pm_lab *lab;
    pm_verdict v;
    pm_kernel_use use = read_use(text);
    must(pm_device_open(NULL, &other));
    must(pm_lab_open(other, &lab));
    pm_lab_try(lab, &use, &v);
    pm_lab_close(&lab); // what hangs here was never submitted, and is waited for no longer than a trial
    pm_device_close(&other);
    return v.fate;
}

// ---- tests ------------------------------------------------------------------------------------------------------------

// A new row of kernels.txt gets a case in a host/trial_*.c, and a use in host/selftest_list.c or a variant that makes one.
static void every_kernel_is_tried(void **state) {
    (void)state;
    pm_verdict *list;
    int n;
    must(pm_selftest_list(dev, &list, &n));
    for (int id = 0; id < PM_KERNEL_COUNT; id++) {
        const char *name = pm_kernel_get_info((pm_kernel_id)id)->name;
        bool listed = !pm_kernel_available(dev, (pm_kernel_id)id);
        for (int i = 0; i < n; i++)
            listed = listed || list[i].use.id == (pm_kernel_id)id;
        if (!pm_lab_knows((pm_kernel_id)id))
            fail_msg("%s: no case in host/trial.c and trial_*.c", name);
        if (!listed)
            fail_msg("%s: pumice devices --test leaves it out: host/selftest_list.c, fixed_uses", name);
    }
    pm_free(list);
}

static bool lists_one_of(const pm_verdict *list, int n, const pm_kernel_use *uses, int n_uses) {
    for (int i = 0; i < n; i++)
        for (int u = 0; u < n_uses; u++)
            if (pm_kernel_same_use(&list[i].use, &uses[u]))
                return true;
    return false;
}

// With one row of x or with many; the defaults with both.
static void every_variant_is_tried(void **state) {
    (void)state;
    pm_verdict *list;
    int n;
    must(pm_selftest_list(dev, &list, &n));
    for (int d = 0; d < PM_DTYPE_COUNT; d++) {
        pm_linear_shape one = {.dtype = (pm_dtype)d, .epilogue = PM_LINEAR_NORM | PM_LINEAR_GLU, .n = 1},
                        many = {.dtype = (pm_dtype)d, .epilogue = PM_LINEAR_ADD, .n = 64};
        pm_kernel_use uses[4];
        pm_variant v;
        for (int i = 0; pm_variant_at(dev, &one, i, &v); i++) {
            int n_one = pm_linear_uses(&dev->caps, &one, &v, uses), n_uses = n_one;
            n_uses += i > 0 ? pm_linear_uses(&dev->caps, &many, &v, uses + n_one) : 0;
            if (pm_kernel_available(dev, uses[0].id) && !lists_one_of(list, n, uses, n_uses))
                fail_msg("%s: its variant %d, \"%s\", is left out", pm_kernel_get_info(uses[0].id)->name, i, v.name);
        }
        pm_variant_at(dev, &many, 0, &v);
        int n_many = pm_linear_uses(&dev->caps, &many, &v, uses);
        assert_true(!pm_kernel_available(dev, uses[0].id) || lists_one_of(list, n, uses, n_many));
    }
    pm_free(list);
}

static void uses_are_text(void **state) {
    static const char *const nonsense[] = {"",
                                           "gather",
                                           "gather:",
                                           "gather:x",
                                           "gather:1,",
                                           "gather:1,,2",
                                           "gather:-1",
                                           "gathers:1",
                                           ":1",
                                           "gather:1 2",
                                           "gather:1,2,3,4,5,6,7,8,9,10,11,12,13"};
    char text[PM_USE_TEXT];
    (void)state;
    pm_kernel_use use = read_use("matvec_q4_0:16,9,1,8,4");
    assert_int_equal(use.id, PM_K_matvec_q4_0);
    assert_int_equal(use.n_spec, 5);
    assert_string_equal(pm_kernel_use_text(&use, text), "matvec_q4_0:16,9,1,8,4");
    for (size_t i = 0; i < sizeof(nonsense) / sizeof(*nonsense); i++)
        assert_false(pm_kernel_use_read(nonsense[i], &use));
}

static void trials_see_what_is_broken(void **state) {
    (void)state;
    assert_int_equal(try_use("gather:64"), PM_FATE_RIGHT);
    assert_int_equal(try_use("gather:7"), PM_FATE_RIGHT);
    assert_int_equal(try_use("matvec_q4_0:16,9,1,4,2"), PM_FATE_RIGHT);
    assert_int_equal(try_use("matvec_f32:32,4,8,2,1"), PM_FATE_RIGHT);
    setenv("PM_BREAK", "gather:64=wrong;gather:32=lost;gather:1=compile;matvec_*:16,9=wrong", 1);
    assert_int_equal(try_use("gather:64"), PM_FATE_WRONG);
    assert_int_equal(try_use("gather:32"), PM_FATE_LOST);
    assert_int_equal(try_use("gather:1"), PM_FATE_REFUSED);
    assert_int_equal(try_use("gather:16"), PM_FATE_RIGHT);
    assert_int_equal(try_use("matvec_q4_0:16,9,1,4,2"), PM_FATE_WRONG);
    assert_int_equal(try_use("matvec_q4_0:16,1,1,4,2"), PM_FATE_RIGHT);
    setenv("PM_TRIAL_MS", "300", 1);
    setenv("PM_BREAK", "gather:64=hang", 1);
    assert_int_equal(try_use("gather:64"), PM_FATE_HANGS);
    unsetenv("PM_TRIAL_MS");
}

// A program that only links the library: in this process, on a second device; and what is found is kept.
static void bad_ones_are_passed_over(void **state) {
    pm_kernel_use uses[] = {read_use("gather:64"), read_use("gather:32"), read_use("gather:64")};
    bool found_bad;
    (void)state;
    setenv("PM_BREAK", "gather:64=wrong", 1);
    must(pm_selftest_uses(dev, uses, 3, &found_bad));
    assert_true(found_bad);
    assert_true(pm_selftest_is_bad(dev, &uses[0]));
    assert_false(pm_selftest_is_bad(dev, &uses[1]));
    assert_int_equal(pm_selftest_check(dev, &uses[0]), PM_ERR_DEVICE);
    assert_non_null(strstr(pm_error_text(), "gather:64 computes what is wrong"));
    must(pm_selftest_check(dev, &uses[1]));
    assert_int_equal(pm_variant_workgroup(dev, PM_K_gather, 64), 32);

    must(pm_selftest_uses(dev, uses, 2, &found_bad)); // known: not tried again, and no news
    assert_false(found_bad);
    reopen();
    assert_true(pm_selftest_is_bad(dev, &uses[0]));
    assert_int_equal(pm_variant_workgroup(dev, PM_K_gather, 64), 32);
    // The disk alone is not believed when it says that nothing is left.
    must(pm_selftest_check(dev, &uses[0]));
    unsetenv("PM_BREAK");
    must(pm_selftest_uses(dev, uses, 1, &found_bad));
    assert_false(found_bad);
    assert_false(pm_selftest_is_bad(dev, &uses[0]));
}

// Whoever forged it: a cache that condemns every variant of a kernel stops nobody.
static void a_forged_cache_stops_nobody(void **state) {
    (void)state;
    pm_store_write(dev, "verdicts", "gather:64 wrong 9 1\ngather:32 wrong 9 1\ngather:16 crashes 9 1\ngather:128 hangs 9 1\nx\n");
    reopen();
    pm_kernel_use use = read_use("gather:64");
    bool found_bad;
    assert_int_equal(pm_variant_workgroup(dev, PM_K_gather, 64), 64); // the usual one, to be tried once more
    must(pm_selftest_check(dev, &use));
    must(pm_selftest_uses(dev, &use, 1, &found_bad));
    assert_false(found_bad);
}

// The mark of a process that is gone: its kernel took it along. Of one that lives: nothing is known yet.
static void a_mark_is_left_by_a_crash(void **state) {
    char line[64];
    pm_kernel_use use = read_use("gather:64");
    (void)state;
    snprintf(line, sizeof(line), "%lu gather:64\n", pm_process_id());
    pm_store_write(dev, "trying", line);
    reopen();
    assert_false(pm_selftest_is_bad(dev, &use));
    pm_store_write(dev, "trying", "999999999 gather:64\n");
    reopen();
    assert_true(pm_selftest_is_bad(dev, &use));
    reopen(); // the mark is gone, the verdict stays
    assert_true(pm_selftest_is_bad(dev, &use));
}

static void without_memory(void **state) {
    pm_kernel_use use = read_use("gather:64");
    bool found_bad;
    (void)state;
    for (long n = 1; n <= 40; n++) {
        pm_alloc_fail_after(n);
        pm_status status = pm_selftest_uses(dev, &use, 1, &found_bad);
        pm_alloc_fail_after(0);
        assert_true(status == PM_OK || status == PM_ERR_MEMORY);
        assert_false(pm_selftest_is_bad(dev, &use)); // of which the kernel is innocent
    }
}

static void switched_off(void **state) {
    pm_kernel_use use = read_use("gather:64");
    bool found_bad;
    (void)state;
    setenv("PM_SELFTEST", "0", 1);
    setenv("PM_BREAK", "gather=wrong", 1);
    reopen();
    unsetenv("PM_SELFTEST");
    must(pm_selftest_uses(dev, &use, 1, &found_bad));
    assert_false(found_bad || pm_selftest_is_bad(dev, &use));
}

// ---- variants ---------------------------------------------------------------------------------------------------------

// With each variant condemned in turn another takes its place, until the default is all that is left.
static void variants_take_turns(void **state) {
    pm_linear_shape shape = {.dtype = PM_Q8_0, .epilogue = PM_LINEAR_ADD, .rows = 64, .cols = 64, .n = 5};
    pm_text lines = {.n = 0};
    pm_variant first = pm_variant_linear(dev, &shape), v;
    (void)state;
    for (int i = 0; pm_variant_at(dev, &shape, i, &v); i++) {
        pm_variant chosen = pm_variant_linear(dev, &shape);
        assert_true(pm_variant_right(dev, &shape, &chosen));
        pm_kernel_use uses[2];
        char text[PM_USE_TEXT];
        int n = pm_linear_uses(&dev->caps, &shape, &chosen, uses);
        assert_in_range(n, 1, 2);
        for (int u = 0; u < n; u++)
            pm_text_add(&lines, "%s wrong 9 1\n", pm_kernel_use_text(&uses[u], text));
        pm_store_write(dev, "verdicts", lines.p);
        reopen();
        assert_false(pm_variant_right(dev, &shape, &chosen));
    }
    v = pm_variant_linear(dev, &shape);
    assert_true(pm_variant_same(&v, &first));
    pm_free(lines.p);
}

// ---- the plan -----------------------------------------------------------------------------------------------------------

static bool find_plan(const char *line, uint32_t n, pm_variant *v) {
    pm_store_write(dev, "plan", line);
    reopen();
    return pm_tune_find(dev, &(pm_linear_shape){.dtype = PM_Q8_0, .epilogue = 4, .rows = 64, .cols = 96, .n = n}, v);
}

static void a_plan_decides(void **state) {
    pm_variant v, plain = {.shape = {16, 1, 2, 1}};
    (void)state;
    assert_true(find_plan("Q8_0 4 64 96 1 0/0 won matvec 16,1,2,1 2.0 1.0\n", 1, &v));
    assert_true(pm_variant_same(&v, &plain));
    assert_true(find_plan("Q8_0 4 64 96 64 0/0 won tiles 0,0,0,0 2.0 1.0\n", 9, &v));
    assert_int_equal(v.by, PM_BY_TILES);
    assert_false(find_plan("Q8_0 4 64 96 1 0/0 won matvec 16,1,2,1 2.0 1.0\n", 2, &v)); // other rows of x
    assert_false(find_plan("Q8_0 4 65 96 1 0/0 won matvec 16,1,2,1 2.0 1.0\n", 1, &v)); // another matrix
    assert_false(
        find_plan("Q8_0 260 64 96 1 0/0 won matvec 16,1,2,1 2.0 1.0\n", 1, &v)); // measured where halves may not be multiplied
    assert_false(find_plan("Q8_0 4 64 96 1 0/0 stays matvec 16,1,2,1 2.0 1.0\n", 1, &v));    // the default is best
    assert_false(find_plan("Q8_0 4 64 96 1 0/0 won matvec 16,3,7,0 2.0 1.0\n", 1, &v));      // not in the table of variants
    assert_false(find_plan("Q8_0 4 64 96 1 0/0 won matvec 99999999999,1,2,1 2 1\n", 1, &v)); // nor is this
    assert_false(find_plan("Q8_0 4 64 96 0 0/0 won matvec 16,1,2,1 2.0 1.0\nnonsense\n", 1, &v));
    setenv("PM_MATVEC", "16,1,4,1", 1); // an override goes first
    assert_false(find_plan("Q8_0 4 64 96 1 0/0 won matvec 16,1,2,1 2.0 1.0\n", 1, &v));
    unsetenv("PM_MATVEC");
    // A variant that was quarantined since is not taken.
    pm_store_write(dev, "verdicts", "matvec_q8_0:16,4,1,2,1 wrong 9 1\n");
    assert_true(find_plan("Q8_0 4 64 96 1 0/0 won matvec 16,1,2,1 2.0 1.0\n", 1, &v));
    v = pm_variant_linear(dev, &(pm_linear_shape){.dtype = PM_Q8_0, .epilogue = 4, .rows = 64, .cols = 96, .n = 1});
    assert_false(pm_variant_same(&v, &plain));
}

static bool find_attend_plan(const char *line, uint32_t n, uint32_t length, pm_attend_way *way) {
    pm_store_write(dev, "plan", line);
    reopen();
    return pm_tune_find_attend(dev, &(pm_attend_shape){PM_F16, n, 8, 2, 64, length}, way);
}

static void a_plan_splits_the_cache(void **state) {
    pm_attend_way way;
    char line[96];
    uint32_t half = dev->caps.attend_split / 2;
    (void)state;
    snprintf(line, sizeof(line), "attend F16 8 2 64 1 8192 won %u 1 0 2.0 1.0\n", half);
    assert_true(find_attend_plan(line, 1, 5000, &way));
    assert_int_equal(way.split, half);
    assert_false(find_attend_plan(line, 1, 500, &way));  // a short cache
    assert_false(find_attend_plan(line, 2, 5000, &way)); // other rows
    assert_true(find_attend_plan("attend F16 8 2 64 1 1024 won 0 1 0 2.0 1.0\n", 1, 500, &way));
    assert_int_equal(way.split, 0);
    assert_false(find_attend_plan("attend F16 8 2 64 1 8192 won 17 1 0 2.0 1.0\n", 1, 5000, &way)); // not in the table
    assert_false(find_attend_plan("attend F16 8 0 64 1 8192 won 0 1 0 2.0 1.0\n", 1, 5000, &way));
    assert_false(find_attend_plan("attend Q4_0 8 2 64 1 8192 stays 0 1 2.0 1.0\nattend\nattend x", 1, 5000, &way));
    setenv("PM_ATTEND_SPLIT", "64", 1); // an override goes first
    assert_false(find_attend_plan("attend F16 8 2 64 1 1024 won 0 1 0 2.0 1.0\n", 1, 500, &way));
    unsetenv("PM_ATTEND_SPLIT");
}

// Bytes, bytes a microsecond, microseconds of the best.
static void a_roof_ends_the_search(void **state) {
    (void)state;
    assert_true(pm_contest_can_win(1000, 0, 1)); // unknown
    assert_true(pm_contest_can_win(1000, 100, 20));
    assert_false(pm_contest_can_win(1000, 100, 11)); // the best is at 91 % of what the device can do
    assert_false(pm_contest_can_win(1000, 100, 5));
    double rate = pm_contest_rate(dev);
    assert_true(rate > 10 && rate < 1e8);
}

static uint32_t draw(uint64_t *state) {
    return (uint32_t)((*state = *state * 6364136223846793005u + 1442695040888963407u) >> 32);
}

// `wins` of 1000 tournaments in which the challenger takes `factor` of the champion's time, and either may be slowed down by up to
// `noise`.
static int wins(double factor, double noise, int rounds) {
    uint64_t seed = 1;
    int won = 0;
    for (int t = 0; t < 1000; t++) {
        double ratios[9];
        for (int i = 0; i < rounds; i++) {
            double a = 1 + noise * draw(&seed) / 4294967296.0, b = 1 + noise * draw(&seed) / 4294967296.0;
            ratios[i] = factor * a / b;
        }
        won += pm_tune_wins(ratios, rounds);
    }
    return won;
}

static void noise_decides_nothing(void **state) {
    (void)state;
    assert_int_equal(wins(1, 0, 9), 0);
    assert_int_equal(wins(0.98, 0, 9), 0); // as good as the same
    assert_int_equal(wins(0.9, 0, 9), 1000);
    assert_int_equal(wins(0.8, 0.2, 9), 1000);
    assert_in_range(wins(1, 0.3, 9), 0, 100); // of the final alone; a challenger has won a first match by then
    assert_in_range(wins(1, 2, 9), 0, 100);
    assert_in_range(wins(1.05, 0.3, 9), 0, 20);
    assert_in_range(wins(1.2, 0.3, 9), 0, 0);
}

int main(void) {
#define FRESH(test) cmocka_unit_test_setup(test, forget)
    const struct CMUnitTest tests[] = {
        FRESH(every_kernel_is_tried),     FRESH(every_variant_is_tried),   FRESH(uses_are_text),
        FRESH(trials_see_what_is_broken), FRESH(bad_ones_are_passed_over), FRESH(a_forged_cache_stops_nobody),
        FRESH(a_mark_is_left_by_a_crash), FRESH(without_memory),           FRESH(switched_off),
        FRESH(variants_take_turns),       FRESH(a_plan_decides),           FRESH(a_plan_splits_the_cache),
        FRESH(a_roof_ends_the_search),    FRESH(noise_decides_nothing),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
