// Trials of what comes after the logits: sieve, sample.
#include "host/lab.h"

#include <math.h>
#include <string.h>

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
