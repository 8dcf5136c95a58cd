// Trials of the measuring sticks: a rate of a kernel that leaves work out would say nothing.
#include "host/lab.h"

#include <string.h>

static pm_ceiling_kind kind_of(const pm_lab *lab, const pm_kernel_use *use) {
    pm_kernel_use uses[PM_CEILING_COUNT];
    int kinds[PM_CEILING_COUNT];
    int n = pm_ceiling_uses(lab->dev, uses, kinds);
    for (int i = 0; i < n; i++)
        if (pm_kernel_same_use(&uses[i], use))
            return (pm_ceiling_kind)kinds[i];
    return PM_CEILING_COUNT; // laid out as no dispatch of ours is
}

void pm_try_ceiling(pm_lab *lab, const pm_kernel_use *use, const char *type) {
    pm_ceiling op = {.kind = kind_of(lab, use), .n = 7};
    if (op.kind == PM_CEILING_COUNT)
        return;
    op.n_invocations = pm_ceiling_invocations(lab->dev, op.kind, 2 * use->spec[0]);
    bool moves = op.kind <= PM_COPY_BANDWIDTH, writes_all = moves && op.kind != PM_READ_BANDWIDTH;
    op.n = moves ? 5 * op.n_invocations - 3 : 7;
    uint32_t n_written = writes_all ? op.n : op.n_invocations, *src = pm_lab_room(lab, (size_t)op.n * 4, 4), want[4];
    for (uint32_t w = 0; w < 4 * op.n; w++)
        src[w] = pm_lab_draw(lab);
    op.src = moves ? pm_lab_put(lab, src, (size_t)op.n * 4) : (pm_slice){.buffer = NULL};
    op.dst = pm_lab_take(lab, (uint64_t)n_written * 16);
    if (!pm_lab_ok(lab))
        return;
    pm_lab_begin(lab);
    pm_op_ceiling(lab->cmd, &op);
    if (!pm_lab_run(lab))
        return;
    pm_ref_ceiling_args args = {.type = type,
                                .mode = moves ? use->spec[1] : 0,
                                .n = op.n,
                                .n_invocations = op.n_invocations,
                                .src = src,
                                .k = lab->dev->caps.coopmat.k};
    for (uint32_t i = 0; i < n_written; i++) {
        pm_ref_ceiling(&args, i, want);
        pm_lab_compare_exactly(lab, !memcmp(pm_lab_result(lab, op.dst) + (size_t)i * 4, want, sizeof(want)));
    }
}
