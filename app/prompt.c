// The prompt of `pumice run`: read from the command line, files and pipes, then turned into ids.
#include "app/run.h"
#include "app/style.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_PROMPT = 256 << 20 }; // bytes: far beyond any context

// ---- text -------------------------------------------------------------------------------------------------------------

static pm_status read_source(const char *path, const char **from, char **text, size_t *size) {
    bool piped = !strcmp(path, "-");
    *from = piped ? "standard input" : path;
    return piped ? pm_stdin_read(MAX_PROMPT, text, size) : pm_file_read(path, MAX_PROMPT, text, size);
}

// Files end with a newline that nobody means to say.
static size_t without_newline(const char *text, size_t n) {
    n -= n > 0 && text[n - 1] == '\n';
    return n - (n > 0 && text[n - 1] == '\r');
}

// *prompt = the text of -p, and behind an empty line the file's.
static pm_status join(run_prompt *prompt, const char *text, const char *file, size_t file_size) {
    size_t n = text ? strlen(text) : 0, gap = text && file ? 2 : 0;
    prompt->text = pm_malloc(n + gap + file_size + 1);
    if (!prompt->text)
        return pm_fail(PM_ERR_MEMORY, "no memory for a prompt of %zu bytes", n + gap + file_size);
    if (n)
        memcpy(prompt->text, text, n);
    memcpy(prompt->text + n, "\n\n", gap);
    if (file_size)
        memcpy(prompt->text + n + gap, file, file_size);
    prompt->size = n + gap + file_size;
    prompt->text[prompt->size] = 0;
    return prompt->size ? PM_OK : pm_fail(PM_ERR_USAGE, "the prompt is empty: give -p TEXT, -f FILE or --ids, or pipe one in");
}

static pm_status check_file(const run_options *o, const char *from, const char *text, size_t n) {
    PM_TRY(app_check_utf8(from, text, n));
    return o->raw ? PM_OK : app_check_zeros(from, text, n, "; only --raw text can have one");
}

static pm_status read_text(const run_options *o, const char *path, run_prompt *prompt) {
    const char *from = NULL;
    char *file = NULL;
    size_t size = 0;
    if (o->text)
        PM_TRY(app_check_utf8("-p", o->text, strlen(o->text)));
    if (o->system)
        PM_TRY(app_check_utf8("-s", o->system, strlen(o->system)));
    if (path) {
        PM_TRY(read_source(path, &from, &file, &size));
        if (!o->raw)
            size = without_newline(file, size);
    }
    pm_status status = path ? check_file(o, from, file, size) : PM_OK;
    if (status == PM_OK)
        status = join(prompt, o->text, file, size);
    pm_free(file);
    return status;
}

// ---- ids --------------------------------------------------------------------------------------------------------------

static const char id_separators[] = ", \t\r\n";

// What begins like a list is one, misspelt perhaps, unless a file has that name.
static bool is_list(const char *text) {
    return text[strspn(text, "0123456789, \t\r\n")] == 0 || (text[0] >= '0' && text[0] <= '9' && !pm_path_exists(text));
}

static pm_status parse_ids(const char *from, const char *text, size_t size, run_prompt *prompt) {
    prompt->ids = pm_calloc(size / 2 + 1, sizeof(*prompt->ids)); // a digit and a separator each
    if (!prompt->ids)
        return pm_fail(PM_ERR_MEMORY, "no memory for the ids of %s", from);
    for (const char *p = text + strspn(text, id_separators); *p; p += strspn(p, id_separators)) {
        char *end = NULL;
        unsigned long id = *p >= '0' && *p <= '9' ? strtoul(p, &end, 10) : 0;
        if (!end || (*end && !strchr(id_separators, *end)) || id > INT32_MAX)
            return pm_fail(PM_ERR_USAGE, "%s: no id at offset %zu: wanted numbers with commas or blanks between", from,
                           (size_t)(p - text));
        prompt->ids[prompt->n++] = (int32_t)id;
        p = end;
    }
    return prompt->n ? PM_OK : pm_fail(PM_ERR_USAGE, "%s: no ids", from);
}

static pm_status read_ids(const char *list_or_path, run_prompt *prompt) {
    if (is_list(list_or_path))
        return parse_ids("--ids", list_or_path, strlen(list_or_path), prompt);
    const char *from;
    char *text;
    size_t size;
    PM_TRY(read_source(list_or_path, &from, &text, &size));
    pm_status status =
        strlen(text) == size ? parse_ids(from, text, size, prompt) : pm_fail(PM_ERR_USAGE, "%s: not a list of ids", from);
    pm_free(text);
    return status;
}

// ---- from the command line ----------------------------------------------------------------------------------------------

static pm_status check_options(const run_options *o) {
    if (o->ids && (o->text || o->file || o->system || o->raw || o->think >= 0 || o->tools))
        return pm_fail(PM_ERR_USAGE, "--ids takes the place of a text: it goes with none of -p, -f, -s, --raw, --think, --tools");
    if (o->raw && (o->system || o->think >= 0 || o->tools))
        return pm_fail(PM_ERR_USAGE, "--raw is for a text that stands alone: it goes with neither -s nor --think nor --tools");
    if (o->print_ids && o->show >= 0)
        return pm_fail(PM_ERR_USAGE, "--print-ids writes all ids: it does not go with --show-thinking");
    return PM_OK;
}

pm_status run_prompt_read(const run_options *o, run_prompt *prompt) {
    PM_TRY(check_options(o));
    if (o->tools)
        PM_TRY(app_tools_read(o->tools, &prompt->tools, &prompt->tools_json));
    if (o->ids)
        return read_ids(o->ids, prompt);
    if (o->text || o->file)
        return read_text(o, o->file, prompt);
    if (pm_is_terminal(0))
        return pm_fail(PM_ERR_USAGE, "no prompt: give -p TEXT, -f FILE or --ids, or pipe one in");
    return read_text(o, "-", prompt);
}

void run_prompt_close(run_prompt *prompt) {
    pm_free(prompt->text);
    pm_free(prompt->ids);
    app_conversation_close(&prompt->tools);
    cJSON_Delete(prompt->tools_json);
    *prompt = (run_prompt){.text = NULL};
}

// ---- with the model -----------------------------------------------------------------------------------------------------

static pm_status encode_chat(const run_options *o, const pm_model *model, run_prompt *prompt) {
    pm_chat_message both[2] = {{.role = "system", .content = o->system}, {.role = "user", .content = prompt->text}};
    const pm_chat_message *messages = o->system ? both : both + 1;
    int n = o->system ? 2 : 1;
    pm_chat_options chat = {.add_generation_prompt = true,
                            .enable_thinking = o->think,
                            .tools = prompt->tools.options.tools,
                            .n_tools = prompt->tools.options.n_tools};
    pm_str template_text = pm_model_chat_template(model);
    char *text;
    PM_TRY(pm_chat_render(template_text, messages, n, &chat, &text, NULL));
    app_style_warn(template_text);
    prompt->thinks = app_style_thinks(template_text, messages, n, o->think);
    pm_status status =
        pm_tokenizer_encode(pm_model_tokenizer(model), text, strlen(text), PM_ENCODE_SPECIAL, &prompt->ids, &prompt->n);
    pm_free(text);
    return status;
}

pm_status run_prompt_encode(const run_options *o, const pm_model *model, run_prompt *prompt) {
    prompt->thinks = -1;
    if (!prompt->text)
        return PM_OK;
    if (!pm_model_tokenizer(model))
        return pm_fail(PM_ERR_UNSUPPORTED, "%s comes without a tokenizer: give the prompt as token ids (--ids)", o->model);
    if (!o->raw)
        return encode_chat(o, model, prompt);
    return pm_tokenizer_encode(pm_model_tokenizer(model), prompt->text, prompt->size, PM_ENCODE_SPECIAL, &prompt->ids, &prompt->n);
}
