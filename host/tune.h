// Private to the host room: the plan (tune.c) and the measurements it comes from (tune_bench.c, contest.c).
#ifndef PM_TUNE_H
#define PM_TUNE_H

#include "host/ops.h"
#include "host/vk.h"

// Rows of x that share a plan: a step of decoding, a batch of sequences, a chunk of a prompt.
typedef enum pm_row_class { PM_ROWS_ONE, PM_ROWS_FEW, PM_ROWS_MANY } pm_row_class;
enum { PM_FEW_ROWS = 8, PM_SHORT_CACHE = 2048 };
pm_row_class pm_plan_class(uint32_t n);

// Of a product or of attention: what was found out.
typedef struct pm_plan_entry {
    bool attends;
    pm_linear_shape shape; // n: of the class, not of the shape
    pm_attend_shape attend;
    pm_row_class rows;
    bool tuned;         // another variant than the default won
    bool partly;        // there was no time for all variants
    pm_variant variant; // of a product
    pm_attend_way way;
    double usual_us, us; // of the default, of the variant
} pm_plan_entry;

// NULL: never measured.
const pm_plan_entry *pm_plan_product(const pm_device *dev, const pm_linear_shape *shape);
const pm_plan_entry *pm_plan_attention(const pm_device *dev, const pm_attend_shape *shape);
pm_status pm_plan_add(pm_device *dev, const pm_plan_entry *e); // in memory and on disk
// Adds what lines say of which nothing is known yet; what makes no sense here is left out. text may be NULL.
void pm_plan_read(pm_device *dev, const char *text);

#endif
