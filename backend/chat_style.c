// Recognises a chat template by what its Jinja text does, never by a model's name.
#include "backend/chat.h"

#include <string.h>

// ---- text -------------------------------------------------------------------------------------------------------------

pm_str pm_text(const char *text) {
    return text == NULL ? (pm_str){"", 0} : (pm_str){text, strlen(text)};
}

bool pm_text_starts(pm_str s, const char *with) {
    return s.n >= strlen(with) && memcmp(s.p, with, strlen(with)) == 0;
}

bool pm_text_ends(pm_str s, const char *with) {
    return s.n >= strlen(with) && memcmp(s.p + s.n - strlen(with), with, strlen(with)) == 0;
}

bool pm_text_cut(pm_str s, const char *mark, bool last, pm_str *before, pm_str *behind) {
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

bool pm_text_has(pm_str s, const char *mark) {
    pm_str before, behind;
    return pm_text_cut(s, mark, false, &before, &behind);
}

static bool has_any(pm_str s, const char *const *marks) {
    for (; *marks; marks++)
        if (pm_text_has(s, *marks))
            return true;
    return false;
}

// ---- what the template does -------------------------------------------------------------------------------------------

static pm_prompt_kind recognise_prompt(pm_str text) {
    pm_str before, end = {text.p, 0};
    pm_text_cut(text, "add_generation_prompt", true, &before, &end);
    if (!pm_text_has(end, "<think>"))
        return PM_PROMPT_PLAIN;
    if (!pm_text_has(end, "</think>"))
        return PM_PROMPT_OPEN_THINK;
    return pm_text_has(end, "enable_thinking") ? PM_PROMPT_SWITCH : PM_PROMPT_NO_THINK;
}

// The default system message is a turn in one pair of quotes: '<|im_start|>system\nYou are ...<|im_end|>\n'. p NULL: there is none.
static pm_str find_default_system(pm_str text) {
    pm_str before, message, behind;
    while (pm_text_cut(text, "<|im_start|>system", false, &before, &text)) {
        pm_str rest = text;
        size_t newline = pm_text_starts(rest, "\\n") ? 2 : pm_text_starts(rest, "\n") ? 1 : 0;
        rest = (pm_str){rest.p + newline, rest.n - newline};
        bool whole = newline > 0 && pm_text_cut(rest, "<|im_end|>", false, &message, &behind);
        if (whole && !memchr(message.p, '\'', message.n) && !memchr(message.p, '"', message.n))
            return message;
    }
    return (pm_str){NULL, 0};
}

static void recognise_chatml(pm_str text, pm_chat_dialect *d) {
    static const char *const strange[] = {"tool", "think", "bos_token", "strftime", "trim", "raise_exception", NULL};
    bool tools = pm_text_has(text, "# Tools") && pm_text_has(text, "<args-json-object>") && pm_text_has(text, "<tool_response>") &&
                 !pm_text_has(text, "<function="); // Qwen3-Coder's way to write calls
    d->system = find_default_system(text);
    d->prompt = recognise_prompt(text);
    d->history = tools && pm_text_has(text, "last_query_index") && pm_text_has(text, "reasoning_content");
    d->last_block = pm_text_has(text, "loop.last or (not loop.last");
    d->style.tools = tools;
    if (!tools) {
        d->style.format = PM_CHAT_CHATML;
        d->style.guessed = has_any(text, strange);
    } else if (d->system.p != NULL) {
        d->style.format = PM_CHAT_QWEN2;
        d->style.guessed = pm_text_has(text, "think>");
    } else {
        d->style.format = PM_CHAT_QWEN3;
    }
}

// A newline as such or as Jinja's escape, off the end.
static bool drop_newline(pm_str *s) {
    size_t n = pm_text_ends(*s, "\\n") ? 2 : pm_text_ends(*s, "\n") ? 1 : 0;
    s->n -= n;
    return n > 0;
}

// What follows, to the end of Jinja's quotes.
static bool find_quoted(pm_str text, const char *begin, pm_str *found) {
    pm_str before, rest, behind;
    return pm_text_cut(text, begin, false, &before, &rest) && pm_text_cut(rest, "\"", false, found, &behind);
}

static bool is_plain(pm_str s) {
    return !memchr(s.p, '\\', s.n) && !memchr(s.p, '\n', s.n);
}

// From 3.1 on: always a system turn, which begins with two lines of dates. A date that the template would ask a clock for is the
// one that it has for where there is none: a prompt is the same tomorrow. Their tools, in a format of their own, are not rendered.
static bool find_dates(pm_str text, pm_chat_dialect *d) {
    return find_quoted(text, "\"Cutting Knowledge Date: ", &d->cutoff) && drop_newline(&d->cutoff) && is_plain(d->cutoff) &&
           pm_text_has(text, "\"Today Date: \" + date_string + \"") && find_quoted(text, "set date_string = \"", &d->date) &&
           is_plain(d->date) && find_quoted(text, "set system_message = \"", &d->system) && is_plain(d->system) &&
           pm_text_has(text, "set messages = messages[1:]");
}

static void recognise_headers(pm_str text, pm_chat_dialect *d) {
    static const char *const strange[] = {"tool", "date", "strftime", NULL};
    d->dated = find_dates(text, d);
    d->style.format = PM_CHAT_LLAMA3;
    d->style.guessed = (!d->dated && has_any(text, strange)) || pm_text_has(text, "think") || !pm_text_has(text, "<|eot_id|>");
    d->bos = pm_text_has(text, "bos_token");
    d->trim = pm_text_has(text, "trim");
    d->always_prompt = !pm_text_has(text, "add_generation_prompt");
}

pm_chat_dialect pm_chat_dialect_of(pm_str text) {
    static const pm_chat_thinking thinking[] = {
        [PM_PROMPT_PLAIN] = PM_CHAT_NEVER_THINKS,
        [PM_PROMPT_SWITCH] = PM_CHAT_MAY_THINK,
        [PM_PROMPT_NO_THINK] = PM_CHAT_NEVER_THINKS,
        [PM_PROMPT_OPEN_THINK] = PM_CHAT_ALWAYS_THINKS,
    };
    pm_chat_dialect d = {.style.format = PM_CHAT_NONE};
    if (pm_text_has(text, "<|start_header_id|>"))
        recognise_headers(text, &d);
    else if (pm_text_has(text, "<|im_start|>"))
        recognise_chatml(text, &d);
    d.style.thinking = thinking[d.prompt];
    return d;
}

pm_chat_style pm_chat_recognise(pm_str template_text) {
    return pm_chat_dialect_of(template_text).style;
}
