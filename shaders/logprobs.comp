// A workgroup an output: how likely the id that was drawn is, and which n are likeliest. See pm_op_logprobs in host/ops.h.
#version 450
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
PM_ARGS(pm_logprobs_args);

layout(binding = 0) readonly buffer Logits {
    float logits[]; // (m, logits_stride)
};
layout(binding = 1) readonly buffer Next {
    pm_row next[]; // (m): of the sampler
};
layout(binding = 2) writeonly buffer Likely {
    pm_likely likely[]; // (m, 1 + n)
};

uint n_items() {
    return a.vocab;
}

uint item(uint i) {
    return i;
}

#include "select.glsl"

shared uint found[PM_MAX_LIKELY]; // ids, in any order
shared uint n_found;

void find(uint id) {
    uint at = atomicAdd(n_found, 1);
    if (at < PM_MAX_LIKELY)
        found[at] = id;
}

// The n likeliest: all that are above the n-th logit; of those equal to it the lowest ids, one a round.
void find_likeliest(uint n, band b) {
    uint lane = gl_LocalInvocationID.x, from = 0;
    uint last = select_key(n, measure(0, false, 0), b);
    if (lane == 0)
        n_found = 0;
    barrier();
    for (uint id = lane; id < a.vocab; id += WORKGROUP)
        if (sort_key(logit(id)) > last)
            find(id);
    barrier();
    for (uint round = n_found; round < n; round++) {
        float equal = 0;
        uint equal_id = 0;
        for (uint id = from + lane; id < a.vocab && equal == 0; id += WORKGROUP)
            if (sort_key(logit(id)) == last) {
                equal = 1;
                equal_id = id;
            }
        reduce_greatest(equal, equal_id);
        from = ids[0] + 1;
        if (lane == 0)
            found[round] = ids[0];
        barrier();
    }
}

// How many of the n found come before this one.
uint place_of(uint id, uint n) {
    uint place = 0, key = sort_key(logit(id));
    for (uint i = 0; i < n; i++) {
        uint other = sort_key(logit(found[i]));
        place += other > key || (other == key && found[i] < id) ? 1 : 0;
    }
    return place;
}

void main() {
    uint m = gl_WorkGroupID.x, lane = gl_LocalInvocationID.x, at = m * (1 + a.n);
    float best;
    uint best_id;
    greatest_of_lane(best, best_id);
    reduce_greatest(best, best_id);
    float most = values[0], sum = 0;
    for (uint id = lane; id < a.vocab; id += WORKGROUP)
        sum += exp(logit(id) - most);
    float log_mass = log(reduce_sum(sum));

    uint n = min(a.n, a.vocab);
    if (n > 0)
        find_likeliest(n, band(0, 0xffffffffu, most, 1, 1));
    for (uint i = lane; i < n; i += WORKGROUP)
        likely[at + 1 + place_of(found[i], n)] = pm_likely(found[i], (logit(found[i]) - most) - log_mass);
    if (lane == 0)
        likely[at] = pm_likely(next[m].token, (logit(next[m].token) - most) - log_mass);
}
