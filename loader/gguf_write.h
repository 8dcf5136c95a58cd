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

// A tensor of the file to be: one of the source, a stack of what the source has as matrices, or a half of what it has as one.
typedef enum pm_gguf_parts { PM_PARTS_ONE, PM_PARTS_STACK, PM_PARTS_UPPER, PM_PARTS_LOWER } pm_gguf_parts;
typedef struct pm_gguf_tensor {
    const pm_tensor_view *source; // the first of a stack
    pm_gguf_parts parts;
    char own_name[80]; // empty: the source's
    int n_dims;
    uint64_t dims[4];
    pm_dtype dtype;
    bool pairs;            // its rows are halves of heads and become pairs
    uint64_t offset, size; // bytes, from the start of the data
} pm_gguf_tensor;
const char *pm_gguf_tensor_name(const pm_gguf_tensor *tensor);

// Of the data, in bytes: what the source says, where it is a GGUF file too.
pm_status pm_gguf_write_alignment(const pm_file *file, uint32_t *alignment);
// Header, metadata, tensor table and what fills up to the data.
pm_status pm_gguf_write_head(const pm_file *file, pm_output *out, uint32_t file_type, const pm_gguf_tensor *tensors, size_t n,
                             uint32_t alignment);

#endif
