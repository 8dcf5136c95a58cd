// pm_op_rope_store against reference.c: q, and every element of the cache that was to be written, and none besides.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "check.h"
#include "host/vk.h"

enum { N_SEQS = 2, MAX_PAGES = 9, POSITIONS = MAX_PAGES * PM_PAGE, N_TABLES = 3 };
enum { ANGLE_ROWS = PM_ANGLE_STEP + (POSITIONS + PM_ANGLE_STEP - 1) / PM_ANGLE_STEP };

typedef struct rope_case {
    pm_dtype dtype;
    uint32_t n_heads, n_kv_heads, head_dim, n;
    bool norm, interleaved;
} rope_case;

static bool plain; // by rope_store_plain

static pm_kernel_use plain_use(const rope_case *c) {
    static const pm_kernel_id kernels[PM_DTYPE_COUNT] = {
        [PM_F16] = PM_K_rope_store_plain_f16, [PM_F32] = PM_K_rope_store_plain_f32, [PM_Q8_0] = PM_K_rope_store_plain_q8_0};
    return (pm_kernel_use){.id = kernels[c->dtype], .spec = {16, c->head_dim, c->norm, c->interleaved}, .n_spec = 4};
}

// ---- data -------------------------------------------------------------------------------------------------------------

// (cos, sin) of a position in a table; each has its own base and length.
static void turn(uint32_t table, uint32_t pos, uint32_t j, uint32_t head_dim, bool long_one, double pair[2]) {
    double angle = pos * pow(100 * pow(100, table), -2.0 * j / head_dim), length = long_one ? 1 + 0.1 * table : 1;
    pair[0] = cos(angle) * length;
    pair[1] = sin(angle) * length;
}

static double *angles(uint32_t head_dim) {
    double *values = check_doubles((size_t)N_TABLES * POSITIONS * head_dim), *p = values;
    for (uint32_t table = 0; table < N_TABLES; table++)
        for (uint32_t pos = 0; pos < POSITIONS; pos++)
            for (uint32_t j = 0; j < head_dim / 2; j++, p += 2)
                turn(table, pos, j, head_dim, true, p);
    return values;
}

// The same as the kernel has them.
static float *angle_tables(uint32_t head_dim) {
    float *values = check_alloc((size_t)N_TABLES * ANGLE_ROWS * head_dim, sizeof(float)), *p = values;
    for (uint32_t row = 0; row < N_TABLES * ANGLE_ROWS; row++)
        for (uint32_t j = 0, i = row % ANGLE_ROWS; j < head_dim / 2; j++) {
            double pair[2];
            turn(row / ANGLE_ROWS, i < PM_ANGLE_STEP ? i : (i - PM_ANGLE_STEP) * PM_ANGLE_STEP, j, head_dim, i < PM_ANGLE_STEP,
                 pair);
            *p++ = (float)pair[0];
            *p++ = (float)pair[1];
        }
    return values;
}

// Rows of two sequences in turn, the first at the last positions of a page and on into the next, the second up to the last of all.
// Tables change from row to row, which a session would not do.
static struct pm_row *rows_of(uint32_t n) {
    struct pm_row *rows = check_alloc(n, sizeof(*rows));
    for (uint32_t i = 0; i < n; i++)
        rows[i] = (struct pm_row){.token = check_random(),
                                  .seq = i % 2,
                                  .pos = i % 2 ? POSITIONS - 1 - i / 2 : PM_PAGE - 1 + i / 2,
                                  .rope = i % N_TABLES};
    return rows;
}

// ---- one case ---------------------------------------------------------------------------------------------------------

typedef struct checking {
    const rope_case *c;
    const struct pm_row *rows;
    const uint32_t *pages;
    pm_kv kv;
    const double *want, *size; // (n, heads, head_dim)
} checking;

static uint32_t page_of(const checking *k, const struct pm_row *row) {
    return k->pages[row->seq * MAX_PAGES + row->pos / PM_PAGE];
}

static void allow_q8_0(const checking *k, bool is_k, uint32_t page, uint32_t pos, uint32_t head) {
    pm_slice slice = is_k ? k->kv.k : k->kv.v;
    for (uint32_t i = 0; i < k->c->head_dim; i += 4)
        check_allow(slice, check_q8_0_at(&k->kv, is_k, page, pos, head, i) / 4, 1);
    for (uint32_t i = 0; i < k->c->head_dim; i += 32)
        check_allow(slice, check_q8_0_scale_at(&k->kv, is_k, page, pos, head, i) / 2, 1);
}

static void allow_q8_0_cache(const checking *k) {
    for (uint32_t r = 0; r < k->c->n; r++)
        for (uint32_t head = 0; head < k->c->n_kv_heads; head++)
            for (int is_k = 0; is_k < 2; is_k++)
                allow_q8_0(k, is_k, page_of(k, &k->rows[r]), k->rows[r].pos, head);
}

static void allow_cache(const checking *k) {
    uint32_t elements_a_word = k->c->dtype == PM_F16 ? 2 : 1;
    if (k->c->dtype == PM_Q8_0) {
        allow_q8_0_cache(k);
        return;
    }
    for (uint32_t r = 0; r < k->c->n; r++)
        for (uint32_t head = 0; head < k->c->n_kv_heads; head++)
            for (uint32_t i = 0; i < k->c->head_dim; i += elements_a_word) {
                uint32_t page = page_of(k, &k->rows[r]), pos = k->rows[r].pos;
                check_allow(k->kv.k, check_k_at(&k->kv, page, pos, head, i) / elements_a_word, 1);
                check_allow(k->kv.v, check_v_at(&k->kv, page, pos, head, i) / elements_a_word, 1);
            }
}

// Half a step of the block of 32 that the value at `from` is in: what rounding to the nearest multiple of the scale may do. The
// scale is that of the reference, or a unit of a half from it where the greatest value of the block is at an edge.
static double q8_0_tolerance(const checking *k, size_t from) {
    double held[32], scale = pm_ref_kv_q8_0(k->want + from / 32 * 32, held);
    return scale > 0 ? scale * (0.5 + 0x1p-10) : 0x1p-15; // none: all below 127 / 256 of the least half
}

// A half may be rounded either way: Vulkan does not say how packHalf2x16 does.
static double cache_tolerance(const checking *k, size_t from, double size) {
    double exact = check_tolerance(k->c->head_dim, size);
    if (k->c->dtype == PM_Q8_0)
        return exact + q8_0_tolerance(k, from);
    return exact + (k->c->dtype == PM_F16 ? fabs(k->want[from]) * 0x1p-10 + 0x1p-24 : 0);
}

// The stored scale of a block is the reference's but for a unit of a half, and so no quant has lost its sign or its place.
static void check_scale(const checking *k, check_compare *c, bool is_k, uint32_t page, uint32_t pos, uint32_t head, uint32_t i,
                        size_t from) {
    double held[32], scale = pm_ref_kv_q8_0(k->want + from, held);
    check_one(c, i, check_q8_0_scale(&k->kv, check_got(is_k ? k->kv.k : k->kv.v), is_k, page, pos, head, i), scale,
              scale * 0x1p-10 + check_tolerance(k->c->head_dim, k->size[from] / 127));
}

static void check_cached(const checking *k) {
    const rope_case *c = k->c;
    uint32_t heads = c->n_heads + 2 * c->n_kv_heads;
    check_compare keys = {.name = "k"}, values = {.name = "v"};
    check_compare key_scales = {.name = "scale of k"}, value_scales = {.name = "scale of v"};
    for (uint64_t at = 0; at < (uint64_t)c->n * c->n_kv_heads * c->head_dim; at++) {
        uint32_t i = (uint32_t)(at % c->head_dim), head = (uint32_t)(at / c->head_dim % c->n_kv_heads);
        uint32_t r = (uint32_t)(at / c->head_dim / c->n_kv_heads), page = page_of(k, &k->rows[r]), pos = k->rows[r].pos;
        size_t from = ((size_t)r * heads + c->n_heads + head) * c->head_dim + i,
               v_from = from + (size_t)c->n_kv_heads * c->head_dim;
        check_one(&keys, at, check_get_cached(&k->kv, check_got(k->kv.k), true, page, pos, head, i), k->want[from],
                  cache_tolerance(k, from, k->size[from]));
        check_one(&values, at, check_get_cached(&k->kv, check_got(k->kv.v), false, page, pos, head, i), k->want[v_from],
                  cache_tolerance(k, v_from, 0));
        if (c->dtype == PM_Q8_0 && i % 32 == 0) {
            check_scale(k, &key_scales, true, page, pos, head, i, from);
            check_scale(k, &value_scales, false, page, pos, head, i, v_from);
        }
    }
    check_verdict(&keys, c->n_kv_heads * c->head_dim);
    check_verdict(&values, c->n_kv_heads * c->head_dim);
    check_verdict(&key_scales, c->head_dim);
    check_verdict(&value_scales, c->head_dim);
}

static void check_q(const checking *k, pm_tensor q) {
    uint32_t heads = k->c->n_heads + 2 * k->c->n_kv_heads, q_dim = k->c->n_heads * k->c->head_dim;
    double *want = check_doubles((size_t)k->c->n * q_dim), *size = check_doubles((size_t)k->c->n * q_dim);
    for (uint32_t r = 0; r < k->c->n; r++) {
        memcpy(want + (size_t)r * q_dim, k->want + (size_t)r * heads * k->c->head_dim, q_dim * sizeof(double));
        memcpy(size + (size_t)r * q_dim, k->size + (size_t)r * heads * k->c->head_dim, q_dim * sizeof(double));
    }
    check_near("q", q, want, size, k->c->head_dim);
}

static void run_values(const rope_case *c, const float *qkv_values) {
    uint32_t heads = c->n_heads + 2 * c->n_kv_heads, dim = c->head_dim;
    checking k = {.c = c, .rows = rows_of(c->n), .pages = check_page_table(N_SEQS, MAX_PAGES)};
    float *q_gain_values = check_normals(dim, 1), *k_gain_values = check_normals(dim, 1);
    pm_tensor q_gain = check_pack_vector(q_gain_values, dim), k_gain = check_pack_vector(k_gain_values, dim);
    pm_tensor qkv = check_in_tensor(c->n, heads * dim, qkv_values),
              q = check_out_tensor(c->n, c->n_heads * dim, c->n_heads * dim, NULL);
    k.kv = check_cache(c->dtype, c->n_kv_heads, dim, N_SEQS, MAX_PAGES, k.pages);
    allow_cache(&k);
    pm_rope_store op = {.q = q,
                        .qkv = qkv,
                        .q_gain = c->norm ? &q_gain : NULL,
                        .k_gain = c->norm ? &k_gain : NULL,
                        .eps = 1e-6f,
                        .interleaved = c->interleaved,
                        .angles = check_in(angle_tables(dim), (size_t)N_TABLES * ANGLE_ROWS * dim),
                        .angle_rows = ANGLE_ROWS,
                        .rows = check_in(k.rows, (size_t)c->n * 4),
                        .kv = &k.kv};
    pm_kernel_use use = plain_use(c);
    check_dev->forced_use = plain ? &use : NULL;
    check_record();
    pm_op_rope_store(check_cmd, &op);
    check_run();
    check_dev->forced_use = NULL;

    double *want = check_doubles((size_t)c->n * heads * dim), *size = check_doubles((size_t)c->n * heads * dim);
    pm_ref_rope_store(&(pm_ref_rope_store_args){.n = c->n,
                                                .n_heads = c->n_heads,
                                                .n_kv_heads = c->n_kv_heads,
                                                .head_dim = dim,
                                                .qkv = qkv_values,
                                                .q_gain = c->norm ? q_gain_values : NULL,
                                                .k_gain = c->norm ? k_gain_values : NULL,
                                                .eps = op.eps,
                                                .interleaved = c->interleaved,
                                                .angles = angles(dim),
                                                .n_positions = POSITIONS,
                                                .rows = k.rows},
                      want, size);
    k.want = want;
    k.size = size;
    check_q(&k, q);
    check_cached(&k);
}

static void begin_case(const rope_case *c) {
    check_begin();
    check_case("rope_store, %s, %u / %u heads of %u, n %u%s%s", pm_dtype_get(c->dtype)->name, c->n_heads, c->n_kv_heads,
               c->head_dim, c->n, c->norm ? ", normed" : "", c->interleaved ? ", interleaved" : "");
}

// ---- cases ------------------------------------------------------------------------------------------------------------

static void every_kind(void **state) {
    static const rope_case cases[] = {
        {.n_heads = 1, .n_kv_heads = 1, .head_dim = 64, .n = 1},   {.n_heads = 5, .n_kv_heads = 1, .head_dim = 64, .n = 7},
        {.n_heads = 4, .n_kv_heads = 2, .head_dim = 128, .n = 2},  {.n_heads = 8, .n_kv_heads = 8, .head_dim = 128, .n = 33},
        {.n_heads = 32, .n_kv_heads = 8, .head_dim = 128, .n = 3}, {.n_heads = 2, .n_kv_heads = 1, .head_dim = 32, .n = 5},
        {.n_heads = 2, .n_kv_heads = 2, .head_dim = 96, .n = 3},
    };
    static const pm_dtype types[] = {PM_F32, PM_F16, PM_Q8_0};
    (void)state;
    for (size_t i = 0; i < 12 * CHECK_COUNT(cases); i++) {
        rope_case c = cases[i / 12];
        c.dtype = types[i % 3];
        c.norm = i / 3 % 2;
        c.interleaved = i / 6 % 2;
        begin_case(&c);
        run_values(&c, check_normals((size_t)c.n * (c.n_heads + 2 * c.n_kv_heads) * c.head_dim, 4));
    }
}

// Blocks of a Q8_0 cache that are all zero, too small for a scale, just large enough, and too large for a half.
static void extremes_of_q8_0(void **state) {
    static const rope_case c = {.dtype = PM_Q8_0, .n_heads = 1, .n_kv_heads = 1, .head_dim = 128, .n = 2};
    static const float sizes[] = {0, 1e-6f, 1e-4f, 1e4f};
    (void)state;
    begin_case(&c);
    float *qkv = check_normals(c.n * 3 * c.head_dim, 1);
    for (uint32_t i = 0; i < c.n * 3 * c.head_dim; i++)
        qkv[i] *= sizes[i / 32 % 4];
    run_values(&c, qkv);
}

// A head of zeros stays one under the norm; large values and small ones keep their shape.
static void extremes(void **state) {
    static const rope_case c = {.dtype = PM_F32, .n_heads = 2, .n_kv_heads = 1, .head_dim = 64, .n = 2, .norm = true};
    (void)state;
    begin_case(&c);
    float *qkv = check_normals(c.n * 4 * c.head_dim, 1);
    for (uint32_t i = 0; i < c.head_dim; i++) {
        qkv[i] = 0;
        qkv[c.head_dim + i] *= 1e12f;
        qkv[2 * c.head_dim + i] *= 1e-12f;
    }
    run_values(&c, qkv);
}

static int open_device(void **state) {
    (void)state;
    check_open(8);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_kind), cmocka_unit_test(extremes),
                                       cmocka_unit_test(extremes_of_q8_0)};
    int failed = cmocka_run_group_tests_name("rope_store", tests, open_device, check_close);
    plain = true;
    return failed + cmocka_run_group_tests_name("rope_store_plain", tests, open_device, check_close) != 0;
}
