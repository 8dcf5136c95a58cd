// Texts a line each, plain or as JSON.
#ifndef PM_APP_LINES_H
#define PM_APP_LINES_H

#include "app/app.h"

#include <cjson/cJSON.h>

// Zero-initialise; close takes half-built ones.
typedef struct app_lines {
    char *data;
    pm_str *items; // views into data
    size_t n;
} app_lines;

// path: a file, or "-" for standard input. jsonl: each line is a JSON string, which may hold line ends; empty lines are none then.
// Else each line is a text as it stands. Failures name the line.
pm_status app_lines_read(const char *path, bool jsonl, app_lines *lines);
void app_lines_close(app_lines *lines);

// The whole line as one JSON value; the caller calls cJSON_Delete.
pm_status app_line_parse(const char *line, size_t size, cJSON **json);
// The whole line as a JSON string, decoded in place; it may hold zeros.
pm_status app_line_string(char *line, size_t *size);
// Says the last failure's words again, with the number of the line before them.
pm_status app_at_line(pm_status status, size_t number);

#endif
