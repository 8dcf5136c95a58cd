// Rotation angles, on the host and in double: Vulkan promises sin and cos to 2^-11 only, and only within [-pi, pi].
#include <math.h>
#include <string.h>

#include "backend/model.h"

static const double PI = 3.14159265358979323846;

// The dimension whose wave turns `turns` times within the original context (https://arxiv.org/abs/2309.00071, section 3.2).
static double dim_of(double turns, const pm_rope_config *r, double head_dim) {
    return head_dim * log(r->original_ctx / (turns * 2 * PI)) / (2 * log(r->theta));
}

static double magnitude(double factor, double mscale) {
    return factor <= 1 ? 1 : 0.1 * mscale * log(factor) + 1;
}

static double attention_factor(const pm_rope_config *r) {
    if (r->attention_factor > 0)
        return r->attention_factor;
    if (r->mscale > 0 && r->mscale_all_dim > 0)
        return magnitude(r->factor, r->mscale) / magnitude(r->factor, r->mscale_all_dim);
    return magnitude(r->factor, 1);
}

static void yarn(const pm_rope_config *r, uint32_t head_dim, double *frequencies) {
    double low = dim_of(r->beta_fast, r, head_dim), high = dim_of(r->beta_slow, r, head_dim);
    if (r->truncate) {
        low = floor(low);
        high = ceil(high);
    }
    low = fmax(low, 0);
    high = fmin(high, head_dim - 1);
    if (low == high)
        high += 0.001;
    for (uint32_t j = 0; j < head_dim / 2; j++) {
        double ramp = fmin(fmax((j - low) / (high - low), 0), 1);
        frequencies[j] *= (1 - ramp) + ramp / r->factor;
    }
}

// To nearest, ties to even, by way of float: as a cast of a float tensor does it.
static double round_to_bf16(double value) {
    float single = (float)value;
    uint32_t bits;
    memcpy(&bits, &single, sizeof bits);
    bits = (bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u;
    memcpy(&single, &bits, sizeof bits);
    return single;
}

void pm_rope_frequencies(const pm_config *config, double *frequencies, double *factor) {
    const pm_rope_config *r = &config->rope;
    for (uint32_t j = 0; j < config->head_dim / 2; j++) {
        frequencies[j] = pow(r->theta, -2.0 * j / config->head_dim);
        if (r->scaling == PM_ROPE_LINEAR)
            frequencies[j] /= r->factor;
    }
    *factor = 1;
    if (r->scaling == PM_ROPE_YARN) {
        yarn(r, config->head_dim, frequencies);
        *factor = attention_factor(r);
    }
    for (uint32_t j = 0; r->bf16_frequencies && j < config->head_dim / 2; j++)
        frequencies[j] = round_to_bf16(frequencies[j]);
}

uint32_t pm_rope_table_rows(uint32_t n_positions) {
    return PM_ANGLE_STEP + (n_positions + PM_ANGLE_STEP - 1) / PM_ANGLE_STEP;
}

// A rotation by pos + a multiple of PM_ANGLE_STEP is one after the other, so the factor stands in one part only.
static void fill_table(const double *frequencies, double factor, uint32_t half, uint32_t rows, float *table) {
    for (uint32_t row = 0; row < rows; row++) {
        bool low = row < PM_ANGLE_STEP;
        double pos = low ? row : (double)(row - PM_ANGLE_STEP) * PM_ANGLE_STEP, length = low ? factor : 1;
        for (uint32_t j = 0; j < half; j++) {
            *table++ = (float)(cos(pos * frequencies[j]) * length);
            *table++ = (float)(sin(pos * frequencies[j]) * length);
        }
    }
}

float *pm_rope_table(const pm_config *config, uint32_t n_positions) {
    uint32_t half = config->head_dim / 2, rows = pm_rope_table_rows(n_positions);
    double *frequencies = pm_calloc(half, sizeof *frequencies), factor;
    float *table = pm_calloc((size_t)rows * half, 2 * sizeof *table);
    if (frequencies && table) {
        pm_rope_frequencies(config, frequencies, &factor);
        fill_table(frequencies, factor, half, rows, table);
    } else {
        pm_free(table);
        table = NULL;
    }
    pm_free(frequencies);
    return table;
}

// ---- other scalings than the file's -------------------------------------------------------------------------------------

uint32_t pm_rope_trained_ctx(const pm_config *c) {
    return c->rope.original_ctx ? c->rope.original_ctx : c->max_ctx;
}

// An attention factor that a file gives belongs to the factor that it gives.
static void set_factor(pm_rope_config *r, double factor) {
    if (factor != r->factor)
        r->attention_factor = 0;
    r->factor = factor;
}

pm_config pm_rope_scaled(const pm_config *config, double factor) {
    pm_config c = *config;
    c.rope.original_ctx = pm_rope_trained_ctx(config);
    if (factor == 1)
        c.rope.scaling = PM_ROPE_NONE;
    else if (c.rope.scaling == PM_ROPE_NONE)
        c.rope.scaling = PM_ROPE_YARN;
    set_factor(&c.rope, factor);
    return c;
}

static pm_status check_options(const pm_rope_options *o, const pm_config *c) {
    if (o->scaling == PM_ROPE_NONE)
        return o->factor == 0 || o->factor == 1 ? PM_OK : pm_fail(PM_ERR_USAGE, "no rope scaling, by a factor of %g", o->factor);
    if (!(o->factor >= 1 && o->factor <= PM_MAX_ROPE_FACTOR))
        return pm_fail(PM_ERR_USAGE, "rope scaling by a factor of %g: 1 to %d is possible", o->factor, PM_MAX_ROPE_FACTOR);
    if (o->scaling == PM_ROPE_YARN && !o->original_ctx && !pm_rope_trained_ctx(c))
        return pm_fail(PM_ERR_USAGE, "YaRN needs the context of the training, and the file does not say it");
    return PM_OK;
}

// What is asked for wins; where the file wants something else, that is told.
static void warn_of_mismatch(const char *path, const pm_rope_options *o, const pm_rope_config *file) {
    static const char *const names[] = {[PM_ROPE_NONE] = "none", [PM_ROPE_LINEAR] = "linear", [PM_ROPE_YARN] = "yarn"};
    double factor = o->scaling == PM_ROPE_NONE ? 1 : o->factor;
    if (file->scaling != PM_ROPE_NONE && (file->scaling != o->scaling || file->factor != factor))
        pm_log(PM_LOG_WARN, "%s wants rope scaling %s by %g; taken is %s by %g, as asked for", path, names[file->scaling],
               file->factor, names[o->scaling], factor);
    if (file->original_ctx && o->original_ctx && file->original_ctx != o->original_ctx)
        pm_log(PM_LOG_WARN, "%s was trained on a context of %u by its own account; taken is %u, as asked for", path,
               file->original_ctx, o->original_ctx);
    if (o->scaling == PM_ROPE_YARN && !o->original_ctx && !file->original_ctx)
        pm_log(PM_LOG_WARN,
               "%s does not say the context that it was trained on: taken is all that it allows, which may "
               "be more",
               path);
}

pm_status pm_rope_choose(const char *path, const pm_rope_options *o, pm_config *c) {
    PM_TRY(check_options(o, c));
    warn_of_mismatch(path, o, &c->rope);
    uint32_t trained = o->original_ctx ? o->original_ctx : pm_rope_trained_ctx(c);
    bool scaled = c->rope.scaling != PM_ROPE_NONE; // then the file's context is what its own factor reaches
    double factor = o->scaling == PM_ROPE_NONE ? 1 : o->factor, reach = factor * trained;
    if (trained && reach <= UINT32_MAX && (reach > c->max_ctx || scaled))
        c->max_ctx = (uint32_t)reach;
    if (o->scaling != c->rope.scaling)
        c->rope.attention_factor = c->rope.mscale = c->rope.mscale_all_dim = 0;
    c->rope.scaling = o->scaling;
    c->rope.original_ctx = trained;
    set_factor(&c->rope, factor);
    return PM_OK;
}
