// What a line with a slash does in `pumice chat`.
#include "app/chat.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

// ---- /set ---------------------------------------------------------------------------------------------------------------

#define AT(field) .offset = offsetof(chat_options, field)
// clang-format off
static const app_option settable[] = {
    APP_SAMPLING_OPTIONS(chat_options, sampling, stops),
    {.name = "--tokens", .value = "N", .help = "at most N tokens an answer", .kind = APP_U32, .most = APP_NOT_GIVEN, AT(n_tokens)},
    APP_BUDGET_OPTION(chat_options, think_budget, false),
    APP_SHOW_OPTION(chat_options, show, false),
};
// clang-format on
static const app_command set_table = {.options = settable, .n_options = sizeof(settable) / sizeof(*settable)};

// Cuts the first word off.
static const char *next_word(const char *text, char *word, size_t size) {
    size_t n = strcspn(text, " \t");
    snprintf(word, size, "%.*s", (int)(n < size ? n : size - 1), text);
    return text + n + strspn(text + n, " \t");
}

static pm_status set(chat *c, const char *text, chat_wish *wish) {
    (void)wish;
    char name[32];
    const char *value = next_word(text, name, sizeof(name));
    if (*value)
        return app_set(&set_table, name, value, &c->o);
    for (int i = 0; i < set_table.n_options; i++)
        fprintf(stderr, "  /set %-14s %-5s %s\n", settable[i].name + 2, settable[i].value, settable[i].help);
    return *text ? pm_fail(PM_ERR_USAGE, "/set wants a name and a value") : PM_OK;
}

// ---- thinking, system, messages -----------------------------------------------------------------------------------------

static pm_status switch_thinking(chat *c, int think) {
    pm_chat_style style = pm_chat_recognise(pm_model_chat_template(c->model));
    if (style.thinking == PM_CHAT_NEVER_THINKS && think)
        return pm_fail(PM_ERR_USAGE, "this model's chat template has no thinking");
    if (style.thinking == PM_CHAT_ALWAYS_THINKS && !think)
        return pm_fail(PM_ERR_USAGE, "this model's chat template always thinks");
    c->o.think = think;
    return PM_OK;
}

static pm_status think(chat *c, const char *text, chat_wish *wish) {
    (void)text, (void)wish;
    return switch_thinking(c, 1);
}

static pm_status no_think(chat *c, const char *text, chat_wish *wish) {
    (void)text, (void)wish;
    return switch_thinking(c, 0);
}

static pm_status set_system(chat *c, const char *text, chat_wish *wish) {
    (void)wish;
    return app_talk_set_system(&c->talk, text);
}

static pm_status nothing_said(void) {
    return pm_fail(PM_ERR_USAGE, "nothing was said yet");
}

// From the last thing that a person said.
static pm_status undo(chat *c, const char *text, chat_wish *wish) {
    (void)text, (void)wish;
    int last = app_talk_last(&c->talk, "user");
    if (last < 0)
        return nothing_said();
    app_talk_cut(&c->talk, last);
    return PM_OK;
}

// Behind the last thing that a person or a tool said.
static pm_status retry(chat *c, const char *text, chat_wish *wish) {
    (void)text;
    int user = app_talk_last(&c->talk, "user"), tool = app_talk_last(&c->talk, "tool");
    int last = user > tool ? user : tool;
    if (last < 0)
        return nothing_said();
    app_talk_cut(&c->talk, last + 1);
    *wish = CHAT_ANSWER;
    return PM_OK;
}

static pm_status clear(chat *c, const char *text, chat_wish *wish) {
    (void)text, (void)wish;
    bool system = c->talk.n > 0 && !strcmp(c->talk.messages[0].role, "system");
    app_talk_cut(&c->talk, system);
    return PM_OK;
}

// How many calls of the last answer wait for what the tool says.
static int calls_open(const app_talk *t) {
    int n = 0, i = t->n - 1;
    for (; i >= 0 && !strcmp(t->messages[i].role, "tool"); i--)
        n++;
    bool called = i >= 0 && !strcmp(t->messages[i].role, "assistant");
    return called ? t->messages[i].n_tool_calls - n : 0;
}

static pm_status tool(chat *c, const char *text, chat_wish *wish) {
    int open = calls_open(&c->talk);
    if (open < 1)
        return pm_fail(PM_ERR_USAGE, "no call of a tool waits for its answer");
    PM_TRY(app_talk_add(&c->talk, &(pm_chat_message){.role = "tool", .content = text}));
    if (open == 1)
        *wish = CHAT_ANSWER;
    else
        fprintf(stderr, "%d more to go: /tool TEXT\n", open - 1);
    return PM_OK;
}

// ---- files --------------------------------------------------------------------------------------------------------------

static pm_status save(chat *c, const char *path, chat_wish *wish) {
    (void)wish;
    pm_chat_options options = c->tools.options;
    options.enable_thinking = c->o.think;
    if (!*path)
        return pm_fail(PM_ERR_USAGE, "/save wants a file's name");
    PM_TRY(app_talk_save(&c->talk, &options, path));
    fprintf(stderr, "%d messages saved\n", c->talk.n);
    return PM_OK;
}

// What is there stays when the file is no good.
static pm_status take(chat *c, app_conversation *from, cJSON **json) {
    app_talk talk = c->talk;
    app_conversation tools = c->tools;
    cJSON *tools_json = c->tools_json;
    int thinking = c->o.think;
    c->talk = (app_talk){.n = 0};
    c->tools = *from;
    c->tools.options.add_generation_prompt = true;
    c->tools_json = *json;
    c->o.think = from->options.enable_thinking;
    pm_status status = app_talk_load(&c->talk, from);
    if (status == PM_OK)
        status = chat_check(c);
    bool taken = status == PM_OK;
    if (!taken) {
        app_talk_close(&c->talk);
        c->talk = talk;
        c->tools = tools;
        c->tools_json = tools_json;
        c->o.think = thinking;
        return status;
    }
    app_talk_close(&talk);
    app_conversation_close(&tools);
    cJSON_Delete(tools_json);
    *from = (app_conversation){.n = 0};
    *json = NULL;
    return PM_OK;
}

static pm_status in_file(const char *path, pm_status status) {
    char why[400];
    if (status == PM_OK || strstr(pm_error_text(), path))
        return status;
    snprintf(why, sizeof(why), "%s", pm_error_text());
    return pm_fail(status, "%s: %s", path, why);
}

// A question that waits for its answer is answered.
static pm_status load(chat *c, const char *path, chat_wish *wish) {
    app_conversation from = {.n = 0};
    cJSON *json;
    if (!*path)
        return pm_fail(PM_ERR_USAGE, "/load wants a file's name");
    PM_TRY(app_json_read(path, &json));
    pm_status status = app_conversation_read(json, &from);
    if (status == PM_OK)
        status = take(c, &from, &json);
    app_conversation_close(&from);
    cJSON_Delete(json);
    PM_TRY(in_file(path, status));
    const char *role = c->talk.messages[c->talk.n - 1].role;
    if (!strcmp(role, "user") || !strcmp(role, "tool"))
        *wish = CHAT_ANSWER;
    return PM_OK;
}

// ---- the rest -----------------------------------------------------------------------------------------------------------

static double rate(uint32_t n, uint64_t ns) {
    return n && ns ? n * 1e9 / (double)ns : 0;
}

static pm_status stats(chat *c, const char *text, chat_wish *wish) {
    (void)text, (void)wish;
    const chat_stats *s = &c->stats;
    fprintf(stderr, "%d messages | context %" PRIu32 " of %" PRIu32 " tokens | thinking %s\n", c->talk.n,
            pm_session_pos(c->session, 0), pm_session_ctx(c->session),
            c->o.think < 0 ? "as the model likes"
            : c->o.think   ? "on"
                           : "off");
    if (!s->stop)
        return PM_OK;
    fprintf(stderr,
            "prompt %" PRIu32 " new tokens (%" PRIu32 " were there), %.1f tokens/s | answer %" PRIu32 " tokens, %.1f tokens/s | %s",
            s->n_run, s->n_reused, rate(s->n_run, s->first_ns - s->began_ns), s->n,
            rate(s->n ? s->n - 1 : 0, s->end_ns - s->first_ns), s->stop);
    if (s->seed)
        fprintf(stderr, " | seed %" PRIu64, s->seed);
    fprintf(stderr, " | %s\n", pm_device_get_info(c->dev)->name);
    return PM_OK;
}

static pm_status quit(chat *c, const char *text, chat_wish *wish) {
    (void)text, (void)wish;
    c->quit = true;
    return PM_OK;
}

static pm_status help(chat *c, const char *text, chat_wish *wish);

static const struct command {
    const char *name, *value, *help;
    pm_status (*run)(chat *c, const char *text, chat_wish *wish);
    bool takes_text;
} commands[] = {
    {"/think", "", "think before answers", think, false},
    {"/no_think", "", "answer at once", no_think, false},
    {"/set", "NAME VALUE", "temp, top-k, seed, ...; alone: tells them all", set, true},
    {"/system", "TEXT", "the system message; nothing: none", set_system, true},
    {"/retry", "", "answer again", retry, false},
    {"/undo", "", "take the last message and its answer back", undo, false},
    {"/clear", "", "forget all but the system message", clear, false},
    {"/tool", "TEXT", "what a tool answers to the model's call", tool, true},
    {"/save", "FILE", "write the conversation as JSON", save, true},
    {"/load", "FILE", "go on with such a file", load, true},
    {"/stats", "", "tokens, speed, context", stats, false},
    {"/help", "", "this text", help, false},
    {"/quit", "", "end, as Ctrl-D does", quit, false},
};
enum { N_COMMANDS = sizeof(commands) / sizeof(*commands) };

static pm_status help(chat *c, const char *text, chat_wish *wish) {
    (void)c, (void)text, (void)wish;
    for (int i = 0; i < N_COMMANDS; i++)
        fprintf(stderr, "  %-10s %-11s %s\n", commands[i].name, commands[i].value, commands[i].help);
    fprintf(stderr, "A line that ends with \\ goes on in the next; \"\"\" begins and ends a text of many lines.\n"
                    "Ctrl-C stops an answer. /think and /no_think inside a text are the model's own switches.\n");
    return PM_OK;
}

static const struct command *find(const char *line) {
    size_t n = strcspn(line, " \t\n");
    for (int i = 0; i < N_COMMANDS; i++)
        if (strlen(commands[i].name) == n && !memcmp(commands[i].name, line, n))
            return &commands[i];
    return NULL;
}

// "/think Who are you?" is a text with a switch of the model's own in it.
bool chat_is_command(const char *line) {
    if (line[0] != '/')
        return false;
    const struct command *command = find(line);
    bool is_switch = command && (command->run == think || command->run == no_think);
    return !is_switch || !line[strcspn(line, " \t\n")];
}

pm_status chat_command(chat *c, const char *line, chat_wish *wish) {
    const struct command *command = find(line);
    const char *text = line + strcspn(line, " \t\n");
    text += strspn(text, " \t");
    *wish = CHAT_NOTHING;
    if (!command)
        return pm_fail(PM_ERR_USAGE, "no command %.*s; /help lists them (a text may begin with a blank)",
                       (int)(strcspn(line, " \t\n") < 40 ? strcspn(line, " \t\n") : 40), line);
    if (*text && !command->takes_text)
        return pm_fail(PM_ERR_USAGE, "%s stands alone", command->name);
    return command->run(c, text, wish);
}
