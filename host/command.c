// Recording, submitting and timing. A command owns everything a recording needs, so it can be submitted again and again, and two
// commands can be in flight at once. Barriers are decided in one place: order().
#include "host/command.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum {
    SETS_PER_POOL = 256,       // descriptor sets of one pool
    WAIT_SLICE_NS = 100000000, // a lost device shows between slices even where its fence never comes
};

void *pm_cmd_with_room(void *array, int *capacity, int n, size_t size) {
    if (n < *capacity)
        return array;
    int wanted = *capacity ? 2 * *capacity : 64;
    void *grown = pm_realloc(array, (size_t)wanted * size);
    if (grown)
        *capacity = wanted;
    else
        pm_fail(PM_ERR_MEMORY, "no memory for a recording");
    return grown;
}

// ---- open, close ------------------------------------------------------------------------------------------------------

static pm_status open_objects(pm_cmd *cmd) {
    pm_device *dev = cmd->dev;
    VkCommandPoolCreateInfo pool_info = {.sType = VK_STRUCTURE_TYPE_COMMAND_POOL_CREATE_INFO,
                                         .queueFamilyIndex = dev->queue_family};
    VK_TRY(dev->fn.vkCreateCommandPool(dev->vk, &pool_info, NULL, &cmd->pool));
    VkFenceCreateInfo fence_info = {.sType = VK_STRUCTURE_TYPE_FENCE_CREATE_INFO};
    VK_TRY(dev->fn.vkCreateFence(dev->vk, &fence_info, NULL, &cmd->fence));
    pm_vk_name(dev, VK_OBJECT_TYPE_FENCE, (uint64_t)cmd->fence, cmd->name);
    return PM_OK;
}

pm_status pm_cmd_open(pm_device *dev, const char *name, pm_cmd **out) {
    *out = NULL;
    pm_cmd *cmd = pm_calloc(1, sizeof(*cmd));
    if (!cmd)
        return pm_fail(PM_ERR_MEMORY, "no memory for the command %s", name);
    cmd->dev = dev;
    cmd->name = name;
    pm_status status = open_objects(cmd);
    if (status != PM_OK)
        pm_cmd_close(&cmd);
    *out = cmd;
    return status;
}

void pm_cmd_close(pm_cmd **closing) {
    pm_cmd *cmd = *closing;
    *closing = NULL;
    if (!cmd)
        return;
    pm_cmd_wait(cmd);
    struct VolkDeviceTable *fn = &cmd->dev->fn;
    for (int i = 0; i < cmd->n_set_pools; i++)
        fn->vkDestroyDescriptorPool(cmd->dev->vk, cmd->set_pools[i], NULL);
    for (int i = 0; i < cmd->n_query_pools; i++)
        fn->vkDestroyQueryPool(cmd->dev->vk, cmd->query_pools[i], NULL);
    fn->vkDestroyFence(cmd->dev->vk, cmd->fence, NULL);
    fn->vkDestroyCommandPool(cmd->dev->vk, cmd->pool, NULL); // and its command buffers
    pm_free(cmd->pieces);
    pm_free(cmd->set_pools);
    pm_free(cmd->query_pools);
    pm_free(cmd->uses);
    pm_free(cmd->problems);
    pm_free(cmd->timings);
    pm_free(cmd);
}

pm_device *pm_cmd_device(const pm_cmd *cmd) {
    return cmd->dev;
}

int pm_cmd_n_dispatches(const pm_cmd *cmd) {
    return cmd->n_dispatches;
}

// ---- the sticky error -------------------------------------------------------------------------------------------------

void pm_cmd_fail(pm_cmd *cmd, pm_status status) {
    if (cmd->status != PM_OK || status == PM_OK)
        return;
    cmd->status = status;
    snprintf(cmd->error, sizeof(cmd->error), "%s", pm_error_text());
}

bool pm_cmd_ok(const pm_cmd *cmd) {
    return cmd->status == PM_OK;
}

// The first error again, with its line.
static pm_status sticky_status(const pm_cmd *cmd) {
    return cmd->status == PM_OK ? PM_OK : pm_fail(cmd->status, "%s", cmd->error);
}

// Whether recording functions still have something to do.
static bool is_open(const pm_cmd *cmd) {
    assert(cmd->state == CMD_RECORDING || cmd->state == CMD_REHEARSING);
    return cmd->status == PM_OK;
}

// ---- barriers ---------------------------------------------------------------------------------------------------------

static const VkPipelineStageFlags our_stages = VK_PIPELINE_STAGE_COMPUTE_SHADER_BIT | VK_PIPELINE_STAGE_TRANSFER_BIT;
static const VkAccessFlags our_writes = VK_ACCESS_SHADER_WRITE_BIT | VK_ACCESS_TRANSFER_WRITE_BIT;

// All that was written before it can be read and written after it, by any kernel or copy.
static void put_barrier(pm_cmd *cmd) {
    VkMemoryBarrier memory = {.sType = VK_STRUCTURE_TYPE_MEMORY_BARRIER,
                              .srcAccessMask = our_writes,
                              .dstAccessMask = our_writes | VK_ACCESS_SHADER_READ_BIT | VK_ACCESS_TRANSFER_READ_BIT};
    cmd->dev->fn.vkCmdPipelineBarrier(cmd->vk, our_stages, our_stages, 0, 1, &memory, 0, NULL, 0, NULL);
    cmd->reads.n = cmd->writes.n = 0;
}

// All that was written can be read by the host once the fence has come.
static void put_host_barrier(pm_cmd *cmd) {
    VkMemoryBarrier memory = {
        .sType = VK_STRUCTURE_TYPE_MEMORY_BARRIER, .srcAccessMask = our_writes, .dstAccessMask = VK_ACCESS_HOST_READ_BIT};
    cmd->dev->fn.vkCmdPipelineBarrier(cmd->vk, our_stages, VK_PIPELINE_STAGE_HOST_BIT, 0, 1, &memory, 0, NULL, 0, NULL);
}

static bool overlaps_any(const range_list *list, pm_slice slice) {
    for (int i = 0; i < list->n; i++) {
        const pm_slice *range = &list->ranges[i];
        if (range->buffer == slice.buffer && range->offset < slice.offset + slice.size &&
            slice.offset < range->offset + range->size)
            return true;
    }
    return false;
}

// Puts a barrier where what comes next must wait for what is already recorded: it reads or writes what was written, or writes
// what was read. Slices without a buffer are skipped.
static void order(pm_cmd *cmd, const pm_slice *reads, int n_reads, const pm_slice *writes, int n_writes) {
    bool wait = cmd->reads.n + n_reads > PM_MAX_RANGES || cmd->writes.n + n_writes > PM_MAX_RANGES;
    for (int i = 0; i < n_reads && !wait; i++)
        wait = reads[i].buffer && overlaps_any(&cmd->writes, reads[i]);
    for (int i = 0; i < n_writes && !wait; i++)
        wait = writes[i].buffer && (overlaps_any(&cmd->writes, writes[i]) || overlaps_any(&cmd->reads, writes[i]));
    if (wait)
        put_barrier(cmd);
    for (int i = 0; i < n_reads; i++)
        if (reads[i].buffer)
            cmd->reads.ranges[cmd->reads.n++] = reads[i];
    for (int i = 0; i < n_writes; i++)
        if (writes[i].buffer)
            cmd->writes.ranges[cmd->writes.n++] = writes[i];
}

// ---- recording --------------------------------------------------------------------------------------------------------

static void forget(pm_cmd *cmd) {
    assert(cmd->state != CMD_RUNNING);
    cmd->status = PM_OK;
    cmd->error[0] = 0;
    cmd->bound = VK_NULL_HANDLE;
    cmd->reads.n = cmd->writes.n = 0;
    cmd->n_sets = cmd->n_dispatches = cmd->n_uses = cmd->n_problems = cmd->n_attends = cmd->n_timings = cmd->n_queries = 0;
    cmd->n_pieces = cmd->n_sections = 0;
    cmd->label = "";
    cmd->broken = PM_BREAK_NOT;
    cmd->stale = false;
    cmd->timed = false;
}

static pm_status add_piece(pm_cmd *cmd) {
    pm_device *dev = cmd->dev;
    VkCommandBuffer *grown = pm_cmd_with_room(cmd->pieces, &cmd->pieces_capacity, cmd->n_made, sizeof(*grown));
    if (!grown)
        return PM_ERR_MEMORY;
    cmd->pieces = grown;
    VkCommandBufferAllocateInfo info = {.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_ALLOCATE_INFO,
                                        .commandPool = cmd->pool,
                                        .level = VK_COMMAND_BUFFER_LEVEL_PRIMARY,
                                        .commandBufferCount = 1};
    VK_TRY(dev->fn.vkAllocateCommandBuffers(dev->vk, &info, &grown[cmd->n_made]));
    pm_vk_name(dev, VK_OBJECT_TYPE_COMMAND_BUFFER, (uint64_t)(uintptr_t)grown[cmd->n_made], cmd->name);
    cmd->n_made++;
    return PM_OK;
}

// A piece starts with a barrier: submissions to a queue start in order but do not wait for one another.
static pm_status begin_piece(pm_cmd *cmd) {
    if (cmd->n_pieces == cmd->n_made)
        PM_TRY(add_piece(cmd));
    cmd->vk = cmd->pieces[cmd->n_pieces++];
    cmd->bound = VK_NULL_HANDLE;
    VkCommandBufferBeginInfo info = {.sType = VK_STRUCTURE_TYPE_COMMAND_BUFFER_BEGIN_INFO};
    VK_TRY(cmd->dev->fn.vkBeginCommandBuffer(cmd->vk, &info));
    put_barrier(cmd);
    return PM_OK;
}

static pm_status end_piece(pm_cmd *cmd) {
    VK_TRY(cmd->dev->fn.vkEndCommandBuffer(cmd->vk));
    return PM_OK;
}

static pm_status next_piece(pm_cmd *cmd) {
    PM_TRY(end_piece(cmd));
    return begin_piece(cmd);
}

static pm_status begin_first_piece(pm_cmd *cmd) {
    pm_device *dev = cmd->dev;
    for (int i = 0; i < cmd->n_set_pools; i++)
        VK_TRY(dev->fn.vkResetDescriptorPool(dev->vk, cmd->set_pools[i], 0));
    VK_TRY(dev->fn.vkResetCommandPool(dev->vk, cmd->pool, 0));
    return begin_piece(cmd);
}

void pm_cmd_begin(pm_cmd *cmd) {
    if (cmd->state != CMD_REHEARSED)
        cmd->n_wanted = 1;
    forget(cmd);
    cmd->state = CMD_RECORDING;
    pm_cmd_fail(cmd, begin_first_piece(cmd));
    if (!pm_cmd_ok(cmd))
        return;
    cmd->timed = cmd->profile;
    if (cmd->timed)
        pm_cmd_put_timestamp(cmd);
}

void pm_cmd_begin_dry(pm_cmd *cmd) {
    forget(cmd);
    cmd->n_wanted = 1;
    cmd->state = CMD_REHEARSING;
}

pm_status pm_cmd_end(pm_cmd *cmd) {
    assert(cmd->state == CMD_RECORDING || cmd->state == CMD_REHEARSING);
    bool rehearsed = cmd->state == CMD_REHEARSING;
    cmd->state = CMD_EMPTY;
    PM_TRY(sticky_status(cmd));
    if (rehearsed)
        cmd->n_rehearsed_sections = cmd->n_sections;
    else
        put_host_barrier(cmd);
    PM_TRY(rehearsed ? PM_OK : end_piece(cmd));
    cmd->state = rehearsed ? CMD_REHEARSED : CMD_READY;
    return PM_OK;
}

// Section k of n goes into piece k * pieces / n.
void pm_cmd_section(pm_cmd *cmd, const char *label) {
    cmd->label = label;
    int k = cmd->n_sections++;
    if (is_open(cmd) && cmd->state == CMD_RECORDING && k < cmd->n_rehearsed_sections &&
        (int64_t)k * cmd->n_wanted / cmd->n_rehearsed_sections >= cmd->n_pieces)
        pm_cmd_fail(cmd, next_piece(cmd));
}

void pm_cmd_exact(pm_cmd *cmd, bool exact) {
    cmd->exact = exact;
}

bool pm_cmd_is_exact(const pm_cmd *cmd) {
    return cmd->exact;
}

void pm_cmd_fast(pm_cmd *cmd, pm_slice quants) {
    cmd->quants = quants;
}

pm_slice pm_cmd_quants(const pm_cmd *cmd) {
    return cmd->quants;
}

static void assert_fits(pm_slice slice) {
    assert(slice.offset <= slice.buffer->size && slice.size <= slice.buffer->size - slice.offset);
    (void)slice;
}

void pm_cmd_copy(pm_cmd *cmd, pm_slice dst, pm_slice src) {
    assert(dst.size == src.size && dst.size % 4 == 0 && dst.offset % 4 == 0 && src.offset % 4 == 0);
    if (!is_open(cmd) || cmd->state == CMD_REHEARSING || dst.size == 0)
        return;
    assert_fits(dst);
    assert_fits(src);
    order(cmd, &src, 1, &dst, 1);
    VkBufferCopy region = {.srcOffset = src.offset, .dstOffset = dst.offset, .size = dst.size};
    cmd->dev->fn.vkCmdCopyBuffer(cmd->vk, src.buffer->vk, dst.buffer->vk, 1, &region);
    pm_cmd_put_timing(cmd, (pm_timing){.kernel = "copy", .bytes = 2 * dst.size});
}

void pm_cmd_zero(pm_cmd *cmd, pm_slice dst) {
    assert(dst.offset % 4 == 0 && dst.size % 4 == 0);
    if (!is_open(cmd) || cmd->state == CMD_REHEARSING || dst.size == 0)
        return;
    assert_fits(dst);
    order(cmd, NULL, 0, &dst, 1);
    cmd->dev->fn.vkCmdFillBuffer(cmd->vk, dst.buffer->vk, dst.offset, dst.size, 0);
    pm_cmd_put_timing(cmd, (pm_timing){.kernel = "zero", .bytes = dst.size});
}

static pm_status check_groups(const pm_device *dev, const pm_dispatch *d, const char *kernel) {
    for (int i = 0; i < 3; i++) {
        uint32_t most = dev->info.max_groups[i];
        if (i == 0 && dev->caps.max_groups && dev->caps.max_groups < most)
            most = dev->caps.max_groups;
        if (d->groups[i] > most)
            return pm_fail(PM_ERR_UNSUPPORTED, "kernel %s: %" PRIu32 " workgroups in dimension %d, but %s runs at most %" PRIu32,
                           kernel, d->groups[i], i, dev->info.name, most);
    }
    return PM_OK;
}

static pm_status check_slices(const pm_device *dev, const pm_dispatch *d, const pm_kernel_info *kernel) {
    for (int b = 0; b < kernel->n_reads + kernel->n_writes; b++) {
        const pm_slice *slice = &d->slices[b];
        if (!slice->buffer)
            continue;
        assert(slice->size > 0 && slice->offset % pm_slice_align(dev) == 0);
        assert_fits(*slice);
        if (slice->size > dev->caps.max_binding)
            return pm_fail(PM_ERR_UNSUPPORTED, "kernel %s: %" PRIu64 " bytes at binding %d, but %s binds at most %" PRIu64,
                           kernel->name, slice->size, b, dev->info.name, dev->caps.max_binding);
    }
    return PM_OK;
}

static pm_kernel_use use_of(const pm_dispatch *d) {
    pm_kernel_use use = {.id = d->kernel, .n_spec = d->n_spec};
    memcpy(use.spec, d->spec, sizeof(use.spec));
    return use;
}

static pm_status bind_pipeline(pm_cmd *cmd, const pm_dispatch *d) {
    VkPipeline pipeline;
    PM_TRY(pm_kernel_pipeline(cmd->dev, d->kernel, d->spec, d->n_spec, &pipeline));
    if (pipeline != cmd->bound)
        cmd->dev->fn.vkCmdBindPipeline(cmd->vk, VK_PIPELINE_BIND_POINT_COMPUTE, pipeline);
    cmd->bound = pipeline;
    return PM_OK;
}

static pm_status add_set_pool(pm_cmd *cmd) {
    VkDescriptorPool *grown = pm_cmd_with_room(cmd->set_pools, &cmd->set_pools_capacity, cmd->n_set_pools, sizeof(*grown));
    if (!grown)
        return PM_ERR_MEMORY;
    cmd->set_pools = grown;
    VkDescriptorPoolSize size = {.type = VK_DESCRIPTOR_TYPE_STORAGE_BUFFER, .descriptorCount = SETS_PER_POOL * PM_MAX_BINDINGS};
    VkDescriptorPoolCreateInfo info = {
        .sType = VK_STRUCTURE_TYPE_DESCRIPTOR_POOL_CREATE_INFO, .maxSets = SETS_PER_POOL, .poolSizeCount = 1, .pPoolSizes = &size};
    VK_TRY(cmd->dev->fn.vkCreateDescriptorPool(cmd->dev->vk, &info, NULL, &grown[cmd->n_set_pools]));
    cmd->n_set_pools++;
    return PM_OK;
}

static pm_status take_set(pm_cmd *cmd, VkDescriptorSet *set) {
    int pool = cmd->n_sets / SETS_PER_POOL;
    if (pool == cmd->n_set_pools)
        PM_TRY(add_set_pool(cmd));
    VkDescriptorSetLayout layout = pm_kernels_set_layout(cmd->dev);
    VkDescriptorSetAllocateInfo info = {.sType = VK_STRUCTURE_TYPE_DESCRIPTOR_SET_ALLOCATE_INFO,
                                        .descriptorPool = cmd->set_pools[pool],
                                        .descriptorSetCount = 1,
                                        .pSetLayouts = &layout};
    VK_TRY(cmd->dev->fn.vkAllocateDescriptorSets(cmd->dev->vk, &info, set));
    cmd->n_sets++;
    return PM_OK;
}

// The first slice of n that has a buffer, else `other`.
static const pm_slice *first_bound(const pm_slice *slices, int n, const pm_slice *other) {
    for (int i = 0; i < n; i++)
        if (slices[i].buffer)
            return &slices[i];
    return other;
}

// A kernel that declares a binding must be given one even where its constants keep it from ever being touched. Such a place gets
// what the dispatch reads (or writes) anyway, so that nobody sees an access that order() does not know of.
static pm_status bind_slices(pm_cmd *cmd, const pm_dispatch *d, const pm_kernel_info *kernel) {
    int n = kernel->n_reads + kernel->n_writes;
    const pm_slice *a_write = first_bound(d->slices + kernel->n_reads, kernel->n_writes, NULL);
    const pm_slice *a_read = first_bound(d->slices, kernel->n_reads, a_write);
    assert(a_write); // or the kernel has no effect
    VkDescriptorBufferInfo infos[PM_MAX_BINDINGS];
    for (int b = 0; b < n; b++) {
        const pm_slice *slice = first_bound(&d->slices[b], 1, b < kernel->n_reads ? a_read : a_write);
        infos[b] = (VkDescriptorBufferInfo){.buffer = slice->buffer->vk, .offset = slice->offset, .range = slice->size};
    }

    VkDescriptorSet set;
    PM_TRY(take_set(cmd, &set));
    // One write runs on over the bindings that follow, since all are of one kind.
    VkWriteDescriptorSet write = {.sType = VK_STRUCTURE_TYPE_WRITE_DESCRIPTOR_SET,
                                  .dstSet = set,
                                  .descriptorCount = (uint32_t)n,
                                  .descriptorType = VK_DESCRIPTOR_TYPE_STORAGE_BUFFER,
                                  .pBufferInfo = infos};
    cmd->dev->fn.vkUpdateDescriptorSets(cmd->dev->vk, 1, &write, 0, NULL);
    cmd->dev->fn.vkCmdBindDescriptorSets(cmd->vk, VK_PIPELINE_BIND_POINT_COMPUTE, pm_kernels_layout(cmd->dev), 0, 1, &set, 0, NULL);
    return PM_OK;
}

static pm_timing timing_of(const pm_dispatch *d, const pm_kernel_info *kernel) {
    pm_timing t = {.kernel = kernel->name, .bytes = d->bytes, .flops = d->flops, .rows = d->rows, .cols = d->cols};
    size_t n = 0;
    for (int i = 0; i < d->n_spec && n < sizeof(t.numbers); i++)
        n += (size_t)snprintf(t.numbers + n, sizeof(t.numbers) - n, "%s%" PRIu32, i ? "," : "", d->spec[i]);
    return t;
}

static pm_status record_dispatch(pm_cmd *cmd, const pm_dispatch *d, const pm_kernel_info *kernel) {
    struct VolkDeviceTable *fn = &cmd->dev->fn;
    PM_TRY(bind_pipeline(cmd, d));
    PM_TRY(bind_slices(cmd, d, kernel));
    if (d->args_size > 0)
        fn->vkCmdPushConstants(cmd->vk, pm_kernels_layout(cmd->dev), VK_SHADER_STAGE_COMPUTE_BIT, 0, d->args_size, d->args);
    order(cmd, d->slices, kernel->n_reads, d->slices + kernel->n_reads, kernel->n_writes);
    pm_breakage how = pm_caps_broken(kernel->name, d->spec, d->n_spec);
    if (how != PM_BREAK_WRONG)
        fn->vkCmdDispatch(cmd->vk, d->groups[0], d->groups[1], d->groups[2]);
    if (how != PM_BREAK_NOT)
        cmd->broken = how;
    pm_cmd_put_timing(cmd, timing_of(d, kernel));
    return PM_OK;
}

void pm_cmd_dispatch(pm_cmd *cmd, const pm_dispatch *d) {
    assert(d->args_size <= PM_MAX_ARGS && d->args_size % 4 == 0 && d->n_spec >= 1 && d->n_spec <= PM_MAX_SPEC);
    if (!is_open(cmd) || d->groups[0] == 0 || d->groups[1] == 0 || d->groups[2] == 0)
        return;
    const pm_kernel_info *kernel = pm_kernel_get_info(d->kernel);
    pm_cmd_fail(cmd, check_groups(cmd->dev, d, kernel->name));
    pm_cmd_fail(cmd, check_slices(cmd->dev, d, kernel));
    pm_kernel_use use = use_of(d);
    pm_cmd_fail(cmd, pm_selftest_check(cmd->dev, &use));
    if (!pm_cmd_ok(cmd))
        return;
    if (cmd->state == CMD_REHEARSING)
        pm_cmd_note_use(cmd, &use);
    else
        pm_cmd_fail(cmd, record_dispatch(cmd, d, kernel));
    cmd->n_dispatches++;
}

// ---- running ----------------------------------------------------------------------------------------------------------

// Pieces that an expected time wants: of two thirds of the limit, for times vary.
static uint64_t pieces_for(const pm_cmd *cmd, uint64_t ns) {
    uint64_t most = (uint64_t)(cmd->n_rehearsed_sections > 0 ? cmd->n_rehearsed_sections : 1),
             piece_ns = cmd->dev->caps.submit_ns / 3 * 2;
    return ns / piece_ns + 1 < most ? ns / piece_ns + 1 : most;
}

void pm_cmd_expect(pm_cmd *cmd, uint64_t ns) {
    assert(cmd->state == CMD_REHEARSED);
    cmd->n_wanted = (int)pieces_for(cmd, ns);
}

bool pm_cmd_is_cut_for(const pm_cmd *cmd, uint64_t ns) {
    uint64_t wanted = pieces_for(cmd, ns), n = (uint64_t)cmd->n_pieces;
    return n <= 2 * wanted && (n >= wanted || n * cmd->dev->caps.submit_ns >= ns);
}

int pm_cmd_n_pieces(const pm_cmd *cmd) {
    return cmd->n_pieces;
}

uint64_t pm_cmd_run_ns(const pm_cmd *cmd) {
    return cmd->run_ns;
}

static pm_status submit_pieces(pm_cmd *cmd) {
    pm_device *dev = cmd->dev;
    for (int i = 0; i < cmd->n_pieces; i++) {
        VkSubmitInfo info = {.sType = VK_STRUCTURE_TYPE_SUBMIT_INFO, .commandBufferCount = 1, .pCommandBuffers = &cmd->pieces[i]};
        VkResult result = dev->fn.vkQueueSubmit(dev->queue, 1, &info, i + 1 < cmd->n_pieces ? VK_NULL_HANDLE : cmd->fence);
        if (result < 0 && i > 0)
            dev->fn.vkQueueWaitIdle(dev->queue); // so that the pieces before it do not run on unknown to us
        if (result < 0)
            return pm_vk_fail(result, "vkQueueSubmit");
    }
    return PM_OK;
}

pm_status pm_cmd_submit(pm_cmd *cmd) {
    PM_TRY(sticky_status(cmd));
    assert(cmd->state == CMD_READY);
    pm_device *dev = cmd->dev;
    VK_TRY(dev->fn.vkResetFences(dev->vk, 1, &cmd->fence));
    if (cmd->broken == PM_BREAK_LOST)
        return pm_vk_fail(VK_ERROR_DEVICE_LOST, "vkQueueSubmit");
    cmd->submitted_ns = pm_now_ns();
    if (cmd->broken != PM_BREAK_HANG) // else its fence never comes
        PM_TRY(submit_pieces(cmd));
    cmd->state = CMD_RUNNING;
    return PM_OK;
}

bool pm_cmd_is_running(const pm_cmd *cmd) {
    return cmd->state == CMD_RUNNING;
}

// A run begins when it is submitted, or when the one before it ends.
static void note_run(pm_cmd *cmd) {
    uint64_t now = pm_now_ns(), before = cmd->dev->ended_ns;
    cmd->run_ns = now - (before > cmd->submitted_ns ? before : cmd->submitted_ns);
    cmd->dev->ended_ns = now;
}

pm_status pm_cmd_wait(pm_cmd *cmd) {
    if (cmd->state != CMD_RUNNING)
        return PM_OK;
    VkResult result;
    uint64_t limit = cmd->dev->time_limit_ns, began = pm_now_ns();
    do
        result = cmd->dev->fn.vkWaitForFences(cmd->dev->vk, 1, &cmd->fence, VK_TRUE, WAIT_SLICE_NS);
    while (result == VK_TIMEOUT && (limit == 0 || pm_now_ns() - began < limit));
    if (result == VK_TIMEOUT)
        return pm_fail(PM_ERR_CANCELLED, "%s did not end within %" PRIu64 " ms", cmd->name, limit / 1000000);
    if (result == VK_SUCCESS || result == VK_ERROR_DEVICE_LOST)
        cmd->state = CMD_READY; // else it may still be running
    if (result < 0)
        return pm_vk_fail(result, "vkWaitForFences");
    note_run(cmd);
    return PM_OK;
}

pm_status pm_cmd_run(pm_cmd *cmd) {
    PM_TRY(pm_cmd_end(cmd));
    PM_TRY(pm_cmd_submit(cmd));
    return pm_cmd_wait(cmd);
}
