// pumice tune: measures which variants of the kernels are fastest for a model on its device, and tells the plan that came of it.
#include "app/tune.h"
#include "host/host.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct values {
    const char *model, *device;
    float seconds;
    bool again, export;
} values;

#define AT(field) .offset = offsetof(values, field)
// clang-format off
static const app_option options[] = {
    {.name = "MODEL", .help = "folder, .safetensors or .gguf file", .kind = APP_TEXT, AT(model)},
    {.name = "--tune", .letter = "-t", .value = "SECONDS", .help = "at most about so long: 20s (60s)", .kind = APP_READ,
     .read = app_tune_read, AT(seconds)},
    {.name = "--again", .help = "also what was measured before", .kind = APP_FLAG, AT(again)},
    {.name = "--export", .help = "tell the plan as it is, measure nothing", .kind = APP_FLAG, AT(export)},
    {.name = "--device", .letter = "-d", .value = "N|NAME", .help = "one that `pumice devices` lists", .kind = APP_TEXT, AT(device)},
};
// clang-format on

// "20", "20s"
pm_status app_tune_read(const app_option *option, const char *text, void *seconds) {
    char *end;
    float value = strtof(text, &end);
    if (end == text || (*end == 's' ? end[1] : *end) || !(value >= 0 && value <= 86400))
        return pm_fail(PM_ERR_USAGE, "%s %s: wanted seconds, 20s", option->name, text);
    *(float *)seconds = value;
    return PM_OK;
}

static pm_status measure(pm_device *dev, const values *v) {
    pm_model *model;
    pm_session *session = NULL;
    pm_session_options session_options = {.ctx = 512};
    PM_TRY(pm_model_open(dev, v->model, NULL, &model));
    pm_status status = pm_session_open(model, &session_options, &session);
    if (status == PM_OK)
        status = pm_session_tune(session, v->seconds, v->again);
    pm_session_close(&session);
    pm_model_close(&model);
    return status;
}

static pm_status print_plan(const pm_device *dev) {
    pm_tune_row *rows;
    int n, n_tuned = 0;
    PM_TRY(pm_tune_plan(dev, &rows, &n));
    printf("%-12s %-7s %15s %-5s %-16s %10s %10s %6s\n", "step", "type", "rows x columns", "batch", "variant", "default us", "us",
           "ratio");
    for (int i = 0; i < n; i++) {
        const pm_tune_row *r = &rows[i];
        char shape[32];
        snprintf(shape, sizeof(shape), "%" PRIu32 " x %" PRIu32, r->rows, r->cols);
        printf("%-12s %-7s %15s %-5s %-16s %10.1f %10.1f %6.2f\n", r->op, r->dtype, shape, r->batch,
               r->tuned ? r->variant : "default", r->usual_us, r->us, r->us > 0 ? r->usual_us / r->us : 1);
        n_tuned += r->tuned;
    }
    printf("attend: heads x positions of the cache\n%d steps measured on %s, %d of them are faster with another variant than the "
           "default\n",
           n, pm_device_get_info(dev)->name, n_tuned);
    pm_free(rows);
    return PM_OK;
}

static pm_status tune(const values *v) {
    pm_device *dev;
    if (!v->model && !v->export)
        return pm_fail(PM_ERR_USAGE, "MODEL is missing; pumice tune --help tells more");
    PM_TRY(pm_device_open(v->device, &dev));
    pm_status status = v->export ? PM_OK : measure(dev, v);
    if (status == PM_OK)
        status = print_plan(dev);
    pm_device_close(&dev);
    return status;
}

static int run(int argc, char **argv) {
    values v = {.seconds = 60};
    int exit_code;
    if (!app_parse(&app_tune, argc, argv, &v, &exit_code))
        return exit_code;
    return app_exit(tune(&v));
}

const app_command app_tune = {
    .name = "tune",
    .summary = "measures which kernels are fastest for a model here, and keeps the plan",
    .options = options,
    .n_options = sizeof(options) / sizeof(*options),
    .notes = "The plan is kept for this device, driver and build; answers follow it.",
    .run = run,
};
