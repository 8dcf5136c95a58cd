// What commands build with --json.
#ifndef PM_APP_JSON_H
#define PM_APP_JSON_H

#include "app/app.h"

#include <cjson/cJSON.h>

// An object in the making. Failure of any addition sticks, so that the building reads straight; parents may be NULL after one.
typedef struct app_json {
    cJSON *root;
    bool failed;
} app_json;

app_json app_json_begin(void);
// Adds under a name to an object, or with name NULL to an array; takes the item, and returns it, or NULL when it could not.
cJSON *app_json_put(app_json *json, cJSON *parent, const char *name, cJSON *item);
cJSON *app_json_array(app_json *json, cJSON *parent, const char *name);
cJSON *app_json_object(app_json *json, cJSON *parent, const char *name);
// Invalid UTF-8 becomes U+FFFD. text NULL: null.
void app_json_text(app_json *json, cJSON *parent, const char *name, const char *text);
void app_json_str(app_json *json, cJSON *parent, const char *name, pm_str text);
void app_json_number(app_json *json, cJSON *parent, const char *name, uint64_t number);
void app_json_real(app_json *json, cJSON *parent, const char *name, double number);
void app_json_float(app_json *json, cJSON *parent, const char *name, float number); // in a float's digits: 0.6
void app_json_bool(app_json *json, cJSON *parent, const char *name, bool value);
// Prints to stdout and frees.
pm_status app_json_print(app_json *json);

#endif
