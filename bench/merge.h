// Private to `pumice-bench report`: rows of several machines, as their JSON files have them, and the ways to show them.
#ifndef PM_BENCH_MERGE_H
#define PM_BENCH_MERGE_H

#include "app/app.h"

#include <cjson/cJSON.h>

enum { BENCH_FORMAT = 1 }; // of our rows: "format"; higher where an older reader would misread them

// A row of tokens or, where kernel is not NULL, of a kernel. Texts belong to the JSON; none is NULL but where it is said.
typedef struct merge_row {
    const cJSON *json;
    const char *file, *engine, *build, *gpu, *driver, *driver_info, *model, *kv;
    const char *kernel, *place; // NULL of tokens
    const char *proof;          // "ok", "failed"; NULL: not looked at
    uint32_t n_prompt, n_gen, n_depth, n_seqs, n_rows;
    double avg, stddev, min, max;            // tokens a second
    double ttft_ms, memory, load_ms, joules; // below 0: unknown
    double us, gb_s;                         // of a kernel
    int device, group;                       // numbers in the order in which they come: who ran what
} merge_row;

typedef struct merge {
    cJSON **documents;
    int n_documents;
    merge_row *rows;
    int n, room;
    int n_devices, n_groups;
} merge;

// Adds the rows of a file. One that is not ours, newer, cut off or nonsense is named on stderr and adds nothing: false; failing is
// left to PM_ERR_MEMORY.
pm_status merge_add(merge *m, const char *path, bool *added);
void merge_close(merge *m);

// By the same device, driver and program; of the same model, types and cache.
bool merge_same_device(const merge_row *a, const merge_row *b);
bool merge_same_group(const merge_row *a, const merge_row *b);
bool merge_same_test(const merge_row *a, const merge_row *b);
bool merge_failed(const merge_row *row);

enum { MERGE_NAME_SIZE = 640 };
void merge_device_name(const merge_row *row, char text[MERGE_NAME_SIZE]); // "GPU, driver 1.2, Pumice"
void merge_group_name(const merge_row *row, char text[MERGE_NAME_SIZE]);  // "qwen3 4B Q4_K, cache f16"
void merge_test_name(const merge_row *row, char text[MERGE_NAME_SIZE]);

// page.c: all of it as one page. text.c: as lines of a terminal.
pm_status merge_page(const merge *m, const char *path);
pm_status merge_text(const merge *m);

#endif
