// A workgroup an output: draws the next id from a row of logits. See pm_op_sample in host/ops.h for the order and the method;
// backend/sampler.c does the same on the host, step by step.
#version 450
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
PM_ARGS(pm_sample_args);

layout(binding = 0) readonly buffer Logits {
    float logits[]; // (m, logits_stride)
};
layout(binding = 1) readonly buffer Sampling {
    pm_sampling sampling[]; // (m)
};
layout(binding = 2) readonly buffer Index {
    uint index[]; // (m): the batch row of each output
};
layout(binding = 3) readonly buffer Rows {
    pm_row rows[];
};
layout(binding = 4) readonly buffer Sieved {
    uint sieved[]; // (m, n_slices, 1 + PM_SIEVE_MOST): see sieve.comp
};
layout(binding = 5) buffer Next {
    pm_row next[]; // (m)
};
layout(binding = 6) buffer Results {
    uint results[];
};

shared uint listed[PM_SIEVE_LISTED];
uint n_listed; // 0: all ids are looked at

uint n_items() {
    return n_listed > 0 ? n_listed : a.vocab;
}

uint item(uint i) {
    return n_listed > 0 ? listed[i] : i;
}

#include "select.glsl"

// What the slices let through, as far as all of them say it and it fits.
void list_sieved(uint m) {
    uint lane = gl_LocalInvocationID.x, row = m * a.n_slices * (1 + PM_SIEVE_MOST), total = 0;
    n_listed = 0;
    for (uint slice = 0; slice < a.n_slices; slice++) {
        uint at = row + slice * (1 + PM_SIEVE_MOST), n = sieved[at];
        if (n > PM_SIEVE_MOST || total + n > PM_SIEVE_LISTED)
            return;
        for (uint i = lane; i < n; i += WORKGROUP)
            listed[total + i] = sieved[at + 1 + i];
        total += n;
    }
    barrier();
    n_listed = total;
}

uvec3 pcg3d(uvec3 v) { // https://jcgt.org/published/0009/03/02/
    v = v * 1664525u + 1013904223u;
    v.x += v.y * v.z;
    v.y += v.z * v.x;
    v.z += v.x * v.y;
    v ^= v >> 16;
    v.x += v.y * v.z;
    v.y += v.z * v.x;
    v.z += v.x * v.y;
    return v;
}

const float MOST_NOISE = 16.7; // what gumbel() gives is between -2.9 and this

// -log(-log(u)) with u uniform in (0, 1). Near 1, log(u) is taken from 1 - u, which is exact there.
float gumbel(pm_sampling s, uint pos, uint id) {
    uint bits = pcg3d(uvec3(s.seed_lo ^ (id * 0x9e3779b9u), s.seed_hi + pos, id)).x >> 9;
    float u = (float(bits) + 0.5) * exp2(-23.0);
    float rest = (float(0x7fffffu - bits) + 0.5) * exp2(-23.0); // 1 - u
    float e = rest < 0.01 ? rest * (1.0 + rest * (0.5 + rest / 3.0)) : -log(u);
    return -log(e);
}

// Top-k, top-p or typical-p. Typical: the ids whose probability is nearest to exp(-entropy); ln p + entropy is the exponent less its
// mean (https://arxiv.org/abs/2202.00666). They are a band too, since nearness falls to both sides.
void keep_selected(uint step, pm_sampling s, inout band b) {
    measure by = measure(0, step == PM_STEP_TYPICAL_P, 0);
    if (step != PM_STEP_TOP_K) {
        float sum = 0, weighted = 0;
        for (uint i = gl_LocalInvocationID.x; i < n_items(); i += WORKGROUP) {
            float l = logit(item(i));
            if (holds(b, l)) {
                float e = exponent(b, l), p = exp(e);
                sum += p;
                weighted += p * max(e, -1e30); // never 0 times infinity
            }
        }
        float mass = reduce_sum(sum);
        by.inv_mass = 1.0 / mass;
        if (by.typical)
            by.centre = reduce_sum(weighted) / mass;
    }
    float part = by.typical ? s.typical_p : s.top_p;
    uint target = step == PM_STEP_TOP_K ? s.top_k : max(uint(part * MASS_ONE), 1);
    uint key = select_key(target, by, b);
    if (!by.typical) {
        b.low = max(b.low, key);
        return;
    }
    barrier();
    if (gl_LocalInvocationID.x == 0) {
        chosen[0] = 0xffffffffu;
        chosen[1] = 0;
    }
    barrier();
    for (uint i = gl_LocalInvocationID.x; i < n_items(); i += WORKGROUP) {
        float l = logit(item(i));
        if (holds(b, l) && rank_key(by, b, l) >= key) {
            atomicMin(chosen[0], sort_key(l));
            atomicMax(chosen[1], sort_key(l));
        }
    }
    barrier();
    if (chosen[0] <= chosen[1]) {
        b.low = chosen[0];
        b.high = chosen[1];
        b.most = float_of(b.high);
    }
}

bool selects(uint step, pm_sampling s) {
    return (step == PM_STEP_TOP_K && s.top_k > 0 && s.top_k < a.vocab) || (step == PM_STEP_TOP_P && s.top_p < 1) ||
           (step == PM_STEP_TYPICAL_P && s.typical_p > 0 && s.typical_p < 1);
}

// What all steps leave.
band narrow(pm_sampling s, float most) {
    band b = band(0, sort_key(most), most, 1, 1);
    for (uint steps = s.steps; steps != 0; steps >>= 4) {
        uint step = steps & 15;
        if (step == PM_STEP_TEMPERATURE) {
            b.temperature = s.temperature;
            b.inv_temperature = 1.0 / s.temperature;
        }
        if (step == PM_STEP_MIN_P && s.min_p > 0)
            b.low = max(b.low, min(sort_key(b.most + b.temperature * log(s.min_p)), sort_key(b.most)));
        if (selects(step, s))
            keep_selected(step, s, b);
    }
    return b;
}

void main() {
    uint m = gl_WorkGroupID.x, lane = gl_LocalInvocationID.x;
    pm_sampling s = sampling[m];
    pm_row row = rows[index[m]];
    list_sieved(m);

    float best;
    uint best_id;
    greatest_of_lane(best, best_id);
    reduce_greatest(best, best_id);

    if (s.temperature > 0) {
        band b = narrow(s, values[0]);
        best = LOWEST;
        best_id = ids[0];
        for (uint i = lane; i < n_items(); i += WORKGROUP) {
            uint id = item(i);
            float l = logit(id);
            float cooled = (l - b.most) / s.temperature;
            if (!holds(b, l) || cooled + MOST_NOISE < best) // most ids never had a chance
                continue;
            float noisy = cooled + gumbel(s, row.pos, id);
            if (noisy > best || (noisy == best && id < best_id)) {
                best = noisy;
                best_id = id;
            }
        }
        reduce_greatest(best, best_id);
    }
    if (lane == 0) {
        results[a.result0 + m] = ids[0];
        next[m] = pm_row(ids[0], row.seq, row.pos + 1, row.rope);
    }
}
