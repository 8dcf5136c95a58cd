// Devices: listing, ranking, picking, opening, and what is said where there is none. Runs on whatever driver is here; drivers that
// are not here are played by wrapping single Vulkan functions (volkInitializeCustom).
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "host/vk.h"
#include "posix.h"

#ifndef _WIN32
#include <sys/wait.h>
#endif

// ---- helpers ----------------------------------------------------------------------------------------------------------

static char warning[1024];

static void keep_warning(pm_log_level level, const char *line, void *user) {
    (void)user;
    if (level <= PM_LOG_WARN)
        snprintf(warning, sizeof(warning), "%s", line);
}

static void assert_text_has(const char *text, const char *part) {
    if (!strstr(text, part))
        fail_msg("\"%s\" does not say \"%s\"", text, part);
}

static void upper(const char *text, char *out, size_t size) {
    size_t i = 0;
    for (; text[i] && i + 1 < size; i++)
        out[i] = text[i] >= 'a' && text[i] <= 'z' ? (char)(text[i] - 32) : text[i];
    out[i] = 0;
}

static void expect_no_device(const char *part) {
    pm_device_info *infos = (pm_device_info *)&infos;
    pm_device *dev = (pm_device *)&dev;
    int n = 7;
    assert_int_equal(pm_device_list(&infos, &n), PM_ERR_NO_DEVICE);
    assert_text_has(pm_error_text(), part);
    assert_null(infos);
    assert_int_equal(n, 0);
    assert_int_equal(pm_device_open(NULL, &dev), PM_ERR_NO_DEVICE);
    assert_text_has(pm_error_text(), part);
    assert_null(dev);
}

// ---- the list ---------------------------------------------------------------------------------------------------------

static bool is_power_of_two(uint32_t n) {
    return n && !(n & (n - 1));
}

// Limits are at least what Vulkan demands of every device (chapter "Limits", table "Required Limits").
static void check_info(const pm_device_info *info) {
    assert_true(info->name[0] != 0);
    assert_true(info->api_version >= VK_API_VERSION_1_1);
    assert_true(info->max_binding >= UINT64_C(1) << 27);
    assert_true(info->max_buffer >= UINT64_C(1) << 30);
    assert_true(info->max_shared >= 16384);
    assert_true(info->max_invocations >= 128);
    assert_true(info->slice_align >= 1 && info->slice_align <= 256 && is_power_of_two(info->slice_align));
    for (int i = 0; i < 3; i++)
        assert_true(info->max_groups[i] >= 65535);
    assert_true(is_power_of_two(info->subgroup_size));
    assert_true(info->subgroup_min <= info->subgroup_size && info->subgroup_size <= info->subgroup_max);
    assert_true(info->n_heaps >= 1 && info->n_heaps <= 16);
    bool local = false;
    for (int i = 0; i < info->n_heaps; i++) {
        assert_true(info->heaps[i].size > 0 && info->heaps[i].budget <= info->heaps[i].size);
        local = local || info->heaps[i].device_local;
    }
    assert_true(local);
    for (int i = 0; i < info->n_coopmats; i++)
        assert_true(info->coopmats[i].m && info->coopmats[i].n && info->coopmats[i].k && info->coopmats[i].a &&
                    info->coopmats[i].c);
}

static void list_is_ranked_and_plausible(void **state) {
    (void)state;
    pm_device_info *infos;
    int n;
    assert_int_equal(pm_device_list(&infos, &n), PM_OK);
    assert_true(n >= 1);
    for (int i = 0; i < n; i++) {
        assert_int_equal(infos[i].index, i);
        assert_true(i == 0 || infos[i - 1].type <= infos[i].type);
        check_info(&infos[i]);
    }
    pm_free(infos);
}

// An open device's info against Vulkan's own answers, asked in the plain way of 1.0.
static void info_is_what_vulkan_says(void **state) {
    (void)state;
    pm_device *dev;
    VkPhysicalDeviceProperties p;
    VkPhysicalDeviceMemoryProperties m;
    assert_int_equal(pm_device_open(NULL, &dev), PM_OK);
    const pm_device_info *info = pm_device_get_info(dev);
    vkGetPhysicalDeviceProperties(dev->physical, &p);
    vkGetPhysicalDeviceMemoryProperties(dev->physical, &m);
    assert_string_equal(info->name, p.deviceName);
    assert_int_equal(info->vendor_id, p.vendorID);
    assert_int_equal(info->device_id, p.deviceID);
    assert_int_equal(info->max_binding, p.limits.maxStorageBufferRange);
    assert_int_equal(info->max_shared, p.limits.maxComputeSharedMemorySize);
    assert_int_equal(info->max_invocations, p.limits.maxComputeWorkGroupInvocations);
    assert_int_equal(info->slice_align, p.limits.minStorageBufferOffsetAlignment);
    assert_int_equal(info->n_heaps, m.memoryHeapCount);
    for (int i = 0; i < info->n_heaps; i++)
        assert_int_equal(info->heaps[i].size, m.memoryHeaps[i].size);
    assert_true(pm_slice_align(dev) >= 64 && pm_slice_align(dev) % info->slice_align == 0);
    assert_int_equal(pm_device_chunk(dev), dev->caps.max_chunk);
    pm_device_close(&dev);
    assert_null(dev);
    pm_device_close(&dev);
}

// ---- picking ----------------------------------------------------------------------------------------------------------

static void expect_pick(const char *pick, int index) {
    pm_device *dev;
    assert_int_equal(pm_device_open(pick, &dev), PM_OK);
    assert_int_equal(pm_device_get_info(dev)->index, index);
    pm_device_close(&dev);
}

static void expect_no_pick(const char *pick, const char *name) {
    pm_device *dev = (pm_device *)&dev;
    assert_int_equal(pm_device_open(pick, &dev), PM_ERR_NO_DEVICE);
    assert_null(dev);
    assert_text_has(pm_error_text(), name); // tells what there is
}

static void every_kind_of_pick(void **state) {
    (void)state;
    pm_device_info *infos;
    int n;
    char text[256];
    assert_int_equal(pm_device_list(&infos, &n), PM_OK);
    expect_pick(NULL, 0);
    snprintf(text, sizeof(text), "%d", n - 1);
    expect_pick(text, n - 1);
    upper(infos[0].name, text, sizeof(text));
    expect_pick(text, 0);
    expect_pick(infos[0].name + strlen(infos[0].name) / 2, 0);
    if (infos[0].driver_name[0]) {
        upper(infos[0].driver_name, text, sizeof(text));
        expect_pick(text, 0);
    }

    snprintf(text, sizeof(text), "%d", n + 4000);
    expect_no_pick(text, infos[0].name);
    expect_no_pick("no such device", infos[0].name);
    expect_no_pick("", infos[0].name);
    expect_no_pick("-1", infos[0].name);
    expect_no_pick("99999999999999999999999999", infos[0].name);
    pm_free(infos);
}

// ---- ranking ----------------------------------------------------------------------------------------------------------

static pm_device_info gpu(const char *name, pm_device_type type, uint32_t driver, uint8_t uuid, uint64_t memory) {
    static int index;
    pm_device_info info = {.type = type, .driver_id = driver, .device_uuid = {uuid}, .n_heaps = 1, .index = index++};
    snprintf(info.name, sizeof(info.name), "%s", name);
    info.heaps[0] = (pm_heap_info){.size = memory, .budget = memory, .device_local = true};
    return info;
}

static void expect_rank(pm_device_info *infos, int n, const char *const *names, int n_names) {
    assert_int_equal(pm_caps_rank(infos, n), n_names);
    for (int i = 0; i < n_names; i++)
        assert_string_equal(infos[i].name, names[i]);
}

static void ranks_by_type_then_memory(void **state) {
    (void)state;
    pm_device_info infos[] = {
        gpu("cpu", PM_DEVICE_CPU, VK_DRIVER_ID_MESA_LLVMPIPE, 1, 64),
        gpu("small card", PM_DEVICE_DISCRETE, 0, 2, 8),
        gpu("virtual", PM_DEVICE_VIRTUAL, 0, 3, 16),
        gpu("large card", PM_DEVICE_DISCRETE, 0, 4, 24),
        gpu("built in", PM_DEVICE_INTEGRATED, 0, 5, 32),
        gpu("same as large", PM_DEVICE_DISCRETE, 0, 6, 24),
        gpu("other cpu", PM_DEVICE_CPU, VK_DRIVER_ID_GOOGLE_SWIFTSHADER, 7, 64),
    };
    const char *const names[] = {"large card", "same as large", "small card", "built in", "virtual", "cpu", "other cpu"};
    expect_rank(infos, 7, names, 7);
}

// Host memory that a card may use does not make it larger.
static void ranks_by_its_own_memory(void **state) {
    (void)state;
    pm_device_info infos[] = {gpu("8 and 64 of the host", PM_DEVICE_DISCRETE, 0, 1, 8), gpu("16", PM_DEVICE_DISCRETE, 0, 2, 16)};
    infos[0].heaps[1] = (pm_heap_info){.size = 64, .device_local = false};
    infos[0].n_heaps = 2;
    const char *const names[] = {"16", "8 and 64 of the host"};
    expect_rank(infos, 2, names, 2);
}

static void lists_a_gpu_of_three_drivers_once(void **state) {
    (void)state;
    pm_device_info infos[] = {
        gpu("proprietary", PM_DEVICE_DISCRETE, VK_DRIVER_ID_AMD_PROPRIETARY, 9, 24),
        gpu("amdvlk", PM_DEVICE_DISCRETE, VK_DRIVER_ID_AMD_OPEN_SOURCE, 9, 24),
        gpu("radv", PM_DEVICE_DISCRETE, VK_DRIVER_ID_MESA_RADV, 9, 16),
        gpu("second card", PM_DEVICE_DISCRETE, VK_DRIVER_ID_MESA_RADV, 10, 16),
    };
    const char *const names[] = {"radv", "second card"};
    expect_rank(infos, 4, names, 2);
}

// A UUID of zeros is no UUID; a PCI address that two drivers agree on settles it, and one they do not agree on as well.
static void tells_gpus_apart_by_pci(void **state) {
    (void)state;
    pm_device_info infos[] = {
        gpu("amdvlk", PM_DEVICE_DISCRETE, VK_DRIVER_ID_AMD_OPEN_SOURCE, 0, 24),
        gpu("radv", PM_DEVICE_DISCRETE, VK_DRIVER_ID_MESA_RADV, 3, 24),
        gpu("twin", PM_DEVICE_DISCRETE, VK_DRIVER_ID_MESA_RADV, 0, 24),
        gpu("no uuid", PM_DEVICE_DISCRETE, 0, 0, 2),
        gpu("no uuid either", PM_DEVICE_DISCRETE, 0, 0, 1),
    };
    for (int i = 0; i < 3; i++) {
        infos[i].has_pci = true;
        infos[i].pci[1] = i == 2 ? 5 : 3;
    }
    const char *const names[] = {"radv", "twin", "no uuid", "no uuid either"};
    expect_rank(infos, 5, names, 4);
}

static void prefers_a_native_driver_to_a_layered_one(void **state) {
    (void)state;
    pm_device_info infos[] = {
        gpu("layered", PM_DEVICE_DISCRETE, VK_DRIVER_ID_MESA_DOZEN, 1, 24),
        gpu("native", PM_DEVICE_DISCRETE, VK_DRIVER_ID_NVIDIA_PROPRIETARY, 2, 24),
        gpu("layered over another", PM_DEVICE_DISCRETE, VK_DRIVER_ID_MESA_DOZEN, 3, 24),
    };
    infos[0].vendor_id = infos[1].vendor_id = infos[2].vendor_id = 0x10de;
    infos[0].device_id = infos[1].device_id = 0x2204;
    infos[2].device_id = 0x2484;
    const char *const names[] = {"native", "layered over another"};
    expect_rank(infos, 3, names, 2);
}

// ---- what devices are given -------------------------------------------------------------------------------------------

static const pm_device_info some_gpu = {
    .type = PM_DEVICE_DISCRETE,
    .f16_arithmetic = true,
    .f16_storage = true,
    .subgroup_arithmetic = true,
    .subgroup_size_control = true,
    .subgroup_min = 32,
    .subgroup_max = 64,
    .int_dot = true,
    .int_dot_accelerated = true,
    .n_coopmats = 1,
    .coopmats = {{16, 16, 16, "f16", "f32"}},
    .max_binding = UINT64_C(1) << 31,
    .max_shared = 32 << 10,
    .max_invocations = 1024,
    .max_groups = {65535, 65535, 65535},
};

// The override is set for one pm_caps_fill; `warns` says whether it is expected to be refused.
static pm_caps fill_with(const char *name, const char *value, bool warns) {
    pm_caps caps;
    warning[0] = 0;
    setenv(name, value, 1);
    pm_caps_fill(&some_gpu, &caps);
    unsetenv(name);
    if (warns)
        assert_text_has(warning, name);
    else
        assert_string_equal(warning, "");
    return caps;
}

static void caps_follow_the_device(void **state) {
    (void)state;
    pm_caps caps;
    pm_device_info info = some_gpu;
    pm_caps_fill(&info, &caps);
    assert_int_equal(caps.has, PM_NEED_SUBGROUP | PM_NEED_F16 | PM_NEED_INT_DOT | PM_NEED_COOPMAT);
    assert_true(caps.use_tiles && caps.use_coopmat && caps.use_dots);
    assert_int_equal(caps.coopmat.subgroup, 32);
    assert_int_equal(caps.coopmat.rows % caps.coopmat.workgroup, 0);
    assert_int_equal(caps.max_binding, info.max_binding);
    assert_false(caps.map_device);

    info.int_dot_accelerated = false; // a software driver has the kernels, to be tried, and takes floats
    pm_caps_fill(&info, &caps);
    assert_false(caps.has & PM_NEED_INT_DOT || caps.use_dots);
    info.type = PM_DEVICE_CPU;
    pm_caps_fill(&info, &caps);
    assert_true(caps.has & PM_NEED_INT_DOT && !caps.use_dots);
    info.type = PM_DEVICE_DISCRETE;

    info.subgroup_size_control = false; // the kernel could not know how many matrices are whose
    pm_caps_fill(&info, &caps);
    assert_int_equal(caps.has & PM_NEED_COOPMAT, 0);
    assert_true(caps.use_tiles && !caps.use_coopmat);

    info = (pm_device_info){.type = PM_DEVICE_CPU, .unified_memory = true, .f16_arithmetic = true}; // fp16 without its storage
    pm_caps_fill(&info, &caps);
    assert_int_equal(caps.has, 0);
    assert_int_equal(caps.matvec.lanes, 1);
    assert_false(caps.use_tiles);
    assert_true(caps.map_device);
}

static void caps_follow_the_environment(void **state) {
    (void)state;
    pm_caps caps = fill_with("PM_MATVEC", "128,16,4,6", false);
    assert_int_equal(caps.matvec.workgroup, 128);
    assert_int_equal(caps.matvec.lanes, 16);
    assert_int_equal(caps.matvec.rows, 4);
    assert_int_equal(caps.matvec.max_cols, 6);
    assert_int_equal(fill_with("PM_MATVEC_BATCH", "32,1,2,3", false).matvec_batch.max_cols, 3);
    assert_int_equal(fill_with("PM_MAX_BINDING_BYTES", "134217728", false).max_binding, 1 << 27);
    assert_int_equal(fill_with("PM_WITHOUT", "f16,coopmat", false).has, PM_NEED_SUBGROUP | PM_NEED_INT_DOT);
    assert_false(fill_with("PM_TILES", "0", false).use_tiles);
    assert_false(fill_with("PM_DOTS", "0", false).use_dots);
    assert_false(fill_with("PM_WITHOUT", "int_dot", false).use_dots);
    assert_int_equal(fill_with("PM_ATTEND_SPLIT", "512", false).attend_split, 512);
    assert_int_equal(fill_with("PM_MAX_CHUNK", "7", false).max_chunk, 7);
}

static void caps_refuse_nonsense(void **state) {
    (void)state;
    static const char *const shapes[] = {"128",       "128,16,4",   "128,16,4,6,7", "0,1,2,1",   "4096,1,2,1",
                                         "64,3,2,1",  "64,128,2,1", "64,32,3,1",    "64,32,2,0", "a,b,c,d",
                                         "-64,1,2,1", "64,32,2,x",  "64,,2,1"};
    pm_caps plain;
    pm_caps_fill(&some_gpu, &plain);
    for (size_t i = 0; i < sizeof(shapes) / sizeof(*shapes); i++) {
        pm_caps caps = fill_with("PM_MATVEC", shapes[i], true);
        assert_memory_equal(&caps.matvec, &plain.matvec, sizeof(caps.matvec));
    }
    assert_int_equal(fill_with("PM_MAX_BINDING_BYTES", "99999999999999999999999", true).max_binding, plain.max_binding);
    assert_int_equal(fill_with("PM_MAX_BINDING_BYTES", "12", true).max_binding, plain.max_binding);
    assert_int_equal(fill_with("PM_WITHOUT", "f17", true).has, plain.has);
    assert_true(fill_with("PM_TILES", "yes", true).use_tiles);
    assert_int_equal(fill_with("PM_MATVEC", "", false).matvec.workgroup, plain.matvec.workgroup);
}

// ---- failed calls -----------------------------------------------------------------------------------------------------

static pm_status try_call(VkResult result) {
    struct {
        VkResult vkQueueSubmit;
    } fn = {result}, *d = &fn;
    VK_TRY(d->vkQueueSubmit);
    return PM_OK;
}

static void failed_calls_have_names(void **state) {
    (void)state;
    assert_int_equal(try_call(VK_SUCCESS), PM_OK);
    assert_int_equal(try_call(VK_TIMEOUT), PM_OK); // not an error
    assert_int_equal(try_call(VK_ERROR_DEVICE_LOST), PM_ERR_DEVICE_LOST);
    assert_text_has(pm_error_text(), "vkQueueSubmit failed");
    assert_text_has(pm_error_text(), "VK_ERROR_DEVICE_LOST");
    assert_int_equal(pm_vk_fail(VK_ERROR_OUT_OF_DEVICE_MEMORY, "dev->fn.vkAllocateMemory(dev->vk, &info)"), PM_ERR_DEVICE_MEMORY);
    assert_text_has(pm_error_text(), "vkAllocateMemory failed: ");
    assert_int_equal(pm_vk_fail(VK_ERROR_OUT_OF_HOST_MEMORY, "vkMapMemory"), PM_ERR_MEMORY);
    assert_int_equal(pm_vk_fail((VkResult)-123456, "strange"), PM_ERR_DEVICE);
    assert_text_has(pm_error_text(), "strange failed: VkResult -123456");
}

// ---- no device --------------------------------------------------------------------------------------------------------

static void no_driver(void **state) {
    (void)state;
    if (IS_WINDOWS) {
        print_message("the loader of Windows finds drivers in the registry, and Wine's is the system's\n");
        skip();
    }
    const char *names[] = {"VK_DRIVER_FILES", "VK_ICD_FILENAMES"}; // the second is what loaders before 1.3.207 read
    char *before[2];
    for (int i = 0; i < 2; i++) {
        const char *value = getenv(names[i]);
        before[i] = value ? strdup(value) : NULL;
        setenv(names[i], "/nonexistent/driver.json", 1);
    }
    expect_no_device("no Vulkan driver found");
    for (int i = 0; i < 2; i++) {
        if (before[i])
            setenv(names[i], before[i], 1);
        else
            unsetenv(names[i]);
        free(before[i]);
    }
}

#ifdef _WIN32
static void no_loader(void **state) {
    (void)state;
    print_message("tests/windows.sh takes vulkan-1.dll away\n");
    skip();
}
#else
// A libvulkan.so.1 that is an empty file makes dlopen fail as a missing one does. It takes a new process to look there.
static void no_loader(void **state) {
    (void)state;
    char self[1024] = "", dir[] = "/tmp/pm-test-device-XXXXXX", path[64], out[1024] = "";
    if (readlink("/proc/self/exe", self, sizeof(self) - 1) < 0 || strstr(self, "/ld-linux") || getenv("PM_EMULATED")) {
        print_message("run by a launcher: cannot start itself again\n");
        skip();
    }
    assert_non_null(mkdtemp(dir));
    const char *const names[] = {"libvulkan.so.1", "libvulkan.so"};
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof(path), "%s/%s", dir, names[i]);
        FILE *f = fopen(path, "w");
        assert_non_null(f);
        fclose(f);
    }
    char command[2048];
    snprintf(command, sizeof(command), "LD_LIBRARY_PATH=%s '%s' --expect-no-loader 2>&1", dir, self);
    FILE *child = popen(command, "r");
    assert_non_null(child);
    out[fread(out, 1, sizeof(out) - 1, child)] = 0;
    int rc = pclose(child);
    snprintf(command, sizeof(command), "rm -r %s", dir);
    assert_int_equal(system(command), 0);
    assert_true(WIFEXITED(rc));
    assert_int_equal(WEXITSTATUS(rc), -PM_ERR_NO_DEVICE);
    assert_text_has(out, "no Vulkan loader (libvulkan.so.1");
}
#endif

static int run_without_loader(void) {
    pm_device_info *infos;
    int n;
    pm_status status = pm_device_list(&infos, &n);
    puts(pm_error_text());
    return -status;
}

// ---- other drivers, played --------------------------------------------------------------------------------------------

static PFN_vkGetInstanceProcAddr real_get;
static const char *wrapped_name;
static PFN_vkVoidFunction wrapped, real;

// Vulkan as it is, but for one function.
static VKAPI_ATTR PFN_vkVoidFunction VKAPI_CALL get_wrapped(VkInstance instance, const char *name) {
    PFN_vkVoidFunction function = real_get(instance, name);
    if (strcmp(name, wrapped_name))
        return function;
    real = function;
    return wrapped;
}

static void wrap(const char *name, PFN_vkVoidFunction function) {
    real_get = vkGetInstanceProcAddr;
    wrapped_name = name;
    wrapped = function;
    volkInitializeCustom(get_wrapped);
}

static void unwrap(void) {
    volkInitializeCustom(real_get);
}

static VKAPI_ATTR void VKAPI_CALL only_graphics(VkPhysicalDevice physical, uint32_t *n, VkQueueFamilyProperties *families) {
    ((PFN_vkGetPhysicalDeviceQueueFamilyProperties)real)(physical, n, families);
    for (uint32_t i = 0; families && i < *n; i++)
        families[i].queueFlags = VK_QUEUE_GRAPHICS_BIT;
}

static VKAPI_ATTR void VKAPI_CALL vulkan_1_0(VkPhysicalDevice physical, VkPhysicalDeviceProperties *properties) {
    ((PFN_vkGetPhysicalDeviceProperties)real)(physical, properties);
    properties->apiVersion = VK_API_VERSION_1_0;
}

static VKAPI_ATTR VkResult VKAPI_CALL no_devices(VkInstance instance, uint32_t *n, VkPhysicalDevice *physicals) {
    (void)instance, (void)physicals;
    *n = 0;
    return VK_SUCCESS;
}

static VKAPI_ATTR VkResult VKAPI_CALL no_start(VkInstance instance, uint32_t *n, VkPhysicalDevice *physicals) {
    (void)instance, (void)n, (void)physicals;
    return VK_ERROR_INITIALIZATION_FAILED;
}

static VKAPI_ATTR VkResult VKAPI_CALL old_loader(uint32_t *version) {
    *version = VK_API_VERSION_1_0;
    return VK_SUCCESS;
}

static void says_why_no_device_will_do(void **state) {
    (void)state;
    wrap("vkGetPhysicalDeviceQueueFamilyProperties", (PFN_vkVoidFunction)only_graphics);
    expect_no_device("has no compute queue");
    unwrap();
    wrap("vkGetPhysicalDeviceProperties", (PFN_vkVoidFunction)vulkan_1_0);
    expect_no_device("has Vulkan 1.0, 1.1 is needed");
    unwrap();
    wrap("vkEnumeratePhysicalDevices", (PFN_vkVoidFunction)no_devices);
    expect_no_device("find no device");
    unwrap();
    wrap("vkEnumeratePhysicalDevices", (PFN_vkVoidFunction)no_start);
    expect_no_device("find no device");
    unwrap();
    wrap("vkEnumerateInstanceVersion", (PFN_vkVoidFunction)old_loader);
    expect_no_device("version 1.0");
    unwrap();
}

static VKAPI_ATTR void VKAPI_CALL three_families(VkPhysicalDevice physical, uint32_t *n, VkQueueFamilyProperties *families) {
    (void)physical;
    assert_true(families && *n >= 3);
    *n = 3;
    families[0] = (VkQueueFamilyProperties){
        .queueFlags = VK_QUEUE_GRAPHICS_BIT | VK_QUEUE_COMPUTE_BIT, .queueCount = 1, .timestampValidBits = 64};
    families[1] = (VkQueueFamilyProperties){.queueFlags = VK_QUEUE_TRANSFER_BIT, .queueCount = 1, .timestampValidBits = 1};
    families[2] = (VkQueueFamilyProperties){.queueFlags = VK_QUEUE_COMPUTE_BIT, .queueCount = 1, .timestampValidBits = 36};
}

static void prefers_a_queue_that_only_computes(void **state) {
    (void)state;
    pm_device_info *infos;
    int n;
    wrap("vkGetPhysicalDeviceQueueFamilyProperties", (PFN_vkVoidFunction)three_families);
    assert_int_equal(pm_device_list(&infos, &n), PM_OK);
    assert_int_equal(infos[0].timestamp_bits, 36);
    pm_free(infos);
    setenv("PM_QUEUE", "graphics", 1);
    assert_int_equal(pm_device_list(&infos, &n), PM_OK);
    assert_int_equal(infos[0].timestamp_bits, 64);
    pm_free(infos);
    unsetenv("PM_QUEUE");
    unwrap();
}

// A device of Vulkan 1.1 without extensions is asked nothing beyond that: what it cannot tell stays zero.
static VKAPI_ATTR void VKAPI_CALL vulkan_1_1(VkPhysicalDevice physical, VkPhysicalDeviceProperties *properties) {
    ((PFN_vkGetPhysicalDeviceProperties)real)(physical, properties);
    properties->apiVersion = VK_API_VERSION_1_1;
}

static VKAPI_ATTR VkResult VKAPI_CALL no_extensions(VkPhysicalDevice physical, const char *layer, uint32_t *n,
                                                    VkExtensionProperties *list) {
    (void)physical, (void)layer, (void)list;
    *n = 0;
    return VK_SUCCESS;
}

static VKAPI_ATTR PFN_vkVoidFunction VKAPI_CALL get_plain(VkInstance instance, const char *name) {
    if (!strcmp(name, "vkEnumerateDeviceExtensionProperties"))
        return (PFN_vkVoidFunction)no_extensions;
    return get_wrapped(instance, name);
}

static void plain_1_1_is_enough(void **state) {
    (void)state;
    pm_device *dev;
    wrap("vkGetPhysicalDeviceProperties", (PFN_vkVoidFunction)vulkan_1_1);
    volkInitializeCustom(get_plain);
    assert_int_equal(pm_device_open(NULL, &dev), PM_OK);
    const pm_device_info *info = pm_device_get_info(dev);
    assert_false(info->f16_arithmetic || info->int8_arithmetic || info->int_dot || info->subgroup_size_control ||
                 info->budget_known);
    assert_string_equal(info->driver_name, "");
    assert_true(info->subgroup_size >= 1);
    assert_int_equal(info->subgroup_min, info->subgroup_size);
    assert_true(info->max_buffer >= UINT64_C(1) << 30);
    pm_device_close(&dev);
    unwrap();
}

// ---- no memory --------------------------------------------------------------------------------------------------------

static void listing_survives_every_failed_allocation(void **state) {
    (void)state;
    pm_device_info *infos;
    int n;
    pm_status status = PM_ERR_MEMORY;
    long tries = 0;
    while (status != PM_OK) {
        pm_alloc_fail_after(++tries);
        status = pm_device_list(&infos, &n);
        pm_alloc_fail_after(0);
        if (status != PM_OK) {
            assert_int_equal(status, PM_ERR_MEMORY);
            assert_null(infos);
            assert_int_equal(n, 0);
        }
        assert_true(tries < 1000);
    }
    assert_true(tries > 3);
    pm_free(infos);
}

static void opening_survives_every_failed_allocation(void **state) {
    (void)state;
    pm_device *dev;
    pm_status status = PM_ERR_MEMORY;
    long tries = 0;
    while (status != PM_OK) {
        pm_alloc_fail_after(++tries);
        status = pm_device_open(NULL, &dev);
        pm_alloc_fail_after(0);
        if (status != PM_OK) {
            assert_int_equal(status, PM_ERR_MEMORY);
            assert_null(dev);
        }
        assert_true(tries < 1000);
    }
    assert_true(tries > 5);
    pm_device_close(&dev);
}

static int have_device(void) {
    pm_device_info *infos;
    int n;
    pm_status status = pm_device_list(&infos, &n);
    pm_free(infos);
    if (status == PM_ERR_NO_DEVICE)
        printf("%s\n", pm_error_text());
    return status != PM_ERR_NO_DEVICE;
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(list_is_ranked_and_plausible),
        cmocka_unit_test(info_is_what_vulkan_says),
        cmocka_unit_test(every_kind_of_pick),
        cmocka_unit_test(ranks_by_type_then_memory),
        cmocka_unit_test(ranks_by_its_own_memory),
        cmocka_unit_test(lists_a_gpu_of_three_drivers_once),
        cmocka_unit_test(tells_gpus_apart_by_pci),
        cmocka_unit_test(prefers_a_native_driver_to_a_layered_one),
        cmocka_unit_test(caps_follow_the_device),
        cmocka_unit_test(caps_follow_the_environment),
        cmocka_unit_test(caps_refuse_nonsense),
        cmocka_unit_test(failed_calls_have_names),
        cmocka_unit_test(no_driver),
        cmocka_unit_test(no_loader),
        cmocka_unit_test(says_why_no_device_will_do),
        cmocka_unit_test(prefers_a_queue_that_only_computes),
        cmocka_unit_test(plain_1_1_is_enough),
        cmocka_unit_test(listing_survives_every_failed_allocation),
        cmocka_unit_test(opening_survives_every_failed_allocation),
    };
    if (argc == 2 && !strcmp(argv[1], "--expect-no-loader"))
        return run_without_loader();
    if (!have_device())
        return 77;
    pm_log_to(keep_warning, NULL);
    unsetenv("PM_LIMITS"); // devices are here what Vulkan says; limits have tests of their own
    return cmocka_run_group_tests(tests, NULL, NULL);
}
