// How decoding slows behind more tokens: a line a device, through the depths that it was measured at.
#include "bench/chart.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

enum { HEIGHT = 240, TOP = 18, BOTTOM = 28, LEFT = 9, RIGHT = 90 }; // pixels; percent

typedef struct frame {
    double deepest, most;
    const merge_row *ends[MERGE_MAX_DEVICES]; // the deepest point of each line drawn so far
    int n_ends;
} frame;

static double x_of(const frame *f, double depth) {
    return LEFT + depth / f->deepest * (RIGHT - LEFT);
}

static double y_of(const frame *f, double rate) {
    return HEIGHT - BOTTOM - rate / f->most * (HEIGHT - BOTTOM - TOP);
}

static bool is_point(const chart *c, const merge_row *r) {
    return r->kind == MERGE_TOKENS && r->group == c->group && chart_part(r) == CHART_DECODE && r->n_seqs == 1;
}

static frame frame_of(const chart *c) {
    frame f = {.most = 0};
    for (int i = 0; i < c->m->n; i++) {
        const merge_row *r = &c->m->rows[i];
        double high = r->max > r->avg ? r->max : r->avg;
        if (is_point(c, r)) {
            f.deepest = r->n_depth > f.deepest ? r->n_depth : f.deepest;
            f.most = high > f.most ? high : f.most;
        }
    }
    return f;
}

static void draw_axes(const frame *f, pen *p) {
    char number[32];
    double step = chart_step(f->most, 4), bottom = HEIGHT - BOTTOM, across = 1;
    while (across * 4 < f->deepest)
        across *= 2; // contexts come in powers of two
    for (double rate = 0; rate <= f->most * 1.0001; rate += step) {
        pen_line(p, 0, y_of(f, rate), 100, y_of(f, rate), "class=\"grid\"");
        pen_text(p, 0, y_of(f, rate) - 3, "class=\"dim\"", chart_number(rate, number));
    }
    for (double depth = 0; depth <= f->deepest; depth += across) {
        snprintf(number, sizeof(number), "%.0f", depth);
        pen_line(p, x_of(f, depth), bottom, x_of(f, depth), bottom + 4, "class=\"grid\"");
        pen_text(p, x_of(f, depth), bottom + 16, "class=\"dim middle\"", number);
    }
    pen_text(p, 100, bottom + 28, "class=\"dim end\"", "tokens before");
}

// The next deeper point of the line of `like` after `depth`; NULL: there is none.
static const merge_row *deeper(const chart *c, const merge_row *like, int64_t depth) {
    const merge_row *next = NULL;
    for (int i = 0; i < c->m->n; i++) {
        const merge_row *r = &c->m->rows[i];
        bool after = is_point(c, r) && r->device == like->device && r->n_gen == like->n_gen && r->n_depth > depth;
        if (after && (!next || r->n_depth < next->n_depth))
            next = r;
    }
    return next;
}

static void draw_point(const frame *f, pen *p, const merge_row *r) {
    double x = x_of(f, r->n_depth), low = y_of(f, r->min), high = y_of(f, r->max);
    const char *bad = merge_failed(r) ? " bad" : "";
    pen_line(p, x, low, x, high, "class=\"mark\"");
    pen_putf(p,
             "<circle cx=\"%.2f%%\" cy=\"%.1f\" r=\"4\" class=\"point fill c%d%s\" data-device=\"%d\" data-depth=\"%" PRIu32 "\" ",
             x, y_of(f, r->avg), r->device % CHART_COLORS, bad, r->device + 1, r->n_depth);
    pen_putf(p, "data-value=\"%.17g\"><title>%.2f tokens/s%s</title></circle>\n", r->avg, r->avg, *bad ? ", proof failed" : "");
}

// A line's number stands at its end: lines can be told apart without their colours. Beside it, where another's stands there
// already.
static void name_line(frame *f, pen *p, const merge_row *last) {
    char text[16], more[64];
    int beside = 0;
    for (int i = 0; i < f->n_ends; i++)
        beside += f->ends[i]->n_depth == last->n_depth && fabs(y_of(f, f->ends[i]->avg) - y_of(f, last->avg)) < 11;
    if (f->n_ends < MERGE_MAX_DEVICES)
        f->ends[f->n_ends++] = last;
    snprintf(text, sizeof(text), "%d", last->device + 1);
    snprintf(more, sizeof(more), "dx=\"%d\" class=\"strong\"", 10 + 11 * beside);
    pen_text(p, x_of(f, last->n_depth), y_of(f, last->avg) + 4, more, text);
}

static void draw_line(const chart *c, frame *f, pen *p, const merge_row *first) {
    char text[32];
    const merge_row *last = first;
    snprintf(text, sizeof(text), "class=\"stroke c%d\"", first->device % CHART_COLORS);
    for (const merge_row *next = first; next; last = next, next = deeper(c, next, next->n_depth)) {
        if (next != first)
            pen_line(p, x_of(f, last->n_depth), y_of(f, last->avg), x_of(f, next->n_depth), y_of(f, next->avg), text);
        draw_point(f, p, next);
    }
    name_line(f, p, last);
}

static double draw_key(const chart *c, pen *p) {
    double y = HEIGHT + CHART_LINE;
    for (int device = 0; device < c->m->n_devices; device++)
        for (int i = 0; i < c->m->n; i++)
            if (c->m->rows[i].device == device && is_point(c, &c->m->rows[i])) {
                chart_key(c, p, device, y);
                y += CHART_LINE;
                break;
            }
    return y;
}

double depth_draw(const chart *c, pen *p) {
    frame f = frame_of(c);
    if (f.deepest == 0)
        return 0;
    draw_axes(&f, p);
    for (int i = 0; i < c->m->n; i++)
        if (is_point(c, &c->m->rows[i]) && deeper(c, &c->m->rows[i], -1) == &c->m->rows[i])
            draw_line(c, &f, p, &c->m->rows[i]);
    return draw_key(c, p);
}
