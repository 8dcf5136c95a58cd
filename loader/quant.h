// Encoding floats in the block types of dequant.c; the writer of files (quantize.c) is who needs it.
#ifndef PM_QUANT_H
#define PM_QUANT_H

#include "host/base.h"

// Encodes n finite floats (whole blocks) as `dtype`, one that gguf files have: the inverse of pm_dequant, as near as the type
// allows. The bytes depend on nothing but the values.
void pm_quant(pm_dtype dtype, const float *src, void *dst, size_t n);

#endif
