// Which tensors a file to be has, in which types and where: gguf_plan.c. Private to the loader.
#ifndef PM_GGUF_PLAN_H
#define PM_GGUF_PLAN_H

#include "loader/gguf_write.h"
#include "loader/mix.h"

// Zero-initialise; close takes half-built ones.
typedef struct pm_gguf_plan {
    const pm_file *file;
    const pm_quantize_options *o;
    const pm_mix *mix;
    pm_gguf_tensor *tensors; // in the order of the file to be
    size_t n_tensors;
    uint32_t alignment;
    uint64_t size; // bytes of all tensors
} pm_gguf_plan;
// The options have been checked. Logs what is not as they say.
pm_status pm_gguf_plan_make(const pm_file *file, const pm_quantize_options *options, pm_gguf_plan *plan);
void pm_gguf_plan_close(pm_gguf_plan *plan);

uint64_t pm_gguf_tensor_elements(const pm_gguf_tensor *tensor);
// The matrix of an expert, by that of the first one; NULL where there are no more.
const pm_tensor_view *pm_gguf_find_expert(const pm_file *file, const pm_tensor_view *first, uint64_t expert);

#endif
