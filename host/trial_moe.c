// Trials of what mixtures of experts need: route, group, experts_matvec and experts_matmul of every type, experts_sum. What a
// kernel reads is made here, not by the kernels before it: each is judged alone.
#include "host/lab.h"

#include <math.h>
#include <string.h>

// ---- routes -------------------------------------------------------------------------------------------------------------

// The greatest of each row's logits, two of which are equal.
void pm_try_route(pm_lab *lab, const pm_kernel_use *use, const char *type) {
    enum { N = 2, USED = 4 };
    (void)type;
    uint32_t n_experts = 2 * use->spec[0] + 5 < PM_MAX_EXPERTS ? 2 * use->spec[0] + 5 : PM_MAX_EXPERTS, experts[N * USED];
    float *logits = pm_lab_floats(lab, (size_t)N * n_experts, -4, 4);
    logits[1] = logits[n_experts - 1] = 5;
    pm_routes r = {pm_lab_take(lab, pm_routes_bytes(N, USED)), N, n_experts, USED};
    pm_tensor t = pm_lab_activation(lab, N, n_experts, logits);
    double weights[N * USED];
    lab->dev->caps.matvec.max_cols = N; // not to be grouped
    if (!pm_lab_ok(lab))
        return;
    for (int normed = 0; normed < 2; normed++) {
        pm_lab_begin(lab);
        pm_op_route(lab->cmd, &r, t, normed);
        if (!pm_lab_run(lab))
            return;
        const uint32_t *got = pm_lab_result(lab, r.data);
        pm_ref_route(&(pm_ref_route_args){N, n_experts, USED, logits, normed}, experts, weights);
        for (uint32_t i = 0; i < N * USED; i++) {
            pm_lab_compare_exactly(lab, got[2 * i] == experts[i]);
            pm_lab_compare(lab, pm_lab_float(got, 2 * i + 1), weights[i], 4 * pm_lab_tolerance(n_experts, weights[i]));
        }
    }
}

// What kernels for experts are given, on the host.
typedef struct host_routes {
    uint32_t n_pairs, n_experts;
    struct pm_route *pairs;
    uint32_t *order;       // pairs, expert by expert
    struct pm_tile *tiles; // n_pairs of them, those that are empty behind the others
} host_routes;

// The first place of a row goes to expert 0, so that it has more than a tile; expert 1 has none.
static host_routes draw_routes(pm_lab *lab, uint32_t n, uint32_t n_used, uint32_t n_experts) {
    host_routes h = {.n_pairs = n * n_used, .n_experts = n_experts};
    h.pairs = pm_lab_room(lab, h.n_pairs, sizeof(*h.pairs));
    h.order = pm_lab_room(lab, h.n_pairs, sizeof(*h.order));
    h.tiles = pm_lab_room(lab, h.n_pairs, sizeof(*h.tiles));
    float *weights = pm_lab_floats(lab, h.n_pairs, 0.1f, 0.9f);
    for (uint32_t i = 0; i < h.n_pairs; i++) {
        uint32_t other = 2 + pm_lab_draw(lab) % (n_experts - 2);
        h.pairs[i] = (struct pm_route){i % n_used == 0 ? 0 : other, weights[i]};
    }
    return h;
}

static void sort_routes(host_routes *h, uint32_t tile_cols) {
    uint32_t n = 0, n_tiles = 0;
    for (uint32_t e = 0; e < h->n_experts; e++) {
        uint32_t first = n;
        for (uint32_t i = 0; i < h->n_pairs; i++)
            if (h->pairs[i].expert == e)
                h->order[n++] = i;
        for (; first < n; first += tile_cols)
            h->tiles[n_tiles++] = (struct pm_tile){e, first, n - first < tile_cols ? n - first : tile_cols};
    }
}

static pm_routes put_routes(pm_lab *lab, const host_routes *h, uint32_t n, bool sorted) {
    pm_routes r = {pm_lab_take(lab, pm_routes_bytes(n, h->n_pairs / n)), n, h->n_experts, h->n_pairs / n};
    uint32_t *words = pm_lab_words(lab, r.data);
    memcpy(words, h->pairs, h->n_pairs * sizeof(*h->pairs));
    if (sorted) {
        memcpy(words + 2 * h->n_pairs, h->order, h->n_pairs * sizeof(*h->order));
        memcpy(words + 3 * h->n_pairs, h->tiles, h->n_pairs * sizeof(*h->tiles));
    }
    return r;
}

// More pairs than are loaded at once.
void pm_try_group(pm_lab *lab, const pm_kernel_use *use, const char *type) {
    enum { N = 211, USED = 5, EXPERTS = 37 };
    (void)use, (void)type;
    lab->dev->caps.matvec.max_cols = 1; // to be grouped
    host_routes h = draw_routes(lab, N, USED, EXPERTS);
    pm_routes r = put_routes(lab, &h, N, false);
    if (!pm_lab_ok(lab))
        return;
    sort_routes(&h, pm_experts_tile(lab->dev, &r));
    pm_lab_begin(lab);
    pm_experts_group(lab->cmd, &r);
    if (!pm_lab_run(lab))
        return;
    const uint32_t *got = pm_lab_result(lab, r.data), *tiles = got + 3 * h.n_pairs;
    pm_lab_compare_exactly(lab, !memcmp(got, h.pairs, h.n_pairs * sizeof(*h.pairs)));
    pm_lab_compare_exactly(lab, !memcmp(got + 2 * h.n_pairs, h.order, h.n_pairs * sizeof(*h.order)));
    for (uint32_t t = 0; t < h.n_pairs && (h.tiles[t].count || tiles[3 * t + 2] == 0); t++) // behind the empty ones there are none
        pm_lab_compare_exactly(lab, h.tiles[t].count ? !memcmp(tiles + 3 * t, &h.tiles[t], sizeof(*h.tiles)) : true);
}

void pm_try_experts_sum(pm_lab *lab, const pm_kernel_use *use, const char *type) {
    enum { N = 2, USED = 3, DIM = PM_SUM_COLS + 45 };
    (void)use, (void)type;
    float *products = pm_lab_floats(lab, (size_t)N * USED * DIM, -2, 2), *x = pm_lab_floats(lab, (size_t)N * DIM, -2, 2);
    float *gain = pm_lab_floats(lab, DIM, -0.5f, 1.5f);
    double *want = pm_lab_doubles(lab, (size_t)N * DIM), *size = pm_lab_doubles(lab, (size_t)N * DIM);
    pm_tensor packed_gain = pm_lab_vector(lab, gain, DIM), in = pm_lab_activation(lab, N * USED, DIM, products);
    pm_hidden h = pm_lab_hidden(lab, N, DIM, x);
    pm_routes r = {.n = N, .n_experts = USED, .n_used = USED};
    if (!pm_lab_ok(lab))
        return;
    for (uint32_t i = 0; i < N * DIM; i++) {
        want[i] = x[i];
        for (uint32_t k = 0; k < USED; k++)
            want[i] += products[(size_t)(i / DIM * USED + k) * DIM + i % DIM];
        size[i] = 2 * (1 + USED);
    }
    pm_lab_begin(lab);
    pm_experts_sum(lab->cmd, &h, in, packed_gain, &r);
    if (pm_lab_run(lab))
        pm_lab_compare_hidden(lab, &h, gain, want, size, USED);
}

// ---- products -----------------------------------------------------------------------------------------------------------

enum { EXPERTS = 4, USED = 2, MAX_ROWS = 383 };

typedef struct product {
    pm_dtype dtype;
    uint32_t epilogue, rows, cols, n; // rows: of an expert
} product;

// One pair's product: of row `at` of x.
static void multiply(const product *p, const host_routes *h, const pm_lab_matrix *w, pm_ref_linear_args args, uint32_t pair,
                     double *want, double *size) {
    args.n = 1;
    args.rows = p->rows;
    args.cols = p->cols;
    args.w = w->values + (size_t)h->pairs[pair].expert * p->rows * p->cols;
    pm_ref_linear(&args, want, size);
}

static void compare_glu(pm_lab *lab, const product *p, const host_routes *h, const pm_lab_matrix *w, pm_tensor y, const float *x,
                        const float *squares) {
    uint32_t cols = p->rows / 2;
    double *want = pm_lab_doubles(lab, (size_t)h->n_pairs * cols), *size = pm_lab_doubles(lab, (size_t)h->n_pairs * cols);
    for (uint32_t i = 0; i < h->n_pairs; i++) {
        uint32_t row = i / USED;
        size_t at = (size_t)i * cols;
        multiply(
            p, h, w,
            (pm_ref_linear_args){.x = x + (size_t)row * p->cols, .squares = squares + row, .n_parts = 1, .eps = 1e-6f, .glu = true},
            i, want + at, size + at);
        for (uint32_t k = 0; k < cols; k++) {
            want[at + k] *= h->pairs[i].weight;
            size[at + k] *= h->pairs[i].weight;
        }
    }
    pm_lab_compare_products(lab, y, want, size, p->cols);
}

static void try_glu(pm_lab *lab, const product *p, const host_routes *h, const pm_routes *r) {
    pm_lab_matrix w = pm_lab_weights(lab, p->dtype, EXPERTS * p->rows, p->cols);
    float *x = pm_lab_floats(lab, (size_t)p->n * p->cols, -2, 2);
    float *squares = pm_lab_floats(lab, p->n, 0.3f * (float)p->cols, (float)p->cols * 4);
    pm_hidden in = {.normed = pm_lab_activation(lab, p->n, p->cols, x),
                    .squares = pm_lab_activation(lab, p->n, p->cols, NULL),
                    .n_parts = 1,
                    .eps = 1e-6f};
    for (uint32_t i = 0; i < p->n; i++)
        memcpy(pm_lab_words(lab, in.squares.data) + (size_t)i * in.squares.stride, squares + i, 4);
    pm_tensor y = pm_lab_activation(lab, h->n_pairs, p->rows / 2, NULL);
    if (!pm_lab_ok(lab))
        return;
    pm_lab_begin(lab);
    pm_op_experts_glu(lab->cmd, y, &in, w.packed, r);
    if (pm_lab_run(lab))
        compare_glu(lab, p, h, &w, y, x, squares);
}

// The products alone, as rows that are grouped have them.
static void try_multiply(pm_lab *lab, const product *p, const host_routes *h, const pm_routes *r) {
    pm_lab_matrix w = pm_lab_weights(lab, p->dtype, EXPERTS * p->rows, p->cols);
    float *x = pm_lab_floats(lab, (size_t)h->n_pairs * p->cols, -2, 2);
    pm_tensor in = pm_lab_activation(lab, h->n_pairs, p->cols, x), y = pm_lab_activation(lab, h->n_pairs, p->rows, NULL);
    size_t count = (size_t)h->n_pairs * p->rows;
    double *want = pm_lab_doubles(lab, count), *size = pm_lab_doubles(lab, count);
    if (!pm_lab_ok(lab))
        return;
    pm_lab_begin(lab);
    pm_experts_multiply(lab->cmd, y, in, w.packed, r);
    if (!pm_lab_run(lab))
        return;
    for (uint32_t i = 0; i < h->n_pairs; i++)
        multiply(p, h, &w, (pm_ref_linear_args){.x = x + (size_t)i * p->cols}, i, want + (size_t)i * p->rows,
                 size + (size_t)i * p->rows);
    pm_lab_compare_products(lab, y, want, size, p->cols);
}

// Products that are added up in the kernel, one row's after the other's.
static void compare_added(pm_lab *lab, const product *p, const host_routes *h, const pm_lab_matrix *w, const pm_hidden *out,
                          const float *src, const float *x, const float *gain) {
    size_t count = (size_t)p->n * p->rows;
    double *want = pm_lab_doubles(lab, count), *size = pm_lab_doubles(lab, count);
    double *part = pm_lab_doubles(lab, p->rows), *part_size = pm_lab_doubles(lab, p->rows);
    for (size_t i = 0; i < count; i++) {
        want[i] = x[i];
        size[i] = fabs(x[i]);
    }
    for (uint32_t i = 0; i < h->n_pairs; i++) {
        multiply(p, h, w, (pm_ref_linear_args){.x = src + (size_t)i * p->cols}, i, part, part_size);
        for (uint32_t k = 0; k < p->rows; k++) {
            want[(size_t)(i / USED) * p->rows + k] += part[k];
            size[(size_t)(i / USED) * p->rows + k] += part_size[k];
        }
    }
    pm_lab_compare_hidden(lab, out, gain, want, size, p->cols * USED);
}

static void try_add(pm_lab *lab, const product *p, const host_routes *h, const pm_routes *r) {
    pm_lab_matrix w = pm_lab_weights(lab, p->dtype, EXPERTS * p->rows, p->cols);
    float *src = pm_lab_floats(lab, (size_t)h->n_pairs * p->cols, -2, 2), *x = pm_lab_floats(lab, (size_t)p->n * p->rows, -2, 2);
    float *gain = pm_lab_floats(lab, p->rows, -0.5f, 1.5f);
    pm_tensor packed_gain = pm_lab_vector(lab, gain, p->rows), in = pm_lab_activation(lab, h->n_pairs, p->cols, src);
    pm_hidden out = pm_lab_hidden(lab, p->n, p->rows, x);
    if (!pm_lab_ok(lab))
        return;
    pm_lab_begin(lab);
    pm_op_experts_add(lab->cmd, &out, in, w.packed, packed_gain, r, (pm_slice){0});
    if (pm_lab_run(lab))
        compare_added(lab, p, h, &w, &out, src, x, gain);
}

// As trial_linear.c's: rows that leave the second group unfinished, an odd number of blocks and more than lanes share, columns that
// fill no block; where pairs are grouped a whole tile, parts of one, and experts without any.
static void try_laid_out(pm_lab *lab, product *p, const pm_variant *v, uint32_t lanes, uint32_t group_rows, uint32_t tile) {
    uint32_t element = pm_dtype_get(p->dtype)->block_elements;
    bool grouped = (p->epilogue & PM_LINEAR_GROUPED) != 0;
    p->n = grouped ? tile + 1 : 2;
    p->rows = 2 * group_rows - 1 < MAX_ROWS ? 2 * group_rows - 1 : MAX_ROWS;
    p->rows += (p->epilogue & PM_LINEAR_GLU) && p->rows % 2;
    p->cols = (lanes > 1 ? lanes + 3 : 3) * PM_BLOCK;
    p->cols = element > 1 ? (uint32_t)pm_round_up(p->cols, element) : p->cols - 3;
    pm_caps *caps = &lab->dev->caps; // say how rows are grouped
    caps->matvec.max_cols = grouped ? 1 : p->n;
    caps->use_tiles = tile == PM_TILE_COLS;
    caps->matvec_batch.max_cols = tile;
    host_routes h = draw_routes(lab, p->n, USED, EXPERTS);
    sort_routes(&h, tile);
    pm_routes r = put_routes(lab, &h, p->n, grouped);
    lab->dev->forced = v;
    if (p->epilogue & PM_LINEAR_ADD)
        try_add(lab, p, &h, &r);
    else if (p->epilogue & PM_LINEAR_GLU)
        try_glu(lab, p, &h, &r);
    else
        try_multiply(lab, p, &h, &r);
    lab->dev->forced = NULL;
}

void pm_try_experts_matvec(pm_lab *lab, const pm_kernel_use *use, const char *type) {
    const uint32_t *spec = use->spec;
    product p = {.epilogue = spec[1]};
    pm_variant v = {.by = PM_BY_MATVEC, .shape = {spec[0], spec[2], spec[3], spec[4]}};
    if (pm_lab_read_dtype(type, &p.dtype))
        try_laid_out(lab, &p, &v, spec[2], spec[0] / spec[2] * spec[3], spec[4]);
}

void pm_try_experts_matmul(pm_lab *lab, const pm_kernel_use *use, const char *type) {
    product p = {.epilogue = use->spec[1]};
    pm_variant v = {.by = PM_BY_TILES};
    if (pm_lab_read_dtype(type, &p.dtype))
        try_laid_out(lab, &p, &v, 1, PM_TILE_ROWS, PM_TILE_COLS);
}
