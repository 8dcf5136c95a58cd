// Products with packed weights: lays the variant that variant.c chose (matvec or matmul, and its shape) over the matrix, and cuts a
// weight that exceeds what can be bound at once or dispatched at once into parts by rows. Nobody else knows that.
#include "host/ops.h"
#include "host/vk.h"

#include <string.h>

typedef struct linear {
    pm_tensor y, x, w;
    const pm_hidden *h; // the norm's factors come from here; NULL: no norm
    const pm_tensor *bias, *gain;
    pm_tensor normed, squares; // written with PM_LINEAR_ADD
    uint32_t epilogue;
    uint32_t n;      // rows of x
    pm_slice quants; // of x, where the kernel multiplies those
} linear;

// The kernel for n rows of x, and how it is laid over the matrix.
typedef struct tiling {
    pm_kernel_id kernel;
    uint32_t workgroup;
    uint32_t spec[8]; // what follows the epilogue
    int n_spec;
    uint32_t rows_a_group, cols_a_group;
    bool exact_cols; // spec[n_spec] is the number of columns: the last ones want a dispatch of their own
    bool by_dots;
} tiling;

// The types that are whole numbers from -128 to 127 times scales, 32 or 16 of them a scale.
#define DOT_DTYPES(X) \
    X(Q8_0, q8_0) X(Q4_0, q4_0) X(Q4_1, q4_1) X(Q5_0, q5_0) X(Q5_1, q5_1) X(Q4_K, q4_k) X(Q5_K, q5_k) X(Q6_K, q6_k)

static bool has_dots(pm_dtype dtype) {
    static const bool has[PM_DTYPE_COUNT] = {
#define X(id, small) [PM_##id] = true,
        DOT_DTYPES(X)
#undef X
    };
    return has[dtype];
}

static tiling dots_tiling(pm_dtype dtype, const pm_variant *v) {
    static const pm_kernel_id kernels[2][PM_DTYPE_COUNT] = {
        {
#define X(id, small) [PM_##id] = PM_K_matvec_dot_##small,
            DOT_DTYPES(X)
#undef X
        },
        {
#define X(id, small) [PM_##id] = PM_K_matmul_dot_##small,
            DOT_DTYPES(X)
#undef X
        },
    };
    const pm_matvec_shape *s = &v->shape;
    if (v->by == PM_BY_DOT_TILES)
        return (tiling){
            kernels[1][dtype], PM_DOT_TILE_ROWS * PM_DOT_TILE_COLS / 32, {0}, 0, PM_DOT_TILE_ROWS, PM_DOT_TILE_COLS, false, true};
    return (tiling){
        kernels[0][dtype], s->workgroup, {s->lanes, s->rows}, 2, s->workgroup / s->lanes * s->rows, s->max_cols, true, true};
}

static tiling matvec_tiling(pm_dtype dtype, pm_matvec_shape s, bool by_subgroups) {
    static const pm_kernel_id kernels[2][PM_DTYPE_COUNT] = {
        {
#define X(id, small, ggml, elements, bytes) [PM_##id] = PM_K_matvec_##small,
            PM_DTYPES(X)
#undef X
        },
        {
#define X(id, small, ggml, elements, bytes) [PM_##id] = PM_K_matvec_sg_##small,
            PM_DTYPES(X)
#undef X
        },
    };
    return (tiling){
        kernels[by_subgroups][dtype], s.workgroup, {s.lanes, s.rows}, 2, s.workgroup / s.lanes * s.rows, s.max_cols, true, false};
}

static tiling matmul_tiling(pm_dtype dtype) {
    static const pm_kernel_id kernels[PM_DTYPE_COUNT] = {
#define X(id, small, ggml, elements, bytes) [PM_##id] = PM_K_matmul_##small,
        PM_DTYPES(X)
#undef X
    };
    return (tiling){kernels[dtype], PM_TILE_ROWS * PM_TILE_COLS / 16, {0}, 0, PM_TILE_ROWS, PM_TILE_COLS, false, false};
}

static tiling coopmat_tiling(pm_dtype dtype, const pm_coopmat_shape *s) {
    static const pm_kernel_id kernels[PM_DTYPE_COUNT] = {
#define X(id, small, ggml, elements, bytes) [PM_##id] = PM_K_matmul_cm_##small,
        PM_DTYPES(X)
#undef X
    };
    return (tiling){
        kernels[dtype], s->workgroup, {s->subgroup, s->m, s->n, s->k, s->rows, s->cols, s->down, s->buffers}, 8, s->rows, s->cols,
        false,          false};
}

static tiling tiling_of(const pm_caps *caps, pm_dtype dtype, const pm_variant *v) {
    if (pm_variant_has_dots(v))
        return dots_tiling(dtype, v);
    if (v->by == PM_BY_MATVEC || v->by == PM_BY_SUBGROUPS)
        return matvec_tiling(dtype, v->shape, v->by == PM_BY_SUBGROUPS);
    if (v->by == PM_BY_TILES)
        return matmul_tiling(dtype);
    pm_coopmat_shape m = pm_variant_coopmat(caps, v);
    return coopmat_tiling(dtype, &m);
}

// How many of n rows of x go into dispatches of cols_a_group each; the rest is one more.
static uint32_t whole_cols(const tiling *t, uint32_t n) {
    return t->exact_cols ? n / t->cols_a_group * t->cols_a_group : n;
}

// The columns of the kernel that takes the last ones. Of wide kernels few are made: each is compiled, on some drivers for seconds.
static uint32_t last_cols(const tiling *t, uint32_t left) {
    return t->cols_a_group > 4 && t->spec[0] == 1 ? (uint32_t)pm_round_up(left, 4) : left;
}

static pm_kernel_use use_of(const tiling *t, uint32_t epilogue, uint32_t cols) {
    pm_kernel_use use = {.id = t->kernel, .spec = {t->workgroup, epilogue}, .n_spec = 2 + t->n_spec + t->exact_cols};
    memcpy(use.spec + 2, t->spec, sizeof(t->spec));
    if (t->exact_cols)
        use.spec[2 + t->n_spec] = cols;
    return use;
}

int pm_linear_uses(const pm_caps *caps, const pm_linear_shape *shape, const pm_variant *variant, pm_kernel_use uses[2]) {
    if (shape->n_experts)
        return pm_experts_uses(shape, variant, uses);
    if (pm_variant_has_dots(variant) && !has_dots(shape->dtype))
        return 0;
    tiling t = tiling_of(caps, shape->dtype, variant);
    uint32_t whole = whole_cols(&t, shape->n);
    int n = 0;
    if (whole > 0)
        uses[n++] = use_of(&t, shape->epilogue, t.cols_a_group);
    if (whole < shape->n)
        uses[n++] = use_of(&t, shape->epilogue, last_cols(&t, shape->n - whole));
    return n;
}

static tiling pick_tiling(pm_cmd *cmd, const linear *op) {
    const pm_device *dev = pm_cmd_device(cmd);
    pm_linear_shape shape = {.dtype = op->w.dtype,
                             .epilogue = op->epilogue,
                             .rows = op->w.rows,
                             .cols = op->w.cols,
                             .n = op->n,
                             .exact = pm_cmd_is_exact(cmd),
                             .fast = pm_quants_bytes(op->n, op->w.cols) <= pm_cmd_quants(cmd).size && has_dots(op->w.dtype)};
    pm_variant v = pm_variant_linear(dev, &shape);
    pm_cmd_note_product(cmd, &shape, &op->w);
    return tiling_of(&dev->caps, shape.dtype, &v);
}

static pm_slice rows_of(pm_slice plane, uint32_t all, uint32_t row, uint32_t rows) {
    uint64_t row_bytes = plane.size / all;
    return (pm_slice){plane.buffer, plane.offset + row * row_bytes, rows * row_bytes};
}

// The most rows of w that one dispatch may take: bounded by the binding and by the number of groups. A multiple of 256 rows, so
// that each part starts aligned in both planes, and of a group's, so that each group has a part of the squares for itself. 0: the
// rows are too long to be cut so.
static uint32_t rows_a_dispatch(const pm_caps *caps, const pm_tensor *w, uint32_t rows_a_group) {
    uint64_t by_binding = caps->max_binding / (w->data.size / w->rows);
    uint64_t by_groups = (uint64_t)caps->max_groups * rows_a_group;
    uint64_t most = by_binding < by_groups ? by_binding : by_groups;
    if (most >= w->rows)
        return w->rows;
    uint32_t unit = rows_a_group;
    while (unit % 256)
        unit += rows_a_group;
    return (uint32_t)(most / unit * unit);
}

static pm_slice or_else(const pm_tensor *t, pm_slice other) {
    return t ? t->data : other;
}

// ---- x as whole numbers -------------------------------------------------------------------------------------------------

// Words of a row of `cols` columns, whole blocks.
static uint32_t quants_stride(uint32_t cols, bool wide) {
    return cols / 4 * (wide ? 2 : 1) + cols / PM_BLOCK * (uint32_t)sizeof(struct pm_quants) / 4;
}

uint64_t pm_quants_bytes(uint32_t n, uint32_t cols) {
    return (uint64_t)n * quants_stride((uint32_t)pm_round_up(cols, PM_BLOCK), true) * 4;
}

// Nibbles and what stands above them come out of a word by masks, every other column at a time; bytes lie in order. Under the norm
// a byte is not enough: on SmolLM2 the KL divergence from floats would be 0.0037, and so it is 0.0007.
pm_quants_form pm_quants_form_for(pm_dtype dtype, uint32_t epilogue) {
    return (pm_quants_form){.even_odd = dtype != PM_Q8_0, .wide = (epilogue & PM_LINEAR_NORM) != 0};
}

static pm_kernel_use quantize_use(pm_quants_form form) {
    return (pm_kernel_use){.id = PM_K_quantize, .spec = {64, form.even_odd, form.wide}, .n_spec = 3};
}

pm_kernel_use pm_quantize_use(pm_dtype dtype, uint32_t epilogue) {
    return quantize_use(pm_quants_form_for(dtype, epilogue));
}

void pm_op_quantize(pm_cmd *cmd, pm_slice quants, pm_tensor x, pm_quants_form form) {
    struct pm_quantize_args args = {
        .blocks = x.stride / PM_BLOCK, .x_stride = x.stride, .quants_stride = quants_stride(x.stride, form.wide)};
    pm_kernel_use use = quantize_use(form);
    pm_dispatch d = {
        .kernel = use.id,
        .n_spec = use.n_spec,
        .args = &args,
        .args_size = sizeof args,
        .slices = {x.data, quants},
        .groups = {(args.blocks + use.spec[0] - 1) / use.spec[0], x.rows, 1},
        .bytes = (uint64_t)x.rows * (x.cols + args.quants_stride) * 4,
    };
    memcpy(d.spec, use.spec, sizeof(d.spec));
    pm_cmd_dispatch(cmd, &d);
}

static void quantize(pm_cmd *cmd, linear *op) {
    pm_tensor x = op->x;
    x.rows = op->n;
    op->quants = pm_cmd_quants(cmd);
    op->quants.size = pm_quants_bytes(op->n, op->x.cols);
    pm_op_quantize(cmd, op->quants, x, pm_quants_form_for(op->w.dtype, op->epilogue));
}

// ---- dispatches ---------------------------------------------------------------------------------------------------------

// Rows [row, row + rows) of w times rows [n0, n) of x, `cols` of them in a workgroup.
static void dispatch_part(pm_cmd *cmd, const linear *op, const tiling *t, uint32_t row, uint32_t rows, uint32_t n0, uint32_t n,
                          uint32_t cols) {
    const pm_tensor *w = &op->w;
    uint32_t groups = (rows + t->rows_a_group - 1) / t->rows_a_group;
    struct pm_linear_args args = {
        .n0 = n0,
        .n = n,
        .rows = rows,
        .row0 = w->row0 + row,
        .blocks = w->stride / PM_BLOCK,
        .scale_stride = w->scales.buffer ? (uint32_t)(w->scales.size / w->rows / 4) : 0,
        .x_stride = t->by_dots ? quants_stride(w->stride, pm_quants_form_for(w->dtype, op->epilogue).wide) : op->x.stride,
        .y_stride = op->y.stride,
        .n_parts = op->h ? op->h->n_parts : 0,
        .squares_stride = op->h ? op->h->squares.stride : op->squares.stride,
        .inv_dim = 1.0f / (float)op->x.cols,
        .eps = op->h ? op->h->eps : 0,
        .part0 = row / t->rows_a_group,
    };
    pm_slice data = rows_of(w->data, w->rows, row, rows);
    pm_slice unread = data, unwritten = op->y.data; // for bindings that this epilogue does not touch
    bool add = (op->epilogue & PM_LINEAR_ADD) != 0;
    pm_kernel_use use = use_of(t, op->epilogue, cols);
    pm_dispatch d = {
        .kernel = use.id,
        .n_spec = use.n_spec,
        .args = &args,
        .args_size = sizeof args,
        .slices = {data, w->scales.buffer ? rows_of(w->scales, w->rows, row, rows) : unread, t->by_dots ? op->quants : op->x.data,
                   op->h ? op->h->squares.data : unread, or_else(op->bias, unread), or_else(op->gain, unread), op->y.data,
                   add ? op->normed.data : unwritten, add ? op->squares.data : unwritten},
        .groups = {groups, (n - n0 + cols - 1) / cols, 1},
        .bytes = data.size + (uint64_t)rows * args.scale_stride * 4 + (uint64_t)(n - n0) * (op->x.cols + rows) * 4,
        .flops = 2 * (uint64_t)rows * op->x.cols * (n - n0),
        .rows = rows,
        .cols = op->x.cols,
    };
    memcpy(d.spec, use.spec, sizeof(d.spec));
    pm_cmd_dispatch(cmd, &d);
}

// Returns the number of workgroups along the rows of w: the parts of out_squares.
static uint32_t record(pm_cmd *cmd, linear *op) {
    const pm_caps *caps = &pm_cmd_device(cmd)->caps;
    tiling t = pick_tiling(cmd, op);
    if (t.by_dots)
        quantize(cmd, op);
    uint32_t step = rows_a_dispatch(caps, &op->w, t.rows_a_group);
    uint32_t whole = whole_cols(&t, op->n);
    if (step == 0)
        pm_cmd_fail(cmd,
                    pm_fail(PM_ERR_UNSUPPORTED, "a weight of %u rows of %u %s columns cannot be cut into what this device binds",
                            op->w.rows, op->w.cols, pm_dtype_get(op->w.dtype)->name));
    for (uint32_t row = 0; step > 0 && row < op->w.rows; row += step) {
        uint32_t rows = op->w.rows - row < step ? op->w.rows - row : step;
        if (whole > 0)
            dispatch_part(cmd, op, &t, row, rows, 0, whole, t.cols_a_group);
        if (whole < op->n)
            dispatch_part(cmd, op, &t, row, rows, whole, op->n, last_cols(&t, op->n - whole));
    }
    return (op->w.rows + t.rows_a_group - 1) / t.rows_a_group;
}

void pm_op_norm_linear(pm_cmd *cmd, pm_tensor y, const pm_hidden *h, pm_tensor w, const pm_tensor *bias) {
    linear op = {.y = y, .x = h->normed, .w = w, .h = h, .bias = bias, .n = y.rows};
    op.epilogue = PM_LINEAR_NORM | (bias ? PM_LINEAR_BIAS : 0);
    record(cmd, &op);
}

void pm_op_norm_glu(pm_cmd *cmd, pm_tensor y, const pm_hidden *h, pm_tensor w) {
    linear op = {.y = y, .x = h->normed, .w = w, .h = h, .n = y.rows, .epilogue = PM_LINEAR_NORM | PM_LINEAR_GLU};
    record(cmd, &op);
}

void pm_op_linear_add(pm_cmd *cmd, pm_hidden *h, pm_tensor src, pm_tensor w, pm_tensor gain) {
    linear op = {.y = h->x, .x = src, .w = w, .gain = &gain, .normed = h->normed, .squares = h->squares, .n = src.rows};
    op.epilogue = PM_LINEAR_ADD;
    h->n_parts = record(cmd, &op);
}
