// Compiles every kernel of the build on the Vulkan driver at hand and prints what the driver tells of the machine code: registers,
// spills, LDS, waves. Meant for Mesa's RADV, which with RADV_FORCE_FAMILY=navi31 compiles for a chip that is not here
// (tests/drivers.sh radv). One line a pipeline; exit code 1 when one spills registers or does not compile.
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <vulkan/vulkan.h>
#include "shaders/abi.h"
#include "host/caps.h"
#include "kernels_spv.h"

typedef struct kernel {
    const char *name;
    const uint32_t *spirv;
    size_t size;    // bytes; 0: not made by this build's GLSL compiler
    uint32_t needs; // bits of PM_NEED_*
} kernel;

static const kernel kernels[] = {
#define PM_KERNEL(name, reads, writes, needs) {#name, pm_spv_##name, pm_spv_##name##_size, needs},
#include "kernels.def"
#undef PM_KERNEL
};

// The specialization constants that host/op_*.c give the kernels for a GPU and Qwen3-4B's shapes, with and without a batch. A
// kernel that no row fits is compiled with the defaults of its source. Constant 2 of a kernel with cooperative matrices is its
// subgroup's size.
typedef struct variant {
    const char *prefix; // of the kernel's name; the longest that fits counts
    const char *label;
    uint32_t n_spec;
    uint32_t spec[PM_MAX_SPEC];
} variant;

static const variant variants[] = {
    {"embed_", "", 1, {32}},
    {"gather", "", 1, {64}},
    {"matvec_", "qkv, 1 row", 5, {64, PM_LINEAR_NORM, 32, 2, 1}},
    {"matvec_", "qkv, 8 rows", 5, {64, PM_LINEAR_NORM, 32, 2, 8}},
    {"matvec_", "add, 1 row", 5, {64, PM_LINEAR_ADD, 32, 2, 1}},
    {"matvec_", "add, 8 rows", 5, {64, PM_LINEAR_ADD, 32, 2, 8}},
    {"matvec_", "glu, 1 row", 5, {64, PM_LINEAR_NORM | PM_LINEAR_GLU, 32, 2, 1}},
    {"matvec_", "glu, 8 rows", 5, {64, PM_LINEAR_NORM | PM_LINEAR_GLU, 32, 2, 8}},
    {"matvec_sg_", "qkv, 1 row", 5, {64, PM_LINEAR_NORM, 32, 2, 1}},
    {"matvec_sg_", "qkv, 8 rows", 5, {64, PM_LINEAR_NORM, 32, 2, 8}},
    {"matvec_sg_", "add, 1 row", 5, {64, PM_LINEAR_ADD, 32, 2, 1}},
    {"matvec_sg_", "add, 8 rows", 5, {64, PM_LINEAR_ADD, 32, 2, 8}},
    {"matvec_sg_", "glu, 8 rows", 5, {64, PM_LINEAR_NORM | PM_LINEAR_GLU, 32, 2, 8}},
    {"matvec_dot_", "qkv, 1 row", 5, {64, PM_LINEAR_NORM, 32, 2, 1}},
    {"matvec_dot_", "qkv, 8 rows", 5, {64, PM_LINEAR_NORM, 32, 2, 8}},
    {"matvec_dot_", "add, 1 row", 5, {64, PM_LINEAR_ADD, 32, 2, 1}},
    {"matvec_dot_", "add, 8 rows", 5, {64, PM_LINEAR_ADD, 32, 2, 8}},
    {"matvec_dot_", "glu, 8 rows", 5, {64, PM_LINEAR_NORM | PM_LINEAR_GLU, 32, 2, 8}},
    {"matmul_dot_", "qkv", 2, {128, PM_LINEAR_NORM}},
    {"matmul_dot_", "add", 2, {128, PM_LINEAR_ADD}},
    {"matmul_dot_", "glu", 2, {128, PM_LINEAR_NORM | PM_LINEAR_GLU}},
    {"quantize", "", 3, {64, 1, 1}},
    {"matmul_", "qkv", 2, {128, PM_LINEAR_NORM}},
    {"matmul_", "add", 2, {128, PM_LINEAR_ADD}},
    {"matmul_", "glu", 2, {128, PM_LINEAR_NORM | PM_LINEAR_GLU}},
    {"experts_matvec_", "glu, 1 pair", 5, {64, PM_LINEAR_NORM | PM_LINEAR_GLU, 32, 2, 1}},
    {"experts_matvec_", "add, 1 row", 5, {64, PM_LINEAR_ADD, 32, 2, 1}},
    {"experts_matvec_", "glu, grouped", 5, {64, PM_LINEAR_NORM | PM_LINEAR_GLU | PM_LINEAR_GROUPED, 32, 2, 8}},
    {"experts_matvec_", "down, grouped", 5, {64, PM_LINEAR_GROUPED, 32, 2, 8}},
    {"experts_matmul_", "glu", 2, {128, PM_LINEAR_NORM | PM_LINEAR_GLU | PM_LINEAR_GROUPED}},
    {"experts_matmul_", "down", 2, {128, PM_LINEAR_GROUPED}},
    {"route", "", 1, {64}},
    {"group", "", 1, {128}},
    {"experts_sum", "", 1, {64}},
    {"matmul_cm_", "qkv", 10, {128, PM_LINEAR_NORM, 32, 16, 16, 16, 128, 64, 2, 1}},
    {"matmul_cm_", "add", 10, {128, PM_LINEAR_ADD, 32, 16, 16, 16, 128, 64, 2, 1}},
    {"matmul_cm_", "glu", 10, {128, PM_LINEAR_NORM | PM_LINEAR_GLU, 32, 16, 16, 16, 128, 64, 2, 1}},
    {"matmul_cm_", "128 x 32, qkv", 10, {128, PM_LINEAR_NORM, 32, 16, 16, 16, 128, 32, 4, 1}},
    {"matmul_cm_", "128 x 64, add, 2", 10, {128, PM_LINEAR_ADD, 32, 16, 16, 16, 128, 64, 2, 2}},
    {"matmul_cm_", "256 x 128, add", 10, {256, PM_LINEAR_ADD, 32, 16, 16, 16, 256, 128, 4, 1}},
    {"matmul_cm_", "256 x 128, glu", 10, {256, PM_LINEAR_NORM | PM_LINEAR_GLU, 32, 16, 16, 16, 256, 128, 4, 1}},
    {"rope_store_", "", 4, {32, 128, 1, 0}},
    {"rope_store_plain_", "", 4, {32, 128, 1, 0}},
    {"attend_plain_", "head 128, group 4", 3, {64, 128, 4}},
    {"attend_plain_", "head 64, group 5", 3, {32, 64, 5}},
    {"attend_f", "head 128, group 4", 4, {64, 128, 4, 1}},
    {"attend_f", "head 64, group 5", 4, {32, 64, 5, 1}},
    {"attend_f", "128 x 4, 2 rows", 4, {64, 128, 4, 2}},
    {"attend_q", "head 128, group 4", 4, {64, 128, 4, 1}},
    {"attend_q", "head 64, group 5", 4, {32, 64, 5, 1}},
    {"attend_q", "128 x 4, 2 rows", 4, {64, 128, 4, 2}},
    {"attend_cm_", "128 x 4", 7, {128, 128, 32, 4, 16, 16, 16}},
    {"attend_cm_", "64 x 5", 7, {128, 64, 32, 5, 16, 16, 16}},
    {"attend_cm_", "128 x 4, wide", 7, {256, 128, 32, 4, 16, 16, 16}},
    {"attend_merge", "", 2, {64, 128}},
    {"adjust", "", 1, {128}},
    {"sieve", "", 1, {128}},
    {"sample", "", 1, {512}},
    {"logprobs", "", 1, {512}},
    {"ceiling_", "", 1, {64}},
    {"ceiling_memory", "read", 2, {64, PM_CEILING_READ}},
    {"ceiling_memory", "copy", 2, {64, PM_CEILING_COPY}},
    {"ceiling_coopmat", "", 6, {128, 0, 32, 16, 16, 16}},
};
#define N_VARIANTS (sizeof(variants) / sizeof(variants[0]))

typedef struct gpu {
    VkInstance instance;
    VkPhysicalDevice physical;
    VkDevice vk;
    VkPipelineLayout layout;
    bool coopmat, int_dot; // the latter: accelerated
    PFN_vkGetPipelineExecutableStatisticsKHR get_statistics;
} gpu;

// The program has nobody to hand an error to.
static void check(VkResult result, const char *what) {
    if (result >= 0)
        return;
    fprintf(stderr, "radv_stats: %s failed with %d\n", what, (int)result);
    exit(2);
}

static void *allocate(size_t count, size_t size) {
    void *p = calloc(count ? count : 1, size);
    if (!p)
        check(VK_ERROR_OUT_OF_HOST_MEMORY, "calloc");
    return p;
}

static void open_instance(gpu *g) {
    VkApplicationInfo app = {.sType = VK_STRUCTURE_TYPE_APPLICATION_INFO, .apiVersion = VK_API_VERSION_1_3};
    VkInstanceCreateInfo info = {.sType = VK_STRUCTURE_TYPE_INSTANCE_CREATE_INFO, .pApplicationInfo = &app};
    check(vkCreateInstance(&info, NULL, &g->instance), "vkCreateInstance");
    uint32_t n = 1;
    check(vkEnumeratePhysicalDevices(g->instance, &n, &g->physical), "vkEnumeratePhysicalDevices");
    if (n == 0)
        check(VK_ERROR_INITIALIZATION_FAILED, "finding a device");
}

// Opens the device with every feature that a kernel may ask for and the driver has.
static void open_device(gpu *g) {
    VkPhysicalDevicePipelineExecutablePropertiesFeaturesKHR executable = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PIPELINE_EXECUTABLE_PROPERTIES_FEATURES_KHR};
    void *chain = &executable;
    const char *extensions[2] = {VK_KHR_PIPELINE_EXECUTABLE_PROPERTIES_EXTENSION_NAME};
    uint32_t n_extensions = 1;
#ifdef VK_KHR_cooperative_matrix
    VkPhysicalDeviceCooperativeMatrixFeaturesKHR coopmat = {
        .sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_COOPERATIVE_MATRIX_FEATURES_KHR, .pNext = chain};
    chain = &coopmat;
#endif
    VkPhysicalDeviceVulkan13Features v13 = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_3_FEATURES, .pNext = chain};
    VkPhysicalDeviceVulkan12Features v12 = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_2_FEATURES, .pNext = &v13};
    VkPhysicalDeviceVulkan11Features v11 = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_1_FEATURES, .pNext = &v12};
    VkPhysicalDeviceFeatures2 features = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_FEATURES_2, .pNext = &v11};
    vkGetPhysicalDeviceFeatures2(g->physical, &features);
    if (!executable.pipelineExecutableInfo)
        check(VK_ERROR_FEATURE_NOT_PRESENT, "VK_KHR_pipeline_executable_properties");
#ifdef VK_KHR_cooperative_matrix
    g->coopmat = coopmat.cooperativeMatrix;
    if (g->coopmat)
        extensions[n_extensions++] = VK_KHR_COOPERATIVE_MATRIX_EXTENSION_NAME;
#endif

    VkPhysicalDeviceVulkan13Properties p13 = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_VULKAN_1_3_PROPERTIES};
    VkPhysicalDeviceProperties2 properties = {.sType = VK_STRUCTURE_TYPE_PHYSICAL_DEVICE_PROPERTIES_2, .pNext = &p13};
    vkGetPhysicalDeviceProperties2(g->physical, &properties);
    g->int_dot = p13.integerDotProduct4x8BitPackedSignedAccelerated;

    float priority = 1;
    VkDeviceQueueCreateInfo queue = {
        .sType = VK_STRUCTURE_TYPE_DEVICE_QUEUE_CREATE_INFO, .queueCount = 1, .pQueuePriorities = &priority};
    VkDeviceCreateInfo info = {.sType = VK_STRUCTURE_TYPE_DEVICE_CREATE_INFO,
                               .pNext = &features,
                               .queueCreateInfoCount = 1,
                               .pQueueCreateInfos = &queue,
                               .enabledExtensionCount = n_extensions,
                               .ppEnabledExtensionNames = extensions};
    check(vkCreateDevice(g->physical, &info, NULL, &g->vk), "vkCreateDevice");
    g->get_statistics =
        (PFN_vkGetPipelineExecutableStatisticsKHR)vkGetDeviceProcAddr(g->vk, "vkGetPipelineExecutableStatisticsKHR");
}

// The one layout of all kernels.
static void make_layout(gpu *g) {
    VkDescriptorSetLayoutBinding bindings[PM_MAX_BINDINGS];
    for (uint32_t i = 0; i < PM_MAX_BINDINGS; i++)
        bindings[i] = (VkDescriptorSetLayoutBinding){.binding = i,
                                                     .descriptorType = VK_DESCRIPTOR_TYPE_STORAGE_BUFFER,
                                                     .descriptorCount = 1,
                                                     .stageFlags = VK_SHADER_STAGE_COMPUTE_BIT};
    VkDescriptorSetLayoutCreateInfo set_info = {
        .sType = VK_STRUCTURE_TYPE_DESCRIPTOR_SET_LAYOUT_CREATE_INFO, .bindingCount = PM_MAX_BINDINGS, .pBindings = bindings};
    VkDescriptorSetLayout set;
    check(vkCreateDescriptorSetLayout(g->vk, &set_info, NULL, &set), "vkCreateDescriptorSetLayout");
    VkPushConstantRange range = {.stageFlags = VK_SHADER_STAGE_COMPUTE_BIT, .size = PM_MAX_ARGS};
    VkPipelineLayoutCreateInfo info = {.sType = VK_STRUCTURE_TYPE_PIPELINE_LAYOUT_CREATE_INFO,
                                       .setLayoutCount = 1,
                                       .pSetLayouts = &set,
                                       .pushConstantRangeCount = 1,
                                       .pPushConstantRanges = &range};
    check(vkCreatePipelineLayout(g->vk, &info, NULL, &g->layout), "vkCreatePipelineLayout");
    vkDestroyDescriptorSetLayout(g->vk, set, NULL);
}

// VK_NULL_HANDLE where the driver refuses the kernel.
static VkPipeline make_pipeline(const gpu *g, const kernel *k, const variant *v) {
    VkSpecializationMapEntry entries[PM_MAX_SPEC];
    for (uint32_t i = 0; i < v->n_spec; i++)
        entries[i] = (VkSpecializationMapEntry){.constantID = i, .offset = i * 4, .size = 4};
    VkSpecializationInfo spec = {.mapEntryCount = v->n_spec, .pMapEntries = entries, .dataSize = v->n_spec * 4, .pData = v->spec};
    VkShaderModuleCreateInfo module_info = {
        .sType = VK_STRUCTURE_TYPE_SHADER_MODULE_CREATE_INFO, .codeSize = k->size, .pCode = k->spirv};
    VkShaderModule module;
    check(vkCreateShaderModule(g->vk, &module_info, NULL, &module), "vkCreateShaderModule");
    VkComputePipelineCreateInfo info = {.sType = VK_STRUCTURE_TYPE_COMPUTE_PIPELINE_CREATE_INFO,
                                        .flags = VK_PIPELINE_CREATE_CAPTURE_STATISTICS_BIT_KHR,
                                        .stage = {.sType = VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_CREATE_INFO,
                                                  .stage = VK_SHADER_STAGE_COMPUTE_BIT,
                                                  .module = module,
                                                  .pName = "main",
                                                  .pSpecializationInfo = &spec},
                                        .layout = g->layout};
    VkPipelineShaderStageRequiredSubgroupSizeCreateInfo subgroup = {
        .sType = VK_STRUCTURE_TYPE_PIPELINE_SHADER_STAGE_REQUIRED_SUBGROUP_SIZE_CREATE_INFO, .requiredSubgroupSize = v->spec[2]};
    if (k->needs & PM_NEED_COOPMAT) {
        info.stage.pNext = &subgroup;
        info.stage.flags = VK_PIPELINE_SHADER_STAGE_CREATE_REQUIRE_FULL_SUBGROUPS_BIT;
    }
    VkPipeline pipeline = VK_NULL_HANDLE;
    vkCreateComputePipelines(g->vk, VK_NULL_HANDLE, 1, &info, NULL, &pipeline);
    vkDestroyShaderModule(g->vk, module, NULL);
    return pipeline;
}

typedef struct column {
    const char *title;
    const char *statistic; // as RADV calls it
    bool is_spill;
} column;

static const column columns[] = {
    {"VGPRs", "VGPRs", false},
    {"SGPRs", "SGPRs", false},
    {"VGPR spills", "Spilled VGPRs", true},
    {"SGPR spills", "Spilled SGPRs", true},
    {"scratch", "Scratch size", true},
    {"LDS", "LDS size", false},
    {"waves/SIMD", "Subgroups per SIMD", false},
    {"code", "Code size", false},
    {"latency", "Latency", false},
    {"1/throughput", "Inverse Throughput", false},
};
#define N_COLUMNS (sizeof(columns) / sizeof(columns[0]))

// Returns whether the kernel stays in its registers.
static bool print_statistics(const gpu *g, VkPipeline pipeline) {
    VkPipelineExecutableInfoKHR which = {.sType = VK_STRUCTURE_TYPE_PIPELINE_EXECUTABLE_INFO_KHR, .pipeline = pipeline};
    uint32_t n = 0;
    check(g->get_statistics(g->vk, &which, &n, NULL), "vkGetPipelineExecutableStatisticsKHR");
    VkPipelineExecutableStatisticKHR *statistics = allocate(n, sizeof(*statistics));
    for (uint32_t i = 0; i < n; i++)
        statistics[i].sType = VK_STRUCTURE_TYPE_PIPELINE_EXECUTABLE_STATISTIC_KHR;
    check(g->get_statistics(g->vk, &which, &n, statistics), "vkGetPipelineExecutableStatisticsKHR");

    bool fits = true;
    for (size_t c = 0; c < N_COLUMNS; c++) {
        const VkPipelineExecutableStatisticKHR *found = NULL;
        for (uint32_t i = 0; i < n; i++)
            if (strcmp(statistics[i].name, columns[c].statistic) == 0)
                found = &statistics[i];
        if (found)
            printf(" %12llu", (unsigned long long)found->value.u64);
        else
            printf(" %12s", "-");
        if (columns[c].is_spill && (!found || found->value.u64 > 0))
            fits = false;
    }
    free(statistics);
    return fits;
}

static bool print_pipeline(const gpu *g, const char *chip, const kernel *k, const variant *v) {
    printf("%-10s %-16s %-18s", chip, k->name, v->label);
    VkPipeline pipeline = make_pipeline(g, k, v);
    if (!pipeline) {
        printf(" DOES NOT COMPILE\n");
        return false;
    }
    bool fits = print_statistics(g, pipeline);
    printf("%s\n", fits ? "" : "  SPILLS");
    vkDestroyPipeline(g->vk, pipeline, NULL);
    return fits;
}

static size_t fit(const kernel *k, const variant *v) {
    size_t n = strlen(v->prefix);
    return strncmp(k->name, v->prefix, n) == 0 ? n : 0;
}

static bool print_kernel(const gpu *g, const char *chip, const kernel *k) {
    static const variant defaults = {"", "defaults", 0, {0}};
    if (k->size == 0) {
        printf("%-10s %-16s not made by this build's GLSL compiler\n", chip, k->name);
        return true;
    }
    if (((k->needs & PM_NEED_COOPMAT) && !g->coopmat) || ((k->needs & PM_NEED_INT_DOT) && !g->int_dot))
        return true; // never made there
    bool fits = true;
    size_t longest = 0;
    for (size_t i = 0; i < N_VARIANTS; i++)
        longest = fit(k, &variants[i]) > longest ? fit(k, &variants[i]) : longest;
    for (size_t i = 0; i < N_VARIANTS; i++)
        if (longest > 0 && fit(k, &variants[i]) == longest)
            fits &= print_pipeline(g, chip, k, &variants[i]);
    return longest > 0 ? fits : print_pipeline(g, chip, k, &defaults);
}

// radv_stats [NAME]: of kernels whose names begin so.
int main(int argc, char **argv) {
    const char *chip = getenv("RADV_FORCE_FAMILY");
    gpu g = {0};
    open_instance(&g);
    open_device(&g);
    make_layout(&g);

    printf("%-10s %-16s %-18s", "chip", "kernel", "for");
    for (size_t c = 0; c < N_COLUMNS; c++)
        printf(" %12s", columns[c].title);
    printf("\n");
    bool all_fit = true;
    for (size_t i = 0; i < sizeof(kernels) / sizeof(kernels[0]); i++)
        if (argc < 2 || !strncmp(kernels[i].name, argv[1], strlen(argv[1])))
            all_fit &= print_kernel(&g, chip ? chip : "this", &kernels[i]);

    vkDestroyPipelineLayout(g.vk, g.layout, NULL);
    vkDestroyDevice(g.vk, NULL);
    vkDestroyInstance(g.instance, NULL);
    return all_fit ? 0 : 1;
}
