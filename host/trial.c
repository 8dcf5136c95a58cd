// One use of a kernel, a kernel with its specialization constants, tried on small awkward shapes against reference.c: sizes that
// fill no block, group or tile, rows of two sequences, pages out of order. What is not written holds no numbers, and guards lie
// between all pieces of memory. The cases go through the verbs of ops.h, so that a trial lays the kernel out as the forward pass
// will.
//
// A kernel without a case is not trusted blindly: tests/test_host_selftest.c fails for it.
#include "host/ops.h"
#include "host/reference.h"
#include "host/vk.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum {
    LAB_BYTES = 8 << 20,   // device memory of a trial, weights apart
    ROOM_BYTES = 64 << 20, // host memory of a trial; what is not touched costs nothing
    MAX_PIECES = 48,
    MAX_ROWS = 1535, // of a matrix
    POOL = 64,       // different blocks of a matrix of weights
};

#define GUARD 0x7fc0deadu // a float that is no number

struct pm_lab {
    pm_device *dev;
    pm_cmd *cmd;
    pm_buffer *work, *upload, *readback;
    pm_slabs *slabs; // of weights
    pm_packer *packer;
    uint8_t *room; // host memory of the trial at hand
    size_t room_used;
    uint64_t used;
    pm_slice guards[MAX_PIECES];
    int n_guards;
    bool halves; // a product multiplies them
    bool full;   // the case is larger than the lab: nothing is proved then
    uint64_t random;
    double error, ms;
    pm_status status; // the first that is not PM_OK
};

const char *pm_fate_name(pm_fate fate) {
    static const char *const names[PM_FATE_COUNT] = {"unknown", "right", "wrong", "hangs", "lost", "crashes", "refused", "untried"};
    return names[fate];
}

// ---- random data ------------------------------------------------------------------------------------------------------

// https://prng.di.unimi.it/splitmix64.c
static uint32_t draw(pm_lab *lab) {
    uint64_t z = lab->random += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (uint32_t)((z ^ (z >> 31)) >> 32);
}

static float uniform(pm_lab *lab, float low, float high) {
    return low + (high - low) * (float)(draw(lab) >> 8) * 0x1p-24f;
}

// Zeroed. Where there is no more room, some that is in use: the case is given up, and must not crash before it is.
static void *take_room(pm_lab *lab, size_t count, size_t size) {
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

static float *floats(pm_lab *lab, size_t count, float low, float high) {
    float *values = take_room(lab, count, sizeof(float));
    for (size_t i = 0; i < count; i++)
        values[i] = uniform(lab, low, high);
    return values;
}

static double *doubles(pm_lab *lab, size_t count) {
    return take_room(lab, count, sizeof(double));
}

// Random bytes that decode to numbers of about the size of weights: whatever the type's scales and exponents look like, some of
// them do.
static void draw_block(pm_lab *lab, pm_dtype dtype, uint8_t *block) {
    const pm_dtype_info *info = pm_dtype_get(dtype);
    float values[256], most;
    do {
        most = 0;
        for (uint32_t i = 0; i < info->block_bytes; i++)
            block[i] = (uint8_t)draw(lab);
        if (dtype == PM_AWQ) { // a zero point is a quant
            block[2] &= 15;
            block[3] = 0;
        }
        pm_ref_decode(dtype, block, info->block_elements, values);
        for (uint32_t i = 0; i < info->block_elements; i++)
            most = fabsf(values[i]) <= 4 ? fmaxf(most, fabsf(values[i])) : INFINITY;
    } while (!(most >= 0.0625f && most <= 4));
}

typedef struct matrix {
    pm_tensor packed;
    const float *values; // (rows, cols)
} matrix;

static void try_status(pm_lab *lab, pm_status status) {
    if (lab->status == PM_OK)
        lab->status = status;
}

// Of these four blocks of a row have one scale, in their first four bytes.
static bool shares_scales(pm_dtype dtype) {
    return dtype == PM_FP8 || dtype == PM_AWQ;
}

// Weights as a file has them, packed for the device.
static matrix weights(pm_lab *lab, pm_dtype dtype, uint32_t rows, uint32_t cols) {
    const pm_dtype_info *info = pm_dtype_get(dtype);
    size_t count = (size_t)rows * cols, n_blocks = count / info->block_elements;
    uint8_t *pool = take_room(lab, POOL, info->block_bytes), *blocks = take_room(lab, n_blocks, info->block_bytes);
    float *values = take_room(lab, count, sizeof(float));
    for (int i = 0; i < POOL; i++)
        draw_block(lab, dtype, pool + (size_t)i * info->block_bytes);
    for (size_t i = 0; i < n_blocks; i++) {
        uint8_t *block = blocks + i * info->block_bytes;
        memcpy(block, pool + draw(lab) % POOL * info->block_bytes, info->block_bytes);
        if (shares_scales(dtype) && i % (cols / info->block_elements) % 4 > 0)
            memcpy(block, block - info->block_bytes, 4);
    }
    pm_ref_decode(dtype, blocks, count, values);
    matrix m = {.values = values};
    try_status(lab, pm_pack_matrix(lab->packer, &(pm_pack_part){.data = blocks, .dtype = dtype, .rows = rows}, 1, cols,
                                   PM_PACK_STACKED, &m.packed));
    try_status(lab, pm_packer_finish(lab->packer));
    return m;
}

static pm_tensor vector(pm_lab *lab, const float *values, uint32_t n) {
    pm_tensor t = {.rows = 0};
    try_status(lab, pm_pack_vector(lab->packer, &(pm_pack_part){.data = values, .dtype = PM_F32, .rows = n}, 1, &t));
    try_status(lab, pm_packer_finish(lab->packer));
    return t;
}

// ---- pieces of memory -------------------------------------------------------------------------------------------------

static uint32_t *words_at(const pm_lab *lab, pm_slice slice) {
    return (uint32_t *)pm_slice_map(pm_buffer_all(lab->upload)) + slice.offset / 4;
}

static const uint32_t *result_at(const pm_lab *lab, pm_slice slice) {
    return (const uint32_t *)pm_slice_map(pm_buffer_all(lab->readback)) + slice.offset / 4;
}

static float float_at(const uint32_t *words, uint64_t at) {
    float f;
    memcpy(&f, words + at, sizeof(f));
    return f;
}

// A piece that holds no numbers, and a guard behind it.
static pm_slice take(pm_lab *lab, uint64_t size) {
    uint64_t align = pm_slice_align(lab->dev), room = pm_round_up(size, align) + align;
    if (room > LAB_BYTES - lab->used || lab->n_guards == MAX_PIECES) {
        lab->full = true;
        lab->used = 0;
        lab->n_guards = 0;
    }
    pm_slice all = pm_buffer_slice(lab->work, lab->used, room);
    lab->used += room;
    lab->guards[lab->n_guards++] = pm_buffer_slice(lab->work, lab->used - align, align);
    for (uint64_t i = 0; i < room / 4; i++)
        words_at(lab, all)[i] = GUARD;
    return pm_buffer_slice(lab->work, all.offset, size);
}

static pm_slice put(pm_lab *lab, const void *words, size_t count) {
    pm_slice slice = take(lab, count * 4);
    memcpy(words_at(lab, slice), words, count * 4);
    return slice;
}

// An activation with the padding of its rows; values NULL: no numbers.
static pm_tensor activation(pm_lab *lab, uint32_t rows, uint32_t cols, const float *values) {
    pm_tensor t = pm_activation(take(lab, pm_activation_bytes(rows, cols)), rows, cols);
    uint32_t *words = words_at(lab, t.data);
    for (uint32_t r = 0; r < rows; r++) {
        if (values)
            memcpy(words + (size_t)r * t.stride, values + (size_t)r * cols, (size_t)cols * 4);
        memset(words + (size_t)r * t.stride + cols, 0, (size_t)(t.stride - cols) * 4);
    }
    return t;
}

// ---- comparing --------------------------------------------------------------------------------------------------------

// A running sum of `length` terms that make up `size` in absolute value rounds so many times, in either direction; 8 more for
// scales, biases, and functions that Vulkan lets be off by 2 or 3 units.
static double tolerance(uint32_t length, double size) {
    return FLT_EPSILON * (8 + sqrt(length)) * size;
}

// Where both factors of a term were rounded to halves before: 2^-11 of each, and eight deviations of the sum where there are many.
static double product_tolerance(const pm_lab *lab, uint32_t length, double size) {
    double halves = lab->halves ? fmin(0x1p-10, 0x1p-8 / sqrt(length)) : 0;
    return tolerance(length, size) + halves * size;
}

static void compare(pm_lab *lab, double got, double want, double allowed) {
    double off = fabs(got - want), ratio = off == 0 ? 0 : off / allowed;
    if (!(ratio <= lab->error))
        lab->error = ratio >= 0 ? ratio : INFINITY;
}

static void compare_exactly(pm_lab *lab, bool same) {
    if (!same)
        lab->error = INFINITY;
}

// got (rows, cols) against `want`, sums of `length` terms of `size` in all.
static void compare_tensor(pm_lab *lab, pm_tensor got, const double *want, const double *size, uint32_t length) {
    const uint32_t *words = result_at(lab, got.data);
    for (size_t at = 0; at < (size_t)got.rows * got.cols; at++)
        compare(lab, float_at(words, at / got.cols * got.stride + at % got.cols), want[at], tolerance(length, size[at]));
}

// ---- running ----------------------------------------------------------------------------------------------------------

static bool lab_ok(const pm_lab *lab) {
    return lab->status == PM_OK && !lab->full;
}

static void begin(pm_lab *lab) {
    pm_cmd_begin(lab->cmd);
    pm_cmd_copy(lab->cmd, pm_buffer_slice(lab->work, 0, lab->used), pm_buffer_slice(lab->upload, 0, lab->used));
}

static pm_status submit(pm_lab *lab) {
    uint64_t began = pm_now_ns();
    PM_TRY(pm_cmd_submit(lab->cmd));
    PM_TRY(pm_cmd_wait(lab->cmd));
    lab->ms = (double)(pm_now_ns() - began) / 1e6;
    return PM_OK;
}

static pm_status submit_twice(pm_lab *lab) {
    PM_TRY(pm_cmd_end(lab->cmd));
    PM_TRY(submit(lab));
    uint64_t first = pm_store_hash(result_at(lab, pm_buffer_all(lab->work)), (size_t)lab->used);
    PM_TRY(submit(lab));
    compare_exactly(lab, first == pm_store_hash(result_at(lab, pm_buffer_all(lab->work)), (size_t)lab->used));
    return PM_OK;
}

// Runs what was recorded, twice from the same memory: the bits must be the same, and the guards whole. False: there is nothing to
// compare.
static bool run(pm_lab *lab) {
    pm_cmd_copy(lab->cmd, pm_buffer_slice(lab->readback, 0, lab->used), pm_buffer_slice(lab->work, 0, lab->used));
    try_status(lab, submit_twice(lab));
    if (!lab_ok(lab))
        return false;
    for (int i = 0; i < lab->n_guards; i++)
        for (uint64_t w = 0; w < lab->guards[i].size / 4; w++)
            compare_exactly(lab, result_at(lab, lab->guards[i])[w] == GUARD);
    return true;
}

// ---- cases: products --------------------------------------------------------------------------------------------------

typedef struct product {
    pm_dtype dtype;
    uint32_t epilogue, rows, cols, n;
} product;

static void compare_products(pm_lab *lab, pm_tensor got, const double *want, const double *size, uint32_t length) {
    const uint32_t *words = result_at(lab, got.data);
    for (size_t at = 0; at < (size_t)got.rows * got.cols; at++)
        compare(lab, float_at(words, at / got.cols * got.stride + at % got.cols), want[at],
                product_tolerance(lab, length, size[at]));
}

static void compare_norm(pm_lab *lab, const product *p, pm_tensor y, const pm_ref_linear_args *args) {
    double *want = doubles(lab, (size_t)p->n * p->rows), *size = doubles(lab, (size_t)p->n * p->rows);
    pm_ref_linear(args, want, size);
    compare_products(lab, y, want, size, p->cols);
}

static void try_norm_linear(pm_lab *lab, const product *p) {
    enum { N_PARTS = 3 };
    bool glu = (p->epilogue & PM_LINEAR_GLU) != 0, biased = (p->epilogue & PM_LINEAR_BIAS) != 0;
    uint32_t y_cols = glu ? p->rows / 2 : p->rows;
    matrix w = weights(lab, p->dtype, p->rows, p->cols);
    float *x = floats(lab, (size_t)p->n * p->cols, -2, 2), *bias = floats(lab, p->rows, -1, 1);
    float *squares = floats(lab, (size_t)p->n * N_PARTS, 0.1f * (float)p->cols, (float)p->cols * 4);
    pm_hidden h = {.normed = activation(lab, p->n, p->cols, x),
                   .squares = activation(lab, p->n, p->cols, NULL),
                   .n_parts = N_PARTS,
                   .eps = 1e-6f};
    for (uint32_t r = 0; r < p->n; r++)
        memcpy(words_at(lab, h.squares.data) + (size_t)r * h.squares.stride, squares + (size_t)r * N_PARTS, N_PARTS * 4);
    pm_tensor y = activation(lab, p->n, y_cols, NULL), packed_bias = vector(lab, bias, p->rows);
    if (!lab_ok(lab))
        return;
    begin(lab);
    if (glu)
        pm_op_norm_glu(lab->cmd, y, &h, w.packed);
    else
        pm_op_norm_linear(lab->cmd, y, &h, w.packed, biased ? &packed_bias : NULL);
    if (run(lab))
        compare_norm(lab, p, y,
                     &(pm_ref_linear_args){.n = p->n,
                                           .rows = p->rows,
                                           .cols = p->cols,
                                           .x = x,
                                           .w = w.values,
                                           .squares = squares,
                                           .n_parts = N_PARTS,
                                           .eps = h.eps,
                                           .bias = biased ? bias : NULL,
                                           .glu = glu});
}

// x, normed = x * gain, and the partial sums of x^2.
static void compare_hidden(pm_lab *lab, const product *p, const pm_hidden *h, const float *gain, const double *want,
                           const double *size) {
    const uint32_t *normed = result_at(lab, h->normed.data), *squares = result_at(lab, h->squares.data);
    compare_products(lab, h->x, want, size, p->cols);
    for (uint32_t r = 0; r < p->n; r++) {
        double sum = 0, sum_size = 0, got = 0;
        for (uint32_t i = 0; i < p->rows; i++) {
            size_t at = (size_t)r * p->rows + i;
            compare(lab, float_at(normed, (uint64_t)r * h->normed.stride + i), want[at] * gain[i],
                    product_tolerance(lab, p->cols, size[at] * fabs(gain[i])));
            sum += want[at] * want[at];
            sum_size += want[at] * want[at] + 2 * fabs(want[at]) * size[at];
        }
        for (uint32_t i = 0; i < h->n_parts; i++)
            got += float_at(squares, (uint64_t)r * h->squares.stride + i);
        compare(lab, got, sum, product_tolerance(lab, p->cols > p->rows ? p->cols : p->rows, sum_size));
    }
}

static void try_linear_add(pm_lab *lab, const product *p) {
    matrix w = weights(lab, p->dtype, p->rows, p->cols);
    float *src = floats(lab, (size_t)p->n * p->cols, -2, 2), *x = floats(lab, (size_t)p->n * p->rows, -2, 2);
    float *gain = floats(lab, p->rows, -0.5f, 1.5f);
    pm_tensor packed_gain = vector(lab, gain, p->rows), in = activation(lab, p->n, p->cols, src);
    pm_hidden h = {.x = activation(lab, p->n, p->rows, x),
                   .normed = activation(lab, p->n, p->rows, NULL),
                   .squares = activation(lab, p->n, p->rows, NULL),
                   .eps = 1e-6f};
    if (!lab_ok(lab))
        return;
    begin(lab);
    pm_op_linear_add(lab->cmd, &h, in, w.packed, packed_gain);
    double *want = doubles(lab, (size_t)p->n * p->rows), *size = doubles(lab, (size_t)p->n * p->rows);
    if (!run(lab))
        return;
    pm_ref_linear(&(pm_ref_linear_args){.n = p->n, .rows = p->rows, .cols = p->cols, .x = src, .w = w.values, .add = x}, want,
                  size);
    compare_hidden(lab, p, &h, gain, want, size);
}

static bool read_dtype(const char *small_name, pm_dtype *dtype) {
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

// Rows that leave the second group unfinished, more blocks than lanes share and an odd number of them, columns that fill no block
// where the type lets them, and twice the columns of a dispatch, or one more than a tile has.
static void try_laid_out(pm_lab *lab, product *p, const pm_variant *v, uint32_t lanes, uint32_t group_rows, uint32_t n) {
    uint32_t element = pm_dtype_get(p->dtype)->block_elements;
    bool pairs = (p->epilogue & PM_LINEAR_GLU) != 0;
    p->n = n;
    p->rows = 2 * group_rows - 1 < MAX_ROWS ? 2 * group_rows - 1 : MAX_ROWS;
    p->rows -= pairs && p->rows > 1;
    p->rows += pairs && p->rows % 2;
    p->cols = (lanes > 1 ? lanes + 3 : 3) * PM_BLOCK;
    p->cols = element > 1 ? (uint32_t)pm_round_up(p->cols, element) : p->cols - 3;
    lab->dev->forced = v;
    if (p->epilogue & PM_LINEAR_ADD)
        try_linear_add(lab, p);
    else
        try_norm_linear(lab, p);
    lab->dev->forced = NULL;
}

static void try_matvec(pm_lab *lab, const pm_kernel_use *use, const char *type) {
    const uint32_t *spec = use->spec;
    product p = {.epilogue = spec[1]};
    pm_variant v = {.by = PM_BY_MATVEC, .shape = {spec[0], spec[2], spec[3], spec[4]}};
    if (read_dtype(type, &p.dtype))
        try_laid_out(lab, &p, &v, spec[2], spec[0] / spec[2] * spec[3], 2 * spec[4]);
}

static void try_matmul(pm_lab *lab, const pm_kernel_use *use, const char *type) {
    product p = {.epilogue = use->spec[1]};
    pm_variant v = {.by = PM_BY_TILES};
    if (read_dtype(type, &p.dtype))
        try_laid_out(lab, &p, &v, 1, PM_TILE_ROWS, PM_TILE_COLS + 1);
}

static void try_matmul_cm(pm_lab *lab, const pm_kernel_use *use, const char *type) {
    const uint32_t *spec = use->spec;
    product p = {.epilogue = spec[1]};
    pm_variant v = {.by = PM_BY_MATRICES};
    lab->dev->caps.coopmat = (pm_coopmat_shape){spec[0], spec[2], spec[3], spec[4], spec[5], spec[6], spec[7], spec[8]};
    lab->halves = true;
    if (read_dtype(type, &p.dtype))
        try_laid_out(lab, &p, &v, 1, spec[6], spec[7] + 1);
}

// ---- cases: what touches each element once ----------------------------------------------------------------------------

static void try_embed(pm_lab *lab, const pm_kernel_use *use, const char *type) {
    enum { VOCAB = 7, N = 4 };
    static const struct pm_row rows[N] = {{.token = 6}, {.token = 0}, {.token = 3}, {.token = 6}};
    pm_dtype dtype;
    if (!read_dtype(type, &dtype))
        return;
    uint32_t element = pm_dtype_get(dtype)->block_elements, dim = (use->spec[0] + 3) * PM_BLOCK;
    dim = element > 1 ? (uint32_t)pm_round_up(dim, element) : dim - 3;
    matrix table = weights(lab, dtype, VOCAB, dim);
    float *gain = floats(lab, dim, -0.5f, 1.5f);
    pm_tensor packed_gain = vector(lab, gain, dim);
    pm_hidden h = {
        .x = activation(lab, N, dim, NULL), .normed = activation(lab, N, dim, NULL), .squares = activation(lab, N, dim, NULL)};
    pm_slice row_words = put(lab, rows, sizeof(rows) / 4);
    if (!lab_ok(lab))
        return;
    begin(lab);
    pm_op_embed(lab->cmd, &h, table.packed, packed_gain, row_words);
    double *x = doubles(lab, (size_t)N * dim), *normed = doubles(lab, (size_t)N * dim), squares[N];
    double *size = doubles(lab, (size_t)N * dim);
    if (!run(lab))
        return;
    pm_ref_embed(table.values, gain, rows, N, dim, x, normed, squares);
    for (size_t i = 0; i < (size_t)N * dim; i++)
        size[i] = 4; // of what scale and minimum make before they are taken from one another
    compare_tensor(lab, h.x, x, size, 1);
    compare_tensor(lab, h.normed, normed, size, 1);
    for (uint32_t r = 0; r < N; r++)
        compare(lab, float_at(result_at(lab, h.squares.data), (uint64_t)r * h.squares.stride), squares[r],
                tolerance(dim, 4 * squares[r]));
}

static void try_gather(pm_lab *lab, const pm_kernel_use *use, const char *type) {
    enum { N = 5, M = 3, PARTS = 37 };
    static const uint32_t index[M] = {4, 0, 4};
    (void)type;
    uint32_t dim = 2 * use->spec[0] + PARTS;
    float *normed = floats(lab, (size_t)N * dim, -1, 1), *parts = floats(lab, (size_t)N * dim, 0, 1);
    pm_hidden src = {.normed = activation(lab, N, dim, normed), .squares = activation(lab, N, dim, parts), .n_parts = PARTS};
    pm_hidden dst = {.normed = activation(lab, M, dim, NULL), .squares = activation(lab, M, dim, NULL)};
    pm_slice index_words = put(lab, index, M);
    if (!lab_ok(lab))
        return;
    begin(lab);
    pm_op_gather(lab->cmd, &dst, &src, index_words);
    if (!run(lab))
        return;
    for (uint32_t m = 0; m < M; m++) {
        const uint32_t *got = result_at(lab, dst.normed.data) + (size_t)m * dst.normed.stride;
        compare_exactly(lab, !memcmp(got, normed + (size_t)index[m] * dim, (size_t)dim * 4));
        got = result_at(lab, dst.squares.data) + (size_t)m * dst.squares.stride;
        compare_exactly(lab, !memcmp(got, parts + (size_t)index[m] * dim, PARTS * 4));
    }
}

// Greedy; top-k; top-p and min-p. What is drawn must be among the ids that the sampling leaves.
static void try_sample(pm_lab *lab, const pm_kernel_use *use, const char *type) {
    enum { M = 3 };
    static const struct pm_sampling sampling[M] = {
        {.temperature = 0, .top_p = 1},
        {.temperature = 1, .top_p = 1, .top_k = 5, .seed_lo = 7},
        {.temperature = 0.7f, .top_p = 0.8f, .min_p = 0.05f, .seed_hi = 9},
    };
    static const uint32_t index[M] = {2, 0, 1};
    static const struct pm_row rows[M] = {{.seq = 1, .pos = 3}, {.seq = 2, .pos = 40}, {.seq = 0, .pos = 0}};
    (void)type;
    uint32_t n_valid = 2 * use->spec[0] + 7, vocab = n_valid + 9;
    float *logits = floats(lab, (size_t)M * vocab, -8, 8);
    for (uint32_t m = 0; m < M; m++)
        logits[(size_t)m * vocab + n_valid] = 100; // padding, which nobody draws
    pm_sample op = {.logits = activation(lab, M, vocab, logits),
                    .n_valid = n_valid,
                    .sampling = put(lab, sampling, sizeof(sampling) / 4),
                    .index = put(lab, index, M),
                    .rows = put(lab, rows, sizeof(rows) / 4),
                    .next = take(lab, M * sizeof(struct pm_row)),
                    .results = take(lab, (M + 2) * 4),
                    .result0 = 1};
    double *p = doubles(lab, n_valid);
    if (!lab_ok(lab))
        return;
    begin(lab);
    pm_op_sample(lab->cmd, &op);
    if (!run(lab))
        return;
    for (uint32_t m = 0; m < M; m++) {
        uint32_t id = result_at(lab, op.results)[1 + m];
        const uint32_t *next = result_at(lab, op.next) + 4 * (size_t)m, want[3] = {id, rows[index[m]].seq, rows[index[m]].pos + 1};
        pm_ref_sample(logits + (size_t)m * vocab, n_valid, &sampling[m], 1e-4, p);
        compare_exactly(lab, id < n_valid && p[id < n_valid ? id : 0] > 0 && !memcmp(next, want, sizeof(want)));
    }
}

// ---- cases: the cache -------------------------------------------------------------------------------------------------

enum { N_SEQS = 2, MAX_PAGES = 3, POSITIONS = MAX_PAGES * PM_PAGE, N_ROWS = 4 };

// Ends of pages, a first position, and the last of all.
static const struct pm_row cache_rows[N_ROWS] = {
    {.seq = 0, .pos = PM_PAGE - 1}, {.seq = 1, .pos = 0}, {.seq = 0, .pos = PM_PAGE}, {.seq = 1, .pos = POSITIONS - 1}};
static const struct pm_row piece_rows[N_ROWS] = {
    {.seq = 1, .pos = PM_PAGE - 2}, {.seq = 1, .pos = PM_PAGE - 1}, {.seq = 1, .pos = PM_PAGE}, {.seq = 1, .pos = PM_PAGE + 1}};
static const uint32_t cache_pages[N_SEQS * MAX_PAGES] = {5, 2, 6, 1, 4, 3}; // page 0 is nobody's

static uint32_t page_of(const struct pm_row *row) {
    return cache_pages[row->seq * MAX_PAGES + row->pos / PM_PAGE];
}

// Where an element stands, as pm_kv in ops.h says it: of halves or floats.
static uint64_t element_of(const pm_kv *kv, bool is_k, const struct pm_row *row, uint32_t head, uint32_t dim) {
    uint32_t e = kv->dtype == PM_F16 ? 8 : 4, pos = row->pos % PM_PAGE;
    uint64_t first = (uint64_t)page_of(row) * kv->n_kv_heads + head;
    return is_k ? ((first * (kv->head_dim / e) + dim / e) * PM_PAGE + pos) * e + dim % e
                : (first * PM_PAGE + pos) * kv->head_dim + dim;
}

// Of Q8_0: the byte, and the half that is its scale.
static uint64_t q8_0_head(const pm_kv *kv, const struct pm_row *row, uint32_t head) {
    return ((uint64_t)page_of(row) * kv->n_kv_heads + head) * PM_PAGE * (kv->head_dim + (kv->head_dim + 63) / 64 * 4);
}

static uint64_t byte_of(const pm_kv *kv, bool is_k, const struct pm_row *row, uint32_t head, uint32_t dim) {
    uint32_t pos = row->pos % PM_PAGE;
    return q8_0_head(kv, row, head) + (is_k ? (dim / 16 * PM_PAGE + pos) * 16 + dim % 16 : pos * kv->head_dim + dim);
}

static uint64_t scale_of(const pm_kv *kv, bool is_k, const struct pm_row *row, uint32_t head, uint32_t dim) {
    uint32_t word = dim / 64, pos = row->pos % PM_PAGE;
    uint64_t words = is_k ? word * PM_PAGE + pos : pos * ((kv->head_dim + 63) / 64) + word;
    return (q8_0_head(kv, row, head) + (uint64_t)PM_PAGE * kv->head_dim) / 2 + words * 2 + dim / 32 % 2;
}

static float half_of(const uint32_t *words, uint64_t at) {
    return pm_f16_to_f32((uint16_t)(words[at / 2] >> (at % 2 * 16)));
}

static void set_bits(uint32_t *words, uint64_t at, uint32_t n_bits, uint32_t bits) {
    uint64_t word = at * n_bits / 32;
    uint32_t shift = (uint32_t)(at * n_bits % 32), mask = n_bits == 32 ? UINT32_MAX : (1u << n_bits) - 1;
    words[word] = (words[word] & ~(mask << shift)) | (bits & mask) << shift;
}

static float cached(const pm_kv *kv, const uint32_t *words, bool is_k, const struct pm_row *row, uint32_t head, uint32_t dim) {
    uint64_t at = kv->dtype == PM_Q8_0 ? byte_of(kv, is_k, row, head, dim) : element_of(kv, is_k, row, head, dim);
    if (kv->dtype == PM_Q8_0)
        return (float)(int8_t)(words[at / 4] >> (at % 4 * 8)) * half_of(words, scale_of(kv, is_k, row, head, dim)) / 256;
    return kv->dtype == PM_F16 ? half_of(words, at) : float_at(words, at);
}

// Puts a block of 32 dims into the cache, and leaves in `values` what it holds of them.
static void cache_q8_0(const pm_kv *kv, uint32_t *words, bool is_k, const struct pm_row *row, uint32_t head, uint32_t dim,
                       float *values) {
    double block[32], held[32];
    for (uint32_t i = 0; i < 32; i++)
        block[i] = values[i];
    double scale = pm_ref_kv_q8_0(block, held);
    set_bits(words, scale_of(kv, is_k, row, head, dim), 16, pm_f32_to_f16((float)(scale * 256)));
    for (uint32_t i = 0; i < 32; i++) {
        values[i] = (float)held[i];
        set_bits(words, byte_of(kv, is_k, row, head, dim + i), 8, (uint32_t)(int32_t)(scale > 0 ? round(held[i] / scale) : 0));
    }
}

static void cache_head(const pm_kv *kv, uint32_t *words, bool is_k, const struct pm_row *row, uint32_t head, float *values) {
    for (uint32_t i = 0; i < kv->head_dim; i++) {
        uint16_t half = pm_f32_to_f16(values[i]);
        uint32_t bits;
        memcpy(&bits, &values[i], sizeof(bits));
        if (kv->dtype == PM_Q8_0 && i % 32 == 0)
            cache_q8_0(kv, words, is_k, row, head, i, values + i);
        if (kv->dtype == PM_F16)
            values[i] = pm_f16_to_f32(half);
        if (kv->dtype != PM_Q8_0)
            set_bits(words, element_of(kv, is_k, row, head, i), kv->dtype == PM_F16 ? 16 : 32, kv->dtype == PM_F16 ? half : bits);
    }
}

static pm_kv take_cache(pm_lab *lab, pm_dtype dtype, uint32_t n_kv_heads, uint32_t head_dim) {
    pm_kv kv = {.dtype = dtype, .max_pages = MAX_PAGES, .n_kv_heads = n_kv_heads, .head_dim = head_dim};
    uint64_t bytes = (1 + N_SEQS * MAX_PAGES) * pm_kv_page_bytes(dtype, n_kv_heads, head_dim);
    kv.k = take(lab, bytes);
    kv.v = take(lab, bytes);
    kv.pages = put(lab, cache_pages, N_SEQS * MAX_PAGES);
    for (uint64_t i = 0; dtype != PM_F32 && i < bytes / 4; i++)
        words_at(lab, kv.k)[i] = words_at(lab, kv.v)[i] = 0x7e007e00u; // no numbers either
    return kv;
}

// The types of a cache that we know how to fill.
static bool read_cache_dtype(const char *small_name, pm_dtype *dtype) {
    return read_dtype(small_name, dtype) && (*dtype == PM_F16 || *dtype == PM_F32 || *dtype == PM_Q8_0);
}

// How far rounding to the cache's type may move value i of a head: a half either way, since Vulkan does not say how packHalf2x16
// rounds; of Q8_0 half a step of the block, and what the scale's own rounding makes of the value.
static double cache_tolerance(const pm_kv *kv, const double *head, uint32_t i) {
    double most = 0;
    for (uint32_t d = i / 32 * 32; d < i / 32 * 32 + 32 && d < kv->head_dim; d++)
        most = fmax(most, fabs(head[d]));
    switch (kv->dtype) {
    case PM_F16:
        return fabs(head[i]) * 0x1p-10 + 0x1p-24;
    case PM_Q8_0:
        return 0.51 * most / 127 + fabs(head[i]) * 0x1p-10;
    default:
        return 0;
    }
}

static void compare_stored(pm_lab *lab, const pm_rope_store *op, uint32_t n_heads, const double *want, const double *size) {
    const pm_kv *kv = op->kv;
    const uint32_t *k = result_at(lab, kv->k), *v = result_at(lab, kv->v), *q = result_at(lab, op->q.data);
    uint32_t dim = kv->head_dim, heads = n_heads + 2 * kv->n_kv_heads;
    for (uint32_t r = 0; r < N_ROWS; r++)
        for (uint32_t h = 0; h < heads; h++) {
            size_t at = ((size_t)r * heads + h) * dim;
            bool is_q = h < n_heads, is_k = h < n_heads + kv->n_kv_heads;
            for (uint32_t i = 0; i < dim; i++) {
                double got = is_q   ? float_at(q, (uint64_t)r * op->q.stride + (uint64_t)h * dim + i)
                             : is_k ? cached(kv, k, true, &cache_rows[r], h - n_heads, i)
                                    : cached(kv, v, false, &cache_rows[r], h - n_heads - kv->n_kv_heads, i);
                compare(lab, got, want[at + i], tolerance(dim, size[at + i]) + (is_q ? 0 : cache_tolerance(kv, want + at, i)));
            }
        }
}

// The angle of pair j of a head at a position.
static double angle_at(uint32_t pos, uint32_t j, uint32_t head_dim) {
    return pos * pow(1000, -2.0 * j / head_dim);
}

// (positions 0 .. POSITIONS - 1, head_dim / 2) of cos, sin; and, as the kernel has them, (ANGLE_ROWS, head_dim / 2) of the low
// parts of positions and then of the high ones.
enum { ANGLE_ROWS = PM_ANGLE_STEP + (POSITIONS + PM_ANGLE_STEP - 1) / PM_ANGLE_STEP };
static double *angles_of(pm_lab *lab, uint32_t head_dim) {
    double *values = doubles(lab, (size_t)POSITIONS * head_dim);
    for (uint32_t i = 0; i < POSITIONS * head_dim / 2; i++) {
        double angle = angle_at(i / (head_dim / 2), i % (head_dim / 2), head_dim);
        values[2 * i] = cos(angle);
        values[2 * i + 1] = sin(angle);
    }
    return values;
}

static pm_slice put_angles(pm_lab *lab, uint32_t head_dim) {
    float *values = take_room(lab, (size_t)ANGLE_ROWS * head_dim, sizeof(float));
    for (uint32_t i = 0; i < ANGLE_ROWS * head_dim / 2; i++) {
        uint32_t row = i / (head_dim / 2), pos = row < PM_ANGLE_STEP ? row : (row - PM_ANGLE_STEP) * PM_ANGLE_STEP;
        double angle = angle_at(pos, i % (head_dim / 2), head_dim);
        values[2 * i] = (float)cos(angle);
        values[2 * i + 1] = (float)sin(angle);
    }
    return put(lab, values, (size_t)ANGLE_ROWS * head_dim);
}

static void try_rope_store(pm_lab *lab, const pm_kernel_use *use, const char *type) {
    enum { N_HEADS = 3, N_KV_HEADS = 2, HEADS = N_HEADS + 2 * N_KV_HEADS };
    uint32_t dim = use->spec[1];
    bool norm = use->spec[2] != 0;
    pm_dtype dtype;
    if (!read_cache_dtype(type, &dtype))
        return;
    float *qkv = floats(lab, (size_t)N_ROWS * HEADS * dim, -4, 4);
    float *gains[2] = {floats(lab, dim, -1, 2), floats(lab, dim, -1, 2)};
    pm_tensor q_gain = vector(lab, gains[0], dim), k_gain = vector(lab, gains[1], dim);
    pm_kv kv = take_cache(lab, dtype, N_KV_HEADS, dim);
    pm_rope_store op = {.q = activation(lab, N_ROWS, N_HEADS * dim, NULL),
                        .qkv = activation(lab, N_ROWS, HEADS * dim, qkv),
                        .q_gain = norm ? &q_gain : NULL,
                        .k_gain = norm ? &k_gain : NULL,
                        .eps = 1e-6f,
                        .interleaved = use->spec[3] != 0,
                        .angles = put_angles(lab, dim),
                        .angle_rows = ANGLE_ROWS,
                        .rows = put(lab, cache_rows, sizeof(cache_rows) / 4),
                        .kv = &kv};
    double *want = doubles(lab, (size_t)N_ROWS * HEADS * dim), *size = doubles(lab, (size_t)N_ROWS * HEADS * dim);
    if (!lab_ok(lab))
        return;
    begin(lab);
    pm_op_rope_store(lab->cmd, &op);
    if (!run(lab))
        return;
    pm_ref_rope_store(&(pm_ref_rope_store_args){.n = N_ROWS,
                                                .n_heads = N_HEADS,
                                                .n_kv_heads = N_KV_HEADS,
                                                .head_dim = dim,
                                                .qkv = qkv,
                                                .q_gain = norm ? gains[0] : NULL,
                                                .k_gain = norm ? gains[1] : NULL,
                                                .eps = op.eps,
                                                .interleaved = op.interleaved,
                                                .angles = angles_of(lab, dim),
                                                .n_positions = POSITIONS,
                                                .rows = cache_rows},
                      want, size);
    compare_stored(lab, &op, N_HEADS, want, size);
}

// Random keys (or values), (N_SEQS, POSITIONS, n_kv_heads, head_dim), as the cache holds them.
static float *fill_cache(pm_lab *lab, const pm_kv *kv, bool is_k) {
    size_t heads = (size_t)N_SEQS * POSITIONS * kv->n_kv_heads;
    float *values = floats(lab, heads * kv->head_dim, -1, 1);
    for (size_t i = 0; i < heads; i++) {
        uint32_t pos = (uint32_t)(i / kv->n_kv_heads);
        struct pm_row row = {.seq = pos / POSITIONS, .pos = pos % POSITIONS};
        cache_head(kv, words_at(lab, is_k ? kv->k : kv->v), is_k, &row, (uint32_t)(i % kv->n_kv_heads), values + i * kv->head_dim);
    }
    return values;
}

// One head of one row of attend_merge.comp: (n_splits, head_dim + 2) -> (head_dim).
static void merge_in_double(const uint32_t *partial, uint32_t n_splits, uint32_t dim, double *out) {
    double most = -INFINITY, sum = 0;
    memset(out, 0, dim * sizeof(*out));
    for (uint32_t s = 0; s < n_splits; s++)
        most = fmax(most, float_at(partial, s * (dim + 2) + dim));
    for (uint32_t s = 0; s < n_splits; s++) {
        double weight = exp2(float_at(partial, s * (dim + 2) + dim) - most);
        sum += weight * float_at(partial, s * (dim + 2) + dim + 1);
        for (uint32_t i = 0; i < dim; i++)
            out[i] += weight * float_at(partial, s * (dim + 2) + i);
    }
    for (uint32_t i = 0; i < dim; i++)
        out[i] /= sum;
}

// The whole cache in one piece, and in splits whose parts are merged here.
static void compare_attended(pm_lab *lab, const pm_attend *op, pm_slice partial, uint32_t n_splits, const double *want,
                             const double *size) {
    uint32_t dim = op->kv->head_dim, n = op->q.rows * (op->q.cols / dim), n_heads = op->q.cols / dim;
    double *out = doubles(lab, dim);
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t *got = result_at(lab, op->out.data) + (size_t)(i / n_heads) * op->out.stride + (size_t)(i % n_heads) * dim;
        if (n_splits > 1)
            merge_in_double(result_at(lab, partial) + (size_t)i * n_splits * (dim + 2), n_splits, dim, out);
        for (uint32_t d = 0; d < dim; d++)
            compare(lab, n_splits > 1 ? out[d] : float_at(got, d), want[(size_t)i * dim + d],
                    tolerance(dim + POSITIONS, size[(size_t)i * dim + d]));
    }
}

static void try_attend(pm_lab *lab, const pm_kernel_use *use, const char *type) {
    enum { N_KV_HEADS = 2 };
    uint32_t dim = use->spec[1], n_heads = use->spec[2] * N_KV_HEADS, count = N_ROWS * n_heads * dim;
    pm_dtype dtype;
    if (use->n_spec < 4 || !read_cache_dtype(type, &dtype))
        return;
    const struct pm_row *rows = use->spec[3] > 1 ? piece_rows : cache_rows;
    pm_kv kv = take_cache(lab, dtype, N_KV_HEADS, dim);
    float *q = floats(lab, count, -2, 2), *k = fill_cache(lab, &kv, true), *v = fill_cache(lab, &kv, false);
    pm_attend op = {.out = activation(lab, N_ROWS, n_heads * dim, NULL),
                    .q = activation(lab, N_ROWS, n_heads * dim, q),
                    .rows = put(lab, rows, sizeof(cache_rows) / 4),
                    .kv = &kv,
                    .kv_bound = POSITIONS,
                    .scale = 1 / sqrtf((float)dim)};
    pm_slice partial = take(lab, (uint64_t)N_ROWS * n_heads * MAX_PAGES * (dim + 2) * 4);
    double *want = doubles(lab, count), *size = doubles(lab, count);
    if (!lab_ok(lab))
        return;
    pm_ref_attend(&(pm_ref_attend_args){.n = N_ROWS,
                                        .n_heads = n_heads,
                                        .n_kv_heads = N_KV_HEADS,
                                        .head_dim = dim,
                                        .q = q,
                                        .k = k,
                                        .v = v,
                                        .max_len = POSITIONS,
                                        .rows = rows,
                                        .scale = op.scale},
                  want, size);
    for (uint32_t n_splits = 1; n_splits <= MAX_PAGES; n_splits += MAX_PAGES - 1) {
        begin(lab);
        pm_attend_split(lab->cmd, &op, partial, n_splits, PM_PAGE, use->spec[3]);
        if (run(lab))
            compare_attended(lab, &op, partial, n_splits, want, size);
    }
}

static void try_attend_merge(pm_lab *lab, const pm_kernel_use *use, const char *type) {
    enum { N = 2, HEADS = 3, SPLITS = 5 };
    (void)type;
    uint32_t dim = use->spec[1];
    float *parts = floats(lab, (size_t)N * HEADS * SPLITS * (dim + 2), 0.1f, 3);
    pm_kv kv = {.head_dim = dim};
    pm_attend op = {.out = activation(lab, N, HEADS * dim, NULL), .q = activation(lab, N, HEADS * dim, NULL), .kv = &kv};
    pm_slice partial = put(lab, parts, (size_t)N * HEADS * SPLITS * (dim + 2));
    double *want = doubles(lab, dim);
    if (!lab_ok(lab))
        return;
    begin(lab);
    pm_attend_merge(lab->cmd, &op, partial, HEADS, SPLITS);
    if (!run(lab))
        return;
    for (uint32_t i = 0; i < N * HEADS; i++) {
        merge_in_double(words_at(lab, partial) + (size_t)i * SPLITS * (dim + 2), SPLITS, dim, want);
        for (uint32_t d = 0; d < dim; d++)
            compare(lab, float_at(result_at(lab, op.out.data), (uint64_t)(i / HEADS) * op.out.stride + i % HEADS * dim + d),
                    want[d], tolerance(SPLITS, 8 * fabs(want[d])));
    }
}

// ---- the table --------------------------------------------------------------------------------------------------------

// Names, whole or up to a type; the first that fits.
static const struct trial_case {
    const char *name;
    bool (*reads)(const char *small_name, pm_dtype *dtype); // of the types that it knows; NULL: there is none in the name
    void (*run)(pm_lab *lab, const pm_kernel_use *use, const char *type);
} cases[] = {
    {"embed_", read_dtype, try_embed},
    {"gather", NULL, try_gather},
    {"matvec_", read_dtype, try_matvec},
    {"matmul_cm_", read_dtype, try_matmul_cm},
    {"matmul_", read_dtype, try_matmul},
    {"rope_store_", read_cache_dtype, try_rope_store},
    {"attend_merge", NULL, try_attend_merge},
    {"attend_", read_cache_dtype, try_attend},
    {"sample", NULL, try_sample},
};

// *type is what follows the case's name.
static const struct trial_case *find_case(const char *name, const char **type) {
    pm_dtype dtype;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        size_t n = strlen(cases[i].name);
        *type = name + n;
        if (!strncmp(name, cases[i].name, n) && (cases[i].reads ? cases[i].reads(*type, &dtype) : !**type))
            return &cases[i];
    }
    return NULL;
}

bool pm_lab_knows(pm_kernel_id id) {
    const char *type;
    return find_case(pm_kernel_get_info(id)->name, &type) != NULL;
}

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

static pm_fate judge(const pm_lab *lab) {
    switch (lab->status) {
    case PM_OK:
        return lab->full ? PM_FATE_UNTRIED : lab->error <= 1 ? PM_FATE_RIGHT : PM_FATE_WRONG;
    case PM_ERR_CANCELLED: // the time limit of pm_cmd_wait
        return PM_FATE_HANGS;
    case PM_ERR_DEVICE_LOST:
        return PM_FATE_LOST;
    case PM_ERR_MEMORY:
    case PM_ERR_DEVICE_MEMORY:
        return PM_FATE_UNKNOWN; // of which the kernel is innocent
    default:
        return PM_FATE_REFUSED;
    }
}

void pm_lab_try(pm_lab *lab, const pm_kernel_use *use, pm_verdict *verdict) {
    const char *type;
    const struct trial_case *c = find_case(pm_kernel_get_info(use->id)->name, &type);
    lab->used = lab->room_used = 0;
    lab->n_guards = 0;
    lab->full = !c;
    lab->halves = false;
    lab->error = lab->ms = 0;
    lab->status = PM_OK;
    lab->random = 1;
    take(lab, 4); // the guard before the first piece
    VkPipeline pipeline;
    lab->status = pm_kernel_pipeline(lab->dev, use->id, use->spec, use->n_spec, &pipeline);
    lab->dev->forced_workgroup = use->n_spec == 1 ? use->spec[0] : 0;
    if (c && lab->status == PM_OK)
        c->run(lab, use, type);
    lab->dev->forced_workgroup = 0;
    *verdict = (pm_verdict){.use = *use, .fate = judge(lab), .error = lab->error, .ms = lab->ms};
}
