// Private to the report: single charts, as the page shows them and as files of their own. A chart is of one model with one type of
// cache: nothing else is compared with one another.
#ifndef PM_BENCH_CHART_H
#define PM_BENCH_CHART_H

#include "bench/merge.h"
#include "bench/pen.h"

typedef enum chart_kind {
    CHART_PREFILL,
    CHART_DECODE,
    CHART_BOTH, // prompt and answer in one
    CHART_DEPTH,
    CHART_ENERGY,
    CHART_SUSTAINED,
    CHART_ROOFLINE,
    N_CHARTS,
} chart_kind;

typedef struct chart {
    const merge *m;
    chart_kind kind;
    int group;
    int device; // of a roofline; all others show all devices
} chart;

extern const char *const chart_words[]; // what --svg calls them; ended by NULL
extern const char chart_style[];        // CSS of class chart, and the colours c0 to c7
const char *chart_title(chart_kind kind);
const char *chart_note(chart_kind kind); // how to read it

// How tall it is; 0: there is nothing to draw.
double chart_height(const chart *c);
// Draws it as an <svg> of that height; `more` is attributes of its own, its width among them.
void chart_put(const chart *c, pen *p, const char *more);
// All charts of a kind, one below the other, as a file. PM_ERR_FILE where there are none.
pm_status chart_svg(const merge *m, chart_kind kind, const char *path);

// ---- what draws them --------------------------------------------------------------------------------------------------

enum { CHART_COLORS = 8, CHART_LINE = 16 }; // pixels from one line of letters to the next

// Each draws at the top, and returns how tall it is; 0: there is nothing to draw.
double bars_draw(const chart *c, pen *p);
double depth_draw(const chart *c, pen *p);
double roofline_draw(const chart *c, pen *p);

// The part of a bar chart in which a row is: CHART_PREFILL, CHART_DECODE or CHART_BOTH.
chart_kind chart_part(const merge_row *row);
// 1, 2 or 5 times a power of ten: about n steps reach `most`.
double chart_step(double most, int n);
// "12.3", "4 k", "1.5 T": a figure with its power of a thousand.
const char *chart_number(double value, char text[32]);
// A line of the key: a square in the device's colour, and its name.
void chart_key(const chart *c, pen *p, int device, double y);

#endif
