// Lines from a person, with editing and history where a terminal and libedit are there, or from a pipe.
#ifndef PM_APP_LINE_H
#define PM_APP_LINE_H

#include "app/app.h"

typedef struct app_line app_line;

// The history is kept in the per-user folder; without one it lives as long as the program. Close saves it.
pm_status app_line_open(app_line **line);
void app_line_close(app_line **line);
// A person types: prompts are shown.
bool app_line_is_typed(const app_line *line);

typedef enum app_line_end {
    APP_LINE_READ,
    APP_LINE_DROPPED, // Ctrl-C; *size is how much was typed
    APP_LINE_LAST,    // no more will come
} app_line_end;

// *text without its newline, a 0 behind it, borrowed until the next call. Long lines and zeros in them are fine. PM_ERR_MEMORY,
// PM_ERR_IO.
pm_status app_line_read(app_line *line, const char *prompt, const char **text, size_t *size, app_line_end *end);

#endif
