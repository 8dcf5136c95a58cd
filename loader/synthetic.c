// Models without a file: "synthetic:qwen3-4b:q4_k_m" has the shapes of one and the types of the other, and weights made up while
// they are loaded. They run as fast as the real ones, so that devices are compared without a download; what they say is nonsense.
// "synthetic:qwen3-30b-a3b/4:q4_0" has only its first 4 layers, for devices that have no room for all.
#include "loader/internal.h"
#include "loader/mix.h"
#include "loader/quant.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char prefix[] = "synthetic:";

// https://huggingface.co/Qwen: config.json of each.
static const struct shape {
    const char *name;
    uint32_t n_layers, dim, n_heads, n_kv_heads, ffn_dim;
    bool tied_head;
    uint32_t n_experts, n_experts_used, expert_ffn_dim; // 0: dense
} shapes[] = {
    {"qwen3-0.6b", 28, 1024, 16, 8, 3072, true, 0, 0, 0},         {"qwen3-1.7b", 28, 2048, 16, 8, 6144, true, 0, 0, 0},
    {"qwen3-4b", 36, 2560, 32, 8, 9728, true, 0, 0, 0},           {"qwen3-8b", 36, 4096, 32, 8, 12288, false, 0, 0, 0},
    {"qwen3-14b", 40, 5120, 40, 8, 17408, false, 0, 0, 0},        {"qwen3-32b", 64, 5120, 64, 8, 25600, false, 0, 0, 0},
    {"qwen3-30b-a3b", 48, 2048, 32, 4, 6144, false, 128, 8, 768},
};

// ---- values -----------------------------------------------------------------------------------------------------------

// Blocks of random values are encoded once for each type; a matrix is a random sequence of them. So whatever a block of a type may
// hold comes out of the loader's own encoder, and making a model is as fast as copying it.
enum { N_BLOCKS = 1024, BLOCK = PM_VIEW_COLS };

typedef struct synthetic {
    pm_made made; // .data: N_BLOCKS blocks
    uint32_t seed;
} synthetic;

static uint32_t mix_bits(uint32_t x) { // https://nullprogram.com/blog/2018/07/31/ (lowbias32)
    x = (x ^ x >> 16) * 0x7feb352du;
    x = (x ^ x >> 15) * 0x846ca68bu;
    return x ^ x >> 16;
}

// Of the size that trained weights have, about: a sum over a row stays near 1.
static float value(uint32_t i) {
    return ((float)(mix_bits(i + 1) >> 8) / (1 << 24) - 0.5f) * 0.08f;
}

static size_t bytes_of(pm_dtype dtype, size_t n) {
    const pm_dtype_info *info = pm_dtype_get(dtype);
    return n / info->block_elements * info->block_bytes;
}

static void read_synthetic(const pm_made *made, uint32_t row, uint32_t n_rows, uint32_t col, uint32_t n_cols, uint8_t *out) {
    uint32_t seed = ((const synthetic *)made)->seed;
    size_t n = bytes_of(made->to, n_cols);
    for (uint32_t i = 0; i < n_rows; i++, out += n) {
        uint32_t block = mix_bits(mix_bits(seed + row + i) + col / BLOCK) % N_BLOCKS;
        memcpy(out, made->data + block * bytes_of(made->to, BLOCK), n);
    }
}

static pm_status make_blocks(pm_file *file, const char *path, pm_dtype dtype, uint8_t **blocks) {
    float values[BLOCK];
    *blocks = pm_arena_alloc(&file->arena, N_BLOCKS * bytes_of(dtype, BLOCK));
    if (!*blocks)
        return pm_no_memory(path);
    for (uint32_t b = 0; b < N_BLOCKS; b++) {
        for (uint32_t i = 0; i < BLOCK; i++)
            values[i] = value(b * BLOCK + i);
        pm_quant(dtype, values, *blocks + b * bytes_of(dtype, BLOCK), BLOCK);
    }
    return PM_OK;
}

// ---- tensors ----------------------------------------------------------------------------------------------------------

typedef struct making {
    pm_file *file;
    const char *path;
    const pm_mix *mix;
    uint8_t *blocks[PM_DTYPE_COUNT];
} making;

// All ones: a norm that changes nothing.
static pm_status make_vector(making *m, pm_tensor_view *view) {
    float *values = pm_arena_alloc(&m->file->arena, view->dims[0] * sizeof(*values));
    if (!values)
        return pm_no_memory(m->path);
    for (uint64_t i = 0; i < view->dims[0]; i++)
        values[i] = 1;
    view->data = (const uint8_t *)values;
    view->size = view->dims[0] * sizeof(*values);
    return PM_OK;
}

static pm_status make_matrix(making *m, pm_tensor_view *view) {
    synthetic *s = pm_arena_alloc(&m->file->arena, sizeof(*s));
    if (!s)
        return pm_no_memory(m->path);
    if (!m->blocks[view->dtype])
        PM_TRY(make_blocks(m->file, m->path, view->dtype, &m->blocks[view->dtype]));
    uint64_t cols = view->dims[view->n_dims - 1], rows = view->dims[0] * (view->n_dims == 3 ? view->dims[1] : 1);
    view->size = rows * bytes_of(view->dtype, cols);
    s->made = (pm_made){.read = read_synthetic,
                        .from = view->dtype,
                        .to = view->dtype,
                        .rows = rows,
                        .cols = cols,
                        .data = m->blocks[view->dtype],
                        .size = view->size};
    s->seed = mix_bits((uint32_t)m->file->n_tensors + 1);
    view->made = &s->made;
    return PM_OK;
}

static pm_status make_tensor(void *user, const char *name, uint64_t n, uint64_t rows, uint64_t cols) {
    making *m = user;
    const pm_quantize_options none = {.type = m->mix->name};
    pm_tensor_view view = {.n_dims = n ? 3 : cols ? 2 : 1, .dims = {rows, cols ? cols : 1, 1, 1}};
    if (n)
        memcpy(view.dims, (uint64_t[]){n, rows, cols, 1}, sizeof(view.dims));
    view.name = pm_text_copy(&m->file->arena, name, strlen(name));
    if (!view.name)
        return pm_no_memory(m->path);
    pm_dtype wanted;
    view.dtype = view.stored = pm_mix_choose(m->mix, &m->file->config, &none, &view, &wanted);
    PM_TRY(pm_file_reserve(m->file, m->path, 1));
    PM_TRY(cols ? make_matrix(m, &view) : make_vector(m, &view));
    m->file->tensors[m->file->n_tensors++] = view;
    return PM_OK;
}

// ---- the model --------------------------------------------------------------------------------------------------------

static const struct shape *find_shape(const char *name, size_t n) {
    for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++)
        if (strlen(shapes[i].name) == n && !memcmp(shapes[i].name, name, n))
            return &shapes[i];
    return NULL;
}

// "NAME" or "NAME/LAYERS", and ":" behind it. *n_layers: as said, or all.
static const struct shape *read_shape(const char *name, const char *colon, uint32_t *n_layers) {
    const char *slash = memchr(name, '/', (size_t)(colon - name));
    const struct shape *shape = find_shape(name, (size_t)((slash ? slash : colon) - name));
    *n_layers = shape ? shape->n_layers : 0;
    if (!shape || !slash)
        return shape;
    char *end;
    unsigned long n = slash[1] >= '1' && slash[1] <= '9' ? strtoul(slash + 1, &end, 10) : 0;
    if (n == 0 || end != colon || n > shape->n_layers)
        return NULL;
    *n_layers = (uint32_t)n;
    return shape;
}

static void set_config(pm_config *c, const struct shape *s, uint32_t n_layers) {
    c->architecture = s->n_experts ? "qwen3moe" : "qwen3";
    c->n_layers = n_layers;
    c->dim = s->dim;
    c->n_heads = s->n_heads;
    c->n_kv_heads = s->n_kv_heads;
    c->head_dim = 128;
    c->ffn_dim = s->ffn_dim;
    c->vocab_size = 151936;
    c->max_ctx = 40960;
    c->tied_head = s->tied_head;
    c->qk_norm = true;
    c->n_experts = s->n_experts;
    c->n_experts_used = s->n_experts_used;
    c->expert_ffn_dim = s->expert_ffn_dim;
    c->experts_normed = s->n_experts > 0;
    c->rope.theta = 1000000;
}

static pm_status fail_name(const char *path) {
    return pm_fail(PM_ERR_USAGE, "%s: there are synthetic:NAME:TYPE with qwen3-0.6b, -1.7b, -4b, -8b, -14b, -32b, -30b-a3b and %s",
                   path, pm_quantize_types());
}

bool pm_synthetic_is(const char *path) {
    return !strncmp(path, prefix, sizeof(prefix) - 1);
}

pm_status pm_synthetic_open(pm_file *file, const char *path) {
    const char *name = path + sizeof(prefix) - 1, *colon = strchr(name, ':');
    uint32_t n_layers;
    const struct shape *shape = colon ? read_shape(name, colon, &n_layers) : NULL;
    making m = {.file = file, .path = path, .mix = colon ? pm_mix_find(colon + 1) : NULL};
    if (!shape || !m.mix)
        return fail_name(path);
    set_config(&file->config, shape, n_layers);
    PM_TRY(pm_config_finish(path, &file->config));
    PM_TRY(pm_config_imply(&file->config, make_tensor, &m));
    return pm_file_finish(file, path);
}
