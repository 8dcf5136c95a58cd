// Private to pumice-bench: the command line, what is measured, and how it is told.
#ifndef PM_BENCH_H
#define PM_BENCH_H

#include "app/context.h"
#include "backend/pumice.h"
#include "bench/power.h"
#include "host/host.h"
#include "loader/loader.h"

enum { BENCH_MAX_LIST = 64, BENCH_MAX_PAIRS = 8, BENCH_MAX_MODELS = 8, BENCH_MAX_SEQS = 64, BENCH_MAX_REPETITIONS = 100 };
enum { BENCH_NO_PRESET, BENCH_QWEN };
enum { BENCH_MD, BENCH_CSV, BENCH_JSON, BENCH_JSONL, BENCH_SQL }; // bench_options.output

typedef struct bench_list {
    uint32_t values[BENCH_MAX_LIST];
    int n;
} bench_list;

// A prompt and the answer to it: "512,128".
typedef struct bench_pair {
    const char *text;
    uint32_t n_prompt, n_gen;
} bench_pair;

typedef struct bench_pairs {
    bench_pair pairs[BENCH_MAX_PAIRS];
    int n;
} bench_pairs;

typedef struct bench_models {
    const char *paths[BENCH_MAX_MODELS];
    char names[BENCH_MAX_MODELS][48]; // of synthetic ones
    int n;
} bench_models;

typedef struct bench_options {
    bench_models models;
    const char *model; // the one of them that is measured now
    const char *device, *peer, *sysfs;
    const char *prompts, *gens, *depths, *batches; // as written: "64,512"
    bench_list n_prompt, n_gen, n_depth, n_seqs;   // what they say
    bench_pairs pairs;
    uint32_t repetitions, peer_device;
    app_context context; // ctx, and the cache's rows of it
    int kv_of_v;         // of pm_kv_type: must be context.kv
    int output;
    double sustain_s; // 0: -r decides
    int preset;       // BENCH_NO_PRESET, BENCH_QWEN
    bool ops, ceilings, no_proof, all_devices;
} bench_options;

// The model under test on its device.
typedef struct bench_subject {
    pm_device *dev;
    const pm_device_info *device;
    pm_model *model;
    char type[64];           // "qwen3 0.6B Q4_0"
    uint64_t size, n_params; // bytes and elements of the file's tensors
    uint64_t load_ns;
    uint64_t session_bytes; // cache and scratch on the device
} bench_subject;

// One test, as llama-bench has them: n_prompt tokens at once ("pp64"), then n_gen one by one ("tg16"; both: "pp64+tg16"), behind
// n_depth others. n_seqs above 1: so many sequences, each of which generates, in one pass a step.
typedef struct bench_test {
    uint32_t n_prompt, n_gen, n_depth, n_seqs;
} bench_test;

typedef struct bench_samples {
    uint64_t ns[BENCH_MAX_REPETITIONS];
    int n;
    double cpu_seconds; // of all samples together
    double first_ns;    // of all samples together: until the first id of an answer; 0 where there is no prompt before it
} bench_samples;

// A test that runs for long, seen in windows of time.
enum { BENCH_WINDOWS = 20 };
typedef struct bench_sustain {
    double wanted_s;                                  // 0: the test is run a number of times
    double seconds;                                   // that it ran
    int n;                                            // windows
    double rates[BENCH_WINDOWS], ends[BENCH_WINDOWS]; // tokens a second; seconds since the beginning
} bench_sustain;

typedef struct bench_result {
    bench_test test;
    bench_samples ours, peer;
    bench_sustain sustain;
    bench_power power;           // of ours
    char test_time[PM_UTC_SIZE]; // when it began
} bench_result;

// What the peer says of itself.
typedef struct bench_peer {
    char build[48], backends[32], type[64];
} bench_peer;

// What else may slow it down: looked at before anything is measured.
typedef struct bench_machine {
    char governor[32]; // of the CPU's clock: "performance"; empty: unknown
    double load;       // processes that ran in the last minute; below 0: unknown
    double gpu_busy;   // percent of the time that the device worked for others; below 0: unknown
} bench_machine;

// What the device can do at most: the mean of some samples.
enum {
    BENCH_READ_BANDWIDTH, // bytes that kernels move
    BENCH_WRITE_BANDWIDTH,
    BENCH_COPY_BANDWIDTH,
    BENCH_FMA_F32, // what they compute
    BENCH_FMA_F16,
    BENCH_INT8_DOT,
    BENCH_COOPMAT_F16,
    BENCH_HOST_TO_DEVICE, // what is copied
    BENCH_DEVICE_TO_HOST,
    BENCH_LAUNCH,  // a dispatch more
    BENCH_BARRIER, // that it waits for the one before it, on top
    BENCH_SUBMIT,  // a submission, until its end is known
    BENCH_N_CEILINGS
};
typedef struct bench_ceiling {
    const char *name, *unit;
    double value, stddev, min, max;
    int n;          // samples; 0: unknown
    double squares; // of distances to the mean
} bench_ceiling;

// Whether the device computes what the model says, looked at once for each model: the device's logits against the reference's.
enum { BENCH_MAX_VARIANTS = 64 };
typedef struct bench_proof {
    bool known, right;
    int n, n_agree;       // tokens compared; those whose likeliest successor is the same
    double kl;            // nats a token, from the reference to the device
    double error;         // of the logits, as a part of their spread
    int n_tried, n_right; // kernels on this device, as the self-test found them; 0: it is switched off
    int n_variants;
    char variants[BENCH_MAX_VARIANTS][80]; // "matvec_q4_k:64,1,32,2,1", those that ran
} bench_proof;

// ---- report.c: what is printed, row by row: what a Ctrl-C leaves is complete ------------------------------------------------

typedef struct bench_report {
    const bench_options *options;
    const pm_device_info *device;
    bool told;                    // the device
    const bench_subject *subject; // NULL: no model is open
    bench_peer peer;              // filled in by the first run of it
    bench_machine machine;
    bench_ceiling ceilings[BENCH_N_CEILINGS];
    bench_proof proof; // of the model that is open
    bench_meter *meter;
    int n_rows;
    bool open;
} bench_report;

// The lines of device and model, and the head of the table.
void bench_report_begin(bench_report *report);
// A row; one more for the peer where it has samples.
pm_status bench_report_result(bench_report *report, const bench_result *result);
// The rows of all ceilings that are known, and before them the device where nothing was told yet.
pm_status bench_report_ceilings(bench_report *report);
// The row of a kernel in a pass of n_rows behind depth others; `row` sums one pass.
pm_status bench_report_op(bench_report *report, uint32_t n_rows, uint32_t depth, const pm_profile_row *row);
void bench_report_end(bench_report *report);

// ---- what is measured -------------------------------------------------------------------------------------------------

// tokens.c: prompts and generation, in turn with the peer where there is one. Ctrl-C is PM_ERR_CANCELLED; finished rows are
// printed.
pm_status bench_tokens(const bench_options *options, bench_subject *subject, bench_report *report);
// ops.c: each kernel of one pass of each shape.
pm_status bench_ops(const bench_options *options, bench_subject *subject, bench_report *report);
// ceilings.c: what the device can do at most, in some seconds. What it does not have, or does wrong, stays unknown.
pm_status bench_ceilings(pm_device *dev, bench_ceiling list[BENCH_N_CEILINGS]);
// proof.c: a wrong result is warned of and is no failure; what cannot be looked at stays unknown.
pm_status bench_prove(const bench_options *options, const bench_subject *subject, bench_proof *proof);
// peer.c: the peer runs all tests once, in a process of its own; a sample is added to each result.
pm_status bench_peer_run(const bench_options *options, const bench_subject *subject, bench_peer *peer, bench_result *results,
                         int n);

// sustain.c: adds a window, which ended so many seconds after the beginning; have all windows been seen, or are they all alike?
void bench_sustain_add(bench_sustain *sustain, double rate, double end_s);
bool bench_sustain_is_full(const bench_sustain *sustain);
bool bench_sustain_is_steady(const bench_sustain *sustain);
// Tokens a second of the first window and of the last quarter. Seconds after which the rate stayed 5 % and more below the first
// window's; below 0: it never did.
double bench_sustain_cold(const bench_sustain *sustain);
double bench_sustain_kept(const bench_sustain *sustain);
double bench_sustain_throttle_s(const bench_sustain *sustain);

// lists.c: "60s" or "60"; appends the numbers of "8-64*2,512".
pm_status bench_seconds_read(const app_option *option, const char *text, void *seconds);
pm_status bench_list_read(const char *option, const char *text, bench_list *list);
// For the table of options: each appends one.
pm_status bench_pair_read(const app_option *option, const char *text, void *pairs);
pm_status bench_model_read(const app_option *option, const char *text, void *models);
pm_status bench_synthetic_read(const app_option *option, const char *text, void *models);

// Makes a sequence of the session hold exactly ids[0, depth). *filled is how many of them it already began with.
pm_status bench_fill(pm_session *session, int seq, const int32_t *ids, uint32_t depth, uint32_t *filled);
// n ids, the same in every run: what is in the weights decides nothing. pm_malloc'ed, the caller's.
pm_status bench_make_ids(const pm_model *model, uint32_t n, int32_t **ids);

// `pumice-bench report`: summary.c.
extern const app_command bench_merge;

#endif
