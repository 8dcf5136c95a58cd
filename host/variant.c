// The ways to compute the same: THE table of variants, and which of them a device takes. A new one is a row here; the self-test and
// the tuner find it by itself.
#include "host/vk.h"

#include <string.h>

#define CPU (1u << PM_CLASS_CPU)
#define GPU (1u << PM_CLASS_GPU)
#define NARROW \
    { 4, 4, 2, 2 } // 128 x 32 where matrices are of 16: a row of the table, and a default

// In the order in which they are tried where nothing was measured and the default of caps.c is not right. "plain" needs nothing: a
// lane a row, no shared memory but for the squares, one column at a time. Tiles come last: a software driver takes 300 times as
// long in them.
// clang-format off
static const pm_variant linear_table[] = {
    // name              by               workgroup, lanes, rows, most columns
    {"32 lanes x 2",     PM_BY_MATVEC,   {64, 32, 2, 8}, GPU},
    {"32 lanes x 4",     PM_BY_MATVEC,   {64, 32, 4, 4}, GPU},
    {"64 lanes x 2",     PM_BY_MATVEC,   {64, 64, 2, 8}, GPU},
    {"16 lanes x 2",     PM_BY_MATVEC,   {64, 16, 2, 8}, GPU},
    {"8 lanes x 2",      PM_BY_MATVEC,   {64, 8, 2, 8},  GPU},
    {"4 by 32 lanes",    PM_BY_MATVEC,   {128, 32, 2, 8}, GPU},
    {"subgroups of 32 x 2", PM_BY_SUBGROUPS, {64, 32, 2, 8}, GPU},
    {"subgroups of 32 x 4", PM_BY_SUBGROUPS, {64, 32, 4, 4}, GPU},
    {"subgroups of 16 x 2", PM_BY_SUBGROUPS, {64, 16, 2, 8}, GPU},
    {"subgroups of 8 x 2", PM_BY_SUBGROUPS, {64, 8, 2, 8}, GPU},
    {"a lane a row x 8", PM_BY_MATVEC,   {16, 1, 8, 4},  CPU},
    {"a lane a row x 4", PM_BY_MATVEC,   {16, 1, 4, 4},  CPU | GPU},
    {"8 lanes, rows x 8", PM_BY_MATVEC,  {8, 1, 8, 4},   CPU},
    {"32 lanes, rows x 8", PM_BY_MATVEC, {32, 1, 8, 4},  CPU},
    {"subgroups, x 8",   PM_BY_SUBGROUPS, {16, 1, 8, 4},  CPU},
    {"plain",            PM_BY_MATVEC,   {16, 1, 2, 1},  CPU | GPU},
    {"dots, 32 lanes x 2", PM_BY_DOTS,   {64, 32, 2, 8}, GPU},
    {"dots, 16 lanes x 2", PM_BY_DOTS,   {64, 16, 2, 8}, GPU},
    {"dots, a lane a row", PM_BY_DOTS,   {16, 1, 8, 4},  CPU},
    {"dot tiles",        PM_BY_DOT_TILES, {0, 0, 0, 0},  CPU | GPU},
    // of matrices: subgroups, those above one another, matrices of a subgroup: down, across; 128 by 64 in what follows where they are 16
    {"matrices",         PM_BY_MATRICES, {0, 0, 0, 0},   CPU | GPU},
    {"matrices, 128 x 32", PM_BY_MATRICES, NARROW, GPU},
    {"matrices, 256 x 128", PM_BY_MATRICES, {8, 4, 4, 4}, GPU},
    {"matrices, two buffers", PM_BY_BUFFERS, {0, 0, 0, 0}, GPU},
    {"tiles",            PM_BY_TILES,    {0, 0, 0, 0},   CPU | GPU},
};
// clang-format on
enum { N_LINEAR = sizeof(linear_table) / sizeof(*linear_table) };

static const uint32_t workgroups[] = {64, 32, 16, 128};

bool pm_variant_is_matrices(const pm_variant *v) {
    return v->by == PM_BY_MATRICES || v->by == PM_BY_BUFFERS;
}

pm_coopmat_shape pm_variant_coopmat(const pm_caps *caps, const pm_variant *v) {
    const pm_matvec_shape *s = &v->shape;
    pm_coopmat_shape m = caps->coopmat;
    m.buffers = v->by == PM_BY_BUFFERS ? 2 : 1;
    if (s->workgroup == 0)
        return m;
    m.workgroup = s->workgroup * m.subgroup;
    m.down = s->lanes;
    m.rows = s->lanes * s->rows * m.m;
    m.cols = s->workgroup / s->lanes * s->max_cols * m.n;
    return m;
}

static bool fits_matrices(const pm_device *dev, const pm_variant *v) {
    if (!(dev->caps.has & PM_NEED_COOPMAT))
        return false;
    pm_coopmat_shape m = pm_variant_coopmat(&dev->caps, v);
    return m.rows % m.workgroup == 0 && m.workgroup <= dev->info.max_invocations && pm_coopmat_shared(&m) <= dev->info.max_shared;
}

// MOST_SUMS: of a lane, where tiles of experts ask for more columns than the table says; beyond that they leave the registers.
static bool fits(const pm_device *dev, const pm_linear_shape *shape, const pm_variant *v) {
    enum { MOST_SUMS = 64 };
    const pm_matvec_shape *s = &v->shape;
    uint32_t cols = shape->n_experts ? shape->tile : s->max_cols;
    if (pm_variant_is_matrices(v))
        return fits_matrices(dev, v);
    if (v->by == PM_BY_DOT_TILES)
        return shape->fast && PM_DOT_TILE_ROWS * PM_DOT_TILE_COLS / 32 <= dev->info.max_invocations;
    if (v->by == PM_BY_DOTS && !shape->fast)
        return false;
    if (v->by == PM_BY_TILES)
        return PM_TILE_ROWS * PM_TILE_COLS / 16 <= dev->info.max_invocations;
    if (v->by == PM_BY_SUBGROUPS && dev->info.subgroup_min < s->lanes)
        return false;
    uint64_t shared =
        s->lanes > 1 && v->by != PM_BY_SUBGROUPS ? (uint64_t)(s->rows + 1) * cols * s->workgroup : 0; // matvec.comp: lane_sums
    shared += (uint64_t)cols * s->workgroup;                                                          // lane_squares
    return s->workgroup <= dev->info.max_invocations && 4 * shared <= dev->info.max_shared && s->rows * cols <= MOST_SUMS;
}

bool pm_variant_has_dots(const pm_variant *v) {
    return v->by == PM_BY_DOTS || v->by == PM_BY_DOT_TILES;
}

bool pm_variant_same(const pm_variant *a, const pm_variant *b) {
    bool shaped = a->by != PM_BY_TILES && a->by != PM_BY_DOT_TILES;
    return a->by == b->by && (!shaped || !memcmp(&a->shape, &b->shape, sizeof(a->shape)));
}

static bool is_made(const pm_device *dev, const pm_linear_shape *shape, const pm_variant *variant) {
    pm_kernel_use uses[2];
    return pm_linear_uses(&dev->caps, shape, variant, uses) > 0 && pm_kernel_available(dev, uses[0].id);
}

// The same in bytes, where such kernels are made and matrices of halves are not faster still.
static bool usual_dots(const pm_device *dev, const pm_linear_shape *shape, pm_variant *v) {
    const pm_caps *caps = &dev->caps;
    bool few = shape->n <= caps->matvec.max_cols;
    *v = (pm_variant){.name = "default", .by = PM_BY_DOTS, .shape = few ? caps->matvec : caps->matvec_batch};
    if (!few && caps->use_tiles)
        v->by = PM_BY_DOT_TILES;
    return shape->fast && caps->use_dots && (few || !caps->use_coopmat) && is_made(dev, shape, v);
}

// What caps.c says of a device of this class.
static pm_variant usual(const pm_device *dev, const pm_linear_shape *shape) {
    const pm_caps *caps = &dev->caps;
    bool subgroups = caps->use_subgroups && !shape->n_experts, batch = caps->use_subgroup_batch && !shape->n_experts;
    bool floats = shape->dtype == PM_F32 || shape->dtype == PM_F16 || shape->dtype == PM_BF16;
    pm_variant v;
    if (usual_dots(dev, shape, &v))
        return v;
    v = (pm_variant){.name = "default", .by = PM_BY_MATRICES};
    if (shape->n <= caps->matvec.max_cols || (shape->n_experts && !(shape->epilogue & PM_LINEAR_GROUPED)))
        return (pm_variant){.name = "default", .by = subgroups ? PM_BY_SUBGROUPS : PM_BY_MATVEC, .shape = caps->matvec};
    if (caps->use_coopmat && !shape->exact && is_made(dev, shape, &v)) {
        pm_variant narrow = {.name = "default", .by = PM_BY_MATRICES, .shape = NARROW};
        bool few = shape->n <= 2 * caps->coopmat.n && caps->device_class == PM_CLASS_GPU;
        return few && fits_matrices(dev, &narrow) ? narrow : v;
    }
    v.by = caps->use_tiles ? PM_BY_TILES : batch ? PM_BY_SUBGROUPS : PM_BY_MATVEC;
    v.shape = !batch ? caps->matvec_batch : floats ? caps->subgroup_batch_floats : caps->subgroup_batch;
    return v;
}

// Whether a row of the table is for this device and product.
static bool is_for(const pm_device *dev, const pm_linear_shape *shape, const pm_variant *v) {
    return (v->classes >> dev->caps.device_class & 1) && fits(dev, shape, v) && !(shape->exact && pm_variant_is_matrices(v)) &&
           is_made(dev, shape, v);
}

bool pm_variant_at(const pm_device *dev, const pm_linear_shape *shape, int i, pm_variant *variant) {
    pm_linear_shape in_floats = *shape;
    in_floats.fast = false;
    const pm_variant first[] = {usual(dev, shape), usual(dev, &in_floats)};
    int n_first = 2 - pm_variant_same(&first[0], &first[1]);
    if (i < n_first) {
        *variant = first[i];
        return true;
    }
    i -= n_first - 1;
    for (int row = 0; row < N_LINEAR; row++) {
        const pm_variant *v = &linear_table[row];
        if (is_for(dev, shape, v) && !pm_variant_same(v, &first[0]) && !pm_variant_same(v, &first[1]) && --i == 0) {
            *variant = *v;
            return true;
        }
    }
    return false;
}

bool pm_variant_right(const pm_device *dev, const pm_linear_shape *shape, const pm_variant *variant) {
    pm_kernel_use uses[2], quantize = pm_quantize_use(shape->dtype, shape->epilogue);
    int n = pm_linear_uses(&dev->caps, shape, variant, uses);
    if (pm_variant_has_dots(variant) && pm_selftest_is_bad(dev, &quantize))
        return false;
    for (int i = 0; i < n; i++)
        if (!pm_kernel_available(dev, uses[i].id) || pm_selftest_is_bad(dev, &uses[i]))
            return false;
    return true;
}

bool pm_variant_any_right(const pm_device *dev, const pm_linear_shape *shape) {
    pm_variant v;
    for (int i = 0; pm_variant_at(dev, shape, i, &v); i++)
        if (pm_variant_right(dev, shape, &v))
            return true;
    return false;
}

pm_variant pm_variant_linear(const pm_device *dev, const pm_linear_shape *shape) {
    pm_variant v;
    if (dev->forced)
        return *dev->forced;
    if (pm_tune_find(dev, shape, &v) && pm_variant_right(dev, shape, &v))
        return v;
    for (int i = 0; pm_variant_at(dev, shape, i, &v); i++)
        if (pm_variant_right(dev, shape, &v))
            return v;
    return usual(dev, shape);
}

uint32_t pm_variant_workgroup(const pm_device *dev, pm_kernel_id kernel, uint32_t usual_size) {
    pm_kernel_use use = {.id = kernel, .spec = {usual_size}, .n_spec = 1};
    if (dev->forced_use && dev->forced_use->id == kernel)
        return dev->forced_use->spec[0];
    for (size_t i = 0; i < sizeof(workgroups) / sizeof(*workgroups) && pm_selftest_is_bad(dev, &use); i++)
        use.spec[0] = workgroups[i];
    return pm_selftest_is_bad(dev, &use) ? usual_size : use.spec[0];
}

uint32_t pm_variant_workgroup_at(int i) {
    return i < (int)(sizeof(workgroups) / sizeof(*workgroups)) ? workgroups[i] : 0;
}

pm_kernel_use pm_variant_use(const pm_device *dev, const pm_kernel_use *uses, int n) {
    for (int i = 0; i < n; i++)
        if (dev->forced_use ? dev->forced_use->id == uses[i].id : !pm_selftest_is_bad(dev, &uses[i]))
            return dev->forced_use ? *dev->forced_use : uses[i];
    return uses[0];
}
