// Limits as data: what a device that is not here lacks, to be taken away from one that is. Nothing can be given, so that what runs
// under limits runs on the device at hand; what is not known of a device stays as it is. That of the tests comes from PM_LIMITS
// (caps.c).
#ifndef PM_LIMITS_H
#define PM_LIMITS_H

#include "host/device.h"

#define PM_LACKS_SUBGROUP_ARITHMETIC   1u
#define PM_LACKS_SUBGROUP_SIZE_CONTROL 2u
#define PM_LACKS_F16_ARITHMETIC        4u
#define PM_LACKS_F16_STORAGE           8u
#define PM_LACKS_INT8_ARITHMETIC       16u
#define PM_LACKS_INT8_STORAGE          32u
#define PM_LACKS_INT_DOT               64u
#define PM_LACKS_BF16                  128u
#define PM_LACKS_COOPMAT               256u
#define PM_LACKS_UNIFIED_MEMORY        512u

// Zero: as the device has it.
typedef struct pm_limits {
    char name[128];      // said behind that of the device
    bool has_type;       // `type` is known
    pm_device_type type; // what it is taken for
    uint32_t lacks;      // PM_LACKS_*
    uint64_t max_buffer, max_binding;
    uint32_t max_shared, max_invocations, max_groups[3];
    uint32_t slice_align; // at least this
} pm_limits;

// Those of devices that are known by name, in an order for people; NULL behind the last.
const pm_limits *pm_limits_at(int i);
const pm_limits *pm_limits_find(const char *name); // NULL: there is none

// From now on devices are listed and opened as if they had no more than this; NULL: as they are. Set it before anything is opened.
// PM_ERR_FILE where a number is one that no Vulkan device has.
pm_status pm_limits_set(const pm_limits *limits);
const pm_limits *pm_limits_get(void);

void pm_limits_apply(const pm_limits *limits, pm_device_info *info);

#endif
