// Private to the host room: what its files share, with Vulkan types.
#ifndef PM_VK_H
#define PM_VK_H

#include "host/host.h"
#include "host/caps.h"
#include "shaders/abi.h"
#include "volk.h"

// Returns early with PM_ERR_DEVICE (or _LOST, _MEMORY) naming the call when a Vulkan function fails.
#define VK_TRY(call)                                 \
    do {                                             \
        VkResult vk_try_result = (call);             \
        if (vk_try_result < 0)                       \
            return pm_vk_fail(vk_try_result, #call); \
    } while (0)
pm_status pm_vk_fail(VkResult result, const char *call);

struct pm_device {
    VkInstance instance;
    VkPhysicalDevice physical;
    VkDevice vk;
    struct VolkDeviceTable fn; // every device-level call goes through it
    uint32_t queue_family;
    VkQueue queue;
    pm_device_info info;
    pm_caps caps;
    VkPhysicalDeviceMemoryProperties memory;
    uint64_t free_ram;                         // of the machine when the device was opened; 0: unknown
    uint64_t used[VK_MAX_MEMORY_HEAPS];        // bytes that our buffers take of each heap
    struct pm_kernels *kernels;                // kernel.c
    PFN_vkSetDebugUtilsObjectNameEXT set_name; // NULL: VK_EXT_debug_utils is not there
};

// device.c: a name for debuggers and validation messages, where there is somebody to read it.
void pm_vk_name(const pm_device *dev, VkObjectType type, uint64_t handle, const char *name);

// probe.c: what a physical device has, and the VkDevice made with what we use of it.
pm_status pm_probe(VkPhysicalDevice physical, pm_device_info *info, uint32_t *queue_family); // UNSUPPORTED: not for us, and why
pm_status pm_probe_create_device(VkPhysicalDevice physical, uint32_t queue_family, VkDevice *vk);
// The heaps as they are now. What this process holds is already off the budget where the driver tells it (budget_known).
void pm_probe_heaps(VkPhysicalDevice physical, bool budget_known, pm_heap_info heaps[16], int *n);

// memory.c: the heap that each use of memory is given from, where a buffer may be of any type; -1: none
void pm_memory_heaps(const VkPhysicalDeviceMemoryProperties *memory, bool unified, int heap_of[PM_MEM_COUNT]);

struct pm_buffer {
    pm_device *dev;
    VkBuffer vk;
    VkDeviceMemory memory;
    uint64_t size;
    uint8_t *mapped; // NULL: not host-visible
    const char *name;
    uint32_t heap;  // that the memory is from
    uint64_t taken; // bytes of it
};

// kernel.c: the table of kernels (shaders/gen/kernels.def) and their pipelines
typedef enum pm_kernel_id {
#define PM_KERNEL(name, reads, writes, needs) PM_K_##name,
#include "kernels.def"
#undef PM_KERNEL
    PM_KERNEL_COUNT
} pm_kernel_id;

typedef struct pm_kernel_info {
    const char *name;
    int n_reads, n_writes; // bindings 0.. are read, the next n_writes are written (and may be read)
    uint32_t needs;        // bits of PM_NEED_*
    const uint32_t *spirv;
    size_t spirv_size; // bytes; 0: the GLSL compiler of this build could not make it
} pm_kernel_info;
const pm_kernel_info *pm_kernel_get_info(pm_kernel_id id);

pm_status pm_kernels_open(pm_device *dev);
void pm_kernels_close(pm_device *dev);                           // also writes the pipeline cache to disk
bool pm_kernel_available(const pm_device *dev, pm_kernel_id id); // compiled, and the device has what it needs
VkPipelineLayout pm_kernels_layout(const pm_device *dev);
VkDescriptorSetLayout pm_kernels_set_layout(const pm_device *dev);
// The pipeline of a kernel with these specialization constants; made at the first call, owned by the device.
pm_status pm_kernel_pipeline(pm_device *dev, pm_kernel_id id, const uint32_t *spec, int n_spec, VkPipeline *pipeline);

// A kernel with its specialization constants 0 .. n_spec - 1; constant 0 is the workgroup's size. Where the kernel needs
// cooperative matrices constant 2 is the subgroup's size, and the pipeline is made with whole subgroups of it.
typedef struct pm_kernel_use {
    pm_kernel_id id;
    uint32_t spec[PM_MAX_SPEC];
    int n_spec;
} pm_kernel_use;
// Makes the pipelines of n uses that are not there yet, in parallel, and saves the pipeline cache if there was anything new.
pm_status pm_kernels_prepare(pm_device *dev, const pm_kernel_use *uses, int n);

// command.c: what the op_*.c files record
typedef struct pm_dispatch {
    pm_kernel_id kernel;
    uint32_t spec[PM_MAX_SPEC];
    int n_spec;
    const void *args;
    uint32_t args_size;
    pm_slice slices[PM_MAX_BINDINGS]; // reads, then writes, as the kernel's row says; the kernel uses none without a buffer
    uint32_t groups[3];
    uint64_t bytes; // that must at least be moved, for --profile
} pm_dispatch;
void pm_cmd_dispatch(pm_cmd *cmd, const pm_dispatch *dispatch);
// Sticks an error of the recording.
void pm_cmd_fail(pm_cmd *cmd, pm_status status);
bool pm_cmd_ok(const pm_cmd *cmd);

#endif
