// What commands that run a model begin with.
#include "app/run.h"

pm_status run_load(const char *device, const char *path, pm_device **dev, pm_model **model) {
    run_progress progress = {0};
    pm_model_options options = {.progress = run_progress_show, .user = &progress};
    PM_TRY(pm_device_open(device, dev));
    pm_status status = pm_model_open(*dev, path, &options, model);
    run_progress_clear(&progress);
    return status;
}
