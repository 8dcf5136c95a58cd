// What a GGUF file's metadata says about the model: config, vocabulary, chat template.
#include "loader/internal.h"

#include <stdio.h>
#include <string.h>

// "qwen3.block_count" and so on; a key too long for any real architecture is cut and not found.
typedef struct arch_key {
    char text[128];
} arch_key;

static arch_key key_of(const pm_config *config, const char *name) {
    arch_key key;
    snprintf(key.text, sizeof(key.text), "%s.%s", config->architecture, name);
    return key;
}

// ---- config ----------------------------------------------------------------------------------------------------------

static pm_status read_architecture(const pm_gguf *gguf, pm_config *config) {
    pm_str text = {0};
    char name[64];
    PM_TRY(pm_gguf_get_string(gguf, "general.architecture", &text));
    if (text.n == 0)
        return pm_fail(PM_ERR_FILE, "%s: general.architecture is missing", gguf->shard->path);
    snprintf(name, sizeof(name), "%.*s", (int)(text.n < 63 ? text.n : 63), text.p);
    const pm_architecture *architecture = pm_architecture_find(name);
    if (!architecture)
        return pm_architecture_fail(gguf->shard->path, name);
    config->architecture = architecture->name;
    config->qk_norm = architecture->qk_norm;
    config->qkv_bias = architecture->qkv_bias;
    config->rope.interleaved = architecture->interleaved;
    config->experts_normed = architecture->experts;
    return PM_OK;
}

static pm_status read_numbers(const pm_gguf *gguf, pm_config *config) {
    size_t n;
    const pm_config_key *keys = pm_config_keys(&n);
    for (size_t i = 0; i < n; i++) {
        arch_key key = key_of(config, keys[i].gguf);
        uint32_t *field = (uint32_t *)((char *)config + keys[i].offset);
        PM_TRY(pm_gguf_get_u32(gguf, key.text, keys[i].max, field));
        if (keys[i].required && *field == 0)
            return pm_fail(PM_ERR_FILE, "%s: %s is missing or 0", gguf->shard->path, key.text);
    }
    double eps = config->norm_eps;
    PM_TRY(pm_gguf_get_double(gguf, key_of(config, "attention.layer_norm_rms_epsilon").text, 0, 1, &eps));
    config->norm_eps = (float)eps;
    return PM_OK;
}

// Values and rotation as wide as a head is all that we run.
static pm_status check_widths(const pm_gguf *gguf, const pm_config *config) {
    static const char *const names[] = {"attention.value_length", "rope.dimension_count"};
    uint32_t head_dim = config->head_dim ? config->head_dim : config->dim / config->n_heads;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        arch_key key = key_of(config, names[i]);
        uint32_t width = head_dim;
        PM_TRY(pm_gguf_get_u32(gguf, key.text, UINT32_MAX, &width));
        if (width != head_dim)
            return pm_fail(PM_ERR_UNSUPPORTED, "%s: %s %u is not the head dimension %u", gguf->shard->path, key.text, width,
                           head_dim);
    }
    uint32_t window = 0;
    PM_TRY(pm_gguf_get_u32(gguf, key_of(config, "attention.sliding_window").text, UINT32_MAX, &window));
    return window ? pm_fail(PM_ERR_UNSUPPORTED, "%s: sliding-window attention is not supported", gguf->shard->path) : PM_OK;
}

static pm_status read_scaling_type(const pm_gguf *gguf, pm_config *config) {
    pm_str type = PM_STR("none");
    PM_TRY(pm_gguf_get_string(gguf, key_of(config, "rope.scaling.type").text, &type));
    if (pm_str_is(type, "none"))
        config->rope.scaling = PM_ROPE_NONE;
    else if (pm_str_is(type, "linear"))
        config->rope.scaling = PM_ROPE_LINEAR;
    else if (pm_str_is(type, "yarn"))
        config->rope.scaling = PM_ROPE_YARN;
    else
        return pm_fail(PM_ERR_UNSUPPORTED, "%s: rope scaling %.*s is not supported; supported are none, linear and yarn",
                       gguf->shard->path, (int)(type.n < 32 ? type.n : 32), type.p);
    return PM_OK;
}

// ggml multiplies its attention factor with YaRN's own, so it is not transformers' attention_factor: refused unless it is 1.
static pm_status check_attention_factor(const pm_gguf *gguf, const pm_config *config) {
    static const char *const names[] = {"rope.scaling.attn_factor", "rope.scaling.yarn_attn_factor"};
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        double factor = 1;
        PM_TRY(pm_gguf_get_double(gguf, key_of(config, names[i]).text, 0, 1e6, &factor));
        if (factor != 1)
            return pm_fail(PM_ERR_UNSUPPORTED, "%s: %s %g is not supported", gguf->shard->path, names[i], factor);
    }
    return PM_OK;
}

static pm_status read_rope(const pm_gguf *gguf, pm_config *config) {
    pm_rope_config *rope = &config->rope;
    PM_TRY(pm_gguf_get_double(gguf, key_of(config, "rope.freq_base").text, 1, 1e15, &rope->theta));
    PM_TRY(read_scaling_type(gguf, config));
    if (rope->scaling == PM_ROPE_NONE)
        return PM_OK;
    rope->factor = 0;
    PM_TRY(pm_gguf_get_double(gguf, key_of(config, "rope.scaling.factor").text, 1e-3, 1e6, &rope->factor));
    if (rope->factor == 0)
        return pm_fail(PM_ERR_FILE, "%s: the rope scaling has no factor", gguf->shard->path);
    PM_TRY(check_attention_factor(gguf, config));
    PM_TRY(pm_gguf_get_double(gguf, key_of(config, "rope.scaling.yarn_beta_fast").text, 1e-3, 1e6, &rope->beta_fast));
    PM_TRY(pm_gguf_get_double(gguf, key_of(config, "rope.scaling.yarn_beta_slow").text, 1e-3, 1e6, &rope->beta_slow));
    return pm_gguf_get_u32(gguf, key_of(config, "rope.scaling.original_context_length").text, 1 << 30, &rope->original_ctx);
}

// How an embedding model makes one vector of many.
static pm_status read_pooling(const pm_gguf *gguf, pm_config *config) {
    uint32_t pooling = PM_POOL_UNSAID;
    PM_TRY(pm_gguf_get_u32(gguf, key_of(config, "pooling_type").text, UINT32_MAX, &pooling));
    if (pooling > PM_POOL_RANK)
        return pm_fail(PM_ERR_UNSUPPORTED, "%s: pooling type %u is not supported", gguf->shard->path, pooling);
    config->pooling = (pm_pooling)pooling;
    return PM_OK;
}

static pm_status refuse_number(const pm_gguf *gguf, const pm_config *config, const char *name, uint32_t usual) {
    arch_key key = key_of(config, name);
    uint32_t value = usual;
    PM_TRY(pm_gguf_get_u32(gguf, key.text, UINT32_MAX, &value));
    return value == usual ? PM_OK : pm_fail(PM_ERR_UNSUPPORTED, "%s: %s %u is not supported", gguf->shard->path, key.text, value);
}

// Softmax over all, and no expert that every token shares: what the architectures we run have, whether a file says it or not.
static pm_status read_experts(const pm_gguf *gguf, pm_config *config) {
    double scale = 1;
    if (config->n_experts == 0)
        return PM_OK;
    PM_TRY(refuse_number(gguf, config, "expert_gating_func", 1));
    PM_TRY(refuse_number(gguf, config, "expert_shared_count", 0));
    PM_TRY(pm_gguf_get_double(gguf, key_of(config, "expert_weights_scale").text, 0, 1e6, &scale));
    if (scale != 1 && scale != 0)
        return pm_fail(PM_ERR_UNSUPPORTED, "%s: experts whose weights are scaled by %g are not supported", gguf->shard->path,
                       scale);
    PM_TRY(pm_gguf_get_bool(gguf, key_of(config, "norm_top_k_prob").text, &config->experts_normed));
    return pm_gguf_get_bool(gguf, key_of(config, "expert_weights_norm").text, &config->experts_normed);
}

// The head and the vocabulary's size are what the tensors say.
static pm_status read_embedding(const pm_file *file, const pm_gguf *gguf, pm_config *config) {
    config->tied_head = true;
    for (size_t i = 0; i < file->n_tensors; i++) {
        const pm_tensor_view *t = &file->tensors[i];
        if (strcmp(t->name, "output.weight") == 0)
            config->tied_head = false;
        if (strcmp(t->name, "token_embd.weight") != 0)
            continue;
        if (t->dims[0] == 0 || t->dims[0] > 1 << 24)
            return pm_fail(PM_ERR_FILE, "%s: token_embd.weight has %llu rows", gguf->shard->path, (unsigned long long)t->dims[0]);
        config->vocab_size = (uint32_t)t->dims[0];
    }
    return config->vocab_size ? PM_OK : pm_fail(PM_ERR_FILE, "%s: tensor token_embd.weight is missing", gguf->shard->path);
}

static pm_status read_id(const pm_gguf *gguf, const char *key, int32_t *id) {
    uint32_t value = UINT32_MAX; // what some converters write for none
    PM_TRY(pm_gguf_get_u32(gguf, key, UINT32_MAX, &value));
    if (value <= INT32_MAX)
        *id = (int32_t)value;
    return PM_OK;
}

static pm_status read_ids(const pm_gguf *gguf, pm_config *config) {
    static const char *const ends[] = {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"};
    PM_TRY(read_id(gguf, "tokenizer.ggml.bos_token_id", &config->bos));
    PM_TRY(read_id(gguf, "tokenizer.ggml.padding_token_id", &config->pad));
    for (size_t i = 0; i < sizeof(ends) / sizeof(ends[0]); i++) {
        int32_t id = -1;
        PM_TRY(read_id(gguf, ends[i], &id));
        if (id >= 0)
            PM_TRY(pm_config_add_eos(gguf->shard->path, config, id));
    }
    return PM_OK;
}

// Newer converters keep generation_config.json's values; there is no do_sample, so any of them means to sample.
static pm_status read_sampling(const pm_gguf *gguf, pm_config *config) {
    double temperature = config->temperature, top_p = config->top_p, min_p = config->min_p,
           repetition_penalty = config->repetition_penalty;
    uint32_t top_k = (uint32_t)config->top_k;
    PM_TRY(pm_gguf_get_double(gguf, "general.sampling.temp", 0, 1e3, &temperature));
    PM_TRY(pm_gguf_get_double(gguf, "general.sampling.top_p", 0, 1, &top_p));
    PM_TRY(pm_gguf_get_double(gguf, "general.sampling.min_p", 0, 1, &min_p));
    PM_TRY(pm_gguf_get_double(gguf, "general.sampling.penalty_repeat", 0.001, 1e3, &repetition_penalty));
    PM_TRY(pm_gguf_get_u32(gguf, "general.sampling.top_k", INT32_MAX, &top_k));
    config->temperature = (float)temperature;
    config->top_p = (float)top_p;
    config->min_p = (float)min_p;
    config->repetition_penalty = (float)repetition_penalty;
    config->top_k = (int)top_k;
    config->do_sample = pm_gguf_find(gguf, "general.sampling.temp") || pm_gguf_find(gguf, "general.sampling.top_p") ||
                        pm_gguf_find(gguf, "general.sampling.min_p") || pm_gguf_find(gguf, "general.sampling.top_k");
    return PM_OK;
}

static pm_status read_config(pm_file *file, const pm_gguf *gguf) {
    pm_config *config = &file->config;
    PM_TRY(read_architecture(gguf, config));
    PM_TRY(read_numbers(gguf, config));
    PM_TRY(read_experts(gguf, config));
    PM_TRY(check_widths(gguf, config));
    PM_TRY(read_rope(gguf, config));
    PM_TRY(read_pooling(gguf, config));
    PM_TRY(read_embedding(file, gguf, config));
    PM_TRY(read_ids(gguf, config));
    return read_sampling(gguf, config);
}

// ---- vocabulary ------------------------------------------------------------------------------------------------------

enum { TOKEN_NORMAL = 1, TOKEN_UNKNOWN = 2, TOKEN_CONTROL = 3, TOKEN_USER = 4, TOKEN_UNUSED = 5 };

// An array under `key`, or NULL when it is absent.
static pm_status find_array(const pm_gguf *gguf, const char *key, bool strings, uint64_t max, const pm_gguf_entry **out) {
    const pm_gguf_entry *entry = *out = pm_gguf_find(gguf, key);
    if (!entry)
        return PM_OK;
    bool numbers = entry->type == PM_GGUF_I32 || entry->type == PM_GGUF_U32;
    if (!entry->is_array || (strings ? entry->type != PM_GGUF_STRING : !numbers))
        return pm_fail(PM_ERR_FILE, "%s: %s is not an array of %s", gguf->shard->path, key, strings ? "strings" : "int32");
    if (entry->n > max)
        return pm_fail(PM_ERR_FILE, "%s: %s has %llu elements, there can be %llu", gguf->shard->path, key,
                       (unsigned long long)entry->n, (unsigned long long)max);
    return PM_OK;
}

// An added token without text would match everywhere; nothing can be meant by it.
static pm_vocab_token make_token(pm_str text, uint32_t type) {
    bool control = type == TOKEN_CONTROL || type == TOKEN_UNKNOWN, added = control || type == TOKEN_USER;
    return (pm_vocab_token){
        .text = text,
        .added = added && text.n,
        .special = control,
        .used = type != TOKEN_UNUSED && (text.n || !added),
    };
}

static pm_status read_tokens(pm_file *file, const pm_gguf *gguf) {
    const pm_gguf_entry *texts, *types;
    PM_TRY(find_array(gguf, "tokenizer.ggml.tokens", true, file->config.vocab_size, &texts));
    PM_TRY(find_array(gguf, "tokenizer.ggml.token_type", false, file->config.vocab_size, &types));
    if (!texts || (types && types->n != texts->n))
        return pm_fail(PM_ERR_FILE, "%s: tokenizer.ggml.tokens is missing or not as long as token_type", gguf->shard->path);
    pm_vocab_token *tokens = pm_arena_alloc(&file->arena, (size_t)texts->n * sizeof(*tokens));
    if (!tokens)
        return pm_no_memory(gguf->shard->path);

    const uint8_t *text = texts->value, *type = types ? types->value : NULL;
    for (uint64_t i = 0; i < texts->n; i++) {
        pm_str word = pm_gguf_next_string(&text);
        tokens[i] = make_token(word, type ? pm_gguf_next_u32(&type) : TOKEN_NORMAL);
        if (tokens[i].special && pm_vocab_is_end(tokens[i].text) && file->config.n_eos < 8)
            PM_TRY(pm_config_add_eos(gguf->shard->path, &file->config, (int32_t)i));
    }
    file->vocab.tokens = tokens;
    file->vocab.n_tokens = (uint32_t)texts->n;
    return PM_OK;
}

static pm_status read_merges(pm_file *file, const pm_gguf *gguf) {
    const pm_gguf_entry *texts;
    PM_TRY(find_array(gguf, "tokenizer.ggml.merges", true, UINT32_MAX, &texts));
    if (!texts)
        return pm_fail(PM_ERR_FILE, "%s: tokenizer.ggml.merges is missing", gguf->shard->path);
    pm_vocab_merge *merges = pm_arena_alloc(&file->arena, (size_t)texts->n * sizeof(*merges));
    if (!merges)
        return pm_no_memory(gguf->shard->path);
    const uint8_t *p = texts->value;
    for (uint64_t i = 0; i < texts->n; i++) {
        pm_str text = pm_gguf_next_string(&p);
        if (!pm_vocab_split_merge(text, &merges[i]))
            return pm_fail(PM_ERR_FILE, "%s: merge %llu is not a pair", gguf->shard->path, (unsigned long long)i);
    }
    file->vocab.merges = merges;
    file->vocab.n_merges = (uint32_t)texts->n;
    return PM_OK;
}

static pm_status read_end(pm_file *file, const pm_gguf *gguf) {
    bool add_eos = false;
    int32_t id = -1;
    PM_TRY(pm_gguf_get_bool(gguf, "tokenizer.ggml.add_eos_token", &add_eos));
    PM_TRY(read_id(gguf, "tokenizer.ggml.eos_token_id", &id));
    file->vocab.add_end = add_eos && id >= 0 && (uint32_t)id < file->vocab.n_tokens;
    file->vocab.end_id = file->vocab.add_end ? id : 0;
    return PM_OK;
}

static pm_status read_vocab(pm_file *file, const pm_gguf *gguf) {
    pm_str model = {0}, pre = PM_STR("default");
    PM_TRY(pm_gguf_get_string(gguf, "tokenizer.ggml.model", &model));
    if (model.n == 0 || pm_str_is(model, "none") || pm_str_is(model, "no_vocab"))
        return PM_OK;
    if (!pm_str_is(model, "gpt2"))
        return pm_fail(PM_ERR_UNSUPPORTED, "%s: tokenizer model %.*s is not supported; only byte-level BPE (gpt2) is",
                       gguf->shard->path, (int)(model.n < 32 ? model.n : 32), model.p);
    PM_TRY(pm_gguf_get_string(gguf, "tokenizer.ggml.pre", &pre));
    pm_vocab_set_pre(&file->vocab, pre);
    PM_TRY(pm_gguf_get_bool(gguf, "tokenizer.ggml.add_bos_token", &file->vocab.add_bos));
    PM_TRY(read_tokens(file, gguf));
    PM_TRY(read_merges(file, gguf));
    PM_TRY(read_end(file, gguf));
    file->has_vocab = true;
    return PM_OK;
}

pm_status pm_gguf_read_model(pm_file *file, const pm_gguf *gguf) {
    PM_TRY(read_config(file, gguf));
    PM_TRY(read_vocab(file, gguf));
    PM_TRY(pm_gguf_get_string(gguf, "tokenizer.chat_template", &file->chat_template));
    return pm_config_finish(gguf->shard->path, &file->config);
}
