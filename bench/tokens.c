// Tokens a second: prompts at once and generation one by one.
#include "bench/bench.h"

#include <inttypes.h>

typedef struct runner {
    const bench_options *o;
    bench_subject *subject;
    bench_report *report;
    pm_session *session;
    int32_t *ids;
    uint32_t filled; // the sequence begins with so many of ids
    bench_result *results;
    int n;
} runner;

// ---- tests ------------------------------------------------------------------------------------------------------------

static void add_tests(runner *r, const bench_list *list, uint32_t depth, bool generate) {
    for (int i = 0; i < list->n; i++)
        if (list->values[i] > 0)
            r->results[r->n++].test =
                (bench_test){.n_prompt = generate ? 0 : list->values[i], .n_gen = generate ? list->values[i] : 0, .n_depth = depth};
}

// In llama-bench's order.
static pm_status make_tests(runner *r) {
    const bench_options *o = r->o;
    r->results = pm_calloc((size_t)(o->n_depth.n * (o->n_prompt.n + o->n_gen.n)), sizeof(*r->results));
    if (!r->results)
        return pm_fail(PM_ERR_MEMORY, "no memory for the results");
    for (int i = 0; i < o->n_depth.n; i++) {
        add_tests(r, &o->n_prompt, o->n_depth.values[i], false);
        add_tests(r, &o->n_gen, o->n_depth.values[i], true);
    }
    return r->n > 0 ? PM_OK : pm_fail(PM_ERR_USAGE, "-p and -n are 0: there is nothing to measure");
}

// Generation has an id before the first that is timed, and runs one ahead of the last.
static uint32_t positions(const bench_test *t) {
    return t->n_depth + (t->n_prompt ? t->n_prompt : t->n_gen + 2);
}

static pm_status open_session(runner *r) {
    uint32_t most = 0;
    for (int i = 0; i < r->n; i++)
        most = positions(&r->results[i].test) > most ? positions(&r->results[i].test) : most;
    if (r->o->context.ctx && r->o->context.ctx < most)
        return pm_fail(PM_ERR_USAGE, "--ctx %" PRIu32 ": these tests need %" PRIu32, r->o->context.ctx, most);
    pm_session_options options = {.ctx = r->o->context.ctx ? r->o->context.ctx : most};
    app_context_cache(&r->o->context, &options);
    PM_TRY(bench_make_ids(r->subject->model, most, &r->ids));
    PM_TRY(pm_session_open(r->subject->model, &options, &r->session));
    r->subject->session_bytes = pm_session_bytes(r->session);
    return PM_OK;
}

// ---- one run ----------------------------------------------------------------------------------------------------------

static pm_status time_prompt(runner *r, const bench_test *t, uint64_t *ns) {
    const float *logits; // of the last position, as whoever wants an answer needs them
    uint64_t began = pm_now_ns();
    PM_TRY(pm_session_eval(r->session, 0, r->ids + t->n_depth, t->n_prompt, &logits));
    *ns = pm_now_ns() - began;
    return PM_OK;
}

// The device is a step ahead: when the first id is here the next one is under way. From there on each id takes a whole step.
static pm_status time_gen(runner *r, const bench_test *t, uint64_t *ns) {
    int32_t id;
    PM_TRY(pm_session_start(r->session, 0, r->ids + t->n_depth, 1, &(pm_sampler){.temperature = 0}));
    pm_status status = pm_session_next(r->session, &id);
    uint64_t began = pm_now_ns();
    for (uint32_t i = 0; i < t->n_gen && status == PM_OK && !app_interrupted(); i++)
        status = pm_session_next(r->session, &id);
    *ns = pm_now_ns() - began;
    pm_status ended = pm_session_end(r->session);
    return status == PM_OK ? ended : status;
}

// One run of a test: a sample, or none where samples is NULL.
static pm_status run_once(runner *r, const bench_test *t, bench_samples *samples) {
    uint64_t ns;
    PM_TRY(bench_fill(r->session, r->ids, t->n_depth, &r->filled));
    double cpu = pm_cpu_seconds();
    PM_TRY(t->n_prompt ? time_prompt(r, t, &ns) : time_gen(r, t, &ns));
    if (app_interrupted())
        return pm_fail(PM_ERR_CANCELLED, "interrupted");
    if (!samples)
        return PM_OK;
    samples->cpu_seconds += pm_cpu_seconds() - cpu;
    samples->ns[samples->n++] = ns;
    return PM_OK;
}

// Passes of a prompt take turns in two recordings, each made when it is first run.
static pm_status warm_up(runner *r, bench_result *result) {
    pm_utc_text(result->test_time);
    if (result->test.n_prompt)
        PM_TRY(run_once(r, &result->test, NULL));
    return run_once(r, &result->test, NULL);
}

// ---- alone ------------------------------------------------------------------------------------------------------------

static pm_status run_alone(runner *r) {
    for (int i = 0; i < r->n; i++) {
        bench_result *result = &r->results[i];
        PM_TRY(warm_up(r, result));
        for (uint32_t k = 0; k < r->o->repetitions; k++)
            PM_TRY(run_once(r, &result->test, &result->ours));
        PM_TRY(bench_report_result(r->report, result));
    }
    return PM_OK;
}

// ---- in turn with the peer ----------------------------------------------------------------------------------------------

// Ours, the peer's, ours, the peer's: what else goes on in the machine meets both.
static pm_status run_rounds(runner *r) {
    for (int i = 0; i < r->n; i++)
        PM_TRY(warm_up(r, &r->results[i]));
    for (uint32_t k = 0; k < r->o->repetitions; k++) {
        pm_log(PM_LOG_INFO, "round %" PRIu32 " of %" PRIu32 ": ours", k + 1, r->o->repetitions);
        for (int i = 0; i < r->n; i++)
            PM_TRY(run_once(r, &r->results[i].test, &r->results[i].ours));
        pm_log(PM_LOG_INFO, "round %" PRIu32 " of %" PRIu32 ": the peer's", k + 1, r->o->repetitions);
        PM_TRY(bench_peer_run(r->o, r->subject, &r->report->peer, r->results, r->n));
    }
    return PM_OK;
}

// What the rounds gave is told even where one failed: pairs that are there are pairs.
static pm_status run_in_turn(runner *r) {
    pm_status status = run_rounds(r), told = PM_OK;
    for (int i = 0; i < r->n && told == PM_OK; i++) {
        bench_result *result = &r->results[i];
        int pairs = result->peer.n;
        if (result->ours.n > pairs && pairs > 0)
            result->ours.n = pairs; // the last one has no partner
        if (result->ours.n > 0)
            told = bench_report_result(r->report, result);
    }
    return status == PM_OK ? told : status;
}

// ---- all --------------------------------------------------------------------------------------------------------------

static pm_status run_all(runner *r) {
    PM_TRY(make_tests(r));
    PM_TRY(open_session(r));
    bench_report_begin(r->report);
    app_watch(r->session);
    pm_status status = r->o->peer ? run_in_turn(r) : run_alone(r);
    app_watch(NULL);
    return status;
}

pm_status bench_tokens(const bench_options *options, bench_subject *subject, bench_report *report) {
    runner r = {.o = options, .subject = subject, .report = report};
    pm_status status = run_all(&r);
    pm_session_close(&r.session);
    pm_free(r.results);
    pm_free(r.ids);
    return status;
}
