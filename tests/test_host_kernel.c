// The table of kernels, their pipelines, and the pipeline cache on disk. What a driver keeps in its cache is its own affair
// (lavapipe: nothing), so the test plays the driver there and sees what it is handed at the next start.
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <dirent.h>
#include <cmocka.h>

#include "host/vk.h"
#include "temp.h"

enum { HASH_AT = 16, DATA_AT = 24 }; // bytes of a cache file: magic, size, hash, what the driver gave

static pm_device *dev;

// ---- the driver's part ------------------------------------------------------------------------------------------------

static struct VolkDeviceTable real;

static struct {
    VkPipelineCacheHeaderVersionOne header;
    uint8_t body[100];
} kept; // what the driver's cache holds

static bool handed; // the cache was made from `kept`
static VkResult get_result, create_result;
static size_t kept_size;

static VKAPI_ATTR VkResult VKAPI_CALL play_get(VkDevice device, VkPipelineCache cache, size_t *size, void *data) {
    (void)device, (void)cache;
    if (data && get_result == VK_SUCCESS)
        memcpy(data, &kept, kept_size);
    *size = kept_size;
    return get_result;
}

static VKAPI_ATTR VkResult VKAPI_CALL play_create(VkDevice device, const VkPipelineCacheCreateInfo *info,
                                                  const VkAllocationCallbacks *allocator, VkPipelineCache *cache) {
    handed = info->initialDataSize > 0;
    if (handed) {
        assert_int_equal(info->initialDataSize, sizeof(kept));
        assert_memory_equal(info->pInitialData, &kept, sizeof(kept));
    }
    if (handed && create_result != VK_SUCCESS)
        return create_result;
    VkPipelineCacheCreateInfo empty = {.sType = VK_STRUCTURE_TYPE_PIPELINE_CACHE_CREATE_INFO};
    return real.vkCreatePipelineCache(device, &empty, allocator, cache);
}

static atomic_int n_made;
static uint32_t failing; // the workgroup whose pipeline cannot be made; 0: all can

static VKAPI_ATTR VkResult VKAPI_CALL play_pipelines(VkDevice device, VkPipelineCache cache, uint32_t n,
                                                     const VkComputePipelineCreateInfo *infos,
                                                     const VkAllocationCallbacks *allocator, VkPipeline *pipelines) {
    uint32_t workgroup;
    memcpy(&workgroup, infos->stage.pSpecializationInfo->pData, sizeof(workgroup));
    atomic_fetch_add(&n_made, (int)n);
    if (workgroup != failing)
        return real.vkCreateComputePipelines(device, cache, n, infos, allocator, pipelines);
    *pipelines = VK_NULL_HANDLE;
    return VK_ERROR_OUT_OF_DEVICE_MEMORY;
}

// ---- fixture ----------------------------------------------------------------------------------------------------------

static void must(pm_status status) {
    if (status != PM_OK)
        print_error("%s\n", pm_error_text());
    assert_int_equal(status, PM_OK);
}

static int open_all(void **state) {
    if (temp_open(state) != 0)
        return -1;
    setenv("PUMICE_CACHE", temp_folder, 1);
    if (pm_device_open(NULL, &dev) != PM_OK) {
        fprintf(stderr, "%s\n", pm_error_text());
        exit(77);
    }
    real = dev->fn;
    dev->fn.vkGetPipelineCacheData = play_get;
    dev->fn.vkCreatePipelineCache = play_create;
    dev->fn.vkCreateComputePipelines = play_pipelines;

    VkPhysicalDeviceProperties here;
    vkGetPhysicalDeviceProperties(dev->physical, &here);
    kept.header = (VkPipelineCacheHeaderVersionOne){.headerSize = sizeof(kept.header),
                                                    .headerVersion = VK_PIPELINE_CACHE_HEADER_VERSION_ONE,
                                                    .vendorID = here.vendorID,
                                                    .deviceID = here.deviceID};
    memcpy(kept.header.pipelineCacheUUID, here.pipelineCacheUUID, VK_UUID_SIZE);
    return 0;
}

static int close_all(void **state) {
    pm_device_close(&dev);
    return temp_close(state);
}

// The one pipelines-*.bin there is; NULL if there is none.
static const char *cache_file(void) {
    static char path[600];
    bool found = false;
    DIR *dir = opendir(temp_folder);
    for (struct dirent *entry; dir && (entry = readdir(dir));)
        if (strncmp(entry->d_name, "pipelines-", 10) == 0) {
            assert_false(found);
            found = true;
            snprintf(path, sizeof(path), "%s/%s", temp_folder, entry->d_name);
        }
    if (dir)
        closedir(dir);
    return found ? path : NULL;
}

// Starts afresh: no pipelines, no file.
static int reset(void **state) {
    (void)state;
    pm_kernels_close(dev);
    if (cache_file())
        unlink(cache_file());
    memset(kept.body, 7, sizeof(kept.body));
    kept_size = sizeof(kept);
    get_result = create_result = VK_SUCCESS;
    failing = 0;
    n_made = 0;
    must(pm_kernels_open(dev));
    return 0;
}

static pm_kernel_use gather(uint32_t workgroup) {
    return (pm_kernel_use){.id = PM_K_gather, .spec = {workgroup}, .n_spec = 1};
}

static pm_status prepare(uint32_t workgroup) {
    pm_kernel_use use = gather(workgroup);
    return pm_kernels_prepare(dev, &use, 1);
}

// As a next start of the program.
static void reopen(void) {
    pm_kernels_close(dev);
    assert_null(dev->kernels);
    must(pm_kernels_open(dev));
}

// ---- the table --------------------------------------------------------------------------------------------------------

static void the_table_is_whole(void **state) {
    (void)state;
    for (int id = 0; id < PM_KERNEL_COUNT; id++) {
        const pm_kernel_info *kernel = pm_kernel_get_info((pm_kernel_id)id);
        assert_non_null(kernel->name);
        assert_true(kernel->n_writes > 0);
        assert_true(kernel->spirv_size == 0 || kernel->spirv[0] == 0x07230203);
        assert_int_equal(kernel->spirv_size % 4, 0);
        bool able = kernel->spirv_size > 0 && (kernel->needs & ~dev->caps.has) == 0;
        assert_int_equal(pm_kernel_available(dev, (pm_kernel_id)id), able);
    }
    assert_string_equal(pm_kernel_get_info(PM_K_gather)->name, "gather");
    assert_int_equal(pm_kernel_get_info(PM_K_gather)->n_reads, 3);
    assert_int_equal(pm_kernel_get_info(PM_K_gather)->n_writes, 2);
}

static void a_kernel_is_refused_where_its_needs_are_not_met(void **state) {
    (void)state;
    uint32_t has = dev->caps.has, spec = 32;
    dev->caps.has = 0;
    for (int id = 0; id < PM_KERNEL_COUNT; id++) {
        const pm_kernel_info *kernel = pm_kernel_get_info((pm_kernel_id)id);
        if (kernel->needs == 0 && kernel->spirv_size > 0)
            continue;
        VkPipeline pipeline;
        assert_int_equal(pm_kernel_pipeline(dev, (pm_kernel_id)id, &spec, 1, &pipeline), PM_ERR_UNSUPPORTED);
        assert_non_null(strstr(pm_error_text(), kernel->name));
    }
    dev->caps.has = has;
}

// ---- pipelines --------------------------------------------------------------------------------------------------------

static void a_pipeline_is_made_once(void **state) {
    (void)state;
    pm_kernel_use uses[] = {gather(32), gather(33), gather(32)};
    must(pm_kernels_prepare(dev, uses, 3));
    assert_int_equal(n_made, 2);
    must(pm_kernels_prepare(dev, uses, 3));
    assert_int_equal(n_made, 2);

    VkPipeline first, again, other;
    must(pm_kernel_pipeline(dev, PM_K_gather, uses[0].spec, 1, &first));
    must(pm_kernel_pipeline(dev, PM_K_gather, uses[0].spec, 1, &again));
    must(pm_kernel_pipeline(dev, PM_K_gather, uses[1].spec, 1, &other));
    assert_int_equal(n_made, 2);
    assert_true(first && first == again && first != other);
    must(pm_kernel_pipeline(dev, PM_K_gather, (uint32_t[]){32, 0}, 2, &other));
    must(pm_kernel_pipeline(dev, PM_K_gather, (uint32_t[]){32, 1}, 2, &again));
    assert_int_equal(n_made, 4);
    assert_true(other != again);
}

static void more_pipelines_than_the_list_has_room_for(void **state) {
    (void)state;
    pm_kernel_use uses[100];
    for (uint32_t i = 0; i < 100; i++)
        uses[i] = gather(i + 1);
    must(pm_kernels_prepare(dev, uses, 100));
    must(pm_kernels_prepare(dev, uses, 100));
    assert_int_equal(n_made, 100);
}

static void one_that_fails_does_not_take_the_others_along(void **state) {
    (void)state;
    pm_kernel_use uses[] = {gather(40), gather(41), gather(42)};
    failing = 41;
    assert_int_equal(pm_kernels_prepare(dev, uses, 3), PM_ERR_DEVICE_MEMORY);
    assert_non_null(strstr(pm_error_text(), "kernel gather"));
    VkPipeline pipeline;
    assert_int_equal(pm_kernel_pipeline(dev, PM_K_gather, uses[1].spec, 1, &pipeline), PM_ERR_DEVICE_MEMORY);
    assert_false(pipeline);
    assert_int_equal(n_made, 4);
    failing = 0;
    must(pm_kernels_prepare(dev, uses, 3));
    assert_int_equal(n_made, 5);
}

// ---- the cache on disk ------------------------------------------------------------------------------------------------

static void what_the_driver_keeps_is_handed_back(void **state) {
    (void)state;
    assert_false(handed);
    must(prepare(32));
    assert_non_null(cache_file()); // saved at once
    reopen();
    assert_true(handed);

    VkPipeline pipeline;
    kept.body[50]++;
    must(pm_kernel_pipeline(dev, PM_K_gather, (uint32_t[]){33}, 1, &pipeline));
    reopen(); // saved at the end
    assert_true(handed);
}

static void a_file_is_written_only_when_there_is_news(void **state) {
    (void)state;
    reopen();
    assert_null(cache_file()); // nothing was made
    must(prepare(32));
    assert_true(make_link(cache_file(), temp_path("first"))); // a file that was replaced is another one
    reopen();
    must(prepare(32)); // which the driver had in its cache
    assert_true(pm_path_same(cache_file(), temp_path("first")));
    kept.body[0]++;
    must(prepare(33));
    assert_false(pm_path_same(cache_file(), temp_path("first")));
    temp_remove("first");
}

// Another driver's cache, whole: a different pipelineCacheUUID, and the hash of the file made right again.
static void forge_driver(char *file, size_t size) {
    file[DATA_AT + 16] ^= 1;
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = DATA_AT; i < size; i++)
        hash = (hash ^ (uint8_t)file[i]) * 0x100000001b3u;
    memcpy(file + HASH_AT, &hash, sizeof(hash));
}

static void a_bad_file_is_never_handed_over(void **state) {
    (void)state;
    enum { GOOD, CUT, LONGER, EMPTY, FLIPPED, NOT_OURS, ANOTHER_DRIVER, KINDS };
    must(prepare(32));
    char *file;
    size_t size;
    must(pm_file_read(cache_file(), 1 << 20, &file, &size));
    assert_int_equal(size, DATA_AT + sizeof(kept));
    for (int kind = GOOD; kind < KINDS; kind++) {
        char bad[DATA_AT + sizeof(kept) + 1] = {0};
        memcpy(bad, file, size);
        size_t bad_size = kind == CUT ? size - 1 : kind == LONGER ? size + 1 : kind == EMPTY ? 0 : size;
        if (kind == FLIPPED)
            bad[size - 1] ^= 1;
        if (kind == NOT_OURS)
            memset(bad, 'x', size);
        if (kind == ANOTHER_DRIVER)
            forge_driver(bad, size);
        must(pm_file_write_atomic(cache_file(), bad, bad_size));
        reopen();
        assert_int_equal(handed, kind == GOOD);
        must(prepare(32));
        reopen();
        assert_true(handed); // and it was replaced by a good one
    }
    pm_free(file);
}

static void a_driver_that_keeps_nothing_gets_no_file(void **state) {
    (void)state;
    kept_size = sizeof(kept.header);
    must(prepare(32));
    kept_size = 20; // Mesa 26.2's lavapipe
    must(prepare(33));
    kept_size = sizeof(kept);
    get_result = VK_ERROR_OUT_OF_HOST_MEMORY;
    must(prepare(34));
    reopen();
    assert_null(cache_file());
}

static void a_driver_that_refuses_its_own_cache_starts_empty(void **state) {
    (void)state;
    must(prepare(32));
    create_result = VK_ERROR_UNKNOWN;
    reopen();
    assert_false(handed);
    must(prepare(32));
}

static void no_folder_is_no_error(void **state) {
    (void)state;
    static const char *const folders[] = {"", IS_WINDOWS ? "?:\\pumice" : "/proc/pumice", NULL_DEVICE};
    for (int i = 0; i < 3; i++) {
        setenv("PUMICE_CACHE", folders[i], 1);
        reopen();
        must(prepare(32));
        reopen();
        assert_false(handed);
    }
    setenv("PUMICE_CACHE", temp_folder, 1);
}

int main(void) {
#define FRESH(test) cmocka_unit_test_setup(test, reset)
    const struct CMUnitTest tests[] = {
        FRESH(the_table_is_whole),
        FRESH(a_kernel_is_refused_where_its_needs_are_not_met),
        FRESH(a_pipeline_is_made_once),
        FRESH(more_pipelines_than_the_list_has_room_for),
        FRESH(one_that_fails_does_not_take_the_others_along),
        FRESH(what_the_driver_keeps_is_handed_back),
        FRESH(a_file_is_written_only_when_there_is_news),
        FRESH(a_bad_file_is_never_handed_over),
        FRESH(a_driver_that_keeps_nothing_gets_no_file),
        FRESH(a_driver_that_refuses_its_own_cache_starts_empty),
        FRESH(no_folder_is_no_error),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
