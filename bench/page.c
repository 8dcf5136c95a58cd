// The report as one page of HTML: nothing outside it is needed, light and dark, on a phone too.
#include "bench/chart.h"
#include "bench/page.h"

#include <stdio.h>
#include <string.h>

// ---- style and script -------------------------------------------------------------------------------------------------

static const char head[] =
    "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
    "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n"
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none';style-src 'unsafe-inline';"
    "script-src 'unsafe-inline'\">\n<title>pumice-bench</title>\n<style>\n"
    ":root{color-scheme:light dark;--bg:#fdfdfb;--fg:#1f2328;--dim:#5c6670;--line:#d9dce0}\n"
    "@media(prefers-color-scheme:dark){:root{--bg:#16191d;--fg:#e4e6e9;--dim:#9aa4ae;--line:#343a42}}\n"
    "*{box-sizing:border-box}body{margin:0 auto;max-width:62rem;padding:1rem;background:var(--bg);color:var(--fg);"
    "font:15px/1.45 system-ui,'Segoe UI',Roboto,'DejaVu Sans',sans-serif}\n"
    "h1{font-size:1.5rem;margin:.3rem 0}h2{font-size:1.2rem;margin:2rem 0 .2rem;padding-top:.8rem;"
    "border-top:1px solid var(--line)}h3{font-size:1rem;margin:1.4rem 0 .5rem}\n"
    "p,li small,summary{color:var(--dim);margin:.3rem 0}section p{font-size:.85rem}ol{padding:0;list-style:none;margin:.8rem 0}"
    "li{overflow-wrap:anywhere;min-width:0}li small{display:block;margin:0}summary{font-size:smaller}li strong{font-weight:600}\n"
    "i.c{display:inline-block;width:.8em;height:.8em;border-radius:2px;margin-right:.5em;background:currentColor}\n"
    ".pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,25rem),1fr));gap:1.2rem}svg{display:block}\n"
    ".wide{overflow-x:auto}table{border-collapse:collapse;font-size:.8rem;width:100%;font-variant-numeric:tabular-nums}\n"
    "th,td{padding:.3rem .5rem;text-align:left;border-bottom:1px solid var(--line);vertical-align:top}"
    "th{white-space:nowrap;color:var(--dim)}th button{all:unset;cursor:pointer}th button:focus-visible{outline:2px solid}"
    "td.n,th.n{text-align:right}td{white-space:nowrap}td.name{min-width:11rem;white-space:normal}#ceilings "
    "th{white-space:normal}tr.bad .proof{font-weight:600}td small{color:var(--dim)}\n"
    "th[aria-sort=ascending] button::after{content:' \\2191'}th[aria-sort=descending] button::after{content:' \\2193'}\n";

static const char script[] =
    "<script>\nfor (const table of document.querySelectorAll('table'))\n"
    "  table.querySelectorAll('th').forEach((head, column) => head.addEventListener('click', () => {\n"
    "    const down = head.getAttribute('aria-sort') === 'ascending', body = table.tBodies[0];\n"
    "    const number = row => parseFloat(row.cells[column].dataset.v), text = row => row.cells[column].textContent;\n"
    "    const rows = [...body.rows].sort((a, b) =>\n"
    "      number(a) - number(b) || text(a).localeCompare(text(b), 'en', {numeric: true}));\n"
    "    table.querySelectorAll('th').forEach(other => other.removeAttribute('aria-sort'));\n"
    "    head.setAttribute('aria-sort', down ? 'descending' : 'ascending');\n"
    "    body.append(...(down ? rows.reverse() : rows));\n"
    "  }));\n</script>\n";

// ---- devices ----------------------------------------------------------------------------------------------------------

// What makes a device's numbers worth less, from all of its rows.
static void put_warnings(const merge *m, int device, pen *p) {
    double busy = 0;
    bool throttled = false, saving = false, failed = false;
    for (int i = 0; i < m->n; i++) {
        const merge_row *r = &m->rows[i];
        if (r->device != device)
            continue;
        busy = r->busy > busy ? r->busy : busy;
        throttled |= r->throttled;
        failed |= merge_failed(r);
        saving |= r->governor && !strcmp(r->governor, "powersave");
    }
    pen_put(p, failed ? "<small class=\"bad\">some of its answers were wrong: its figures prove nothing</small>" : "");
    pen_put(p, throttled ? "<small>it was throttled while it was measured</small>" : "");
    pen_put(p, saving ? "<small>the CPU's clock was governed by powersave</small>" : "");
    if (busy >= 5)
        pen_putf(p, "<small>others kept it %.0f %% busy before</small>", busy);
}

// The variants of kernels that the first row to tell any of them tells.
static void put_variants(const merge *m, int device, pen *p) {
    const cJSON *list = NULL, *item;
    for (int i = 0; i < m->n && !cJSON_IsArray(list); i++)
        if (m->rows[i].device == device)
            list = cJSON_GetObjectItemCaseSensitive(m->rows[i].json, "variants");
    if (!cJSON_IsArray(list) || cJSON_GetArraySize(list) == 0)
        return;
    pen_put(p, "<details><summary>kernels that were chosen</summary><small>");
    cJSON_ArrayForEach(item, list) {
        pen_escape(p, cJSON_IsString(item) ? item->valuestring : "");
        pen_put(p, item->next ? ", " : "");
    }
    pen_put(p, "</small></details>");
}

static void put_self_test(const merge *m, int device, pen *p) {
    for (int i = 0; i < m->n; i++)
        if (m->rows[i].device == device && m->rows[i].self_test) {
            pen_put(p, "<small>kernels right in its self-test: ");
            pen_escape(p, m->rows[i].self_test);
            pen_put(p, "</small>");
            return;
        }
}

static void put_device(const merge *m, int device, pen *p) {
    const merge_row *r = &m->rows[m->devices[device]];
    pen_putf(p, "<li><i class=\"c c%d\"></i><strong>%d</strong> ", device % CHART_COLORS, device + 1);
    pen_escape(p, r->gpu);
    pen_put(p, "<small>");
    pen_escape(p, r->driver);
    pen_put(p, " ");
    pen_escape(p, r->driver_info);
    pen_put(p, ", ");
    pen_escape(p, r->engine);
    pen_put(p, " ");
    pen_escape(p, r->build);
    pen_put(p, "</small>");
    put_self_test(m, device, p);
    put_warnings(m, device, p);
    put_variants(m, device, p);
    pen_put(p, "</li>\n");
}

// ---- charts -----------------------------------------------------------------------------------------------------------

// The drawing, with its title before the first of its kind.
static void put_chart(const chart *c, pen *p, bool *any) {
    if (chart_height(c) == 0)
        return;
    if (!*any)
        pen_putf(p, "<h3>%s</h3>\n<div class=\"%s\">\n", chart_title(c->kind), c->kind == CHART_ROOFLINE ? "pair" : "one");
    *any = true;
    char more[192];
    snprintf(more, sizeof(more), "width=\"100%%\" role=\"img\" aria-label=\"%s\" data-chart=\"%s\"", chart_title(c->kind),
             chart_words[c->kind]);
    chart_put(c, p, more);
}

static void put_charts(const merge *m, int group, pen *p) {
    for (int kind = 0; kind < N_CHARTS; kind++) {
        bool any = false;
        for (int device = 0; device < (kind == CHART_ROOFLINE ? m->n_devices : 1); device++)
            put_chart(&(chart){.m = m, .kind = (chart_kind)kind, .group = group, .device = device}, p, &any);
        if (any)
            pen_putf(p, "</div><p>%s%s</p>\n", chart_note((chart_kind)kind),
                     kind == CHART_ROOFLINE ? " Point at one to read more." : "");
    }
}

static void put_group(const merge *m, int group, pen *p) {
    char name[MERGE_NAME_SIZE];
    merge_group_name(&m->rows[m->groups[group]], name);
    pen_put(p, "<section><h2>");
    pen_escape(p, name);
    pen_put(p, "</h2>\n");
    put_charts(m, group, p);
    pen_put(p, "</section>\n");
}

// ---- the rows themselves ----------------------------------------------------------------------------------------------

// No text can end the element that holds it.
static void put_json(pen *p, const cJSON *row) {
    char *text = cJSON_PrintUnformatted(row);
    if (!text && p->status == PM_OK)
        p->status = pm_fail(PM_ERR_MEMORY, "no memory for a row of the page");
    for (char *c = text; c && *c;) {
        size_t n = strcspn(c, "<");
        char after = c[n];
        c[n] = 0;
        pen_put(p, c);
        pen_put(p, after ? "\\u003c" : "");
        c += n + (after != 0);
    }
    pm_free(text);
}

static void put_data(const merge *m, pen *p) {
    pen_put(p, "<script type=\"application/json\" id=\"data\">[");
    for (int i = 0; i < m->n; i++) {
        pen_put(p, i ? ",\n" : "\n");
        put_json(p, m->rows[i].json);
    }
    pen_put(p, "\n]</script>\n");
}

// ---- the page ---------------------------------------------------------------------------------------------------------

void page_draw(const merge *m, pen *p) {
    pen_put(p, head);
    pen_put(p, chart_style);
    pen_putf(p, "</style></head><body>\n<h1>pumice-bench</h1><p>%d rows of %d device%s.", m->n, m->n_devices,
             m->n_devices == 1 ? "" : "s");
    pen_put(p, m->n_groups > 1 ? " Models, quants and cache types are not compared with one another: each has charts of its "
                                 "own.</p>\n<ol class=\"pair\">\n"
                               : "</p>\n<ol class=\"pair\">\n");
    for (int device = 0; device < m->n_devices; device++)
        put_device(m, device, p);
    pen_put(p, "</ol>\n");
    for (int group = 0; group < m->n_groups; group++)
        put_group(m, group, p);
    tables_draw(m, p);
    put_data(m, p);
    pen_put(p, script);
    pen_put(p, "</body></html>\n");
}

pm_status merge_page(const merge *m, const char *path) {
    pm_output out;
    PM_TRY(pm_output_open(path, &out));
    pen p = {.out = &out};
    page_draw(m, &p);
    if (p.status == PM_OK)
        p.status = pm_output_finish(&out);
    pm_output_close(&out);
    return p.status;
}
