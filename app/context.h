// How long a context, and of what: rows for the tables of commands, and what the model decides where they say nothing.
#ifndef PM_APP_CONTEXT_H
#define PM_APP_CONTEXT_H

#include "app/app.h"

enum { APP_MAX_CTX = 1 << 24 };

// All zero: nothing was given.
typedef struct app_context {
    uint32_t ctx;           // positions; 0: as many as are needed
    int precision;          // of pm_precision
    int kv;                 // of pm_kv_type
    int rope_scaling;       // 0: not given; else 1 + pm_rope_scaling
    const char *rope_scale; // a number, or "auto"
    uint32_t yarn_orig_ctx;
} app_context;

extern const char *const app_precisions[];    // as pm_precision counts
extern const char *const app_kv_types[];      // as pm_kv_type counts
extern const char *const app_rope_scalings[]; // as app_context.rope_scaling counts

// The rows, for a struct `type` of values with an app_context in `field`: of the cache, and of the positions.
// clang-format off
#define APP_CACHE_OPTIONS(type, field)                                                                                            \
    {.name = "--precision", .value = "f32|f16|fast", .help = "of cache and products, fast: in 8 bits (f16)",                      \
     .kind = APP_WORD, .words = app_precisions,                                                                                   \
     .offset = offsetof(type, field.precision)},                                                                                  \
    {.name = "--kv", .value = "f16|f32|q8_0", .letter = "-ctk", .help = "of the cache alone, K and V (as --precision)",           \
     .kind = APP_WORD, .words = app_kv_types, .rare = true, .offset = offsetof(type, field.kv)}
#define APP_CONTEXT_OPTIONS(type, field)                                                                                          \
    {.name = "--ctx", .letter = "-c", .value = "N", .help = "room for N tokens of prompt and answer (*)", .kind = APP_U32,        \
     .least = 1, .most = APP_MAX_CTX, .offset = offsetof(type, field.ctx)},                                                       \
    APP_CACHE_OPTIONS(type, field),                                                                                               \
    {.name = "--rope-scaling", .value = "KIND", .help = "none, linear or yarn; else as the model says", .kind = APP_WORD,         \
     .words = app_rope_scalings, .rare = true, .offset = offsetof(type, field.rope_scaling)},                                     \
    {.name = "--rope-scale", .value = "N|auto", .help = "by N; auto: YaRN by 1, 2 or 4, no more than needed", .kind = APP_TEXT,   \
     .rare = true, .offset = offsetof(type, field.rope_scale)},                                                                   \
    {.name = "--yarn-orig-ctx", .value = "N", .help = "positions of the training; Qwen3: 32768", .kind = APP_U32, .least = 1,     \
     .most = APP_MAX_CTX, .rare = true, .offset = offsetof(type, field.yarn_orig_ctx)}
// clang-format on

// The type of the cache, "q8_0", and how far it goes into pm_session_options.
const char *app_context_kv_name(const app_context *given);
void app_context_cache(const app_context *given, pm_session_options *options);

// For pm_model_options. PM_ERR_USAGE where the options contradict each other.
pm_status app_context_rope(const app_context *given, pm_rope_options *rope);

// Fills in ctx, precision and kv for a conversation that begins with n_prompt tokens and may go on for n_more: at least 4096, more
// where it needs more, never more than the model was made for unless that was asked for, which is warned of. PM_ERR_CONTEXT where
// the prompt does not fit.
pm_status app_context_choose(const app_context *given, const pm_config *config, size_t n_prompt, uint64_t n_more,
                             pm_session_options *options);

// Was --rope-scale auto given?
bool app_context_is_auto(const app_context *given);
// Where it was: an empty sequence takes the least factor that reaches n_positions.
pm_status app_context_scale(const app_context *given, const pm_model *model, pm_session *session, int seq, uint64_t n_positions);

#endif
