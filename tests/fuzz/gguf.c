// A GGUF file from memory: header, metadata, tensor table, model.
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    pm_file *file = fuzz_open(data, size);
    pm_gguf gguf;
    size_t sum = 0;
    if (pm_gguf_read(file, &file->shards[0], &gguf) == PM_OK && pm_gguf_read_model(file, &gguf) == PM_OK &&
        pm_file_finish(file, "fuzz") == PM_OK)
        sum = fuzz_use(file);
    fuzz_close(file);
    return fuzz_keep(sum);
}
