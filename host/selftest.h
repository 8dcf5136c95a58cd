// Private to the host room: what the parts of the self-test share. selftest.c knows the verdicts, selftest_try.c finds them out in
// child processes, selftest_list.c lists all uses that a device may make of kernels.
#ifndef PM_SELFTEST_H
#define PM_SELFTEST_H

#include "host/vk.h"

// Zero-initialise, free list.
typedef struct pm_verdicts {
    pm_verdict *list;
    int n, capacity;
} pm_verdicts;

pm_verdict *pm_verdicts_find(const pm_verdicts *all, const pm_kernel_use *use); // NULL: there is none
pm_status pm_verdicts_add(pm_verdicts *all, const pm_verdict *v);               // in the place of one of the same use

// selftest.c
void pm_selftest_save(pm_device *dev);
// The mark that is left on disk while this process tries a kernel itself; NULL: it has come back.
void pm_selftest_mark(const pm_device *dev, const pm_kernel_use *use);

// selftest_try.c: fills in what n uses are like. Where nothing could be tried they stay unknown, which is no error;
// PM_ERR_CANCELLED where a signal came in between.
pm_status pm_selftest_try(const pm_device *dev, pm_verdict *todo, int n);

#endif
