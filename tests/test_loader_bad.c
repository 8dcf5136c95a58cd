// Files that are not what they say: each must give its status and a line that names the thing, and nothing else may happen.
// They are the fuzzers' seeds (tests/make_loader_data.py), changed in one place.
#include "loader/loader.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include "loader_model.h"

#include <unistd.h>

static void quiet(pm_log_level level, const char *line, void *user) {
    (void)level, (void)line, (void)user;
}

static void folder_is_good(void **state) {
    (void)state;
    write_folder();
    pm_file *file = open_model(temp_folder);
    assert_int_equal(pm_file_vocab(file)->n_tokens, 7);
    assert_int_equal(pm_file_config(file)->n_eos, 2);
    assert_true(pm_str_is(pm_file_chat_template(file), "{{ x }}"));
    pm_file_close(&file);
    file = open_model(SEEDS "gguf/yarn");
    const pm_config *c = pm_file_config(file);
    assert_true(c->rope.scaling == PM_ROPE_YARN && c->rope.factor == 4 && c->rope.original_ctx == 16);
    assert_true(c->do_sample && c->temperature == 0.6f && c->max_ctx == 64);
    pm_file_close(&file);
    file = open_model(SEEDS "gguf/experts");
    c = pm_file_config(file);
    assert_true(c->n_experts == 2 && c->n_experts_used == 2 && c->expert_ffn_dim == 64 && c->experts_normed);
    assert_int_equal(pm_file_find(file, "blk.0.ffn_up_exps.weight")->n_dims, 3);
    pm_file_close(&file);
    static const char *const ggufs[] = {"F32", "Q8_0", "Q4_0"};
    for (size_t i = 0; i < 3; i++) {
        char path[512];
        snprintf(path, sizeof(path), SEEDS "gguf/%s", ggufs[i]);
        file = open_model(path);
        assert_string_equal(pm_dtype_get(pm_file_find(file, "blk.0.ffn_up.weight")->dtype)->name, ggufs[i]);
        pm_file_close(&file);
    }
}

// ---- truncation -----------------------------------------------------------------------------------------------------------------

static void refused_at_any_length(const char *path, const char *file_name, size_t size) {
    for (size_t n = size; n-- > 0;) {
        assert_int_equal(truncate(temp_path(file_name), (off_t)n), 0);
        pm_file *file;
        pm_status status = pm_file_open(path, &file);
        if (status != PM_ERR_FILE || !strstr(pm_error_text(), temp_folder))
            fail_msg("%s cut to %zu of %zu bytes: %d %s", file_name, n, size, status, status ? pm_error_text() : "");
    }
}

static void truncated_files_are_refused(void **state) {
    (void)state;
    bytes b = read_seed("gguf/Q4_0", 0);
    temp_write("cut.gguf", b.p, b.n);
    refused_at_any_length(temp_path("cut.gguf"), "cut.gguf", b.n);
    bytes_close(&b);

    write_folder();
    b = read_seed("safetensors/BF16", 0);
    refused_at_any_length(temp_folder, "model.safetensors", b.n);
    bytes_close(&b);

    for (size_t i = 0; i < 4; i++) {
        write_folder();
        b = read_seed(folder_parts[i][1], 1);
        refused_at_any_length(temp_folder, folder_parts[i][0], b.n);
        bytes_close(&b);
    }
}

// ---- GGUF -----------------------------------------------------------------------------------------------------------------------

// `size` bytes at `skip` behind the first `text` (or from the start of the file, where it is "") become `value`.
typedef struct gguf_case {
    const char *seed, *text;
    size_t skip;
    uint64_t value;
    int size;
    pm_status status;
    const char *line;
} gguf_case;

// Behind a key: u32 type, then the value. Behind a tensor's name: u32 n_dims, u64 dims, u32 type, u64 offset.
static const gguf_case gguf_cases[] = {
    {"Q4_0", "", 0, 0x58554747, 4, PM_ERR_FILE, "neither a GGUF file"},
    {"Q4_0", "", 4, 2, 4, PM_ERR_UNSUPPORTED, "GGUF version 2"},
    {"Q4_0", "", 4, 4, 4, PM_ERR_UNSUPPORTED, "GGUF version 4"},
    {"Q4_0", "", 4, 0, 4, PM_ERR_UNSUPPORTED, "GGUF version 0"},
    {"Q4_0", "", 4, 0x03000000, 4, PM_ERR_UNSUPPORTED, "big-endian"},
    {"Q4_0", "", 8, UINT64_MAX, 8, PM_ERR_FILE, "tensors do not fit"},
    {"Q4_0", "", 8, 100, 8, PM_ERR_FILE, ""},
    {"Q4_0", "", 16, UINT64_MAX / 13, 8, PM_ERR_FILE, "entries do not fit"},
    {"Q4_0", "", 24, UINT64_MAX, 8, PM_ERR_FILE, "metadata"},
    {"Q4_0", "", 24, UINT64_MAX - 7, 8, PM_ERR_FILE, "metadata"},
    {"Q4_0", "general.architecture", 0, 13, 4, PM_ERR_FILE, "unknown type 13"},
    {"Q4_0", "general.architecture", 0, 9, 4, PM_ERR_FILE, ""},
    {"Q4_0", "general.architecture", 4, UINT64_MAX, 8, PM_ERR_FILE, "metadata"},
    {"Q4_0", "general.architecture", 12, 0x39, 1, PM_ERR_UNSUPPORTED, "architecture 9wen3 is not supported; supported are qwen3"},
    {"Q4_0", "general.architecture", 12, 0x0a, 1, PM_ERR_UNSUPPORTED, "architecture ?wen3"},
    {"Q4_0", "tokenizer.ggml.tokens", 4, 9, 4, PM_ERR_UNSUPPORTED, "array of arrays"},
    {"Q4_0", "tokenizer.ggml.tokens", 4, 99, 4, PM_ERR_FILE, "unknown type 99"},
    {"Q4_0", "tokenizer.ggml.tokens", 8, UINT64_MAX, 8, PM_ERR_FILE, "metadata"},
    {"Q4_0", "tokenizer.ggml.token_type", 8, UINT64_MAX / 4 + 1, 8, PM_ERR_FILE, "metadata"},
    {"Q4_0", "tokenizer.ggml.token_type", 4, 6, 4, PM_ERR_FILE, "token_type is not an array of int32"},
    {"Q4_0", "tokenizer.ggml.model", 12, 0x78, 1, PM_ERR_UNSUPPORTED, "tokenizer model xpt2"},
    {"Q4_0", "tokenizer.ggml.merges", 24 + 1, 0x61, 1, PM_ERR_FILE, "merge 0 is not a pair"},
    {"Q4_0", "qwen3.block_count", 4, 2, 4, PM_ERR_FILE, "blk.1.attn_norm.weight is missing"},
    {"Q4_0", "qwen3.block_count", 4, UINT32_MAX, 4, PM_ERR_FILE, "block_count"},
    {"Q4_0", "qwen3.block_count", 4, 0, 4, PM_ERR_FILE, "block_count is missing or 0"},
    {"Q4_0", "qwen3.block_count", 0, 6, 4, PM_ERR_FILE, "not an integer"}, // 1 read as a float is 1.4e-45
    {"Q4_0", "qwen3.embedding_length", 4, 64, 4, PM_ERR_FILE, "token_embd.weight is (8, 32), the config implies (8, 64)"},
    {"Q4_0", "qwen3.attention.head_count_kv", 4, 3, 4, PM_ERR_FILE, "2 query heads cannot share 3 key-value heads"},
    {"Q4_0", "qwen3.attention.key_length", 4, 15, 4, PM_ERR_FILE, "head dimension of 15"},
    {"Q4_0", "qwen3.attention.key_length", 4, 8, 4, PM_ERR_FILE, "the config implies"},
    {"Q4_0", "qwen3.rope.freq_base", 4, 0x7fc00000, 4, PM_ERR_FILE, "freq_base is nan"},
    {"Q4_0", "token_embd.weight", 0, 0, 4, PM_ERR_FILE, "0 dimensions"},
    {"Q4_0", "token_embd.weight", 0, 5, 4, PM_ERR_FILE, "5 dimensions"},
    {"Q4_0", "token_embd.weight", 4, 33, 8, PM_ERR_FILE, "no multiple of Q4_0's block"},
    {"Q4_0", "token_embd.weight", 4, 64, 8, PM_ERR_FILE, "overlap"},
    {"Q4_0", "token_embd.weight", 4, UINT64_MAX - 31, 8, PM_ERR_FILE, "overflows"},
    {"Q4_0", "token_embd.weight", 12, UINT64_MAX / 16, 8, PM_ERR_FILE, "overflows"},
    {"Q4_0", "token_embd.weight", 12, 1000000, 8, PM_ERR_FILE, "beyond the file's end"},
    {"Q4_0", "token_embd.weight", 12, 6, 8, PM_ERR_FILE, "tokens has 7 elements, there can be 6"},
    {"Q4_0", "token_embd.weight", 20, 26, 4, PM_ERR_UNSUPPORTED, "token_embd.weight has type I32 (26); supported are F32 F16"},
    {"Q4_0", "token_embd.weight", 20, UINT32_MAX, 4, PM_ERR_UNSUPPORTED, "type unknown (4294967295)"},
    {"F32", "output_norm.weight", 12, 16, 4, PM_ERR_FILE, "no multiple of IQ2_XXS's block"},
    {"Q4_0", "token_embd.weight", 20, 77, 4, PM_ERR_UNSUPPORTED, "type unknown (77)"},
    {"Q4_0", "token_embd.weight", 24, 16, 8, PM_ERR_FILE, "offset 16 is not a multiple of 32"},
    {"Q4_0", "token_embd.weight", 24, UINT64_MAX - 31, 8, PM_ERR_FILE, "wraps"},
    {"Q4_0", "token_embd.weight", 24, UINT64_C(1) << 62, 8, PM_ERR_FILE, "beyond the file's end"},
    {"Q4_0", "token_embd.weight", 24, 32, 8, PM_ERR_FILE, "overlap"},
    {"Q4_0", "output_norm.weight", 0 - (size_t)18, 0, 1, PM_ERR_FILE, "no proper name"},
    {"Q4_0", "blk.0.ffn_up.weight", 0 - (size_t)9, 0x78, 1, PM_ERR_FILE, "blk.0.ffn_up.weight is missing"}, // ffn_ux
    {"experts", "qwen3moe.expert_count", 4, 3, 4, PM_ERR_FILE, "ffn_gate_inp.weight is (2, 32), the config implies (3, 32)"},
    {"experts", "qwen3moe.expert_count", 4, 0, 4, PM_ERR_FILE, "the number of experts, or of those used for a token, is missing"},
    {"experts", "qwen3moe.expert_count", 4, 1, 4, PM_ERR_FILE, "2 experts are to be used for a token, and there are 1"},
    {"experts", "qwen3moe.expert_count", 4, 2000, 4, PM_ERR_UNSUPPORTED, "2000 experts: at most 1024"},
    {"experts", "qwen3moe.expert_count", 4, UINT32_MAX, 4, PM_ERR_FILE, "expert_count"},
    {"experts", "qwen3moe.expert_used_count", 4, 0, 4, PM_ERR_FILE, "the number of experts, or of those used for a token"},
    {"experts", "qwen3moe.expert_used_count", 4, 3, 4, PM_ERR_FILE, "3 experts are to be used for a token, and there are 2"},
    {"experts", "qwen3moe.expert_feed_forward_length", 4, 32, 4, PM_ERR_FILE,
     "ffn_down_exps.weight is (2, 32, 64), the config implies (2, 32, 32)"},
    {"experts", "qwen3moe.expert_gating_func", 4, 2, 4, PM_ERR_UNSUPPORTED, "expert_gating_func 2 is not supported"},
    {"experts", "blk.0.ffn_up_exps.weight", 12, 32, 8, PM_ERR_FILE,
     "ffn_up_exps.weight is (2, 32, 32), the config implies (2, 64, 32)"},
    {"experts", "blk.0.ffn_up_exps.weight", 0 - (size_t)9, 0x78, 1, PM_ERR_FILE, "blk.0.ffn_up_exps.weight is missing"},
    {"experts", "blk.0.ffn_down_exps.weight", 0 - (size_t)9, 0x78, 1, PM_ERR_FILE, "blk.0.ffn_down_exps.weight is missing"},
    {"experts", "blk.0.ffn_gate_inp.weight", 0 - (size_t)9, 0x78, 1, PM_ERR_FILE, "blk.0.ffn_gate_inp.weight is missing"},
    {"yarn", "general.alignment", 4, 48, 4, PM_ERR_FILE, "general.alignment 48 is not a power of two"},
    {"yarn", "general.alignment", 4, 0, 4, PM_ERR_FILE, "general.alignment 0 is not a power of two"},
    {"yarn", "general.alignment", 4, 1 << 30, 4, PM_ERR_FILE, "general.alignment"},
    {"yarn", "general.alignment", 4, 128, 4, PM_ERR_FILE, "not a multiple of 128"},
    {"yarn", "qwen3.rope.scaling.type", 12, 0x78, 1, PM_ERR_UNSUPPORTED, "rope scaling xarn"},
    {"yarn", "qwen3.rope.scaling.factor", 4, 0xbf800000, 4, PM_ERR_FILE, "rope.scaling.factor is -1"},
    {"yarn", "qwen3.rope.scaling.factor", 4, 0x7f800000, 4, PM_ERR_FILE, "rope.scaling.factor is inf"},
    {"yarn", "general.sampling.temp", 4, 0xbf800000, 4, PM_ERR_FILE, "general.sampling.temp is -1"},
    {"yarn", "split.count", 4, 2, 2, PM_ERR_FILE, "one of 2 parts, but not named"},
};

static void changed_gguf_is_refused(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof(gguf_cases) / sizeof(gguf_cases[0]); i++) {
        const gguf_case *c = &gguf_cases[i];
        char seed[32];
        snprintf(seed, sizeof(seed), "gguf/%s", c->seed);
        bytes b = read_seed(seed, 0), value = {0};
        size_t at = find(&b, c->text) + strlen(c->text) + c->skip;
        put_number(&value, c->value, c->size);
        memcpy(b.p + at, value.p, value.n);
        refused(temp_write("changed.gguf", b.p, b.n), c->status, c->line);
        bytes_close(&value);
        bytes_close(&b);
    }
}

// A row one longer than a block, in every type that has blocks; of every type, one that is whole.
static void cut_blocks_are_refused_in_every_type(void **state) {
    (void)state;
    for (int d = 0; d < PM_ALL_DTYPE_COUNT; d++) {
        const pm_dtype_info *type = pm_dtype_get((pm_dtype)d);
        if (type->ggml == PM_NOT_IN_GGUF || type->block_elements == 1)
            continue;
        bytes b = read_seed("gguf/Q4_0", 0);
        uint8_t *entry = b.p + find(&b, "token_embd.weight") + strlen("token_embd.weight");
        uint64_t cols = type->block_elements + 1;
        char line[64];
        memcpy(entry + 4, &cols, 8);
        memcpy(entry + 20, &type->ggml, 4);
        const char *path = temp_write("changed.gguf", b.p, b.n);
        snprintf(line, sizeof(line), "rows of %d are no multiple of %s's block of %u", (int)cols, type->name, type->block_elements);
        refused(path, PM_ERR_FILE, line);
        bytes_close(&b);
    }
}

static void doubled_name_is_refused(void **state) {
    (void)state;
    bytes b = read_seed("gguf/Q4_0", 0);
    size_t at = find(&b, "blk.0.attn_k.weight");
    memcpy(b.p + at, "blk.0.attn_v.weight", 19);
    refused(temp_write("changed.gguf", b.p, b.n), PM_ERR_FILE, "blk.0.attn_v.weight is there twice");
    bytes_close(&b);
}

// ---- safetensors -----------------------------------------------------------------------------------------------------

typedef struct text_case {
    const char *from, *to;
    pm_status status; // PM_OK: must open
    const char *line;
} text_case;

#define EMBEDDING "\"dtype\":\"BF16\",\"shape\":[8,32],\"data_offsets\":[0,512]"
#define NORM      "\"shape\":[32],\"data_offsets\":[512,576]"
static const text_case header_cases[] = {
    {EMBEDDING, "\"dtype\":\"I64\",\"shape\":[8,32],\"data_offsets\":[0,512]", PM_ERR_UNSUPPORTED, "dtype I64"},
    {EMBEDDING, "\"dtype\":\"F8_E5M2\",\"shape\":[8,32],\"data_offsets\":[0,512]", PM_ERR_UNSUPPORTED, "dtype F8_E5M2"},
    {EMBEDDING, "\"dtype\":\"F8_E4M3\",\"shape\":[8,32],\"data_offsets\":[0,512]", PM_ERR_FILE,
     "(8, 32) of type F8_E4M3 do not take 512 bytes"},
    {EMBEDDING, "\"dtype\":\"F8_E4M3\",\"shape\":[16,32],\"data_offsets\":[0,512]", PM_ERR_UNSUPPORTED,
     "token_embd.weight is quantized, but the config has no quantization_config"},

    {EMBEDDING, "\"dtype\":7,\"shape\":[8,32],\"data_offsets\":[0,512]", PM_ERR_FILE, "dtype is not a string"},
    {EMBEDDING, "\"dtype\":\"F32\",\"shape\":[8,32],\"data_offsets\":[0,512]", PM_ERR_FILE, "need 1024 bytes"},
    {EMBEDDING, "\"dtype\":\"F16\",\"shape\":[8,32],\"data_offsets\":[0,512]", PM_OK, ""},
    {EMBEDDING, "\"dtype\":\"BF16\",\"shape\":[32,8],\"data_offsets\":[0,512]", PM_ERR_FILE,
     "is (32, 8), the config implies (8, 32)"},
    {EMBEDDING, "\"dtype\":\"BF16\",\"shape\":[2,2,2,2,16],\"data_offsets\":[0,512]", PM_ERR_UNSUPPORTED, "more than four"},
    {EMBEDDING, "\"dtype\":\"BF16\",\"shape\":[1,8,32],\"data_offsets\":[0,512]", PM_ERR_FILE,
     "is (1, 8, 32), the config implies (8, 32)"},
    {EMBEDDING, "\"dtype\":\"BF16\",\"shape\":\"8\",\"data_offsets\":[0,512]", PM_ERR_FILE, "has no shape"},
    {EMBEDDING, "\"dtype\":\"BF16\",\"shape\":[8,-32],\"data_offsets\":[0,512]", PM_ERR_FILE, "not a list of sizes"},
    {EMBEDDING, "\"dtype\":\"BF16\",\"shape\":[8,32.5],\"data_offsets\":[0,512]", PM_ERR_FILE, "not a list of sizes"},
    {EMBEDDING, "\"dtype\":\"BF16\",\"shape\":[8,1e999],\"data_offsets\":[0,512]", PM_ERR_FILE, "not a list of sizes"},
    {EMBEDDING, "\"dtype\":\"BF16\",\"shape\":[9007199254740992,9007199254740992],\"data_offsets\":[0,512]", PM_ERR_FILE,
     "overflows"},
    {EMBEDDING, "\"dtype\":\"BF16\",\"shape\":[8,32],\"data_offsets\":[0,-512]", PM_ERR_FILE, "no data_offsets"},
    {EMBEDDING, "\"dtype\":\"BF16\",\"shape\":[8,32],\"data_offsets\":[512,0]", PM_ERR_FILE, "do not lie"},
    {EMBEDDING, "\"dtype\":\"BF16\",\"shape\":[8,32],\"data_offsets\":[0,512,512]", PM_ERR_FILE, "no data_offsets"},
    {EMBEDDING, "\"dtype\":\"BF16\",\"shape\":[8,32],\"data_offsets\":[0]", PM_ERR_FILE, "no data_offsets"},
    {EMBEDDING, "\"dtype\":\"BF16\",\"shape\":[8,32]", PM_ERR_FILE, "no data_offsets"},
    {EMBEDDING, "\"dtype\":\"BF16\",\"shape\":[8,32],\"data_offsets\":[18446744073709551104,18446744073709551616]", PM_ERR_FILE,
     "no data_offsets"},
    {EMBEDDING, "\"dtype\":\"BF16\",\"shape\":[8,32],\"data_offsets\":[0,99999999]", PM_ERR_FILE, "do not lie"},
    {EMBEDDING, "\"dtype\":\"BF16\",\"shape\":[8,32],\"data_offsets\":[64,576]", PM_ERR_FILE, "overlap"},
    {EMBEDDING, "\"dtype\":\"BF16\",\"shape\":[4,32],\"data_offsets\":[0,256]", PM_ERR_FILE, "hole"},
    {NORM, "\"shape\":[32],\"data_offsets\":[0,64]", PM_ERR_FILE, "overlap"},
    {"{\"__metadata__\"", "{\"lm_head.weight\":[],\"__metadata__\"", PM_ERR_FILE, "lm_head.weight has no data_offsets"},
    {"{\"__metadata__\"", "{\"x\":{\"dtype\":\"I64\",\"shape\":[0],\"data_offsets\":[0,0]},\"__metadata__\"", PM_OK, ""},
    {"{\"__metadata__\"", "[\"__metadata__\"", PM_ERR_FILE, "not valid JSON"},
    {"{\"__metadata__\"", "[{\"__metadata__\"", PM_ERR_FILE, "not valid JSON"},
    {"model.norm.weight", "model.norm.weigh_", PM_ERR_FILE, "output_norm.weight is missing"},
    {"model.norm.weight", "model.embed_tokens.weight", PM_ERR_FILE, "overlap|twice"},
    {"model.norm.weight", "norm.weight", PM_OK, ""}, // embedding checkpoints
    {"layers.0.mlp.up_proj.weight", "layers.00.mlp.up_proj.weight", PM_ERR_FILE, "ffn_up.weight is missing"},
    {"layers.0.mlp.up_proj.weight", "layers.0.mlp.up_proj.bias", PM_ERR_FILE, "ffn_up.weight is missing"},
    {"layers.0.mlp.up_proj.weight", "layers.4294967296.mlp.up_proj.weight", PM_ERR_FILE, "ffn_up.weight is missing"},
};

// Of a mixture of experts, each with matrices of its own.
#define EXPERT "layers.0.mlp.experts."
static const text_case expert_cases[] = {
    {EXPERT "1.up_proj", EXPERT "1.up_proj_", PM_ERR_FILE, "blk.0.ffn_up.1.weight is missing"},
    {EXPERT "1.down_proj", EXPERT "2.down_proj", PM_ERR_FILE, "blk.0.ffn_down.1.weight is missing"},
    {EXPERT "1.down_proj", EXPERT "01.down_proj", PM_ERR_FILE, "blk.0.ffn_down.1.weight is missing"},
    {EXPERT "1.down_proj", EXPERT "0.down_proj", PM_ERR_FILE, "blk.0.ffn_down.0.weight is there twice"},
    {EXPERT "0.gate_proj.weight", EXPERT "gate_up_proj", PM_ERR_FILE,
     "ffn_gate_up_exps.weight is (64, 32), the config implies (2, 128"},
    {EXPERT "0.down_proj.weight\":{\"dtype\":\"BF16\",\"shape\":[32,64]",
     EXPERT "0.down_proj.weight\":{\"dtype\":\"BF16\",\"shape\":[64,32]", PM_ERR_FILE,
     "ffn_down.0.weight is (64, 32), the config implies (32, 64)"},
    {"layers.0.mlp.gate.weight", "layers.0.mlp.gates.weight", PM_ERR_FILE, "blk.0.ffn_gate_inp.weight is missing"},
    {"layers.0.mlp.gate.weight", "layers.0.mlp.gate.weight", PM_OK, ""},
};

// Stacks of all experts.
static const text_case fused_cases[] = {
    {EXPERT "gate_up_proj", EXPERT "gate_up_proj_", PM_ERR_FILE, "blk.0.ffn_gate_exps.weight is missing"},
    {EXPERT "down_proj", EXPERT "down_proj.weight", PM_ERR_FILE, "blk.0.ffn_down_exps.weight is missing"},
    {"[2,128,32]", "[2,32,128]", PM_ERR_FILE, "ffn_gate_up_exps.weight is (2, 32, 128), the config implies (2, 128, 32)"},
    {"[2,128,32]", "[4,64,32]", PM_ERR_FILE, "ffn_gate_up_exps.weight is (4, 64, 32), the config implies (2, 128, 32)"},
    {"[2,32,64]", "[64,64]", PM_ERR_FILE, "ffn_down_exps.weight is (64, 64), the config implies (2, 32, 64)"},
};

static bool line_holds(const char *choice) { // "a|b": either
    const char *bar = strchr(choice, '|');
    char first[100];
    snprintf(first, sizeof(first), "%.*s", (int)(bar ? bar - choice : (long)strlen(choice)), choice);
    return strstr(pm_error_text(), first) || (bar && strstr(pm_error_text(), bar + 1));
}

static void open_is(const text_case *c) {
    pm_file *file;
    pm_status status = pm_file_open(temp_folder, &file);
    pm_file_close(&file);
    if (status != c->status || (status != PM_OK && !line_holds(c->line)))
        fail_msg("%s -> %s: wanted %d \"%s\", got %d: %s", c->from, c->to, c->status, c->line, status,
                 status ? pm_error_text() : "");
}

static void write_header(const bytes *seed, const text_case *c) {
    uint64_t n;
    memcpy(&n, seed->p, 8);
    bytes header = {0}, out = {0};
    put(&header, seed->p + 8, (size_t)n);
    replace(&header, c->from, c->to);
    put_number(&out, header.n, 8);
    put(&out, header.p, header.n);
    put(&out, seed->p + 8 + n, seed->n - 8 - (size_t)n);
    temp_write("model.safetensors", out.p, out.n);
    bytes_close(&header);
    bytes_close(&out);
}

// Changes the header of a seed, case by case, beside the config that it belongs to.
static void try_headers(const char *config, const char *name, const text_case *cases, size_t n) {
    bytes text = read_seed(config, 1), seed = read_seed(name, 0);
    temp_write("config.json", text.p, text.n);
    for (size_t i = 0; i < n; i++) {
        write_header(&seed, &cases[i]);
        open_is(&cases[i]);
    }
    bytes_close(&text);
    bytes_close(&seed);
}

static void changed_safetensors_is_refused(void **state) {
    (void)state;
    write_folder();
    try_headers("json/config-new", "safetensors/BF16", header_cases, sizeof(header_cases) / sizeof(header_cases[0]));
    bytes seed = read_seed("safetensors/BF16", 0);
    static const uint64_t lengths[] = {0, 1, UINT64_MAX, UINT64_MAX - 7, UINT64_C(1) << 40, 8};
    for (size_t i = 0; i < 6; i++) {
        memcpy(seed.p, &lengths[i], 8);
        temp_write("model.safetensors", seed.p, seed.n);
        refused(temp_folder, PM_ERR_FILE, "model.safetensors");
    }
    bytes_close(&seed);
    try_headers("json/config-experts", "safetensors/experts", expert_cases, sizeof(expert_cases) / sizeof(expert_cases[0]));
    try_headers("json/config-experts", "safetensors/experts-fused", fused_cases, sizeof(fused_cases) / sizeof(fused_cases[0]));
    write_folder();
    seed = read_seed("safetensors/BF16", 0);
    put(&seed, "x", 1);
    temp_write("model.safetensors", seed.p, seed.n);
    refused(temp_folder, PM_ERR_FILE, "1 bytes after the last tensor");
    bytes_close(&seed);
}

// ---- the JSON files --------------------------------------------------------------------------------------------------

static void write_seed(const char *seed, size_t skip, const char *name) {
    bytes b = read_seed(seed, skip);
    temp_write(name, b.p, b.n);
    bytes_close(&b);
}

// Changes `name`, made from its seed, case by case.
static void change_texts(const char *name, const char *seed, const text_case *cases, size_t n) {
    for (size_t i = 0; i < n; i++) {
        bytes b = read_seed(seed, 1);
        replace(&b, cases[i].from, cases[i].to);
        temp_write(name, b.p, b.n);
        open_is(&cases[i]);
        bytes_close(&b);
    }
}

static void try_texts(const char *name, const char *seed, const text_case *cases, size_t n) {
    write_folder();
    change_texts(name, seed, cases, n);
}

static const text_case config_cases[] = {
    {"\"hidden_size\":32", "\"hidden_size\":\"32\"", PM_ERR_FILE, "hidden_size is not a number"},
    {"\"hidden_size\":32", "\"hidden_size\":32.5", PM_ERR_FILE, "hidden_size is 32.5, not an integer"},
    {"\"hidden_size\":32", "\"hidden_size\":1e300", PM_ERR_FILE, "hidden_size is 1e+300"},
    {"\"hidden_size\":32", "\"hidden_size\":-32", PM_ERR_FILE, "hidden_size is -32"},
    {"\"hidden_size\":32", "\"hidden_size\":1e999", PM_ERR_FILE, "hidden_size is inf"},
    {"\"hidden_size\":32", "\"hidden_size\":null", PM_ERR_FILE, "hidden_size is missing or 0"},
    {"\"hidden_size\":32", "\"hidden_size\":[9999999999999999999999999999999999999999999999912345678901234567]", PM_ERR_FILE,
     "hidden_size"},
    {"\"vocab_size\":8", "\"vocab_size\":9", PM_ERR_FILE, "token_embd.weight is (8, 32), the config implies (9, 32)"},
    {"\"vocab_size\":8", "\"vocab_size\":0", PM_ERR_FILE, "vocab_size is missing or 0"},
    {"\"num_hidden_layers\":1", "\"num_hidden_layers\":3", PM_ERR_FILE, "blk.1.attn_norm.weight is missing"},
    {"\"num_key_value_heads\":1", "\"num_key_value_heads\":3", PM_ERR_FILE, "2 query heads cannot share 3"},
    {"\"num_key_value_heads\":1", "\"num_key_value_heads\":null", PM_ERR_FILE,
     "attn_k.weight is (16, 32), the config implies (32, 32)"},
    {"\"head_dim\":16", "\"head_dim\":17", PM_ERR_FILE, "head dimension of 17"},
    {"\"head_dim\":16", "\"head_dim\":null", PM_ERR_FILE, "the config implies"}, // 128, Qwen3's own default
    {"\"tie_word_embeddings\":true", "\"tie_word_embeddings\":false", PM_ERR_FILE, "output.weight is missing"},
    {"\"tie_word_embeddings\":true", "\"tie_word_embeddings\":1", PM_ERR_FILE, "tie_word_embeddings is not true or false"},
    {"Qwen3ForCausalLM", "Qwen3NextForCausalLM", PM_ERR_UNSUPPORTED,
     "architecture Qwen3NextForCausalLM is not supported; supported are qwen3"},
    {"Qwen3ForCausalLM", "Qwen3MoeForCausalLM", PM_ERR_FILE, "the number of experts"},
    {"\"head_dim\":16", "\"head_dim\":16,\"num_experts\":4", PM_ERR_UNSUPPORTED, "a qwen3 model with 4 experts"},
    {"Qwen3ForCausalLM", "Qwen3ForSequenceClassification", PM_ERR_UNSUPPORTED, "Qwen3ForSequenceClassification"},
    {"Qwen3ForCausalLM", "LlamaForCausalLM", PM_ERR_UNSUPPORTED, "attn_k_norm.weight is not part of a llama model"},
    {"Qwen3ForCausalLM", "Qwen2ForCausalLM", PM_ERR_FILE, "blk.0.attn_q.bias is missing"},
    {"[\"Qwen3ForCausalLM\"]", "null", PM_OK, ""},
    {"[\"Qwen3ForCausalLM\"]", "[7]", PM_ERR_FILE, "architectures"},
    {"[\"Qwen3ForCausalLM\"]", "\"Qwen3ForCausalLM\"", PM_ERR_FILE, "architectures is not a list"},
    {"\"hidden_act\":\"silu\"", "\"hidden_act\":\"gelu\"", PM_ERR_UNSUPPORTED, "hidden_act gelu"},
    {"\"use_sliding_window\":false", "\"use_sliding_window\":true", PM_ERR_UNSUPPORTED, "use_sliding_window"},
    {"\"use_sliding_window\":false", "\"attention_bias\":true", PM_ERR_UNSUPPORTED, "attention_bias"},
    {"\"use_sliding_window\":false", "\"quantization_config\":{\"quant_method\":\"gptq\"}", PM_ERR_UNSUPPORTED,
     "quantization gptq is not supported; supported are fp8"},
    {"full_attention", "sliding_attention", PM_ERR_UNSUPPORTED, "sliding_attention layers"},
    {"\"rope_type\":\"yarn\"", "\"type\":\"yarn\"", PM_OK, ""},
    {"\"rope_type\":\"yarn\"", "\"rope_type\":\"llama3\"", PM_ERR_UNSUPPORTED, "rope type llama3"},
    {"\"rope_type\":\"yarn\"", "\"rope_type\":7", PM_ERR_FILE, "rope_type is not a string"},
    {"\"rope_type\":\"yarn\"", "\"rope_type\":\"yarn\",\"beta_fast\":1", PM_ERR_FILE, "beta_fast"},
    {"\"factor\":4.0", "\"factor\":-4.0", PM_ERR_FILE, "factor is -4"},
    {"\"factor\":4.0", "\"factor\":1e-9", PM_ERR_FILE, "factor is 1e-09"},
    {"\"rope_theta\":1000000.0", "\"rope_theta\":0", PM_ERR_FILE, "rope_theta is 0"},
    {"\"rope_parameters\":{", "\"rope_parameters\":{\"full_attention\":{},", PM_ERR_UNSUPPORTED, "by kind of layer"},
    {"\"rope_parameters\":{", "\"rope_parameters\":{\"partial_rotary_factor\":0.5,", PM_ERR_UNSUPPORTED,
     "partial_rotary_factor 0.5"},
    {"\"eos_token_id\":[5,3]", "\"eos_token_id\":[5,\"3\"]", PM_ERR_FILE, "eos_token_id"},
    {"\"eos_token_id\":[5,3]", "\"eos_token_id\":[0,1,2,3,4,5,6,7,8]", PM_ERR_UNSUPPORTED, "more than 8"},
    {"\"eos_token_id\":[5,3]", "\"eos_token_id\":1e10", PM_ERR_FILE, "eos_token_id"},
    {"{\"architectures\"", "[{\"architectures\"", PM_ERR_FILE, "config.json: not valid JSON"},
    {"{\"architectures\"", "{\"a\":[9999999999999999999999999999999999999999999999912345678901234567],\"architectures\"", PM_OK,
     ""},
};

static const text_case expert_config_cases[] = {
    {"\"num_experts\":2", "\"num_local_experts\":2", PM_OK, ""},
    {"\"num_experts\":2", "\"num_experts\":1", PM_ERR_FILE, "2 experts are to be used for a token, and there are 1"},
    {"\"num_experts\":2", "\"num_experts\":3", PM_ERR_FILE, "ffn_gate_inp.weight is (2, 32), the config implies (3, 32)"},
    {"\"num_experts\":2", "\"num_experts\":null", PM_ERR_FILE, "the number of experts, or of those used for a token, is missing"},
    {"\"num_experts\":2", "\"num_experts\":2.5", PM_ERR_FILE, "num_experts is 2.5"},
    {"\"num_experts_per_tok\":2", "\"num_experts_per_tok\":0", PM_ERR_FILE, "the number of experts, or of those used for a token"},
    {"\"num_experts_per_tok\":2", "\"num_experts_per_tok\":3", PM_ERR_FILE, "3 experts are to be used for a token"},
    {"\"moe_intermediate_size\":64", "\"moe_intermediate_size\":32", PM_ERR_FILE,
     "ffn_down.0.weight is (32, 64), the config implies (32, 32)"},
    {"\"moe_intermediate_size\":64", "\"moe_intermediate_size\":null", PM_ERR_FILE, "the config implies (32, 16)"},
    {"\"norm_topk_prob\":true", "\"norm_topk_prob\":1", PM_ERR_FILE, "norm_topk_prob is not true or false"},
    {"\"decoder_sparse_step\":1", "\"decoder_sparse_step\":2", PM_ERR_FILE, "blk.0.ffn_gate.weight is missing"},
    {"\"decoder_sparse_step\":1", "\"decoder_sparse_step\":0", PM_ERR_FILE, "blk.0.ffn_gate.weight is missing"},
    {"\"mlp_only_layers\":[]", "\"mlp_only_layers\":[0]", PM_ERR_FILE, "blk.0.ffn_gate.weight is missing"},
    {"\"mlp_only_layers\":[]", "\"mlp_only_layers\":[1]", PM_ERR_FILE, "mlp_only_layers holds something that is no layer"},
    {"\"mlp_only_layers\":[]", "\"mlp_only_layers\":0", PM_ERR_FILE, "mlp_only_layers is not a list"},
    {"Qwen3MoeForCausalLM", "Qwen3ForCausalLM", PM_ERR_UNSUPPORTED, "a qwen3 model with 2 experts is not supported"},
    {"[\"Qwen3MoeForCausalLM\"]", "null", PM_OK, ""},
};

static const text_case generation_cases[] = {
    {"\"temperature\":0.6", "\"temperature\":-1", PM_ERR_FILE, "temperature is -1"},
    {"\"temperature\":0.6", "\"temperature\":1e999", PM_ERR_FILE, "temperature is inf"},
    {"\"temperature\":0.6", "\"temperature\":0", PM_OK, ""},
    {"\"top_k\":20", "\"top_k\":2.5", PM_ERR_FILE, "top_k is 2.5"},
    {"\"top_k\":20", "\"top_k\":1e12", PM_ERR_FILE, "top_k is 1e+12"},
    {"\"top_p\":0.95", "\"top_p\":1.5", PM_ERR_FILE, "top_p is 1.5"},
    {"\"do_sample\":true", "\"do_sample\":\"yes\"", PM_ERR_FILE, "do_sample"},
    {"\"pad_token_id\":3", "\"pad_token_id\":3000", PM_OK, ""}, // foreign ids are dropped with a warning
};

static const text_case tokenizer_cases[] = {
    {"\"type\":\"BPE\"", "\"type\":\"Unigram\"", PM_ERR_UNSUPPORTED, "tokenizer model Unigram is not supported"},
    {"\"type\":\"BPE\"", "\"type\":\"WordPiece\"", PM_ERR_UNSUPPORTED, "WordPiece"},
    {"\"type\":\"BPE\",", "", PM_OK, ""},
    {"\"byte_fallback\":false", "\"byte_fallback\":true", PM_ERR_UNSUPPORTED, "byte_fallback"},
    {"\"byte_fallback\":false", "\"end_of_word_suffix\":\"</w>\"", PM_ERR_UNSUPPORTED, "subword affixes"},
    {"\"type\":\"NFC\"", "\"type\":\"Lowercase\"", PM_ERR_UNSUPPORTED, "normalizer Lowercase"},
    {"{\"type\":\"NFC\"}", "{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"}]}", PM_OK, ""},
    {"{\"type\":\"NFC\"}", "null", PM_OK, ""},
    {"\"type\":\"Split\"", "\"type\":\"Metaspace\"", PM_ERR_UNSUPPORTED, "pre-tokenizer Metaspace"},
    {"\"Regex\":", "\"String\":", PM_ERR_UNSUPPORTED, "Split without one regex"},
    {"\"behavior\":\"Isolated\"", "\"behavior\":\"MergedWithNext\"", PM_ERR_UNSUPPORTED, "MergedWithNext"},
    {"\"use_regex\":false", "\"use_regex\":true", PM_ERR_UNSUPPORTED, "combination"},
    {"\"add_prefix_space\":false", "\"add_prefix_space\":true", PM_ERR_UNSUPPORTED, "add_prefix_space"},
    {"\"pre_tokenizer\"", "\"pre_tokenizer_\"", PM_ERR_UNSUPPORTED, "without pre_tokenizer"},
    {"\"a\":0", "\"a\":-1", PM_ERR_FILE, "token a has no id"},
    {"\"a\":0", "\"a\":1", PM_ERR_FILE, "two tokens have the id 1"},
    {"\"a\":0", "\"a\":0.5", PM_ERR_FILE, "token a has no id"},
    {"\"a\":0", "\"a\":1e300", PM_ERR_FILE, "token a has no id"},
    {"\"a\":0", "\"a\":8", PM_ERR_FILE, "token id 8 is beyond the model's vocabulary of 8"},
    {"\"a\":0", "\"a\":\"0\"", PM_ERR_FILE, "token a has no id"},
    {"\"a\":0", "\"a\":7", PM_OK, ""}, // a hole at 0
    {"\"id\":6", "\"id\":6000000000", PM_ERR_FILE, "has no id"},
    {"\"content\":\"<think>\"", "\"content\":\"\"", PM_ERR_FILE, "no content"},
    {"\"content\":\"<think>\"", "\"content\":\"\\u0000\"", PM_ERR_FILE, "no content"},
    {"[\"a\",\"b\"]", "[\"a\"]", PM_ERR_FILE, "not a pair"},
    {"[\"a\",\"b\"]", "[\"a\",\"b\",\"c\"]", PM_ERR_FILE, "not a pair"},
    {"[\"a\",\"b\"]", "[\"a\",\"\"]", PM_ERR_FILE, "empty side"},
    {"[\"a\",\"b\"]", "\"a b\"", PM_OK, ""},
    {"[\"a\",\"b\"]", "\"a b c\"", PM_ERR_FILE, "not a pair"},
    {"[\"a\",\"b\"]", "\"ab\"", PM_ERR_FILE, "not a pair"},
    {"[\"a\",\"b\"]", "\" ab\"", PM_ERR_FILE, "not a pair"},
    {"\"merges\"", "\"merges_\"", PM_ERR_FILE, "merges is not a list"},
    {"\"vocab\"", "\"vocab_\"", PM_ERR_FILE, "vocab is not an object"},
    {"\"model\"", "\"model_\"", PM_ERR_FILE, "no model"},
};

static const text_case tokenizer_config_cases[] = {
    {"[{\"name\":\"default\",\"template\":\"{{ x }}\"}]", "7", PM_ERR_FILE, "chat_template is not a string"},
    {"\"template\"", "\"templat\"", PM_ERR_FILE, "chat_template"},
    {"[{\"name\":\"default\",\"template\":\"{{ x }}\"}]", "[7]", PM_ERR_FILE, "chat_template"},
    {"[{\"name\":\"default\",\"template\":\"{{ x }}\"}]", "[]", PM_OK, ""},
};

static void changed_json_is_refused(void **state) {
    (void)state;
    try_texts("config.json", "json/config-new", config_cases, sizeof(config_cases) / sizeof(config_cases[0]));
    write_folder();
    write_seed("safetensors/experts", 0, "model.safetensors");
    change_texts("config.json", "json/config-experts", expert_config_cases,
                 sizeof(expert_config_cases) / sizeof(expert_config_cases[0]));
    try_texts("generation_config.json", "json/generation", generation_cases,
              sizeof(generation_cases) / sizeof(generation_cases[0]));
    try_texts("tokenizer.json", "json/tokenizer-pairs", tokenizer_cases, sizeof(tokenizer_cases) / sizeof(tokenizer_cases[0]));
    try_texts("tokenizer_config.json", "json/tokenizer-config-list", tokenizer_config_cases,
              sizeof(tokenizer_config_cases) / sizeof(tokenizer_config_cases[0]));
}

static void deep_nesting_is_safe(void **state) {
    (void)state;
    enum { DEPTH = 1 << 20 };
    static char deep[2][DEPTH];
    memset(deep[0], '[', DEPTH);
    for (size_t i = 0; i + 5 <= DEPTH; i += 5)
        memcpy(deep[1] + i, "{\"a\":", 5);
    for (int i = 0; i < 2; i++)
        for (size_t part = 0; part < 4; part++) {
            write_folder();
            temp_write(folder_parts[part][0], deep[i], DEPTH);
            refused(temp_folder, PM_ERR_FILE, folder_parts[part][0]);
        }
}

// ---- no memory -------------------------------------------------------------------------------------------------------

// Every allocation in turn is the first to fail; the sanitizer sees what is not given back.
static void opens_or_says_no_memory(const char *path) {
    long n = 1;
    for (;; n++) {
        pm_file *file;
        pm_alloc_fail_after(n);
        pm_status status = pm_file_open(path, &file);
        pm_alloc_fail_after(0);
        pm_file_close(&file);
        if (status == PM_OK)
            break;
        if (status != PM_ERR_MEMORY)
            fail_msg("%s: allocation %ld: %d %s", path, n, status, pm_error_text());
        assert_true(n < 100000);
    }
    assert_true(n > 5);
}

static void no_memory_is_a_status(void **state) {
    (void)state;
    write_folder();
    temp_text("chat_template.jinja", "{{ y }}");
    opens_or_says_no_memory(temp_folder);
    temp_remove("chat_template.jinja");
    opens_or_says_no_memory(SEEDS "gguf/Q4_0");
    opens_or_says_no_memory(SEEDS "gguf/experts");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(folder_is_good),          cmocka_unit_test(truncated_files_are_refused),
        cmocka_unit_test(changed_gguf_is_refused), cmocka_unit_test(cut_blocks_are_refused_in_every_type),
        cmocka_unit_test(doubled_name_is_refused), cmocka_unit_test(changed_safetensors_is_refused),
        cmocka_unit_test(changed_json_is_refused), cmocka_unit_test(deep_nesting_is_safe),
        cmocka_unit_test(no_memory_is_a_status),
    };
    pm_log_to(quiet, NULL);
    return cmocka_run_group_tests(tests, temp_open, temp_close);
}
