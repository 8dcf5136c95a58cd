// A model to a GGUF file in other types: writes the head, then streams the weights in chunks, which all cores decode and encode.
#include "loader/quantize.h"

#include "loader/gguf_plan.h"
#include "loader/quant.h"

#include <math.h>
#include <stdatomic.h>

// Elements that a core takes at once, whole blocks of every type, and pieces that are written at once: 16 MiB of floats.
enum { PIECE = 4096, CHUNK = 1024, CHUNK_BYTES = CHUNK * PIECE * 4 };

typedef struct job {
    pm_gguf_plan plan;
    pm_output out;
    uint8_t *chunk; // (CHUNK_BYTES)
    uint64_t done;  // bytes of weights, of the plan's
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

// ---- the weights -------------------------------------------------------------------------------------------------------

// A chunk of pieces. Each piece is of one row, so that rows may come in another order.
typedef struct encoding {
    const pm_file *file;
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
static uint64_t row_of_pair(const encoding *e, uint64_t row) {
    uint64_t in_head = row % e->head_rows;
    return row - in_head + in_head % 2 * (e->head_rows / 2) + in_head / 2;
}

// The tensor that holds a row of the one to be; *row becomes its number there.
static const pm_tensor_view *find_row(const encoding *e, uint64_t *row) {
    const pm_gguf_tensor *t = e->t;
    uint64_t matrix = *row / t->dims[1], in_matrix = *row % t->dims[1];
    switch (t->parts) {
    case PM_PARTS_STACK:
        *row = in_matrix;
        return pm_gguf_find_expert(e->file, t->source, matrix);
    case PM_PARTS_UPPER:
        *row = 2 * matrix * t->dims[1] + in_matrix;
        break;
    case PM_PARTS_LOWER:
        *row = (2 * matrix + 1) * t->dims[1] + in_matrix;
        break;
    case PM_PARTS_ONE:
        *row = t->pairs ? row_of_pair(e, *row) : *row;
        break;
    }
    return t->source;
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
    const pm_tensor_view *source = find_row(e, &row);
    pm_view_floats(source, row * e->cols + col, n, values);
    if (!all_fit(values, n, e->t->dtype))
        atomic_store(&e->too_large, true);
    else
        pm_quant(e->t->dtype, values, e->out + (piece_offset(e, piece) - piece_offset(e, e->first)), (size_t)n);
}

static pm_status put_bytes(job *j, const uint8_t *data, uint64_t n) {
    const pm_quantize_options *o = j->plan.o;
    PM_TRY(pm_output_write(&j->out, data, (size_t)n));
    j->done += n;
    if (!o->progress || o->progress(o->user, j->done, j->plan.size))
        return PM_OK;
    return pm_fail(PM_ERR_CANCELLED, "stopped");
}

// A bias whose elements come as pairs is a column.
static encoding begin_tensor(const job *j, const pm_gguf_tensor *t) {
    uint64_t cols = t->pairs && t->n_dims == 1 ? 1 : t->dims[t->n_dims - 1];
    return (encoding){
        .file = j->plan.file,
        .t = t,
        .cols = cols,
        .pieces_a_row = (cols + PIECE - 1) / PIECE,
        .head_rows = j->plan.file->config.head_dim,
        .out = j->chunk,
    };
}

static pm_status encode_tensor(job *j, const pm_gguf_tensor *t) {
    encoding e = begin_tensor(j, t);
    uint64_t n_pieces = pm_gguf_tensor_elements(t) / e.cols * e.pieces_a_row;
    for (; e.first < n_pieces; e.first += CHUNK) {
        uint64_t n = n_pieces - e.first < CHUNK ? n_pieces - e.first : CHUNK;
        uint64_t end = e.first + n < n_pieces ? piece_offset(&e, e.first + n) : t->size;
        pm_parallel_for((int)n, encode_piece, &e);
        if (atomic_load(&e.too_large))
            return pm_fail(PM_ERR_FILE, "tensor %s has values that %s cannot hold", pm_gguf_tensor_name(t),
                           pm_dtype_get(t->dtype)->name);
        PM_TRY(put_bytes(j, j->chunk, end - piece_offset(&e, e.first)));
    }
    return PM_OK;
}

// The type stays: the bytes do too.
static pm_status copy_tensor(job *j, const pm_tensor_view *s) {
    for (uint64_t at = 0; at < s->size; at += CHUNK_BYTES)
        PM_TRY(put_bytes(j, s->data + at, s->size - at < CHUNK_BYTES ? s->size - at : CHUNK_BYTES));
    return PM_OK;
}

static pm_status fill_up(pm_output *out, uint64_t *at, uint64_t to) {
    static const uint8_t zero;
    for (; *at < to; ++*at)
        PM_TRY(pm_output_write(out, &zero, 1));
    return PM_OK;
}

static pm_status write_tensor(job *j, const pm_gguf_tensor *t) {
    if (t->size == 0)
        return PM_OK;
    bool same = t->parts == PM_PARTS_ONE && t->dtype == t->source->dtype && t->source->data && !t->pairs;
    PM_TRY(same ? copy_tensor(j, t->source) : encode_tensor(j, t));
    pm_file_forget(j->plan.file, t->source);
    for (uint64_t i = 1; t->parts == PM_PARTS_STACK && i < t->dims[0]; i++)
        pm_file_forget(j->plan.file, pm_gguf_find_expert(j->plan.file, t->source, i));
    return PM_OK;
}

static pm_status write_all(job *j) {
    const pm_gguf_plan *p = &j->plan;
    uint64_t at = 0;
    PM_TRY(pm_gguf_write_head(p->file, &j->out, p->mix->file_type, p->tensors, p->n_tensors, p->alignment));
    for (size_t i = 0; i < p->n_tensors; i++) {
        PM_TRY(fill_up(&j->out, &at, p->tensors[i].offset));
        PM_TRY(write_tensor(j, &p->tensors[i]));
        at += p->tensors[i].size;
    }
    PM_TRY(fill_up(&j->out, &at, pm_round_up(at, p->alignment))); // ggml counts on it
    return pm_output_finish(&j->out);
}

// ---- the face ----------------------------------------------------------------------------------------------------------

static pm_status refuse_own_files(const pm_file *file, const char *path) {
    for (size_t i = 0; i < file->n_shards; i++)
        if (pm_path_same(file->shards[i].path, path))
            return pm_fail(PM_ERR_USAGE, "%s: is read and cannot be written too", path);
    return PM_OK;
}

static pm_quantize_result sum_up(const pm_gguf_plan *p) {
    pm_quantize_result r = {.n_tensors = p->n_tensors, .bytes = p->size};
    for (size_t i = 0; i < p->n_tensors; i++) {
        const pm_gguf_tensor *t = &p->tensors[i];
        uint64_t size = t->source->size;
        r.source_bytes += t->parts == PM_PARTS_ONE ? size : t->parts == PM_PARTS_STACK ? size * t->dims[0] : size / 2;
        r.n_weights += pm_gguf_tensor_elements(t);
    }
    return r;
}

static pm_status run(job *j, const pm_file *file, const char *path, const pm_quantize_options *options) {
    PM_TRY(pm_gguf_plan_make(file, options, &j->plan));
    j->chunk = pm_malloc(CHUNK_BYTES);
    if (!j->chunk)
        return pm_no_memory(path);
    PM_TRY(pm_output_open(path, &j->out));
    return write_all(j);
}

pm_status pm_quantize(const pm_file *file, const char *path, const pm_quantize_options *options, pm_quantize_result *result) {
    PM_TRY(pm_quantize_check(options));
    PM_TRY(refuse_own_files(file, path));
    job j = {0};
    pm_status status = run(&j, file, path, options);
    if (status == PM_OK)
        *result = sum_up(&j.plan);
    pm_output_close(&j.out);
    pm_free(j.chunk);
    pm_gguf_plan_close(&j.plan);
    return status;
}
