// What a module of SPIR-V says of itself.
#ifndef PM_SPIRV_H
#define PM_SPIRV_H

#include "host/status.h"

// Bytes of shared memory that a module of n words takes with these specialization constants. PM_ERR_UNSUPPORTED where a size hangs
// on an operation that we cannot compute.
pm_status pm_spirv_shared_bytes(const uint32_t *words, size_t n, const uint32_t *spec, int n_spec, uint64_t *bytes);

#endif
