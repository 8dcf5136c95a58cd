// Which experts a row goes to: softmax over the logits of all, and of those the n_used greatest, greatest first; of equal ones the
// first. A workgroup a row. An expert's place is the number of those before it: no rounds, no reduction, one barrier; with 128
// experts an invocation compares 256 times.
// Bytes read a row: its logits.
#version 450
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(binding = 0) readonly buffer Logits {
    float logits[]; // (n, logits_stride)
};
layout(binding = 1) buffer Routes {
    pm_route routes[]; // (n, n_used)
};

PM_ARGS(pm_route_args);

shared float values[PM_MAX_EXPERTS];
shared uint chosen[PM_MAX_EXPERTS]; // by place

const float LEAST = -3e38, MOST = 3e38;

// What is no number must not break the order, or two experts would have one place.
float load(uint e) {
    float v = logits[gl_WorkGroupID.x * a.logits_stride + e];
    return v > LEAST ? min(v, MOST) : LEAST;
}

uint place_of(uint e) {
    float v = values[e];
    uint place = 0;
    for (uint i = 0; i < a.n_experts; i++)
        place += uint(values[i] > v || values[i] == v && i < e);
    return place;
}

void main() {
    uint tid = gl_LocalInvocationID.x;
    for (uint e = tid; e < a.n_experts; e += WORKGROUP)
        values[e] = load(e);
    barrier();
    for (uint e = tid; e < a.n_experts; e += WORKGROUP) {
        uint place = place_of(e);
        chosen[place] = e;
    }
    barrier();
    float most = values[chosen[0]], sum = 0;
    uint n_summed = a.normed != 0 ? a.n_used : a.n_experts;
    for (uint i = 0; i < n_summed; i++)
        sum += exp(values[chosen[i]] - most);
    for (uint i = tid; i < a.n_used; i += WORKGROUP)
        routes[gl_WorkGroupID.x * a.n_used + i] = pm_route(chosen[i], exp(values[chosen[i]] - most) / sum);
}
