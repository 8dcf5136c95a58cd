// What the op tests share: seeded random data, weights as a file has them, the memory that a verb works on with a guard around
// each piece, and comparisons that show the worst element. Include after cmocka.h.
//
// A case reads: check_begin(); pieces of memory and weights; check_record(); verbs into check_cmd; check_run(); comparisons.
// check_run submits the recording twice from the same memory, wants the same bits, and wants nothing changed but the cells of the
// outputs: not the padding of their rows, not the inputs, not what lies between.
#ifndef PM_TEST_CHECK_H
#define PM_TEST_CHECK_H

#include "host/ops.h"
#include "host/reference.h"
#include "posix.h"

#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK_COUNT(array) (sizeof(array) / sizeof(*(array)))

// ---- random data ------------------------------------------------------------------------------------------------------

static uint64_t check_state;

// https://prng.di.unimi.it/splitmix64.c
static inline uint32_t check_random(void) {
    uint64_t z = check_state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (uint32_t)((z ^ (z >> 31)) >> 32);
}

static inline uint32_t check_below(uint32_t n) {
    return (uint32_t)((uint64_t)check_random() * n >> 32);
}

static inline float check_uniform(float low, float high) {
    return low + (high - low) * (float)(check_random() >> 8) * 0x1p-24f;
}

// Near enough to normal: one value in some thousands is three times as large as the rest.
static inline float check_normal(void) {
    return check_uniform(-1, 1) + check_uniform(-1, 1) + check_uniform(-1, 1);
}

// ---- the device -------------------------------------------------------------------------------------------------------

// The pieces of a case lie in `work`; `want` is what they hold before the verbs and, but for cells that may change, after.
typedef struct check_memory {
    pm_buffer *work, *upload, *readback;
    uint64_t size, used;
    uint32_t *want, *got, *again;
    uint8_t *may_change; // a word each
} check_memory;

static pm_device *check_dev;
static pm_cmd *check_cmd;
static pm_slabs *check_slabs; // of the case's weights
static pm_packer *check_packer;
static pm_arena check_arena; // of the case's arrays
static check_memory check_mem;
static double check_worst; // error of a group as a part of its tolerance
static char check_what[256];
static pm_dtype check_dtypes[PM_DTYPE_COUNT]; // of weights, that are to be tried: all, or those that PM_TYPES names
static size_t check_n_dtypes;

// Says which case the next comparisons belong to.
static inline void check_case(const char *format, ...) PM_PRINTF(1, 2);
static inline void check_case(const char *format, ...) {
    va_list list;
    va_start(list, format);
    vsnprintf(check_what, sizeof(check_what), format, list);
    va_end(list);
}

static inline void check_must(pm_status status) {
    if (status != PM_OK)
        fail_msg("%s: %s", check_what, pm_error_text());
}

static inline void check_open_memory(uint64_t size) {
    check_memory *m = &check_mem;
    m->size = size;
    check_must(pm_buffer_create(check_dev, size, PM_MEM_DEVICE, "work", &m->work));
    check_must(pm_buffer_create(check_dev, size, PM_MEM_UPLOAD, "upload", &m->upload));
    check_must(pm_buffer_create(check_dev, size, PM_MEM_READBACK, "readback", &m->readback));
    m->want = pm_calloc(1, size);
    m->got = pm_calloc(1, size);
    m->again = pm_calloc(1, size);
    m->may_change = pm_calloc(1, size / 4);
    assert_true(m->want && m->got && m->again && m->may_change);
}

// Does PM_TYPES ("F32,Q4_K"; not set: all) name this type? Where every instruction is emulated, all would take hours.
static inline bool check_wants(pm_dtype dtype) {
    const char *types = getenv("PM_TYPES"), *name = pm_dtype_get(dtype)->name;
    size_t n = strlen(name);
    for (const char *p = types; p && *p; p += strcspn(p, ","), p += *p == ',')
        if (strcspn(p, ",") == n && !memcmp(p, name, n))
            return true;
    return !types;
}

static inline void check_pick_types(void) {
    check_n_dtypes = 0;
    for (int d = 0; d < PM_DTYPE_COUNT; d++)
        if (check_wants((pm_dtype)d))
            check_dtypes[check_n_dtypes++] = (pm_dtype)d;
}

// A group's set-up: PM_TEST_DEVICE or the best device, and `megabytes` for the pieces of a case. Ends the program with 77 where
// there is no device.
static inline void check_open(uint64_t megabytes) {
    const char *seed = getenv("PM_TEST_SEED");
    check_state = seed ? strtoull(seed, NULL, 0) : 1;
    if (pm_device_open(getenv("PM_TEST_DEVICE"), &check_dev) != PM_OK) {
        fprintf(stderr, "%s\n", pm_error_text());
        exit(77);
    }
    print_message("PM_TEST_SEED=%" PRIu64 " on %s\n", check_state, pm_device_get_info(check_dev)->name);
    check_pick_types();
    check_worst = 0;
    check_must(pm_cmd_open(check_dev, "check", &check_cmd));
    check_open_memory(megabytes << 20);
}

// Frees what a case made.
static inline void check_end_case(void) {
    pm_packer_close(&check_packer);
    pm_slabs_close(&check_slabs);
    pm_arena_close(&check_arena);
}

static inline int check_close(void **state) {
    (void)state;
    print_message("the worst error took %.0f %% of its tolerance\n", 100 * check_worst);
    check_end_case();
    pm_cmd_close(&check_cmd);
    pm_buffer_close(&check_mem.work);
    pm_buffer_close(&check_mem.upload);
    pm_buffer_close(&check_mem.readback);
    pm_free(check_mem.want);
    pm_free(check_mem.got);
    pm_free(check_mem.again);
    pm_free(check_mem.may_change);
    memset(&check_mem, 0, sizeof(check_mem));
    pm_device_close(&check_dev);
    return 0;
}

// ---- arrays and weights, gone with the case ---------------------------------------------------------------------------

static inline void *check_alloc(size_t count, size_t size) {
    void *p = pm_arena_alloc(&check_arena, count * size);
    assert_non_null(p);
    return p;
}

static inline double *check_doubles(size_t count) {
    return check_alloc(count, sizeof(double));
}

static inline float *check_normals(size_t count, float scale) {
    float *values = check_alloc(count, sizeof(float));
    for (size_t i = 0; i < count; i++)
        values[i] = scale * check_normal();
    return values;
}

static inline float *check_uniforms(size_t count, float low, float high) {
    float *values = check_alloc(count, sizeof(float));
    for (size_t i = 0; i < count; i++)
        values[i] = check_uniform(low, high);
    return values;
}

// A matrix as a file has it, and the floats (rows, cols) it means.
typedef struct check_matrix {
    pm_dtype dtype;
    uint32_t rows, cols;
    uint8_t *blocks;
    float *values;
} check_matrix;

static inline void check_put_u16(uint8_t *p, uint16_t v) {
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}

// `cols` columns, or a few more so that they are whole blocks.
static inline uint32_t check_cols(pm_dtype dtype, uint32_t cols) {
    return (uint32_t)pm_round_up(cols, pm_dtype_get(dtype)->block_elements);
}

// Where a block has halves that make its values large or small: the scale, by which numbers up to `greatest` are multiplied, and,
// where min_greatest is not 0, that of the minima.
typedef struct check_block {
    uint32_t scale_at, min_at;
    float greatest, min_greatest;
} check_block;

static inline check_block check_block_of(pm_dtype dtype) {
    static const check_block blocks[PM_DTYPE_COUNT] = {
        [PM_Q8_0] = {0, 0, 127, 0},   [PM_Q4_0] = {0, 0, 8, 0},      [PM_Q4_1] = {0, 2, 15, 1},    [PM_Q5_0] = {0, 0, 16, 0},
        [PM_Q5_1] = {0, 2, 31, 1},    [PM_Q2_K] = {80, 82, 45, 15},  [PM_Q3_K] = {108, 0, 128, 0}, [PM_Q4_K] = {0, 2, 945, 63},
        [PM_AWQ] = {0, 0, 15, 0},     [PM_IQ2] = {104, 0, 120, 0},   [PM_Q5_K] = {0, 2, 1953, 63}, [PM_Q6_K] = {208, 0, 4096, 0},
        [PM_IQ4_NL] = {0, 0, 127, 0}, [PM_IQ4_XS] = {0, 0, 4064, 0},
    };
    return blocks[dtype];
}

// One random block whose values are about as large as `scale`: all bits of the quants are used, and scales of both signs and 0.
static inline void check_random_block(pm_dtype dtype, float scale, uint8_t *block) {
    float f = scale * check_normal();
    check_block b = check_block_of(dtype);
    if (dtype == PM_F32) {
        memcpy(block, &f, sizeof(f)); // this machine's order is the file's: tests run on little-endian machines only
        return;
    }
    if (dtype == PM_F16 || dtype == PM_BF16) {
        check_put_u16(block, dtype == PM_F16 ? pm_f32_to_f16(f) : pm_f32_to_bf16(f));
        return;
    }
    for (uint32_t i = 0; i < pm_dtype_get(dtype)->block_bytes; i++)
        block[i] = (uint8_t)check_random();
    if (dtype == PM_FP8) {
        f = check_below(16) ? f / 128 : 0;
        memcpy(block, &f, sizeof(f));
        for (uint32_t i = 4; i < 36; i++)
            block[i] -= (block[i] & 127) == 127; // which is no number
        return;
    }
    if (dtype == PM_AWQ)
        check_put_u16(block + 2, (uint16_t)check_below(16));
    if (dtype == PM_MXFP4) // its quants reach 6
        block[0] = (uint8_t)(127 - 2 + ilogbf(scale) - (int)check_below(3));
    else
        check_put_u16(block + b.scale_at, pm_f32_to_f16(check_below(16) ? f * 2 / b.greatest : 0));
    if (b.min_greatest > 0)
        check_put_u16(block + b.min_at, pm_f32_to_f16(check_below(16) ? scale * check_normal() / b.min_greatest : 0));
}

static inline uint64_t check_matrix_bytes(pm_dtype dtype, uint64_t values) {
    return values / pm_dtype_get(dtype)->block_elements * pm_dtype_get(dtype)->block_bytes;
}

static inline check_matrix check_weights(pm_dtype dtype, uint32_t rows, uint32_t cols, float scale) {
    uint64_t values = (uint64_t)rows * cols, bytes = check_matrix_bytes(dtype, values);
    check_matrix m = {dtype, rows, cols, (uint8_t *)check_alloc(bytes + 1, 1) + 1,
                      check_alloc(values, sizeof(float))}; // odd address
    uint32_t block_bytes = pm_dtype_get(dtype)->block_bytes, row_blocks = cols / pm_dtype_get(dtype)->block_elements;
    for (uint64_t i = 0; i < bytes / block_bytes; i++) {
        check_random_block(dtype, scale, m.blocks + i * block_bytes);
        if ((dtype == PM_FP8 || dtype == PM_AWQ) && i % row_blocks % 4 > 0) // four blocks have one scale
            memcpy(m.blocks + i * block_bytes, m.blocks + (i - 1) * block_bytes, 4);
    }
    pm_ref_decode(dtype, m.blocks, values, m.values);
    return m;
}

static inline pm_packer *check_get_packer(void) {
    if (!check_packer) {
        check_must(pm_slabs_create(check_dev, 0, "weights", &check_slabs));
        check_must(pm_packer_open(check_dev, check_slabs, &check_packer));
    }
    return check_packer;
}

static inline pm_tensor check_pack(const pm_pack_part *parts, int n_parts, uint32_t cols, pm_pack_order order) {
    pm_tensor tensor;
    check_must(pm_pack_matrix(check_get_packer(), parts, n_parts, cols, order, &tensor));
    check_must(pm_packer_finish(check_packer));
    return tensor;
}

// The matrix as one part.
static inline pm_tensor check_pack_one(const check_matrix *m) {
    return check_pack(&(pm_pack_part){m->blocks, m->dtype, m->rows}, 1, m->cols, PM_PACK_STACKED);
}

static inline pm_tensor check_pack_vector(const float *values, uint32_t n) {
    pm_tensor tensor;
    check_must(pm_pack_vector(check_get_packer(), &(pm_pack_part){values, PM_F32, n}, 1, &tensor));
    check_must(pm_packer_finish(check_packer));
    return tensor;
}

// ---- pieces of memory -------------------------------------------------------------------------------------------------

#define CHECK_GUARD 0x7fc0deadu // a float that is no number: who reads a guard, or a cell that nobody wrote, shows it

// Guards [from, to) of the memory, in bytes.
static inline void check_guard(uint64_t from, uint64_t to) {
    for (uint64_t i = from / 4; i < to / 4; i++)
        check_mem.want[i] = CHECK_GUARD;
    memset(check_mem.may_change + from / 4, 0, (to - from) / 4);
}

static inline void check_begin(void) {
    check_end_case();
    check_mem.used = pm_slice_align(check_dev);
    check_guard(0, check_mem.used);
}

// A piece with no numbers in it, and the guard behind it.
static inline pm_slice check_take(uint64_t size) {
    uint64_t align = pm_slice_align(check_dev), offset = check_mem.used, end = offset + pm_round_up(size, align) + align;
    if (end > check_mem.size)
        fail_msg("%s: a case of more than %" PRIu64 " bytes", check_what, check_mem.size);
    check_guard(offset, end);
    check_mem.used = end;
    return pm_buffer_slice(check_mem.work, offset, size);
}

static inline uint32_t *check_words_at(pm_slice slice) {
    return check_mem.want + slice.offset / 4;
}

// `count` words that the verbs only read.
static inline pm_slice check_in(const void *words, size_t count) {
    pm_slice slice = check_take((uint64_t)count * 4);
    memcpy(check_words_at(slice), words, count * 4);
    return slice;
}

static inline void check_allow(pm_slice slice, uint64_t first, uint64_t count) {
    memset(check_mem.may_change + slice.offset / 4 + first, 1, count);
}

// `count` words that the verbs may write.
static inline pm_slice check_out(uint64_t count) {
    pm_slice slice = check_take(count * 4);
    check_allow(slice, 0, count);
    return slice;
}

// An activation (rows, cols) that the verbs only read; values NULL: no numbers.
static inline pm_tensor check_in_tensor(uint32_t rows, uint32_t cols, const float *values) {
    pm_tensor t = pm_activation(check_take(pm_activation_bytes(rows, cols)), rows, cols);
    uint32_t *words = check_words_at(t.data);
    for (uint32_t r = 0; r < rows; r++) {
        if (values)
            memcpy(words + (size_t)r * t.stride, values + (size_t)r * cols, (size_t)cols * 4);
        memset(words + (size_t)r * t.stride + cols, 0, (size_t)(t.stride - cols) * 4);
    }
    return t;
}

// An activation of which the verbs may write the first `written` columns.
static inline pm_tensor check_out_tensor(uint32_t rows, uint32_t cols, uint32_t written, const float *values) {
    pm_tensor t = check_in_tensor(rows, cols, values);
    for (uint32_t r = 0; r < rows; r++)
        check_allow(t.data, (uint64_t)r * t.stride, written);
    return t;
}

// ---- the cache --------------------------------------------------------------------------------------------------------

// Where an element stands in the pages of a cache, as pm_kv in ops.h says it.
static inline uint64_t check_k_at(const pm_kv *kv, uint32_t page, uint32_t pos, uint32_t head, uint32_t dim) {
    uint32_t e = kv->dtype == PM_F16 ? 8 : 4;
    uint64_t chunk = ((uint64_t)page * kv->n_kv_heads + head) * (kv->head_dim / e) + dim / e;
    return (chunk * PM_PAGE + pos % PM_PAGE) * e + dim % e;
}

static inline uint64_t check_v_at(const pm_kv *kv, uint32_t page, uint32_t pos, uint32_t head, uint32_t dim) {
    return (((uint64_t)page * kv->n_kv_heads + head) * PM_PAGE + pos % PM_PAGE) * kv->head_dim + dim;
}

// A Q8_0 cache: the byte of an element, and the half (by number) of its scale.
static inline uint64_t check_q8_0_head(const pm_kv *kv, uint32_t page, uint32_t head) {
    return ((uint64_t)page * kv->n_kv_heads + head) * PM_PAGE * (kv->head_dim + (kv->head_dim + 63) / 64 * 4);
}

static inline uint64_t check_q8_0_at(const pm_kv *kv, bool is_k, uint32_t page, uint32_t pos, uint32_t head, uint32_t dim) {
    uint64_t in_head = is_k ? (dim / 16 * PM_PAGE + pos % PM_PAGE) * 16 + dim % 16 : pos % PM_PAGE * kv->head_dim + dim;
    return check_q8_0_head(kv, page, head) + in_head;
}

static inline uint64_t check_q8_0_scale_at(const pm_kv *kv, bool is_k, uint32_t page, uint32_t pos, uint32_t head, uint32_t dim) {
    uint32_t word = dim / 64, s = (kv->head_dim + 63) / 64;
    uint64_t words = is_k ? word * PM_PAGE + pos % PM_PAGE : pos % PM_PAGE * s + word;
    return (check_q8_0_head(kv, page, head) + (uint64_t)PM_PAGE * kv->head_dim) / 2 + words * 2 + dim / 32 % 2;
}

// A page table (n_seqs, max_pages) in which no page stands where it would without one; page 0 is nobody's.
static inline uint32_t *check_page_table(uint32_t n_seqs, uint32_t max_pages) {
    uint32_t n = n_seqs * max_pages, *table = check_alloc(n, sizeof(uint32_t));
    for (uint32_t i = 0; i < n; i++)
        table[i] = n - i;
    for (uint32_t i = n - 1; i > 0; i--) {
        uint32_t other = check_below(i + 1), page = table[i];
        table[i] = table[other];
        table[other] = page;
    }
    return table;
}

// A cache of n_seqs sequences with a page for each entry of the table, all of its elements no numbers.
static inline pm_kv check_cache(pm_dtype dtype, uint32_t n_kv_heads, uint32_t head_dim, uint32_t n_seqs, uint32_t max_pages,
                                const uint32_t *table) {
    pm_kv kv = {.dtype = dtype, .max_pages = max_pages, .n_kv_heads = n_kv_heads, .head_dim = head_dim};
    uint64_t bytes = (1 + (uint64_t)n_seqs * max_pages) * pm_kv_page_bytes(dtype, n_kv_heads, head_dim);
    kv.k = check_take(bytes);
    kv.v = check_take(bytes);
    kv.pages = check_in(table, (size_t)n_seqs * max_pages);
    for (uint64_t i = 0; i < bytes / 4; i++)
        check_words_at(kv.k)[i] = check_words_at(kv.v)[i] = dtype == PM_F32 ? CHECK_GUARD : 0x7e007e00u;
    return kv;
}

// Element `at` of a cache in `words`.
static inline float check_get_element(const uint32_t *words, pm_dtype dtype, uint64_t at) {
    float f;
    if (dtype == PM_F16)
        return pm_f16_to_f32((uint16_t)(words[at / 2] >> (at % 2 * 16)));
    memcpy(&f, words + at, sizeof(f));
    return f;
}

static inline void check_set_element(uint32_t *words, pm_dtype dtype, uint64_t at, float value) {
    uint32_t shift = (uint32_t)(at % 2 * 16);
    if (dtype == PM_F16)
        words[at / 2] = (words[at / 2] & ~(0xffffu << shift)) | (uint32_t)pm_f32_to_f16(value) << shift;
    else
        memcpy(words + at, &value, sizeof(value));
}

static inline float check_q8_0_scale(const pm_kv *kv, const uint32_t *words, bool is_k, uint32_t page, uint32_t pos, uint32_t head,
                                     uint32_t dim) {
    return check_get_element(words, PM_F16, check_q8_0_scale_at(kv, is_k, page, pos, head, dim)) / 256;
}

// An element of a cache of any type, k or v.
static inline float check_get_cached(const pm_kv *kv, const uint32_t *words, bool is_k, uint32_t page, uint32_t pos, uint32_t head,
                                     uint32_t dim) {
    if (kv->dtype != PM_Q8_0)
        return check_get_element(words, kv->dtype,
                                 is_k ? check_k_at(kv, page, pos, head, dim) : check_v_at(kv, page, pos, head, dim));
    uint64_t at = check_q8_0_at(kv, is_k, page, pos, head, dim);
    return (float)(int8_t)(words[at / 4] >> (at % 4 * 8)) * check_q8_0_scale(kv, words, is_k, page, pos, head, dim);
}

static inline void check_set_q8_0_block(const pm_kv *kv, uint32_t *words, bool is_k, uint32_t page, uint32_t pos, uint32_t head,
                                        uint32_t dim, const float *block) {
    double values[32], held[32];
    for (uint32_t i = 0; i < 32; i++)
        values[i] = block[i];
    double scale = pm_ref_kv_q8_0(values, held);
    check_set_element(words, PM_F16, check_q8_0_scale_at(kv, is_k, page, pos, head, dim), (float)(scale * 256));
    for (uint32_t i = 0; i < 32; i++) {
        uint64_t at = check_q8_0_at(kv, is_k, page, pos, head, dim + i);
        uint32_t shift = (uint32_t)(at % 4 * 8), quant = (uint32_t)(int32_t)(scale > 0 ? held[i] / scale : 0) & 0xff;
        words[at / 4] = (words[at / 4] & ~(0xffu << shift)) | quant << shift;
    }
}

// A head of a position, (head_dim) values that the type of the cache can hold.
static inline void check_set_cached(const pm_kv *kv, uint32_t *words, bool is_k, uint32_t page, uint32_t pos, uint32_t head,
                                    const float *values) {
    for (uint32_t i = 0; i < kv->head_dim && kv->dtype == PM_Q8_0; i += 32)
        check_set_q8_0_block(kv, words, is_k, page, pos, head, i, values + i);
    for (uint32_t i = 0; i < kv->head_dim && kv->dtype != PM_Q8_0; i++)
        check_set_element(words, kv->dtype, is_k ? check_k_at(kv, page, pos, head, i) : check_v_at(kv, page, pos, head, i),
                          values[i]);
}

// ---- running ----------------------------------------------------------------------------------------------------------

// Begins the recording: the pieces as they were given.
static inline void check_record(void) {
    memcpy(pm_slice_map(pm_buffer_all(check_mem.upload)), check_mem.want, check_mem.used);
    pm_cmd_begin(check_cmd);
    pm_cmd_copy(check_cmd, pm_buffer_slice(check_mem.work, 0, check_mem.used),
                pm_buffer_slice(check_mem.upload, 0, check_mem.used));
}

static inline void check_submit(uint32_t *got, uint64_t size) {
    check_must(pm_cmd_submit(check_cmd));
    check_must(pm_cmd_wait(check_cmd));
    memcpy(got, pm_slice_map(pm_buffer_slice(check_mem.readback, 0, size)), size);
}

static inline void check_untouched(uint64_t words) {
    for (uint64_t i = 0; i < words; i++)
        if (!check_mem.may_change[i] && check_mem.got[i] != check_mem.want[i])
            fail_msg("%s: word %" PRIu64 " of memory became %08x from %08x", check_what, i, check_mem.got[i], check_mem.want[i]);
}

static inline void check_run(void) {
    uint64_t size = check_mem.used;
    pm_cmd_copy(check_cmd, pm_buffer_slice(check_mem.readback, 0, size), pm_buffer_slice(check_mem.work, 0, size));
    check_must(pm_cmd_end(check_cmd));
    check_submit(check_mem.got, size);
    check_submit(check_mem.again, size);
    check_untouched(size / 4);
    for (uint64_t i = 0; i < size / 4; i++)
        if (check_mem.got[i] != check_mem.again[i])
            fail_msg("%s: word %" PRIu64 " is %08x the first time, %08x the second", check_what, i, check_mem.got[i],
                     check_mem.again[i]);
}

// What the verbs left in a piece.
static inline const uint32_t *check_got(pm_slice slice) {
    return check_mem.got + slice.offset / 4;
}

static inline float check_got_float(pm_slice slice, uint64_t at) {
    float f;
    memcpy(&f, check_got(slice) + at, sizeof(f));
    return f;
}

// ---- comparing --------------------------------------------------------------------------------------------------------

// How far a float kernel may be off: each value is a sum of `length` terms whose absolute values make up `size`. A running sum
// rounds `length` times by at most half an epsilon of what it has reached; roundings go both ways, so they grow like a random
// walk. 8 more for the scale, the bias, and functions that Vulkan lets be off by 2 or 3 units.
// check_halves: both factors of each term were rounded to halves before, by at most 2^-11 of themselves: 2^-10 of `size` in all,
// and eight deviations of the sum where there are many terms that are alike. Those of random FP8 are not: a few make up the sum.
static bool check_halves, check_few_terms;
static inline double check_tolerance(uint32_t length, double size) {
    double halves = check_halves ? check_few_terms ? 0x1p-10 : fmin(0x1p-10, 0x1p-8 / sqrt(length)) : 0;
    return (FLT_EPSILON * (8 + sqrt(length)) + halves) * size;
}

typedef struct check_compare {
    const char *name;
    double ratio; // of the worst element
    uint64_t at;
    double got, want, tolerance;
} check_compare;

static inline void check_one(check_compare *c, uint64_t at, double got, double want, double tolerance) {
    double off = fabs(got - want), ratio = off == 0 ? 0 : off / tolerance;
    if (isnan(got) != isnan(want))
        ratio = INFINITY;
    if (ratio > c->ratio || at == 0)
        *c = (check_compare){c->name, ratio, at, got, want, tolerance};
}

static inline void check_verdict(const check_compare *c, uint32_t cols) {
    check_worst = fmax(check_worst, c->ratio);
    if (!(c->ratio <= 1))
        fail_msg("%s: %s[%" PRIu64 "][%" PRIu64 "] is %.9g, wanted %.9g, tolerance %.3g", check_what, c->name, c->at / cols,
                 c->at % cols, c->got, c->want, c->tolerance);
}

// Wants got (rows, cols) near `want`, sums of `length` terms of `size` in all; size NULL: |want|, a single rounding and a few more.
static inline void check_near(const char *name, pm_tensor got, const double *want, const double *size, uint32_t length) {
    check_compare c = {.name = name};
    for (uint64_t at = 0; at < (uint64_t)got.rows * got.cols; at++)
        check_one(&c, at, check_got_float(got.data, at / got.cols * got.stride + at % got.cols), want[at],
                  check_tolerance(length, size ? size[at] : fabs(want[at])));
    check_verdict(&c, got.cols);
}

// Wants got (rows, cols) to be `want` exactly.
static inline void check_same(const char *name, pm_tensor got, const double *want) {
    check_compare c = {.name = name};
    for (uint64_t at = 0; at < (uint64_t)got.rows * got.cols; at++)
        check_one(&c, at, check_got_float(got.data, at / got.cols * got.stride + at % got.cols), want[at], 0);
    check_verdict(&c, got.cols);
}

// What a verb that adds to x leaves of it for the next one: normed = y * gain; the parts of a row of squares sum up to that of y^2,
// which is off by 2 |y| times what y is off by. y is made of sums of `length` terms of `size` in all.
static inline void check_hidden(const pm_hidden *h, const float *gain, const double *y, const double *size, uint32_t length) {
    uint32_t n = h->normed.rows, cols = h->normed.cols;
    double *normed = check_doubles((size_t)n * cols), *normed_size = check_doubles((size_t)n * cols);
    check_compare squares = {.name = "squares"};
    for (uint32_t r = 0; r < n; r++) {
        double sum = 0, sum_size = 0, got = 0;
        for (uint32_t i = 0; i < cols; i++) {
            size_t at = (size_t)r * cols + i;
            normed[at] = y[at] * gain[i];
            normed_size[at] = size[at] * fabs(gain[i]);
            sum += y[at] * y[at];
            sum_size += y[at] * y[at] + 2 * fabs(y[at]) * size[at];
        }
        for (uint32_t i = 0; i < h->n_parts; i++)
            got += check_got_float(h->squares.data, (uint64_t)r * h->squares.stride + i);
        check_one(&squares, r, got, sum, check_tolerance(length > cols ? length : cols, sum_size));
    }
    check_near("normed", h->normed, normed, normed_size, length);
    check_verdict(&squares, 1);
}

#endif
