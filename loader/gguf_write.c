// The header of a GGUF file: from one such file to the next the metadata is copied, from other formats the keys are written that
// llama.cpp asks for. https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
#include "loader/gguf_write.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

// ---- bytes -------------------------------------------------------------------------------------------------------------

static void put(pm_gguf_writer *w, const void *data, size_t size) {
    w->n_bytes += size;
    if (w->out && w->status == PM_OK)
        w->status = pm_output_write(w->out, data, size);
}

static void put_number(pm_gguf_writer *w, uint64_t value, unsigned size) {
    uint8_t bytes[8];
    for (unsigned i = 0; i < size; i++)
        bytes[i] = (uint8_t)(value >> 8 * i);
    put(w, bytes, size);
}

static void put_text(pm_gguf_writer *w, pm_str text) {
    put_number(w, text.n, 8);
    put(w, text.p, text.n);
}

// ---- entries -----------------------------------------------------------------------------------------------------------

static void begin(pm_gguf_writer *w, const char *key, pm_gguf_type type) {
    w->n_entries++;
    put_text(w, (pm_str){key, strlen(key)});
    put_number(w, type, 4);
}

static void begin_array(pm_gguf_writer *w, const char *key, pm_gguf_type type, uint64_t n) {
    begin(w, key, PM_GGUF_ARRAY);
    put_number(w, type, 4);
    put_number(w, n, 8);
}

static void put_u32(pm_gguf_writer *w, const char *key, uint32_t value) {
    begin(w, key, PM_GGUF_U32);
    put_number(w, value, 4);
}

static void put_f32(pm_gguf_writer *w, const char *key, double value) {
    float narrow = (float)value;
    uint32_t bits;
    memcpy(&bits, &narrow, sizeof(bits));
    begin(w, key, PM_GGUF_F32);
    put_number(w, bits, 4);
}

static void put_string(pm_gguf_writer *w, const char *key, pm_str value) {
    begin(w, key, PM_GGUF_STRING);
    put_text(w, value);
}

static const char *key_of(const pm_config *config, const char *name, char key[128]) {
    snprintf(key, 128, "%s.%s", config->architecture, name);
    return key;
}

// ---- from another format: the config -----------------------------------------------------------------------------------

static bool is_separator(char c) {
    return c == '/' || c == '\\';
}

// The folder that holds the weights is called as the model is.
static pm_str model_name(const pm_file *file) {
    const char *path = file->shards[0].path, *last = NULL, *before = NULL;
    for (const char *p = path; *p; p++)
        if (is_separator(*p) && !(p > path && is_separator(p[-1]))) {
            before = last;
            last = p;
        }
    while (before && is_separator(*before))
        before++;
    pm_str text = {before ? before : path, last ? (size_t)(last - (before ? before : path)) : 0};
    return text.n && text.p[0] != '.' ? text : PM_STR("model");
}

// Four numbers of YaRN are only transformers'; ggml computes one attention factor for all.
static pm_status check_yarn(const char *path, const pm_rope_config *rope) {
    double standard = rope->factor > 1 ? 0.1 * log(rope->factor) + 1 : 1;
    bool own_factor = rope->attention_factor != 0 && fabs(rope->attention_factor - standard) > 1e-4 * standard;
    bool own_scale = rope->attention_factor == 0 && rope->mscale != 0 && rope->mscale_all_dim != 0;
    if (!own_factor && !own_scale && rope->truncate)
        return PM_OK;
    return pm_fail(PM_ERR_UNSUPPORTED, "%s: GGUF cannot tell YaRN's %s", path,
                   own_factor  ? "attention_factor"
                   : own_scale ? "mscale"
                               : "truncate");
}

static void put_scaling(pm_gguf_writer *w, const pm_config *c) {
    char key[128];
    bool yarn = c->rope.scaling == PM_ROPE_YARN;
    put_string(w, key_of(c, "rope.scaling.type", key), yarn ? PM_STR("yarn") : PM_STR("linear"));
    put_f32(w, key_of(c, "rope.scaling.factor", key), c->rope.factor);
    if (c->rope.original_ctx)
        put_u32(w, key_of(c, "rope.scaling.original_context_length", key), c->rope.original_ctx);
    if (yarn && c->rope.beta_fast != 32)
        put_f32(w, key_of(c, "rope.scaling.yarn_beta_fast", key), c->rope.beta_fast);
    if (yarn && c->rope.beta_slow != 1)
        put_f32(w, key_of(c, "rope.scaling.yarn_beta_slow", key), c->rope.beta_slow);
}

static void put_config(pm_gguf_writer *w, const pm_config *c) {
    size_t n;
    char key[128];
    const pm_config_key *keys = pm_config_keys(&n);
    for (size_t i = 0; i < n; i++) {
        uint32_t value;
        memcpy(&value, (const char *)c + keys[i].offset, sizeof(value));
        bool again = i > 0 && keys[i].offset == keys[i - 1].offset; // another name of it in config.json
        if (value && !again)
            put_u32(w, key_of(c, keys[i].gguf, key), value);
    }
    put_u32(w, key_of(c, "attention.value_length", key), c->head_dim);
    put_u32(w, key_of(c, "rope.dimension_count", key), c->head_dim);
    put_u32(w, key_of(c, "vocab_size", key), c->vocab_size);
    put_f32(w, key_of(c, "attention.layer_norm_rms_epsilon", key), c->norm_eps);
    put_f32(w, key_of(c, "rope.freq_base", key), c->rope.theta);
    if (c->rope.scaling != PM_ROPE_NONE)
        put_scaling(w, c);
    if (c->pooling != PM_POOL_UNSAID)
        put_u32(w, key_of(c, "pooling_type", key), c->pooling);
}

static void put_sampling(pm_gguf_writer *w, const pm_config *c) {
    if (!c->do_sample)
        return;
    begin(w, "general.sampling.top_k", PM_GGUF_I32);
    put_number(w, (uint32_t)c->top_k, 4);
    put_f32(w, "general.sampling.top_p", c->top_p);
    put_f32(w, "general.sampling.temp", c->temperature);
    if (c->min_p > 0)
        put_f32(w, "general.sampling.min_p", c->min_p);
}

// ---- from another format: the vocabulary -------------------------------------------------------------------------------

enum { TOKEN_NORMAL = 1, TOKEN_CONTROL = 3, TOKEN_USER = 4, TOKEN_UNUSED = 5 };

static const pm_vocab_token *token_of(const pm_file *file, uint32_t id) {
    return id < file->vocab.n_tokens && file->vocab.tokens[id].used ? &file->vocab.tokens[id] : NULL;
}

// There is a text for every row of the embedding; holes are named as llama.cpp's converter names them.
static void put_tokens(pm_gguf_writer *w, const pm_file *file) {
    uint32_t n = file->config.vocab_size;
    begin_array(w, "tokenizer.ggml.tokens", PM_GGUF_STRING, n);
    for (uint32_t i = 0; i < n; i++) {
        const pm_vocab_token *token = token_of(file, i);
        char hole[24];
        int length = snprintf(hole, sizeof(hole), "[PAD%u]", i);
        put_text(w, token ? token->text : (pm_str){hole, (size_t)length});
    }
    begin_array(w, "tokenizer.ggml.token_type", PM_GGUF_I32, n);
    for (uint32_t i = 0; i < n; i++) {
        const pm_vocab_token *token = token_of(file, i);
        put_number(w, !token ? TOKEN_UNUSED : token->special ? TOKEN_CONTROL : token->added ? TOKEN_USER : TOKEN_NORMAL, 4);
    }
}

static void put_merges(pm_gguf_writer *w, const pm_vocab_data *vocab) {
    begin_array(w, "tokenizer.ggml.merges", PM_GGUF_STRING, vocab->n_merges);
    for (uint32_t i = 0; i < vocab->n_merges; i++) {
        const pm_vocab_merge *merge = &vocab->merges[i];
        put_number(w, merge->left.n + 1 + merge->right.n, 8);
        put(w, merge->left.p, merge->left.n);
        put(w, " ", 1);
        put(w, merge->right.p, merge->right.n);
    }
}

// One id ends a sequence there: what goes behind a text, if something does. Of the others, those go on to have a key that a reader
// does not know by their text.
static void put_ids(pm_gguf_writer *w, const pm_file *file) {
    static const char *const more[] = {"tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id"};
    const pm_config *c = &file->config;
    size_t n_more = 0;
    int32_t end = file->has_vocab && file->vocab.add_end ? file->vocab.end_id : c->n_eos ? c->eos[0] : -1;
    if (c->bos >= 0)
        put_u32(w, "tokenizer.ggml.bos_token_id", (uint32_t)c->bos);
    if (end >= 0)
        put_u32(w, "tokenizer.ggml.eos_token_id", (uint32_t)end);
    for (int i = 0; i < c->n_eos && n_more < 2; i++) {
        const pm_vocab_token *token = token_of(file, (uint32_t)c->eos[i]);
        if (c->eos[i] == end)
            continue;
        if (!token || !token->special || !pm_vocab_is_end(token->text))
            put_u32(w, more[n_more++], (uint32_t)c->eos[i]);
    }
    if (c->pad >= 0)
        put_u32(w, "tokenizer.ggml.padding_token_id", (uint32_t)c->pad);
}

static void put_vocab(pm_gguf_writer *w, const pm_file *file) {
    if (!file->has_vocab) {
        put_string(w, "tokenizer.ggml.model", PM_STR("none"));
        put_ids(w, file);
        return;
    }
    const char *pre = pm_vocab_find_pre(file->vocab.regex);
    if (!pre && !w->out)
        pm_log(PM_LOG_WARN, "GGUF has no name for how this model's tokenizer splits text: readers will split it their own way");
    put_string(w, "tokenizer.ggml.model", PM_STR("gpt2"));
    put_string(w, "tokenizer.ggml.pre", pre ? (pm_str){pre, strlen(pre)} : PM_STR("default"));
    put_tokens(w, file);
    put_merges(w, &file->vocab);
    put_ids(w, file);
    begin(w, "tokenizer.ggml.add_bos_token", PM_GGUF_BOOL);
    put_number(w, file->vocab.add_bos, 1);
    if (file->vocab.add_end) {
        begin(w, "tokenizer.ggml.add_eos_token", PM_GGUF_BOOL);
        put_number(w, 1, 1);
    }
    if (file->chat_template.n)
        put_string(w, "tokenizer.chat_template", file->chat_template);
}

static void put_model(pm_gguf_writer *w, const pm_file *file) {
    const char *architecture = file->config.architecture;
    put_string(w, "general.architecture", (pm_str){architecture, strlen(architecture)});
    put_string(w, "general.type", PM_STR("model"));
    put_string(w, "general.name", model_name(file));
    put_config(w, &file->config);
    put_sampling(w, &file->config);
    put_vocab(w, file);
}

// ---- from a gguf file --------------------------------------------------------------------------------------------------

static bool begins_with(pm_str text, const char *start) {
    size_t n = strlen(start);
    return text.n >= n && memcmp(text.p, start, n) == 0;
}

// Not what is said anew, what was about the parts of a split file, and how the old types were chosen.
static bool is_kept(pm_str key) {
    return !pm_str_is(key, "general.file_type") && !pm_str_is(key, "general.quantization_version") && !begins_with(key, "split.") &&
           !begins_with(key, "quantize.");
}

static void copy_entry(pm_gguf_writer *w, const pm_gguf_entry *entry) {
    w->n_entries++;
    put_text(w, entry->key);
    if (entry->is_array)
        put_number(w, PM_GGUF_ARRAY, 4);
    put_number(w, entry->type, 4);
    if (entry->is_array)
        put_number(w, entry->n, 8);
    put(w, entry->value, (size_t)entry->size);
}

// ---- the head ----------------------------------------------------------------------------------------------------------

static void put_entries(pm_gguf_writer *w, const pm_file *file, uint32_t file_type) {
    for (uint64_t i = 0; file->gguf && i < file->gguf->n_entries; i++)
        if (is_kept(file->gguf->entries[i].key))
            copy_entry(w, &file->gguf->entries[i]);
    if (!file->gguf)
        put_model(w, file);
    put_u32(w, "general.file_type", file_type);
    put_u32(w, "general.quantization_version", 2); // of ggml's block layouts
}

const char *pm_gguf_tensor_name(const pm_gguf_tensor *tensor) {
    return tensor->own_name[0] ? tensor->own_name : tensor->source->name;
}

// gguf writes the fastest dimension first.
static void put_tensor(pm_gguf_writer *w, const pm_gguf_tensor *t) {
    const char *name = pm_gguf_tensor_name(t);
    put_text(w, (pm_str){name, strlen(name)});
    put_number(w, (uint32_t)t->n_dims, 4);
    for (int i = t->n_dims; i-- > 0;)
        put_number(w, t->dims[i], 8);
    put_number(w, pm_dtype_get(t->dtype)->ggml, 4);
    put_number(w, t->offset, 8);
}

pm_status pm_gguf_write_alignment(const pm_file *file, uint32_t *alignment) {
    *alignment = 32;
    return file->gguf ? pm_gguf_get_u32(file->gguf, "general.alignment", 1 << 20, alignment) : PM_OK;
}

pm_status pm_gguf_write_head(const pm_file *file, pm_output *out, uint32_t file_type, const pm_gguf_tensor *tensors, size_t n,
                             uint32_t alignment) {
    pm_gguf_writer count = {0}, w = {.out = out};
    if (!file->gguf && file->config.rope.scaling == PM_ROPE_YARN)
        PM_TRY(check_yarn(file->shards[0].path, &file->config.rope));
    put_entries(&count, file, file_type);
    put(&w, "GGUF", 4);
    put_number(&w, 3, 4);
    put_number(&w, n, 8);
    put_number(&w, count.n_entries, 8);
    put_entries(&w, file, file_type);
    for (size_t i = 0; i < n; i++)
        put_tensor(&w, &tensors[i]);
    while (w.n_bytes % alignment)
        put_number(&w, 0, 1);
    return w.status;
}
