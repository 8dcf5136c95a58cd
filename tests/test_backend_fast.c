// --precision fast: products that round activations to bytes stay near the floats of the same weights. The bundled model in each
// type that has such products, and mixes of them; PM_FAST_MODEL names another model, as tests/peer.sh does.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "host/ops.h"
#include "loader/quantize.h"
#include "model_data.h"
#include "temp.h"

enum { N_IDS = 128, BATCH = 8 };
#define BOUND_KL 1e-3 // mean over positions: what the issue allows

static const char *model_path(void) {
    const char *path = getenv("PM_FAST_MODEL");
    return path ? path : TINY;
}

// The model in another type, as a file in the folder of the test.
static pm_model *quantized(const char *type) {
    const char *path = temp_path("model.gguf");
    pm_quantize_options options = {.type = type};
    pm_quantize_result result;
    pm_file *file;
    MUST(pm_file_open(model_path(), &file));
    MUST(pm_quantize(file, path, &options, &result));
    pm_file_close(&file);
    return model_at(path, false);
}

// The first ids of a text.
static size_t text_ids(const pm_model *model, int32_t ids[N_IDS]) {
    char *text;
    size_t size, n;
    int32_t *all;
    MUST(pm_file_read(PM_TEST_DATA "/perplexity.txt", 1 << 20, &text, &size));
    MUST(pm_tokenizer_encode(pm_model_tokenizer(model), text, size, 0, &all, &n));
    n = n < N_IDS ? n : N_IDS;
    memcpy(ids, all, n * sizeof(*ids));
    pm_free(all);
    pm_free(text);
    return n / BATCH * BATCH;
}

// Of softmax(got) from softmax(want).
static double divergence(const float *want, const float *got, uint32_t n) {
    double most[2] = {want[0], got[0]}, sum[2] = {0, 0}, kl = 0;
    for (uint32_t i = 1; i < n; i++) {
        most[0] = fmax(most[0], (double)want[i]);
        most[1] = fmax(most[1], (double)got[i]);
    }
    for (uint32_t i = 0; i < n; i++) {
        sum[0] += exp(want[i] - most[0]);
        sum[1] += exp(got[i] - most[1]);
    }
    for (uint32_t i = 0; i < n; i++) {
        double p = want[i] - most[0] - log(sum[0]), q = got[i] - most[1] - log(sum[1]);
        kl += exp(p) * (p - q);
    }
    return kl;
}

typedef struct divergences {
    double mean, most;
} divergences;

// Ids by batches of `step`, in both sessions.
static divergences compare(const pm_model *model, pm_session *want, pm_session *got, const int32_t *ids, size_t n, int step) {
    divergences d = {0, 0};
    uint32_t vocab = pm_model_config(model)->vocab_size, stride = pm_session_logits_stride(want);
    pm_session_rewind(want, 0, 0);
    pm_session_rewind(got, 0, 0);
    for (size_t i = 0; i < n; i += (size_t)step) {
        pm_batch_row rows[BATCH];
        const float *a, *b;
        for (int k = 0; k < step; k++)
            rows[k] = (pm_batch_row){0, ids[i + (size_t)k]};
        MUST(pm_session_eval_batch(want, rows, step, &a));
        MUST(pm_session_eval_batch(got, rows, step, &b));
        for (int k = 0; k < step; k++) {
            double kl = divergence(a + (size_t)k * stride, b + (size_t)k * stride, vocab);
            d.mean += kl / (double)n;
            d.most = fmax(d.most, kl);
        }
    }
    return d;
}

static void check_type(const char *type) {
    int32_t ids[N_IDS];
    pm_model *model = quantized(type);
    size_t n = text_ids(model, ids);
    pm_session *floats = session_of(model, (pm_session_options){.ctx = N_IDS, .precision = PM_PRECISION_F32});
    pm_session *halves = session_of(model, (pm_session_options){.ctx = N_IDS});
    pm_session *fast = session_of(model, (pm_session_options){.ctx = N_IDS, .precision = PM_PRECISION_FAST});
    divergences h = compare(model, floats, halves, ids, n, BATCH), d = compare(model, floats, fast, ids, n, BATCH);
    print_message("%-7s KL of %d positions: %.2e, at most %.2e; with a cache in halves alone %.2e\n", type, (int)n, d.mean, d.most,
                  h.mean);
    assert_true(d.mean < BOUND_KL);
    assert_true(d.mean > 1.5 * h.mean); // it was done
    pm_session_close(&floats);
    pm_session_close(&halves);
    pm_session_close(&fast);
    pm_model_close(&model);
    temp_remove("model.gguf");
}

static void open_with_dots(const char *tiles) {
    setenv("PM_DOTS", "1", 1);
    override_device("PM_TILES", tiles);
    unsetenv("PM_DOTS");
}

static void every_type_stays_near(void **state) {
    static const char *const types[] = {"Q8_0", "Q4_K_M", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q5_K_M", "Q6_K"};
    (void)state;
    if (!pm_ceiling_has(dev, PM_INT8_DOT)) {
        print_message("%s, or the GLSL compiler of this build, has no packed dot products\n", pm_device_get_info(dev)->name);
        skip();
    }
    open_with_dots("0");
    for (size_t i = 0; i < (getenv("PM_FAST_MODEL") ? 2 : COUNT(types)); i++)
        check_type(types[i]);
}

int main(void) {
    int skip = open_device_or_skip();
    if (skip)
        return skip;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(every_type_stays_near, restore_device),
    };
    int failed = cmocka_run_group_tests(tests, temp_open, temp_close);
    pm_device_close(&dev);
    return failed;
}
