// The report as Markdown: llama-bench's columns, of which scripts read the last two. Others stand between only where they tell
// something.
#include "app/version.h"
#include "bench/report.h"

#include <inttypes.h>
#include <stdio.h>

static const char *driver_name(const pm_device_info *d) {
    return d->driver_name[0] ? d->driver_name : "driver";
}

static void print_heaps(FILE *out, const pm_device_info *d) {
    for (int i = 0; i < d->n_heaps; i++)
        fprintf(out, "%s%s%.1f GiB", i ? " + " : "", d->heaps[i].device_local ? "" : "host ", (double)d->heaps[i].size / (1 << 30));
}

static void print_matrices(FILE *out, const pm_device_info *d) {
    fprintf(out, " | matrix cores: %s", d->n_coopmats ? "" : "none");
    for (int i = 0; i < d->n_coopmats; i++) {
        const pm_coopmat_info *m = &d->coopmats[i];
        fprintf(out, "%s%" PRIu32 "x%" PRIu32 "x%" PRIu32 " %s-%s", i ? ", " : "", m->m, m->n, m->k, m->a, m->c);
    }
}

static void print_device(FILE *out, const pm_device_info *d) {
    char driver[256], api[32];
    bench_format_driver(d, driver, sizeof(driver));
    bench_format_version(d->api_version, api);
    fprintf(out, "%d = %s (%s %s) | Vulkan %s | heaps: ", d->index, d->name, driver_name(d), driver, api);
    print_heaps(out, d);
    fprintf(out, " | uma: %d | fp16: %d | bf16: %d | subgroup: %" PRIu32 " | shared memory: %" PRIu32 " | int dot: %d",
            d->unified_memory, d->f16_arithmetic, d->bf16, d->subgroup_size, d->max_shared, d->int_dot_accelerated);
    print_matrices(out, d);
    fprintf(out, "  \n");
}

static void print_subject(const bench_subject *s, const char *path) {
    printf("%s: loaded in %.2f s; on the device %.1f MiB of weights", path, (double)s->load_ns / 1e9,
           (double)pm_model_weight_bytes(s->model) / (1 << 20));
    if (s->session_bytes)
        printf(", %.1f MiB of cache and scratch", (double)s->session_bytes / (1 << 20));
    printf("\n");
}

static void print_proof(const bench_proof *p) {
    if (p->known)
        printf("proof %s: %d of %d greedy tokens as the reference has them, KL %.2g nats a token, logits %.2g %% off",
               p->right ? "ok" : "FAILED", p->n_agree, p->n, p->kl, 100 * p->error);
    if (p->known && p->n_tried)
        printf("; self-test: %d of %d kernels right", p->n_right, p->n_tried);
    puts(p->known ? "\n" : "");
}

static bool with_cpu(const bench_report *r) {
    return r->device->type == PM_DEVICE_CPU;
}

void bench_md_device(const bench_report *r) {
    print_device(r->options->output == BENCH_MD ? stdout : stderr, r->device);
}

void bench_md_begin(const bench_report *r) {
    print_subject(r->subject, r->options->model);
    print_proof(&r->proof);
    if (r->options->ops) {
        puts("| rows             | kernel: variant                     | where          | shape             | count |    us each | "
             "  MiB "
             "each |  GFLOP/s |     GB/s | of the ceiling |\n"
             "| ---------------- | ----------------------------------- | -------------- | ----------------- | ----: | ---------: | "
             "---------: | -------: | -------: | -------------: |");
        return;
    }
    if (r->options->preset == BENCH_QWEN)
        puts("As on Qwen's speed page t/s is (prompt + new tokens) / time: it mixes the prompt's speed with that of the answer.\n");
    bool cpu = with_cpu(r), peer = r->options->peer;
    bool sustain = r->options->sustain_s > 0;
    printf("| model                          |       size |     params | backend           |%s%s%s            test |"
           "                  t/s |\n",
           cpu ? " CPU s/t |" : "", peer ? "  ratio |" : "", sustain ? " cold t/s | kept t/s | slower from |" : "");
    printf("| ------------------------------ | ---------: | ---------: | ----------------- |%s%s%s --------------: |"
           " -------------------: |\n",
           cpu ? " ------: |" : "", peer ? " -----: |" : "", sustain ? " -------: | -------: | ----------: |" : "");
}

static void format_size(double bytes, char text[16]) {
    bool large = bytes >= 1 << 30;
    snprintf(text, 16, "%.2f %s", bytes / (large ? 1 << 30 : 1 << 20), large ? "GiB" : "MiB");
}

static void format_params(double n, char text[16]) {
    bool large = n >= 1e9;
    snprintf(text, 16, "%.2f %s", n / (large ? 1e9 : 1e6), large ? "B" : "M");
}

static void print_sustain(const bench_sustain *s) {
    char from[24] = "never";
    if (bench_sustain_throttle_s(s) >= 0)
        snprintf(from, sizeof(from), "%.0f s", bench_sustain_throttle_s(s));
    printf(" %8.2f | %8.2f | %11s |", bench_sustain_cold(s), bench_sustain_kept(s), from);
}

void bench_md_line(const bench_report *r, const bench_line *l) {
    char size[16], params[16], test[BENCH_TEST_SIZE], rate[40], backend[64];
    format_size((double)r->subject->size, size);
    format_params((double)r->subject->n_params, params);
    bench_format_test(&l->result->test, test);
    snprintf(rate, sizeof(rate), "%.2f ± %.2f", l->f.avg_ts, l->f.stddev_ts);
    snprintf(backend, sizeof(backend), l->is_peer ? "%s, llama.cpp" : "%s, Pumice", l->is_peer ? r->peer.backends : "Vulkan");
    printf("| %-30s | %10s | %10s | %-17s |", r->subject->type, size, params, backend);
    if (with_cpu(r) && l->cpu_seconds >= 0)
        printf(" %7.3g |", l->cpu_seconds);
    else if (with_cpu(r))
        printf(" %7s |", "");
    if (r->options->peer && l->ratio > 0)
        printf(" %6.2f |", l->ratio);
    else if (r->options->peer)
        printf(" %6s |", "");
    if (r->options->sustain_s > 0)
        print_sustain(&l->result->sustain);
    printf(" %15s | %21s |\n", test, rate); // 21 bytes: ± is two
}

static void format_rows(uint32_t n_rows, uint32_t depth, char text[40]) {
    int n = snprintf(text, 40, "%" PRIu32, n_rows);
    if (depth)
        snprintf(text + n, (size_t)(40 - n), " @ d%" PRIu32, depth);
}

// Of what bounds it: "63 % memory".
static void format_part(const bench_op_figures *f, char text[32]) {
    text[0] = 0;
    if (f->bound)
        snprintf(text, 32, "%.0f %% %s", f->flops_percent > f->bw_percent ? f->flops_percent : f->bw_percent, f->bound);
}

void bench_md_op(uint32_t n_rows, uint32_t depth, const pm_profile_row *op, const bench_op_figures *f) {
    char rows[40], part[32], flops[32] = "";
    format_rows(n_rows, depth, rows);
    format_part(f, part);
    if (f->tflops >= 0)
        snprintf(flops, sizeof(flops), "%.1f", f->tflops * 1e3);
    printf("| %-16s | %-35s | %-14s | %17s | %5" PRIu64 " | %10.1f | %10.3f | %8s | %8.2f | %14s |\n", rows, f->variant, op->label,
           f->shape, op->count, f->ns / 1e3, f->bytes / (1 << 20), flops, f->gb_s > 0 ? f->gb_s : 0, part);
}

void bench_md_ceilings(const bench_report *r) {
    puts("\n| ceiling          |                value | unit     |        min |        max |\n"
         "| ---------------- | -------------------: | -------- | ---------: | ---------: |");
    for (int i = 0; i < BENCH_N_CEILINGS; i++) {
        const bench_ceiling *c = &r->ceilings[i];
        char value[40] = "unknown";
        if (c->n > 0)
            snprintf(value, sizeof(value), "%.4g ± %.2g", c->value, c->stddev);
        printf("| %-16s | %*s | %-8s |", c->name, c->n > 0 ? 21 : 20, value, c->unit);
        if (c->n > 0)
            printf(" %10.4g | %10.4g |\n", c->min, c->max);
        else
            printf(" %10s | %10s |\n", "", "");
    }
}

void bench_md_end(const bench_report *r) {
    printf("\nbuild: %s%s%s\n", app_version(), r->peer.build[0] ? ", peer: " : "", r->peer.build);
}
