// pm_op_embed against reference.c: every type of table, tokens that repeat and stand at its ends, tables in several parts.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "check.h"

static const pm_dtype dtypes[] = {PM_F32, PM_F16, PM_BF16, PM_Q8_0, PM_Q4_0};

typedef struct embed_case {
    pm_dtype dtype;
    uint32_t vocab, dim, n;
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

static void run_case(const embed_case *c) {
    check_begin();
    check_case("embed, %s (%u, %u), n %u", pm_dtype_get(c->dtype)->name, c->vocab, c->dim, c->n);
    check_matrix m = check_weights(c->dtype, c->vocab, c->dim, 1);
    float *gain_values = check_normals(c->dim, 1);
    pm_tensor table = check_pack_one(&m), gain = check_pack_vector(gain_values, c->dim);
    struct pm_row *rows = tokens(c->n, c->vocab);
    pm_slice rows_slice = check_in(rows, c->n * 4);
    pm_hidden h = {.x = check_out_tensor(c->n, c->dim, c->dim, NULL),
                   .normed = check_out_tensor(c->n, c->dim, c->dim, NULL),
                   .squares = check_out_tensor(c->n, c->dim, 1, NULL)};

    check_record();
    pm_op_embed(check_cmd, &h, table, gain, rows_slice);
    check_run();

    size_t count = (size_t)c->n * c->dim;
    double *x = check_doubles(count), *normed = check_doubles(count), *squares = check_doubles(c->n);
    pm_ref_embed(m.values, gain_values, rows, c->n, c->dim, x, normed, squares);
    assert_int_equal(h.n_parts, 1);
    check_same("x", h.x, x);
    check_near("normed", h.normed, normed, NULL, 1);
    h.squares.cols = 1;
    check_near("squares", h.squares, squares, NULL, c->dim);
}

static void every_type(void **state) {
    static const embed_case cases[] = {
        {.vocab = 1, .dim = 32, .n = 1},     {.vocab = 331, .dim = 96, .n = 1},     {.vocab = 331, .dim = 100, .n = 33},
        {.vocab = 1280, .dim = 288, .n = 9}, {.vocab = 1280, .dim = 1024, .n = 64}, {.vocab = 40, .dim = 2560, .n = 2},
    };
    (void)state;
    for (size_t d = 0; d < CHECK_COUNT(dtypes); d++)
        for (size_t i = 0; i < CHECK_COUNT(cases); i++) {
            embed_case c = cases[i];
            c.dtype = dtypes[d];
            if (c.dim % pm_dtype_get(c.dtype)->block_elements == 0)
                run_case(&c);
        }
}

enum { BINDING = 128 << 10 }; // bytes bound at once, of the group below

static void in_parts(void **state) {
    static const uint32_t dims[PM_DTYPE_COUNT] = {[PM_F32] = 64, [PM_F16] = 100, [PM_BF16] = 96, [PM_Q8_0] = 160, [PM_Q4_0] = 288};
    (void)state;
    for (size_t d = 0; d < CHECK_COUNT(dtypes); d++) {
        run_case(&(embed_case){dtypes[d], 1803, dims[dtypes[d]], 40});
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
    const struct CMUnitTest whole[] = {cmocka_unit_test(every_type)};
    const struct CMUnitTest parts[] = {cmocka_unit_test(in_parts), cmocka_unit_test(rows_too_long)};
    int failed = cmocka_run_group_tests_name("embed", whole, open_default, check_close);
    failed += cmocka_run_group_tests_name("embed in parts", parts, open_parts, close_parts);
    return failed != 0;
}
