// Contexts as the command line wants them: checked against each other and against what the model was made for.
#include "app/context.h"

#include <stdlib.h>
#include <string.h>

const char *const app_precisions[] = {[PM_PRECISION_F16] = "f16", [PM_PRECISION_F32] = "f32", [PM_PRECISION_FAST] = "fast", NULL};
const char *const app_kv_types[] = {
    [PM_KV_DEFAULT] = "auto", [PM_KV_F16] = "f16", [PM_KV_F32] = "f32", [PM_KV_Q8_0] = "q8_0", NULL};
const char *const app_rope_scalings[] = {"model", [1 + PM_ROPE_NONE] = "none", [1 + PM_ROPE_LINEAR] = "linear",
                                         [1 + PM_ROPE_YARN] = "yarn", NULL};

enum { MOST_AUTO = 4 }; // what pm_model_rope_factor goes up to

const char *app_context_kv_name(const app_context *c) {
    if (c->kv != PM_KV_DEFAULT)
        return app_kv_types[c->kv];
    return app_kv_types[c->precision == PM_PRECISION_F32 ? PM_KV_F32 : PM_KV_F16];
}

void app_context_cache(const app_context *given, pm_session_options *options) {
    options->precision = (pm_precision)given->precision;
    options->kv = (pm_kv_type)given->kv;
}

// ---- rope scaling -----------------------------------------------------------------------------------------------------

bool app_context_is_auto(const app_context *c) {
    return c->rope_scale && !strcmp(c->rope_scale, "auto");
}

static pm_status parse_factor(const app_context *c, double *factor) {
    char *end;
    *factor = app_context_is_auto(c) ? MOST_AUTO : strtod(c->rope_scale, &end);
    if (!app_context_is_auto(c) && (end == c->rope_scale || *end || !(*factor >= 1 && *factor <= 1000)))
        return pm_fail(PM_ERR_USAGE, "--rope-scale %s: wanted a number from 1 to 1000, or auto", c->rope_scale);
    return PM_OK;
}

// --rope-scale alone means YaRN.
static pm_status check_together(const app_context *c) {
    int kind = c->rope_scaling - 1;
    bool none = kind == PM_ROPE_NONE, linear = kind == PM_ROPE_LINEAR;
    if (none && (c->rope_scale || c->yarn_orig_ctx))
        return pm_fail(PM_ERR_USAGE, "--rope-scaling none goes without --rope-scale and --yarn-orig-ctx");
    if (linear && (app_context_is_auto(c) || c->yarn_orig_ctx))
        return pm_fail(PM_ERR_USAGE, "--rope-scale auto and --yarn-orig-ctx are YaRN's: they go without --rope-scaling linear");
    if (c->rope_scaling && !none && !c->rope_scale)
        return pm_fail(PM_ERR_USAGE, "--rope-scaling %s by how much? --rope-scale 4, or auto for YaRN",
                       app_rope_scalings[c->rope_scaling]);
    if (c->yarn_orig_ctx && !c->rope_scale)
        return pm_fail(PM_ERR_USAGE, "--yarn-orig-ctx goes with --rope-scale");
    return PM_OK;
}

pm_status app_context_rope(const app_context *c, pm_rope_options *rope) {
    *rope = (pm_rope_options){.given = c->rope_scaling || c->rope_scale, .factor = 1, .original_ctx = c->yarn_orig_ctx};
    PM_TRY(check_together(c));
    rope->scaling = c->rope_scaling ? (pm_rope_scaling)(c->rope_scaling - 1) : PM_ROPE_YARN;
    return c->rope_scale ? parse_factor(c, &rope->factor) : PM_OK;
}

pm_status app_context_scale(const app_context *given, const pm_model *model, pm_session *session, int seq, uint64_t n_positions) {
    if (!app_context_is_auto(given))
        return PM_OK;
    double factor = pm_model_rope_factor(model, n_positions);
    pm_log(PM_LOG_INFO, "YaRN by %g for a conversation of up to %llu tokens", factor, (unsigned long long)n_positions);
    return pm_session_set_rope_factor(session, seq, factor);
}

// ---- the context ------------------------------------------------------------------------------------------------------

static uint32_t longest(const pm_config *c) {
    return c->max_ctx > 0 && c->max_ctx < APP_MAX_CTX ? c->max_ctx : APP_MAX_CTX;
}

static uint32_t choose_ctx(const app_context *given, const pm_config *c, uint64_t wanted) {
    const uint32_t usual = 4096;
    if (given->ctx)
        return given->ctx;
    uint64_t ctx = wanted < usual ? usual : wanted;
    return (uint32_t)(ctx < longest(c) ? ctx : longest(c));
}

// What to do about positions beyond what the model was made for; once it is scaled, nothing.
static const char *remedy(const pm_config *c) {
    return c->rope.scaling == PM_ROPE_NONE ? "; --rope-scale auto (YaRN) makes it up to four times as long" : "";
}

pm_status app_context_choose(const app_context *given, const pm_config *c, size_t n_prompt, uint64_t n_more,
                             pm_session_options *options) {
    uint32_t ctx = choose_ctx(given, c, n_prompt + n_more);
    options->ctx = ctx;
    app_context_cache(given, options);
    if (ctx > longest(c))
        pm_log(PM_LOG_WARN, "a context of %u, and the model was made for %u: far positions may make no sense%s", ctx, longest(c),
               remedy(c));
    if (n_prompt > ctx && given->ctx && ctx < longest(c))
        return pm_fail(PM_ERR_CONTEXT, "the prompt has %zu tokens, the context has room for %u (--ctx)", n_prompt, ctx);
    if (n_prompt > ctx)
        return pm_fail(PM_ERR_CONTEXT,
                       "the prompt has %zu tokens, the context has room for %u, which is all the model was made for%s", n_prompt,
                       ctx, remedy(c));
    return PM_OK;
}
