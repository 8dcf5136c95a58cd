// Limits as data: they take away and never give, and what then does not fit is refused. The shared memory of kernels, which that
// hangs on, is compared with the sizes that their sources say.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "host/limits.h"
#include "host/spirv.h"
#include "host/vk.h"
#include "posix.h"

// ---- taking away ------------------------------------------------------------------------------------------------------

static pm_device_info all_there(void) {
    return (pm_device_info){
        .name = "Card",
        .type = PM_DEVICE_CPU,
        .unified_memory = true,
        .subgroup_arithmetic = true,
        .subgroup_size_control = true,
        .f16_arithmetic = true,
        .f16_storage = true,
        .int8_arithmetic = true,
        .int8_storage = true,
        .bf16 = true,
        .int_dot = true,
        .n_coopmats = 2,
        .max_buffer = UINT64_C(1) << 40,
        .max_binding = 1 << 28,
        .slice_align = 16,
        .max_shared = 1 << 20,
        .max_invocations = 2048,
        .max_groups = {70000, 70000, 60000},
    };
}

static void what_is_not_known_stays(void **state) {
    (void)state;
    pm_device_info before = all_there(), after = before;
    pm_limits_apply(&(pm_limits){.name = ""}, &after);
    assert_memory_equal(&before, &after, sizeof(before));
}

static void nothing_is_given(void **state) {
    (void)state;
    pm_device_info info = {.name = "Card", .max_buffer = 1000, .max_binding = 900, .slice_align = 256, .max_shared = 800};
    pm_limits_apply(pm_limits_find("rtx4090"), &info);
    assert_int_equal(info.max_buffer, 1000);
    assert_int_equal(info.max_binding, 900);
    assert_int_equal(info.slice_align, 256);
    assert_int_equal(info.max_shared, 800);
    assert_int_equal(info.max_invocations, 0);
    assert_false(info.f16_arithmetic || info.int_dot || info.unified_memory || info.n_coopmats);
}

static void a_phone_has_less(void **state) {
    (void)state;
    pm_device_info info = all_there();
    pm_limits_apply(pm_limits_find("mali"), &info);
    assert_string_equal(info.name, "Card as mali");
    assert_int_equal(info.type, PM_DEVICE_INTEGRATED);
    assert_int_equal(info.max_buffer, 256 << 20);
    assert_int_equal(info.max_binding, 128 << 20);
    assert_int_equal(info.max_shared, 16 << 10);
    assert_int_equal(info.max_invocations, 256);
    assert_int_equal(info.max_groups[0], 65535);
    assert_int_equal(info.max_groups[2], 60000);
    assert_int_equal(info.slice_align, 256);
    assert_false(info.subgroup_size_control || info.int_dot || info.bf16 || info.n_coopmats);
    assert_true(info.unified_memory && info.f16_arithmetic && info.int8_arithmetic && info.subgroup_arithmetic);
}

// A name so long that nothing more fits is cut, not overrun.
static void a_long_name_is_cut(void **state) {
    (void)state;
    pm_device_info info = all_there();
    memset(info.name, 'x', sizeof(info.name) - 1);
    pm_limits_apply(pm_limits_find("mali"), &info);
    assert_int_equal(strlen(info.name), sizeof(info.name) - 1);
}

// ---- setting ----------------------------------------------------------------------------------------------------------

static void every_name_is_a_device_of_vulkan(void **state) {
    (void)state;
    int n = 0;
    for (; pm_limits_at(n); n++) {
        assert_int_equal(pm_limits_set(pm_limits_at(n)), PM_OK);
        assert_ptr_equal(pm_limits_find(pm_limits_at(n)->name), pm_limits_at(n));
    }
    assert_true(n >= 15);
    assert_null(pm_limits_find("toaster"));
    assert_int_equal(pm_limits_set(NULL), PM_OK);
}

static void what_no_device_has_is_refused(void **state) {
    (void)state;
    static const pm_limits bad[] = {
        {.name = "x", .max_buffer = 1},       {.name = "x", .max_binding = 1 << 20}, {.name = "x", .max_shared = 8 << 10},
        {.name = "x", .max_invocations = 64}, {.name = "x", .max_groups = {1}},      {.name = "x", .slice_align = 512},
        {.name = "x", .slice_align = 48},
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        assert_int_equal(pm_limits_set(&bad[i]), PM_ERR_FILE);
        assert_non_null(strstr(pm_error_text(), "limits of x: "));
        assert_int_equal(pm_limits_get()->name[0], 0);
    }
}

// What is listed is what is opened.
static void a_device_is_opened_under_limits(void **state) {
    (void)state;
    pm_device_info *infos;
    pm_device *dev;
    int n;
    assert_int_equal(pm_limits_set(pm_limits_find("gtx1060")), PM_OK);
    assert_int_equal(pm_device_list(&infos, &n), PM_OK);
    assert_int_equal(pm_device_open(NULL, &dev), PM_OK);
    const pm_device_info *info = pm_device_get_info(dev);
    assert_non_null(strstr(info->name, " as gtx1060"));
    assert_string_equal(info->name, infos[0].name);
    assert_int_equal(info->type, PM_DEVICE_DISCRETE);
    assert_false(info->unified_memory || infos[0].unified_memory || dev->caps.map_device);
    assert_int_equal(dev->caps.has & (PM_NEED_F16 | PM_NEED_COOPMAT), 0);
    assert_true(dev->caps.use_tiles && info->limited && !dev->caps.self_test);
    pm_free(infos);
    pm_device_close(&dev);
    assert_int_equal(pm_limits_set(NULL), PM_OK);
}

// A driver ends a submission that takes seconds: phones get prompts in pieces of 32 to 64 rows.
static void phones_get_small_chunks(void **state) {
    (void)state;
    static const char *const phones[] = {"adreno", "adreno650", "adreno750", "mali", "mali-g78", "mali-g720", "v3d71"};
    for (size_t i = 0; i < sizeof(phones) / sizeof(*phones); i++) {
        pm_device *dev;
        assert_int_equal(pm_limits_set(pm_limits_find(phones[i])), PM_OK);
        assert_int_equal(pm_device_open(NULL, &dev), PM_OK);
        assert_in_range(pm_device_chunk(dev), 32, 64);
        pm_device_close(&dev);
    }
    assert_int_equal(pm_limits_set(NULL), PM_OK);
}

// ---- shared memory ----------------------------------------------------------------------------------------------------

static uint64_t shared(pm_kernel_id id, const uint32_t *spec, int n_spec) {
    const pm_kernel_info *kernel = pm_kernel_get_info(id);
    uint64_t bytes = 0;
    if (pm_spirv_shared_bytes(kernel->spirv, kernel->spirv_size / 4, spec, n_spec, &bytes) != PM_OK)
        fail_msg("%s: %s", kernel->name, pm_error_text());
    return bytes;
}

// What caps.c reckons for the kernel of matrices is what that declares with all that it can be asked for.
static void matrices_need_their_shared_memory(void **state) {
    (void)state;
    pm_device_info info = all_there();
    pm_caps caps;
    info.subgroup_min = info.subgroup_max = 32;
    info.n_coopmats = 1;
    info.coopmats[0] = (pm_coopmat_info){16, 16, 16, "f16", "f32"};
    pm_caps_fill(&info, &caps);
    const pm_coopmat_shape *c = &caps.coopmat;
    const uint32_t spec[] = {c->workgroup, PM_LINEAR_NORM | PM_LINEAR_ADD, 32, 16, 16, 16, c->rows, c->cols, c->down, 1};
    if (!pm_kernel_get_info(PM_K_matmul_cm_f16)->spirv_size) {
        print_message("this build's glslang makes no kernels of matrices\n");
        skip();
    }
    info.max_shared = (uint32_t)shared(PM_K_matmul_cm_f16, spec, 10);
    pm_caps_fill(&info, &caps);
    assert_true(caps.has & PM_NEED_COOPMAT);
    info.max_shared -= 4;
    pm_caps_fill(&info, &caps);
    assert_false(caps.has & PM_NEED_COOPMAT);
}

// The same of attention, which op_attend.c reckons: with a word less it takes another way.
static void matrices_of_attention_need_theirs(void **state) {
    (void)state;
    const pm_attend_shape shape = {.dtype = PM_F16, .n = 64, .n_heads = 8, .n_kv_heads = 2, .head_dim = 128, .length = 64};
    const uint32_t spec[] = {128, 128, 32, 4, 16, 16, 16};
    pm_device_info info = all_there();
    pm_device *dev;
    pm_attend_way way;
    info.type = PM_DEVICE_DISCRETE;
    info.subgroup_min = info.subgroup_max = 32;
    info.n_coopmats = 1;
    info.coopmats[0] = (pm_coopmat_info){16, 16, 16, "f16", "f32"};
    if (!pm_kernel_get_info(PM_K_attend_cm_f16)->spirv_size) {
        print_message("this build's glslang makes no kernels of matrices\n");
        skip();
    }
    for (uint32_t less = 0; less <= 4; less += 4) {
        info.max_shared = (uint32_t)shared(PM_K_attend_cm_f16, spec, 7) - less;
        assert_int_equal(pm_device_open_dry(&info, &dev), PM_OK);
        assert_true(pm_attend_way_at(dev, &shape, 0, &way));
        assert_int_equal(way.subgroups, less ? 0 : 4);
        pm_device_close(&dev);
    }
}

// With their own constants all keep to what matmul_cm takes at the most.
static void all_kernels_can_be_asked(void **state) {
    (void)state;
    for (int id = 0; id < PM_KERNEL_COUNT; id++)
        if (pm_kernel_get_info((pm_kernel_id)id)->spirv_size)
            assert_in_range(shared((pm_kernel_id)id, NULL, 0), 0, 32 << 10);
}

static void sizes_follow_the_constants(void **state) {
    (void)state;
    const uint32_t workgroup = 96, head = 80, group = 5, queries = 2 * group, parts = 8, lanes = 8, rows = 4, cols = 3;
    const uint32_t attend[] = {workgroup, head, group, 2}, alone[] = {64, 0, 1, rows, cols}, sum[] = {64, 0, lanes, rows, cols};
    assert_int_equal(shared(PM_K_attend_f16, attend, 4), 4 * queries * (head + workgroup + parts));
    assert_int_equal(shared(PM_K_embed_q4_k, (uint32_t[]){200}, 1), 4 * 200);
    assert_int_equal(shared(PM_K_attend_merge, attend, 2), 0);
    assert_in_range(shared(PM_K_matmul_f32, NULL, 0), 4 * PM_BLOCK * (PM_TILE_ROWS + PM_TILE_COLS), 16 << 10);
    assert_true(shared(PM_K_matvec_f32, alone, 5) < 64); // a lane a row: nothing to sum
    assert_in_range(shared(PM_K_matvec_f32, sum, 5), 4 * 64 * rows * cols, 4 * 64 * (rows + 1) * (cols + 1));
}

static void a_kernel_that_takes_more_is_refused(void **state) {
    (void)state;
    pm_device *dev;
    pm_kernel_use fits = {.id = PM_K_attend_f32, .spec = {64, 64, 8}, .n_spec = 3};
    pm_kernel_use large = {.id = PM_K_attend_f32, .spec = {64, 128, 32}, .n_spec = 3};
    assert_int_equal(pm_limits_set(pm_limits_find("mali")), PM_OK);
    assert_int_equal(pm_device_open(NULL, &dev), PM_OK);
    assert_int_equal(pm_kernels_prepare(dev, &fits, 1), PM_OK);
    assert_int_equal(pm_kernels_prepare(dev, &large, 1), PM_ERR_UNSUPPORTED);
    assert_non_null(strstr(pm_error_text(), "kernel attend_f32: 25600 bytes of shared memory, but "));
    for (long n = 1; n <= 2; n++) { // and without memory for the look into it
        fits.spec[0] = 32;
        pm_alloc_fail_after(n);
        pm_status status = pm_kernels_prepare(dev, &fits, 1);
        pm_alloc_fail_after(0);
        assert_true(status == PM_OK || status == PM_ERR_MEMORY);
        assert_true(n > 1 || status == PM_ERR_MEMORY);
    }
    pm_device_close(&dev);
    assert_int_equal(pm_limits_set(NULL), PM_OK);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_not_known_stays),
        cmocka_unit_test(nothing_is_given),
        cmocka_unit_test(a_phone_has_less),
        cmocka_unit_test(a_long_name_is_cut),
        cmocka_unit_test(every_name_is_a_device_of_vulkan),
        cmocka_unit_test(what_no_device_has_is_refused),
        cmocka_unit_test(a_device_is_opened_under_limits),
        cmocka_unit_test(phones_get_small_chunks),
        cmocka_unit_test(matrices_need_their_shared_memory),
        cmocka_unit_test(matrices_of_attention_need_theirs),
        cmocka_unit_test(all_kernels_can_be_asked),
        cmocka_unit_test(sizes_follow_the_constants),
        cmocka_unit_test(a_kernel_that_takes_more_is_refused),
    };
    unsetenv("PM_LIMITS");
    return cmocka_run_group_tests(tests, NULL, NULL);
}
