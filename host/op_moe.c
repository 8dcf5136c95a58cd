// Mixture of experts: which experts a row goes to, and products with stacks of their matrices. Few rows take their experts one by
// one, so that only the weights of the experts chosen are read; many are grouped by expert, so that each expert's are read once for
// a tile of rows. Which experts those are is data: the dispatches depend on the number of rows alone. A stack that exceeds what can
// be bound at once is cut between experts, and a dispatch leaves the pairs of the others alone.
#include "host/ops.h"
#include "host/vk.h"

#include <string.h>

// What the kernels for experts are given for n rows, the same for all ops on one pm_routes.
typedef struct grouping {
    bool grouped;
    uint32_t tile_cols; // pairs of a tile
    uint32_t n_tiles;   // as many as there can be
} grouping;

static pm_kernel_use workgroup_use(const pm_device *dev, pm_kernel_id kernel, uint32_t usual) {
    return (pm_kernel_use){.id = kernel, .spec = {pm_variant_workgroup(dev, kernel, usual)}, .n_spec = 1};
}

static pm_kernel_use group_use(const pm_device *dev) {
    return workgroup_use(dev, PM_K_group, 128);
}

static pm_kernel_use sum_use(const pm_device *dev) {
    return workgroup_use(dev, PM_K_experts_sum, 64);
}

// Whether some variant that takes experts one by one is right for each type, as far as is known.
static bool one_by_one_works(const pm_device *dev, const pm_routes *r) {
    for (int d = 0; d < PM_DTYPE_COUNT && pm_selftest_found_bad(dev); d++)
        for (int add = 0; add < 2; add++) {
            pm_linear_shape shape = {.dtype = (pm_dtype)d, .n = 1, .n_experts = r->n_experts, .n_used = r->n_used, .tile = 1};
            shape.epilogue = add ? PM_LINEAR_ADD : PM_LINEAR_NORM | PM_LINEAR_GLU;
            if (!pm_variant_any_right(dev, &shape))
                return false;
        }
    return true;
}

// Which way is faster depends on the number of rows; where the kernels of one are not right, it is the other.
static bool is_grouped(const pm_device *dev, const pm_routes *r) {
    pm_kernel_use grouping_use = group_use(dev), summing_use = sum_use(dev);
    if (pm_selftest_is_bad(dev, &grouping_use) || pm_selftest_is_bad(dev, &summing_use))
        return false;
    return r->n > dev->caps.matvec.max_cols || !one_by_one_works(dev, r);
}

uint32_t pm_experts_tile_cols(const pm_caps *caps, uint32_t epilogue) {
    if (!(epilogue & PM_LINEAR_GROUPED))
        return 1;
    return caps->use_tiles ? PM_TILE_COLS : caps->matvec_batch.max_cols;
}

static grouping group_of(const pm_device *dev, const pm_routes *r) {
    const pm_caps *caps = &dev->caps;
    if (!is_grouped(dev, r))
        return (grouping){.tile_cols = 1};
    uint32_t pairs = r->n * r->n_used, experts = pairs < r->n_experts ? pairs : r->n_experts;
    uint32_t cols = pm_experts_tile_cols(caps, PM_LINEAR_GROUPED);
    return (grouping){true, cols, (pairs + experts * (cols - 1)) / cols}; // each expert's last tile may hold a single pair
}

uint32_t pm_experts_tile(const pm_device *dev, const pm_routes *r) {
    return group_of(dev, r).tile_cols;
}

uint64_t pm_routes_bytes(uint32_t n, uint32_t n_used) {
    uint64_t pairs = (uint64_t)n * n_used; // a tile holds at least one of them
    return pairs * (sizeof(struct pm_route) + sizeof(uint32_t) + sizeof(struct pm_tile));
}

// ---- route ------------------------------------------------------------------------------------------------------------

void pm_experts_group(pm_cmd *cmd, const pm_routes *r) {
    grouping g = group_of(pm_cmd_device(cmd), r);
    struct pm_group_args args = {
        .n_experts = r->n_experts, .n_pairs = r->n * r->n_used, .tile_cols = g.tile_cols, .n_tiles = g.n_tiles};
    pm_dispatch d = {
        .kernel = PM_K_group,
        .spec = {group_use(pm_cmd_device(cmd)).spec[0]},
        .n_spec = 1,
        .args = &args,
        .args_size = sizeof args,
        .slices = {r->data},
        .groups = {1, 1, 1},
        .bytes = pm_routes_bytes(r->n, r->n_used),
    };
    pm_cmd_dispatch(cmd, &d);
}

void pm_op_route(pm_cmd *cmd, const pm_routes *r, pm_tensor logits, bool normed) {
    struct pm_route_args args = {.n_experts = r->n_experts, .n_used = r->n_used, .logits_stride = logits.stride, .normed = normed};
    pm_dispatch d = {
        .kernel = PM_K_route,
        .spec = {pm_variant_workgroup(pm_cmd_device(cmd), PM_K_route, 64)},
        .n_spec = 1,
        .args = &args,
        .args_size = sizeof args,
        .slices = {logits.data, r->data},
        .groups = {r->n, 1, 1},
        .bytes = (uint64_t)r->n * r->n_experts * 4,
    };
    pm_cmd_dispatch(cmd, &d);
    if (is_grouped(pm_cmd_device(cmd), r))
        pm_experts_group(cmd, r);
}

// ---- products ---------------------------------------------------------------------------------------------------------

typedef struct product {
    pm_tensor y, x, w;
    const pm_routes *routes;
    const pm_hidden *h; // the norm's factors come from here; NULL: no norm
    const pm_tensor *gain;
    pm_tensor normed, squares; // written with PM_LINEAR_ADD
    uint32_t epilogue;
    uint32_t columns; // workgroups: rows of x, pairs or tiles
} product;

typedef struct tiling {
    pm_kernel_id kernel;
    uint32_t spec[5]; // but for number 1, the epilogue
    int n_spec;
    uint32_t rows_a_group;
} tiling;

static tiling matvec_tiling(pm_dtype dtype, pm_matvec_shape s, uint32_t cols) {
    static const pm_kernel_id kernels[PM_DTYPE_COUNT] = {
#define X(id, small, ggml, elements, bytes) [PM_##id] = PM_K_experts_matvec_##small,
        PM_DTYPES(X)
#undef X
    };
    return (tiling){kernels[dtype], {s.workgroup, 0, s.lanes, s.rows, cols}, 5, s.workgroup / s.lanes * s.rows};
}

static tiling matmul_tiling(pm_dtype dtype) {
    static const pm_kernel_id kernels[PM_DTYPE_COUNT] = {
#define X(id, small, ggml, elements, bytes) [PM_##id] = PM_K_experts_matmul_##small,
        PM_DTYPES(X)
#undef X
    };
    return (tiling){kernels[dtype], {PM_TILE_ROWS * PM_TILE_COLS / 16}, 2, PM_TILE_ROWS};
}

static tiling tiling_of(const pm_linear_shape *s, const pm_variant *v) {
    return v->by == PM_BY_MATVEC ? matvec_tiling(s->dtype, v->shape, s->tile) : matmul_tiling(s->dtype);
}

int pm_experts_uses(const pm_linear_shape *s, const pm_variant *v, pm_kernel_use uses[2]) {
    bool grouped = (s->epilogue & PM_LINEAR_GROUPED) != 0;
    if (pm_variant_has_dots(v) || pm_variant_is_matrices(v) || v->by == PM_BY_SUBGROUPS ||
        (v->by == PM_BY_TILES && (!grouped || s->tile > PM_TILE_COLS)))
        return 0;
    tiling t = tiling_of(s, v);
    uses[0] = (pm_kernel_use){.id = t.kernel, .n_spec = t.n_spec};
    memcpy(uses[0].spec, t.spec, sizeof(t.spec));
    uses[0].spec[1] = s->epilogue;
    return 1;
}

static tiling pick_tiling(pm_cmd *cmd, const product *op, const grouping *g) {
    const pm_routes *r = op->routes;
    pm_linear_shape shape = {.dtype = op->w.dtype,
                             .epilogue = op->epilogue,
                             .rows = op->w.rows / r->n_experts,
                             .cols = op->w.cols,
                             .n = r->n,
                             .n_experts = r->n_experts,
                             .n_used = r->n_used,
                             .tile = g->tile_cols};
    pm_variant v = pm_variant_linear(pm_cmd_device(cmd), &shape);
    pm_cmd_note_product(cmd, &shape, &op->w);
    return tiling_of(&shape, &v);
}

static pm_slice experts_of(pm_slice plane, uint32_t all, uint32_t expert, uint32_t n) {
    uint64_t bytes = plane.size / all;
    return (pm_slice){plane.buffer, plane.offset + expert * bytes, n * bytes};
}

// The most experts that one dispatch may take, so that the next part starts aligned in both planes: after a multiple of 256 rows.
// 0: not even these can be bound.
static uint32_t experts_a_dispatch(const pm_caps *caps, const pm_tensor *w, uint32_t n_experts) {
    uint64_t most = caps->max_binding / (w->data.size / n_experts);
    uint32_t rows = w->rows / n_experts, unit = 1;
    if (most >= n_experts)
        return n_experts;
    while ((uint64_t)unit * rows % 256)
        unit *= 2;
    return (uint32_t)(most / unit * unit);
}

// The experts [expert, expert + n).
static void dispatch_part(pm_cmd *cmd, const product *op, const tiling *t, uint32_t expert, uint32_t n) {
    const pm_tensor *w = &op->w;
    const pm_routes *r = op->routes;
    uint32_t rows = w->rows / r->n_experts, n_pairs = r->n * r->n_used;
    bool add = (op->epilogue & PM_LINEAR_ADD) != 0;
    struct pm_linear_args args = {
        .n = op->x.rows,
        .rows = rows,
        .blocks = w->stride / PM_BLOCK,
        .scale_stride = w->scales.buffer ? (uint32_t)(w->scales.size / w->rows / 4) : 0,
        .x_stride = op->x.stride,
        .y_stride = op->y.stride,
        .n_parts = op->h ? op->h->n_parts : 0,
        .squares_stride = op->h ? op->h->squares.stride : op->squares.stride,
        .inv_dim = 1.0f / (float)op->x.cols,
        .eps = op->h ? op->h->eps : 0,
        .expert0 = expert,
        .n_experts = n,
        .n_used = r->n_used,
        .n_pairs = n_pairs,
    };
    pm_slice data = experts_of(w->data, r->n_experts, expert, n);
    pm_slice scales = w->scales.buffer ? experts_of(w->scales, r->n_experts, expert, n) : data;
    uint32_t read = n_pairs < n ? n_pairs : n; // experts, at most
    pm_dispatch d = {
        .kernel = t->kernel,
        .n_spec = t->n_spec,
        .args = &args,
        .args_size = sizeof args,
        .slices = {data, scales, op->x.data, op->h ? op->h->squares.data : data, r->data, add ? op->gain->data : data, op->y.data,
                   add ? op->normed.data : op->y.data, add ? op->squares.data : op->y.data},
        .groups = {(rows + t->rows_a_group - 1) / t->rows_a_group, op->columns, 1},
        .bytes = (data.size / n + (w->scales.buffer ? scales.size / n : 0)) * read + (uint64_t)n_pairs * (op->x.cols + rows) * 4,
        .flops = 2 * (uint64_t)n_pairs * rows * op->x.cols,
        .rows = rows,
        .cols = op->x.cols,
    };
    for (int i = 0; i < t->n_spec; i++)
        d.spec[i] = i == 1 ? op->epilogue : t->spec[i];
    pm_cmd_dispatch(cmd, &d);
}

// Returns the number of workgroups along the rows of a matrix: the parts of out_squares.
static uint32_t record(pm_cmd *cmd, const product *op, const grouping *g) {
    const pm_caps *caps = &pm_cmd_device(cmd)->caps;
    uint32_t n_experts = op->routes->n_experts, rows = op->w.rows / n_experts;
    uint32_t step = experts_a_dispatch(caps, &op->w, n_experts);
    tiling t = pick_tiling(cmd, op, g);
    if (step == 0)
        pm_cmd_fail(cmd,
                    pm_fail(PM_ERR_UNSUPPORTED,
                            "the weights of %u experts, each %u rows of %u %s columns, cannot be cut into what this device binds",
                            n_experts, rows, op->w.cols, pm_dtype_get(op->w.dtype)->name));
    for (uint32_t expert = 0; step > 0 && expert < n_experts; expert += step)
        dispatch_part(cmd, op, &t, expert, n_experts - expert < step ? n_experts - expert : step);
    return (rows + t.rows_a_group - 1) / t.rows_a_group;
}

void pm_op_experts_glu(pm_cmd *cmd, pm_tensor y, const pm_hidden *h, pm_tensor w, const pm_routes *routes) {
    grouping g = group_of(pm_cmd_device(cmd), routes);
    product op = {.y = y, .x = h->normed, .w = w, .h = h, .routes = routes};
    op.epilogue = PM_LINEAR_NORM | PM_LINEAR_GLU | (g.grouped ? PM_LINEAR_GROUPED : 0);
    op.columns = g.grouped ? g.n_tiles : routes->n * routes->n_used;
    record(cmd, &op, &g);
}

void pm_experts_sum(pm_cmd *cmd, pm_hidden *h, pm_tensor products, pm_tensor gain, const pm_routes *r) {
    h->n_parts = (h->x.cols + PM_SUM_COLS - 1) / PM_SUM_COLS;
    struct pm_experts_sum_args args = {
        .dim = h->x.cols, .n_used = r->n_used, .stride = h->x.stride, .squares_stride = h->squares.stride};
    pm_dispatch d = {
        .kernel = PM_K_experts_sum,
        .spec = {sum_use(pm_cmd_device(cmd)).spec[0]},
        .n_spec = 1,
        .args = &args,
        .args_size = sizeof args,
        .slices = {products.data, gain.data, h->x.data, h->normed.data, h->squares.data},
        .groups = {h->n_parts, r->n, 1},
        .bytes = (uint64_t)r->n * h->x.cols * (r->n_used + 3) * 4,
    };
    pm_cmd_dispatch(cmd, &d);
}

void pm_experts_multiply(pm_cmd *cmd, pm_tensor products, pm_tensor src, pm_tensor w, const pm_routes *routes) {
    grouping g = group_of(pm_cmd_device(cmd), routes);
    product op = {.y = products, .x = src, .w = w, .routes = routes, .epilogue = PM_LINEAR_GROUPED, .columns = g.n_tiles};
    record(cmd, &op, &g);
}

void pm_op_experts_add(pm_cmd *cmd, pm_hidden *h, pm_tensor src, pm_tensor w, pm_tensor gain, const pm_routes *routes,
                       pm_slice products) {
    grouping g = group_of(pm_cmd_device(cmd), routes);
    if (g.grouped) {
        pm_tensor y = pm_activation(products, src.rows, h->x.cols);
        pm_experts_multiply(cmd, y, src, w, routes);
        pm_experts_sum(cmd, h, y, gain, routes);
        return;
    }
    product op = {.y = h->x, .x = src, .w = w, .gain = &gain, .routes = routes, .normed = h->normed, .squares = h->squares};
    op.epilogue = PM_LINEAR_ADD;
    op.columns = routes->n;
    h->n_parts = record(cmd, &op, &g);
}
