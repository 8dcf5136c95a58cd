// Private to the report: writes markup. Failure of any write sticks, so that what draws reads straight. Texts of files are escaped.
#ifndef PM_BENCH_PEN_H
#define PM_BENCH_PEN_H

#include "host/base.h"

typedef struct pen {
    pm_output *out; // NULL: nothing is written, which is how one asks for the height of a drawing
    pm_status status;
} pen;

void pen_put(pen *p, const char *markup);
PM_PRINTF(2, 3) void pen_putf(pen *p, const char *format, ...); // numbers and our own words: at most 511 bytes
void pen_escape(pen *p, const char *text);

// Elements of SVG. Across, places are in percent of what the drawing has, so that it fits a phone with letters of the same size;
// down, they are pixels. `more` is attributes of its own.
void pen_text(pen *p, double x, double y, const char *more, const char *text);
void pen_line(pen *p, double x0, double y0, double x1, double y1, const char *more);

#endif
