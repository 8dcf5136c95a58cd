// The only file that knows libedit. Without it (PM_LIBEDIT is not defined) a terminal's own line input does: that is Windows' way.
#include "app/line.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#ifdef PM_LIBEDIT
#include <histedit.h>
#include <locale.h>
#include <stdlib.h>
#endif

struct app_line {
    bool typed;
    const char *prompt;
    char *text;
    size_t n, room;
    bool dropped; // Ctrl-C was pressed
#ifdef PM_LIBEDIT
    EditLine *edit;
    History *history;
    char path[1024]; // of the history; empty: none
#endif
};

// ---- plain lines --------------------------------------------------------------------------------------------------------

static pm_status put(app_line *l, char c) {
    if (l->n + 2 > l->room) {
        size_t room = l->room * 2 + 256;
        char *text = pm_realloc(l->text, room);
        if (!text)
            return pm_fail(PM_ERR_MEMORY, "no memory for a line of %zu bytes", l->n);
        l->text = text;
        l->room = room;
    }
    l->text[l->n++] = c;
    l->text[l->n] = 0;
    return PM_OK;
}

static volatile sig_atomic_t interrupted;

static void on_interrupt(int number) {
    (void)number;
    interrupted = 1;
}

static pm_status read_characters(app_line *l, app_line_end *end) {
    int c;
    l->n = 0;
    errno = 0;
    while ((c = pm_stdin_getc()) != EOF && c != '\n')
        PM_TRY(put(l, (char)c));
    int error = errno;
    interrupted = interrupted || (c == EOF && error == EINTR);
    bool failed = c == EOF && ferror(stdin) && !interrupted;
    if (c == EOF && interrupted)
        clearerr(stdin);
    *end = interrupted ? APP_LINE_DROPPED : c == EOF && l->n == 0 ? APP_LINE_LAST : APP_LINE_READ;
    if (failed)
        return pm_fail(PM_ERR_IO, "standard input could not be read: %s", strerror(error));
    while (l->n > 0 && l->text[l->n - 1] == '\r')
        l->text[--l->n] = 0;
    return PM_OK;
}

// While a person types, Ctrl-C drops the line; a pipe's reader ends with the program.
static pm_status read_plain(app_line *l, app_line_end *end) {
    interrupted = 0;
    if (l->typed) {
        fputs(l->prompt, stdout);
        fflush(stdout);
        signal(SIGINT, on_interrupt);
    }
    pm_status status = read_characters(l, end);
    if (l->typed) {
        signal(SIGINT, SIG_DFL);
        if (*end != APP_LINE_READ)
            puts("");
    }
    return status;
}

// ---- libedit ------------------------------------------------------------------------------------------------------------

#ifdef PM_LIBEDIT
static char *show_prompt(EditLine *edit) {
    app_line *l;
    static char prompt[16];
    el_get(edit, EL_CLIENTDATA, &l);
    snprintf(prompt, sizeof(prompt), "%s", l->prompt);
    return prompt;
}

// Ctrl-C is a key like others: no signal comes while a line is edited.
static unsigned char drop_line(EditLine *edit, int key) {
    (void)key;
    app_line *l;
    el_get(edit, EL_CLIENTDATA, &l);
    l->dropped = true;
    return CC_NEWLINE;
}

// UTF-8 whatever the locale says where there is one: a person's text is never cut inside a character.
static void choose_locale(void) {
    setlocale(LC_CTYPE, "");
    if (MB_CUR_MAX == 1)
        setlocale(LC_CTYPE, "C.UTF-8");
}

static void open_history(app_line *l) {
    HistEvent event;
    char folder[sizeof(l->path) - 16];
    l->history = history_init();
    if (!l->history)
        return;
    history(l->history, &event, H_SETSIZE, 1000);
    history(l->history, &event, H_SETUNIQUE, 1);
    if (pm_cache_dir(folder, sizeof(folder))) {
        snprintf(l->path, sizeof(l->path), "%s/history", folder);
        history(l->history, &event, H_LOAD, l->path);
    }
    el_set(l->edit, EL_HIST, history, l->history);
}

static void open_edit(app_line *l) {
    choose_locale();
    l->edit = el_init("pumice", stdin, pm_is_terminal(1) ? stdout : stderr, stderr);
    if (!l->edit)
        return;
    el_set(l->edit, EL_CLIENTDATA, l);
    el_set(l->edit, EL_PROMPT, show_prompt);
    el_set(l->edit, EL_EDITOR, "emacs");
    el_set(l->edit, EL_SETTY, "-d", "-isig", (char *)NULL);
    el_set(l->edit, EL_ADDFN, "pumice-drop-line", "drop the line", drop_line);
    el_set(l->edit, EL_BIND, "^C", "pumice-drop-line", (char *)NULL);
    el_set(l->edit, EL_BIND, "^R", "em-inc-search-prev", (char *)NULL);
    open_history(l);
    el_source(l->edit, NULL); // the user's ~/.editrc
}

static pm_status read_edited(app_line *l, app_line_end *end) {
    int n = 0;
    HistEvent event;
    l->dropped = false;
    const char *typed = el_gets(l->edit, &n);
    l->n = 0;
    *end = l->dropped ? APP_LINE_DROPPED : typed && n > 0 ? APP_LINE_READ : APP_LINE_LAST;
    if (*end != APP_LINE_READ)
        puts("");
    for (int i = 0; typed && i < n && typed[i] != '\n'; i++)
        PM_TRY(put(l, typed[i]));
    if (*end == APP_LINE_READ && l->n > 0 && l->history)
        history(l->history, &event, H_ENTER, l->text);
    return PM_OK;
}

static void close_edit(app_line *l) {
    HistEvent event;
    if (l->history && l->path[0])
        history(l->history, &event, H_SAVE, l->path);
    if (l->edit)
        el_end(l->edit);
    if (l->history)
        history_end(l->history);
}
#endif

// ---- the face -----------------------------------------------------------------------------------------------------------

pm_status app_line_open(app_line **line) {
    app_line *l = *line = pm_calloc(1, sizeof(*l));
    if (!l)
        return pm_fail(PM_ERR_MEMORY, "no memory for lines");
    l->typed = pm_is_terminal(0) && (pm_is_terminal(1) || pm_is_terminal(2));
#ifdef PM_LIBEDIT
    if (l->typed)
        open_edit(l);
#endif
    return PM_OK;
}

void app_line_close(app_line **line) {
    app_line *l = *line;
    if (!l)
        return;
#ifdef PM_LIBEDIT
    close_edit(l);
#endif
    pm_free(l->text);
    pm_free(l);
    *line = NULL;
}

bool app_line_is_typed(const app_line *l) {
    return l->typed;
}

pm_status app_line_read(app_line *l, const char *prompt, const char **text, size_t *size, app_line_end *end) {
    l->prompt = prompt;
#ifdef PM_LIBEDIT
    pm_status status = l->edit ? read_edited(l, end) : read_plain(l, end);
#else
    pm_status status = read_plain(l, end);
#endif
    *text = l->n ? l->text : "";
    *size = l->n;
    return status;
}
