// The planner: what it says before is what is used after, to the byte, and what it says fits can be opened.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "loader_model.h"
#include "model_data.h"
#include "temp.h"

static pm_device_info info; // of `dev`, as the list has it

static void find_info(void) {
    pm_device_info *infos;
    int n;
    MUST(pm_device_list(&infos, &n));
    info = infos[pm_device_get_info(dev)->index];
    pm_free(infos);
}

static pm_plan plan_of(const char *path, pm_session_options options) {
    pm_plan plan;
    if (pm_plan_make(path, &info, 1, &options, &plan) != PM_OK)
        fail_msg("%s: %s", path, pm_error_text());
    return plan;
}

static void differs(const char *path, pm_session_options o, const char *what, uint64_t planned, uint64_t used) {
    if (planned != used)
        fail_msg("%s, ctx %u, %u sequences, chunk %u, precision %d: %s planned %llu, used %llu", path, o.ctx, o.n_seqs, o.max_chunk,
                 o.precision, what, (unsigned long long)planned, (unsigned long long)used);
}

// ---- against what is used ---------------------------------------------------------------------------------------------------

static void compare_session(const char *path, pm_model *model, pm_session_options options) {
    pm_plan plan = plan_of(path, options);
    pm_session *session = session_of(model, options);
    differs(path, options, "weights", plan.weight_bytes, pm_model_weight_bytes(model));
    differs(path, options, "session", plan.session_bytes, pm_session_bytes(session));
    differs(path, options, "context", plan.ctx, pm_session_ctx(session));
    differs(path, options, "sum", plan.cache_bytes + plan.scratch_bytes, plan.session_bytes);
    assert_true(plan.fits);
    assert_string_equal(plan.reason, "");
    assert_in_range(plan.longest_ctx, plan.ctx, 1 << 24);
    pm_session_close(&session);
}

static void compare(const char *path) {
    static const pm_session_options cases[] = {
        {0},
        {.ctx = 1},
        {.ctx = 33, .n_seqs = 3},
        {.ctx = 300, .max_chunk = 7},
        {.ctx = 4096, .n_seqs = 8, .max_chunk = 512},
        {.ctx = 256, .n_seqs = 40, .max_batch = 50},
        {.ctx = 20000},
    };
    pm_model *model = model_at(path, false);
    for (size_t i = 0; i < COUNT(cases); i++) {
        for (int precision = PM_PRECISION_F16; precision <= PM_PRECISION_F32; precision++) {
            pm_session_options options = cases[i];
            options.precision = (pm_precision)precision;
            compare_session(path, model, options);
            options.kv = PM_KV_Q8_0;
            compare_session(path, model, options);
        }
    }
    pm_model_close(&model);
}

static void planned_is_used(void **state) {
    (void)state;
    compare(TINY);
    for (size_t i = 0; i < COUNT(checkpoints); i++)
        compare(checkpoint_path(checkpoints[i], ""));
    compare(checkpoint_path("qwen3moe", "")); // experts
}

// A layer of 128 experts, 8 for a token, as Qwen3-30B-A3B has 48 of.
static void planned_is_used_by_many_experts(void **state) {
    (void)state;
    static const char path[] = "synthetic:qwen3-30b-a3b/1:q4_k_m";
    pm_model *model = model_at(path, false);
    compare_session(path, model, (pm_session_options){.ctx = 1024});
    pm_model_close(&model);
}

// Attention's splits are scratch, and a device with small bindings or chunks has other sizes.
static void planned_is_used_with_overrides(void **state) {
    (void)state;
    static const char *const overrides[][2] = {{"PM_ATTEND_SPLIT", "32"}, {"PM_MAX_CHUNK", "3"}, {"PM_MAX_CHUNK", "1000"}};
    for (size_t i = 0; i < COUNT(overrides); i++) {
        override_device(overrides[i][0], overrides[i][1]);
        setenv(overrides[i][0], overrides[i][1], 1); // the planner reads them too
        compare(checkpoint_path("qwen3-yarn", ""));
        unsetenv(overrides[i][0]);
        restore_device(NULL);
    }
}

// ---- types ------------------------------------------------------------------------------------------------------------------

// The tiny checkpoint with matrices in one type, V and up in another; halves of random bits would be NaN, zeros are fine.
static const char *write_typed(pm_dtype dtype, pm_dtype other) {
    gguf_writer w = {0};
    pm_file *file = open_model(TINY);
    const pm_config *c = pm_file_config(file);
    size_t n;
    const pm_tensor_view *tensors = pm_file_tensors(file, &n);
    put_string(&w.entries, "general.architecture", "qwen3");
    put_u32(&w.entries, "qwen3.block_count", c->n_layers);
    put_u32(&w.entries, "qwen3.context_length", c->max_ctx);
    put_u32(&w.entries, "qwen3.embedding_length", c->dim);
    put_u32(&w.entries, "qwen3.feed_forward_length", c->ffn_dim);
    put_u32(&w.entries, "qwen3.attention.head_count", c->n_heads);
    put_u32(&w.entries, "qwen3.attention.head_count_kv", c->n_kv_heads);
    put_u32(&w.entries, "qwen3.attention.key_length", c->head_dim);
    put_f32(&w.entries, "qwen3.attention.layer_norm_rms_epsilon", c->norm_eps);
    w.n_entries = 9;
    for (size_t i = 0; i < n; i++) {
        const pm_tensor_view *t = &tensors[i];
        pm_dtype type = t->n_dims == 1 ? PM_F32 : strstr(t->name, "attn_v.") || strstr(t->name, "ffn_up.") ? other : dtype;
        size_t size = (size_t)(t->dims[0] * t->dims[1]) / pm_dtype_get(type)->block_elements * pm_dtype_get(type)->block_bytes;
        void *zeros = calloc(1, size);
        gguf_tensor(&w, t->name, type, t->n_dims, t->dims, zeros, size);
        free(zeros);
    }
    bytes out;
    gguf_end(&w, &out);
    const char *path = temp_write("typed.gguf", out.p, out.n);
    bytes_close(&out);
    pm_file_close(&file);
    return path;
}

static void planned_is_used_in_every_type(void **state) {
    (void)state;
    for (int i = 0; i < PM_GGUF_DTYPE_COUNT; i++) {
        const char *path = write_typed((pm_dtype)i, (pm_dtype)i);
        pm_session_options options = {.ctx = 64};
        pm_model *model = model_at(path, false);
        compare_session(path, model, options);
        pm_model_close(&model);
    }
}

static void planned_is_used_where_types_are_mixed(void **state) {
    (void)state;
    for (int i = 0; i < PM_GGUF_DTYPE_COUNT; i++) {
        const char *path = write_typed((pm_dtype)i, (pm_dtype)((i + 1) % PM_GGUF_DTYPE_COUNT));
        pm_session_options options = {.ctx = 64};
        pm_model *model = model_at(path, false);
        compare_session(path, model, options);
        pm_model_close(&model);
    }
}

// ---- what does not fit ------------------------------------------------------------------------------------------------------

// The device as it would be with so many bytes free.
static void limit_memory(uint64_t budget) {
    find_info();
    info.type = PM_DEVICE_DISCRETE; // of a software device the machine's memory counts
    info.budget_known = true;
    for (int i = 0; i < info.n_heaps; i++)
        info.heaps[i].budget = budget;
}

static uint64_t need_of(const pm_plan *plan) {
    return plan->heap_need[info.heap_of[PM_MEM_DEVICE]];
}

static void the_edge_is_exact(void **state) {
    (void)state;
    pm_session_options options = {.ctx = 512, .n_seqs = 2};
    limit_memory(UINT64_C(1) << 40);
    pm_plan plan = plan_of(TINY, options);
    uint64_t need = need_of(&plan);
    assert_true(plan.fits);
    limit_memory(need);
    plan = plan_of(TINY, options);
    assert_true(plan.fits);
    assert_int_equal(need_of(&plan), need);
    assert_in_range(plan.longest_ctx, 512, 512 + 32); // the page that 512 ends is full

    limit_memory(need - 1);
    plan = plan_of(TINY, options);
    assert_false(plan.fits);
    assert_non_null(strstr(plan.reason, "too little"));
    assert_int_equal(need_of(&plan), need);
    assert_int_equal(plan.longest_ctx, 512 - 32); // memory goes by pages
    assert_true(plan.narrower_bytes > 0 && plan.narrower_bytes < plan.weight_bytes);
    find_info();
}

static void the_longest_context_fits_and_no_longer_one(void **state) {
    (void)state;
    for (uint64_t mib = 9; mib < 80; mib += 7) {
        limit_memory(mib << 20);
        pm_plan plan = plan_of(TINY, (pm_session_options){.ctx = 1});
        if (plan.longest_ctx == 0) {
            assert_false(plan.fits);
            continue;
        }
        assert_true(plan_of(TINY, (pm_session_options){.ctx = plan.longest_ctx}).fits);
        assert_false(plan_of(TINY, (pm_session_options){.ctx = plan.longest_ctx + 1}).fits);
    }
    find_info();
}

// The widest of the types that fits is told; its bytes are those of a file in that type.
static void a_narrower_type_is_told(void **state) {
    (void)state;
    pm_session_options options = {.ctx = 64};
    for (int i = 0; i < PM_GGUF_DTYPE_COUNT; i++) {
        if (i == PM_F32)
            continue;
        limit_memory(UINT64_C(1) << 40);
        pm_plan typed = plan_of(write_typed((pm_dtype)i, (pm_dtype)i), options);
        limit_memory(need_of(&typed));
        pm_plan plan = plan_of(write_typed(PM_F32, PM_F32), options);
        assert_false(plan.fits);
        assert_int_equal(plan.narrower_bytes, typed.weight_bytes);
        assert_non_null(plan.narrower);
    }
    limit_memory(1 << 20);
    assert_null(plan_of(TINY, options).narrower);
    find_info();
}

// A session refuses what the plan refuses, and opens what it calls the longest.
static void small_bindings_bound_the_context(void **state) {
    (void)state;
    const char *path = checkpoint_path("qwen3-yarn", ""), *small = "1000000";
    override_device("PM_MAX_BINDING_BYTES", small);
    setenv("PM_MAX_BINDING_BYTES", small, 1);
    pm_plan plan = plan_of(path, (pm_session_options){.ctx = 100000});
    assert_false(plan.fits);
    assert_non_null(strstr(plan.reason, "binds"));
    assert_in_range(plan.longest_ctx, 1, 99999);
    pm_model *model = model_at(path, false);
    pm_session *session = session_of(model, (pm_session_options){.ctx = plan.longest_ctx});
    pm_session_close(&session);
    assert_int_equal(pm_session_open(model, &(pm_session_options){.ctx = plan.longest_ctx + 1}, &session), PM_ERR_DEVICE_MEMORY);
    pm_model_close(&model);
    unsetenv("PM_MAX_BINDING_BYTES");
}

static void a_matrix_larger_than_any_buffer(void **state) {
    (void)state;
    find_info();
    info.max_buffer = 300 << 10; // the embedding has 640 KiB
    pm_plan plan = plan_of(TINY, (pm_session_options){.ctx = 1});
    assert_false(plan.fits);
    assert_non_null(strstr(plan.reason, "at once"));
    assert_int_equal(plan.longest_ctx, 0);
    find_info();
}

// Slabs of several buffers leave ends unused: near, not exact, for only the sum of a matrix's planes is known.
static void many_slabs_are_near(void **state) {
    (void)state;
    find_info();
    uint64_t one = plan_of(TINY, (pm_session_options){.ctx = 64}).weight_bytes;
    info.max_buffer = 1200 << 10;
    pm_plan plan = plan_of(TINY, (pm_session_options){.ctx = 64});
    assert_true(plan.fits);
    assert_in_range(plan.weight_bytes, one, one + one / 4); // a matrix is a third of a buffer here
    find_info();
}

// ---- bad questions ----------------------------------------------------------------------------------------------------------

static pm_status try_plan(const char *path, pm_session_options options) {
    pm_plan plan;
    return pm_plan_make(path, &info, 1, &options, &plan);
}

static void nonsense_is_refused(void **state) {
    (void)state;
    assert_int_equal(try_plan(TINY, (pm_session_options){.ctx = (1 << 24) + 1}), PM_ERR_USAGE);
    assert_int_equal(try_plan(TINY, (pm_session_options){.n_seqs = 5000}), PM_ERR_USAGE);
    assert_int_equal(try_plan(PM_TEST_DATA "/nothing", (pm_session_options){0}), PM_ERR_IO);
    assert_int_equal(try_plan(__FILE__, (pm_session_options){0}), PM_ERR_FILE);
    assert_int_equal(pm_plan_make(TINY, NULL, 0, NULL, NULL), PM_OK); // of no device
}

static void every_failed_allocation_is_told(void **state) {
    (void)state;
    pm_alloc_fail_after(0);
    assert_int_equal(try_plan(TINY, (pm_session_options){0}), PM_OK);
    long n = pm_alloc_count();
    for (long i = 1; i <= n; i += 1 + n / 100) {
        pm_alloc_fail_after(i);
        assert_int_equal(try_plan(TINY, (pm_session_options){0}), PM_ERR_MEMORY);
    }
    pm_alloc_fail_after(0);
}

static void the_model_is_told(void **state) {
    (void)state;
    pm_device_info two[] = {info, info};
    pm_plan plans[2]; // 4 layers, 2 heads of 128, 2048 positions
    two[1].max_buffer = 4 << 20;
    MUST(pm_plan_make(TINY, two, 2, NULL, plans));
    assert_int_equal(plans[0].kv_bytes, 2 * 4 * 2 * 128 * 2);
    assert_int_equal(plans[1].model_ctx, 2048);
    assert_int_equal(plans[1].ctx, 2048);
    assert_int_equal(plan_of(TINY, (pm_session_options){.precision = PM_PRECISION_F32}).kv_bytes, 2 * 4 * 2 * 128 * 4);
}

int main(void) {
    int skip = open_device_or_skip();
    if (skip)
        return skip;
    find_info();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(planned_is_used),
        cmocka_unit_test(planned_is_used_by_many_experts),
        cmocka_unit_test_teardown(planned_is_used_with_overrides, restore_device),
        cmocka_unit_test(planned_is_used_in_every_type),
        cmocka_unit_test(planned_is_used_where_types_are_mixed),
        cmocka_unit_test(the_edge_is_exact),
        cmocka_unit_test(the_longest_context_fits_and_no_longer_one),
        cmocka_unit_test(a_narrower_type_is_told),
        cmocka_unit_test_teardown(small_bindings_bound_the_context, restore_device),
        cmocka_unit_test(a_matrix_larger_than_any_buffer),
        cmocka_unit_test(many_slabs_are_near),
        cmocka_unit_test(nonsense_is_refused),
        cmocka_unit_test(every_failed_allocation_is_told),
        cmocka_unit_test(the_model_is_told),
    };
    int failed = cmocka_run_group_tests(tests, temp_open, temp_close);
    pm_device_close(&dev);
    return failed;
}
