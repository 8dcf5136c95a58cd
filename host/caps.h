// What a device can do and the numbers kernels are given for it. caps.c is the only file that knows vendors, drivers and the
// PM_* environment overrides; everything else asks here.
//
// Overrides, for trying and testing; one that makes no sense is reported and ignored:
//   PM_WITHOUT=subgroup,f16,int_dot,coopmat   the device is taken not to have these
//   PM_MATVEC=workgroup,lanes,rows,max_cols   struct pm_matvec_shape of matvec; PM_MATVEC_BATCH: of matvec_batch
//   PM_TILES=0|1|2                            products of many rows: by matvec, matmul, matmul_cm where the device has matrices
//   PM_ATTEND_SPLIT=n  PM_MAX_CHUNK=n
//   PM_MAX_BINDING_BYTES=n                    less than the device's maxStorageBufferRange: splits weights as phones must
//   PM_STAGING=1                              device memory is not mapped even where it could be
//   PM_LIMITS=name                            the device is taken for one of limits.c, as with --limits
//   PM_QUEUE=graphics                         a queue that can draw too, where there is one that only computes
#ifndef PM_CAPS_H
#define PM_CAPS_H

#include "host/host.h"

// Bits of what a kernel needs beyond Vulkan 1.1 (column `needs` of shaders/kernels.txt).
#define PM_NEED_SUBGROUP 1u // subgroup arithmetic in compute
#define PM_NEED_F16      2u // shaderFloat16
#define PM_NEED_INT_DOT  4u // packed 4x8 integer dot product
#define PM_NEED_COOPMAT  8u // VK_KHR_cooperative_matrix, f16 x f16 -> f32

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
} pm_coopmat_shape;

typedef struct pm_caps {
    uint32_t has;                 // PM_NEED_* bits this device has
    pm_matvec_shape matvec;       // up to matvec.max_cols rows of x
    pm_matvec_shape matvec_batch; // more rows, where use_tiles is false
    bool use_tiles;               // matmul.comp for more rows than matvec.max_cols
    bool use_coopmat;             // matmul_cm.comp instead, where halves are exact enough
    pm_coopmat_shape coopmat;     // where use_coopmat
    uint64_t max_binding;         // bytes bound at once, from maxStorageBufferRange (and PM_MAX_BINDING_BYTES)
    uint32_t max_groups;          // of dispatch dimension x
    uint32_t attend_split;        // positions a split of the cache
    uint32_t max_chunk;           // rows of a prefill pass
    uint32_t row_workgroup;       // invocations where one workgroup goes through a row of logits; a power of two
    bool map_device;              // PM_MEM_DEVICE is mapped: the device shares its memory with the host
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

#endif
