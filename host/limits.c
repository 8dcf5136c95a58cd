// The limits of devices that are not here, by name, and taking them away from one that is. The table is for trying and testing: no
// kernel is chosen by it, only by the device that it leaves.
#include "host/limits.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "host/base.h"

#define MIB(n) ((uint64_t)(n) << 20)
#define KIB(n) ((uint32_t)(n) << 10)
#define GROUPS \
    { 65535, 65535, 65535 }

// clang-format off
enum {
    NO_MATRICES = PM_LACKS_COOPMAT | PM_LACKS_BF16,
    NO_DOT = NO_MATRICES | PM_LACKS_INT_DOT,
    // What drivers of phones have in common: the least of Adreno 6xx and 7xx, and of Mali G7x.
    PHONE = NO_DOT | PM_LACKS_SUBGROUP_SIZE_CONTROL,
    CARD = PM_LACKS_UNIFIED_MEMORY,
};

// As drivers of 2022 to 2024 commonly have it; a report from vulkan.gpuinfo.org tells one driver exactly. What is public of it, and
// was compared: IREE's table for its targets, made from reports 10983 and 16312 (Adreno: 32 KiB, 1024 invocations, subgroups of 64;
// bytes in buffers from Android 12 on), 10312 and 15142 (Mali of the Valhall kind: 32 KiB, 512), 10906 (RDNA), 17937 (Pascal, 48 KiB),
// 11252 (Turing), 19818 (Arc); Mesa's turnip of 2024 (128 MiB a binding: "matches the latest Qualcomm driver, a hardware limit on
// later generations"); gpuweb issue 2832 (of all reports only Adreno 610 and 612 have less than 32 KiB: 16); bionic-vulkan-wrapper
// issue 124 (Mali-G615 with Vulkan 1.3: 2 GiB a binding). Not found, so by hearsay: sizes of buffers, alignments, V3D, Intel before
// Arc. RDNA has 64 KiB under RADV, 32 under AMD's own driver: the less of both.
static const pm_limits table[] = {
    {"adreno", true, PM_DEVICE_INTEGRATED, PHONE, MIB(256), MIB(128), KIB(16), 1024, GROUPS, 64},
    {"adreno650", true, PM_DEVICE_INTEGRATED, PHONE | PM_LACKS_INT8_STORAGE, MIB(1024), MIB(128), KIB(32), 1024, GROUPS, 64},
    {"adreno750", true, PM_DEVICE_INTEGRATED, NO_MATRICES, MIB(1024), MIB(128), KIB(32), 1024, GROUPS, 64},
    {"mali", true, PM_DEVICE_INTEGRATED, PHONE, MIB(256), MIB(128), KIB(16), 256, GROUPS, 256},
    {"mali-g78", true, PM_DEVICE_INTEGRATED, PHONE, MIB(2048), MIB(256), KIB(32), 512, GROUPS, 256},
    {"mali-g720", true, PM_DEVICE_INTEGRATED, NO_MATRICES, MIB(2048), MIB(2048), KIB(32), 1024, GROUPS, 64},
    {"v3d71", true, PM_DEVICE_INTEGRATED, NO_DOT | PM_LACKS_F16_ARITHMETIC, MIB(1024), MIB(1024), KIB(16), 256, GROUPS, 32},
    {"uhd620", true, PM_DEVICE_INTEGRATED, NO_DOT, MIB(2048), MIB(1024), KIB(32), 256, GROUPS, 64},
    {"iris-xe", true, PM_DEVICE_INTEGRATED, NO_MATRICES, MIB(4095), MIB(1024), KIB(32), 512, GROUPS, 64},
    {"a770", true, PM_DEVICE_DISCRETE, CARD | PM_LACKS_BF16, MIB(4095), MIB(4095), KIB(32), 1024, GROUPS, 64},
    {"gtx1060", true, PM_DEVICE_DISCRETE, CARD | NO_MATRICES | PM_LACKS_F16_ARITHMETIC, MIB(4095), MIB(4095), KIB(48), 1024, GROUPS, 32},
    {"rx580", true, PM_DEVICE_DISCRETE, CARD | NO_DOT | PM_LACKS_F16_ARITHMETIC, MIB(2048), MIB(4095), KIB(32), 1024, GROUPS, 64},
    {"rx6600", true, PM_DEVICE_DISCRETE, CARD | NO_MATRICES, MIB(2048), MIB(4095), KIB(32), 1024, GROUPS, 64},
    {"rx7900", true, PM_DEVICE_DISCRETE, CARD, MIB(2048), MIB(4095), KIB(32), 1024, GROUPS, 64},
    {"rtx4090", true, PM_DEVICE_DISCRETE, CARD, MIB(4095), MIB(4095), KIB(48), 1024, GROUPS, 32},
};
// clang-format on

enum { N_LIMITS = sizeof(table) / sizeof(*table) };

const pm_limits *pm_limits_at(int i) {
    return i >= 0 && i < N_LIMITS ? &table[i] : NULL;
}

const pm_limits *pm_limits_find(const char *name) {
    for (int i = 0; i < N_LIMITS; i++)
        if (!strcmp(table[i].name, name))
            return &table[i];
    return NULL;
}

// ---- the ones that were asked for -------------------------------------------------------------------------------------

static pm_limits asked_for; // zero: none

// Not less than Vulkan demands of every device: our kernels count on that.
static pm_status at_least(const pm_limits *l, const char *what, uint64_t value, uint64_t least) {
    if (value == 0 || value >= least)
        return PM_OK;
    return pm_fail(PM_ERR_FILE, "limits of %s: %s is %" PRIu64 ", and every Vulkan device has %" PRIu64, l->name, what, value,
                   least);
}

static pm_status check(const pm_limits *l) {
    PM_TRY(at_least(l, "bytes of a buffer", l->max_buffer, MIB(128)));
    PM_TRY(at_least(l, "bytes of a binding", l->max_binding, MIB(128)));
    PM_TRY(at_least(l, "bytes of shared memory", l->max_shared, KIB(16)));
    PM_TRY(at_least(l, "invocations of a workgroup", l->max_invocations, 128));
    for (int i = 0; i < 3; i++)
        PM_TRY(at_least(l, "workgroups of a dispatch", l->max_groups[i], 65535));
    if (l->slice_align > 256 || (l->slice_align & (l->slice_align - 1)))
        return pm_fail(PM_ERR_FILE, "limits of %s: bindings aligned to %" PRIu32 ", and Vulkan allows powers of two up to 256",
                       l->name, l->slice_align);
    return PM_OK;
}

pm_status pm_limits_set(const pm_limits *limits) {
    if (limits)
        PM_TRY(check(limits));
    asked_for = limits ? *limits : (pm_limits){.lacks = 0};
    return PM_OK;
}

const pm_limits *pm_limits_get(void) {
    return &asked_for;
}

// ---- taking away ------------------------------------------------------------------------------------------------------

static void lower(uint64_t most, uint64_t *value) {
    if (most && most < *value)
        *value = most;
}

static void lower_u32(uint32_t most, uint32_t *value) {
    if (most && most < *value)
        *value = most;
}

static void take_features(uint32_t lacks, pm_device_info *info) {
    info->subgroup_arithmetic &= !(lacks & PM_LACKS_SUBGROUP_ARITHMETIC);
    info->subgroup_size_control &= !(lacks & PM_LACKS_SUBGROUP_SIZE_CONTROL);
    info->f16_arithmetic &= !(lacks & PM_LACKS_F16_ARITHMETIC);
    info->f16_storage &= !(lacks & PM_LACKS_F16_STORAGE);
    info->int8_arithmetic &= !(lacks & PM_LACKS_INT8_ARITHMETIC);
    info->int8_storage &= !(lacks & PM_LACKS_INT8_STORAGE);
    info->int_dot &= !(lacks & PM_LACKS_INT_DOT);
    info->int_dot_accelerated &= info->int_dot;
    info->bf16 &= !(lacks & PM_LACKS_BF16);
    info->unified_memory &= !(lacks & PM_LACKS_UNIFIED_MEMORY);
    if (lacks & PM_LACKS_COOPMAT)
        info->n_coopmats = 0;
}

void pm_limits_apply(const pm_limits *l, pm_device_info *info) {
    size_t n = strlen(info->name);
    info->limited |= l->name[0] != 0;
    if (l->name[0])
        snprintf(info->name + n, sizeof(info->name) - n, " as %s", l->name);
    if (l->has_type)
        info->type = l->type;
    take_features(l->lacks, info);
    lower(l->max_buffer, &info->max_buffer);
    lower(l->max_binding, &info->max_binding);
    lower_u32(l->max_shared, &info->max_shared);
    lower_u32(l->max_invocations, &info->max_invocations);
    for (int i = 0; i < 3; i++)
        lower_u32(l->max_groups[i], &info->max_groups[i]);
    if (l->slice_align > info->slice_align)
        info->slice_align = l->slice_align;
}
