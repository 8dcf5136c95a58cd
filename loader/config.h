// A model's dimensions and flags, as its files give them. Part of the public API, by way of pumice.h.
#ifndef PM_CONFIG_H
#define PM_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

typedef enum pm_rope_scaling { PM_ROPE_NONE, PM_ROPE_LINEAR, PM_ROPE_YARN } pm_rope_scaling;

enum { PM_MAX_LAYERS = 4096 };

// YaRN: https://arxiv.org/abs/2309.00071; names as in transformers' rope_parameters. 0 means "not given" where 0 is no value.
typedef struct pm_rope_config {
    double theta;
    pm_rope_scaling scaling;
    double factor;
    uint32_t original_ctx;   // original_max_position_embeddings
    double attention_factor; // 0: from the factor, 0.1 ln(factor) + 1
    double beta_fast, beta_slow;
    double mscale, mscale_all_dim;
    bool truncate; // floor and ceil of the ramp's ends; true unless the file says false
    // The rows of each head in attn_q and attn_k come as pair 0's two, pair 1's two, ...; else the two of a pair are half a head
    // apart.
    bool interleaved;
    // Inverse frequencies rounded to bfloat16, as a transformers model that was cast as a whole has them. No file says so.
    bool bf16_frequencies;
} pm_rope_config;

// Which token's hidden state stands for a text, or all of them; gguf's numbers. Files seldom say.
typedef enum pm_pooling { PM_POOL_UNSAID = 0, PM_POOL_MEAN = 1, PM_POOL_FIRST = 2, PM_POOL_LAST = 3, PM_POOL_RANK = 4 } pm_pooling;

// What the forward pass must know, as dimensions and flags; never a model name.
typedef struct pm_config {
    const char *architecture; // for messages only: "qwen3"
    uint32_t n_layers;
    uint32_t dim;        // hidden_size
    uint32_t n_heads;    // query heads
    uint32_t n_kv_heads; // divides n_heads
    uint32_t head_dim;   // even
    uint32_t ffn_dim;    // intermediate_size
    uint32_t vocab_size; // rows of the embedding; may exceed the ids the tokenizer knows
    uint32_t max_ctx;    // max_position_embeddings / context_length; with YaRN at least factor * original_ctx
    // Mixture of experts: the feed-forward of a row is the weighted sum of n_experts_used of n_experts small ones.
    uint32_t n_experts; // 0: there are none, as in layers that are dense all the same
    uint32_t n_experts_used;
    uint32_t expert_ffn_dim;
    bool experts_normed;                     // the weights of those used sum to 1; else they are what softmax over all gives
    uint8_t dense_layers[PM_MAX_LAYERS / 8]; // a bit a layer
    float norm_eps;
    bool tied_head; // the head is the embedding
    bool no_head;   // the file is an embedding model's, without one: there are no logits. tied_head is set too
    bool qk_norm;   // blk.N.attn_q_norm and attn_k_norm are there
    bool qkv_bias;  // blk.N.attn_q.bias and so on are there
    pm_rope_config rope;
    pm_pooling pooling; // PM_POOL_RANK: of the last token, and what it is for is ranking

    int32_t bos, pad; // -1: none
    int32_t eos[8];   // generation stops on any of them
    int n_eos;

    // The checkpoint's own sampling defaults (generation_config.json; gguf's general.sampling.*). do_sample false: greedy.
    bool do_sample;
    float temperature, top_p, min_p;
    float repetition_penalty; // 1: none
    int top_k;
} pm_config;

// Is the feed-forward of this layer a mixture of experts?
static inline bool pm_config_has_experts(const pm_config *config, uint32_t layer) {
    return config->n_experts > 0 && !(config->dense_layers[layer / 8] >> layer % 8 & 1);
}

#endif
