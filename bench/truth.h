// What a model's logits are, computed on the CPU without any of the code that computes them on a device.
#ifndef PM_BENCH_TRUTH_H
#define PM_BENCH_TRUTH_H

#include "host/base.h"

enum { BENCH_TRUTH_MOST = 32 }; // tokens

typedef struct bench_truth_args {
    const char *path; // of the model
    const int32_t *ids;
    uint32_t n;              // at most BENCH_TRUTH_MOST
    uint32_t first;          // the first of them whose logits are wanted
    uint32_t kv_bits;        // of the cache: 32, 16, or 8 for Q8_0
    bool (*cancelled)(void); // asked after each layer
} bench_truth_args;
// logits (n - first, vocab_size) of the tokens from `first` on, each behind all before it. PM_ERR_CANCELLED, and the file's errors.
pm_status bench_truth(const bench_truth_args *args, double *logits);

#endif
