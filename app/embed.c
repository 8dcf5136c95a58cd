// pumice embed: texts as vectors, one JSON array a line.
#include "app/lines.h"
#include "app/run.h"

#include <stdio.h>
#include <string.h>

// ---- options ----------------------------------------------------------------------------------------------------------

typedef struct embed_options {
    const char *model, *text, *file, *instruct, *raw, *device;
    bool jsonl, eos, no_eos;
    uint32_t dims;
    app_context context; // the cache's type
} embed_options;

#define AT(field) .offset = offsetof(embed_options, field)
// Texts that run at once: many short ones, for they share what cache one of SHARED_CTX takes.
enum { MAX_SEQS = 32, SHARED_CTX = 8192, MAX_DIMS = 1 << 20, NUMBER_SIZE = 18 };

// clang-format off
static const app_option options[] = {
    {.name = "MODEL", .help = "folder, .safetensors or .gguf file", .kind = APP_TEXT, .required = true, AT(model)},
    {.name = "--prompt", .letter = "-p", .value = "TEXT", .help = "the text; else one a line is piped in", .kind = APP_TEXT, AT(text)},
    {.name = "--file", .letter = "-f", .value = "FILE", .help = "or what FILE says, as one text", .kind = APP_TEXT, AT(file)},
    {.name = "--jsonl", .help = "FILE, or what is piped in: a JSON string a line", .kind = APP_FLAG, AT(jsonl)},
    {.name = "--instruct", .value = "TASK", .help = "the texts are queries: put the task before each", .kind = APP_TEXT,
     AT(instruct)},
    {.name = "--dims", .value = "N", .help = "the first N numbers only, of length 1 again", .kind = APP_U32, .least = 1,
     .most = MAX_DIMS, AT(dims)},
    {.name = "--raw", .value = "FILE", .help = "write float32 there in place of JSON", .kind = APP_TEXT, AT(raw)},
    {.name = "--device", .letter = "-d", .value = "N|NAME", .help = "one that `pumice devices` lists", .kind = APP_TEXT, AT(device)},
    APP_CACHE_OPTIONS(embed_options, context),
    {.name = "--eos", .help = "put the end-of-text token behind each text", .kind = APP_FLAG, .rare = true, AT(eos)},
    {.name = "--no-eos", .help = "do not; else as the model's tokenizer does", .kind = APP_FLAG, .rare = true, AT(no_eos)},
};
// clang-format on

typedef struct state {
    const embed_options *o;
    app_lines lines;
    pm_device *dev;
    pm_model *model;
    pm_session *session;
    pm_embed_text *texts; // (lines.n); their ids are ours
    uint32_t n_seqs, dims;
    float *vectors; // (n_seqs, dims), with --raw (lines.n, dims)
    char *line;     // a vector as JSON
} state;

// ---- texts --------------------------------------------------------------------------------------------------------------

static pm_status one_text(state *s, const char *text, size_t size) {
    s->lines.items = pm_calloc(1, sizeof(*s->lines.items));
    if (!s->lines.items)
        return pm_fail(PM_ERR_MEMORY, "no memory for a text");
    s->lines.items[0] = (pm_str){text, size};
    s->lines.n = 1;
    return PM_OK;
}

// A file ends with a newline that nobody means to say.
static pm_status whole_file(state *s) {
    size_t size;
    PM_TRY(pm_file_read(s->o->file, (uint64_t)1 << 28, &s->lines.data, &size));
    size -= size > 0 && s->lines.data[size - 1] == '\n';
    return one_text(s, s->lines.data, size);
}

static pm_status read_texts(state *s) {
    const embed_options *o = s->o;
    if (o->text && (o->file || o->jsonl))
        return pm_fail(PM_ERR_USAGE, "-p is a text by itself: it goes with neither -f nor --jsonl");
    if (o->eos && o->no_eos)
        return pm_fail(PM_ERR_USAGE, "--eos and --no-eos at once");
    if (o->text)
        return one_text(s, o->text, strlen(o->text));
    bool piped = !o->file || !strcmp(o->file, "-");
    if (!piped && !o->jsonl)
        return whole_file(s);
    if (!o->file && pm_is_terminal(0))
        return pm_fail(PM_ERR_USAGE, "no texts: give -p TEXT or -f FILE, or pipe them in");
    PM_TRY(app_lines_read(piped ? "-" : o->file, o->jsonl, &s->lines));
    return s->lines.n ? PM_OK : pm_fail(PM_ERR_USAGE, "no texts in %s", piped ? "standard input" : o->file);
}

// ---- ids ----------------------------------------------------------------------------------------------------------------

// What goes behind a text, -1: nothing. Asked for where the files do not say so: <|endoftext|>, else what ends an answer.
static pm_status choose_end(const state *s, int32_t *end) {
    static const char usual[] = "<|endoftext|>";
    const pm_config *c = pm_model_config(s->model);
    int32_t *ids;
    size_t n;
    *end = s->o->no_eos ? -1 : pm_model_end_id(s->model);
    if (!s->o->eos || *end >= 0)
        return PM_OK;
    PM_TRY(pm_tokenizer_encode(pm_model_tokenizer(s->model), usual, strlen(usual), PM_ENCODE_SPECIAL, &ids, &n));
    *end = n == 1 ? ids[0] : c->n_eos > 0 ? c->eos[0] : -1;
    pm_free(ids);
    return *end >= 0 ? PM_OK : pm_fail(PM_ERR_UNSUPPORTED, "--eos: %s has no end-of-text token", s->o->model);
}

// The ids of `size` bytes, with what belongs before and behind.
static pm_status encode(const state *s, const char *text, size_t size, int32_t end, int32_t **out, size_t *n_out) {
    bool bos = pm_model_add_bos(s->model);
    int32_t *ids;
    size_t n;
    PM_TRY(pm_tokenizer_encode(pm_model_tokenizer(s->model), text, size, PM_ENCODE_SPECIAL, &ids, &n));
    *out = pm_calloc(n + 2, sizeof(**out));
    if (*out) {
        (*out)[0] = pm_model_config(s->model)->bos;
        if (n > 0)
            memcpy(*out + bos, ids, n * sizeof(*ids));
        (*out)[n + bos] = end;
    }
    pm_free(ids);
    *n_out = n + bos + (end >= 0);
    if (!*out)
        return pm_fail(PM_ERR_MEMORY, "no memory for %zu tokens", n);
    return *n_out ? PM_OK : pm_fail(PM_ERR_USAGE, "a text without tokens");
}

static pm_status encode_query(const state *s, pm_str text, int32_t end, int32_t **ids, size_t *n) {
    static const char format[] = "Instruct: %s\nQuery:";
    size_t room = strlen(s->o->instruct) + sizeof(format), before;
    char *query = pm_malloc(room + text.n);
    if (!query)
        return pm_fail(PM_ERR_MEMORY, "no memory for a query");
    before = (size_t)snprintf(query, room, format, s->o->instruct);
    if (text.n)
        memcpy(query + before, text.p, text.n);
    pm_status status = encode(s, query, before + text.n, end, ids, n);
    pm_free(query);
    return status;
}

static pm_status encode_text(state *s, size_t i, int32_t end) {
    pm_embed_text *text = &s->texts[i];
    pm_str line = s->lines.items[i];
    const pm_config *c = pm_model_config(s->model);
    int32_t *ids = NULL;
    pm_status status = s->o->instruct ? encode_query(s, line, end, &ids, &text->n) : encode(s, line.p, line.n, end, &ids, &text->n);
    text->ids = ids;
    PM_TRY(status);
    if (c->max_ctx > 0 && text->n > c->max_ctx)
        return pm_fail(PM_ERR_CONTEXT, "a text of %zu tokens, the model takes %u", text->n, c->max_ctx);
    return PM_OK;
}

static pm_status encode_all(state *s) {
    int32_t end;
    if (!pm_model_tokenizer(s->model))
        return pm_fail(PM_ERR_UNSUPPORTED, "%s comes without a tokenizer", s->o->model);
    PM_TRY(choose_end(s, &end));
    s->texts = pm_calloc(s->lines.n, sizeof(*s->texts));
    if (!s->texts)
        return pm_fail(PM_ERR_MEMORY, "no memory for %zu texts", s->lines.n);
    for (size_t i = 0; i < s->lines.n; i++) {
        pm_status status = encode_text(s, i, end);
        if (status != PM_OK)
            return s->lines.n > 1 ? app_at_line(status, i + 1) : status;
    }
    return PM_OK;
}

// ---- vectors --------------------------------------------------------------------------------------------------------------

// A pass has at most as many rows as a sequence has positions: many short texts want more of both.
static pm_status open_session(state *s) {
    size_t longest = s->lines.n > 1 ? SHARED_CTX / MAX_SEQS : 1;
    for (size_t i = 0; i < s->lines.n; i++)
        longest = s->texts[i].n > longest ? s->texts[i].n : longest;
    size_t together = longest < SHARED_CTX ? SHARED_CTX / longest : 1;
    together = together < MAX_SEQS ? together : MAX_SEQS;
    s->n_seqs = (uint32_t)(together < s->lines.n ? together : s->lines.n);
    pm_session_options session_options = {
        .ctx = (uint32_t)longest,
        .n_seqs = s->n_seqs,
        .max_batch = s->n_seqs,
    };
    app_context_cache(&s->o->context, &session_options);
    PM_TRY(pm_session_open(s->model, &session_options, &s->session));
    s->vectors = pm_calloc((s->o->raw ? s->lines.n : s->n_seqs) * (size_t)s->dims, sizeof(*s->vectors));
    s->line = pm_malloc((size_t)s->dims * NUMBER_SIZE + 8);
    return s->vectors && s->line ? PM_OK : pm_fail(PM_ERR_MEMORY, "no memory for vectors of %u numbers", s->dims);
}

// Nine digits tell a float exactly.
static pm_status print_vector(state *s, const float *vector, bool *gone) {
    size_t n = 0;
    for (uint32_t k = 0; k < s->dims; k++)
        n += (size_t)snprintf(s->line + n, NUMBER_SIZE, "%c%.9g", k ? ',' : '[', (double)vector[k]);
    memcpy(s->line + n, "]\n", 2);
    return app_write(s->line, n + 2, gone);
}

static pm_status embed_all(state *s) {
    bool gone = false;
    for (size_t at = 0; at < s->lines.n && !gone && !app_interrupted();) {
        size_t n = s->lines.n - at < s->n_seqs ? s->lines.n - at : s->n_seqs;
        float *vectors = s->o->raw ? s->vectors + at * s->dims : s->vectors;
        for (size_t i = 0; i < n; i++)
            s->texts[at + i].seq = (int)i;
        PM_TRY(pm_session_embed(s->session, s->texts + at, (int)n, s->dims, vectors));
        for (size_t i = 0; i < n && !s->o->raw && !gone; i++)
            PM_TRY(print_vector(s, vectors + i * s->dims, &gone));
        at += n;
    }
    if (s->o->raw && !app_interrupted())
        return pm_file_write(s->o->raw, s->vectors, s->lines.n * (size_t)s->dims * sizeof(*s->vectors));
    return PM_OK;
}

// ---- the command ----------------------------------------------------------------------------------------------------------

static pm_status choose_dims(state *s) {
    uint32_t dim = pm_model_config(s->model)->dim;
    s->dims = s->o->dims ? s->o->dims : dim;
    return s->dims <= dim ? PM_OK : pm_fail(PM_ERR_USAGE, "--dims %u: the model's vectors have %u", s->dims, dim);
}

static pm_status go(state *s) {
    PM_TRY(read_texts(s));
    PM_TRY(run_load(s->o->device, s->o->model, &s->dev, &s->model));
    PM_TRY(choose_dims(s));
    PM_TRY(encode_all(s));
    PM_TRY(open_session(s));
    app_watch(s->session);
    pm_status status = embed_all(s);
    app_watch(NULL);
    return status;
}

static void close_all(state *s) {
    pm_session_close(&s->session);
    pm_model_close(&s->model);
    pm_device_close(&s->dev);
    for (size_t i = 0; s->texts && i < s->lines.n; i++)
        pm_free((void *)s->texts[i].ids);
    pm_free(s->texts);
    pm_free(s->vectors);
    pm_free(s->line);
    app_lines_close(&s->lines);
}

static int run(int argc, char **argv) {
    embed_options o = {.model = NULL};
    int exit_code;
    if (!app_parse(&app_embed, argc, argv, &o, &exit_code))
        return exit_code;
    state s = {.o = &o};
    exit_code = app_exit(go(&s));
    close_all(&s);
    return exit_code == APP_EXIT_OK && app_interrupted() ? APP_EXIT_INTERRUPTED : exit_code;
}

const app_command app_embed = {
    .name = "embed",
    .summary = "turns texts into vectors: a JSON array a line",
    .options = options,
    .n_options = sizeof(options) / sizeof(*options),
    .notes = "documents are given as they are, queries with --instruct, as in\n"
             "  --instruct \"Given a web search query, retrieve relevant passages that answer the query\"",
    .run = run,
};
