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

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    merge m = {.n = 0};
    bool added;
    pm_log_to(fuzz_silence, NULL);
    if (merge_add_text(&m, "fuzz", (const char *)data, size, &added) == PM_OK) {
        if (added != (m.n > 0) || (!added && m.n_devices + m.n_groups > 0))
            abort();
        draw_all(&m);
    }
    merge_close(&m);
    return 0;
}
