// Sorts pairs of a row and an expert by expert, those of one in their order, and cuts each expert's into tiles. One workgroup: an
// invocation counts and places the pairs of its experts, so that nothing depends on who comes first.
// Bytes read: the pairs, twice.
#version 450
#extension GL_GOOGLE_include_directive : require
#include "common.glsl"

layout(binding = 0) buffer Routes {
    uint routes[]; // struct pm_route (n_pairs), order (n_pairs), struct pm_tile (n_tiles)
};

PM_ARGS(pm_group_args);

const uint CHUNK = 1024;
shared uint experts[CHUNK];
shared uint first_pair[PM_MAX_EXPERTS]; // counts, then where an expert's pairs begin
shared uint first_tile[PM_MAX_EXPERTS];

// All invocations of the workgroup read pairs [at, at + CHUNK).
void load_chunk(uint at) {
    barrier();
    for (uint i = gl_LocalInvocationID.x; i < CHUNK && at + i < a.n_pairs; i += WORKGROUP)
        experts[i] = routes[2 * (at + i)];
    barrier();
}

void count_pairs() {
    for (uint e = gl_LocalInvocationID.x; e < a.n_experts; e += WORKGROUP)
        first_pair[e] = 0;
    for (uint at = 0; at < a.n_pairs; at += CHUNK) {
        load_chunk(at);
        uint n = min(CHUNK, a.n_pairs - at);
        for (uint e = gl_LocalInvocationID.x; e < a.n_experts; e += WORKGROUP) {
            uint count = 0;
            for (uint i = 0; i < n; i++)
                count += uint(experts[i] == e);
            first_pair[e] += count;
        }
    }
    barrier();
}

uint tiles_of(uint count) {
    return (count + a.tile_cols - 1) / a.tile_cols;
}

// Counts become sums of those before; returns all tiles.
uint add_up() {
    uint pairs = 0, tiles = 0;
    for (uint e = 0; e < a.n_experts; e++) {
        uint count = first_pair[e];
        first_pair[e] = pairs;
        first_tile[e] = tiles;
        pairs += count;
        tiles += tiles_of(count);
    }
    return tiles;
}

void put_tile(uint tile, uint expert, uint first, uint count) {
    uint at = 3 * (a.n_pairs + tile);
    routes[at] = expert;
    routes[at + 1] = first;
    routes[at + 2] = count;
}

void put_tiles(uint e) {
    uint end = e + 1 < a.n_experts ? first_pair[e + 1] : a.n_pairs, tile = first_tile[e];
    for (uint first = first_pair[e]; first < end; first += a.tile_cols)
        put_tile(tile++, e, first, min(a.tile_cols, end - first));
}

void place_pairs() {
    for (uint at = 0; at < a.n_pairs; at += CHUNK) {
        load_chunk(at);
        uint n = min(CHUNK, a.n_pairs - at);
        for (uint e = gl_LocalInvocationID.x; e < a.n_experts; e += WORKGROUP) {
            uint to = first_pair[e];
            for (uint i = 0; i < n; i++)
                if (experts[i] == e)
                    routes[2 * a.n_pairs + to++] = at + i;
            first_pair[e] = to;
        }
    }
}

void main() {
    uint tid = gl_LocalInvocationID.x;
    count_pairs();
    if (tid == 0) {
        uint n_tiles = add_up();
        for (uint tile = n_tiles; tile < a.n_tiles; tile++)
            put_tile(tile, 0, 0, 0);
    }
    barrier();
    for (uint e = tid; e < a.n_experts; e += WORKGROUP)
        put_tiles(e);
    place_pairs();
}
