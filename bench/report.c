// The report: computes the figures and prints each row as soon as it is there.
#include "bench/report.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
    if (r->device->type == PM_DEVICE_CPU)
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

static void begin_all(bench_report *r) {
    if (r->open && !r->told && r->options->output == BENCH_MD)
        puts(""); // the table of another device ends
    if (!r->told)
        bench_md_device(r);
    if (!r->open && r->options->output != BENCH_MD)
        bench_rows_begin(r);
    r->open = r->told = true;
}

void bench_report_begin(bench_report *r) {
    bool first = !r->told;
    begin_all(r);
    if (r->options->output == BENCH_MD && !first)
        puts(""); // the table before it ends
    if (r->options->output == BENCH_MD)
        bench_md_begin(r);
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

// ---- kernels ----------------------------------------------------------------------------------------------------------

// "matmul_q4_k" ends as Q4_K does; of two that fit, the longer name.
static const char *type_of(const char *kernel) {
    const char *found = NULL;
    size_t most = 0, n = strlen(kernel);
    for (int d = 0; d < PM_DTYPE_COUNT; d++) {
        const char *name = pm_dtype_get((pm_dtype)d)->name;
        size_t m = strlen(name), i = 0;
        while (i < m && m < n &&
               kernel[n - 1 - i] == (name[m - 1 - i] | ('A' <= name[m - 1 - i] && name[m - 1 - i] <= 'Z' ? 32 : 0)))
            i++;
        if (i == m && m > most && kernel[n - 1 - m] == '_') {
            found = name;
            most = m;
        }
    }
    return found;
}

// What bounds the arithmetic of a kernel: products of matrices have units of their own, where they have.
static const bench_ceiling *arithmetic_of(const bench_report *r, const char *kernel) {
    const bench_ceiling *c = strstr(kernel, "_cm_")    ? &r->ceilings[BENCH_COOPMAT_F16]
                             : strstr(kernel, "_dot_") ? &r->ceilings[BENCH_INT8_DOT]
                                                       : &r->ceilings[BENCH_FMA_F32];
    return c->n > 0 && c->value > 0 ? c : NULL;
}

static void compare_to_ceilings(const bench_report *r, const char *kernel, bench_op_figures *f) {
    const bench_ceiling *memory = &r->ceilings[BENCH_READ_BANDWIDTH], *arithmetic = arithmetic_of(r, kernel);
    f->bw_percent = memory->n > 0 && memory->value > 0 && f->gb_s >= 0 ? 100 * f->gb_s / memory->value : -1;
    f->flops_percent = arithmetic && f->tflops >= 0 ? 100 * f->tflops / arithmetic->value : -1;
    if (f->bw_percent >= 0 && f->bytes > 0)
        f->bound = f->flops_percent > f->bw_percent ? "compute" : "memory";
}

static void describe_op(const pm_profile_row *op, bench_op_figures *f) {
    f->type = type_of(op->kernel);
    snprintf(f->variant, sizeof(f->variant), "%s%s%s", op->kernel, op->numbers[0] ? ":" : "", op->numbers);
    f->shape[0] = 0;
    if (op->rows && op->cols && op->count)
        snprintf(f->shape, sizeof(f->shape), "%" PRIu32 "x%" PRIu32 " x%" PRIu64, op->rows, op->cols,
                 op->flops / op->count / 2 / op->rows / op->cols);
}

static bench_op_figures compute_op(const bench_report *r, const pm_profile_row *op) {
    double count = (double)op->count, ns = (double)op->ns / count;
    bench_op_figures f = {.ns = ns, .bytes = (double)op->bytes / count, .flops = (double)op->flops / count};
    f.gb_s = ns > 0 ? f.bytes / ns : -1;
    f.tflops = ns > 0 && f.flops > 0 ? f.flops / ns / 1e3 : -1;
    describe_op(op, &f);
    compare_to_ceilings(r, op->kernel, &f);
    return f;
}

pm_status bench_report_op(bench_report *r, uint32_t n_rows, uint32_t depth, const pm_profile_row *op) {
    bench_op_figures f = compute_op(r, op);
    if (r->options->output != BENCH_MD)
        PM_TRY(bench_json_op(r, n_rows, depth, op, &f));
    else
        bench_md_op(n_rows, depth, op, &f);
    fflush(stdout);
    return PM_OK;
}

pm_status bench_report_ceilings(bench_report *r) {
    begin_all(r);
    if (r->options->output == BENCH_MD)
        bench_md_ceilings(r);
    // Rows of another kind have other columns, and a table has one head.
    bool table = r->options->output == BENCH_CSV || r->options->output == BENCH_SQL;
    for (int i = 0; i < BENCH_N_CEILINGS && r->options->output != BENCH_MD && !(table && r->options->models.n > 0); i++)
        if (r->ceilings[i].n > 0)
            PM_TRY(bench_json_ceiling(r, &r->ceilings[i]));
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
