// Texts a line each, plain or as JSON.
#include "app/lines.h"

#include <stdio.h>
#include <string.h>

enum { MAX_TEXT = 256 << 20 }; // bytes

// ---- JSON -------------------------------------------------------------------------------------------------------------

pm_status app_line_parse(const char *line, size_t size, cJSON **json) {
    const char *end = NULL;
    *json = cJSON_ParseWithLengthOpts(line, size, &end, false);
    while (*json && end < line + size && strchr(" \t\r", *end))
        end++;
    if (*json && end == line + size)
        return PM_OK;
    cJSON_Delete(*json);
    *json = NULL;
    return pm_fail(PM_ERR_USAGE, "not JSON from byte %d on", (int)(end ? end - line : 0));
}

// cJSON ends a string at \u0000. Unicode keeps U+FDD0 for the inside of programs: it stands for zero while a line is parsed.
static void hide_zeros(char *line, size_t size) {
    for (size_t i = 0; i + 6 <= size; i++) {
        if (line[i] != '\\')
            continue;
        if (!memcmp(line + i, "\\u0000", 6))
            memcpy(line + i + 2, "fdd0", 4);
        i++; // what is escaped
    }
}

// Writes the text that was parsed with them hidden, and returns its size.
static size_t show_zeros(const char *text, char *to) {
    size_t n = strlen(text), size = 0;
    for (size_t i = 0; i < n; size++) {
        bool zero = !strncmp(text + i, "\xEF\xB7\x90", 3);
        to[size] = zero ? 0 : text[i];
        i += zero ? 3 : 1;
    }
    return size;
}

// Every way to write a character in JSON is at least as long as the character.
pm_status app_line_string(char *line, size_t *size) {
    cJSON *json;
    hide_zeros(line, *size);
    PM_TRY(app_line_parse(line, *size, &json));
    bool is_string = cJSON_IsString(json);
    if (is_string)
        *size = show_zeros(json->valuestring, line);
    cJSON_Delete(json);
    return is_string ? PM_OK : pm_fail(PM_ERR_USAGE, "not a string");
}

pm_status app_at_line(pm_status status, size_t number) {
    char why[512];
    snprintf(why, sizeof(why), "%s", pm_error_text());
    return pm_fail(status, "line %zu: %s", number, why);
}

// ---- lines ------------------------------------------------------------------------------------------------------------

static size_t count_lines(const char *text, size_t size) {
    size_t n = 0;
    for (const char *p = text, *end = text + size; p < end; n++) {
        const char *newline = memchr(p, '\n', (size_t)(end - p));
        p = newline ? newline + 1 : end;
    }
    return n;
}

static pm_status take_line(app_lines *lines, bool jsonl, char *line, size_t size) {
    if (size > 0 && line[size - 1] == '\r')
        size--;
    if (jsonl && size == 0)
        return PM_OK;
    PM_TRY(jsonl ? app_line_string(line, &size) : PM_OK);
    lines->items[lines->n++] = (pm_str){line, size};
    return PM_OK;
}

static pm_status split(app_lines *lines, bool jsonl, size_t size) {
    size_t number = 1;
    lines->items = pm_calloc(count_lines(lines->data, size) + 1, sizeof(*lines->items));
    if (!lines->items)
        return pm_fail(PM_ERR_MEMORY, "no memory for the lines of %zu bytes", size);
    for (char *p = lines->data, *end = p + size; p < end; number++) {
        char *newline = memchr(p, '\n', (size_t)(end - p)), *stop = newline ? newline : end;
        pm_status status = take_line(lines, jsonl, p, (size_t)(stop - p));
        if (status != PM_OK)
            return app_at_line(status, number);
        p = newline ? newline + 1 : end;
    }
    return PM_OK;
}

pm_status app_lines_read(const char *path, bool jsonl, app_lines *lines) {
    size_t size;
    cJSON_Hooks hooks = {.malloc_fn = pm_malloc, .free_fn = pm_free};
    cJSON_InitHooks(&hooks);
    bool piped = !strcmp(path, "-");
    PM_TRY(piped ? pm_stdin_read(MAX_TEXT, &lines->data, &size) : pm_file_read(path, MAX_TEXT, &lines->data, &size));
    return split(lines, jsonl, size);
}

void app_lines_close(app_lines *lines) {
    pm_free(lines->data);
    pm_free(lines->items);
    *lines = (app_lines){0};
}
