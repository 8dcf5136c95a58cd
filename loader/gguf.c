// GGUF version 3, little endian: header, metadata, tensor table, data. Split files as well.
// https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
#include "loader/internal.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

// A place in the mapping; reading past the end fails once and for all.
typedef struct cursor {
    const char *path;
    const uint8_t *start, *p, *end;
} cursor;

static pm_status fail_truncated(const cursor *c, const char *what) {
    return pm_fail(PM_ERR_FILE, "%s: ends within %s, at byte %llu (truncated?)", c->path, what,
                   (unsigned long long)(c->end - c->start));
}

static uint64_t left(const cursor *c) {
    return (uint64_t)(c->end - c->p);
}

static uint64_t load(const uint8_t *p, unsigned size) {
    uint64_t value = 0;
    for (unsigned i = size; i-- > 0;)
        value = value << 8 | p[i];
    return value;
}

static pm_status take(cursor *c, const char *what, unsigned size, uint64_t *out) {
    *out = 0;
    if (left(c) < size)
        return fail_truncated(c, what);
    *out = load(c->p, size);
    c->p += size;
    return PM_OK;
}

static pm_status take_string(cursor *c, const char *what, pm_str *out) {
    uint64_t n;
    *out = (pm_str){0};
    PM_TRY(take(c, what, 8, &n));
    if (n > left(c))
        return fail_truncated(c, what);
    *out = (pm_str){(const char *)c->p, (size_t)n};
    c->p += n;
    return PM_OK;
}

uint32_t pm_gguf_next_u32(const uint8_t **p) {
    uint32_t value = (uint32_t)load(*p, 4);
    *p += 4;
    return value;
}

pm_str pm_gguf_next_string(const uint8_t **p) {
    uint64_t n = load(*p, 8);
    pm_str text = {(const char *)*p + 8, (size_t)n};
    *p += 8 + n;
    return text;
}

// ---- metadata -----------------------------------------------------------------------------------------------------------------

// Bytes of one element; 0 for a string, whose size is in it, and for an array.
static const uint8_t value_sizes[PM_GGUF_TYPE_COUNT] = {
    [PM_GGUF_U8] = 1,  [PM_GGUF_I8] = 1,  [PM_GGUF_U16] = 2,  [PM_GGUF_I16] = 2, [PM_GGUF_U32] = 4, [PM_GGUF_I32] = 4,
    [PM_GGUF_F32] = 4, [PM_GGUF_U64] = 8, [PM_GGUF_BOOL] = 1, [PM_GGUF_I64] = 8, [PM_GGUF_F64] = 8,
};

static pm_status take_type(cursor *c, pm_str key, pm_gguf_type *type) {
    uint64_t number;
    PM_TRY(take(c, "metadata", 4, &number));
    if (number >= PM_GGUF_TYPE_COUNT)
        return pm_fail(PM_ERR_FILE, "%s: %.*s has the unknown type %llu", c->path, (int)(key.n < 64 ? key.n : 64), key.p,
                       (unsigned long long)number);
    *type = (pm_gguf_type)number;
    return PM_OK;
}

static pm_status skip_values(cursor *c, const pm_gguf_entry *entry) {
    uint64_t size = value_sizes[entry->type];
    if (size) {
        if (entry->n > left(c) / size)
            return fail_truncated(c, "metadata");
        c->p += entry->n * size;
        return PM_OK;
    }
    pm_str text;
    for (uint64_t i = 0; i < entry->n; i++)
        PM_TRY(take_string(c, "metadata", &text));
    return PM_OK;
}

static pm_status take_entry(cursor *c, pm_gguf_entry *entry) {
    PM_TRY(take_string(c, "metadata", &entry->key));
    PM_TRY(take_type(c, entry->key, &entry->type));
    entry->n = 1;
    entry->is_array = entry->type == PM_GGUF_ARRAY;
    if (entry->is_array) {
        PM_TRY(take_type(c, entry->key, &entry->type));
        PM_TRY(take(c, "metadata", 8, &entry->n));
        if (entry->type == PM_GGUF_ARRAY)
            return pm_fail(PM_ERR_UNSUPPORTED, "%s: %.*s is an array of arrays", c->path,
                           (int)(entry->key.n < 64 ? entry->key.n : 64), entry->key.p);
    }
    entry->value = c->p;
    PM_TRY(skip_values(c, entry));
    entry->size = (uint64_t)(c->p - entry->value);
    return PM_OK;
}

static pm_status take_entries(cursor *c, pm_arena *arena, uint64_t n, pm_gguf *gguf) {
    enum { SMALLEST = 8 + 4 + 1 }; // an empty key, a type, one byte: a count cannot ask for more memory than the file is long
    if (n > left(c) / SMALLEST)
        return pm_fail(PM_ERR_FILE, "%s: %llu metadata entries do not fit the file", c->path, (unsigned long long)n);
    gguf->entries = pm_arena_alloc(arena, (size_t)n * sizeof(*gguf->entries));
    if (!gguf->entries)
        return pm_no_memory(c->path);
    for (uint64_t i = 0; i < n; i++)
        PM_TRY(take_entry(c, &gguf->entries[i]));
    gguf->n_entries = n;
    return PM_OK;
}

const pm_gguf_entry *pm_gguf_find(const pm_gguf *gguf, const char *key) {
    for (uint64_t i = 0; i < gguf->n_entries; i++)
        if (pm_str_is(gguf->entries[i].key, key))
            return &gguf->entries[i];
    return NULL;
}

// Any number as a double: exact for all but 64-bit integers beyond 2^53, which no key of ours can hold.
static bool entry_number(const pm_gguf_entry *entry, double *out) {
    unsigned size = value_sizes[entry->type];
    if (entry->is_array || size == 0)
        return false;
    uint64_t bits = load(entry->value, size);
    uint32_t low = (uint32_t)bits;
    float f;
    switch (entry->type) {
    case PM_GGUF_F32:
        memcpy(&f, &low, sizeof(f));
        *out = f;
        return true;
    case PM_GGUF_F64:
        memcpy(out, &bits, sizeof(*out));
        return true;
    case PM_GGUF_I8:
    case PM_GGUF_I16:
    case PM_GGUF_I32:
    case PM_GGUF_I64:
        *out = (double)bits - (bits >> (8 * size - 1) ? ldexp(1, (int)(8 * size)) : 0);
        return true;
    default:
        *out = (double)bits;
        return true;
    }
}

pm_status pm_gguf_get_double(const pm_gguf *gguf, const char *key, double min, double max, double *out) {
    const pm_gguf_entry *entry = pm_gguf_find(gguf, key);
    double value;
    if (!entry)
        return PM_OK;
    if (!entry_number(entry, &value))
        return pm_fail(PM_ERR_FILE, "%s: %s is not a number", gguf->shard->path, key);
    if (!(value >= min && value <= max))
        return pm_fail(PM_ERR_FILE, "%s: %s is %g, outside [%g, %g]", gguf->shard->path, key, value, min, max);
    *out = value;
    return PM_OK;
}

pm_status pm_gguf_get_u32(const pm_gguf *gguf, const char *key, uint32_t max, uint32_t *out) {
    double value = *out;
    PM_TRY(pm_gguf_get_double(gguf, key, 0, max, &value));
    if (value != floor(value))
        return pm_fail(PM_ERR_FILE, "%s: %s is %g, not an integer", gguf->shard->path, key, value);
    *out = (uint32_t)value;
    return PM_OK;
}

pm_status pm_gguf_get_bool(const pm_gguf *gguf, const char *key, bool *out) {
    double value = *out;
    PM_TRY(pm_gguf_get_double(gguf, key, 0, 1, &value));
    *out = value != 0;
    return PM_OK;
}

pm_status pm_gguf_get_string(const pm_gguf *gguf, const char *key, pm_str *out) {
    const pm_gguf_entry *entry = pm_gguf_find(gguf, key);
    if (!entry)
        return PM_OK;
    if (entry->is_array || entry->type != PM_GGUF_STRING)
        return pm_fail(PM_ERR_FILE, "%s: %s is not a string", gguf->shard->path, key);
    const uint8_t *p = entry->value;
    *out = pm_gguf_next_string(&p);
    return PM_OK;
}

// ---- tensors --------------------------------------------------------------------------------------------------------------------

// ggml's names of the types we do not run, for the message.
static const char *foreign_type(uint64_t number) {
    static const char *const names[] = {
        "F32",    "F16",      "Q4_0",     "Q4_1",     "Q4_2",  "Q4_3",  "Q5_0",       "Q5_1",       "Q8_0",       "Q8_1",
        "Q2_K",   "Q3_K",     "Q4_K",     "Q5_K",     "Q6_K",  "Q8_K",  "IQ2_XXS",    "IQ2_XS",     "IQ3_XXS",    "IQ1_S",
        "IQ4_NL", "IQ3_S",    "IQ2_S",    "IQ4_XS",   "I8",    "I16",   "I32",        "I64",        "F64",        "IQ1_M",
        "BF16",   "Q4_0_4_4", "Q4_0_4_8", "Q4_0_8_8", "TQ1_0", "TQ2_0", "IQ4_NL_4_4", "IQ4_NL_4_8", "IQ4_NL_8_8", "MXFP4",
    };
    return number < sizeof(names) / sizeof(names[0]) ? names[number] : "unknown";
}

static pm_status take_dtype(cursor *c, const char *name, pm_dtype *dtype) {
    uint64_t number;
    PM_TRY(take(c, "the tensor table", 4, &number));
    for (int i = 0; i < PM_ALL_DTYPE_COUNT; i++) {
        *dtype = (pm_dtype)i;
        if (pm_dtype_get(*dtype)->ggml == number && number != PM_NOT_IN_GGUF)
            return PM_OK;
    }
#define X(id, small, ggml, elements, bytes) " " #id
    return pm_fail(PM_ERR_UNSUPPORTED, "%s: tensor %s has type %s (%llu); supported are" PM_GGUF_DTYPES(X) PM_FILE_DTYPES(X),
                   c->path, name, foreign_type(number), (unsigned long long)number);
#undef X
}

// gguf writes the fastest dimension first, we the slowest.
static pm_status take_dims(cursor *c, pm_tensor_view *view) {
    uint64_t n;
    PM_TRY(take(c, "the tensor table", 4, &n));
    if (n < 1 || n > 4)
        return pm_fail(PM_ERR_FILE, "%s: tensor %s has %llu dimensions", c->path, view->name, (unsigned long long)n);
    view->n_dims = (int)n;
    for (int i = (int)n; i-- > 0;)
        PM_TRY(take(c, "the tensor table", 8, &view->dims[i]));
    return PM_OK;
}

static pm_status take_name(cursor *c, pm_arena *arena, const char **name) {
    enum { LONGEST = 256 }; // ggml's own limit is 64
    pm_str text;
    PM_TRY(take_string(c, "the tensor table", &text));
    if (text.n == 0 || text.n > LONGEST || memchr(text.p, 0, text.n))
        return pm_fail(PM_ERR_FILE, "%s: a tensor has no proper name", c->path);
    *name = pm_text_copy(arena, text.p, text.n);
    return *name ? PM_OK : pm_no_memory(c->path);
}

// A row of the table. offset: from the start of the data, which is known only when the whole table has been read.
typedef struct table_row {
    pm_tensor_view view;
    uint64_t offset;
} table_row;

static pm_status take_row(cursor *c, pm_arena *arena, table_row *row) {
    PM_TRY(take_name(c, arena, &row->view.name));
    PM_TRY(take_dims(c, &row->view));
    PM_TRY(take_dtype(c, row->view.name, &row->view.dtype));
    return take(c, "the tensor table", 8, &row->offset);
}

static pm_status read_alignment(const pm_gguf *gguf, uint32_t *alignment) {
    *alignment = 32;
    PM_TRY(pm_gguf_get_u32(gguf, "general.alignment", 1 << 20, alignment));
    if (*alignment == 0 || (*alignment & (*alignment - 1)))
        return pm_fail(PM_ERR_FILE, "%s: general.alignment %u is not a power of two", gguf->shard->path, *alignment);
    return PM_OK;
}

static pm_status add_row(pm_file *file, const pm_gguf *gguf, const table_row *row, uint64_t data_start, uint32_t alignment,
                         pm_range *range) {
    const pm_shard *shard = gguf->shard;
    uint64_t offset, size;
    if (row->offset % alignment)
        return pm_fail(PM_ERR_FILE, "%s: tensor %s: offset %llu is not a multiple of %u", shard->path, row->view.name,
                       (unsigned long long)row->offset, alignment);
    if (pm_add_size(data_start, row->offset, &offset) != PM_OK)
        return pm_fail(PM_ERR_FILE, "%s: tensor %s: offset %llu wraps", shard->path, row->view.name,
                       (unsigned long long)row->offset);
    PM_TRY(pm_file_add(file, shard, row->view, offset, &size));
    *range = (pm_range){offset, offset + size, row->view.name};
    return PM_OK;
}

static pm_status add_rows(pm_file *file, const pm_gguf *gguf, const table_row *rows, size_t n, uint64_t table_end) {
    uint32_t alignment;
    PM_TRY(read_alignment(gguf, &alignment));
    PM_TRY(pm_file_reserve(file, gguf->shard->path, n));
    pm_range *ranges = pm_calloc(n, sizeof(*ranges));
    if (!ranges)
        return pm_no_memory(gguf->shard->path);
    pm_status status = PM_OK;
    for (size_t i = 0; i < n && status == PM_OK; i++)
        status = add_row(file, gguf, &rows[i], pm_round_up(table_end, alignment), alignment, &ranges[i]);
    if (status == PM_OK)
        status = pm_ranges_check(gguf->shard->path, ranges, n);
    pm_free(ranges);
    return status;
}

static pm_status take_rows(pm_file *file, cursor *c, const pm_gguf *gguf, uint64_t n) {
    enum { SMALLEST = 8 + 1 + 4 + 8 + 4 + 8 };
    if (n > left(c) / SMALLEST)
        return pm_fail(PM_ERR_FILE, "%s: %llu tensors do not fit the file", c->path, (unsigned long long)n);
    table_row *rows = pm_calloc((size_t)n, sizeof(*rows));
    if (!rows)
        return pm_no_memory(c->path);
    pm_status status = PM_OK;
    for (uint64_t i = 0; i < n && status == PM_OK; i++)
        status = take_row(c, &file->arena, &rows[i]);
    if (status == PM_OK)
        status = add_rows(file, gguf, rows, (size_t)n, (uint64_t)(c->p - c->start));
    pm_free(rows);
    return status;
}

// ---- one file -------------------------------------------------------------------------------------------------------------------

bool pm_gguf_is(const uint8_t *data, uint64_t size) {
    return size >= 4 && memcmp(data, "GGUF", 4) == 0;
}

static pm_status take_version(cursor *c) {
    uint64_t version;
    PM_TRY(take(c, "the header", 4, &version));
    if (version == 3)
        return PM_OK;
    if (version && (version & 0xffffff) == 0)
        return pm_fail(PM_ERR_UNSUPPORTED, "%s: a big-endian GGUF file; only little-endian ones are supported", c->path);
    return pm_fail(PM_ERR_UNSUPPORTED, "%s: GGUF version %llu is not supported; only version 3 is", c->path,
                   (unsigned long long)version);
}

pm_status pm_gguf_read(pm_file *file, const pm_shard *shard, pm_gguf *gguf) {
    const pm_map *map = &shard->map;
    cursor c = {shard->path, map->data, map->data, map->data + map->size};
    *gguf = (pm_gguf){.shard = shard};
    if (!pm_gguf_is(map->data, map->size))
        return pm_fail(PM_ERR_FILE, "%s: not a GGUF file", shard->path);
    c.p += 4;
    PM_TRY(take_version(&c));
    uint64_t n_tensors, n_entries;
    PM_TRY(take(&c, "the header", 8, &n_tensors));
    PM_TRY(take(&c, "the header", 8, &n_entries));
    PM_TRY(take_entries(&c, &file->arena, n_entries, gguf));
    return take_rows(file, &c, gguf, n_tensors);
}

// ---- split files -----------------------------------------------------------------------------------------------------

// "PREFIX-00002-of-00003.gguf": the length of PREFIX; 0 when the name does not end so.
static size_t split_prefix(const char *path, uint32_t count) {
    enum { ENDING = 20 };
    size_t n = strlen(path);
    char ending[32];
    snprintf(ending, sizeof(ending), "-of-%05u.gguf", count);
    bool fits = n > ENDING && strcmp(path + n - 14, ending) == 0 && path[n - ENDING] == '-';
    for (size_t i = n - 19; fits && i < n - 14; i++)
        fits = path[i] >= '0' && path[i] <= '9';
    return fits ? n - ENDING : 0;
}

static pm_status check_part(const pm_gguf *part, uint32_t i, uint32_t count) {
    uint32_t no = 0, of = 1;
    PM_TRY(pm_gguf_get_u32(part, "split.no", UINT16_MAX, &no));
    PM_TRY(pm_gguf_get_u32(part, "split.count", UINT16_MAX, &of));
    if (no != i || of != count)
        return pm_fail(PM_ERR_FILE, "%s: says it is part %u of %u, its name says %u of %u", part->shard->path, no + 1, of, i + 1,
                       count);
    return PM_OK;
}

static pm_status open_part(pm_file *file, const char *path, size_t prefix, uint32_t i, uint32_t count, pm_gguf *part) {
    char *name = pm_arena_alloc(&file->arena, prefix + 32);
    if (!name)
        return pm_no_memory(path);
    memcpy(name, path, prefix);
    snprintf(name + prefix, 32, "-%05u-of-%05u.gguf", i + 1, count);
    if (!pm_path_exists(name))
        return pm_fail(PM_ERR_FILE, "%s is missing; %s is one of %u parts", name, path, count);
    PM_TRY(pm_file_map_shard(file, i, name));
    PM_TRY(pm_gguf_read(file, &file->shards[i], part));
    return check_part(part, i, count);
}

// The first part has the metadata of the model; every part has its own tensors. What the part that was named gave is read again.
static pm_status open_parts(pm_file *file, const char *path, uint32_t count, pm_gguf *first) {
    size_t prefix = split_prefix(path, count);
    if (!prefix)
        return pm_fail(PM_ERR_FILE, "%s: one of %u parts, but not named ...-00001-of-%05u.gguf", path, count, count);
    file->n_tensors = 0;
    PM_TRY(pm_file_make_shards(file, path, count));
    for (uint32_t i = 0; i < count; i++) {
        pm_gguf other;
        PM_TRY(open_part(file, path, prefix, i, count, i == 0 ? first : &other));
    }
    uint32_t n_tensors = (uint32_t)file->n_tensors;
    PM_TRY(pm_gguf_get_u32(first, "split.tensors.count", INT32_MAX, &n_tensors));
    if (n_tensors != file->n_tensors)
        return pm_fail(PM_ERR_FILE, "%s: the parts have %zu tensors together, not %u", path, file->n_tensors, n_tensors);
    return PM_OK;
}

// For who writes a copy; the entries lie in the arena and the mapping already.
static pm_status keep_metadata(pm_file *file, const char *path, const pm_gguf *gguf) {
    pm_gguf *kept = pm_arena_alloc(&file->arena, sizeof(*kept));
    if (!kept)
        return pm_no_memory(path);
    *kept = *gguf;
    file->gguf = kept;
    return PM_OK;
}

pm_status pm_gguf_open(pm_file *file, const char *path) {
    pm_gguf gguf;
    uint32_t count = 1;
    PM_TRY(pm_file_make_shards(file, path, 1));
    PM_TRY(pm_file_map_shard(file, 0, path));
    PM_TRY(pm_gguf_read(file, &file->shards[0], &gguf));
    PM_TRY(pm_gguf_get_u32(&gguf, "split.count", UINT16_MAX, &count));
    if (count > 1)
        PM_TRY(open_parts(file, path, count, &gguf));
    PM_TRY(keep_metadata(file, path, &gguf));
    PM_TRY(pm_gguf_read_model(file, &gguf));
    return pm_file_finish(file, path);
}
