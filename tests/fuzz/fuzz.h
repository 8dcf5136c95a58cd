// What the fuzz targets of the loader share: silence, a file from memory, and a reader of everything that was promised.
#ifndef PM_FUZZ_H
#define PM_FUZZ_H

#include "loader/internal.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static inline void fuzz_silence(pm_log_level level, const char *line, void *user) {
    (void)level, (void)line, (void)user;
}

// A file of one shard whose bytes are `data`; NULL when there is no memory.
static inline pm_file *fuzz_open(const uint8_t *data, size_t size) {
    pm_log_to(fuzz_silence, NULL);
    pm_file *file = pm_calloc(1, sizeof(*file));
    if (!file)
        return NULL;
    pm_config_init(&file->config);
    if (pm_file_make_shards(file, "fuzz", 1) == PM_OK)
        file->shards[0] = (pm_shard){.path = "fuzz", .map = {.data = data, .size = size}};
    return file;
}

static inline void fuzz_close(pm_file *file) {
    for (size_t i = 0; i < file->n_shards; i++)
        file->shards[i].map = (pm_map){0}; // not a mapping: nothing to unmap
    pm_file_close(&file);
}

static inline size_t fuzz_touch(pm_str text) {
    size_t sum = 0;
    for (size_t i = 0; i < text.n; i++)
        sum += (unsigned char)text.p[i];
    return sum;
}

// Reads all that an opened vocabulary promises; a promise broken stops the run.
static inline size_t fuzz_use_vocab(const pm_vocab_data *vocab, uint32_t vocab_size) {
    size_t sum = fuzz_touch(vocab->regex);
    if (vocab->n_tokens > vocab_size)
        abort();
    for (uint32_t i = 0; i < vocab->n_tokens; i++) {
        sum += fuzz_touch(vocab->tokens[i].text);
        if (vocab->tokens[i].added && vocab->tokens[i].text.n == 0)
            abort();
    }
    if (vocab->add_end && (vocab->end_id < 0 || (uint32_t)vocab->end_id >= vocab->n_tokens))
        abort();
    for (uint32_t i = 0; i < vocab->n_merges; i++) {
        sum += fuzz_touch(vocab->merges[i].left) + fuzz_touch(vocab->merges[i].right);
        if (vocab->merges[i].left.n == 0 || vocab->merges[i].right.n == 0)
            abort();
    }
    return sum;
}

// The last rows and columns of a tensor whose rows are made.
static inline size_t fuzz_read(const pm_tensor_view *t) {
    enum { ROWS = 2 };
    uint32_t cols = (uint32_t)t->dims[t->n_dims - 1], rows = 1;
    for (int i = 0; i + 1 < t->n_dims; i++)
        rows *= (uint32_t)t->dims[i];
    if (rows < ROWS || cols == 0)
        return 0;
    uint8_t made[ROWS * PM_VIEW_BYTES];
    float values[PM_VIEW_COLS];
    uint32_t col = (cols - 1) / PM_VIEW_COLS * PM_VIEW_COLS;
    pm_view_read(t, rows - ROWS, ROWS, col, cols - col, made);
    pm_dequant(t->dtype, made, values, cols - col);
    size_t sum = values[0] > 0;
    pm_view_read(t, 0, ROWS, 0, cols < PM_VIEW_COLS ? cols : PM_VIEW_COLS, made);
    return sum + made[0];
}

// The same for a whole model: the ends of every tensor, decoded, and what the config says about itself.
static inline size_t fuzz_use(const pm_file *file) {
    const pm_config *c = pm_file_config(file);
    size_t n, sum = 0;
    const pm_tensor_view *tensors = pm_file_tensors(file, &n);
    float values[256];
    for (size_t i = 0; i < n; i++) {
        const pm_dtype_info *dtype = pm_dtype_get(tensors[i].dtype);
        if (tensors[i].made)
            sum += fuzz_read(&tensors[i]);
        if (tensors[i].made || tensors[i].size < dtype->block_bytes)
            continue;
        pm_dequant(tensors[i].dtype, tensors[i].data, values, dtype->block_elements);
        pm_dequant(tensors[i].dtype, tensors[i].data + tensors[i].size - dtype->block_bytes, values, dtype->block_elements);
        sum += values[0] > 0;
        if (pm_file_find(file, tensors[i].name) != &tensors[i])
            abort();
    }
    if (c->n_heads % c->n_kv_heads || c->head_dim % 2 || !pm_file_find(file, "token_embd.weight"))
        abort();
    for (int i = 0; i < c->n_eos; i++)
        if (c->eos[i] < 0 || (uint32_t)c->eos[i] >= c->vocab_size)
            abort();
    if (pm_file_vocab(file))
        sum += fuzz_use_vocab(pm_file_vocab(file), c->vocab_size);
    return sum + fuzz_touch(pm_file_chat_template(file));
}

// What the target returns: 0, in a way that keeps the reads above alive.
static inline int fuzz_keep(size_t sum) {
    return sum == SIZE_MAX ? -1 : 0;
}

#endif
