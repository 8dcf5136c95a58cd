// How to draw, from the command line: rows for the tables of commands that generate, and what the model decides where they say
// nothing.
#ifndef PM_APP_SAMPLING_H
#define PM_APP_SAMPLING_H

#include "app/app.h"

// Numbers that the model decides where they are not given begin below zero or at APP_NOT_GIVEN.
#define APP_NOT_GIVEN UINT32_MAX
enum { APP_MAX_BIASES = 300, APP_MAX_STOPS = 4 }; // as OpenAI's
typedef struct app_sampling {
    float temperature, top_p, min_p;
    uint32_t top_k;
    uint64_t seed; // UINT64_MAX: not given
    float typical_p;
    float repeat_penalty, frequency_penalty, presence_penalty; // repeat: < 0: not given
    uint8_t order[PM_N_STEPS];
    pm_logit_bias bias[APP_MAX_BIASES];
    uint32_t n_bias;
} app_sampling;

#define APP_SAMPLING_NOT_GIVEN \
    ((app_sampling){.temperature = -1, .top_p = -1, .min_p = -1, .top_k = APP_NOT_GIVEN, .seed = UINT64_MAX, .repeat_penalty = -1})

// Strings that end the answer.
typedef struct app_stops {
    const char *strings[APP_MAX_STOPS]; // of argv
    uint32_t n;
} app_stops;

// The rows, for a struct `type` of values with an app_sampling in `field` and an app_stops in `stops`.
// clang-format off
#define APP_SAMPLING_OPTIONS(type, field, stops)                                                                                  \
    {.name = "--temp", .value = "T", .help = "temperature; 0: always the likeliest token (*)", .kind = APP_FLOAT, .most = 1000,   \
     .offset = offsetof(type, field.temperature)},                                                                                \
    {.name = "--top-k", .value = "K", .help = "draw from the K likeliest; 0: from all (*)", .kind = APP_U32,                      \
     .most = APP_NOT_GIVEN - 1, .offset = offsetof(type, field.top_k)},                                                           \
    {.name = "--top-p", .value = "P", .help = "the likeliest that have P together; 1: all (*)", .kind = APP_FLOAT, .most = 1,     \
     .offset = offsetof(type, field.top_p)},                                                                                      \
    {.name = "--min-p", .value = "P", .help = "those at least P times the likeliest (*)", .kind = APP_FLOAT, .most = 1,           \
     .offset = offsetof(type, field.min_p)},                                                                                      \
    {.name = "--seed", .value = "N", .help = "the same seed gives the same answer", .kind = APP_U64,                              \
     .most = 9223372036854775807.0, .offset = offsetof(type, field.seed)},                                                        \
    {.name = "--typical-p", .value = "P", .help = "those about as likely as expected", .kind = APP_FLOAT, .most = 1,              \
     .rare = true, .offset = offsetof(type, field.typical_p)},                                                                    \
    {.name = "--repeat-penalty", .value = "X", .help = "divides logits of what occurred; 1: off (*)", .kind = APP_FLOAT,          \
     .least = 0.001, .most = 1000, .rare = true, .offset = offsetof(type, field.repeat_penalty)},                                 \
    {.name = "--presence-penalty", .value = "X", .help = "off the logits of what was drawn", .kind = APP_FLOAT,                   \
     .least = -1000, .most = 1000, .rare = true, .offset = offsetof(type, field.presence_penalty)},                               \
    {.name = "--frequency-penalty", .value = "X", .help = "the same, once each time", .kind = APP_FLOAT,                          \
     .least = -1000, .most = 1000, .rare = true, .offset = offsetof(type, field.frequency_penalty)},                              \
    {.name = "--logit-bias", .value = "ID=X,...", .help = "added to logits; -inf: never drawn", .kind = APP_READ,                 \
     .read = app_sampling_read_bias, .rare = true, .offset = offsetof(type, field)},                                              \
    {.name = "--sampler-order", .value = "hf|llamacpp|vllm", .help = "or temp,top-k,top-p,min-p,typical-p", .kind = APP_READ,     \
     .read = app_sampling_read_order, .rare = true, .offset = offsetof(type, field.order)},                                       \
    {.name = "--stop", .value = "TEXT", .help = "ends the answer before TEXT; up to 4 times", .kind = APP_READ,                   \
     .read = app_stops_read, .rare = true, .offset = offsetof(type, stops)}
// clang-format on

// The sampler's bias is borrowed from `given`.
pm_sampler app_sampling_choose(const app_sampling *given, const pm_config *config);

// Of the rows: an app_sampling, its order, an app_stops.
pm_status app_sampling_read_bias(const app_option *option, const char *text, void *sampling);
pm_status app_sampling_read_order(const app_option *option, const char *text, void *order);
pm_status app_stops_read(const app_option *option, const char *text, void *stops);

#endif
