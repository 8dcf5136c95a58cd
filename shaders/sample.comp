// A workgroup an output: draws the next id from a row of logits. See pm_op_sample in host/ops.h for the order and the method.
// Thresholds are found by radix selection over the bits of the logits: a histogram of 256 buckets of the top byte among what is
// still in question, the bucket where the wanted weight is reached, then the next byte. Integer weights make it exact and the
// same for any workgroup size.
#version 450
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
PM_ARGS(pm_sample_args);

layout(binding = 0) readonly buffer Logits {
    float logits[]; // (m, logits_stride)
};
layout(binding = 1) readonly buffer Sampling {
    pm_sampling sampling[]; // (m)
};
layout(binding = 2) readonly buffer Index {
    uint index[]; // (m): the batch row of each output
};
layout(binding = 3) readonly buffer Rows {
    pm_row rows[];
};
layout(binding = 4) buffer Next {
    pm_row next[]; // (m)
};
layout(binding = 5) buffer Results {
    uint results[];
};

const float LOWEST = -3.4028234e38;
const float MASS_ONE = 1073741824.0; // 2^30: probabilities as integers

shared float values[WORKGROUP];
shared uint ids[WORKGROUP];
shared uint histogram[256];
shared uint chosen[2]; // bucket, and the weight that is left to find inside it

float logit(uint id) {
    float l = logits[gl_WorkGroupID.x * a.logits_stride + id];
    return l > LOWEST ? l : LOWEST; // NaN too
}

// Keeps the order of floats.
uint sort_key(float l) {
    uint bits = floatBitsToUint(l);
    return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

// The greatest value over the workgroup and the lowest id that has it; in values[0], ids[0] for all.
void reduce_greatest(float value, uint id) {
    uint lane = gl_LocalInvocationID.x;
    barrier();
    values[lane] = value;
    ids[lane] = id;
    barrier();
    for (uint half_size = WORKGROUP / 2; half_size > 0; half_size /= 2) {
        if (lane < half_size) {
            float other = values[lane + half_size];
            uint other_id = ids[lane + half_size];
            if (other > values[lane] || (other == values[lane] && other_id < ids[lane])) {
                values[lane] = other;
                ids[lane] = other_id;
            }
        }
        barrier();
    }
}

float reduce_sum(float value) {
    uint lane = gl_LocalInvocationID.x;
    barrier();
    values[lane] = value;
    barrier();
    for (uint half_size = WORKGROUP / 2; half_size > 0; half_size /= 2) {
        if (lane < half_size)
            values[lane] += values[lane + half_size];
        barrier();
    }
    return values[0];
}

// Weight of an id in a selection: 1 when counting, else its share of the mass.
uint weight(float l, float most, float inv_temperature, float inv_mass) {
    return inv_mass == 0 ? 1u : uint(exp((l - most) * inv_temperature) * inv_mass * MASS_ONE);
}

// The greatest key t >= floor_key for which the ids with keys >= t weigh at least `target`; floor_key where all weigh less.
uint select_key(uint target, uint floor_key, float most, float inv_temperature, float inv_mass) {
    uint lane = gl_LocalInvocationID.x;
    uint prefix = 0, left = target;
    for (int shift = 24; shift >= 0; shift -= 8) {
        barrier();
        for (uint i = lane; i < 256; i += WORKGROUP)
            histogram[i] = 0;
        barrier();
        uint known = shift == 24 ? 0u : 0xffffffffu << (shift + 8);
        for (uint id = lane; id < a.vocab; id += WORKGROUP) {
            float l = logit(id);
            uint key = sort_key(l);
            if (key >= floor_key && (key & known) == prefix)
                atomicAdd(histogram[(key >> shift) & 255], weight(l, most, inv_temperature, inv_mass));
        }
        barrier();
        if (lane == 0) {
            uint bucket = 255, sum = 0;
            while (bucket > 0 && sum + histogram[bucket] < left) {
                sum += histogram[bucket];
                bucket--;
            }
            chosen[0] = bucket;
            chosen[1] = left - min(sum, left);
        }
        barrier();
        prefix |= chosen[0] << shift;
        left = chosen[1];
    }
    return max(prefix, floor_key);
}

uvec3 pcg3d(uvec3 v) { // https://jcgt.org/published/0009/03/02/
    v = v * 1664525u + 1013904223u;
    v.x += v.y * v.z;
    v.y += v.z * v.x;
    v.z += v.x * v.y;
    v ^= v >> 16;
    v.x += v.y * v.z;
    v.y += v.z * v.x;
    v.z += v.x * v.y;
    return v;
}

// -log(-log(u)) with u uniform in (0, 1). Near 1, log(u) is taken from 1 - u, which is exact there.
float gumbel(pm_sampling s, uint pos, uint id) {
    uint bits = pcg3d(uvec3(s.seed_lo ^ (id * 0x9e3779b9u), s.seed_hi + pos, id)).x >> 9;
    float u = (float(bits) + 0.5) * exp2(-23.0);
    float rest = (float(0x7fffffu - bits) + 0.5) * exp2(-23.0); // 1 - u
    float e = rest < 0.01 ? rest * (1.0 + rest * (0.5 + rest / 3.0)) : -log(u);
    return -log(e);
}

// The lowest key that top-k, top-p and min-p leave.
uint lowest_kept(pm_sampling s, float most) {
    float inv_temperature = 1.0 / s.temperature;
    uint kept = 0;
    if (s.top_k > 0 && s.top_k < a.vocab)
        kept = select_key(s.top_k, 0, most, inv_temperature, 0);
    if (s.top_p < 1) {
        float sum = 0;
        for (uint id = gl_LocalInvocationID.x; id < a.vocab; id += WORKGROUP) {
            float l = logit(id);
            if (sort_key(l) >= kept)
                sum += exp((l - most) * inv_temperature);
        }
        float mass = reduce_sum(sum);
        kept = select_key(max(uint(s.top_p * MASS_ONE), 1), kept, most, inv_temperature, 1.0 / mass);
    }
    if (s.min_p > 0)
        kept = max(kept, sort_key(most + s.temperature * log(s.min_p)));
    return kept;
}

void main() {
    uint m = gl_WorkGroupID.x, lane = gl_LocalInvocationID.x;
    pm_sampling s = sampling[m];
    pm_row row = rows[index[m]];

    float best = LOWEST;
    uint best_id = lane < a.vocab ? lane : 0;
    for (uint id = lane; id < a.vocab; id += WORKGROUP) {
        float l = logit(id);
        if (l > best) {
            best = l;
            best_id = id;
        }
    }
    reduce_greatest(best, best_id);

    if (s.temperature > 0) {
        float most = values[0];
        uint kept = min(lowest_kept(s, most), sort_key(most));
        best = LOWEST;
        best_id = ids[0];
        for (uint id = lane; id < a.vocab; id += WORKGROUP) {
            float l = logit(id);
            if (sort_key(l) < kept)
                continue;
            float noisy = (l - most) / s.temperature + gumbel(s, row.pos, id);
            if (noisy > best) {
                best = noisy;
                best_id = id;
            }
        }
        reduce_greatest(best, best_id);
    }
    if (lane == 0) {
        results[a.result0 + m] = ids[0];
        next[m] = pm_row(ids[0], row.seq, row.pos + 1, row.rope);
    }
}
