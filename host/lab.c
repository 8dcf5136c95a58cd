// The laboratory that trials of kernels are made in: see lab.h.
#include "host/lab.h"

#include <float.h>
#include <math.h>
#include <string.h>

enum {
    LAB_BYTES = 8 << 20,   // device memory of a trial, weights apart
    ROOM_BYTES = 64 << 20, // host memory of a trial; what is not touched costs nothing
    POOL = 64,             // different blocks of a matrix of weights
};

#define GUARD 0x7fc0deadu // a float that is no number

// ---- open, close ------------------------------------------------------------------------------------------------------

static pm_status open_lab(pm_lab *lab) {
    pm_device *dev = lab->dev;
    lab->room = pm_malloc(ROOM_BYTES);
    if (!lab->room)
        return pm_fail(PM_ERR_MEMORY, "no memory to try kernels");
    PM_TRY(pm_cmd_open(dev, "a trial", &lab->cmd));
    PM_TRY(pm_buffer_create(dev, LAB_BYTES, PM_MEM_DEVICE, "trial", &lab->work));
    PM_TRY(pm_buffer_create(dev, LAB_BYTES, PM_MEM_UPLOAD, "trial in", &lab->upload));
    PM_TRY(pm_buffer_create(dev, LAB_BYTES, PM_MEM_READBACK, "trial out", &lab->readback));
    PM_TRY(pm_slabs_create(dev, 0, "trial weights", &lab->slabs));
    return pm_packer_open(dev, lab->slabs, &lab->packer);
}

pm_status pm_lab_open(pm_device *dev, pm_lab **lab) {
    *lab = pm_calloc(1, sizeof(**lab));
    if (!*lab)
        return pm_fail(PM_ERR_MEMORY, "no memory to try kernels");
    (*lab)->dev = dev;
    pm_selftest_close(dev); // every kernel is taken as it comes
    pm_tune_close(dev);
    dev->time_limit_ns = (uint64_t)dev->caps.trial_ms * 1000000;
    pm_status status = open_lab(*lab);
    if (status != PM_OK)
        pm_lab_close(lab);
    return status;
}

void pm_lab_close(pm_lab **closing) {
    pm_lab *lab = *closing;
    *closing = NULL;
    if (!lab)
        return;
    pm_packer_close(&lab->packer);
    pm_slabs_close(&lab->slabs);
    pm_cmd_close(&lab->cmd);
    pm_buffer_close(&lab->work);
    pm_buffer_close(&lab->upload);
    pm_buffer_close(&lab->readback);
    pm_free(lab->room);
    pm_free(lab);
}

bool pm_lab_is_stuck(const pm_lab *lab) {
    return pm_cmd_is_running(lab->cmd);
}

void pm_lab_clear(pm_lab *lab, bool has_case) {
    lab->used = lab->room_used = 0;
    lab->n_guards = 0;
    lab->full = !has_case;
    lab->halves = false;
    lab->error = lab->ms = 0;
    lab->status = PM_OK;
    lab->random = 1;
    pm_lab_take(lab, 4);
}

void pm_lab_status(pm_lab *lab, pm_status status) {
    if (lab->status == PM_OK)
        lab->status = status;
}

bool pm_lab_ok(const pm_lab *lab) {
    return lab->status == PM_OK && !lab->full;
}

// ---- random data ------------------------------------------------------------------------------------------------------

// https://prng.di.unimi.it/splitmix64.c
uint32_t pm_lab_draw(pm_lab *lab) {
    uint64_t z = lab->random += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (uint32_t)((z ^ (z >> 31)) >> 32);
}

static float uniform(pm_lab *lab, float low, float high) {
    return low + (high - low) * (float)(pm_lab_draw(lab) >> 8) * 0x1p-24f;
}

void *pm_lab_room(pm_lab *lab, size_t count, size_t size) {
    size_t bytes = (size_t)pm_round_up(count * size, 16);
    if (bytes > ROOM_BYTES - lab->room_used) {
        lab->full = true;
        lab->room_used = 0;
    }
    void *p = lab->room + lab->room_used;
    lab->room_used += bytes;
    memset(p, 0, bytes);
    return p;
}

float *pm_lab_floats(pm_lab *lab, size_t count, float low, float high) {
    float *values = pm_lab_room(lab, count, sizeof(float));
    for (size_t i = 0; i < count; i++)
        values[i] = uniform(lab, low, high);
    return values;
}

double *pm_lab_doubles(pm_lab *lab, size_t count) {
    return pm_lab_room(lab, count, sizeof(double));
}

// Random bytes that decode to numbers of about the size of weights: whatever the type's scales and exponents look like, some of
// them do.
static void draw_block(pm_lab *lab, pm_dtype dtype, uint8_t *block) {
    const pm_dtype_info *info = pm_dtype_get(dtype);
    float values[256], most;
    do {
        most = 0;
        for (uint32_t i = 0; i < info->block_bytes; i++)
            block[i] = (uint8_t)pm_lab_draw(lab);
        if (dtype == PM_AWQ) { // a zero point is a quant
            block[2] &= 15;
            block[3] = 0;
        }
        pm_ref_decode(dtype, block, info->block_elements, values);
        for (uint32_t i = 0; i < info->block_elements; i++)
            most = fabsf(values[i]) <= 4 ? fmaxf(most, fabsf(values[i])) : INFINITY;
    } while (!(most >= 0.0625f && most <= 4));
}

bool pm_lab_read_dtype(const char *small_name, pm_dtype *dtype) {
    static const char *const names[PM_DTYPE_COUNT] = {
#define X(id, small, ggml, elements, bytes) [PM_##id] = #small,
        PM_DTYPES(X)
#undef X
    };
    for (int d = 0; d < PM_DTYPE_COUNT; d++)
        if (!strcmp(small_name, names[d])) {
            *dtype = (pm_dtype)d;
            return true;
        }
    return false;
}

bool pm_lab_read_cache_dtype(const char *small_name, pm_dtype *dtype) {
    return pm_lab_read_dtype(small_name, dtype) && (*dtype == PM_F16 || *dtype == PM_F32 || *dtype == PM_Q8_0);
}

// Of these four blocks of a row have one scale, in their first four bytes.
static bool shares_scales(pm_dtype dtype) {
    return dtype == PM_FP8 || dtype == PM_AWQ;
}

pm_lab_matrix pm_lab_weights(pm_lab *lab, pm_dtype dtype, uint32_t rows, uint32_t cols) {
    const pm_dtype_info *info = pm_dtype_get(dtype);
    size_t count = (size_t)rows * cols, n_blocks = count / info->block_elements;
    uint8_t *pool = pm_lab_room(lab, POOL, info->block_bytes), *blocks = pm_lab_room(lab, n_blocks, info->block_bytes);
    float *values = pm_lab_room(lab, count, sizeof(float));
    for (int i = 0; i < POOL; i++)
        draw_block(lab, dtype, pool + (size_t)i * info->block_bytes);
    for (size_t i = 0; i < n_blocks; i++) {
        uint8_t *block = blocks + i * info->block_bytes;
        memcpy(block, pool + pm_lab_draw(lab) % POOL * info->block_bytes, info->block_bytes);
        if (shares_scales(dtype) && i % (cols / info->block_elements) % 4 > 0)
            memcpy(block, block - info->block_bytes, 4);
    }
    pm_ref_decode(dtype, blocks, count, values);
    pm_lab_matrix m = {.values = values};
    pm_lab_status(lab, pm_pack_matrix(lab->packer, &(pm_pack_part){.data = blocks, .dtype = dtype, .rows = rows}, 1, cols,
                                      PM_PACK_STACKED, &m.packed));
    pm_lab_status(lab, pm_packer_finish(lab->packer));
    return m;
}

pm_tensor pm_lab_vector(pm_lab *lab, const float *values, uint32_t n) {
    pm_tensor t = {.rows = 0};
    pm_lab_status(lab, pm_pack_vector(lab->packer, &(pm_pack_part){.data = values, .dtype = PM_F32, .rows = n}, 1, &t));
    pm_lab_status(lab, pm_packer_finish(lab->packer));
    return t;
}

// ---- pieces of memory -------------------------------------------------------------------------------------------------

uint32_t *pm_lab_words(const pm_lab *lab, pm_slice slice) {
    return (uint32_t *)pm_slice_map(pm_buffer_all(lab->upload)) + slice.offset / 4;
}

const uint32_t *pm_lab_result(const pm_lab *lab, pm_slice slice) {
    return (const uint32_t *)pm_slice_map(pm_buffer_all(lab->readback)) + slice.offset / 4;
}

float pm_lab_float(const uint32_t *words, uint64_t at) {
    float f;
    memcpy(&f, words + at, sizeof(f));
    return f;
}

pm_slice pm_lab_take(pm_lab *lab, uint64_t size) {
    uint64_t align = pm_slice_align(lab->dev), room = pm_round_up(size, align) + align;
    if (room > LAB_BYTES - lab->used || lab->n_guards == PM_LAB_PIECES) {
        lab->full = true;
        lab->used = 0;
        lab->n_guards = 0;
    }
    pm_slice all = pm_buffer_slice(lab->work, lab->used, room);
    lab->used += room;
    lab->guards[lab->n_guards++] = pm_buffer_slice(lab->work, lab->used - align, align);
    for (uint64_t i = 0; i < room / 4; i++)
        pm_lab_words(lab, all)[i] = GUARD;
    return pm_buffer_slice(lab->work, all.offset, size);
}

pm_slice pm_lab_put(pm_lab *lab, const void *words, size_t count) {
    pm_slice slice = pm_lab_take(lab, count * 4);
    memcpy(pm_lab_words(lab, slice), words, count * 4);
    return slice;
}

pm_tensor pm_lab_activation(pm_lab *lab, uint32_t rows, uint32_t cols, const float *values) {
    pm_tensor t = pm_activation(pm_lab_take(lab, pm_activation_bytes(rows, cols)), rows, cols);
    uint32_t *words = pm_lab_words(lab, t.data);
    for (uint32_t r = 0; r < rows; r++) {
        if (values)
            memcpy(words + (size_t)r * t.stride, values + (size_t)r * cols, (size_t)cols * 4);
        memset(words + (size_t)r * t.stride + cols, 0, (size_t)(t.stride - cols) * 4);
    }
    return t;
}

pm_hidden pm_lab_hidden(pm_lab *lab, uint32_t rows, uint32_t dim, const float *x) {
    return (pm_hidden){.x = pm_lab_activation(lab, rows, dim, x),
                       .normed = pm_lab_activation(lab, rows, dim, NULL),
                       .squares = pm_lab_activation(lab, rows, dim, NULL),
                       .eps = 1e-6f};
}

// ---- comparing --------------------------------------------------------------------------------------------------------

// A running sum of `length` terms that make up `size` in absolute value rounds so many times, in either direction; 8 more for
// scales, biases, and functions that Vulkan lets be off by 2 or 3 units.
double pm_lab_tolerance(uint32_t length, double size) {
    return FLT_EPSILON * (8 + sqrt(length)) * size;
}

// Where both factors of a term were rounded to halves before: by at most 2^-11 of each.
double pm_lab_product_tolerance(const pm_lab *lab, uint32_t length, double size) {
    return pm_lab_tolerance(length, size) + (lab->halves ? 0x1p-10 * size : 0);
}

void pm_lab_compare(pm_lab *lab, double got, double want, double allowed) {
    double off = fabs(got - want), ratio = off == 0 ? 0 : off / allowed;
    if (!(ratio <= lab->error))
        lab->error = ratio >= 0 ? ratio : INFINITY;
}

void pm_lab_compare_exactly(pm_lab *lab, bool same) {
    if (!same)
        lab->error = INFINITY;
}

void pm_lab_compare_tensor(pm_lab *lab, pm_tensor got, const double *want, const double *size, uint32_t length) {
    const uint32_t *words = pm_lab_result(lab, got.data);
    for (size_t at = 0; at < (size_t)got.rows * got.cols; at++)
        pm_lab_compare(lab, pm_lab_float(words, at / got.cols * got.stride + at % got.cols), want[at],
                       pm_lab_tolerance(length, size[at]));
}

// ---- running ----------------------------------------------------------------------------------------------------------

void pm_lab_begin(pm_lab *lab) {
    pm_cmd_begin(lab->cmd);
    pm_cmd_copy(lab->cmd, pm_buffer_slice(lab->work, 0, lab->used), pm_buffer_slice(lab->upload, 0, lab->used));
}

static uint64_t hash_result(const pm_lab *lab) {
    return pm_store_hash(pm_lab_result(lab, pm_buffer_all(lab->work)), (size_t)lab->used);
}

static pm_status submit_twice(pm_lab *lab) {
    PM_TRY(pm_cmd_run(lab->cmd));
    uint64_t first = hash_result(lab), began = pm_now_ns();
    PM_TRY(pm_cmd_submit(lab->cmd));
    PM_TRY(pm_cmd_wait(lab->cmd));
    lab->ms = (double)(pm_now_ns() - began) / 1e6;
    pm_lab_compare_exactly(lab, first == hash_result(lab));
    return PM_OK;
}

bool pm_lab_run(pm_lab *lab) {
    pm_cmd_copy(lab->cmd, pm_buffer_slice(lab->readback, 0, lab->used), pm_buffer_slice(lab->work, 0, lab->used));
    pm_lab_status(lab, submit_twice(lab));
    if (!pm_lab_ok(lab))
        return false;
    for (int i = 0; i < lab->n_guards; i++)
        for (uint64_t w = 0; w < lab->guards[i].size / 4; w++)
            pm_lab_compare_exactly(lab, pm_lab_result(lab, lab->guards[i])[w] == GUARD);
    return true;
}
