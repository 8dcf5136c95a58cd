// Private to the page of the report.
#ifndef PM_BENCH_PAGE_H
#define PM_BENCH_PAGE_H

#include "bench/merge.h"
#include "bench/pen.h"

void page_draw(const merge *m, pen *p);
// tables.c: all rows, ceilings, kernels; those of them that there are.
void tables_draw(const merge *m, pen *p);

#endif
