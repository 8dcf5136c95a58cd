// Tokens a second: prompts at once and generation one by one.
#include "bench/bench.h"

#include <inttypes.h>

typedef struct runner {
    const bench_options *o;
    bench_subject *subject;
    bench_report *report;
    pm_session *session;
    int32_t *ids;
    uint32_t filled[BENCH_MAX_SEQS]; // the sequences begin with so many of ids
    bench_result *results;
    int n;
} runner;

// ---- tests ------------------------------------------------------------------------------------------------------------

static void add_test(runner *r, uint32_t n_prompt, uint32_t n_gen, uint32_t depth, uint32_t n_seqs) {
    if (n_prompt + n_gen > 0)
        r->results[r->n++] = (bench_result){.test = {.n_prompt = n_prompt, .n_gen = n_gen, .n_depth = depth, .n_seqs = n_seqs},
                                            .power = {-1, -1, -1, -1, -1, -1}};
}

static void add_tests(runner *r, uint32_t depth) {
    const bench_options *o = r->o;
    for (int i = 0; i < o->n_prompt.n; i++)
        add_test(r, o->n_prompt.values[i], 0, depth, 1);
    for (int i = 0; i < o->n_gen.n; i++)
        for (int k = 0; k < o->n_seqs.n; k++)
            add_test(r, 0, o->n_gen.values[i], depth, o->n_seqs.values[k]);
    for (int i = 0; i < o->pairs.n; i++)
        add_test(r, o->pairs.pairs[i].n_prompt, o->pairs.pairs[i].n_gen, depth, 1);
}

// Qwen's speed page: https://qwen.readthedocs.io/en/latest/getting_started/speed_benchmark.html
static const uint32_t preset_prompts[] = {1, 6144, 14336, 30720, 63488, 129024};
enum { N_PRESET = sizeof(preset_prompts) / sizeof(*preset_prompts) };

// Those that the model was made for, or the context that was asked for has room for.
static pm_status add_preset(runner *r) {
    uint32_t n_gen = r->o->n_gen.values[0], ctx = pm_model_config(r->subject->model)->max_ctx;
    ctx = r->o->context.ctx ? r->o->context.ctx : ctx ? ctx : APP_MAX_CTX;
    for (int i = 0; i < N_PRESET; i++)
        if (preset_prompts[i] + n_gen + 2 <= ctx)
            add_test(r, preset_prompts[i], n_gen, 0, 1);
    if (r->n == 0)
        return pm_fail(PM_ERR_USAGE, "a context of %" PRIu32 " has no room for a prompt of 1 and %" PRIu32 " new tokens", ctx,
                       n_gen);
    if (r->n < N_PRESET)
        pm_log(PM_LOG_INFO, "a context of %" PRIu32 ": prompts of %" PRIu32 " tokens and more are left out", ctx,
               preset_prompts[r->n]);
    return PM_OK;
}

// In llama-bench's order.
static pm_status make_tests(runner *r) {
    const bench_options *o = r->o;
    r->results =
        pm_calloc((size_t)(N_PRESET + o->n_depth.n * (o->n_prompt.n + o->n_gen.n * o->n_seqs.n + o->pairs.n)), sizeof(*r->results));
    if (!r->results)
        return pm_fail(PM_ERR_MEMORY, "no memory for the results");
    for (int i = 0; i < o->n_depth.n && o->preset == BENCH_NO_PRESET; i++)
        add_tests(r, o->n_depth.values[i]);
    if (o->preset == BENCH_QWEN)
        return add_preset(r);
    return r->n > 0 ? PM_OK : pm_fail(PM_ERR_USAGE, "-p and -n are 0: there is nothing to measure");
}

// Generation has an id before the first that is timed, and runs one ahead of the last.
static uint32_t positions(const bench_test *t) {
    return t->n_depth + t->n_prompt + (t->n_gen ? t->n_gen + 2 : 0);
}

static void measure_tests(const runner *r, uint32_t *n_positions, uint32_t *n_seqs) {
    *n_positions = *n_seqs = 0;
    for (int i = 0; i < r->n; i++) {
        const bench_test *t = &r->results[i].test;
        *n_positions = positions(t) > *n_positions ? positions(t) : *n_positions;
        *n_seqs = t->n_seqs > *n_seqs ? t->n_seqs : *n_seqs;
    }
}

static pm_status open_session(runner *r) {
    uint32_t most, n_seqs;
    measure_tests(r, &most, &n_seqs);
    if (r->o->context.ctx && r->o->context.ctx < most)
        return pm_fail(PM_ERR_USAGE, "--ctx %" PRIu32 ": these tests need %" PRIu32, r->o->context.ctx, most);
    pm_session_options options = {
        .ctx = r->o->context.ctx ? r->o->context.ctx : most, .n_seqs = n_seqs, .max_batch = n_seqs > PM_BATCH_MAX ? n_seqs : 0};
    app_context_cache(&r->o->context, &options);
    PM_TRY(bench_make_ids(r->subject->model, most, &r->ids));
    PM_TRY(pm_session_open(r->subject->model, &options, &r->session));
    r->subject->session_bytes = pm_session_bytes(r->session);
    if (pm_session_max_batch(r->session) < n_seqs)
        return pm_fail(PM_ERR_UNSUPPORTED, "-b %" PRIu32 ": %s takes batches of %" PRIu32 " at most with this model", n_seqs,
                       r->subject->device->name, pm_session_max_batch(r->session));
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

// The device is a step ahead: when the first id is here the next one is under way. From there on each id takes a whole step. With
// a prompt the clock runs from its beginning.
static pm_status time_gen(runner *r, const bench_test *t, uint64_t *ns, uint64_t *first_ns) {
    int32_t id;
    uint64_t began = pm_now_ns();
    PM_TRY(pm_session_start(r->session, 0, r->ids + t->n_depth, t->n_prompt ? t->n_prompt : 1, &(pm_sampler){.temperature = 0}));
    pm_status status = pm_session_next(r->session, &id);
    uint64_t first = pm_now_ns();
    for (uint32_t i = 0; i < t->n_gen && status == PM_OK && !app_interrupted(); i++) {
        status = pm_session_next(r->session, &id);
        bench_meter_look(r->report->meter);
    }
    *ns = pm_now_ns() - (t->n_prompt ? began : first);
    *first_ns = t->n_prompt ? first - began : 0;
    pm_status ended = pm_session_end(r->session);
    return status == PM_OK ? ended : status;
}

// With the logits of all rows, as whoever draws from them needs them. What the ids are decides nothing.
static pm_status time_batch(runner *r, const bench_test *t, uint64_t *ns) {
    pm_batch_row rows[BENCH_MAX_SEQS];
    const float *logits;
    uint64_t began = pm_now_ns();
    for (uint32_t i = 0; i < t->n_gen && !app_interrupted(); i++) {
        for (uint32_t s = 0; s < t->n_seqs; s++)
            rows[s] = (pm_batch_row){(int)s, r->ids[t->n_depth + i]};
        PM_TRY(pm_session_eval_batch(r->session, rows, (int)t->n_seqs, &logits));
        bench_meter_look(r->report->meter);
    }
    *ns = pm_now_ns() - began;
    return PM_OK;
}

static pm_status time_test(runner *r, const bench_test *t, uint64_t *ns, uint64_t *first_ns) {
    *first_ns = 0;
    if (t->n_gen == 0)
        return time_prompt(r, t, ns);
    return t->n_seqs > 1 ? time_batch(r, t, ns) : time_gen(r, t, ns, first_ns);
}

// One run of a test: a sample, or none where samples is NULL.
static pm_status run_once(runner *r, const bench_test *t, bench_samples *samples) {
    uint64_t ns, first_ns;
    for (uint32_t s = 0; s < t->n_seqs; s++)
        PM_TRY(bench_fill(r->session, (int)s, r->ids, t->n_depth, &r->filled[s]));
    double cpu = pm_cpu_seconds();
    PM_TRY(time_test(r, t, &ns, &first_ns));
    if (app_interrupted())
        return pm_fail(PM_ERR_CANCELLED, "interrupted");
    if (!samples)
        return PM_OK;
    samples->cpu_seconds += pm_cpu_seconds() - cpu;
    samples->first_ns += (double)first_ns;
    samples->ns[samples->n++] = ns;
    bench_meter_look(r->report->meter);
    return PM_OK;
}

// Passes of a prompt take turns in two recordings, each made when it is first run.
static pm_status warm_up(runner *r, bench_result *result) {
    pm_utc_text(result->test_time);
    if (result->test.n_prompt)
        PM_TRY(run_once(r, &result->test, NULL));
    return run_once(r, &result->test, NULL);
}

// ---- for long ---------------------------------------------------------------------------------------------------------

// Runs for a twentieth of the time, at least one: their mean is a sample.
static pm_status run_window(runner *r, bench_result *result, uint64_t began) {
    bench_samples some = {.n = 0};
    uint64_t window_began = pm_now_ns();
    double ns = 0;
    int n = 0;
    do {
        some.n = 0; // only sums are wanted
        PM_TRY(run_once(r, &result->test, &some));
        ns += (double)some.ns[0];
        n++;
    } while ((double)(pm_now_ns() - window_began) / 1e9 < result->sustain.wanted_s / BENCH_WINDOWS);
    result->ours.ns[result->ours.n++] = (uint64_t)(ns / n);
    result->ours.cpu_seconds += some.cpu_seconds / n;
    result->ours.first_ns += some.first_ns / n;
    double tokens = (double)(result->test.n_prompt + result->test.n_gen) * result->test.n_seqs;
    bench_sustain_add(&result->sustain, tokens * n * 1e9 / (ns > 0 ? ns : 1), (double)(pm_now_ns() - began) / 1e9);
    return PM_OK;
}

static pm_status run_for_long(runner *r, bench_result *result) {
    uint64_t began = pm_now_ns();
    result->sustain.wanted_s = r->o->sustain_s;
    do
        PM_TRY(run_window(r, result, began));
    while (!bench_sustain_is_full(&result->sustain));
    return PM_OK;
}

// ---- alone ------------------------------------------------------------------------------------------------------------

static pm_status run_alone(runner *r) {
    for (int i = 0; i < r->n; i++) {
        bench_result *result = &r->results[i];
        PM_TRY(warm_up(r, result));
        bench_meter_begin(r->report->meter);
        for (uint32_t k = 0; k < r->o->repetitions && r->o->sustain_s == 0; k++)
            PM_TRY(run_once(r, &result->test, &result->ours));
        if (r->o->sustain_s > 0)
            PM_TRY(run_for_long(r, result));
        result->power = bench_meter_end(r->report->meter);
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
