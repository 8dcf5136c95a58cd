// Private to the report: figures, and the two ways to print them. Rows of JSON can run out of memory, Markdown cannot fail.
#ifndef PM_BENCH_REPORT_H
#define PM_BENCH_REPORT_H

#include "bench/bench.h"

struct cJSON;

typedef struct bench_figures {
    double avg_ns, stddev_ns, avg_ts, stddev_ts, min_ts, max_ts, median_ts;
} bench_figures;

// What is printed of one engine's samples of a test.
typedef struct bench_line {
    const bench_result *result;
    const bench_samples *samples;
    bench_figures f;
    bool is_peer;
    double ratio;       // to the peer; 0: unknown
    double cpu_seconds; // a token; below 0: unknown
} bench_line;

// What is printed of a kernel: each dispatch, and how far it is from what the device can do.
typedef struct bench_op_figures {
    double ns, bytes, flops;
    double gb_s, tflops, bw_percent, flops_percent; // below 0: unknown
    const char *bound;                              // "memory", "compute"; NULL: unknown
    const char *type;                               // of the weights or the cache, "Q4_0"; NULL: the kernel has none
    char shape[48], variant[80];
} bench_op_figures;

// ---- report.c ---------------------------------------------------------------------------------------------------------

double bench_tokens_of(const bench_test *test);
void bench_format_version(uint32_t version, char text[32]); // of Vulkan
void bench_format_driver(const pm_device_info *device, char *text, size_t size);

enum { BENCH_TEST_SIZE = 64 };
void bench_format_test(const bench_test *test, char text[BENCH_TEST_SIZE]); // "pp512 @ d4096", "pp512+tg128", "tg128 b4"

// ---- md.c, json.c -----------------------------------------------------------------------------------------------------

void bench_md_device(const bench_report *report); // to stderr where rows are for programs
void bench_md_begin(const bench_report *report);  // for each model
void bench_md_line(const bench_report *report, const bench_line *line);
void bench_md_op(uint32_t n_rows, uint32_t depth, const pm_profile_row *op, const bench_op_figures *f);
void bench_md_ceilings(const bench_report *report);
void bench_md_end(const bench_report *report);

pm_status bench_json_line(bench_report *report, const bench_line *line);
pm_status bench_json_op(bench_report *report, uint32_t n_rows, uint32_t depth, const pm_profile_row *op, const bench_op_figures *f);
pm_status bench_json_ceiling(bench_report *report, const bench_ceiling *ceiling);

// ---- rows.c: rows in the formats that programs read ---------------------------------------------------------------------

void bench_rows_begin(const bench_report *report);
pm_status bench_rows_print(bench_report *report, const struct cJSON *row);
void bench_rows_end(const bench_report *report);

#endif
