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

float *pm_rope_angles(const pm_config *config, uint32_t n_positions) {
    uint32_t half = config->head_dim / 2;
    double *frequencies = pm_calloc(half, sizeof *frequencies);
    float *angles = pm_calloc((size_t)n_positions * half, 2 * sizeof *angles);
    if (frequencies && angles) {
        double factor;
        pm_rope_frequencies(config, frequencies, &factor);
        for (uint32_t pos = 0; pos < n_positions; pos++)
            for (uint32_t j = 0; j < half; j++) {
                double angle = pos * frequencies[j];
                angles[2 * ((size_t)pos * half + j)] = (float)(cos(angle) * factor);
                angles[2 * ((size_t)pos * half + j) + 1] = (float)(sin(angle) * factor);
            }
    } else {
        pm_free(angles);
        angles = NULL;
    }
    pm_free(frequencies);
    return angles;
}
