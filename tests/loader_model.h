// Small model files made by tests: bytes appended one after another, a GGUF writer, a safetensors writer. Include after cmocka.h.
#ifndef PM_TEST_LOADER_MODEL_H
#define PM_TEST_LOADER_MODEL_H

#include "loader/loader.h"
#include "temp.h"

// Bytes that grow; lives until bytes_close.
typedef struct bytes {
    uint8_t *p;
    size_t n, room;
} bytes;

static inline void put(bytes *b, const void *data, size_t n) {
    if (b->n + n > b->room) {
        b->room = (b->n + n) * 2;
        b->p = realloc(b->p, b->room);
        assert_non_null(b->p);
    }
    if (n)
        memcpy(b->p + b->n, data, n);
    b->n += n;
}

static inline void bytes_close(bytes *b) {
    free(b->p);
    *b = (bytes){0};
}

static inline void put_number(bytes *b, uint64_t value, int size) {
    for (int i = 0; i < size; i++)
        put(b, &(uint8_t){(uint8_t)(value >> (8 * i))}, 1);
}

static inline void put_text(bytes *b, const char *text) {
    put_number(b, strlen(text), 8);
    put(b, text, strlen(text));
}

static inline void put_padding(bytes *b, size_t alignment) {
    while (b->n % alignment)
        put(b, "", 1);
}

enum { GGUF_U16 = 2, GGUF_U32 = 4, GGUF_I32 = 5, GGUF_F32 = 6, GGUF_BOOL = 7, GGUF_STRING = 8, GGUF_ARRAY = 9, GGUF_U64 = 10 };

static inline void put_u32(bytes *b, const char *key, uint32_t value) {
    put_text(b, key);
    put_number(b, GGUF_U32, 4);
    put_number(b, value, 4);
}

static inline void put_f32(bytes *b, const char *key, float value) {
    put_text(b, key);
    put_number(b, GGUF_F32, 4);
    put(b, &value, 4);
}

static inline void put_string(bytes *b, const char *key, const char *value) {
    put_text(b, key);
    put_number(b, GGUF_STRING, 4);
    put_text(b, value);
}

static inline void put_array(bytes *b, const char *key, int type, size_t n) {
    put_text(b, key);
    put_number(b, GGUF_ARRAY, 4);
    put_number(b, (uint64_t)type, 4);
    put_number(b, n, 8);
}

// A file's head and the table entries and data that come after it; `rows` counts from the head's fields at byte 8.
typedef struct gguf_writer {
    bytes entries, table, data;
    uint64_t n_entries, n_tensors;
} gguf_writer;

static inline void gguf_tensor(gguf_writer *w, const char *name, pm_dtype dtype, int n_dims, const uint64_t *dims, const void *data,
                               size_t size) {
    put_text(&w->table, name);
    put_number(&w->table, (uint64_t)n_dims, 4);
    for (int i = n_dims; i-- > 0;)
        put_number(&w->table, dims[i], 8);
    put_number(&w->table, pm_dtype_get(dtype)->ggml, 4);
    put_number(&w->table, w->data.n, 8);
    put(&w->data, data, size);
    put_padding(&w->data, 32);
    w->n_tensors++;
}

// The whole file in *out; the writer is closed.
static inline void gguf_end(gguf_writer *w, bytes *out) {
    *out = (bytes){0};
    put(out, "GGUF", 4);
    put_number(out, 3, 4);
    put_number(out, w->n_tensors, 8);
    put_number(out, w->n_entries, 8);
    put(out, w->entries.p, w->entries.n);
    put(out, w->table.p, w->table.n);
    put_padding(out, 32);
    put(out, w->data.p, w->data.n);
    bytes_close(&w->entries);
    bytes_close(&w->table);
    bytes_close(&w->data);
}

// A tensor as floats; the caller frees.
static inline float *floats_of(const pm_tensor_view *t, size_t *n) {
    *n = (size_t)(t->dims[0] * t->dims[1] * t->dims[2] * t->dims[3]);
    float *values = malloc(*n * sizeof(*values) + 1);
    assert_non_null(values);
    pm_view_floats(t, 0, *n, values);
    return values;
}

// Opens, or fails the test with the line of the error.
static inline pm_file *open_model(const char *path) {
    pm_file *file;
    pm_status status = pm_file_open(path, &file);
    if (status != PM_OK)
        fail_msg("%s: %s", path, pm_error_text());
    return file;
}

// The file must be refused with this status, and the line must hold this text.
static inline void refused(const char *path, pm_status wanted, const char *text) {
    pm_file *file;
    pm_status status = pm_file_open(path, &file);
    if (status != wanted || !strstr(pm_error_text(), text))
        fail_msg("%s: wanted %d with \"%s\", got %d: %s", path, wanted, text, status, status ? pm_error_text() : "");
    assert_null(file);
}

#define SEEDS PM_TEST_DATA "/../fuzz/seeds/"

// A fuzzer's seed (tests/make_loader_data.py) without its first bytes.
static inline bytes read_seed(const char *name, size_t skip) {
    char path[512], *data;
    size_t n;
    snprintf(path, sizeof(path), SEEDS "%s", name);
    assert_int_equal(pm_file_read(path, 1 << 20, &data, &n), PM_OK);
    bytes b = {0};
    put(&b, data + skip, n - skip);
    pm_free(data);
    return b;
}

static inline size_t find(const bytes *b, const char *text) {
    size_t n = strlen(text);
    for (size_t i = 0; i + n <= b->n; i++)
        if (memcmp(b->p + i, text, n) == 0)
            return i;
    fail_msg("\"%s\" is not in the seed", text);
    return 0;
}

// The first `from` becomes `to`, of any length.
static inline void replace(bytes *b, const char *from, const char *to) {
    size_t at = find(b, from), end = at + strlen(from);
    bytes out = {0};
    put(&out, b->p, at);
    put(&out, to, strlen(to));
    put(&out, b->p + end, b->n - end);
    bytes_close(b);
    *b = out;
}

// A folder with a whole model of one layer: config.json, model.safetensors, tokenizer.json, tokenizer_config.json.
static const char *const folder_parts[][2] = {
    {"config.json", "json/config-new"},
    {"generation_config.json", "json/generation"},
    {"tokenizer.json", "json/tokenizer-pairs"},
    {"tokenizer_config.json", "json/tokenizer-config-list"},
};

static inline void write_folder(void) {
    for (size_t i = 0; i < 4; i++) {
        bytes b = read_seed(folder_parts[i][1], 1);
        temp_write(folder_parts[i][0], b.p, b.n);
        bytes_close(&b);
    }
    bytes b = read_seed("safetensors/BF16", 0);
    temp_write("model.safetensors", b.p, b.n);
    bytes_close(&b);
}

#endif
