// Quantized checkpoints in safetensors against numpy's and ml_dtypes' dequantization of the same files
// (tests/make_quantized_data.py): every value bit for bit, logits of the forward pass on top of them; that they stay narrow on the
// device; and files that are not in order.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "loader_model.h"
#include "model_data.h"

static const char *const names[] = {"fp8", "awq-128", "awq-32", "fp8-moe", "awq-moe"};

static const char *quantized(const char *name, const char *file) {
    static char path[512];
    snprintf(path, sizeof(path), PM_TEST_DATA "/quantized/%s/%s", name, file);
    return path;
}

// ---- values -----------------------------------------------------------------------------------------------------------------

static uint64_t hash(uint64_t h, const float *values, size_t n) {
    for (size_t i = 0; i < n; i += 2) {
        uint64_t word;
        memcpy(&word, values + i, sizeof(word));
        h = (h ^ word) * UINT64_C(0x100000001b3);
    }
    return h;
}

static void wants_hash(const pm_file *file, const char *name, const char *want) {
    const pm_tensor_view *t = pm_file_find(file, name);
    char have[32];
    size_t n;
    assert_non_null(t);
    float *values = floats_of(t, &n);
    snprintf(have, sizeof(have), "%016llx", (unsigned long long)hash(UINT64_C(0xcbf29ce484222325), values, n));
    if (strcmp(have, want) != 0)
        fail_msg("%s: %s, wanted is %s", name, have, want);
    free(values);
}

// gguf's name of "model.layers.0.mlp.experts.3.up_proj.weight": "blk.0.ffn_up.3.weight", and so on.
static void gguf_name(const char *hf, char *out, size_t size) {
    static const char *const both[][2] = {
        {"self_attn.q_proj", "attn_q"},      {"self_attn.k_proj", "attn_k"}, {"self_attn.v_proj", "attn_v"},
        {"self_attn.o_proj", "attn_output"}, {"mlp.gate_proj", "ffn_gate"},  {"mlp.up_proj", "ffn_up"},
        {"mlp.down_proj", "ffn_down"},
    };
    char what[64], plain[80], number[16] = "";
    unsigned expert;
    assert_int_equal(strncmp(hf, "model.layers.0.", 15), 0);
    snprintf(plain, sizeof(plain), "%s", hf + 15);
    if (sscanf(hf + 15, "mlp.experts.%u.%63s", &expert, what) == 2) {
        snprintf(plain, sizeof(plain), "mlp.%s", what);
        snprintf(number, sizeof(number), ".%u", expert);
    }
    plain[strlen(plain) - strlen(".weight")] = 0;
    size_t k = 0;
    while (k < COUNT(both) && strcmp(plain, both[k][0]) != 0)
        k++;
    assert_true(k < COUNT(both));
    snprintf(out, size, "blk.0.%s%s.weight", both[k][1], number);
}

static void values_are_others(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(names); i++) {
        cJSON *root = read_json(quantized(names[i], "reference.json"));
        pm_file *file = open_model(quantized(names[i], ""));
        const cJSON *want;
        assert_true(cJSON_GetArraySize(member(root, "hashes")) >= 6);
        cJSON_ArrayForEach(want, member(root, "hashes")) {
            char name[96];
            gguf_name(want->string, name, sizeof(name));
            wants_hash(file, name, want->valuestring);
        }
        pm_file_close(&file);
        cJSON_Delete(root);
    }
}

// ---- logits -----------------------------------------------------------------------------------------------------------------

static void compare(const char *name, pm_precision precision, double bound) {
    size_t size;
    float *logits;
    cJSON *root = read_json(quantized(name, "reference.json"));
    MUST(pm_file_read(quantized(name, "reference.f32"), 1 << 20, (char **)&logits, &size));
    pm_model *model = model_at(quantized(name, ""), false);
    pm_session *session = session_of(model, (pm_session_options){.ctx = 64, .precision = precision});
    uint32_t vocab = pm_model_config(model)->vocab_size;
    for (int i = 0; i < cJSON_GetArraySize(member(root, "cases")); i++) {
        const cJSON *item = cJSON_GetArrayItem(member(root, "cases"), i);
        size_t n, n_greedy;
        int32_t *ids = ids_of(item, "ids", &n), *greedy = ids_of(item, "greedy", &n_greedy), got[8];
        assert_int_equal(n_greedy, COUNT(got));
        assert_close(eval(session, 0, ids, n), logits + (size_t)i * vocab, vocab, bound, name, (size_t)i);
        pm_session_rewind(session, 0, 0);
        generate(session, 0, ids, n, &(pm_sampler){0}, got, COUNT(got));
        assert_memory_equal(got, greedy, sizeof(got));
        pm_session_rewind(session, 0, 0);
        free(ids);
        free(greedy);
    }
    pm_session_close(&session);
    pm_model_close(&model);
    pm_free(logits);
    cJSON_Delete(root);
}

static void logits_are_others(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(names); i++) {
        compare(names[i], PM_PRECISION_F32, BOUND_F32);
        compare(names[i], PM_PRECISION_F16, BOUND_F16);
    }
}

// On the device a quantized matrix takes what its type says: no float, no half of it.
static void weights_stay_narrow(void **state) {
    static const double bits[] = {8.5, 4.5, 6, 8.5, 6};
    (void)state;
    for (size_t i = 0; i < COUNT(names); i++) {
        pm_file *file = open_model(quantized(names[i], ""));
        pm_model *model = model_at(quantized(names[i], ""), false);
        size_t n;
        double most = 0;
        const pm_tensor_view *t = pm_file_tensors(file, &n);
        for (size_t k = 0; k < n; k++)
            most += 512 + (double)(t[k].dims[0] * t[k].dims[1]) * (t[k].n_dims == 1 ? 32 : t[k].made ? bits[i] : 16) / 8;
        assert_true((double)pm_model_weight_bytes(model) < most);
        pm_model_close(&model);
        pm_file_close(&file);
    }
}

// ---- files that are not in order ----------------------------------------------------------------------------------------------

static bytes read_file(const char *path) {
    char *data;
    size_t n;
    bytes b = {0};
    MUST(pm_file_read(path, 4 << 20, &data, &n));
    put(&b, data, n);
    pm_free(data);
    return b;
}

typedef struct bad_case {
    const char *name, *file, *from, *to; // of the same length in model.safetensors
    pm_status status;
    const char *line;
} bad_case;

static const bad_case bad_cases[] = {
    {"fp8", "config.json", "\"fp8\"", "\"fp4\"", PM_ERR_UNSUPPORTED,
     "quantization fp4 is not supported; supported are fp8 (e4m3) and awq"},
    {"fp8", "config.json", "\"e4m3\"", "\"e5m2\"", PM_ERR_UNSUPPORTED, "format e5m2"},
    {"fp8", "config.json", "weight_block_size", "weight_block", PM_ERR_UNSUPPORTED, "without a weight_block_size"},
    {"fp8", "config.json", "quantization_config", "comment", PM_ERR_UNSUPPORTED, "no quantization_config"},
    {"fp8", "config.json", "128,\n   128", "128,\n   64", PM_ERR_UNSUPPORTED, "blocks of 64 columns"},
    {"fp8", "config.json", "128,\n   128", "64,\n   128", PM_ERR_FILE, "its weight_scale_inv is ("},
    {"fp8", "model.safetensors", "q_proj.weight_scale_inv", "q_proj.weight_scale_ixv", PM_ERR_FILE,
     "its weight_scale_inv is missing"},
    {"fp8", "model.safetensors", "q_proj.weight_scale_inv", "k_proj.weight_scale_inv", PM_ERR_FILE, "twice"},
    {"fp8", "model.safetensors", "\"BF16\",\"shape\":[10,2]", "\"I16\" ,\"shape\":[10,2]", PM_ERR_FILE, "of type I16 do not take"},
    {"awq-128", "config.json", "\"bits\": 4", "\"bits\": 8", PM_ERR_UNSUPPORTED, "8 bits"},
    {"awq-128", "config.json", "\"gemm\"", "\"gemv\"", PM_ERR_UNSUPPORTED, "version gemv"},
    {"awq-128", "config.json", "\"zero_point\": true", "\"zero_point\": false", PM_ERR_UNSUPPORTED, "without zero points"},
    {"awq-128", "config.json", "\"group_size\": 128", "\"group_size\": 48", PM_ERR_UNSUPPORTED, "groups of 48"},
    {"awq-128", "config.json", "\"group_size\": 128", "\"group_size\": 96", PM_ERR_FILE, "no multiple of AWQ's block of 96"},
    {"awq-128", "config.json", "\"group_size\": 128", "\"group_size\": 64", PM_ERR_FILE, "its qzeros is ("},
    {"awq-128", "model.safetensors", "q_proj.qzeros", "q_proj.qzerox", PM_ERR_FILE, "its qzeros is missing"},
    {"awq-128", "model.safetensors", "q_proj.scales", "q_proj.scalex", PM_ERR_FILE, "its scales is missing"},
    {"awq-128", "model.safetensors", "\"I32\",\"shape\":[128,64]", "\"F32\",\"shape\":[128,64]", PM_ERR_FILE, "wanted is I32"},
    {"awq-32", "config.json", "\"awq\"", "\"fp8\"", PM_ERR_UNSUPPORTED, "without a weight_block_size"},
};

static void run_bad(const bad_case *c) {
    static const char *const files[] = {"config.json", "model.safetensors"};
    for (size_t i = 0; i < COUNT(files); i++) {
        bytes b = read_file(quantized(c->name, files[i]));
        if (strcmp(files[i], c->file) == 0)
            replace(&b, c->from, c->to);
        temp_write(files[i], b.p, b.n);
        bytes_close(&b);
    }
    refused(temp_folder, c->status, c->line);
}

static void bad_files_are_refused(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(bad_cases); i++)
        run_bad(&bad_cases[i]);
}

static void without_memory(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(names); i++) {
        pm_status status = PM_ERR_MEMORY;
        for (long n = 1; status != PM_OK && n < 10000; n++) {
            pm_file *file;
            pm_alloc_fail_after(n);
            status = pm_file_open(quantized(names[i], ""), &file);
            pm_alloc_fail_after(0);
            assert_true(status == PM_OK || status == PM_ERR_MEMORY);
            pm_file_close(&file);
        }
        assert_int_equal(status, PM_OK);
    }
}

int main(void) {
    int status = open_device_or_skip();
    if (status)
        return status;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_are_others),     cmocka_unit_test(logits_are_others), cmocka_unit_test(weights_stay_narrow),
        cmocka_unit_test(bad_files_are_refused), cmocka_unit_test(without_memory),
    };
    status = cmocka_run_group_tests(tests, temp_open, temp_close);
    pm_device_close(&dev);
    return status;
}
