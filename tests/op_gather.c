// pm_op_gather: the rows that were asked for, in that order, with their partial sums, and no bit changed.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "check.h"

static void run_case(uint32_t n, uint32_t dim, uint32_t n_parts, const uint32_t *index, uint32_t m) {
    check_begin();
    check_case("gather, %u of %u rows of %u, %u parts", m, n, dim, n_parts);
    float *normed = check_normals((size_t)n * dim, 1), *squares = check_normals((size_t)n * dim, 1);
    pm_hidden src = {
        .normed = check_in_tensor(n, dim, normed), .squares = check_in_tensor(n, dim, squares), .n_parts = n_parts, .eps = 0.5f};
    pm_hidden dst = {.normed = check_out_tensor(m, dim, dim, NULL), .squares = check_out_tensor(m, dim, n_parts, NULL)};
    pm_slice slice = check_in(index, m);
    check_record();
    pm_op_gather(check_cmd, &dst, &src, slice);
    check_run();

    assert_int_equal(dst.n_parts, n_parts);
    assert_true(dst.eps == src.eps);
    double *want_normed = check_doubles((size_t)m * dim), *want_squares = check_doubles((size_t)m * n_parts);
    for (uint32_t r = 0; r < m; r++) {
        for (uint32_t i = 0; i < dim; i++)
            want_normed[(size_t)r * dim + i] = normed[(size_t)index[r] * dim + i];
        for (uint32_t i = 0; i < n_parts; i++)
            want_squares[(size_t)r * n_parts + i] = squares[(size_t)index[r] * dim + i];
    }
    check_same("normed", dst.normed, want_normed);
    dst.squares.cols = n_parts;
    check_same("squares", dst.squares, want_squares);
}

static void rows_in_any_order(void **state) {
    static const uint32_t last[] = {32}, some[] = {5, 0, 32, 5, 31};
    (void)state;
    run_case(33, 100, 1, last, 1);
    run_case(33, 2560, 20, some, 5);
    run_case(33, 33, 33, some, 5);
    run_case(1, 1, 1, (const uint32_t[]){0}, 1);
}

static int open_device(void **state) {
    (void)state;
    check_open(4);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(rows_in_any_order)};
    return cmocka_run_group_tests_name("gather", tests, open_device, check_close) != 0;
}
