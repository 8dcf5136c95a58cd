// pm_op_route, pm_op_experts_glu and pm_op_experts_add against reference.c: every type of weights, experts taken one by one and
// grouped, rows that all go to the same ones, and stacks that must be cut into parts.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "check_layout.h"

enum { MEGABYTES = 24 };

// How the experts of a row come about.
typedef enum spread { ANY, ALL_ALIKE } spread;

typedef struct moe_case {
    pm_dtype dtype;
    uint32_t n, n_experts, n_used;
    uint32_t dim, ffn; // columns of the experts' gate and up, and their rows; of down the other way round
    spread spread;
    bool normed;
} moe_case;

// ---- routes -----------------------------------------------------------------------------------------------------------

static pm_routes take_routes(uint32_t n, uint32_t n_experts, uint32_t n_used) {
    return (pm_routes){check_out(pm_routes_bytes(n, n_used) / 4), n, n_experts, n_used};
}

static struct pm_route got_route(const pm_routes *r, uint32_t pair) {
    struct pm_route route;
    memcpy(&route, check_got(r->data) + 2 * (size_t)pair, sizeof route);
    return route;
}

static float *random_logits(uint32_t n, uint32_t n_experts, spread s) {
    float *logits = check_normals((size_t)n * n_experts, 2);
    for (uint32_t r = 1; r < n && s == ALL_ALIKE; r++)
        memcpy(logits + (size_t)r * n_experts, logits, n_experts * sizeof(float));
    return logits;
}

static void compare_routes(const pm_routes *r, const float *logits, bool normed) {
    uint32_t pairs = r->n * r->n_used, *experts = check_alloc(pairs, sizeof *experts);
    double *weights = check_doubles(pairs);
    pm_ref_route(&(pm_ref_route_args){r->n, r->n_experts, r->n_used, logits, normed}, experts, weights);
    check_compare c = {.name = "weight"};
    for (uint32_t i = 0; i < pairs; i++) {
        struct pm_route got = got_route(r, i);
        if (got.expert != experts[i])
            fail_msg("%s: pair %u goes to expert %u, wanted %u", check_what, i, got.expert, experts[i]);
        check_one(&c, i, got.weight, weights[i], 4 * check_tolerance(r->n_experts, weights[i])); // exp is off by as much as |x| + 3
    }
    check_verdict(&c, r->n_used);
}

static void route_case(uint32_t n, uint32_t n_experts, uint32_t n_used, spread s, bool normed) {
    check_begin();
    check_case("route of %u rows to %u of %u%s", n, n_used, n_experts, normed ? ", normed" : "");
    float *logits = random_logits(n, n_experts, s);
    pm_tensor t = check_in_tensor(n, n_experts, logits);
    pm_routes routes = take_routes(n, n_experts, n_used);
    check_record();
    pm_op_route(check_cmd, &routes, t, normed);
    check_run();
    compare_routes(&routes, logits, normed);
}

static void rows_find_their_experts(void **state) {
    (void)state;
    for (int normed = 0; normed < 2; normed++) {
        route_case(1, 128, 8, ANY, normed);
        route_case(2, 1, 1, ANY, normed);
        route_case(3, 7, 7, ANY, normed);
        route_case(5, 16, 4, ANY, normed);
        route_case(37, 60, 5, ANY, normed);
        route_case(150, 128, 8, ANY, normed); // more pairs than `group` loads at once
        route_case(9, PM_MAX_EXPERTS, 64, ANY, normed);
        route_case(33, 128, 8, ALL_ALIKE, normed);
    }
}

// Of equal logits the first win; what is no number, or beyond all numbers, leaves an order and experts that exist.
static void ties_and_no_numbers(void **state) {
    enum { N = 3, EXPERTS = 6, USED = 4 };
    const float logits[N * EXPERTS] = {1, 1, 2, 1, 2, 1, NAN, 0, NAN, 1, NAN, NAN, INFINITY, -INFINITY, 0, INFINITY, -INFINITY, 0};
    static const uint32_t wanted[N * USED] = {2, 4, 0, 1, 3, 1, 0, 2, 0, 3, 2, 5};
    (void)state;
    check_begin();
    check_case("ties and no numbers");
    pm_tensor t = check_in_tensor(N, EXPERTS, logits);
    pm_routes routes = take_routes(N, EXPERTS, USED);
    check_record();
    pm_op_route(check_cmd, &routes, t, true);
    check_run();
    for (uint32_t i = 0; i < N * USED; i++) {
        struct pm_route got = got_route(&routes, i);
        assert_int_equal(got.expert, wanted[i]);
        assert_true(got.weight >= 0 && got.weight <= 1);
    }
}

// ---- products ---------------------------------------------------------------------------------------------------------

static uint64_t weight_bytes; // of the last case's data plane

// Gate and up of all experts, interleaved as the device has them.
static pm_tensor pack_gate_up(const moe_case *c, float **values) {
    uint32_t rows = c->n_experts * c->ffn;
    float scale = 1 / sqrtf((float)c->dim);
    check_matrix gate = check_weights(c->dtype, rows, c->dim, scale), up = check_weights(c->dtype, rows, c->dim, scale);
    pm_pack_part parts[] = {{gate.blocks, c->dtype, rows}, {up.blocks, c->dtype, rows}};
    *values = check_alloc((size_t)2 * rows * c->dim, sizeof(float));
    for (size_t r = 0; r < rows; r++) {
        memcpy(*values + 2 * r * c->dim, gate.values + r * c->dim, c->dim * sizeof(float));
        memcpy(*values + (2 * r + 1) * c->dim, up.values + r * c->dim, c->dim * sizeof(float));
    }
    return check_pack(parts, 2, c->dim, PM_PACK_INTERLEAVED);
}

static void compare_glu(const moe_case *c, const pm_routes *r, pm_tensor y, const float *normed, const float *squares,
                        const float *values, float eps) {
    uint32_t pairs = c->n * c->n_used;
    double *want = check_doubles((size_t)pairs * c->ffn), *size = check_doubles((size_t)pairs * c->ffn);
    for (uint32_t i = 0; i < pairs; i++) {
        struct pm_route route = got_route(r, i);
        double *to = want + (size_t)i * c->ffn, *to_size = size + (size_t)i * c->ffn;
        uint32_t row = i / c->n_used;
        pm_ref_linear(&(pm_ref_linear_args){.n = 1,
                                            .rows = 2 * c->ffn,
                                            .cols = c->dim,
                                            .x = normed + (size_t)row * c->dim,
                                            .w = values + (size_t)route.expert * 2 * c->ffn * c->dim,
                                            .squares = squares + row,
                                            .n_parts = 1,
                                            .eps = eps,
                                            .glu = true},
                      to, to_size);
        for (uint32_t k = 0; k < c->ffn; k++) {
            to[k] *= route.weight;
            to_size[k] *= route.weight;
        }
    }
    check_near("y", y, want, size, c->dim);
}

static void run_glu(const moe_case *c) {
    float *values, *logits = random_logits(c->n, c->n_experts, c->spread);
    pm_tensor w = pack_gate_up(c, &values), t = check_in_tensor(c->n, c->n_experts, logits);
    weight_bytes = w.data.size;
    float *normed = check_normals((size_t)c->n * c->dim, 3), *squares = check_uniforms(c->n, 0, 18 * (float)c->dim);
    pm_hidden h = {.x = check_in_tensor(c->n, c->dim, NULL),
                   .normed = check_in_tensor(c->n, c->dim, normed),
                   .squares = check_in_tensor(c->n, c->dim, NULL),
                   .n_parts = 1,
                   .eps = 1e-6f};
    for (uint32_t r = 0; r < c->n; r++)
        memcpy(check_words_at(h.squares.data) + (size_t)r * h.squares.stride, squares + r, 4);
    pm_tensor y = check_out_tensor(c->n * c->n_used, c->ffn, c->ffn, NULL);
    pm_routes routes = take_routes(c->n, c->n_experts, c->n_used);
    check_record();
    pm_op_route(check_cmd, &routes, t, c->normed);
    pm_op_experts_glu(check_cmd, y, &h, w, &routes);
    check_run();
    compare_routes(&routes, logits, c->normed);
    compare_glu(c, &routes, y, normed, squares, values, h.eps);
}

// What a row of x becomes: its experts' products, which are weighted already, added up.
static void add_up(const moe_case *c, const pm_routes *r, const float *src, const float *values, uint32_t row, double *want,
                   double *size) {
    double *part = check_doubles(c->dim), *part_size = check_doubles(c->dim);
    for (uint32_t i = row * c->n_used; i < (row + 1) * c->n_used; i++) {
        const float *w = values + (size_t)got_route(r, i).expert * c->dim * c->ffn;
        pm_ref_linear(&(pm_ref_linear_args){.n = 1, .rows = c->dim, .cols = c->ffn, .x = src + (size_t)i * c->ffn, .w = w}, part,
                      part_size);
        for (uint32_t k = 0; k < c->dim; k++) {
            want[k] += part[k];
            size[k] += part_size[k];
        }
    }
}

static void compare_add(const moe_case *c, const pm_routes *r, const pm_hidden *h, const float *src, const float *values,
                        const float *x, const float *gain) {
    size_t n = (size_t)c->n * c->dim;
    double *want = check_doubles(n), *size = check_doubles(n);
    for (size_t i = 0; i < n; i++) {
        want[i] = x[i];
        size[i] = fabs(x[i]);
    }
    for (uint32_t row = 0; row < c->n; row++)
        add_up(c, r, src, values, row, want + (size_t)row * c->dim, size + (size_t)row * c->dim);
    check_near("x", h->x, want, size, c->ffn * c->n_used);
    check_hidden(h, gain, want, size, c->ffn * c->n_used);
}

static void run_add(const moe_case *c) {
    uint32_t pairs = c->n * c->n_used;
    float *logits = random_logits(c->n, c->n_experts, c->spread);
    check_matrix m = check_weights(c->dtype, c->n_experts * c->dim, c->ffn, 1 / sqrtf((float)c->ffn));
    pm_tensor w = check_pack_one(&m), t = check_in_tensor(c->n, c->n_experts, logits);
    weight_bytes = w.data.size;
    float *src = check_normals((size_t)pairs * c->ffn, 1), *x = check_normals((size_t)c->n * c->dim, 1);
    float *gain_values = check_uniforms(c->dim, -0.5f, 1.5f);
    pm_tensor gain = check_pack_vector(gain_values, c->dim), in = check_in_tensor(pairs, c->ffn, src);
    pm_hidden h = {.x = check_out_tensor(c->n, c->dim, c->dim, x),
                   .normed = check_out_tensor(c->n, c->dim, c->dim, NULL),
                   .squares = check_in_tensor(c->n, c->dim, NULL),
                   .eps = 1e-6f};
    pm_routes routes = take_routes(c->n, c->n_experts, c->n_used);
    pm_slice products = check_out(pm_activation_bytes(pairs, c->dim) / 4);
    check_record();
    pm_op_route(check_cmd, &routes, t, c->normed);
    pm_op_experts_add(check_cmd, &h, in, w, gain, &routes, products);
    assert_in_range(h.n_parts, 1, c->dim);
    for (uint32_t r = 0; r < c->n; r++)
        check_allow(h.squares.data, (uint64_t)r * h.squares.stride, h.n_parts);
    check_run();
    compare_add(c, &routes, &h, src, m.values, x, gain_values);
}

// Columns are rounded up to whole blocks.
static void run_case(const moe_case *asked) {
    moe_case c = *asked;
    for (int add = 0; add < 2; add++) {
        uint32_t *cols = add ? &c.ffn : &c.dim;
        *cols = check_cols(c.dtype, *cols);
        check_begin();
        check_case("experts_%s, %s, dim %u, ffn %u, n %u, %u of %u%s", add ? "add" : "glu", pm_dtype_get(c.dtype)->name, c.dim,
                   c.ffn, c.n, c.n_used, c.n_experts, c.spread == ALL_ALIKE ? ", all alike" : "");
        if (add)
            run_add(&c);
        else
            run_glu(&c);
        c = *asked;
    }
}

// ---- cases ------------------------------------------------------------------------------------------------------------

// One row, and few: one by one. Rows that fill no group, columns that fill no block.
static void every_type_one_by_one(void **state) {
    static const moe_case cases[] = {
        {.n = 1, .n_experts = 5, .n_used = 3, .dim = 96, .ffn = 67, .normed = true},
        {.n = 1, .n_experts = 3, .n_used = 1, .dim = 33, .ffn = 1},
        {.n = 3, .n_experts = 4, .n_used = 4, .dim = 160, .ffn = 96},
    };
    (void)state;
    for (size_t d = 0; d < check_n_dtypes; d++)
        for (size_t i = 0; i < CHECK_COUNT(cases); i++) {
            moe_case c = cases[i];
            c.dtype = check_dtypes[d];
            run_case(&c);
        }
}

// Many rows, grouped by expert: experts with none, with one, with all of them.
static void every_type_grouped(void **state) {
    static const moe_case cases[] = {
        {.n = 9, .n_experts = 16, .n_used = 2, .dim = 96, .ffn = 67, .normed = true},
        {.n = 33, .n_experts = 4, .n_used = 2, .dim = 67, .ffn = 96, .spread = ALL_ALIKE},
    };
    (void)state;
    for (size_t d = 0; d < check_n_dtypes; d++)
        for (size_t i = 0; i < CHECK_COUNT(cases); i++) {
            moe_case c = cases[i];
            c.dtype = check_dtypes[d];
            run_case(&c);
        }
}

// Each number of rows around those where kernels change; the shapes of a large mixture.
static void every_batch(void **state) {
    static const uint32_t counts[] = {2, 4, 5, 8, 9, 17, 64};
    (void)state;
    for (size_t i = 0; i < CHECK_COUNT(counts); i++)
        run_case(&(moe_case){PM_Q4_0, counts[i], 32, 4, 130, 70, (spread)(i % 2), true});
    run_case(&(moe_case){PM_Q8_0, 40, 128, 8, 64, 64, ANY, true});
    run_case(&(moe_case){PM_Q4_K, 1, 8, 2, 2048, 768, ANY, true});
    run_case(&(moe_case){PM_Q6_K, 12, 8, 2, 768, 256, ANY, true});
}

// ---- stacks in parts --------------------------------------------------------------------------------------------------

enum { BINDING = 256 << 10 }; // bytes bound at once, in the groups below

static void every_type_cut(void **state) {
    (void)state;
    for (size_t d = 0; d < check_n_dtypes; d++) {
        run_case(&(moe_case){check_dtypes[d], 1 + (uint32_t)d % 7, 160, 4, 64, 64, ANY, true});
        assert_true(weight_bytes > BINDING);
    }
}

// Only 64 experts of 12 rows, or of 68, are a multiple of 256 rows: parts have 64 of them, or 192.
static void odd_experts_cut(void **state) {
    (void)state;
    run_case(&(moe_case){PM_Q8_0, 1, 400, 3, 68, 6, ANY, true});
    run_case(&(moe_case){PM_Q8_0, 9, 400, 3, 68, 6, ANY, true});
}

static void experts_too_large(void **state) {
    enum { COLS = 512, ROWS = 256, EXPERTS = 2 };
    (void)state;
    check_begin();
    check_case("experts too large");
    check_matrix m = check_weights(PM_F32, ROWS * EXPERTS, COLS, 1);
    pm_tensor w = check_pack_one(&m), src = check_in_tensor(1, COLS, check_normals(COLS, 1));
    pm_routes routes = take_routes(1, EXPERTS, 1);
    pm_hidden h = {.x = check_out_tensor(1, ROWS, ROWS, NULL),
                   .normed = check_out_tensor(1, ROWS, ROWS, NULL),
                   .squares = check_out_tensor(1, ROWS, ROWS, NULL)};
    check_record();
    pm_op_experts_add(check_cmd, &h, src, w, check_pack_vector(check_normals(ROWS, 1), ROWS), &routes, routes.data);
    assert_int_equal(pm_cmd_end(check_cmd), PM_ERR_UNSUPPORTED);
    assert_non_null(strstr(pm_error_text(), "2 experts, each 256 rows of 512 F32 columns"));
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

static int open_tiles(void **state) {
    (void)state;
    return check_open_shaped("64,1,2,4", "1", MEGABYTES);
}

static int open_cut(void **state) {
    (void)state;
    check_bind_at_most(BINDING);
    return check_open_shaped("32,4,4,2", "0", MEGABYTES);
}

int main(void) {
    const struct CMUnitTest all[] = {
        cmocka_unit_test(rows_find_their_experts), cmocka_unit_test(ties_and_no_numbers), cmocka_unit_test(every_type_one_by_one),
        cmocka_unit_test(every_type_grouped),      cmocka_unit_test(every_batch),
    };
    const struct CMUnitTest shaped[] = {cmocka_unit_test(every_type_one_by_one)};
    const struct CMUnitTest tiles[] = {cmocka_unit_test(rows_find_their_experts), cmocka_unit_test(every_type_grouped),
                                       cmocka_unit_test(every_batch)};
    const struct CMUnitTest parts[] = {cmocka_unit_test(every_type_cut), cmocka_unit_test(odd_experts_cut),
                                       cmocka_unit_test(experts_too_large)};
    int failed = cmocka_run_group_tests_name("experts", all, open_default, check_close);
    failed += cmocka_run_group_tests_name("experts, 32 lanes a row", shaped, open_lanes_32, check_close_shaped);
    failed += cmocka_run_group_tests_name("experts, tiles", tiles, open_tiles, check_close_shaped);
    failed += cmocka_run_group_tests_name("experts in parts", parts, open_cut, check_close_shaped);
    return failed != 0;
}
