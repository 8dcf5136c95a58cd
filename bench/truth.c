// A model's logits by a plain forward pass on the CPU, in double precision from the very values of the file: what the device's are
// held against. It shares no code with kernels, packing and session; attention and rotation are those of host/reference.c.
#include "bench/truth.h"
#include "host/reference.h"
#include "loader/loader.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { LANES = 8, ROWS_A_JOB = 16, MAX_CHOSEN = 64 }; // LANES: rows of x that a weight is multiplied with at a time

typedef struct pass {
    const pm_file *file;
    const pm_config *c;
    const bench_truth_args *args;
    pm_arena arena;
    uint32_t n, q_dim, kv_dim;
    double *x;      // (n, dim), the residual stream
    double *normed; // (n, dim)
    double *angles; // (n, head_dim / 2) of cos, sin
    float *gain;    // (longest of norms and biases)
} pass;

static pm_status take(pass *p, size_t count, double **values) {
    *values = pm_arena_alloc(&p->arena, count * sizeof(**values));
    return *values ? PM_OK : pm_fail(PM_ERR_MEMORY, "no memory for the reference of %u tokens", p->n);
}

static pm_status find(const pass *p, int layer, const char *name, const pm_tensor_view **view) {
    char full[96], prefix[24] = "";
    if (layer >= 0)
        snprintf(prefix, sizeof(prefix), "blk.%d.", layer);
    snprintf(full, sizeof(full), "%s%s", prefix, name);
    *view = pm_file_find(p->file, full);
    return *view ? PM_OK : pm_fail(PM_ERR_FILE, "the model has no tensor %s", full);
}

static pm_status read_vector(const pass *p, int layer, const char *name, uint32_t n, float *values) {
    const pm_tensor_view *view;
    PM_TRY(find(p, layer, name, &view));
    pm_view_floats(view, 0, n, values);
    return PM_OK;
}

// ---- products ---------------------------------------------------------------------------------------------------------

typedef struct product {
    const pm_tensor_view *view;
    uint64_t row0; // the first of its rows that is meant
    uint32_t rows, cols, n;
    const double *x; // (n / LANES, cols, LANES)
    double *y;       // (n, rows)
} product;

// A strip of columns of one row of the weight times all of x.
static void multiply_strip(const product *m, const float *strip, uint32_t col, uint32_t n_cols, double *sums) {
    for (uint32_t g = 0; g < m->n; g += LANES) {
        const double *x = m->x + ((size_t)g / LANES * m->cols + col) * LANES;
        double sum[LANES];
        memcpy(sum, sums + g, sizeof(sum));
        for (uint32_t i = 0; i < n_cols; i++)
            for (int k = 0; k < LANES; k++)
                sum[k] += (double)strip[i] * x[(size_t)i * LANES + (size_t)k];
        memcpy(sums + g, sum, sizeof(sum));
    }
}

static void multiply_rows(void *user, int job) {
    const product *m = user;
    uint32_t first = (uint32_t)job * ROWS_A_JOB, end = first + ROWS_A_JOB < m->rows ? first + ROWS_A_JOB : m->rows;
    for (uint32_t row = first; row < end; row++) {
        float strip[PM_VIEW_COLS];
        double sums[BENCH_TRUTH_MOST + LANES] = {0};
        for (uint32_t col = 0; col < m->cols; col += PM_VIEW_COLS) {
            uint32_t n_cols = m->cols - col < PM_VIEW_COLS ? m->cols - col : PM_VIEW_COLS;
            pm_view_floats(m->view, (m->row0 + row) * m->cols + col, n_cols, strip);
            multiply_strip(m, strip, col, n_cols, sums);
        }
        for (uint32_t r = 0; r < m->n; r++)
            m->y[(size_t)r * m->rows + row] = sums[r];
    }
}

// y (n, rows) = x (n, cols) times rows [row0, row0 + rows) of a tensor, transposed.
static pm_status multiply(pass *p, const pm_tensor_view *view, uint64_t row0, uint32_t rows, const double *x, uint32_t n,
                          double *y) {
    uint32_t cols = (uint32_t)view->dims[view->n_dims - 1], groups = (n + LANES - 1) / LANES;
    double *turned;
    pm_arena scratch = p->arena;
    p->arena = (pm_arena){.blocks = NULL};
    pm_status status = take(p, (size_t)groups * cols * LANES, &turned);
    for (uint32_t r = 0; r < n && status == PM_OK; r++)
        for (uint32_t i = 0; i < cols; i++)
            turned[((size_t)r / LANES * cols + i) * LANES + r % LANES] = x[(size_t)r * cols + i];
    product m = {.view = view, .row0 = row0, .rows = rows, .cols = cols, .n = n, .x = turned, .y = y};
    if (status == PM_OK)
        pm_parallel_for((int)((rows + ROWS_A_JOB - 1) / ROWS_A_JOB), multiply_rows, &m);
    pm_arena_close(&p->arena);
    p->arena = scratch;
    return status;
}

static pm_status multiply_named(pass *p, int layer, const char *name, uint32_t rows, const double *x, uint32_t n, double *y) {
    const pm_tensor_view *view;
    PM_TRY(find(p, layer, name, &view));
    return multiply(p, view, 0, rows, x, n, y);
}

// ---- norms and rotation -------------------------------------------------------------------------------------------------

static pm_status norm(pass *p, int layer, const char *name) {
    uint32_t dim = p->c->dim;
    PM_TRY(read_vector(p, layer, name, dim, p->gain));
    for (uint32_t r = 0; r < p->n; r++) {
        const double *x = p->x + (size_t)r * dim;
        double sum = 0;
        for (uint32_t i = 0; i < dim; i++)
            sum += x[i] * x[i];
        double factor = 1 / sqrt(sum / dim + p->c->norm_eps);
        for (uint32_t i = 0; i < dim; i++)
            p->normed[(size_t)r * dim + i] = x[i] * factor * p->gain[i];
    }
    return PM_OK;
}

// Of YaRN (https://arxiv.org/abs/2309.00071): how far pair j of a head is left as it was trained, 1, or stretched, 0.
static double kept_by_yarn(const pm_config *c, uint32_t j) {
    const pm_rope_config *r = &c->rope;
    const double turn = 2 * 3.14159265358979323846;
    double low = c->head_dim * log(r->original_ctx / (r->beta_fast * turn)) / (2 * log(r->theta));
    double high = c->head_dim * log(r->original_ctx / (r->beta_slow * turn)) / (2 * log(r->theta));
    low = fmax(r->truncate ? floor(low) : low, 0);
    high = fmin(r->truncate ? ceil(high) : high, c->head_dim - 1);
    high = low == high ? high + 0.001 : high;
    return 1 - fmin(fmax((j - low) / (high - low), 0), 1);
}

static double length_of_yarn(const pm_rope_config *r) {
    double grown = 0.1 * log(r->factor);
    if (r->attention_factor > 0)
        return r->attention_factor;
    if (r->factor <= 1)
        return 1;
    return r->mscale > 0 && r->mscale_all_dim > 0 ? (grown * r->mscale + 1) / (grown * r->mscale_all_dim + 1) : grown + 1;
}

static void make_angles(pass *p) {
    const pm_rope_config *r = &p->c->rope;
    uint32_t half = p->c->head_dim / 2;
    for (uint32_t at = 0; at < p->n * half; at++) {
        uint32_t pos = at / half, j = at % half;
        double frequency = pow(r->theta, -2.0 * j / p->c->head_dim), length = 1;
        if (r->scaling == PM_ROPE_LINEAR)
            frequency /= r->factor;
        if (r->scaling == PM_ROPE_YARN) {
            double kept = kept_by_yarn(p->c, j);
            frequency *= kept + (1 - kept) / r->factor;
            length = length_of_yarn(r);
        }
        p->angles[2 * at] = cos(pos * frequency) * length;
        p->angles[2 * at + 1] = sin(pos * frequency) * length;
    }
}

// ---- attention ----------------------------------------------------------------------------------------------------------

// As the cache keeps it: that is the user's choice, no error of a driver.
static void round_to_cache(const pass *p, double *values, uint32_t n) {
    if (p->args->kv_bits == 16)
        for (uint32_t i = 0; i < n; i++)
            values[i] = pm_f16_to_f32(pm_f32_to_f16((float)values[i]));
    for (uint32_t i = 0; p->args->kv_bits == 8 && i < n; i += 32)
        pm_ref_kv_q8_0(values + i, values + i);
}

// qkv (n, q_dim + 2 kv_dim) floats, biases added.
static pm_status project(pass *p, int layer, double *part, float *qkv) {
    static const char *const names[3][2] = {
        {"attn_q.weight", "attn_q.bias"}, {"attn_k.weight", "attn_k.bias"}, {"attn_v.weight", "attn_v.bias"}};
    uint32_t width = p->q_dim + 2 * p->kv_dim, at = 0;
    for (int i = 0; i < 3; i++) {
        uint32_t rows = i == 0 ? p->q_dim : p->kv_dim;
        PM_TRY(multiply_named(p, layer, names[i][0], rows, p->normed, p->n, part));
        if (p->c->qkv_bias)
            PM_TRY(read_vector(p, layer, names[i][1], rows, p->gain));
        for (uint32_t r = 0; r < p->n; r++)
            for (uint32_t k = 0; k < rows; k++)
                qkv[(size_t)r * width + at + k] = (float)(part[(size_t)r * rows + k] + (p->c->qkv_bias ? (double)p->gain[k] : 0));
        at += rows;
    }
    return PM_OK;
}

// turned (n, q_dim + 2 kv_dim) -> q, k, v, each row after row.
static void part_heads(const pass *p, double *turned, float *q, float *k, float *v) {
    uint32_t width = p->q_dim + 2 * p->kv_dim;
    for (uint32_t r = 0; r < p->n; r++) {
        double *row = turned + (size_t)r * width;
        round_to_cache(p, row + p->q_dim, 2 * p->kv_dim);
        for (uint32_t i = 0; i < p->q_dim; i++)
            q[(size_t)r * p->q_dim + i] = (float)row[i];
        for (uint32_t i = 0; i < p->kv_dim; i++) {
            k[(size_t)r * p->kv_dim + i] = (float)row[p->q_dim + i];
            v[(size_t)r * p->kv_dim + i] = (float)row[p->q_dim + p->kv_dim + i];
        }
    }
}

static void attend(const pass *p, const struct pm_row *rows, float *qkv, const float *gains, double *turned, double *out) {
    const pm_config *c = p->c;
    size_t n = p->n;
    pm_ref_rope_store(&(pm_ref_rope_store_args){.n = p->n,
                                                .n_heads = c->n_heads,
                                                .n_kv_heads = c->n_kv_heads,
                                                .head_dim = c->head_dim,
                                                .qkv = qkv,
                                                .q_gain = c->qk_norm ? gains : NULL,
                                                .k_gain = c->qk_norm ? gains + c->head_dim : NULL,
                                                .eps = c->norm_eps,
                                                .interleaved = c->rope.interleaved,
                                                .angles = p->angles,
                                                .n_positions = p->n,
                                                .rows = rows},
                      turned, NULL);
    float *q = qkv, *k = qkv + n * p->q_dim, *v = k + n * p->kv_dim; // what they were made from is read
    part_heads(p, turned, q, k, v);
    pm_ref_attend(&(pm_ref_attend_args){.n = p->n,
                                        .n_heads = c->n_heads,
                                        .n_kv_heads = c->n_kv_heads,
                                        .head_dim = c->head_dim,
                                        .q = q,
                                        .k = k,
                                        .v = v,
                                        .max_len = p->n,
                                        .rows = rows,
                                        .scale = 1 / sqrtf((float)c->head_dim)},
                  out, NULL);
}

static void add(pass *p, const double *y) {
    for (size_t i = 0; i < (size_t)p->n * p->c->dim; i++)
        p->x[i] += y[i];
}

static pm_status run_attention(pass *p, int layer) {
    const pm_config *c = p->c;
    struct pm_row rows[BENCH_TRUTH_MOST] = {{.seq = 0}};
    float gains[2 * 1024];
    double *part, *turned, *floats, *out;
    size_t width = p->q_dim + 2 * p->kv_dim;
    for (uint32_t r = 0; r < p->n; r++)
        rows[r].pos = r;
    if (c->head_dim > 1024)
        return pm_fail(PM_ERR_UNSUPPORTED, "heads of %u: no reference for them", c->head_dim);
    PM_TRY(take(p, p->n * width, &part));
    PM_TRY(take(p, p->n * width, &turned));
    PM_TRY(take(p, p->n * width, &floats));
    PM_TRY(take(p, (size_t)p->n * p->q_dim, &out));
    if (c->qk_norm) {
        PM_TRY(read_vector(p, layer, "attn_q_norm.weight", c->head_dim, gains));
        PM_TRY(read_vector(p, layer, "attn_k_norm.weight", c->head_dim, gains + c->head_dim));
    }
    PM_TRY(norm(p, layer, "attn_norm.weight"));
    PM_TRY(project(p, layer, part, (float *)floats));
    attend(p, rows, (float *)floats, gains, turned, out);
    PM_TRY(multiply_named(p, layer, "attn_output.weight", c->dim, out, p->n, p->normed));
    add(p, p->normed);
    return PM_OK;
}

// ---- feed-forward -------------------------------------------------------------------------------------------------------

static double silu(double v) {
    return v / (1 + exp(-v));
}

static pm_status feed_forward(pass *p, int layer) {
    uint32_t ffn = p->c->ffn_dim;
    double *gate, *up;
    PM_TRY(take(p, (size_t)p->n * ffn, &gate));
    PM_TRY(take(p, (size_t)p->n * ffn, &up));
    PM_TRY(multiply_named(p, layer, "ffn_gate.weight", ffn, p->normed, p->n, gate));
    PM_TRY(multiply_named(p, layer, "ffn_up.weight", ffn, p->normed, p->n, up));
    for (size_t i = 0; i < (size_t)p->n * ffn; i++)
        gate[i] = silu(gate[i]) * up[i];
    PM_TRY(multiply_named(p, layer, "ffn_down.weight", p->c->dim, gate, p->n, p->normed));
    add(p, p->normed);
    return PM_OK;
}

// Files keep experts in stacks, gate and up in one stack, or each by itself.
static pm_status find_expert(const pass *p, int layer, const char *what, uint32_t expert, uint32_t rows,
                             const pm_tensor_view **view, uint64_t *row0) {
    char name[64], full[96];
    snprintf(name, sizeof(name), "ffn_%s.%u.weight", what, expert);
    snprintf(full, sizeof(full), "blk.%d.%s", layer, name);
    *row0 = 0;
    if (pm_file_find(p->file, full))
        return find(p, layer, name, view);
    snprintf(full, sizeof(full), "blk.%d.ffn_gate_up_exps.weight", layer);
    if (strcmp(what, "down") != 0 && pm_file_find(p->file, full)) {
        *row0 = (uint64_t)(2 * expert + !strcmp(what, "up")) * rows;
        return find(p, layer, "ffn_gate_up_exps.weight", view);
    }
    snprintf(name, sizeof(name), "ffn_%s_exps.weight", what);
    *row0 = (uint64_t)expert * rows;
    return find(p, layer, name, view);
}

static pm_status multiply_expert(pass *p, int layer, const char *what, uint32_t expert, uint32_t rows, const double *x, uint32_t n,
                                 double *y) {
    const pm_tensor_view *view;
    uint64_t row0;
    PM_TRY(find_expert(p, layer, what, expert, rows, &view, &row0));
    return multiply(p, view, row0, rows, x, n, y);
}

typedef struct chosen {
    uint32_t experts[BENCH_TRUTH_MOST * MAX_CHOSEN];
    double weights[BENCH_TRUTH_MOST * MAX_CHOSEN];
} chosen;

typedef struct expert_rows {
    double *x, *gate, *up, *y;
} expert_rows;

// The rows that chose this expert, together.
static pm_status run_expert(pass *p, int layer, uint32_t expert, const chosen *by, const expert_rows *e) {
    uint32_t rows[BENCH_TRUTH_MOST], n = 0, dim = p->c->dim, ffn = p->c->expert_ffn_dim, used = p->c->n_experts_used;
    double weights[BENCH_TRUTH_MOST];
    for (uint32_t i = 0; i < p->n * used; i++)
        if (by->experts[i] == expert) {
            weights[n] = by->weights[i];
            rows[n++] = i / used;
        }
    for (uint32_t i = 0; i < n; i++)
        memcpy(e->x + (size_t)i * dim, p->normed + (size_t)rows[i] * dim, dim * sizeof(double));
    if (n == 0)
        return PM_OK;
    PM_TRY(multiply_expert(p, layer, "gate", expert, ffn, e->x, n, e->gate));
    PM_TRY(multiply_expert(p, layer, "up", expert, ffn, e->x, n, e->up));
    for (size_t i = 0; i < (size_t)n * ffn; i++)
        e->gate[i] = silu(e->gate[i]) * e->up[i];
    PM_TRY(multiply_expert(p, layer, "down", expert, dim, e->gate, n, e->y));
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t k = 0; k < dim; k++)
            p->x[(size_t)rows[i] * dim + k] += weights[i] * e->y[(size_t)i * dim + k];
    return PM_OK;
}

static pm_status choose_experts(pass *p, int layer, chosen *by) {
    const pm_config *c = p->c;
    size_t count = (size_t)p->n * c->n_experts;
    double *logits, *floats;
    PM_TRY(take(p, count, &logits));
    PM_TRY(take(p, count, &floats));
    PM_TRY(multiply_named(p, layer, "ffn_gate_inp.weight", c->n_experts, p->normed, p->n, logits));
    for (size_t i = 0; i < count; i++)
        ((float *)floats)[i] = (float)logits[i];
    pm_ref_route(&(pm_ref_route_args){.n = p->n,
                                      .n_experts = c->n_experts,
                                      .n_used = c->n_experts_used,
                                      .logits = (float *)floats,
                                      .normed = c->experts_normed},
                 by->experts, by->weights);
    return PM_OK;
}

static pm_status feed_experts(pass *p, int layer) {
    const pm_config *c = p->c;
    expert_rows e;
    chosen by;
    if (c->n_experts_used > MAX_CHOSEN)
        return pm_fail(PM_ERR_UNSUPPORTED, "%u experts for a token: no reference for them", c->n_experts_used);
    PM_TRY(take(p, (size_t)p->n * c->dim, &e.x));
    PM_TRY(take(p, (size_t)p->n * c->dim, &e.y));
    PM_TRY(take(p, (size_t)p->n * c->expert_ffn_dim, &e.gate));
    PM_TRY(take(p, (size_t)p->n * c->expert_ffn_dim, &e.up));
    PM_TRY(choose_experts(p, layer, &by));
    for (uint32_t expert = 0; expert < c->n_experts; expert++)
        PM_TRY(run_expert(p, layer, expert, &by, &e));
    return PM_OK;
}

// ---- the pass -----------------------------------------------------------------------------------------------------------

// What a layer takes is gone after it.
static pm_status run_layer(pass *p, int layer) {
    pm_arena kept = p->arena;
    p->arena = (pm_arena){.blocks = NULL};
    pm_status status = run_attention(p, layer);
    if (status == PM_OK)
        status = norm(p, layer, "ffn_norm.weight");
    if (status == PM_OK)
        status = pm_config_has_experts(p->c, (uint32_t)layer) ? feed_experts(p, layer) : feed_forward(p, layer);
    pm_arena_close(&p->arena);
    p->arena = kept;
    if (status == PM_OK && p->args->cancelled())
        return pm_fail(PM_ERR_CANCELLED, "interrupted");
    return status;
}

static pm_status embed(pass *p) {
    const pm_tensor_view *table;
    uint32_t dim = p->c->dim;
    PM_TRY(find(p, -1, "token_embd.weight", &table));
    for (uint32_t r = 0; r < p->n; r++) {
        pm_view_floats(table, (uint64_t)p->args->ids[r] * dim, dim, p->gain);
        for (uint32_t i = 0; i < dim; i++)
            p->x[(size_t)r * dim + i] = p->gain[i];
    }
    return PM_OK;
}

// Of the rows from args->first on only.
static pm_status head(pass *p, double *logits) {
    PM_TRY(norm(p, -1, "output_norm.weight"));
    return multiply_named(p, -1, p->c->tied_head ? "token_embd.weight" : "output.weight", p->c->vocab_size,
                          p->normed + (size_t)p->args->first * p->c->dim, p->n - p->args->first, logits);
}

static pm_status take_all(pass *p) {
    const pm_config *c = p->c;
    size_t longest = c->dim > p->q_dim ? c->dim : p->q_dim;
    double *gain;
    PM_TRY(take(p, (size_t)p->n * c->dim, &p->x));
    PM_TRY(take(p, (size_t)p->n * c->dim, &p->normed));
    PM_TRY(take(p, (size_t)p->n * c->head_dim, &p->angles));
    PM_TRY(take(p, longest, &gain));
    p->gain = (float *)gain;
    return PM_OK;
}

static pm_status run(pass *p, double *logits) {
    PM_TRY(take_all(p));
    make_angles(p);
    PM_TRY(embed(p));
    for (uint32_t layer = 0; layer < p->c->n_layers; layer++)
        PM_TRY(run_layer(p, (int)layer));
    return head(p, logits);
}

pm_status bench_truth(const bench_truth_args *args, double *logits) {
    pm_file *file;
    PM_TRY(pm_file_open(args->path, &file));
    const pm_config *c = pm_file_config(file);
    pass p = {.file = file, .c = c, .args = args, .n = args->n};
    p.q_dim = c->n_heads * c->head_dim;
    p.kv_dim = c->n_kv_heads * c->head_dim;
    pm_status status = run(&p, logits);
    pm_arena_close(&p.arena);
    pm_file_close(&file);
    return status;
}
