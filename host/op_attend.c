// Attention over the paged cache: how many splits, which kernel.
#include "host/ops.h"
#include "host/vk.h"

static pm_kernel_use merge_use(uint32_t head_dim) {
    return (pm_kernel_use){.id = PM_K_attend_merge, .spec = {head_dim / 2, head_dim}, .n_spec = 2};
}

// A split of the cache a workgroup: enough of them to fill the device when there are few rows, none where the rows alone do, or
// where the parts cannot be merged.
static uint32_t count_splits(const pm_device *dev, uint32_t n, uint32_t head_dim, uint32_t kv_bound) {
    const pm_caps *caps = &dev->caps;
    pm_kernel_use merging = merge_use(head_dim);
    if (n > caps->matvec.max_cols || pm_selftest_is_bad(dev, &merging))
        return 1;
    return (kv_bound + caps->attend_split - 1) / caps->attend_split;
}

pm_dtype pm_kv_dtype(uint32_t bits) {
    return bits == 8 ? PM_Q8_0 : bits == 16 ? PM_F16 : PM_F32;
}

uint64_t pm_kv_page_bytes(pm_dtype dtype, uint32_t n_kv_heads, uint32_t head_dim) {
    uint64_t position = dtype == PM_Q8_0 ? head_dim + (head_dim + 63) / 64 * 4 : head_dim * (dtype == PM_F16 ? 2 : 4);
    return PM_PAGE * n_kv_heads * position;
}

uint64_t pm_attend_scratch_bytes(const pm_device *dev, uint32_t n, uint32_t n_heads, uint32_t head_dim, uint32_t kv_bound) {
    uint64_t n_splits = count_splits(dev, n, head_dim, kv_bound);
    return n_splits > 1 ? n * n_heads * n_splits * (head_dim + 2) * 4 : 0;
}

void pm_attend_merge(pm_cmd *cmd, const pm_attend *op, pm_slice partial, uint32_t n_heads, uint32_t n_splits) {
    pm_kernel_use use = merge_use(op->kv->head_dim);
    struct pm_attend_merge_args args = {.n_heads = n_heads, .n_splits = n_splits, .out_stride = op->out.stride};
    pm_dispatch d = {
        .kernel = use.id,
        .spec = {use.spec[0], use.spec[1]},
        .n_spec = use.n_spec,
        .args = &args,
        .args_size = sizeof args,
        .slices = {partial, op->out.data},
        .groups = {n_heads, op->q.rows, 1},
        .bytes = partial.size,
    };
    pm_cmd_dispatch(cmd, &d);
}

static pm_kernel_id pick_kernel(pm_dtype dtype) {
    return dtype == PM_Q8_0 ? PM_K_attend_q8_0 : dtype == PM_F16 ? PM_K_attend_f16 : PM_K_attend_f32;
}

static pm_kernel_use split_use(const pm_attend *op, uint32_t rows) {
    const pm_kv *kv = op->kv;
    uint32_t group = op->q.cols / kv->head_dim / kv->n_kv_heads;
    return (pm_kernel_use){.id = pick_kernel(kv->dtype), .spec = {kv->head_dim / 2, kv->head_dim, group, rows}, .n_spec = 4};
}

// Rows that a workgroup takes at once, where there are many: of all queries that share the keys no more than 8, whose sums stay in
// registers; heads of 256 then fill 12 KiB of shared memory.
static uint32_t count_rows(const pm_device *dev, const pm_attend *op) {
    enum { MOST_QUERIES = 8 };
    uint32_t group = op->q.cols / op->kv->head_dim / op->kv->n_kv_heads;
    if (!op->consecutive || op->q.rows <= dev->caps.matvec.max_cols || group >= MOST_QUERIES)
        return 1;
    pm_kernel_use use = split_use(op, MOST_QUERIES / group);
    return pm_selftest_is_bad(dev, &use) ? 1 : MOST_QUERIES / group;
}

void pm_attend_split(pm_cmd *cmd, const pm_attend *op, pm_slice partial, uint32_t n_splits, uint32_t split_len, uint32_t rows) {
    pm_kernel_use use = split_use(op, rows);
    const pm_kv *kv = op->kv;
    uint32_t n_heads = op->q.cols / kv->head_dim, n = op->q.rows;
    struct pm_attend_args args = {
        .n = n,
        .n_heads = n_heads,
        .n_kv_heads = kv->n_kv_heads,
        .q_stride = op->q.stride,
        .out_stride = op->out.stride,
        .max_pages = kv->max_pages,
        .n_splits = n_splits,
        .split_len = split_len,
        .scale = op->scale,
    };
    pm_dispatch d = {
        .kernel = use.id,
        .spec = {use.spec[0], use.spec[1], use.spec[2], use.spec[3]},
        .n_spec = use.n_spec,
        .args = &args,
        .args_size = sizeof args,
        .slices = {op->q.data, op->rows, kv->pages, kv->k, kv->v, op->out.data, n_splits > 1 ? partial : op->out.data},
        .groups = {kv->n_kv_heads, (n + rows - 1) / rows, n_splits},
        .bytes = 2 * (uint64_t)((n + rows - 1) / rows) * op->kv_bound *
                 (pm_kv_page_bytes(kv->dtype, kv->n_kv_heads, kv->head_dim) / PM_PAGE),
        .flops = 4 * (uint64_t)n * op->kv_bound * op->q.cols, // of q k^T and of what v is weighted with
    };
    pm_cmd_dispatch(cmd, &d);
}

void pm_op_attend(pm_cmd *cmd, const pm_attend *op) {
    if (!pm_cmd_ok(cmd))
        return;
    const pm_device *dev = pm_cmd_device(cmd);
    uint32_t head_dim = op->kv->head_dim, n_heads = op->q.cols / head_dim, n = op->q.rows;
    uint32_t n_splits = count_splits(dev, n, head_dim, op->kv_bound);
    pm_slice partial = op->scratch;
    partial.size = pm_attend_scratch_bytes(dev, n, n_heads, head_dim, op->kv_bound);
    pm_attend_split(cmd, op, partial, n_splits, dev->caps.attend_split, count_rows(dev, op));
    if (n_splits > 1)
        pm_attend_merge(cmd, op, partial, n_heads, n_splits);
}
