// The mixes of types that people ask for by name. Which tensors get more bits is what llama-quantize does without an importance
// matrix, so that a file named Q4_K_M holds what its name promises: tests/peer_quantize.sh compares.
#include "loader/mix.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const pm_mix mixes[] = {
    {"F32", PM_F32, 0},      {"F16", PM_F16, 1},      {"BF16", PM_BF16, 32},     {"Q8_0", PM_Q8_0, 7},      {"Q4_0", PM_Q4_0, 2},
    {"Q4_1", PM_Q4_1, 3},    {"Q5_0", PM_Q5_0, 8},    {"Q5_1", PM_Q5_1, 9},      {"Q2_K", PM_Q2_K, 10},     {"Q3_K_S", PM_Q3_K, 11},
    {"Q3_K_M", PM_Q3_K, 12}, {"Q3_K_L", PM_Q3_K, 13}, {"Q4_K_S", PM_Q4_K, 14},   {"Q4_K_M", PM_Q4_K, 15},   {"Q5_K_S", PM_Q5_K, 16},
    {"Q5_K_M", PM_Q5_K, 17}, {"Q6_K", PM_Q6_K, 18},   {"IQ4_NL", PM_IQ4_NL, 25}, {"IQ4_XS", PM_IQ4_XS, 30}, {"MXFP4", PM_MXFP4, 38},
    {"Q3_K", PM_Q3_K, 12},   {"Q4_K", PM_Q4_K, 15},   {"Q5_K", PM_Q5_K, 17}, // as llama-quantize: the medium ones
};
#define N_OF(table) (sizeof(table) / sizeof((table)[0]))

const char *pm_quantize_types(void) {
    return "F32 F16 BF16 Q8_0 Q4_0 Q4_1 Q5_0 Q5_1 Q2_K Q3_K_S Q3_K_M Q3_K_L Q4_K_S Q4_K_M Q5_K_S Q5_K_M Q6_K IQ4_NL IQ4_XS MXFP4";
}

static bool same_letters(const char *a, const char *b) {
    for (; *a && *b; a++, b++) {
        char upper = *a >= 'a' && *a <= 'z' ? (char)(*a - 'a' + 'A') : *a;
        if (upper != *b)
            return false;
    }
    return *a == *b;
}

const pm_mix *pm_mix_find(const char *name) {
    for (size_t i = 0; i < N_OF(mixes); i++)
        if (same_letters(name, mixes[i].name))
            return &mixes[i];
    return NULL;
}

bool pm_dtype_find(const char *name, pm_dtype *dtype) {
    const pm_mix *mix = pm_mix_find(name); // every type we write is the base of a mix
    for (size_t i = 0; i < N_OF(mixes); i++) {
        *dtype = mixes[i].dtype;
        if (same_letters(name, pm_dtype_get(*dtype)->name))
            return true;
    }
    return mix && strcmp(mix->name, pm_dtype_get(mix->dtype)->name) == 0;
}

// ---- rules ------------------------------------------------------------------------------------------------------------

// In which layers a rule holds.
typedef enum layers {
    ALL,
    OUTER,        // the first and last eighth, and every third of those between
    FIRST_EIGHTH, //
    FIRST_SIXTEENTH,
    FIRST_TWO,
    FIRST_FOUR,
    SHARED, // all, where four query heads and more share a key-value head: its weights are few and each counts more
} layers;

// The first row that fits decides. `tensor` is how its name goes on after "blk.N.".
static const struct rule {
    const char *mix, *tensor;
    layers layers;
    pm_dtype dtype;
} rules[] = {
    {"Q2_K", "attn_v.", SHARED, PM_Q4_K},       {"Q2_K", "attn_v.", ALL, PM_Q3_K},
    {"Q2_K", "attn_output.", ALL, PM_Q3_K},     {"Q2_K", "ffn_down", ALL, PM_Q3_K},
    {"Q3_K_M", "attn_v.", FIRST_TWO, PM_Q5_K},  {"Q3_K_M", "attn_v.", ALL, PM_Q4_K},
    {"Q3_K_M", "attn_output.", ALL, PM_Q4_K},   {"Q3_K_M", "ffn_down", FIRST_SIXTEENTH, PM_Q5_K},
    {"Q3_K_M", "ffn_down", ALL, PM_Q4_K},       {"Q3_K_L", "attn_v.", ALL, PM_Q5_K},
    {"Q3_K_L", "attn_output.", ALL, PM_Q5_K},   {"Q3_K_L", "ffn_down", ALL, PM_Q5_K},
    {"Q4_K_S", "attn_v.", FIRST_FOUR, PM_Q5_K}, {"Q4_K_S", "ffn_down", FIRST_EIGHTH, PM_Q5_K},
    {"Q4_K_M", "attn_v.", OUTER, PM_Q6_K},      {"Q4_K_M", "ffn_down", OUTER, PM_Q6_K},
    {"Q5_K_M", "attn_v.", OUTER, PM_Q6_K},      {"Q5_K_M", "ffn_down", OUTER, PM_Q6_K},
    {"IQ4_NL", "attn_v.", SHARED, PM_Q5_K},     {"IQ4_NL", "ffn_down", FIRST_EIGHTH, PM_Q5_K},
    {"IQ4_XS", "attn_v.", SHARED, PM_Q5_K},     {"IQ4_XS", "ffn_down", FIRST_EIGHTH, PM_Q5_K},
};

static bool holds(layers which, uint32_t layer, const pm_config *c) {
    uint32_t n = c->n_layers;
    switch (which) {
    case OUTER:
        return layer < n / 8 || layer >= 7 * n / 8 || (layer - n / 8) % 3 == 2;
    case FIRST_EIGHTH:
        return layer < n / 8;
    case FIRST_SIXTEENTH:
        return layer < n / 16;
    case FIRST_TWO:
        return layer < 2;
    case FIRST_FOUR:
        return layer < 4;
    case SHARED:
        return c->n_heads / c->n_kv_heads >= 4;
    case ALL:
        break;
    }
    return true;
}

static pm_dtype by_rule(const pm_mix *mix, const pm_config *config, const char *name) {
    char *rest;
    if (strncmp(name, "blk.", 4) != 0)
        return mix->dtype;
    uint32_t layer = (uint32_t)strtoul(name + 4, &rest, 10);
    for (size_t i = 0; i < N_OF(rules) && *rest == '.'; i++) {
        const struct rule *r = &rules[i];
        if (strcmp(r->mix, mix->name) == 0 && strncmp(rest + 1, r->tensor, strlen(r->tensor)) == 0 &&
            holds(r->layers, layer, config))
            return r->dtype;
    }
    return mix->dtype;
}

// ---- the choice --------------------------------------------------------------------------------------------------------

// A vector, a norm, the router of a mixture of experts: small, and all depends on them.
static bool stays_float(const pm_tensor_view *t) {
    size_t n = strlen(t->name);
    bool weight = n > 7 && strcmp(t->name + n - 7, ".weight") == 0;
    return t->n_dims < 2 || !weight || strstr(t->name, "_norm.") || strstr(t->name, "ffn_gate_inp.");
}

static bool is_head(const pm_config *config, const char *name) {
    return strcmp(name, config->tied_head ? "token_embd.weight" : "output.weight") == 0;
}

static bool is_block_type(pm_dtype dtype) {
    return pm_dtype_get(dtype)->block_elements > 1;
}

// The head chooses between all tokens: six bits at the least.
static pm_dtype by_options(const pm_mix *mix, const pm_config *config, const pm_quantize_options *o, const char *name) {
    pm_dtype dtype;
    if (o->output_type && is_head(config, name) && pm_dtype_find(o->output_type, &dtype))
        return dtype;
    if (o->embedding_type && strcmp(name, "token_embd.weight") == 0 && pm_dtype_find(o->embedding_type, &dtype))
        return dtype;
    if (o->pure || !is_block_type(mix->dtype))
        return mix->dtype;
    if (is_head(config, name))
        return mix->dtype == PM_Q8_0 ? PM_Q8_0 : PM_Q6_K;
    return by_rule(mix, config, name);
}

// The next wider type whose block is smaller. (llama-quantize takes Q4_0 where this takes IQ4_NL, which errs less in as many bits.)
static pm_dtype wider(pm_dtype dtype) {
    static const struct {
        pm_dtype from, to;
    } steps[] = {
        {PM_Q2_K, PM_IQ4_NL}, {PM_Q3_K, PM_IQ4_NL}, {PM_IQ4_XS, PM_IQ4_NL},
        {PM_Q4_K, PM_Q5_0},   {PM_Q5_K, PM_Q5_1},   {PM_Q6_K, PM_Q8_0},
    };
    for (size_t i = 0; i < N_OF(steps); i++)
        if (steps[i].from == dtype)
            return steps[i].to;
    return PM_F16;
}

pm_dtype pm_mix_choose(const pm_mix *mix, const pm_config *config, const pm_quantize_options *options, const pm_tensor_view *tensor,
                       pm_dtype *wanted) {
    *wanted = stays_float(tensor) ? PM_F32 : by_options(mix, config, options, tensor->name);
    pm_dtype dtype = *wanted;
    while (tensor->dims[tensor->n_dims ? tensor->n_dims - 1 : 0] % pm_dtype_get(dtype)->block_elements)
        dtype = wider(dtype);
    return dtype;
}
