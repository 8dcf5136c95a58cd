// pumice devices --test: every variant of every kernel, tried against the reference.
#include "app/trials.h"
#include "host/host.h"

#include <inttypes.h>
#include <stdio.h>

static bool print_rows(const pm_trial_row *rows, int n) {
    int n_right = 0;
    printf("%-20s %-24s %-8s %8s %8s\n", "kernel", "numbers", "verdict", "error", "ms");
    for (int i = 0; i < n; i++) {
        const pm_trial_row *r = &rows[i];
        printf("%-20s %-24s %-8s %6.0f %% %8.2f\n", r->kernel, r->numbers, r->verdict, r->error < 9999 ? 100 * r->error : 999999,
               r->ms);
        n_right += r->right;
    }
    printf("%d of %d are right (errors: of the tolerance)", n_right, n);
    return n_right == n;
}

static pm_status test(int index, bool *all_right) {
    char pick[16];
    pm_device *dev;
    pm_trial_row *rows;
    int n;
    uint64_t began = pm_now_ns();
    snprintf(pick, sizeof(pick), "%d", index);
    PM_TRY(pm_device_open(pick, &dev));
    pm_status status = pm_device_test(dev, &rows, &n);
    if (status == PM_OK) {
        *all_right = print_rows(rows, n) && *all_right;
        printf(", in %.1f s\n", (double)(pm_now_ns() - began) / 1e9);
        pm_free(rows);
    }
    pm_device_close(&dev);
    return status;
}

pm_status app_try_kernels(int index) {
    bool all_right = true;
    PM_TRY(test(index, &all_right));
    return all_right ? PM_OK
                     : pm_fail(PM_ERR_DEVICE, "not all kernels are right on this device: those that are not will not be used");
}
