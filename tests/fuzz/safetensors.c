// A safetensors file from memory, for the config that the seeds have (tests/make_loader_data.py).
#include "fuzz.h"

// The config is no part of the input: the names tell.
static bool has_experts(const uint8_t *data, size_t size) {
    static const char router[] = ".mlp.gate.";
    for (size_t i = 0; i + sizeof(router) - 1 <= size; i++)
        if (memcmp(data + i, router, sizeof(router) - 1) == 0)
            return true;
    return false;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    pm_file *file = fuzz_open(data, size);
    pm_config *c = &file->config;
    c->architecture = "qwen3";
    c->n_layers = 1;
    c->dim = c->ffn_dim = 32;
    c->n_heads = 2;
    c->n_kv_heads = 1;
    c->head_dim = 16;
    c->vocab_size = 8;
    c->max_ctx = 64;
    c->tied_head = size % 2 == 0; // both, without a byte of the input
    c->qk_norm = true;
    if (has_experts(data, size)) {
        c->architecture = "qwen3moe";
        c->n_experts = c->n_experts_used = 2;
        c->expert_ffn_dim = 64;
    }
    static const pm_quantization quantizations[] = {{0}, {PM_QUANT_FP8, 16, 128}, {PM_QUANT_AWQ, 1, 0}, {PM_QUANT_AWQ, 1, 32}};
    file->quantization = quantizations[size / 2 % 4];
    size_t sum = 0;
    if (pm_safetensors_read(file, &file->shards[0]) == PM_OK && pm_config_finish("fuzz", c) == PM_OK &&
        pm_file_finish(file, "fuzz") == PM_OK)
        sum = fuzz_use(file);
    fuzz_close(file);
    return fuzz_keep(sum);
}
