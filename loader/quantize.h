// Writing a model as a GGUF file in other types: the loader's second face. No device is needed.
#ifndef PM_QUANTIZE_H
#define PM_QUANTIZE_H

#include "loader/loader.h"

typedef struct pm_quantize_options {
    // One type for all matrices ("F16", "Q8_0", "IQ4_XS", ...), or a mix of them ("Q4_K_M", ...), in letters of any case.
    const char *type;
    // These may be NULL: types of the head and of the embedding, whatever `type` says.
    const char *output_type, *embedding_type;
    bool pure; // all matrices in the type that names the mix
    // Called between chunks with the bytes of weights written; false ends it: PM_ERR_CANCELLED. May be NULL.
    bool (*progress)(void *user, uint64_t done_bytes, uint64_t total_bytes);
    void *user; // handed through
} pm_quantize_options;

typedef struct pm_quantize_result {
    uint64_t n_tensors, n_weights, source_bytes, bytes; // bytes: of the tensors written
} pm_quantize_result;

// "F32 F16 ...": all that options->type may be.
const char *pm_quantize_types(void);
// PM_ERR_USAGE unless all types are known; needs no file.
pm_status pm_quantize_check(const pm_quantize_options *options);
// Writes `file` to `path` as one GGUF file, version 3, that llama.cpp reads as well. The same bytes on any number of threads. What
// stands at `path` is replaced when the new file is whole; nothing is left on failure. Vectors stay as floats; a matrix whose rows
// are no multiple of a type's block takes a wider type, which is logged. PM_ERR_USAGE where `path` is one of the model's own files;
// PM_ERR_UNSUPPORTED for what GGUF cannot say; PM_ERR_FILE for weights that a type cannot hold.
pm_status pm_quantize(const pm_file *file, const char *path, const pm_quantize_options *options, pm_quantize_result *result);

#endif
