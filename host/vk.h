// Private to the host room: what its files share, with Vulkan types.
#ifndef PM_VK_H
#define PM_VK_H

#include "host/host.h"
#include "host/caps.h"
#include "shaders/abi.h"
#include "volk.h"

// Returns early with PM_ERR_DEVICE (or _LOST, _MEMORY) naming the call when a Vulkan function fails.
#define VK_TRY(call)                                 \
    do {                                             \
        VkResult vk_try_result = (call);             \
        if (vk_try_result < 0)                       \
            return pm_vk_fail(vk_try_result, #call); \
    } while (0)
pm_status pm_vk_fail(VkResult result, const char *call);

struct pm_device {
    VkInstance instance;
    VkPhysicalDevice physical;
    VkDevice vk;
    struct VolkDeviceTable fn; // every device-level call goes through it
    uint32_t queue_family;
    VkQueue queue;
    pm_device_info info;
    pm_caps caps;
    VkPhysicalDeviceMemoryProperties memory;
    uint64_t free_ram;                         // of the machine when the device was opened; 0: unknown
    uint64_t used[VK_MAX_MEMORY_HEAPS];        // bytes that our buffers take of each heap
    struct pm_kernels *kernels;                // kernel.c
    struct pm_verdicts *verdicts;              // selftest.c; NULL: kernels are trusted
    struct pm_tuned *tuned;                    // tune.c; NULL: nothing was measured
    const struct pm_variant *forced;           // by a trial or a measurement: products take this one and no other
    const struct pm_attend_way *forced_way;    // the same of attention
    const struct pm_kernel_use *forced_use;    // the same of other kernels: this one is used as here
    uint64_t time_limit_ns;                    // of a submission, in trials; 0: none
    uint64_t ended_ns;                         // when the last submission was seen to end
    PFN_vkSetDebugUtilsObjectNameEXT set_name; // NULL: VK_EXT_debug_utils is not there
};

// device.c: a name for debuggers and validation messages, where there is somebody to read it.
void pm_vk_name(const pm_device *dev, VkObjectType type, uint64_t handle, const char *name);

// probe.c: what a physical device has, and the VkDevice made with what we use of it.
pm_status pm_probe(VkPhysicalDevice physical, pm_device_info *info, uint32_t *queue_family); // UNSUPPORTED: not for us, and why
pm_status pm_probe_create_device(VkPhysicalDevice physical, const pm_device_info *info, uint32_t queue_family, VkDevice *vk);
// The heaps as they are now. What this process holds is already off the budget where the driver tells it (budget_known).
void pm_probe_heaps(VkPhysicalDevice physical, bool budget_known, pm_heap_info heaps[16], int *n);

// memory.c: the heap that each use of memory is given from, where a buffer may be of any type; -1: none
void pm_memory_heaps(const VkPhysicalDeviceMemoryProperties *memory, bool unified, int heap_of[PM_MEM_COUNT]);

struct pm_buffer {
    pm_device *dev;
    VkBuffer vk;
    VkDeviceMemory memory;
    uint64_t size;
    uint8_t *mapped; // NULL: not host-visible
    const char *name;
    uint32_t heap;  // that the memory is from
    uint64_t taken; // bytes of it
};

// kernel.c: the table of kernels (shaders/gen/kernels.def) and their pipelines
typedef enum pm_kernel_id {
#define PM_KERNEL(name, reads, writes, needs) PM_K_##name,
#include "kernels.def"
#undef PM_KERNEL
    PM_KERNEL_COUNT
} pm_kernel_id;

typedef struct pm_kernel_info {
    const char *name;
    int n_reads, n_writes; // bindings 0.. are read, the next n_writes are written (and may be read)
    uint32_t needs;        // bits of PM_NEED_*
    const uint32_t *spirv;
    size_t spirv_size; // bytes; 0: the GLSL compiler of this build could not make it
} pm_kernel_info;
const pm_kernel_info *pm_kernel_get_info(pm_kernel_id id);

pm_status pm_kernels_open(pm_device *dev);
void pm_kernels_close(pm_device *dev);                           // also writes the pipeline cache to disk
bool pm_kernel_available(const pm_device *dev, pm_kernel_id id); // compiled, and the device has what it needs
VkPipelineLayout pm_kernels_layout(const pm_device *dev);
VkDescriptorSetLayout pm_kernels_set_layout(const pm_device *dev);
// The pipeline of a kernel with these specialization constants; made at the first call, owned by the device.
pm_status pm_kernel_pipeline(pm_device *dev, pm_kernel_id id, const uint32_t *spec, int n_spec, VkPipeline *pipeline);

// A kernel with its specialization constants 0 .. n_spec - 1; constant 0 is the workgroup's size. Where the kernel needs
// cooperative matrices constant 2 is the subgroup's size, and the pipeline is made with whole subgroups of it.
typedef struct pm_kernel_use {
    pm_kernel_id id;
    uint32_t spec[PM_MAX_SPEC];
    int n_spec;
} pm_kernel_use;
// Makes the pipelines of n uses that are not there yet, in parallel, and saves the pipeline cache if there was anything new.
pm_status pm_kernels_prepare(pm_device *dev, const pm_kernel_use *uses, int n);

bool pm_kernel_same_use(const pm_kernel_use *a, const pm_kernel_use *b);
// "matvec_q4_0:16,1,1,8,4", and back; false where it is no use of a kernel of this build.
enum { PM_USE_TEXT = 160 };
const char *pm_kernel_use_text(const pm_kernel_use *use, char text[PM_USE_TEXT]);
bool pm_kernel_use_read(const char *text, pm_kernel_use *use);

// store.c: what is remembered of a device from run to run
uint64_t pm_store_hash(const void *data, size_t size);
// PUMICE_CACHE/KIND-device-driver-kernels.ENDING; false where nothing is kept.
bool pm_store_path(const pm_device *dev, const char *kind, const char *ending, char *path, size_t size);
// Lines that were written about this very device, driver and kernels, the caller's to pm_free; NULL where there are none that are
// whole and ours.
char *pm_store_read(const pm_device *dev, const char *kind);
void pm_store_write(const pm_device *dev, const char *kind, const char *body);

// Lines that are put together; zero-initialise, free p.
typedef struct pm_text {
    char *p;
    size_t n, room;
    bool failed; // for want of memory
} pm_text;
void pm_text_add(pm_text *text, const char *format, ...) PM_PRINTF(2, 3); // at most 511 bytes at a time

// trial.c: one use of a kernel on small awkward shapes against reference.c
typedef enum pm_fate {
    PM_FATE_UNKNOWN,
    PM_FATE_RIGHT,
    PM_FATE_WRONG,
    PM_FATE_HANGS,   // it took longer than caps.trial_ms
    PM_FATE_LOST,    // the device was lost
    PM_FATE_CRASHES, // it ended the process
    PM_FATE_REFUSED, // the driver does not compile or run it
    PM_FATE_UNTRIED, // no case for this kernel
    PM_FATE_COUNT
} pm_fate;
const char *pm_fate_name(pm_fate fate);
bool pm_fate_read(const char *text, pm_fate *fate);

typedef struct pm_verdict {
    pm_kernel_use use;
    pm_fate fate;
    double error; // the worst, as a part of its tolerance
    double ms;    // that the last run took
    bool from_disk;
} pm_verdict;

typedef struct pm_lab pm_lab;
pm_status pm_lab_open(pm_device *dev, pm_lab **lab); // on a device of its own, whose time_limit_ns it sets
void pm_lab_close(pm_lab **lab);                     // not where it is stuck: it would wait for ever
void pm_lab_try(pm_lab *lab, const pm_kernel_use *use, pm_verdict *verdict);
bool pm_lab_knows(pm_kernel_id id);
bool pm_lab_is_stuck(const pm_lab *lab); // what it runs has not come back: no other trial can be made in it

// selftest.c: which uses of kernels are right on this device
void pm_selftest_open(pm_device *dev); // loads what is known
void pm_selftest_close(pm_device *dev);
// Adds what lines say of uses of which nothing is known yet; what makes no sense here is left out. text may be NULL.
void pm_selftest_read(pm_device *dev, const char *text);
// Tries the uses of which nothing is known yet. *found_bad: one of them must not be used; rehearse again, and others take its
// place.
pm_status pm_selftest_uses(pm_device *dev, const pm_kernel_use *uses, int n, bool *found_bad);
bool pm_selftest_is_bad(const pm_device *dev, const pm_kernel_use *use);
bool pm_selftest_knows(const pm_device *dev, const pm_kernel_use *use); // a verdict, or that none is asked for
bool pm_selftest_found_bad(const pm_device *dev);                       // any use at all
// The error of a use that is bad with nothing to take its place. What only the disk says is tried once more before (PM_OK).
pm_status pm_selftest_check(const pm_device *dev, const pm_kernel_use *use);

// Every use that `pumice devices --test` tries, without a verdict; *list is the caller's to pm_free.
pm_status pm_selftest_list(const pm_device *dev, pm_verdict **list, int *n);

// variant.c: the ways to compute the same; op_*.c ask for one, selftest.c and tune.c go through all
typedef enum pm_product_kernel {
    PM_BY_MATVEC,    // of `shape`
    PM_BY_TILES,     // matmul
    PM_BY_MATRICES,  // matmul_cm, of `shape` (variant.c says how) or caps.coopmat
    PM_BY_SUBGROUPS, // matvec_sg, of `shape`
    PM_BY_BUFFERS,   // matmul_cm with two buffers
    PM_BY_DOTS,      // matvec_dot, of `shape`
    PM_BY_DOT_TILES, // matmul_dot
    PM_PRODUCT_KERNEL_COUNT
} pm_product_kernel;
typedef struct pm_variant {
    const char *name;
    pm_product_kernel by;
    pm_matvec_shape shape;
    uint32_t classes; // bits 1 << pm_device_class that may try it
} pm_variant;

// A product as far as a choice depends on it.
typedef struct pm_linear_shape {
    pm_dtype dtype;
    uint32_t epilogue, rows, cols, n;
    bool exact; // no kernel that multiplies halves
    bool fast;  // also those that round activations to bytes
    // Of products with experts, whose matrices have `rows` each:
    uint32_t n_experts, n_used; // 0: it is none of those
    uint32_t tile;              // most pairs of a row and an expert that one workgroup takes
} pm_linear_shape;

// Of matmul_cm; as caps.coopmat where the variant does not say.
bool pm_variant_is_matrices(const pm_variant *variant);
pm_coopmat_shape pm_variant_coopmat(const pm_caps *caps, const pm_variant *variant);
// Number i of the variants that this device may take, the default first; false behind the last.
bool pm_variant_at(const pm_device *dev, const pm_linear_shape *shape, int i, pm_variant *variant);
// What was forced or tuned, else the first that is right; where none is, the default.
pm_variant pm_variant_linear(const pm_device *dev, const pm_linear_shape *shape);
bool pm_variant_right(const pm_device *dev, const pm_linear_shape *shape, const pm_variant *variant);
bool pm_variant_any_right(const pm_device *dev, const pm_linear_shape *shape);
bool pm_variant_same(const pm_variant *a, const pm_variant *b);
bool pm_variant_has_dots(const pm_variant *v); // multiplies bytes, which pm_op_quantize makes of x
// Of a kernel that takes any workgroup: the first of the table's sizes that is right.
uint32_t pm_variant_workgroup(const pm_device *dev, pm_kernel_id kernel, uint32_t usual);
uint32_t pm_variant_workgroup_at(int i); // those sizes; 0 behind the last
// Of n uses that compute the same the first that is right; where none is, the first.
pm_kernel_use pm_variant_use(const pm_device *dev, const pm_kernel_use *uses, int n);

// op_linear.c: the uses that a product makes of kernels, one or two; none where the variant cannot
int pm_linear_uses(const pm_caps *caps, const pm_linear_shape *shape, const pm_variant *variant, pm_kernel_use uses[2]);
// What comes before a product with weights of this type that multiplies bytes, and what it makes of x.
pm_kernel_use pm_quantize_use(pm_dtype dtype, uint32_t epilogue);
struct pm_quants_form;
struct pm_quants_form pm_quants_form_for(pm_dtype dtype, uint32_t epilogue);

// op_moe.c: the same of a product with experts, none where the variant cannot; and the steps of its verbs, for trials and
// measurements
int pm_experts_uses(const pm_linear_shape *shape, const pm_variant *variant, pm_kernel_use uses[2]);
struct pm_routes;
struct pm_hidden;
uint32_t pm_experts_tile(const pm_device *dev,
                         const struct pm_routes *routes); // pairs of a tile; 1: rows take their experts one by one
void pm_experts_group(pm_cmd *cmd, const struct pm_routes *routes);
// products (n * n_used, dim) = src (n * n_used, cols) * their part of w^T, where rows are grouped; and the sum of them
void pm_experts_multiply(pm_cmd *cmd, pm_tensor products, pm_tensor src, pm_tensor w, const struct pm_routes *routes);
void pm_experts_sum(pm_cmd *cmd, struct pm_hidden *h, pm_tensor products, pm_tensor gain, const struct pm_routes *routes);

uint32_t pm_experts_tile_cols(const pm_caps *caps, uint32_t epilogue); // of tiles where `epilogue` is grouped, else 1

// op_attend.c: attention as far as a choice depends on it, and how it is laid out.
typedef struct pm_attend_shape {
    pm_dtype dtype; // of the cache
    uint32_t n, n_heads, n_kv_heads, head_dim;
    uint32_t length; // positions
} pm_attend_shape;
typedef struct pm_attend_way {
    uint32_t split;     // positions that a workgroup takes, a multiple of PM_PAGE; 0: all
    uint32_t rows;      // that it takes of those with consecutive positions
    uint32_t subgroups; // of the workgroup, where it is attend_cm, which is for consecutive rows; 0: attend
} pm_attend_way;
// Number i of the ways that this device may take, the default first; false behind the last.
bool pm_attend_way_at(const pm_device *dev, const pm_attend_shape *shape, int i, pm_attend_way *way);
bool pm_attend_has_way(const pm_device *dev, const pm_attend_shape *shape, const pm_attend_way *way);
int pm_attend_uses(const pm_device *dev, const pm_attend_shape *shape, const pm_attend_way *way, pm_kernel_use uses[2]);
uint64_t pm_attend_partial_bytes(const pm_attend_shape *shape, uint32_t split);

// the two halves of pm_op_attend, for trials; n_splits 1: nothing is partial (ops.h tells the rest)
struct pm_attend;
void pm_attend_split(pm_cmd *cmd, const struct pm_attend *op, pm_slice partial, uint32_t n_splits, uint32_t split_len,
                     const pm_kernel_use *use);
void pm_attend_merge(pm_cmd *cmd, const struct pm_attend *op, pm_slice partial, uint32_t n_heads, uint32_t n_splits);

// op_ceiling.c: the uses that the device at hand has, and the pm_ceiling_kind of each; returns how many
int pm_ceiling_uses(const pm_device *dev, pm_kernel_use *uses, int *kinds);

// op_point.c: the first half of pm_op_sample, for trials; of op: logits, n_valid, sampling, scratch
struct pm_sample;
void pm_sample_sieve(pm_cmd *cmd, const struct pm_sample *op);

// tune.c
void pm_tune_open(pm_device *dev); // loads the plan
void pm_tune_close(pm_device *dev);
// Of n ratios, the challenger's time to the champion's, in turns: is the challenger clearly faster? Sorts them.
bool pm_tune_wins(double *ratios, int n);
bool pm_tune_find(const pm_device *dev, const pm_linear_shape *shape, pm_variant *variant);
bool pm_tune_find_attend(const pm_device *dev, const pm_attend_shape *shape, pm_attend_way *way);

// contest.c: ways to do the same, measured against each other
enum { PM_CONTEST_MOST = 32 };
typedef struct pm_contest {
    pm_device *dev;
    uint64_t deadline_ns;
    double rate;                     // bytes a microsecond that the device moves; 0: unknown
    int n;                           // candidates; number 0 is the default
    uint64_t bytes[PM_CONTEST_MOST]; // that each must at least move
    int most_pieces;                 // of the same work on other data
    void (*record)(void *user, pm_cmd *cmd, int candidate, int piece);
    void *user;
    // What comes of it:
    int n_pieces, winner;
    bool partly;         // time ran out before all had their turn
    double usual_us, us; // a piece: of the default, of the winner
} pm_contest;
pm_status pm_contest_run(pm_contest *contest);
double pm_contest_rate(pm_device *dev); // by copies
// Whether what must move so many bytes may take less time than the best.
bool pm_contest_can_win(uint64_t bytes, double rate, double best_us);

// command.c: what the op_*.c files record
typedef struct pm_dispatch {
    pm_kernel_id kernel;
    uint32_t spec[PM_MAX_SPEC];
    int n_spec;
    const void *args;
    uint32_t args_size;
    pm_slice slices[PM_MAX_BINDINGS]; // reads, then writes, as the kernel's row says; the kernel uses none without a buffer
    uint32_t groups[3];
    // For --profile: bytes that must at least be moved; of products rows and columns of the weight, and multiplications and
    // additions of all its rows of x.
    uint64_t bytes, flops;
    uint32_t rows, cols;
} pm_dispatch;
void pm_cmd_dispatch(pm_cmd *cmd, const pm_dispatch *dispatch);
// A product of a rehearsal, for the tuner; of each shape a few weights are kept, so that measuring does not find them in a cache.
enum { PM_PROBLEM_WEIGHTS = 8 };
typedef struct pm_problem {
    pm_linear_shape shape;
    uint32_t count; // of them in the rehearsal
    int n_weights;
    pm_tensor weights[PM_PROBLEM_WEIGHTS];
} pm_problem;
void pm_cmd_note_product(pm_cmd *cmd, const pm_linear_shape *shape, const pm_tensor *w);
const pm_problem *pm_cmd_problems(const pm_cmd *cmd, int *n);
// The same of attention.
void pm_cmd_note_attend(pm_cmd *cmd, const pm_attend_shape *shape);
const pm_attend_shape *pm_cmd_attends(const pm_cmd *cmd, int *n);
// Sticks an error of the recording.
void pm_cmd_fail(pm_cmd *cmd, pm_status status);
bool pm_cmd_ok(const pm_cmd *cmd);
bool pm_cmd_is_running(const pm_cmd *cmd); // or its wait failed, and nobody knows

#endif
