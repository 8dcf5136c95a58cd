// Trials of products with weights: matvec, matmul and matmul_cm of every type.
#include "host/lab.h"

#include <math.h>
#include <string.h>

enum { MAX_ROWS = 1535 }; // of a matrix

typedef struct product {
    pm_dtype dtype;
    uint32_t epilogue, rows, cols, n;
    bool by_dots;
    pm_slice quants; // of x, where it is multiplied by dots
} product;

// Room for x in bytes, where it is to be multiplied so.
static void take_quants(pm_lab *lab, product *p) {
    if (p->by_dots)
        p->quants = pm_lab_take(lab, pm_quants_bytes(p->n, p->cols));
    pm_cmd_fast(lab->cmd, p->quants);
}

// x as it was multiplied; what became of it is the case of another kernel.
static const float *multiplied(pm_lab *lab, const product *p, const float *x) {
    if (!p->by_dots)
        return x;
    float *values = pm_lab_room(lab, (size_t)p->n * p->cols, sizeof(float));
    pm_quants_form form = pm_quants_form_for(p->dtype, p->epilogue);
    pm_ref_dequantize(pm_lab_result(lab, p->quants), p->n, p->cols, form.even_odd, form.wide, values);
    return values;
}

void pm_lab_compare_products(pm_lab *lab, pm_tensor got, const double *want, const double *size, uint32_t length) {
    const uint32_t *words = pm_lab_result(lab, got.data);
    for (size_t at = 0; at < (size_t)got.rows * got.cols; at++)
        pm_lab_compare(lab, pm_lab_float(words, at / got.cols * got.stride + at % got.cols), want[at],
                       pm_lab_product_tolerance(lab, length, size[at]));
}

static void compare_norm(pm_lab *lab, const product *p, pm_tensor y, const pm_ref_linear_args *args) {
    double *want = pm_lab_doubles(lab, (size_t)p->n * p->rows), *size = pm_lab_doubles(lab, (size_t)p->n * p->rows);
    pm_ref_linear(args, want, size);
    pm_lab_compare_products(lab, y, want, size, p->cols);
}

static void try_norm_linear(pm_lab *lab, product *p) {
    enum { N_PARTS = 3 };
    bool glu = (p->epilogue & PM_LINEAR_GLU) != 0, biased = (p->epilogue & PM_LINEAR_BIAS) != 0;
    uint32_t y_cols = glu ? p->rows / 2 : p->rows;
    pm_lab_matrix w = pm_lab_weights(lab, p->dtype, p->rows, p->cols);
    float *x = pm_lab_floats(lab, (size_t)p->n * p->cols, -2, 2), *bias = pm_lab_floats(lab, p->rows, -1, 1);
    float *squares = pm_lab_floats(lab, (size_t)p->n * N_PARTS, 0.1f * (float)p->cols, (float)p->cols * 4);
    pm_hidden h = {.normed = pm_lab_activation(lab, p->n, p->cols, x),
                   .squares = pm_lab_activation(lab, p->n, p->cols, NULL),
                   .n_parts = N_PARTS,
                   .eps = 1e-6f};
    for (uint32_t r = 0; r < p->n; r++)
        memcpy(pm_lab_words(lab, h.squares.data) + (size_t)r * h.squares.stride, squares + (size_t)r * N_PARTS, N_PARTS * 4);
    pm_tensor y = pm_lab_activation(lab, p->n, y_cols, NULL), packed_bias = pm_lab_vector(lab, bias, p->rows);
    take_quants(lab, p);
    if (!pm_lab_ok(lab))
        return;
    pm_lab_begin(lab);
    if (glu)
        pm_op_norm_glu(lab->cmd, y, &h, w.packed);
    else
        pm_op_norm_linear(lab->cmd, y, &h, w.packed, biased ? &packed_bias : NULL);
    if (pm_lab_run(lab))
        compare_norm(lab, p, y,
                     &(pm_ref_linear_args){.n = p->n,
                                           .rows = p->rows,
                                           .cols = p->cols,
                                           .x = multiplied(lab, p, x),
                                           .w = w.values,
                                           .squares = squares,
                                           .n_parts = N_PARTS,
                                           .eps = h.eps,
                                           .bias = biased ? bias : NULL,
                                           .glu = glu});
}

void pm_lab_compare_hidden(pm_lab *lab, const pm_hidden *h, const float *gain, const double *want, const double *size,
                           uint32_t length) {
    const uint32_t *x = pm_lab_result(lab, h->x.data), *normed = pm_lab_result(lab, h->normed.data);
    const uint32_t *squares = pm_lab_result(lab, h->squares.data);
    uint32_t dim = h->x.cols;
    for (uint32_t r = 0; r < h->x.rows; r++) {
        double sum = 0, sum_size = 0, got = 0;
        for (uint32_t i = 0; i < dim; i++) {
            size_t at = (size_t)r * dim + i;
            pm_lab_compare(lab, pm_lab_float(x, (uint64_t)r * h->x.stride + i), want[at],
                           pm_lab_product_tolerance(lab, length, size[at]));
            pm_lab_compare(lab, pm_lab_float(normed, (uint64_t)r * h->normed.stride + i), want[at] * gain[i],
                           pm_lab_product_tolerance(lab, length, size[at] * fabs(gain[i])));
            sum += want[at] * want[at];
            sum_size += want[at] * want[at] + 2 * fabs(want[at]) * size[at];
        }
        for (uint32_t i = 0; i < h->n_parts; i++)
            got += pm_lab_float(squares, (uint64_t)r * h->squares.stride + i);
        pm_lab_compare(lab, got, sum, pm_lab_product_tolerance(lab, length > dim ? length : dim, sum_size));
    }
}

static void try_linear_add(pm_lab *lab, product *p) {
    pm_lab_matrix w = pm_lab_weights(lab, p->dtype, p->rows, p->cols);
    const float *src = pm_lab_floats(lab, (size_t)p->n * p->cols, -2, 2);
    float *x = pm_lab_floats(lab, (size_t)p->n * p->rows, -2, 2);
    float *gain = pm_lab_floats(lab, p->rows, -0.5f, 1.5f);
    pm_tensor packed_gain = pm_lab_vector(lab, gain, p->rows), in = pm_lab_activation(lab, p->n, p->cols, src);
    pm_hidden h = pm_lab_hidden(lab, p->n, p->rows, x);
    take_quants(lab, p);
    if (!pm_lab_ok(lab))
        return;
    pm_lab_begin(lab);
    pm_op_linear_add(lab->cmd, &h, in, w.packed, packed_gain);
    double *want = pm_lab_doubles(lab, (size_t)p->n * p->rows), *size = pm_lab_doubles(lab, (size_t)p->n * p->rows);
    if (!pm_lab_run(lab))
        return;
    src = multiplied(lab, p, src);
    pm_ref_linear(&(pm_ref_linear_args){.n = p->n, .rows = p->rows, .cols = p->cols, .x = src, .w = w.values, .add = x}, want,
                  size);
    pm_lab_compare_hidden(lab, &h, gain, want, size, p->cols);
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
    pm_cmd_fast(lab->cmd, (pm_slice){0});
}

static void try_matvec(pm_lab *lab, const pm_kernel_use *use, const char *type, pm_product_kernel by) {
    const uint32_t *spec = use->spec;
    product p = {.epilogue = spec[1], .by_dots = by == PM_BY_DOTS};
    pm_variant v = {.by = by, .shape = {spec[0], spec[2], spec[3], spec[4]}};
    if (pm_lab_read_dtype(type, &p.dtype))
        try_laid_out(lab, &p, &v, spec[2], spec[0] / spec[2] * spec[3], 2 * spec[4]);
}

void pm_try_matvec(pm_lab *lab, const pm_kernel_use *use, const char *type) {
    try_matvec(lab, use, type, PM_BY_MATVEC);
}

void pm_try_matvec_sg(pm_lab *lab, const pm_kernel_use *use, const char *type) {
    try_matvec(lab, use, type, PM_BY_SUBGROUPS);
}

void pm_try_matvec_dot(pm_lab *lab, const pm_kernel_use *use, const char *type) {
    try_matvec(lab, use, type, PM_BY_DOTS);
}

void pm_try_matmul_dot(pm_lab *lab, const pm_kernel_use *use, const char *type) {
    product p = {.epilogue = use->spec[1], .by_dots = true};
    pm_variant v = {.by = PM_BY_DOT_TILES};
    if (pm_lab_read_dtype(type, &p.dtype))
        try_laid_out(lab, &p, &v, 1, PM_DOT_TILE_ROWS, PM_DOT_TILE_COLS + 1);
}

// A row of zeros, one of large and one of small numbers, columns that fill no block.
void pm_try_quantize(pm_lab *lab, const pm_kernel_use *use, const char *type) {
    enum { ROWS = 3, COLS = 70 * PM_BLOCK - 3 };
    pm_quants_form form = {.even_odd = use->spec[1], .wide = use->spec[2]};
    (void)type;
    float *x = pm_lab_floats(lab, ROWS * COLS, -2, 2);
    for (uint32_t i = 0; i < ROWS * COLS; i++)
        x[i] *= i < COLS ? 0 : i < 2 * COLS ? 1e15f : 1e-3f;
    pm_tensor in = pm_lab_activation(lab, ROWS, COLS, x);
    pm_slice quants = pm_lab_take(lab, pm_quants_bytes(ROWS, COLS));
    if (!pm_lab_ok(lab))
        return;
    pm_lab_begin(lab);
    pm_op_quantize(lab->cmd, quants, in, form);
    if (pm_lab_run(lab))
        pm_lab_compare(lab, pm_ref_quants_error(x, ROWS, COLS, form.even_odd, form.wide, pm_lab_result(lab, quants)), 0, 1);
}

void pm_try_matmul(pm_lab *lab, const pm_kernel_use *use, const char *type) {
    product p = {.epilogue = use->spec[1]};
    pm_variant v = {.by = PM_BY_TILES};
    if (pm_lab_read_dtype(type, &p.dtype))
        try_laid_out(lab, &p, &v, 1, PM_TILE_ROWS, PM_TILE_COLS + 1);
}

void pm_try_matmul_cm(pm_lab *lab, const pm_kernel_use *use, const char *type) {
    const uint32_t *spec = use->spec;
    product p = {.epilogue = spec[1]};
    pm_variant v = {.by = spec[9] == 2 ? PM_BY_BUFFERS : PM_BY_MATRICES};
    lab->dev->caps.coopmat = (pm_coopmat_shape){spec[0], spec[2], spec[3], spec[4], spec[5], spec[6], spec[7], spec[8], spec[9]};
    lab->halves = true;
    if (pm_lab_read_dtype(type, &p.dtype))
        try_laid_out(lab, &p, &v, 1, spec[6], spec[7] + 1);
}
