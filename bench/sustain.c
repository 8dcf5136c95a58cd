// Cold and sustained: a test runs on and on, and its rate is looked at in windows of time, so that a device which slows down when
// it gets warm shows what it can keep up.
#include "bench/bench.h"

// Both halves of the last ten windows within 1 %, after at least half of the time.
bool bench_sustain_is_steady(const bench_sustain *s) {
    double last = 0, before = 0;
    if (s->n < BENCH_WINDOWS / 2)
        return false;
    for (int i = 1; i <= 5; i++) {
        last += s->rates[s->n - i];
        before += s->rates[s->n - 5 - i];
    }
    return last <= 1.01 * before && before <= 1.01 * last;
}

void bench_sustain_add(bench_sustain *s, double rate, double end_s) {
    s->rates[s->n] = rate;
    s->ends[s->n++] = end_s;
    s->seconds = end_s;
}

bool bench_sustain_is_full(const bench_sustain *s) {
    return s->n == BENCH_WINDOWS || s->seconds >= s->wanted_s || bench_sustain_is_steady(s);
}

double bench_sustain_cold(const bench_sustain *s) {
    return s->rates[0];
}

// Of the last quarter.
double bench_sustain_kept(const bench_sustain *s) {
    int count = s->n / 4 > 0 ? s->n / 4 : 1;
    double sum = 0;
    for (int i = s->n - count; i < s->n; i++)
        sum += s->rates[i];
    return sum / count;
}

double bench_sustain_throttle_s(const bench_sustain *s) {
    int first = s->n; // of the windows up to the end whose rate is so low
    while (first > 0 && s->rates[first - 1] < 0.95 * s->rates[0])
        first--;
    return first == s->n ? -1 : first == 0 ? 0 : s->ends[first - 1];
}
