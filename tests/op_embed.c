// pm_op_embed against reference.c: every type of table, tokens that repeat and stand at its ends, tables in several parts.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "check.h"

typedef struct embed_case {
    pm_dtype dtype;
    uint32_t vocab, dim, n;
    float scale; // of the values; 0: 1. Those of 0.01 have scales that no normal half holds, as in files
} embed_case;

// Token ids of the first and the last row and of every 256th, where parts begin; then the first again, then any.
static struct pm_row *tokens(uint32_t n, uint32_t vocab) {
    struct pm_row *rows = check_alloc(n, sizeof(*rows));
    for (uint32_t i = 0; i < n; i++) {
        uint32_t pick[] = {vocab - 1, 0, i / 4 * 256, i / 4 * 256 + 255};
        rows[i] = (struct pm_row){i < 20 ? pick[i % 4] % vocab : check_below(vocab), check_random(), check_random(), 0};
    }
    if (n > 1)
        rows[n / 2] = rows[0];
    return rows;
}

static void embed(const check_matrix *m, const struct pm_row *rows, uint32_t n) {
    uint32_t dim = m->cols;
    float *gain_values = check_normals(dim, 1);
    pm_tensor table = check_pack_one(m), gain = check_pack_vector(gain_values, dim);
    pm_slice rows_slice = check_in(rows, n * 4);
    pm_hidden h = {.x = check_out_tensor(n, dim, dim, NULL),
                   .normed = check_out_tensor(n, dim, dim, NULL),
                   .squares = check_out_tensor(n, dim, 1, NULL)};

    check_record();
    pm_op_embed(check_cmd, &h, table, gain, rows_slice);
    check_run();

    size_t count = (size_t)n * dim;
    double *x = check_doubles(count), *normed = check_doubles(count), *squares = check_doubles(n);
    pm_ref_embed(m->values, gain_values, rows, n, dim, x, normed, squares);
    assert_int_equal(h.n_parts, 1);
    check_same("x", h.x, x);
    check_near("normed", h.normed, normed, NULL, 1);
    h.squares.cols = 1;
    check_near("squares", h.squares, squares, NULL, dim);
}

static void run_case(const embed_case *c) {
    check_begin();
    check_case("embed, %s (%u, %u), n %u", pm_dtype_get(c->dtype)->name, c->vocab, c->dim, c->n);
    check_matrix m = check_weights(c->dtype, c->vocab, c->dim, c->scale > 0 ? c->scale : 1);
    embed(&m, tokens(c->n, c->vocab), c->n);
}

static void every_type(void **state) {
    static const embed_case cases[] = {
        {.vocab = 1, .dim = 32, .n = 1},
        {.vocab = 331, .dim = 96, .n = 1},
        {.vocab = 331, .dim = 100, .n = 33},
        {.vocab = 1280, .dim = 288, .n = 9},
        {.vocab = 1280, .dim = 1024, .n = 64},
        {.vocab = 40, .dim = 2560, .n = 2},
        {.vocab = 40, .dim = 256, .n = 40, .scale = 0.01f},
    };
    (void)state;
    for (size_t d = 0; d < check_n_dtypes; d++)
        for (size_t i = 0; i < CHECK_COUNT(cases); i++) {
            embed_case c = cases[i];
            c.dtype = check_dtypes[d];
            c.dim = check_cols(c.dtype, c.dim);
            run_case(&c);
        }
}

// What ggml decodes its own blocks to (data/quants.bin: for each type but F32, in the order of PM_DTYPES, its blocks, then the
// floats), as a table of four rows: on the device, and in the reference that all other tests hold the kernels against.
static void as_ggml_decodes(void **state) {
    enum { ROWS = 4, DIM = 256, N = ROWS * DIM };
    (void)state;
    char *data;
    size_t size, at = 0;
    check_must(pm_file_read(PM_TEST_DATA "/quants.bin", 1 << 20, &data, &size));
    for (int d = PM_F16; d < PM_DTYPE_COUNT; d++) {
        check_begin();
        check_case("ggml's %s", pm_dtype_get((pm_dtype)d)->name);
        check_matrix m = {(pm_dtype)d, ROWS, DIM, (uint8_t *)data + at, check_alloc(N, sizeof(float))};
        size_t packed = check_matrix_bytes(m.dtype, N);
        assert_true(at + packed + N * sizeof(float) <= size);
        memcpy(m.values, data + at + packed, N * sizeof(float));
        at += packed + N * sizeof(float);
        float decoded[N];
        pm_ref_decode(m.dtype, m.blocks, N, decoded);
        assert_memory_equal(decoded, m.values, sizeof(decoded));
        if (check_wants(m.dtype))
            embed(&m, (struct pm_row[ROWS]){{.token = 0}, {.token = 3}, {.token = 2}, {.token = 1}}, ROWS);
    }
    assert_true(at < size); // what follows no kernel reads
    pm_free(data);
}

enum { BINDING = 128 << 10 }; // bytes bound at once, of the group below

static void in_parts(void **state) {
    (void)state;
    for (size_t d = 0; d < check_n_dtypes; d++) {
        pm_dtype dtype = check_dtypes[d];
        uint32_t dim = check_cols(dtype, dtype == PM_F32 ? 64 : dtype < PM_Q8_0 ? 100 : dtype == PM_Q8_0 ? 160 : 288);
        run_case(&(embed_case){.dtype = dtype, .vocab = 1803, .dim = dim, .n = 40});
        assert_in_range(pm_cmd_n_dispatches(check_cmd), 2, 8);
    }
}

static void rows_too_long(void **state) {
    (void)state;
    check_begin();
    check_case("rows too long");
    check_matrix m = check_weights(PM_F32, 512, 1024, 1);
    struct pm_row row = {0};
    pm_hidden h = {.x = check_out_tensor(1, 1024, 1024, NULL),
                   .normed = check_out_tensor(1, 1024, 1024, NULL),
                   .squares = check_out_tensor(1, 1024, 1, NULL)};
    pm_tensor gain = check_pack_vector(check_normals(1024, 1), 1024);
    check_record();
    pm_op_embed(check_cmd, &h, check_pack_one(&m), gain, check_in(&row, 4));
    assert_int_equal(pm_cmd_end(check_cmd), PM_ERR_UNSUPPORTED);
}

static int open_default(void **state) {
    (void)state;
    check_open(4);
    return 0;
}

static int open_parts(void **state) {
    char text[16];
    snprintf(text, sizeof(text), "%d", BINDING);
    setenv("PM_MAX_BINDING_BYTES", text, 1);
    return open_default(state);
}

static int close_parts(void **state) {
    unsetenv("PM_MAX_BINDING_BYTES");
    return check_close(state);
}

int main(void) {
    const struct CMUnitTest whole[] = {cmocka_unit_test(as_ggml_decodes), cmocka_unit_test(every_type)};
    const struct CMUnitTest parts[] = {cmocka_unit_test(in_parts), cmocka_unit_test(rows_too_long)};
    int failed = cmocka_run_group_tests_name("embed", whole, open_default, check_close);
    failed += cmocka_run_group_tests_name("embed in parts", parts, open_parts, close_parts);
    return failed != 0;
}
