// Devices: the instance, their list best first, opening and closing one, and what a failed Vulkan call is called.
#include "host/vk.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>

// ---- failed calls -----------------------------------------------------------------------------------------------------

typedef struct failure {
    VkResult result;
    const char *name;
    pm_status status;
    const char *means;
} failure;

#define FAILURE(result, status, means) \
    { result, #result, status, means }
static const failure failures[] = {
    FAILURE(VK_ERROR_DEVICE_LOST, PM_ERR_DEVICE_LOST, "the driver reset the device or a watchdog stopped a long dispatch"),
    FAILURE(VK_ERROR_OUT_OF_DEVICE_MEMORY, PM_ERR_DEVICE_MEMORY, "the device is out of memory"),
    FAILURE(VK_ERROR_OUT_OF_POOL_MEMORY, PM_ERR_DEVICE_MEMORY, "a descriptor pool is full"),
    FAILURE(VK_ERROR_FRAGMENTED_POOL, PM_ERR_DEVICE_MEMORY, "a descriptor pool is fragmented"),
    FAILURE(VK_ERROR_OUT_OF_HOST_MEMORY, PM_ERR_MEMORY, "the driver found no host memory"),
    FAILURE(VK_ERROR_MEMORY_MAP_FAILED, PM_ERR_MEMORY, "the driver could not map memory"),
    FAILURE(VK_ERROR_TOO_MANY_OBJECTS, PM_ERR_DEVICE_MEMORY, "the driver allows no more allocations"),
    FAILURE(VK_ERROR_INCOMPATIBLE_DRIVER, PM_ERR_NO_DEVICE, "no driver fits"),
    FAILURE(VK_ERROR_INITIALIZATION_FAILED, PM_ERR_DEVICE, "the driver could not start"),
    FAILURE(VK_ERROR_LAYER_NOT_PRESENT, PM_ERR_DEVICE, "a Vulkan layer that was asked for is missing"),
    FAILURE(VK_ERROR_EXTENSION_NOT_PRESENT, PM_ERR_DEVICE, "the driver lacks an extension that it had listed"),
    FAILURE(VK_ERROR_FEATURE_NOT_PRESENT, PM_ERR_DEVICE, "the driver lacks a feature that it had listed"),
    FAILURE(VK_ERROR_UNKNOWN, PM_ERR_DEVICE, "the driver does not say why"),
};

static const failure *find_failure(VkResult result) {
    for (size_t i = 0; i < sizeof(failures) / sizeof(*failures); i++)
        if (failures[i].result == result)
            return &failures[i];
    return NULL;
}

// The call comes as its source text: "dev->fn.vkQueueSubmit(dev->queue, ...)".
pm_status pm_vk_fail(VkResult result, const char *call) {
    const char *vk = strstr(call, "vk"), *function = vk ? vk : call;
    int length = (int)strcspn(function, "(");
    const failure *f = find_failure(result);
    if (!f)
        return pm_fail(PM_ERR_DEVICE, "%.*s failed: VkResult %d", length, function, (int)result);
    return pm_fail(f->status, "%.*s failed: %s (%s)", length, function, f->means, f->name);
}

// ---- the instance -----------------------------------------------------------------------------------------------------

// Sets `found` where the loader knows the extension. A list that changes under us is as good as the one before.
static pm_status has_instance_extension(const char *name, bool *found) {
    uint32_t n = 0;
    *found = false;
    VK_TRY(vkEnumerateInstanceExtensionProperties(NULL, &n, NULL));
    VkExtensionProperties *list = pm_calloc(n, sizeof(*list));
    if (!list)
        return pm_fail(PM_ERR_MEMORY, "no memory to list the extensions of the Vulkan loader");
    VkResult result = vkEnumerateInstanceExtensionProperties(NULL, &n, list);
    for (uint32_t i = 0; result >= 0 && i < n; i++)
        *found = *found || !strcmp(list[i].extensionName, name);
    pm_free(list);
    return result >= 0 ? PM_OK : pm_vk_fail(result, "vkEnumerateInstanceExtensionProperties");
}

static pm_status load_vulkan(void) {
    bool loaded = volkGetInstanceVersion() != 0;
    if (!loaded && volkInitialize() != VK_SUCCESS)
        return pm_fail(PM_ERR_NO_DEVICE,
                       "no Vulkan loader (libvulkan.so.1, vulkan-1.dll): install the GPU's driver, or on Debian libvulkan1");
    if (volkGetInstanceVersion() < VK_API_VERSION_1_1)
        return pm_fail(PM_ERR_NO_DEVICE, "the Vulkan loader is of version 1.0, 1.1 is needed: update it");
    return PM_OK;
}

static pm_status fail_instance(VkResult result) {
    if (result == VK_ERROR_INCOMPATIBLE_DRIVER || result == VK_ERROR_INITIALIZATION_FAILED)
        return pm_fail(PM_ERR_NO_DEVICE, "no Vulkan driver found: install that of the GPU, or a software one; VK_DRIVER_FILES and "
                                         "VK_ICD_FILENAMES, where set, must name one");
    return pm_vk_fail(result, "vkCreateInstance");
}

// Names for debuggers go through VK_EXT_debug_utils; the validation layer itself is switched on from outside (VK_INSTANCE_LAYERS).
static pm_status instance_open(VkInstance *instance) {
    const char *extensions[2];
    uint32_t n = 0;
    bool portability, debug_utils;
    PM_TRY(load_vulkan());
    PM_TRY(has_instance_extension(VK_EXT_DEBUG_UTILS_EXTENSION_NAME, &debug_utils));
    PM_TRY(has_instance_extension(VK_KHR_PORTABILITY_ENUMERATION_EXTENSION_NAME, &portability));
    if (debug_utils)
        extensions[n++] = VK_EXT_DEBUG_UTILS_EXTENSION_NAME;
    if (portability)
        extensions[n++] = VK_KHR_PORTABILITY_ENUMERATION_EXTENSION_NAME;

    VkApplicationInfo application = {
        .sType = VK_STRUCTURE_TYPE_APPLICATION_INFO,
        .pApplicationName = "pumice",
        .pEngineName = "pumice",
        .apiVersion = VK_API_VERSION_1_3, // the highest we know how to use, not what we need
    };
    VkInstanceCreateInfo create = {
        .sType = VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO,
        .flags = portability ? VK_INSTANCE_CREATE_ENUMERATE_PORTABILITY_BIT_KHR : 0,
        .pApplicationInfo = &application,
        .enabledExtensionCount = n,
        .ppEnabledExtensionNames = extensions,
    };
    VkResult result = vkCreateInstance(&create, NULL, instance);
    if (result < 0)
        return fail_instance(result);
    volkLoadInstanceOnly(*instance);
    return PM_OK;
}

static void instance_close(VkInstance *instance) {
    if (*instance)
        vkDestroyInstance(*instance, NULL);
    *instance = VK_NULL_HANDLE;
}

// ---- the list ---------------------------------------------------------------------------------------------------------

// The devices that we can use, best first.
typedef struct listing {
    VkPhysicalDevice *physicals;
    pm_device_info *infos;
    int n;
} listing;

static void listing_close(listing *l) {
    pm_free(l->physicals);
    pm_free(l->infos);
    *l = (listing){0};
}

static pm_status enumerate(VkInstance instance, VkPhysicalDevice **physicals, uint32_t *n) {
    VkResult result = vkEnumeratePhysicalDevices(instance, n, NULL);
    if (result == VK_ERROR_INITIALIZATION_FAILED || (result >= 0 && *n == 0))
        return pm_fail(PM_ERR_NO_DEVICE, "the Vulkan drivers here find no device: neither a GPU nor a software one");
    if (result < 0)
        return pm_vk_fail(result, "vkEnumeratePhysicalDevices");
    *physicals = pm_calloc(*n, sizeof(**physicals));
    if (!*physicals)
        return pm_fail(PM_ERR_MEMORY, "no memory to list the Vulkan devices");
    VK_TRY(vkEnumeratePhysicalDevices(instance, n, *physicals)); // VK_INCOMPLETE: one came meanwhile
    return PM_OK;
}

// Leaves in l->infos what we can use, with its place in l->physicals as `index`. A device that cannot be asked is not offered.
static pm_status probe_all(listing *l, uint32_t n) {
    uint32_t queue_family;
    for (uint32_t i = 0; i < n; i++) {
        pm_status status = pm_probe(l->physicals[i], &l->infos[l->n], &queue_family);
        if (status == PM_ERR_MEMORY)
            return status;
        if (status == PM_OK)
            l->infos[l->n++].index = (int)i;
        else
            pm_log(PM_LOG_INFO, "device left out: %s", pm_error_text());
    }
    if (l->n)
        return PM_OK;
    char last[256];
    snprintf(last, sizeof(last), "%s", pm_error_text());
    return pm_fail(PM_ERR_NO_DEVICE, "%u Vulkan device%s, none for us: %s", n, n == 1 ? "" : "s", last);
}

// Puts each handle at its info's rank, so that index, rank and handle agree from here on.
static pm_status rank(listing *l) {
    VkPhysicalDevice *ranked = pm_calloc((size_t)l->n, sizeof(*ranked));
    if (!ranked)
        return pm_fail(PM_ERR_MEMORY, "no memory to rank the Vulkan devices");
    l->n = pm_caps_rank(l->infos, l->n);
    for (int i = 0; i < l->n; i++) {
        ranked[i] = l->physicals[l->infos[i].index];
        l->infos[i].index = i;
    }
    pm_free(l->physicals);
    l->physicals = ranked;
    return PM_OK;
}

static pm_status listing_fill(VkInstance instance, listing *l) {
    uint32_t n = 0;
    PM_TRY(enumerate(instance, &l->physicals, &n));
    l->infos = pm_calloc(n, sizeof(*l->infos));
    if (!l->infos)
        return pm_fail(PM_ERR_MEMORY, "no memory to list the Vulkan devices");
    PM_TRY(probe_all(l, n));
    return rank(l);
}

static pm_status listing_open(VkInstance instance, listing *l) {
    *l = (listing){0};
    pm_status status = listing_fill(instance, l);
    if (status != PM_OK)
        listing_close(l);
    return status;
}

pm_status pm_device_list(pm_device_info **infos, int *n) {
    VkInstance instance = VK_NULL_HANDLE;
    listing l;
    *infos = NULL;
    *n = 0;
    PM_TRY(instance_open(&instance));
    pm_status status = listing_open(instance, &l);
    if (status == PM_OK) {
        *infos = l.infos;
        *n = l.n;
        l.infos = NULL;
        listing_close(&l);
    }
    instance_close(&instance);
    return status;
}

// ---- picking ----------------------------------------------------------------------------------------------------------

static bool contains(const char *text, const char *part) {
    for (; *text; text++) {
        size_t i = 0;
        while (part[i] && tolower((unsigned char)text[i]) == tolower((unsigned char)part[i]))
            i++;
        if (!part[i])
            return true;
    }
    return false;
}

// The rank that text names, or -1.
static int read_rank(const char *text, int n) {
    int value = 0;
    for (const char *c = text; *c; c++) {
        if (*c < '0' || *c > '9')
            return -1;
        value = value * 10 + (*c - '0');
        if (value >= n)
            return -1;
    }
    return *text ? value : -1;
}

static pm_status fail_pick(const listing *l, const char *pick) {
    char known[512] = "";
    size_t used = 0;
    for (int i = 0; i < l->n && used < sizeof(known); i++) {
        int more = snprintf(known + used, sizeof(known) - used, "%s%d: %s", i ? ", " : "", i, l->infos[i].name);
        used += more > 0 ? (size_t)more : 0;
    }
    return pm_fail(PM_ERR_NO_DEVICE, "no device \"%.64s\"; there is %s", pick, known);
}

// A number that is no rank may still be part of a name: "4090".
static pm_status pick_device(const listing *l, const char *pick, int *picked) {
    *picked = 0;
    if (!pick)
        return PM_OK;
    *picked = read_rank(pick, l->n);
    for (int i = 0; i < l->n && *picked < 0 && *pick; i++)
        if (contains(l->infos[i].name, pick) || contains(l->infos[i].driver_name, pick))
            *picked = i;
    return *picked >= 0 ? PM_OK : fail_pick(l, pick);
}

// ---- opening ----------------------------------------------------------------------------------------------------------

static pm_status choose(pm_device *dev, const char *pick) {
    listing l;
    int i;
    PM_TRY(listing_open(dev->instance, &l));
    pm_status status = pick_device(&l, pick, &i);
    if (status == PM_OK) {
        dev->physical = l.physicals[i];
        status = pm_probe(dev->physical, &dev->info, &dev->queue_family);
        dev->info.index = i;
    }
    listing_close(&l);
    return status;
}

// What follows from dev->info.
static void set_numbers(pm_device *dev) {
    pm_caps_fill(&dev->info, &dev->caps);
    dev->info.max_binding = dev->caps.max_binding; // planners must know of PM_MAX_BINDING_BYTES
    dev->free_ram = pm_free_ram();
}

static pm_status fill_device(pm_device *dev, const char *pick) {
    PM_TRY(instance_open(&dev->instance));
    PM_TRY(choose(dev, pick));
    set_numbers(dev);
    vkGetPhysicalDeviceMemoryProperties(dev->physical, &dev->memory);
    PM_TRY(pm_probe_create_device(dev->physical, &dev->info, dev->queue_family, &dev->vk));
    volkLoadDeviceTable(&dev->fn, dev->vk);
    dev->fn.vkGetDeviceQueue(dev->vk, dev->queue_family, 0, &dev->queue);
    dev->set_name = (PFN_vkSetDebugUtilsObjectNameEXT)vkGetInstanceProcAddr(dev->instance, "vkSetDebugUtilsObjectNameEXT");
    PM_TRY(pm_kernels_open(dev));
    pm_selftest_open(dev);
    pm_tune_open(dev);
    return PM_OK;
}

pm_status pm_device_open(const char *pick, pm_device **dev) {
    *dev = pm_calloc(1, sizeof(**dev));
    if (!*dev)
        return pm_fail(PM_ERR_MEMORY, "no memory to open a Vulkan device");
    pm_status status = fill_device(*dev, pick);
    if (status != PM_OK)
        pm_device_close(dev);
    return status;
}

pm_status pm_device_open_dry(const pm_device_info *info, pm_device **dev) {
    *dev = pm_calloc(1, sizeof(**dev));
    if (!*dev)
        return pm_fail(PM_ERR_MEMORY, "no memory to plan with %s", info->name);
    (*dev)->info = *info;
    set_numbers(*dev);
    return PM_OK;
}

void pm_device_close(pm_device **dev) {
    pm_device *d = *dev;
    *dev = NULL;
    if (!d)
        return;
    pm_tune_close(d);
    pm_selftest_close(d);
    if (d->vk) { // idle: commands wait when they are closed
        pm_kernels_close(d);
        d->fn.vkDestroyDevice(d->vk, NULL);
    }
    instance_close(&d->instance);
    pm_free(d);
}

const pm_device_info *pm_device_get_info(const pm_device *dev) {
    return &dev->info;
}

uint32_t pm_device_chunk(const pm_device *dev) {
    return dev->caps.max_chunk;
}

void pm_vk_name(const pm_device *dev, VkObjectType type, uint64_t handle, const char *name) {
    VkDebugUtilsObjectNameInfoEXT info = {
        .sType = VK_STRUCTURE_TYPE_DEBUG_UTILS_OBJECT_NAME_INFO_EXT,
        .objectType = type,
        .objectHandle = handle,
        .pObjectName = name,
    };
    if (dev->set_name)
        dev->set_name(dev->vk, &info);
}
