#include "app/style.h"

#include <string.h>

void app_style_warn(pm_str template_text) {
    static const char *const used[] = {
        [PM_CHAT_NONE] = "nothing",        [PM_CHAT_QWEN3] = "Qwen3's",    [PM_CHAT_QWEN2] = "Qwen2.5's",
        [PM_CHAT_CHATML] = "plain ChatML", [PM_CHAT_LLAMA3] = "Llama 3's",
    };
    static bool warned;
    pm_chat_style style = pm_chat_recognise(template_text);
    if (style.guessed && !warned)
        pm_log(PM_LOG_WARN, "the model's chat template is a stranger: %s is used in its place%s", used[style.format],
               style.tools ? "" : ", without tools");
    warned = warned || style.guessed;
}

// ---- thinking ---------------------------------------------------------------------------------------------------------

// The place of the last `word` in text, NULL if there is none.
static const char *find_last(const char *text, const char *word) {
    const char *found = NULL;
    for (const char *p = strstr(text, word); p; p = strstr(p + 1, word))
        found = p;
    return found;
}

// -1: nothing is said, else as enable_thinking. "/no_think" does not contain "/think".
static int switched(const char *text) {
    const char *on = find_last(text, "/think"), *off = find_last(text, "/no_think");
    return !on && !off ? -1 : on > off;
}

bool app_style_thinks(pm_str template_text, const pm_chat_message *messages, int n, int enable_thinking) {
    pm_chat_style style = pm_chat_recognise(template_text);
    if (style.thinking != PM_CHAT_MAY_THINK)
        return style.thinking == PM_CHAT_ALWAYS_THINKS;
    if (enable_thinking == 0)
        return false;
    for (int i = n - 1; i >= 0; i--) {
        const pm_chat_message *m = &messages[i];
        bool theirs = !strcmp(m->role, "user") || !strcmp(m->role, "system") || !strcmp(m->role, "developer");
        int said = theirs && m->content ? switched(m->content) : -1;
        if (said >= 0)
            return said;
    }
    return true;
}

// ---- sampling ---------------------------------------------------------------------------------------------------------

static bool close_to(float a, double b) {
    return a > b - 1e-4 && a < b + 1e-4;
}

// What the model card of Qwen3 advises: 0.6, 0.95, 20 while thinking, 0.7, 0.8, 20 without. A checkpoint has one set of numbers,
// for thinking if it can think; a file without any would mean a greedy draw, which is advised against.
static pm_config advised(const pm_config *config, pm_chat_style style, int thinks) {
    pm_config c = *config;
    bool none = !c.do_sample && close_to(c.temperature, 1) && close_to(c.top_p, 1);
    bool for_thinking = c.do_sample && close_to(c.temperature, 0.6) && close_to(c.top_p, 0.95);
    if (thinks < 0 || style.format != PM_CHAT_QWEN3 || style.guessed || (!none && !(for_thinking && !thinks)))
        return c;
    c.do_sample = true;
    c.temperature = thinks ? 0.6f : 0.7f;
    c.top_p = thinks ? 0.95f : 0.8f;
    c.top_k = 20;
    return c;
}

pm_sampler app_style_sampler(const app_sampling *given, const pm_model *model, int thinks) {
    static bool warned;
    pm_config config = advised(pm_model_config(model), pm_chat_recognise(pm_model_chat_template(model)), thinks);
    pm_sampler sampler = app_sampling_choose(given, &config);
    if (thinks > 0 && sampler.temperature == 0 && !warned) {
        pm_log(PM_LOG_WARN, "greedy while thinking tends to repeat itself without end: --temp 0.6 is advised");
        warned = true;
    }
    return sampler;
}
