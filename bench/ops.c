// Each kernel of one pass: a pass of n rows is run with a clock around every dispatch.
#include "bench/bench.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_ROWS = 128 };

typedef struct pass {
    pm_session *session;
    const int32_t *ids;
    uint32_t n_rows, depth, filled;
} pass;

// The rows and the draw of the next id: what decoding does too.
static pm_status run_pass(pass *p) {
    PM_TRY(bench_fill(p->session, 0, p->ids, p->depth, &p->filled));
    PM_TRY(pm_session_start(p->session, 0, p->ids + p->depth, p->n_rows, &(pm_sampler){.temperature = 0}));
    return pm_session_end(p->session);
}

// A session's profile only grows: *rows becomes what was added to it since they were copied.
static int subtract(const pm_session *session, pm_profile_row *rows, int n_before) {
    int n;
    const pm_profile_row *now = pm_session_profile(session, &n);
    for (int i = 0; i < n && i < MAX_ROWS; i++) {
        pm_profile_row before = i < n_before ? rows[i] : (pm_profile_row){.count = 0};
        rows[i] = now[i];
        rows[i].count -= before.count;
        rows[i].ns -= before.ns;
        rows[i].bytes -= before.bytes;
        rows[i].flops -= before.flops;
    }
    return n < MAX_ROWS ? n : MAX_ROWS;
}

static int by_time(const void *left, const void *right) {
    const pm_profile_row *a = left, *b = right;
    return a->ns == b->ns ? strcmp(a->kernel, b->kernel) : a->ns < b->ns ? 1 : -1;
}

static pm_status report_rows(const pass *p, pm_profile_row *rows, int n, bench_report *report) {
    qsort(rows, (size_t)n, sizeof(*rows), by_time);
    for (int i = 0; i < n; i++)
        if (rows[i].count > 0)
            PM_TRY(bench_report_op(report, p->n_rows, p->depth, &rows[i]));
    return PM_OK;
}

// The pass before last was the warm-up. bench_fill has nothing to do in the last one, so that this pass is all there is to see.
static pm_status measure(pass *p, bench_report *report) {
    pm_profile_row rows[MAX_ROWS] = {{.count = 0}};
    PM_TRY(run_pass(p));
    PM_TRY(run_pass(p)); // the session takes turns in two recordings
    int n = subtract(p->session, rows, 0);
    PM_TRY(run_pass(p));
    n = subtract(p->session, rows, n);
    return app_interrupted() ? pm_fail(PM_ERR_CANCELLED, "interrupted") : report_rows(p, rows, n, report);
}

// A session for each shape: what its chunks are is given when it is opened.
static pm_status run_shape(const bench_options *o, bench_subject *s, uint32_t n_rows, uint32_t depth, bench_report *report) {
    uint32_t least = depth + n_rows;
    pm_session_options options = {.ctx = o->context.ctx > least ? o->context.ctx : least, .max_chunk = n_rows, .profile = true};
    app_context_cache(&o->context, &options);
    pass p = {.n_rows = n_rows, .depth = depth};
    int32_t *ids;
    PM_TRY(bench_make_ids(s->model, least, &ids));
    p.ids = ids;
    pm_status status = pm_session_open(s->model, &options, &p.session);
    if (status == PM_OK) {
        s->session_bytes = pm_session_bytes(p.session);
        app_watch(p.session);
        status = measure(&p, report);
        app_watch(NULL);
    }
    pm_session_close(&p.session);
    pm_free(ids);
    return status;
}

pm_status bench_ops(const bench_options *options, bench_subject *subject, bench_report *report) {
    if (subject->device->timestamp_bits == 0)
        return pm_fail(PM_ERR_UNSUPPORTED, "%s has no timestamps: kernels cannot be timed one by one", subject->device->name);
    bench_report_begin(report);
    for (int d = 0; d < options->n_depth.n; d++)
        for (int i = 0; i < options->n_prompt.n; i++)
            if (options->n_prompt.values[i] > 0)
                PM_TRY(run_shape(options, subject, options->n_prompt.values[i], options->n_depth.values[d], report));
    return PM_OK;
}
