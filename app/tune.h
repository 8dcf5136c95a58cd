// --tune 20s: how long to measure which kernels are fastest before the first answer.
#ifndef PM_APP_TUNE_H
#define PM_APP_TUNE_H

#include "app/app.h"

// A row, for a struct `type` of values with a float of seconds in `field`; below 0: as long as the device allows.
// clang-format off
#define APP_TUNE_OPTION(type, field, is_rare)                                                                                     \
    {.name = "--tune", .letter = "-t", .value = "SECONDS", .help = "measure first which kernels are fastest here: 20s",           \
     .kind = APP_READ, .read = app_tune_read, .rare = is_rare, .offset = offsetof(type, field)}
// clang-format on
pm_status app_tune_read(const app_option *option, const char *text, void *seconds);

#endif
