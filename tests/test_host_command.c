// The command stream and the table of pipelines, on whatever device is here. The whole program runs under the validation layer
// with synchronization validation where that is installed: software drivers run everything in order, so a missing barrier shows
// there and nowhere else. A barrier too many shows in the counts.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "host/vk.h"
#include "temp.h"

enum { ROWS = 8, DIM = 96, STRIDE = 96, SLOT = 4096 }; // of a matrix (ROWS, DIM); SLOT bytes apart

static pm_device *dev;
static pm_buffer *work, *upload, *readback; // 16 slots each
static pm_cmd *cmd;

// ---- what the driver is asked -----------------------------------------------------------------------------------------

static struct VolkDeviceTable real;
static int n_barriers, n_made, n_pools;
static VkResult injected; // what the injected functions return

static VKAPI_ATTR void VKAPI_CALL count_barrier(VkCommandBuffer buffer, VkPipelineStageFlags from, VkPipelineStageFlags to,
                                                VkDependencyFlags flags, uint32_t n_memory, const VkMemoryBarrier *memory,
                                                uint32_t n_buffers, const VkBufferMemoryBarrier *buffers, uint32_t n_images,
                                                const VkImageMemoryBarrier *images) {
    n_barriers++;
    real.vkCmdPipelineBarrier(buffer, from, to, flags, n_memory, memory, n_buffers, buffers, n_images, images);
}

static VKAPI_ATTR void VKAPI_CALL omit_barrier(VkCommandBuffer buffer, VkPipelineStageFlags from, VkPipelineStageFlags to,
                                               VkDependencyFlags flags, uint32_t n_memory, const VkMemoryBarrier *memory,
                                               uint32_t n_buffers, const VkBufferMemoryBarrier *buffers, uint32_t n_images,
                                               const VkImageMemoryBarrier *images) {
    (void)buffer, (void)from, (void)to, (void)flags, (void)n_memory, (void)memory;
    (void)n_buffers, (void)buffers, (void)n_images, (void)images;
}

static VKAPI_ATTR VkResult VKAPI_CALL count_pipelines(VkDevice device, VkPipelineCache cache, uint32_t n,
                                                      const VkComputePipelineCreateInfo *infos,
                                                      const VkAllocationCallbacks *allocator, VkPipeline *pipelines) {
    n_made += (int)n;
    return real.vkCreateComputePipelines(device, cache, n, infos, allocator, pipelines);
}

static VKAPI_ATTR VkResult VKAPI_CALL count_pools(VkDevice device, const VkDescriptorPoolCreateInfo *info,
                                                  const VkAllocationCallbacks *allocator, VkDescriptorPool *pool) {
    n_pools++;
    return real.vkCreateDescriptorPool(device, info, allocator, pool);
}

static VKAPI_ATTR VkResult VKAPI_CALL fail_pipelines(VkDevice device, VkPipelineCache cache, uint32_t n,
                                                     const VkComputePipelineCreateInfo *infos,
                                                     const VkAllocationCallbacks *allocator, VkPipeline *pipelines) {
    (void)device, (void)cache, (void)n, (void)infos, (void)allocator;
    *pipelines = VK_NULL_HANDLE;
    return injected;
}

static VKAPI_ATTR VkResult VKAPI_CALL fail_pool(VkDevice device, const VkDescriptorPoolCreateInfo *info,
                                                const VkAllocationCallbacks *allocator, VkDescriptorPool *pool) {
    (void)device, (void)info, (void)allocator, (void)pool;
    return injected;
}

static VKAPI_ATTR VkResult VKAPI_CALL fail_submit(VkQueue queue, uint32_t n, const VkSubmitInfo *infos, VkFence fence) {
    (void)queue, (void)n, (void)infos, (void)fence;
    return injected;
}

static int n_submits, refused; // the submission, counted from 1, that is not done
static VKAPI_ATTR VkResult VKAPI_CALL count_submits(VkQueue queue, uint32_t n, const VkSubmitInfo *infos, VkFence fence) {
    return ++n_submits == refused ? injected : real.vkQueueSubmit(queue, n, infos, fence);
}

static int n_waits;
static VKAPI_ATTR VkResult VKAPI_CALL time_out_then_lose(VkDevice device, uint32_t n, const VkFence *fences, VkBool32 all,
                                                         uint64_t ns) {
    real.vkWaitForFences(device, n, fences, all, UINT64_MAX); // so that closing is allowed
    assert_true(ns < 1000000000);
    return ++n_waits < 3 ? VK_TIMEOUT : VK_ERROR_DEVICE_LOST;
}

static void hook(void) {
    real = dev->fn;
    dev->fn.vkCmdPipelineBarrier = count_barrier;
    dev->fn.vkCreateComputePipelines = count_pipelines;
    dev->fn.vkCreateDescriptorPool = count_pools;
    dev->fn.vkQueueSubmit = count_submits;
}

// ---- fixture ----------------------------------------------------------------------------------------------------------

static void must(pm_status status) {
    if (status != PM_OK)
        print_error("%s\n", pm_error_text());
    assert_int_equal(status, PM_OK);
}

static long log_start; // bytes that the layer had to say about its settings; -1: no layer

static long log_size(void) {
    FILE *f = fopen(temp_path("validation.log"), "r");
    if (!f)
        return -1;
    fseek(f, 0, SEEK_END);
    long size = ftell(f);
    fclose(f);
    return size;
}

// Layers read their settings when the instance is made.
static void ask_for_validation(void) {
    char settings[1024];
    snprintf(settings, sizeof(settings),
             "khronos_validation.debug_action = VK_DBG_LAYER_ACTION_LOG_MSG\n"
             "khronos_validation.report_flags = error,warn\n"
             "khronos_validation.validate_sync = true\n"
             "khronos_validation.syncval_submit_time_validation = true\n"    // what newer layers call the second of `enables`
             "khronos_validation.syncval_shader_accesses_heuristic = true\n" // without it newer layers do not look into kernels
             "khronos_validation.enables = VK_VALIDATION_FEATURE_ENABLE_SYNCHRONIZATION_VALIDATION_EXT,"
             "VALIDATION_CHECK_ENABLE_SYNCHRONIZATION_VALIDATION_QUEUE_SUBMIT\n"
             "khronos_validation.log_filename = %s\n",
             temp_path("validation.log"));
    temp_text("vk_layer_settings.txt", settings);
    setenv("VK_LAYER_SETTINGS_PATH", temp_folder, 1);
    setenv("VK_INSTANCE_LAYERS", "VK_LAYER_KHRONOS_validation", 1);
}

static int open_all(void **state) {
    if (temp_open(state) != 0)
        return -1;
    ask_for_validation();
    setenv("PUMICE_CACHE", temp_folder, 1);
    if (pm_device_open(NULL, &dev) != PM_OK) {
        fprintf(stderr, "%s\n", pm_error_text());
        exit(77);
    }
    log_start = log_size();
    hook();
    must(pm_buffer_create(dev, 16 * SLOT, PM_MEM_DEVICE, "work", &work));
    must(pm_buffer_create(dev, 16 * SLOT, PM_MEM_UPLOAD, "upload", &upload));
    must(pm_buffer_create(dev, 16 * SLOT, PM_MEM_READBACK, "readback", &readback));
    return 0;
}

static int close_all(void **state) {
    pm_buffer_close(&work);
    pm_buffer_close(&upload);
    pm_buffer_close(&readback);
    pm_device_close(&dev);
    return temp_close(state);
}

static int open_cmd(void **state) {
    (void)state;
    must(pm_cmd_open(dev, "test", &cmd));
    n_barriers = n_made = n_pools = n_waits = n_submits = refused = 0;
    return 0;
}

static int close_cmd(void **state) {
    (void)state;
    pm_cmd_close(&cmd);
    assert_null(cmd);
    return 0;
}

static pm_slice slot(pm_buffer *buffer, int i) {
    return pm_buffer_slice(buffer, (uint64_t)i * SLOT, ROWS * STRIDE * 4);
}

static float *floats(pm_buffer *buffer, int i) {
    return pm_slice_map(slot(buffer, i));
}

static void fill(int i, float first) {
    float *p = floats(upload, i);
    for (int j = 0; j < ROWS * STRIDE; j++)
        p[j] = first + (float)j;
}

static void assert_filled(int i, float first) {
    const float *p = floats(readback, i);
    for (int j = 0; j < ROWS * STRIDE; j++)
        if (p[j] != first + (float)j)
            fail_msg("slot %d, element %d: %g, wanted %g", i, j, (double)p[j], (double)(first + (float)j));
}

static void run(void) {
    must(pm_cmd_end(cmd));
    must(pm_cmd_submit(cmd));
    must(pm_cmd_wait(cmd));
}

// Row r of `to` = row index[r] of `from`. The squares stay unbound.
static void gather_rows(pm_slice index, pm_slice from, pm_slice to, uint32_t rows, uint32_t workgroup) {
    struct pm_gather_args args = {.dim_words = DIM, .x_stride = STRIDE};
    pm_cmd_dispatch(cmd, &(pm_dispatch){.kernel = PM_K_gather,
                                        .spec = {workgroup},
                                        .n_spec = 1,
                                        .args = &args,
                                        .args_size = sizeof(args),
                                        .slices = {index, from, {0}, to},
                                        .groups = {rows, 1, 1},
                                        .bytes = (uint64_t)rows * DIM * 8});
}

// Row r of the next slot is row r + 1 of this one, the last is the first.
static void write_rotation(int i) {
    uint32_t *index = pm_slice_map(slot(upload, i));
    for (uint32_t r = 0; r < ROWS; r++)
        index[r] = (r + 1) % ROWS;
}

// ---- hazards ----------------------------------------------------------------------------------------------------------

// Every begin puts one barrier and every end one.
static int barriers_between(void) {
    return n_barriers - 2;
}

static void independent_copies_need_no_barrier(void **state) {
    (void)state;
    fill(0, 1);
    pm_cmd_begin(cmd);
    for (int i = 0; i < 4; i++)
        pm_cmd_copy(cmd, slot(work, i), slot(upload, 0)); // four reads of one slice, four slices side by side
    pm_cmd_zero(cmd, slot(work, 4));
    run();
    assert_int_equal(barriers_between(), 0);
}

static void a_read_waits_for_the_write(void **state) {
    (void)state;
    fill(0, 5);
    pm_cmd_begin(cmd);
    pm_cmd_copy(cmd, slot(work, 0), slot(upload, 0));
    pm_cmd_copy(cmd, slot(work, 1), slot(work, 0));
    pm_cmd_copy(cmd, slot(readback, 0), slot(work, 1));
    run();
    assert_int_equal(barriers_between(), 2);
    assert_filled(0, 5);
}

static void a_write_waits_for_the_read(void **state) {
    (void)state;
    fill(0, 7);
    fill(1, 9);
    pm_cmd_begin(cmd);
    pm_cmd_copy(cmd, slot(work, 0), slot(upload, 0));
    pm_cmd_copy(cmd, slot(readback, 0), slot(work, 0)); // barrier 1: RAW
    pm_cmd_copy(cmd, slot(work, 0), slot(upload, 1));   // barrier 2: WAR
    pm_cmd_copy(cmd, slot(readback, 1), slot(work, 0)); // barrier 3: RAW
    run();
    assert_int_equal(barriers_between(), 3);
    assert_filled(0, 7);
    assert_filled(1, 9);
}

static void a_write_waits_for_the_write(void **state) {
    (void)state;
    fill(0, 11);
    pm_cmd_begin(cmd);
    pm_cmd_zero(cmd, slot(work, 0));
    pm_cmd_copy(cmd, slot(work, 0), slot(upload, 0)); // WAW
    pm_cmd_copy(cmd, slot(readback, 0), slot(work, 0));
    run();
    assert_int_equal(barriers_between(), 2);
    assert_filled(0, 11);
}

static void ranges_that_only_touch_do_not_overlap(void **state) {
    (void)state;
    pm_cmd_begin(cmd);
    pm_cmd_zero(cmd, pm_buffer_slice(work, 0, 1024));
    pm_cmd_zero(cmd, pm_buffer_slice(work, 1024, 1024));
    assert_int_equal(n_barriers, 1);
    pm_cmd_zero(cmd, pm_buffer_slice(work, 1020, 8)); // the last word of one, the first of the other
    assert_int_equal(n_barriers, 2);
    run();
}

static void a_full_list_forces_a_barrier(void **state) {
    (void)state;
    pm_cmd_begin(cmd);
    for (int i = 0; i < 1000; i++)
        pm_cmd_zero(cmd, pm_buffer_slice(work, (uint64_t)i * 4, 4));
    for (int i = 0; i < 1000; i++)
        pm_cmd_copy(cmd, pm_buffer_slice(readback, (uint64_t)i * 4, 4), pm_buffer_slice(work, 4, 4));
    run();
    assert_in_range(barriers_between(), 7, 40);
    assert_int_equal(((const uint32_t *)pm_slice_map(pm_buffer_all(readback)))[999], 0);
}

// ---- dispatches -------------------------------------------------------------------------------------------------------

static void dispatches_are_ordered_by_their_slices(void **state) {
    (void)state;
    fill(0, 100);
    write_rotation(1);
    pm_cmd_begin(cmd);
    gather_rows(slot(upload, 1), slot(upload, 0), slot(work, 0), ROWS, 32);
    gather_rows(slot(upload, 1), slot(work, 0), slot(work, 1), ROWS, 32);   // RAW
    gather_rows(slot(upload, 1), slot(upload, 0), slot(work, 2), ROWS, 32); // none
    gather_rows(slot(upload, 1), slot(work, 1), slot(work, 0), ROWS, 32);   // RAW, WAR
    pm_cmd_copy(cmd, slot(readback, 0), slot(work, 0));                     // RAW
    run();
    assert_int_equal(barriers_between(), 3);
    assert_int_equal(pm_cmd_n_dispatches(cmd), 4);
    const float *out = floats(readback, 0), *in = floats(upload, 0);
    for (uint32_t r = 0; r < ROWS; r++)
        assert_memory_equal(out + r * STRIDE, in + (r + 3) % ROWS * STRIDE, DIM * 4);
}

static void a_dispatch_of_no_groups_is_nothing(void **state) {
    (void)state;
    pm_cmd_begin(cmd);
    gather_rows(slot(upload, 1), slot(upload, 0), slot(work, 0), 0, 32);
    run();
    assert_int_equal(pm_cmd_n_dispatches(cmd), 0);
    assert_int_equal(barriers_between(), 0);
}

static void many_dispatches_take_more_sets(void **state) {
    (void)state;
    fill(0, 3);
    write_rotation(1);
    for (int round = 0; round < 2; round++) { // the second time the sets of the first are there
        pm_cmd_begin(cmd);
        pm_cmd_copy(cmd, slot(work, 0), slot(upload, 0));
        for (int i = 0; i < 600; i++)
            gather_rows(slot(upload, 1), slot(work, i % 2), slot(work, 1 - i % 2), ROWS, 32);
        pm_cmd_copy(cmd, slot(readback, 0), slot(work, 0));
        run();
        assert_filled(0, 3); // 600 rotations of 8 rows
    }
    assert_int_equal(n_pools, 3);
}

static void a_command_is_replayed(void **state) {
    (void)state;
    pm_cmd_begin(cmd);
    pm_cmd_copy(cmd, slot(work, 0), slot(upload, 0));
    pm_cmd_copy(cmd, slot(readback, 0), slot(work, 0));
    must(pm_cmd_end(cmd));
    for (int i = 0; i < 3; i++) {
        fill(0, (float)(1000 * i));
        must(pm_cmd_submit(cmd));
        must(pm_cmd_wait(cmd));
        must(pm_cmd_wait(cmd)); // nothing to wait for
        assert_filled(0, (float)(1000 * i));
    }
}

static void two_commands_are_in_flight(void **state) {
    (void)state;
    pm_cmd *second = NULL;
    must(pm_cmd_open(dev, "second", &second));
    fill(0, 17);
    pm_cmd_begin(cmd);
    pm_cmd_begin(second); // recording goes on side by side as well
    pm_cmd_copy(second, slot(readback, 0), slot(work, 0));
    pm_cmd_copy(cmd, slot(work, 0), slot(upload, 0));
    must(pm_cmd_end(second));
    must(pm_cmd_end(cmd));
    for (int i = 0; i < 3; i++) {
        must(pm_cmd_submit(cmd));
        must(pm_cmd_submit(second));
        must(pm_cmd_wait(second));
        assert_filled(0, 17);
        must(pm_cmd_wait(cmd));
    }
    must(pm_cmd_submit(second));
    pm_cmd_close(&second); // waits
    assert_null(second);
    pm_cmd_close(&second);
}

// ---- pieces -----------------------------------------------------------------------------------------------------------

enum { SECTIONS = 16 };
#define MS UINT64_C(1000000)

// Sixteen rotations of eight rows, each a section that reads what the one before it wrote.
static void record_sections(void) {
    pm_cmd_copy(cmd, slot(work, 0), slot(upload, 0));
    for (int i = 0; i < SECTIONS; i++) {
        pm_cmd_section(cmd, i % 2 ? "odd" : "even");
        gather_rows(slot(upload, 1), slot(work, i % 2), slot(work, 1 - i % 2), ROWS, 32);
    }
    pm_cmd_copy(cmd, slot(readback, 0), slot(work, 0));
}

static void record_expecting(uint64_t ns) {
    pm_cmd_begin_dry(cmd);
    record_sections();
    must(pm_cmd_end(cmd));
    must(pm_cmd_prepare(cmd));
    pm_cmd_expect(cmd, ns);
    pm_cmd_begin(cmd);
    record_sections();
    must(pm_cmd_end(cmd));
}

// Runs what is recorded; the same comes out in however many pieces.
static void runs_in(int n_pieces, float first) {
    fill(0, first);
    write_rotation(1);
    n_submits = 0;
    must(pm_cmd_submit(cmd));
    must(pm_cmd_wait(cmd));
    assert_filled(0, first);
    assert_int_equal(n_submits, n_pieces);
    assert_int_equal(pm_cmd_n_pieces(cmd), n_pieces);
    assert_true(pm_cmd_run_ns(cmd) > 0);
}

static void a_long_recording_is_submitted_in_pieces(void **state) {
    (void)state;
    static const struct {
        uint64_t ns;
        int n_pieces;
    } cases[] = {{0, 1}, {99 * MS, 1}, {101 * MS, 2}, {750 * MS, 8}, {1599 * MS, 16}, {9000 * MS, 16}, {PM_NS_UNKNOWN, 16}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        record_expecting(cases[i].ns);
        runs_in(cases[i].n_pieces, (float)i);
        runs_in(cases[i].n_pieces, (float)i + 100);
        assert_true(pm_cmd_is_cut_for(cmd, cases[i].ns));
    }
    record_expecting(350 * MS); // in four
    assert_true(pm_cmd_is_cut_for(cmd, 150 * MS) && pm_cmd_is_cut_for(cmd, 600 * MS));
    assert_false(pm_cmd_is_cut_for(cmd, 90 * MS) || pm_cmd_is_cut_for(cmd, 601 * MS));
    pm_cmd_begin(cmd); // without a rehearsal it is one piece again
    record_sections();
    must(pm_cmd_end(cmd));
    runs_in(1, 7);
}

// The pieces before the one that is refused have run when the error is told, and all can be submitted again.
static void a_piece_that_is_refused_leaves_nothing_running(void **state) {
    (void)state;
    record_expecting(PM_NS_UNKNOWN);
    injected = VK_ERROR_OUT_OF_DEVICE_MEMORY;
    refused = 5;
    assert_int_equal(pm_cmd_submit(cmd), PM_ERR_DEVICE_MEMORY);
    must(pm_cmd_wait(cmd));
    assert_int_equal(n_submits, 5);
    refused = 0;
    runs_in(SECTIONS, 3);
}

// ---- errors -----------------------------------------------------------------------------------------------------------

static void the_first_error_sticks(void **state) {
    (void)state;
    pm_cmd_begin(cmd);
    pm_cmd_fail(cmd, pm_fail(PM_ERR_UNSUPPORTED, "the first"));
    pm_cmd_fail(cmd, pm_fail(PM_ERR_MEMORY, "the second"));
    assert_false(pm_cmd_ok(cmd));
    pm_cmd_zero(cmd, slot(work, 0));
    gather_rows(slot(upload, 1), slot(upload, 0), slot(work, 0), ROWS, 32);
    assert_int_equal(pm_cmd_end(cmd), PM_ERR_UNSUPPORTED);
    assert_string_equal(pm_error_text(), "the first");
    pm_fail(PM_ERR_IO, "something else");
    assert_int_equal(pm_cmd_submit(cmd), PM_ERR_UNSUPPORTED);
    assert_string_equal(pm_error_text(), "the first");

    pm_cmd_begin(cmd); // and is forgotten
    pm_cmd_zero(cmd, slot(work, 0));
    run();
}

static void too_much_for_the_device_is_refused(void **state) {
    (void)state;
    uint32_t max_groups = dev->caps.max_groups, max_invocations = dev->info.max_invocations;
    uint64_t max_binding = dev->caps.max_binding;
    dev->caps.max_groups = 4;
    pm_cmd_begin(cmd);
    gather_rows(slot(upload, 1), slot(upload, 0), slot(work, 0), 5, 32);
    assert_int_equal(pm_cmd_end(cmd), PM_ERR_UNSUPPORTED);
    assert_non_null(strstr(pm_error_text(), "kernel gather: 5 workgroups"));
    dev->caps.max_groups = max_groups;

    dev->caps.max_binding = 1024;
    pm_cmd_begin_dry(cmd);
    gather_rows(slot(upload, 1), slot(upload, 0), slot(work, 0), ROWS, 32);
    assert_int_equal(pm_cmd_end(cmd), PM_ERR_UNSUPPORTED);
    assert_non_null(strstr(pm_error_text(), "binds at most 1024"));
    dev->caps.max_binding = max_binding;

    dev->info.max_invocations = 16;
    pm_cmd_begin(cmd);
    gather_rows(slot(upload, 1), slot(upload, 0), slot(work, 0), ROWS, 17);
    assert_int_equal(pm_cmd_end(cmd), PM_ERR_UNSUPPORTED);
    assert_non_null(strstr(pm_error_text(), "a workgroup of 17"));
    dev->info.max_invocations = max_invocations;
}

static void driver_errors_come_out(void **state) {
    (void)state;
    struct VolkDeviceTable hooked = dev->fn;
    injected = VK_ERROR_OUT_OF_DEVICE_MEMORY;
    dev->fn.vkCreateComputePipelines = fail_pipelines;
    pm_cmd_begin(cmd);
    gather_rows(slot(upload, 1), slot(upload, 0), slot(work, 0), ROWS, 11);
    assert_int_equal(pm_cmd_end(cmd), PM_ERR_DEVICE_MEMORY);
    assert_non_null(strstr(pm_error_text(), "kernel gather"));
    dev->fn = hooked;

    pm_cmd *fresh = NULL, *old = cmd;
    must(pm_cmd_open(dev, "fresh", &fresh));
    cmd = fresh;
    dev->fn.vkCreateDescriptorPool = fail_pool;
    pm_cmd_begin(cmd);
    gather_rows(slot(upload, 1), slot(upload, 0), slot(work, 0), ROWS, 11); // and the pipeline can be made now
    assert_int_equal(pm_cmd_end(cmd), PM_ERR_DEVICE_MEMORY);
    dev->fn = hooked;

    pm_cmd_begin(cmd);
    pm_cmd_zero(cmd, slot(work, 0));
    must(pm_cmd_end(cmd));
    injected = VK_ERROR_DEVICE_LOST;
    dev->fn.vkQueueSubmit = fail_submit;
    assert_int_equal(pm_cmd_submit(cmd), PM_ERR_DEVICE_LOST);
    must(pm_cmd_wait(cmd)); // nothing is running
    dev->fn = hooked;
    must(pm_cmd_submit(cmd));
    dev->fn.vkWaitForFences = time_out_then_lose;
    assert_int_equal(pm_cmd_wait(cmd), PM_ERR_DEVICE_LOST);
    assert_int_equal(n_waits, 3);
    dev->fn = hooked;
    pm_cmd_close(&cmd);
    cmd = old;
}

// ---- times ------------------------------------------------------------------------------------------------------------

static void every_step_is_timed(void **state) {
    (void)state;
    write_rotation(1);
    pm_cmd_profile(cmd, true);
    pm_cmd_begin(cmd);
    pm_cmd_copy(cmd, slot(work, 0), slot(upload, 0));
    pm_cmd_section(cmd, "rotate");
    for (int i = 0; i < 1500; i++) // more than one pool of timestamps
        gather_rows(slot(upload, 1), slot(work, i % 2), slot(work, 1 - i % 2), ROWS, 32);
    pm_cmd_zero(cmd, slot(work, 2));
    must(pm_cmd_end(cmd));
    uint64_t start = pm_now_ns();
    must(pm_cmd_submit(cmd));
    must(pm_cmd_wait(cmd));
    uint64_t elapsed = pm_now_ns() - start, sum = 0;

    int n;
    const pm_timing *timings = pm_cmd_timings(cmd, &n);
    assert_int_equal(n, 1502);
    assert_string_equal(timings[0].kernel, "copy");
    assert_string_equal(timings[0].label, "");
    assert_int_equal(timings[0].bytes, 2 * ROWS * STRIDE * 4);
    assert_string_equal(timings[1500].kernel, "gather");
    assert_string_equal(timings[1500].label, "rotate");
    assert_int_equal(timings[1500].bytes, ROWS * DIM * 8);
    assert_string_equal(timings[1501].kernel, "zero");
    for (int i = 0; i < n; i++)
        sum += timings[i].ns;
    if (dev->info.timestamp_bits > 0) {
        assert_true(sum > 0);
        assert_true(sum <= elapsed + elapsed / 10);
    }

    pm_cmd_profile(cmd, false);
    pm_cmd_begin(cmd);
    pm_cmd_zero(cmd, slot(work, 2));
    run();
    pm_cmd_timings(cmd, &n);
    assert_int_equal(n, 0);
}

// ---- pipelines --------------------------------------------------------------------------------------------------------

static void a_rehearsal_makes_the_pipelines(void **state) {
    (void)state;
    fill(0, 1);
    write_rotation(1);
    for (int round = 0; round < 2; round++) {
        if (round == 0)
            pm_cmd_begin_dry(cmd);
        else
            pm_cmd_begin(cmd);
        for (uint32_t workgroup = 33; workgroup < 43; workgroup++)
            for (int twice = 0; twice < 2; twice++)
                gather_rows(slot(upload, 1), slot(upload, 0), slot(work, 0), ROWS, workgroup);
        assert_int_equal(pm_cmd_n_dispatches(cmd), 20);
        must(pm_cmd_end(cmd));
        assert_int_equal(n_made, round == 0 ? 0 : 10);
        if (round == 0) {
            assert_int_equal(n_barriers, 0);
            must(pm_cmd_prepare(cmd));
            must(pm_cmd_prepare(cmd)); // nothing left to make
            assert_int_equal(n_made, 10);
        }
    }
    must(pm_cmd_submit(cmd));
    must(pm_cmd_wait(cmd));
}

// ---- no memory --------------------------------------------------------------------------------------------------------

// Everything that allocates: opening, growing every list, making pipelines, saving them.
static pm_status all_of_it(void) {
    pm_status status = pm_kernels_open(dev);
    if (status == PM_OK)
        status = pm_cmd_open(dev, "small", &cmd);
    for (int round = 0; round < 2 && status == PM_OK; round++) {
        pm_cmd_profile(cmd, true);
        if (round == 0)
            pm_cmd_begin_dry(cmd);
        else
            pm_cmd_begin(cmd);
        for (uint32_t i = 0; i < 300; i++)
            gather_rows(slot(upload, 1), slot(upload, 0), slot(work, 0), ROWS, 16 + i % 2);
        status = pm_cmd_end(cmd);
        if (status == PM_OK)
            status = round == 0 ? pm_cmd_prepare(cmd) : pm_cmd_submit(cmd);
    }
    pm_cmd_close(&cmd);
    pm_kernels_close(dev);
    return status;
}

static void no_memory_is_a_clean_status(void **state) {
    (void)state;
    pm_kernels_close(dev);
    int n_failed = 0;
    for (long n = 1;; n++) {
        pm_alloc_fail_after(n);
        pm_status status = all_of_it();
        bool reached = pm_alloc_count() >= n;
        pm_alloc_fail_after(0);
        if (!reached) {
            must(status);
            break;
        }
        assert_true(status == PM_OK || status == PM_ERR_MEMORY); // OK: the cache on disk had to do without
        n_failed += status != PM_OK;
        assert_null(cmd);
        assert_null(dev->kernels);
    }
    assert_true(n_failed >= 8);
    must(pm_kernels_open(dev));
    must(pm_cmd_open(dev, "test", &cmd));
}

// ---- validation -------------------------------------------------------------------------------------------------------

static void show_log(void) {
    char *text;
    size_t size;
    if (pm_file_read(temp_path("validation.log"), 1 << 24, &text, &size) == PM_OK)
        print_error("%.4000s\n", text);
}

// Runs last: all of the above was silent, and a barrier left out on purpose is not.
static void validation_was_silent(void **state) {
    (void)state;
    if (log_start < 0) {
        print_message("VK_LAYER_KHRONOS_validation is not installed\n");
        skip();
    }
    if (log_size() != log_start)
        show_log();
    assert_int_equal(log_size(), log_start);

    dev->fn.vkCmdPipelineBarrier = omit_barrier;
    pm_cmd_begin(cmd);
    pm_cmd_zero(cmd, slot(work, 0));
    gather_rows(slot(upload, 1), slot(work, 0), slot(work, 1), ROWS, 32);
    must(pm_cmd_end(cmd));
    dev->fn.vkCmdPipelineBarrier = count_barrier;
    assert_true(log_size() > log_start);
}

int main(void) {
#define WITH_CMD(test) cmocka_unit_test_setup_teardown(test, open_cmd, close_cmd)
    const struct CMUnitTest tests[] = {
        WITH_CMD(independent_copies_need_no_barrier),
        WITH_CMD(a_read_waits_for_the_write),
        WITH_CMD(a_write_waits_for_the_read),
        WITH_CMD(a_write_waits_for_the_write),
        WITH_CMD(ranges_that_only_touch_do_not_overlap),
        WITH_CMD(a_full_list_forces_a_barrier),
        WITH_CMD(dispatches_are_ordered_by_their_slices),
        WITH_CMD(a_dispatch_of_no_groups_is_nothing),
        WITH_CMD(many_dispatches_take_more_sets),
        WITH_CMD(a_command_is_replayed),
        WITH_CMD(two_commands_are_in_flight),
        WITH_CMD(a_long_recording_is_submitted_in_pieces),
        WITH_CMD(a_piece_that_is_refused_leaves_nothing_running),
        WITH_CMD(the_first_error_sticks),
        WITH_CMD(too_much_for_the_device_is_refused),
        WITH_CMD(driver_errors_come_out),
        WITH_CMD(every_step_is_timed),
        WITH_CMD(a_rehearsal_makes_the_pipelines),
        WITH_CMD(no_memory_is_a_clean_status),
        WITH_CMD(validation_was_silent),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
