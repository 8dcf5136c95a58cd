// Proof beside the numbers: the very model on the very device, with the kernels that are measured, held against the reference in
// truth.c. A prompt runs at once, then a few rows as a batch, then rows one by one: kernels for many rows, for few, and for one.
#include "bench/bench.h"
#include "bench/truth.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { N_PROMPT = 12, N_BATCH = 4, N_STEPS = 8, N_ALL = N_PROMPT + N_BATCH + N_STEPS, N_TOLD = 1 + N_BATCH + N_STEPS };

// Rounding leaves logits within 0.03 % of their spread where sums and operands are floats (28 layers, random weights); what halves
// as operands add is some parts of a thousand in each product. A kernel that does nothing leaves 130 %.
static const double MOST_ERROR = 0.05, MOST_KL = 0.02;

typedef struct comparison {
    const bench_subject *subject;
    pm_session *session;
    int32_t *ids;
    float *got;   // (N_TOLD, vocab)
    double *want; // (N_TOLD, vocab)
    uint32_t vocab;
} comparison;

// ---- the device -------------------------------------------------------------------------------------------------------

static void keep(comparison *c, int row, const float *logits) {
    memcpy(c->got + (size_t)row * c->vocab, logits, c->vocab * sizeof(*logits));
}

static pm_status run_batch(comparison *c) {
    pm_batch_row rows[N_BATCH];
    const float *logits;
    int most = (int)pm_session_max_batch(c->session);
    for (int i = 0; i < N_BATCH; i += most) {
        int n = N_BATCH - i < most ? N_BATCH - i : most;
        for (int k = 0; k < n; k++)
            rows[k] = (pm_batch_row){0, c->ids[N_PROMPT + i + k]};
        PM_TRY(pm_session_eval_batch(c->session, rows, n, &logits));
        for (int k = 0; k < n; k++)
            keep(c, 1 + i + k, logits + (size_t)k * pm_session_logits_stride(c->session));
    }
    return PM_OK;
}

static pm_status run_device(comparison *c) {
    const float *logits;
    PM_TRY(pm_session_eval(c->session, 0, c->ids, N_PROMPT, &logits));
    keep(c, 0, logits);
    PM_TRY(run_batch(c));
    for (int i = 0; i < N_STEPS; i++) {
        PM_TRY(pm_session_eval(c->session, 0, c->ids + N_PROMPT + N_BATCH + i, 1, &logits));
        keep(c, 1 + N_BATCH + i, logits);
    }
    return PM_OK;
}

static void list_variants(const comparison *c, bench_proof *proof) {
    int n;
    const pm_profile_row *rows = pm_session_profile(c->session, &n);
    for (int i = 0; i < n && proof->n_variants < BENCH_MAX_VARIANTS; i++) {
        char *text = proof->variants[proof->n_variants];
        snprintf(text, sizeof(proof->variants[0]), "%s:%s", rows[i].kernel, rows[i].numbers);
        bool listed = !rows[i].numbers[0]; // copies
        for (int k = 0; k < proof->n_variants; k++)
            listed = listed || !strcmp(proof->variants[k], text);
        proof->n_variants += !listed;
    }
}

// ---- comparing --------------------------------------------------------------------------------------------------------

typedef struct sums {
    double off, size, kl; // squares of distances, of the spread of what is wanted
    int agree;
} sums;

static double log_mass(const double *logits, uint32_t n, uint32_t *greatest) {
    double mass = 0;
    *greatest = 0;
    for (uint32_t i = 1; i < n; i++)
        *greatest = logits[i] > logits[*greatest] ? i : *greatest;
    for (uint32_t i = 0; i < n; i++)
        mass += exp(logits[i] - logits[*greatest]);
    return logits[*greatest] + log(mass);
}

// got: the device's logits, of which the memory of `room` (n) makes doubles.
static void compare_row(const float *got, const double *want, uint32_t n, double *room, sums *s) {
    uint32_t mine, wanted;
    double mean = 0;
    for (uint32_t i = 0; i < n; i++) {
        room[i] = got[i];
        mean += want[i] / n;
    }
    double got_mass = log_mass(room, n, &mine), want_mass = log_mass(want, n, &wanted);
    for (uint32_t i = 0; i < n; i++) {
        double p = want[i] - want_mass;
        s->kl += exp(p) * (p - (room[i] - got_mass));
        s->off += (room[i] - want[i]) * (room[i] - want[i]);
        s->size += (want[i] - mean) * (want[i] - mean);
    }
    s->agree += mine == wanted;
}

static pm_status compare(const comparison *c, bench_proof *proof) {
    sums s = {.agree = 0};
    double *room = pm_calloc(c->vocab, sizeof(*room));
    if (!room)
        return pm_fail(PM_ERR_MEMORY, "no memory to compare logits");
    for (int i = 0; i < N_TOLD; i++)
        compare_row(c->got + (size_t)i * c->vocab, c->want + (size_t)i * c->vocab, c->vocab, room, &s);
    pm_free(room);
    proof->known = true;
    proof->n = N_TOLD;
    proof->n_agree = s.agree;
    proof->kl = fmax(s.kl / N_TOLD, 0);
    proof->error = sqrt(s.off / s.size);
    proof->right = isfinite(s.kl) && proof->kl <= MOST_KL && proof->error <= MOST_ERROR;
    return PM_OK;
}

// ---- all --------------------------------------------------------------------------------------------------------------

static uint32_t kv_bits(const bench_options *o) {
    const char *name = app_context_kv_name(&o->context);
    return !strcmp(name, "f16") ? 16 : !strcmp(name, "q8_0") ? 8 : 32;
}

static pm_status open_comparison(const bench_options *o, comparison *c) {
    pm_session_options options = {.ctx = N_ALL, .profile = true};
    app_context_cache(&o->context, &options);
    c->vocab = pm_model_config(c->subject->model)->vocab_size;
    c->got = pm_calloc((size_t)N_TOLD * c->vocab, sizeof(*c->got));
    c->want = pm_calloc((size_t)N_TOLD * c->vocab, sizeof(*c->want));
    if (!c->got || !c->want)
        return pm_fail(PM_ERR_MEMORY, "no memory for logits to compare");
    PM_TRY(bench_make_ids(c->subject->model, N_ALL, &c->ids));
    return pm_session_open(c->subject->model, &options, &c->session);
}

// About so many products a second and core, for weights of 4 bits on this project's machine.
static void tell_wait(const bench_subject *s) {
    const double products = 1.4e9;
    double seconds = N_ALL * (double)s->n_params / products / pm_cpu_count();
    pm_log(seconds < 10 ? PM_LOG_INFO : PM_LOG_WARN, "the reference on the CPU takes about %.0f s; --no-proof goes without",
           seconds);
}

static pm_status run_both(const bench_options *o, comparison *c, bench_proof *proof) {
    bench_truth_args args = {
        .path = o->model, .ids = c->ids, .n = N_ALL, .first = N_PROMPT - 1, .kv_bits = kv_bits(o), .cancelled = app_interrupted};
    app_watch(c->session);
    pm_status status = run_device(c);
    app_watch(NULL);
    PM_TRY(status);
    list_variants(c, proof);
    pm_device_verdicts(c->subject->dev, &proof->n_right, &proof->n_tried);
    tell_wait(c->subject);
    PM_TRY(bench_truth(&args, c->want));
    return compare(c, proof);
}

pm_status bench_prove(const bench_options *options, const bench_subject *subject, bench_proof *proof) {
    comparison c = {.subject = subject};
    *proof = (bench_proof){.known = false};
    if (pm_model_config(subject->model)->no_head)
        return PM_OK;
    pm_status status = open_comparison(options, &c);
    if (status == PM_OK)
        status = run_both(options, &c, proof);
    pm_session_close(&c.session);
    pm_free(c.ids);
    pm_free(c.got);
    pm_free(c.want);
    if (status == PM_ERR_UNSUPPORTED) { // by the reference: the numbers stand without proof
        pm_log(PM_LOG_WARN, "no proof: %s", pm_error_text());
        return PM_OK;
    }
    if (status == PM_OK && !proof->right)
        pm_log(PM_LOG_WARN,
               "%s computes what is wrong: logits are %.0f %% off, %d of %d greedy tokens agree; these numbers mean "
               "nothing",
               subject->device->name, 100 * proof->error, proof->n_agree, proof->n);
    return status;
}
