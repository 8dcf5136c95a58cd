// How to draw, from the command line: rows for the tables of commands that generate, and what the model decides where they say
// nothing.
#ifndef PM_APP_SAMPLING_H
#define PM_APP_SAMPLING_H

#include "app/app.h"

// Numbers that the model decides where they are not given begin below zero or at APP_NOT_GIVEN.
#define APP_NOT_GIVEN UINT32_MAX
typedef struct app_sampling {
    float temperature, top_p, min_p;
    uint32_t top_k;
    uint64_t seed; // UINT64_MAX: not given
} app_sampling;

#define APP_SAMPLING_NOT_GIVEN ((app_sampling){-1, -1, -1, APP_NOT_GIVEN, UINT64_MAX})

// The rows, for a struct `type` of values with an app_sampling in `field`.
// clang-format off
#define APP_SAMPLING_OPTIONS(type, field)                                                                                         \
    {.name = "--temp", .value = "T", .help = "temperature; 0: always the likeliest token (*)", .kind = APP_FLOAT, .most = 1000,   \
     .offset = offsetof(type, field.temperature)},                                                                                \
    {.name = "--top-k", .value = "K", .help = "draw from the K likeliest; 0: from all (*)", .kind = APP_U32,                      \
     .most = APP_NOT_GIVEN - 1, .offset = offsetof(type, field.top_k)},                                                           \
    {.name = "--top-p", .value = "P", .help = "the likeliest that have P together; 1: all (*)", .kind = APP_FLOAT, .most = 1,     \
     .offset = offsetof(type, field.top_p)},                                                                                      \
    {.name = "--min-p", .value = "P", .help = "those at least P times the likeliest (*)", .kind = APP_FLOAT, .most = 1,           \
     .offset = offsetof(type, field.min_p)},                                                                                      \
    {.name = "--seed", .value = "N", .help = "the same seed gives the same answer", .kind = APP_U64,                              \
     .most = 9223372036854775807.0, .offset = offsetof(type, field.seed)}
// clang-format on

pm_sampler app_sampling_choose(const app_sampling *given, const pm_config *config);

#endif
