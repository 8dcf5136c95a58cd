// All uses that a device may make of kernels: what `pumice devices --test` tries. The table of kernels times that of variants, but
// not times all epilogues: what is left out is tried like anything new where it is first used.
#include "host/ops.h"
#include "host/selftest.h"

#include <stdio.h>
#include <string.h>

// Uses that no variant stands for: of kernels whose numbers are the model's. A name, or what it begins with up to a '_'.
static const struct fixed_use {
    const char *name;
    int n_spec;
    uint32_t spec[4];
} fixed_uses[] = {
    {"embed_", 1, {32}},
    {"gather", 1, {64}},
    {"quantize", 3, {64, 0, 0}},
    {"quantize", 3, {64, 0, 1}},
    {"quantize", 3, {64, 1, 0}},
    {"quantize", 3, {64, 1, 1}},
    {"rope_store_", 4, {32, 128, 1, 0}},
    {"rope_store_", 4, {16, 64, 0, 1}},
    {"attend_merge", 2, {64, 128}},
    {"attend_f16", 4, {64, 128, 4, 1}},
    {"attend_f32", 4, {64, 128, 4, 1}},
    {"attend_q8_0", 4, {64, 128, 4, 1}},
    {"attend_f16", 4, {32, 64, 7, 1}},
    {"attend_f16", 4, {64, 128, 4, 2}},
    {"attend_f32", 4, {64, 128, 4, 2}},
    {"attend_q8_0", 4, {64, 128, 4, 2}},
    {"rope_store_plain_", 4, {32, 128, 1, 0}},
    {"rope_store_plain_", 4, {16, 64, 0, 1}},
    {"attend_plain_", 3, {64, 128, 4}},
    {"attend_plain_", 3, {32, 64, 7}},
    {"route", 1, {64}},
    {"group", 1, {128}},
    {"experts_sum", 1, {64}},
    {"adjust", 1, {128}},
    {"sieve", 1, {128}},
    {"sample", 1, {128}},
    {"logprobs", 1, {128}},
};

static pm_status add_use(pm_verdicts *l, const pm_kernel_use *use) {
    return pm_verdicts_add(l, &(pm_verdict){.use = *use});
}

static bool is_typed(const struct fixed_use *f) {
    return f->name[strlen(f->name) - 1] == '_';
}

// Where any workgroup will do, all of the table's; of a kernel that each type of weights has, the usual one.
static pm_status add_fixed(pm_verdicts *l, pm_kernel_id id) {
    const char *name = pm_kernel_get_info(id)->name;
    for (size_t i = 0; i < sizeof(fixed_uses) / sizeof(*fixed_uses); i++) {
        const struct fixed_use *f = &fixed_uses[i];
        size_t n = strlen(f->name);
        if (strncmp(f->name, name, n) != 0 || (name[n] && !is_typed(f)))
            continue;
        pm_kernel_use use = {.id = id, .n_spec = f->n_spec};
        memcpy(use.spec, f->spec, sizeof(f->spec));
        PM_TRY(add_use(l, &use));
        for (int w = 0; f->n_spec == 1 && !is_typed(f) && (use.spec[0] = pm_variant_workgroup_at(w)) > 0; w++)
            PM_TRY(add_use(l, &use));
    }
    return PM_OK;
}

static pm_status add_variant(pm_verdicts *l, const pm_device *dev, const pm_linear_shape *shape, const pm_variant *v) {
    pm_kernel_use uses[2];
    int n_uses = pm_linear_uses(&dev->caps, shape, v, uses);
    for (int u = 0; u < n_uses; u++)
        if (pm_kernel_available(dev, uses[u].id))
            PM_TRY(add_use(l, &uses[u]));
    return PM_OK;
}

// A product's every variant for a type, of one row of x with one epilogue or of many with another, in turns from type to type: what
// a second one costs is the time of a software driver's compiler, and what is left out is tried where it is first used. The
// defaults of both, also of --precision fast, have theirs always; all four are of halves.
static pm_status add_products(pm_verdicts *l, const pm_device *dev, pm_dtype dtype) {
    const pm_linear_shape shapes[] = {{.dtype = dtype, .epilogue = PM_LINEAR_NORM | PM_LINEAR_GLU, .n = 1, .fast = true},
                                      {.dtype = dtype, .epilogue = PM_LINEAR_ADD, .n = 64, .fast = true},
                                      {.dtype = dtype, .epilogue = PM_LINEAR_NORM, .n = 1, .fast = true},
                                      {.dtype = dtype, .epilogue = PM_LINEAR_NORM | PM_LINEAR_BIAS, .n = 64, .fast = true}};
    pm_variant v;
    for (int i = 0; pm_variant_at(dev, &shapes[0], i, &v); i++)
        for (int e = 0; e < (dtype == PM_F16 ? 4 : 2); e++)
            if (dtype == PM_F16 || (i + (int)dtype) % 2 == e)
                PM_TRY(add_variant(l, dev, &shapes[e], &v));
    for (int d = 0; d < 4; d++) {
        pm_linear_shape shape = shapes[d / 2];
        shape.fast = d % 2;
        pm_variant_at(dev, &shape, 0, &v);
        PM_TRY(add_variant(l, dev, &shape, &v));
    }
    return PM_OK;
}

// The same with experts, one by one and grouped: one of the four in turns, tiles one of the two that are grouped.
static pm_status add_experts(pm_verdicts *l, const pm_device *dev, pm_dtype dtype) {
    static const uint32_t with_experts[] = {PM_LINEAR_NORM | PM_LINEAR_GLU, PM_LINEAR_NORM | PM_LINEAR_GLU | PM_LINEAR_GROUPED,
                                            PM_LINEAR_ADD, PM_LINEAR_GROUPED};
    const pm_routes many_rows = {.n = 64, .n_experts = 8, .n_used = 2};
    uint32_t tile = pm_experts_tile(dev, &many_rows);
    pm_variant v;
    for (uint32_t e = 0; e < 4; e++) {
        bool grouped = (with_experts[e] & PM_LINEAR_GROUPED) != 0;
        pm_linear_shape shape = {.dtype = dtype,
                                 .epilogue = with_experts[e],
                                 .n = grouped ? 64 : 1,
                                 .n_experts = 8,
                                 .n_used = 2,
                                 .tile = grouped ? tile : 1};
        for (int i = 0; pm_variant_at(dev, &shape, i, &v); i++) {
            uint32_t turn = v.by == PM_BY_MATVEC ? ((uint32_t)i + e + (uint32_t)dtype) % 4 : (e / 2 + (uint32_t)dtype) % 2;
            if (dtype == PM_F16 || turn == 0)
                PM_TRY(add_variant(l, dev, &shape, &v));
        }
    }
    return PM_OK;
}

// Attention by matrices, of which a device says how large they are: of halves the first way to go through many rows, of Q8_0 the
// last. Heads are small: LLVM takes ten seconds for those of 128.
static pm_status add_matrix_attention(pm_verdicts *l, const pm_device *dev) {
    static const pm_attend_shape shapes[] = {
        {.dtype = PM_F16, .n = 64, .n_heads = 8, .n_kv_heads = 2, .head_dim = 64, .length = 64},
        {.dtype = PM_Q8_0, .n = 64, .n_heads = 7, .n_kv_heads = 1, .head_dim = 64, .length = 64}};
    for (size_t s = 0; s < sizeof(shapes) / sizeof(*shapes); s++) {
        pm_kernel_use uses[2], matrices = {.n_spec = 0};
        pm_attend_way way;
        for (int i = 0; pm_attend_way_at(dev, &shapes[s], i, &way); i++)
            if (way.subgroups && (s > 0 || matrices.n_spec == 0)) {
                pm_attend_uses(dev, &shapes[s], &way, uses);
                matrices = uses[0];
            }
        if (matrices.n_spec > 0)
            PM_TRY(add_use(l, &matrices));
    }
    return PM_OK;
}

static pm_status add_ceilings(pm_verdicts *l, const pm_device *dev) {
    pm_kernel_use uses[PM_CEILING_COUNT];
    int kinds[PM_CEILING_COUNT];
    int n = pm_ceiling_uses(dev, uses, kinds);
    for (int i = 0; i < n; i++)
        PM_TRY(add_use(l, &uses[i]));
    return PM_OK;
}

// Every use that the table of kernels and that of variants have for this device.
static pm_status add_all(pm_verdicts *l, const pm_device *dev) {
    for (int id = 0; id < PM_KERNEL_COUNT; id++)
        if (pm_kernel_available(dev, (pm_kernel_id)id))
            PM_TRY(add_fixed(l, (pm_kernel_id)id));
    for (int d = 0; d < PM_DTYPE_COUNT; d++) {
        PM_TRY(add_products(l, dev, (pm_dtype)d));
        PM_TRY(add_experts(l, dev, (pm_dtype)d));
    }
    PM_TRY(add_matrix_attention(l, dev));
    return add_ceilings(l, dev);
}

pm_status pm_selftest_list(const pm_device *dev, pm_verdict **list, int *n) {
    pm_verdicts l = {.n = 0};
    pm_status status = add_all(&l, dev);
    *list = l.list;
    *n = l.n;
    return status;
}

static pm_status give_out(const pm_verdicts *l, pm_trial_row **rows, int *n) {
    *rows = pm_calloc((size_t)l->n, sizeof(**rows));
    if (!*rows)
        return pm_fail(PM_ERR_MEMORY, "no memory to try kernels");
    *n = l->n;
    for (int i = 0; i < l->n; i++) {
        const pm_verdict *v = &l->list[i];
        pm_trial_row *row = &(*rows)[i];
        char text[PM_USE_TEXT];
        *row = (pm_trial_row){.kernel = pm_kernel_get_info(v->use.id)->name,
                              .verdict = pm_fate_name(v->fate),
                              .right = v->fate == PM_FATE_RIGHT,
                              .error = v->error,
                              .ms = v->ms};
        snprintf(row->numbers, sizeof(row->numbers), "%s", strchr(pm_kernel_use_text(&v->use, text), ':') + 1);
    }
    return PM_OK;
}

static pm_status try_list(pm_device *dev, const pm_verdicts *l, pm_trial_row **rows, int *n) {
    PM_TRY(pm_selftest_try(dev, l->list, l->n));
    for (int i = 0; dev->verdicts && i < l->n; i++)
        PM_TRY(pm_verdicts_add(dev->verdicts, &l->list[i]));
    if (dev->verdicts)
        pm_selftest_save(dev);
    return give_out(l, rows, n);
}

pm_status pm_device_test(pm_device *dev, pm_trial_row **rows, int *n) {
    pm_verdicts l = {.n = 0};
    *rows = NULL;
    *n = 0;
    pm_status status = pm_selftest_list(dev, &l.list, &l.n);
    if (status == PM_OK)
        status = try_list(dev, &l, rows, n);
    pm_free(l.list);
    return status;
}
