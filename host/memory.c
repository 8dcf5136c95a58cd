// Buffers and the memory under them: which type for which use, the budget, slabs, slices and views of them.
#include "host/vk.h"

#include <assert.h>
#include <string.h>

#define MIB(bytes) ((double)(bytes) / (1 << 20))

// ---- memory types -----------------------------------------------------------------------------------------------------

#define LOCAL   VK_MEMORY_PROPERTY_DEVICE_LOCAL_BIT
#define VISIBLE (VK_MEMORY_PROPERTY_HOST_VISIBLE_BIT | VK_MEMORY_PROPERTY_HOST_COHERENT_BIT)
#define CACHED  VK_MEMORY_PROPERTY_HOST_CACHED_BIT

// What a use of memory asks of a type: it must have all of `need`; fewer missing of `like` and fewer of `avoid` make a better one.
typedef struct wish {
    VkMemoryPropertyFlags need, like, avoid;
} wish;

static wish wish_for(bool unified, pm_memory memory) {
    switch (memory) {
    case PM_MEM_UPLOAD:
        return unified ? (wish){VISIBLE, LOCAL, 0} : (wish){VISIBLE, 0, LOCAL | CACHED};
    case PM_MEM_READBACK:
        return (wish){VISIBLE, CACHED, unified ? 0 : LOCAL};
    default: // the part of a card's memory that the host can see may be small: leave it
        return unified ? (wish){LOCAL, VISIBLE | CACHED, 0} : (wish){LOCAL, 0, VISIBLE};
    }
}

static int count_bits(VkMemoryPropertyFlags bits) {
    int n = 0;
    for (; bits; bits &= bits - 1)
        n++;
    return n;
}

// The best type of those in `allowed`, the earlier of two equal ones (drivers list faster types first); -1: none. Types with
// other properties (protected, lazily allocated, AMD's uncached ones) need features that we do not enable.
static int pick_type(const VkPhysicalDeviceMemoryProperties *memory, uint32_t allowed, wish w) {
    int best = -1, best_badness = 0;
    for (uint32_t i = 0; i < memory->memoryTypeCount; i++) {
        VkMemoryPropertyFlags flags = memory->memoryTypes[i].propertyFlags;
        bool usable = (allowed >> i & 1) && (flags & w.need) == w.need && !(flags & ~(LOCAL | VISIBLE | CACHED));
        int badness = count_bits(w.like & ~flags) + count_bits(w.avoid & flags);
        if (usable && (best < 0 || badness < best_badness)) {
            best = (int)i;
            best_badness = badness;
        }
    }
    return best;
}

_Static_assert(sizeof((pm_device_info){0}.heap_of) == PM_MEM_COUNT * sizeof(int), "a heap for each use of memory");

void pm_memory_heaps(const VkPhysicalDeviceMemoryProperties *memory, bool unified, int heap_of[PM_MEM_COUNT]) {
    for (int i = 0; i < PM_MEM_COUNT; i++) {
        int type = pick_type(memory, UINT32_MAX, wish_for(unified, (pm_memory)i));
        heap_of[i] = type < 0 ? -1 : (int)memory->memoryTypes[type].heapIndex;
    }
}

// ---- budget -----------------------------------------------------------------------------------------------------------

// Bytes of a heap that are left for us: the driver's word, else the heap less our own buffers. Software drivers give more than the
// heap they name (lavapipe 22: 2 GiB): there it is the machine's memory that counts.
static uint64_t heap_left(const pm_device *dev, uint32_t heap) {
    pm_heap_info heaps[VK_MAX_MEMORY_HEAPS];
    int n;
    if (dev->info.budget_known && dev->vk) {
        pm_probe_heaps(dev->physical, true, heaps, &n);
        return heaps[heap].budget;
    }
    const pm_heap_info *info = &dev->info.heaps[heap];
    uint64_t size = dev->info.budget_known ? info->budget : info->size;
    if (!dev->info.budget_known && dev->info.type == PM_DEVICE_CPU && dev->free_ram > size)
        size = dev->free_ram;
    return size > dev->used[heap] ? size - dev->used[heap] : 0;
}

uint64_t pm_device_heap_free(const pm_device *dev, int heap) {
    return heap < 0 || heap >= dev->info.n_heaps ? 0 : heap_left(dev, (uint32_t)heap);
}

uint64_t pm_device_free_memory(const pm_device *dev) {
    return pm_device_heap_free(dev, dev->info.heap_of[PM_MEM_DEVICE]);
}

// Refuses what cannot work before the driver tries: on some the attempt pushes other programs out, or takes the display down.
// Where no budget is known the sum is not held against the heap: software drivers give more than the heap they name.
static pm_status check_room(const pm_device *dev, uint64_t size, uint32_t heap, const char *name) {
    uint64_t left = heap_left(dev, heap), heap_size = dev->info.heaps[heap].size;
    if (size > dev->info.max_buffer)
        return pm_fail(PM_ERR_DEVICE_MEMORY, "%s: %.1f MiB wanted, but %s gives at most %.1f MiB at once", name, MIB(size),
                       dev->info.name, MIB(dev->info.max_buffer));
    if (size > heap_size || (dev->info.budget_known && size > left))
        return pm_fail(PM_ERR_DEVICE_MEMORY, "%s: %.1f MiB wanted, %.1f MiB free of %.1f MiB on %s", name, MIB(size),
                       MIB(left < heap_size ? left : heap_size), MIB(heap_size), dev->info.name);
    return PM_OK;
}

// ---- buffers ----------------------------------------------------------------------------------------------------------

enum { BUFFER_UNIT = 256 }; // sizes are rounded up to it, so that a kernel may read whole words at the end

static pm_status create_vk_buffer(pm_buffer *b) {
    VkBufferCreateInfo create = {
        .sType = VK_STRUCTURE_TYPE_BUFFER_CREATE_INFO,
        .size = b->size,
        .usage = VK_BUFFER_USAGE_STORAGE_BUFFER_BIT | VK_BUFFER_USAGE_TRANSFER_SRC_BIT | VK_BUFFER_USAGE_TRANSFER_DST_BIT,
        .sharingMode = VK_SHARING_MODE_EXCLUSIVE,
    };
    VK_TRY(b->dev->fn.vkCreateBuffer(b->dev->vk, &create, NULL, &b->vk));
    pm_vk_name(b->dev, VK_OBJECT_TYPE_BUFFER, (uint64_t)b->vk, b->name);
    return PM_OK;
}

// A driver that runs out says so by its result alone: the message names the buffer and the sizes.
static pm_status allocate(pm_buffer *b, uint64_t size, uint32_t type) {
    pm_device *dev = b->dev;
    VkMemoryAllocateInfo info = {
        .sType = VK_STRUCTURE_TYPE_MEMORY_ALLOCATE_INFO,
        .allocationSize = size,
        .memoryTypeIndex = type,
    };
    VkResult result = dev->fn.vkAllocateMemory(dev->vk, &info, NULL, &b->memory);
    if (result == VK_ERROR_OUT_OF_DEVICE_MEMORY)
        return pm_fail(PM_ERR_DEVICE_MEMORY, "%s: %.1f MiB wanted, %s has no more (%.1f MiB free by its own account)", b->name,
                       MIB(size), dev->info.name, MIB(heap_left(dev, dev->memory.memoryTypes[type].heapIndex)));
    if (result < 0)
        return pm_vk_fail(result, "vkAllocateMemory");
    b->heap = dev->memory.memoryTypes[type].heapIndex;
    b->taken = size;
    dev->used[b->heap] += size;
    return PM_OK;
}

static pm_status bind_memory(pm_buffer *b, pm_memory memory) {
    pm_device *dev = b->dev;
    VkMemoryRequirements need;
    dev->fn.vkGetBufferMemoryRequirements(dev->vk, b->vk, &need);
    int type = pick_type(&dev->memory, need.memoryTypeBits, wish_for(dev->info.unified_memory, memory));
    if (type < 0)
        return pm_fail(PM_ERR_DEVICE, "%s: %s has no memory of the kind", b->name, dev->info.name);
    PM_TRY(check_room(dev, need.size, dev->memory.memoryTypes[type].heapIndex, b->name));
    PM_TRY(allocate(b, need.size, (uint32_t)type));
    VK_TRY(dev->fn.vkBindBufferMemory(dev->vk, b->vk, b->memory, 0));

    bool visible = (dev->memory.memoryTypes[type].propertyFlags & VISIBLE) == VISIBLE;
    bool wanted = memory != PM_MEM_DEVICE || dev->caps.map_device;
    if (visible && wanted)
        VK_TRY(dev->fn.vkMapMemory(dev->vk, b->memory, 0, VK_WHOLE_SIZE, 0, (void **)&b->mapped));
    return PM_OK;
}

static pm_status zero_on_device(pm_buffer *b) {
    pm_cmd *cmd = NULL;
    PM_TRY(pm_cmd_open(b->dev, "zero", &cmd));
    pm_cmd_begin(cmd);
    pm_cmd_zero(cmd, pm_buffer_all(b));
    pm_status status = pm_cmd_run(cmd);
    pm_cmd_close(&cmd);
    return status;
}

// ---- zeroing what is mapped -------------------------------------------------------------------------------------------

enum { ZERO_PIECE = 4 << 20 };

typedef struct zeroing {
    uint8_t *start;
    uint64_t size;
} zeroing;

static void zero_piece(void *user, int i) {
    const zeroing *z = user;
    uint64_t from = (uint64_t)i * ZERO_PIECE, left = z->size - from;
    memset(z->start + from, 0, (size_t)(left < ZERO_PIECE ? left : ZERO_PIECE));
}

// On many threads: of a fresh slab the time goes into the operating system's page faults.
static void zero_mapped(pm_buffer *b) {
    zeroing z = {b->mapped, b->taken};
    pm_parallel_for((int)((b->taken + ZERO_PIECE - 1) / ZERO_PIECE), zero_piece, &z);
}

static pm_status fill_buffer(pm_buffer *b, pm_memory memory) {
    PM_TRY(create_vk_buffer(b));
    PM_TRY(bind_memory(b, memory));
    if (!b->mapped)
        return zero_on_device(b);
    zero_mapped(b);
    return PM_OK;
}

pm_status pm_buffer_create(pm_device *dev, uint64_t size, pm_memory memory, const char *name, pm_buffer **buffer) {
    *buffer = NULL;
    if (size > dev->info.max_buffer) // before Vulkan is asked, which may not be asked for such a buffer
        return check_room(dev, size, 0, name);
    pm_buffer *b = pm_calloc(1, sizeof(*b));
    if (!b)
        return pm_fail(PM_ERR_MEMORY, "%s: no memory for a buffer", name);
    b->dev = dev;
    b->size = pm_round_up(size ? size : 1, BUFFER_UNIT);
    b->name = name;
    pm_status status = dev->vk ? fill_buffer(b, memory) : PM_OK; // a dry device: a size is all it has
    b->size = size;
    if (status == PM_OK)
        *buffer = b;
    else
        pm_buffer_close(&b);
    return status;
}

void pm_buffer_close(pm_buffer **buffer) {
    pm_buffer *b = *buffer;
    *buffer = NULL;
    if (!b)
        return;
    pm_device *dev = b->dev;
    if (dev->vk) {
        dev->fn.vkDestroyBuffer(dev->vk, b->vk, NULL);
        dev->fn.vkFreeMemory(dev->vk, b->memory, NULL); // unmaps
    }
    dev->used[b->heap] -= b->taken;
    pm_free(b);
}

// ---- slices and tensors -----------------------------------------------------------------------------------------------

uint64_t pm_slice_align(const pm_device *dev) {
    return dev->info.slice_align > 64 ? dev->info.slice_align : 64;
}

pm_slice pm_buffer_slice(pm_buffer *buffer, uint64_t offset, uint64_t size) {
    assert(offset <= buffer->size && size <= buffer->size - offset);
    return (pm_slice){buffer, offset, size};
}

pm_slice pm_buffer_all(pm_buffer *buffer) {
    return (pm_slice){buffer, 0, buffer->size};
}

void *pm_slice_map(pm_slice slice) {
    return slice.buffer && slice.buffer->mapped ? slice.buffer->mapped + slice.offset : NULL;
}

uint64_t pm_activation_bytes(uint32_t rows, uint32_t cols) {
    return (uint64_t)rows * pm_round_up(cols, PM_BLOCK) * sizeof(float);
}

pm_tensor pm_activation(pm_slice slice, uint32_t rows, uint32_t cols) {
    uint64_t bytes = pm_activation_bytes(rows, cols);
    assert(bytes <= slice.size);
    return (pm_tensor){
        .dtype = PM_F32,
        .rows = rows,
        .cols = cols,
        .stride = (uint32_t)pm_round_up(cols, PM_BLOCK),
        .data = {slice.buffer, slice.offset, bytes},
    };
}

pm_tensor pm_tensor_rows(pm_tensor t, uint32_t row, uint32_t rows) {
    assert(t.dtype == PM_F32 && !t.scales.buffer && row <= t.rows && rows <= t.rows - row);
    uint64_t row_bytes = (uint64_t)t.stride * sizeof(float);
    t.data.offset += row * row_bytes;
    t.data.size = rows * row_bytes;
    t.rows = rows;
    return t;
}

// ---- slabs ------------------------------------------------------------------------------------------------------------

#define SLAB_MOST (UINT64_C(1) << 30)

typedef struct slab {
    pm_buffer *buffer;
    uint64_t used;
} slab;

struct pm_slabs {
    pm_device *dev;
    const char *name;
    slab *slabs;
    int n, room;
    uint64_t bytes;    // of all slabs
    uint64_t expected; // still to be asked for
};

pm_status pm_slabs_create(pm_device *dev, uint64_t expected, const char *name, pm_slabs **slabs) {
    *slabs = pm_calloc(1, sizeof(**slabs));
    if (!*slabs)
        return pm_fail(PM_ERR_MEMORY, "%s: no memory for its slabs", name);
    (*slabs)->dev = dev;
    (*slabs)->expected = expected;
    (*slabs)->name = name;
    return PM_OK;
}

void pm_slabs_close(pm_slabs **slabs) {
    pm_slabs *s = *slabs;
    *slabs = NULL;
    if (!s)
        return;
    for (int i = 0; i < s->n; i++)
        pm_buffer_close(&s->slabs[i].buffer);
    pm_free(s->slabs);
    pm_free(s);
}

uint64_t pm_slabs_bytes(const pm_slabs *slabs) {
    return slabs->bytes;
}

// What is still expected, at most what the device gives in one piece, at least the request.
static uint64_t next_slab_size(const pm_slabs *s, uint64_t request) {
    uint64_t most = s->dev->info.max_buffer < SLAB_MOST ? s->dev->info.max_buffer : SLAB_MOST;
    uint64_t size = s->expected < most ? s->expected : most;
    return size > request ? size : request;
}

static pm_status grow_list(pm_slabs *s) {
    if (s->n < s->room)
        return PM_OK;
    int room = s->room ? s->room * 2 : 8;
    slab *more = pm_realloc(s->slabs, (size_t)room * sizeof(*more));
    if (!more)
        return pm_fail(PM_ERR_MEMORY, "%s: no memory for its slabs", s->name);
    s->slabs = more;
    s->room = room;
    return PM_OK;
}

// A slab that was to have room for later requests is not worth failing for: then one that just holds this request.
static pm_status add_slab(pm_slabs *s, uint64_t request) {
    uint64_t size = next_slab_size(s, request);
    slab *added;
    PM_TRY(grow_list(s));
    added = &s->slabs[s->n];
    *added = (slab){0};
    pm_status status = pm_buffer_create(s->dev, size, PM_MEM_DEVICE, s->name, &added->buffer);
    if (status == PM_ERR_DEVICE_MEMORY && size > request) {
        size = request;
        status = pm_buffer_create(s->dev, size, PM_MEM_DEVICE, s->name, &added->buffer);
    }
    if (status != PM_OK)
        return status;
    s->n++;
    s->bytes += size;
    return PM_OK;
}

// The first slab with room; few enough to look at all, so that ends which a large request left are used by small ones.
static slab *find_room(pm_slabs *s, uint64_t size) {
    for (int i = 0; i < s->n; i++)
        if (s->slabs[i].buffer->size - s->slabs[i].used >= size)
            return &s->slabs[i];
    return NULL;
}

pm_status pm_slabs_alloc(pm_slabs *slabs, uint64_t size, pm_slice *slice) {
    uint64_t align = pm_slice_align(slabs->dev), taken = size;
    *slice = (pm_slice){0};
    if (size <= slabs->dev->info.max_buffer) // else it fails below, with sizes
        taken = pm_round_up(size ? size : 1, align);
    slab *found = find_room(slabs, taken);
    if (!found) {
        PM_TRY(add_slab(slabs, taken));
        found = &slabs->slabs[slabs->n - 1];
    }
    *slice = pm_buffer_slice(found->buffer, found->used, size);
    found->used += taken;
    slabs->expected -= taken < slabs->expected ? taken : slabs->expected;
    return PM_OK;
}
