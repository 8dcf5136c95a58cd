// What touches each element once: embedding, gathering the rows that want logits, per-head norm with rotation and the store into
// the cache, changing logits, drawing the next token, telling how likely it was.
#include "host/ops.h"
#include "host/vk.h"

static pm_kernel_id embed_kernel(pm_dtype dtype) {
    static const pm_kernel_id kernels[PM_DTYPE_COUNT] = {
#define X(id, small, ggml, elements, bytes) [PM_##id] = PM_K_embed_##small,
        PM_DTYPES(X)
#undef X
    };
    return kernels[dtype];
}

static pm_slice rows_of(pm_slice plane, uint32_t all, uint32_t row, uint32_t rows) {
    uint64_t row_bytes = plane.size / all;
    return (pm_slice){plane.buffer, plane.offset + row * row_bytes, rows * row_bytes};
}

void pm_op_embed(pm_cmd *cmd, pm_hidden *h, pm_tensor table, pm_tensor gain, pm_slice rows) {
    h->n_parts = 1;
    if (!pm_cmd_ok(cmd))
        return;
    uint64_t most = pm_cmd_device(cmd)->caps.max_binding / (table.data.size / table.rows);
    uint32_t step = most >= table.rows ? table.rows : (uint32_t)(most / 256 * 256);
    if (step == 0)
        pm_cmd_fail(cmd,
                    pm_fail(PM_ERR_UNSUPPORTED, "a table of %u rows of %u %s columns cannot be cut into what this device binds",
                            table.rows, table.cols, pm_dtype_get(table.dtype)->name));
    for (uint32_t row = 0; step > 0 && row < table.rows; row += step) {
        uint32_t count = table.rows - row < step ? table.rows - row : step;
        struct pm_embed_args args = {
            .row0 = row,
            .rows = count,
            .blocks = table.stride / PM_BLOCK,
            .scale_stride = table.scales.buffer ? (uint32_t)(table.scales.size / table.rows / 4) : 0,
            .dim = table.cols,
            .x_stride = h->x.stride,
            .squares_stride = h->squares.stride,
        };
        pm_slice data = rows_of(table.data, table.rows, row, count);
        pm_dispatch d = {
            .kernel = embed_kernel(table.dtype),
            .spec = {pm_variant_workgroup(pm_cmd_device(cmd), embed_kernel(table.dtype), 32)},
            .n_spec = 1,
            .args = &args,
            .args_size = sizeof args,
            .slices = {data, table.scales.buffer ? rows_of(table.scales, table.rows, row, count) : data, rows, gain.data, h->x.data,
                       h->normed.data, h->squares.data},
            .groups = {h->x.rows, 1, 1},
            .bytes = (uint64_t)h->x.rows * table.cols * 12,
        };
        pm_cmd_dispatch(cmd, &d);
    }
}

void pm_op_gather(pm_cmd *cmd, pm_hidden *dst, const pm_hidden *src, pm_slice index) {
    dst->n_parts = src->n_parts;
    dst->eps = src->eps;
    struct pm_gather_args args = {
        .dim_words = src->normed.cols,
        .x_stride = src->normed.stride,
        .n_parts = src->n_parts,
        .squares_stride = src->squares.stride,
    };
    pm_dispatch d = {
        .kernel = PM_K_gather,
        .spec = {pm_variant_workgroup(pm_cmd_device(cmd), PM_K_gather, 64)},
        .n_spec = 1,
        .args = &args,
        .args_size = sizeof args,
        .slices = {index, src->normed.data, src->squares.data, dst->normed.data, dst->squares.data},
        .groups = {dst->normed.rows, 1, 1},
        .bytes = (uint64_t)dst->normed.rows * src->normed.cols * 8,
    };
    pm_cmd_dispatch(cmd, &d);
}

// The ways to turn and store heads, best first: a workgroup a head, a lane a head.
static pm_kernel_use pick_rope_store(const pm_device *dev, const pm_rope_store *op) {
    pm_dtype dtype = op->kv->dtype;
    uint32_t dim = op->kv->head_dim, norm = op->q_gain != NULL, interleaved = op->interleaved;
    pm_kernel_id plain = dtype == PM_Q8_0  ? PM_K_rope_store_plain_q8_0
                         : dtype == PM_F16 ? PM_K_rope_store_plain_f16
                                           : PM_K_rope_store_plain_f32;
    pm_kernel_id kernel = dtype == PM_Q8_0 ? PM_K_rope_store_q8_0 : dtype == PM_F16 ? PM_K_rope_store_f16 : PM_K_rope_store_f32;
    const pm_kernel_use uses[] = {
        {.id = kernel, .spec = {dim / 4, dim, norm, interleaved}, .n_spec = 4},
        {.id = plain, .spec = {32, dim, norm, interleaved}, .n_spec = 4},
        {.id = plain, .spec = {16, dim, norm, interleaved}, .n_spec = 4},
    };
    return pm_variant_use(dev, uses, 3);
}

static bool is_plain_rope_store(pm_kernel_id id) {
    return id == PM_K_rope_store_plain_q8_0 || id == PM_K_rope_store_plain_f16 || id == PM_K_rope_store_plain_f32;
}

void pm_op_rope_store(pm_cmd *cmd, const pm_rope_store *op) {
    const pm_kv *kv = op->kv;
    pm_kernel_use use = pick_rope_store(pm_cmd_device(cmd), op);
    uint32_t n_heads = op->q.cols / kv->head_dim, heads = n_heads + 2 * kv->n_kv_heads;
    struct pm_rope_store_args args = {
        .n_heads = n_heads,
        .n_kv_heads = kv->n_kv_heads,
        .qkv_stride = op->qkv.stride,
        .q_stride = op->q.stride,
        .max_pages = kv->max_pages,
        .angle_rows = op->angle_rows,
        .eps = op->eps,
    };
    bool norm = op->q_gain != NULL;
    pm_dispatch d = {
        .kernel = use.id,
        .spec = {use.spec[0], use.spec[1], use.spec[2], use.spec[3]},
        .n_spec = use.n_spec,
        .args = &args,
        .args_size = sizeof args,
        .slices = {op->qkv.data, norm ? op->q_gain->data : op->qkv.data, norm ? op->k_gain->data : op->qkv.data, op->angles,
                   op->rows, kv->pages, op->q.data, kv->k, kv->v},
        .groups = {is_plain_rope_store(use.id) ? (heads + use.spec[0] - 1) / use.spec[0] : heads, op->q.rows, 1},
        .bytes = (uint64_t)op->q.rows * (op->qkv.cols + op->q.cols) * 4,
    };
    pm_cmd_dispatch(cmd, &d);
}

void pm_op_adjust(pm_cmd *cmd, const pm_adjust *op) {
    struct pm_adjust_args args = {
        .vocab = op->n_valid,
        .logits_stride = op->logits.stride,
        .adjusted_stride = op->adjusted.stride,
        .count = op->count_rows,
    };
    uint32_t workgroup = pm_variant_workgroup(pm_cmd_device(cmd), PM_K_adjust, 128);
    pm_dispatch d = {
        .kernel = PM_K_adjust,
        .spec = {workgroup},
        .n_spec = 1,
        .args = &args,
        .args_size = sizeof args,
        .slices = {op->logits.data, op->sampling, op->bias, op->index, op->rows, op->seen, op->adjusted.data},
        .groups = {(op->n_valid + workgroup - 1) / workgroup, op->logits.rows, 1},
        .bytes = (uint64_t)op->logits.rows * op->n_valid * 16,
    };
    pm_cmd_dispatch(cmd, &d);
}

static pm_kernel_use sieve_use(const pm_device *dev) {
    return (pm_kernel_use){.id = PM_K_sieve, .spec = {pm_variant_workgroup(dev, PM_K_sieve, 128)}, .n_spec = 1};
}

static uint32_t slices_of(uint32_t n_valid) {
    return (n_valid + PM_SIEVE_SLICE - 1) / PM_SIEVE_SLICE;
}

uint64_t pm_sample_scratch_bytes(uint32_t m, uint32_t n_valid) {
    return (uint64_t)m * slices_of(n_valid) * (1 + PM_SIEVE_MOST) * sizeof(uint32_t);
}

void pm_sample_sieve(pm_cmd *cmd, const pm_sample *op) {
    pm_kernel_use use = sieve_use(pm_cmd_device(cmd));
    struct pm_sample_args args = {.vocab = op->n_valid, .logits_stride = op->logits.stride, .n_slices = slices_of(op->n_valid)};
    pm_dispatch d = {
        .kernel = use.id,
        .spec = {use.spec[0]},
        .n_spec = use.n_spec,
        .args = &args,
        .args_size = sizeof args,
        .slices = {op->logits.data, op->sampling, op->scratch},
        .groups = {op->logits.rows, args.n_slices, 1},
        .bytes = (uint64_t)op->logits.rows * op->n_valid * 4,
    };
    pm_cmd_dispatch(cmd, &d);
}

// Few logits are not worth a dispatch.
void pm_op_sample(pm_cmd *cmd, const pm_sample *op) {
    pm_kernel_use use = sieve_use(pm_cmd_device(cmd));
    bool sieved = op->n_valid > 4 * PM_SIEVE_SLICE && !pm_selftest_is_bad(pm_cmd_device(cmd), &use);
    struct pm_sample_args args = {
        .vocab = op->n_valid,
        .logits_stride = op->logits.stride,
        .result0 = op->result0,
        .n_slices = sieved ? slices_of(op->n_valid) : 0,
    };
    if (sieved)
        pm_sample_sieve(cmd, op);
    pm_dispatch d = {
        .kernel = PM_K_sample,
        .spec = {pm_variant_workgroup(pm_cmd_device(cmd), PM_K_sample, pm_cmd_device(cmd)->caps.row_workgroup)},
        .n_spec = 1,
        .args = &args,
        .args_size = sizeof args,
        .slices = {op->logits.data, op->sampling, op->index, op->rows, op->scratch, op->next, op->results},
        .groups = {op->logits.rows, 1, 1},
        .bytes = (uint64_t)op->logits.rows * op->n_valid * 4,
    };
    pm_cmd_dispatch(cmd, &d);
}

void pm_op_logprobs(pm_cmd *cmd, const pm_logprobs *op) {
    struct pm_logprobs_args args = {.vocab = op->n_valid, .logits_stride = op->logits.stride, .n = op->n};
    pm_dispatch d = {
        .kernel = PM_K_logprobs,
        .spec = {pm_variant_workgroup(pm_cmd_device(cmd), PM_K_logprobs, pm_cmd_device(cmd)->caps.row_workgroup)},
        .n_spec = 1,
        .args = &args,
        .args_size = sizeof args,
        .slices = {op->logits.data, op->next, op->likely},
        .groups = {op->logits.rows, 1, 1},
        .bytes = (uint64_t)op->logits.rows * op->n_valid * 4,
    };
    pm_cmd_dispatch(cmd, &d);
}
