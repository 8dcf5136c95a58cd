// `pumice-bench report`: its command line.
#include "bench/bench.h"
#include "bench/chart.h"

enum { MAX_FILES = 64 };

typedef struct values {
    app_texts files;
    const char *output;
    int svg; // of chart_words; -1: a page
    bool text;
} values;

#define AT(field) .offset = offsetof(values, field)
// clang-format off
static const app_option options[] = {
    {.name = "REPORT.json", .help = "written with -o json or -o jsonl", .kind = APP_TEXTS, .required = true, AT(files)},
    {.name = "--output", .letter = "-o", .value = "PAGE.html", .help = "write all of them to one page", .kind = APP_TEXT, AT(output)},
    {.name = "--svg", .value = "CHART", .help = "write one chart alone", .kind = APP_WORD, .words = chart_words, AT(svg)},
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
    if (v->svg >= 0 && !v->output)
        return pm_fail(PM_ERR_USAGE, "--svg %s: -o CHART.svg says where to", chart_words[v->svg]);
    if (!v->output && !v->text)
        return pm_fail(PM_ERR_USAGE, "-o PAGE.html writes a page, --text tells it here");
    PM_TRY(read_all(v, m));
    if (v->text)
        PM_TRY(merge_text(m));
    if (v->svg >= 0)
        return chart_svg(m, (chart_kind)v->svg, v->output);
    return v->output ? merge_page(m, v->output) : PM_OK;
}

static int run(int argc, char **argv);

const app_command bench_merge = {
    .name = "pumice-bench report",
    .summary = "merges what pumice-bench wrote on several machines into one page",
    .alone = true,
    .options = options,
    .n_options = sizeof(options) / sizeof(*options),
    .notes = "Charts: prefill, decode, both (prompt and answer), depth, energy, sustained, roofline.",
    .run = run,
};

static int run(int argc, char **argv) {
    values v = {.svg = -1};
    merge m = {.n = 0};
    int exit_code;
    if (!app_parse(&bench_merge, argc, argv, &v, &exit_code))
        return exit_code;
    exit_code = app_exit(make(&v, &m));
    merge_close(&m);
    return exit_code;
}
