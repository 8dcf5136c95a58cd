// What a device can do at most, for pumice-bench: bytes moved by plain loads and stores, and chains of multiply-adds in the types
// that it has. What comes out is known in closed form (pm_ref_ceiling), so that a compiler that leaves work out is found out. See
// pm_op_ceiling in host/ops.h. Reads 16 bytes an element of n where it reads, writes as many where it writes; a chain moves nothing.
#version 450
#extension GL_GOOGLE_include_directive : require
#ifdef C_F16
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#endif
#ifdef C_INT_DOT
#extension GL_EXT_integer_dot_product : require
#endif
#ifdef C_COOPMAT
#extension GL_KHR_cooperative_matrix : require
#extension GL_KHR_memory_scope_semantics : require
#extension GL_EXT_shader_explicit_arithmetic_types_float16 : require
#extension GL_KHR_shader_subgroup_basic : require
#endif
#include "common.glsl"
PM_ARGS(pm_ceiling_args);

layout(binding = 0) readonly buffer Src {
    uvec4 src[];
};
layout(binding = 1) writeonly buffer Dst {
    uvec4 dst[];
};

#ifdef C_MEMORY
layout(constant_id = 1) const uint MODE = PM_CEILING_READ;

uvec4 sum = uvec4(0);

void move(uint i) {
    if (MODE == PM_CEILING_READ)
        sum += src[i];
    else
        dst[i] = MODE == PM_CEILING_COPY ? src[i] : uvec4(4 * i) + uvec4(0, 1, 2, 3);
}

// Neighbours take neighbouring elements, then all move on by as many as there are invocations; several such steps at a time.
void main() {
    uint first = gl_GlobalInvocationID.x, step = gl_NumWorkGroups.x * WORKGROUP, i = first;
    for (; i + (PM_CEILING_UNROLL - 1) * step < a.n; i += PM_CEILING_UNROLL * step)
        PM_UNROLL for (uint u = 0; u < PM_CEILING_UNROLL; u++)
            move(i + u * step);
    for (; i < a.n; i += step)
        move(i);
    if (MODE == PM_CEILING_READ)
        dst[first] = sum;
}

#elif defined(C_COOPMAT)
layout(constant_id = 2) const uint SUBGROUP = 32; // the pipeline is made for this size
layout(constant_id = 3) const uint M = 16;
layout(constant_id = 4) const uint N = 16;
layout(constant_id = 5) const uint K = 16;

shared float tile[WORKGROUP / SUBGROUP * M * N];

// Each product of ones adds K to every element.
void main() {
    coopmat<float16_t, gl_ScopeSubgroup, M, K, gl_MatrixUseA> x =
        coopmat<float16_t, gl_ScopeSubgroup, M, K, gl_MatrixUseA>(float16_t(a.factor));
    coopmat<float16_t, gl_ScopeSubgroup, K, N, gl_MatrixUseB> y =
        coopmat<float16_t, gl_ScopeSubgroup, K, N, gl_MatrixUseB>(float16_t(a.factor));
    coopmat<float, gl_ScopeSubgroup, M, N, gl_MatrixUseAccumulator> sums[PM_CEILING_CHAINS];
    PM_UNROLL for (uint c = 0; c < PM_CEILING_CHAINS; c++)
        sums[c] = coopmat<float, gl_ScopeSubgroup, M, N, gl_MatrixUseAccumulator>(float(c));
    for (uint i = 0; i < a.n; i++)
        PM_UNROLL for (uint c = 0; c < PM_CEILING_CHAINS; c++)
            sums[c] = coopMatMulAdd(x, y, sums[c]);
    coopmat<float, gl_ScopeSubgroup, M, N, gl_MatrixUseAccumulator> all = sums[0];
    PM_UNROLL for (uint c = 1; c < PM_CEILING_CHAINS; c++)
        all = all + sums[c];
    coopMatStore(all, tile, gl_SubgroupID * M * N, N, gl_CooperativeMatrixLayoutRowMajor);
    barrier();
    uint at = gl_SubgroupID * M * N + gl_SubgroupInvocationID;
    dst[gl_GlobalInvocationID.x] = uvec4(floatBitsToUint(tile[at]));
}

#else
#if defined(C_INT_DOT)
#define VALUE ivec4
#define TO_FLOAT(v) vec4(v)
// The signed low byte of x, plus an addend: a dot product whose other factors are 1, 0, 0, 0.
ivec4 step_of(ivec4 x) {
    int m = int(a.ones), b = int(a.addend);
    return ivec4(dotPacked4x8EXT(x.x, m) + b, dotPacked4x8EXT(x.y, m) + b, dotPacked4x8EXT(x.z, m) + b, dotPacked4x8EXT(x.w, m) + b);
}
#else
#ifdef C_F16
#define VALUE f16vec4
#define ONE float16_t
#else
#define VALUE vec4
#define ONE float
#endif
#define TO_FLOAT(v) vec4(v)
VALUE step_of(VALUE x) {
    return fma(x, VALUE(ONE(a.factor)), VALUE(ONE(a.addend)));
}
#endif

// Chains count up from where they begin, as far as halves are exact, and begin anew; their ends are summed.
void main() {
    vec4 sum = vec4(0);
    for (uint i = 0; i < a.n; i++) {
        VALUE x[PM_CEILING_CHAINS];
        PM_UNROLL for (uint c = 0; c < PM_CEILING_CHAINS; c++)
            x[c] = VALUE(vec4(float(c + i % 8)) + vec4(0, 1, 2, 3));
        for (uint k = 0; k < PM_CEILING_LENGTH; k += PM_CEILING_UNROLL)
            PM_UNROLL for (uint u = 0; u < PM_CEILING_UNROLL; u++)
                PM_UNROLL for (uint c = 0; c < PM_CEILING_CHAINS; c++)
                    x[c] = step_of(x[c]);
        PM_UNROLL for (uint c = 0; c < PM_CEILING_CHAINS; c++)
            sum += TO_FLOAT(x[c]);
    }
    dst[gl_GlobalInvocationID.x] = floatBitsToUint(sum);
}
#endif
