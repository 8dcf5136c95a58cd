// What the tests of whole models share: the device, checkpoints with their goldens, comparisons. Include after cmocka.h.
#ifndef PM_TEST_MODEL_DATA_H
#define PM_TEST_MODEL_DATA_H

#include <math.h>
#include <string.h>

#include "backend/pumice.h"
#include "host/host.h"
#include "loader/loader.h"
#include "posix.h"
#include "text_data.h"

#define TINY         PM_TEST_DATA "/tiny-qwen3"
#define COUNT(array) (sizeof(array) / sizeof(*(array)))

// Of the largest |logit|: what the issue asks for.
#define BOUND_F32 0.0002
#define BOUND_F16 0.004

static const char *const checkpoints[] = {"qwen3-gqa5", "qwen3-hd64", "qwen3-yarn"};
enum { N_CASES = 4 };

static pm_device *dev;

// For main: a machine without a device skips the program.
static inline int open_device_or_skip(void) {
    pm_status status = pm_device_open(NULL, &dev);
    if (status == PM_OK)
        return 0;
    printf("%s\n", pm_error_text());
    return status == PM_ERR_NO_DEVICE ? 77 : 1;
}

// The device opened anew under an override of host/caps.h, until restore_device, which is a test's teardown.
static pm_device *usual_device;

static inline void override_device(const char *name, const char *value) {
    usual_device = dev;
    setenv(name, value, 1);
    MUST(pm_device_open(NULL, &dev));
    unsetenv(name);
}

static inline int restore_device(void **state) {
    (void)state;
    if (usual_device) {
        pm_device_close(&dev);
        dev = usual_device;
        usual_device = NULL;
    }
    return 0;
}

// ---- goldens ------------------------------------------------------------------------------------------------------------

typedef struct golden_case {
    int32_t *ids, *greedy;
    size_t n, n_greedy;
    float *logits; // (vocab) of the last id
} golden_case;

typedef struct golden {
    uint32_t vocab;
    golden_case cases[N_CASES];
    float *all_logits;
} golden;

// What transformers computed with inverse frequencies in bfloat16, or what tests/make_forward_data.py computed: in full precision,
// or as transformers but with a cache in half precision (of models with experts).
typedef enum golden_kind { TRANSFORMERS, REFERENCE, HALF_CACHE } golden_kind;

static inline const char *checkpoint_path(const char *name, const char *file) {
    static char path[512];
    snprintf(path, sizeof(path), PM_TEST_DATA "/checkpoints/%s/%s", name, file);
    return path;
}

static inline golden golden_open(const char *name, golden_kind kind) {
    static const char *const logits[] = {[TRANSFORMERS] = "logits.f32", [REFERENCE] = "reference.f32", [HALF_CACHE] = "half.f32"};
    golden g = {0};
    size_t size;
    cJSON *root = read_json(checkpoint_path(name, kind == REFERENCE ? "reference.json" : "golden.json"));
    MUST(pm_file_read(checkpoint_path(name, logits[kind]), 1 << 20, (char **)&g.all_logits, &size));
    g.vocab = (uint32_t)(size / N_CASES / sizeof(float));
    assert_int_equal(cJSON_GetArraySize(member(root, "cases")), N_CASES);
    for (int i = 0; i < N_CASES; i++) {
        const cJSON *item = cJSON_GetArrayItem(member(root, "cases"), i);
        golden_case *c = &g.cases[i];
        c->ids = ids_of(item, "ids", &c->n);
        c->greedy = ids_of(item, "greedy", &c->n_greedy);
        c->logits = g.all_logits + (size_t)i * g.vocab;
        assert_int_equal(c->n_greedy, 24);
    }
    cJSON_Delete(root);
    return g;
}

static inline void golden_close(golden *g) {
    for (int i = 0; i < N_CASES; i++) {
        free(g->cases[i].ids);
        free(g->cases[i].greedy);
    }
    pm_free(g->all_logits);
}

// ---- models and sessions ------------------------------------------------------------------------------------------------

static inline pm_model *model_at(const char *path, bool bf16_frequencies) {
    pm_model *model;
    pm_model_options options = {.bf16_frequencies = bf16_frequencies};
    if (pm_model_open(dev, path, &options, &model) != PM_OK)
        fail_msg("%s: %s", path, pm_error_text());
    return model;
}

static inline pm_model *checkpoint_open(const char *name, bool bf16_frequencies) {
    return model_at(checkpoint_path(name, ""), bf16_frequencies);
}

static inline pm_session *session_of(pm_model *model, pm_session_options options) {
    pm_session *session;
    if (pm_session_open(model, &options, &session) != PM_OK)
        fail_msg("a session: %s", pm_error_text());
    return session;
}

// The logits after n more ids of a sequence, borrowed.
static inline const float *eval(pm_session *session, int seq, const int32_t *ids, size_t n) {
    const float *logits;
    if (pm_session_eval(session, seq, ids, n, &logits) != PM_OK)
        fail_msg("eval of %zu ids: %s", n, pm_error_text());
    return logits;
}

static inline int32_t argmax(const float *logits, uint32_t n) {
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++)
        if (logits[i] > logits[best])
            best = i;
    return (int32_t)best;
}

// Draws n ids after a prompt, and ends the generation.
static inline void generate(pm_session *session, int seq, const int32_t *ids, size_t n_ids, const pm_sampler *sampler, int32_t *out,
                            size_t n) {
    if (pm_session_start(session, seq, ids, n_ids, sampler) != PM_OK)
        fail_msg("start with %zu ids: %s", n_ids, pm_error_text());
    for (size_t i = 0; i < n; i++)
        if (pm_session_next(session, &out[i]) != PM_OK)
            fail_msg("id %zu: %s", i, pm_error_text());
    assert_int_equal(pm_session_end(session), PM_OK);
}

// ---- comparisons --------------------------------------------------------------------------------------------------------

// The greatest difference by the greatest |want|; infinite where there is a NaN.
static inline double difference(const float *got, const float *want, uint32_t n) {
    double most = 0, scale = 0;
    for (uint32_t i = 0; i < n; i++) {
        double d = fabs((double)got[i] - want[i]);
        if (!(d <= most))
            most = isnan(d) ? INFINITY : d;
        scale = fmax(scale, fabs((double)want[i]));
    }
    return most / scale;
}

static inline void assert_close(const float *got, const float *want, uint32_t n, double bound, const char *what, size_t which) {
    double d = difference(got, want, n);
    if (!(d <= bound))
        fail_msg("%s %zu: logits differ by %.2g of the largest, %.2g is allowed", what, which, d, bound);
}

static inline float *copy_of(const float *logits, uint32_t n) {
    float *copy = malloc(n * sizeof(*copy));
    assert_non_null(copy);
    memcpy(copy, logits, n * sizeof(*copy));
    return copy;
}

// Skips a sweep that takes long; PM_SLOW=1 runs it.
static inline bool slow_tests(void) {
    const char *slow = getenv("PM_SLOW");
    return slow && *slow && strcmp(slow, "0") != 0;
}

#endif
