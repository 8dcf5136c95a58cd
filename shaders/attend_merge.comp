// A workgroup of head_dim / 2 lanes a query head of a batch row: joins the partial softmaxes of attend.comp's splits.
#version 450
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
PM_ARGS(pm_attend_merge_args);

layout(constant_id = 1) const uint HEAD_DIM = 128;

layout(binding = 0) readonly buffer Partial {
    float partial[]; // (n, n_heads, n_splits, HEAD_DIM + 2)
};
layout(binding = 1) buffer Out {
    float result[]; // (n, out_stride)
};

void main() {
    uint head = gl_WorkGroupID.x, n = gl_WorkGroupID.y, d = 2 * gl_LocalInvocationID.x;
    uint first = (n * a.n_heads + head) * a.n_splits * (HEAD_DIM + 2);

    float most = partial[first + HEAD_DIM];
    for (uint s = 1; s < a.n_splits; s++)
        most = max(most, partial[first + s * (HEAD_DIM + 2) + HEAD_DIM]);
    vec2 sum_pv = vec2(0);
    float sum_p = 0;
    for (uint s = 0; s < a.n_splits; s++) {
        uint at = first + s * (HEAD_DIM + 2);
        float weight = exp2(partial[at + HEAD_DIM] - most);
        sum_pv += weight * vec2(partial[at + d], partial[at + d + 1]);
        sum_p += weight * partial[at + HEAD_DIM + 1];
    }
    uint to = n * a.out_stride + head * HEAD_DIM + d;
    result[to] = sum_pv.x / sum_p;
    result[to + 1] = sum_pv.y / sum_p;
}
