// Private to the command `run`: its options, and the steps that are files of their own; perplexity and quantize have the bar from
// here.
#ifndef PM_APP_RUN_H
#define PM_APP_RUN_H

#include "app/context.h"
#include "app/messages.h"
#include "app/sampling.h"
#include "app/show.h"
#include "backend/pumice.h"

// The command line. Numbers that the model decides are APP_NOT_GIVEN where they are not given.
typedef struct run_options {
    const char *model, *text, *file, *system, *ids, *device, *dump_logits, *tools;
    int think; // -1: not given; else as in pm_chat_options
    int show;  // of app_show, -1: not given
    uint32_t n_tokens, think_budget;
    float tune_seconds; // below 0: as long as the device allows
    app_context context;
    app_sampling sampling;
    app_stops stops;
    uint32_t logprobs; // alternatives
    bool raw, print_ids, profile, rope_bf16;
} run_options;

// ---- prompt.c: from the command line, a file or a pipe to ids ----------------------------------------------------------

// Zero-initialise; close takes half-built ones.
typedef struct run_prompt {
    char *text; // UTF-8, 0 behind it; NULL where the prompt came as ids
    size_t size;
    int32_t *ids;
    size_t n;
    app_conversation tools; // its options, from --tools
    cJSON *tools_json;
    int thinks; // will the model think? -1: this is no conversation
} run_prompt;

// Reads and checks what can be without the model: a missing file is told before gigabytes are loaded.
pm_status run_prompt_read(const run_options *options, run_prompt *prompt);
// Fills in the ids: the text as it stands with --raw, else as a conversation in the model's format.
pm_status run_prompt_encode(const run_options *options, const pm_model *model, run_prompt *prompt);
void run_prompt_close(run_prompt *prompt);

// ---- answer.c: draws tokens and writes them as they come ------------------------------------------------------------------

typedef enum run_stop {
    RUN_STOP_N,
    RUN_STOP_END,
    RUN_STOP_STRING,
    RUN_STOP_CONTEXT,
    RUN_STOP_INTERRUPTED,
    RUN_STOP_READER
} run_stop;

typedef struct run_answer {
    run_stop stop;
    int32_t last_id;                     // drawn last
    uint32_t n_prompt;                   // ids of the prompt that were run
    uint32_t n;                          // ids drawn
    uint64_t began_ns, first_ns, end_ns; // the prompt goes in; its first id comes out; the last id comes out
} run_answer;

// Ctrl-C ends it and is no failure. Nothing is drawn where options->n_tokens is 0.
pm_status run_answer_write(const run_options *options, const pm_model *model, pm_session *session, const run_prompt *prompt,
                           const pm_sampler *sampler, run_answer *answer);

// ---- load.c -----------------------------------------------------------------------------------------------------------

// The model on the device that a command line names, with the bar while it is loaded. Both are the caller's to close, also where
// it fails.
pm_status run_load(const char *device, const char *path, pm_device **dev, pm_model **model);

// ---- logprobs.c -----------------------------------------------------------------------------------------------------------

// A line of JSON for the id at likely[0], with the n - 1 likeliest ones. tokenizer may be NULL.
pm_status run_logprobs_write(const pm_tokenizer *tokenizer, const pm_logprob *likely, int n, bool *gone);

// ---- report.c: what is told on stderr ----------------------------------------------------------------------------------

// A bar while the weights are loaded, where stderr is a terminal. Zero-initialise.
typedef struct run_progress {
    uint64_t began_ns, drawn_ns;
    int width;        // of the line that stands there
    const char *what; // goes on; NULL: loading
} run_progress;
void run_progress_show(void *progress, uint64_t done_bytes, uint64_t total_bytes);
void run_progress_clear(run_progress *progress);

// One line: tokens and tokens a second, why it stopped, the seed where one was used, the device.
void run_report(const pm_model *model, const pm_device *dev, const pm_sampler *sampler, const run_answer *answer);
// The table of --profile.
pm_status run_report_profile(const pm_model *model, const pm_session *session);

#endif
