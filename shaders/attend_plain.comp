// The plain way to what attend.comp computes, for drivers on which that is not right: an invocation sums the values of a few dims of
// a query head of a batch row all by itself, and finds the scores for them once more. No shared memory, no barrier, nothing of
// subgroups, no array with an index that varies. Online softmax, a position at a time.
// Bytes read: K of the split HEAD_DIM / DIMS times a query head and row, V once.
#version 450
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"
#include "attend.glsl"

const uint DIMS = KV_CHUNK < 8 ? KV_CHUNK : 8; // of an invocation

float score(uint page, uint pos, uint head, uint first_q) {
    uint at = k_at(page, pos, head, a.n_kv_heads, HEAD_DIM);
    float sum = 0;
    for (uint c = 0; c < HEAD_DIM / KV_CHUNK; c++) {
        float values[KV_CHUNK];
        key_values(k[at + c * PM_PAGE], key_scale(page, pos, head, c), values);
        PM_UNROLL for (uint i = 0; i < KV_CHUNK; i++) sum = fma(values[i], q[first_q + c * KV_CHUNK + i], sum);
    }
    return sum * (a.scale * LOG2_E);
}

void main() {
    uint part = gl_GlobalInvocationID.x, n = gl_WorkGroupID.y, split = gl_WorkGroupID.z;
    uint q_head = part / (HEAD_DIM / DIMS), dim = part % (HEAD_DIM / DIMS) * DIMS, head = q_head / GROUP;
    if (q_head >= a.n_heads)
        return;
    pm_row row = rows[n];
    uint start = split * a.split_len, end = row.pos + 1, table = row.seq * a.max_pages;
    if (a.n_splits > 1)
        end = min(end, start + a.split_len);

    vec2 sum_pv[DIMS / 2];
    PM_UNROLL for (uint i = 0; i < DIMS / 2; i++) sum_pv[i] = vec2(0);
    float greatest = LOWEST, sum_p = 0;
    for (uint pos = start; pos < end; pos++) {
        uint page = pages[table + pos / PM_PAGE];
        float s = score(page, pos, head, n * a.q_stride + q_head * HEAD_DIM), most = max(greatest, s);
        float p = exp2(s - most), old = exp2(greatest - most);
        sum_p = sum_p * old + p;
        greatest = most;
        PM_UNROLL for (uint i = 0; i < DIMS / 2; i++)
            sum_pv[i] = fma(vec2(p), value_pair(page, pos, head, dim / 2 + i), sum_pv[i] * old);
    }

    if (a.n_splits == 1) {
        uint to = n * a.out_stride + q_head * HEAD_DIM + dim;
        PM_UNROLL for (uint i = 0; i < DIMS / 2; i++) {
            result[to + 2 * i] = sum_pv[i].x / sum_p;
            result[to + 2 * i + 1] = sum_pv[i].y / sum_p;
        }
        return;
    }
    uint to = ((n * a.n_heads + q_head) * a.n_splits + split) * (HEAD_DIM + 2);
    PM_UNROLL for (uint i = 0; i < DIMS / 2; i++) {
        partial[to + dim + 2 * i] = sum_pv[i].x;
        partial[to + dim + 2 * i + 1] = sum_pv[i].y;
    }
    if (dim == 0) {
        partial[to + HEAD_DIM] = greatest;
        partial[to + HEAD_DIM + 1] = sum_p;
    }
}
