// pm_op_norm_linear, pm_op_norm_glu and pm_op_linear_add against reference.c: every type of weights, every epilogue, awkward
// sizes, every way that caps.c can lay a product over a device, and weights that must be cut into parts.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "check_layout.h"
#include "host/vk.h"

enum { MEGABYTES = 12 };

typedef enum form { NORM, BIAS, GLU, ADD } form;
static const char *const form_names[] = {"norm_linear", "norm_linear with bias", "norm_glu", "linear_add"};

typedef struct linear_case {
    form form;
    pm_dtype dtype;
    uint32_t rows, cols, n;
} linear_case;

// ---- one case ---------------------------------------------------------------------------------------------------------

static uint64_t weight_bytes; // of the last case's data plane
static bool by_dots;          // products multiply x in bytes

// The weights of a case: Q, K and V stacked, gate and up interleaved, or one matrix; the floats in the order of the device's rows.
typedef struct weights {
    pm_tensor packed;
    const float *values;
} weights;

static weights stacked(const linear_case *c, float scale) {
    uint32_t first = c->rows / 2, second = c->rows / 4;
    check_matrix m = check_weights(c->dtype, c->rows, c->cols, scale);
    size_t row_bytes = check_matrix_bytes(c->dtype, c->cols);
    pm_pack_part parts[] = {
        {m.blocks, c->dtype, first},
        {m.blocks + first * row_bytes, c->dtype, second},
        {m.blocks + (first + second) * row_bytes, c->dtype, c->rows - first - second},
    };
    return (weights){check_pack(parts, 3, c->cols, PM_PACK_STACKED), m.values};
}

static weights interleaved(const linear_case *c, float scale) {
    uint32_t half = c->rows / 2;
    check_matrix gate = check_weights(c->dtype, half, c->cols, scale), up = check_weights(c->dtype, half, c->cols, scale);
    pm_pack_part parts[] = {{gate.blocks, c->dtype, half}, {up.blocks, c->dtype, half}};
    float *values = check_alloc((size_t)c->rows * c->cols, sizeof(float));
    for (size_t r = 0; r < half; r++) {
        memcpy(values + 2 * r * c->cols, gate.values + r * c->cols, c->cols * sizeof(float));
        memcpy(values + (2 * r + 1) * c->cols, up.values + r * c->cols, c->cols * sizeof(float));
    }
    return (weights){check_pack(parts, 2, c->cols, PM_PACK_INTERLEAVED), values};
}

// A hidden state that has been written: n_parts partial sums of squares a row, and no numbers behind them.
static pm_hidden normed_input(uint32_t n, uint32_t dim, const float *normed, const float *squares, uint32_t n_parts) {
    pm_hidden h = {.x = check_in_tensor(n, dim, NULL),
                   .normed = check_in_tensor(n, dim, normed),
                   .squares = check_in_tensor(n, dim, NULL),
                   .n_parts = n_parts,
                   .eps = 1e-6f};
    for (uint32_t r = 0; r < n; r++)
        memcpy(check_words_at(h.squares.data) + (size_t)r * h.squares.stride, squares + (size_t)r * n_parts, n_parts * 4);
    return h;
}

static const pm_dtype dot_types[] = {PM_Q8_0, PM_Q4_0, PM_Q4_1, PM_Q5_0, PM_Q5_1, PM_Q4_K, PM_Q5_K, PM_Q6_K};

// Room for x in bytes, where it is to be multiplied so; and x as it then was, which op_quantize.c judges.
static pm_slice take_quants(const linear_case *c) {
    pm_slice quants = {0};
    if (by_dots)
        quants = check_out(pm_quants_bytes(c->n, c->cols) / 4);
    pm_cmd_fast(check_cmd, quants);
    return quants;
}

static const float *multiplied(const linear_case *c, pm_slice quants, const float *x) {
    if (!by_dots)
        return x;
    float *values = check_alloc((size_t)c->n * c->cols, sizeof(float));
    pm_quants_form f = pm_quants_form_for(c->dtype, c->form == ADD ? PM_LINEAR_ADD : PM_LINEAR_NORM);
    pm_ref_dequantize(check_got(quants), c->n, c->cols, f.even_odd, f.wide, values);
    return values;
}

static void run_norm(const linear_case *c) {
    float scale = 1 / sqrtf((float)c->cols);
    weights w = c->form == GLU ? interleaved(c, scale) : stacked(c, scale);
    weight_bytes = w.packed.data.size;
    uint32_t n_parts = 1 + check_below(7), y_cols = c->form == GLU ? c->rows / 2 : c->rows;
    float *normed = check_normals((size_t)c->n * c->cols, 3);
    float *squares = check_uniforms((size_t)c->n * n_parts, 0, 18 * (float)c->cols / (float)n_parts);
    float *bias_values = check_normals(c->rows, 1);
    pm_hidden h = normed_input(c->n, c->cols, normed, squares, n_parts);
    pm_tensor y = check_out_tensor(c->n, y_cols, y_cols, NULL), bias = check_pack_vector(bias_values, c->rows);
    pm_slice quants = take_quants(c);

    check_record();
    if (c->form == GLU)
        pm_op_norm_glu(check_cmd, y, &h, w.packed);
    else
        pm_op_norm_linear(check_cmd, y, &h, w.packed, c->form == BIAS ? &bias : NULL);
    check_run();

    double *want = check_doubles((size_t)c->n * y_cols), *size = check_doubles((size_t)c->n * y_cols);
    pm_ref_linear(&(pm_ref_linear_args){.n = c->n,
                                        .rows = c->rows,
                                        .cols = c->cols,
                                        .x = multiplied(c, quants, normed),
                                        .w = w.values,
                                        .squares = squares,
                                        .n_parts = n_parts,
                                        .eps = h.eps,
                                        .bias = c->form == BIAS ? bias_values : NULL,
                                        .glu = c->form == GLU},
                  want, size);
    check_near("y", y, want, size, c->cols);
}

static void run_add(const linear_case *c) {
    check_matrix m = check_weights(c->dtype, c->rows, c->cols, 1 / sqrtf((float)c->cols));
    pm_tensor w = check_pack_one(&m);
    weight_bytes = w.data.size;
    float *src_values = check_normals((size_t)c->n * c->cols, 1), *x = check_normals((size_t)c->n * c->rows, 1);
    float *gain_values = check_uniforms(c->rows, -0.5f, 1.5f);
    pm_tensor gain = check_pack_vector(gain_values, c->rows), src = check_in_tensor(c->n, c->cols, src_values);
    pm_hidden h = {.x = check_out_tensor(c->n, c->rows, c->rows, x),
                   .normed = check_out_tensor(c->n, c->rows, c->rows, NULL),
                   .squares = check_in_tensor(c->n, c->rows, NULL),
                   .eps = 1e-6f};
    pm_slice quants = take_quants(c);

    check_record();
    pm_op_linear_add(check_cmd, &h, src, w, gain);
    assert_in_range(h.n_parts, 1, c->rows);
    for (uint32_t r = 0; r < c->n; r++)
        check_allow(h.squares.data, (uint64_t)r * h.squares.stride, h.n_parts);
    check_run();

    double *want = check_doubles((size_t)c->n * c->rows), *size = check_doubles((size_t)c->n * c->rows);
    const float *used = multiplied(c, quants, src_values);
    pm_ref_linear(&(pm_ref_linear_args){.n = c->n, .rows = c->rows, .cols = c->cols, .x = used, .w = m.values, .add = x}, want,
                  size);
    check_near("x", h.x, want, size, c->cols);
    check_hidden(&h, gain_values, want, size, c->cols);
}

// The columns are rounded up to whole blocks.
static void run_case(const linear_case *asked) {
    linear_case c = *asked;
    c.cols = check_cols(c.dtype, c.cols);
    check_few_terms = c.dtype == PM_FP8;
    check_begin();
    check_case("%s, %s (%u, %u), n %u", form_names[c.form], pm_dtype_get(c.dtype)->name, c.rows, c.cols, c.n);
    if (c.form == ADD)
        run_add(&c);
    else
        run_norm(&c);
}

// ---- cases ------------------------------------------------------------------------------------------------------------

// A row of x and every type: rows that fill no group, columns that fill no pair of blocks or no block.
static void every_type(void **state) {
    static const linear_case cases[] = {
        {.form = NORM, .rows = 1, .cols = 32, .n = 1},   {.form = ADD, .rows = 1, .cols = 64, .n = 1},
        {.form = BIAS, .rows = 331, .cols = 96, .n = 1}, {.form = GLU, .rows = 2, .cols = 160, .n = 1},
        {.form = ADD, .rows = 331, .cols = 288, .n = 1}, {.form = GLU, .rows = 330, .cols = 100, .n = 1},
        {.form = NORM, .rows = 3, .cols = 33, .n = 1},   {.form = ADD, .rows = 1280, .cols = 1024, .n = 1},
    };
    (void)state;
    for (size_t d = 0; d < check_n_dtypes; d++)
        for (size_t i = 0; i < CHECK_COUNT(cases); i++) {
            linear_case c = cases[i];
            c.dtype = check_dtypes[d];
            run_case(&c);
        }
}

// Each number of rows of x, which decides kernel, columns of a workgroup and the dispatch of what is left over. A kernel for many
// columns takes a software driver's compiler a second or two: not all of them with all types.
static void every_batch(void **state) {
    static const uint32_t counts[] = {2, 3, 7, 8, 9, 16, 17, 33, 64};
    (void)state;
    for (size_t i = 0; i < CHECK_COUNT(counts); i++) {
        run_case(&(linear_case){.form = ADD, .dtype = PM_Q4_0, .rows = 131, .cols = 160, .n = counts[i]});
        if (counts[i] % 8 < 2)
            run_case(&(linear_case){.form = NORM, .dtype = PM_F16, .rows = 67, .cols = 160, .n = counts[i]});
    }
    run_case(&(linear_case){.form = NORM, .dtype = PM_F32, .rows = 127, .cols = 33, .n = 9});
    run_case(&(linear_case){.form = BIAS, .dtype = PM_BF16, .rows = 127, .cols = 96, .n = 16});
    run_case(&(linear_case){.form = GLU, .dtype = PM_Q8_0, .rows = 130, .cols = 2560, .n = 17});
}

// In tiles: every type and epilogue, sizes around those of one tile.
static void every_type_in_tiles(void **state) {
    static const uint32_t rows[] = {PM_TILE_ROWS, PM_TILE_ROWS - 2, PM_TILE_ROWS + 2, 2, 1280};
    static const uint32_t counts[] = {PM_TILE_COLS, PM_TILE_COLS - 1, PM_TILE_COLS + 1, 2, 2 * PM_TILE_COLS + 1};
    (void)state;
    for (size_t d = 0; d < check_n_dtypes; d++)
        for (int f = NORM; f <= ADD; f++) {
            uint32_t i = (uint32_t)(d + (size_t)f) % CHECK_COUNT(rows), cols = check_dtypes[d] < PM_Q8_0 ? 100 : 160;
            uint32_t odd = f != GLU;
            run_case(&(linear_case){.form = (form)f, .dtype = check_dtypes[d], .rows = rows[i], .cols = 32, .n = counts[i]});
            run_case(&(linear_case){.form = (form)f, .dtype = check_dtypes[d], .rows = 330 + odd, .cols = cols, .n = 9});
            run_case(&(linear_case){.form = (form)f, .dtype = check_dtypes[d], .rows = 66 + odd, .cols = 1024, .n = 33});
        }
}

static void skip_without_coopmat(void) {
    if (!check_halves) {
        print_message("%s has no cooperative matrices of halves\n", check_dev->info.name);
        skip();
    }
}

// On cooperative matrices: every type with one epilogue, one with all, sizes around those of a tile.
static void every_type_on_matrices(void **state) {
    (void)state;
    skip_without_coopmat();
    uint32_t tile_rows = check_dev->caps.coopmat.rows, tile_cols = check_dev->caps.coopmat.cols;
    const uint32_t rows[] = {tile_rows, tile_rows - 2, tile_rows + 2, 2, 1280};
    const uint32_t counts[] = {tile_cols, tile_cols - 1, tile_cols + 1, 2, 2 * tile_cols + 1};
    for (size_t d = 0; d < check_n_dtypes; d++)
        for (int f = NORM; f <= ADD; f++) {
            if ((d + (size_t)f) % 4 && check_dtypes[d] != PM_Q4_0)
                continue; // a kernel takes the compiler of a software driver seconds
            uint32_t i = (uint32_t)(d + (size_t)f) % CHECK_COUNT(rows), odd = f != GLU;
            run_case(&(linear_case){.form = (form)f, .dtype = check_dtypes[d], .rows = rows[i], .cols = 32, .n = counts[i]});
            run_case(&(linear_case){.form = (form)f, .dtype = check_dtypes[d], .rows = 330 + odd, .cols = 160, .n = 9});
            run_case(&(linear_case){.form = (form)f, .dtype = check_dtypes[d], .rows = 66 + odd, .cols = 1024, .n = 65});
        }
}

// The other tiles and two buffers: an odd number of blocks, rows and columns that fill a tile, and some more.
static void every_tile_of_matrices(void **state) {
    static const pm_variant variants[] = {
        {.by = PM_BY_MATRICES, .shape = {4, 4, 2, 2}}, {.by = PM_BY_MATRICES, .shape = {8, 4, 4, 4}}, {.by = PM_BY_BUFFERS}};
    (void)state;
    skip_without_coopmat();
    for (size_t i = 0; i < CHECK_COUNT(variants); i++) {
        pm_coopmat_shape m = pm_variant_coopmat(&check_dev->caps, &variants[i]);
        check_dev->forced = &variants[i];
        run_case(&(linear_case){.form = (form)i, .dtype = PM_F16, .rows = m.rows, .cols = 96, .n = m.cols});
        run_case(&(linear_case){.form = ADD, .dtype = PM_Q4_0, .rows = m.rows + 3, .cols = 160, .n = m.cols + 1});
        run_case(&(linear_case){.form = ADD, .dtype = PM_Q4_0, .rows = 2 * m.rows - 1, .cols = 32, .n = 2 * m.cols - 1});
        check_dev->forced = NULL;
    }
}

static void skip_without_dots(void) {
    if (!check_dev->caps.use_dots || !pm_kernel_available(check_dev, PM_K_matvec_dot_q8_0)) {
        print_message("%s, or the GLSL compiler of this build, has no packed dot products\n", check_dev->info.name);
        skip();
    }
}

// By packed dot products: every type that has them with one epilogue and few rows, with all and many, and sizes around those of a
// tile. More columns than a lane has blocks, and a last block alone.
static void every_type_in_bytes(void **state) {
    static const uint32_t rows[] = {PM_DOT_TILE_ROWS, PM_DOT_TILE_ROWS - 2, PM_DOT_TILE_ROWS + 2, 2, 330};
    static const uint32_t counts[] = {PM_DOT_TILE_COLS, PM_DOT_TILE_COLS - 1, PM_DOT_TILE_COLS + 1, 9, 2 * PM_DOT_TILE_COLS + 1};
    (void)state;
    skip_without_dots();
    by_dots = true;
    for (size_t d = 0; d < CHECK_COUNT(dot_types); d++)
        for (int f = NORM; f <= ADD; f++) {
            uint32_t i = (uint32_t)(d + (size_t)f) % CHECK_COUNT(rows), odd = f != GLU;
            if (!check_wants(dot_types[d]))
                continue;
            run_case(&(linear_case){.form = (form)f, .dtype = dot_types[d], .rows = 134 + odd, .cols = 1120, .n = 1 + (uint32_t)f});
            run_case(&(linear_case){.form = (form)f, .dtype = dot_types[d], .rows = rows[i], .cols = 32, .n = counts[i]});
            run_case(&(linear_case){.form = (form)f, .dtype = dot_types[d], .rows = 66 + odd, .cols = 1024, .n = 65});
        }
    by_dots = false;
}

// Without room for them: in floats.
static void floats_in_spite_of_dots(void **state) {
    (void)state;
    skip_without_dots();
    run_case(&(linear_case){.form = ADD, .dtype = PM_Q8_0, .rows = 131, .cols = 160, .n = 4});
    assert_int_equal(pm_cmd_n_dispatches(check_cmd), 1);
}

// Where the caller wants floats he gets floats.
static void exact_in_spite_of_matrices(void **state) {
    (void)state;
    skip_without_coopmat();
    check_halves = false;
    pm_cmd_exact(check_cmd, true);
    run_case(&(linear_case){.form = ADD, .dtype = PM_F16, .rows = 131, .cols = 160, .n = 33});
    pm_cmd_exact(check_cmd, false);
    check_halves = true;
}

// Another way to lay the product over the device, two columns a dispatch: every type with two of the epilogues.
static void every_type_shaped(void **state) {
    (void)state;
    for (size_t d = 0; d < check_n_dtypes; d++) {
        form first = (form)(d % 4), second = (form)((d + 2) % 4);
        run_case(&(linear_case){.form = first, .dtype = check_dtypes[d], .rows = 330, .cols = 288, .n = 1});
        run_case(&(linear_case){.form = first, .dtype = check_dtypes[d], .rows = 2, .cols = 32, .n = 1});
        run_case(&(linear_case){.form = second, .dtype = check_dtypes[d], .rows = 134, .cols = 96, .n = 2});
        run_case(&(linear_case){.form = second, .dtype = check_dtypes[d], .rows = 6, .cols = 2560, .n = 5});
    }
}

static void large(void **state) {
    static const linear_case cases[] = {
        {.form = NORM, .dtype = PM_Q4_0, .rows = 6146, .cols = 2560, .n = 1},
        {.form = NORM, .dtype = PM_Q8_0, .rows = 6146, .cols = 160, .n = 33},
        {.form = ADD, .dtype = PM_F16, .rows = 2560, .cols = 1024, .n = 8},
    };
    (void)state;
    for (size_t i = 0; i < CHECK_COUNT(cases); i++)
        run_case(&cases[i]);
}

// The next norm reads what linear_add wrote: as many parts, in the same recording.
static void add_then_norm(void **state) {
    enum { N = 5, DIM = 288, COLS = 96, ROWS = 70 };
    (void)state;
    check_begin();
    check_case("linear_add, then norm_linear");
    check_matrix down = check_weights(PM_Q8_0, DIM, COLS, 0.1f), next = check_weights(PM_Q4_0, ROWS, DIM, 0.1f);
    pm_tensor src = check_in_tensor(N, COLS, check_normals(N * COLS, 1)), y = check_out_tensor(N, ROWS, ROWS, NULL);
    pm_tensor gain = check_pack_vector(check_uniforms(DIM, 0.5f, 1.5f), DIM);
    pm_hidden h = {.x = check_out_tensor(N, DIM, DIM, check_normals(N * DIM, 1)),
                   .normed = check_out_tensor(N, DIM, DIM, NULL),
                   .squares = check_out_tensor(N, DIM, DIM, NULL),
                   .eps = 1e-6f};
    check_record();
    pm_op_linear_add(check_cmd, &h, src, check_pack_one(&down), gain);
    pm_op_norm_linear(check_cmd, y, &h, check_pack_one(&next), NULL);
    check_run();

    float *x = check_alloc(N * DIM, sizeof(float)), squares[N] = {0};
    for (uint32_t i = 0; i < N * DIM; i++) {
        float value = check_got_float(h.x.data, i);
        squares[i / DIM] += value * value;
        x[i] = check_got_float(h.normed.data, i);
    }
    double *want = check_doubles(N * ROWS), *size = check_doubles(N * ROWS);
    pm_ref_linear(
        &(pm_ref_linear_args){
            .n = N, .rows = ROWS, .cols = DIM, .x = x, .w = next.values, .squares = squares, .n_parts = 1, .eps = h.eps},
        want, size);
    check_near("y", y, want, size, DIM);
}

// A matrix of several tensors, each with a type and a dispatch of its own: their columns of one y, their part of one bias.
static void several_tensors(void **state) {
    enum { N = 3, DIM = 256, ROWS = 199 };
    static const pm_dtype types[] = {PM_Q4_K, PM_F16, PM_Q6_K};
    static const uint32_t rows[] = {130, 4, 65};
    (void)state;
    check_begin();
    check_case("norm_linear with bias, of three tensors");
    float *normed = check_normals(N * DIM, 1), *squares = check_uniforms(N, 1, DIM), *bias_values = check_normals(ROWS, 1);
    float *values = check_alloc(ROWS * DIM, sizeof(float));
    pm_hidden h = normed_input(N, DIM, normed, squares, 1);
    pm_tensor y = check_out_tensor(N, ROWS, ROWS, NULL), bias = check_pack_vector(bias_values, ROWS), w[3];
    uint32_t row0 = 0;
    for (int i = 0; i < 3; row0 += rows[i++]) {
        check_matrix m = check_weights(types[i], rows[i], DIM, 0.1f);
        memcpy(values + (size_t)row0 * DIM, m.values, (size_t)rows[i] * DIM * sizeof(float));
        w[i] = check_pack_one(&m);
        w[i].row0 = row0;
    }
    check_record();
    for (int i = 0; i < 3; i++)
        pm_op_norm_linear(check_cmd, y, &h, w[i], &bias);
    check_run();
    double *want = check_doubles(N * ROWS), *size = check_doubles(N * ROWS);
    pm_ref_linear(&(pm_ref_linear_args){.n = N,
                                        .rows = ROWS,
                                        .cols = DIM,
                                        .x = normed,
                                        .w = values,
                                        .squares = squares,
                                        .n_parts = 1,
                                        .eps = h.eps,
                                        .bias = bias_values},
                  want, size);
    check_near("y", y, want, size, DIM);
}

// A product of zeros under the norm is zero and not 0 / 0; large values neither overflow nor vanish.
static void extremes(void **state) {
    enum { N = 2, COLS = 64, ROWS = 6 };
    (void)state;
    check_begin();
    check_case("a row of zeros and one of 1e15");
    check_matrix m = check_weights(PM_F16, ROWS, COLS, 1);
    float normed[N * COLS] = {0}, squares[N] = {0, COLS * 1e30f};
    for (int i = 0; i < COLS; i++)
        normed[COLS + i] = i % 3 ? 1e15f : -1e15f;
    pm_hidden h = normed_input(N, COLS, normed, squares, 1);
    pm_tensor y = check_out_tensor(N, ROWS, ROWS, NULL), glu = check_out_tensor(N, ROWS / 2, ROWS / 2, NULL),
              w = check_pack_one(&m);
    check_record();
    pm_op_norm_linear(check_cmd, y, &h, w, NULL);
    pm_op_norm_glu(check_cmd, glu, &h, w);
    check_run();
    pm_ref_linear_args a = {
        .n = N, .rows = ROWS, .cols = COLS, .x = normed, .w = m.values, .squares = squares, .n_parts = 1, .eps = h.eps};
    double want[N * ROWS], size[N * ROWS];
    pm_ref_linear(&a, want, size);
    check_near("y", y, want, size, COLS);
    a.glu = true;
    pm_ref_linear(&a, want, size);
    check_near("glu", glu, want, size, COLS);
}

// A gate far below zero: its silu is nothing, not 0 * infinity.
static void closed_gates(void **state) {
    enum { COLS = 32, ROWS = 4 };
    (void)state;
    check_begin();
    check_case("gates of -1000 and 1000");
    float values[ROWS * COLS], normed[COLS], squares[1] = {0};
    for (int i = 0; i < COLS; i++) {
        normed[i] = 1;
        values[i] = -1000.0f / COLS;
        values[COLS + i] = values[3 * COLS + i] = 1;
        values[2 * COLS + i] = 1000.0f / COLS;
    }
    pm_tensor w = check_pack(&(pm_pack_part){values, PM_F32, ROWS}, 1, COLS, PM_PACK_STACKED);
    pm_hidden h = normed_input(1, COLS, normed, squares, 1);
    h.eps = 1; // the factor is 1
    pm_tensor y = check_out_tensor(1, 2, 2, NULL);
    check_record();
    pm_op_norm_glu(check_cmd, y, &h, w);
    check_run();
    assert_true(check_got_float(y.data, 0) == 0);
    assert_true(fabs(check_got_float(y.data, 1) - 32000) < 0.1);
}

// ---- weights in parts -------------------------------------------------------------------------------------------------

// Bytes bound at once, in the groups below.
enum { BINDING = 256 << 10 };

static void cut(form f, pm_dtype dtype, uint32_t n) {
    uint32_t cols = dtype == PM_F32 ? 64 : dtype < PM_Q8_0 ? 100 : dtype == PM_Q8_0 ? 160 : 288;
    linear_case c = {.form = f, .dtype = dtype, .rows = f == GLU ? 2302 : 2303, .cols = cols, .n = n};
    run_case(&c);
    uint32_t row_bytes = (uint32_t)(weight_bytes / c.rows), rows = BINDING / row_bytes / 256 * 256;
    int parts = (int)((c.rows + rows - 1) / rows);
    assert_in_range(parts, 2, 20);
    assert_in_range(pm_cmd_n_dispatches(check_cmd), n == 5 ? 2 * parts : parts + by_dots,
                    21); // 5: two pairs of columns, and one left over
}

static void every_type_cut(void **state) {
    (void)state;
    for (size_t d = 0; d < check_n_dtypes; d++)
        for (int f = NORM; f <= ADD; f++)
            cut((form)f, check_dtypes[d], f == BIAS ? 5 : 1);
}

static void odd_groups_cut(void **state) {
    (void)state;
    cut(ADD, PM_F32, 1);
    cut(ADD, PM_Q8_0, 1);
    cut(GLU, PM_Q4_0, 1);
}

static void tiles_cut(void **state) {
    (void)state;
    cut(ADD, PM_F32, 9);
    cut(ADD, PM_Q8_0, 8);
    cut(GLU, PM_Q4_0, 3);
}

static void dots_cut(void **state) {
    (void)state;
    skip_without_dots();
    by_dots = true;
    cut(ADD, PM_Q8_0, 1);
    cut(GLU, PM_Q4_K, 9);
    by_dots = false;
}

static void matrices_cut(void **state) {
    (void)state;
    skip_without_coopmat();
    cut(ADD, PM_F32, 9);
    cut(ADD, PM_Q8_0, 8);
    cut(GLU, PM_Q4_0, 3);
}

// Rows so long that not even one part can be bound: an error of the recording, nothing worse.
static void rows_too_long(void **state) {
    (void)state;
    check_begin();
    check_case("rows too long");
    check_matrix m = check_weights(PM_F32, 512, 1024, 1);
    float squares[1] = {1};
    pm_hidden h = normed_input(1, 1024, check_normals(1024, 1), squares, 1);
    check_record();
    pm_op_norm_linear(check_cmd, check_out_tensor(1, 512, 512, NULL), &h, check_pack_one(&m), NULL);
    assert_int_equal(pm_cmd_end(check_cmd), PM_ERR_UNSUPPORTED);
}

// ---- groups: one a way to lay products over a device --------------------------------------------------------------------

static int open_default(void **state) {
    (void)state;
    check_open(MEGABYTES);
    return 0;
}

static int open_lanes_32(void **state) {
    (void)state;
    return check_open_shaped("64,32,2,2", "0", MEGABYTES);
}

static int open_lanes_4(void **state) {
    (void)state;
    return check_open_shaped("32,4,4,2", "0", MEGABYTES);
}

static int open_dots(const char *shape, const char *tiles) {
    setenv("PM_DOTS", "1", 1);
    return check_open_shaped(shape, tiles, MEGABYTES);
}

static int open_dots_32(void **state) {
    (void)state;
    return open_dots("64,32,2,8", "1");
}

static int open_dots_1(void **state) {
    (void)state;
    return open_dots("16,1,8,4", "0");
}

static int open_dots_cut(void **state) {
    (void)state;
    check_bind_at_most(BINDING);
    return open_dots("64,32,2,2", "1");
}

// A lane a row, and few values of x loaded by each for the others.
static int open_subgroups(void **state) {
    (void)state;
    setenv("PM_SUBGROUPS", "1", 1);
    setenv("PM_TILES", "0", 1);
    check_open(MEGABYTES);
    return 0;
}

static int open_cut(const char *shape) {
    check_bind_at_most(BINDING);
    return check_open_shaped(shape, "0", MEGABYTES);
}

static int open_groups_of_128(void **state) {
    (void)state;
    return open_cut("64,1,2,2");
}

static int open_groups_of_384(void **state) { // which is no power of two
    (void)state;
    return open_cut("64,1,6,2");
}

static int open_tiles(void **state) {
    (void)state;
    setenv("PM_TILES", "1", 1);
    setenv("PM_MATVEC", "64,1,2,1", 1); // tiles from two rows of x on
    print_message("PM_TILES=1\n");
    check_open(MEGABYTES);
    return 0;
}

static int open_tiles_cut(void **state) {
    check_bind_at_most(BINDING);
    return open_tiles(state);
}

// Weights that are halves of floats lose nothing that the tolerance does not allow for.
static int open_coopmat(void **state) {
    setenv("PM_TILES", "2", 1);
    setenv("PM_MATVEC", "64,1,2,1", 1);
    (void)state;
    check_open(MEGABYTES);
    check_halves = check_dev->caps.use_coopmat;
    return 0;
}

static int open_coopmat_cut(void **state) {
    check_bind_at_most(BINDING);
    return open_coopmat(state);
}

int main(void) {
    const struct CMUnitTest all[] = {
        cmocka_unit_test(every_type),      cmocka_unit_test(every_batch), cmocka_unit_test(large),
        cmocka_unit_test(add_then_norm),   cmocka_unit_test(extremes),    cmocka_unit_test(closed_gates),
        cmocka_unit_test(several_tensors),
    };
    const struct CMUnitTest shaped[] = {cmocka_unit_test(every_type_shaped), cmocka_unit_test(add_then_norm)};
    const struct CMUnitTest parts[] = {cmocka_unit_test(every_type_cut), cmocka_unit_test(rows_too_long)};
    const struct CMUnitTest odd_parts[] = {cmocka_unit_test(odd_groups_cut)};
    const struct CMUnitTest tiles[] = {cmocka_unit_test(every_type_in_tiles), cmocka_unit_test(add_then_norm),
                                       cmocka_unit_test(several_tensors)};
    const struct CMUnitTest tiled_parts[] = {cmocka_unit_test(tiles_cut)};
    const struct CMUnitTest matrices[] = {cmocka_unit_test(every_type_on_matrices), cmocka_unit_test(every_tile_of_matrices),
                                          cmocka_unit_test(exact_in_spite_of_matrices)};
    const struct CMUnitTest matrix_parts[] = {cmocka_unit_test(matrices_cut)};
    const struct CMUnitTest dots[] = {cmocka_unit_test(every_type_in_bytes), cmocka_unit_test(floats_in_spite_of_dots)};
    const struct CMUnitTest dot_parts[] = {cmocka_unit_test(dots_cut)};
    int failed = cmocka_run_group_tests_name("linear", all, open_default, check_close);
    failed += cmocka_run_group_tests_name("linear, 32 lanes a row", shaped, open_lanes_32, check_close_shaped);
    failed += cmocka_run_group_tests_name("linear, 4 lanes a row", shaped, open_lanes_4, check_close_shaped);
    failed += cmocka_run_group_tests_name("linear, by subgroups", shaped, open_subgroups, check_close_shaped);
    failed += cmocka_run_group_tests_name("linear, tiles", tiles, open_tiles, check_close_shaped);
    failed += cmocka_run_group_tests_name("linear, tiles in parts", tiled_parts, open_tiles_cut, check_close_shaped);
    failed += cmocka_run_group_tests_name("linear, matrices", matrices, open_coopmat, check_close_shaped);
    failed += cmocka_run_group_tests_name("linear, matrices in parts", matrix_parts, open_coopmat_cut, check_close_shaped);
    failed += cmocka_run_group_tests_name("linear, dots, 32 lanes a row and tiles", dots, open_dots_32, check_close_shaped);
    failed += cmocka_run_group_tests_name("linear, dots, a lane a row", dots, open_dots_1, check_close_shaped);
    failed += cmocka_run_group_tests_name("linear, dots in parts", dot_parts, open_dots_cut, check_close_shaped);
    failed += cmocka_run_group_tests_name("linear in parts", parts, open_groups_of_128, check_close_shaped);
    failed += cmocka_run_group_tests_name("linear in parts, odd groups", odd_parts, open_groups_of_384, check_close_shaped);
    return failed != 0;
}
