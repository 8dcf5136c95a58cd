// Quantized checkpoints in safetensors: a matrix is several tensors there, which become one view whose rows are made (internal.h).
//   FP8   https://huggingface.co/docs/transformers/quantization/finegrained_fp8
//         X.weight (rows, cols) F8_E4M3; X.weight_scale_inv, one for each block of weight_block_size: a weight times it is the
//         value
//   AWQ   https://arxiv.org/abs/2306.00978, AutoAWQ's "GEMM" packing
//         X.qweight (cols, rows / 8), X.qzeros (cols / group_size, rows / 8) I32; X.scales (cols / group_size, rows) F16: the value
//         is (q - zero) * scale. A word holds eight rows, from its lowest bits up those of awq_order
#include <cjson/cJSON.h>
#include <stdlib.h>
#include <string.h>

#include "loader/internal.h"

// ---- config.json ----------------------------------------------------------------------------------------------------------

static pm_status read_block_size(const char *path, const cJSON *config, pm_quantization *out) {
    const cJSON *pair = pm_json_get(config, "weight_block_size");
    const cJSON *rows = cJSON_IsArray(pair) ? pair->child : NULL, *cols = rows ? rows->next : NULL;
    if (!pm_json_is_integer(rows, 1, 1 << 20) || !pm_json_is_integer(cols, 1, 1 << 20) || cols->next)
        return pm_fail(PM_ERR_UNSUPPORTED, "%s: quantization fp8 without a weight_block_size of two numbers is not supported",
                       path);
    out->group_rows = (uint32_t)rows->valuedouble;
    out->group_cols = (uint32_t)cols->valuedouble;
    if (out->group_cols % 128)
        return pm_fail(PM_ERR_UNSUPPORTED, "%s: quantization fp8 with blocks of %u columns is not supported; multiples of 128 are",
                       path, out->group_cols);
    return PM_OK;
}

static pm_status read_fp8(const char *path, const cJSON *config, pm_quantization *out) {
    const char *fmt = "e4m3";
    PM_TRY(pm_json_string(path, config, "fmt", &fmt));
    if (strcmp(fmt, "e4m3") != 0)
        return pm_fail(PM_ERR_UNSUPPORTED, "%s: quantization fp8 in the format %s is not supported; e4m3 is", path, fmt);
    out->method = PM_QUANT_FP8;
    return read_block_size(path, config, out);
}

static pm_status read_awq(const char *path, const cJSON *config, pm_quantization *out) {
    const char *version = "gemm";
    uint32_t bits = 4;
    int32_t group = 128;
    bool zero_point = true;
    PM_TRY(pm_json_string(path, config, "version", &version));
    PM_TRY(pm_json_u32(path, config, "w_bit", 64, &bits)); // old writers' names
    PM_TRY(pm_json_u32(path, config, "bits", 64, &bits));
    PM_TRY(pm_json_i32(path, config, "q_group_size", -1, 1 << 20, &group));
    PM_TRY(pm_json_i32(path, config, "group_size", -1, 1 << 20, &group));
    PM_TRY(pm_json_bool(path, config, "zero_point", &zero_point));
    if (bits != 4 || !zero_point || (strcmp(version, "gemm") != 0 && strcmp(version, "GEMM") != 0))
        return pm_fail(
            PM_ERR_UNSUPPORTED,
            "%s: quantization awq with %u bits, version %s%s is not supported; 4 bits, version gemm with zero points are", path,
            bits, version, zero_point ? "" : ", without zero points");
    if (group == 0 || (group > 0 && group % 32))
        return pm_fail(PM_ERR_UNSUPPORTED, "%s: quantization awq in groups of %d is not supported; multiples of 32 are", path,
                       group);
    *out = (pm_quantization){.method = PM_QUANT_AWQ, .group_rows = 1, .group_cols = group < 0 ? 0 : (uint32_t)group};
    return PM_OK;
}

pm_status pm_hf_read_quantization(const char *path, const cJSON *root, pm_quantization *out) {
    const cJSON *config = pm_json_get(root, "quantization_config");
    const char *method = "of unknown kind";
    *out = (pm_quantization){0};
    if (!config)
        config = pm_json_get(root, "compression_config");
    if (!config)
        return PM_OK;
    PM_TRY(pm_json_string(path, config, "quant_method", &method));
    if (strcmp(method, "fp8") == 0)
        return read_fp8(path, config, out);
    if (strcmp(method, "awq") == 0)
        return read_awq(path, config, out);
    return pm_fail(PM_ERR_UNSUPPORTED,
                   "%s: quantization %s is not supported; supported are fp8 (e4m3) and awq (4 bits), and GGUF files", path, method);
}

// ---- fragments --------------------------------------------------------------------------------------------------------------

typedef struct ending {
    const char *text;
    pm_fragment_kind kind;
} ending;
static const ending endings[] = {
    {".weight_scale_inv", PM_FRAGMENT_SCALE_INV},
    {".qweight", PM_FRAGMENT_QWEIGHT},
    {".qzeros", PM_FRAGMENT_QZEROS},
    {".scales", PM_FRAGMENT_SCALES},
};

pm_fragment_kind pm_fragment_of(const char *name, const char *type, size_t *stem) {
    size_t n = strlen(name);
    *stem = n;
    for (size_t i = 0; i < sizeof(endings) / sizeof(endings[0]); i++) {
        size_t m = strlen(endings[i].text);
        if (n > m && strcmp(name + n - m, endings[i].text) == 0) {
            *stem = n - m;
            return endings[i].kind;
        }
    }
    if (n > 7 && strcmp(name + n - 7, ".weight") == 0 && strcmp(type, "F8_E4M3") == 0) {
        *stem = n - 7;
        return PM_FRAGMENT_WEIGHT;
    }
    return PM_FRAGMENT_NONE;
}

static uint64_t element_bytes(const char *type) {
    static const char *const names[] = {"F8_E4M3", "F16", "BF16", "F32", "I32"};
    static const uint8_t bytes[] = {1, 2, 2, 4, 4};
    for (size_t i = 0; i < sizeof(bytes); i++)
        if (strcmp(names[i], type) == 0)
            return bytes[i];
    return 0;
}

pm_status pm_fragment_add(pm_file *file, const char *path, const pm_fragment *f, const char *type) {
    uint64_t need = 0;
    if (f->n_dims != 2 || strlen(type) >= sizeof(f->type))
        return pm_fail(PM_ERR_FILE, "%s: tensor %s: %d dimensions of type %.32s", path, f->name, f->n_dims, type);
    if (pm_mul_size(f->dims[0], f->dims[1], &need) != PM_OK || pm_mul_size(need, element_bytes(type), &need) != PM_OK ||
        need != f->size || need == 0)
        return pm_fail(PM_ERR_FILE, "%s: tensor %s: (%llu, %llu) of type %s do not take %llu bytes", path, f->name,
                       (unsigned long long)f->dims[0], (unsigned long long)f->dims[1], type, (unsigned long long)f->size);
    if (file->n_fragments == file->fragment_room) {
        size_t room = file->fragment_room ? 2 * file->fragment_room : 256;
        pm_fragment *grown = pm_realloc(file->fragments, room * sizeof(*grown));
        if (!grown)
            return pm_no_memory(path);
        file->fragments = grown;
        file->fragment_room = room;
    }
    pm_fragment *added = &file->fragments[file->n_fragments++];
    *added = *f;
    memcpy(added->type, type, strlen(type) + 1);
    return PM_OK;
}

// ---- rows -------------------------------------------------------------------------------------------------------------------

static float scale_at(const pm_made *made, uint64_t i) {
    float value;
    pm_dequant(made->scale_dtype, made->scales + i * pm_dtype_get(made->scale_dtype)->block_bytes, &value, 1);
    return value;
}

static void make_fp8(const pm_made *made, uint32_t row, uint32_t n_rows, uint32_t col, uint32_t n_cols, uint8_t *out) {
    uint64_t groups = (made->cols + made->group_cols - 1) / made->group_cols;
    for (uint32_t r = row; r < row + n_rows; r++)
        for (uint32_t c = col; c < col + n_cols; c += 32, out += 36) {
            float scale = scale_at(made, r / made->group_rows * groups + c / made->group_cols);
            uint32_t bits;
            memcpy(&bits, &scale, sizeof(bits));
            for (int i = 0; i < 4; i++)
                out[i] = (uint8_t)(bits >> (8 * i));
            memcpy(out + 4, made->data + r * made->cols + c, 32);
        }
}

// The bit where row r of eight stands in a word.
static const uint8_t awq_order[8] = {0, 16, 4, 20, 8, 24, 12, 28};

static int awq_nibble(const uint8_t *words, uint64_t row_words, uint64_t at, uint32_t row) {
    const uint8_t *p = words + (at * row_words + row / 8) * 4;
    return p[awq_order[row % 8] / 8] >> (awq_order[row % 8] % 8) & 15;
}

// A block's 32 values q of a row; *zero and the scale's bytes are those of its group.
static const uint8_t *take_awq(const pm_made *made, uint32_t row, uint32_t col, int q[32], int *zero) {
    uint64_t row_words = made->rows / 8, group = col / made->group_cols;
    for (uint32_t i = 0; i < 32; i++)
        q[i] = awq_nibble(made->data, row_words, col + i, row);
    *zero = awq_nibble(made->zeros, row_words, group, row);
    return made->scales + (group * made->rows + row) * 2;
}

static void make_awq(const pm_made *made, uint32_t row, uint32_t n_rows, uint32_t col, uint32_t n_cols, uint8_t *out) {
    int q[32], zero;
    for (uint32_t r = row; r < row + n_rows; r++)
        for (uint32_t c = col; c < col + n_cols; c += 32, out += 20) {
            memcpy(out, take_awq(made, r, c, q, &zero), 2);
            out[2] = (uint8_t)zero;
            out[3] = 0;
            for (int i = 0; i < 16; i++)
                out[4 + i] = (uint8_t)(q[i] | q[i + 16] << 4);
        }
}

// Groups smaller than 128 have no device type of their own: q - zero is within the 5 bits of Q5_0, which has a scale for each 32.
static void make_q5_0(const pm_made *made, uint32_t row, uint32_t n_rows, uint32_t col, uint32_t n_cols, uint8_t *out) {
    int q[32], zero;
    for (uint32_t r = row; r < row + n_rows; r++)
        for (uint32_t c = col; c < col + n_cols; c += 32, out += 22) {
            memset(out, 0, 22);
            memcpy(out, take_awq(made, r, c, q, &zero), 2);
            for (int i = 0; i < 32; i++) {
                int value = q[i] - zero + 16;
                out[2 + i / 8] |= (uint8_t)((value >> 4) << i % 8);
                out[6 + i % 16] |= (uint8_t)((value & 15) << (i / 16 * 4));
            }
        }
}

// ---- a matrix from its fragments ------------------------------------------------------------------------------------------

// Those of one matrix, by kind; NULL where there is none.
typedef struct group {
    const pm_fragment *of[PM_FRAGMENT_COUNT];
    const char *name;
} group;

static pm_status wrong(const char *path, const pm_fragment *f, const char *want) {
    return pm_fail(PM_ERR_FILE, "%s: tensor %s: its %s is (%llu, %llu) of type %s, wanted is %s", path, f->name,
                   f->kind == PM_FRAGMENT_WEIGHT ? "weight" : endings[f->kind - PM_FRAGMENT_SCALE_INV].text + 1,
                   (unsigned long long)f->dims[0], (unsigned long long)f->dims[1], f->type, want);
}

static pm_status need_all(const char *path, const group *g, const pm_fragment_kind *kinds, int n) {
    for (int i = 0; i < n; i++)
        if (!g->of[kinds[i]])
            return pm_fail(PM_ERR_FILE, "%s: tensor %s: its %s is missing", path, g->name,
                           kinds[i] == PM_FRAGMENT_WEIGHT ? "weight" : endings[kinds[i] - PM_FRAGMENT_SCALE_INV].text + 1);
    return PM_OK;
}

static pm_status check_cols(const char *path, const group *g, uint64_t cols, uint64_t block, const char *what) {
    if (cols % block == 0)
        return PM_OK;
    return pm_fail(PM_ERR_FILE, "%s: tensor %s: rows of %llu are no multiple of %s's block of %llu", path, g->name,
                   (unsigned long long)cols, what, (unsigned long long)block);
}

static bool scale_type(const char *name, pm_dtype *dtype) {
    static const pm_dtype plain[] = {PM_F32, PM_BF16, PM_F16};
    for (int i = 0; i < 3; i++) {
        *dtype = plain[i];
        if (strcmp(pm_dtype_get(plain[i])->name, name) == 0)
            return true;
    }
    return false;
}

static pm_status join_fp8(const char *path, const pm_quantization *q, const group *g, pm_made *made) {
    static const pm_fragment_kind kinds[] = {PM_FRAGMENT_WEIGHT, PM_FRAGMENT_SCALE_INV};
    PM_TRY(need_all(path, g, kinds, 2));
    const pm_fragment *w = g->of[PM_FRAGMENT_WEIGHT], *s = g->of[PM_FRAGMENT_SCALE_INV];
    *made = (pm_made){.read = make_fp8,
                      .from = PM_FP8,
                      .to = PM_FP8,
                      .rows = w->dims[0],
                      .cols = w->dims[1],
                      .data = w->data,
                      .size = w->size,
                      .scales = s->data,
                      .group_rows = q->group_rows,
                      .group_cols = q->group_cols};
    PM_TRY(check_cols(path, g, made->cols, 32, "FP8"));
    if (s->dims[0] != (made->rows - 1) / q->group_rows + 1 || s->dims[1] != (made->cols - 1) / q->group_cols + 1 ||
        !scale_type(s->type, &made->scale_dtype))
        return wrong(path, s, "a float for each of the config's blocks");
    return PM_OK;
}

static pm_status join_awq(const char *path, const pm_quantization *q, const group *g, pm_made *made) {
    static const pm_fragment_kind kinds[] = {PM_FRAGMENT_QWEIGHT, PM_FRAGMENT_QZEROS, PM_FRAGMENT_SCALES};
    PM_TRY(need_all(path, g, kinds, 3));
    const pm_fragment *w = g->of[PM_FRAGMENT_QWEIGHT], *z = g->of[PM_FRAGMENT_QZEROS], *s = g->of[PM_FRAGMENT_SCALES];
    uint64_t cols = w->dims[0], size = q->group_cols ? q->group_cols : cols, groups = cols / size;
    bool wide = size % 128 == 0;
    *made = (pm_made){.read = wide ? make_awq : make_q5_0,
                      .from = PM_AWQ,
                      .to = wide ? PM_AWQ : PM_Q5_0,
                      .cols = cols,
                      .data = w->data,
                      .size = w->size,
                      .scales = s->data,
                      .zeros = z->data,
                      .group_cols = (uint32_t)size};
    PM_TRY(check_cols(path, g, cols, size, "AWQ"));
    PM_TRY(check_cols(path, g, size, 32, "AWQ"));
    if (strcmp(w->type, "I32") != 0 || pm_mul_size(w->dims[1], 8, &made->rows) != PM_OK)
        return wrong(path, w, "I32");
    if (strcmp(z->type, "I32") != 0 || z->dims[0] != groups || z->dims[1] != w->dims[1])
        return wrong(path, z, "(columns / group size, rows / 8) of I32");
    if (strcmp(s->type, "F16") != 0 || s->dims[0] != groups || s->dims[1] != made->rows)
        return wrong(path, s, "(columns / group size, rows) of F16");
    return PM_OK;
}

static pm_status join(pm_file *file, const char *path, const group *g) {
    pm_made *made = pm_arena_alloc(&file->arena, sizeof(*made));
    if (!made)
        return pm_no_memory(path);
    bool awq = file->quantization.method == PM_QUANT_AWQ;
    PM_TRY(awq ? join_awq(path, &file->quantization, g, made) : join_fp8(path, &file->quantization, g, made));
    if (made->rows > UINT32_MAX || made->cols > UINT32_MAX)
        return pm_fail(PM_ERR_FILE, "%s: tensor %s is out of range", path, g->name);
    uint64_t size = 0;
    for (int i = 0; i < PM_FRAGMENT_COUNT; i++)
        size += g->of[i] ? g->of[i]->size : 0;
    file->tensors[file->n_tensors++] = (pm_tensor_view){.name = g->name,
                                                        .dtype = made->to,
                                                        .stored = made->from,
                                                        .n_dims = 2,
                                                        .dims = {made->rows, made->cols, 1, 1},
                                                        .size = size,
                                                        .made = made};
    return PM_OK;
}

static int compare_fragments(const void *left, const void *right) {
    const pm_fragment *a = left, *b = right;
    int names = strcmp(a->name, b->name);
    return names ? names : (int)a->kind - (int)b->kind;
}

pm_status pm_fragments_join(pm_file *file, const char *path) {
    if (file->n_fragments == 0)
        return PM_OK;
    if (file->quantization.method == PM_QUANT_NONE)
        return pm_fail(PM_ERR_UNSUPPORTED, "%s: tensor %s is quantized, but the config has no quantization_config", path,
                       file->fragments[0].name);
    PM_TRY(pm_file_reserve(file, path, file->n_fragments));
    qsort(file->fragments, file->n_fragments, sizeof(*file->fragments), compare_fragments);
    for (size_t i = 0; i < file->n_fragments;) {
        group g = {.name = file->fragments[i].name};
        for (; i < file->n_fragments && strcmp(file->fragments[i].name, g.name) == 0; i++) {
            const pm_fragment *f = &file->fragments[i];
            if (g.of[f->kind])
                return pm_fail(PM_ERR_FILE, "%s: a part of tensor %s is there twice", path, g.name);
            g.of[f->kind] = f;
        }
        PM_TRY(join(file, path, &g));
    }
    return PM_OK;
}
