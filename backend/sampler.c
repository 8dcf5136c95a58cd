// Sampling on the host: what a sampler asks for as the kernels take it, and the same draws without a device. From `band` on it is
// shaders/select.glsl and sample.comp over again, name by name: integers are equal, sums are added in the kernel's order, and only
// exp and log may differ in their last bits. Expressions that a compiler might fuse are kept in two statements.
#include <float.h>
#include <math.h>
#include <string.h>

#include "backend/model.h"

// ---- what is asked for ------------------------------------------------------------------------------------------------

// Below it everything but the best logit has no chance anyway, and the kernel need not fear 1 / temperature.
static const float COLDEST = 1e-6f;

static pm_status check_range(const char *what, double value, double least, double most) {
    if (value >= least && value <= most)
        return PM_OK;
    return pm_fail(PM_ERR_USAGE, "sampling with a %s of %g: %g to %g is possible", what, value, least, most);
}

static pm_status check_id(const char *what, int32_t id, uint32_t vocab) {
    if (id >= 0 && (uint32_t)id < vocab)
        return PM_OK;
    return pm_fail(PM_ERR_USAGE, "sampling with %s %d, which is outside the vocabulary of %u", what, (int)id, vocab);
}

static pm_status check_ids(const pm_sampler *p, uint32_t vocab) {
    for (size_t i = 0; i < p->n_history; i++)
        PM_TRY(check_id("a history that has id", p->history[i], vocab));
    if (p->n_history_drawn > p->n_history)
        return pm_fail(PM_ERR_USAGE, "sampling with %zu drawn ids of a history of %zu", p->n_history_drawn, p->n_history);
    for (size_t i = 0; i < p->n_bias; i++) {
        PM_TRY(check_id("a bias on id", p->bias[i].id, vocab));
        if (!(p->bias[i].bias <= FLT_MAX))
            return pm_fail(PM_ERR_USAGE, "sampling with a bias of %g on id %d", (double)p->bias[i].bias, (int)p->bias[i].id);
    }
    return PM_OK;
}

static bool is_usual(const pm_sampler *p) {
    static const uint8_t none[PM_N_STEPS] = {0};
    return !memcmp(p->order, none, sizeof(none));
}

static pm_status check_order(const pm_sampler *p) {
    unsigned there = 0;
    for (int i = 0; i < PM_N_STEPS; i++)
        there |= p->order[i] <= PM_N_STEPS ? 1u << p->order[i] : 0;
    if (is_usual(p) || there == (2u << PM_N_STEPS) - 2)
        return PM_OK;
    return pm_fail(PM_ERR_USAGE, "sampling in an order that lacks a step");
}

pm_status pm_sampler_check(const pm_sampler *p, uint32_t vocab) {
    if (!(p->temperature >= 0 && p->temperature <= FLT_MAX))
        return pm_fail(PM_ERR_USAGE, "sampling at a temperature of %g: 0 or more is possible", (double)p->temperature);
    PM_TRY(check_range("top-p", p->top_p, 0, 1));
    PM_TRY(check_range("min-p", p->min_p, 0, 1));
    PM_TRY(check_range("typical-p", p->typical_p, 0, 1));
    PM_TRY(check_range("repetition penalty", p->repeat_penalty, 0, 1000));
    PM_TRY(check_range("frequency penalty", p->frequency_penalty, -1000, 1000));
    PM_TRY(check_range("presence penalty", p->presence_penalty, -1000, 1000));
    if (p->repeat_penalty > 0)
        PM_TRY(check_range("repetition penalty", p->repeat_penalty, 0.001, 1000));
    if (p->top_logprobs > PM_TOP_LOGPROBS_MAX)
        return pm_fail(PM_ERR_USAGE, "sampling with %u alternatives told: %d are possible", p->top_logprobs, PM_TOP_LOGPROBS_MAX);
    PM_TRY(check_order(p));
    return check_ids(p, vocab);
}

static uint32_t steps_of(const pm_sampler *p) {
    uint32_t steps = 0;
    for (int i = PM_N_STEPS; i-- > 0;)
        steps = steps << 4 | p->order[i];
    return is_usual(p) ? PM_STEPS_USUAL : steps;
}

struct pm_sampling pm_sampler_pack(const pm_sampler *p) {
    float repeat = p->repeat_penalty > 0 ? p->repeat_penalty : 1;
    return (struct pm_sampling){
        .temperature = p->temperature > COLDEST ? p->temperature : 0,
        .top_p = p->top_p > 0 ? p->top_p : 1,
        .min_p = p->min_p,
        .top_k = p->top_k,
        .seed_lo = (uint32_t)p->seed,
        .seed_hi = (uint32_t)(p->seed >> 32),
        .typical_p = p->typical_p,
        .steps = steps_of(p),
        .repeat = repeat,
        .inv_repeat = 1 / repeat,
        .presence = p->presence_penalty,
        .frequency = p->frequency_penalty,
    };
}

static bool repeats(const pm_sampler *p) {
    return p->repeat_penalty > 0 && p->repeat_penalty != 1;
}

bool pm_sampler_adjusts(const pm_sampler *p) {
    return repeats(p) || p->presence_penalty != 0 || p->frequency_penalty != 0 || p->n_bias > 0;
}

static void mark_prompt(const int32_t *ids, size_t n, uint32_t n_valid, uint32_t *seen) {
    for (size_t i = 0; i < n; i++)
        if ((uint32_t)ids[i] < n_valid)
            seen[ids[i]] |= PM_SEEN_IN_PROMPT;
}

void pm_sampler_fill_seen(const pm_sampler *p, const int32_t *ids, size_t n, uint32_t n_valid, uint32_t *seen) {
    size_t n_prompt = p->n_history - p->n_history_drawn;
    memset(seen, 0, n_valid * sizeof(*seen));
    if (repeats(p)) {
        mark_prompt(p->history, n_prompt, n_valid, seen);
        mark_prompt(ids, n, n_valid, seen);
    }
    for (size_t i = n_prompt; i < p->n_history; i++)
        if ((uint32_t)p->history[i] < n_valid)
            seen[p->history[i]]++;
}

void pm_sampler_fill_bias(const pm_sampler *p, uint32_t n_valid, float *bias) {
    for (uint32_t i = 0; i < n_valid; i++)
        bias[i] = 0;
    for (size_t i = 0; i < p->n_bias; i++)
        if ((uint32_t)p->bias[i].id < n_valid)
            bias[p->bias[i].id] = p->bias[i].bias > -FLT_MAX ? p->bias[i].bias : -FLT_MAX;
}

// ---- a drawer ---------------------------------------------------------------------------------------------------------

struct pm_drawer {
    uint32_t n_valid;
    struct pm_sampling sampling;
    bool adjusts;
    uint32_t *seen; // (n_valid), as the device has it; NULL where nothing is adjusted
    float *bias;    // (n_valid); NULL too
    float *logits;  // (n_valid): finite, adjusted
    bool told;
    uint32_t n_top;
    pm_logprob likely[1 + PM_MAX_LIKELY];
};

static pm_status make_drawer(pm_drawer *d, const pm_sampler *sampler, const int32_t *ids, size_t n) {
    d->sampling = pm_sampler_pack(sampler);
    d->adjusts = pm_sampler_adjusts(sampler);
    d->told = sampler->logprobs;
    d->n_top = sampler->top_logprobs < d->n_valid ? sampler->top_logprobs : d->n_valid;
    d->logits = pm_calloc(d->n_valid, sizeof(*d->logits));
    if (d->adjusts) {
        d->seen = pm_calloc(d->n_valid, sizeof(*d->seen));
        d->bias = pm_calloc(d->n_valid, sizeof(*d->bias));
    }
    if (!d->logits || (d->adjusts && (!d->seen || !d->bias)))
        return pm_fail(PM_ERR_MEMORY, "no memory to sample from a vocabulary of %u", d->n_valid);
    if (d->adjusts) {
        pm_sampler_fill_seen(sampler, ids, n, d->n_valid, d->seen);
        pm_sampler_fill_bias(sampler, d->n_valid, d->bias);
    }
    return PM_OK;
}

pm_status pm_drawer_open(const pm_model *model, const pm_sampler *sampler, const int32_t *ids, size_t n, pm_drawer **drawer) {
    *drawer = NULL;
    PM_TRY(pm_sampler_check(sampler, model->config.vocab_size));
    for (size_t i = 0; i < n; i++)
        PM_TRY(check_id("a prompt that has id", ids[i], model->config.vocab_size));
    pm_drawer *d = pm_calloc(1, sizeof(*d));
    *drawer = d;
    if (!d)
        return pm_fail(PM_ERR_MEMORY, "no memory for a sampler");
    d->n_valid = model->n_valid;
    pm_status status = make_drawer(d, sampler, ids, n);
    if (status != PM_OK)
        pm_drawer_close(drawer);
    return status;
}

void pm_drawer_close(pm_drawer **drawer) {
    pm_drawer *d = *drawer;
    if (!d)
        return;
    pm_free(d->seen);
    pm_free(d->bias);
    pm_free(d->logits);
    pm_free(d);
    *drawer = NULL;
}

// ---- logits -----------------------------------------------------------------------------------------------------------

static float finite(float l) {
    return l > -FLT_MAX ? fminf(l, FLT_MAX) : -FLT_MAX; // NaN too
}

static float adjust(const pm_drawer *d, float l, uint32_t id) {
    uint32_t seen = d->seen[id], count = seen & PM_SEEN_COUNT;
    l += d->bias[id];
    if (seen)
        l *= l > 0 ? d->sampling.inv_repeat : d->sampling.repeat;
    if (count) {
        float often = d->sampling.frequency * (float)count;
        l -= often;
        l -= d->sampling.presence;
    }
    return finite(l);
}

static void take_logits(pm_drawer *d, const float *logits) {
    for (uint32_t id = 0; id < d->n_valid; id++)
        d->logits[id] = d->adjusts ? adjust(d, logits[id], id) : finite(logits[id]);
}

static uint32_t greatest(const pm_drawer *d) {
    uint32_t best = 0;
    for (uint32_t id = 1; id < d->n_valid; id++)
        if (d->logits[id] > d->logits[best])
            best = id;
    return best;
}

// ---- what is drawn from -----------------------------------------------------------------------------------------------

typedef struct band {
    uint32_t low, high;
    float most, temperature, inv_temperature;
} band;

typedef struct measure {
    float inv_mass;
    bool typical;
    float centre;
} measure;

static uint32_t bits_of(float f) {
    uint32_t bits;
    memcpy(&bits, &f, sizeof(bits));
    return bits;
}

static uint32_t sort_key(float l) {
    uint32_t bits = bits_of(l);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

static float float_of(uint32_t key) {
    uint32_t bits = key & 0x80000000u ? key & 0x7fffffffu : ~key;
    float f;
    memcpy(&f, &bits, sizeof(f));
    return f;
}

static bool holds(const band *b, float l) {
    uint32_t key = sort_key(l);
    return key >= b->low && key <= b->high;
}

static float exponent(const band *b, float l) {
    return (l - b->most) * b->inv_temperature;
}

static uint32_t weight(const measure *by, const band *b, float l) {
    return by->inv_mass == 0 ? 1 : (uint32_t)(expf(exponent(b, l)) * by->inv_mass * 0x1p30f);
}

static uint32_t rank_key(const measure *by, const band *b, float l) {
    return by->typical ? ~bits_of(fabsf(fmaxf(exponent(b, l), -1e30f) - by->centre)) : sort_key(l);
}

static uint32_t select_key(const pm_drawer *d, uint32_t target, const measure *by, const band *b) {
    uint32_t prefix = 0, left = target;
    for (int shift = 24; shift >= 0; shift -= 8) {
        uint32_t histogram[256] = {0}, known = shift == 24 ? 0 : 0xffffffffu << (shift + 8), bucket = 255, sum = 0;
        for (uint32_t id = 0; id < d->n_valid; id++) {
            float l = d->logits[id];
            uint32_t key = rank_key(by, b, l);
            if (holds(b, l) && (key & known) == prefix)
                histogram[(key >> shift) & 255] += weight(by, b, l);
        }
        for (; bucket > 0 && sum + histogram[bucket] < left; bucket--)
            sum += histogram[bucket];
        prefix |= bucket << shift;
        left -= sum < left ? sum : left;
    }
    return prefix;
}

// The kernel's lanes, and the tree in which it adds them up.
enum { LANES = 128 };
static float add_lanes(float lanes[LANES]) {
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++)
            lanes[i] += lanes[i + half];
    return lanes[0];
}

static void weigh(const pm_drawer *d, const band *b, measure *by) {
    float sums[LANES] = {0}, weighted[LANES] = {0};
    for (uint32_t id = 0; id < d->n_valid; id++) {
        float l = d->logits[id];
        if (!holds(b, l))
            continue;
        float e = exponent(b, l), p = expf(e), product = p * fmaxf(e, -1e30f);
        sums[id % LANES] += p;
        weighted[id % LANES] += product;
    }
    float mass = add_lanes(sums);
    by->inv_mass = 1 / mass;
    by->centre = by->typical ? add_lanes(weighted) / mass : 0;
}

static void keep_band(const pm_drawer *d, uint32_t key, const measure *by, band *b) {
    uint32_t low = UINT32_MAX, high = 0;
    for (uint32_t id = 0; id < d->n_valid; id++) {
        float l = d->logits[id];
        if (!holds(b, l) || rank_key(by, b, l) < key)
            continue;
        low = sort_key(l) < low ? sort_key(l) : low;
        high = sort_key(l) > high ? sort_key(l) : high;
    }
    if (low <= high) {
        b->low = low;
        b->high = high;
        b->most = float_of(high);
    }
}

static void keep_selected(const pm_drawer *d, uint32_t step, band *b) {
    const struct pm_sampling *s = &d->sampling;
    measure by = {.typical = step == PM_STEP_TYPICAL_P};
    if (step != PM_STEP_TOP_K)
        weigh(d, b, &by);
    uint32_t part = (uint32_t)((by.typical ? s->typical_p : s->top_p) * 0x1p30f);
    uint32_t key = select_key(d, step == PM_STEP_TOP_K ? s->top_k : part > 0 ? part : 1, &by, b);
    if (by.typical)
        keep_band(d, key, &by, b);
    else
        b->low = key > b->low ? key : b->low;
}

static bool selects(const pm_drawer *d, uint32_t step) {
    const struct pm_sampling *s = &d->sampling;
    return (step == PM_STEP_TOP_K && s->top_k > 0 && s->top_k < d->n_valid) || (step == PM_STEP_TOP_P && s->top_p < 1) ||
           (step == PM_STEP_TYPICAL_P && s->typical_p > 0 && s->typical_p < 1);
}

static void keep_min_p(const pm_drawer *d, band *b) {
    float below = b->temperature * logf(d->sampling.min_p);
    uint32_t key = sort_key(b->most + below), most = sort_key(b->most);
    key = key < most ? key : most;
    b->low = key > b->low ? key : b->low;
}

static band narrow(const pm_drawer *d, float most) {
    band b = {0, sort_key(most), most, 1, 1};
    for (uint32_t steps = d->sampling.steps; steps; steps >>= 4) {
        uint32_t step = steps % 16;
        if (step == PM_STEP_TEMPERATURE) {
            b.temperature = d->sampling.temperature;
            b.inv_temperature = 1 / d->sampling.temperature;
        }
        if (step == PM_STEP_MIN_P && d->sampling.min_p > 0)
            keep_min_p(d, &b);
        if (selects(d, step))
            keep_selected(d, step, &b);
    }
    return b;
}

// ---- the draw ---------------------------------------------------------------------------------------------------------

// x of pcg3d: https://jcgt.org/published/0009/03/02/
static uint32_t pcg3d(uint32_t x, uint32_t y, uint32_t z) {
    x = x * 1664525u + 1013904223u;
    y = y * 1664525u + 1013904223u;
    z = z * 1664525u + 1013904223u;
    x += y * z;
    y += z * x;
    z += x * y;
    x ^= x >> 16;
    y ^= y >> 16;
    z ^= z >> 16;
    return x + y * z;
}

static const float MOST_NOISE = 16.7f;

static float gumbel(const struct pm_sampling *s, uint32_t pos, uint32_t id) {
    uint32_t bits = pcg3d(s->seed_lo ^ (id * 0x9e3779b9u), s->seed_hi + pos, id) >> 9;
    float u = ((float)bits + 0.5f) * 0x1p-23f, rest = ((float)(0x7fffffu - bits) + 0.5f) * 0x1p-23f;
    float e = rest < 0.01f ? rest * (1 + rest * (0.5f + rest / 3)) : -logf(u);
    return -logf(e);
}

static uint32_t draw(const pm_drawer *d, uint32_t best_id, uint32_t pos) {
    band b = narrow(d, d->logits[best_id]);
    float best = -FLT_MAX;
    for (uint32_t id = 0; id < d->n_valid; id++) {
        float l = d->logits[id];
        float cooled = (l - b.most) / d->sampling.temperature;
        if (!holds(&b, l) || cooled + MOST_NOISE < best)
            continue;
        float noisy = cooled + gumbel(&d->sampling, pos, id);
        if (noisy > best) {
            best = noisy;
            best_id = id;
        }
    }
    return best_id;
}

// Puts an id into its place among the n_top likeliest, of which `n` are there. Ids come in rising order.
static void place(pm_drawer *d, uint32_t n, uint32_t id, float l) {
    pm_logprob *top = d->likely + 1;
    uint32_t i = n < d->n_top ? n : d->n_top - 1;
    for (; i > 0 && top[i - 1].logprob < l; i--)
        top[i] = top[i - 1];
    top[i] = (pm_logprob){(int32_t)id, l};
}

static void tell(pm_drawer *d, const float *logits, uint32_t drawn) {
    float most = -FLT_MAX, lanes[LANES] = {0};
    uint32_t n = 0;
    for (uint32_t id = 0; id < d->n_valid; id++) {
        float l = finite(logits[id]);
        most = fmaxf(most, l);
        if (n < d->n_top || (d->n_top > 0 && l > d->likely[d->n_top].logprob)) {
            place(d, n, id, l);
            n += n < d->n_top;
        }
    }
    for (uint32_t id = 0; id < d->n_valid; id++)
        lanes[id % LANES] += expf(finite(logits[id]) - most);
    float log_mass = logf(add_lanes(lanes));
    d->likely[0] = (pm_logprob){(int32_t)drawn, finite(logits[drawn])};
    for (uint32_t i = 0; i <= d->n_top; i++)
        d->likely[i].logprob = (d->likely[i].logprob - most) - log_mass;
}

int32_t pm_drawer_next(pm_drawer *d, const float *logits, uint32_t pos) {
    take_logits(d, logits);
    uint32_t id = greatest(d);
    if (d->sampling.temperature > 0)
        id = draw(d, id, pos);
    if (d->told)
        tell(d, logits, id);
    if (d->adjusts)
        d->seen[id]++;
    return (int32_t)id;
}

const pm_logprob *pm_drawer_logprobs(const pm_drawer *d, int *n) {
    *n = d->told ? (int)d->n_top + 1 : 0;
    return d->likely;
}

// ---- loops ------------------------------------------------------------------------------------------------------------

uint32_t pm_loop_watch_next(pm_loop_watch *w, int32_t id) {
    enum { LEAST = 16, MOST = 64, TIMES = 4 };
    uint32_t found = 0;
    for (uint32_t block = LEAST; block <= MOST; block++) {
        bool same = w->n >= block && w->last[(w->n - block) % MOST] == id;
        w->same[block] = same ? (uint16_t)(w->same[block] < UINT16_MAX ? w->same[block] + 1 : UINT16_MAX) : 0;
        if (!found && w->same[block] >= (TIMES - 1) * block)
            found = block;
    }
    w->last[w->n % MOST] = id;
    w->n++;
    return found;
}
