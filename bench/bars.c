// Bars by device, test by test: rates with their spread, tokens per joule, cold against steady. All bars of a chart have one scale.
#include "bench/chart.h"

#include <stdio.h>

enum { SPAN = 62, BAR = 14, GAP = 8 }; // percent for the longest bar, the rest is for its figure; pixels

typedef struct bar {
    const merge_row *row;
    double value, low, high;
    char text[128];
    bool faint;
} bar;

enum { MAX_BARS = 2 }; // of a row

// ---- what the bars of a row are ---------------------------------------------------------------------------------------

static int rate_bars(const merge_row *r, bar *b) {
    *b = (bar){.value = r->avg, .low = r->min, .high = r->max};
    if (r->stddev > 0)
        snprintf(b->text, sizeof(b->text), "%.2f ± %.2f", r->avg, r->stddev);
    else
        snprintf(b->text, sizeof(b->text), "%.2f", r->avg);
    return 1;
}

static int energy_bars(const merge_row *r, bar *b) {
    if (r->per_joule < 0)
        return 0;
    *b = (bar){.value = r->per_joule, .low = r->per_joule, .high = r->per_joule};
    int n = snprintf(b->text, sizeof(b->text), "%.3g", r->per_joule);
    if (r->watts >= 0)
        snprintf(b->text + n, sizeof(b->text) - (size_t)n, " at %.3g W", r->watts);
    return 1;
}

static int sustained_bars(const merge_row *r, bar *b) {
    if (!(r->cold > 0 && r->sustained > 0))
        return 0;
    b[0] = (bar){.value = r->cold, .low = r->cold, .high = r->cold, .faint = true};
    b[1] = (bar){.value = r->sustained, .low = r->sustained, .high = r->sustained};
    snprintf(b[0].text, sizeof(b[0].text), "%.2f cold", r->cold);
    int n = snprintf(b[1].text, sizeof(b[1].text), "%.2f", r->sustained);
    if (r->throttle_s >= 0)
        snprintf(b[1].text + n, sizeof(b[1].text) - (size_t)n, ", fell at %.0f s", r->throttle_s);
    else if (r->sustain_s >= 0)
        snprintf(b[1].text + n, sizeof(b[1].text) - (size_t)n, " after %.0f s", r->sustain_s);
    return 2;
}

static int bars_of(const chart *c, const merge_row *r, bar bars[MAX_BARS]) {
    if (r->kind != MERGE_TOKENS || r->group != c->group)
        return 0;
    int n = c->kind == CHART_ENERGY      ? energy_bars(r, bars)
            : c->kind == CHART_SUSTAINED ? sustained_bars(r, bars)
            : chart_part(r) == c->kind   ? rate_bars(r, bars)
                                         : 0;
    for (int i = 0; i < n; i++)
        bars[i].row = r;
    return n;
}

// ---- drawing ----------------------------------------------------------------------------------------------------------

static double longest(const chart *c) {
    double most = 0;
    bar bars[MAX_BARS];
    for (int i = 0; i < c->m->n; i++)
        for (int k = bars_of(c, &c->m->rows[i], bars) - 1; k >= 0; k--) {
            double end = bars[k].high > bars[k].value ? bars[k].high : bars[k].value;
            most = end > most ? end : most;
        }
    return most;
}

static void draw_spread(const bar *b, pen *p, double y, double scale) {
    double low = b->low * scale, high = b->high * scale, middle = y + BAR / 2.0;
    if (b->high <= b->low)
        return;
    pen_line(p, low, middle, high, middle, "class=\"mark spread\"");
    pen_line(p, low, middle - 4, low, middle + 4, "class=\"mark\"");
    pen_line(p, high, middle - 4, high, middle + 4, "class=\"mark\"");
}

// The figure stands behind whatever is longer, the bar or its spread.
static void draw_bar(const bar *b, pen *p, double y, double scale) {
    const merge_row *r = b->row;
    char test[MERGE_NAME_SIZE];
    merge_test_name(r, test);
    pen_putf(p, "<rect x=\"0\" y=\"%.1f\" width=\"%.2f%%\" height=\"%d\" rx=\"2\" class=\"bar fill c%d%s%s\" ", y, b->value * scale,
             BAR, r->device % CHART_COLORS, b->faint ? " faint" : "", merge_failed(r) ? " bad" : "");
    pen_putf(p, "data-device=\"%d\" data-test=\"%.60s\" data-value=\"%.17g\" data-min=\"%.17g\" data-max=\"%.17g\"/>\n",
             r->device + 1, test, b->value, b->low, b->high);
    draw_spread(b, p, y, scale);
    pen_text(p, (b->high > b->value ? b->high : b->value) * scale, y + BAR - 3,
             merge_failed(r) ? "dx=\"8\" class=\"bad\"" : "dx=\"8\"", b->text);
}

static double draw_row(const chart *c, pen *p, const merge_row *r, double y, double scale) {
    bar bars[MAX_BARS];
    char name[MERGE_NAME_SIZE];
    int n = bars_of(c, r, bars);
    if (n == 0)
        return y;
    merge_short_name(c->m, r->device, name);
    pen_putf(p, "<text x=\"0\" y=\"%.1f\" class=\"%s\">", y + 12, merge_failed(r) ? "bad" : "dim");
    pen_putf(p, "%d %s", r->device + 1, merge_failed(r) ? "proof failed: " : "");
    pen_escape(p, name);
    pen_put(p, "</text>\n");
    y += CHART_LINE;
    for (int i = 0; i < n; i++, y += BAR + 2)
        draw_bar(&bars[i], p, y, scale);
    return y + GAP - 2;
}

static bool is_first_of_test(const chart *c, int i) {
    bar bars[MAX_BARS];
    for (int k = 0; k < i; k++)
        if (merge_same_test(&c->m->rows[k], &c->m->rows[i]) && bars_of(c, &c->m->rows[k], bars))
            return false;
    return bars_of(c, &c->m->rows[i], bars) > 0;
}

static double draw_test(const chart *c, pen *p, int first, double y, double scale) {
    char name[MERGE_NAME_SIZE];
    merge_test_name(&c->m->rows[first], name);
    pen_text(p, 0, y + 14, "class=\"strong\"", name);
    y += CHART_LINE + 4;
    for (int i = first; i < c->m->n; i++)
        if (merge_same_test(&c->m->rows[i], &c->m->rows[first]))
            y = draw_row(c, p, &c->m->rows[i], y, scale);
    return y + GAP;
}

static void draw_grid(pen *p, double most, double height) {
    double step = chart_step(most, 4);
    for (int i = 0; i * step <= most * 1.0001; i++) {
        char number[32];
        double x = i * step / most * SPAN;
        pen_line(p, x, 0, x, height, "class=\"grid\"");
        pen_text(p, x, height + 13, i ? "class=\"dim middle\"" : "class=\"dim\"", chart_number(i * step, number));
    }
}

static double draw_tests(const chart *c, pen *p, double scale) {
    double y = 0;
    for (int i = 0; i < c->m->n; i++)
        if (is_first_of_test(c, i))
            y = draw_test(c, p, i, y, scale);
    return y;
}

double bars_draw(const chart *c, pen *p) {
    double most = longest(c);
    if (most <= 0)
        return 0;
    double height = draw_tests(c, &(pen){.out = NULL}, SPAN / most);
    draw_grid(p, most, height);
    draw_tests(c, p, SPAN / most);
    return height + CHART_LINE + 4;
}
