// The report: computes the figures and prints each row as soon as it is there.
#include "bench/report.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

void bench_format_version(uint32_t version, char text[32]) {
    snprintf(text, 32, "%" PRIu32 ".%" PRIu32 ".%" PRIu32, version >> 22 & 0x7f, version >> 12 & 0x3ff, version & 0xfff);
}

void bench_format_driver(const pm_device_info *d, char *text, size_t size) {
    char version[32];
    bench_format_version(d->driver_version, version);
    snprintf(text, size, "%s", d->driver_info[0] ? d->driver_info : version);
}

// ---- figures ----------------------------------------------------------------------------------------------------------

double bench_tokens_of(const bench_test *t) {
    return t->n_prompt + t->n_gen;
}

static double spread(double sum, double sum_of_squares, int n) {
    double variance = n > 1 ? (sum_of_squares - sum * sum / n) / (n - 1) : 0;
    return variance > 0 ? sqrt(variance) : 0;
}

// The mean of the rates, as llama-bench has it, and not the rate of the mean.
static bench_figures compute(const bench_test *t, const bench_samples *s) {
    double ns = 0, ns2 = 0, ts = 0, ts2 = 0;
    for (int i = 0; i < s->n; i++) {
        double time = (double)(s->ns[i] ? s->ns[i] : 1), rate = bench_tokens_of(t) * 1e9 / time;
        ns += time;
        ns2 += time * time;
        ts += rate;
        ts2 += rate * rate;
    }
    return (bench_figures){
        .avg_ns = ns / s->n, .stddev_ns = spread(ns, ns2, s->n), .avg_ts = ts / s->n, .stddev_ts = spread(ts, ts2, s->n)};
}

static bench_line our_line(const bench_report *r, const bench_result *result) {
    bench_line ours = {.result = result, .samples = &result->ours, .f = compute(&result->test, &result->ours), .cpu_seconds = -1};
    if (result->peer.n > 0)
        ours.ratio = ours.f.avg_ts / compute(&result->test, &result->peer).avg_ts;
    if (r->subject->device->type == PM_DEVICE_CPU)
        ours.cpu_seconds = result->ours.cpu_seconds / (bench_tokens_of(&result->test) * result->ours.n);
    return ours;
}

static bench_line peer_line(const bench_result *result) {
    return (bench_line){
        .result = result,
        .samples = &result->peer,
        .f = compute(&result->test, &result->peer),
        .is_peer = true,
        .ratio = 1,
        .cpu_seconds = -1,
    };
}

// ---- rows -------------------------------------------------------------------------------------------------------------

void bench_report_begin(bench_report *r) {
    if (r->options->output == BENCH_JSON)
        bench_json_begin();
    else
        bench_md_begin(r);
    r->open = true;
    fflush(stdout);
}

static pm_status print_row(bench_report *r, const bench_line *l) {
    if (r->options->output == BENCH_JSON)
        PM_TRY(bench_json_line(r, l));
    else
        bench_md_line(r, l);
    fflush(stdout);
    return PM_OK;
}

pm_status bench_report_result(bench_report *r, const bench_result *result) {
    bench_line ours = our_line(r, result);
    PM_TRY(print_row(r, &ours));
    if (result->peer.n == 0)
        return PM_OK;
    bench_line peers = peer_line(result);
    return print_row(r, &peers);
}

pm_status bench_report_op(bench_report *r, uint32_t n_rows, uint32_t depth, const pm_profile_row *op) {
    if (r->options->output == BENCH_JSON)
        PM_TRY(bench_json_op(r, n_rows, depth, op));
    else
        bench_md_op(n_rows, depth, op);
    fflush(stdout);
    return PM_OK;
}

void bench_report_end(bench_report *r) {
    if (!r->open)
        return;
    if (r->options->output == BENCH_JSON)
        bench_json_end();
    else
        bench_md_end(r);
}
