// Files of `pumice-bench report`: what is read of one is drawn in every way. What cannot be kept must leave nothing behind.
#include "fuzz.h"

#include "bench/chart.h"
#include "bench/page.h"

#include <math.h>

static void draw_all(const merge *m) {
    pen none = {.out = NULL};
    page_draw(m, &none);
    for (int kind = 0; kind < N_CHARTS; kind++)
        for (int group = 0; group < m->n_groups; group++)
            for (int device = 0; device < m->n_devices; device++) {
                double height = chart_height(&(chart){.m = m, .kind = (chart_kind)kind, .group = group, .device = device});
                if (!isfinite(height) || height < 0)
                    abort();
            }
    if (none.status != PM_OK)
        abort();
}

// Reads the text; the n-th allocation and all after it fail where n is above 0.
static void read_and_draw(const char *text, size_t size, long n) {
    merge m = {.n = 0};
    bool added;
    pm_alloc_fail_after(n);
    pm_status status = merge_add_text(&m, "fuzz", text, size, &added);
    pm_alloc_fail_after(0);
    if (status != PM_OK && (status != PM_ERR_MEMORY || n == 0))
        abort();
    if (status == PM_OK && (added != (m.n > 0) || (!added && m.n_devices + m.n_groups > 0)))
        abort();
    if (status == PM_OK)
        draw_all(&m);
    merge_close(&m);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    pm_log_to(fuzz_silence, NULL);
    cJSON_InitHooks(&(cJSON_Hooks){.malloc_fn = pm_malloc, .free_fn = pm_free});
    read_and_draw((const char *)data, size, 0);
    read_and_draw((const char *)data, size, 1 + (long)(size % 97));
    return 0;
}
