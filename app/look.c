// pumice tokenize, pumice template: what a model makes of a text, to compare with other tools. Neither needs a device.
#include <cjson/cJSON.h>
#include <stdio.h>
#include <string.h>

#include "app/app.h"
#include "app/lines.h"
#include "app/messages.h"
#include "app/style.h"
#include "backend/tokenizer.h"

enum { MAX_TEXT = 256 << 20 }; // bytes

typedef struct look_options {
    const char *model, *text, *file;
    bool jsonl;
} look_options;

typedef struct state {
    pm_file *file;
    pm_tokenizer *tokenizer;
    pm_str template_text;
} state;

// What a command does with a text, and with a line of JSON, which may be written into.
typedef struct look {
    pm_status (*text)(const state *s, const char *text, size_t size);
    pm_status (*json)(const state *s, char *line, size_t size, cJSON **out);
} look;

// ---- tokenize -----------------------------------------------------------------------------------------------------------

static pm_status encode(const state *s, const char *text, size_t size, int32_t **ids, size_t *n) {
    return pm_tokenizer_encode(s->tokenizer, text, size, PM_ENCODE_SPECIAL, ids, n);
}

static pm_status tokenize_text(const state *s, const char *text, size_t size) {
    int32_t *ids;
    size_t n;
    PM_TRY(encode(s, text, size, &ids, &n));
    for (size_t i = 0; i < n; i++)
        printf("%s%d", i ? " " : "", (int)ids[i]);
    puts("");
    pm_free(ids);
    return PM_OK;
}

static pm_status tokenize_json(const state *s, char *line, size_t size, cJSON **out) {
    int32_t *ids;
    size_t n;
    PM_TRY(app_line_string(line, &size));
    PM_TRY(encode(s, line, size, &ids, &n));
    *out = n > 0 ? cJSON_CreateIntArray(ids, (int)n) : cJSON_CreateArray();
    pm_free(ids);
    return PM_OK;
}

// ---- template -----------------------------------------------------------------------------------------------------------

static pm_status render(const state *s, const pm_chat_message *messages, int n, const pm_chat_options *options, char **text) {
    PM_TRY(pm_chat_render(s->template_text, messages, n, options, text, NULL));
    app_style_warn(s->template_text);
    return PM_OK;
}

static pm_status template_text(const state *s, const char *text, size_t size) {
    if (strlen(text) < size)
        return pm_fail(PM_ERR_USAGE, "a zero byte at offset %zu", strlen(text));
    pm_chat_message message = {.role = "user", .content = text};
    pm_chat_options options = {.add_generation_prompt = true, .enable_thinking = -1};
    char *rendered;
    PM_TRY(render(s, &message, 1, &options, &rendered));
    fputs(rendered, stdout);
    pm_free(rendered);
    return PM_OK;
}

static pm_status template_json(const state *s, char *line, size_t size, cJSON **out) {
    app_conversation c;
    cJSON *in;
    char *rendered = NULL;
    PM_TRY(app_line_parse(line, size, &in));
    pm_status status = app_conversation_read(in, &c);
    if (status == PM_OK)
        status = render(s, c.messages, c.n, &c.options, &rendered);
    app_conversation_close(&c);
    cJSON_Delete(in);
    PM_TRY(status);
    *out = cJSON_CreateString(rendered);
    pm_free(rendered);
    return PM_OK;
}

// ---- both ---------------------------------------------------------------------------------------------------------------

static pm_status run_line(const look *what, const state *s, char *line, size_t size) {
    cJSON *out = NULL;
    pm_status status = what->json(s, line, size, &out);
    char *text = out ? cJSON_PrintUnformatted(out) : NULL;
    if (status == PM_OK && !text)
        status = pm_fail(PM_ERR_MEMORY, "no memory for a line");
    if (text)
        puts(text);
    pm_free(text);
    cJSON_Delete(out);
    return status;
}

static pm_status run_lines(const look *what, const state *s, char *text, size_t size) {
    size_t number = 1;
    for (char *p = text, *end = text + size; p < end; number++) {
        char *newline = memchr(p, '\n', (size_t)(end - p)), *stop = newline ? newline : end;
        pm_status status = stop > p ? run_line(what, s, p, (size_t)(stop - p)) : PM_OK;
        if (status != PM_OK)
            return app_at_line(status, number);
        p = newline ? newline + 1 : end;
    }
    return PM_OK;
}

// A tokenizer.json alone will do.
static pm_status open_state(const char *path, state *s) {
    const char *name = "tokenizer.json";
    size_t n = strlen(path), m = strlen(name);
    PM_TRY(n >= m && !strcmp(path + n - m, name) ? pm_file_open_tokenizer(path, &s->file) : pm_file_open(path, &s->file));
    s->template_text = pm_file_chat_template(s->file);
    return pm_tokenizer_open(pm_file_vocab(s->file), &s->tokenizer);
}

static pm_status read_input(const look_options *o, char **text, size_t *size) {
    if (o->text && (o->file || o->jsonl))
        return pm_fail(PM_ERR_USAGE, "-p is a plain text: it goes with neither -f nor --jsonl");
    if (o->text)
        return PM_OK;
    if (!o->file || !strcmp(o->file, "-"))
        return pm_stdin_read(MAX_TEXT, text, size);
    return pm_file_read(o->file, MAX_TEXT, text, size);
}

static pm_status go(const look *what, const look_options *o, state *s, char **read) {
    size_t size = o->text ? strlen(o->text) : 0;
    PM_TRY(read_input(o, read, &size));
    PM_TRY(open_state(o->model, s));
    return o->jsonl ? run_lines(what, s, *read, size) : what->text(s, o->text ? o->text : *read, size);
}

static int run(const app_command *command, const look *what, int argc, char **argv) {
    look_options o = {.model = NULL};
    state s = {.file = NULL};
    char *read = NULL;
    int exit_code;
    if (!app_parse(command, argc, argv, &o, &exit_code))
        return exit_code;
    cJSON_Hooks hooks = {.malloc_fn = pm_malloc, .free_fn = pm_free};
    cJSON_InitHooks(&hooks);
    exit_code = app_exit(go(what, &o, &s, &read));
    pm_tokenizer_close(&s.tokenizer);
    pm_file_close(&s.file);
    pm_free(read);
    return exit_code;
}

#define AT(field) .offset = offsetof(look_options, field)
// clang-format off
static const app_option options[] = {
    {.name = "MODEL", .help = "folder, .safetensors or .gguf file, or a tokenizer.json", .kind = APP_TEXT, .required = true, AT(model)},
    {.name = "--prompt", .letter = "-p", .value = "TEXT", .help = "the text; else it is piped in", .kind = APP_TEXT, AT(text)},
    {.name = "--file", .letter = "-f", .value = "FILE", .help = "or what FILE says, to its last byte", .kind = APP_TEXT, AT(file)},
    {.name = "--jsonl", .help = "JSON in and out, a line each", .kind = APP_FLAG, AT(jsonl)},
};
// clang-format on
enum { N_OPTIONS = sizeof(options) / sizeof(*options) };

static int run_tokenize(int argc, char **argv) {
    return run(&app_tokenize, &(look){tokenize_text, tokenize_json}, argc, argv);
}

static int run_template(int argc, char **argv) {
    return run(&app_template, &(look){template_text, template_json}, argc, argv);
}

const app_command app_tokenize = {
    .name = "tokenize",
    .summary = "tells the token ids of a text, control tokens included",
    .options = options,
    .n_options = N_OPTIONS,
    .notes = "--jsonl: a string a line in, an array of ids a line out",
    .run = run_tokenize,
};

const app_command app_template = {
    .name = "template",
    .summary = "tells what the model is given for a text or a conversation",
    .options = options,
    .n_options = N_OPTIONS,
    .notes = "--jsonl: {\"messages\", \"tools\", \"enable_thinking\", \"add_generation_prompt\"} a line in,\n"
             "a string a line out",
    .run = run_template,
};
