// A model on disk: opens it in whatever format it has, keeps the table of tensors, hands out views.
#include "loader/internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

pm_status pm_no_memory(const char *path) {
    return pm_fail(PM_ERR_MEMORY, "%s: out of memory", path);
}

char *pm_text_copy(pm_arena *arena, const char *p, size_t n) {
    char *copy = pm_arena_alloc(arena, n + 1);
    if (copy && n)
        memcpy(copy, p, n);
    return copy;
}

static size_t folder_length(const char *path) {
    size_t n = 0;
    for (size_t i = 0; path[i]; i++)
        if (path[i] == '/' || path[i] == '\\')
            n = i + 1;
    return n;
}

char *pm_path_beside(pm_arena *arena, const char *path, const char *name) {
    size_t folder = folder_length(path), n = strlen(name);
    char *beside = pm_arena_alloc(arena, folder + n + 1);
    if (!beside)
        return NULL;
    memcpy(beside, path, folder);
    memcpy(beside + folder, name, n);
    return beside;
}

// ---- tensors ------------------------------------------------------------------------------------------------------------

pm_status pm_file_make_shards(pm_file *file, const char *path, size_t n) {
    for (size_t i = 0; i < file->n_shards; i++)
        pm_map_close(&file->shards[i].map);
    file->n_shards = 0;
    if (n > SIZE_MAX / sizeof(*file->shards))
        return pm_no_memory(path);
    file->shards = pm_arena_alloc(&file->arena, n * sizeof(*file->shards));
    if (!file->shards)
        return pm_no_memory(path);
    file->n_shards = n;
    return PM_OK;
}

pm_status pm_file_map_shard(pm_file *file, size_t i, const char *path) {
    file->shards[i].path = pm_text_copy(&file->arena, path, strlen(path));
    if (!file->shards[i].path)
        return pm_no_memory(path);
    return pm_map_open(path, &file->shards[i].map);
}

pm_status pm_file_reserve(pm_file *file, const char *path, size_t n) {
    if (n > SIZE_MAX / sizeof(*file->tensors) - file->n_tensors)
        return pm_no_memory(path);
    size_t room = file->n_tensors + n;
    if (room <= file->tensor_room)
        return PM_OK;
    pm_tensor_view *grown = pm_realloc(file->tensors, room * sizeof(*grown));
    if (!grown)
        return pm_no_memory(path);
    file->tensors = grown;
    file->tensor_room = room;
    return PM_OK;
}

// Bytes that dtype and dims need; the rows of a matrix are whole blocks.
static pm_status tensor_size(const char *path, const pm_tensor_view *view, uint64_t *size) {
    const pm_dtype_info *dtype = pm_dtype_get(view->dtype);
    uint64_t row = view->dims[view->n_dims ? view->n_dims - 1 : 0];
    if (row % dtype->block_elements)
        return pm_fail(PM_ERR_FILE, "%s: tensor %s: rows of %llu are no multiple of %s's block of %u", path, view->name,
                       (unsigned long long)row, dtype->name, dtype->block_elements);
    uint64_t n = row / dtype->block_elements;
    pm_status status = pm_mul_size(n, dtype->block_bytes, &n);
    for (int i = 0; i + 1 < view->n_dims && status == PM_OK; i++)
        status = pm_mul_size(n, view->dims[i], &n);
    if (status != PM_OK)
        return pm_fail(PM_ERR_FILE, "%s: tensor %s: its shape overflows", path, view->name);
    *size = n;
    return PM_OK;
}

pm_status pm_file_add(pm_file *file, const pm_shard *shard, pm_tensor_view view, uint64_t offset, uint64_t *size) {
    for (int i = view.n_dims; i < 4; i++)
        view.dims[i] = 1;
    PM_TRY(tensor_size(shard->path, &view, &view.size));
    if (offset > shard->map.size || view.size > shard->map.size - offset)
        return pm_fail(PM_ERR_FILE, "%s: tensor %s: bytes %llu + %llu lie beyond the file's end at %llu (truncated?)", shard->path,
                       view.name, (unsigned long long)offset, (unsigned long long)view.size, (unsigned long long)shard->map.size);
    view.data = shard->map.data + offset;
    view.stored = view.dtype;
    *size = view.size;
    if (view.dtype >= PM_DTYPE_COUNT)
        PM_TRY(pm_repack(file, shard->path, &view));
    file->tensors[file->n_tensors++] = view;
    return PM_OK;
}

static int compare_ranges(const void *left, const void *right) {
    const pm_range *a = left, *b = right;
    if (a->begin != b->begin)
        return a->begin < b->begin ? -1 : 1;
    return a->end < b->end ? -1 : a->end > b->end;
}

pm_status pm_ranges_check(const char *path, pm_range *ranges, size_t n) {
    if (n)
        qsort(ranges, n, sizeof(*ranges), compare_ranges);
    for (size_t i = 1; i < n; i++)
        if (ranges[i].begin < ranges[i - 1].end)
            return pm_fail(PM_ERR_FILE, "%s: tensors %s and %s overlap", path, ranges[i - 1].name, ranges[i].name);
    return PM_OK;
}

static int compare_names(const void *left, const void *right) {
    const pm_tensor_view *a = left, *b = right;
    return strcmp(a->name, b->name);
}

pm_status pm_file_finish(pm_file *file, const char *path) {
    PM_TRY(pm_fragments_join(file, path));
    if (file->n_tensors)
        qsort(file->tensors, file->n_tensors, sizeof(*file->tensors), compare_names);
    for (size_t i = 1; i < file->n_tensors; i++)
        if (strcmp(file->tensors[i - 1].name, file->tensors[i].name) == 0)
            return pm_fail(PM_ERR_FILE, "%s: tensor %s is there twice", path, file->tensors[i].name);
    PM_TRY(pm_config_check_tensors(path, file));
    pm_repack_tell(file, path);
    return PM_OK;
}

// ---- the face -------------------------------------------------------------------------------------------------------------

static bool ends_with(const char *text, const char *end) {
    size_t n = strlen(text), m = strlen(end);
    return n >= m && strcmp(text + n - m, end) == 0;
}

// A file's first bytes decide; names are only a hint for the message.
static pm_status open_any(pm_file *file, const char *path) {
    if (pm_synthetic_is(path))
        return pm_synthetic_open(file, path);
    if (pm_path_is_dir(path))
        return pm_safetensors_open(file, path);

    pm_map map;
    PM_TRY(pm_map_open(path, &map));
    bool gguf = pm_gguf_is(map.data, map.size);
    pm_map_close(&map);
    if (gguf)
        return pm_gguf_open(file, path);
    if (ends_with(path, ".safetensors"))
        return pm_safetensors_open(file, path);
    return pm_fail(PM_ERR_FILE, "%s: neither a GGUF file nor safetensors nor a folder with config.json", path);
}

pm_status pm_file_open(const char *path, pm_file **out) {
    *out = NULL;
    pm_file *file = pm_calloc(1, sizeof(*file));
    if (!file)
        return pm_no_memory(path);
    pm_config_init(&file->config);

    pm_status status = open_any(file, path);
    if (status != PM_OK)
        pm_file_close(&file);
    *out = file;
    return status;
}

void pm_file_close(pm_file **file) {
    pm_file *f = *file;
    if (!f)
        return;
    for (size_t i = 0; i < f->n_shards; i++)
        pm_map_close(&f->shards[i].map);
    pm_free(f->tensors);
    pm_free(f->fragments);
    pm_arena_close(&f->arena);
    pm_free(f);
    *file = NULL;
}

const pm_config *pm_file_config(const pm_file *file) {
    return &file->config;
}

const pm_tensor_view *pm_file_find(const pm_file *file, const char *name) {
    pm_tensor_view key = {.name = name};
    if (!file->n_tensors)
        return NULL;
    return bsearch(&key, file->tensors, file->n_tensors, sizeof(key), compare_names);
}

const pm_tensor_view *pm_file_tensors(const pm_file *file, size_t *n) {
    *n = file->n_tensors;
    return file->tensors;
}

const pm_vocab_data *pm_file_vocab(const pm_file *file) {
    return file->has_vocab ? &file->vocab : NULL;
}

pm_str pm_file_chat_template(const pm_file *file) {
    return file->chat_template;
}

void pm_file_forget(const pm_file *file, const pm_tensor_view *tensor) {
    const uint8_t *data = tensor->made ? tensor->made->data : tensor->data;
    for (size_t i = 0; i < file->n_shards; i++) {
        const pm_map *map = &file->shards[i].map;
        if (map->data && data >= map->data && data < map->data + map->size)
            pm_map_forget(map, (uint64_t)(data - map->data), tensor->size);
    }
}
