// Writes markup.
#include "bench/pen.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void pen_put(pen *p, const char *markup) {
    if (p->out && p->status == PM_OK)
        p->status = pm_output_write(p->out, markup, strlen(markup));
}

void pen_putf(pen *p, const char *format, ...) {
    char text[512];
    va_list list;
    va_start(list, format);
    vsnprintf(text, sizeof(text), format, list);
    va_end(list);
    pen_put(p, text);
}

void pen_escape(pen *p, const char *text) {
    for (; *text; text++) {
        const char one[2] = {*text, 0};
        pen_put(p, *text == '<'    ? "&lt;"
                   : *text == '>'  ? "&gt;"
                   : *text == '&'  ? "&amp;"
                   : *text == '"'  ? "&quot;"
                   : *text == '\'' ? "&#39;"
                                   : one);
    }
}

void pen_text(pen *p, double x, double y, const char *more, const char *text) {
    pen_putf(p, "<text x=\"%.2f%%\" y=\"%.1f\" %s>", x, y, more);
    pen_escape(p, text);
    pen_put(p, "</text>\n");
}

void pen_line(pen *p, double x0, double y0, double x1, double y1, const char *more) {
    pen_putf(p, "<line x1=\"%.2f%%\" y1=\"%.1f\" x2=\"%.2f%%\" y2=\"%.1f\" %s/>\n", x0, y0, x1, y1, more);
}
