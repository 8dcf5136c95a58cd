// Finding the greatest of a row of logits, for kernels whose workgroup (x) is an output; they define PM_ARGS with logits_stride,
// logits[], and which ids are looked at: n_items() of them, item(i). Thresholds are found by radix selection over the bits of the
// logits: a histogram of 256 buckets of the top byte among what is still in question, the bucket where the wanted weight is
// reached, then the next byte. Integer weights make it exact and the same for any workgroup size.
const float LOWEST = -3.4028234e38, GREATEST = 3.4028234e38;
const float MASS_ONE = 1073741824.0; // 2^30: probabilities as integers

shared float values[WORKGROUP];
shared uint ids[WORKGROUP];
shared uint histogram[256];
shared uint chosen[2]; // bucket, and the weight that is left to find inside it

float logit(uint id) {
    float l = logits[gl_WorkGroupID.x * a.logits_stride + id];
    return l > LOWEST ? min(l, GREATEST) : LOWEST; // NaN too
}

// Keeps the order of floats.
uint sort_key(float l) {
    uint bits = floatBitsToUint(l);
    return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

float float_of(uint key) {
    return uintBitsToFloat((key & 0x80000000u) != 0 ? key & 0x7fffffffu : ~key);
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

// The lane's best of the row, for reduce_greatest.
void greatest_of_lane(out float best, out uint best_id) {
    uint lane = gl_LocalInvocationID.x;
    best = LOWEST;
    best_id = 0xffffffffu;
    for (uint i = lane; i < n_items(); i += WORKGROUP) {
        uint id = item(i);
        float l = logit(id);
        if (l > best || (l == best && id < best_id)) {
            best = l;
            best_id = id;
        }
    }
}

// The ids in question, and how they are drawn: those whose sort keys lie in [low, high].
struct band {
    uint low, high;
    float most; // the greatest logit among them
    float temperature, inv_temperature;
};

bool holds(band b, float l) {
    uint key = sort_key(l);
    return key >= b.low && key <= b.high;
}

// ln of the probability, up to a constant.
float exponent(band b, float l) {
    return (l - b.most) * b.inv_temperature;
}

// What to select by: 1 an id with its sort key, or its share of the mass; typical: nearness to a centre comes first.
struct measure {
    float inv_mass; // 0: 1 an id
    bool typical;
    float centre;
};

uint weight(measure by, band b, float l) {
    return by.inv_mass == 0 ? 1u : uint(exp(exponent(b, l)) * by.inv_mass * MASS_ONE);
}

uint rank_key(measure by, band b, float l) {
    return by.typical ? ~floatBitsToUint(abs(max(exponent(b, l), -1e30) - by.centre)) : sort_key(l);
}

// The greatest key t for which the ids of the band with rank keys >= t weigh at least `target`; 0 where all weigh less.
uint select_key(uint target, measure by, band b) {
    uint lane = gl_LocalInvocationID.x;
    uint prefix = 0, left = target;
    for (int shift = 24; shift >= 0; shift -= 8) {
        barrier();
        for (uint i = lane; i < 256; i += WORKGROUP)
            histogram[i] = 0;
        barrier();
        uint known = shift == 24 ? 0u : 0xffffffffu << (shift + 8);
        for (uint i = lane; i < n_items(); i += WORKGROUP) {
            float l = logit(item(i));
            uint key = rank_key(by, b, l);
            if (holds(b, l) && (key & known) == prefix)
                atomicAdd(histogram[(key >> shift) & 255], weight(by, b, l));
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
    return prefix;
}
