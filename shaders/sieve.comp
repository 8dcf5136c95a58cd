// A workgroup a slice of a row of logits: which ids the sampler must look at. Where it is greedy, the slice's greatest; where its
// first narrowing step is top-k, all above a bound: the k-th greatest of what the lanes have as their greatest is at most the k-th
// greatest logit of the slice, so that nothing below it can be kept. Reads the logits once from memory, then from cache.
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
layout(binding = 2) writeonly buffer Sieved {
    uint sieved[]; // (m, n_slices, 1 + PM_SIEVE_MOST): how many, or PM_SIEVE_ALL; then the ids, in an order that is always the same
};

uint n_items() {
    return min(PM_SIEVE_SLICE, a.vocab - gl_WorkGroupID.y * PM_SIEVE_SLICE);
}

uint item(uint i) {
    return gl_WorkGroupID.y * PM_SIEVE_SLICE + i;
}

#include "select.glsl"

// How many of the greatest must come through; 0: all.
uint wanted(pm_sampling s) {
    if (!(s.temperature > 0))
        return 1;
    for (uint steps = s.steps; steps != 0; steps >>= 4) {
        uint step = steps & 15;
        if (step == PM_STEP_TOP_K && s.top_k > 0)
            return s.top_k <= min(PM_SIEVE_TOP_K, WORKGROUP) ? s.top_k : 0;
        if (step == PM_STEP_TOP_P || step == PM_STEP_TYPICAL_P) // they want the mass of all
            return 0;
    }
    return 0;
}

// The k-th of the lanes' values.
float find_bound(float value, uint k) {
    uint lane = gl_LocalInvocationID.x, above = 0, equal = 0;
    values[lane] = value;
    barrier();
    for (uint i = 0; i < WORKGROUP; i++) {
        above += values[i] > value ? 1 : 0;
        equal += values[i] == value ? 1 : 0;
    }
    if (above < k && above + equal >= k)
        chosen[0] = floatBitsToUint(value);
    barrier();
    return uintBitsToFloat(chosen[0]);
}

void let_through(uint at, float bound) {
    uint lane = gl_LocalInvocationID.x, passed = 0, before = 0, total = 0;
    for (uint i = lane; i < n_items(); i += WORKGROUP)
        passed += logit(item(i)) >= bound ? 1 : 0;
    ids[lane] = passed;
    barrier();
    for (uint i = 0; i < WORKGROUP; i++) {
        before += i < lane ? ids[i] : 0;
        total += ids[i];
    }
    bool fits = total <= PM_SIEVE_MOST;
    if (lane == 0)
        sieved[at] = fits ? total : PM_SIEVE_ALL;
    if (!fits || passed == 0)
        return;
    for (uint i = lane; i < n_items(); i += WORKGROUP)
        if (logit(item(i)) >= bound)
            sieved[at + 1 + before++] = item(i);
}

void main() {
    uint m = gl_WorkGroupID.x, slice = gl_WorkGroupID.y, lane = gl_LocalInvocationID.x;
    uint at = (m * a.n_slices + slice) * (1 + PM_SIEVE_MOST), k = wanted(sampling[m]);
    if (k == 0) {
        if (lane == 0)
            sieved[at] = PM_SIEVE_ALL;
        return;
    }
    float best;
    uint best_id;
    greatest_of_lane(best, best_id);
    if (k > 1) {
        let_through(at, find_bound(best, k));
        return;
    }
    reduce_greatest(best, best_id);
    if (lane == 0) {
        sieved[at] = 1;
        sieved[at + 1] = ids[0];
    }
}
