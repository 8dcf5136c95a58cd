// The report for a terminal: bars of every test, then each device's ceilings and kernels.
#include "bench/merge.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { BAR = 24 };

// ---- bars -------------------------------------------------------------------------------------------------------------

static bool is_of(const merge_row *r, const merge_row *like, bool (*same)(const merge_row *a, const merge_row *b)) {
    return r->kind == MERGE_TOKENS && r->group == like->group && same(r, like);
}

static double fastest(const merge *m, const merge_row *like) {
    double most = 0;
    for (int i = 0; i < m->n; i++)
        if (is_of(&m->rows[i], like, merge_same_test) && m->rows[i].avg > most)
            most = m->rows[i].avg;
    return most;
}

static void print_bar(const merge_row *r, double most) {
    char name[MERGE_NAME_SIZE];
    int n = (int)(r->avg / most * BAR + 0.5);
    merge_device_name(r, name);
    printf("    ");
    for (int i = 0; i < BAR; i++)
        putchar(i < n ? '#' : '.');
    printf(" %10.2f t/s, %.2f to %.2f", r->avg, r->min, r->max);
    if (r->per_joule >= 0)
        printf(", %.3g tokens/J", r->per_joule);
    if (r->sustained >= 0)
        printf(", steady %.2f", r->sustained);
    printf("  %s%s\n", name, merge_failed(r) ? "  PROOF FAILED" : "");
}

// Is it the first row of its test, or of its model?
static bool begins(const merge *m, int i, bool (*same)(const merge_row *a, const merge_row *b)) {
    for (int k = 0; k < i; k++)
        if (is_of(&m->rows[k], &m->rows[i], same))
            return false;
    return m->rows[i].kind == MERGE_TOKENS;
}

static void print_test(const merge *m, int first) {
    char name[MERGE_NAME_SIZE];
    merge_test_name(&m->rows[first], name);
    printf("  %s\n", name);
    for (int i = first; i < m->n; i++)
        if (is_of(&m->rows[i], &m->rows[first], merge_same_test))
            print_bar(&m->rows[i], fastest(m, &m->rows[first]));
}

static void print_bars(const merge *m) {
    char name[MERGE_NAME_SIZE];
    for (int i = 0; i < m->n; i++) {
        if (!begins(m, i, merge_same_group))
            continue;
        merge_group_name(&m->rows[i], name);
        puts(name);
        for (int k = i; k < m->n; k++)
            if (m->rows[k].group == m->rows[i].group && begins(m, k, merge_same_test))
                print_test(m, k);
    }
}

// ---- ceilings and kernels ---------------------------------------------------------------------------------------------

// Figures of a kernel and of the ceiling that they stand beside; below 0: unknown.
static void print_figure(double value, double percent) {
    char text[16] = "-", part[16] = "-";
    if (value >= 0)
        snprintf(text, sizeof(text), "%.4g", value);
    if (percent >= 0)
        snprintf(part, sizeof(part), "%.0f %%", percent);
    printf(" %10s %6s", text, part);
}

static void print_head(const merge_row *r) {
    char name[MERGE_NAME_SIZE];
    merge_group_name(r, name);
    printf("  %s\n    %-18s %-13s %-18s %5s %11s %10s %6s %10s %6s\n", name, "kernel", "where", "shape", "rows", "us", "GB/s",
           "of it", "TFLOP/s", "of it");
}

static void print_kernel(const merge_row *r) {
    printf("    %-18s %-13s %-18s %5" PRIu32 " %11.1f", r->kernel, r->place ? r->place : "", r->shape ? r->shape : "", r->n_rows,
           r->us);
    print_figure(r->gb_s, r->bw_percent);
    print_figure(r->tflops, r->flops_percent);
    printf("%s%s\n", r->bound ? "  " : "", r->bound ? r->bound : "");
}

static void print_rows(const merge *m, int device, merge_kind kind) {
    int group = -1;
    for (int i = 0; i < m->n; i++) {
        const merge_row *r = &m->rows[i];
        if (r->device != device || r->kind != kind)
            continue;
        if (kind == MERGE_CEILING) {
            printf("    %-16s %10.4g %s, %.4g to %.4g\n", r->ceiling, r->avg, r->unit, r->min, r->max);
            continue;
        }
        if (r->group != group)
            print_head(r);
        group = r->group;
        print_kernel(r);
    }
}

static bool has_more(const merge *m, int device) {
    for (int i = 0; i < m->n; i++)
        if (m->rows[i].device == device && m->rows[i].kind != MERGE_TOKENS)
            return true;
    return false;
}

pm_status merge_text(const merge *m) {
    char name[MERGE_NAME_SIZE];
    print_bars(m);
    if (m->n_groups > 1)
        puts("Models, quants and cache types are not compared with one another: each has a list of its own.");
    for (int device = 0; device < m->n_devices; device++) {
        if (!has_more(m, device))
            continue;
        merge_device_name(&m->rows[m->devices[device]], name);
        puts(name);
        print_rows(m, device, MERGE_CEILING);
        print_rows(m, device, MERGE_OP);
    }
    return PM_OK;
}
