// JSON as we need it: parsed by cJSON into memory of ours, members read with their type and range checked.
#include "loader/internal.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// cJSON gives NULL for bad text and for no memory alike.
static _Thread_local bool out_of_memory;

static void *json_malloc(size_t size) {
    void *p = pm_malloc(size);
    if (!p)
        out_of_memory = true;
    return p;
}

static bool only_blanks(const char *p, const char *end) {
    while (p < end && (*p == ' ' || *p == '\t' || *p == '\n' || *p == '\r'))
        p++;
    return p == end;
}

pm_status pm_json_parse(const char *path, const char *text, size_t n, cJSON **root) {
    cJSON_Hooks hooks = {json_malloc, pm_free};
    cJSON_InitHooks(&hooks); // global, and the same each time
    out_of_memory = false;
    *root = NULL;
    const char *end = text;
    cJSON *parsed = n ? cJSON_ParseWithLengthOpts(text, n, &end, false) : NULL;
    if (!parsed && out_of_memory)
        return pm_no_memory(path);
    if (parsed && only_blanks(end, text + n)) {
        *root = parsed;
        return PM_OK;
    }
    cJSON_Delete(parsed);
    return pm_fail(PM_ERR_FILE, "%s: not valid JSON, at byte %zu of %zu", path, (size_t)(end - text), n);
}

pm_status pm_json_open(const char *path, cJSON **root) {
    enum { LIMIT = 64 << 20 }; // the largest vocabularies in use take 35 MB
    *root = NULL;
    pm_map map;
    PM_TRY(pm_map_open(path, &map));
    pm_status status = map.size > LIMIT ? pm_fail(PM_ERR_FILE, "%s: %llu bytes of JSON", path, (unsigned long long)map.size)
                                        : pm_json_parse(path, (const char *)map.data, (size_t)map.size, root);
    pm_map_close(&map);
    return status;
}

const cJSON *pm_json_get(const cJSON *object, const char *key) {
    if (!cJSON_IsObject(object))
        return NULL;
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, key);
    return cJSON_IsNull(item) ? NULL : item;
}

bool pm_json_is_integer(const cJSON *item, double min, double max) {
    if (!cJSON_IsNumber(item))
        return false;
    double value = item->valuedouble;
    return value >= min && value <= max && value == floor(value); // false for NaN
}

static pm_status fail_type(const char *path, const char *key, const char *wanted) {
    return pm_fail(PM_ERR_FILE, "%s: %s is not %s", path, key, wanted);
}

pm_status pm_json_double(const char *path, const cJSON *object, const char *key, double min, double max, double *out) {
    const cJSON *item = pm_json_get(object, key);
    if (!item)
        return PM_OK;
    if (!cJSON_IsNumber(item))
        return fail_type(path, key, "a number");
    if (!(item->valuedouble >= min && item->valuedouble <= max))
        return pm_fail(PM_ERR_FILE, "%s: %s is %g, outside [%g, %g]", path, key, item->valuedouble, min, max);
    *out = item->valuedouble;
    return PM_OK;
}

pm_status pm_json_float(const char *path, const cJSON *object, const char *key, double min, double max, float *out) {
    double value = *out;
    PM_TRY(pm_json_double(path, object, key, min, max, &value));
    *out = (float)value;
    return PM_OK;
}

static pm_status get_integer(const char *path, const cJSON *object, const char *key, double min, double max, double *out) {
    const cJSON *item = pm_json_get(object, key);
    if (!item)
        return PM_OK;
    if (!cJSON_IsNumber(item))
        return fail_type(path, key, "a number");
    if (!pm_json_is_integer(item, min, max))
        return pm_fail(PM_ERR_FILE, "%s: %s is %g, not an integer in [%.0f, %.0f]", path, key, item->valuedouble, min, max);
    *out = item->valuedouble;
    return PM_OK;
}

pm_status pm_json_u32(const char *path, const cJSON *object, const char *key, uint32_t max, uint32_t *out) {
    double value = *out;
    PM_TRY(get_integer(path, object, key, 0, max, &value));
    *out = (uint32_t)value;
    return PM_OK;
}

pm_status pm_json_i32(const char *path, const cJSON *object, const char *key, int32_t min, int32_t max, int32_t *out) {
    double value = *out;
    PM_TRY(get_integer(path, object, key, min, max, &value));
    *out = (int32_t)value;
    return PM_OK;
}

pm_status pm_json_bool(const char *path, const cJSON *object, const char *key, bool *out) {
    const cJSON *item = pm_json_get(object, key);
    if (!item)
        return PM_OK;
    if (!cJSON_IsBool(item))
        return fail_type(path, key, "true or false");
    *out = cJSON_IsTrue(item);
    return PM_OK;
}

pm_status pm_json_string(const char *path, const cJSON *object, const char *key, const char **out) {
    const cJSON *item = pm_json_get(object, key);
    if (!item)
        return PM_OK;
    if (!cJSON_IsString(item))
        return fail_type(path, key, "a string");
    *out = item->valuestring;
    return PM_OK;
}
