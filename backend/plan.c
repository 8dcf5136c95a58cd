// What a model will take on the device, from its header alone.
#include <string.h>

#include "backend/model.h"

// Norms and biases become floats; matrices keep their type. A slice is aligned to at most 256 bytes, in each of two planes.
uint64_t pm_plan_weights(const pm_file *file) {
    size_t n;
    const pm_tensor_view *tensors = pm_file_tensors(file, &n);
    const pm_config *c = pm_file_config(file);
    uint64_t bytes = 0;
    for (size_t i = 0; i < n; i++) {
        const pm_tensor_view *t = &tensors[i];
        if (c->tied_head && strcmp(t->name, "output.weight") == 0)
            continue;
        bool vector = t->n_dims == 1;
        bytes += 512 + (vector ? pm_packed_bytes(PM_F32, 1, t->dims[0]) : pm_packed_bytes(t->dtype, t->dims[0], t->dims[1]));
    }
    return bytes;
}
