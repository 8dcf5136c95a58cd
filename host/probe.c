// What a physical device is and has: fills pm_device_info, and makes the VkDevice with what we use of it.
#include "host/vk.h"

#include <string.h>

// Every structure that a device may fill or take. Only those that it knows are chained; the others stay zero.
typedef struct facts {
    VkPhysicalDeviceFeatures2 features;
    VkPhysicalDevice16BitStorageFeatures storage16;
    VkPhysicalDevice8BitStorageFeatures storage8;
    VkPhysicalDeviceShaderFloat16Int8Features float16_int8;
    VkPhysicalDeviceVulkanMemoryModelFeatures memory_model;
    VkPhysicalDeviceSubgroupSizeControlFeatures size_control;
    VkPhysicalDeviceShaderIntegerDotProductFeatures int_dot;
    VkPhysicalDevicePipelineExecutablePropertiesFeaturesKHR executables;
#ifdef VK_KHR_cooperative_matrix
    VkPhysicalDeviceCooperativeMatrixFeaturesKHR coopmat;
#endif
#ifdef VK_KHR_shader_bfloat16
    VkPhysicalDeviceShaderBfloat16FeaturesKHR bfloat16;
#endif
    VkPhysicalDeviceProperties2 properties;
    VkPhysicalDeviceIDProperties id;
    VkPhysicalDeviceSubgroupProperties subgroup;
    VkPhysicalDeviceMaintenance3Properties maintenance3;
    VkPhysicalDeviceMaintenance4Properties maintenance4;
    VkPhysicalDeviceDriverProperties driver;
    VkPhysicalDeviceSubgroupSizeControlProperties subgroup_sizes;
    VkPhysicalDeviceShaderIntegerDotProductProperties int_dot_speed;
    VkPhysicalDevicePCIBusInfoPropertiesEXT pci;
    bool has_budget, has_pci;
} facts;

// An extension that we use where it is there, or where the device's Vulkan has taken it in.
typedef struct optional {
    const char *extension;       // NULL: all of it is in Vulkan 1.1
    uint32_t core;               // version that took it in; 0: none so far
    size_t features, properties; // offsets in struct facts; 0: it has none that we ask for
    VkStructureType features_type, properties_type;
    size_t present; // offset of a bool in struct facts, or 0
} optional;

#define FEATURES(member, type)   .features = offsetof(facts, member), .features_type = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_##type
#define PROPERTIES(member, type) .properties = offsetof(facts, member), .properties_type = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_##type

static const optional optionals[] = {
    {NULL, VK_API_VERSION_1_1, FEATURES(storage16, 16BIT_STORAGE_FEATURES), PROPERTIES(id, ID_PROPERTIES)},
    {NULL, VK_API_VERSION_1_1, PROPERTIES(subgroup, SUBGROUP_PROPERTIES)},
    {NULL, VK_API_VERSION_1_1, PROPERTIES(maintenance3, MAINTENANCE_3_PROPERTIES)},
    {"VK_KHR_8bit_storage", VK_API_VERSION_1_2, FEATURES(storage8, 8BIT_STORAGE_FEATURES)},
    {"VK_KHR_shader_float16_int8", VK_API_VERSION_1_2, FEATURES(float16_int8, SHADER_FLOAT16_INT8_FEATURES)},
    {"VK_KHR_vulkan_memory_model", VK_API_VERSION_1_2, FEATURES(memory_model, VULKAN_MEMORY_MODEL_FEATURES)},
    {"VK_KHR_driver_properties", VK_API_VERSION_1_2, PROPERTIES(driver, DRIVER_PROPERTIES)},
    {"VK_EXT_subgroup_size_control", VK_API_VERSION_1_3, FEATURES(size_control, SUBGROUP_SIZE_CONTROL_FEATURES),
     PROPERTIES(subgroup_sizes, SUBGROUP_SIZE_CONTROL_PROPERTIES)},
    {"VK_KHR_shader_integer_dot_product", VK_API_VERSION_1_3, FEATURES(int_dot, SHADER_INTEGER_DOT_PRODUCT_FEATURES),
     PROPERTIES(int_dot_speed, SHADER_INTEGER_DOT_PRODUCT_PROPERTIES)},
    {"VK_KHR_maintenance4", VK_API_VERSION_1_3, PROPERTIES(maintenance4, MAINTENANCE_4_PROPERTIES)},
    {"VK_KHR_pipeline_executable_properties", 0, FEATURES(executables, PIPELINE_EXECUTABLE_PROPERTIES_FEATURES_KHR)},
    {"VK_EXT_memory_budget", 0, .present = offsetof(facts, has_budget)},
    {"VK_EXT_pci_bus_info", 0, PROPERTIES(pci, PCI_BUS_INFO_PROPERTIES_EXT), .present = offsetof(facts, has_pci)},
    {"VK_KHR_portability_subset", 0, .present = 0}, // a device that has it demands that it be enabled
#ifdef VK_KHR_cooperative_matrix
    {"VK_KHR_cooperative_matrix", 0, FEATURES(coopmat, COOPERATIVE_MATRIX_FEATURES_KHR)},
#endif
#ifdef VK_KHR_shader_bfloat16
    {"VK_KHR_shader_bfloat16", 0, FEATURES(bfloat16, SHADER_BFLOAT16_FEATURES_KHR)},
#endif
};

enum { N_OPTIONALS = sizeof(optionals) / sizeof(*optionals) };

// ---- asking -----------------------------------------------------------------------------------------------------------

// The extensions of a device; *list is the caller's to pm_free.
static pm_status list_extensions(VkPhysicalDevice physical, VkExtensionProperties **list, uint32_t *n) {
    VK_TRY(vkEnumerateDeviceExtensionProperties(physical, NULL, n, NULL));
    *list = pm_calloc(*n, sizeof(**list));
    if (!*list)
        return pm_fail(PM_ERR_MEMORY, "no memory to list the extensions of a Vulkan device");
    VkResult result = vkEnumerateDeviceExtensionProperties(physical, NULL, n, *list);
    if (result >= 0)
        return PM_OK;
    pm_free(*list);
    *list = NULL;
    return pm_vk_fail(result, "vkEnumerateDeviceExtensionProperties");
}

static bool has_extension(const VkExtensionProperties *list, uint32_t n, const char *name) {
    for (uint32_t i = 0; name && i < n; i++)
        if (!strcmp(list[i].extensionName, name))
            return true;
    return false;
}

// Puts the structure at `offset` of f behind the head of a chain.
static void chain(facts *f, void *head, size_t offset, VkStructureType type) {
    if (!offset)
        return;
    VkBaseOutStructure *first = head, *added = (VkBaseOutStructure *)((uint8_t *)f + offset);
    added->sType = type;
    added->pNext = first->pNext;
    first->pNext = added;
}

// Chains what the device knows. Writes the names of the extensions to enable, at most N_OPTIONALS, and returns how many.
static uint32_t chain_known(facts *f, uint32_t version, const VkExtensionProperties *list, uint32_t n, const char **enable) {
    uint32_t n_enable = 0;
    f->features.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2;
    f->properties.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2;
    for (int i = 0; i < N_OPTIONALS; i++) {
        const optional *o = &optionals[i];
        bool in_core = o->core && version >= o->core;
        if (!in_core && !has_extension(list, n, o->extension))
            continue;
        if (!in_core)
            enable[n_enable++] = o->extension;
        chain(f, &f->features, o->features, o->features_type);
        chain(f, &f->properties, o->properties, o->properties_type);
        if (o->present)
            *((uint8_t *)f + o->present) = true;
    }
    return n_enable;
}

static pm_status ask(VkPhysicalDevice physical, facts *f, const char **enable, uint32_t *n_enable) {
    VkPhysicalDeviceProperties properties;
    VkExtensionProperties *list;
    uint32_t n;
    vkGetPhysicalDeviceProperties(physical, &properties);
    if (properties.apiVersion < VK_API_VERSION_1_1)
        return pm_fail(PM_ERR_UNSUPPORTED, "%s has Vulkan 1.0, 1.1 is needed", properties.deviceName);
    PM_TRY(list_extensions(physical, &list, &n));

    memset(f, 0, sizeof(*f));
    *n_enable = chain_known(f, properties.apiVersion, list, n, enable);
    pm_free(list);
    vkGetPhysicalDeviceFeatures2(physical, &f->features);
    vkGetPhysicalDeviceProperties2(physical, &f->properties);
    return PM_OK;
}

// ---- telling ----------------------------------------------------------------------------------------------------------

static pm_device_type type_of(VkPhysicalDeviceType type) {
    switch (type) {
    case VK_PHYSICAL_DEVICE_TYPE_DISCRETE_GPU:
        return PM_DEVICE_DISCRETE;
    case VK_PHYSICAL_DEVICE_TYPE_INTEGRATED_GPU:
        return PM_DEVICE_INTEGRATED;
    case VK_PHYSICAL_DEVICE_TYPE_VIRTUAL_GPU:
        return PM_DEVICE_VIRTUAL;
    case VK_PHYSICAL_DEVICE_TYPE_CPU:
        return PM_DEVICE_CPU;
    default:
        return PM_DEVICE_OTHER;
    }
}

static void tell_identity(const facts *f, pm_device_info *info) {
    const VkPhysicalDeviceProperties *p = &f->properties.properties;
    memcpy(info->name, p->deviceName, sizeof(p->deviceName));
    memcpy(info->driver_name, f->driver.driverName, sizeof(f->driver.driverName));
    memcpy(info->driver_info, f->driver.driverInfo, sizeof(f->driver.driverInfo));
    memcpy(info->device_uuid, f->id.deviceUUID, sizeof(info->device_uuid));
    memcpy(info->driver_uuid, f->id.driverUUID, sizeof(info->driver_uuid));
    info->type = type_of(p->deviceType);
    info->driver_id = f->driver.driverID;
    info->driver_version = p->driverVersion;
    info->api_version = p->apiVersion;
    info->vendor_id = p->vendorID;
    info->device_id = p->deviceID;
    info->has_pci = f->has_pci;
    info->pci[0] = f->pci.pciDomain;
    info->pci[1] = f->pci.pciBus;
    info->pci[2] = f->pci.pciDevice;
    info->pci[3] = f->pci.pciFunction;
}

static void tell_subgroups(const facts *f, pm_device_info *info) {
    const VkSubgroupFeatureFlags wanted = VK_SUBGROUP_FEATURE_BASIC_BIT | VK_SUBGROUP_FEATURE_ARITHMETIC_BIT |
                                          VK_SUBGROUP_FEATURE_BALLOT_BIT | VK_SUBGROUP_FEATURE_SHUFFLE_BIT;
    bool in_compute = f->subgroup.supportedStages & VK_SHADER_STAGE_COMPUTE_BIT;
    info->subgroup_size = f->subgroup.subgroupSize;
    info->subgroup_arithmetic = in_compute && (f->subgroup.supportedOperations & wanted) == wanted;
    info->subgroup_size_control = f->size_control.subgroupSizeControl && f->size_control.computeFullSubgroups &&
                                  (f->subgroup_sizes.requiredSubgroupSizeStages & VK_SHADER_STAGE_COMPUTE_BIT);
    bool known = f->subgroup_sizes.minSubgroupSize != 0;
    info->subgroup_min = known ? f->subgroup_sizes.minSubgroupSize : info->subgroup_size;
    info->subgroup_max = known ? f->subgroup_sizes.maxSubgroupSize : info->subgroup_size;
}

static void tell_arithmetic(const facts *f, pm_device_info *info) {
    info->f16_arithmetic = f->float16_int8.shaderFloat16;
    info->f16_storage = f->storage16.storageBuffer16BitAccess;
    info->int8_arithmetic = f->float16_int8.shaderInt8;
    info->int8_storage = f->storage8.storageBuffer8BitAccess;
    info->int_dot = f->int_dot.shaderIntegerDotProduct;
    info->int_dot_accelerated = info->int_dot && f->int_dot_speed.integerDotProduct4x8BitPackedSignedAccelerated;
#ifdef VK_KHR_shader_bfloat16
    info->bf16 = f->bfloat16.shaderBFloat16Type;
#endif
}

static uint64_t min_known(uint64_t a, uint64_t b) {
    return b && b < a ? b : a;
}

static void tell_limits(const facts *f, pm_device_info *info) {
    const VkPhysicalDeviceLimits *l = &f->properties.properties.limits;
    uint64_t most = min_known(min_known(UINT64_MAX, f->maintenance3.maxMemoryAllocationSize), f->maintenance4.maxBufferSize);
    info->max_buffer = most / 256 * 256; // so that no size within it leaves it when rounded up
    info->max_binding = l->maxStorageBufferRange;
    info->max_shared = l->maxComputeSharedMemorySize;
    info->max_invocations = l->maxComputeWorkGroupInvocations;
    memcpy(info->max_groups, l->maxComputeWorkGroupCount, sizeof(info->max_groups));
    info->slice_align = (uint32_t)l->minStorageBufferOffsetAlignment;
    info->timestamp_ns = l->timestampPeriod;
}

// ---- cooperative matrices ---------------------------------------------------------------------------------------------

#ifdef VK_KHR_cooperative_matrix
// NULL: a type that no kernel of ours could use.
static const char *component_name(VkComponentTypeKHR type) {
    switch ((int)type) {
    case VK_COMPONENT_TYPE_FLOAT16_KHR:
        return "f16";
    case VK_COMPONENT_TYPE_FLOAT32_KHR:
        return "f32";
    case VK_COMPONENT_TYPE_SINT8_KHR:
        return "s8";
    case VK_COMPONENT_TYPE_UINT8_KHR:
        return "u8";
    case VK_COMPONENT_TYPE_SINT32_KHR:
        return "s32";
#ifdef VK_KHR_shader_bfloat16
    case VK_COMPONENT_TYPE_BFLOAT16_KHR:
        return "bf16";
#endif
    default:
        return NULL;
    }
}

static void tell_coopmat(const VkCooperativeMatrixPropertiesKHR *p, pm_device_info *info) {
    const char *a = component_name(p->AType), *c = component_name(p->CType);
    bool plain =
        p->scope == VK_SCOPE_SUBGROUP_KHR && p->AType == p->BType && p->CType == p->ResultType && !p->saturatingAccumulation;
    if (plain && a && c && info->n_coopmats < (int)(sizeof(info->coopmats) / sizeof(*info->coopmats)))
        info->coopmats[info->n_coopmats++] = (pm_coopmat_info){p->MSize, p->NSize, p->KSize, a, c};
}

static pm_status tell_coopmats(VkPhysicalDevice physical, const facts *f, pm_device_info *info) {
    // By hand: a distribution's volk may be older than its Vulkan headers.
    PFN_vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR get =
        (PFN_vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR)vkGetInstanceProcAddr(
            volkGetLoadedInstance(), "vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR");
    uint32_t n = 0;
    if (!get || !f->coopmat.cooperativeMatrix || !f->memory_model.vulkanMemoryModel)
        return PM_OK;
    VK_TRY(get(physical, &n, NULL));
    VkCooperativeMatrixPropertiesKHR *list = pm_calloc(n, sizeof(*list));
    if (!list)
        return pm_fail(PM_ERR_MEMORY, "no memory to list the cooperative matrices of %s", info->name);
    for (uint32_t i = 0; i < n; i++)
        list[i].sType = VK_STRUCTURE_TYPE_COOPERATIVE_MATRIX_PROPERTIES_KHR;
    VkResult result = get(physical, &n, list);
    for (uint32_t i = 0; result >= 0 && i < n; i++)
        tell_coopmat(&list[i], info);
    pm_free(list);
    return result >= 0 ? PM_OK : pm_vk_fail(result, "vkGetPhysicalDeviceCooperativeMatrixPropertiesKHR");
}
#else
static pm_status tell_coopmats(VkPhysicalDevice physical, const facts *f, pm_device_info *info) {
    (void)physical, (void)f, (void)info;
    return PM_OK;
}
#endif

// ---- memory -----------------------------------------------------------------------------------------------------------

void pm_probe_heaps(VkPhysicalDevice physical, bool budget_known, pm_heap_info heaps[16], int *n) {
    VkPhysicalDeviceMemoryBudgetPropertiesEXT budget = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_BUDGET_PROPERTIES_EXT};
    VkPhysicalDeviceMemoryProperties2 memory = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_MEMORY_PROPERTIES_2,
                                                .pNext = budget_known ? &budget : NULL};
    vkGetPhysicalDeviceMemoryProperties2(physical, &memory);
    *n = (int)memory.memoryProperties.memoryHeapCount;
    for (int i = 0; i < *n; i++) {
        const VkMemoryHeap *heap = &memory.memoryProperties.memoryHeaps[i];
        uint64_t left = budget.heapBudget[i] > budget.heapUsage[i] ? budget.heapBudget[i] - budget.heapUsage[i] : 0;
        heaps[i].size = heap->size;
        heaps[i].budget = budget_known ? left : heap->size;
        heaps[i].device_local = heap->flags & VK_MEMORY_HEAP_DEVICE_LOCAL_BIT;
    }
}

static bool heap_is_host_visible(const VkPhysicalDeviceMemoryProperties *memory, uint32_t heap) {
    const VkMemoryPropertyFlags wanted = VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT | VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT;
    for (uint32_t i = 0; i < memory->memoryTypeCount; i++)
        if (memory->memoryTypes[i].heapIndex == heap && (memory->memoryTypes[i].propertyFlags & wanted) == wanted)
            return true;
    return false;
}

// A discrete card whose memory is all behind a large BAR is not unified: the host reaches it over the bus only.
static void tell_memory(VkPhysicalDevice physical, const facts *f, pm_device_info *info) {
    VkPhysicalDeviceMemoryProperties memory;
    vkGetPhysicalDeviceMemoryProperties(physical, &memory);
    info->budget_known = f->has_budget;
    pm_probe_heaps(physical, f->has_budget, info->heaps, &info->n_heaps);
    info->unified_memory = info->type != PM_DEVICE_DISCRETE;
    for (uint32_t i = 0; i < memory.memoryHeapCount; i++)
        if ((memory.memoryHeaps[i].flags & VK_MEMORY_HEAP_DEVICE_LOCAL_BIT) && !heap_is_host_visible(&memory, i))
            info->unified_memory = false;
}

static void tell_heaps_of_use(VkPhysicalDevice physical, pm_device_info *info) {
    VkPhysicalDeviceMemoryProperties memory;
    vkGetPhysicalDeviceMemoryProperties(physical, &memory);
    pm_memory_heaps(&memory, info->unified_memory, info->heap_of);
}

// ---- queues -----------------------------------------------------------------------------------------------------------

enum { MAX_FAMILIES = 32 };

static pm_status pick_queue(VkPhysicalDevice physical, pm_device_info *info, uint32_t *family) {
    VkQueueFamilyProperties families[MAX_FAMILIES];
    uint32_t n = MAX_FAMILIES;
    vkGetPhysicalDeviceQueueFamilyProperties(physical, &n, families);
    bool graphics_first = pm_caps_wants_graphics_queue(), found = false;
    for (uint32_t i = 0; i < n; i++) {
        bool computes = families[i].queueCount && (families[i].queueFlags & VK_QUEUE_COMPUTE_BIT);
        bool draws = families[i].queueFlags & VK_QUEUE_GRAPHICS_BIT;
        if (!computes || (found && draws != graphics_first))
            continue;
        bool best = draws == graphics_first;
        *family = i;
        info->timestamp_bits = families[i].timestampValidBits;
        found = true;
        if (best)
            break;
    }
    return found ? PM_OK : pm_fail(PM_ERR_UNSUPPORTED, "%s has no compute queue", info->name);
}

// ---- the two entries --------------------------------------------------------------------------------------------------

pm_status pm_probe(VkPhysicalDevice physical, pm_device_info *info, uint32_t *queue_family) {
    const char *enable[N_OPTIONALS];
    uint32_t n_enable;
    facts f;
    memset(info, 0, sizeof(*info));
    PM_TRY(ask(physical, &f, enable, &n_enable));
    tell_identity(&f, info);
    tell_subgroups(&f, info);
    tell_arithmetic(&f, info);
    tell_limits(&f, info);
    tell_memory(physical, &f, info);
    PM_TRY(tell_coopmats(physical, &f, info));
    pm_caps_limit(info);
    tell_heaps_of_use(physical, info);
    return pick_queue(physical, info, queue_family);
}

// Leaves on what our kernels use: everything else may cost (robust access does) and is nobody's business.
static void keep_used(facts *f) {
    f->features.features = (VkPhysicalDeviceFeatures){0};
    f->storage16.uniformAndStorageBuffer16BitAccess = VK_FALSE;
    f->storage16.storagePushConstant16 = VK_FALSE;
    f->storage16.storageInputOutput16 = VK_FALSE;
    f->storage8.uniformAndStorageBuffer8BitAccess = VK_FALSE;
    f->storage8.storagePushConstant8 = VK_FALSE;
    f->memory_model.vulkanMemoryModelAvailabilityVisibilityChains = VK_FALSE;
#ifdef VK_KHR_cooperative_matrix
    f->coopmat.cooperativeMatrixRobustBufferAccess = VK_FALSE;
#endif
}

// And off what limits took from the device: a layer then tells of a kernel that uses it all the same.
static void keep_told(const pm_device_info *info, facts *f) {
    f->storage16.storageBuffer16BitAccess &= info->f16_storage;
    f->storage8.storageBuffer8BitAccess &= info->int8_storage;
    f->float16_int8.shaderFloat16 &= info->f16_arithmetic;
    f->float16_int8.shaderInt8 &= info->int8_arithmetic;
    f->size_control.subgroupSizeControl &= info->subgroup_size_control;
    f->size_control.computeFullSubgroups &= info->subgroup_size_control;
    f->int_dot.shaderIntegerDotProduct &= info->int_dot;
#ifdef VK_KHR_cooperative_matrix
    f->coopmat.cooperativeMatrix &= info->n_coopmats > 0;
#endif
#ifdef VK_KHR_shader_bfloat16
    f->bfloat16.shaderBFloat16Type &= info->bf16;
    f->bfloat16.shaderBFloat16DotProduct &= info->bf16;
    f->bfloat16.shaderBFloat16CooperativeMatrix &= info->bf16;
#endif
}

pm_status pm_probe_create_device(VkPhysicalDevice physical, const pm_device_info *info, uint32_t queue_family, VkDevice *vk) {
    const char *enable[N_OPTIONALS];
    uint32_t n_enable;
    facts f;
    PM_TRY(ask(physical, &f, enable, &n_enable));
    keep_used(&f);
    keep_told(info, &f);
    const float priority = 1;
    VkDeviceQueueCreateInfo queue = {
        .sType = VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO,
        .queueFamilyIndex = queue_family,
        .queueCount = 1,
        .pQueuePriorities = &priority,
    };
    VkDeviceCreateInfo create = {
        .sType = VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO,
        .pNext = &f.features,
        .queueCreateInfoCount = 1,
        .pQueueCreateInfos = &queue,
        .enabledExtensionCount = n_enable,
        .ppEnabledExtensionNames = enable,
    };
    VK_TRY(vkCreateDevice(physical, &create, NULL, vk));
    return PM_OK;
}
