// What all charts share: their style, numbers, and the file of one kind of them.
#include "bench/chart.h"

#include <math.h>
#include <stdio.h>

const char *const chart_words[] = {"prefill", "decode", "both", "depth", "energy", "sustained", "roofline", NULL};

// Colours are plain values and no variables: programs that show SVG and are no browsers know no variables.
const char chart_style[] =
    ".c0{color:#2f6fab}.c1{color:#c56a1d}.c2{color:#3a8a57}.c3{color:#8a54a6}.c4{color:#b0577a}.c5{color:#4d7d85}.c6{color:#8a7a1f}"
    ".c7{color:#6b6b78}\n"
    ".chart text{font:12px system-ui,'Segoe UI',Roboto,'DejaVu Sans',sans-serif;fill:#1f2328}\n"
    ".chart .dim{fill:#5c6670}.chart .strong{font-weight:600}.chart .title{font-size:16px;font-weight:600}\n"
    ".chart .grid{stroke:#dfe2e5}.chart .mark{stroke:#1f2328;stroke-width:1.5}.chart .fill{fill:currentColor}\n"
    ".chart .stroke{stroke:currentColor;stroke-width:2}.chart .roof{stroke:#5c6670;stroke-width:1.5}.chart .faint{opacity:.5}"
    ".chart .ring{fill:none;stroke:currentColor;stroke-width:2}\n"
    ".chart .paper{fill:#fdfdfb}.chart .halo{paint-order:stroke;stroke:#fdfdfb;stroke-width:7px;stroke-linejoin:round}\n"
    ".chart .end{text-anchor:end}.chart .middle{text-anchor:middle}.bad.bad{color:#c62828}.chart "
    "text.bad{fill:#c62828;font-weight:600}\n"
    "@media(prefers-color-scheme:dark){\n"
    ".c0{color:#6aa9e6}.c1{color:#eb9b52}.c2{color:#6cc48c}.c3{color:#bd8bd8}.c4{color:#e291b4}.c5{color:#7fb8c2}.c6{color:#cdbb58}"
    ".c7{color:#a3a3b2}\n"
    ".chart text{fill:#e4e6e9}.chart .dim{fill:#9aa4ae}.chart .grid{stroke:#2c323a}.chart .mark{stroke:#e4e6e9}"
    ".chart .roof{stroke:#9aa4ae}\n"
    ".chart .paper{fill:#16191d}.chart .halo{stroke:#16191d}.bad.bad{color:#ff6b6b}.chart text.bad{fill:#ff6b6b}}\n";

static const char means[] = "Bars are means; the thin line goes from the slowest run to the fastest.";

static const struct {
    const char *title, *note;
    double (*draw)(const chart *c, pen *p);
} charts[N_CHARTS] = {
    [CHART_PREFILL] = {"Prefill, tokens a second", means, bars_draw},
    [CHART_DECODE] = {"Decode, tokens a second", means, bars_draw},
    [CHART_BOTH] = {"Prompt and answer, tokens of both a second", "This mixes prefill and decode: all tokens by the time of both.",
                    bars_draw},
    [CHART_DEPTH] = {"Decode against depth, tokens a second",
                     "Points are means with their slowest and fastest run; red: proof failed.", depth_draw},
    [CHART_ENERGY] = {"Tokens per joule", "Means over all runs.", bars_draw},
    [CHART_SUSTAINED] = {"Cold and steady, tokens a second", "Pale: the first runs. Full: when the rate fell no more.", bars_draw},
    [CHART_ROOFLINE] = {"Roofline: what each kernel reaches of what was measured",
                        "Dot: a kernel with one row. Ring: with more. Larger: more of its pass.", roofline_draw},
};

const char *chart_title(chart_kind kind) {
    return charts[kind].title;
}

const char *chart_note(chart_kind kind) {
    return charts[kind].note;
}

// ---- numbers ----------------------------------------------------------------------------------------------------------

double chart_step(double most, int n) {
    double raw = most / n, power = pow(10, floor(log10(raw)));
    double times = raw / power;
    return power * (times > 5 ? 10 : times > 2 ? 5 : times > 1 ? 2 : 1);
}

const char *chart_number(double value, char text[32]) {
    static const char *const units[] = {"", " k", " M", " G", " T", " P", " E"};
    int unit = 0;
    for (; value >= 999.5 && unit < 6; unit++)
        value /= 1000;
    snprintf(text, 32, "%.3g%s", value, units[unit]);
    return text;
}

chart_kind chart_part(const merge_row *r) {
    return r->n_gen == 0 ? CHART_PREFILL : r->n_prompt == 0 ? CHART_DECODE : CHART_BOTH;
}

// ---- one chart --------------------------------------------------------------------------------------------------------

void chart_key(const chart *c, pen *p, int device, double y) {
    char name[MERGE_NAME_SIZE];
    merge_short_name(c->m, device, name);
    pen_putf(p, "<rect x=\"0\" y=\"%.1f\" width=\"10\" height=\"10\" rx=\"2\" class=\"fill c%d\"/>\n", y - 9,
             device % CHART_COLORS);
    pen_putf(p, "<text x=\"16\" y=\"%.1f\">%d  ", y, device + 1);
    pen_escape(p, name);
    pen_put(p, "</text>\n");
}

double chart_height(const chart *c) {
    return charts[c->kind].draw(c, &(pen){.out = NULL});
}

void chart_put(const chart *c, pen *p, const char *more) {
    pen_putf(p, "<svg class=\"chart\" height=\"%.0f\" %s>\n", chart_height(c), more);
    charts[c->kind].draw(c, p);
    pen_put(p, "</svg>\n");
}

// ---- a file -----------------------------------------------------------------------------------------------------------

enum { WIDTH = 640, PAD = 16 };

// Below y, with what it is of; returns where it ends.
static double put_below(const chart *c, pen *p, double y, bool *named) {
    double height = chart_height(c);
    if (height == 0)
        return y;
    if (!*named) {
        char name[MERGE_NAME_SIZE], place[64];
        merge_group_name(&c->m->rows[c->m->groups[c->group]], name);
        snprintf(place, sizeof(place), "class=\"dim\" dx=\"%d\"", PAD);
        pen_text(p, 0, y + CHART_LINE, place, name);
        y += 2 * CHART_LINE;
        *named = true;
    }
    char place[96];
    snprintf(place, sizeof(place), "x=\"%d\" y=\"%.0f\" width=\"%d\"", PAD, y, WIDTH - 2 * PAD);
    chart_put(c, p, place);
    return y + height;
}

static double put_all(const merge *m, chart_kind kind, pen *p, bool *any) {
    double y = PAD + CHART_LINE;
    for (int group = 0; group < m->n_groups; group++) {
        bool named = false;
        for (int device = 0; device < (kind == CHART_ROOFLINE ? m->n_devices : 1); device++)
            y = put_below(&(chart){.m = m, .kind = kind, .group = group, .device = device}, p, y, &named);
        *any |= named;
    }
    return y + 4;
}

// How to read it, and by what it was measured: a picture is seen without its page. Returns where it ends.
static double put_foot(const merge *m, chart_kind kind, double y, pen *p) {
    char place[64], name[MERGE_NAME_SIZE + 16];
    snprintf(place, sizeof(place), "class=\"dim\" dx=\"%d\"", PAD);
    pen_text(p, 0, y + CHART_LINE, place, charts[kind].note);
    y += CHART_LINE;
    if (m->n_groups > 1) {
        pen_text(p, 0, y + CHART_LINE, place, "Models, quants and cache types are not compared with one another.");
        y += CHART_LINE;
    }
    for (int device = 0; device < m->n_devices; device++, y += CHART_LINE) {
        const merge_row *r = &m->rows[m->devices[device]];
        snprintf(name, sizeof(name), "%d: %s %s, %s %s", device + 1, r->driver, r->driver_info, r->engine, r->build);
        pen_text(p, 0, y + CHART_LINE, place, name);
    }
    return y + PAD;
}

// Its own paper lies under it: it is readable wherever it is shown, whatever is around it.
static void put_file(const merge *m, chart_kind kind, double height, pen *p) {
    bool any = false;
    pen_putf(p,
             "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"chart\" width=\"%d\" height=\"%.0f\" viewBox=\"0 0 %d %.0f\" "
             "role=\"img\">\n",
             WIDTH, height, WIDTH, height);
    pen_putf(p, "<title>%s</title>\n<style>\n", chart_title(kind));
    pen_put(p, chart_style);
    pen_putf(p, "</style>\n<rect width=\"%d\" height=\"%.0f\" rx=\"8\" class=\"paper\"/>\n", WIDTH, height);
    pen_putf(p, "<text x=\"%d\" y=\"%d\" class=\"title\">%s</text>\n", PAD, PAD + 12, chart_title(kind));
    put_foot(m, kind, put_all(m, kind, p, &any), p);
    pen_put(p, "</svg>\n");
}

pm_status chart_svg(const merge *m, chart_kind kind, const char *path) {
    bool any = false;
    pen none = {.out = NULL};
    double height = put_foot(m, kind, put_all(m, kind, &none, &any), &none);
    if (!any)
        return pm_fail(PM_ERR_FILE, "--svg %s: the reports hold nothing for this chart", chart_words[kind]);
    pm_output out;
    PM_TRY(pm_output_open(path, &out));
    pen p = {.out = &out};
    put_file(m, kind, height, &p);
    if (p.status == PM_OK)
        p.status = pm_output_finish(&out);
    pm_output_close(&out);
    return p.status;
}
