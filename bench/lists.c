// Lists of numbers as llama-bench reads them: "1,4,16", "8-64*2", "0-4096+1024".
#include "bench/bench.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool read_number(const char **p, uint32_t *value) {
    char *end;
    unsigned long long number = **p >= '0' && **p <= '9' ? strtoull(*p, &end, 10) : APP_MAX_CTX + 1ull;
    if (number > APP_MAX_CTX)
        return false;
    *value = (uint32_t)number;
    *p = end;
    return true;
}

// What follows the first number of a range: "-64", "-64*2", "-4096+1024".
typedef struct range {
    uint32_t last, step;
    bool multiply;
} range;

static bool read_range(const char **p, range *r) {
    (*p)++;
    if (!read_number(p, &r->last))
        return false;
    if (**p != '+' && **p != '*')
        return true;
    r->multiply = *(*p)++ == '*';
    return read_number(p, &r->step) && r->step > r->multiply;
}

static bool add_range(bench_list *list, uint64_t value, const range *r) {
    for (; value <= r->last; value = r->multiply ? value * r->step : value + r->step) {
        if (list->n == BENCH_MAX_LIST)
            return false;
        list->values[list->n++] = (uint32_t)value;
    }
    return true;
}

// A number, or a range that goes somewhere: 0 times anything stays 0.
static bool read_item(const char **p, uint32_t *first, range *r) {
    if (!read_number(p, first))
        return false;
    *r = (range){.last = *first, .step = 1};
    if (**p == '-' && !read_range(p, r))
        return false;
    return r->last >= *first && !(r->multiply && *first == 0) && (**p == ',' || !**p);
}

pm_status bench_seconds_read(const app_option *option, const char *text, void *value) {
    char *end;
    double seconds = strtod(text, &end);
    if (end == text || (*end && strcmp(end, "s")) || !(seconds > 0 && seconds <= 86400))
        return pm_fail(PM_ERR_USAGE, "%s %s: wanted seconds, 60s", option->name, text);
    *(double *)value = seconds;
    return PM_OK;
}

pm_status bench_list_read(const char *option, const char *text, bench_list *list) {
    for (const char *p = text;; p++) {
        uint32_t first;
        range r;
        if (!read_item(&p, &first, &r))
            return pm_fail(PM_ERR_USAGE, "%s %s: wanted whole numbers up to %d with commas between, or ranges: 8-64*2, 0-4096+1024",
                           option, text, APP_MAX_CTX);
        if (!add_range(list, first, &r))
            return pm_fail(PM_ERR_USAGE, "%s %s: more than %d numbers", option, text, BENCH_MAX_LIST);
        if (!*p)
            return PM_OK;
    }
}

pm_status bench_pair_read(const app_option *option, const char *text, void *value) {
    bench_pairs *pairs = value;
    bench_pair pair = {.text = text};
    const char *p = text;
    bool ok = read_number(&p, &pair.n_prompt) && *p++ == ',' && read_number(&p, &pair.n_gen) && !*p;
    if (!ok || pair.n_prompt == 0 || pair.n_gen == 0)
        return pm_fail(PM_ERR_USAGE, "%s %s: wanted tokens of the prompt and tokens to generate: 512,128", option->letter, text);
    if (pairs->n == BENCH_MAX_PAIRS)
        return pm_fail(PM_ERR_USAGE, "%s is given more than %d times", option->letter, BENCH_MAX_PAIRS);
    pairs->pairs[pairs->n++] = pair;
    return PM_OK;
}

pm_status bench_model_read(const app_option *option, const char *text, void *value) {
    bench_models *models = value;
    if (models->n == BENCH_MAX_MODELS)
        return pm_fail(PM_ERR_USAGE, "%s %s: more than %d models", option->name, text, BENCH_MAX_MODELS);
    models->paths[models->n++] = text;
    return PM_OK;
}

pm_status bench_synthetic_read(const app_option *option, const char *text, void *value) {
    bench_models *models = value;
    if (models->n < BENCH_MAX_MODELS) {
        char *name = models->names[models->n];
        snprintf(name, sizeof(models->names[0]), "synthetic:%s", text);
        text = name;
    }
    return bench_model_read(option, text, value);
}
