// What the tests of text share: JSON goldens and tokenizers from files. A file that is not as it should be ends the program.
#ifndef TEXT_DATA_H
#define TEXT_DATA_H

#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>

#include "backend/tokenizer.h"

#define MUST(call) must((call), #call)

static inline void must(pm_status status, const char *what) {
    if (status == PM_OK)
        return;
    printf("%s: %s\n", what, pm_error_text());
    exit(1);
}

static inline cJSON *read_json(const char *path) {
    char *data;
    size_t size;
    MUST(pm_file_read(path, 1u << 24, &data, &size));
    cJSON *root = cJSON_ParseWithLength(data, size);
    pm_free(data);
    if (root == NULL) {
        printf("%s is not JSON\n", path);
        exit(1);
    }
    return root;
}

// NULL when there is no such member, or when it is null.
static inline const cJSON *member(const cJSON *object, const char *name) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);
    return cJSON_IsNull(item) ? NULL : item;
}

static inline const char *text_of(const cJSON *object, const char *name) {
    return cJSON_GetStringValue(member(object, name));
}

// An array of numbers, malloc'ed.
static inline int32_t *ids_of(const cJSON *object, const char *name, size_t *n) {
    const cJSON *item, *array = member(object, name);
    int32_t *ids = malloc(((size_t)cJSON_GetArraySize(array) + 1) * sizeof *ids);
    *n = 0;
    cJSON_ArrayForEach(item, array) ids[(*n)++] = item->valueint;
    return ids;
}

#endif
