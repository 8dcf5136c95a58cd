// config.json, generation_config.json and tokenizer_config.json, as transformers writes them, in its old and new key style.
#include "loader/internal.h"

#include <cjson/cJSON.h>
#include <string.h>

// ---- config.json ----------------------------------------------------------------------------------------------------------

static pm_status read_architecture(const char *path, const cJSON *root, pm_config *config, const pm_architecture **found) {
    const char *name = NULL;
    PM_TRY(pm_json_string(path, root, "model_type", &name));
    const cJSON *list = pm_json_get(root, "architectures");
    if (list && !cJSON_IsArray(list))
        return pm_fail(PM_ERR_FILE, "%s: architectures is not a list", path);
    const cJSON *first = list ? list->child : NULL;
    if (first && !cJSON_IsString(first))
        return pm_fail(PM_ERR_FILE, "%s: architectures holds something that is not a string", path);
    if (first) // it says more: a classifier has the model_type of what it was made from
        name = first->valuestring;
    if (!name)
        return pm_fail(PM_ERR_FILE, "%s: neither architectures nor model_type says what the model is", path);

    *found = pm_architecture_find(name);
    if (!*found)
        return pm_architecture_fail(path, name);
    config->architecture = (*found)->name;
    config->qk_norm = (*found)->qk_norm;
    config->qkv_bias = (*found)->qkv_bias;
    return PM_OK;
}

static pm_status read_numbers(const char *path, const cJSON *root, pm_config *config) {
    size_t n;
    const pm_config_key *keys = pm_config_keys(&n);
    for (size_t i = 0; i < n; i++) {
        uint32_t *field = (uint32_t *)((char *)config + keys[i].offset);
        PM_TRY(pm_json_u32(path, root, keys[i].hf, keys[i].max, field));
        if (keys[i].required && *field == 0)
            return pm_fail(PM_ERR_FILE, "%s: %s is missing or 0", path, keys[i].hf);
    }
    PM_TRY(pm_json_u32(path, root, "vocab_size", 1 << 24, &config->vocab_size));
    if (config->vocab_size == 0)
        return pm_fail(PM_ERR_FILE, "%s: vocab_size is missing or 0", path);
    PM_TRY(pm_json_float(path, root, "rms_norm_eps", 0, 1, &config->norm_eps));
    PM_TRY(pm_json_bool(path, root, "tie_word_embeddings", &config->tied_head));
    PM_TRY(pm_json_i32(path, root, "bos_token_id", -1, INT32_MAX, &config->bos));
    return pm_json_i32(path, root, "pad_token_id", -1, INT32_MAX, &config->pad);
}

// Every decoder_sparse_step-th layer has experts, but for those in mlp_only_layers.
static pm_status read_dense_layers(const char *path, const cJSON *root, pm_config *config) {
    uint32_t step = 1;
    PM_TRY(pm_json_u32(path, root, "decoder_sparse_step", PM_MAX_LAYERS, &step));
    for (uint32_t layer = 0; layer < config->n_layers; layer++)
        if (step == 0 || (layer + 1) % step)
            config->dense_layers[layer / 8] |= (uint8_t)(1 << layer % 8);
    const cJSON *list = pm_json_get(root, "mlp_only_layers"), *number;
    if (list && !cJSON_IsArray(list))
        return pm_fail(PM_ERR_FILE, "%s: mlp_only_layers is not a list", path);
    cJSON_ArrayForEach(number, list) {
        if (!pm_json_is_integer(number, 0, config->n_layers - 1))
            return pm_fail(PM_ERR_FILE, "%s: mlp_only_layers holds something that is no layer", path);
        uint32_t layer = (uint32_t)number->valuedouble;
        config->dense_layers[layer / 8] |= (uint8_t)(1 << layer % 8);
    }
    return PM_OK;
}

static pm_status read_experts(const char *path, const cJSON *root, pm_config *config) {
    if (config->n_experts == 0)
        return PM_OK;
    PM_TRY(pm_json_bool(path, root, "norm_topk_prob", &config->experts_normed));
    return read_dense_layers(path, root, config);
}

static pm_status refuse_flag(const char *path, const cJSON *root, const char *key) {
    bool on = false;
    PM_TRY(pm_json_bool(path, root, key, &on));
    return on ? pm_fail(PM_ERR_UNSUPPORTED, "%s: %s is not supported", path, key) : PM_OK;
}

static pm_status check_layer_types(const char *path, const cJSON *root) {
    const cJSON *types = pm_json_get(root, "layer_types"), *type;
    if (types && !cJSON_IsArray(types))
        return pm_fail(PM_ERR_FILE, "%s: layer_types is not a list", path);
    cJSON_ArrayForEach(type, types) {
        if (!cJSON_IsString(type))
            return pm_fail(PM_ERR_FILE, "%s: layer_types holds something that is not a string", path);
        if (strcmp(type->valuestring, "full_attention") != 0)
            return pm_fail(PM_ERR_UNSUPPORTED, "%s: %s layers are not supported", path, type->valuestring);
    }
    return PM_OK;
}

// What the flags of pm_config cannot say.
static pm_status refuse_rest(const char *path, const cJSON *root) {
    const char *activation = "silu";
    PM_TRY(pm_json_string(path, root, "hidden_act", &activation));
    if (strcmp(activation, "silu") != 0 && strcmp(activation, "swish") != 0)
        return pm_fail(PM_ERR_UNSUPPORTED, "%s: hidden_act %s is not supported", path, activation);
    PM_TRY(refuse_flag(path, root, "attention_bias")); // it means a bias on the output as well
    PM_TRY(refuse_flag(path, root, "mlp_bias"));
    PM_TRY(refuse_flag(path, root, "use_sliding_window"));
    return check_layer_types(path, root);
}

// ---- rotary embedding: rope_parameters (new), or rope_theta and rope_scaling (old) --------------------------------------------

static pm_status read_rope_type(const char *path, const cJSON *rope, pm_rope_scaling *scaling) {
    const char *type = "default";
    PM_TRY(pm_json_string(path, rope, "type", &type));
    PM_TRY(pm_json_string(path, rope, "rope_type", &type));
    if (strcmp(type, "default") == 0)
        *scaling = PM_ROPE_NONE;
    else if (strcmp(type, "linear") == 0)
        *scaling = PM_ROPE_LINEAR;
    else if (strcmp(type, "yarn") == 0)
        *scaling = PM_ROPE_YARN;
    else
        return pm_fail(PM_ERR_UNSUPPORTED, "%s: rope type %s is not supported; supported are default, linear and yarn", path, type);
    return PM_OK;
}

static pm_status read_scaling(const char *path, const cJSON *rope, pm_rope_config *out) {
    PM_TRY(read_rope_type(path, rope, &out->scaling));
    if (out->scaling == PM_ROPE_NONE)
        return PM_OK;
    out->factor = 0;
    PM_TRY(pm_json_double(path, rope, "factor", 1e-3, 1e6, &out->factor));
    PM_TRY(pm_json_u32(path, rope, "original_max_position_embeddings", 1 << 30, &out->original_ctx));
    PM_TRY(pm_json_double(path, rope, "attention_factor", 0, 1e6, &out->attention_factor));
    PM_TRY(pm_json_double(path, rope, "beta_fast", 1e-3, 1e6, &out->beta_fast));
    PM_TRY(pm_json_double(path, rope, "beta_slow", 1e-3, 1e6, &out->beta_slow));
    PM_TRY(pm_json_double(path, rope, "mscale", 0, 1e6, &out->mscale));
    PM_TRY(pm_json_double(path, rope, "mscale_all_dim", 0, 1e6, &out->mscale_all_dim));
    PM_TRY(pm_json_bool(path, rope, "truncate", &out->truncate));
    if (out->factor == 0 && (out->scaling == PM_ROPE_LINEAR || out->original_ctx == 0))
        return pm_fail(PM_ERR_FILE, "%s: the rope scaling has no factor", path);
    return PM_OK;
}

static pm_status read_rope(const char *path, const cJSON *root, pm_config *config) {
    pm_rope_config *out = &config->rope;
    const cJSON *rope = pm_json_get(root, "rope_parameters"), *member;
    if (!rope)
        rope = pm_json_get(root, "rope_scaling");
    if (rope && !cJSON_IsObject(rope))
        return pm_fail(PM_ERR_FILE, "%s: the rope parameters are not an object", path);
    cJSON_ArrayForEach(member, rope) {
        if (cJSON_IsObject(member))
            return pm_fail(PM_ERR_UNSUPPORTED, "%s: rope parameters by kind of layer (%s) are not supported", path, member->string);
    }
    double rotated = 1;
    PM_TRY(pm_json_double(path, root, "partial_rotary_factor", 0, 1e6, &rotated));
    PM_TRY(pm_json_double(path, rope, "partial_rotary_factor", 0, 1e6, &rotated));
    if (rotated != 1)
        return pm_fail(PM_ERR_UNSUPPORTED, "%s: partial_rotary_factor %g is not supported", path, rotated);
    PM_TRY(pm_json_double(path, root, "rope_theta", 1, 1e15, &out->theta));
    PM_TRY(pm_json_double(path, rope, "rope_theta", 1, 1e15, &out->theta));
    PM_TRY(pm_json_u32(path, root, "original_max_position_embeddings", 1 << 30, &out->original_ctx));
    return rope ? read_scaling(path, rope, out) : PM_OK;
}

// eos_token_id is one id or a list of them.
static pm_status read_eos(const char *path, const cJSON *root, pm_config *config) {
    const cJSON *eos = pm_json_get(root, "eos_token_id"), *id;
    if (!eos)
        return PM_OK;
    config->n_eos = 0;
    for (id = cJSON_IsArray(eos) ? eos->child : eos; id; id = cJSON_IsArray(eos) ? id->next : NULL) {
        if (!pm_json_is_integer(id, -1, INT32_MAX))
            return pm_fail(PM_ERR_FILE, "%s: eos_token_id is neither an id nor a list of ids", path);
        PM_TRY(pm_config_add_eos(path, config, (int32_t)id->valuedouble));
    }
    return PM_OK;
}

pm_status pm_hf_read_config(const char *path, const cJSON *root, pm_config *config) {
    if (!cJSON_IsObject(root))
        return pm_fail(PM_ERR_FILE, "%s: not a JSON object", path);
    const pm_architecture *architecture;
    PM_TRY(read_architecture(path, root, config, &architecture));
    PM_TRY(read_numbers(path, root, config));
    PM_TRY(read_experts(path, root, config));
    PM_TRY(refuse_rest(path, root));
    PM_TRY(read_rope(path, root, config));
    if (config->head_dim == 0)
        config->head_dim = architecture->head_dim;
    return read_eos(path, root, config);
}

// ---- generation_config.json -------------------------------------------------------------------------------------------------

pm_status pm_hf_read_generation(const char *path, const cJSON *root, pm_config *config) {
    if (!cJSON_IsObject(root))
        return pm_fail(PM_ERR_FILE, "%s: not a JSON object", path);
    int32_t top_k = config->top_k;
    PM_TRY(pm_json_bool(path, root, "do_sample", &config->do_sample));
    PM_TRY(pm_json_float(path, root, "temperature", 0, 1e3, &config->temperature));
    PM_TRY(pm_json_float(path, root, "top_p", 0, 1, &config->top_p));
    PM_TRY(pm_json_float(path, root, "min_p", 0, 1, &config->min_p));
    PM_TRY(pm_json_float(path, root, "repetition_penalty", 0.001, 1e3, &config->repetition_penalty));
    PM_TRY(pm_json_i32(path, root, "top_k", 0, INT32_MAX, &top_k));
    PM_TRY(pm_json_i32(path, root, "bos_token_id", -1, INT32_MAX, &config->bos));
    PM_TRY(pm_json_i32(path, root, "pad_token_id", -1, INT32_MAX, &config->pad));
    config->top_k = top_k;
    return read_eos(path, root, config);
}

// ---- 1_Pooling/config.json --------------------------------------------------------------------------------------------------

// A flag for each way, of which one is set; or the name of the way.
pm_status pm_hf_read_pooling(const char *path, const cJSON *root, pm_config *config) {
    static const struct {
        const char *flag, *name;
        pm_pooling pooling;
    } ways[] = {
        {"pooling_mode_lasttoken", "lasttoken", PM_POOL_LAST},
        {"pooling_mode_mean_tokens", "mean", PM_POOL_MEAN},
        {"pooling_mode_cls_token", "cls", PM_POOL_FIRST},
    };
    if (!cJSON_IsObject(root))
        return pm_fail(PM_ERR_FILE, "%s: not a JSON object", path);
    const char *name = NULL;
    int n_set = 0;
    PM_TRY(pm_json_string(path, root, "pooling_mode", &name));
    for (size_t i = 0; i < sizeof(ways) / sizeof(ways[0]); i++) {
        bool set = name && strcmp(name, ways[i].name) == 0;
        PM_TRY(pm_json_bool(path, root, ways[i].flag, &set));
        n_set += set;
        if (set)
            config->pooling = ways[i].pooling;
    }
    return n_set == 1 ? PM_OK : pm_fail(PM_ERR_UNSUPPORTED, "%s: supported is one of lasttoken, mean and cls as pooling", path);
}

// ---- tokenizer_config.json ----------------------------------------------------------------------------------------------------

// A list of {"name", "template"}: the one called default, else the first.
static pm_status pick_template(const char *path, const cJSON *list, const char **text) {
    const cJSON *entry;
    cJSON_ArrayForEach(entry, list) {
        const char *name = "", *candidate = NULL;
        PM_TRY(pm_json_string(path, entry, "name", &name));
        PM_TRY(pm_json_string(path, entry, "template", &candidate));
        if (!candidate)
            return pm_fail(PM_ERR_FILE, "%s: chat_template holds something that is not a named template", path);
        bool is_default = strcmp(name, "default") == 0;
        if (!*text || is_default)
            *text = candidate;
        if (is_default)
            break;
    }
    return PM_OK;
}

// add_eos_token means eos_token, which is a text or an object with one; tokenizer.json's post-processor knows better.
static pm_status read_end(const char *path, const cJSON *root, pm_vocab_data *vocab) {
    bool add_eos = false;
    const char *text = NULL;
    PM_TRY(pm_json_bool(path, root, "add_eos_token", &add_eos));
    if (!add_eos || vocab->add_end)
        return PM_OK;
    const cJSON *eos = pm_json_get(root, "eos_token");
    PM_TRY(cJSON_IsObject(eos) ? pm_json_string(path, eos, "content", &text) : pm_json_string(path, root, "eos_token", &text));
    vocab->add_end = text && pm_vocab_find(vocab, (pm_str){text, strlen(text)}, &vocab->end_id);
    if (!vocab->add_end)
        pm_log(PM_LOG_WARN, "%s: add_eos_token is set, and the vocabulary has no eos_token: none is added", path);
    return PM_OK;
}

pm_status pm_hf_read_tokenizer_config(const char *path, const cJSON *root, pm_arena *arena, pm_vocab_data *vocab,
                                      pm_str *chat_template) {
    if (!cJSON_IsObject(root))
        return pm_fail(PM_ERR_FILE, "%s: not a JSON object", path);
    bool add_bos = false;
    PM_TRY(pm_json_bool(path, root, "add_bos_token", &add_bos));
    vocab->add_bos = vocab->add_bos || add_bos;
    PM_TRY(read_end(path, root, vocab));

    const cJSON *list = pm_json_get(root, "chat_template");
    const char *text = NULL;
    if (cJSON_IsArray(list))
        PM_TRY(pick_template(path, list, &text));
    else
        PM_TRY(pm_json_string(path, root, "chat_template", &text));
    if (!text)
        return PM_OK;
    size_t n = strlen(text);
    char *copy = pm_text_copy(arena, text, n);
    if (!copy)
        return pm_no_memory(path);
    *chat_template = (pm_str){copy, n};
    return PM_OK;
}

// ---- the files --------------------------------------------------------------------------------------------------------------

// The parsed file beside `path`; *root is NULL when there is none.
static pm_status open_beside(pm_file *file, const char *path, const char *name, const char **beside, cJSON **root) {
    *root = NULL;
    *beside = pm_path_beside(&file->arena, path, name);
    if (!*beside)
        return pm_no_memory(path);
    return pm_path_exists(*beside) ? pm_json_open(*beside, root) : PM_OK;
}

pm_status pm_hf_open_config(pm_file *file, const char *path) {
    cJSON *root;
    PM_TRY(pm_json_open(path, &root));
    pm_status status = pm_hf_read_config(path, root, &file->config);
    if (status == PM_OK)
        status = pm_hf_read_quantization(path, root, &file->quantization);
    cJSON_Delete(root);
    PM_TRY(status);

    const char *generation;
    PM_TRY(open_beside(file, path, "generation_config.json", &generation, &root));
    if (root)
        status = pm_hf_read_generation(generation, root, &file->config);
    cJSON_Delete(root);
    PM_TRY(status);

    const char *pooling;
    PM_TRY(open_beside(file, path, "1_Pooling/config.json", &pooling, &root));
    if (root)
        status = pm_hf_read_pooling(pooling, root, &file->config);
    cJSON_Delete(root);
    PM_TRY(status);
    return pm_config_finish(path, &file->config);
}

// chat_template.jinja, where there is one, is the newer writing and wins.
static pm_status read_jinja(pm_file *file, const char *config_path) {
    const char *path = pm_path_beside(&file->arena, config_path, "chat_template.jinja");
    if (!path)
        return pm_no_memory(config_path);
    if (!pm_path_exists(path))
        return PM_OK;
    char *data;
    size_t n;
    PM_TRY(pm_file_read(path, 16 << 20, &data, &n));
    char *copy = pm_text_copy(&file->arena, data, n);
    pm_free(data);
    if (!copy)
        return pm_no_memory(path);
    file->chat_template = (pm_str){copy, n};
    return PM_OK;
}

pm_status pm_hf_open_vocab(pm_file *file, const char *config_path) {
    const char *path;
    cJSON *root;
    pm_status status = PM_OK;
    PM_TRY(open_beside(file, config_path, "tokenizer.json", &path, &root));
    if (root) {
        status = pm_hf_read_vocab(path, root, &file->arena, file->config.vocab_size, &file->vocab);
        file->has_vocab = status == PM_OK;
    }
    cJSON_Delete(root);
    PM_TRY(status);

    PM_TRY(open_beside(file, config_path, "tokenizer_config.json", &path, &root));
    if (root)
        status = pm_hf_read_tokenizer_config(path, root, &file->arena, &file->vocab, &file->chat_template);
    cJSON_Delete(root);
    PM_TRY(status);
    return read_jinja(file, config_path);
}

static pm_status open_tokenizer(pm_file *file, const char *path) {
    enum { LIMIT = 1 << 24 }; // there is no model to say how many ids there are
    cJSON *root;
    PM_TRY(pm_json_open(path, &root));
    pm_status status = pm_hf_read_vocab(path, root, &file->arena, LIMIT, &file->vocab);
    file->has_vocab = status == PM_OK;
    cJSON_Delete(root);
    return status;
}

pm_status pm_file_open_tokenizer(const char *path, pm_file **out) {
    *out = NULL;
    pm_file *file = pm_calloc(1, sizeof(*file));
    if (!file)
        return pm_no_memory(path);
    pm_status status = open_tokenizer(file, path);
    if (status != PM_OK)
        pm_file_close(&file);
    *out = file;
    return status;
}
