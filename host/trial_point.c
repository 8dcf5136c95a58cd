// Trials of what touches each element once: embed, gather.
#include "host/lab.h"

#include <string.h>

void pm_try_embed(pm_lab *lab, const pm_kernel_use *use, const char *type) {
    enum { VOCAB = 7, N = 4 };
    static const struct pm_row rows[N] = {{.token = 6}, {.token = 0}, {.token = 3}, {.token = 6}};
    pm_dtype dtype;
    if (!pm_lab_read_dtype(type, &dtype))
        return;
    uint32_t element = pm_dtype_get(dtype)->block_elements, dim = (use->spec[0] + 3) * PM_BLOCK;
    dim = element > 1 ? (uint32_t)pm_round_up(dim, element) : dim - 3;
    pm_lab_matrix table = pm_lab_weights(lab, dtype, VOCAB, dim);
    float *gain = pm_lab_floats(lab, dim, -0.5f, 1.5f);
    pm_tensor packed_gain = pm_lab_vector(lab, gain, dim);
    pm_hidden h = pm_lab_hidden(lab, N, dim, NULL);
    pm_slice row_words = pm_lab_put(lab, rows, sizeof(rows) / 4);
    if (!pm_lab_ok(lab))
        return;
    pm_lab_begin(lab);
    pm_op_embed(lab->cmd, &h, table.packed, packed_gain, row_words);
    double *x = pm_lab_doubles(lab, (size_t)N * dim), *normed = pm_lab_doubles(lab, (size_t)N * dim), squares[N];
    double *size = pm_lab_doubles(lab, (size_t)N * dim);
    if (!pm_lab_run(lab))
        return;
    pm_ref_embed(table.values, gain, rows, N, dim, x, normed, squares);
    for (size_t i = 0; i < (size_t)N * dim; i++)
        size[i] = 4; // of what scale and minimum make before they are taken from one another
    pm_lab_compare_tensor(lab, h.x, x, size, 1);
    pm_lab_compare_tensor(lab, h.normed, normed, size, 1);
    for (uint32_t r = 0; r < N; r++)
        pm_lab_compare(lab, pm_lab_float(pm_lab_result(lab, h.squares.data), (uint64_t)r * h.squares.stride), squares[r],
                       pm_lab_tolerance(dim, 4 * squares[r]));
}

void pm_try_gather(pm_lab *lab, const pm_kernel_use *use, const char *type) {
    enum { N = 5, M = 3, PARTS = 37 };
    static const uint32_t index[M] = {4, 0, 4};
    (void)type;
    uint32_t dim = 2 * use->spec[0] + PARTS;
    float *normed = pm_lab_floats(lab, (size_t)N * dim, -1, 1), *parts = pm_lab_floats(lab, (size_t)N * dim, 0, 1);
    pm_hidden src = {
        .normed = pm_lab_activation(lab, N, dim, normed), .squares = pm_lab_activation(lab, N, dim, parts), .n_parts = PARTS};
    pm_hidden dst = {.normed = pm_lab_activation(lab, M, dim, NULL), .squares = pm_lab_activation(lab, M, dim, NULL)};
    pm_slice index_words = pm_lab_put(lab, index, M);
    if (!pm_lab_ok(lab))
        return;
    pm_lab_begin(lab);
    pm_op_gather(lab->cmd, &dst, &src, index_words);
    if (!pm_lab_run(lab))
        return;
    for (uint32_t m = 0; m < M; m++) {
        const uint32_t *got = pm_lab_result(lab, dst.normed.data) + (size_t)m * dst.normed.stride;
        pm_lab_compare_exactly(lab, !memcmp(got, normed + (size_t)index[m] * dim, (size_t)dim * 4));
        got = pm_lab_result(lab, dst.squares.data) + (size_t)m * dst.squares.stride;
        pm_lab_compare_exactly(lab, !memcmp(got, parts + (size_t)index[m] * dim, PARTS * 4));
    }
}
