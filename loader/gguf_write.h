// Writing the header of a GGUF file: gguf_write.c. Private to the loader.
#ifndef PM_GGUF_WRITE_H
#define PM_GGUF_WRITE_H

#include "loader/internal.h"

// Where the bytes go. Without `out` they are only counted, since the count of entries stands before them. The first error sticks.
typedef struct pm_gguf_writer {
    pm_output *out;
    uint64_t n_entries, n_bytes;
    pm_status status;
} pm_gguf_writer;

// A tensor of the file to be.
typedef struct pm_gguf_tensor {
    const pm_tensor_view *source;
    pm_dtype dtype;
    bool pairs;            // its rows are halves of heads and become pairs
    uint64_t offset, size; // bytes, from the start of the data
} pm_gguf_tensor;

// Of the data, in bytes: what the source says, where it is a GGUF file too.
pm_status pm_gguf_write_alignment(const pm_file *file, uint32_t *alignment);
// Header, metadata, tensor table and what fills up to the data.
pm_status pm_gguf_write_head(const pm_file *file, pm_output *out, uint32_t file_type, const pm_gguf_tensor *tensors, size_t n,
                             uint32_t alignment);

#endif
