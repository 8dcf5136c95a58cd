// Which of several ways to do the same is fastest here: run in turns, by the device's clock. A challenger takes the place of the
// default only where it wins pairwise, by a clear margin, twice: what is as fast stays as it is, and a noisy machine decides
// nothing. What cannot win, since it must move more bytes than the device moves in the time of the best, is not measured.
#include "host/vk.h"

#include <stdlib.h>

// A candidate's work, ready to be submitted again and again.
typedef struct runner {
    int candidate;
    pm_cmd *cmd;
} runner;

static bool has_time(const pm_contest *c) {
    return pm_now_ns() < c->deadline_ns;
}

// ---- what a device moves ------------------------------------------------------------------------------------------------

static pm_status time_once(pm_cmd *cmd, uint64_t *ns) {
    uint64_t began = pm_now_ns();
    int n;
    PM_TRY(pm_cmd_submit(cmd));
    PM_TRY(pm_cmd_wait(cmd));
    const pm_timing *timings = pm_cmd_timings(cmd, &n);
    uint64_t told = n > 0 ? timings[0].ns : 0, waited = pm_now_ns() - began;
    told = told ? told : waited;
    *ns = told < *ns ? told : *ns;
    return PM_OK;
}

static pm_status time_copies(pm_device *dev, pm_slabs *slabs, uint64_t size, uint64_t *ns) {
    enum { TIMES = 4 };
    pm_slice from, to;
    pm_cmd *cmd;
    PM_TRY(pm_slabs_alloc(slabs, size, &from));
    PM_TRY(pm_slabs_alloc(slabs, size, &to));
    PM_TRY(pm_cmd_open(dev, "a copy", &cmd));
    pm_cmd_profile(cmd, dev->info.timestamp_bits > 0);
    pm_cmd_begin(cmd);
    pm_cmd_copy(cmd, to, from);
    pm_status status = pm_cmd_end(cmd);
    for (int i = 0; i < TIMES && status == PM_OK; i++)
        status = time_once(cmd, ns);
    pm_cmd_close(&cmd);
    return status;
}

double pm_contest_rate(pm_device *dev) {
    enum { SIZE = 32 << 20 };
    pm_slabs *slabs;
    uint64_t ns = UINT64_MAX;
    if (pm_slabs_create(dev, 2 * SIZE, "copies", &slabs) != PM_OK)
        return 0;
    pm_status status = time_copies(dev, slabs, SIZE, &ns);
    pm_slabs_close(&slabs);
    return status == PM_OK && ns > 0 && ns < UINT64_MAX ? 2.0 * SIZE / ((double)ns / 1e3) : 0;
}

// A tenth is left for what reads faster than it copies.
bool pm_contest_can_win(uint64_t bytes, double rate, double best_us) {
    return rate <= 0 || (double)bytes / rate < 0.9 * best_us;
}

// ---- measuring ----------------------------------------------------------------------------------------------------------

// Microseconds of a run's piece of work: by the device's clock, by ours where it has none.
static pm_status measure(pm_contest *c, runner *r, double *us) {
    int n;
    uint64_t began = pm_now_ns(), ns = 0;
    PM_TRY(pm_cmd_submit(r->cmd));
    PM_TRY(pm_cmd_wait(r->cmd));
    uint64_t waited = pm_now_ns() - began;
    const pm_timing *timings = pm_cmd_timings(r->cmd, &n);
    for (int i = 0; i < n; i++)
        ns += timings[i].ns;
    *us = (double)(ns ? ns : waited) / 1e3 / c->n_pieces;
    return PM_OK;
}

static pm_status record(pm_contest *c, runner *r) {
    pm_cmd_begin(r->cmd);
    for (int i = 0; i < c->n_pieces; i++)
        c->record(c->user, r->cmd, r->candidate, i);
    return pm_cmd_end(r->cmd);
}

// And a first run, which may have to wait for a compiler or a clock to wake up.
static pm_status open_runner(pm_contest *c, int candidate, runner *r) {
    double us;
    *r = (runner){.candidate = candidate};
    PM_TRY(pm_cmd_open(c->dev, "measurement", &r->cmd));
    pm_cmd_profile(r->cmd, c->dev->info.timestamp_bits > 0);
    PM_TRY(record(c, r));
    return measure(c, r, &us);
}

static int ascending(const void *left, const void *right) {
    double a = *(const double *)left, b = *(const double *)right;
    return a < b ? -1 : a > b;
}

bool pm_tune_wins(double *ratios, int n) {
    int won = 0;
    for (int i = 0; i < n; i++)
        won += ratios[i] < 1;
    qsort(ratios, (size_t)n, sizeof(*ratios), ascending);
    return ratios[n / 2] < 0.97 && won * 5 >= n * 4;
}

// Both run in turns, now one first and now the other. *us are the fastest of each. Where time runs out nobody has won.
enum { MOST_ROUNDS = 9 };
static pm_status duel(pm_contest *c, runner *challenger, runner *champion, int rounds, bool *won, double us[2]) {
    double ratios[MOST_ROUNDS], t[2];
    us[0] = us[1] = 1e300;
    *won = false;
    for (int i = 0; i < rounds; i++) {
        if (i > 0 && !has_time(c)) {
            c->partly = true;
            return PM_OK;
        }
        PM_TRY(i % 2 ? measure(c, challenger, &t[0]) : measure(c, champion, &t[1]));
        PM_TRY(i % 2 ? measure(c, champion, &t[1]) : measure(c, challenger, &t[0]));
        ratios[i] = t[0] / t[1];
        for (int k = 0; k < 2; k++)
            us[k] = t[k] < us[k] ? t[k] : us[k];
    }
    *won = pm_tune_wins(ratios, rounds);
    return PM_OK;
}

// One round shows what is far behind; five who is ahead.
static pm_status challenge(pm_contest *c, int candidate, runner *best) {
    runner r = {.cmd = NULL};
    bool won = false;
    double us[2];
    pm_status status = open_runner(c, candidate, &r);
    if (status == PM_OK)
        status = duel(c, &r, best, 1, &won, us);
    won = false;
    if (status == PM_OK && us[0] < 1.3 * us[1])
        status = duel(c, &r, best, 5, &won, us);
    if (status == PM_OK && won) {
        runner loser = *best;
        *best = r;
        r = loser;
        c->us = us[0];
    }
    pm_cmd_close(&r.cmd);
    return status;
}

// A run is short, so that many fit in the time there is; of several pieces, so that what one of them reads comes from no cache for
// the next run.
static pm_status open_first(pm_contest *c, runner *first) {
    uint64_t now = pm_now_ns();
    double share_us = c->deadline_ns > now ? (double)(c->deadline_ns - now) / 1e3 / 50 : 0,
           most_us = share_us < 1e5 ? share_us : 1e5;
    c->n_pieces = 1;
    PM_TRY(open_runner(c, 0, first));
    PM_TRY(measure(c, first, &c->us));
    while (c->n_pieces < c->most_pieces && c->us * (c->n_pieces + 1) < most_us)
        c->n_pieces++;
    PM_TRY(record(c, first));
    PM_TRY(measure(c, first, &c->us));
    c->usual_us = c->us;
    return PM_OK;
}

static pm_status find_best(pm_contest *c, runner *best) {
    for (int i = 1; i < c->n; i++) {
        if (!pm_contest_can_win(c->bytes[i], c->rate, c->us))
            continue;
        c->partly = c->partly || !has_time(c);
        if (c->partly)
            break;
        PM_TRY(challenge(c, i, best));
    }
    return PM_OK;
}

// The winner meets the default once more, on fresh numbers: the luck that made it win does not count twice.
static pm_status settle(pm_contest *c, runner *best) {
    runner first = {.cmd = NULL};
    double us[2];
    bool won;
    if (best->candidate == 0)
        return PM_OK;
    pm_status status = open_runner(c, 0, &first);
    if (status == PM_OK)
        status = duel(c, best, &first, MOST_ROUNDS, &won, us);
    if (status == PM_OK) {
        c->winner = won ? best->candidate : 0;
        c->usual_us = us[1];
        c->us = won ? us[0] : us[1];
    }
    pm_cmd_close(&first.cmd);
    return status;
}

pm_status pm_contest_run(pm_contest *c) {
    runner best = {.cmd = NULL};
    c->winner = 0;
    pm_status status = open_first(c, &best);
    if (status == PM_OK)
        status = find_best(c, &best);
    if (status == PM_OK)
        status = settle(c, &best);
    pm_cmd_close(&best.cmd);
    return status;
}
