// Building and printing JSON.
#include "app/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

app_json app_json_begin(void) {
    cJSON_Hooks hooks = {.malloc_fn = pm_malloc, .free_fn = pm_free};
    cJSON_InitHooks(&hooks);
    return (app_json){.root = cJSON_CreateObject()};
}

cJSON *app_json_put(app_json *j, cJSON *parent, const char *name, cJSON *item) {
    bool added = parent && item && (name ? cJSON_AddItemToObject(parent, name, item) : cJSON_AddItemToArray(parent, item));
    if (added)
        return item;
    cJSON_Delete(item);
    j->failed = true;
    return NULL;
}

cJSON *app_json_array(app_json *j, cJSON *parent, const char *name) {
    return app_json_put(j, parent, name, cJSON_CreateArray());
}

cJSON *app_json_object(app_json *j, cJSON *parent, const char *name) {
    return app_json_put(j, parent, name, cJSON_CreateObject());
}

void app_json_str(app_json *j, cJSON *parent, const char *name, pm_str text) {
    char *clean = app_utf8(text);
    app_json_put(j, parent, name, clean ? cJSON_CreateString(clean) : NULL);
    pm_free(clean);
}

void app_json_text(app_json *j, cJSON *parent, const char *name, const char *text) {
    if (text)
        app_json_str(j, parent, name, (pm_str){text, strlen(text)});
    else
        app_json_put(j, parent, name, cJSON_CreateNull());
}

void app_json_number(app_json *j, cJSON *parent, const char *name, uint64_t number) {
    app_json_real(j, parent, name, (double)number);
}

void app_json_real(app_json *j, cJSON *parent, const char *name, double number) {
    app_json_put(j, parent, name, cJSON_CreateNumber(number));
}

void app_json_float(app_json *j, cJSON *parent, const char *name, float number) {
    char digits[32];
    snprintf(digits, sizeof(digits), "%.7g", (double)number);
    app_json_real(j, parent, name, strtod(digits, NULL));
}

void app_json_bool(app_json *j, cJSON *parent, const char *name, bool value) {
    app_json_put(j, parent, name, cJSON_CreateBool(value));
}

pm_status app_json_print(app_json *j) {
    char *text = j->failed ? NULL : cJSON_Print(j->root);
    cJSON_Delete(j->root);
    j->root = NULL;
    if (!text)
        return pm_fail(PM_ERR_MEMORY, "no memory for the JSON text");
    puts(text);
    pm_free(text);
    return PM_OK;
}
