// Trials of what comes after the logits: adjust, sieve, sample, logprobs.
#include "host/lab.h"

#include <float.h>
#include <math.h>
#include <string.h>

// Every kind of id: unseen, of the prompt, drawn once and often; biased and not.
void pm_try_adjust(pm_lab *lab, const pm_kernel_use *use, const char *type) {
    enum { M = 2 };
    static const struct pm_sampling sampling[M] = {{.repeat = 1.5f, .inv_repeat = 1 / 1.5f, .presence = 0.5f, .frequency = -0.25f},
                                                   {.repeat = 1, .inv_repeat = 1, .presence = -1}};
    static const uint32_t index[M] = {1, 0};
    static const struct pm_row rows[M] = {{.token = 3}, {.token = 4}};
    (void)type;
    uint32_t n_valid = 2 * use->spec[0] + 7, vocab = n_valid + 9, count = M * n_valid;
    float *logits = pm_lab_floats(lab, (size_t)M * vocab, -8, 8), *bias = pm_lab_floats(lab, count, -3, 3);
    uint32_t *seen = pm_lab_room(lab, count, sizeof(*seen));
    for (uint32_t i = 0; i < count; i++)
        seen[i] = (i % 3 ? 0 : PM_SEEN_IN_PROMPT) | (i % 5 < 2 ? i % 4 : 0);
    pm_adjust op = {.adjusted = pm_lab_activation(lab, M, vocab, NULL),
                    .logits = pm_lab_activation(lab, M, vocab, logits),
                    .n_valid = n_valid,
                    .sampling = pm_lab_put(lab, sampling, sizeof(sampling) / 4),
                    .bias = pm_lab_put(lab, bias, count),
                    .index = pm_lab_put(lab, index, M),
                    .rows = pm_lab_put(lab, rows, sizeof(rows) / 4),
                    .seen = pm_lab_put(lab, seen, count),
                    .count_rows = true};
    double *want = pm_lab_doubles(lab, n_valid);
    if (!pm_lab_ok(lab))
        return;
    pm_lab_begin(lab);
    pm_op_adjust(lab->cmd, &op);
    if (!pm_lab_run(lab))
        return;
    for (uint32_t m = 0; m < M; m++) {
        const float *row = logits + (size_t)m * vocab, *row_bias = bias + (size_t)m * n_valid;
        uint32_t *row_seen = seen + (size_t)m * n_valid;
        row_seen[rows[index[m]].token]++;
        pm_ref_adjust(row, n_valid, &sampling[m], row_bias, row_seen, want);
        for (uint32_t i = 0; i < n_valid; i++)
            pm_lab_compare(lab, pm_lab_float(pm_lab_result(lab, op.adjusted.data), (uint64_t)m * op.adjusted.stride + i), want[i],
                           pm_lab_tolerance(5, 2 * (fabs((double)row[i]) + fabs((double)row_bias[i])) + 4));
    }
    pm_lab_compare_exactly(lab, !memcmp(pm_lab_result(lab, op.seen), seen, (size_t)count * 4));
}

static bool is_listed(const uint32_t *sieved, uint32_t id) {
    uint32_t i = 0;
    while (i < sieved[0] && sieved[1 + i] != id)
        i++;
    return i < sieved[0];
}

// The ids of the slice [first, end) of logits: each once, and at least k of them above all that are left out.
static bool are_the_best(const uint32_t *sieved, const float *logits, uint32_t first, uint32_t end, uint32_t k) {
    uint32_t n_found = 0, above = 0;
    float left = -INFINITY;
    if (sieved[0] > PM_SIEVE_MOST)
        return false;
    for (uint32_t id = first; id < end; id++)
        if (is_listed(sieved, id))
            n_found++;
        else
            left = fmaxf(left, logits[id]);
    for (uint32_t id = first; id < end; id++)
        above += is_listed(sieved, id) && logits[id] > left;
    return n_found == sieved[0] && above >= k;
}

// Greedy; top-k; what wants all. Two slices, the second a short one.
void pm_try_sieve(pm_lab *lab, const pm_kernel_use *use, const char *type) {
    enum { M = 3, N = PM_SIEVE_SLICE + 77 };
    static const struct pm_sampling sampling[M] = {
        {.temperature = 0},
        {.temperature = 1, .top_p = 0.9f, .top_k = 10, .steps = PM_STEPS_USUAL},
        {.temperature = 1, .top_p = 0.9f, .steps = PM_STEPS_USUAL},
    };
    static const uint32_t wanted[M] = {1, 10, 0};
    (void)type;
    float *logits = pm_lab_floats(lab, (size_t)M * N, -8, 8);
    pm_sample op = {.logits = pm_lab_activation(lab, M, N, logits),
                    .n_valid = N,
                    .sampling = pm_lab_put(lab, sampling, sizeof(sampling) / 4),
                    .scratch = pm_lab_take(lab, pm_sample_scratch_bytes(M, N))};
    if (!pm_lab_ok(lab))
        return;
    pm_lab_begin(lab);
    pm_sample_sieve(lab->cmd, &op);
    if (!pm_lab_run(lab))
        return;
    const uint32_t *sieved = pm_lab_result(lab, op.scratch);
    for (uint32_t m = 0; m < M; m++)
        for (uint32_t slice = 0; slice < 2; slice++, sieved += 1 + PM_SIEVE_MOST) {
            uint32_t first = slice * PM_SIEVE_SLICE, end = slice ? N : PM_SIEVE_SLICE;
            bool few = wanted[m] > 0 && wanted[m] <= use->spec[0];
            pm_lab_compare_exactly(lab, few ? are_the_best(sieved, logits + (size_t)m * N, first, end, wanted[m])
                                            : sieved[0] == PM_SIEVE_ALL);
        }
}

// Greedy; top-k; top-p and min-p. What is drawn must be among the ids that the sampling leaves.
void pm_try_sample(pm_lab *lab, const pm_kernel_use *use, const char *type) {
    enum { M = 3 };
    static const struct pm_sampling sampling[M] = {
        {.temperature = 0, .top_p = 1},
        {.temperature = 1, .top_p = 1, .top_k = 5, .seed_lo = 7},
        {.temperature = 0.7f, .top_p = 0.8f, .min_p = 0.05f, .seed_hi = 9},
    };
    static const uint32_t index[M] = {2, 0, 1};
    static const struct pm_row rows[M] = {{.seq = 1, .pos = 3}, {.seq = 2, .pos = 40}, {.seq = 0, .pos = 0}};
    (void)type;
    uint32_t n_valid = 2 * use->spec[0] + 7, vocab = n_valid + 9;
    float *logits = pm_lab_floats(lab, (size_t)M * vocab, -8, 8);
    for (uint32_t m = 0; m < M; m++)
        logits[(size_t)m * vocab + n_valid] = 100; // padding, which nobody draws
    pm_sample op = {.logits = pm_lab_activation(lab, M, vocab, logits),
                    .n_valid = n_valid,
                    .sampling = pm_lab_put(lab, sampling, sizeof(sampling) / 4),
                    .index = pm_lab_put(lab, index, M),
                    .rows = pm_lab_put(lab, rows, sizeof(rows) / 4),
                    .scratch = pm_lab_take(lab, pm_sample_scratch_bytes(M, n_valid)),
                    .next = pm_lab_take(lab, M * sizeof(struct pm_row)),
                    .results = pm_lab_take(lab, (M + 2) * 4),
                    .result0 = 1};
    double *p = pm_lab_doubles(lab, n_valid);
    if (!pm_lab_ok(lab))
        return;
    pm_lab_begin(lab);
    pm_op_sample(lab->cmd, &op);
    if (!pm_lab_run(lab))
        return;
    for (uint32_t m = 0; m < M; m++) {
        uint32_t id = pm_lab_result(lab, op.results)[1 + m];
        const uint32_t *next = pm_lab_result(lab, op.next) + 4 * (size_t)m,
                       want[3] = {id, rows[index[m]].seq, rows[index[m]].pos + 1};
        pm_ref_sample(logits + (size_t)m * vocab, n_valid, &sampling[m], 1e-4, p);
        pm_lab_compare_exactly(lab, id < n_valid && p[id < n_valid ? id : 0] > 0 && !memcmp(next, want, sizeof(want)));
    }
}

static uint32_t place_of(const float *logits, uint32_t n_valid, uint32_t id) {
    uint32_t place = 0;
    for (uint32_t i = 0; i < n_valid; i++)
        place += logits[i] > logits[id] || (logits[i] == logits[id] && i < id);
    return place;
}

// Of the likeliest the last ones are equal.
void pm_try_logprobs(pm_lab *lab, const pm_kernel_use *use, const char *type) {
    enum { M = 2, N = 5 };
    (void)type;
    uint32_t n_valid = 2 * use->spec[0] + 7, vocab = n_valid + 9;
    const struct pm_row next[M] = {{.token = n_valid - 1}, {.token = 3}};
    float *logits = pm_lab_floats(lab, (size_t)M * vocab, -8, 8);
    for (uint32_t m = 0; m < M; m++) {
        for (uint32_t i = 1; i < n_valid; i += n_valid / 7)
            logits[(size_t)m * vocab + i] = i < n_valid / 2 ? 9 + (float)i / 64 : 9;
        logits[(size_t)m * vocab + n_valid] = 100; // padding
    }
    pm_logprobs op = {.logits = pm_lab_activation(lab, M, vocab, logits),
                      .n_valid = n_valid,
                      .n = N,
                      .next = pm_lab_put(lab, next, sizeof(next) / 4),
                      .likely = pm_lab_take(lab, M * (1 + N) * sizeof(struct pm_likely))};
    double *want = pm_lab_doubles(lab, n_valid);
    if (!pm_lab_ok(lab))
        return;
    pm_lab_begin(lab);
    pm_op_logprobs(lab->cmd, &op);
    if (!pm_lab_run(lab))
        return;
    for (uint32_t m = 0; m < M; m++) {
        const uint32_t *got = pm_lab_result(lab, op.likely) + (size_t)m * (1 + N) * 2;
        pm_ref_logprobs(logits + (size_t)m * vocab, n_valid, want);
        pm_lab_compare_exactly(lab, got[0] == next[m].token);
        for (uint32_t i = 0; i <= N; i++) {
            uint32_t id = got[2 * i] < n_valid ? got[2 * i] : 0;
            pm_lab_compare_exactly(lab, id == got[2 * i] && (i == 0 || place_of(logits + (size_t)m * vocab, n_valid, id) == i - 1));
            pm_lab_compare(lab, pm_lab_float(got, 2 * i + 1), want[id],
                           pm_lab_tolerance(n_valid, 1) + FLT_EPSILON * fabs(want[id]));
        }
    }
}
