// A tool call as models write it. cJSON reads it; where a value stands in the text is found by letting cJSON step over what is
// before it, for the arguments are kept as they were written: the same text again gives the same tokens again.
#include "loader/internal.h"

#include <cjson/cJSON.h>
#include <string.h>

static pm_status malformed(const char *why) {
    return pm_fail(PM_ERR_FILE, "tool call: %s", why);
}

static char *copy(pm_arena *arena, const char *text, size_t n) {
    char *p = pm_arena_alloc(arena, n + 1);
    if (p && n)
        memcpy(p, text, n);
    return p;
}

static pm_status copy_to(pm_arena *arena, pm_str text, const char **to) {
    *to = copy(arena, text.p, text.n);
    return *to ? PM_OK : pm_fail(PM_ERR_MEMORY, "tool call: no memory");
}

// Steps over blanks, the characters of `marks` in their order, and blanks again. cJSON's blanks are all up to 32.
static void skip(pm_str *rest, const char *marks) {
    while (rest->n > 0 && ((unsigned char)*rest->p <= 32 || (*marks && *rest->p == *marks))) {
        marks += *marks && *rest->p == *marks;
        rest->p++;
        rest->n--;
    }
}

// Steps over one value, which is valid JSON. key (may be NULL): is it this string?
static bool step(pm_str *rest, const char *key, pm_str *value) {
    const char *end = NULL;
    cJSON *item = cJSON_ParseWithLengthOpts(rest->p, rest->n, &end, false);
    if (!item)
        return false;
    *value = (pm_str){rest->p, (size_t)(end - rest->p)};
    *rest = (pm_str){end, rest->n - value->n};
    bool is_key = key && cJSON_IsString(item) && !strcmp(item->valuestring, key);
    cJSON_Delete(item);
    return !key || is_key;
}

// *value = the text of an object's member.
static bool find_member(pm_str object, const char *key, pm_str *value) {
    pm_str name;
    skip(&object, "{");
    while (object.n > 0 && *object.p == '"') {
        bool found = step(&object, key, &name);
        skip(&object, ":");
        if (!step(&object, NULL, value))
            return false;
        if (found)
            return true;
        skip(&object, ",");
    }
    return false;
}

static pm_status take_arguments(const cJSON *item, pm_str text, pm_arena *arena, const char **arguments) {
    pm_str value;
    cJSON *inner = NULL;
    if (cJSON_IsObject(item))
        return find_member(text, "arguments", &value) ? copy_to(arena, value, arguments) : malformed("no arguments");
    if (!cJSON_IsString(item))
        return malformed("the arguments are no object");
    // Some write them as a string of JSON.
    PM_TRY(pm_json_parse("tool call", item->valuestring, strlen(item->valuestring), &inner));
    bool object = cJSON_IsObject(inner);
    cJSON_Delete(inner);
    return object ? copy_to(arena, (pm_str){item->valuestring, strlen(item->valuestring)}, arguments)
                  : malformed("the arguments are no object");
}

static pm_status take_call(const cJSON *root, pm_str text, pm_arena *arena, const char **name, const char **arguments) {
    const cJSON *called = pm_json_get(root, "name");
    if (!cJSON_IsString(called) || !*called->valuestring)
        return malformed("no name");
    PM_TRY(take_arguments(pm_json_get(root, "arguments"), text, arena, arguments));
    return copy_to(arena, (pm_str){called->valuestring, strlen(called->valuestring)}, name);
}

pm_status pm_call_parse(pm_str text, pm_arena *arena, const char **name, const char **arguments) {
    cJSON *root;
    if (text.n > 0 && memchr(text.p, 0, text.n))
        return malformed("a zero byte");
    PM_TRY(pm_json_parse("tool call", text.p, text.n, &root));
    pm_status status = take_call(root, text, arena, name, arguments);
    cJSON_Delete(root);
    return status;
}
