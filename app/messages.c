#include "app/messages.h"

#include <string.h>

#include "app/app.h"

enum { MAX_MESSAGES = 1 << 16 };

static const cJSON *member(const cJSON *object, const char *name) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);
    return cJSON_IsNull(item) ? NULL : item;
}

static pm_status no_memory(void) {
    return pm_fail(PM_ERR_MEMORY, "no memory for a conversation");
}

// *text = the string member, NULL where it is missing.
static pm_status read_text(const cJSON *object, const char *name, const char **text) {
    const cJSON *item = member(object, name);
    *text = NULL;
    if (!item)
        return PM_OK;
    if (!cJSON_IsString(item))
        return pm_fail(PM_ERR_USAGE, "\"%s\" is not a string", name);
    *text = item->valuestring;
    return PM_OK;
}

// The array member's length, 0 where it is missing.
static pm_status read_array(const cJSON *object, const char *name, const cJSON **array, int *n) {
    *array = member(object, name);
    *n = *array ? cJSON_GetArraySize(*array) : 0;
    if (*array && !cJSON_IsArray(*array))
        return pm_fail(PM_ERR_USAGE, "\"%s\" is not an array", name);
    return *n <= MAX_MESSAGES ? PM_OK
                              : pm_fail(PM_ERR_USAGE, "\"%s\" has %d elements: at most %d are possible", name, *n, MAX_MESSAGES);
}

// ---- JSON as Python's json.dumps writes it, which the models were trained on: a blank behind each comma and colon ------------

// Copies `compact` to `to`, where that is not NULL, with the blanks; returns the size.
static size_t add_blanks(const char *compact, char *to) {
    size_t n = 0;
    bool in_string = false;
    for (const char *p = compact; *p; p++) {
        bool escaped = in_string && *p == '\\';
        if (*p == '"')
            in_string = !in_string;
        bool blank = !in_string && (*p == ',' || *p == ':');
        for (int i = escaped ? 2 : 1; i > 0; i--, n++, p += i > 0)
            if (to)
                to[n] = *p;
        if (blank && to)
            to[n] = ' ';
        n += blank;
    }
    return n;
}

// A string as it stands, anything else as JSON.
static pm_status read_json_text(const cJSON *item, pm_arena *arena, const char **text) {
    *text = NULL;
    if (!item)
        return PM_OK;
    if (cJSON_IsString(item)) {
        *text = item->valuestring;
        return PM_OK;
    }
    char *compact = cJSON_PrintUnformatted(item);
    char *spaced = compact ? pm_arena_alloc(arena, add_blanks(compact, NULL) + 1) : NULL;
    if (spaced)
        add_blanks(compact, spaced);
    pm_free(compact);
    *text = spaced;
    return spaced ? PM_OK : no_memory();
}

// ---- messages -----------------------------------------------------------------------------------------------------------

static pm_status read_call(const cJSON *from, pm_arena *arena, pm_chat_tool_call *call) {
    const cJSON *function = member(from, "function");
    if (!function)
        function = from;
    PM_TRY(read_text(function, "name", &call->name));
    if (!call->name)
        return pm_fail(PM_ERR_USAGE, "a tool call has no name");
    return read_json_text(member(function, "arguments"), arena, &call->arguments);
}

static pm_status read_message(const cJSON *from, pm_arena *arena, pm_chat_message *message) {
    if (!cJSON_IsObject(from))
        return pm_fail(PM_ERR_USAGE, "a message is not an object");
    PM_TRY(read_text(from, "role", &message->role));
    if (!message->role)
        return pm_fail(PM_ERR_USAGE, "a message has no role");
    PM_TRY(read_text(from, "content", &message->content));
    PM_TRY(read_text(from, "reasoning_content", &message->reasoning_content));
    const cJSON *array, *item;
    PM_TRY(read_array(from, "tool_calls", &array, &message->n_tool_calls));
    pm_chat_tool_call *calls = pm_arena_alloc(arena, ((size_t)message->n_tool_calls + 1) * sizeof(*calls));
    message->tool_calls = calls;
    if (!calls)
        return no_memory();
    cJSON_ArrayForEach(item, array) PM_TRY(read_call(item, arena, calls++));
    return PM_OK;
}

static pm_status read_messages(const cJSON *json, app_conversation *c) {
    const cJSON *array, *item;
    PM_TRY(read_array(json, "messages", &array, &c->n));
    if (c->n == 0)
        return pm_fail(PM_ERR_USAGE, "there are no \"messages\"");
    pm_chat_message *message = c->messages = pm_arena_alloc(&c->arena, (size_t)c->n * sizeof(*c->messages));
    if (!message)
        return no_memory();
    cJSON_ArrayForEach(item, array) PM_TRY(read_message(item, &c->arena, message++));
    return PM_OK;
}

static pm_status read_tools(const cJSON *json, app_conversation *c) {
    const cJSON *array, *item;
    PM_TRY(read_array(json, "tools", &array, &c->options.n_tools));
    const char **tool = pm_arena_alloc(&c->arena, ((size_t)c->options.n_tools + 1) * sizeof(*tool));
    c->options.tools = tool;
    if (!tool)
        return no_memory();
    cJSON_ArrayForEach(item, array) PM_TRY(read_json_text(item, &c->arena, tool++));
    return PM_OK;
}

pm_status app_conversation_read(const cJSON *json, app_conversation *c) {
    *c = (app_conversation){.n = 0};
    if (!cJSON_IsObject(json))
        return pm_fail(PM_ERR_USAGE, "not an object with \"messages\"");
    const cJSON *thinking = member(json, "enable_thinking");
    c->options.enable_thinking = thinking ? cJSON_IsTrue(thinking) : -1;
    c->options.add_generation_prompt = cJSON_IsTrue(member(json, "add_generation_prompt"));
    PM_TRY(read_messages(json, c));
    return read_tools(json, c);
}

// ---- files --------------------------------------------------------------------------------------------------------------

enum { MAX_FILE = 64 << 20 };

pm_status app_json_read(const char *path, cJSON **json) {
    char *text;
    size_t size;
    *json = NULL;
    cJSON_Hooks hooks = {.malloc_fn = pm_malloc, .free_fn = pm_free};
    cJSON_InitHooks(&hooks);
    PM_TRY(pm_file_read(path, MAX_FILE, &text, &size));
    pm_status status = app_check_utf8(path, text, size);
    const char *end = text;
    if (status == PM_OK)
        *json = cJSON_ParseWithLengthOpts(text, size, &end, false);
    size_t at = (size_t)(end - text);
    if (status == PM_OK && (!*json || at + strspn(end, " \t\r\n") < size)) {
        cJSON_Delete(*json);
        *json = NULL;
        status = pm_fail(PM_ERR_FILE, "%s: not JSON, at byte %zu of %zu", path, at, size);
    }
    pm_free(text);
    return status;
}

static pm_status check_tool(const char *path, const cJSON *tool, int number) {
    const cJSON *function = member(tool, "function");
    if (!cJSON_IsString(member(function ? function : tool, "name")))
        return pm_fail(PM_ERR_FILE, "%s: tool %d has no function with a name", path, number);
    return PM_OK;
}

static pm_status check_tools(const char *path, const cJSON *list) {
    const cJSON *tool;
    int number = 0;
    if (!cJSON_IsArray(list))
        return pm_fail(PM_ERR_FILE, "%s: not a list of tools", path);
    cJSON_ArrayForEach(tool, list) PM_TRY(check_tool(path, tool, ++number));
    return number > 0 ? PM_OK : pm_fail(PM_ERR_FILE, "%s: an empty list of tools", path);
}

pm_status app_tools_read(const char *path, app_conversation *c, cJSON **json) {
    PM_TRY(app_json_read(path, json));
    if (cJSON_IsArray(*json)) {
        cJSON *object = cJSON_CreateObject();
        if (!object || !cJSON_AddItemToObject(object, "tools", *json)) {
            cJSON_Delete(object);
            return no_memory();
        }
        *json = object;
    }
    PM_TRY(check_tools(path, member(*json, "tools")));
    return read_tools(*json, c);
}

void app_conversation_close(app_conversation *c) {
    pm_arena_close(&c->arena);
    *c = (app_conversation){.n = 0};
}
