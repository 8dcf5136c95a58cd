// x (n, dim) += the products of a row's experts, which are rows of their own; then what the next norm wants (struct pm_hidden). A
// workgroup takes PM_SUM_COLS columns of a row.
// Bytes read a column of x: n_used + 1 floats.
#version 450
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(binding = 0) readonly buffer Products {
    float products[]; // (n * n_used, stride)
};
layout(binding = 1) readonly buffer Gain {
    float gain[];
};
layout(binding = 2) buffer X {
    float x[]; // (n, stride)
};
layout(binding = 3) buffer Normed {
    float normed[];
};
layout(binding = 4) buffer OutSquares {
    float out_squares[];
};

PM_ARGS(pm_experts_sum_args);

shared float squares[WORKGROUP];

void main() {
    uint tid = gl_LocalInvocationID.x, row = gl_WorkGroupID.y, end = min((gl_WorkGroupID.x + 1) * PM_SUM_COLS, a.dim);
    float sum_squares = 0;
    for (uint i = gl_WorkGroupID.x * PM_SUM_COLS + tid; i < end; i += WORKGROUP) {
        float sum = x[row * a.stride + i];
        for (uint k = 0; k < a.n_used; k++)
            sum += products[(row * a.n_used + k) * a.stride + i];
        x[row * a.stride + i] = sum;
        normed[row * a.stride + i] = sum * gain[i];
        sum_squares += sum * sum;
    }
    squares[tid] = sum_squares;
    barrier();
    if (tid == 0) {
        for (uint i = 1; i < WORKGROUP; i++)
            sum_squares += squares[i];
        out_squares[row * a.squares_stride + gl_WorkGroupID.x] = sum_squares;
    }
}
