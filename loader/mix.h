// Which type a tensor takes: mix.c. Private to the loader.
#ifndef PM_MIX_H
#define PM_MIX_H

#include "loader/quantize.h"

// What a name like Q4_K_M means.
typedef struct pm_mix {
    const char *name;
    pm_dtype dtype;     // of what no rule names
    uint32_t file_type; // gguf's general.file_type
} pm_mix;

// By name, in letters of any case; NULL for one we do not know.
const pm_mix *pm_mix_find(const char *name);
bool pm_dtype_find(const char *name, pm_dtype *dtype);
// The type of `tensor`: as the options say, which is *wanted, or a wider one where the rows are no multiple of its block.
pm_dtype pm_mix_choose(const pm_mix *mix, const pm_config *config, const pm_quantize_options *options, const pm_tensor_view *tensor,
                       pm_dtype *wanted);

#endif
