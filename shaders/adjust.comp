// An invocation an id: a logit as the penalties and the bias change it. See pm_op_adjust in host/ops.h. `precise`, so that the host
// gets the same bits. Moves 16 bytes an id.
#version 450
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
PM_ARGS(pm_adjust_args);

layout(binding = 0) readonly buffer Logits {
    float logits[]; // (m, logits_stride)
};
layout(binding = 1) readonly buffer Sampling {
    pm_sampling sampling[]; // (m)
};
layout(binding = 2) readonly buffer Bias {
    float bias[]; // (m, vocab)
};
layout(binding = 3) readonly buffer Index {
    uint index[]; // (m): the batch row of each output
};
layout(binding = 4) readonly buffer Rows {
    pm_row rows[];
};
layout(binding = 5) buffer Seen {
    uint seen[]; // (m, vocab)
};
layout(binding = 6) writeonly buffer Adjusted {
    float adjusted[]; // (m, adjusted_stride)
};

const float GREATEST = 3.4028234e38;

void main() {
    uint id = gl_GlobalInvocationID.x, m = gl_WorkGroupID.y, at = m * a.vocab + id;
    if (id >= a.vocab)
        return;
    uint s = seen[at];
    if (a.count != 0 && id == rows[index[m]].token) {
        s++;
        seen[at] = s;
    }
    precise float l = logits[m * a.logits_stride + id] + bias[at];
    if (s != 0)
        l = l * (l > 0 ? sampling[m].inv_repeat : sampling[m].repeat);
    if ((s & PM_SEEN_COUNT) != 0) {
        precise float often = sampling[m].frequency * float(s & PM_SEEN_COUNT);
        l = l - often;
        l = l - sampling[m].presence;
    }
    l = l > -GREATEST ? l : -GREATEST; // NaN too
    adjusted[m * a.adjusted_stride + id] = l < GREATEST ? l : GREATEST;
}
