// A workgroup a batch row: x = table[token], normed = x * gain, squares[0] = sum of x^2.
#version 450
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#define W_BINDING 0
#define S_BINDING 1
#include "weights.glsl"
PM_ARGS(pm_embed_args);

layout(binding = 2) readonly buffer Rows {
    pm_row rows[];
};
layout(binding = 3) readonly buffer Gain {
    vec4 gain[];
};
layout(binding = 4) buffer X {
    vec4 x[]; // (n, x_stride / 4)
};
layout(binding = 5) buffer Normed {
    vec4 normed[];
};
layout(binding = 6) buffer Squares {
    float squares[];
};

shared float sums[WORKGROUP];

void main() {
    uint n = gl_WorkGroupID.x, lane = gl_LocalInvocationID.x;
    uint row = rows[n].token - a.row0; // wraps where the token stands before this part of the table
    if (row >= a.rows)
        return;

    float sum = 0;
    for (uint block = lane; block < a.blocks; block += WORKGROUP) {
        packed_block p = weights_load(row, block, a.blocks);
        affine f = weights_affine(row, block, a.blocks, a.scale_stride);
        PM_UNROLL for (uint j = 0; j < PM_BLOCK / 4; j++) {
            vec4 v = weights_scaled(weights_unpack(p, j), f, j / (PM_BLOCK / 8));
            uint at = block * (PM_BLOCK / 4) + j;
            x[n * (a.x_stride / 4) + at] = v;
            normed[n * (a.x_stride / 4) + at] = v * gain[at];
            sum += dot(v, v);
        }
    }
    sums[lane] = sum;
    barrier();
    if (lane == 0) {
        for (uint i = 1; i < WORKGROUP; i++)
            sum += sums[i];
        squares[n * a.squares_stride] = sum;
    }
}
