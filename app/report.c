// What `pumice run` tells on stderr: the bar while loading, the statistics, the profile.
#include "app/run.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---- loading ----------------------------------------------------------------------------------------------------------

enum { BAR = 30, FIRST_MS = 200, EVERY_MS = 50 }; // a model that loads at once needs no bar

static uint64_t ms_since(uint64_t ns) {
    return (pm_now_ns() - ns) / 1000000;
}

static void draw_bar(run_progress *p, uint64_t done, uint64_t total) {
    const char hashes[] = "##############################", dots[] = "..............................";
    double part = total ? (double)done / (double)total : 1;
    int full = (int)(part * BAR);
    int n = fprintf(stderr, "\r%s [%.*s%.*s] %3d %% of %.1f GiB", p->what ? p->what : "loading", full, hashes, BAR - full, dots,
                    (int)(part * 100), (double)total / (1 << 30));
    p->width = n > 0 ? n - 1 : 0;
    fflush(stderr);
}

void run_progress_show(void *progress, uint64_t done_bytes, uint64_t total_bytes) {
    run_progress *p = progress;
    if (p->began_ns == 0)
        p->began_ns = pm_now_ns();
    if (ms_since(p->began_ns) < FIRST_MS || ms_since(p->drawn_ns) < EVERY_MS || !pm_is_terminal(2))
        return;
    p->drawn_ns = pm_now_ns();
    draw_bar(p, done_bytes, total_bytes);
}

void run_progress_clear(run_progress *p) {
    if (p->width > 0)
        fprintf(stderr, "\r%*s\r", p->width, "");
    p->width = 0;
}

// ---- statistics -------------------------------------------------------------------------------------------------------

static void print_rate(const char *what, uint32_t n, uint32_t n_timed, uint64_t ns) {
    fprintf(stderr, "%s %" PRIu32 " token%s", what, n, n == 1 ? "" : "s");
    if (n_timed > 0 && ns > 0)
        fprintf(stderr, ", %.1f tokens/s", n_timed * 1e9 / (double)ns);
}

static void print_stop(const pm_model *model, const run_answer *a) {
    static const char *const reasons[] = {
        [RUN_STOP_STRING] = "stop string",      [RUN_STOP_N] = "-n reached",
        [RUN_STOP_END] = "end of turn",         [RUN_STOP_CONTEXT] = "context full",
        [RUN_STOP_INTERRUPTED] = "interrupted", [RUN_STOP_READER] = "nobody reads on",
    };
    fprintf(stderr, " | %s", reasons[a->stop]);
    if (a->stop != RUN_STOP_END)
        return;
    const pm_tokenizer *tokenizer = pm_model_tokenizer(model);
    pm_str name = tokenizer ? pm_tokenizer_bytes(tokenizer, a->last_id) : (pm_str){NULL, 0};
    if (name.n > 0)
        fprintf(stderr, " %.*s", (int)name.n, name.p);
    else
        fprintf(stderr, " %" PRId32, a->last_id);
}

void run_report(const pm_model *model, const pm_device *dev, const pm_sampler *sampler, const run_answer *a) {
    if (pm_is_terminal(2))
        fputc('\n', stderr); // apart from the answer
    print_rate("prompt", a->n_prompt, a->n_prompt, a->first_ns - a->began_ns);
    print_rate(" | answer", a->n, a->n ? a->n - 1 : 0, a->end_ns - a->first_ns);
    print_stop(model, a);
    if (sampler->temperature > 0 && a->n > 0)
        fprintf(stderr, " | seed %" PRIu64, sampler->seed);
    fprintf(stderr, " | %s\n", pm_device_get_info(dev)->name);
}

// ---- profile ----------------------------------------------------------------------------------------------------------

static int by_time(const void *left, const void *right) {
    const pm_profile_row *a = left, *b = right;
    return a->ns == b->ns ? strcmp(a->kernel, b->kernel) : a->ns < b->ns ? 1 : -1;
}

static void print_row(const pm_profile_row *row, uint64_t total_ns) {
    double ns = (double)row->ns;
    char shape[24] = "";
    if (row->rows)
        snprintf(shape, sizeof(shape), "%" PRIu32 "x%" PRIu32, row->rows, row->cols);
    fprintf(stderr, "%-20s %-14s %12s %8" PRIu64 " %10.2f %5.1f %10.1f %8.2f\n", row->kernel, row->label, shape, row->count,
            ns / 1e6, total_ns ? 100 * ns / (double)total_ns : 0, ns / 1e3 / (double)row->count,
            ns > 0 ? (double)row->bytes / ns : 0);
}

// Dispatches of the last pass, which is a step of the answer where there was one; label NULL: of all of it.
static uint32_t count_last(const pm_profile_row *rows, int n, const char *label) {
    uint32_t count = 0;
    for (int i = 0; i < n; i++)
        if (label ? !strcmp(rows[i].label, label) : strcmp(rows[i].kernel, "copy"))
            count += rows[i].last;
    return count;
}

static void print_dispatches(const pm_model *model, const pm_profile_row *rows, int n) {
    uint32_t in_layers = count_last(rows, n, "attention") + count_last(rows, n, "feed-forward");
    fprintf(stderr, "the last pass: %" PRIu32 " dispatches, %.3g a layer\n", count_last(rows, n, NULL),
            (double)in_layers / pm_model_config(model)->n_layers);
}

pm_status run_report_profile(const pm_model *model, const pm_session *session) {
    int n;
    const pm_profile_row *rows = pm_session_profile(session, &n);
    pm_profile_row *sorted = pm_calloc((size_t)n + 1, sizeof(*sorted));
    if (!sorted)
        return pm_fail(PM_ERR_MEMORY, "no memory for the profile");
    pm_profile_row all = {.kernel = "all", .label = ""};
    for (int i = 0; i < n; i++) {
        sorted[i] = rows[i];
        all.count += rows[i].count;
        all.ns += rows[i].ns;
        all.bytes += rows[i].bytes;
    }
    qsort(sorted, (size_t)n, sizeof(*sorted), by_time);
    fprintf(stderr, "%-20s %-14s %12s %8s %10s %5s %10s %8s\n", "kernel", "where", "shape", "count", "total ms", "%", "us each",
            "GB/s");
    for (int i = 0; i < n; i++)
        print_row(&sorted[i], all.ns);
    if (all.count > 0)
        print_row(&all, all.ns);
    print_dispatches(model, rows, n);
    pm_free(sorted);
    return PM_OK;
}
