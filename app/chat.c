// pumice chat: a conversation on a terminal or through a pipe. What went wrong with one line is told, and the chat goes on.
#include "app/chat.h"
#include "app/limits.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "app/run.h"
#include "app/style.h"
#include "app/tune.h"

// ---- options ------------------------------------------------------------------------------------------------------------

#define AT(field) .offset = offsetof(chat_options, field)
static const char *const off_on[] = {"off", "on", NULL}; // as pm_chat_options counts
enum { USUAL_CTX = 16384, LEAST_CTX = 2048, USUAL_ANSWER = 2048 };

// clang-format off
static const app_option options[] = {
    {.name = "MODEL", .help = "folder, .safetensors or .gguf file", .kind = APP_TEXT, .required = true, AT(model)},
    {.name = "--system", .letter = "-s", .value = "TEXT", .help = "the system message", .kind = APP_TEXT, AT(system)},
    {.name = "--think", .value = "on|off", .help = "whether it thinks before it answers (*)", .kind = APP_WORD, .words = off_on,
     AT(think)},
    APP_SHOW_OPTION(chat_options, show, false),
    APP_BUDGET_OPTION(chat_options, think_budget, false),
    {.name = "--tools", .value = "FILE", .help = "JSON: a list of functions that it may call", .kind = APP_TEXT, AT(tools)},
    {.name = "--tokens", .letter = "-n", .value = "N", .help = "at most N tokens an answer", .kind = APP_U32, .least = 1,
     .most = APP_NOT_GIVEN - 1, AT(n_tokens)},
    APP_SAMPLING_OPTIONS(chat_options, sampling, stops),
    APP_CONTEXT_OPTIONS(chat_options, context),
    {.name = "--device", .letter = "-d", .value = "N|NAME", .help = "one that `pumice devices` lists", .kind = APP_TEXT, AT(device)},
    APP_TUNE_OPTION(chat_options, tune_seconds, true),
    APP_LIMITS_OPTION,
};
// clang-format on

// ---- opening ------------------------------------------------------------------------------------------------------------

static pm_status open_model(chat *c) {
    run_progress progress = {0};
    pm_model_options model_options = {.progress = run_progress_show, .user = &progress};
    PM_TRY(app_context_rope(&c->o.context, &model_options.rope));
    PM_TRY(pm_device_open(c->o.device, &c->dev));
    pm_status status = pm_model_open(c->dev, c->o.model, &model_options, &c->model);
    run_progress_clear(&progress);
    PM_TRY(status);
    if (!pm_model_tokenizer(c->model))
        return pm_fail(PM_ERR_UNSUPPORTED, "%s comes without a tokenizer", c->o.model);
    if (pm_chat_recognise(pm_model_chat_template(c->model)).format == PM_CHAT_NONE)
        return pm_fail(PM_ERR_UNSUPPORTED, "%s has no chat template that Pumice knows: pumice run --raw goes on with a text",
                       c->o.model);
    app_style_warn(pm_model_chat_template(c->model));
    return PM_OK;
}

// Where nothing was asked for: as much as usual and as the model was made for, and half of it as often as the device has no room.
static pm_status open_session(chat *c) {
    const app_context *given = &c->o.context;
    pm_session_options wanted = {.ctx = 0};
    PM_TRY(app_context_choose(given, pm_model_config(c->model), 0, USUAL_CTX, &wanted));
    pm_status status = pm_session_open(c->model, &wanted, &c->session);
    while (status == PM_ERR_DEVICE_MEMORY && !given->ctx && wanted.ctx > LEAST_CTX) {
        wanted.ctx /= 2;
        status = pm_session_open(c->model, &wanted, &c->session);
    }
    PM_TRY(status);
    return app_context_scale(given, c->model, c->session, 0, 1); // no more than is needed, which each turn tells
}

pm_status chat_read_tools(chat *c, const char *path) {
    PM_TRY(app_tools_read(path, &c->tools, &c->tools_json));
    return PM_OK;
}

static pm_status open_chat(chat *c) {
    c->tools.options.add_generation_prompt = true;
    if (c->o.tools)
        PM_TRY(chat_read_tools(c, c->o.tools));
    if (c->o.system) {
        PM_TRY(app_check_utf8("-s", c->o.system, strlen(c->o.system)));
        PM_TRY(app_talk_set_system(&c->talk, c->o.system));
    }
    PM_TRY(open_model(c));
    if (c->o.tools && !pm_chat_recognise(pm_model_chat_template(c->model)).tools)
        return pm_fail(PM_ERR_UNSUPPORTED, "--tools: the model's chat template has no place for tools");
    PM_TRY(open_session(c));
    PM_TRY(pm_session_tune(c->session, c->o.tune_seconds, false));
    PM_TRY(pm_dialog_open(c->session, 0, &c->dialog));
    return app_line_open(&c->line);
}

static void close_chat(chat *c) {
    app_line_close(&c->line);
    pm_dialog_close(&c->dialog);
    pm_session_close(&c->session);
    pm_model_close(&c->model);
    pm_device_close(&c->dev);
    app_talk_close(&c->talk);
    app_conversation_close(&c->tools);
    cJSON_Delete(c->tools_json);
    pm_free(c->text);
}

// ---- an answer ----------------------------------------------------------------------------------------------------------

static pm_chat_options prompt_options(const chat *c) {
    pm_chat_options prompt = c->tools.options;
    prompt.enable_thinking = c->o.think;
    return prompt;
}

pm_status chat_check(const chat *c) {
    pm_chat_options prompt = prompt_options(c);
    char *text;
    PM_TRY(pm_chat_render(pm_model_chat_template(c->model), c->talk.messages, c->talk.n, &prompt, &text, NULL));
    pm_free(text);
    return PM_OK;
}

static void tell_rescaled(void *user, double factor, size_t n_again) {
    (void)user;
    fprintf(stderr, "pumice: the conversation needs a longer context: YaRN by %g from here on, %zu tokens are read again\n", factor,
            n_again);
}

static pm_dialog_options answer_options(const chat *c) {
    bool thinks = app_style_thinks(pm_model_chat_template(c->model), c->talk.messages, c->talk.n, c->o.think);
    uint32_t room = c->o.n_tokens < USUAL_ANSWER ? c->o.n_tokens : USUAL_ANSWER;
    return (pm_dialog_options){.sampler = app_style_sampler(&c->o.sampling, c->model, thinks),
                               .think_budget = c->o.think_budget,
                               .stops = c->o.stops.strings,
                               .n_stops = (int)c->o.stops.n,
                               .rope_room = app_context_is_auto(&c->o.context) ? room : 0,
                               .rescaled = tell_rescaled};
}

static pm_status start(chat *c) {
    pm_chat_options prompt = prompt_options(c);
    pm_dialog_options how = answer_options(c);
    chat_stats *s = &c->stats;
    *s = (chat_stats){.began_ns = pm_now_ns(), .seed = how.sampler.temperature > 0 ? how.sampler.seed : 0, .stop = "-n reached"};
    pm_status status = pm_dialog_start(c->dialog, c->talk.messages, c->talk.n, &prompt, &how);
    s->first_ns = s->end_ns = pm_now_ns();
    if (status == PM_OK || status == PM_ERR_CANCELLED)
        pm_dialog_counts(c->dialog, &s->n_run, &s->n_reused);
    return status;
}

// One id; *more: go on.
static pm_status step(chat *c, app_view *view, bool *more) {
    chat_stats *s = &c->stats;
    int32_t id;
    pm_str text;
    *more = false;
    pm_status status = pm_dialog_next(c->dialog, &id, &text);
    if (status == PM_ERR_CONTEXT) {
        s->stop = "context full";
        return PM_OK;
    }
    if (status == PM_ERR_CANCELLED) { // while it read again
        s->stop = "interrupted";
        return PM_OK;
    }
    PM_TRY(status);
    s->end_ns = pm_now_ns();
    if (s->n++ == 0)
        s->first_ns = s->end_ns;
    PM_TRY(app_view_piece(view, pm_dialog_turn(c->dialog), text));
    if (pm_dialog_is_stopped(c->dialog))
        s->stop = "--stop";
    else if (pm_model_is_eos(c->model, id))
        s->stop = "end of turn";
    else if (app_interrupted())
        s->stop = "interrupted";
    else
        *more = !view->gone && s->n < c->o.n_tokens;
    return PM_OK;
}

static pm_status draw(chat *c, app_view *view) {
    bool more = true;
    pm_str text;
    while (more)
        PM_TRY(step(c, view, &more));
    PM_TRY(pm_dialog_finish(c->dialog, &text));
    return app_view_piece(view, pm_dialog_turn(c->dialog), text);
}

static void tell_end(const chat *c) {
    const pm_turn *turn = pm_dialog_turn(c->dialog);
    int n_calls;
    pm_turn_calls(turn, &n_calls);
    if (!strcmp(c->stats.stop, "context full"))
        fprintf(stderr,
                "pumice: the context of %" PRIu32
                " tokens is full, the answer was cut: /undo or /clear makes room, --ctx gives more\n",
                pm_session_ctx(c->session));
    else if (!strcmp(c->stats.stop, "interrupted") && app_line_is_typed(c->line))
        fprintf(stderr, "(stopped; /retry answers again, /undo takes the question back)\n");
    if (n_calls > 0 && app_line_is_typed(c->line))
        fprintf(stderr, "(it calls a tool: /tool TEXT tells what the tool answers)\n");
}

// Interrupted before the first id: there is no answer.
static pm_status write_answer(chat *c) {
    app_view view = {.how = app_show_choose(c->o.show)};
    pm_status status = start(c);
    if (status == PM_ERR_CANCELLED) {
        c->stats.stop = "interrupted";
        return pm_fail(PM_ERR_CANCELLED, "stopped before the answer began");
    }
    PM_TRY(status);
    status = draw(c, &view);
    pm_status ended = app_view_end(&view, pm_dialog_turn(c->dialog));
    PM_TRY(status);
    PM_TRY(ended);
    tell_end(c);
    c->quit = c->quit || view.gone;
    pm_chat_message message = pm_turn_message(pm_dialog_turn(c->dialog));
    return app_talk_add(&c->talk, &message);
}

static pm_status answer(chat *c) {
    app_interrupt_reset();
    app_watch(c->session);
    pm_status status = write_answer(c);
    app_watch(NULL);
    app_interrupt_reset();
    pm_dialog_end(c->dialog);
    return status;
}

// ---- input --------------------------------------------------------------------------------------------------------------

static pm_status append(chat *c, const char *text, size_t n) {
    enum { MAX_TEXT = 256 << 20 };
    if (n > MAX_TEXT - c->n)
        return pm_fail(PM_ERR_USAGE, "a text of more than %d MiB", MAX_TEXT >> 20);
    if (c->n + n + 1 > c->room) {
        size_t room = (c->n + n + 1) * 2;
        char *p = pm_realloc(c->text, room);
        if (!p)
            return pm_fail(PM_ERR_MEMORY, "no memory for a text of %zu bytes", c->n + n);
        c->text = p;
        c->room = room;
    }
    memcpy(c->text + c->n, text, n);
    c->n += n;
    c->text[c->n] = 0;
    return PM_OK;
}

// Takes a line of a text between """; true: it ends the text. Newlines beside the quotes are not of the text.
static pm_status take_quoted(chat *c, const char *line, size_t n, bool *more) {
    size_t before = c->n;
    if (before > 0)
        PM_TRY(append(c, "\n", 1));
    PM_TRY(append(c, line, n));
    *more = c->n - before < 3 || memcmp(c->text + c->n - 3, "\"\"\"", 3);
    c->n -= *more ? 0 : 3;
    c->n -= !*more && c->n > 0 && c->text[c->n - 1] == '\n';
    c->text[c->n] = 0;
    return PM_OK;
}

// A line that goes on behind a backslash at its end.
static pm_status take_line(chat *c, const char *line, size_t n, bool *more) {
    PM_TRY(append(c, line, n));
    *more = n > 0 && line[n - 1] == '\\';
    if (*more)
        c->text[c->n - 1] = '\n';
    return PM_OK;
}

static bool begins_quoted(const char *line, size_t n) {
    return n >= 3 && !memcmp(line, "\"\"\"", 3);
}

// A line, or several that are one text.
static pm_status read_text(chat *c, app_line_end *end) {
    const char *line;
    size_t n;
    bool more = true;
    c->n = 0;
    PM_TRY(app_line_read(c->line, "> ", &line, &n, end));
    bool quoted = begins_quoted(line, n);
    size_t skipped = quoted ? 3 : 0;
    PM_TRY(append(c, "", 0));
    while (*end == APP_LINE_READ && more) {
        PM_TRY(quoted ? take_quoted(c, line + skipped, n - skipped, &more) : take_line(c, line, n, &more));
        skipped = 0;
        if (more)
            PM_TRY(app_line_read(c->line, ". ", &line, &n, end));
    }
    if (*end == APP_LINE_DROPPED)
        c->n += n;
    else if (c->n > 0) // what was begun is asked before the end is seen
        *end = APP_LINE_READ;
    return PM_OK;
}

static bool is_blank(const chat *c) {
    return strspn(c->text, " \t\n") == c->n;
}

// Whatever goes wrong with a question, it is not in the conversation then.
static pm_status ask(chat *c) {
    int n = c->talk.n;
    PM_TRY(app_check_utf8("the text", c->text, c->n));
    PM_TRY(app_check_zeros("the text", c->text, c->n, ""));
    PM_TRY(app_talk_add(&c->talk, &(pm_chat_message){.role = "user", .content = c->text}));
    pm_status status = answer(c);
    if (status != PM_OK)
        app_talk_cut(&c->talk, n);
    return status;
}

static pm_status obey(chat *c) {
    chat_wish wish;
    PM_TRY(app_check_utf8("the line", c->text, c->n));
    PM_TRY(app_check_zeros("the line", c->text, c->n, ""));
    PM_TRY(chat_command(c, c->text, &wish));
    return wish == CHAT_ANSWER ? answer(c) : PM_OK;
}

// A failure that is not the device's, nor standard output's, is of this turn only.
static pm_status survive(chat *c, pm_status status) {
    if (status == PM_OK || status == PM_ERR_DEVICE || status == PM_ERR_DEVICE_LOST)
        return status;
    fprintf(stderr, "pumice: %s%s\n", pm_error_text(),
            status == PM_ERR_CONTEXT ? ": nothing was dropped; /undo or /clear makes room, --ctx gives more" : "");
    c->failed = true;
    return PM_OK;
}

// A second Ctrl-C at an empty prompt ends.
static void drop(chat *c, bool empty, bool *warned) {
    if (empty && *warned)
        c->quit = true;
    else if (empty)
        fprintf(stderr, "(Ctrl-C again or Ctrl-D ends)\n");
    *warned = empty;
}

static pm_status talk(chat *c) {
    bool warned = false;
    while (!c->quit) {
        app_line_end end;
        PM_TRY(read_text(c, &end));
        if (end == APP_LINE_LAST)
            return PM_OK;
        if (end == APP_LINE_DROPPED) {
            drop(c, c->n == 0, &warned);
            continue;
        }
        warned = false;
        if (!is_blank(c))
            PM_TRY(survive(c, chat_is_command(c->text) ? obey(c) : ask(c)));
    }
    return PM_OK;
}

static int run(int argc, char **argv) {
    chat c = {.o = {.think = -1, .show = -1, .n_tokens = APP_NOT_GIVEN, .sampling = APP_SAMPLING_NOT_GIVEN, .tune_seconds = -1}};
    int exit_code;
    if (!app_parse(&app_chat, argc, argv, &c.o, &exit_code))
        return exit_code;
    pm_status status = open_chat(&c);
    if (status == PM_OK && app_line_is_typed(c.line))
        fprintf(stderr, "%s on %s; /help tells what can be said, Ctrl-D ends\n", c.o.model, pm_device_get_info(c.dev)->name);
    if (status == PM_OK)
        status = talk(&c);
    exit_code = app_exit(status);
    bool failed = c.failed && c.line && !app_line_is_typed(c.line); // a script wants to know
    close_chat(&c);
    return exit_code == APP_EXIT_OK && failed ? APP_EXIT_FAILED : exit_code;
}

const app_command app_chat = {
    .name = "chat",
    .summary = "talks over several turns; a pipe's lines are turns, too",
    .options = options,
    .n_options = sizeof(options) / sizeof(*options),
    .notes = "(*) else as the model says; --ctx: else 16384, or what the model allows",
    .run = run,
};
