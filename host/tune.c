// The plan: which variant of a product, and which split of attention, is fastest here, as tune_bench.c has measured it. Kept on
// disk like the verdicts of the self-test.
#include "host/tune.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const char *const class_names[] = {"one", "few", "many"};
static const char *const kernel_names[] = {
    [PM_BY_MATVEC] = "matvec", [PM_BY_TILES] = "tiles",         [PM_BY_MATRICES] = "matrices", [PM_BY_SUBGROUPS] = "subgroups",
    [PM_BY_DOTS] = "dots",     [PM_BY_DOT_TILES] = "dot_tiles", [PM_BY_BUFFERS] = "buffers"};
#define EXACT 0x100u // in a file: bits of the epilogue
#define FAST  0x200u

struct pm_tuned {
    pm_plan_entry *list;
    int n, capacity;
};

pm_row_class pm_plan_class(uint32_t n) {
    return n == 1 ? PM_ROWS_ONE : n <= PM_FEW_ROWS ? PM_ROWS_FEW : PM_ROWS_MANY;
}

// ---- the plan ---------------------------------------------------------------------------------------------------------

static bool same_product(const pm_linear_shape *a, const pm_linear_shape *b) {
    return a->dtype == b->dtype && a->epilogue == b->epilogue && a->rows == b->rows && a->cols == b->cols &&
           a->n_experts == b->n_experts && a->n_used == b->n_used && a->fast == b->fast && a->exact == b->exact;
}

// Short caches and long ones are split differently.
static bool same_attention(const pm_attend_shape *a, const pm_attend_shape *b) {
    return a->dtype == b->dtype && a->n_heads == b->n_heads && a->n_kv_heads == b->n_kv_heads && a->head_dim == b->head_dim &&
           (a->length > PM_SHORT_CACHE) == (b->length > PM_SHORT_CACHE);
}

static pm_plan_entry *find(const pm_device *dev, const pm_plan_entry *e) {
    for (int i = 0; dev->tuned && i < dev->tuned->n; i++) {
        pm_plan_entry *known = &dev->tuned->list[i];
        if (known->attends == e->attends && known->rows == e->rows &&
            (e->attends ? same_attention(&known->attend, &e->attend) : same_product(&known->shape, &e->shape)))
            return known;
    }
    return NULL;
}

const pm_plan_entry *pm_plan_product(const pm_device *dev, const pm_linear_shape *shape) {
    return find(dev, &(pm_plan_entry){.shape = *shape, .rows = pm_plan_class(shape->n)});
}

const pm_plan_entry *pm_plan_attention(const pm_device *dev, const pm_attend_shape *shape) {
    return find(dev, &(pm_plan_entry){.attends = true, .attend = *shape, .rows = pm_plan_class(shape->n)});
}

bool pm_tune_find(const pm_device *dev, const pm_linear_shape *shape, pm_variant *variant) {
    const pm_plan_entry *e = dev->caps.chosen ? NULL : pm_plan_product(dev, shape);
    if (!e || !e->tuned)
        return false;
    *variant = e->variant;
    return true;
}

bool pm_tune_find_attend(const pm_device *dev, const pm_attend_shape *shape, pm_attend_way *way) {
    const pm_plan_entry *e = dev->caps.chosen ? NULL : pm_plan_attention(dev, shape);
    if (!e || !e->tuned)
        return false;
    *way = e->way;
    return true;
}

static pm_status remember(pm_device *dev, const pm_plan_entry *e) {
    struct pm_tuned *all = dev->tuned;
    pm_plan_entry *known = find(dev, e);
    if (!known && all->n == all->capacity) {
        int capacity = all->capacity ? 2 * all->capacity : 32;
        pm_plan_entry *grown = pm_realloc(all->list, (size_t)capacity * sizeof(*grown));
        if (!grown)
            return pm_fail(PM_ERR_MEMORY, "no memory for a plan");
        all->list = grown;
        all->capacity = capacity;
    }
    *(known ? known : &all->list[all->n++]) = *e;
    return PM_OK;
}

// ---- on disk ------------------------------------------------------------------------------------------------------------

static const char *how_text(const pm_plan_entry *e) {
    return e->tuned ? "won" : e->partly ? "partly" : "stays";
}

static bool read_how(const char *how, pm_plan_entry *e) {
    e->tuned = !strcmp(how, "won");
    e->partly = !strcmp(how, "partly");
    return e->tuned || e->partly || !strcmp(how, "stays");
}

// "Q8_0 EPILOGUE ROWS COLS N USED/EXPERTS HOW KERNEL WORKGROUP,LANES,ROWS,COLS US US"
static void write_product(pm_text *text, const pm_plan_entry *e) {
    const pm_linear_shape *p = &e->shape;
    const pm_matvec_shape *s = &e->variant.shape;
    pm_text_add(text,
                "%s %" PRIu32 " %" PRIu32 " %" PRIu32 " %" PRIu32 " %" PRIu32 "/%" PRIu32 " %s %s %" PRIu32 ",%" PRIu32 ",%" PRIu32
                ",%" PRIu32 " %.1f %.1f\n",
                pm_dtype_get(p->dtype)->name, p->epilogue | (p->exact ? EXACT : 0) | (p->fast ? FAST : 0), p->rows, p->cols, p->n,
                p->n_used, p->n_experts, how_text(e), kernel_names[e->variant.by], s->workgroup, s->lanes, s->rows, s->max_cols,
                e->usual_us, e->us);
}

// "attend F16 HEADS KV_HEADS DIM N LENGTH HOW SPLIT ROWS SUBGROUPS US US"
static void write_attention(pm_text *text, const pm_plan_entry *e) {
    const pm_attend_shape *a = &e->attend;
    pm_text_add(text,
                "attend %s %" PRIu32 " %" PRIu32 " %" PRIu32 " %" PRIu32 " %" PRIu32 " %s %" PRIu32 " %" PRIu32 " %" PRIu32
                " %.1f %.1f\n",
                pm_dtype_get(a->dtype)->name, a->n_heads, a->n_kv_heads, a->head_dim, a->n, a->length, how_text(e), e->way.split,
                e->way.rows, e->way.subgroups, e->usual_us, e->us);
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

static bool read_product(const pm_device *dev, const char *line, pm_plan_entry *e) {
    char dtype[16], how[8], kernel[12];
    pm_linear_shape *s = &e->shape;
    pm_matvec_shape *m = &e->variant.shape;
    int n = sscanf(line,
                   "%15s %" SCNu32 " %" SCNu32 " %" SCNu32 " %" SCNu32 " %" SCNu32 "/%" SCNu32 " %7s %11s %" SCNu32 ",%" SCNu32
                   ",%" SCNu32 ",%" SCNu32 " %lf %lf",
                   dtype, &s->epilogue, &s->rows, &s->cols, &s->n, &s->n_used, &s->n_experts, how, kernel, &m->workgroup, &m->lanes,
                   &m->rows, &m->max_cols, &e->usual_us, &e->us);
    if (n != 15 || s->n == 0 || !read_how(how, e) || !read_dtype(dtype, &s->dtype) || !read_kernel(kernel, &e->variant.by))
        return false;
    e->rows = pm_plan_class(s->n);
    s->exact = (s->epilogue & EXACT) != 0;
    s->fast = (s->epilogue & FAST) != 0;
    s->epilogue &= ~(EXACT | FAST);
    s->tile = s->n_experts ? pm_experts_tile_cols(&dev->caps, s->epilogue) : 0;
    return is_in_table(dev, s, &e->variant);
}

static bool read_attention(const pm_device *dev, const char *line, pm_plan_entry *e) {
    char dtype[16], how[8];
    pm_attend_shape *a = &e->attend;
    e->attends = true;
    int n = sscanf(line,
                   "attend %15s %" SCNu32 " %" SCNu32 " %" SCNu32 " %" SCNu32 " %" SCNu32 " %7s %" SCNu32 " %" SCNu32 " %" SCNu32
                   " %lf %lf",
                   dtype, &a->n_heads, &a->n_kv_heads, &a->head_dim, &a->n, &a->length, how, &e->way.split, &e->way.rows,
                   &e->way.subgroups, &e->usual_us, &e->us);
    e->rows = pm_plan_class(a->n);
    return n == 12 && a->n > 0 && a->n_kv_heads > 0 && read_how(how, e) && read_dtype(dtype, &a->dtype) &&
           pm_attend_has_way(dev, a, &e->way);
}

static bool read_entry(const pm_device *dev, const char *line, pm_plan_entry *e) {
    *e = (pm_plan_entry){.rows = PM_ROWS_ONE};
    return strncmp(line, "attend ", 7) ? read_product(dev, line, e) : read_attention(dev, line, e);
}

void pm_plan_read(pm_device *dev, const char *text) {
    for (const char *line = text; line && *line; line += strcspn(line, "\n"), line += *line == '\n') {
        pm_plan_entry e;
        if (read_entry(dev, line, &e) && !find(dev, &e) && remember(dev, &e) != PM_OK)
            break;
    }
}

// What this process knows stands; what another has measured meanwhile is added.
static void load(pm_device *dev) {
    char *text = pm_store_read(dev, "plan");
    pm_plan_read(dev, text);
    pm_free(text);
}

static void save(pm_device *dev) {
    pm_text text = {.n = 0};
    load(dev);
    for (int i = 0; i < dev->tuned->n; i++)
        (dev->tuned->list[i].attends ? write_attention : write_product)(&text, &dev->tuned->list[i]);
    if (text.p && !text.failed)
        pm_store_write(dev, "plan", text.p);
    pm_free(text.p);
}

pm_status pm_plan_add(pm_device *dev, const pm_plan_entry *e) {
    PM_TRY(remember(dev, e));
    save(dev);
    return PM_OK;
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

// ---- telling it ---------------------------------------------------------------------------------------------------------

static void describe_product(const pm_plan_entry *e, pm_tune_row *row) {
    const pm_matvec_shape *s = &e->variant.shape;
    uint32_t epilogue = e->shape.epilogue;
    bool experts = e->shape.n_experts > 0;
    row->dtype = pm_dtype_get(e->shape.dtype)->name;
    row->rows = e->shape.rows;
    row->cols = e->shape.cols;
    if (e->variant.by == PM_BY_TILES || e->variant.by == PM_BY_DOT_TILES ||
        (pm_variant_is_matrices(&e->variant) && s->workgroup == 0))
        snprintf(row->variant, sizeof(row->variant), "%s", kernel_names[e->variant.by]);
    else
        snprintf(row->variant, sizeof(row->variant), "%s%" PRIu32 ",%" PRIu32 ",%" PRIu32 ",%" PRIu32,
                 pm_variant_is_matrices(&e->variant) ? "matrices " : "", s->workgroup, s->lanes, s->rows, s->max_cols);
    if (epilogue & PM_LINEAR_GLU)
        row->op = experts ? "experts_glu" : "norm_glu";
    else
        row->op = experts ? "experts_add" : epilogue & PM_LINEAR_ADD ? "linear_add" : "norm_linear";
}

static void describe_attention(const pm_plan_entry *e, pm_tune_row *row) {
    row->op = "attend";
    row->dtype = pm_dtype_get(e->attend.dtype)->name;
    row->rows = e->attend.n_heads;
    row->cols = e->attend.length;
    if (e->rows == PM_ROWS_MANY)
        snprintf(row->variant, sizeof(row->variant), "%" PRIu32 " rows%s", e->way.rows, e->way.subgroups ? ", matrices" : "");
    else
        snprintf(row->variant, sizeof(row->variant), "split %" PRIu32, e->way.split);
}

static void describe(const pm_plan_entry *e, pm_tune_row *row) {
    *row = (pm_tune_row){.batch = class_names[e->rows], .tuned = e->tuned, .usual_us = e->usual_us, .us = e->us};
    if (e->attends)
        describe_attention(e, row);
    else
        describe_product(e, row);
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
