// The tables of the page: every row with its figures, the ceilings by device, every kernel. A column that nobody knows is left out.
#include "bench/chart.h"
#include "bench/page.h"

#include <stdio.h>
#include <string.h>

typedef struct column {
    const char *title;
    size_t at;   // a double of merge_row, below 0: unknown; uint32_t where `count`; a text, NULL or "": unknown, where `text`
    double unit; // what it is divided by
    int digits;  // behind the point; below 0: so many that count
    bool count, text;
} column;

#define AT(member) offsetof(merge_row, member)
// clang-format off
static const column of_tokens[] = {
    {"t/s", AT(avg), 1, 2}, {"±", AT(stddev), 1, 2}, {"min", AT(min), 1, 2}, {"max", AT(max), 1, 2},
    {"to peer", AT(ratio), 1, 2}, {"prompt + answer t/s", AT(qwen), 1, 2}, {"first ms", AT(ttft_ms), 1, 1}, {"load s", AT(load_ms), 1e3, 2},
    {"MiB", AT(memory), 1 << 20, 0}, {"tokens/J", AT(per_joule), 1, -3}, {"W", AT(watts), 1, 1},
    {"cold t/s", AT(cold), 1, 2}, {"steady t/s", AT(sustained), 1, 2}, {"fell at s", AT(throttle_s), 1, 0},
    {"MHz from", AT(clock_min), 1, 0}, {"MHz to", AT(clock_max), 1, 0}, {"°C", AT(temperature), 1, 0},
    {"same ids", AT(greedy), 1, -4}, {"KL, nats", AT(kl), 1, -2}, {"logits off", AT(error), 1, -2},
};

static const column of_kernels[] = {
    {"where", AT(place), .text = true}, {"shape", AT(shape), .text = true}, {"type", AT(type), .text = true},
    {"variant", AT(variant), .text = true}, {"rows", AT(n_rows), .count = true}, {"depth", AT(n_depth), .count = true},
    {"count", AT(count), 1, 0}, {"us", AT(us), 1, 1}, {"GB/s", AT(gb_s), 1, 2}, {"% of read", AT(bw_percent), 1, 0},
    {"TFLOP/s", AT(tflops), 1, -3}, {"% of arithmetic", AT(flops_percent), 1, 0}, {"bound by", AT(bound), .text = true},
    {"share of pass", AT(share), 1, 3},
};
// clang-format on
#define COUNT(columns) (sizeof(columns) / sizeof(*(columns)))

static const char *text_at(const merge_row *r, const column *c) {
    const char *text = *(const char *const *)((const char *)r + c->at);
    return text ? text : "";
}

static double number_at(const merge_row *r, const column *c) {
    const char *at = (const char *)r + c->at;
    return c->count ? *(const uint32_t *)at : *(const double *)at;
}

static bool is_known(const merge *m, merge_kind kind, const column *c) {
    for (int i = 0; i < m->n; i++)
        if (m->rows[i].kind == kind && (c->text ? text_at(&m->rows[i], c)[0] != 0 : number_at(&m->rows[i], c) >= 0))
            return true;
    return false;
}

// ---- cells ------------------------------------------------------------------------------------------------------------

static void put_head(pen *p, const char *title, bool number) {
    pen_put(p, number ? "<th class=\"n\"><button>" : "<th><button>");
    pen_escape(p, title);
    pen_put(p, "</button></th>");
}

static void put_text(pen *p, const char *text) {
    pen_put(p, "<td>");
    pen_escape(p, text);
    pen_put(p, "</td>");
}

static void put_number(pen *p, double value, const column *c) {
    char text[48];
    if (value < 0) {
        pen_put(p, "<td class=\"n\" data-v=\"-1\">–</td>");
        return;
    }
    snprintf(text, sizeof(text), c->digits < 0 ? "%.*g" : "%.*f", c->digits < 0 ? -c->digits : c->digits,
             c->unit > 0 ? value / c->unit : value);
    pen_putf(p, "<td class=\"n\" data-v=\"%.17g\">%s</td>", value, text);
}

static void put_names(const merge *m, pen *p, const merge_row *r) {
    char name[MERGE_NAME_SIZE];
    merge_short_name(m, r->device, name);
    pen_putf(p, "<td class=\"name\" data-v=\"%d\">%d ", r->device, r->device + 1);
    pen_escape(p, name);
    pen_put(p, "</td>");
    if (m->n_groups == 1)
        return;
    merge_group_name(r, name);
    pen_put(p, "<td class=\"name\">");
    pen_escape(p, name);
    pen_put(p, "</td>");
}

typedef struct table {
    const merge *m;
    merge_kind kind;
    const column *columns;
    size_t n;
    const char *id, *title, *third; // what the third column is, after device and model
} table;

static void put_heads(const table *t, pen *p) {
    pen_putf(p, "<h2>%s</h2>\n<p>A click on a head sorts.</p>\n<div class=\"wide\"><table id=\"%s\"><thead><tr>", t->title, t->id);
    put_head(p, "device", false);
    if (t->m->n_groups > 1)
        put_head(p, "model", false);
    put_head(p, t->third, false);
    if (t->kind == MERGE_TOKENS)
        put_head(p, "proof", false);
    for (size_t i = 0; i < t->n; i++)
        if (is_known(t->m, t->kind, &t->columns[i]))
            put_head(p, t->columns[i].title, !t->columns[i].text);
    pen_put(p, "</tr></thead><tbody>\n");
}

static void put_third(pen *p, const merge_row *r) {
    char name[MERGE_NAME_SIZE];
    merge_test_name(r, name);
    put_text(p, r->kind == MERGE_TOKENS ? name : r->kernel);
}

static void put_row(const table *t, const bool *known, pen *p, const merge_row *r) {
    pen_put(p, merge_failed(r) ? "<tr class=\"bad\">" : "<tr>");
    put_names(t->m, p, r);
    put_third(p, r);
    if (t->kind == MERGE_TOKENS)
        pen_putf(p, "<td class=\"proof\">%s</td>", !r->proof ? "–" : merge_failed(r) ? "failed" : "ok");
    for (size_t i = 0; i < t->n; i++) {
        if (known[i] && t->columns[i].text)
            put_text(p, text_at(r, &t->columns[i]));
        else if (known[i])
            put_number(p, number_at(r, &t->columns[i]), &t->columns[i]);
    }
    pen_put(p, "</tr>\n");
}

enum { MAX_COLUMNS = 32 };

static void put_table(const table *t, pen *p) {
    bool any = false, known[MAX_COLUMNS];
    for (size_t i = 0; i < t->n; i++)
        known[i] = is_known(t->m, t->kind, &t->columns[i]);
    for (int i = 0; i < t->m->n; i++) {
        if (t->m->rows[i].kind != t->kind)
            continue;
        if (!any)
            put_heads(t, p);
        any = true;
        put_row(t, known, p, &t->m->rows[i]);
    }
    pen_put(p, any ? "</tbody></table></div>\n" : "");
}

// ---- ceilings: a row each, a column a device --------------------------------------------------------------------------

static bool same_ceiling(const merge_row *a, const merge_row *b) {
    return !strcmp(a->ceiling, b->ceiling) && !strcmp(a->unit, b->unit);
}

static bool is_first_ceiling(const merge *m, int i) {
    for (int k = 0; k < i && m->rows[i].kind == MERGE_CEILING; k++)
        if (m->rows[k].kind == MERGE_CEILING && same_ceiling(&m->rows[k], &m->rows[i]))
            return false;
    return m->rows[i].kind == MERGE_CEILING;
}

static const merge_row *find_ceiling(const merge *m, int device, const merge_row *like) {
    for (int i = 0; i < m->n; i++) {
        const merge_row *r = &m->rows[i];
        if (r->kind == MERGE_CEILING && r->device == device && (!like || same_ceiling(r, like)))
            return r;
    }
    return NULL;
}

static void put_ceiling(const merge *m, pen *p, const merge_row *like) {
    pen_put(p, "<tr><td>");
    for (const char *c = like->ceiling; *c; c++)
        pen_escape(p, *c == '_' ? " " : (const char[2]){*c, 0});
    pen_put(p, ", ");
    pen_escape(p, like->unit);
    pen_put(p, "</td>");
    for (int device = 0; device < m->n_devices; device++) {
        const merge_row *r = find_ceiling(m, device, like);
        if (r)
            pen_putf(p, "<td class=\"n\" data-v=\"%.17g\" title=\"%.4g to %.4g\">%.4g <small>± %.3g</small></td>", r->avg, r->min,
                     r->max, r->avg, r->stddev);
        else if (find_ceiling(m, device, NULL))
            pen_put(p, "<td class=\"n\" data-v=\"-1\">–</td>");
    }
    pen_put(p, "</tr>\n");
}

static bool has_ceilings(const merge *m) {
    for (int i = 0; i < m->n; i++)
        if (m->rows[i].kind == MERGE_CEILING)
            return true;
    return false;
}

static void put_ceilings(const merge *m, pen *p) {
    if (!has_ceilings(m))
        return;
    pen_put(p, "<h2>Ceilings</h2>\n<p>What memory, arithmetic and the queue were measured to reach, without a model.</p>\n"
               "<div class=\"wide\"><table id=\"ceilings\"><thead><tr>");
    put_head(p, "ceiling", false);
    for (int device = 0; device < m->n_devices; device++) {
        char name[MERGE_NAME_SIZE + 16], text[MERGE_NAME_SIZE];
        if (!find_ceiling(m, device, NULL))
            continue;
        merge_short_name(m, device, text);
        snprintf(name, sizeof(name), "%d %s", device + 1, text);
        put_head(p, name, true);
    }
    pen_put(p, "</tr></thead><tbody>\n");
    for (int i = 0; i < m->n; i++)
        if (is_first_ceiling(m, i))
            put_ceiling(m, p, &m->rows[i]);
    pen_put(p, "</tbody></table></div>\n");
}

void tables_draw(const merge *m, pen *p) {
    put_table(&(table){m, MERGE_TOKENS, of_tokens, COUNT(of_tokens), "rows", "All rows", "test"}, p);
    put_ceilings(m, p);
    put_table(&(table){m, MERGE_OP, of_kernels, COUNT(of_kernels), "kernels", "Kernels", "kernel"}, p);
}
