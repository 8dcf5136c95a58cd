// pumice run: one prompt, one answer, streamed to stdout; what it took is told on stderr.
#include "app/limits.h"
#include "app/run.h"
#include "app/style.h"
#include "app/tune.h"

#include <stdio.h>
#include <stdlib.h>

// ---- options ----------------------------------------------------------------------------------------------------------

#define AT(field) .offset = offsetof(run_options, field)
static const char *const off_on[] = {"off", "on", NULL}; // as pm_chat_options counts

// clang-format off
static const app_option options[] = {
    {.name = "MODEL", .help = "folder, .safetensors or .gguf file", .kind = APP_TEXT, .required = true, AT(model)},
    {.name = "--prompt", .letter = "-p", .value = "TEXT", .help = "what to say to the model", .kind = APP_TEXT, AT(text)},
    {.name = "--file", .letter = "-f", .value = "FILE", .help = "or what FILE says; after TEXT if both; - is stdin",
     .kind = APP_TEXT, AT(file)},
    {.name = "--system", .letter = "-s", .value = "TEXT", .help = "the system message before it", .kind = APP_TEXT, AT(system)},
    {.name = "--think", .value = "on|off", .help = "whether it thinks before it answers (*)", .kind = APP_WORD, .words = off_on,
     AT(think)},
    {.name = "--raw", .help = "no chat: go on with the text as it is", .kind = APP_FLAG, AT(raw)},
    {.name = "--ids", .value = "5,17,9|FILE", .help = "token ids in place of text", .kind = APP_TEXT, AT(ids)},
    {.name = "--tokens", .letter = "-n", .value = "N", .help = "at most N tokens; 0: run the prompt only", .kind = APP_U32,
     .most = APP_NOT_GIVEN - 1, AT(n_tokens)},
    APP_SAMPLING_OPTIONS(run_options, sampling, stops),
    APP_CONTEXT_OPTIONS(run_options, context),
    {.name = "--device", .letter = "-d", .value = "N|NAME", .help = "one that `pumice devices` lists", .kind = APP_TEXT, AT(device)},
    {.name = "--print-ids", .help = "write token ids in place of text", .kind = APP_FLAG, AT(print_ids)},
    {.name = "--tools", .value = "FILE", .help = "JSON: a list of functions that it may call", .kind = APP_TEXT, .rare = true,
     AT(tools)},
    APP_SHOW_OPTION(run_options, show, true),
    APP_BUDGET_OPTION(run_options, think_budget, true),
    {.name = "--dump-logits", .value = "FILE", .help = "float32 of the prompt's last position", .kind = APP_TEXT, AT(dump_logits)},
    {.name = "--logprobs", .value = "K", .help = "JSON lines: each token's ln p, and the K likeliest", .kind = APP_U32,
     .most = PM_TOP_LOGPROBS_MAX, .rare = true, AT(logprobs)},
    {.name = "--rope-bf16", .help = "as a model cast to bfloat16 turns positions", .kind = APP_FLAG, .rare = true,
     AT(rope_bf16)},
    APP_TUNE_OPTION(run_options, tune_seconds, true),
    {.name = "--profile", .help = "tell the GPU time of each kernel", .kind = APP_FLAG, AT(profile)},
    APP_LIMITS_OPTION,
};
// clang-format on

// ---- the command ------------------------------------------------------------------------------------------------------

typedef struct state {
    const run_options *o;
    run_prompt prompt;
    pm_device *dev;
    pm_model *model;
    pm_session *session;
    run_answer answer;
} state;

static pm_status load(state *s) {
    run_progress progress = {0};
    pm_model_options model_options = {.progress = run_progress_show, .user = &progress, .bf16_frequencies = s->o->rope_bf16};
    uint64_t began = pm_now_ns();
    PM_TRY(app_context_rope(&s->o->context, &model_options.rope));
    PM_TRY(pm_device_open(s->o->device, &s->dev));
    pm_status status = pm_model_open(s->dev, s->o->model, &model_options, &s->model);
    run_progress_clear(&progress);
    PM_TRY(status);
    pm_log(PM_LOG_INFO, "%s: %.1f MiB of weights on %s after %.2f s", s->o->model,
           (double)pm_model_weight_bytes(s->model) / (1 << 20), pm_device_get_info(s->dev)->name,
           (double)(pm_now_ns() - began) / 1e9);
    return PM_OK;
}

// Where it is not said how long the answer may be, there is room for a usual one; all of a context that was asked for may be
// needed.
static pm_status open_session(state *s) {
    enum { USUAL_ANSWER = 2048 };
    const run_options *o = s->o;
    bool bounded = o->n_tokens != APP_NOT_GIVEN;
    pm_session_options session_options = {.profile = o->profile};
    PM_TRY(app_context_choose(&o->context, pm_model_config(s->model), s->prompt.n, bounded ? o->n_tokens : USUAL_ANSWER,
                              &session_options));
    PM_TRY(pm_session_open(s->model, &session_options, &s->session));
    uint64_t needed = bounded ? (uint64_t)s->prompt.n + o->n_tokens : session_options.ctx;
    PM_TRY(app_context_scale(&o->context, s->model, s->session, 0, needed));
    pm_log(PM_LOG_INFO, "context of %u: %.1f MiB of cache and scratch", pm_session_ctx(s->session),
           (double)pm_session_bytes(s->session) / (1 << 20));
    return PM_OK;
}

static pm_status go(state *s) {
    PM_TRY(run_prompt_read(s->o, &s->prompt));
    PM_TRY(load(s));
    PM_TRY(run_prompt_encode(s->o, s->model, &s->prompt));
    PM_TRY(open_session(s));
    PM_TRY(pm_session_tune(s->session, s->o->tune_seconds, false));
    pm_sampler sampler = app_style_sampler(&s->o->sampling, s->model, s->prompt.thinks);
    sampler.logprobs = s->o->logprobs != APP_NOT_GIVEN;
    sampler.top_logprobs = sampler.logprobs ? s->o->logprobs : 0;
    PM_TRY(run_answer_write(s->o, s->model, s->session, &s->prompt, &sampler, &s->answer));
    run_report(s->model, s->dev, &sampler, &s->answer);
    return s->o->profile ? run_report_profile(s->model, s->session) : PM_OK;
}

static int run(int argc, char **argv) {
    run_options o = {
        .think = -1,
        .show = -1,
        .tune_seconds = -1,
        .n_tokens = APP_NOT_GIVEN,
        .logprobs = APP_NOT_GIVEN,
        .sampling = APP_SAMPLING_NOT_GIVEN,
    };
    int exit_code;
    if (!app_parse(&app_run, argc, argv, &o, &exit_code))
        return exit_code;
    state s = {.o = &o};
    exit_code = app_exit(go(&s));
    bool interrupted = exit_code == APP_EXIT_OK && s.answer.stop == RUN_STOP_INTERRUPTED;
    pm_session_close(&s.session);
    pm_model_close(&s.model);
    pm_device_close(&s.dev);
    run_prompt_close(&s.prompt);
    return interrupted ? APP_EXIT_INTERRUPTED : exit_code;
}

const app_command app_run = {
    .name = "run",
    .summary = "answers one prompt: of the command line, of a file, or piped in",
    .options = options,
    .n_options = sizeof(options) / sizeof(*options),
    .notes = "(*) else as the model says; --ctx: else 4096, or as many as are needed",
    .run = run,
};
