// quants (n, quants_stride) <- x (n, x_stride): each block of PM_BLOCK columns as whole numbers times a scale, for products by packed dot
// products; abi.h says how a row of them lies. An invocation has a block of a row.
// Bytes moved a column: 4 + 1.5, WIDE: 4 + 2.5.
#version 450
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
PM_ARGS(pm_quantize_args);

layout(binding = 0) readonly buffer X {
    vec4 x[]; // (n, x_stride / 4)
};
layout(binding = 1) writeonly buffer Quants {
    uvec4 quants[]; // (n, quants_stride / 4)
};

// Of the 8 columns that two words hold the first has 0, 2, 4, 6, the other those between, as masks take them out of nibbles.
layout(constant_id = 1) const uint EVEN_ODD = 0;
layout(constant_id = 2) const uint WIDE = 0; // two bytes a number

const int MOST = WIDE != 0 ? PM_QUANTS_MOST_WIDE : PM_QUANTS_MOST;
const float LEAST = 1e-30; // of a block's largest value; what is below counts as nothing, so that no factor is infinite

uint pack_bytes(ivec4 q) {
    q = (q & 255) << ivec4(0, 8, 16, 24);
    return uint(q.x | q.y | q.z | q.w);
}

uvec2 pack_eight(ivec4 lo, ivec4 hi) {
    if (EVEN_ODD != 0)
        return uvec2(pack_bytes(ivec4(lo.xz, hi.xz)), pack_bytes(ivec4(lo.yw, hi.yw)));
    return uvec2(pack_bytes(lo), pack_bytes(hi));
}

// 16 numbers from q[first] on.
uvec4 pack_sixteen(ivec4 q[PM_BLOCK / 4], uint first) {
    return uvec4(pack_eight(q[first], q[first + 1]), pack_eight(q[first + 2], q[first + 3]));
}

void main() {
    uint block = gl_GlobalInvocationID.x, row = gl_WorkGroupID.y;
    if (block >= a.blocks)
        return;
    vec4 v[PM_BLOCK / 4], most = vec4(0);
    PM_UNROLL for (uint j = 0; j < PM_BLOCK / 4; j++) {
        v[j] = x[row * (a.x_stride / 4) + block * (PM_BLOCK / 4) + j];
        most = max(most, abs(v[j]));
    }
    most.xy = max(most.xy, most.zw);
    most.x = max(most.x, most.y);
    float factor = most.x < LEAST ? 0 : float(MOST) / most.x;

    ivec4 q[PM_BLOCK / 4], high[PM_BLOCK / 4], sums[2] = {ivec4(0), ivec4(0)}; // of the halves
    PM_UNROLL for (uint j = 0; j < PM_BLOCK / 4; j++) {
        q[j] = clamp(ivec4(roundEven(v[j] * factor)), -MOST, MOST);
        sums[j / (PM_BLOCK / 8)] += q[j];
        high[j] = WIDE != 0 ? q[j] + 128 >> 8 : q[j];
        q[j] -= high[j] << 8;
    }
    uint to = row * (a.quants_stride / 4), plane = a.blocks * (PM_BLOCK / 16), at = to + block * (PM_BLOCK / 16);
    PM_UNROLL for (uint i = 0; i < PM_BLOCK / 16; i++) {
        quants[at + i] = pack_sixteen(high, 4 * i);
        if (WIDE != 0)
            quants[at + plane + i] = pack_sixteen(q, 4 * i);
    }
    ivec2 two = ivec2(sums[0].x + sums[0].y + sums[0].z + sums[0].w, sums[1].x + sums[1].y + sums[1].z + sums[1].w);
    float scale = factor > 0 ? most.x * (1.0 / float(MOST)) : 0;
    quants[to + (WIDE != 0 ? 2 : 1) * plane + block] = uvec4(floatBitsToUint(scale), uvec2(two), 0);
}
