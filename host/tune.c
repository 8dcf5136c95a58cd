// Which variant of a product is fastest here: measured on the shapes and with the weights of the model at hand, and kept on disk
// like the verdicts of the self-test. A challenger takes the place of the default only where it wins pairwise, in turns, by a clear
// margin, twice: what is as fast stays as it is, and a noisy machine decides nothing.
#include "host/ops.h"
#include "host/vk.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// Rows of x that share a plan: a step of decoding, a batch of sequences, a chunk of a prompt.
typedef enum row_class { ROWS_ONE, ROWS_FEW, ROWS_MANY } row_class;
enum { FEW = 8 };
static const char *const class_names[] = {"one", "few", "many"};
static const char *const kernel_names[] = {
    [PM_BY_MATVEC] = "matvec", [PM_BY_TILES] = "tiles", [PM_BY_MATRICES] = "matrices", [PM_BY_SUBGROUPS] = "subgroups"};
#define EXACT 0x100u // in a file: a bit of the epilogue

typedef struct entry {
    pm_linear_shape shape; // n: of the class, not of the shape
    row_class rows;
    bool tuned;  // another variant than the default won
    bool partly; // there was no time for all variants
    pm_variant variant;
    double usual_us, us; // a product: of the default, of the variant
} entry;

struct pm_tuned {
    entry *list;
    int n, capacity;
};

static row_class class_of(uint32_t n) {
    return n == 1 ? ROWS_ONE : n <= FEW ? ROWS_FEW : ROWS_MANY;
}

// ---- the plan ---------------------------------------------------------------------------------------------------------

static entry *find(const pm_device *dev, const pm_linear_shape *s) {
    for (int i = 0; dev->tuned && i < dev->tuned->n; i++) {
        entry *e = &dev->tuned->list[i];
        if (e->shape.dtype == s->dtype && e->shape.epilogue == s->epilogue && e->shape.rows == s->rows &&
            e->shape.cols == s->cols && e->rows == class_of(s->n))
            return e;
    }
    return NULL;
}

bool pm_tune_find(const pm_device *dev, const pm_linear_shape *shape, pm_variant *variant) {
    const entry *e = dev->caps.chosen ? NULL : find(dev, shape);
    if (!e || !e->tuned)
        return false;
    *variant = e->variant;
    return true;
}

static pm_status remember(pm_device *dev, const entry *e) {
    struct pm_tuned *all = dev->tuned;
    entry *known = find(dev, &e->shape);
    if (!known && all->n == all->capacity) {
        int capacity = all->capacity ? 2 * all->capacity : 32;
        entry *grown = pm_realloc(all->list, (size_t)capacity * sizeof(*grown));
        if (!grown)
            return pm_fail(PM_ERR_MEMORY, "no memory for a plan");
        all->list = grown;
        all->capacity = capacity;
    }
    *(known ? known : &all->list[all->n++]) = *e;
    return PM_OK;
}

static void write_entry(pm_text *text, const entry *e) {
    const pm_matvec_shape *s = &e->variant.shape;
    pm_text_add(text,
                "%s %" PRIu32 " %" PRIu32 " %" PRIu32 " %" PRIu32 " %s %s %" PRIu32 ",%" PRIu32 ",%" PRIu32 ",%" PRIu32
                " %.1f %.1f\n",
                pm_dtype_get(e->shape.dtype)->name, e->shape.epilogue | (e->shape.exact ? EXACT : 0), e->shape.rows, e->shape.cols,
                e->shape.n,
                e->tuned    ? "won"
                : e->partly ? "partly"
                            : "stays",
                kernel_names[e->variant.by], s->workgroup, s->lanes, s->rows, s->max_cols, e->usual_us, e->us);
}

static bool read_dtype(const char *name, pm_dtype *dtype) {
    for (int d = 0; d < PM_DTYPE_COUNT; d++)
        if (!strcmp(pm_dtype_get((pm_dtype)d)->name, name)) {
            *dtype = (pm_dtype)d;
            return true;
        }
    return false;
}

static bool read_kernel(const char *name, pm_product_kernel *by) {
    for (int k = 0; k < PM_PRODUCT_KERNEL_COUNT; k++)
        if (!strcmp(kernel_names[k], name)) {
            *by = (pm_product_kernel)k;
            return true;
        }
    return false;
}

// Only what the table of variants has for this device is taken from a file.
static bool is_in_table(const pm_device *dev, const pm_linear_shape *shape, pm_variant *variant) {
    pm_variant v;
    for (int i = 0; pm_variant_at(dev, shape, i, &v); i++)
        if (pm_variant_same(&v, variant)) {
            *variant = v;
            return true;
        }
    return false;
}

static bool read_entry(const pm_device *dev, const char *line, entry *e) {
    char dtype[16], how[8], kernel[12];
    *e = (entry){.rows = ROWS_ONE};
    pm_linear_shape *s = &e->shape;
    pm_matvec_shape *m = &e->variant.shape;
    int n = sscanf(line,
                   "%15s %" SCNu32 " %" SCNu32 " %" SCNu32 " %" SCNu32 " %7s %11s %" SCNu32 ",%" SCNu32 ",%" SCNu32 ",%" SCNu32
                   " %lf %lf",
                   dtype, &s->epilogue, &s->rows, &s->cols, &s->n, how, kernel, &m->workgroup, &m->lanes, &m->rows, &m->max_cols,
                   &e->usual_us, &e->us);
    e->rows = class_of(s->n);
    e->tuned = n == 13 && !strcmp(how, "won");
    e->partly = n == 13 && !strcmp(how, "partly");
    s->exact = (s->epilogue & EXACT) != 0;
    s->epilogue &= ~EXACT;
    return n == 13 && s->n > 0 && read_dtype(dtype, &s->dtype) && read_kernel(kernel, &e->variant.by) &&
           is_in_table(dev, s, &e->variant);
}

// What this process knows stands; what another has measured meanwhile is added.
static void load(pm_device *dev) {
    char *text = pm_store_read(dev, "plan");
    for (char *line = text; line && *line; line += strcspn(line, "\n"), line += *line == '\n') {
        entry e;
        if (read_entry(dev, line, &e) && !find(dev, &e.shape) && remember(dev, &e) != PM_OK)
            break;
    }
    pm_free(text);
}

static void save(pm_device *dev) {
    pm_text text = {.n = 0};
    load(dev);
    for (int i = 0; i < dev->tuned->n; i++)
        write_entry(&text, &dev->tuned->list[i]);
    if (text.p && !text.failed)
        pm_store_write(dev, "plan", text.p);
    pm_free(text.p);
}

void pm_tune_open(pm_device *dev) {
    dev->tuned = pm_calloc(1, sizeof(*dev->tuned));
    if (dev->tuned)
        load(dev);
}

void pm_tune_close(pm_device *dev) {
    if (dev->tuned)
        pm_free(dev->tuned->list);
    pm_free(dev->tuned);
    dev->tuned = NULL;
}

// ---- measuring --------------------------------------------------------------------------------------------------------

// Products with each weight of a problem in turn, laid out by one variant, ready to be submitted again and again.
typedef struct runner {
    pm_variant variant;
    pm_cmd *cmd;
} runner;

typedef struct bench {
    pm_device *dev;
    const pm_problem *problem;
    pm_slabs *slabs;
    pm_tensor in, out, normed, squares, vector; // vector: gain or bias
    uint64_t deadline_ns;
    bool partly;   // it came before all variants had their turn
    int n_weights; // of the problem that a run takes
} bench;

static pm_status take(bench *b, uint32_t rows, uint32_t cols, pm_tensor *t) {
    pm_slice slice;
    PM_TRY(pm_slabs_alloc(b->slabs, pm_activation_bytes(rows, cols), &slice));
    *t = pm_activation(slice, rows, cols);
    return PM_OK;
}

// The result may be that of a whole of several tensors: rows [row0, row0 + rows) of it.
static uint32_t out_cols(const pm_problem *p) {
    uint32_t row0 = 0;
    for (int i = 0; i < p->n_weights; i++)
        row0 = p->weights[i].row0 > row0 ? p->weights[i].row0 : row0;
    return p->shape.epilogue & PM_LINEAR_GLU ? (row0 + p->shape.rows) / 2 : row0 + p->shape.rows;
}

static pm_status open_bench(bench *b) {
    const pm_linear_shape *s = &b->problem->shape;
    bool add = (s->epilogue & PM_LINEAR_ADD) != 0;
    uint32_t out = out_cols(b->problem), hidden = add ? out : s->cols;
    PM_TRY(pm_slabs_create(b->dev, 0, "measurements", &b->slabs));
    PM_TRY(take(b, s->n, s->cols, &b->in));
    PM_TRY(take(b, s->n, out, &b->out));
    PM_TRY(take(b, s->n, hidden, &b->normed));
    PM_TRY(take(b, s->n, hidden, &b->squares));
    return take(b, 1, out > s->cols ? out : s->cols, &b->vector);
}

static void record_product(bench *b, pm_cmd *cmd, pm_tensor w) {
    uint32_t epilogue = b->problem->shape.epilogue;
    pm_hidden h = {.x = b->out, .normed = b->normed, .squares = b->squares, .n_parts = 1, .eps = 1e-6f};
    if (epilogue & PM_LINEAR_ADD)
        pm_op_linear_add(cmd, &h, b->in, w, b->vector);
    else if (epilogue & PM_LINEAR_GLU)
        pm_op_norm_glu(cmd, b->out, &h, w);
    else
        pm_op_norm_linear(cmd, b->out, &h, w, epilogue & PM_LINEAR_BIAS ? &b->vector : NULL);
}

static pm_status record(bench *b, runner *r) {
    pm_cmd_begin(r->cmd);
    b->dev->forced = &r->variant;
    for (int i = 0; i < b->n_weights; i++)
        record_product(b, r->cmd, b->problem->weights[i]);
    b->dev->forced = NULL;
    return pm_cmd_end(r->cmd);
}

// Microseconds of a product: by the device's clock, by ours where it has none.
static pm_status measure(bench *b, runner *r, double *us) {
    int n;
    uint64_t began = pm_now_ns(), ns = 0;
    PM_TRY(pm_cmd_submit(r->cmd));
    PM_TRY(pm_cmd_wait(r->cmd));
    uint64_t waited = pm_now_ns() - began;
    const pm_timing *timings = pm_cmd_timings(r->cmd, &n);
    for (int i = 0; i < n; i++)
        ns += timings[i].ns;
    *us = (double)(ns ? ns : waited) / 1e3 / b->n_weights;
    return PM_OK;
}

// And a first run, which may have to wait for a compiler or a clock to wake up.
static pm_status open_runner(bench *b, const pm_variant *variant, runner *r) {
    double us;
    *r = (runner){.variant = *variant};
    PM_TRY(pm_cmd_open(b->dev, "measurement", &r->cmd));
    pm_cmd_profile(r->cmd, b->dev->info.timestamp_bits > 0);
    PM_TRY(record(b, r));
    return measure(b, r, &us);
}

static int ascending(const void *left, const void *right) {
    double a = *(const double *)left, b = *(const double *)right;
    return a < b ? -1 : a > b;
}

bool pm_tune_wins(double *ratios, int n) {
    int won = 0;
    for (int i = 0; i < n; i++)
        won += ratios[i] < 1;
    qsort(ratios, (size_t)n, sizeof(*ratios), ascending);
    return ratios[n / 2] < 0.97 && won * 5 >= n * 4;
}

// Both run in turns, now one first and now the other. *us are the fastest of each.
enum { MOST_ROUNDS = 9 };
static pm_status duel(bench *b, runner *challenger, runner *champion, int rounds, bool *won, double us[2]) {
    double ratios[MOST_ROUNDS], t[2];
    us[0] = us[1] = 1e300;
    for (int i = 0; i < rounds; i++) {
        PM_TRY(i % 2 ? measure(b, challenger, &t[0]) : measure(b, champion, &t[1]));
        PM_TRY(i % 2 ? measure(b, champion, &t[1]) : measure(b, challenger, &t[0]));
        ratios[i] = t[0] / t[1];
        for (int k = 0; k < 2; k++)
            us[k] = t[k] < us[k] ? t[k] : us[k];
    }
    *won = pm_tune_wins(ratios, rounds);
    return PM_OK;
}

// One round shows what is far behind; five who is ahead.
static pm_status challenge(bench *b, const pm_variant *variant, runner *best) {
    runner r = {.cmd = NULL};
    bool won = false;
    double us[2];
    pm_status status = open_runner(b, variant, &r);
    if (status == PM_OK)
        status = duel(b, &r, best, 1, &won, us);
    if (status == PM_OK && us[0] < 1.3 * us[1])
        status = duel(b, &r, best, 5, &won, us);
    else
        won = false;
    if (status == PM_OK && won) {
        runner loser = *best;
        *best = r;
        r = loser;
    }
    pm_cmd_close(&r.cmd);
    return status;
}

// All uses that the variants would make of kernels go through the self-test, at once.
static pm_status try_variants(bench *b) {
    pm_kernel_use uses[64];
    pm_variant v;
    int n = 0;
    bool found_bad;
    for (int i = 0; n + 2 <= 64 && pm_variant_at(b->dev, &b->problem->shape, i, &v); i++)
        n += pm_linear_uses(&b->dev->caps, &b->problem->shape, &v, uses + n);
    return pm_selftest_uses(b->dev, uses, n, &found_bad);
}

// A run of about 100 ms at most: one weight after the other, so that none comes from a cache, but not all where each takes long.
static pm_status open_first(bench *b, const pm_variant *usual, runner *first) {
    double us, most_us = 1e5;
    b->n_weights = 1;
    PM_TRY(open_runner(b, usual, first));
    PM_TRY(measure(b, first, &us));
    while (b->n_weights < b->problem->n_weights && us * (b->n_weights + 1) < most_us)
        b->n_weights++;
    PM_TRY(record(b, first));
    return measure(b, first, &us);
}

static bool has_time(const bench *b) {
    return pm_now_ns() < b->deadline_ns;
}

// The default's runner comes in and the winner's goes out.
static pm_status find_best(bench *b, runner *best) {
    pm_variant v;
    for (int i = 1; pm_variant_at(b->dev, &b->problem->shape, i, &v); i++) {
        b->partly = !has_time(b);
        if (b->partly)
            break;
        if (pm_variant_right(b->dev, &b->problem->shape, &v) && !pm_variant_same(&v, &best->variant))
            PM_TRY(challenge(b, &v, best));
    }
    return PM_OK;
}

// The winner meets the default once more, on fresh numbers: the luck that made it win does not count twice.
static pm_status settle(bench *b, runner *best, const pm_variant *usual) {
    entry e = {.shape = b->problem->shape, .rows = class_of(b->problem->shape.n), .variant = *usual, .partly = b->partly};
    runner first = {.cmd = NULL};
    double us[2];
    pm_status status = PM_OK;
    if (pm_variant_same(&best->variant, usual)) {
        status = measure(b, best, &e.usual_us);
        e.us = e.usual_us;
    } else {
        status = open_runner(b, usual, &first);
        if (status == PM_OK)
            status = duel(b, best, &first, MOST_ROUNDS, &e.tuned, us);
        if (status == PM_OK) {
            e.usual_us = us[1];
            e.us = e.tuned ? us[0] : us[1];
            e.variant = e.tuned ? best->variant : *usual;
        }
    }
    pm_cmd_close(&first.cmd);
    PM_TRY(status);
    PM_TRY(remember(b->dev, &e));
    save(b->dev);
    return PM_OK;
}

static pm_status tune_problem(bench *b) {
    runner best = {.cmd = NULL};
    pm_variant usual;
    PM_TRY(try_variants(b));
    pm_variant_at(b->dev, &b->problem->shape, 0, &usual);
    if (!pm_variant_right(b->dev, &b->problem->shape, &usual)) // quarantined: what the self-test left is the default
        for (int i = 1; pm_variant_at(b->dev, &b->problem->shape, i, &usual); i++)
            if (pm_variant_right(b->dev, &b->problem->shape, &usual))
                break;
    pm_status status = open_first(b, &usual, &best);
    if (status == PM_OK)
        status = find_best(b, &best);
    if (status == PM_OK)
        status = settle(b, &best, &usual);
    pm_cmd_close(&best.cmd);
    return status;
}

// ---- all of a model ---------------------------------------------------------------------------------------------------

// Steps of decoding before chunks before batches; in each what reads most.
static int by_weight(const void *left, const void *right) {
    static const int order[] = {[ROWS_ONE] = 0, [ROWS_MANY] = 1, [ROWS_FEW] = 2};
    const pm_problem *const *a = left, *const *b = right;
    int by_class = order[class_of((*a)->shape.n)] - order[class_of((*b)->shape.n)];
    uint64_t a_size = (uint64_t)(*a)->count * (*a)->shape.rows * (*a)->shape.cols;
    uint64_t b_size = (uint64_t)(*b)->count * (*b)->shape.rows * (*b)->shape.cols;
    return by_class ? by_class : a_size < b_size ? 1 : a_size > b_size ? -1 : 0;
}

static pm_status tune_one(pm_device *dev, const pm_problem *problem, uint64_t deadline_ns) {
    bench b = {.dev = dev, .problem = problem, .deadline_ns = deadline_ns};
    pm_status status = open_bench(&b);
    if (status == PM_OK)
        status = tune_problem(&b);
    pm_slabs_close(&b.slabs);
    return status;
}

// A problem gets its share of what is left, and what those before it did not need.
static pm_status tune_list(pm_device *dev, const pm_problem **list, int n, double seconds) {
    uint64_t end = pm_now_ns() + (uint64_t)(seconds * 1e9);
    for (int i = 0; i < n; i++) {
        uint64_t now = pm_now_ns();
        if (now >= end)
            break;
        PM_TRY(tune_one(dev, list[i], now + (end - now) / (uint64_t)(n - i)));
    }
    return PM_OK;
}

static bool is_wanted(const pm_device *dev, const pm_problem *problem, pm_tune_what what) {
    const entry *e = find(dev, &problem->shape);
    return !e || what == PM_TUNE_AGAIN || (what == PM_TUNE_UNFINISHED && e->partly);
}

pm_status pm_tune_products(pm_device *dev, const pm_cmd *rehearsed, double seconds, pm_tune_what what) {
    int n_all, n = 0;
    const pm_problem *all = pm_cmd_problems(rehearsed, &n_all);
    if (!dev->tuned || dev->caps.chosen || n_all == 0 || seconds <= 0)
        return PM_OK;
    const pm_problem **list = pm_calloc((size_t)n_all, sizeof(*list));
    if (!list)
        return pm_fail(PM_ERR_MEMORY, "no memory to tune");
    for (int i = 0; i < n_all; i++)
        if (is_wanted(dev, &all[i], what))
            list[n++] = &all[i];
    qsort(list, (size_t)n, sizeof(*list), by_weight);
    pm_status status = tune_list(dev, list, n, seconds);
    pm_free(list);
    return status;
}

double pm_tune_seconds(const pm_device *dev) {
    return dev->caps.tune_seconds;
}

static void describe(const entry *e, pm_tune_row *row) {
    const pm_matvec_shape *s = &e->variant.shape;
    *row = (pm_tune_row){.dtype = pm_dtype_get(e->shape.dtype)->name,
                         .batch = class_names[e->rows],
                         .rows = e->shape.rows,
                         .cols = e->shape.cols,
                         .tuned = e->tuned,
                         .usual_us = e->usual_us,
                         .us = e->us};
    if (e->variant.by == PM_BY_TILES || e->variant.by == PM_BY_MATRICES)
        snprintf(row->variant, sizeof(row->variant), "%s", kernel_names[e->variant.by]);
    else
        snprintf(row->variant, sizeof(row->variant), "%" PRIu32 ",%" PRIu32 ",%" PRIu32 ",%" PRIu32, s->workgroup, s->lanes,
                 s->rows, s->max_cols);
    row->op = e->shape.epilogue & PM_LINEAR_ADD ? "linear_add" : e->shape.epilogue & PM_LINEAR_GLU ? "norm_glu" : "norm_linear";
}

pm_status pm_tune_plan(const pm_device *dev, pm_tune_row **rows, int *n) {
    *n = dev->tuned ? dev->tuned->n : 0;
    *rows = pm_calloc((size_t)*n + 1, sizeof(**rows));
    if (!*rows)
        return pm_fail(PM_ERR_MEMORY, "no memory to tell the plan");
    for (int i = 0; i < *n; i++)
        describe(&dev->tuned->list[i], &(*rows)[i]);
    return PM_OK;
}
