// Measuring on the shapes and with the weights of the model at hand: products, those with experts, attention. contest.c says how
// two ways are compared, tune.c keeps what comes of it.
#include "host/tune.h"

#include <stdlib.h>
#include <string.h>

typedef struct bench {
    pm_device *dev;
    pm_slabs *slabs;
    const pm_problem *problem;
    pm_variant variants[PM_CONTEST_MOST];
    pm_tensor in, out, normed, squares, vector; // vector: gain or bias
    pm_slice quants;
    pm_routes routes;
    pm_attend attend;
    pm_attend_way ways[PM_CONTEST_MOST];
} bench;

static pm_status take(bench *b, uint32_t rows, uint32_t cols, pm_tensor *t) {
    pm_slice slice;
    PM_TRY(pm_slabs_alloc(b->slabs, pm_activation_bytes(rows, cols), &slice));
    *t = pm_activation(slice, rows, cols);
    return PM_OK;
}

// All uses that have no verdict yet go through the self-test, as long as there is time: a batch that is expected to take half of
// it.
static pm_status try_uses(pm_device *dev, pm_kernel_use *uses, int n, uint64_t deadline_ns) {
    uint64_t each_ns = 0, now;
    int n_unknown = 0, batch;
    bool found_bad;
    for (int i = 0; i < n; i++)
        if (!pm_selftest_knows(dev, &uses[i]))
            uses[n_unknown++] = uses[i];
    for (int done = 0; done < n_unknown && (now = pm_now_ns()) < deadline_ns; done += batch) {
        uint64_t fit = each_ns ? (deadline_ns - now) / 2 / each_ns : 1;
        batch = fit < 1 ? 1 : fit > (uint64_t)(n_unknown - done) ? n_unknown - done : (int)fit;
        PM_TRY(pm_selftest_uses(dev, uses + done, batch, &found_bad));
        each_ns = (pm_now_ns() - now) / (uint64_t)batch;
    }
    return PM_OK;
}

// ---- products ---------------------------------------------------------------------------------------------------------

// The result may be that of a whole of several tensors: rows [row0, row0 + rows) of it.
static uint32_t out_cols(const pm_problem *p) {
    uint32_t row0 = 0;
    for (int i = 0; i < p->n_weights; i++)
        row0 = p->weights[i].row0 > row0 ? p->weights[i].row0 : row0;
    return p->shape.epilogue & PM_LINEAR_GLU ? (row0 + p->shape.rows) / 2 : row0 + p->shape.rows;
}

// Routes of random logits, as a router gives them: found once, read by all.
static pm_status find_routes(bench *b) {
    const pm_linear_shape *s = &b->problem->shape;
    pm_tensor logits;
    pm_cmd *cmd;
    uint32_t count = s->n * (uint32_t)pm_round_up(s->n_experts, PM_BLOCK), state = 1;
    b->routes = (pm_routes){.n = s->n, .n_experts = s->n_experts, .n_used = s->n_used};
    PM_TRY(pm_slabs_alloc(b->slabs, pm_routes_bytes(s->n, s->n_used), &b->routes.data));
    PM_TRY(take(b, s->n, s->n_experts, &logits));
    float *values = pm_calloc(count, sizeof(*values));
    if (!values)
        return pm_fail(PM_ERR_MEMORY, "no memory to tune");
    for (uint32_t i = 0; i < count; i++)
        values[i] = (float)((state = state * 1664525u + 1013904223u) >> 8) * 0x1p-24f;
    pm_status status = pm_slice_write(b->dev, logits.data, values, (uint64_t)count * 4);
    pm_free(values);
    PM_TRY(status);
    PM_TRY(pm_cmd_open(b->dev, "routes", &cmd));
    pm_cmd_begin(cmd);
    pm_op_route(cmd, &b->routes, logits, true);
    status = pm_cmd_run(cmd);
    pm_cmd_close(&cmd);
    return status;
}

static pm_status open_product(bench *b) {
    const pm_linear_shape *s = &b->problem->shape;
    bool add = (s->epilogue & PM_LINEAR_ADD) != 0, glu = (s->epilogue & PM_LINEAR_GLU) != 0;
    uint32_t out = out_cols(b->problem), hidden = add ? out : s->cols, pairs = s->n * s->n_used;
    PM_TRY(take(b, s->n_experts && !glu ? pairs : s->n, s->cols, &b->in));
    PM_TRY(take(b, s->n_experts && !add ? pairs : s->n, out, &b->out));
    PM_TRY(take(b, s->n, hidden, &b->normed));
    PM_TRY(take(b, s->n, hidden, &b->squares));
    PM_TRY(take(b, 1, out > s->cols ? out : s->cols, &b->vector));
    if (s->fast)
        PM_TRY(pm_slabs_alloc(b->slabs, pm_quants_bytes(s->n, s->cols), &b->quants));
    return s->n_experts ? find_routes(b) : PM_OK;
}

static void record_experts(bench *b, pm_cmd *cmd, pm_hidden *h, pm_tensor w) {
    uint32_t epilogue = b->problem->shape.epilogue;
    if (epilogue & PM_LINEAR_GLU)
        pm_op_experts_glu(cmd, b->out, h, w, &b->routes);
    else if (epilogue & PM_LINEAR_ADD)
        pm_op_experts_add(cmd, h, b->in, w, b->vector, &b->routes, (pm_slice){0});
    else
        pm_experts_multiply(cmd, b->out, b->in, w, &b->routes);
}

static void record_product(void *user, pm_cmd *cmd, int candidate, int piece) {
    bench *b = user;
    uint32_t epilogue = b->problem->shape.epilogue;
    pm_tensor w = b->problem->weights[piece];
    pm_hidden h = {.x = b->out, .normed = b->normed, .squares = b->squares, .n_parts = 1, .eps = 1e-6f};
    if (b->problem->shape.n_experts && epilogue & PM_LINEAR_GLU)
        h.normed = b->in;
    pm_cmd_fast(cmd, b->quants);
    b->dev->forced = &b->variants[candidate];
    if (b->problem->shape.n_experts)
        record_experts(b, cmd, &h, w);
    else if (epilogue & PM_LINEAR_ADD)
        pm_op_linear_add(cmd, &h, b->in, w, b->vector);
    else if (epilogue & PM_LINEAR_GLU)
        pm_op_norm_glu(cmd, b->out, &h, w);
    else
        pm_op_norm_linear(cmd, b->out, &h, w, epilogue & PM_LINEAR_BIAS ? &b->vector : NULL);
    b->dev->forced = NULL;
}

// What a product must read at least.
static uint64_t product_bytes(const pm_problem *p) {
    const pm_linear_shape *s = &p->shape;
    const pm_tensor *w = &p->weights[0];
    uint64_t bytes = w->data.size + (w->scales.buffer ? w->scales.size : 0), pairs = (uint64_t)s->n * s->n_used;
    if (s->n_experts && s->n > 1)
        return bytes / s->n_experts; // all rows may have the same
    return s->n_experts ? bytes / s->n_experts * (pairs < s->n_experts ? pairs : s->n_experts) : bytes;
}

// The default, or what the self-test left of it, and the others that are right; *n = 0: none is.
static pm_status list_variants(bench *b, pm_contest *c) {
    const pm_linear_shape *s = &b->problem->shape;
    pm_kernel_use uses[2 * PM_CONTEST_MOST];
    pm_variant v;
    int n_uses = 0;
    for (int i = 0; i < PM_CONTEST_MOST && pm_variant_at(b->dev, s, i, &v); i++)
        n_uses += pm_linear_uses(&b->dev->caps, s, &v, uses + n_uses);
    PM_TRY(try_uses(b->dev, uses, n_uses, c->deadline_ns));
    for (int i = 0; c->n < PM_CONTEST_MOST && pm_variant_at(b->dev, s, i, &v); i++) {
        int n = pm_linear_uses(&b->dev->caps, s, &v, uses);
        bool known = pm_selftest_knows(b->dev, &uses[0]) && pm_selftest_knows(b->dev, &uses[n - 1]);
        c->partly = c->partly || !known;
        if (known && pm_variant_right(b->dev, s, &v)) {
            c->bytes[c->n] = product_bytes(b->problem);
            b->variants[c->n++] = v;
        }
    }
    return PM_OK;
}

static pm_status tune_product(pm_device *dev, const pm_problem *problem, pm_contest *c) {
    bench b = {.dev = dev, .problem = problem};
    c->user = &b;
    c->record = record_product;
    c->most_pieces = problem->n_weights;
    pm_status status = pm_slabs_create(dev, 0, "measurements", &b.slabs);
    if (status == PM_OK)
        status = list_variants(&b, c);
    if (status == PM_OK && c->n > 0)
        status = open_product(&b);
    if (status == PM_OK && c->n > 0)
        status = pm_contest_run(c);
    pm_slabs_close(&b.slabs);
    if (status != PM_OK || c->n == 0)
        return status;
    pm_plan_entry e = {.shape = problem->shape,
                       .rows = pm_plan_class(problem->shape.n),
                       .variant = b.variants[c->winner],
                       .tuned = c->winner > 0,
                       .partly = c->partly,
                       .usual_us = c->usual_us,
                       .us = c->us};
    return pm_plan_add(dev, &e);
}

// ---- attention --------------------------------------------------------------------------------------------------------

enum { MOST_CACHE = 64 << 20 }; // bytes of keys, and of values

static uint64_t position_bytes(const pm_attend_shape *s) {
    return pm_kv_page_bytes(s->dtype, s->n_kv_heads, s->head_dim) / PM_PAGE;
}

// Rows of a chunk are the last ones of one sequence; other rows are the last of a sequence each.
static pm_status write_rows(bench *b, const pm_attend_shape *s, uint32_t n_seqs, uint32_t pages) {
    uint32_t n_words = n_seqs * pages > 4 * s->n ? n_seqs * pages : 4 * s->n;
    uint32_t *words = pm_calloc(n_words, sizeof(*words));
    if (!words)
        return pm_fail(PM_ERR_MEMORY, "no memory to tune");
    for (uint32_t i = 0; i < n_seqs * pages; i++)
        words[i] = i;
    pm_status status = pm_slice_write(b->dev, b->attend.kv->pages, words, (uint64_t)n_seqs * pages * 4);
    for (uint32_t r = 0; r < s->n; r++) {
        struct pm_row row = {.seq = n_seqs > 1 ? r : 0, .pos = n_seqs > 1 ? s->length - 1 : s->length - s->n + r};
        memcpy(words + 4 * (size_t)r, &row, sizeof(row));
    }
    if (status == PM_OK)
        status = pm_slice_write(b->dev, b->attend.rows, words, (uint64_t)s->n * 16);
    pm_free(words);
    return status;
}

static pm_status open_attention(bench *b, const pm_attend_shape *s, pm_kv *kv, uint64_t scratch) {
    uint32_t n_seqs = pm_plan_class(s->n) == PM_ROWS_MANY ? 1 : s->n, pages = (s->length + PM_PAGE - 1) / PM_PAGE;
    uint64_t bytes = (uint64_t)n_seqs * pages * PM_PAGE * position_bytes(s);
    *kv = (pm_kv){.dtype = s->dtype, .max_pages = pages, .n_kv_heads = s->n_kv_heads, .head_dim = s->head_dim};
    b->attend = (pm_attend){.kv = kv, .kv_bound = s->length, .scale = 0.1f, .consecutive = n_seqs == 1 && s->n > 1};
    PM_TRY(take(b, s->n, s->n_heads * s->head_dim, &b->attend.out));
    PM_TRY(take(b, s->n, s->n_heads * s->head_dim, &b->attend.q));
    PM_TRY(pm_slabs_alloc(b->slabs, (uint64_t)s->n * sizeof(struct pm_row), &b->attend.rows));
    PM_TRY(pm_slabs_alloc(b->slabs, (uint64_t)n_seqs * pages * 4, &kv->pages));
    PM_TRY(pm_slabs_alloc(b->slabs, bytes, &kv->k));
    PM_TRY(pm_slabs_alloc(b->slabs, bytes, &kv->v));
    if (scratch)
        PM_TRY(pm_slabs_alloc(b->slabs, scratch, &b->attend.scratch));
    return write_rows(b, s, n_seqs, pages);
}

static void record_attention(void *user, pm_cmd *cmd, int candidate, int piece) {
    bench *b = user;
    (void)piece;
    b->dev->forced_way = &b->ways[candidate];
    pm_op_attend(cmd, &b->attend);
    b->dev->forced_way = NULL;
}

// The ways that are right, and the scratch that the finest split needs.
static pm_status list_ways(bench *b, const pm_attend_shape *s, pm_contest *c, uint64_t *scratch) {
    pm_kernel_use uses[2 * PM_CONTEST_MOST];
    pm_attend_way way;
    int n_uses = 0;
    for (int i = 0; i < PM_CONTEST_MOST && pm_attend_way_at(b->dev, s, i, &way); i++)
        n_uses += pm_attend_uses(b->dev, s, &way, uses + n_uses);
    PM_TRY(try_uses(b->dev, uses, n_uses, c->deadline_ns));
    for (int i = 0; c->n < PM_CONTEST_MOST && pm_attend_way_at(b->dev, s, i, &way); i++) {
        int n = pm_attend_uses(b->dev, s, &way, uses);
        bool right = true;
        for (int u = 0; u < n; u++)
            right = right && pm_selftest_knows(b->dev, &uses[u]) && !pm_selftest_is_bad(b->dev, &uses[u]);
        if (!right && i > 0)
            continue;
        uint64_t partial = pm_attend_partial_bytes(s, way.split);
        *scratch = partial > *scratch ? partial : *scratch;
        c->bytes[c->n] = 2 * (uint64_t)s->length * position_bytes(s) + 2 * partial;
        b->ways[c->n++] = way;
    }
    return PM_OK;
}

static pm_status tune_attention(pm_device *dev, const pm_attend_shape *shape, pm_contest *c) {
    bench b = {.dev = dev};
    pm_kv kv;
    uint64_t scratch = 0;
    c->user = &b;
    c->record = record_attention;
    c->most_pieces = 8;
    pm_status status = pm_slabs_create(dev, 0, "measurements", &b.slabs);
    if (status == PM_OK)
        status = list_ways(&b, shape, c, &scratch);
    if (status == PM_OK)
        status = open_attention(&b, shape, &kv, scratch);
    if (status == PM_OK)
        status = pm_contest_run(c);
    pm_slabs_close(&b.slabs);
    PM_TRY(status);
    pm_plan_entry e = {.attends = true,
                       .attend = *shape,
                       .rows = pm_plan_class(shape->n),
                       .way = b.ways[c->winner],
                       .tuned = c->winner > 0,
                       .partly = c->partly,
                       .usual_us = c->usual_us,
                       .us = c->us};
    return pm_plan_add(dev, &e);
}

// ---- all of a model ---------------------------------------------------------------------------------------------------

typedef struct task {
    const pm_problem *problem; // NULL: attention
    pm_attend_shape attend;
} task;

static uint64_t weight_of(const task *t) {
    const pm_linear_shape *s = &t->problem->shape;
    return (uint64_t)t->problem->count * s->rows * s->cols * (s->n_experts ? s->n_used : 1);
}

// What reads most first, attention last: at the beginning of a conversation it reads least.
static int by_weight(const void *left, const void *right) {
    const task *a = left, *b = right;
    if (!a->problem || !b->problem)
        return !a->problem && !b->problem ? (a->attend.length > b->attend.length) - (a->attend.length < b->attend.length)
               : a->problem               ? -1
                                          : 1;
    return (weight_of(a) < weight_of(b)) - (weight_of(a) > weight_of(b));
}

static pm_status tune_one(pm_device *dev, const task *t, uint64_t deadline_ns, double rate) {
    pm_contest c = {.dev = dev, .deadline_ns = deadline_ns, .rate = rate};
    pm_status status = t->problem ? tune_product(dev, t->problem, &c) : tune_attention(dev, &t->attend, &c);
    if (status != PM_ERR_DEVICE_MEMORY && status != PM_ERR_MEMORY)
        return status;
    pm_log(PM_LOG_DEBUG, "not measured: %s", pm_error_text()); // there is less room than work, which goes on with the default
    return PM_OK;
}

// A task gets its share of what is left, and what those before it did not need.
static pm_status tune_list(pm_device *dev, const task *list, int n, double seconds) {
    uint64_t end = pm_now_ns() + (uint64_t)(seconds * 1e9);
    double rate = n > 0 ? pm_contest_rate(dev) : 0;
    for (int i = 0; i < n; i++) {
        uint64_t now = pm_now_ns();
        if (now >= end)
            break;
        PM_TRY(tune_one(dev, &list[i], now + (end - now) / (uint64_t)(n - i), rate));
    }
    return PM_OK;
}

static bool is_wanted(const pm_plan_entry *e, pm_tune_what what) {
    return !e || what == PM_TUNE_AGAIN || (what == PM_TUNE_UNFINISHED && e->partly);
}

// A short cache and a long one, as long as may be kept for it.
static int add_attention(const pm_device *dev, const pm_attend_shape *shape, pm_tune_what what, task *list) {
    static const uint32_t lengths[] = {PM_SHORT_CACHE / 2, 4 * PM_SHORT_CACHE};
    uint64_t most = MOST_CACHE < dev->caps.max_binding ? MOST_CACHE : dev->caps.max_binding;
    int n = 0;
    for (size_t i = 0; i < sizeof(lengths) / sizeof(*lengths); i++) {
        task t = {.attend = *shape};
        t.attend.length = lengths[i];
        uint64_t bytes = (uint64_t)lengths[i] * position_bytes(shape) * (pm_plan_class(shape->n) == PM_ROWS_MANY ? 1 : shape->n);
        if (shape->n <= lengths[i] && bytes <= most && is_wanted(pm_plan_attention(dev, &t.attend), what))
            list[n++] = t;
    }
    return n;
}

pm_status pm_tune_products(pm_device *dev, const pm_cmd *rehearsed, double seconds, pm_tune_what what) {
    int n_problems, n_attends, n = 0;
    const pm_problem *problems = pm_cmd_problems(rehearsed, &n_problems);
    const pm_attend_shape *attends = pm_cmd_attends(rehearsed, &n_attends);
    if (!dev->tuned || dev->caps.chosen || n_problems + n_attends == 0 || seconds <= 0)
        return PM_OK;
    task *list = pm_calloc((size_t)(n_problems + 2 * n_attends), sizeof(*list));
    if (!list)
        return pm_fail(PM_ERR_MEMORY, "no memory to tune");
    for (int i = 0; i < n_problems; i++)
        if (is_wanted(pm_plan_product(dev, &problems[i].shape), what))
            list[n++].problem = &problems[i];
    for (int i = 0; i < n_attends; i++)
        n += add_attention(dev, &attends[i], what, list + n);
    qsort(list, (size_t)n, sizeof(*list), by_weight);
    pm_status status = tune_list(dev, list, n, seconds);
    pm_free(list);
    return status;
}

double pm_tune_seconds(const pm_device *dev) {
    return dev->caps.tune_seconds;
}
