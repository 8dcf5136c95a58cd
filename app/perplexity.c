// pumice perplexity: how surprised a model is by a text, counted as llama-perplexity counts it, so that numbers compare.
#include "app/run.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

// ---- options ----------------------------------------------------------------------------------------------------------

typedef struct perplexity_options {
    const char *model, *file, *device;
    app_context context; // tokens of a window, and the cache's rows of it
    uint32_t stride;     // from window to window, 0: no overlap
} perplexity_options;

#define AT(field) .offset = offsetof(perplexity_options, field)
enum { LEAST_CTX = 4, MAX_TEXT = 1 << 30, BATCH = 128 };

// clang-format off
static const app_option options[] = {
    {.name = "MODEL", .help = "folder, .safetensors or .gguf file", .kind = APP_TEXT, .required = true, AT(model)},
    {.name = "FILE", .help = "the text, UTF-8; - is stdin", .kind = APP_TEXT, .required = true, AT(file)},
    {.name = "--ctx", .letter = "-c", .value = "N", .help = "tokens of a window (512)", .kind = APP_U32, .least = LEAST_CTX,
     .most = APP_MAX_CTX, AT(context.ctx)},
    {.name = "--stride", .value = "N", .help = "from one window to the next; 0: --ctx (0)", .kind = APP_U32,
     .most = APP_MAX_CTX, AT(stride)},
    {.name = "--device", .letter = "-d", .value = "N|NAME", .help = "one that `pumice devices` lists", .kind = APP_TEXT, AT(device)},
    APP_CACHE_OPTIONS(perplexity_options, context),
};
// clang-format on

// ---- the text -----------------------------------------------------------------------------------------------------------

typedef struct state {
    const perplexity_options *o;
    pm_device *dev;
    pm_model *model;
    pm_session *session;
    char *text;
    size_t size;
    int32_t *ids; // of the whole text, the bos before it where the model wants one
    size_t n;
    int32_t *window;  // (ctx) ids
    double *logprobs; // (ctx)
} state;

static pm_status read_text(state *s) {
    bool piped = !strcmp(s->o->file, "-");
    PM_TRY(piped ? pm_stdin_read(MAX_TEXT, &s->text, &s->size) : pm_file_read(s->o->file, MAX_TEXT, &s->text, &s->size));
    s->size -= s->size > 0 && s->text[s->size - 1] == '\n'; // of the file, not of the text
    return PM_OK;
}

static pm_status encode(state *s) {
    int32_t *ids;
    size_t n;
    bool bos = pm_model_add_bos(s->model);
    if (!pm_model_tokenizer(s->model))
        return pm_fail(PM_ERR_UNSUPPORTED, "%s has no tokenizer", s->o->model);
    PM_TRY(pm_tokenizer_encode(pm_model_tokenizer(s->model), s->text, s->size, 0, &ids, &n));
    s->ids = pm_calloc(n + 1, sizeof *s->ids);
    if (s->ids) {
        s->ids[0] = pm_model_config(s->model)->bos;
        if (n > 0)
            memcpy(s->ids + bos, ids, n * sizeof *ids);
        s->n = n + bos;
    }
    pm_free(ids);
    if (!s->ids)
        return pm_fail(PM_ERR_MEMORY, "no memory for %zu tokens", n);
    if (s->n < 2 * (size_t)s->o->context.ctx)
        return pm_fail(PM_ERR_USAGE,
                       "%s has %zu tokens, and windows of %u need at least %zu: give a longer text or a smaller --ctx", s->o->file,
                       s->n, s->o->context.ctx, 2 * (size_t)s->o->context.ctx);
    return PM_OK;
}

// ---- counting -------------------------------------------------------------------------------------------------------------

// Window i is the ctx tokens from i * step on; of each those from `first` on count.
typedef struct windows {
    size_t n;
    uint32_t ctx, step, first;
} windows;

// As llama-perplexity has them: side by side, the second half counts less one (the token before it tells the first of them); or
// with a stride, the last `stride` count, so that every token has about as much before it.
static windows choose_windows(const perplexity_options *o, size_t n) {
    if (o->stride > 0)
        return (windows){(n - o->context.ctx + o->stride - 1) / o->stride, o->context.ctx, o->stride, o->context.ctx - o->stride};
    return (windows){n / o->context.ctx, o->context.ctx, o->context.ctx, o->context.ctx / 2 + 1};
}

typedef struct tally {
    double sum, squares; // of -ln p
    size_t n;
} tally;

static double perplexity(const tally *t) {
    return exp(t->sum / (double)t->n);
}

// The standard error of the mean of -ln p, carried over to its exponential.
static double uncertainty(const tally *t) {
    double mean = t->sum / (double)t->n, variance = t->squares / (double)t->n - mean * mean;
    return t->n > 1 && variance > 0 ? perplexity(t) * sqrt(variance / (double)(t->n - 1)) : 0;
}

static pm_status score_window(state *s, const windows *w, size_t i, tally *t) {
    memcpy(s->window, s->ids + i * w->step, w->ctx * sizeof *s->window);
    if (pm_model_add_bos(s->model))
        s->window[0] = pm_model_config(s->model)->bos;
    pm_session_rewind(s->session, 0, 0);
    PM_TRY(pm_session_score(s->session, 0, s->window, w->ctx, w->first, s->logprobs));
    for (uint32_t k = 0; k < w->ctx - w->first; k++) {
        t->sum -= s->logprobs[k];
        t->squares += s->logprobs[k] * s->logprobs[k];
    }
    t->n += w->ctx - w->first;
    return PM_OK;
}

// One that was interrupted, or whose reader went away, ends with what it has.
static pm_status score_all(state *s, const windows *w, tally *t) {
    bool gone = false;
    char text[64];
    for (size_t i = 0; i < w->n && !gone && !app_interrupted(); i++) {
        pm_status status = score_window(s, w, i, t);
        if (status == PM_ERR_CANCELLED)
            return PM_OK;
        PM_TRY(status);
        int size = snprintf(text, sizeof(text), "[%zu]%.4f,", i + 1, perplexity(t));
        PM_TRY(app_write(text, (size_t)size, &gone));
    }
    return PM_OK;
}

static pm_status report(const tally *t) {
    bool gone;
    char text[96];
    if (t->n == 0)
        return PM_OK;
    int size = snprintf(text, sizeof(text), "\nPPL = %.4f +/- %.5f\n", perplexity(t), uncertainty(t));
    return app_write(text, (size_t)size, &gone);
}

// ---- the command ------------------------------------------------------------------------------------------------------

static pm_status open_all(state *s) {
    PM_TRY(read_text(s));
    PM_TRY(run_load(s->o->device, s->o->model, &s->dev, &s->model));
    PM_TRY(encode(s));
    pm_session_options session_options = {.ctx = s->o->context.ctx, .max_batch = BATCH};
    app_context_cache(&s->o->context, &session_options);
    PM_TRY(pm_session_open(s->model, &session_options, &s->session));
    s->window = pm_calloc(s->o->context.ctx, sizeof *s->window);
    s->logprobs = pm_calloc(s->o->context.ctx, sizeof *s->logprobs);
    return s->window && s->logprobs ? PM_OK : pm_fail(PM_ERR_MEMORY, "no memory for a window of %u tokens", s->o->context.ctx);
}

static pm_status go(state *s) {
    if (s->o->stride >= s->o->context.ctx)
        return pm_fail(PM_ERR_USAGE, "--stride %u: less than the %u tokens of a window is possible", s->o->stride,
                       s->o->context.ctx);
    PM_TRY(open_all(s));
    tally t = {0};
    windows w = choose_windows(s->o, s->n);
    pm_log(PM_LOG_INFO, "%zu tokens, %zu windows of %u, of which %u count", s->n, w.n, w.ctx, w.ctx - w.first);
    app_watch(s->session);
    pm_status status = score_all(s, &w, &t);
    app_watch(NULL);
    PM_TRY(status);
    return report(&t);
}

static void close_all(state *s) {
    pm_session_close(&s->session);
    pm_model_close(&s->model);
    pm_device_close(&s->dev);
    pm_free(s->text);
    pm_free(s->ids);
    pm_free(s->window);
    pm_free(s->logprobs);
}

static int run(int argc, char **argv) {
    perplexity_options o = {.context.ctx = 512};
    int exit_code;
    if (!app_parse(&app_perplexity, argc, argv, &o, &exit_code))
        return exit_code;
    state s = {.o = &o};
    exit_code = app_exit(go(&s));
    close_all(&s);
    return exit_code == APP_EXIT_OK && app_interrupted() ? APP_EXIT_INTERRUPTED : exit_code;
}

const app_command app_perplexity = {
    .name = "perplexity",
    .summary = "tells how well a model foresees a text: lower is better",
    .options = options,
    .n_options = sizeof(options) / sizeof(*options),
    .notes = "counts as llama-perplexity: the second half of each window, or with --stride its end",
    .run = run,
};
