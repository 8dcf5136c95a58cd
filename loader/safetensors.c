// safetensors: eight bytes of header length, a JSON header {name: {dtype, shape, data_offsets}}, the bytes. One file or several
// with an index. https://github.com/huggingface/safetensors#format
#include "loader/internal.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <string.h>

// Ten times the largest header in use (36,000 tensors); a parsed one may take thirty times its text.
enum { HEADER_LIMIT = 32 << 20, SHARD_LIMIT = 1000 };

// ---- names --------------------------------------------------------------------------------------------------------------------

typedef struct name_pair {
    const char *hf, *gguf;
} name_pair;

// Followed by ".weight" or ".bias".
static const name_pair model_names[] = {
    {"embed_tokens", "token_embd"},
    {"norm", "output_norm"},
    {"lm_head", "output"},
};
static const name_pair layer_names[] = {
    {"input_layernorm", "attn_norm"},    {"self_attn.q_proj", "attn_q"},
    {"self_attn.k_proj", "attn_k"},      {"self_attn.v_proj", "attn_v"},
    {"self_attn.o_proj", "attn_output"}, {"self_attn.q_norm", "attn_q_norm"},
    {"self_attn.k_norm", "attn_k_norm"}, {"post_attention_layernorm", "ffn_norm"},
    {"mlp.gate_proj", "ffn_gate"},       {"mlp.up_proj", "ffn_up"},
    {"mlp.down_proj", "ffn_down"},       {"mlp.gate", "ffn_gate_inp"},
};
// Of an expert, behind "mlp.experts.N."; its number goes behind gguf's name.
static const name_pair expert_names[] = {
    {"gate_proj", "ffn_gate"},
    {"up_proj", "ffn_up"},
    {"down_proj", "ffn_down"},
};
// Stacks of all experts, whole names: what newer transformers hold in memory, and some write.
static const name_pair stack_names[] = {
    {"mlp.experts.gate_up_proj", "ffn_gate_up_exps"},
    {"mlp.experts.down_proj", "ffn_down_exps"},
};
#define N_OF(table) (sizeof(table) / sizeof((table)[0]))

// "WORD.N.": the rest, and N; NULL when `name` does not begin so. A number has one spelling, so no two names become one.
static const char *cut_number(const char *name, const char *word, uint32_t *number) {
    size_t length = strlen(word);
    if (strncmp(name, word, length) != 0)
        return NULL;
    const char *p = name + length;
    uint32_t n = 0;
    int digits = 0;
    for (; *p >= '0' && *p <= '9' && digits < 6; p++, digits++)
        n = n * 10 + (uint32_t)(*p - '0');
    if (digits == 0 || *p != '.' || (digits > 1 && name[length] == '0'))
        return NULL;
    *number = n;
    return p + 1;
}

static const char *rename_from(const name_pair *table, size_t n, const char *name, const char **ending) {
    for (size_t i = 0; i < n; i++) {
        size_t length = strlen(table[i].hf);
        *ending = name + length;
        if (strncmp(name, table[i].hf, length) == 0 && (strcmp(*ending, ".weight") == 0 || strcmp(*ending, ".bias") == 0))
            return table[i].gguf;
    }
    return NULL;
}

static const char PREFIX[] = "model."; // embedding checkpoints leave it out

static bool has_prefix(const char *name) {
    return strncmp(name, PREFIX, strlen(PREFIX)) == 0;
}

static bool translate_layer(const char *rest, uint32_t layer, char *out, size_t size) {
    const char *ending, *gguf;
    uint32_t expert;
    for (size_t i = 0; i < N_OF(stack_names); i++)
        if (strcmp(rest, stack_names[i].hf) == 0)
            return snprintf(out, size, "blk.%u.%s.weight", layer, stack_names[i].gguf) < (int)size;
    const char *of_expert = cut_number(rest, "mlp.experts.", &expert);
    if (of_expert) {
        gguf = rename_from(expert_names, N_OF(expert_names), of_expert, &ending);
        return gguf && snprintf(out, size, "blk.%u.%s.%u%s", layer, gguf, expert, ending) < (int)size;
    }
    gguf = rename_from(layer_names, N_OF(layer_names), rest, &ending);
    return gguf && snprintf(out, size, "blk.%u.%s%s", layer, gguf, ending) < (int)size;
}

// Writes gguf's spelling; false for a tensor that no model of ours has.
static bool translate(const char *name, char *out, size_t size) {
    if (has_prefix(name))
        name += strlen(PREFIX);
    const char *ending, *gguf;
    uint32_t layer;
    const char *rest = cut_number(name, "layers.", &layer);
    if (rest)
        return translate_layer(rest, layer, out, size);
    gguf = rename_from(model_names, N_OF(model_names), name, &ending);
    return gguf && snprintf(out, size, "%s%s", gguf, ending) < (int)size;
}

// ---- one tensor of the header ---------------------------------------------------------------------------------------------------

static bool find_dtype(const char *name, pm_dtype *dtype) {
    static const pm_dtype plain[] = {PM_F32, PM_F16, PM_BF16};
    for (size_t i = 0; i < N_OF(plain); i++) {
        *dtype = plain[i];
        if (strcmp(pm_dtype_get(plain[i])->name, name) == 0)
            return true;
    }
    return false;
}

static pm_status read_offsets(const char *path, const cJSON *entry, uint64_t data_size, pm_range *range) {
    const cJSON *pair = pm_json_get(entry, "data_offsets");
    const cJSON *begin = cJSON_IsArray(pair) ? pair->child : NULL, *end = begin ? begin->next : NULL;
    const double exact = 9007199254740992.0; // 2^53: beyond, a double is no longer the number in the file
    if (!pm_json_is_integer(begin, 0, exact) || !pm_json_is_integer(end, 0, exact) || end->next)
        return pm_fail(PM_ERR_FILE, "%s: tensor %s has no data_offsets", path, range->name);
    range->begin = (uint64_t)begin->valuedouble;
    range->end = (uint64_t)end->valuedouble;
    if (range->begin > range->end || range->end > data_size)
        return pm_fail(PM_ERR_FILE, "%s: tensor %s: bytes %llu to %llu do not lie in the %llu there are (truncated?)", path,
                       range->name, (unsigned long long)range->begin, (unsigned long long)range->end,
                       (unsigned long long)data_size);
    return PM_OK;
}

static pm_status read_shape(const char *path, const char *name, const cJSON *entry, pm_tensor_view *view) {
    const cJSON *shape = pm_json_get(entry, "shape"), *extent;
    if (!cJSON_IsArray(shape))
        return pm_fail(PM_ERR_FILE, "%s: tensor %s has no shape", path, name);
    cJSON_ArrayForEach(extent, shape) {
        if (view->n_dims == 4)
            return pm_fail(PM_ERR_UNSUPPORTED, "%s: tensor %s has more than four dimensions", path, name);
        if (!pm_json_is_integer(extent, 0, 9007199254740992.0))
            return pm_fail(PM_ERR_FILE, "%s: tensor %s: its shape is not a list of sizes", path, name);
        view->dims[view->n_dims++] = (uint64_t)extent->valuedouble;
    }
    if (view->n_dims == 0) // a scalar
        view->dims[0] = 1;
    return PM_OK;
}

// gguf's name of the matrix that a tensor is a part of: "X.weight" for "X.qweight" and its like.
static bool translate_fragment(const char *name, size_t stem, char *out, size_t size) {
    char whole[256];
    int n = snprintf(whole, sizeof(whole), "%.*s.weight", (int)(stem < sizeof(whole) ? stem : sizeof(whole)), name);
    return n < (int)sizeof(whole) && translate(whole, out, size);
}

static pm_status read_fragment(pm_file *file, const pm_shard *shard, const cJSON *entry, pm_fragment_kind kind, const char *type,
                               const char *name, const uint8_t *data, uint64_t size) {
    pm_tensor_view view = {0};
    pm_fragment fragment = {.kind = kind, .data = data, .size = size};
    PM_TRY(read_shape(shard->path, entry->string, entry, &view));
    fragment.n_dims = view.n_dims;
    memcpy(fragment.dims, view.dims, sizeof(view.dims));
    fragment.name = pm_text_copy(&file->arena, name, strlen(name));
    if (!fragment.name)
        return pm_no_memory(shard->path);
    return pm_fragment_add(file, shard->path, &fragment, type);
}

// Adds the tensor if it is one that we name; `range` has been checked.
static pm_status read_tensor(pm_file *file, const pm_shard *shard, const cJSON *entry, uint64_t data_start, const pm_range *range) {
    char name[64];
    const char *type = "missing";
    size_t stem;
    PM_TRY(pm_json_string(shard->path, entry, "dtype", &type));
    pm_fragment_kind kind = pm_fragment_of(entry->string, type, &stem);
    bool ours = kind ? translate_fragment(entry->string, stem, name, sizeof(name)) : translate(entry->string, name, sizeof(name));
    if (!ours)
        return PM_OK;
    file->bare = file->bare && !has_prefix(entry->string);
    if (file->config.tied_head && strcmp(name, "output.weight") == 0) // stored although it is the embedding
        return PM_OK;

    if (kind)
        return read_fragment(file, shard, entry, kind, type, name, shard->map.data + data_start + range->begin,
                             range->end - range->begin);
    pm_tensor_view view = {.name = entry->string};
    if (!find_dtype(type, &view.dtype))
        return pm_fail(PM_ERR_UNSUPPORTED, "%s: tensor %s has dtype %.32s; supported in safetensors are F32, F16, BF16, F8_E4M3",
                       shard->path, entry->string, type);
    PM_TRY(read_shape(shard->path, entry->string, entry, &view));
    view.name = pm_text_copy(&file->arena, name, strlen(name));
    if (!view.name)
        return pm_no_memory(shard->path);
    uint64_t size;
    PM_TRY(pm_file_add(file, shard, view, data_start + range->begin, &size));
    if (size != range->end - range->begin)
        return pm_fail(PM_ERR_FILE, "%s: tensor %s: shape and dtype need %llu bytes, the offsets give %llu", shard->path,
                       entry->string, (unsigned long long)size, (unsigned long long)(range->end - range->begin));
    return PM_OK;
}

// ---- one file -------------------------------------------------------------------------------------------------------------------

// The format allows no holes: the tensors fill the bytes after the header.
static pm_status check_filled(const char *path, pm_range *ranges, size_t n, uint64_t data_size) {
    PM_TRY(pm_ranges_check(path, ranges, n));
    uint64_t end = 0;
    for (size_t i = 0; i < n; i++) {
        if (ranges[i].begin != end)
            return pm_fail(PM_ERR_FILE, "%s: a hole before tensor %s", path, ranges[i].name);
        end = ranges[i].end;
    }
    if (end != data_size)
        return pm_fail(PM_ERR_FILE, "%s: %llu bytes after the last tensor", path, (unsigned long long)(data_size - end));
    return PM_OK;
}

static pm_status read_entries(pm_file *file, const pm_shard *shard, const cJSON *root, uint64_t data_start, pm_range *ranges) {
    uint64_t data_size = shard->map.size - data_start;
    size_t n = 0;
    const cJSON *entry;
    cJSON_ArrayForEach(entry, root) {
        if (strcmp(entry->string, "__metadata__") == 0)
            continue;
        ranges[n].name = entry->string;
        PM_TRY(read_offsets(shard->path, entry, data_size, &ranges[n]));
        PM_TRY(read_tensor(file, shard, entry, data_start, &ranges[n]));
        n++;
    }
    return check_filled(shard->path, ranges, n, data_size);
}

static pm_status read_header(pm_file *file, const pm_shard *shard, const cJSON *root, uint64_t data_start) {
    if (!cJSON_IsObject(root))
        return pm_fail(PM_ERR_FILE, "%s: the header is not a JSON object", shard->path);
    size_t n = 0;
    const cJSON *entry;
    cJSON_ArrayForEach(entry, root) {
        n++;
    }
    PM_TRY(pm_file_reserve(file, shard->path, n));
    pm_range *ranges = pm_calloc(n, sizeof(*ranges));
    if (!ranges)
        return pm_no_memory(shard->path);
    pm_status status = read_entries(file, shard, root, data_start, ranges);
    pm_free(ranges);
    return status;
}

pm_status pm_safetensors_read(pm_file *file, const pm_shard *shard) {
    const uint8_t *data = shard->map.data;
    uint64_t size = shard->map.size, header = 0;
    for (int i = 7; i >= 0 && size >= 8; i--)
        header = header << 8 | data[i];
    if (size < 8 || header > size - 8 || header < 2)
        return pm_fail(PM_ERR_FILE, "%s: not a safetensors file, or truncated: %llu bytes, header of %llu", shard->path,
                       (unsigned long long)size, (unsigned long long)header);
    if (header > HEADER_LIMIT)
        return pm_fail(PM_ERR_FILE, "%s: a header of %llu bytes", shard->path, (unsigned long long)header);

    cJSON *root;
    PM_TRY(pm_json_parse(shard->path, (const char *)data + 8, (size_t)header, &root));
    pm_status status = read_header(file, shard, root, 8 + header);
    cJSON_Delete(root);
    return status;
}

// ---- the folder ------------------------------------------------------------------------------------------------------

// A shard lies beside its index, never elsewhere.
static bool is_plain_name(const char *name) {
    return name[0] && name[0] != '.' && !strpbrk(name, "/\\:");
}

static bool contains(const char *const *names, size_t n, const char *name) {
    for (size_t i = n; i-- > 0;) // the one before, nearly always
        if (strcmp(names[i], name) == 0)
            return true;
    return false;
}

pm_status pm_safetensors_read_index(const char *path, const cJSON *root, pm_arena *arena, const char ***names, size_t *n) {
    const cJSON *map = pm_json_get(root, "weight_map"), *entry;
    if (!cJSON_IsObject(map))
        return pm_fail(PM_ERR_FILE, "%s: there is no weight_map in it", path);
    *n = 0;
    *names = pm_arena_alloc(arena, SHARD_LIMIT * sizeof(**names));
    if (!*names)
        return pm_no_memory(path);
    cJSON_ArrayForEach(entry, map) {
        if (!cJSON_IsString(entry) || !is_plain_name(entry->valuestring))
            return pm_fail(PM_ERR_FILE, "%s: tensor %.100s is in no file of this folder", path, entry->string);
        if (contains(*names, *n, entry->valuestring))
            continue;
        if (*n == SHARD_LIMIT)
            return pm_fail(PM_ERR_FILE, "%s: more than %d files", path, SHARD_LIMIT);
        char *name = pm_text_copy(arena, entry->valuestring, strlen(entry->valuestring));
        if (!name)
            return pm_no_memory(path);
        (*names)[(*n)++] = name;
    }
    return *n ? PM_OK : pm_fail(PM_ERR_FILE, "%s: its weight_map is empty", path);
}

static pm_status open_index(const char *path, pm_arena *arena, const char ***names, size_t *n) {
    cJSON *root;
    PM_TRY(pm_json_open(path, &root));
    pm_status status = pm_safetensors_read_index(path, root, arena, names, n);
    cJSON_Delete(root);
    return status;
}

static pm_status open_shards(pm_file *file, const char *index) {
    const char **names;
    size_t n;
    PM_TRY(open_index(index, &file->arena, &names, &n));
    PM_TRY(pm_file_make_shards(file, index, n));
    for (size_t i = 0; i < n; i++) {
        const char *path = pm_path_beside(&file->arena, index, names[i]);
        if (!path)
            return pm_no_memory(index);
        if (!pm_path_exists(path))
            return pm_fail(PM_ERR_FILE, "%s is missing; %s names it", path, index);
        PM_TRY(pm_file_map_shard(file, i, path));
        PM_TRY(pm_safetensors_read(file, &file->shards[i]));
    }
    return PM_OK;
}

static pm_status open_single(pm_file *file, const char *path) {
    PM_TRY(pm_file_make_shards(file, path, 1));
    PM_TRY(pm_file_map_shard(file, 0, path));
    return pm_safetensors_read(file, &file->shards[0]);
}

// The single file goes before the index, as in transformers; a file that is named is a single one unless it is called a part.
static pm_status open_weights(pm_file *file, const char *given, const char *config) {
    const char *index = pm_path_beside(&file->arena, config, "model.safetensors.index.json");
    const char *single = pm_path_beside(&file->arena, config, "model.safetensors");
    if (!index || !single)
        return pm_no_memory(config);
    bool is_part = given && strstr(given, "-of-");
    if (given && !(is_part && pm_path_exists(index)))
        return open_single(file, given);
    if (!given && pm_path_exists(single))
        return open_single(file, single);
    if (pm_path_exists(index))
        return open_shards(file, index);
    return pm_fail(PM_ERR_FILE, "%s: neither model.safetensors nor model.safetensors.index.json is beside it", config);
}

// A checkpoint of the model alone may say that its head is not the embedding, and have none.
static void look_for_head(pm_file *file) {
    bool found = false;
    for (size_t i = 0; i < file->n_tensors; i++)
        found = found || strcmp(file->tensors[i].name, "output.weight") == 0;
    if (file->bare && !found && !file->config.tied_head)
        file->config.no_head = file->config.tied_head = true;
}

pm_status pm_safetensors_open(pm_file *file, const char *path) {
    bool is_folder = pm_path_is_dir(path);
    const char *inside = path;
    if (is_folder) { // a name in it, to be beside of
        size_t n = strlen(path);
        char *slashed = pm_arena_alloc(&file->arena, n + 2);
        if (!slashed)
            return pm_no_memory(path);
        memcpy(slashed, path, n);
        slashed[n] = '/';
        inside = slashed;
    }
    const char *config = pm_path_beside(&file->arena, inside, "config.json");
    if (!config)
        return pm_no_memory(path);
    if (!pm_path_exists(config))
        return pm_fail(PM_ERR_FILE, "%s: there is no config.json %s it", path, is_folder ? "in" : "beside");
    PM_TRY(pm_hf_open_config(file, config));
    file->bare = true;
    PM_TRY(open_weights(file, is_folder ? NULL : path, config));
    look_for_head(file);
    PM_TRY(pm_hf_open_vocab(file, config));
    return pm_file_finish(file, config);
}
