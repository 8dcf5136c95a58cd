// The JSON files: the first byte says which (config, generation_config, tokenizer, tokenizer_config, index, pooling), the rest is
// its text.
#include "fuzz.h"

#include <cjson/cJSON.h>

enum { VOCAB = 64 };

static size_t read_config(const cJSON *root, bool generation) {
    pm_config config;
    pm_config_init(&config);
    if (generation)
        return pm_hf_read_generation("fuzz", root, &config) == PM_OK;
    if (pm_hf_read_config("fuzz", root, &config) != PM_OK || pm_config_finish("fuzz", &config) != PM_OK)
        return 0;
    pm_quantization quantization;
    if (pm_hf_read_quantization("fuzz", root, &quantization) == PM_OK && quantization.method != PM_QUANT_NONE &&
        quantization.group_cols % 32)
        abort();
    if (config.n_heads % config.n_kv_heads || config.head_dim == 0 || config.head_dim % 2 || config.vocab_size == 0)
        abort();
    return 1;
}

static size_t read_tokenizer(const cJSON *root, bool only_config) {
    pm_arena arena = {0};
    pm_vocab_data vocab = {0};
    pm_str chat_template = {0};
    pm_status status = only_config ? pm_hf_read_tokenizer_config("fuzz", root, &arena, &vocab, &chat_template)
                                   : pm_hf_read_vocab("fuzz", root, &arena, VOCAB, &vocab);
    size_t sum = status == PM_OK ? fuzz_use_vocab(&vocab, VOCAB) + fuzz_touch(chat_template) : 0;
    pm_arena_close(&arena);
    return sum;
}

static size_t read_index(const cJSON *root) {
    pm_arena arena = {0};
    const char **names;
    size_t n, sum = 0;
    if (pm_safetensors_read_index("fuzz", root, &arena, &names, &n) == PM_OK)
        for (size_t i = 0; i < n; i++)
            sum += strlen(names[i]);
    pm_arena_close(&arena);
    return sum;
}

static size_t read_pooling(const cJSON *root) {
    pm_config config;
    pm_config_init(&config);
    return pm_hf_read_pooling("fuzz", root, &config) == PM_OK && config.pooling != PM_POOL_UNSAID;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    cJSON *root;
    pm_log_to(fuzz_silence, NULL);
    if (size == 0 || pm_json_parse("fuzz", (const char *)data + 1, size - 1, &root) != PM_OK)
        return 0;
    size_t sum = 0;
    switch (data[0] % 6) {
    case 0:
    case 1:
        sum = read_config(root, data[0] % 6 == 1);
        break;
    case 2:
    case 3:
        sum = read_tokenizer(root, data[0] % 6 == 3);
        break;
    case 4:
        sum = read_index(root);
        break;
    case 5:
        sum = read_pooling(root);
        break;
    }
    cJSON_Delete(root);
    return fuzz_keep(sum);
}
