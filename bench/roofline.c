// The roofline of a device: what its kernels compute a second against how much they compute on a byte, below what memory and the
// units of arithmetic were measured to reach. Both axes are logarithmic.
#include "bench/chart.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { HEIGHT = 320, TOP = 44, BOTTOM = 34, LEFT = 11, RIGHT = 98, MAX_LABELS = 6 }; // pixels; percent

static const struct {
    const char *ceiling, *says;
} roofs[] = {{"fma_f32", "f32"}, {"fma_f16", "f16"}, {"int8_dot", "int8"}, {"coopmat_f16", "matrix f16"}};
enum { N_ROOFS = sizeof(roofs) / sizeof(*roofs) };

// Ends of the axes as powers of ten: operations a byte; TFLOP/s. Ceilings are 0 where they were not measured.
typedef struct frame {
    double x0, x1, y0, y1;
    double memory; // GB/s
    double roof[N_ROOFS];
} frame;

// ---- where things are -------------------------------------------------------------------------------------------------

static double x_of(const frame *f, double x) {
    return LEFT + (x - f->x0) / (f->x1 - f->x0) * (RIGHT - LEFT);
}

static double y_of(const frame *f, double y) {
    return HEIGHT - BOTTOM - (y - f->y0) / (f->y1 - f->y0) * (HEIGHT - BOTTOM - TOP);
}

static bool is_kernel(const chart *c, const merge_row *r) {
    return r->kind == MERGE_OP && r->group == c->group;
}

static bool is_point(const merge_row *r) {
    return r->flops > 0 && r->bytes > 0 && r->tflops > 0;
}

static double operations_of(const merge_row *r) {
    return log10(r->flops / r->bytes);
}

static void widen(frame *f, double x, double y) {
    f->x0 = fmin(f->x0, x - 0.25);
    f->x1 = fmax(f->x1, x + 0.25);
    f->y0 = fmin(f->y0, y - 0.25);
    f->y1 = fmax(f->y1, y + 0.15);
}

static void read_ceilings(const merge *m, const merge_row *of, frame *f) {
    f->memory = merge_ceiling(m, of, "read_bandwidth");
    for (int i = 0; i < N_ROOFS; i++)
        f->roof[i] = merge_ceiling(m, of, roofs[i].ceiling);
}

// Where a roof meets the slope of memory.
static double ridge_of(const frame *f, double roof) {
    return f->memory > 0 ? log10(roof * 1e3 / f->memory) : f->x0;
}

static const merge_row *first_kernel(const chart *c, int device) {
    for (int i = 0; i < c->m->n; i++)
        if (is_kernel(c, &c->m->rows[i]) && c->m->rows[i].device == device)
            return &c->m->rows[i];
    return NULL;
}

// One frame for all devices of a model, so that their charts can be compared side by side.
static frame frame_of(const chart *c) {
    frame f = {.x0 = 99, .x1 = -99, .y0 = 99, .y1 = -99};
    for (int i = 0; i < c->m->n; i++)
        if (is_kernel(c, &c->m->rows[i]) && is_point(&c->m->rows[i]))
            widen(&f, operations_of(&c->m->rows[i]), log10(c->m->rows[i].tflops));
    for (int device = 0; device < c->m->n_devices && f.x0 < f.x1; device++) {
        const merge_row *kernel = first_kernel(c, device);
        if (!kernel)
            continue;
        read_ceilings(c->m, kernel, &f);
        for (int i = 0; i < N_ROOFS; i++)
            if (f.roof[i] > 0)
                widen(&f, ridge_of(&f, f.roof[i]) + 0.5, log10(f.roof[i]));
    }
    read_ceilings(c->m, &c->m->rows[c->m->devices[c->device]], &f);
    return f;
}

// ---- axes -------------------------------------------------------------------------------------------------------------

typedef void draw_tick(const frame *f, pen *p, double at);

static void draw_across(const frame *f, pen *p, double at) {
    char number[32];
    pen_line(p, x_of(f, at), TOP, x_of(f, at), HEIGHT - BOTTOM, "class=\"grid\"");
    pen_text(p, x_of(f, at), HEIGHT - BOTTOM + 14, "class=\"dim middle\"", chart_number(pow(10, at), number));
}

static void draw_down(const frame *f, pen *p, double at) {
    char number[32];
    pen_line(p, LEFT, y_of(f, at), RIGHT, y_of(f, at), "class=\"grid\"");
    pen_text(p, LEFT, y_of(f, at) + 4, "dx=\"-5\" class=\"dim end\"", chart_number(pow(10, at + 12), number));
}

// Whole decades, each or every so many; where there are few, 2 and 5 times them too.
static void draw_ticks(const frame *f, pen *p, double from, double to, draw_tick *draw) {
    static const double parts[] = {0, 0.30103, 0.69897};
    int n = to - from < 2.5 ? 3 : 1, every = (int)ceil((to - from) / 7);
    for (int decade = (int)floor(from); decade <= to; decade += every)
        for (int i = 0; i < n; i++)
            if (decade + parts[i] >= from && decade + parts[i] <= to)
                draw(f, p, decade + parts[i]);
}

// ---- ceilings ---------------------------------------------------------------------------------------------------------

// From the edge of the frame to the highest roof.
static void draw_slope(const frame *f, pen *p, double top) {
    double gradient = log10(f->memory / 1e3), from = fmax(f->x0, f->y0 - gradient), to = fmin(f->x1, top - gradient);
    if (to <= from)
        return;
    pen_line(p, x_of(f, from), y_of(f, from + gradient), x_of(f, to), y_of(f, to + gradient), "class=\"roof slope\"");
    char text[64], number[32];
    snprintf(text, sizeof(text), "read %sB/s", chart_number(f->memory * 1e9, number));
    double at = from + 0.6 * (to - from);
    bool beside = x_of(f, at) > 40;
    pen_text(p, x_of(f, at), y_of(f, at + gradient),
             beside ? "dx=\"-8\" class=\"dim end halo\"" : "dx=\"8\" dy=\"12\" class=\"dim halo\"", text);
}

// The lowest roof above `below`; -1: there is none.
static int next_roof(const frame *f, double below) {
    int next = -1;
    for (int i = 0; i < N_ROOFS; i++)
        if (f->roof[i] > below && (next < 0 || f->roof[i] < f->roof[next]))
            next = i;
    return next;
}

static void draw_roof(const frame *f, pen *p, double roof) {
    double y = y_of(f, log10(roof)), from = fmax(f->x0, ridge_of(f, roof));
    pen_line(p, x_of(f, fmin(from, f->x1)), y, RIGHT, y, "class=\"roof\"");
}

// Names stand above their roofs; where roofs are close, the next one's is pushed up.
static double name_roof(const frame *f, pen *p, int roof, double below) {
    double at = fmin(y_of(f, log10(f->roof[roof])) - 5, below - 13);
    char text[64], number[32];
    snprintf(text, sizeof(text), "%s %s", roofs[roof].says, chart_number(f->roof[roof] * 1e12, number));
    pen_text(p, RIGHT, at, "class=\"dim end halo\"", text);
    return at;
}

static void draw_ceilings(const frame *f, pen *p) {
    double top = 0, below = HEIGHT;
    for (int i = next_roof(f, 0); i >= 0; i = next_roof(f, top))
        top = f->roof[i];
    if (f->memory > 0)
        draw_slope(f, p, top > 0 ? log10(top) : f->y1);
    for (int i = 0; i < N_ROOFS; i++)
        if (f->roof[i] > 0)
            draw_roof(f, p, f->roof[i]);
    for (int i = next_roof(f, 0); i >= 0; i = next_roof(f, f->roof[i]))
        below = name_roof(f, p, i, below);
}

// ---- kernels ----------------------------------------------------------------------------------------------------------

static void put_title(pen *p, const merge_row *r) {
    pen_put(p, "<title>");
    pen_escape(p, r->kernel);
    pen_put(p, r->shape ? " " : "");
    pen_escape(p, r->shape ? r->shape : "");
    pen_putf(p, ", rows: %" PRIu32 ", depth: %" PRIu32 ", %.4g us, %.4g TFLOP/s", r->n_rows, r->n_depth, r->us, r->tflops);
    if (r->bw_percent >= 0)
        pen_putf(p, ", %.0f %% of the bandwidth", r->bw_percent);
    if (r->flops_percent >= 0)
        pen_putf(p, ", %.0f %% of the arithmetic", r->flops_percent);
    pen_putf(p, ", %.0f %% of the pass</title>", r->share * 100);
}

// A dot: one row; a ring: more. The larger, the more of its pass it takes.
static void draw_kernel(const frame *f, pen *p, const merge_row *r) {
    pen_putf(p, "<circle cx=\"%.2f%%\" cy=\"%.1f\" r=\"%.1f\" class=\"kernel %s c%d%s\" ", x_of(f, operations_of(r)),
             y_of(f, log10(r->tflops)), 3 + 6 * sqrt(r->share), r->n_rows > 1 ? "ring" : "fill", r->device % CHART_COLORS,
             merge_failed(r) ? " bad" : "");
    pen_putf(p, "data-device=\"%d\" data-operations=\"%.17g\" data-value=\"%.17g\" data-kernel=\"", r->device + 1,
             r->flops / r->bytes, r->tflops);
    pen_escape(p, r->kernel);
    pen_put(p, "\">");
    put_title(p, r);
    pen_put(p, "</circle>\n");
}

// The point that takes the most of its pass after `before`, which is one too, or NULL.
static const merge_row *next_largest(const chart *c, const merge_row *before) {
    const merge_row *most = NULL;
    for (const merge_row *r = c->m->rows; r < c->m->rows + c->m->n; r++) {
        bool after = !before || r->share < before->share || (r->share == before->share && r > before);
        if (after && is_kernel(c, r) && r->device == c->device && is_point(r) && (!most || r->share > most->share))
            most = r;
    }
    return most;
}

typedef struct label {
    const merge_row *row;
    double x, y;
} label;

static bool says_the_same(const merge_row *a, const merge_row *b) {
    return a->n_rows == b->n_rows && !strcmp(a->kernel, b->kernel);
}

static bool is_free(const label *labels, int n, const label *wanted) {
    for (int i = 0; i < n; i++)
        if (says_the_same(labels[i].row, wanted->row) || (fabs(labels[i].x - wanted->x) < 35 && fabs(labels[i].y - wanted->y) < 14))
            return false;
    return true;
}

static void draw_label(pen *p, const label *l) {
    char text[256];
    snprintf(text, sizeof(text), "%s, %" PRIu32 " row%s", l->row->kernel, l->row->n_rows, l->row->n_rows == 1 ? "" : "s");
    pen_text(p, l->x, l->y + 4, l->x > 55 ? "dx=\"-12\" class=\"end halo\"" : "dx=\"12\" class=\"halo\"", text);
}

// Names those that take the most, where there is room.
static void draw_labels(const chart *c, const frame *f, pen *p) {
    label labels[MAX_LABELS];
    int n = 0;
    const merge_row *r = next_largest(c, NULL);
    for (int tried = 0; r && n < MAX_LABELS && tried < 4 * MAX_LABELS; tried++, r = next_largest(c, r)) {
        label wanted = {r, x_of(f, operations_of(r)), y_of(f, log10(r->tflops))};
        if (!is_free(labels, n, &wanted))
            continue;
        labels[n++] = wanted;
        draw_label(p, &wanted);
    }
}

// ---- all of it --------------------------------------------------------------------------------------------------------

// What the chart does not show is said below it.
static double draw_notes(const chart *c, const frame *f, pen *p) {
    int without = 0;
    double y = HEIGHT + 12;
    char text[96];
    for (int i = 0; i < c->m->n; i++)
        without += is_kernel(c, &c->m->rows[i]) && c->m->rows[i].device == c->device && !is_point(&c->m->rows[i]);
    snprintf(text, sizeof(text), "%d rows of kernels that only move data, or tell no operations", without);
    if (without > 0)
        pen_text(p, 0, y, "class=\"dim\"", text), y += CHART_LINE;
    if (f->memory <= 0)
        pen_text(p, 0, y, "class=\"dim\"", "no ceilings were measured here"), y += CHART_LINE;
    return y;
}

double roofline_draw(const chart *c, pen *p) {
    frame f = frame_of(c);
    const merge_row *first = first_kernel(c, c->device);
    if (!first || f.x0 > f.x1)
        return 0;
    chart_key(c, p, c->device, 14);
    draw_ticks(&f, p, f.x0, f.x1, draw_across);
    draw_ticks(&f, p, f.y0, f.y1, draw_down);
    pen_text(p, 0, TOP - 8, "class=\"dim\"", "FLOP/s");
    pen_text(p, RIGHT, HEIGHT - 6, "class=\"dim end\"", "operations a byte");
    draw_ceilings(&f, p);
    draw_labels(c, &f, p); // no label lies on a point
    for (int i = 0; i < c->m->n; i++)
        if (is_kernel(c, &c->m->rows[i]) && c->m->rows[i].device == c->device && is_point(&c->m->rows[i]))
            draw_kernel(&f, p, &c->m->rows[i]);
    return draw_notes(c, &f, p);
}
