// Vulkan devices: what there is, and opening one. Part of the public API, by way of pumice.h.
#ifndef PM_DEVICE_H
#define PM_DEVICE_H

#include "host/status.h"

PM_API_BEGIN

typedef struct pm_device pm_device;

typedef enum pm_device_type {
    PM_DEVICE_DISCRETE,
    PM_DEVICE_INTEGRATED,
    PM_DEVICE_VIRTUAL,
    PM_DEVICE_CPU,
    PM_DEVICE_OTHER
} pm_device_type;

typedef struct pm_heap_info {
    uint64_t size;
    uint64_t budget; // what this process may still use, from VK_EXT_memory_budget; size where the driver does not say
    bool device_local;
} pm_heap_info;

typedef struct pm_coopmat_info {
    uint32_t m, n, k;
    const char *a, *c; // component types: "f16", "bf16", "s8", "u8", "f32", "s32"
} pm_coopmat_info;

// What `pumice devices` prints and bench rows carry. Sizes are bytes.
typedef struct pm_device_info {
    int index; // rank among the devices listed: what pm_device_open takes
    char name[256];
    pm_device_type type;
    char driver_name[256];   // "llvmpipe", "radv", "NVIDIA"
    char driver_info[256];   // "Mesa 22.3.6 (LLVM 15.0.6)"
    uint32_t driver_version; // as the driver encodes it
    uint32_t api_version;    // VK_MAKE_API_VERSION
    uint32_t vendor_id, device_id;
    uint32_t driver_id; // VkDriverId; 0 where the driver does not say
    uint8_t device_uuid[16], driver_uuid[16];
    bool has_pci;
    uint32_t pci[4]; // domain, bus, device, function
    int n_heaps;
    pm_heap_info heaps[16];
    int heap_of[3];      // which of them device buffers, uploads and readbacks are from; -1: there is none
    bool budget_known;   // the driver has VK_EXT_memory_budget
    bool unified_memory; // not a discrete card, and every device-local heap is host-visible
    uint32_t subgroup_size, subgroup_min, subgroup_max;
    bool subgroup_arithmetic, subgroup_size_control; // the first: ballot and shuffle too
    bool f16_arithmetic, f16_storage, int8_arithmetic, int8_storage, bf16;
    bool int_dot, int_dot_accelerated; // packed 4x8 dot product
    int n_coopmats;
    pm_coopmat_info coopmats[32];
    uint64_t max_buffer;      // bytes of one buffer or allocation
    uint64_t max_binding;     // maxStorageBufferRange
    uint32_t slice_align;     // minStorageBufferOffsetAlignment
    uint32_t max_shared;      // bytes of shared memory a workgroup
    uint32_t max_invocations; // of a workgroup
    uint32_t max_groups[3];   // of a dispatch
    uint32_t timestamp_bits;  // 0: no GPU times
    float timestamp_ns;       // of one tick
    bool limited;             // taken to have less than it has: --limits
} pm_device_info;

// All devices with a compute queue, best first: discrete, integrated, virtual, CPU; one entry where two drivers drive the same
// GPU. *infos is the caller's to pm_free. PM_ERR_NO_DEVICE with a clear line: no loader, no driver, no compute queue.
pm_status pm_device_list(pm_device_info **infos, int *n);

// Opens a device: pick is NULL (the best), a rank ("1"), or part of a name or driver name in any case. PM_ERR_NO_DEVICE where there
// is none or none fits, PM_ERR_DEVICE where the driver refuses.
pm_status pm_device_open(const char *pick, pm_device **dev);
void pm_device_close(pm_device **dev); // after everything made on it is closed
// As it was when opened; lives as long as the device.
const pm_device_info *pm_device_get_info(const pm_device *dev);

// Bytes still free for us on the heap that device buffers come from.
uint64_t pm_device_free_memory(const pm_device *dev);

// Kernels that are new to a device and its driver are tried before they are used, and verdicts are kept. Which program shall do it,
// in a process of its own where a driver may crash: the `pumice` that comes with this library. NULL, as at the start: this process
// does. Set it before a device is opened; the text is copied.
void pm_device_try_with(const char *program);

PM_API_END

#endif
