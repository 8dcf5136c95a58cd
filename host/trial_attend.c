// Trials of what stands in the cache: rope_store, attend, attend_merge.
#include "host/lab.h"

#include <math.h>
#include <string.h>

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
    return kv->dtype == PM_F16 ? half_of(words, at) : pm_lab_float(words, at);
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
    kv.k = pm_lab_take(lab, bytes);
    kv.v = pm_lab_take(lab, bytes);
    kv.pages = pm_lab_put(lab, cache_pages, N_SEQS * MAX_PAGES);
    for (uint64_t i = 0; dtype != PM_F32 && i < bytes / 4; i++)
        pm_lab_words(lab, kv.k)[i] = pm_lab_words(lab, kv.v)[i] = 0x7e007e00u; // no numbers either
    return kv;
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
    const uint32_t *k = pm_lab_result(lab, kv->k), *v = pm_lab_result(lab, kv->v), *q = pm_lab_result(lab, op->q.data);
    uint32_t dim = kv->head_dim, heads = n_heads + 2 * kv->n_kv_heads;
    for (uint32_t r = 0; r < N_ROWS; r++)
        for (uint32_t h = 0; h < heads; h++) {
            size_t at = ((size_t)r * heads + h) * dim;
            bool is_q = h < n_heads, is_k = h < n_heads + kv->n_kv_heads;
            for (uint32_t i = 0; i < dim; i++) {
                double got = is_q   ? pm_lab_float(q, (uint64_t)r * op->q.stride + (uint64_t)h * dim + i)
                             : is_k ? cached(kv, k, true, &cache_rows[r], h - n_heads, i)
                                    : cached(kv, v, false, &cache_rows[r], h - n_heads - kv->n_kv_heads, i);
                pm_lab_compare(lab, got, want[at + i],
                               pm_lab_tolerance(dim, size[at + i]) + (is_q ? 0 : cache_tolerance(kv, want + at, i)));
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
    double *values = pm_lab_doubles(lab, (size_t)POSITIONS * head_dim);
    for (uint32_t i = 0; i < POSITIONS * head_dim / 2; i++) {
        double angle = angle_at(i / (head_dim / 2), i % (head_dim / 2), head_dim);
        values[2 * i] = cos(angle);
        values[2 * i + 1] = sin(angle);
    }
    return values;
}

static pm_slice put_angles(pm_lab *lab, uint32_t head_dim) {
    float *values = pm_lab_room(lab, (size_t)ANGLE_ROWS * head_dim, sizeof(float));
    for (uint32_t i = 0; i < ANGLE_ROWS * head_dim / 2; i++) {
        uint32_t row = i / (head_dim / 2), pos = row < PM_ANGLE_STEP ? row : (row - PM_ANGLE_STEP) * PM_ANGLE_STEP;
        double angle = angle_at(pos, i % (head_dim / 2), head_dim);
        values[2 * i] = (float)cos(angle);
        values[2 * i + 1] = (float)sin(angle);
    }
    return pm_lab_put(lab, values, (size_t)ANGLE_ROWS * head_dim);
}

void pm_try_rope_store(pm_lab *lab, const pm_kernel_use *use, const char *type) {
    enum { N_HEADS = 3, N_KV_HEADS = 2, HEADS = N_HEADS + 2 * N_KV_HEADS };
    uint32_t dim = use->spec[1];
    bool norm = use->spec[2] != 0;
    pm_dtype dtype;
    if (!pm_lab_read_cache_dtype(type, &dtype))
        return;
    float *qkv = pm_lab_floats(lab, (size_t)N_ROWS * HEADS * dim, -4, 4);
    float *gains[2] = {pm_lab_floats(lab, dim, -1, 2), pm_lab_floats(lab, dim, -1, 2)};
    pm_tensor q_gain = pm_lab_vector(lab, gains[0], dim), k_gain = pm_lab_vector(lab, gains[1], dim);
    pm_kv kv = take_cache(lab, dtype, N_KV_HEADS, dim);
    pm_rope_store op = {.q = pm_lab_activation(lab, N_ROWS, N_HEADS * dim, NULL),
                        .qkv = pm_lab_activation(lab, N_ROWS, HEADS * dim, qkv),
                        .q_gain = norm ? &q_gain : NULL,
                        .k_gain = norm ? &k_gain : NULL,
                        .eps = 1e-6f,
                        .interleaved = use->spec[3] != 0,
                        .angles = put_angles(lab, dim),
                        .angle_rows = ANGLE_ROWS,
                        .rows = pm_lab_put(lab, cache_rows, sizeof(cache_rows) / 4),
                        .kv = &kv};
    double *want = pm_lab_doubles(lab, (size_t)N_ROWS * HEADS * dim), *size = pm_lab_doubles(lab, (size_t)N_ROWS * HEADS * dim);
    if (!pm_lab_ok(lab))
        return;
    pm_lab_begin(lab);
    pm_op_rope_store(lab->cmd, &op);
    if (!pm_lab_run(lab))
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
    float *values = pm_lab_floats(lab, heads * kv->head_dim, -1, 1);
    for (size_t i = 0; i < heads; i++) {
        uint32_t pos = (uint32_t)(i / kv->n_kv_heads);
        struct pm_row row = {.seq = pos / POSITIONS, .pos = pos % POSITIONS};
        cache_head(kv, pm_lab_words(lab, is_k ? kv->k : kv->v), is_k, &row, (uint32_t)(i % kv->n_kv_heads),
                   values + i * kv->head_dim);
    }
    return values;
}

// One head of one row of attend_merge.comp: (n_splits, head_dim + 2) -> (head_dim).
static void merge_in_double(const uint32_t *partial, uint32_t n_splits, uint32_t dim, double *out) {
    double most = -INFINITY, sum = 0;
    memset(out, 0, dim * sizeof(*out));
    for (uint32_t s = 0; s < n_splits; s++)
        most = fmax(most, pm_lab_float(partial, s * (dim + 2) + dim));
    for (uint32_t s = 0; s < n_splits; s++) {
        double weight = exp2(pm_lab_float(partial, s * (dim + 2) + dim) - most);
        sum += weight * pm_lab_float(partial, s * (dim + 2) + dim + 1);
        for (uint32_t i = 0; i < dim; i++)
            out[i] += weight * pm_lab_float(partial, s * (dim + 2) + i);
    }
    for (uint32_t i = 0; i < dim; i++)
        out[i] /= sum;
}

// The whole cache in one piece, and in splits whose parts are merged here.
static void compare_attended(pm_lab *lab, const pm_attend *op, pm_slice partial, uint32_t n_splits, const double *want,
                             const double *size) {
    uint32_t dim = op->kv->head_dim, n = op->q.rows * (op->q.cols / dim), n_heads = op->q.cols / dim;
    double *out = pm_lab_doubles(lab, dim);
    for (uint32_t i = 0; i < n; i++) {
        const uint32_t *got =
            pm_lab_result(lab, op->out.data) + (size_t)(i / n_heads) * op->out.stride + (size_t)(i % n_heads) * dim;
        if (n_splits > 1)
            merge_in_double(pm_lab_result(lab, partial) + (size_t)i * n_splits * (dim + 2), n_splits, dim, out);
        for (uint32_t d = 0; d < dim; d++)
            pm_lab_compare(lab, n_splits > 1 ? out[d] : pm_lab_float(got, d), want[(size_t)i * dim + d],
                           pm_lab_product_tolerance(lab, dim + POSITIONS, size[(size_t)i * dim + d]));
    }
}

static void try_attend(pm_lab *lab, const pm_kernel_use *use, pm_dtype dtype, uint32_t group, const struct pm_row *rows,
                       uint32_t n) {
    enum { N_KV_HEADS = 2 };
    uint32_t dim = use->spec[1], n_heads = group * N_KV_HEADS, count = n * n_heads * dim;
    pm_kv kv = take_cache(lab, dtype, N_KV_HEADS, dim);
    float *q = pm_lab_floats(lab, count, -2, 2), *k = fill_cache(lab, &kv, true), *v = fill_cache(lab, &kv, false);
    pm_attend op = {.out = pm_lab_activation(lab, n, n_heads * dim, NULL),
                    .q = pm_lab_activation(lab, n, n_heads * dim, q),
                    .rows = pm_lab_put(lab, rows, (size_t)n * sizeof(*rows) / 4),
                    .kv = &kv,
                    .kv_bound = POSITIONS,
                    .scale = 1 / sqrtf((float)dim)};
    pm_slice partial = pm_lab_take(lab, (uint64_t)n * n_heads * MAX_PAGES * (dim + 2) * 4);
    double *want = pm_lab_doubles(lab, count), *size = pm_lab_doubles(lab, count);
    if (!pm_lab_ok(lab))
        return;
    pm_ref_attend(&(pm_ref_attend_args){.n = n,
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
        pm_lab_begin(lab);
        pm_attend_split(lab->cmd, &op, partial, n_splits, PM_PAGE, use);
        if (!pm_lab_run(lab))
            return;
        compare_attended(lab, &op, partial, n_splits, want, size);
    }
}

void pm_try_attend(pm_lab *lab, const pm_kernel_use *use, const char *type) {
    pm_dtype dtype;
    bool piece = use->n_spec > 3 && use->spec[3] > 1;
    if (use->n_spec > 2 && pm_lab_read_cache_dtype(type, &dtype))
        try_attend(lab, use, dtype, use->spec[2], piece ? piece_rows : cache_rows, N_ROWS);
}

// Rows for a workgroup and some of the next, from before the end of a page on where there are enough positions behind it: then
// there are pages, and splits, that only some of them see, or none.
void pm_try_attend_cm(pm_lab *lab, const pm_kernel_use *use, const char *type) {
    const uint32_t *spec = use->spec; // workgroup, head_dim, subgroup, group, matrices' sizes
    struct pm_row rows[POSITIONS];
    pm_dtype dtype;
    if (use->n_spec != 7 || !pm_lab_read_cache_dtype(type, &dtype))
        return;
    uint32_t n = spec[0] / spec[2] * spec[4] / spec[3] + 3;
    n = n < POSITIONS ? n : POSITIONS;
    for (uint32_t r = 0; r < n; r++)
        rows[r] = (struct pm_row){.seq = 1, .pos = (n + PM_PAGE - 2 < POSITIONS ? PM_PAGE - 2 : POSITIONS - n) + r};
    lab->halves = true;
    try_attend(lab, use, dtype, spec[3], rows, n);
}

void pm_try_attend_merge(pm_lab *lab, const pm_kernel_use *use, const char *type) {
    enum { N = 2, HEADS = 3, SPLITS = 5 };
    (void)type;
    uint32_t dim = use->spec[1];
    float *parts = pm_lab_floats(lab, (size_t)N * HEADS * SPLITS * (dim + 2), 0.1f, 3);
    pm_kv kv = {.head_dim = dim};
    pm_attend op = {
        .out = pm_lab_activation(lab, N, HEADS * dim, NULL), .q = pm_lab_activation(lab, N, HEADS * dim, NULL), .kv = &kv};
    pm_slice partial = pm_lab_put(lab, parts, (size_t)N * HEADS * SPLITS * (dim + 2));
    double *want = pm_lab_doubles(lab, dim);
    if (!pm_lab_ok(lab))
        return;
    pm_lab_begin(lab);
    pm_attend_merge(lab->cmd, &op, partial, HEADS, SPLITS);
    if (!pm_lab_run(lab))
        return;
    for (uint32_t i = 0; i < N * HEADS; i++) {
        merge_in_double(pm_lab_words(lab, partial) + (size_t)i * SPLITS * (dim + 2), SPLITS, dim, want);
        for (uint32_t d = 0; d < dim; d++)
            pm_lab_compare(
                lab, pm_lab_float(pm_lab_result(lab, op.out.data), (uint64_t)(i / HEADS) * op.out.stride + i % HEADS * dim + d),
                want[d], pm_lab_tolerance(SPLITS, 8 * fabs(want[d])));
    }
}
