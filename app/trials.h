// Private to the command `devices`.
#ifndef PM_APP_TRIALS_H
#define PM_APP_TRIALS_H

#include "host/base.h"

// Tries all kernels on the device of this rank and prints a table. PM_ERR_DEVICE where one is not right.
pm_status app_try_kernels(int index);

#endif
