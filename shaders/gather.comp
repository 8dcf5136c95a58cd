// A workgroup an output row: copies row index[m] of the normed stream and of its partial sums of squares.
#version 450
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
PM_ARGS(pm_gather_args);

layout(binding = 0) readonly buffer Index {
    uint index[];
};
layout(binding = 1) readonly buffer Normed {
    float normed[];
};
layout(binding = 2) readonly buffer Squares {
    float squares[];
};
layout(binding = 3) buffer OutNormed {
    float out_normed[];
};
layout(binding = 4) buffer OutSquares {
    float out_squares[];
};

void main() {
    uint to = gl_WorkGroupID.x, from = index[to];
    for (uint i = gl_LocalInvocationID.x; i < a.dim_words; i += WORKGROUP)
        out_normed[to * a.x_stride + i] = normed[from * a.x_stride + i];
    for (uint i = gl_LocalInvocationID.x; i < a.n_parts; i += WORKGROUP)
        out_squares[to * a.squares_stride + i] = squares[from * a.squares_stride + i];
}
