// Lines of verdicts (first byte even) and of plans (odd) as the cache folder holds them, on a device that is made up: of what makes
// no sense nothing may stay, and what stays must be something that this device can do.
#include "host/tune.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void silence(pm_log_level level, const char *line, void *user) {
    (void)level, (void)line, (void)user;
}

static pm_device *open_device(bool gpu) {
    pm_device_info info = {.type = gpu ? PM_DEVICE_DISCRETE : PM_DEVICE_CPU,
                           .max_binding = 128 << 20,
                           .max_groups = {65535, 65535, 65535},
                           .max_invocations = gpu ? 1024 : 128,
                           .max_shared = 16 << 10};
    pm_device *dev;
    setenv("PUMICE_CACHE", "", 1);
    pm_log_to(silence, NULL);
    if (pm_device_open_dry(&info, &dev) != PM_OK)
        return NULL;
    pm_selftest_open(dev);
    pm_tune_open(dev);
    return dev;
}

static void use_verdicts(pm_device *dev, const char *text) {
    pm_linear_shape shape = {.dtype = PM_Q8_0, .epilogue = PM_LINEAR_ADD, .rows = 64, .cols = 96, .n = 5};
    pm_selftest_read(dev, text);
    pm_variant v = pm_variant_linear(dev, &shape);
    if (!pm_variant_right(dev, &shape, &v) && !pm_selftest_found_bad(dev))
        abort();
    if (pm_variant_workgroup(dev, PM_K_gather, 64) > 128)
        abort();
}

static void use_plan(pm_device *dev, const char *text) {
    pm_linear_shape shape = {.dtype = PM_Q8_0, .epilogue = PM_LINEAR_ADD, .rows = 64, .cols = 96, .n = 1};
    pm_attend_shape attend = {PM_F16, 1, 8, 2, 64, 8192};
    pm_variant v;
    pm_attend_way way;
    pm_tune_row *rows;
    int n;
    pm_plan_read(dev, text);
    if (pm_tune_find(dev, &shape, &v) && !pm_variant_right(dev, &shape, &v))
        abort();
    if (pm_tune_find_attend(dev, &attend, &way) && (way.split % PM_PAGE || way.rows == 0))
        abort();
    if (pm_tune_plan(dev, &rows, &n) != PM_OK)
        return;
    for (int i = 0; i < n; i++)
        if (!rows[i].op || !rows[i].dtype || !rows[i].batch || !memchr(rows[i].variant, 0, sizeof(rows[i].variant)))
            abort();
    pm_free(rows);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    char *text = size ? pm_calloc(size, 1) : NULL; // without the first byte, and ended by a zero
    pm_device *dev = text ? open_device(data[0] & 2) : NULL;
    if (dev && dev->verdicts && dev->tuned) {
        memcpy(text, data + 1, size - 1);
        if (data[0] & 1)
            use_plan(dev, text);
        else
            use_verdicts(dev, text);
    }
    pm_device_close(&dev);
    pm_free(text);
    return 0;
}
