// The config, whatever the format: which architectures we run, which numbers we need, which tensors follow from them.
#include "loader/internal.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const pm_architecture architectures[] = {
    {.name = "qwen3", .hf = "Qwen3ForCausalLM", .qk_norm = true, .head_dim = 128},
    {.name = "qwen3moe", .hf = "Qwen3MoeForCausalLM", .qk_norm = true, .experts = true},
    {.name = "qwen2", .hf = "Qwen2ForCausalLM", .qkv_bias = true},
    {.name = "llama", .hf = "LlamaForCausalLM", .interleaved = true},
};
enum { N_ARCHITECTURES = sizeof(architectures) / sizeof(architectures[0]) };

// "XModel" is XForCausalLM without its head: what embedding models are often saved as.
static bool is_headless(const pm_architecture *a, const char *name) {
    size_t n = strlen(a->hf) - strlen("ForCausalLM");
    return strncmp(a->hf, name, n) == 0 && strcmp(name + n, "Model") == 0;
}

static bool same_but_underscores(const char *a, const char *b) {
    for (;; a++, b++) {
        b += *b == '_';
        if (*a != *b || !*a)
            return *a == *b;
    }
}

const pm_architecture *pm_architecture_find(const char *name) {
    for (int i = 0; i < N_ARCHITECTURES; i++)
        if (same_but_underscores(architectures[i].name, name) || strcmp(architectures[i].hf, name) == 0 ||
            is_headless(&architectures[i], name))
            return &architectures[i];
    return NULL;
}

pm_status pm_architecture_fail(const char *path, const char *name) {
    return pm_fail(PM_ERR_UNSUPPORTED, "%s: architecture %s is not supported; supported are qwen3, qwen3moe, qwen2 and llama", path,
                   name);
}

// A kernel compares all experts with one another and has room for so many; all their rows are counted in 32 bits.
enum { MOST_EXPERTS = 1024, MOST_EXPERT_DIM = 1 << 20 };

// The maxima keep every product of two of them within 64 bits, and any model ever made below them.
static const pm_config_key keys[] = {
    {"num_hidden_layers", "block_count", offsetof(pm_config, n_layers), PM_MAX_LAYERS, true},
    {"hidden_size", "embedding_length", offsetof(pm_config, dim), 1 << 20, true},
    {"num_attention_heads", "attention.head_count", offsetof(pm_config, n_heads), 1 << 14, true},
    {"num_key_value_heads", "attention.head_count_kv", offsetof(pm_config, n_kv_heads), 1 << 14, false},
    {"head_dim", "attention.key_length", offsetof(pm_config, head_dim), 1 << 12, false},
    {"intermediate_size", "feed_forward_length", offsetof(pm_config, ffn_dim), 1 << 22, true},
    {"max_position_embeddings", "context_length", offsetof(pm_config, max_ctx), 1 << 30, true},
    {"num_experts", "expert_count", offsetof(pm_config, n_experts), 1 << 14, false},
    {"num_local_experts", "expert_count", offsetof(pm_config, n_experts), 1 << 14, false}, // newer writers
    {"num_experts_per_tok", "expert_used_count", offsetof(pm_config, n_experts_used), 1 << 14, false},
    {"moe_intermediate_size", "expert_feed_forward_length", offsetof(pm_config, expert_ffn_dim), MOST_EXPERT_DIM, false},
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

static pm_status finish_experts(const char *path, pm_config *c) {
    bool wanted = pm_architecture_find(c->architecture)->experts;
    if (!wanted && c->n_experts > 0)
        return pm_fail(PM_ERR_UNSUPPORTED, "%s: a %s model with %u experts is not supported; qwen3moe models are", path,
                       c->architecture, c->n_experts);
    if (!wanted)
        return PM_OK;
    if (c->n_experts == 0 || c->n_experts_used == 0)
        return pm_fail(PM_ERR_FILE, "%s: the number of experts, or of those used for a token, is missing or 0", path);
    if (c->n_experts_used > c->n_experts)
        return pm_fail(PM_ERR_FILE, "%s: %u experts are to be used for a token, and there are %u", path, c->n_experts_used,
                       c->n_experts);
    if (c->n_experts > MOST_EXPERTS)
        return pm_fail(PM_ERR_UNSUPPORTED, "%s: %u experts: at most %d are supported", path, c->n_experts, MOST_EXPERTS);
    if (c->expert_ffn_dim == 0) // as others read files that do not say it
        c->expert_ffn_dim = c->ffn_dim / c->n_experts_used;
    if (c->expert_ffn_dim == 0 || c->expert_ffn_dim > MOST_EXPERT_DIM)
        return pm_fail(PM_ERR_FILE, "%s: experts of width %u are not possible", path, c->expert_ffn_dim);
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
    PM_TRY(finish_experts(path, c));
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

typedef enum extent { NONE, DIM, Q_DIM, KV_DIM, HEAD_DIM, FFN_DIM, VOCAB, N_EXPERTS, EXPERT_DIM, EXPERT_DIM_TWICE } extent;
typedef enum need { ALWAYS, UNTIED, QK_NORM, QKV_BIAS, DENSE, EXPERTS } need;

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
    {"attn_norm.weight", DIM, NONE, ALWAYS},          {"attn_q.weight", Q_DIM, DIM, ALWAYS},
    {"attn_k.weight", KV_DIM, DIM, ALWAYS},           {"attn_v.weight", KV_DIM, DIM, ALWAYS},
    {"attn_q.bias", Q_DIM, NONE, QKV_BIAS},           {"attn_k.bias", KV_DIM, NONE, QKV_BIAS},
    {"attn_v.bias", KV_DIM, NONE, QKV_BIAS},          {"attn_q_norm.weight", HEAD_DIM, NONE, QK_NORM},
    {"attn_k_norm.weight", HEAD_DIM, NONE, QK_NORM},  {"attn_output.weight", DIM, Q_DIM, ALWAYS},
    {"ffn_norm.weight", DIM, NONE, ALWAYS},           {"ffn_gate.weight", FFN_DIM, DIM, DENSE},
    {"ffn_up.weight", FFN_DIM, DIM, DENSE},           {"ffn_down.weight", DIM, FFN_DIM, DENSE},
    {"ffn_gate_inp.weight", N_EXPERTS, DIM, EXPERTS},
};

// The experts of a layer come as stacks, with gate above up in one, or each as matrices of its own.
static const implied stacked_gate[] = {
    {"ffn_gate_exps.weight", EXPERT_DIM, DIM, EXPERTS},
    {"ffn_up_exps.weight", EXPERT_DIM, DIM, EXPERTS},
};
static const implied fused_gate = {"ffn_gate_up_exps.weight", EXPERT_DIM_TWICE, DIM, EXPERTS};
static const implied stacked_down = {"ffn_down_exps.weight", DIM, EXPERT_DIM, EXPERTS};
static const implied single_gate[] = {{"ffn_gate", EXPERT_DIM, DIM, EXPERTS}, {"ffn_up", EXPERT_DIM, DIM, EXPERTS}};
static const implied single_down = {"ffn_down", DIM, EXPERT_DIM, EXPERTS}; // followed by ".EXPERT.weight"

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
    case N_EXPERTS:
        return c->n_experts;
    case EXPERT_DIM:
        return c->expert_ffn_dim;
    case EXPERT_DIM_TWICE:
        return 2 * (uint64_t)c->expert_ffn_dim;
    case NONE:
        break;
    }
    return 1;
}

static bool is_needed(const pm_config *c, need when, uint32_t layer) {
    switch (when) {
    case UNTIED:
        return !c->tied_head;
    case QK_NORM:
        return c->qk_norm;
    case QKV_BIAS:
        return c->qkv_bias;
    case DENSE:
        return !pm_config_has_experts(c, layer);
    case EXPERTS:
        return pm_config_has_experts(c, layer);
    case ALWAYS:
        break;
    }
    return true;
}

// "(128, 768, 2048)"; two extents at the least.
enum { SHAPE_SIZE = 96 };
static const char *shape_text(const uint64_t dims[4], int n_dims, char text[SHAPE_SIZE]) {
    int n = 0;
    for (int i = 0; i < n_dims || i < 2; i++)
        n += snprintf(text + n, SHAPE_SIZE - (size_t)n, "%s%llu", i ? ", " : "(", (unsigned long long)dims[i]);
    snprintf(text + n, SHAPE_SIZE - (size_t)n, ")");
    return text;
}

// stacked: a matrix of each expert.
static pm_status check_shape(const char *path, const pm_config *c, const implied *want, bool stacked, const pm_tensor_view *have) {
    uint64_t rows = extent_of(c, want->rows), cols = extent_of(c, want->cols);
    uint64_t one[4] = {rows, cols, 1, 1}, all[4] = {c->n_experts, rows, cols, 1};
    const uint64_t *dims = stacked ? all : one;
    int n_dims = stacked ? 3 : want->cols == NONE ? 1 : 2;
    if (have->n_dims == n_dims && memcmp(have->dims, dims, sizeof(have->dims)) == 0)
        return PM_OK;
    char is[SHAPE_SIZE], should_be[SHAPE_SIZE];
    return pm_fail(PM_ERR_FILE, "%s: tensor %s is %s, the config implies %s", path, have->name,
                   shape_text(have->dims, have->n_dims, is), shape_text(dims, n_dims, should_be));
}

static pm_status check_named(const char *path, const pm_file *file, const implied *want, bool stacked, const char *name) {
    const pm_tensor_view *have = pm_file_find(file, name);
    if (!have)
        return pm_fail(PM_ERR_FILE, "%s: tensor %s is missing", path, name);
    return check_shape(path, &file->config, want, stacked, have);
}

static pm_status check_implied(const char *path, const pm_file *file, const implied *want, bool stacked, const char *prefix) {
    char name[64];
    snprintf(name, sizeof(name), "%s%s", prefix, want->name);
    return check_named(path, file, want, stacked, name);
}

static bool has_tensor(const pm_file *file, const char *prefix, const char *name) {
    char full[64];
    snprintf(full, sizeof(full), "%s%s", prefix, name);
    return pm_file_find(file, full) != NULL;
}

// One of each for every expert, and none beyond.
static pm_status check_singles(const char *path, const pm_file *file, const implied *want, int n, const char *prefix) {
    char name[64];
    for (int i = 0; i < n; i++) {
        for (uint32_t e = 0; e < file->config.n_experts; e++) {
            snprintf(name, sizeof(name), "%s%s.%u.weight", prefix, want[i].name, e);
            PM_TRY(check_named(path, file, &want[i], false, name));
        }
        snprintf(name, sizeof(name), "%s%s.%u.weight", prefix, want[i].name, file->config.n_experts);
        if (pm_file_find(file, name))
            return pm_fail(PM_ERR_FILE, "%s: there is a tensor %s, and the config tells of %u experts", path, name,
                           file->config.n_experts);
    }
    return PM_OK;
}

static pm_status check_experts(const char *path, const pm_file *file, const char *prefix) {
    if (has_tensor(file, prefix, "ffn_down.0.weight"))
        PM_TRY(check_singles(path, file, &single_down, 1, prefix));
    else
        PM_TRY(check_implied(path, file, &stacked_down, true, prefix));
    if (has_tensor(file, prefix, "ffn_gate.0.weight"))
        return check_singles(path, file, single_gate, 2, prefix);
    if (has_tensor(file, prefix, fused_gate.name))
        return check_implied(path, file, &fused_gate, true, prefix);
    PM_TRY(check_implied(path, file, &stacked_gate[0], true, prefix));
    return check_implied(path, file, &stacked_gate[1], true, prefix);
}

// Tensors nobody asked for are ignored, but not those that would change the result: the model is then not what its name says.
static pm_status check_unexplained(const char *path, const pm_file *file) {
    const pm_config *c = &file->config;
    for (size_t i = 0; i < file->n_tensors; i++) {
        const char *name = file->tensors[i].name;
        bool bias = strstr(name, ".bias") != NULL;
        bool qkv = strstr(name, ".attn_q.bias") || strstr(name, ".attn_k.bias") || strstr(name, ".attn_v.bias");
        bool norm = strstr(name, ".attn_q_norm.") || strstr(name, ".attn_k_norm.");
        bool experts = strstr(name, "_exps.") || strstr(name, "_inp."), shared = strstr(name, "_shexp.") != NULL;
        if ((bias && !(qkv && c->qkv_bias)) || (norm && !c->qk_norm) || (experts && !c->n_experts) || shared ||
            strcmp(name, "rope_freqs.weight") == 0 || strstr(name, ".scale")) // .scale: of NVFP4 files: a factor on a matrix
            return pm_fail(PM_ERR_UNSUPPORTED, "%s: tensor %s is not part of a %s model as we run it", path, name, c->architecture);
    }
    return PM_OK;
}

static pm_status imply(const pm_config *c, const implied *want, uint64_t n, const char *prefix, pm_add_implied add, void *user) {
    char name[64];
    snprintf(name, sizeof(name), "%s%s", prefix, want->name);
    return add(user, name, n, extent_of(c, want->rows), want->cols == NONE ? 0 : extent_of(c, want->cols));
}

static pm_status imply_layer(const pm_config *c, uint32_t layer, pm_add_implied add, void *user) {
    char prefix[24];
    snprintf(prefix, sizeof(prefix), "blk.%u.", layer);
    for (size_t i = 0; i < sizeof(layer_tensors) / sizeof(layer_tensors[0]); i++)
        if (is_needed(c, layer_tensors[i].need, layer))
            PM_TRY(imply(c, &layer_tensors[i], 0, prefix, add, user));
    if (!pm_config_has_experts(c, layer))
        return PM_OK;
    PM_TRY(imply(c, &stacked_gate[0], c->n_experts, prefix, add, user));
    PM_TRY(imply(c, &stacked_gate[1], c->n_experts, prefix, add, user));
    return imply(c, &stacked_down, c->n_experts, prefix, add, user);
}

pm_status pm_config_imply(const pm_config *config, pm_add_implied add, void *user) {
    for (size_t i = 0; i < sizeof(model_tensors) / sizeof(model_tensors[0]); i++)
        if (is_needed(config, model_tensors[i].need, 0))
            PM_TRY(imply(config, &model_tensors[i], 0, "", add, user));
    for (uint32_t layer = 0; layer < config->n_layers; layer++)
        PM_TRY(imply_layer(config, layer, add, user));
    return PM_OK;
}

pm_status pm_config_check_tensors(const char *path, const pm_file *file) {
    for (size_t i = 0; i < sizeof(model_tensors) / sizeof(model_tensors[0]); i++)
        if (is_needed(&file->config, model_tensors[i].need, 0))
            PM_TRY(check_implied(path, file, &model_tensors[i], false, ""));
    for (uint32_t layer = 0; layer < file->config.n_layers; layer++) {
        char prefix[24];
        snprintf(prefix, sizeof(prefix), "blk.%u.", layer);
        for (size_t i = 0; i < sizeof(layer_tensors) / sizeof(layer_tensors[0]); i++)
            if (is_needed(&file->config, layer_tensors[i].need, layer))
                PM_TRY(check_implied(path, file, &layer_tensors[i], false, prefix));
        if (pm_config_has_experts(&file->config, layer))
            PM_TRY(check_experts(path, file, prefix));
    }
    return check_unexplained(path, file);
}
