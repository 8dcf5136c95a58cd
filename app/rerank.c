// pumice rerank: which documents answer a query, best first.
#include "app/json.h"
#include "app/lines.h"
#include "app/run.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---- options ----------------------------------------------------------------------------------------------------------

typedef struct rerank_options {
    const char *model, *query, *instruct, *file, *device;
    app_texts documents;
    bool jsonl, json, plain;
    app_context context; // the cache's type
} rerank_options;

#define AT(field) .offset = offsetof(rerank_options, field)

// clang-format off
static const app_option options[] = {
    {.name = "MODEL", .help = "folder, .safetensors or .gguf file", .kind = APP_TEXT, .required = true, AT(model)},
    {.name = "DOC", .help = "a document; any number of them", .kind = APP_TEXTS, AT(documents)},
    {.name = "--query", .letter = "-q", .value = "TEXT", .help = "what the documents shall answer", .kind = APP_TEXT,
     .required = true, AT(query)},
    {.name = "--docs", .letter = "-f", .value = "FILE", .help = "or a document a line of FILE; - is stdin", .kind = APP_TEXT, AT(file)},
    {.name = "--jsonl", .help = "FILE has a JSON string a line", .kind = APP_FLAG, AT(jsonl)},
    {.name = "--instruct", .value = "TASK", .help = "what makes a document good (to answer a web search)", .kind = APP_TEXT,
     AT(instruct)},
    {.name = "--json", .help = "tell it as JSON", .kind = APP_FLAG, AT(json)},
    {.name = "--device", .letter = "-d", .value = "N|NAME", .help = "one that `pumice devices` lists", .kind = APP_TEXT, AT(device)},
    APP_CACHE_OPTIONS(rerank_options, context),
    {.name = "--plain", .help = "<|im_end|> and its like in texts are no control tokens", .kind = APP_FLAG, .rare = true, AT(plain)},
};
// clang-format on

typedef struct document {
    pm_str text;
    int32_t *ids; // of the whole question about it
    size_t n, index;
    double score;
} document;

typedef struct state {
    const rerank_options *o;
    app_lines lines;
    pm_device *dev;
    pm_model *model;
    pm_session *session;
    document *documents;
    size_t n;
} state;

// ---- documents ------------------------------------------------------------------------------------------------------------

static pm_status read_documents(state *s) {
    const rerank_options *o = s->o;
    if (o->file && o->documents.n)
        return pm_fail(PM_ERR_USAGE, "documents are given one by one or with --docs, not both");
    if (!o->file && (o->jsonl || !o->documents.n))
        return pm_fail(PM_ERR_USAGE, o->jsonl ? "--jsonl tells what --docs is" : "no documents: give DOC... or --docs FILE");
    PM_TRY(o->file ? app_lines_read(o->file, o->jsonl, &s->lines) : PM_OK);
    s->n = o->file ? s->lines.n : o->documents.n;
    if (s->n == 0)
        return pm_fail(PM_ERR_USAGE, "no documents in %s", o->file);
    s->documents = pm_calloc(s->n, sizeof(*s->documents));
    if (!s->documents)
        return pm_fail(PM_ERR_MEMORY, "no memory for %zu documents", s->n);
    for (size_t i = 0; i < s->n; i++) {
        const char *text = o->file ? NULL : o->documents.items[i];
        s->documents[i] = (document){.index = i, .text = text ? (pm_str){text, strlen(text)} : s->lines.items[i]};
    }
    return PM_OK;
}

static pm_status encode(state *s, document *d) {
    const pm_config *c = pm_model_config(s->model);
    unsigned flags = s->o->plain ? 0 : PM_ENCODE_SPECIAL;
    pm_str query = {s->o->query, strlen(s->o->query)};
    PM_TRY(pm_rerank_prompt(pm_model_tokenizer(s->model), s->o->instruct, query, d->text, flags, &d->ids, &d->n));
    if (c->max_ctx > 0 && d->n > c->max_ctx)
        return pm_fail(PM_ERR_CONTEXT, "%zu tokens with the question, the model takes %u", d->n, c->max_ctx);
    return PM_OK;
}

static pm_status encode_all(state *s) {
    if (!pm_model_tokenizer(s->model))
        return pm_fail(PM_ERR_UNSUPPORTED, "%s comes without a tokenizer", s->o->model);
    for (size_t i = 0; i < s->n; i++) {
        pm_status status = encode(s, &s->documents[i]);
        if (status != PM_OK)
            return s->o->file ? app_at_line(status, i + 1) : status;
    }
    return PM_OK;
}

// ---- scores ---------------------------------------------------------------------------------------------------------------

static pm_status open_session(state *s) {
    pm_session_options session_options = {.ctx = 1};
    app_context_cache(&s->o->context, &session_options);
    for (size_t i = 0; i < s->n; i++)
        if (s->documents[i].n > session_options.ctx)
            session_options.ctx = (uint32_t)s->documents[i].n;
    return pm_session_open(s->model, &session_options, &s->session);
}

// Ids in which two questions begin alike: the instruction and the query, which run once. The last id always runs, for its score.
static size_t shared(const document *a, const document *b) {
    size_t n = 0;
    while (n < a->n && n + 1 < b->n && a->ids[n] == b->ids[n])
        n++;
    return n;
}

static pm_status score_all(state *s) {
    for (size_t i = 0; i < s->n && !app_interrupted(); i++) {
        document *d = &s->documents[i];
        size_t kept = i > 0 ? shared(&s->documents[i - 1], d) : 0;
        pm_session_rewind(s->session, 0, (uint32_t)kept);
        PM_TRY(pm_session_rerank(s->session, 0, d->ids + kept, d->n - kept, &d->score));
    }
    return PM_OK;
}

// The best first; equal ones as they came.
static int compare(const void *left, const void *right) {
    const document *a = left, *b = right;
    if (a->score != b->score)
        return a->score < b->score ? 1 : -1;
    return a->index < b->index ? -1 : 1;
}

static pm_status print_json(const state *s) {
    app_json j = app_json_begin();
    cJSON *results = app_json_array(&j, j.root, "results");
    for (size_t i = 0; i < s->n; i++) {
        cJSON *result = app_json_object(&j, results, NULL);
        app_json_number(&j, result, "index", s->documents[i].index);
        app_json_real(&j, result, "relevance_score", s->documents[i].score);
        app_json_str(&j, result, "document", s->documents[i].text);
    }
    return app_json_print(&j);
}

static pm_status print_lines(const state *s) {
    for (size_t i = 0; i < s->n; i++) {
        char *text = app_printable(s->documents[i].text);
        if (!text)
            return pm_fail(PM_ERR_MEMORY, "no memory for a line");
        printf("%.6f\t%zu\t%s\n", s->documents[i].score, s->documents[i].index, text);
        pm_free(text);
    }
    return PM_OK;
}

// ---- the command ----------------------------------------------------------------------------------------------------------

static pm_status go(state *s) {
    PM_TRY(read_documents(s));
    PM_TRY(run_load(s->o->device, s->o->model, &s->dev, &s->model));
    PM_TRY(encode_all(s));
    PM_TRY(open_session(s));
    app_watch(s->session);
    pm_status status = score_all(s);
    app_watch(NULL);
    if (app_interrupted())
        return PM_OK;
    PM_TRY(status);
    qsort(s->documents, s->n, sizeof(*s->documents), compare);
    return s->o->json ? print_json(s) : print_lines(s);
}

static void close_all(state *s) {
    pm_session_close(&s->session);
    pm_model_close(&s->model);
    pm_device_close(&s->dev);
    for (size_t i = 0; s->documents && i < s->n; i++)
        pm_free(s->documents[i].ids);
    pm_free(s->documents);
    app_lines_close(&s->lines);
}

static int run(int argc, char **argv) {
    rerank_options o = {.model = NULL};
    int exit_code;
    if (!app_parse(&app_rerank, argc, argv, &o, &exit_code))
        return exit_code;
    state s = {.o = &o};
    exit_code = app_exit(go(&s));
    close_all(&s);
    return exit_code == APP_EXIT_OK && app_interrupted() ? APP_EXIT_INTERRUPTED : exit_code;
}

const app_command app_rerank = {
    .name = "rerank",
    .summary = "tells which documents answer a query, best first",
    .options = options,
    .n_options = sizeof(options) / sizeof(*options),
    .notes = "a line a document: how probable it is that it answers (0 to 1), its number from 0, its text",
    .run = run,
};
