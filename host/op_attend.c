// Attention over the paged cache: how many splits, which kernel.
#include "host/ops.h"
#include "host/vk.h"

#include <string.h>

static pm_kernel_use merge_use(uint32_t head_dim) {
    return (pm_kernel_use){.id = PM_K_attend_merge, .spec = {head_dim / 2, head_dim}, .n_spec = 2};
}

// Rows may be few enough that they do not fill the device: then the cache is split over workgroups. Not where the parts cannot be
// merged.
static bool may_split(const pm_device *dev, uint32_t n, uint32_t head_dim) {
    pm_kernel_use merging = merge_use(head_dim);
    return n <= dev->caps.matvec.max_cols && !pm_selftest_is_bad(dev, &merging);
}

static uint32_t splits_of(uint32_t length, uint32_t split) {
    return split ? (length + split - 1) / split : 1;
}

pm_dtype pm_kv_dtype(uint32_t bits) {
    return bits == 8 ? PM_Q8_0 : bits == 16 ? PM_F16 : PM_F32;
}

uint64_t pm_kv_page_bytes(pm_dtype dtype, uint32_t n_kv_heads, uint32_t head_dim) {
    uint64_t position = dtype == PM_Q8_0 ? head_dim + (head_dim + 63) / 64 * 4 : head_dim * (dtype == PM_F16 ? 2 : 4);
    return PM_PAGE * n_kv_heads * position;
}

uint64_t pm_attend_partial_bytes(const pm_attend_shape *s, uint32_t split) {
    uint64_t n_splits = splits_of(s->length, split);
    return n_splits > 1 ? s->n * s->n_heads * n_splits * (s->head_dim + 2) * 4 : 0;
}

// By the default: where the plan wants more splits, it gets as many as there is room for.
uint64_t pm_attend_scratch_bytes(const pm_device *dev, uint32_t n, uint32_t n_heads, uint32_t head_dim, uint32_t kv_bound) {
    pm_attend_shape s = {.n = n, .n_heads = n_heads, .head_dim = head_dim, .length = kv_bound};
    return pm_attend_partial_bytes(&s, may_split(dev, n, head_dim) ? dev->caps.attend_split : 0);
}

void pm_attend_merge(pm_cmd *cmd, const pm_attend *op, pm_slice partial, uint32_t n_heads, uint32_t n_splits) {
    pm_kernel_use use = merge_use(op->kv->head_dim);
    struct pm_attend_merge_args args = {.n_heads = n_heads, .n_splits = n_splits, .out_stride = op->out.stride};
    pm_dispatch d = {
        .kernel = use.id,
        .spec = {use.spec[0], use.spec[1]},
        .n_spec = use.n_spec,
        .args = &args,
        .args_size = sizeof args,
        .slices = {partial, op->out.data},
        .groups = {n_heads, op->q.rows, 1},
        .bytes = partial.size,
    };
    pm_cmd_dispatch(cmd, &d);
}

static pm_kernel_id kernel_of(pm_dtype dtype) {
    return dtype == PM_Q8_0 ? PM_K_attend_q8_0 : dtype == PM_F16 ? PM_K_attend_f16 : PM_K_attend_f32;
}

static pm_kernel_id plain_kernel_of(pm_dtype dtype) {
    return dtype == PM_Q8_0 ? PM_K_attend_plain_q8_0 : dtype == PM_F16 ? PM_K_attend_plain_f16 : PM_K_attend_plain_f32;
}

// Rows that a workgroup takes at once, where there are many: of all queries that share the keys no more than 8, whose sums stay in
// registers; heads of 256 then fill 12 KiB of shared memory.
static uint32_t usual_rows(const pm_device *dev, const pm_attend_shape *s) {
    enum { MOST_QUERIES = 8 };
    uint32_t group = s->n_heads / s->n_kv_heads;
    return s->n <= dev->caps.matvec.max_cols || group == 0 || group >= MOST_QUERIES ? 1 : MOST_QUERIES / group;
}

// Few rows: other lengths of a split, or none.
static bool split_at(const pm_device *dev, const pm_attend_shape *s, int i, uint32_t *split) {
    const uint32_t usual = dev->caps.attend_split, splits[] = {usual, usual / 2, 2 * usual, usual / 4, 4 * usual, 0};
    int n = sizeof(splits) / sizeof(*splits);
    for (int k = 0; k < n; k++) {
        bool there = k == 0 || k == n - 1 || (splits[k] >= PM_PAGE && splits[k] < s->length);
        if (there && i-- == 0) {
            *split = splits[k] / PM_PAGE * PM_PAGE;
            return true;
        }
    }
    return false;
}

// What attend_cm.comp declares.
static uint32_t matrices_shared(const pm_coopmat_shape *m, uint32_t head_dim, uint32_t subgroups) {
    uint32_t keys = PM_PAGE * (head_dim + 8), values = head_dim * (PM_PAGE + 8), scores = subgroups * m->m * (PM_PAGE + 8);
    return 2 * (keys > values ? keys : values) + (2 + 4) * scores;
}

// Heads of 256 would leave no registers for q and what is summed.
static bool fits_matrices(const pm_device *dev, const pm_attend_shape *s, uint32_t subgroups) {
    enum { MOST_DIM = 128 };
    const pm_coopmat_shape *m = &dev->caps.coopmat;
    bool there = s->dtype == PM_F16    ? pm_kernel_available(dev, PM_K_attend_cm_f16)
                 : s->dtype == PM_Q8_0 ? pm_kernel_available(dev, PM_K_attend_cm_q8_0)
                                       : false;
    if (!there || s->head_dim % PM_PAGE || s->head_dim > MOST_DIM || PM_PAGE % m->n || PM_PAGE % m->k || m->n % 4 || m->k % 4)
        return false;
    bool lanes = m->subgroup < m->m ? m->m % m->subgroup == 0 : m->subgroup % m->m == 0 && m->subgroup / m->m <= PM_PAGE / 4;
    return lanes && s->n_heads / s->n_kv_heads <= subgroups * m->m && subgroups * m->subgroup <= dev->info.max_invocations &&
           matrices_shared(m, s->head_dim, subgroups) <= dev->info.max_shared;
}

static pm_kernel_use matrices_use(const pm_device *dev, const pm_attend_shape *s, uint32_t subgroups) {
    const pm_coopmat_shape *m = &dev->caps.coopmat;
    return (pm_kernel_use){
        .id = s->dtype == PM_Q8_0 ? PM_K_attend_cm_q8_0 : PM_K_attend_cm_f16,
        .spec = {subgroups * m->subgroup, s->head_dim, m->subgroup, s->n_heads / s->n_kv_heads, m->m, m->n, m->k},
        .n_spec = 7};
}

// Batch rows of a workgroup.
static uint32_t rows_of(const pm_kernel_use *use) {
    const uint32_t *spec = use->spec;
    if (use->id == PM_K_attend_cm_f16 || use->id == PM_K_attend_cm_q8_0)
        return spec[0] / spec[2] * spec[4] / spec[3];
    return use->n_spec > 3 ? spec[3] : 1;
}

enum { MANY_WAYS = 8 };

static int add_matrices(const pm_device *dev, const pm_attend_shape *s, uint32_t subgroups, pm_attend_way *way) {
    if (!fits_matrices(dev, s, subgroups))
        return 0;
    pm_kernel_use use = matrices_use(dev, s, subgroups);
    *way = (pm_attend_way){.rows = rows_of(&use), .subgroups = subgroups};
    return 1;
}

// Many rows: by matrices, where products are multiplied so; by lanes, and by them with fewer rows at once.
static int list_many(const pm_device *dev, const pm_attend_shape *s, pm_attend_way ways[MANY_WAYS]) {
    int n = dev->caps.use_coopmat ? add_matrices(dev, s, 4, ways) : 0;
    bool first = n > 0;
    for (uint32_t rows = usual_rows(dev, s); rows > 0; rows /= 2)
        ways[n++] = (pm_attend_way){.rows = rows};
    n += first ? 0 : add_matrices(dev, s, 4, ways + n);
    return n + add_matrices(dev, s, 8, ways + n);
}

bool pm_attend_way_at(const pm_device *dev, const pm_attend_shape *s, int i, pm_attend_way *way) {
    pm_attend_way ways[MANY_WAYS];
    *way = (pm_attend_way){.rows = 1};
    if (may_split(dev, s->n, s->head_dim))
        return split_at(dev, s, i, &way->split);
    bool there = i < list_many(dev, s, ways);
    *way = there ? ways[i] : *way;
    return there;
}

bool pm_attend_has_way(const pm_device *dev, const pm_attend_shape *s, const pm_attend_way *way) {
    pm_attend_way w;
    for (int i = 0; pm_attend_way_at(dev, s, i, &w); i++)
        if (w.split == way->split && w.rows == way->rows && w.subgroups == way->subgroups)
            return true;
    return false;
}

static pm_kernel_use use_of(const pm_attend_shape *s, uint32_t rows) {
    return (pm_kernel_use){
        .id = kernel_of(s->dtype), .spec = {s->head_dim / 2, s->head_dim, s->n_heads / s->n_kv_heads, rows}, .n_spec = 4};
}

int pm_attend_uses(const pm_device *dev, const pm_attend_shape *s, const pm_attend_way *way, pm_kernel_use uses[2]) {
    uses[0] = way->subgroups ? matrices_use(dev, s, way->subgroups) : use_of(s, way->rows);
    uses[1] = merge_use(s->head_dim);
    return splits_of(s->length, way->split) > 1 ? 2 : 1;
}

// What was forced or tuned, else the default.
static pm_attend_way pick_way(const pm_device *dev, const pm_attend_shape *s) {
    pm_attend_way way;
    if (dev->forced_way)
        return *dev->forced_way;
    if (!pm_tune_find_attend(dev, s, &way) || !pm_attend_has_way(dev, s, &way))
        pm_attend_way_at(dev, s, 0, &way);
    return way;
}

// The kernels that attend, best first. consecutive: the rows are so; exact: halves must not be multiplied.
static pm_kernel_use pick_use(const pm_device *dev, const pm_attend_shape *s, const pm_attend_way *way, bool consecutive,
                              bool exact) {
    uint32_t dim = s->head_dim, group = s->n_heads / s->n_kv_heads;
    uint32_t rows = !consecutive ? 1 : way->subgroups ? usual_rows(dev, s) : way->rows;
    pm_kernel_id plain = plain_kernel_of(s->dtype);
    pm_kernel_use uses[5];
    int n = 0;
    if (way->subgroups && consecutive && !exact)
        uses[n++] = matrices_use(dev, s, way->subgroups);
    uses[n++] = use_of(s, rows);
    uses[n++] = use_of(s, 1);
    uses[n++] = (pm_kernel_use){.id = plain, .spec = {64, dim, group}, .n_spec = 3};
    uses[n++] = (pm_kernel_use){.id = plain, .spec = {32, dim, group}, .n_spec = 3};
    return pm_variant_use(dev, uses, n);
}

// An invocation of the plain kernel takes 8 dims, or 4 of floats: attend_plain.comp's DIMS.
static uint32_t plain_groups(const pm_attend *op, const pm_kernel_use *use) {
    uint32_t dims = op->kv->dtype == PM_F32 ? 4 : 8;
    return (op->q.cols / dims + use->spec[0] - 1) / use->spec[0];
}

void pm_attend_split(pm_cmd *cmd, const pm_attend *op, pm_slice partial, uint32_t n_splits, uint32_t split_len,
                     const pm_kernel_use *use) {
    const pm_kv *kv = op->kv;
    bool plain = use->id == plain_kernel_of(kv->dtype);
    uint32_t n_heads = op->q.cols / kv->head_dim, n = op->q.rows, rows = rows_of(use);
    struct pm_attend_args args = {
        .n = n,
        .n_heads = n_heads,
        .n_kv_heads = kv->n_kv_heads,
        .q_stride = op->q.stride,
        .out_stride = op->out.stride,
        .max_pages = kv->max_pages,
        .n_splits = n_splits,
        .split_len = split_len,
        .scale = op->scale,
    };
    pm_dispatch d = {
        .kernel = use->id,
        .n_spec = use->n_spec,
        .args = &args,
        .args_size = sizeof args,
        .slices = {op->q.data, op->rows, kv->pages, kv->k, kv->v, op->out.data, n_splits > 1 ? partial : op->out.data},
        .groups = {plain ? plain_groups(op, use) : kv->n_kv_heads, (n + rows - 1) / rows, n_splits},
        .bytes = 2 * (uint64_t)((n + rows - 1) / rows) * op->kv_bound *
                 (pm_kv_page_bytes(kv->dtype, kv->n_kv_heads, kv->head_dim) / PM_PAGE),
        .flops = 4 * (uint64_t)n * op->kv_bound * op->q.cols, // of q k^T and of what v is weighted with
    };
    memcpy(d.spec, use->spec, sizeof(d.spec));
    pm_cmd_dispatch(cmd, &d);
}

// The length of a split, so that the parts have room in the scratch memory.
static uint32_t fit_split(const pm_attend_shape *s, uint32_t split, uint64_t room) {
    uint64_t part = (uint64_t)s->n * s->n_heads * (s->head_dim + 2) * 4, most = room / part;
    if (splits_of(s->length, split) <= most || splits_of(s->length, split) == 1)
        return split;
    return most < 2 ? 0 : (uint32_t)pm_round_up((s->length + most - 1) / most, PM_PAGE);
}

void pm_op_attend(pm_cmd *cmd, const pm_attend *op) {
    if (!pm_cmd_ok(cmd))
        return;
    const pm_device *dev = pm_cmd_device(cmd);
    const pm_kv *kv = op->kv;
    pm_attend_shape s = {.dtype = kv->dtype,
                         .n = op->q.rows,
                         .n_heads = op->q.cols / kv->head_dim,
                         .n_kv_heads = kv->n_kv_heads,
                         .head_dim = kv->head_dim,
                         .length = op->kv_bound};
    pm_attend_way way = pick_way(dev, &s);
    uint32_t split = fit_split(&s, way.split, op->scratch.buffer ? op->scratch.size : 0), n_splits = splits_of(s.length, split);
    pm_kernel_use use = pick_use(dev, &s, &way, op->consecutive, pm_cmd_is_exact(cmd));
    pm_slice partial = op->scratch;
    partial.size = pm_attend_partial_bytes(&s, split);
    pm_cmd_note_attend(cmd, &s);
    pm_attend_split(cmd, op, partial, n_splits, split, &use);
    if (n_splits > 1)
        pm_attend_merge(cmd, op, partial, s.n_heads, n_splits);
}
