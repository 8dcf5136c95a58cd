#include "app/talk.h"

#include <string.h>

#include "app/json.h"

static pm_status no_memory(void) {
    return pm_fail(PM_ERR_MEMORY, "no memory for a message");
}

// ---- messages -----------------------------------------------------------------------------------------------------------

// NULL stays NULL.
static bool copy_text(pm_arena *arena, const char *text, const char **to) {
    *to = NULL;
    if (!text)
        return true;
    size_t n = strlen(text) + 1;
    char *p = pm_arena_alloc(arena, n);
    if (p)
        memcpy(p, text, n);
    *to = p;
    return p != NULL;
}

static bool copy_calls(pm_arena *arena, const pm_chat_message *from, pm_chat_message *to) {
    pm_chat_tool_call *calls = pm_arena_alloc(arena, ((size_t)from->n_tool_calls + 1) * sizeof(*calls));
    bool copied = calls != NULL;
    for (int i = 0; copied && i < from->n_tool_calls; i++)
        copied = copy_text(arena, from->tool_calls[i].name, &calls[i].name) &&
                 copy_text(arena, from->tool_calls[i].arguments, &calls[i].arguments);
    to->tool_calls = calls;
    to->n_tool_calls = from->n_tool_calls;
    return copied;
}

static pm_status copy_message(const pm_chat_message *from, pm_arena *arena, pm_chat_message *to) {
    bool copied = copy_text(arena, from->role, &to->role) && copy_text(arena, from->content, &to->content) &&
                  copy_text(arena, from->reasoning_content, &to->reasoning_content) && copy_calls(arena, from, to);
    if (copied)
        return PM_OK;
    pm_arena_close(arena);
    return no_memory();
}

static pm_status make_room(app_talk *t) {
    if (t->n < t->room)
        return PM_OK;
    size_t room = (size_t)t->room * 2 + 16;
    pm_chat_message *messages = pm_realloc(t->messages, room * sizeof(*messages));
    if (messages)
        t->messages = messages;
    pm_arena *arenas = messages ? pm_realloc(t->arenas, room * sizeof(*arenas)) : NULL;
    if (!arenas)
        return no_memory();
    t->arenas = arenas;
    t->room = (int)room;
    return PM_OK;
}

pm_status app_talk_add(app_talk *t, const pm_chat_message *message) {
    PM_TRY(make_room(t));
    t->arenas[t->n] = (pm_arena){0};
    PM_TRY(copy_message(message, &t->arenas[t->n], &t->messages[t->n]));
    t->n++;
    return PM_OK;
}

void app_talk_cut(app_talk *t, int n) {
    while (t->n > n)
        pm_arena_close(&t->arenas[--t->n]);
}

static void remove_first(app_talk *t) {
    pm_arena_close(&t->arenas[0]);
    t->n--;
    memmove(t->messages, t->messages + 1, (size_t)t->n * sizeof(*t->messages));
    memmove(t->arenas, t->arenas + 1, (size_t)t->n * sizeof(*t->arenas));
}

// Added at the end, then brought to the front.
static pm_status put_first(app_talk *t, const pm_chat_message *message) {
    PM_TRY(app_talk_add(t, message));
    pm_chat_message added = t->messages[t->n - 1];
    pm_arena arena = t->arenas[t->n - 1];
    memmove(t->messages + 1, t->messages, ((size_t)t->n - 1) * sizeof(*t->messages));
    memmove(t->arenas + 1, t->arenas, ((size_t)t->n - 1) * sizeof(*t->arenas));
    t->messages[0] = added;
    t->arenas[0] = arena;
    return PM_OK;
}

pm_status app_talk_set_system(app_talk *t, const char *text) {
    bool had = t->n > 0 && (!strcmp(t->messages[0].role, "system") || !strcmp(t->messages[0].role, "developer"));
    if (had)
        remove_first(t);
    return *text ? put_first(t, &(pm_chat_message){.role = "system", .content = text}) : PM_OK;
}

int app_talk_last(const app_talk *t, const char *role) {
    int i = t->n - 1;
    while (i >= 0 && strcmp(t->messages[i].role, role))
        i--;
    return i;
}

void app_talk_close(app_talk *t) {
    app_talk_cut(t, 0);
    pm_free(t->messages);
    pm_free(t->arenas);
    *t = (app_talk){.n = 0};
}

// ---- files --------------------------------------------------------------------------------------------------------------

static void put_calls(app_json *j, cJSON *to, const pm_chat_message *m) {
    if (m->n_tool_calls == 0)
        return;
    cJSON *calls = app_json_array(j, to, "tool_calls");
    for (int i = 0; i < m->n_tool_calls; i++) {
        cJSON *call = app_json_object(j, calls, NULL);
        app_json_text(j, call, "type", "function");
        cJSON *function = app_json_object(j, call, "function");
        app_json_text(j, function, "name", m->tool_calls[i].name);
        app_json_text(j, function, "arguments", m->tool_calls[i].arguments ? m->tool_calls[i].arguments : "{}");
    }
}

static void put_message(app_json *j, cJSON *list, const pm_chat_message *m) {
    cJSON *to = app_json_object(j, list, NULL);
    app_json_text(j, to, "role", m->role);
    app_json_text(j, to, "content", m->content ? m->content : "");
    if (m->reasoning_content)
        app_json_text(j, to, "reasoning_content", m->reasoning_content);
    put_calls(j, to, m);
}

static void put_options(app_json *j, const pm_chat_options *options) {
    if (options->n_tools > 0) {
        cJSON *tools = app_json_array(j, j->root, "tools");
        for (int i = 0; i < options->n_tools; i++)
            app_json_put(j, tools, NULL, cJSON_CreateRaw(options->tools[i]));
    }
    if (options->enable_thinking >= 0)
        app_json_bool(j, j->root, "enable_thinking", options->enable_thinking > 0);
}

// With a newline behind it; NULL without memory.
static char *print_line(app_json *j) {
    char *text = j->failed ? NULL : cJSON_PrintUnformatted(j->root);
    size_t n = text ? strlen(text) : 0;
    char *line = text ? pm_realloc(text, n + 2) : NULL;
    if (text && !line)
        pm_free(text);
    if (line)
        memcpy(line + n, "\n", 2);
    return line;
}

pm_status app_talk_save(const app_talk *t, const pm_chat_options *options, const char *path) {
    app_json j = app_json_begin();
    cJSON *list = app_json_array(&j, j.root, "messages");
    for (int i = 0; i < t->n; i++)
        put_message(&j, list, &t->messages[i]);
    put_options(&j, options);
    char *line = print_line(&j);
    cJSON_Delete(j.root);
    if (!line)
        return no_memory();
    pm_status status = pm_file_write_atomic(path, line, strlen(line));
    pm_free(line);
    return status;
}

pm_status app_talk_load(app_talk *t, const app_conversation *from) {
    app_talk loaded = {.n = 0};
    pm_status status = PM_OK;
    for (int i = 0; status == PM_OK && i < from->n; i++)
        status = app_talk_add(&loaded, &from->messages[i]);
    if (status != PM_OK) {
        app_talk_close(&loaded);
        return status;
    }
    app_talk_close(t);
    *t = loaded;
    return PM_OK;
}
