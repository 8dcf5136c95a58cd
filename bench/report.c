// The report: computes the figures and prints each row as soon as it is there.
#include "bench/report.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

void bench_format_version(uint32_t version, char text[32]) {
    snprintf(text, 32, "%" PRIu32 ".%" PRIu32 ".%" PRIu32, version >> 22 & 0x7f, version >> 12 & 0x3ff, version & 0xfff);
}

void bench_format_driver(const pm_device_info *d, char *text, size_t size) {
    char version[32];
    bench_format_version(d->driver_version, version);
    snprintf(text, size, "%s", d->driver_info[0] ? d->driver_info : version);
}

void bench_format_test(const bench_test *t, char text[BENCH_TEST_SIZE]) {
    const size_t size = BENCH_TEST_SIZE;
    size_t n = 0;
    text[0] = 0;
    if (t->n_prompt)
        n += (size_t)snprintf(text, size, "pp%" PRIu32 "%s", t->n_prompt, t->n_gen ? "+" : "");
    if (t->n_gen)
        n += (size_t)snprintf(text + n, size - n, "tg%" PRIu32, t->n_gen);
    if (t->n_seqs > 1)
        n += (size_t)snprintf(text + n, size - n, " b%" PRIu32, t->n_seqs);
    if (t->n_depth)
        snprintf(text + n, size - n, " @ d%" PRIu32, t->n_depth);
}

// ---- figures ----------------------------------------------------------------------------------------------------------

double bench_tokens_of(const bench_test *t) {
    return (double)(t->n_prompt + t->n_gen) * t->n_seqs;
}

static double spread(double sum, double sum_of_squares, int n) {
    double variance = n > 1 ? (sum_of_squares - sum * sum / n) / (n - 1) : 0;
    return variance > 0 ? sqrt(variance) : 0;
}

static int by_size(const void *left, const void *right) {
    double a = *(const double *)left, b = *(const double *)right;
    return a < b ? -1 : a > b;
}

static void order(double *rates, int n, bench_figures *f) {
    qsort(rates, (size_t)n, sizeof(*rates), by_size);
    f->min_ts = rates[0];
    f->max_ts = rates[n - 1];
    f->median_ts = (rates[(n - 1) / 2] + rates[n / 2]) / 2;
}

// The mean of the rates, as llama-bench has it, and not the rate of the mean.
static bench_figures compute(const bench_test *t, const bench_samples *s) {
    double ns = 0, ns2 = 0, ts = 0, ts2 = 0, rates[BENCH_MAX_REPETITIONS];
    for (int i = 0; i < s->n; i++) {
        double time = (double)(s->ns[i] ? s->ns[i] : 1), rate = bench_tokens_of(t) * 1e9 / time;
        ns += time;
        ns2 += time * time;
        ts += rate;
        ts2 += rate * rate;
        rates[i] = rate;
    }
    bench_figures f = {
        .avg_ns = ns / s->n, .stddev_ns = spread(ns, ns2, s->n), .avg_ts = ts / s->n, .stddev_ts = spread(ts, ts2, s->n)};
    order(rates, s->n, &f);
    return f;
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
    bool md = r->options->output == BENCH_MD;
    if (!r->open)
        bench_md_device(r);
    if (!r->open && !md)
        bench_rows_begin(r);
    if (md)
        bench_md_begin(r);
    r->open = true;
    fflush(stdout);
}

static pm_status print_row(bench_report *r, const bench_line *l) {
    if (r->options->output != BENCH_MD)
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
    if (r->options->output != BENCH_MD)
        PM_TRY(bench_json_op(r, n_rows, depth, op));
    else
        bench_md_op(n_rows, depth, op);
    fflush(stdout);
    return PM_OK;
}

void bench_report_end(bench_report *r) {
    if (!r->open)
        return;
    if (r->options->output == BENCH_MD)
        bench_md_end(r);
    else
        bench_rows_end(r);
}
