// What is said about sampling on the command line; the rest is the model's to say.
#include "app/sampling.h"

#include <float.h>
#include <stdlib.h>
#include <string.h>

// ---- reading ----------------------------------------------------------------------------------------------------------

// One ID=X at *text, and moves there behind it.
static bool read_bias(const char **text, pm_logit_bias *bias) {
    char *end;
    unsigned long id = strtoul(*text, &end, 10);
    if (**text < '0' || **text > '9' || id > INT32_MAX || *end != '=')
        return false;
    const char *number = end + 1;
    bias->id = (int32_t)id;
    bias->bias = strtof(number, &end);
    *text = end;
    return end > number && bias->bias <= FLT_MAX; // no NaN
}

pm_status app_sampling_read_bias(const app_option *o, const char *text, void *sampling) {
    app_sampling *s = sampling;
    for (const char *at = text;; at++) {
        if (s->n_bias == APP_MAX_BIASES)
            return pm_fail(PM_ERR_USAGE, "%s: more than %d of them", o->name, APP_MAX_BIASES);
        if (!read_bias(&at, &s->bias[s->n_bias]) || (*at && *at != ','))
            return pm_fail(PM_ERR_USAGE, "%s %s: no ID=X at offset %d", o->name, text, (int)(at - text));
        s->n_bias++;
        if (!*at)
            return PM_OK;
    }
}

static const char *const step_names[] = {
    [PM_BY_TEMPERATURE] = "temp", [PM_BY_TOP_K] = "top-k",         [PM_BY_TOP_P] = "top-p",
    [PM_BY_MIN_P] = "min-p",      [PM_BY_TYPICAL_P] = "typical-p",
};

// The step whose name is the n bytes at `text`; 0: none.
static uint8_t find_step(const char *text, size_t n) {
    for (uint8_t step = 1; step <= PM_N_STEPS; step++)
        if (strlen(step_names[step]) == n && !memcmp(step_names[step], text, n))
            return step;
    return 0;
}

static bool read_steps(const char *text, uint8_t order[PM_N_STEPS]) {
    unsigned there = 0;
    for (int i = 0; i < PM_N_STEPS; i++) {
        size_t n = strcspn(text, ",");
        order[i] = find_step(text, n);
        there |= 1u << order[i];
        text += n + (text[n] == ',' && i + 1 < PM_N_STEPS);
    }
    return !*text && there == (2u << PM_N_STEPS) - 2;
}

pm_status app_sampling_read_order(const app_option *o, const char *text, void *order) {
    static const char *const known[][2] = {
        // as others have it by default; whom typical-p is strange to, at the end
        {"hf", "temp,top-k,top-p,min-p,typical-p"},
        {"llamacpp", "top-k,typical-p,top-p,min-p,temp"},
        {"vllm", "temp,min-p,top-k,top-p,typical-p"},
    };
    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
        if (!strcmp(text, known[i][0]))
            text = known[i][1];
    if (read_steps(text, order))
        return PM_OK;
    return pm_fail(PM_ERR_USAGE, "%s %s: wanted hf, llamacpp, vllm, or %s in any order", o->name, text, known[0][1]);
}

pm_status app_stops_read(const app_option *o, const char *text, void *stops) {
    app_stops *s = stops;
    if (!*text)
        return pm_fail(PM_ERR_USAGE, "%s wants a text that is not empty", o->name);
    if (s->n == APP_MAX_STOPS)
        return pm_fail(PM_ERR_USAGE, "%s %s is one too many: %d are possible", o->name, text, APP_MAX_STOPS);
    s->strings[s->n++] = text;
    return PM_OK;
}

// ---- choosing ---------------------------------------------------------------------------------------------------------

// A short seed: one can type it again.
static uint64_t any_seed(void) {
    uint64_t x = pm_now_ns() ^ (uint64_t)(uintptr_t)&any_seed; // addresses are random where systems care
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return (x ^ x >> 31) & UINT32_MAX;
}

pm_sampler app_sampling_choose(const app_sampling *given, const pm_config *c) {
    pm_sampler sampler = {
        .temperature = given->temperature >= 0 ? given->temperature
                       : c->do_sample          ? c->temperature
                                               : 0,
        .top_k = given->top_k != APP_NOT_GIVEN ? given->top_k
                 : c->top_k > 0                ? (uint32_t)c->top_k
                                               : 0,
        .top_p = given->top_p >= 0 ? given->top_p : c->top_p,
        .min_p = given->min_p >= 0 ? given->min_p : c->min_p,
        .seed = given->seed != UINT64_MAX ? given->seed : any_seed(),
        .typical_p = given->typical_p,
        .repeat_penalty = given->repeat_penalty >= 0 ? given->repeat_penalty : c->repetition_penalty,
        .frequency_penalty = given->frequency_penalty,
        .presence_penalty = given->presence_penalty,
        .bias = given->bias,
        .n_bias = given->n_bias,
    };
    memcpy(sampler.order, given->order, sizeof(sampler.order));
    return sampler;
}
