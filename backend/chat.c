// Chat templates without Jinja: conversations as the templates of Qwen3 and its kin render them, or as plain ChatML.
#include "backend/text.h"
#include "host/base.h"

#include <string.h>

// ---- strings ----------------------------------------------------------------------------------------------------------

static pm_str str(const char *text) {
    return text == NULL ? PM_STR("") : (pm_str){text, strlen(text)};
}

static bool starts_with(pm_str s, const char *with) {
    return s.n >= strlen(with) && memcmp(s.p, with, strlen(with)) == 0;
}

static bool ends_with(pm_str s, const char *with) {
    return s.n >= strlen(with) && memcmp(s.p + s.n - strlen(with), with, strlen(with)) == 0;
}

// Cuts s at the first or the last `mark`: what stands before and behind it. False, and nothing changes, when there is none.
static bool cut(pm_str s, const char *mark, bool last, pm_str *before, pm_str *behind) {
    size_t n = strlen(mark);
    for (size_t k = 0; k + n <= s.n; k++) {
        size_t i = last ? s.n - n - k : k;
        if (memcmp(s.p + i, mark, n) != 0)
            continue;
        *before = (pm_str){s.p, i};
        *behind = (pm_str){s.p + i + n, s.n - i - n};
        return true;
    }
    return false;
}

static bool contains(pm_str s, const char *mark) {
    pm_str before, behind;
    return cut(s, mark, false, &before, &behind);
}

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
    put(out, str(text));
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

// ---- what the template does -------------------------------------------------------------------------------------------

// How the assistant's turn begins in the generation prompt.
typedef enum prompt_kind {
    PROMPT_PLAIN,     // Instruct-2507
    PROMPT_SWITCH,    // the hybrids: an empty thinking block when enable_thinking is false
    PROMPT_NO_THINK,  // qwen3_nonthinking.jinja: always the empty block
    PROMPT_OPEN_THINK // Thinking-2507: the block is already open
} prompt_kind;

typedef struct dialect {
    pm_chat_format format;
    bool history;       // thinking is kept after the last question and dropped before (last_query_index)
    prompt_kind prompt; // see above
} dialect;

static prompt_kind recognise_prompt(pm_str template_text) {
    pm_str before, end = {template_text.p, 0};
    cut(template_text, "add_generation_prompt", true, &before, &end);
    if (!contains(end, "<think>"))
        return PROMPT_PLAIN;
    if (!contains(end, "</think>"))
        return PROMPT_OPEN_THINK;
    return contains(end, "enable_thinking") ? PROMPT_SWITCH : PROMPT_NO_THINK;
}

// Qwen2.5 has the same tool format, but opens with a default system message, which Qwen3 has not. Qwen3-Coder
// writes calls as <function=name>.
static dialect recognise(pm_str text) {
    dialect d = {PM_CHAT_NONE, false, PROMPT_PLAIN};
    if (!contains(text, "<|im_start|>"))
        return d;
    d.format = PM_CHAT_CHATML;
    bool tools = contains(text, "# Tools") && contains(text, "<args-json-object>") && contains(text, "<tool_response>");
    if (!tools || contains(text, "You are a helpful assistant") || contains(text, "<function="))
        return d;
    d.format = PM_CHAT_QWEN3;
    d.history = contains(text, "last_query_index") && contains(text, "reasoning_content");
    d.prompt = recognise_prompt(text);
    return d;
}

pm_chat_format pm_chat_recognise(pm_str template_text) {
    return recognise(template_text).format;
}

// ---- turns ------------------------------------------------------------------------------------------------------------

typedef struct chat {
    dialect dialect;
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
        pm_str content = str(c->messages[i].content);
        bool tool_answer = starts_with(content, "<tool_response>") && ends_with(content, "</tool_response>");
        if (is_role(&c->messages[i], "user") && !tool_answer)
            return i;
    }
    return c->n - 1;
}

static void turn(chat *c, const char *role, pm_str content) {
    puts_to(&c->out, "<|im_start|>");
    puts_to(&c->out, role);
    puts_to(&c->out, "\n");
    put(&c->out, content);
    puts_to(&c->out, "<|im_end|>\n");
}

// The head: the tools with the first system message, or that message as a turn of its own.
static void head(chat *c) {
    pm_str system = is_system(&c->messages[0]) ? str(c->messages[0].content) : PM_STR("");
    if (c->options->n_tools == 0) {
        if (is_system(&c->messages[0]))
            turn(c, "system", system);
        return;
    }
    puts_to(&c->out, "<|im_start|>system\n");
    put(&c->out, system);
    puts_to(&c->out, is_system(&c->messages[0]) ? "\n\n" : "");
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
    pm_str all = str(m->content), before, behind;
    *content = all;
    *thinking = str(m->reasoning_content);
    if (m->reasoning_content != NULL || !cut(all, "</think>", true, &before, &behind))
        return;
    *content = strip_left(behind);
    cut(all, "</think>", false, &before, &behind);
    *thinking = strip_right(before);
    if (cut(*thinking, "<think>", true, &before, &behind))
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
    pm_str content = str(m->content), thinking = PM_STR("");
    if (c->dialect.history)
        split_thinking(m, &content, &thinking);
    puts_to(&c->out, "<|im_start|>assistant\n");
    bool show = c->dialect.history && i > c->last_query && (i == c->n - 1 || thinking.n > 0);
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
    if (c->dialect.prompt == PROMPT_OPEN_THINK)
        puts_to(&c->out, "<think>\n");
    if (c->dialect.prompt == PROMPT_NO_THINK || (c->dialect.prompt == PROMPT_SWITCH && off))
        puts_to(&c->out, "<think>\n\n</think>\n\n");
}

static void render_qwen3(chat *c) {
    c->last_query = find_last_query(c);
    head(c);
    for (int i = 0; i < c->n; i++) {
        const pm_chat_message *m = &c->messages[i];
        if (is_role(m, "user"))
            turn(c, "user", str(m->content));
        else if (is_system(m) && i > 0)
            turn(c, "system", str(m->content));
        else if (is_role(m, "assistant"))
            assistant_turn(c, i);
        else if (is_role(m, "tool"))
            tool_turn(c, i);
    }
}

static void render_chatml(chat *c) {
    for (int i = 0; i < c->n; i++)
        turn(c, is_system(&c->messages[i]) ? "system" : c->messages[i].role, str(c->messages[i].content));
}

// ---- render -----------------------------------------------------------------------------------------------------------

static pm_status check(const chat *c) {
    if (c->dialect.format == PM_CHAT_NONE)
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
    if (tools && c->dialect.format == PM_CHAT_CHATML)
        return pm_fail(PM_ERR_UNSUPPORTED,
                       "the model's chat template is not one Pumice knows: it is taken as plain ChatML, without tools");
    return PM_OK;
}

pm_status pm_chat_render(pm_str template_text, const pm_chat_message *messages, int n, const pm_chat_options *options, char **text,
                         pm_chat_format *format) {
    chat c = {recognise(template_text), messages, n, options, 0, {0}};
    *text = NULL;
    if (format != NULL)
        *format = c.dialect.format;
    PM_TRY(check(&c));
    if (c.dialect.format == PM_CHAT_QWEN3)
        render_qwen3(&c);
    else
        render_chatml(&c);
    if (options->add_generation_prompt)
        generation_prompt(&c);
    return finish(&c.out, text);
}
