// Stop strings. Held back is the longest end of the text that is the beginning of a string: at most a string less a byte.
#include <string.h>

#include "backend/text.h"
#include "backend/unicode.h"
#include "host/base.h"

typedef struct stop {
    const char *text;
    size_t n;
} stop;

struct pm_stops {
    int n;
    stop *stops;
    char *texts;
    char held[PM_STOP_MAX];
    size_t n_held;
};

static pm_status check(const char *text) {
    size_t n = strlen(text);
    if (n == 0)
        return pm_fail(PM_ERR_USAGE, "an empty stop string");
    if (n > PM_STOP_MAX)
        return pm_fail(PM_ERR_USAGE, "a stop string of %zu bytes: %d are possible", n, PM_STOP_MAX);
    if (pm_utf8_check(text, n) < n)
        return pm_fail(PM_ERR_USAGE, "a stop string that is not UTF-8");
    return PM_OK;
}

static pm_status copy_strings(pm_stops *s, const char *const *strings, int n) {
    size_t size = 0;
    for (int i = 0; i < n; i++)
        size += strlen(strings[i]);
    s->stops = pm_calloc((size_t)n, sizeof(*s->stops));
    s->texts = pm_malloc(size);
    if (!s->stops || !s->texts)
        return pm_fail(PM_ERR_MEMORY, "no memory for stop strings");
    char *to = s->texts;
    for (int i = 0; i < n; i++) {
        s->stops[i] = (stop){to, strlen(strings[i])};
        memcpy(to, strings[i], s->stops[i].n);
        to += s->stops[i].n;
    }
    s->n = n;
    return PM_OK;
}

pm_status pm_stops_open(const char *const *strings, int n, pm_stops **stops) {
    *stops = NULL;
    for (int i = 0; i < n; i++)
        PM_TRY(check(strings[i]));
    pm_stops *s = pm_calloc(1, sizeof(*s));
    *stops = s;
    if (!s)
        return pm_fail(PM_ERR_MEMORY, "no memory for stop strings");
    pm_status status = copy_strings(s, strings, n);
    if (status != PM_OK)
        pm_stops_close(stops);
    return status;
}

void pm_stops_close(pm_stops **stops) {
    pm_stops *s = *stops;
    if (!s)
        return;
    pm_free(s->stops);
    pm_free(s->texts);
    pm_free(s);
    *stops = NULL;
}

// Bytes of the longest stop string that what is held ends with; 0: none.
static size_t complete(const pm_stops *s) {
    size_t most = 0;
    for (int i = 0; i < s->n; i++) {
        const stop *t = &s->stops[i];
        if (t->n > most && t->n <= s->n_held && !memcmp(s->held + s->n_held - t->n, t->text, t->n))
            most = t->n;
    }
    return most;
}

static bool begins_one(const pm_stops *s, const char *text, size_t n) {
    for (int i = 0; i < s->n; i++)
        if (n < s->stops[i].n && !memcmp(text, s->stops[i].text, n))
            return true;
    return false;
}

// Writes what is held but its last `keep` bytes.
static size_t release(pm_stops *s, size_t keep, char *out) {
    size_t n = s->n_held - keep;
    memcpy(out, s->held, n);
    memmove(s->held, s->held + n, keep);
    s->n_held = keep;
    return n;
}

// As much as may become a string is less than the longest: there is always room for the next byte.
bool pm_stops_next(pm_stops *s, const char *text, size_t n, char *out, size_t *n_out) {
    *n_out = 0;
    for (size_t i = 0; i < n; i++) {
        s->held[s->n_held++] = text[i];
        size_t found = complete(s), keep = s->n_held;
        if (found > 0) {
            *n_out += release(s, found, out + *n_out);
            s->n_held = 0;
            return true;
        }
        while (keep > 0 && !begins_one(s, s->held + s->n_held - keep, keep))
            keep--;
        *n_out += release(s, keep, out + *n_out);
    }
    return false;
}

size_t pm_stops_end(pm_stops *s, char *out) {
    return release(s, 0, out);
}
