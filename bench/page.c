// The report as one page of HTML: nothing outside it is needed, light and dark, on a phone too. Whatever a file says is escaped.
#include "bench/merge.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

// Failure of any write sticks, so that the building below reads straight.
typedef struct page {
    const merge *m;
    pm_output out;
    pm_status status;
} page;

static void put(page *p, const char *text) {
    if (p->status == PM_OK)
        p->status = pm_output_write(&p->out, text, strlen(text));
}

// Numbers and the like: what is printed must fit.
PM_PRINTF(2, 3) static void putf(page *p, const char *format, ...) {
    char text[512];
    va_list list;
    va_start(list, format);
    vsnprintf(text, sizeof(text), format, list);
    va_end(list);
    put(p, text);
}

static void put_escaped(page *p, const char *text) {
    for (; *text; text++) {
        const char one[2] = {*text, 0};
        put(p, *text == '<'    ? "&lt;"
               : *text == '>'  ? "&gt;"
               : *text == '&'  ? "&amp;"
               : *text == '"'  ? "&quot;"
               : *text == '\'' ? "&#39;"
                               : one);
    }
}

// ---- style and script -------------------------------------------------------------------------------------------------

static const char head[] =
    "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
    "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n"
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none';style-src 'unsafe-inline';"
    "script-src 'unsafe-inline'\">\n<title>pumice-bench</title>\n<style>\n"
    ":root{color-scheme:light dark;--bg:#fdfdfb;--fg:#1f2328;--dim:#5c6670;--line:#d9dce0;--bad:#c62828;--tint:#f2f3f0;"
    "--c0:#2f6fab;--c1:#c56a1d;--c2:#3a8a57;--c3:#8a54a6;--c4:#a83a4e;--c5:#4d7d85;--c6:#8a7a1f;--c7:#6b6b78}\n"
    "@media(prefers-color-scheme:dark){:root{--bg:#16191d;--fg:#e4e6e9;--dim:#9aa4ae;--line:#343a42;--bad:#ff6b6b;"
    "--tint:#1f242a;--c0:#6aa9e6;--c1:#eb9b52;--c2:#6cc48c;--c3:#bd8bd8;--c4:#e57a8c;--c5:#7fb8c2;--c6:#cdbb58;--c7:#a3a3b2}}\n"
    "*{box-sizing:border-box}body{margin:0 auto;max-width:62rem;padding:1rem;background:var(--bg);color:var(--fg);"
    "font:15px/1.45 system-ui,sans-serif}\n"
    "h1{font-size:1.5rem;margin:.3rem 0}h2{font-size:1.2rem;margin:2rem 0 .2rem;padding-top:.8rem;border-top:1px solid var(--line)}"
    "h3{font-size:1rem;margin:1.2rem 0 .3rem}h4{font-size:.85rem;font-weight:600;margin:.8rem 0 .2rem;color:var(--dim)}\n"
    "p,li,.dim{color:var(--dim)}ul.key{list-style:none;padding:0;margin:.5rem 0}ul.key li{margin:.2rem 0;color:var(--fg)}\n"
    "i.c{display:inline-block;width:.8em;height:.8em;border-radius:2px;margin-right:.5em}\n"
    ".bar{display:grid;grid-template-columns:minmax(0,1fr) 10.5rem;gap:.6rem;align-items:center;margin:3px 0;font-size:.85rem;"
    "font-variant-numeric:tabular-nums}\n"
    ".track{position:relative;height:1.05rem;background:var(--tint);border-radius:3px}.fill{height:100%;border-radius:3px}\n"
    ".spread{position:absolute;top:50%;height:2px;min-width:2px;background:var(--fg);opacity:.75}\n"
    ".bad{color:var(--bad);font-weight:600}.fill.bad{background:var(--bad)!important}\n"
    "svg{display:block;width:100%;max-width:40rem;height:auto}svg text{fill:var(--dim);font-size:12px}\n"
    ".wide{overflow-x:auto}table{border-collapse:collapse;font-size:.8rem;width:100%;font-variant-numeric:tabular-nums}\n"
    "th,td{padding:.3rem .5rem;text-align:left;border-bottom:1px solid var(--line);vertical-align:top}"
    "th{cursor:pointer;white-space:nowrap;color:var(--dim)}td.n,th.n{text-align:right;white-space:nowrap}"
    "th[aria-sort=ascending]::after{content:' \\2191'}th[aria-sort=descending]::after{content:' \\2193'}\n"
    "</style></head><body>\n";

static const char script[] =
    "<script>\nfor (const table of document.querySelectorAll('table'))\n"
    "  table.querySelectorAll('th').forEach((head, column) => head.addEventListener('click', () => {\n"
    "    const down = head.getAttribute('aria-sort') === 'ascending', body = table.tBodies[0];\n"
    "    const key = row => row.cells[column].dataset.v ?? row.cells[column].textContent;\n"
    "    const rows = [...body.rows].sort((a, b) => key(a).localeCompare(key(b), 'en', {numeric: true}));\n"
    "    table.querySelectorAll('th').forEach(other => other.removeAttribute('aria-sort'));\n"
    "    head.setAttribute('aria-sort', down ? 'descending' : 'ascending');\n"
    "    body.append(...(down ? rows.reverse() : rows));\n"
    "  }));\n</script>\n";

// ---- bars -------------------------------------------------------------------------------------------------------------

typedef enum part { PREFILL, DECODE, BOTH, N_PARTS } part;
static const char *const part_names[N_PARTS] = {"Prefill", "Decode", "Prompt and answer"};

static part part_of(const merge_row *r) {
    return r->n_gen == 0 ? PREFILL : r->n_prompt == 0 ? DECODE : BOTH;
}

static bool is_in(const merge_row *r, int group, part which) {
    return !r->kernel && r->group == group && part_of(r) == which;
}

static double fastest(const merge *m, const merge_row *like) {
    double most = 0;
    for (int i = 0; i < m->n; i++)
        if (is_in(&m->rows[i], like->group, part_of(like)) && merge_same_test(&m->rows[i], like) && m->rows[i].max > most)
            most = m->rows[i].max;
    return most;
}

static void put_bar(page *p, const merge_row *r, double most) {
    char name[MERGE_NAME_SIZE];
    const char *bad = merge_failed(r) ? " bad" : "";
    merge_device_name(r, name);
    put(p, "<div class=\"bar\" title=\"");
    put_escaped(p, name);
    putf(p, "\" data-ts=\"%.17g\"><div class=\"track\"><div class=\"fill%s\" style=\"width:%.2f%%;background:var(--c%d)\"></div>",
         r->avg, bad, r->avg / most * 100, r->device % 8);
    putf(p, "<div class=\"spread\" style=\"left:%.2f%%;width:%.2f%%\"></div></div><span class=\"t%s\">%.2f ± %.2f%s</span></div>\n",
         r->min / most * 100, (r->max - r->min) / most * 100, bad, r->avg, r->stddev, *bad ? ", proof failed" : "");
}

static bool is_first_of_test(const merge *m, int i) {
    for (int k = 0; k < i; k++)
        if (is_in(&m->rows[k], m->rows[i].group, part_of(&m->rows[i])) && merge_same_test(&m->rows[k], &m->rows[i]))
            return false;
    return true;
}

static void put_test(page *p, const merge_row *first) {
    char name[MERGE_NAME_SIZE];
    const merge *m = p->m;
    merge_test_name(first, name);
    put(p, "<h4>");
    put_escaped(p, name);
    put(p, "</h4>\n");
    for (int i = 0; i < m->n; i++)
        if (is_in(&m->rows[i], first->group, part_of(first)) && merge_same_test(&m->rows[i], first))
            put_bar(p, &m->rows[i], fastest(m, first));
}

static void put_part(page *p, int group, part which) {
    bool any = false;
    for (int i = 0; i < p->m->n; i++) {
        if (!is_in(&p->m->rows[i], group, which) || !is_first_of_test(p->m, i))
            continue;
        if (!any)
            putf(p, "<h3>%s, tokens a second</h3>\n", part_names[which]);
        any = true;
        put_test(p, &p->m->rows[i]);
    }
}

// ---- decode against depth ---------------------------------------------------------------------------------------------

enum { WIDTH = 420, HEIGHT = 220, LEFT = 52, BOTTOM = 30, TOP = 14, RIGHT = 14 };

static bool is_point(const merge_row *r, int group) {
    return is_in(r, group, DECODE) && r->n_seqs == 1;
}

static double x_of(double depth, double most) {
    return LEFT + depth / most * (WIDTH - LEFT - RIGHT);
}

static double y_of(double rate, double most) {
    return HEIGHT - BOTTOM - rate / most * (HEIGHT - BOTTOM - TOP);
}

static void put_axes(page *p, double deepest, double most) {
    for (int i = 0; i <= 4; i++) {
        double y = y_of(most * i / 4, most);
        putf(p, "<line x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\" stroke=\"var(--line)\"/>", LEFT, WIDTH - RIGHT, y, y);
        putf(p, "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%.3g</text>", LEFT - 6, y + 4, most * i / 4);
    }
    putf(p, "<text x=\"%d\" y=\"%d\">0</text><text x=\"%d\" y=\"%d\" text-anchor=\"end\">%.0f tokens before</text>\n", LEFT,
         HEIGHT - 10, WIDTH - RIGHT, HEIGHT - 10, deepest);
}

// The next deeper point of a device after `depth`; NULL: there is none.
static const merge_row *deeper(const merge *m, int group, int device, uint32_t n_gen, int64_t depth) {
    const merge_row *next = NULL;
    for (int i = 0; i < m->n; i++) {
        const merge_row *r = &m->rows[i];
        if (is_point(r, group) && r->device == device && r->n_gen == n_gen && r->n_depth > depth &&
            (!next || r->n_depth < next->n_depth))
            next = r;
    }
    return next;
}

static void put_line(page *p, const merge_row *first, double deepest, double most) {
    const merge_row *before = NULL;
    for (const merge_row *r = first; r; before = r, r = deeper(p->m, r->group, r->device, r->n_gen, r->n_depth)) {
        double x = x_of(r->n_depth, deepest), y = y_of(r->avg, most);
        if (before)
            putf(p, "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"var(--c%d)\" stroke-width=\"2\"/>",
                 x_of(before->n_depth, deepest), y_of(before->avg, most), x, y, r->device % 8);
        char color[16];
        snprintf(color, sizeof(color), merge_failed(r) ? "bad" : "c%d", r->device % 8);
        putf(p, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4\" fill=\"var(--%s)\" data-depth=\"%" PRIu32 "\" data-ts=\"%.17g\"/>\n", x, y,
             color, r->n_depth, r->avg);
    }
}

static void put_depths(page *p, int group) {
    double deepest = 0, most = 0;
    const merge *m = p->m;
    for (int i = 0; i < m->n; i++)
        if (is_point(&m->rows[i], group)) {
            deepest = m->rows[i].n_depth > deepest ? m->rows[i].n_depth : deepest;
            most = m->rows[i].avg > most ? m->rows[i].avg : most;
        }
    if (deepest == 0)
        return;
    putf(p, "<h3>Decode against depth, tokens a second</h3>\n<svg viewBox=\"0 0 %d %d\" role=\"img\">", WIDTH, HEIGHT);
    put_axes(p, deepest, most * 1.05);
    for (int i = 0; i < m->n; i++) {
        const merge_row *r = &m->rows[i];
        if (is_point(r, group) && deeper(m, group, r->device, r->n_gen, -1) == r)
            put_line(p, r, deepest, most * 1.05);
    }
    put(p, "</svg>\n");
}

// ---- tables -----------------------------------------------------------------------------------------------------------

static void put_cell(page *p, const char *text) {
    put(p, "<td>");
    put_escaped(p, text);
    put(p, "</td>");
}

// Below zero is unknown.
static void put_figure(page *p, double value, double unit, const char *format) {
    char text[48];
    if (value < 0) {
        put(p, "<td class=\"n\" data-v=\"-1\">–</td>");
        return;
    }
    snprintf(text, sizeof(text), format, value / unit);
    putf(p, "<td class=\"n\" data-v=\"%.17g\">%s</td>", value, text);
}

static bool any_joules(const merge *m) {
    for (int i = 0; i < m->n; i++)
        if (m->rows[i].joules > 0)
            return true;
    return false;
}

static void put_row(page *p, const merge_row *r) {
    char name[MERGE_NAME_SIZE];
    put(p, "<tr>");
    merge_device_name(r, name);
    put_cell(p, name);
    merge_group_name(r, name);
    put_cell(p, name);
    merge_test_name(r, name);
    put_cell(p, name);
    put_figure(p, r->avg, 1, "%.2f");
    put_figure(p, r->stddev, 1, "%.2f");
    put_figure(p, r->min, 1, "%.2f");
    put_figure(p, r->max, 1, "%.2f");
    put_figure(p, r->ttft_ms, 1, "%.1f");
    put_figure(p, r->load_ms, 1e3, "%.2f");
    put_figure(p, r->memory, 1 << 20, "%.0f");
    if (any_joules(p->m))
        put_figure(p, r->joules > 0 ? 1 / r->joules : -1, 1, "%.3g");
    putf(p, "<td%s>%s</td></tr>\n", merge_failed(r) ? " class=\"bad\"" : "", !r->proof ? "–" : merge_failed(r) ? "failed" : "ok");
}

static void put_rows(page *p) {
    put(p,
        "<h2>All rows</h2>\n<p>A click on a head sorts.</p><div class=\"wide\"><table id=\"rows\"><thead><tr><th>device</th>"
        "<th>model</th><th>test</th><th class=\"n\">t/s</th><th class=\"n\">±</th><th class=\"n\">min</th><th class=\"n\">max</th>"
        "<th class=\"n\">first ms</th><th class=\"n\">load s</th><th class=\"n\">MiB</th>");
    put(p, any_joules(p->m) ? "<th class=\"n\">tokens/J</th>" : "");
    put(p, "<th>proof</th></tr></thead><tbody>\n");
    for (int i = 0; i < p->m->n; i++)
        if (!p->m->rows[i].kernel)
            put_row(p, &p->m->rows[i]);
    put(p, "</tbody></table></div>\n");
}

static void put_kernel(page *p, const merge_row *r) {
    char name[MERGE_NAME_SIZE];
    put(p, "<tr>");
    merge_device_name(r, name);
    put_cell(p, name);
    merge_group_name(r, name);
    put_cell(p, name);
    put_cell(p, r->kernel);
    put_cell(p, r->place);
    put_figure(p, r->n_rows, 1, "%.0f");
    put_figure(p, r->n_depth, 1, "%.0f");
    put_figure(p, r->us, 1, "%.1f");
    put_figure(p, r->gb_s, 1, "%.2f");
    put(p, "</tr>\n");
}

static void put_kernels(page *p) {
    bool any = false;
    for (int i = 0; i < p->m->n; i++) {
        if (!p->m->rows[i].kernel)
            continue;
        if (!any)
            put(p,
                "<h2>Kernels</h2>\n<div class=\"wide\"><table "
                "id=\"kernels\"><thead><tr><th>device</th><th>model</th><th>kernel</th>"
                "<th>where</th><th class=\"n\">rows</th><th class=\"n\">depth</th><th class=\"n\">us</th><th class=\"n\">GB/s</th>"
                "</tr></thead><tbody>\n");
        any = true;
        put_kernel(p, &p->m->rows[i]);
    }
    put(p, any ? "</tbody></table></div>\n" : "");
}

// ---- the rows themselves ----------------------------------------------------------------------------------------------

// No text can end the element that holds it.
static void put_json(page *p, const cJSON *row) {
    char *text = cJSON_PrintUnformatted(row);
    if (!text && p->status == PM_OK)
        p->status = pm_fail(PM_ERR_MEMORY, "no memory for a row of the page");
    for (char *c = text; c && *c;) {
        size_t n = strcspn(c, "<");
        char after = c[n];
        c[n] = 0;
        put(p, c);
        put(p, after ? "\\u003c" : "");
        c += n + (after != 0);
    }
    pm_free(text);
}

static void put_data(page *p) {
    put(p, "<script type=\"application/json\" id=\"data\">[");
    for (int i = 0; i < p->m->n; i++) {
        put(p, i ? ",\n" : "\n");
        put_json(p, p->m->rows[i].json);
    }
    put(p, "\n]</script>\n");
}

// ---- the page ---------------------------------------------------------------------------------------------------------

static void put_key(page *p, int group) {
    char name[MERGE_NAME_SIZE];
    put(p, "<ul class=\"key\">");
    for (int device = 0; device < p->m->n_devices; device++)
        for (int i = 0; i < p->m->n; i++) {
            const merge_row *r = &p->m->rows[i];
            if (r->device != device || r->group != group || r->kernel)
                continue;
            merge_device_name(r, name);
            putf(p, "<li><i class=\"c\" style=\"background:var(--c%d)\"></i>", device % 8);
            put_escaped(p, name);
            put(p, "</li>");
            break;
        }
    put(p, "</ul>\n");
}

static void put_group(page *p, int group) {
    char name[MERGE_NAME_SIZE];
    const merge_row *first = p->m->rows;
    while (first < p->m->rows + p->m->n && (first->group != group || first->kernel))
        first++;
    if (first == p->m->rows + p->m->n)
        return;
    merge_group_name(first, name);
    put(p, "<section><h2>");
    put_escaped(p, name);
    put(p, "</h2>\n");
    put_key(p, group);
    for (int which = 0; which < N_PARTS; which++)
        put_part(p, group, (part)which);
    put_depths(p, group);
    put(p, "</section>\n");
}

static void put_all(page *p) {
    const merge *m = p->m;
    put(p, head);
    putf(p,
         "<h1>pumice-bench</h1><p>%d rows of %d device%s. Bars are means, the thin line goes from the slowest run to the fastest.",
         m->n, m->n_devices, m->n_devices == 1 ? "" : "s");
    put(p, m->n_groups > 1 ? " Models, quants and cache types are not compared with one another: each has charts of its own.</p>\n"
                           : "</p>\n");
    for (int group = 0; group < m->n_groups; group++)
        put_group(p, group);
    put_rows(p);
    put_kernels(p);
    put_data(p);
    put(p, script);
    put(p, "</body></html>\n");
}

pm_status merge_page(const merge *m, const char *path) {
    page p = {.m = m};
    PM_TRY(pm_output_open(path, &p.out));
    put_all(&p);
    if (p.status == PM_OK)
        p.status = pm_output_finish(&p.out);
    pm_output_close(&p.out);
    return p.status;
}
