// pm_op_attend against reference.c: grouped queries, lengths around pages and splits, rows at different positions of two
// sequences. What no row may look at (later positions, other pages) holds no numbers, so that looking shows.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "check.h"
#include "host/vk.h"

enum { N_SEQS = 2 };

typedef struct attend_case {
    pm_dtype dtype;
    uint32_t n_heads, n_kv_heads, head_dim;
    uint32_t n;
    uint32_t len;      // of the longer sequence
    uint32_t kv_bound; // 0: len
    float spread;      // of the scores; 0: about 2
    bool consecutive;  // the rows are the end of the second sequence
} attend_case;

// How all cases are run: by attend_plain, in a way that a plan may ask for, with less scratch memory than that wants.
static bool plain;
static const pm_attend_way *forced_way;
static uint64_t scratch_part = 1;

static pm_kernel_use plain_use(const attend_case *c) {
    static const pm_kernel_id kernels[PM_DTYPE_COUNT] = {
        [PM_F16] = PM_K_attend_plain_f16, [PM_F32] = PM_K_attend_plain_f32, [PM_Q8_0] = PM_K_attend_plain_q8_0};
    return (pm_kernel_use){.id = kernels[c->dtype], .spec = {32, c->head_dim, c->n_heads / c->n_kv_heads}, .n_spec = 3};
}

// ---- data -------------------------------------------------------------------------------------------------------------

// The last row looks at all of the longer sequence, the others at less of either: one position, a page, one more, or any number.
static struct pm_row *rows_of(const attend_case *c) {
    struct pm_row *rows = check_alloc(c->n, sizeof(*rows));
    for (uint32_t i = 0; i < c->n; i++) {
        uint32_t pick[] = {0, PM_PAGE - 1, PM_PAGE, check_below(c->len)};
        rows[i] = (struct pm_row){.token = check_random(), .seq = i % N_SEQS, .pos = pick[i % 4] % c->len};
    }
    for (uint32_t i = 0; c->consecutive && i < c->n; i++)
        rows[i] = (struct pm_row){.seq = N_SEQS - 1, .pos = c->len - c->n + i};
    rows[c->n - 1] = (struct pm_row){.seq = N_SEQS - 1, .pos = c->len - 1};
    return rows;
}

// Positions of a sequence that some row looks at.
static uint32_t used_len(const struct pm_row *rows, uint32_t n, uint32_t seq) {
    uint32_t len = 0;
    for (uint32_t i = 0; i < n; i++)
        if (rows[i].seq == seq && rows[i].pos >= len)
            len = rows[i].pos + 1;
    return len;
}

// Random keys (or values) as the cache holds them, (N_SEQS, len, n_kv_heads, head_dim), rounded to its type.
// None becomes 0: where the likeliest position had it, only terms too small for a float would be left.
static void round_to_q8_0(float *block) {
    double values[32], held[32];
    for (int i = 0; i < 32; i++)
        values[i] = block[i];
    double scale = pm_ref_kv_q8_0(values, held);
    for (int i = 0; i < 32; i++)
        block[i] = (float)(held[i] != 0 ? held[i] : scale);
}

static float *cached_values(const attend_case *c) {
    size_t count = (size_t)N_SEQS * c->len * c->n_kv_heads * c->head_dim;
    float *values = check_normals(count, 1);
    for (size_t i = 0; i < count && c->dtype == PM_F16; i++)
        values[i] = pm_f16_to_f32(pm_f32_to_f16(values[i]));
    for (size_t i = 0; i < count && c->dtype == PM_Q8_0; i += 32)
        round_to_q8_0(values + i);
    return values;
}

static void fill_cache(const attend_case *c, const pm_kv *kv, const uint32_t *pages, const struct pm_row *rows, const float *k,
                       const float *v) {
    uint32_t *k_words = check_words_at(kv->k), *v_words = check_words_at(kv->v);
    for (uint32_t seq = 0; seq < N_SEQS; seq++)
        for (uint32_t pos = 0, len = used_len(rows, c->n, seq); pos < len; pos++) {
            uint32_t page = pages[seq * kv->max_pages + pos / PM_PAGE];
            size_t from = ((size_t)seq * c->len + pos) * c->n_kv_heads * c->head_dim;
            for (uint32_t head = 0; head < c->n_kv_heads; head++, from += c->head_dim) {
                check_set_cached(kv, k_words, true, page, pos, head, k + from);
                check_set_cached(kv, v_words, false, page, pos, head, v + from);
            }
        }
}

// ---- one case ---------------------------------------------------------------------------------------------------------

static void run_case(const attend_case *c) {
    check_begin();
    check_case("attend, %s, %u / %u heads of %u, n %u, length %u", pm_dtype_get(c->dtype)->name, c->n_heads, c->n_kv_heads,
               c->head_dim, c->n, c->len);
    uint32_t q_dim = c->n_heads * c->head_dim, bound = c->kv_bound ? c->kv_bound : c->len;
    uint32_t max_pages = (bound + PM_PAGE - 1) / PM_PAGE;
    struct pm_row *rows = rows_of(c);
    float *q_values = check_normals((size_t)c->n * q_dim, c->spread > 0 ? c->spread : 2), *k = cached_values(c),
          *v = cached_values(c);
    uint32_t *pages = check_page_table(N_SEQS, max_pages);
    pm_kv kv = check_cache(c->dtype, c->n_kv_heads, c->head_dim, N_SEQS, max_pages, pages);
    fill_cache(c, &kv, pages, rows, k, v);
    pm_attend op = {.out = check_out_tensor(c->n, q_dim, q_dim, NULL),
                    .q = check_in_tensor(c->n, q_dim, q_values),
                    .rows = check_in(rows, (size_t)c->n * 4),
                    .kv = &kv,
                    .scratch =
                        check_out(pm_attend_scratch_bytes(check_dev, c->n, c->n_heads, c->head_dim, bound) / 4 / scratch_part),
                    .kv_bound = bound,
                    .consecutive = c->consecutive,
                    .scale = 1 / sqrtf((float)c->head_dim)};
    pm_kernel_use use = plain_use(c);
    check_dev->forced_use = plain ? &use : NULL;
    check_dev->forced_way = c->n <= 8 ? forced_way : NULL;
    check_record();
    pm_op_attend(check_cmd, &op);
    check_run();
    check_dev->forced_use = NULL;
    check_dev->forced_way = NULL;

    double *want = check_doubles((size_t)c->n * q_dim), *size = check_doubles((size_t)c->n * q_dim);
    pm_ref_attend(&(pm_ref_attend_args){.n = c->n,
                                        .n_heads = c->n_heads,
                                        .n_kv_heads = c->n_kv_heads,
                                        .head_dim = c->head_dim,
                                        .q = q_values,
                                        .k = k,
                                        .v = v,
                                        .max_len = c->len,
                                        .rows = rows,
                                        .scale = op.scale},
                  want, size);
    check_near("out", op.out, want, size, c->head_dim + c->len);
}

// Every type of cache.
static void run_types(attend_case c) {
    static const pm_dtype types[] = {PM_F32, PM_F16, PM_Q8_0};
    for (size_t i = 0; i < CHECK_COUNT(types); i++) {
        c.dtype = types[i];
        run_case(&c);
    }
}

// ---- cases ------------------------------------------------------------------------------------------------------------

static void every_length(void **state) {
    static const uint32_t lengths[] = {1, 2, 31, 32, 33, 63, 64, 65, 100, 1000};
    (void)state;
    for (size_t i = 0; i < CHECK_COUNT(lengths); i++)
        run_types((attend_case){.n_heads = 4, .n_kv_heads = 2, .head_dim = 64, .n = 1, .len = lengths[i]});
}

static void every_grouping(void **state) {
    static const uint32_t heads[][2] = {{1, 1}, {3, 3}, {4, 2}, {8, 2}, {5, 1}, {10, 2}, {32, 8}};
    (void)state;
    for (size_t i = 0; i < CHECK_COUNT(heads); i++)
        run_types(
            (attend_case){.n_heads = heads[i][0], .n_kv_heads = heads[i][1], .head_dim = i % 2 ? 64 : 128, .n = 3, .len = 70});
}

// Heads with an odd number of blocks have half a word of scales to spare.
static void every_head_size(void **state) {
    static const uint32_t dims[] = {32, 64, 96, 128, 256};
    (void)state;
    for (size_t i = 0; i < CHECK_COUNT(dims); i++)
        run_types((attend_case){.n_heads = 4, .n_kv_heads = 2, .head_dim = dims[i], .n = 3, .len = 70});
}

// Few rows, whose long sequences are split, and so many that they are not.
static void every_batch(void **state) {
    static const uint32_t counts[] = {1, 2, 7, 8, 9, 33};
    (void)state;
    for (size_t i = 0; i < CHECK_COUNT(counts); i++)
        run_types((attend_case){.n_heads = 4, .n_kv_heads = 2, .head_dim = 64, .n = counts[i], .len = 300});
}

// Pieces of a prompt, whose rows share what they read: their end within a group of rows, their beginning anywhere, groups of heads
// that leave room for many rows and for none.
static void every_piece(void **state) {
    static const uint32_t pieces[][2] = {{9, 9}, {16, 33}, {33, 100}, {64, 64}, {63, 200}};
    (void)state;
    for (size_t i = 0; i < CHECK_COUNT(pieces); i++) {
        uint32_t n = pieces[i][0], len = pieces[i][1];
        run_types((attend_case){.n_heads = 4, .n_kv_heads = 2, .head_dim = 64, .n = n, .len = len, .consecutive = true});
        run_case(&(attend_case){
            .dtype = PM_F16, .n_heads = 8, .n_kv_heads = 2, .head_dim = 128, .n = n, .len = len, .consecutive = true});
    }
    run_types((attend_case){.n_heads = 5, .n_kv_heads = 1, .head_dim = 96, .n = 10, .len = 70, .consecutive = true});
    run_types((attend_case){.n_heads = 10, .n_kv_heads = 1, .head_dim = 256, .n = 10, .len = 40, .consecutive = true});
    run_types((attend_case){.n_heads = 4, .n_kv_heads = 2, .head_dim = 64, .n = 3, .len = 300, .consecutive = true});
}

// Splits in which a row has nothing to see, up to a bound far behind the longest row.
static void long_sequences(void **state) {
    (void)state;
    run_types((attend_case){.n_heads = 5, .n_kv_heads = 1, .head_dim = 64, .n = 5, .len = 3000});
    run_types((attend_case){.n_heads = 2, .n_kv_heads = 1, .head_dim = 128, .n = 2, .len = 1025, .kv_bound = 4000});
    run_types((attend_case){.n_heads = 2, .n_kv_heads = 1, .head_dim = 64, .n = 9, .len = 33, .kv_bound = 4000});
}

// Scores so far apart that all but one probability vanish, and all equal.
static void extreme_scores(void **state) {
    (void)state;
    run_types((attend_case){.n_heads = 4, .n_kv_heads = 2, .head_dim = 64, .n = 3, .len = 1100, .spread = 300});
    run_types((attend_case){.n_heads = 4, .n_kv_heads = 2, .head_dim = 64, .n = 3, .len = 1100, .spread = 1e-20f});
}

// Pieces on cooperative matrices: around the rows of a workgroup, from the first position, from the middle of a page, behind a long
// text; heads of each size, a group that leaves queries over and one that fills them.
static void every_piece_on_matrices(void **state) {
    static const uint32_t pieces[][2] = {{9, 9}, {15, 40}, {16, 32}, {17, 300}, {33, 100}, {64, 64}, {63, 1000}};
    static const attend_case kinds[] = {
        {.dtype = PM_F16, .n_heads = 4, .n_kv_heads = 2, .head_dim = 64},
        {.dtype = PM_Q8_0, .n_heads = 4, .n_kv_heads = 2, .head_dim = 64},
        {.dtype = PM_F16, .n_heads = 8, .n_kv_heads = 2, .head_dim = 128},
        {.dtype = PM_Q8_0, .n_heads = 5, .n_kv_heads = 1, .head_dim = 96},
        {.dtype = PM_F16, .n_heads = 2, .n_kv_heads = 2, .head_dim = 32},
        {.dtype = PM_F16, .n_heads = 32, .n_kv_heads = 1, .head_dim = 32},
    };
    (void)state;
    if (!check_halves) {
        print_message("%s has no cooperative matrices of halves\n", check_dev->info.name);
        skip();
    }
    for (size_t k = 0; k < CHECK_COUNT(kinds); k++)
        for (size_t i = 0; i < CHECK_COUNT(pieces); i++) {
            attend_case c = kinds[k];
            c.n = pieces[i][0];
            c.len = pieces[i][1];
            c.consecutive = true;
            run_case(&c);
        }
    check_halves = false; // none of these is for them: rows of several sequences, a cache of floats, a caller who wants no halves
    run_types((attend_case){.n_heads = 4, .n_kv_heads = 2, .head_dim = 64, .n = 33, .len = 300});
    run_case(
        &(attend_case){.dtype = PM_F32, .n_heads = 4, .n_kv_heads = 2, .head_dim = 64, .n = 33, .len = 100, .consecutive = true});
    pm_cmd_exact(check_cmd, true);
    run_types((attend_case){.n_heads = 4, .n_kv_heads = 2, .head_dim = 64, .n = 33, .len = 100, .consecutive = true});
    pm_cmd_exact(check_cmd, false);
}

static int open_default(void **state) {
    (void)state;
    check_open(32);
    return 0;
}

static int open_split(void **state) {
    setenv("PM_ATTEND_SPLIT", "32", 1);
    return open_default(state);
}

static int open_split_64(void **state) {
    setenv("PM_ATTEND_SPLIT", "64", 1);
    return open_default(state);
}

// A few positions may make up all of a row: what rounding to halves does to it need not average out.
static int open_matrices(void **state) {
    (void)state;
    setenv("PM_TILES", "2", 1);
    check_open(32);
    check_halves = check_few_terms = check_dev->caps.use_coopmat;
    return 0;
}

static int close_matrices(void **state) {
    check_halves = check_few_terms = false;
    unsetenv("PM_TILES");
    return check_close(state);
}

static int close_split(void **state) {
    unsetenv("PM_ATTEND_SPLIT");
    return check_close(state);
}

int main(void) {
    const struct CMUnitTest all[] = {
        cmocka_unit_test(every_length),   cmocka_unit_test(every_grouping), cmocka_unit_test(every_head_size),
        cmocka_unit_test(every_batch),    cmocka_unit_test(every_piece),    cmocka_unit_test(long_sequences),
        cmocka_unit_test(extreme_scores),
    };
    const struct CMUnitTest split[] = {cmocka_unit_test(every_length), cmocka_unit_test(every_batch),
                                       cmocka_unit_test(long_sequences), cmocka_unit_test(extreme_scores)};
    const struct CMUnitTest matrices[] = {cmocka_unit_test(every_piece_on_matrices)};
    int failed = cmocka_run_group_tests_name("attend", all, open_default, check_close);
    failed += cmocka_run_group_tests_name("attend, matrices", matrices, open_matrices, close_matrices);
    failed += cmocka_run_group_tests_name("attend in splits of 32", split, open_split, close_split);
    failed += cmocka_run_group_tests_name("attend in splits of 64", split, open_split_64, close_split);
    forced_way = &(pm_attend_way){.split = 3 * PM_PAGE, .rows = 1};
    failed += cmocka_run_group_tests_name("attend in splits of 96, with room for those of 32", split, open_split, close_split);
    forced_way = &(pm_attend_way){.split = PM_PAGE, .rows = 1};
    scratch_part = 3;
    failed += cmocka_run_group_tests_name("attend in splits of 32 with little room", split, open_split, close_split);
    forced_way = NULL;
    scratch_part = 1;
    plain = true;
    failed += cmocka_run_group_tests_name("attend_plain", all, open_default, check_close);
    failed += cmocka_run_group_tests_name("attend_plain in splits of 64", split, open_split_64, close_split);
    return failed != 0;
}
