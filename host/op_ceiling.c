// What a device can do at most: bytes moved, multiply-adds. Measured by pumice-bench --ceilings; no forward pass has these.
#include "host/ops.h"
#include "host/vk.h"

#include <string.h>

static pm_kernel_id kernel_of(pm_ceiling_kind kind) {
    static const pm_kernel_id kernels[PM_CEILING_COUNT] = {
        [PM_READ_BANDWIDTH] = PM_K_ceiling_memory, [PM_WRITE_BANDWIDTH] = PM_K_ceiling_memory,
        [PM_COPY_BANDWIDTH] = PM_K_ceiling_memory, [PM_FMA_F32] = PM_K_ceiling_f32,
        [PM_FMA_F16] = PM_K_ceiling_f16,           [PM_INT8_DOT] = PM_K_ceiling_int_dot,
        [PM_COOPMAT_F16] = PM_K_ceiling_coopmat,
    };
    return kernels[kind];
}

static uint32_t mode_of(pm_ceiling_kind kind) {
    return kind == PM_READ_BANDWIDTH ? PM_CEILING_READ : kind == PM_WRITE_BANDWIDTH ? PM_CEILING_WRITE : PM_CEILING_COPY;
}

static pm_kernel_use use_of(const pm_device *dev, pm_ceiling_kind kind) {
    const pm_coopmat_shape *m = &dev->caps.coopmat;
    pm_kernel_id id = kernel_of(kind);
    pm_kernel_use use = {.id = id, .n_spec = 1};
    if (kind == PM_COOPMAT_F16)
        return (pm_kernel_use){.id = id, .spec = {m->workgroup, 0, m->subgroup, m->m, m->n, m->k}, .n_spec = 6};
    if (id == PM_K_ceiling_memory) {
        use.n_spec = 2;
        use.spec[1] = mode_of(kind);
    }
    use.spec[0] = 64;
    return use;
}

bool pm_ceiling_has(const pm_device *dev, pm_ceiling_kind kind) {
    return pm_kernel_available(dev, kernel_of(kind));
}

int pm_ceiling_uses(const pm_device *dev, pm_kernel_use *uses, int *kinds) {
    int n = 0;
    for (int kind = 0; kind < PM_CEILING_COUNT; kind++)
        if (pm_ceiling_has(dev, (pm_ceiling_kind)kind)) {
            kinds[n] = kind;
            uses[n++] = use_of(dev, (pm_ceiling_kind)kind);
        }
    return n;
}

uint32_t pm_ceiling_invocations(const pm_device *dev, pm_ceiling_kind kind, uint32_t most) {
    uint32_t workgroup = use_of(dev, kind).spec[0], groups = most / workgroup;
    groups = groups < dev->info.max_groups[0] ? groups : dev->info.max_groups[0];
    return workgroup * (groups > 0 ? groups : 1);
}

double pm_ceiling_work(const pm_device *dev, const pm_ceiling *op) {
    const pm_coopmat_shape *m = &dev->caps.coopmat;
    double invocations = op->n_invocations, elements = op->n, steps = elements * PM_CEILING_CHAINS * PM_CEILING_LENGTH * 4;
    switch (op->kind) {
    case PM_READ_BANDWIDTH:
        return 16 * (elements + invocations);
    case PM_WRITE_BANDWIDTH:
        return 16 * elements;
    case PM_COPY_BANDWIDTH:
        return 32 * elements;
    case PM_INT8_DOT:
        return invocations * steps * 8; // four products and four sums
    case PM_COOPMAT_F16:
        return invocations / m->subgroup * elements * PM_CEILING_CHAINS * 2 * m->m * m->n * m->k;
    default:
        return invocations * steps * 2;
    }
}

void pm_op_ceiling(pm_cmd *cmd, const pm_ceiling *op) {
    struct pm_ceiling_args args = {.n = op->n, .ones = 1, .factor = 1, .addend = 1};
    pm_kernel_use use = use_of(pm_cmd_device(cmd), op->kind);
    double work = pm_ceiling_work(pm_cmd_device(cmd), op);
    pm_dispatch d = {
        .kernel = use.id,
        .n_spec = use.n_spec,
        .args = &args,
        .args_size = sizeof args,
        .slices = {op->src, op->dst},
        .groups = {op->n_invocations / use.spec[0], 1, 1},
        .bytes = op->kind <= PM_COPY_BANDWIDTH ? (uint64_t)work : 0,
    };
    memcpy(d.spec, use.spec, sizeof(d.spec));
    pm_cmd_dispatch(cmd, &d);
}
