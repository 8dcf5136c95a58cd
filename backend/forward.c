// The transformer, from token ids to logits. Open this file first: each line is a verb of host/ops.h, each function a block of the
// paper. A batch is n rows {token, sequence, position}; a prompt is many rows of one sequence, decoding one row of each of many.
#include <math.h>

#include "backend/model.h"

// What the verbs of one pass work on.
typedef struct state {
    pm_cmd *cmd;
    const pm_config *c;
    const pm_pass *pass;
    pm_hidden h;   // x (n, dim), the residual stream
    pm_tensor qkv; // (n, q_dim + 2 kv_dim)
    pm_tensor q;   // (n, q_dim)
    pm_tensor att; // (n, q_dim)
} state;

// x += o(attend(rope(norm(q)), rope(norm(k)), v)) with q, k, v = qkv(norm(x))
static void attention(state *s, const pm_layer *layer, const pm_kv *kv, pm_tensor next_gain) {
    const pm_config *c = s->c;
    for (int i = 0; i < PM_MAX_PARTS && layer->qkv[i].rows; i++) // one, unless their types differ
        pm_op_norm_linear(s->cmd, s->qkv, &s->h, layer->qkv[i], c->qkv_bias ? &layer->qkv_bias : NULL);
    pm_op_rope_store(s->cmd, &(pm_rope_store){
                                 .q = s->q,
                                 .qkv = s->qkv,
                                 .q_gain = c->qk_norm ? &layer->q_norm : NULL,
                                 .k_gain = c->qk_norm ? &layer->k_norm : NULL,
                                 .eps = c->norm_eps,
                                 .interleaved = c->rope.interleaved,
                                 .angles = s->pass->angles->tables,
                                 .angle_rows = s->pass->angles->rows,
                                 .rows = s->pass->rows,
                                 .kv = kv,
                             });
    pm_op_attend(s->cmd, &(pm_attend){
                             .out = s->att,
                             .q = s->q,
                             .rows = s->pass->rows,
                             .kv = kv,
                             .scratch = s->pass->act->scratch,
                             .kv_bound = s->pass->kv_bound,
                             .consecutive = s->pass->consecutive,
                             .scale = 1.0f / sqrtf((float)c->head_dim),
                         });
    pm_op_linear_add(s->cmd, &s->h, s->att, layer->o, next_gain);
}

// x += down(silu(gate(norm(x))) * up(norm(x)))
static void feed_forward(state *s, const pm_layer *layer, pm_tensor next_gain) {
    pm_tensor ffn = pm_activation(s->pass->act->ffn, s->pass->n, s->c->ffn_dim);
    pm_op_norm_glu(s->cmd, ffn, &s->h, layer->gate_up);
    pm_op_linear_add(s->cmd, &s->h, ffn, layer->down, next_gain);
}

// x += the weighted sum of the same by the experts whose logits, router(norm(x)), are greatest
static void feed_experts(state *s, const pm_layer *layer, pm_tensor next_gain) {
    const pm_config *c = s->c;
    const pm_activations *act = s->pass->act;
    uint32_t n = s->pass->n;
    pm_routes routes = {act->routes, n, c->n_experts, c->n_experts_used};
    pm_tensor logits = pm_activation(act->router, n, c->n_experts);
    pm_tensor ffn = pm_activation(act->experts, n * c->n_experts_used, c->expert_ffn_dim);
    pm_op_norm_linear(s->cmd, logits, &s->h, layer->router, NULL);
    pm_op_route(s->cmd, &routes, logits, c->experts_normed);
    pm_op_experts_glu(s->cmd, ffn, &s->h, layer->gate_up, &routes);
    pm_op_experts_add(s->cmd, &s->h, ffn, layer->down, next_gain, &routes, act->products);
}

// logits (n_out, vocab) = head(norm(x)) of the rows that asked; or what the head would read
static void output(state *s, const pm_model *m, pm_tensor logits) {
    const pm_pass *pass = s->pass;
    pm_hidden out = s->h;
    pm_cmd_section(s->cmd, "head");
    if (pass->n_out < pass->n) {
        out.normed = pm_activation(pass->act->out_normed, pass->n_out, s->c->dim);
        out.squares = pm_activation(pass->act->out_squares, pass->n_out, s->c->dim);
        pm_op_gather(s->cmd, &out, &s->h, pass->index);
    }
    if (pass->hidden)
        *pass->hidden = out;
    else
        pm_op_norm_linear(s->cmd, logits, &out, m->head, NULL);
}

void pm_forward(pm_cmd *cmd, const pm_model *m, const pm_pass *pass, pm_tensor *logits) {
    const pm_config *c = &m->config;
    const pm_activations *act = pass->act;
    uint32_t n = pass->n;
    state s = {
        .cmd = cmd,
        .c = c,
        .pass = pass,
        .h = {.x = pm_activation(act->x, n, c->dim),
              .normed = pm_activation(act->normed, n, c->dim),
              .squares = pm_activation(act->squares, n, c->dim),
              .eps = c->norm_eps},
        .qkv = pm_activation(act->qkv, n, pm_q_dim(c) + 2 * pm_kv_dim(c)),
        .q = pm_activation(act->q, n, pm_q_dim(c)),
        .att = pm_activation(act->att, n, pm_q_dim(c)),
    };

    pm_cmd_section(cmd, "embed");
    pm_op_embed(cmd, &s.h, m->embedding, m->layers[0].attn_norm, pass->rows);
    for (uint32_t i = 0; i < c->n_layers; i++) {
        const pm_layer *layer = &m->layers[i];
        pm_cmd_section(cmd, "attention");
        attention(&s, layer, &pass->cache->layers[i], layer->ffn_norm);
        pm_cmd_section(cmd, "feed-forward");
        pm_tensor next_gain = i + 1 < c->n_layers ? m->layers[i + 1].attn_norm : m->out_norm;
        if (pm_config_has_experts(c, i))
            feed_experts(&s, layer, next_gain);
        else
            feed_forward(&s, layer, next_gain);
    }
    *logits = pm_activation(act->logits, pass->n_out, c->vocab_size);
    if (pass->n_out > 0)
        output(&s, m, *logits);
}
