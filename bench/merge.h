// Private to `pumice-bench report`: rows of several machines, as their JSON files have them, and the ways to show them.
#ifndef PM_BENCH_MERGE_H
#define PM_BENCH_MERGE_H

#include "app/app.h"

#include <cjson/cJSON.h>

enum { BENCH_FORMAT = 1 }; // of our rows: "format"; higher where an older reader would misread them

typedef enum merge_kind { MERGE_TOKENS, MERGE_OP, MERGE_CEILING, MERGE_KINDS } merge_kind;

// A row of a file. Texts belong to the JSON and are fit to be printed: UTF-8 without control characters. Those of the first line
// are empty where they are unknown, all others NULL. Figures below 0 are unknown.
typedef struct merge_row {
    const cJSON *json;
    merge_kind kind;
    const char *engine, *build, *gpu, *driver, *driver_info, *model, *kv;
    const char *proof, *self_test, *governor, *preset;           // proof: "ok", "failed"; NULL: not looked at
    const char *kernel, *place, *shape, *variant, *type, *bound; // of a kernel
    const char *ceiling, *unit;
    uint32_t n_prompt, n_gen, n_depth, n_seqs, n_rows;
    double avg, stddev, min, max; // tokens a second; of a ceiling: in its unit
    double n_samples, ttft_ms, load_ms, memory, qwen;
    double greedy, kl, error, busy, ratio; // error: of logits; ratio: to the peer
    bool throttled;
    double watts, per_joule, clock_min, clock_max, temperature;
    double cold, sustained, sustain_s, throttle_s;
    double count, us, bytes, gb_s, flops, tflops, bw_percent, flops_percent; // of one dispatch of a kernel
    double share;                                                            // of the time of its pass, 0 to 1
    int device, group; // numbers in the order in which they come: who ran what; group -1: of no model
} merge_row;

// Everything is compared with everything: bounds that no honest files come near, and that hostile ones cannot make slow.
enum { MERGE_MAX_ROWS = 10000, MERGE_MAX_DEVICES = 64, MERGE_MAX_GROUPS = 64 };

typedef struct merge {
    cJSON **documents;
    int n_documents;
    merge_row *rows;
    int n, room;
    int devices[MERGE_MAX_DEVICES], groups[MERGE_MAX_GROUPS]; // the first row of each
    int n_devices, n_groups;
} merge;

// Adds the rows of a file. One that is not ours, newer, cut off or nonsense is named on stderr and adds nothing: false; failing is
// left to PM_ERR_MEMORY.
pm_status merge_add(merge *m, const char *path, bool *added);
pm_status merge_add_text(merge *m, const char *path, const char *text, size_t size, bool *added); // what the file holds
void merge_close(merge *m);

// ---- row.c ------------------------------------------------------------------------------------------------------------

// What is wrong with a row; NULL: nothing, and merge_read_row makes sense of it.
const char *merge_fault(const cJSON *json);
merge_row merge_read_row(const cJSON *json);
// Makes every text below `item` printable, in place.
void merge_clean(cJSON *item);

// By the same device, driver and program; the program left aside; of the same model, types and cache.
bool merge_same_device(const merge_row *a, const merge_row *b);
bool merge_same_hardware(const merge_row *a, const merge_row *b);
bool merge_same_group(const merge_row *a, const merge_row *b);
bool merge_same_test(const merge_row *a, const merge_row *b);
bool merge_failed(const merge_row *row);

// The highest value of a ceiling that was measured on the hardware of `row`; 0: none was.
double merge_ceiling(const merge *m, const merge_row *row, const char *name);

enum { MERGE_NAME_SIZE = 1100 };                                               // five texts of a row
void merge_device_name(const merge_row *row, char text[MERGE_NAME_SIZE]);      // "GPU, driver 1.2, Pumice"
void merge_short_name(const merge *m, int device, char text[MERGE_NAME_SIZE]); // no more of it than tells the devices apart
void merge_group_name(const merge_row *row, char text[MERGE_NAME_SIZE]);       // "qwen3 4B Q4_K, cache f16"
void merge_test_name(const merge_row *row, char text[MERGE_NAME_SIZE]);

// text.c: all of it as lines of a terminal. page.c: as a page. chart.h has single charts.
pm_status merge_text(const merge *m);
pm_status merge_page(const merge *m, const char *path);

#endif
