// What C and GLSL agree on. Compiled by both: only #define, and structs of uint and float members, so that C's layout and
// std430's are the same. Shapes are in elements, strides in elements unless said otherwise.
#ifndef PM_ABI_H
#define PM_ABI_H

#ifndef GL_core_profile // C
#include <stdint.h>
typedef uint32_t uint;
#endif

#define PM_MAX_BINDINGS 10  // storage buffers of the one descriptor set layout
#define PM_MAX_SPEC     12  // specialization constants of a kernel, ids 0..11
#define PM_MAX_ARGS     128 // bytes of push constants: what Vulkan guarantees

#define PM_BLOCK 32 // columns of a packed weight row come in blocks of 32; rows of activations are padded to it with zeros
#define PM_PAGE  32 // positions in a page of the KV cache

// Rotation angles come in two parts, position = PM_ANGLE_STEP * high + low, so that a table of a million positions is small.
#define PM_ANGLE_STEP 64

// One row of a batch.
struct pm_row {
    uint token;
    uint seq;  // row of the page table
    uint pos;  // position in its sequence, from 0; attends to positions [0, pos]
    uint rope; // table of angles that turns its sequence
};

// What narrows the ids that are drawn from, a step each, and takes the temperature: the digits of pm_sampling.steps.
#define PM_STEP_TEMPERATURE 1u
#define PM_STEP_TOP_K       2u
#define PM_STEP_TOP_P       3u
#define PM_STEP_MIN_P       4u
#define PM_STEP_TYPICAL_P   5u
#define PM_STEPS_USUAL      0x54321u // transformers' order

// How the next token of one output is drawn.
struct pm_sampling {
    float temperature; // 0: greedy; then what follows up to `steps` is ignored
    float top_p;       // 1: off
    float min_p;       // 0: off
    uint top_k;        // 0: off
    uint seed_lo, seed_hi;
    float typical_p; // 0 or 1: off
    uint steps;      // hexadecimal digits, the first step is the lowest; what is not there is off
    // adjust only, before all that:
    float repeat, inv_repeat; // factors on logits below and above zero of ids that occurred; 1: off
    float presence, frequency;
};

// Of a slice of the logits that many workgroups look through for the one that draws.
#define PM_SIEVE_SLICE  4096u
#define PM_SIEVE_MOST   127u        // ids that come through
#define PM_SIEVE_ALL    0xffffffffu // more do, or it cannot be told which
#define PM_SIEVE_TOP_K  40u         // of more than that, all
#define PM_SIEVE_LISTED 2048u       // ids of all slices

// What adjust knows of an id: how often it was drawn, and whether the prompt has it.
#define PM_SEEN_IN_PROMPT 0x80000000u
#define PM_SEEN_COUNT     0x7fffffffu

// An id and the logarithm of its probability.
#define PM_MAX_LIKELY 20 // alternatives to the id that was drawn
struct pm_likely {
    uint id;
    float logprob;
};

// y (n, rows) = epilogue(scale (n) * (x (n, cols) * W (rows, cols)^T)); matvec and matmul share it
struct pm_linear_args {
    uint n0, n;        // this dispatch takes rows [n0, n) of x
    uint rows;         // rows of W in this dispatch
    uint row0;         // where they stand in the whole W: the output column of the first
    uint blocks;       // ceil(cols / PM_BLOCK)
    uint scale_stride; // 32-bit words of a row of W's scale plane
    uint x_stride;     // floats; a multiple of PM_BLOCK
    uint y_stride;
    uint n_parts; // partial sums of squares a row in `squares`; 0: no norm
    uint squares_stride;
    float inv_dim; // 1 / columns under the norm
    float eps;
    uint part0; // PM_LINEAR_ADD: the part of out_squares that workgroup 0 of this dispatch writes

    // Of a stack of matrices for experts: `rows` and `blocks` are those of one.
    uint expert0, n_experts; // this dispatch has the matrices of the experts [expert0, expert0 + n_experts)
    uint n_used;             // experts of a row of x
    uint n_pairs;            // rows * n_used
};

// Bits of the EPILOGUE specialization constant of matvec and matmul.
#define PM_LINEAR_NORM 1u // scale = rsqrt(sum(squares) * inv_dim + eps), else 1
#define PM_LINEAR_BIAS 2u // + bias (rows)
#define PM_LINEAR_ADD  4u // y += ..., then normed = y * gain and out_squares = partial sums of y^2
#define PM_LINEAR_GLU  8u // rows come in pairs gate, up: y (n, rows / 2) = silu(gate) * up
// Kernels for experts: pairs are taken by expert, as `group` has sorted them
#define PM_LINEAR_GROUPED 16u

// What a workgroup of matmul computes: rows of W by rows of x, with PM_TILE_ROWS * PM_TILE_COLS / 16 invocations.
#define PM_TILE_ROWS 64
#define PM_TILE_COLS 32

// A row of x as whole numbers: planes of bytes, 8 words a block of PM_BLOCK columns, then this a block. There are two planes for a
// product under the norm, where a few columns are much larger than the others; the first has the numbers' high bytes. Else one.
struct pm_quants {
    float scale;
    uint sums[2]; // of the numbers in the block's halves, signed
    uint unused;
};
#define PM_QUANTS_MOST      127   // in one byte
#define PM_QUANTS_MOST_WIDE 32512 // in two: PM_QUANTS_MOST * 256

struct pm_quantize_args {
    uint blocks;        // of a row
    uint x_stride;      // floats
    uint quants_stride; // words
};

// What a workgroup of matmul_dot computes, with PM_DOT_TILE_ROWS * PM_DOT_TILE_COLS / 32 invocations.
#define PM_DOT_TILE_ROWS 64
#define PM_DOT_TILE_COLS 64

// A row's experts are its places 0 .. n_used - 1; pair number row * n_used + place says which expert, and what its result counts.
struct pm_route {
    uint expert;
    float weight;
};

// Pairs order[first] .. order[first + count - 1], which have one expert; count 0: nothing to do.
struct pm_tile {
    uint expert;
    uint first, count;
};

#define PM_MAX_EXPERTS 1024

struct pm_route_args {
    uint n_experts, n_used;
    uint logits_stride;
    uint normed; // 1: the weights of a row sum to 1
};

struct pm_group_args {
    uint n_experts;
    uint n_pairs;
    uint tile_cols; // most pairs of a tile
    uint n_tiles;   // to be written: as many as there can be
};

#define PM_SUM_COLS 256 // columns that a workgroup of experts_sum takes

struct pm_experts_sum_args {
    uint dim;
    uint n_used;
    uint stride; // of x, normed and of the pairs' products
    uint squares_stride;
};

struct pm_embed_args {
    uint row0, rows; // rows of the table in this dispatch; other tokens are left to the other dispatches
    uint blocks;
    uint scale_stride;
    uint dim;
    uint x_stride;
    uint squares_stride;
};

struct pm_gather_args {
    uint dim_words; // floats of a row to copy
    uint x_stride;
    uint n_parts;
    uint squares_stride;
};

struct pm_rope_store_args {
    uint n_heads, n_kv_heads;
    uint qkv_stride;
    uint q_stride;
    uint max_pages;  // entries of a row of the page table
    uint angle_rows; // rows of a table of angles
    float eps;
};

struct pm_attend_args {
    uint n; // batch rows
    uint n_heads, n_kv_heads;
    uint q_stride;
    uint out_stride;
    uint max_pages;
    uint n_splits;  // 1: writes the result; else partial results for attend_merge
    uint split_len; // positions a split; a multiple of PM_PAGE
    float scale;    // of q.k
};

struct pm_attend_merge_args {
    uint n_heads;
    uint n_splits;
    uint out_stride;
};

struct pm_sample_args { // of sieve too
    uint vocab;         // ids at and above it are padding and never drawn
    uint logits_stride;
    uint result0;  // where in `results` the first output's id goes
    uint n_slices; // of PM_SIEVE_SLICE ids; 0: nothing was sieved
};

struct pm_adjust_args {
    uint vocab;
    uint logits_stride, adjusted_stride;
    uint count; // 1: the row's own token was drawn, and is counted first
};

struct pm_logprobs_args {
    uint vocab;
    uint logits_stride;
    uint n; // alternatives
};

// What ceiling_memory does, its MODE; the other kernels of ceiling.comp multiply and add.
#define PM_CEILING_READ  0u
#define PM_CEILING_WRITE 1u
#define PM_CEILING_COPY  2u

// An invocation of theirs runs so many chains of 4 values (or a matrix of sums) side by side; a chain begins anew after LENGTH
// steps.
#define PM_CEILING_CHAINS 4
#define PM_CEILING_LENGTH 512
#define PM_CEILING_UNROLL 16

struct pm_ceiling_args {
    uint n;               // elements of 16 bytes; times that chains are run, or products of matrices
    uint ones;            // bytes 1, 0, 0, 0
    float factor, addend; // 1: what a compiler must not know
};

#endif
