// --limits: the device at hand is taken for one that has less.
#ifndef PM_APP_LIMITS_H
#define PM_APP_LIMITS_H

#include "app/app.h"

// A row for the tables of commands that open or list devices. It needs no value: what is read is set for the process.
// clang-format off
#define APP_LIMITS_OPTION                                                                                                         \
    {.name = "--limits", .value = "NAME|FILE", .help = "as if on NAME, or on FILE of vulkan.gpuinfo.org",                         \
     .kind = APP_READ, .read = app_limits_read, .rare = true}
// clang-format on
pm_status app_limits_read(const app_option *option, const char *text, void *value);

// What the text of a report says a device lacks; `path` is for messages. PM_ERR_FILE where it is no report.
struct pm_limits;
pm_status app_limits_parse(const char *path, const char *text, size_t n, struct pm_limits *limits);

#endif
