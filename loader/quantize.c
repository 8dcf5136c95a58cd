// A model to a GGUF file in other types: chooses a type for each tensor, writes the head, then streams the weights in chunks, which
// all cores decode and encode.
#include "loader/quantize.h"

#include "loader/gguf_write.h"
#include "loader/mix.h"
#include "loader/quant.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

// Elements that a core takes at once, whole blocks of every type, and pieces that are written at once: 16 MiB of floats.
enum { PIECE = 4096, CHUNK = 1024, CHUNK_BYTES = CHUNK * PIECE * 4 };

typedef struct job {
    const pm_file *file;
    const pm_quantize_options *o;
    const pm_mix *mix;
    pm_gguf_tensor *tensors;
    size_t n_tensors;
    uint32_t alignment;
    uint8_t *chunk;       // (CHUNK_BYTES)
    uint64_t done, total; // bytes of weights, of the file to be
} job;

// ---- options -----------------------------------------------------------------------------------------------------------

static pm_status check_dtype(const char *name) {
    pm_dtype dtype;
    if (!name || pm_dtype_find(name, &dtype))
        return PM_OK;
    return pm_fail(PM_ERR_USAGE, "%.32s is no type to write a tensor in", name);
}

pm_status pm_quantize_check(const pm_quantize_options *o) {
    if (!pm_mix_find(o->type))
        return pm_fail(PM_ERR_USAGE, "%.32s is no type to write; there are %s", o->type, pm_quantize_types());
    PM_TRY(check_dtype(o->output_type));
    return check_dtype(o->embedding_type);
}

// ---- the plan ----------------------------------------------------------------------------------------------------------

// "blk.7.attn_q.weight": 7; -1 for a tensor of no layer. *kind: what comes behind, the same in every layer.
static int64_t layer_of(const char *name, const char **kind) {
    *kind = name;
    if (strncmp(name, "blk.", 4) != 0 || name[4] < '0' || name[4] > '9')
        return -1;
    char *rest;
    unsigned long layer = strtoul(name + 4, &rest, 10);
    *kind = rest;
    return (int64_t)layer;
}

// As layers follow each other, what belongs to none before: a reader goes through the file from front to back.
static int compare_places(const void *left, const void *right) {
    const pm_gguf_tensor *a = left, *b = right;
    const char *a_kind, *b_kind;
    int64_t a_layer = layer_of(a->source->name, &a_kind), b_layer = layer_of(b->source->name, &b_kind);
    if (a_layer != b_layer)
        return a_layer < b_layer ? -1 : 1;
    return strcmp(a->source->name, b->source->name);
}

// Files of other formats may hold layers that the model does not have (to predict further tokens); llama.cpp refuses extra tensors.
static bool is_written(const pm_file *file, const pm_tensor_view *t) {
    const char *kind;
    return file->gguf || layer_of(t->name, &kind) < (int64_t)file->config.n_layers;
}

// Some architectures keep the two rows of a rotary pair side by side in gguf, but not in the files they were published in.
static bool needs_pairs(const pm_file *file, const char *name) {
    const pm_architecture *architecture = pm_architecture_find(file->config.architecture);
    const char *kind;
    layer_of(name, &kind);
    return architecture && architecture->interleaved && !file->config.rope.interleaved &&
           (strncmp(kind, ".attn_q.", 8) == 0 || strncmp(kind, ".attn_k.", 8) == 0);
}

static uint64_t count_elements(const pm_tensor_view *t) {
    return t->dims[0] * t->dims[1] * t->dims[2] * t->dims[3];
}

// Once for all layers, unless told to tell more.
static void tell_fallback(const job *j, size_t i, pm_dtype wanted) {
    const pm_tensor_view *t = j->tensors[i].source;
    const char *kind, *other;
    bool told = false;
    layer_of(t->name, &kind);
    for (size_t k = 0; k < i && !told; k++) {
        layer_of(j->tensors[k].source->name, &other);
        told = strcmp(kind, other) == 0;
    }
    pm_log(told ? PM_LOG_INFO : PM_LOG_WARN, "%s and its like: rows of %llu are no multiple of %s's block of %u: %s instead",
           t->name, (unsigned long long)t->dims[t->n_dims - 1], pm_dtype_get(wanted)->name, pm_dtype_get(wanted)->block_elements,
           pm_dtype_get(j->tensors[i].dtype)->name);
}

static pm_status plan_tensor(const job *j, size_t i, uint64_t *offset) {
    pm_gguf_tensor *t = &j->tensors[i];
    pm_dtype wanted;
    t->dtype = pm_mix_choose(j->mix, &j->file->config, j->o, t->source, &wanted);
    t->pairs = needs_pairs(j->file, t->source->name);
    if (t->dtype != wanted)
        tell_fallback(j, i, wanted);
    const pm_dtype_info *info = pm_dtype_get(t->dtype);
    *offset = pm_round_up(*offset, j->alignment);
    t->offset = *offset;
    if (pm_mul_size(count_elements(t->source) / info->block_elements, info->block_bytes, &t->size) != PM_OK ||
        pm_add_size(*offset, t->size, offset) != PM_OK)
        return pm_fail(PM_ERR_FILE, "%s: tensor %s is too large", j->file->shards[0].path, t->source->name);
    return PM_OK;
}

static bool is_block_type(pm_dtype dtype) {
    return pm_dtype_get(dtype)->block_elements > 1;
}

// Decoding cannot bring back what was lost: better from the original.
static void warn_twice(const job *j) {
    size_t n = 0;
    for (size_t i = 0; i < j->n_tensors; i++) {
        const pm_gguf_tensor *t = &j->tensors[i];
        n += t->dtype != t->source->dtype && is_block_type(t->dtype) && is_block_type(t->source->dtype);
    }
    if (n)
        pm_log(PM_LOG_WARN, "%zu tensors are quantized already: quantizing the original model loses less", n);
}

static pm_status plan(job *j) {
    size_t n;
    uint64_t offset = 0;
    const pm_tensor_view *sources = pm_file_tensors(j->file, &n);
    j->tensors = pm_calloc(n, sizeof(*j->tensors));
    j->chunk = pm_malloc(CHUNK_BYTES);
    if (!j->tensors || !j->chunk)
        return pm_no_memory(j->file->shards[0].path);
    for (size_t i = 0; i < n; i++)
        if (is_written(j->file, &sources[i]))
            j->tensors[j->n_tensors++].source = &sources[i];
    qsort(j->tensors, j->n_tensors, sizeof(*j->tensors), compare_places);
    PM_TRY(pm_gguf_write_alignment(j->file, &j->alignment));
    for (size_t i = 0; i < j->n_tensors; i++) {
        PM_TRY(plan_tensor(j, i, &offset));
        j->total += j->tensors[i].size;
    }
    warn_twice(j);
    return PM_OK;
}

// ---- the weights -------------------------------------------------------------------------------------------------------

// A chunk of pieces. Each piece is of one row, so that rows may come in another order.
typedef struct encoding {
    const pm_gguf_tensor *t;
    uint64_t cols, pieces_a_row, first; // first: number of the chunk's first piece
    uint64_t head_rows;                 // rows that belong to a head, where t->pairs
    uint8_t *out;
    atomic_bool too_large;
} encoding;

// Where a piece is in the file to be; *n: its elements.
static void place_piece(const encoding *e, uint64_t piece, uint64_t *row, uint64_t *col, uint64_t *n) {
    *row = piece / e->pieces_a_row;
    *col = piece % e->pieces_a_row * PIECE;
    *n = e->cols - *col < PIECE ? e->cols - *col : PIECE;
}

static uint64_t byte_of(pm_dtype dtype, uint64_t element) {
    const pm_dtype_info *info = pm_dtype_get(dtype);
    return element / info->block_elements * info->block_bytes;
}

// Of the first byte of a piece, in the tensor to be.
static uint64_t piece_offset(const encoding *e, uint64_t piece) {
    uint64_t row, col, n;
    place_piece(e, piece, &row, &col, &n);
    return byte_of(e->t->dtype, row * e->cols + col);
}

// Row 2 j + half of a head is row half * (head_rows / 2) + j of it in the source.
static uint64_t source_row(const encoding *e, uint64_t row) {
    if (!e->t->pairs)
        return row;
    uint64_t in_head = row % e->head_rows;
    return row - in_head + in_head % 2 * (e->head_rows / 2) + in_head / 2;
}

static void read_source(const pm_tensor_view *source, uint64_t cols, uint64_t row, uint64_t col, uint64_t n, float *values) {
    pm_dequant(source->dtype, source->data + byte_of(source->dtype, row * cols + col), values, (size_t)n);
}

// Scales are halves in nearly all types. bfloat16 and floats go further, but no weight of any use does.
static bool all_fit(const float *x, uint64_t n, pm_dtype dtype) {
    float most = dtype == PM_F32 || dtype == PM_BF16 ? 3e38f : 65504;
    bool fit = true;
    for (uint64_t i = 0; i < n; i++)
        fit = fit && fabsf(x[i]) <= most; // false for what is no number
    return fit;
}

static void encode_piece(void *user, int i) {
    encoding *e = user;
    float values[PIECE];
    uint64_t row, col, n, piece = e->first + (uint64_t)i;
    place_piece(e, piece, &row, &col, &n);
    read_source(e->t->source, e->cols, source_row(e, row), col, n, values);
    if (!all_fit(values, n, e->t->dtype))
        atomic_store(&e->too_large, true);
    else
        pm_quant(e->t->dtype, values, e->out + (piece_offset(e, piece) - piece_offset(e, e->first)), (size_t)n);
}

static pm_status put_bytes(job *j, pm_output *out, const uint8_t *data, uint64_t n) {
    PM_TRY(pm_output_write(out, data, (size_t)n));
    j->done += n;
    if (!j->o->progress || j->o->progress(j->o->user, j->done, j->total))
        return PM_OK;
    return pm_fail(PM_ERR_CANCELLED, "stopped");
}

// A bias whose elements come as pairs is a column.
static encoding begin_tensor(const job *j, const pm_gguf_tensor *t) {
    const pm_tensor_view *s = t->source;
    uint64_t cols = t->pairs && s->n_dims == 1 ? 1 : s->dims[s->n_dims ? s->n_dims - 1 : 0];
    return (encoding){
        .t = t,
        .cols = cols,
        .pieces_a_row = (cols + PIECE - 1) / PIECE,
        .head_rows = j->file->config.head_dim,
        .out = j->chunk,
    };
}

static pm_status encode_tensor(job *j, pm_output *out, const pm_gguf_tensor *t) {
    encoding e = begin_tensor(j, t);
    uint64_t n_pieces = count_elements(t->source) / e.cols * e.pieces_a_row;
    for (; e.first < n_pieces; e.first += CHUNK) {
        uint64_t n = n_pieces - e.first < CHUNK ? n_pieces - e.first : CHUNK;
        uint64_t end = e.first + n < n_pieces ? piece_offset(&e, e.first + n) : t->size;
        pm_parallel_for((int)n, encode_piece, &e);
        if (atomic_load(&e.too_large))
            return pm_fail(PM_ERR_FILE, "tensor %s has values that %s cannot hold", t->source->name, pm_dtype_get(t->dtype)->name);
        PM_TRY(put_bytes(j, out, j->chunk, end - piece_offset(&e, e.first)));
    }
    return PM_OK;
}

// The type stays: the bytes do too.
static pm_status copy_tensor(job *j, pm_output *out, const pm_tensor_view *s) {
    for (uint64_t at = 0; at < s->size; at += CHUNK_BYTES)
        PM_TRY(put_bytes(j, out, s->data + at, s->size - at < CHUNK_BYTES ? s->size - at : CHUNK_BYTES));
    return PM_OK;
}

static pm_status fill_up(pm_output *out, uint64_t *at, uint64_t to) {
    static const uint8_t zero;
    for (; *at < to; ++*at)
        PM_TRY(pm_output_write(out, &zero, 1));
    return PM_OK;
}

static pm_status write_tensor(job *j, pm_output *out, const pm_gguf_tensor *t) {
    if (t->size == 0)
        return PM_OK;
    bool same = t->dtype == t->source->dtype && !t->pairs;
    PM_TRY(same ? copy_tensor(j, out, t->source) : encode_tensor(j, out, t));
    pm_file_forget(j->file, t->source);
    return PM_OK;
}

static pm_status write_all(job *j, pm_output *out) {
    uint64_t at = 0;
    PM_TRY(pm_gguf_write_head(j->file, out, j->mix->file_type, j->tensors, j->n_tensors, j->alignment));
    for (size_t i = 0; i < j->n_tensors; i++) {
        PM_TRY(fill_up(out, &at, j->tensors[i].offset));
        PM_TRY(write_tensor(j, out, &j->tensors[i]));
        at += j->tensors[i].size;
    }
    return fill_up(out, &at, pm_round_up(at, j->alignment)); // ggml counts on it
}

// ---- the face ----------------------------------------------------------------------------------------------------------

static pm_status refuse_own_files(const pm_file *file, const char *path) {
    for (size_t i = 0; i < file->n_shards; i++)
        if (pm_path_same(file->shards[i].path, path))
            return pm_fail(PM_ERR_USAGE, "%s: is read and cannot be written too", path);
    return PM_OK;
}

static pm_quantize_result sum_up(const job *j) {
    pm_quantize_result r = {.n_tensors = j->n_tensors};
    for (size_t i = 0; i < j->n_tensors; i++) {
        r.source_bytes += j->tensors[i].source->size;
        r.n_weights += count_elements(j->tensors[i].source);
        r.bytes += j->tensors[i].size;
    }
    return r;
}

static pm_status quantize(job *j, const char *path) {
    pm_output out = {0};
    PM_TRY(plan(j));
    PM_TRY(pm_output_open(path, &out));
    pm_status status = write_all(j, &out);
    if (status == PM_OK)
        status = pm_output_finish(&out);
    pm_output_close(&out);
    return status;
}

pm_status pm_quantize(const pm_file *file, const char *path, const pm_quantize_options *options, pm_quantize_result *result) {
    PM_TRY(pm_quantize_check(options));
    PM_TRY(refuse_own_files(file, path));
    job j = {.file = file, .o = options, .mix = pm_mix_find(options->type)};
    pm_status status = quantize(&j, path);
    if (status == PM_OK)
        *result = sum_up(&j);
    pm_free(j.tensors);
    pm_free(j.chunk);
    return status;
}
