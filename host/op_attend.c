// Attention over the paged cache: how many splits, which kernel.
#include "host/ops.h"
#include "host/vk.h"

// A split of the cache a workgroup: enough of them to fill the device when there are few rows, none where the rows alone do.
static uint32_t count_splits(const pm_caps *caps, uint32_t n, uint32_t kv_bound) {
    if (n > caps->matvec.max_cols)
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
    uint64_t n_splits = count_splits(&dev->caps, n, kv_bound);
    return n_splits > 1 ? n * n_heads * n_splits * (head_dim + 2) * 4 : 0;
}

static void merge(pm_cmd *cmd, const pm_attend *op, pm_slice partial, uint32_t n_heads, uint32_t n_splits) {
    struct pm_attend_merge_args args = {.n_heads = n_heads, .n_splits = n_splits, .out_stride = op->out.stride};
    pm_dispatch d = {
        .kernel = PM_K_attend_merge,
        .spec = {op->kv->head_dim / 2, op->kv->head_dim},
        .n_spec = 2,
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

void pm_op_attend(pm_cmd *cmd, const pm_attend *op) {
    if (!pm_cmd_ok(cmd))
        return;
    const pm_kv *kv = op->kv;
    pm_device *dev = pm_cmd_device(cmd);
    uint32_t n_heads = op->q.cols / kv->head_dim, n = op->q.rows;
    uint32_t n_splits = count_splits(&dev->caps, n, op->kv_bound);
    struct pm_attend_args args = {
        .n_heads = n_heads,
        .n_kv_heads = kv->n_kv_heads,
        .q_stride = op->q.stride,
        .out_stride = op->out.stride,
        .max_pages = kv->max_pages,
        .n_splits = n_splits,
        .split_len = dev->caps.attend_split,
        .scale = op->scale,
    };
    pm_slice partial = op->scratch;
    partial.size = pm_attend_scratch_bytes(dev, n, n_heads, kv->head_dim, op->kv_bound);
    pm_dispatch d = {
        .kernel = pick_kernel(kv->dtype),
        .spec = {kv->head_dim / 2, kv->head_dim, n_heads / kv->n_kv_heads},
        .n_spec = 3,
        .args = &args,
        .args_size = sizeof args,
        .slices = {op->q.data, op->rows, kv->pages, kv->k, kv->v, op->out.data, n_splits > 1 ? partial : op->out.data},
        .groups = {kv->n_kv_heads, n, n_splits},
        .bytes = 2 * n * op->kv_bound * (pm_kv_page_bytes(kv->dtype, kv->n_kv_heads, kv->head_dim) / PM_PAGE),
    };
    pm_cmd_dispatch(cmd, &d);
    if (n_splits > 1)
        merge(cmd, op, partial, n_heads, n_splits);
}
