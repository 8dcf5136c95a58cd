// The table of kernels, and their pipelines by (kernel, specialization constants): made on demand or many at once in parallel, with
// the driver's pipeline cache kept on disk from run to run. One thread at a time per device, as the rest of the room.
#include "host/vk.h"
#include "host/spirv.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels_spv.h"

enum { CACHE_LIMIT = 256 << 20 }; // a larger file is not ours

#define PM_KERNEL(name, reads, writes, needs) \
    _Static_assert((reads) + (writes) <= PM_MAX_BINDINGS, "kernels.txt: " #name " has more bindings than the set layout");
#include "kernels.def"
#undef PM_KERNEL

static const pm_kernel_info kernel_table[PM_KERNEL_COUNT + 1] = {
#define PM_KERNEL(name, reads, writes, needs) {#name, reads, writes, needs, pm_spv_##name, pm_spv_##name##_size},
#include "kernels.def"
#undef PM_KERNEL
};

typedef struct pipeline {
    pm_kernel_use use;
    VkPipeline vk;
    VkResult result; // of making it
} pipeline;

struct pm_kernels {
    VkDescriptorSetLayout set_layout;
    VkPipelineLayout layout;
    VkPipelineCache cache;
    uint64_t saved_hash; // of the cache's data on disk; 0: nothing there
    bool unsaved;        // a pipeline was made since the last save
    pipeline *pipelines;
    int n_pipelines, capacity;
};

const pm_kernel_info *pm_kernel_get_info(pm_kernel_id id) {
    return &kernel_table[id];
}

bool pm_kernel_available(const pm_device *dev, pm_kernel_id id) {
    return kernel_table[id].spirv_size > 0 && (kernel_table[id].needs & ~dev->caps.has) == 0;
}

VkPipelineLayout pm_kernels_layout(const pm_device *dev) {
    return dev->kernels->layout;
}

VkDescriptorSetLayout pm_kernels_set_layout(const pm_device *dev) {
    return dev->kernels->set_layout;
}

// ---- the cache on disk ------------------------------------------------------------------------------------------------

// Drivers check the header of a cache and trust the rest, so a file that was cut or damaged must be caught here.
typedef struct cache_header {
    char magic[8];
    uint64_t size; // of what follows
    uint64_t hash;
} cache_header;

static const char cache_magic[8] = "pmpipe1";

static bool cache_path(const pm_device *dev, char *path, size_t size) {
    return pm_store_path(dev, "pipelines", "bin", path, size);
}

// The data of a cache file, if it is whole and was made by this very device and driver; else NULL.
static const void *cache_data(const pm_device *dev, const char *file, size_t file_size, cache_header *header) {
    VkPipelineCacheHeaderVersionOne made_by;
    if (file_size < sizeof(*header) + sizeof(made_by))
        return NULL;
    memcpy(header, file, sizeof(*header));
    const char *data = file + sizeof(*header);
    if (memcmp(header->magic, cache_magic, sizeof(cache_magic)) != 0 || header->size != file_size - sizeof(*header) ||
        header->hash != pm_store_hash(data, (size_t)header->size))
        return NULL;

    VkPhysicalDeviceProperties here;
    vkGetPhysicalDeviceProperties(dev->physical, &here);
    memcpy(&made_by, data, sizeof(made_by));
    if (made_by.vendorID != here.vendorID || made_by.deviceID != here.deviceID ||
        memcmp(made_by.pipelineCacheUUID, here.pipelineCacheUUID, VK_UUID_SIZE) != 0)
        return NULL;
    return data;
}

// Makes the driver's cache with what is on disk. Without a usable file it starts empty; that is no error.
static pm_status load_cache(pm_device *dev) {
    struct pm_kernels *kernels = dev->kernels;
    VkPipelineCacheCreateInfo info = {.sType = VK_STRUCTURE_TYPE_PIPELINE_CACHE_CREATE_INFO};
    cache_header header = {.size = 0};
    char path[1280], *file = NULL;
    size_t file_size = 0;
    if (cache_path(dev, path, sizeof(path)) && pm_file_is_ours(path) && pm_file_read(path, CACHE_LIMIT, &file, &file_size) == PM_OK)
        info.pInitialData = cache_data(dev, file, file_size, &header);
    if (file && !info.pInitialData)
        pm_log(PM_LOG_DEBUG, "%s: damaged or made by another driver, starting afresh", path);

    VkResult result = VK_ERROR_UNKNOWN;
    if (info.pInitialData) {
        info.initialDataSize = (size_t)header.size;
        result = dev->fn.vkCreatePipelineCache(dev->vk, &info, NULL, &kernels->cache);
        kernels->saved_hash = result == VK_SUCCESS ? header.hash : 0;
    }
    pm_free(file);
    if (result == VK_SUCCESS)
        return PM_OK;

    info.initialDataSize = 0;
    info.pInitialData = NULL;
    VK_TRY(dev->fn.vkCreatePipelineCache(dev->vk, &info, NULL, &kernels->cache));
    return PM_OK;
}

// Header and data in one piece, to be freed by the caller; NULL where that does not work out, or the driver keeps nothing:
// lavapipe gives its header alone, and in Mesa 26.2 not all of that.
static char *get_cache_file(pm_device *dev, cache_header *header) {
    VkPipelineCache cache = dev->kernels->cache;
    size_t size = 0;
    if (dev->fn.vkGetPipelineCacheData(dev->vk, cache, &size, NULL) != VK_SUCCESS ||
        size <= sizeof(VkPipelineCacheHeaderVersionOne) || size > CACHE_LIMIT - sizeof(*header))
        return NULL;
    char *file = pm_malloc(sizeof(*header) + size);
    if (!file)
        return NULL;
    if (dev->fn.vkGetPipelineCacheData(dev->vk, cache, &size, file + sizeof(*header)) != VK_SUCCESS) {
        pm_free(file);
        return NULL;
    }
    memcpy(header->magic, cache_magic, sizeof(cache_magic));
    header->size = size;
    header->hash = pm_store_hash(file + sizeof(*header), size);
    memcpy(file, header, sizeof(*header));
    return file;
}

// Saving is a favour to the next run: nothing that goes wrong here is an error.
static void save_cache(pm_device *dev) {
    struct pm_kernels *kernels = dev->kernels;
    if (!kernels->unsaved)
        return;
    kernels->unsaved = false;
    char path[1280];
    cache_header header;
    char *file = cache_path(dev, path, sizeof(path)) ? get_cache_file(dev, &header) : NULL;
    if (file && header.hash != kernels->saved_hash) {
        if (pm_file_write_atomic(path, file, sizeof(header) + (size_t)header.size) == PM_OK)
            kernels->saved_hash = header.hash;
        else
            pm_log(PM_LOG_DEBUG, "pipelines are not kept: %s", pm_error_text());
    }
    pm_free(file);
}

// ---- pipelines --------------------------------------------------------------------------------------------------------

typedef struct make_job {
    pm_device *dev;
    int first;
} make_job;

// In builds with tests: what PM_BREAK wants of a driver that compiles.
static VkResult break_compiling(const pm_kernel_use *use) {
    pm_breakage how = pm_caps_broken(kernel_table[use->id].name, use->spec, use->n_spec);
    if (how == PM_BREAK_CRASH)
        abort();
    while (how == PM_BREAK_STALL)
        pm_now_ns();
    return how == PM_BREAK_COMPILE ? VK_ERROR_UNKNOWN : VK_SUCCESS;
}

// Pipeline first + i: the words of its kernel and its constants. Called from several threads at once: it touches nothing but
// `p`, and says what went wrong in p->result, since the line of pm_fail belongs to the thread.
static void make_pipeline(void *user, int i) {
    const make_job *job = user;
    pm_device *dev = job->dev;
    pipeline *p = &dev->kernels->pipelines[job->first + i];
    const pm_kernel_info *kernel = &kernel_table[p->use.id];
    p->result = break_compiling(&p->use);
    if (p->result != VK_SUCCESS)
        return;
    VkShaderModuleCreateInfo module_info = {
        .sType = VK_STRUCTURE_TYPE_SHADER_MODULE_CREATE_INFO, .codeSize = kernel->spirv_size, .pCode = kernel->spirv};
    VkShaderModule module;
    p->result = dev->fn.vkCreateShaderModule(dev->vk, &module_info, NULL, &module);
    if (p->result != VK_SUCCESS)
        return;

    VkSpecializationMapEntry entries[PM_MAX_SPEC];
    for (uint32_t s = 0; s < (uint32_t)p->use.n_spec; s++)
        entries[s] = (VkSpecializationMapEntry){.constantID = s, .offset = s * 4, .size = 4};
    VkSpecializationInfo spec = {.mapEntryCount = (uint32_t)p->use.n_spec,
                                 .pMapEntries = entries,
                                 .dataSize = (size_t)p->use.n_spec * 4,
                                 .pData = p->use.spec};
    VkComputePipelineCreateInfo info = {.sType = VK_STRUCTURE_TYPE_COMPUTE_PIPELINE_CREATE_INFO,
                                        .stage = {.sType = VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_CREATE_INFO,
                                                  .stage = VK_SHADER_STAGE_COMPUTE_BIT,
                                                  .module = module,
                                                  .pName = "main",
                                                  .pSpecializationInfo = &spec},
                                        .layout = dev->kernels->layout};
    VkPipelineShaderStageRequiredSubgroupSizeCreateInfo subgroup = {
        .sType = VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_REQUIRED_SUBGROUP_SIZE_CREATE_INFO,
        .requiredSubgroupSize = p->use.spec[2]};
    if ((kernel->needs & PM_NEED_COOPMAT) && p->use.n_spec > 2) {
        info.stage.pNext = &subgroup;
        info.stage.flags = VK_PIPELINE_SHADER_STAGE_CREATE_REQUIRE_FULL_SUBGROUPS_BIT;
    }
    p->result = dev->fn.vkCreateComputePipelines(dev->vk, dev->kernels->cache, 1, &info, NULL, &p->vk);
    if (p->result != VK_SUCCESS)
        p->vk = VK_NULL_HANDLE;
    dev->fn.vkDestroyShaderModule(dev->vk, module, NULL);
}

const char *pm_kernel_use_text(const pm_kernel_use *use, char text[PM_USE_TEXT]) {
    int n = snprintf(text, PM_USE_TEXT, "%s", kernel_table[use->id].name);
    for (int i = 0; i < use->n_spec && n > 0 && n < PM_USE_TEXT; i++)
        n += snprintf(text + n, (size_t)(PM_USE_TEXT - n), "%c%" PRIu32, i ? ',' : ':', use->spec[i]);
    return text;
}

static bool read_numbers(const char *p, pm_kernel_use *use) {
    for (use->n_spec = 0; *p; use->n_spec++) {
        char *end;
        if (use->n_spec == PM_MAX_SPEC || p[1] < '0' || p[1] > '9')
            return false;
        use->spec[use->n_spec] = (uint32_t)strtoul(p + 1, &end, 10);
        p = end;
        if (*p && *p != ',')
            return false;
    }
    return use->n_spec > 0;
}

bool pm_kernel_use_read(const char *text, pm_kernel_use *use) {
    size_t n = strcspn(text, ":");
    *use = (pm_kernel_use){.n_spec = 0};
    for (int id = 0; id < PM_KERNEL_COUNT; id++)
        if (strlen(kernel_table[id].name) == n && !memcmp(kernel_table[id].name, text, n)) {
            use->id = (pm_kernel_id)id;
            return read_numbers(text + n, use);
        }
    return false;
}

bool pm_kernel_same_use(const pm_kernel_use *a, const pm_kernel_use *b) {
    return a->id == b->id && a->n_spec == b->n_spec && memcmp(a->spec, b->spec, (size_t)a->n_spec * 4) == 0;
}

static pipeline *find_pipeline(struct pm_kernels *kernels, const pm_kernel_use *use) {
    for (int i = 0; i < kernels->n_pipelines; i++)
        if (pm_kernel_same_use(&kernels->pipelines[i].use, use))
            return &kernels->pipelines[i];
    return NULL;
}

static pm_status check_shared(const pm_device *dev, const pm_kernel_use *use) {
    const pm_kernel_info *kernel = &kernel_table[use->id];
    uint64_t bytes;
    PM_TRY(pm_spirv_shared_bytes(kernel->spirv, kernel->spirv_size / 4, use->spec, use->n_spec, &bytes));
    if (bytes > dev->info.max_shared)
        return pm_fail(PM_ERR_UNSUPPORTED, "kernel %s: %" PRIu64 " bytes of shared memory, but %s has %" PRIu32 " a workgroup",
                       kernel->name, bytes, dev->info.name, dev->info.max_shared);
    return PM_OK;
}

static pm_status check_use(const pm_device *dev, const pm_kernel_use *use) {
    const pm_kernel_info *kernel = &kernel_table[use->id];
    if (kernel->spirv_size == 0)
        return pm_fail(PM_ERR_UNSUPPORTED, "kernel %s: the GLSL compiler of this build could not make it", kernel->name);
    if (!pm_kernel_available(dev, use->id))
        return pm_fail(PM_ERR_UNSUPPORTED, "kernel %s: %s lacks what it needs", kernel->name, dev->info.name);
    if (use->n_spec > 0 && use->spec[0] > dev->info.max_invocations)
        return pm_fail(PM_ERR_UNSUPPORTED, "kernel %s: a workgroup of %" PRIu32 ", but %s runs at most %" PRIu32, kernel->name,
                       use->spec[0], dev->info.name, dev->info.max_invocations);
    return check_shared(dev, use);
}

static pm_status add_pipeline(struct pm_kernels *kernels, const pm_kernel_use *use) {
    if (kernels->n_pipelines == kernels->capacity) {
        int capacity = kernels->capacity ? 2 * kernels->capacity : 64;
        pipeline *grown = pm_realloc(kernels->pipelines, (size_t)capacity * sizeof(*grown));
        if (!grown)
            return pm_fail(PM_ERR_MEMORY, "no memory for the list of pipelines");
        kernels->pipelines = grown;
        kernels->capacity = capacity;
    }
    kernels->pipelines[kernels->n_pipelines++] = (pipeline){.use = *use};
    return PM_OK;
}

// Keeps the pipelines from `first` on that could be made; the status is that of the first that could not.
static pm_status keep_made(pm_device *dev, int first) {
    struct pm_kernels *kernels = dev->kernels;
    pm_status status = PM_OK;
    int kept = first;
    for (int i = first; i < kernels->n_pipelines; i++) {
        const pipeline *p = &kernels->pipelines[i];
        if (p->vk) {
            pm_vk_name(dev, VK_OBJECT_TYPE_PIPELINE, (uint64_t)p->vk, kernel_table[p->use.id].name);
            kernels->pipelines[kept++] = *p;
        } else if (status == PM_OK) {
            char call[128];
            snprintf(call, sizeof(call), "vkCreateComputePipelines of kernel %s", kernel_table[p->use.id].name);
            status = pm_vk_fail(p->result < 0 ? p->result : VK_ERROR_UNKNOWN, call);
        }
    }
    kernels->n_pipelines = kept;
    return status;
}

static pm_status make_missing(pm_device *dev, const pm_kernel_use *uses, int n) {
    struct pm_kernels *kernels = dev->kernels;
    int first = kernels->n_pipelines;
    pm_status status = PM_OK;
    for (int i = 0; i < n && status == PM_OK; i++) {
        if (find_pipeline(kernels, &uses[i]))
            continue;
        status = check_use(dev, &uses[i]);
        if (status == PM_OK)
            status = add_pipeline(kernels, &uses[i]);
    }
    if (status != PM_OK) {
        kernels->n_pipelines = first;
        return status;
    }
    if (kernels->n_pipelines == first)
        return PM_OK;
    kernels->unsaved = true;
    pm_parallel_for(kernels->n_pipelines - first, make_pipeline, &(make_job){dev, first});
    return keep_made(dev, first);
}

pm_status pm_kernels_prepare(pm_device *dev, const pm_kernel_use *uses, int n) {
    PM_TRY(make_missing(dev, uses, n));
    save_cache(dev);
    return PM_OK;
}

pm_status pm_kernel_pipeline(pm_device *dev, pm_kernel_id id, const uint32_t *spec, int n_spec, VkPipeline *vk) {
    *vk = VK_NULL_HANDLE;
    pm_kernel_use use = {.id = id, .n_spec = n_spec};
    memcpy(use.spec, spec, (size_t)n_spec * 4);
    const pipeline *p = find_pipeline(dev->kernels, &use);
    if (!p) {
        PM_TRY(make_missing(dev, &use, 1));
        p = find_pipeline(dev->kernels, &use);
    }
    *vk = p->vk;
    return PM_OK;
}

// ---- open, close ------------------------------------------------------------------------------------------------------

static pm_status check_limits(const pm_device *dev) {
    VkPhysicalDeviceProperties here;
    vkGetPhysicalDeviceProperties(dev->physical, &here);
    if (here.limits.maxPerStageDescriptorStorageBuffers < PM_MAX_BINDINGS ||
        here.limits.maxDescriptorSetStorageBuffers < PM_MAX_BINDINGS)
        return pm_fail(PM_ERR_UNSUPPORTED, "%s: binds %" PRIu32 " storage buffers to a kernel, we need %d", dev->info.name,
                       here.limits.maxPerStageDescriptorStorageBuffers, PM_MAX_BINDINGS);
    if (here.limits.maxPushConstantsSize < PM_MAX_ARGS)
        return pm_fail(PM_ERR_UNSUPPORTED, "%s: takes %" PRIu32 " bytes of push constants, we need %d", dev->info.name,
                       here.limits.maxPushConstantsSize, PM_MAX_ARGS);
    return PM_OK;
}

// One set layout and one pipeline layout serve every kernel, so that only sets change between dispatches.
static pm_status make_layouts(pm_device *dev) {
    struct pm_kernels *kernels = dev->kernels;
    VkDescriptorSetLayoutBinding bindings[PM_MAX_BINDINGS];
    for (uint32_t b = 0; b < PM_MAX_BINDINGS; b++)
        bindings[b] = (VkDescriptorSetLayoutBinding){.binding = b,
                                                     .descriptorType = VK_DESCRIPTOR_TYPE_STORAGE_BUFFER,
                                                     .descriptorCount = 1,
                                                     .stageFlags = VK_SHADER_STAGE_COMPUTE_BIT};
    VkDescriptorSetLayoutCreateInfo set_info = {
        .sType = VK_STRUCTURE_TYPE_DESCRIPTOR_SET_LAYOUT_CREATE_INFO, .bindingCount = PM_MAX_BINDINGS, .pBindings = bindings};
    VK_TRY(dev->fn.vkCreateDescriptorSetLayout(dev->vk, &set_info, NULL, &kernels->set_layout));

    VkPushConstantRange args = {.stageFlags = VK_SHADER_STAGE_COMPUTE_BIT, .size = PM_MAX_ARGS};
    VkPipelineLayoutCreateInfo layout_info = {.sType = VK_STRUCTURE_TYPE_PIPELINE_LAYOUT_CREATE_INFO,
                                              .setLayoutCount = 1,
                                              .pSetLayouts = &kernels->set_layout,
                                              .pushConstantRangeCount = 1,
                                              .pPushConstantRanges = &args};
    VK_TRY(dev->fn.vkCreatePipelineLayout(dev->vk, &layout_info, NULL, &kernels->layout));
    return PM_OK;
}

static pm_status open_parts(pm_device *dev) {
    PM_TRY(check_limits(dev));
    PM_TRY(make_layouts(dev));
    return load_cache(dev);
}

pm_status pm_kernels_open(pm_device *dev) {
    dev->kernels = pm_calloc(1, sizeof(*dev->kernels));
    if (!dev->kernels)
        return pm_fail(PM_ERR_MEMORY, "no memory for the table of pipelines");
    pm_status status = open_parts(dev);
    if (status != PM_OK)
        pm_kernels_close(dev);
    return status;
}

void pm_kernels_close(pm_device *dev) {
    struct pm_kernels *kernels = dev->kernels;
    if (!kernels)
        return;
    save_cache(dev);
    for (int i = 0; i < kernels->n_pipelines; i++)
        dev->fn.vkDestroyPipeline(dev->vk, kernels->pipelines[i].vk, NULL);
    dev->fn.vkDestroyPipelineCache(dev->vk, kernels->cache, NULL);
    dev->fn.vkDestroyPipelineLayout(dev->vk, kernels->layout, NULL);
    dev->fn.vkDestroyDescriptorSetLayout(dev->vk, kernels->set_layout, NULL);
    pm_free(kernels->pipelines);
    pm_free(kernels);
    dev->kernels = NULL;
}
