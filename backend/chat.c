// Chat templates without Jinja: conversations as the templates of Qwen3 and its kin, plain ChatML and Llama 3 render them.
#include "backend/chat.h"
#include "host/base.h"

#include <string.h>

static pm_str strip_left(pm_str s) {
    for (; s.n > 0 && *s.p == '\n'; s.p++)
        s.n--;
    return s;
}

static pm_str strip_right(pm_str s) {
    while (s.n > 0 && s.p[s.n - 1] == '\n')
        s.n--;
    return s;
}

// As Jinja's trim, for the blanks of ASCII.
static pm_str trim(pm_str s) {
    static const char blanks[] = " \t\n\r\v\f\x1c\x1d\x1e\x1f";
    for (; s.n > 0 && strchr(blanks, *s.p) && *s.p; s.p++)
        s.n--;
    while (s.n > 0 && s.p[s.n - 1] && strchr(blanks, s.p[s.n - 1]))
        s.n--;
    return s;
}

// ---- output -----------------------------------------------------------------------------------------------------------

// A growing text. The first failed allocation sticks, and finish() reports it, so that the rendering reads straight.
typedef struct output {
    char *p;
    size_t n, room;
    bool failed;
} output;

static void put(output *out, pm_str s) {
    if (out->failed || s.n == 0)
        return;
    if (s.n > out->room - out->n) {
        size_t room = (out->n + s.n) * 2;
        char *p = pm_realloc(out->p, room);
        out->failed = p == NULL;
        if (out->failed)
            return;
        out->p = p;
        out->room = room;
    }
    memcpy(out->p + out->n, s.p, s.n);
    out->n += s.n;
}

static void puts_to(output *out, const char *text) {
    put(out, pm_text(text));
}

static pm_status finish(output *out, char **text) {
    put(out, (pm_str){"", 1});
    if (out->failed) {
        pm_free(out->p);
        return pm_fail(PM_ERR_MEMORY, "no memory to render the conversation");
    }
    *text = out->p;
    return PM_OK;
}

// ---- turns ------------------------------------------------------------------------------------------------------------

typedef struct chat {
    pm_chat_dialect dialect;
    const pm_chat_message *messages;
    int n;
    const pm_chat_options *options;
    int last_query; // index of the last message that a user wrote (a tool's answer in disguise is none); n - 1 if there is none
    output out;
} chat;

static bool is_role(const pm_chat_message *m, const char *role) {
    return m->role != NULL && strcmp(m->role, role) == 0;
}

static bool is_system(const pm_chat_message *m) {
    return is_role(m, "system") || is_role(m, "developer");
}

static int find_last_query(const chat *c) {
    for (int i = c->n - 1; i >= 0; i--) {
        pm_str content = pm_text(c->messages[i].content);
        bool tool_answer = pm_text_starts(content, "<tool_response>") && pm_text_ends(content, "</tool_response>");
        if (is_role(&c->messages[i], "user") && !tool_answer)
            return i;
    }
    return c->n - 1;
}

// A message as it stands in Jinja's quotes.
static void put_unquoted(output *out, pm_str s) {
    for (size_t i = 0; i < s.n; i++) {
        bool escaped = s.p[i] == '\\' && i + 1 < s.n;
        i += escaped;
        put(out, escaped && s.p[i] == 'n' ? PM_STR("\n") : (pm_str){s.p + i, 1});
    }
}

static void turn(chat *c, const char *role, pm_str content) {
    puts_to(&c->out, "<|im_start|>");
    puts_to(&c->out, role);
    puts_to(&c->out, "\n");
    put(&c->out, content);
    puts_to(&c->out, "<|im_end|>\n");
}

// The system message that comes first: the conversation's own or else the template's. False: there is neither.
static bool put_system(chat *c) {
    bool own = is_system(&c->messages[0]);
    if (own)
        put(&c->out, pm_text(c->messages[0].content));
    else
        put_unquoted(&c->out, c->dialect.system);
    return own || c->dialect.system.p != NULL;
}

// The head: the tools with the first system message, or that message as a turn of its own.
static void head(chat *c) {
    if (c->options->n_tools == 0) {
        if (!is_system(&c->messages[0]) && c->dialect.system.p == NULL)
            return;
        puts_to(&c->out, "<|im_start|>system\n");
        put_system(c);
        puts_to(&c->out, "<|im_end|>\n");
        return;
    }
    puts_to(&c->out, "<|im_start|>system\n");
    puts_to(&c->out, put_system(c) ? "\n\n" : "");
    puts_to(&c->out, "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
                     "You are provided with function signatures within <tools></tools> XML tags:\n<tools>");
    for (int i = 0; i < c->options->n_tools; i++) {
        puts_to(&c->out, "\n");
        puts_to(&c->out, c->options->tools[i]);
    }
    puts_to(&c->out, "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
                     "<tool_call></tool_call> XML tags:\n<tool_call>\n"
                     "{\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call><|im_end|>\n");
}

// Thinking may be given apart, or stand in the content: then the content is what follows the last </think>, and the thinking what
// precedes the first, from its last <think> on.
static void split_thinking(const pm_chat_message *m, pm_str *content, pm_str *thinking) {
    pm_str all = pm_text(m->content), before, behind;
    *content = all;
    *thinking = pm_text(m->reasoning_content);
    if (m->reasoning_content != NULL || !pm_text_cut(all, "</think>", true, &before, &behind))
        return;
    *content = strip_left(behind);
    pm_text_cut(all, "</think>", false, &before, &behind);
    *thinking = strip_right(before);
    if (pm_text_cut(*thinking, "<think>", true, &before, &behind))
        *thinking = behind;
    *thinking = strip_left(*thinking);
}

static void tool_calls(chat *c, const pm_chat_message *m, bool after_content) {
    for (int i = 0; i < m->n_tool_calls; i++) {
        puts_to(&c->out, i > 0 || after_content ? "\n" : "");
        puts_to(&c->out, "<tool_call>\n{\"name\": \"");
        puts_to(&c->out, m->tool_calls[i].name);
        puts_to(&c->out, "\", \"arguments\": ");
        puts_to(&c->out, m->tool_calls[i].arguments);
        puts_to(&c->out, "}\n</tool_call>");
    }
}

static void assistant_turn(chat *c, int i) {
    const pm_chat_message *m = &c->messages[i];
    pm_str content = pm_text(m->content), thinking = PM_STR("");
    if (c->dialect.history)
        split_thinking(m, &content, &thinking);
    puts_to(&c->out, "<|im_start|>assistant\n");
    bool block = thinking.n > 0 || (c->dialect.last_block && i == c->n - 1);
    bool show = c->dialect.history && i > c->last_query && block;
    if (show) {
        puts_to(&c->out, "<think>\n");
        put(&c->out, strip_left(strip_right(thinking)));
        puts_to(&c->out, "\n</think>\n\n");
    }
    put(&c->out, show ? strip_left(content) : content);
    tool_calls(c, m, content.n > 0);
    puts_to(&c->out, "<|im_end|>\n");
}

// Tool messages that follow each other share one user turn.
static void tool_turn(chat *c, int i) {
    bool first = i == 0 || !is_role(&c->messages[i - 1], "tool");
    bool last = i == c->n - 1 || !is_role(&c->messages[i + 1], "tool");
    puts_to(&c->out, first ? "<|im_start|>user" : "");
    puts_to(&c->out, "\n<tool_response>\n");
    puts_to(&c->out, c->messages[i].content);
    puts_to(&c->out, "\n</tool_response>");
    puts_to(&c->out, last ? "<|im_end|>\n" : "");
}

static void generation_prompt(chat *c) {
    bool off = c->options->enable_thinking == 0;
    puts_to(&c->out, "<|im_start|>assistant\n");
    if (c->dialect.prompt == PM_PROMPT_OPEN_THINK)
        puts_to(&c->out, "<think>\n");
    if (c->dialect.prompt == PM_PROMPT_NO_THINK || (c->dialect.prompt == PM_PROMPT_SWITCH && off))
        puts_to(&c->out, "<think>\n\n</think>\n\n");
}

// Qwen3's family and Qwen2.5, which differ in what stands in the dialect.
static void render_qwen(chat *c) {
    c->last_query = find_last_query(c);
    head(c);
    for (int i = 0; i < c->n; i++) {
        const pm_chat_message *m = &c->messages[i];
        if (is_role(m, "user"))
            turn(c, "user", pm_text(m->content));
        else if (is_system(m) && i > 0)
            turn(c, "system", pm_text(m->content));
        else if (is_role(m, "assistant"))
            assistant_turn(c, i);
        else if (is_role(m, "tool"))
            tool_turn(c, i);
    }
    if (c->options->add_generation_prompt)
        generation_prompt(c);
}

static const char *plain_role(const pm_chat_message *m) {
    return is_system(m) ? "system" : m->role;
}

static void render_chatml(chat *c) {
    head(c);
    for (int i = is_system(&c->messages[0]); i < c->n; i++)
        turn(c, plain_role(&c->messages[i]), pm_text(c->messages[i].content));
    if (c->options->add_generation_prompt)
        generation_prompt(c);
}

static void header(chat *c, const char *role) {
    puts_to(&c->out, "<|start_header_id|>");
    puts_to(&c->out, role);
    puts_to(&c->out, "<|end_header_id|>\n\n");
}

static void headed_turn(chat *c, const char *role, pm_str content) {
    header(c, role);
    put(&c->out, c->dialect.trim ? trim(content) : content);
    puts_to(&c->out, "<|eot_id|>");
}

// The system message, or the template's own, below the dates.
static void dated_turn(chat *c) {
    pm_str system = is_system(&c->messages[0]) ? pm_text(c->messages[0].content) : c->dialect.system;
    header(c, "system");
    puts_to(&c->out, "Cutting Knowledge Date: ");
    put(&c->out, c->dialect.cutoff);
    puts_to(&c->out, "\nToday Date: ");
    put(&c->out, c->dialect.date);
    puts_to(&c->out, "\n\n");
    put(&c->out, c->dialect.trim ? trim(system) : system);
    puts_to(&c->out, "<|eot_id|>");
}

static void render_llama3(chat *c) {
    puts_to(&c->out, c->dialect.bos ? "<|begin_of_text|>" : "");
    if (c->dialect.dated)
        dated_turn(c);
    for (int i = c->dialect.dated && is_system(&c->messages[0]); i < c->n; i++)
        headed_turn(c, plain_role(&c->messages[i]), pm_text(c->messages[i].content));
    if (c->options->add_generation_prompt || c->dialect.always_prompt)
        header(c, "assistant");
}

// ---- render -----------------------------------------------------------------------------------------------------------

static pm_status check(const chat *c) {
    if (c->dialect.style.format == PM_CHAT_NONE)
        return pm_fail(PM_ERR_UNSUPPORTED, "the model has no chat template that Pumice knows; give the text as it is with --raw");
    if (c->n < 1)
        return pm_fail(PM_ERR_USAGE, "a conversation needs a message");
    bool tools = c->options->n_tools > 0;
    for (int i = 0; i < c->n; i++) {
        const pm_chat_message *m = &c->messages[i];
        if (!is_system(m) && !is_role(m, "user") && !is_role(m, "assistant") && !is_role(m, "tool"))
            return pm_fail(PM_ERR_USAGE, "message %d has the role '%s'; known are system, user, assistant and tool", i,
                           m->role == NULL ? "" : m->role);
        tools = tools || m->n_tool_calls > 0 || is_role(m, "tool");
    }
    if (tools && !c->dialect.style.tools)
        return pm_fail(PM_ERR_UNSUPPORTED, c->dialect.style.guessed
                                               ? "the model's chat template is not one Pumice knows: it is rendered without tools"
                                               : "the model's chat template has no place for tools");
    return PM_OK;
}

pm_status pm_chat_render(pm_str template_text, const pm_chat_message *messages, int n, const pm_chat_options *options, char **text,
                         pm_chat_format *format) {
    chat c = {pm_chat_dialect_of(template_text), messages, n, options, 0, {0}};
    *text = NULL;
    if (format != NULL)
        *format = c.dialect.style.format;
    PM_TRY(check(&c));
    if (c.dialect.style.format == PM_CHAT_LLAMA3)
        render_llama3(&c);
    else if (c.dialect.style.format == PM_CHAT_CHATML)
        render_chatml(&c);
    else
        render_qwen(&c);
    return finish(&c.out, text);
}

bool pm_chat_is_thinking(pm_str prompt) {
    return pm_text_ends(trim(prompt), "<think>");
}
