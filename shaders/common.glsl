// What every kernel starts with.
#extension GL_EXT_control_flow_attributes : require
#include "abi.h"

#define PM_ARGS(type)                                                                                                             \
    layout(push_constant) uniform Args {                                                                                          \
        type a;                                                                                                                   \
    }

// Constant 0 of every kernel is the number of invocations of its workgroup.
layout(local_size_x_id = 0, local_size_y = 1, local_size_z = 1) in;
layout(constant_id = 0) const uint WORKGROUP = 64;

#define PM_UNROLL [[unroll]]
