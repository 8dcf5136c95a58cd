// The config, whatever the format: which architectures we run, which numbers we need, which tensors follow from them.
#include "loader/internal.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const pm_architecture architectures[] = {
    {.name = "qwen3", .hf = "Qwen3ForCausalLM", .qk_norm = true, .head_dim = 128},
    {.name = "qwen2", .hf = "Qwen2ForCausalLM", .qkv_bias = true},
    {.name = "llama", .hf = "LlamaForCausalLM", .interleaved = true},
};
enum { N_ARCHITECTURES = sizeof(architectures) / sizeof(architectures[0]) };

const pm_architecture *pm_architecture_find(const char *name) {
    for (int i = 0; i < N_ARCHITECTURES; i++)
        if (strcmp(architectures[i].name, name) == 0 || strcmp(architectures[i].hf, name) == 0)
            return &architectures[i];
    return NULL;
}

pm_status pm_architecture_fail(const char *path, const char *name) {
    return pm_fail(PM_ERR_UNSUPPORTED, "%s: architecture %s is not supported; supported are qwen3, qwen2 and llama", path, name);
}

// The maxima keep every product of two of them within 64 bits, and any model ever made below them.
static const pm_config_key keys[] = {
    {"num_hidden_layers", "block_count", offsetof(pm_config, n_layers), 4096, true},
    {"hidden_size", "embedding_length", offsetof(pm_config, dim), 1 << 20, true},
    {"num_attention_heads", "attention.head_count", offsetof(pm_config, n_heads), 1 << 14, true},
    {"num_key_value_heads", "attention.head_count_kv", offsetof(pm_config, n_kv_heads), 1 << 14, false},
    {"head_dim", "attention.key_length", offsetof(pm_config, head_dim), 1 << 12, false},
    {"intermediate_size", "feed_forward_length", offsetof(pm_config, ffn_dim), 1 << 22, true},
    {"max_position_embeddings", "context_length", offsetof(pm_config, max_ctx), 1 << 30, true},
};

const pm_config_key *pm_config_keys(size_t *n) {
    *n = sizeof(keys) / sizeof(keys[0]);
    return keys;
}

// Where a file does not say: transformers' defaults.
void pm_config_init(pm_config *config) {
    *config = (pm_config){
        .norm_eps = 1e-6f,
        .rope = {.theta = 10000, .factor = 1, .beta_fast = 32, .beta_slow = 1, .truncate = true},
        .bos = -1,
        .pad = -1,
        .temperature = 1,
        .top_p = 1,
        .top_k = 50,
        .repetition_penalty = 1,
    };
}

static pm_status check_heads(const char *path, const pm_config *c) {
    if (c->n_heads % c->n_kv_heads)
        return pm_fail(PM_ERR_FILE, "%s: %u query heads cannot share %u key-value heads", path, c->n_heads, c->n_kv_heads);
    if (c->head_dim == 0 || c->head_dim % 2)
        return pm_fail(PM_ERR_FILE, "%s: a head dimension of %u (hidden size %u, %u heads) cannot be rotated in pairs", path,
                       c->head_dim, c->dim, c->n_heads);
    if (c->head_dim > 1 << 12)
        return pm_fail(PM_ERR_FILE, "%s: a head dimension of %u is out of range", path, c->head_dim);
    return PM_OK;
}

static pm_status finish_rope(const char *path, pm_config *c) {
    pm_rope_config *rope = &c->rope;
    if (rope->scaling != PM_ROPE_YARN)
        return PM_OK;
    if (rope->original_ctx == 0)
        rope->original_ctx = c->max_ctx;
    if (rope->factor == 0)
        rope->factor = (double)c->max_ctx / rope->original_ctx;
    if (rope->beta_fast <= rope->beta_slow)
        return pm_fail(PM_ERR_FILE, "%s: YaRN's beta_fast %g is not above beta_slow %g", path, rope->beta_fast, rope->beta_slow);

    // Qwen's own instructions add the scaling and leave max_position_embeddings (40960) as it was: the explicit factor wins.
    double reach = floor(rope->factor * rope->original_ctx);
    if (reach > c->max_ctx && reach <= 1 << 30) {
        pm_log(PM_LOG_INFO, "%s: YaRN reaches %.0f positions, the file says %u", path, reach, c->max_ctx);
        c->max_ctx = (uint32_t)reach;
    }
    return PM_OK;
}

static bool id_fits(const char *path, const pm_config *c, const char *what, int32_t id) {
    if (id >= 0 && (uint32_t)id < c->vocab_size)
        return true;
    if (id >= 0)
        pm_log(PM_LOG_WARN, "%s: the %s id %d is outside the vocabulary of %u: ignored", path, what, id, c->vocab_size);
    return false;
}

// Small test models keep the ids of the large ones: worth a warning, no reason to refuse.
static void drop_foreign_ids(const char *path, pm_config *c) {
    if (!id_fits(path, c, "bos", c->bos))
        c->bos = -1;
    if (!id_fits(path, c, "padding", c->pad))
        c->pad = -1;
    int kept = 0;
    for (int i = 0; i < c->n_eos; i++)
        if (id_fits(path, c, "eos", c->eos[i]))
            c->eos[kept++] = c->eos[i];
    c->n_eos = kept;
}

pm_status pm_config_finish(const char *path, pm_config *c) {
    if (c->n_kv_heads == 0)
        c->n_kv_heads = c->n_heads;
    if (c->head_dim == 0)
        c->head_dim = c->dim / c->n_heads;
    PM_TRY(check_heads(path, c));
    PM_TRY(finish_rope(path, c));
    drop_foreign_ids(path, c);
    if (c->temperature == 0) { // transformers refuses to sample with it; other tools mean greedy
        c->do_sample = false;
        c->temperature = 1;
    }
    return PM_OK;
}

pm_status pm_config_add_eos(const char *path, pm_config *c, int32_t id) {
    const int room = sizeof(c->eos) / sizeof(c->eos[0]);
    for (int i = 0; i < c->n_eos; i++)
        if (c->eos[i] == id)
            return PM_OK;
    if (c->n_eos == room)
        return pm_fail(PM_ERR_UNSUPPORTED, "%s: more than %d end-of-sequence ids", path, room);
    c->eos[c->n_eos++] = id;
    return PM_OK;
}

// ---- the tensors a config implies -----------------------------------------------------------------------------------------

typedef enum extent { NONE, DIM, Q_DIM, KV_DIM, HEAD_DIM, FFN_DIM, VOCAB } extent;
typedef enum need { ALWAYS, UNTIED, QK_NORM, QKV_BIAS } need;

typedef struct implied {
    const char *name;
    extent rows, cols; // cols NONE: a vector
    need need;
} implied;

static const implied model_tensors[] = {
    {"token_embd.weight", VOCAB, DIM, ALWAYS},
    {"output_norm.weight", DIM, NONE, ALWAYS},
    {"output.weight", VOCAB, DIM, UNTIED},
};

static const implied layer_tensors[] = {
    {"attn_norm.weight", DIM, NONE, ALWAYS},         {"attn_q.weight", Q_DIM, DIM, ALWAYS},
    {"attn_k.weight", KV_DIM, DIM, ALWAYS},          {"attn_v.weight", KV_DIM, DIM, ALWAYS},
    {"attn_q.bias", Q_DIM, NONE, QKV_BIAS},          {"attn_k.bias", KV_DIM, NONE, QKV_BIAS},
    {"attn_v.bias", KV_DIM, NONE, QKV_BIAS},         {"attn_q_norm.weight", HEAD_DIM, NONE, QK_NORM},
    {"attn_k_norm.weight", HEAD_DIM, NONE, QK_NORM}, {"attn_output.weight", DIM, Q_DIM, ALWAYS},
    {"ffn_norm.weight", DIM, NONE, ALWAYS},          {"ffn_gate.weight", FFN_DIM, DIM, ALWAYS},
    {"ffn_up.weight", FFN_DIM, DIM, ALWAYS},         {"ffn_down.weight", DIM, FFN_DIM, ALWAYS},
};

static uint64_t extent_of(const pm_config *c, extent e) {
    switch (e) {
    case DIM:
        return c->dim;
    case Q_DIM:
        return (uint64_t)c->n_heads * c->head_dim;
    case KV_DIM:
        return (uint64_t)c->n_kv_heads * c->head_dim;
    case HEAD_DIM:
        return c->head_dim;
    case FFN_DIM:
        return c->ffn_dim;
    case VOCAB:
        return c->vocab_size;
    case NONE:
        break;
    }
    return 1;
}

static bool is_needed(const pm_config *c, need when) {
    switch (when) {
    case UNTIED:
        return !c->tied_head;
    case QK_NORM:
        return c->qk_norm;
    case QKV_BIAS:
        return c->qkv_bias;
    case ALWAYS:
        break;
    }
    return true;
}

static pm_status check_shape(const char *path, const pm_tensor_view *have, uint64_t rows, uint64_t cols) {
    int n_dims = cols ? 2 : 1;
    cols = cols ? cols : 1;
    if (have->n_dims == n_dims && have->dims[0] == rows && have->dims[1] == cols)
        return PM_OK;
    const char *more = have->n_dims > 2 ? ", ..." : "";
    return pm_fail(PM_ERR_FILE, "%s: tensor %s is (%llu, %llu%s), the config implies (%llu, %llu)", path, have->name,
                   (unsigned long long)have->dims[0], (unsigned long long)have->dims[1], more, (unsigned long long)rows,
                   (unsigned long long)cols);
}

typedef pm_status (*add_tensor)(void *user, const char *name, uint64_t rows, uint64_t cols);

static pm_status imply_all(const pm_config *c, const implied *want, size_t n, const char *prefix, add_tensor add, void *user) {
    for (size_t i = 0; i < n; i++, want++) {
        char name[64];
        if (!is_needed(c, want->need))
            continue;
        snprintf(name, sizeof(name), "%s%s", prefix, want->name);
        PM_TRY(add(user, name, extent_of(c, want->rows), want->cols == NONE ? 0 : extent_of(c, want->cols)));
    }
    return PM_OK;
}

pm_status pm_config_imply(const pm_config *config, add_tensor add, void *user) {
    PM_TRY(imply_all(config, model_tensors, sizeof(model_tensors) / sizeof(model_tensors[0]), "", add, user));
    for (uint32_t layer = 0; layer < config->n_layers; layer++) {
        char prefix[24];
        snprintf(prefix, sizeof(prefix), "blk.%u.", layer);
        PM_TRY(imply_all(config, layer_tensors, sizeof(layer_tensors) / sizeof(layer_tensors[0]), prefix, add, user));
    }
    return PM_OK;
}

typedef struct checking {
    const char *path;
    const pm_file *file;
} checking;

static pm_status check_implied(void *user, const char *name, uint64_t rows, uint64_t cols) {
    const checking *c = user;
    const pm_tensor_view *have = pm_file_find(c->file, name);
    if (!have)
        return pm_fail(PM_ERR_FILE, "%s: tensor %s is missing", c->path, name);
    return check_shape(c->path, have, rows, cols);
}

// Tensors nobody asked for are ignored, but not those that would change the result: the model is then not what its name says.
static pm_status check_unexplained(const char *path, const pm_file *file) {
    const pm_config *c = &file->config;
    for (size_t i = 0; i < file->n_tensors; i++) {
        const char *name = file->tensors[i].name;
        bool bias = strstr(name, ".bias") != NULL;
        bool qkv = strstr(name, ".attn_q.bias") || strstr(name, ".attn_k.bias") || strstr(name, ".attn_v.bias");
        bool norm = strstr(name, ".attn_q_norm.") || strstr(name, ".attn_k_norm.");
        if ((bias && !(qkv && c->qkv_bias)) || (norm && !c->qk_norm) || strcmp(name, "rope_freqs.weight") == 0 ||
            strstr(name, ".scale")) // of NVFP4 files: a factor on a matrix
            return pm_fail(PM_ERR_UNSUPPORTED, "%s: tensor %s is not part of a %s model as we run it", path, name, c->architecture);
    }
    return PM_OK;
}

pm_status pm_config_check_tensors(const char *path, const pm_file *file) {
    checking c = {path, file};
    PM_TRY(pm_config_imply(&file->config, check_implied, &c));
    return check_unexplained(path, file);
}
