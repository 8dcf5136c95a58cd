// The CPU truth of drawing: what an id is drawn from, penalties, log probabilities.
#include "host/reference.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

// ---- sample -----------------------------------------------------------------------------------------------------------

// What is no number counts as the lowest one.
static double logit(float l) {
    return l > -FLT_MAX ? l : -FLT_MAX;
}

static int descending(const void *left, const void *right) {
    double a = *(const double *)left, b = *(const double *)right;
    return a < b ? 1 : a > b ? -1 : 0;
}

// What is left of n logits: those in [low, high].
typedef struct narrowing {
    const float *logits;
    uint32_t n;
    double low, high, temperature;
    double *scores; // (n): room to sort in
} narrowing;

static bool is_left(const narrowing *w, uint32_t i) {
    return logit(w->logits[i]) >= w->low && logit(w->logits[i]) <= w->high;
}

// ln p, up to a constant.
static double exponent(const narrowing *w, double l) {
    return (l - w->high) / w->temperature;
}

static double mass_from(const narrowing *w, double low) {
    double mass = 0;
    for (uint32_t i = 0; i < w->n; i++)
        if (is_left(w, i) && logit(w->logits[i]) >= low)
            mass += exp(exponent(w, logit(w->logits[i])));
    return mass;
}

// Sorts what is left into scores; returns how many.
static uint32_t sort_left(narrowing *w) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < w->n; i++)
        if (is_left(w, i))
            w->scores[n++] = logit(w->logits[i]);
    qsort(w->scores, n, sizeof(*w->scores), descending);
    return n;
}

static void keep_top_k(narrowing *w, uint32_t k) {
    uint32_t n = sort_left(w);
    if (k > 0 && k < n)
        w->low = w->scores[k - 1];
}

// An id is kept if what is strictly greater has less than top_p of the mass.
static void keep_top_p(narrowing *w, double top_p) {
    uint32_t n = sort_left(w);
    double mass = mass_from(w, w->low), before = 0, lowest = w->scores[0];
    for (uint32_t i = 0; i < n && before / mass < top_p;) {
        lowest = w->scores[i];
        for (; i < n && w->scores[i] == lowest; i++)
            before += exp(exponent(w, lowest));
    }
    w->low = lowest;
}

// How far ln p is from what it is on average.
static double surprise(const narrowing *w, double l, double mean) {
    return fabs(exponent(w, l) - mean);
}

static double mass_within(const narrowing *w, double mean, double radius) {
    double mass = 0;
    for (uint32_t i = 0; i < w->n; i++)
        if (is_left(w, i) && surprise(w, logit(w->logits[i]), mean) <= radius)
            mass += exp(exponent(w, logit(w->logits[i])));
    return mass;
}

static double mean_exponent(const narrowing *w) {
    double mass = 0, sum = 0;
    for (uint32_t i = 0; i < w->n; i++) {
        double e = exponent(w, logit(w->logits[i])), p = is_left(w, i) ? exp(e) : 0;
        mass += p;
        sum += p > 0 ? p * e : 0;
    }
    return sum / mass;
}

// The smallest radius about the mean that holds as much mass, and the band it makes.
static void keep_typical(narrowing *w, double typical_p) {
    double mean = mean_exponent(w), wanted = typical_p * mass_from(w, w->low), low = w->high, high = w->low;
    uint32_t n = 0, most = 0, least = 0; // of how many, nearest first, the mass is looked at: least is too few but for the last
    for (uint32_t i = 0; i < w->n; i++)
        if (is_left(w, i))
            w->scores[n++] = -surprise(w, logit(w->logits[i]), mean);
    qsort(w->scores, n, sizeof(*w->scores), descending);
    for (most = n; most - least > 1;) {
        uint32_t middle = least + (most - least) / 2;
        if (mass_within(w, mean, -w->scores[middle - 1]) >= wanted)
            most = middle;
        else
            least = middle;
    }
    for (uint32_t i = 0; i < w->n; i++) {
        double l = logit(w->logits[i]);
        if (is_left(w, i) && surprise(w, l, mean) <= -w->scores[most - 1]) {
            low = fmin(low, l);
            high = fmax(high, l);
        }
    }
    w->low = low;
    w->high = high;
}

static void take_step(narrowing *w, uint32_t step, const struct pm_sampling *s, double slack) {
    if (step == PM_STEP_TEMPERATURE)
        w->temperature = s->temperature;
    if (step == PM_STEP_TOP_K)
        keep_top_k(w, s->top_k);
    if (step == PM_STEP_TOP_P && s->top_p < 1)
        keep_top_p(w, s->top_p + slack);
    if (step == PM_STEP_MIN_P && s->min_p > 0 && s->min_p - slack > 0)
        w->low = fmax(w->low, fmin(w->high, w->high + w->temperature * log(s->min_p - slack)));
    if (step == PM_STEP_TYPICAL_P && s->typical_p > 0 && s->typical_p < 1)
        keep_typical(w, s->typical_p + slack);
}

static uint32_t lowest_id_of_greatest(const float *logits, uint32_t n) {
    uint32_t best = 0;
    for (uint32_t i = 1; i < n; i++)
        if (logit(logits[i]) > logit(logits[best]))
            best = i;
    return best;
}

uint32_t pm_ref_sample(const float *logits, uint32_t n_valid, const struct pm_sampling *s, double slack, double *p) {
    uint32_t best = lowest_id_of_greatest(logits, n_valid), n_kept = 0;
    bool greedy = !(s->temperature > 0);
    narrowing w = {logits, n_valid, -FLT_MAX, logit(logits[best]), 1, p};
    double sum = 0;
    for (uint32_t steps = greedy ? 0 : s->steps; steps; steps >>= 4)
        take_step(&w, steps & 15, s, slack);
    for (uint32_t i = 0; i < n_valid; i++) {
        bool kept = greedy ? i == best : is_left(&w, i);
        p[i] = !kept ? 0 : greedy ? 1 : exp((logit(logits[i]) - w.high) / s->temperature);
        sum += p[i];
        n_kept += p[i] > 0;
    }
    for (uint32_t i = 0; i < n_valid; i++)
        p[i] /= sum;
    return n_kept;
}

// ---- adjust -----------------------------------------------------------------------------------------------------------

void pm_ref_adjust(const float *logits, uint32_t n_valid, const struct pm_sampling *s, const float *bias, const uint32_t *seen,
                   double *adjusted) {
    for (uint32_t i = 0; i < n_valid; i++) {
        double l = (double)logits[i] + bias[i];
        uint32_t count = seen[i] & PM_SEEN_COUNT;
        if (seen[i])
            l = l > 0 ? l / s->repeat : l * s->repeat;
        if (count)
            l -= (double)s->frequency * count + s->presence;
        adjusted[i] = fmin(l > -FLT_MAX ? l : -FLT_MAX, FLT_MAX);
    }
}

// ---- logprobs ---------------------------------------------------------------------------------------------------------

void pm_ref_logprobs(const float *logits, uint32_t n_valid, double *logprobs) {
    double most = logit(logits[lowest_id_of_greatest(logits, n_valid)]), mass = 0;
    for (uint32_t i = 0; i < n_valid; i++)
        mass += exp(logit(logits[i]) - most);
    for (uint32_t i = 0; i < n_valid; i++)
        logprobs[i] = logit(logits[i]) - most - log(mass);
}
