// One use of a kernel, a kernel with its specialization constants, tried on small awkward shapes against reference.c: sizes that
// fill no block, group or tile, rows of two sequences, pages out of order. What is not written holds no numbers, and guards lie
// between all pieces of memory. The cases go through the verbs of ops.h, so that a trial lays the kernel out as the forward pass
// will.
//
// A kernel without a case is not trusted blindly: tests/test_host_selftest.c fails for it.
#include "host/lab.h"

#include <string.h>

const char *pm_fate_name(pm_fate fate) {
    static const char *const names[PM_FATE_COUNT] = {"unknown", "right", "wrong", "hangs", "lost", "crashes", "refused", "untried"};
    return names[fate];
}

bool pm_fate_read(const char *text, pm_fate *fate) {
    for (int f = PM_FATE_RIGHT; f < PM_FATE_COUNT; f++)
        if (!strcmp(text, pm_fate_name((pm_fate)f))) {
            *fate = (pm_fate)f;
            return true;
        }
    return false;
}

static bool is_ceiling(const char *small_name, pm_dtype *dtype) {
    (void)small_name, (void)dtype; // "f32", "coopmat": of what is measured, not of weights
    return true;
}

// Names, whole or up to a type; the first that fits.
static const struct trial_case {
    const char *name;
    bool (*reads)(const char *small_name, pm_dtype *dtype); // of the types that it knows; NULL: there is none in the name
    pm_lab_case *run;
} cases[] = {
    {"embed_", pm_lab_read_dtype, pm_try_embed},
    {"gather", NULL, pm_try_gather},
    {"quantize", NULL, pm_try_quantize},
    {"matvec_dot_", pm_lab_read_dtype, pm_try_matvec_dot},
    {"matmul_dot_", pm_lab_read_dtype, pm_try_matmul_dot},
    {"matvec_sg_", pm_lab_read_dtype, pm_try_matvec_sg},
    {"matvec_", pm_lab_read_dtype, pm_try_matvec},
    {"matmul_cm_", pm_lab_read_dtype, pm_try_matmul_cm},
    {"matmul_", pm_lab_read_dtype, pm_try_matmul},
    {"experts_matvec_", pm_lab_read_dtype, pm_try_experts_matvec},
    {"experts_matmul_", pm_lab_read_dtype, pm_try_experts_matmul},
    {"experts_sum", NULL, pm_try_experts_sum},
    {"route", NULL, pm_try_route},
    {"group", NULL, pm_try_group},
    {"rope_store_plain_", pm_lab_read_cache_dtype, pm_try_rope_store},
    {"rope_store_", pm_lab_read_cache_dtype, pm_try_rope_store},
    {"attend_merge", NULL, pm_try_attend_merge},
    {"attend_plain_", pm_lab_read_cache_dtype, pm_try_attend},
    {"attend_cm_", pm_lab_read_cache_dtype, pm_try_attend_cm},
    {"attend_", pm_lab_read_cache_dtype, pm_try_attend},
    {"adjust", NULL, pm_try_adjust},
    {"sieve", NULL, pm_try_sieve},
    {"sample", NULL, pm_try_sample},
    {"logprobs", NULL, pm_try_logprobs},
    {"ceiling_", is_ceiling, pm_try_ceiling},
};

// *type is what follows the case's name.
static const struct trial_case *find_case(const char *name, const char **type) {
    pm_dtype dtype;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        size_t n = strlen(cases[i].name);
        *type = name + n;
        if (!strncmp(name, cases[i].name, n) && (cases[i].reads ? cases[i].reads(*type, &dtype) : !**type))
            return &cases[i];
    }
    return NULL;
}

bool pm_lab_knows(pm_kernel_id id) {
    const char *type;
    return find_case(pm_kernel_get_info(id)->name, &type) != NULL;
}

static pm_fate judge(const pm_lab *lab) {
    switch (lab->status) {
    case PM_OK:
        return lab->full ? PM_FATE_UNTRIED : lab->error <= 1 ? PM_FATE_RIGHT : PM_FATE_WRONG;
    case PM_ERR_CANCELLED: // the time limit of pm_cmd_wait
        return PM_FATE_HANGS;
    case PM_ERR_DEVICE_LOST:
        return PM_FATE_LOST;
    case PM_ERR_MEMORY:
    case PM_ERR_DEVICE_MEMORY:
        return PM_FATE_UNKNOWN; // of which the kernel is innocent
    default:
        return PM_FATE_REFUSED;
    }
}

void pm_lab_try(pm_lab *lab, const pm_kernel_use *use, pm_verdict *verdict) {
    const char *type;
    const struct trial_case *c = find_case(pm_kernel_get_info(use->id)->name, &type);
    pm_lab_clear(lab, c != NULL);
    VkPipeline pipeline;
    lab->status = pm_kernel_pipeline(lab->dev, use->id, use->spec, use->n_spec, &pipeline);
    pm_caps caps = lab->dev->caps; // which a case may change, to have the kernel laid out its way
    lab->dev->forced_use = use;
    if (c && lab->status == PM_OK)
        c->run(lab, use, type);
    lab->dev->forced_use = NULL;
    lab->dev->caps = caps;
    *verdict = (pm_verdict){.use = *use, .fate = judge(lab), .error = lab->error, .ms = lab->ms};
}
