// A report of vulkan.gpuinfo.org: whatever it says, the limits that are taken are some that a Vulkan device may have.
#include "app/limits.h"
#include "host/limits.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    pm_limits limits;
    pm_device_info info = {.name = "fuzz"};
    if (app_limits_parse("fuzz", (const char *)data, size, &limits) != PM_OK || pm_limits_set(&limits) != PM_OK)
        return 0;
    pm_limits_apply(pm_limits_get(), &info);
    if (limits.slice_align > 256 || (limits.max_shared && limits.max_shared < 16384))
        abort();
    return 0;
}
