// `pumice-bench report`: its command line, and the summary for a terminal.
#include "bench/merge.h"

#include <stdio.h>
#include <string.h>

enum { MAX_FILES = 64, BAR = 24 };

typedef struct values {
    app_texts files;
    const char *output;
    bool text;
} values;

// ---- for a terminal ---------------------------------------------------------------------------------------------------

// What a file says goes to a terminal: no control characters.
static void print_clean(const char *text) {
    for (; *text; text++)
        putchar((unsigned char)*text < 32 || *text == 127 ? '?' : *text);
}

static double fastest(const merge *m, const merge_row *like) {
    double most = 0;
    for (int i = 0; i < m->n; i++)
        if (!m->rows[i].kernel && m->rows[i].group == like->group && merge_same_test(&m->rows[i], like) && m->rows[i].avg > most)
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
    printf(" %10.2f t/s, %.2f to %.2f  ", r->avg, r->min, r->max);
    print_clean(name);
    puts(merge_failed(r) ? "  PROOF FAILED" : "");
}

// Is it the first row of its test in its group?
static bool begins(const merge *m, int i, bool (*same)(const merge_row *a, const merge_row *b)) {
    for (int k = 0; k < i; k++)
        if (!m->rows[k].kernel && m->rows[k].group == m->rows[i].group && same(&m->rows[k], &m->rows[i]))
            return false;
    return !m->rows[i].kernel;
}

static void print_test(const merge *m, int first) {
    char name[MERGE_NAME_SIZE];
    merge_test_name(&m->rows[first], name);
    printf("  %s\n", name);
    for (int i = first; i < m->n; i++)
        if (!m->rows[i].kernel && m->rows[i].group == m->rows[first].group && merge_same_test(&m->rows[i], &m->rows[first]))
            print_bar(&m->rows[i], fastest(m, &m->rows[first]));
}

pm_status merge_text(const merge *m) {
    char name[MERGE_NAME_SIZE];
    for (int i = 0; i < m->n; i++) {
        if (!begins(m, i, merge_same_group))
            continue;
        merge_group_name(&m->rows[i], name);
        print_clean(name);
        puts("");
        for (int k = i; k < m->n; k++)
            if (m->rows[k].group == m->rows[i].group && begins(m, k, merge_same_test))
                print_test(m, k);
    }
    if (m->n_groups > 1)
        puts("Models, quants and cache types are not compared with one another: each has a list of its own.");
    return PM_OK;
}

// ---- the command ------------------------------------------------------------------------------------------------------

#define AT(field) .offset = offsetof(values, field)
// clang-format off
static const app_option options[] = {
    {.name = "REPORT.json", .help = "written with -o json or -o jsonl", .kind = APP_TEXTS, .required = true, AT(files)},
    {.name = "--output", .letter = "-o", .value = "PAGE.html", .help = "write all of them to one page", .kind = APP_TEXT, AT(output)},
    {.name = "--text", .help = "tell them here", .kind = APP_FLAG, AT(text)},
};
// clang-format on

static pm_status read_all(const values *v, merge *m) {
    int n_added = 0;
    if (v->files.n > MAX_FILES)
        return pm_fail(PM_ERR_USAGE, "more than %d of REPORT.json", MAX_FILES);
    for (size_t i = 0; i < v->files.n; i++) {
        bool added;
        PM_TRY(merge_add(m, v->files.items[i], &added));
        n_added += added;
    }
    return n_added ? PM_OK : pm_fail(PM_ERR_FILE, "there is nothing to report");
}

static pm_status make(const values *v, merge *m) {
    if (!v->output && !v->text)
        return pm_fail(PM_ERR_USAGE, "-o PAGE.html writes a page, --text tells it here");
    PM_TRY(read_all(v, m));
    if (v->text)
        PM_TRY(merge_text(m));
    return v->output ? merge_page(m, v->output) : PM_OK;
}

static int run(int argc, char **argv);

const app_command bench_merge = {
    .name = "pumice-bench report",
    .summary = "merges what pumice-bench wrote on several machines into one page",
    .alone = true,
    .options = options,
    .n_options = sizeof(options) / sizeof(*options),
    .run = run,
};

static int run(int argc, char **argv) {
    values v = {.text = false};
    merge m = {.n = 0};
    int exit_code;
    if (!app_parse(&bench_merge, argc, argv, &v, &exit_code))
        return exit_code;
    exit_code = app_exit(make(&v, &m));
    merge_close(&m);
    return exit_code;
}
