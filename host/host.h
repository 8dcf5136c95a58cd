// The face of the host layer, without a Vk type: devices, buffers, packed tensors, and a command that is recorded once and
// submitted many times. The verbs that fill a command are in ops.h.
#ifndef PM_HOST_H
#define PM_HOST_H

#include "host/base.h"
#include "host/device.h"

#ifdef __cplusplus
extern "C" {
#endif

// ---- devices (more in device.h) ----------------------------------------------------------------------------------------

// A device to plan with, from its entry in the list: the driver is not asked again. It answers for sizes, limits and room as the
// open one does; a buffer made on it is a size with no memory behind it, and no command can be opened on it.
pm_status pm_device_open_dry(const pm_device_info *info, pm_device **dev);
// Bytes still free for us on a heap.
uint64_t pm_device_heap_free(const pm_device *dev, int heap);

// Of all kernels of this build, in hex: two builds with the same run the same code.
const char *pm_shader_hash(void);

// How many uses of kernels were tried on this device, now or before, and how many of them are right; 0, 0 where nothing is tried.
void pm_device_verdicts(const pm_device *dev, int *n_right, int *n);

// What a child process does that was started as PROGRAM PM_TRY_COMMAND ...: argc and argv are what follows. Returns an exit code.
#define PM_TRY_COMMAND "try-kernels"
int pm_device_try_kernels(int argc, char **argv);

// Tries every variant of every kernel that this build and device have. *rows are the caller's to pm_free.
typedef struct pm_trial_row {
    const char *kernel;
    char numbers[128];   // its specialization constants
    const char *verdict; // "right", "wrong", ...
    bool right;
    double error, ms; // the worst, as a part of its tolerance; of running it
} pm_trial_row;
pm_status pm_device_test(pm_device *dev, pm_trial_row **rows, int *n);

// Rows of a prompt that a pass should take on this device.
uint32_t pm_device_chunk(const pm_device *dev);

// ---- buffers ----------------------------------------------------------------------------------------------------------

typedef struct pm_buffer pm_buffer;

typedef enum pm_memory {
    PM_MEM_DEVICE,   // device-local; not mapped (unless the device shares its memory with the host)
    PM_MEM_UPLOAD,   // mapped, coherent, written by the host in order
    PM_MEM_READBACK, // mapped, coherent, cached: read by the host
    PM_MEM_COUNT
} pm_memory;

// A range of a buffer; a value. Offsets are multiples of pm_slice_align.
typedef struct pm_slice {
    pm_buffer *buffer;
    uint64_t offset, size;
} pm_slice;

// Name is for debuggers and messages, static text. Contents are zero. PM_ERR_DEVICE_MEMORY says how much was wanted and how much
// was free.
pm_status pm_buffer_create(pm_device *dev, uint64_t size, pm_memory memory, const char *name, pm_buffer **buffer);
void pm_buffer_close(pm_buffer **buffer);
pm_slice pm_buffer_slice(pm_buffer *buffer, uint64_t offset, uint64_t size);
pm_slice pm_buffer_all(pm_buffer *buffer);
// The host's pointer to a slice; NULL where the buffer is not mapped.
void *pm_slice_map(pm_slice slice);
// Writes to the start of a slice of any memory and waits: for what is written once. size: a multiple of 4.
pm_status pm_slice_write(pm_device *dev, pm_slice slice, const void *data, uint64_t size);
// What every slice bound to a kernel must be aligned to on this device (at most 256).
uint64_t pm_slice_align(const pm_device *dev);

// Device memory for what lives as long as a model: slabs of at most 1 GiB, less where the driver says so; freed all at once.
// `expected` is what will be asked for in all: a slab is no larger than what is still expected (a request beyond it gets its own).
// Each request takes its size rounded up to pm_slice_align.
typedef struct pm_slabs pm_slabs;
pm_status pm_slabs_create(pm_device *dev, uint64_t expected, const char *name, pm_slabs **slabs);
void pm_slabs_close(pm_slabs **slabs);
// Contents are zero.
pm_status pm_slabs_alloc(pm_slabs *slabs, uint64_t size, pm_slice *slice);
uint64_t pm_slabs_bytes(const pm_slabs *slabs); // of device memory held

// ---- tensors ----------------------------------------------------------------------------------------------------------

// A matrix on the device; a value. Activations are F32 with rows padded to PM_BLOCK floats, the padding zero.
typedef struct pm_tensor {
    pm_dtype dtype;
    uint32_t rows, cols; // logical
    uint32_t stride;     // elements from row to row: cols rounded up to PM_BLOCK
    pm_slice data;       // floats, halves, or the quants of packed weights
    pm_slice scales;     // the scale plane of packed weights
    uint32_t row0;       // where its rows stand in a whole of several tensors: the output column of the first
} pm_tensor;

// Rows [row, row + rows) of an activation tensor.
pm_tensor pm_tensor_rows(pm_tensor t, uint32_t row, uint32_t rows);
// Bytes of an activation (rows, cols).
uint64_t pm_activation_bytes(uint32_t rows, uint32_t cols);
// A view of `bytes` at `slice` as an activation (rows, cols).
pm_tensor pm_activation(pm_slice slice, uint32_t rows, uint32_t cols);

// ---- packing weights (pack.c) -----------------------------------------------------------------------------------------

// Streams weights from the file's mapping to the device: packed on the host into a staging ring, or straight into the
// device's memory where that is mapped. Layouts are described in pack.c and read by shaders/weights.glsl.
typedef struct pm_packer pm_packer;
pm_status pm_packer_open(pm_device *dev, pm_slabs *slabs, pm_packer **packer);
void pm_packer_close(pm_packer **packer);

// One matrix of a file: row-major blocks of dtype, any alignment.
typedef struct pm_pack_part {
    const void *data;
    pm_dtype dtype;
    uint32_t rows;
    // Where the file has no such rows: writes those of rows [row, row + n_rows) and columns [col, col + n_cols), row after row, to
    // `out`; col is a multiple of 256, n_cols at most 256 and whole blocks. `data` is handed through. Called from any thread.
    void (*read)(const void *data, uint32_t row, uint32_t n_rows, uint32_t col, uint32_t n_cols, uint8_t *out);
    uint32_t row0; // what `read` calls the first row
} pm_pack_part;

typedef enum pm_pack_order {
    PM_PACK_STACKED,     // part after part: Q, K, V
    PM_PACK_INTERLEAVED, // parts in pairs, pair after pair: row 0 of both, row 1 of both, ...: gate, up
} pm_pack_order;

// *out = the parts as one matrix (sum of rows, cols). Parts of different types: all become F16 where every value fits, else F32.
// A row must be whole blocks of its type (checked: PM_ERR_FILE). The data may be dropped after pm_packer_finish.
pm_status pm_pack_matrix(pm_packer *packer, const pm_pack_part *parts, int n_parts, uint32_t cols, pm_pack_order order,
                         pm_tensor *out);
// *out = n values as floats (1, n): norm weights and biases. Parts are put one after the other.
pm_status pm_pack_vector(pm_packer *packer, const pm_pack_part *parts, int n_parts, pm_tensor *out);
// Waits until all is on the device.
pm_status pm_packer_finish(pm_packer *packer);
// Device bytes that a matrix will take.
uint64_t pm_packed_bytes(pm_dtype dtype, uint64_t rows, uint64_t cols);

// ---- commands ---------------------------------------------------------------------------------------------------------

// Work for the device, recorded once between begin and end, then submitted as often as wanted. Recording functions return
// nothing: the first error sticks, pm_cmd_end returns it. Barriers are put where slices overlap, and nowhere else.
typedef struct pm_cmd pm_cmd;
pm_status pm_cmd_open(pm_device *dev, const char *name, pm_cmd **cmd);
void pm_cmd_close(pm_cmd **cmd); // waits first where it is still running
void pm_cmd_begin(pm_cmd *cmd);  // forgets what was recorded; must not be running
pm_status pm_cmd_end(pm_cmd *cmd);
pm_status pm_cmd_submit(pm_cmd *cmd); // returns at once; not again before pm_cmd_wait
pm_status pm_cmd_wait(pm_cmd *cmd);   // until the last submit is done; fine when there is none
pm_status pm_cmd_run(pm_cmd *cmd);    // ends the recording, submits it and waits
pm_device *pm_cmd_device(const pm_cmd *cmd);

// Begins a rehearsal: until pm_cmd_end everything is checked and the kernels are noted, nothing is recorded. pm_cmd_prepare then
// makes all of them at once, in parallel, so that the recordings that follow find them ready. Those that are new to this device and
// driver are tried against the reference before; where one is found wrong, the command is stale: rehearse again, and another way to
// compute the same takes its place.
void pm_cmd_begin_dry(pm_cmd *cmd);
pm_status pm_cmd_prepare(pm_cmd *cmd);
bool pm_cmd_is_stale(const pm_cmd *cmd);

// What follows is a section of the recording; label: static text. A recording that is rehearsed before can be cut between sections
// into pieces, which are submitted one by one: drivers end what runs for seconds, and a desktop stands still meanwhile. What is
// computed stays the same.
void pm_cmd_section(pm_cmd *cmd, const char *label);
// Between rehearsal and recording: the device is expected to take so many ns for it; what follows is cut so that no piece takes
// more than 150 ms, or a section. PM_NS_UNKNOWN: at every section. Without it nothing is cut.
#define PM_NS_UNKNOWN UINT64_MAX
void pm_cmd_expect(pm_cmd *cmd, uint64_t ns);
// Whether the recording would be cut much like that for this time, too.
bool pm_cmd_is_cut_for(const pm_cmd *cmd, uint64_t ns);
int pm_cmd_n_pieces(const pm_cmd *cmd);
uint64_t pm_cmd_run_ns(const pm_cmd *cmd); // of the last run that was waited for, by the host's clock

// ---- tuning -----------------------------------------------------------------------------------------------------------

// Rehearsals to come note their products, for pm_tune_products, which measures on them and with their weights which variants are
// fastest, for about so many seconds, and keeps the plan: from then on it decides. What was measured before is left as it is unless
// `again`. Never between the rehearsal and the recording of one pass; what was recorded before goes on as it is.
void pm_cmd_note_products(pm_cmd *cmd, bool on);
typedef enum pm_tune_what {
    PM_TUNE_NEW,        // what was never measured
    PM_TUNE_UNFINISHED, // and that for which there was not enough time
    PM_TUNE_AGAIN       // all
} pm_tune_what;
pm_status pm_tune_products(pm_device *dev, const pm_cmd *rehearsed, double seconds, pm_tune_what what);
// That a first answer may wait for it on this device.
double pm_tune_seconds(const pm_device *dev);

// The plan of this device, also of other models. *rows are the caller's to pm_free; texts are static.
typedef struct pm_tune_row {
    const char *op, *dtype, *batch; // batch: "one", "few", "many" rows of x
    uint32_t rows, cols;            // of the weight
    char variant[48];               // "tiles", or matvec's workgroup, lanes, rows, most columns
    bool tuned;                     // it is not the default
    double usual_us, us;            // of the default, of the variant
} pm_tune_row;
pm_status pm_tune_plan(const pm_device *dev, pm_tune_row **rows, int *n);

// ---- copies and times -------------------------------------------------------------------------------------------------

// Operands stay floats in what is recorded from now on: no kernel that multiplies halves is chosen.
void pm_cmd_exact(pm_cmd *cmd, bool exact);
bool pm_cmd_is_exact(const pm_cmd *cmd);

// From now on products may round activations to bytes, where that is faster: n rows of x at a time whose pm_quants_bytes fit into
// `quants`, scratch that they overwrite. A slice without a buffer: none may.
void pm_cmd_fast(pm_cmd *cmd, pm_slice quants);
pm_slice pm_cmd_quants(const pm_cmd *cmd);
uint64_t pm_quants_bytes(uint32_t n, uint32_t cols);

void pm_cmd_copy(pm_cmd *cmd, pm_slice dst, pm_slice src); // sizes equal, multiples of 4
void pm_cmd_zero(pm_cmd *cmd, pm_slice dst);

enum { PM_NUMBERS_SIZE = 48 };
// GPU time per dispatch. Switch on before begin; read after wait. The array is the command's, valid until begin or close.
typedef struct pm_timing {
    const char *kernel;
    const char *label; // of its section
    uint64_t ns;
    uint64_t bytes;                // that the dispatch must at least move
    uint64_t flops;                // multiplications and additions of products and attention; 0: not counted
    uint32_t rows, cols;           // of a product's weight; else 0
    char numbers[PM_NUMBERS_SIZE]; // its specialization constants, "64,1,32,2,8": which variant it is
} pm_timing;
void pm_cmd_profile(pm_cmd *cmd, bool on);
const pm_timing *pm_cmd_timings(pm_cmd *cmd, int *n);
int pm_cmd_n_dispatches(const pm_cmd *cmd);

#ifdef __cplusplus
}
#endif
#endif
