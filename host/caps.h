// What a device can do and the numbers kernels are given for it. caps.c is the only file that knows vendors, drivers and the
// PM_* environment overrides; everything else asks here.
//
// Overrides, for trying and testing; one that makes no sense is reported and ignored:
//   PM_WITHOUT=subgroup,f16,int_dot,coopmat   the device is taken not to have these
//   PM_MATVEC=workgroup,lanes,rows,max_cols   struct pm_matvec_shape of matvec; PM_MATVEC_BATCH: of matvec_batch
//   PM_SUBGROUPS=0|1                          products by matvec_sg instead, where a subgroup has 8 lanes
//   PM_DOTS=0|1                               products in --precision fast by int8 dot products, where the device has them
//   PM_TILES=0|1|2                            products of many rows: by matvec, matmul, matmul_cm where the device has matrices;
//                                             2: attention of prompts by attend_cm, too
//   PM_ATTEND_SPLIT=n  PM_MAX_CHUNK=n
//   PM_SUBMIT_MS=n                            the longest a submission is meant to take (150)
//   PM_MAX_BINDING_BYTES=n                    less than the device's maxStorageBufferRange: splits weights as phones must
//   PM_STAGING=1                              device memory is not mapped even where it could be
//   PM_LIMITS=name                            the device is taken for one of limits.c, as with --limits;
//                                             nothing is tried or measured then: verdicts are kept, and would be the device's own
//   PM_SELFTEST=0                             kernels are used without having been tried
//   PM_TRIAL_MS=n                             the longest a trial may take
//   PM_TUNE=seconds                           that a first answer may wait for measurements
//   PM_BREAK=kernel[:spec,..]=how             builds with tests: breaks kernels, see pm_caps_broken
//   PM_QUEUE=graphics                         a queue that can draw too, where there is one that only computes
#ifndef PM_CAPS_H
#define PM_CAPS_H

#include "host/host.h"

// Bits of what a kernel needs beyond Vulkan 1.1 (column `needs` of shaders/kernels.txt).
#define PM_NEED_SUBGROUP 1u // subgroups of 8 lanes at least, with arithmetic, ballot and shuffle in compute
#define PM_NEED_F16      2u // shaderFloat16
#define PM_NEED_INT_DOT  4u // packed 4x8 integer dot product
#define PM_NEED_COOPMAT  8u // VK_KHR_cooperative_matrix, f16 x f16 -> f32

// Devices whose kernels are laid out alike.
typedef enum pm_device_class { PM_CLASS_CPU, PM_CLASS_GPU } pm_device_class;

// How a mat-vec is laid over a workgroup.
typedef struct pm_matvec_shape {
    uint32_t workgroup; // invocations
    uint32_t lanes;     // that share a weight row; 1: a lane a row
    uint32_t rows;      // weight rows a lane (or lane group) takes; even
    uint32_t max_cols;  // rows of x in one dispatch
} pm_matvec_shape;

// How matmul_cm is laid over a product, and the size of its matrices.
typedef struct pm_coopmat_shape {
    uint32_t workgroup, subgroup; // invocations
    uint32_t m, n, k;             // rows of w, rows of x, columns of a matrix
    uint32_t rows, cols;          // of a workgroup's tile: rows of w, a multiple of the workgroup; rows of x
    uint32_t down;                // subgroups above one another
    uint32_t buffers;             // for blocks in shared memory: 1 or 2
} pm_coopmat_shape;
uint64_t pm_coopmat_shared(const pm_coopmat_shape *shape); // bytes that the kernel declares, at most

typedef struct pm_caps {
    pm_device_class device_class;
    uint32_t has;                                          // PM_NEED_* bits this device has
    pm_matvec_shape matvec;                                // up to matvec.max_cols rows of x
    pm_matvec_shape matvec_batch;                          // more rows, where use_tiles is false
    bool use_subgroups;                                    // matvec_sg instead of matvec
    bool use_subgroup_batch;                               // and, for more rows of x, instead of matvec_batch, in these shapes:
    pm_matvec_shape subgroup_batch, subgroup_batch_floats; // weights that are quants; floats of 16 bits and more
    bool use_tiles;                                        // matmul.comp for more rows than matvec.max_cols
    bool use_coopmat;         // matmul_cm.comp instead, and attend_cm.comp, where halves are exact enough
    bool use_dots;            // matvec_dot, and matmul_dot for matmul, where bytes are exact enough
    pm_coopmat_shape coopmat; // where use_coopmat
    uint64_t max_binding;     // bytes bound at once, from maxStorageBufferRange (and PM_MAX_BINDING_BYTES)
    uint32_t max_groups;      // of dispatch dimension x
    uint32_t attend_split;    // positions a split of the cache
    uint32_t max_chunk;       // rows of a prefill pass
    uint64_t submit_ns;       // that a submission may take
    uint32_t row_workgroup;   // invocations where one workgroup goes through a row of logits; a power of two
    bool chosen;              // an override says how products or attention are laid out: no plan does
    bool self_test;           // kernels are tried before they are used
    uint32_t trial_ms;        // the longest that a submission of a trial may take
    double tune_seconds;      // that a first answer may wait for measurements
    bool map_device;          // PM_MEM_DEVICE is mapped: the device shares its memory with the host
} pm_caps;

// Takes from info what --limits and PM_LIMITS say that the device is to lack.
void pm_caps_limit(pm_device_info *info);

// Fills caps from info. Called once, when the device is opened.
void pm_caps_fill(const pm_device_info *info, pm_caps *caps);

// Sorts devices best first and keeps one entry of a GPU that several drivers offer. Each has its place in the list as `index`.
// Returns how many are left.
int pm_caps_rank(pm_device_info *infos, int n);

// A queue of a family that only computes does not wait behind the desktop's drawing: preferred unless PM_QUEUE says otherwise.
bool pm_caps_wants_graphics_queue(void);

// How PM_BREAK breaks this use of a kernel: "matvec_q8_0=wrong", "matvec_*:16=hang" (names that begin so, constants that begin so),
// several with a semicolon between. The proof that the self-test works; only in builds with tests, others break nothing.
typedef enum pm_breakage {
    PM_BREAK_NOT,
    PM_BREAK_WRONG,   // it writes nothing
    PM_BREAK_HANG,    // its submission never ends
    PM_BREAK_LOST,    // its submission loses the device
    PM_BREAK_CRASH,   // compiling it ends the process
    PM_BREAK_COMPILE, // it does not compile
    PM_BREAK_STALL    // its compilation never ends
} pm_breakage;
#ifdef PM_BREAKABLE
pm_breakage pm_caps_broken(const char *kernel, const uint32_t *spec, int n_spec);
#else
static inline pm_breakage pm_caps_broken(const char *kernel, const uint32_t *spec, int n_spec) {
    (void)kernel, (void)spec, (void)n_spec;
    return PM_BREAK_NOT;
}
#endif

#endif
