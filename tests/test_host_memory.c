// Buffers, slabs, slices and views on whatever driver is here. Cards with other memory are played: the choice of a memory type is
// looked at in the call that would allocate it, and every Vulkan call on the way is made to fail once.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "host/vk.h"

#define MIB (UINT64_C(1) << 20)

static pm_device *dev;
static struct VolkDeviceTable real;
static pm_device saved; // the device as it was opened

// ---- helpers ----------------------------------------------------------------------------------------------------------

static int open_device(void **state) {
    (void)state;
    if (pm_device_open(NULL, &dev) != PM_OK)
        return -1;
    saved = *dev;
    real = dev->fn;
    return 0;
}

static int close_device(void **state) {
    (void)state;
    pm_device_close(&dev);
    return 0;
}

// After each test all memory is given back, and the device is as it was.
static int restore_device(void **state) {
    (void)state;
    for (uint32_t i = 0; i < VK_MAX_MEMORY_HEAPS; i++)
        if (dev->used[i])
            return -1;
    *dev = saved;
    return 0;
}

static void assert_text_has(const char *text, const char *part) {
    if (!strstr(text, part))
        fail_msg("\"%s\" does not say \"%s\"", text, part);
}

static uint64_t used(void) {
    uint64_t sum = 0;
    for (uint32_t i = 0; i < VK_MAX_MEMORY_HEAPS; i++)
        sum += dev->used[i];
    return sum;
}

static void copy(pm_slice dst, pm_slice src) {
    pm_cmd *cmd;
    assert_int_equal(pm_cmd_open(dev, "copy", &cmd), PM_OK);
    pm_cmd_begin(cmd);
    pm_cmd_copy(cmd, dst, src);
    assert_int_equal(pm_cmd_end(cmd), PM_OK);
    assert_int_equal(pm_cmd_submit(cmd), PM_OK);
    assert_int_equal(pm_cmd_wait(cmd), PM_OK);
    pm_cmd_close(&cmd);
}

// What the device has in a buffer, read the long way round.
static void read_back(pm_buffer *buffer, uint8_t *bytes) {
    pm_buffer *readback;
    assert_int_equal(pm_buffer_create(dev, buffer->size, PM_MEM_READBACK, "readback", &readback), PM_OK);
    copy(pm_buffer_all(readback), pm_buffer_all(buffer));
    memcpy(bytes, pm_slice_map(pm_buffer_all(readback)), (size_t)buffer->size);
    pm_buffer_close(&readback);
}

static void write_through(pm_buffer *buffer, const uint8_t *bytes) {
    pm_buffer *upload;
    assert_int_equal(pm_buffer_create(dev, buffer->size, PM_MEM_UPLOAD, "upload", &upload), PM_OK);
    memcpy(pm_slice_map(pm_buffer_all(upload)), bytes, (size_t)buffer->size);
    copy(pm_buffer_all(buffer), pm_buffer_all(upload));
    pm_buffer_close(&upload);
}

// ---- buffers ----------------------------------------------------------------------------------------------------------

// Dirty memory that a driver gives out again must come zeroed: written first, freed, and asked for anew. A small size, which
// software drivers take from the heap and give out dirty; a large one, which is more than one piece of zeroing.
static void check_kind(pm_memory memory, uint64_t size, bool mapped) {
    uint8_t *bytes = malloc(size), *zeros = calloc(1, size), *ones = malloc(size);
    memset(ones, 0xff, size);
    for (int round = 0; round < 3; round++) {
        pm_buffer *buffer;
        memset(bytes, 0x55, size);
        assert_int_equal(pm_buffer_create(dev, size, memory, "kind", &buffer), PM_OK);
        assert_true(used() >= size);
        assert_int_equal(pm_slice_map(pm_buffer_all(buffer)) != NULL, mapped);
        read_back(buffer, bytes);
        assert_memory_equal(bytes, zeros, size);
        write_through(buffer, ones);
        read_back(buffer, bytes);
        assert_memory_equal(bytes, ones, size);
        pm_buffer_close(&buffer);
        assert_null(buffer);
    }
    free(bytes), free(zeros), free(ones);
}

static void every_kind_is_zeroed_and_keeps_what_is_written(void **state) {
    (void)state;
    const uint64_t sizes[] = {20000, 5 * MIB};
    for (int i = 0; i < 2; i++) {
        dev->caps.map_device = saved.caps.map_device;
        check_kind(PM_MEM_UPLOAD, sizes[i], true);
        check_kind(PM_MEM_READBACK, sizes[i], true);
        check_kind(PM_MEM_DEVICE, sizes[i], dev->caps.map_device);
        dev->caps.map_device = false; // as on a card: zeroed and written by commands
        check_kind(PM_MEM_DEVICE, sizes[i], false);
    }
}

static void a_mapped_write_reaches_the_device(void **state) {
    (void)state;
    pm_buffer *buffer;
    uint8_t bytes[512];
    assert_int_equal(pm_buffer_create(dev, sizeof(bytes), PM_MEM_UPLOAD, "mapped", &buffer), PM_OK);
    uint8_t *mapped = pm_slice_map(pm_buffer_slice(buffer, 256, 256));
    for (int i = 0; i < 256; i++)
        mapped[i] = (uint8_t)i;
    read_back(buffer, bytes);
    for (int i = 0; i < 512; i++)
        assert_int_equal(bytes[i], i < 256 ? 0 : i - 256);
    pm_buffer_close(&buffer);
    pm_buffer_close(&buffer);
}

static void odd_and_empty_sizes(void **state) {
    (void)state;
    const uint64_t sizes[] = {0, 1, 3, 255, 257, 4097};
    for (int staged = 0; staged < 2; staged++) {
        dev->caps.map_device = saved.caps.map_device && !staged;
        for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
            pm_buffer *buffer;
            assert_int_equal(pm_buffer_create(dev, sizes[i], PM_MEM_DEVICE, "odd", &buffer), PM_OK);
            assert_int_equal(pm_buffer_all(buffer).size, sizes[i]);
            pm_buffer_close(&buffer);
        }
    }
}

// ---- too large --------------------------------------------------------------------------------------------------------

static int n_allocations;

static VKAPI_ATTR VkResult VKAPI_CALL count_allocations(VkDevice device, const VkMemoryAllocateInfo *info,
                                                        const VkAllocationCallbacks *allocator, VkDeviceMemory *memory) {
    n_allocations++;
    return real.vkAllocateMemory(device, info, allocator, memory);
}

static void expect_too_large(uint64_t size, const char *part) {
    pm_buffer *buffer = (pm_buffer *)&buffer;
    n_allocations = 0;
    assert_int_equal(pm_buffer_create(dev, size, PM_MEM_DEVICE, "giant", &buffer), PM_ERR_DEVICE_MEMORY);
    assert_null(buffer);
    assert_int_equal(n_allocations, 0); // the driver was not even asked
    assert_text_has(pm_error_text(), "giant: ");
    assert_text_has(pm_error_text(), part);
    assert_text_has(pm_error_text(), dev->info.name);
}

static VKAPI_ATTR void VKAPI_CALL little_budget(VkPhysicalDevice physical, VkPhysicalDeviceMemoryProperties2 *memory) {
    VkPhysicalDeviceMemoryBudgetPropertiesEXT *budget = memory->pNext;
    vkGetPhysicalDeviceMemoryProperties(physical, &memory->memoryProperties);
    for (uint32_t i = 0; budget && i < VK_MAX_MEMORY_HEAPS; i++) {
        budget->heapBudget[i] = 100 * MIB;
        budget->heapUsage[i] = 70 * MIB;
    }
}

static void too_large_is_refused_before_the_driver_is_asked(void **state) {
    (void)state;
    dev->fn.vkAllocateMemory = count_allocations;
    expect_too_large(UINT64_MAX, "at once");
    expect_too_large(UINT64_MAX - 100, "at once");
    expect_too_large(dev->info.max_buffer + 1, "at once");
    dev->info.max_buffer = 8 * MIB;
    expect_too_large(9 * MIB, "9.0 MiB wanted, but");
    expect_too_large(9 * MIB, "at most 8.0 MiB at once");
    dev->info.max_buffer = saved.info.max_buffer;
    dev->info.budget_known = false;
    dev->free_ram = 0;
    for (int i = 0; i < dev->info.n_heaps; i++)
        dev->info.heaps[i].size = 16 * MIB;
    assert_int_equal(pm_device_free_memory(dev), 16 * MIB);
    expect_too_large(17 * MIB, "17.0 MiB wanted, 16.0 MiB free of 16.0 MiB");
}

static void a_budget_is_kept(void **state) {
    (void)state;
    PFN_vkGetPhysicalDeviceMemoryProperties2 before = vkGetPhysicalDeviceMemoryProperties2;
    pm_buffer *buffer;
    vkGetPhysicalDeviceMemoryProperties2 = little_budget;
    dev->info.budget_known = true;
    dev->fn.vkAllocateMemory = count_allocations;
    assert_int_equal(pm_device_free_memory(dev), 30 * MIB);
    expect_too_large(31 * MIB, "31.0 MiB wanted, 30.0 MiB free");
    assert_int_equal(pm_buffer_create(dev, 29 * MIB, PM_MEM_DEVICE, "fits", &buffer), PM_OK);
    pm_buffer_close(&buffer);
    vkGetPhysicalDeviceMemoryProperties2 = before;
}

// A software driver's heap is a number it made up: the machine's memory is what is there. A card's heap is the card's.
static void a_cpu_has_the_machines_memory(void **state) {
    (void)state;
    dev->info.budget_known = false;
    dev->free_ram = 24 * MIB;
    for (int i = 0; i < dev->info.n_heaps; i++)
        dev->info.heaps[i].size = 16 * MIB;
    dev->info.type = PM_DEVICE_CPU;
    assert_int_equal(pm_device_free_memory(dev), 24 * MIB);
    dev->info.type = PM_DEVICE_DISCRETE;
    assert_int_equal(pm_device_free_memory(dev), 16 * MIB);
}

// Without a budget our own buffers are what is known to be gone.
static void free_memory_counts_our_buffers(void **state) {
    (void)state;
    pm_buffer *buffer;
    dev->info.budget_known = false;
    uint64_t before = pm_device_free_memory(dev);
    assert_int_equal(pm_buffer_create(dev, 3 * MIB, PM_MEM_DEVICE, "counted", &buffer), PM_OK);
    assert_true(before - pm_device_free_memory(dev) >= 3 * MIB && before - pm_device_free_memory(dev) < 4 * MIB);
    pm_buffer_close(&buffer);
    assert_int_equal(pm_device_free_memory(dev), before);
}

// ---- calls that fail --------------------------------------------------------------------------------------------------

static int n_buffers, n_memories;

static VKAPI_ATTR VkResult VKAPI_CALL open_buffer(VkDevice device, const VkBufferCreateInfo *info,
                                                  const VkAllocationCallbacks *allocator, VkBuffer *buffer) {
    n_buffers++;
    return real.vkCreateBuffer(device, info, allocator, buffer);
}

static VKAPI_ATTR void VKAPI_CALL close_buffer(VkDevice device, VkBuffer buffer, const VkAllocationCallbacks *allocator) {
    n_buffers -= buffer != VK_NULL_HANDLE;
    real.vkDestroyBuffer(device, buffer, allocator);
}

static VKAPI_ATTR VkResult VKAPI_CALL open_memory(VkDevice device, const VkMemoryAllocateInfo *info,
                                                  const VkAllocationCallbacks *allocator, VkDeviceMemory *memory) {
    n_memories++;
    return real.vkAllocateMemory(device, info, allocator, memory);
}

static VKAPI_ATTR void VKAPI_CALL close_memory(VkDevice device, VkDeviceMemory memory, const VkAllocationCallbacks *allocator) {
    n_memories -= memory != VK_NULL_HANDLE;
    real.vkFreeMemory(device, memory, allocator);
}

static VKAPI_ATTR VkResult VKAPI_CALL no_buffer(VkDevice device, const VkBufferCreateInfo *info,
                                                const VkAllocationCallbacks *allocator, VkBuffer *buffer) {
    (void)device, (void)info, (void)allocator, (void)buffer;
    return VK_ERROR_OUT_OF_HOST_MEMORY;
}

static VKAPI_ATTR VkResult VKAPI_CALL no_memory(VkDevice device, const VkMemoryAllocateInfo *info,
                                                const VkAllocationCallbacks *allocator, VkDeviceMemory *memory) {
    (void)device, (void)info, (void)allocator, (void)memory;
    return VK_ERROR_OUT_OF_DEVICE_MEMORY;
}

static VKAPI_ATTR VkResult VKAPI_CALL no_bind(VkDevice device, VkBuffer buffer, VkDeviceMemory memory, VkDeviceSize offset) {
    (void)device, (void)buffer, (void)memory, (void)offset;
    return VK_ERROR_OUT_OF_DEVICE_MEMORY;
}

static VKAPI_ATTR VkResult VKAPI_CALL no_map(VkDevice device, VkDeviceMemory memory, VkDeviceSize offset, VkDeviceSize size,
                                             VkMemoryMapFlags flags, void **data) {
    (void)device, (void)memory, (void)offset, (void)size, (void)flags, (void)data;
    return VK_ERROR_MEMORY_MAP_FAILED;
}

static VKAPI_ATTR VkResult VKAPI_CALL lost(VkQueue queue, uint32_t n, const VkSubmitInfo *infos, VkFence fence) {
    (void)queue, (void)n, (void)infos, (void)fence;
    return VK_ERROR_DEVICE_LOST;
}

static void count_objects(void) {
    n_buffers = n_memories = 0;
    dev->fn = real;
    dev->fn.vkCreateBuffer = open_buffer;
    dev->fn.vkDestroyBuffer = close_buffer;
    dev->fn.vkAllocateMemory = open_memory;
    dev->fn.vkFreeMemory = close_memory;
}

static void expect_failure(pm_memory memory, pm_status status, const char *part) {
    pm_buffer *buffer = (pm_buffer *)&buffer;
    assert_int_equal(pm_buffer_create(dev, 4096, memory, "doomed", &buffer), status);
    assert_text_has(pm_error_text(), part);
    assert_null(buffer);
    assert_int_equal(n_buffers, 0);
    assert_int_equal(n_memories, 0);
    assert_int_equal(used(), 0);
}

static void nothing_is_left_when_a_call_fails(void **state) {
    (void)state;
    count_objects();
    dev->fn.vkCreateBuffer = no_buffer;
    expect_failure(PM_MEM_UPLOAD, PM_ERR_MEMORY, "vkCreateBuffer failed");
    count_objects();
    dev->fn.vkAllocateMemory = no_memory;
    expect_failure(PM_MEM_UPLOAD, PM_ERR_DEVICE_MEMORY, "doomed: ");
    count_objects();
    dev->fn.vkBindBufferMemory = no_bind;
    expect_failure(PM_MEM_UPLOAD, PM_ERR_DEVICE_MEMORY, "vkBindBufferMemory failed");
    count_objects();
    dev->fn.vkMapMemory = no_map;
    expect_failure(PM_MEM_READBACK, PM_ERR_MEMORY, "vkMapMemory failed");
    count_objects();
    dev->caps.map_device = false;
    dev->fn.vkQueueSubmit = lost;
    expect_failure(PM_MEM_DEVICE, PM_ERR_DEVICE_LOST, "vkQueueSubmit");
}

static void nothing_is_left_when_host_memory_fails(void **state) {
    (void)state;
    for (int staged = 0; staged < 2; staged++) {
        pm_status status = PM_ERR_MEMORY;
        pm_buffer *buffer;
        dev->caps.map_device = saved.caps.map_device && !staged;
        for (long n = 1; status != PM_OK; n++) {
            count_objects();
            pm_alloc_fail_after(n);
            status = pm_buffer_create(dev, 4096, PM_MEM_DEVICE, "doomed", &buffer);
            pm_alloc_fail_after(0);
            if (status != PM_OK) {
                assert_int_equal(status, PM_ERR_MEMORY);
                assert_null(buffer);
                assert_int_equal(n_buffers, 0);
                assert_int_equal(n_memories, 0);
            }
            assert_true(n < 100);
        }
        pm_buffer_close(&buffer);
    }
}

// ---- memory types -----------------------------------------------------------------------------------------------------

#define L   VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT
#define V   (VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | VK_MEMORY_PROPERTY_HOST_COHERENT_BIT)
#define C   VK_MEMORY_PROPERTY_HOST_CACHED_BIT
#define AMD (VK_MEMORY_PROPERTY_DEVICE_COHERENT_BIT_AMD | VK_MEMORY_PROPERTY_DEVICE_UNCACHED_BIT_AMD)

// Memory of devices as vulkan.gpuinfo.org has it, in the driver's order, and the type expected of each use.
typedef struct card {
    const char *name;
    bool unified;
    int n_types;
    VkMemoryPropertyFlags types[10];
    int device, upload, readback;
} card;

static const card cards[] = {
    {"NVIDIA card", false, 6, {0, L, L, V, V | C, L | V}, 1, 3, 4},
    {"AMD card, RADV", false, 7, {L, L, V, L | V, L | V, V | C, V | C}, 0, 2, 5},
    {"AMD card, AMDVLK", false, 8, {L, L | V, V, V | C, L | AMD, L | V | AMD, V | AMD, V | C | AMD}, 0, 2, 3},
    {"Intel built-in", true, 2, {L | V, L | V | C}, 1, 0, 1},
    {"AMD built-in, RADV", true, 4, {L, V, L | V, V | C}, 2, 2, 3},
    {"Adreno", true, 4, {L, L | V | C, L | V, L | VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | C}, 1, 1, 1},
    {"Mali",
     true,
     4,
     {L | V, L | VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | C, L | V | C, L | VK_MEMORY_PROPERTY_LAZILY_ALLOCATED_BIT},
     2,
     0,
     2},
    {"lavapipe", true, 1, {L | V | C}, 0, 0, 0},
    {"no cached memory", false, 2, {L, V}, 0, 1, 1},
};

static int asked_type;

static VKAPI_ATTR VkResult VKAPI_CALL note_type(VkDevice device, const VkMemoryAllocateInfo *info,
                                                const VkAllocationCallbacks *allocator, VkDeviceMemory *memory) {
    (void)device, (void)allocator, (void)memory;
    asked_type = (int)info->memoryTypeIndex;
    return VK_ERROR_OUT_OF_DEVICE_MEMORY;
}

static VKAPI_ATTR void VKAPI_CALL any_type(VkDevice device, VkBuffer buffer, VkMemoryRequirements *need) {
    (void)device, (void)buffer;
    *need = (VkMemoryRequirements){4096, 256, UINT32_MAX};
}

static void expect_type(const card *c, pm_memory memory, int type) {
    pm_buffer *buffer;
    asked_type = -1;
    assert_int_equal(pm_buffer_create(dev, 4096, memory, c->name, &buffer), PM_ERR_DEVICE_MEMORY);
    if (asked_type != type)
        fail_msg("%s: type %d for use %d, not %d", c->name, asked_type, (int)memory, type);
}

static void picks_the_right_memory_of_known_cards(void **state) {
    (void)state;
    dev->fn.vkAllocateMemory = note_type;
    dev->fn.vkGetBufferMemoryRequirements = any_type;
    dev->info.budget_known = false;
    for (size_t i = 0; i < sizeof(cards) / sizeof(*cards); i++) {
        const card *c = &cards[i];
        dev->info.unified_memory = c->unified;
        dev->memory.memoryTypeCount = (uint32_t)c->n_types;
        for (int t = 0; t < c->n_types; t++)
            dev->memory.memoryTypes[t] = (VkMemoryType){c->types[t], 0};
        expect_type(c, PM_MEM_DEVICE, c->device);
        expect_type(c, PM_MEM_UPLOAD, c->upload);
        expect_type(c, PM_MEM_READBACK, c->readback);
    }
}

// ---- slabs ------------------------------------------------------------------------------------------------------------

static bool overlap(pm_slice a, pm_slice b) {
    return a.buffer == b.buffer && a.offset < b.offset + b.size && b.offset < a.offset + a.size;
}

static void slices_of_slabs_are_aligned_and_apart(void **state) {
    (void)state;
    enum { N = 60 };
    pm_slabs *slabs;
    pm_slice slices[N];
    uint64_t sum = 0;
    uint32_t seed = 12345;
    dev->info.max_buffer = MIB; // many slabs without much memory
    assert_int_equal(pm_slabs_create(dev, 4 * MIB, "slabs", &slabs), PM_OK);
    for (int i = 0; i < N; i++) {
        seed = seed * 1664525 + 1013904223;
        uint64_t size = i % 7 == 0 ? 400000u + (uint32_t)i : seed % 60000;
        assert_int_equal(pm_slabs_alloc(slabs, size, &slices[i]), PM_OK);
        assert_int_equal(slices[i].size, size);
        assert_int_equal(slices[i].offset % pm_slice_align(dev), 0);
        assert_true(slices[i].offset + size <= slices[i].buffer->size);
        sum += size;
        for (int j = 0; j < i; j++)
            assert_false(overlap(slices[i], slices[j]));
    }
    assert_true(pm_slabs_bytes(slabs) >= sum);
    pm_slabs_close(&slabs);
    assert_null(slabs);
    pm_slabs_close(&slabs);
}

static void slabs_are_made_to_measure(void **state) {
    (void)state;
    const uint64_t sizes[] = {300000, 5000000, 256, 70000};
    pm_slabs *slabs;
    pm_slice slice;
    uint64_t expected = 0;
    for (int i = 0; i < 4; i++)
        expected += pm_round_up(sizes[i], pm_slice_align(dev));
    assert_int_equal(pm_slabs_create(dev, expected, "measured", &slabs), PM_OK);
    assert_int_equal(pm_slabs_bytes(slabs), 0);
    for (int i = 0; i < 4; i++)
        assert_int_equal(pm_slabs_alloc(slabs, sizes[i], &slice), PM_OK);
    assert_int_equal(pm_slabs_bytes(slabs), expected);

    assert_int_equal(pm_slabs_alloc(slabs, 1000, &slice), PM_OK); // one that nobody expected
    assert_true(pm_slabs_bytes(slabs) - expected < 2000);
    pm_slabs_close(&slabs);
}

static void slabs_respect_the_largest_buffer(void **state) {
    (void)state;
    pm_slabs *slabs;
    pm_slice first, large, small;
    dev->info.max_buffer = MIB;
    assert_int_equal(pm_slabs_create(dev, 10 * MIB, "limited", &slabs), PM_OK);
    assert_int_equal(pm_slabs_alloc(slabs, 600000, &first), PM_OK);
    assert_int_equal(pm_slabs_bytes(slabs), MIB);
    assert_int_equal(pm_slabs_alloc(slabs, 900000, &large), PM_OK);
    assert_ptr_not_equal(large.buffer, first.buffer);
    assert_int_equal(pm_slabs_alloc(slabs, 300000, &small), PM_OK); // fits behind the first
    assert_ptr_equal(small.buffer, first.buffer);

    uint64_t before = pm_slabs_bytes(slabs);
    assert_int_equal(pm_slabs_alloc(slabs, 3 * MIB, &large), PM_ERR_DEVICE_MEMORY);
    assert_text_has(pm_error_text(), "limited: 3.0 MiB wanted");
    assert_null(large.buffer);
    assert_int_equal(pm_slabs_alloc(slabs, UINT64_MAX, &large), PM_ERR_DEVICE_MEMORY);
    assert_int_equal(pm_slabs_bytes(slabs), before);
    assert_int_equal(pm_slabs_alloc(slabs, 64, &small), PM_OK); // and goes on
    pm_slabs_close(&slabs);
}

static VKAPI_ATTR VkResult VKAPI_CALL only_small(VkDevice device, const VkMemoryAllocateInfo *info,
                                                 const VkAllocationCallbacks *allocator, VkDeviceMemory *memory) {
    return info->allocationSize > MIB ? VK_ERROR_OUT_OF_DEVICE_MEMORY : real.vkAllocateMemory(device, info, allocator, memory);
}

// A driver with holes in its memory may refuse a slab and still have room for what is asked now.
static void a_refused_slab_becomes_a_smaller_one(void **state) {
    (void)state;
    pm_slabs *slabs;
    pm_slice slice;
    dev->fn.vkAllocateMemory = only_small;
    assert_int_equal(pm_slabs_create(dev, 8 * MIB, "holes", &slabs), PM_OK);
    assert_int_equal(pm_slabs_alloc(slabs, 500000, &slice), PM_OK);
    assert_true(pm_slabs_bytes(slabs) < MIB);
    assert_int_equal(pm_slabs_alloc(slabs, 2 * MIB, &slice), PM_ERR_DEVICE_MEMORY);
    pm_slabs_close(&slabs);
}

static void slabs_survive_every_failed_allocation(void **state) {
    (void)state;
    pm_status status = PM_ERR_MEMORY;
    pm_slabs *slabs;
    pm_slice slice;
    for (long n = 1; status != PM_OK; n++) {
        count_objects();
        pm_alloc_fail_after(n);
        status = pm_slabs_create(dev, 100000, "doomed", &slabs);
        if (status == PM_OK)
            status = pm_slabs_alloc(slabs, 5000, &slice);
        pm_alloc_fail_after(0);
        pm_slabs_close(&slabs);
        assert_true(status == PM_OK || status == PM_ERR_MEMORY);
        assert_int_equal(n_buffers, 0);
        assert_int_equal(n_memories, 0);
        assert_true(n < 100);
    }
}

// ---- planning ---------------------------------------------------------------------------------------------------------

// The same requests on the device and on a dry one: the same bytes, with and without a limit that makes many slabs.
static void compare_slabs(pm_device *dry, uint64_t max_buffer) {
    pm_slabs *real_slabs, *dry_slabs;
    pm_slice slice;
    unsigned random = 7;
    dev->info.max_buffer = dry->info.max_buffer = max_buffer;
    assert_int_equal(pm_slabs_create(dev, 6 * MIB, "wet", &real_slabs), PM_OK);
    assert_int_equal(pm_slabs_create(dry, 6 * MIB, "dry", &dry_slabs), PM_OK);
    for (int i = 0; i < 60; i++) {
        random = random * 1103515245 + 12345;
        uint64_t size = (random >> 8) % (200 << 10);
        assert_int_equal(pm_slabs_alloc(real_slabs, size, &slice), PM_OK);
        assert_int_equal(pm_slabs_alloc(dry_slabs, size, &slice), PM_OK);
        assert_null(pm_slice_map(slice));
        assert_int_equal(pm_slabs_bytes(dry_slabs), pm_slabs_bytes(real_slabs));
    }
    assert_int_equal(pm_slabs_alloc(dry_slabs, max_buffer + 1, &slice), PM_ERR_DEVICE_MEMORY);
    pm_slabs_close(&real_slabs);
    pm_slabs_close(&dry_slabs);
}

static void a_dry_device_answers_as_the_open_one(void **state) {
    (void)state;
    pm_device_info *infos;
    pm_device *dry;
    int n;
    assert_int_equal(pm_device_list(&infos, &n), PM_OK);
    count_objects();
    assert_int_equal(pm_device_open_dry(&infos[dev->info.index], &dry), PM_OK);
    pm_free(infos);
    assert_int_equal(pm_slice_align(dry), pm_slice_align(dev));
    assert_int_equal(pm_device_chunk(dry), pm_device_chunk(dev));
    assert_int_equal(pm_device_get_info(dry)->max_binding, dev->info.max_binding);
    assert_memory_equal(dry->info.heap_of, dev->info.heap_of, sizeof(dry->info.heap_of));
    uint64_t have = pm_device_free_memory(dry), now = pm_device_free_memory(dev); // other programs come and go
    assert_in_range(have, now - now / 4, now + now / 4);
    assert_int_equal(pm_device_heap_free(dry, dry->info.heap_of[PM_MEM_DEVICE]), have);
    assert_int_equal(pm_device_heap_free(dry, -1), 0);
    assert_int_equal(pm_device_heap_free(dry, 99), 0);
    compare_slabs(dry, dev->info.max_buffer);
    compare_slabs(dry, MIB);
    pm_device_close(&dry);
    assert_null(dry);
}

// ---- views ------------------------------------------------------------------------------------------------------------

static void views_are_where_they_should_be(void **state) {
    (void)state;
    pm_buffer *buffer;
    assert_int_equal(pm_activation_bytes(3, 33), 3 * 64 * 4);
    assert_int_equal(pm_activation_bytes(1u << 20, 1u << 20), UINT64_C(1) << 42); // computed in 64 bits
    assert_int_equal(pm_buffer_create(dev, 4096, PM_MEM_UPLOAD, "views", &buffer), PM_OK);
    pm_tensor t = pm_activation(pm_buffer_slice(buffer, 256, 3840), 5, 33);
    assert_int_equal(t.rows, 5);
    assert_int_equal(t.cols, 33);
    assert_int_equal(t.stride, 64);
    assert_int_equal(t.data.offset, 256);
    assert_int_equal(t.data.size, 5 * 64 * 4);
    assert_int_equal(t.dtype, PM_F32);
    pm_tensor r = pm_tensor_rows(t, 2, 3);
    assert_int_equal(r.rows, 3);
    assert_int_equal(r.cols, 33);
    assert_int_equal(r.data.offset, 256 + 2 * 64 * 4);
    assert_int_equal(r.data.size, 3 * 64 * 4);
    assert_ptr_equal(pm_slice_map(r.data), (uint8_t *)pm_slice_map(pm_buffer_all(buffer)) + 256 + 512);
    assert_null(pm_slice_map((pm_slice){0}));
    pm_buffer_close(&buffer);
}

int main(void) {
#define TEST(name) cmocka_unit_test_teardown(name, restore_device)
    const struct CMUnitTest tests[] = {
        TEST(every_kind_is_zeroed_and_keeps_what_is_written),
        TEST(a_mapped_write_reaches_the_device),
        TEST(odd_and_empty_sizes),
        TEST(too_large_is_refused_before_the_driver_is_asked),
        TEST(a_budget_is_kept),
        TEST(a_cpu_has_the_machines_memory),
        TEST(free_memory_counts_our_buffers),
        TEST(nothing_is_left_when_a_call_fails),
        TEST(nothing_is_left_when_host_memory_fails),
        TEST(picks_the_right_memory_of_known_cards),
        TEST(slices_of_slabs_are_aligned_and_apart),
        TEST(slabs_are_made_to_measure),
        TEST(slabs_respect_the_largest_buffer),
        TEST(a_refused_slab_becomes_a_smaller_one),
        TEST(slabs_survive_every_failed_allocation),
        TEST(a_dry_device_answers_as_the_open_one),
        TEST(views_are_where_they_should_be),
    };
    pm_status status = pm_device_open(NULL, &dev);
    if (status == PM_ERR_NO_DEVICE) {
        printf("%s\n", pm_error_text());
        return 77;
    }
    pm_device_close(&dev);
    return cmocka_run_group_tests(tests, open_device, close_device);
}
