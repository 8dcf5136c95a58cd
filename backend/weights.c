// Which tensors of a file make which matrix on the device, in the order in which they go there: one list for loading and planning.
#include <stdio.h>

#include "backend/model.h"

typedef enum need { ALWAYS, UNTIED, QK_NORM, QKV_BIAS } need;

typedef struct row {
    const char *names[PM_MAX_PARTS];
    pm_pack_order order;
    size_t offset;
    need need;
} row;

#define WHOLE(field) .offset = offsetof(struct pm_model, field)
#define LAYER(field) .offset = offsetof(pm_layer, field)

static const row whole_rows[] = {
    {{"token_embd.weight"}, WHOLE(embedding)},
    {{"output_norm.weight"}, WHOLE(out_norm)},
    {{"output.weight"}, WHOLE(head), .need = UNTIED},
};

static const row layer_rows[] = {
    {{"attn_norm.weight"}, LAYER(attn_norm)},
    {{"attn_q.weight", "attn_k.weight", "attn_v.weight"}, LAYER(qkv)},
    {{"attn_q.bias", "attn_k.bias", "attn_v.bias"}, LAYER(qkv_bias), .need = QKV_BIAS},
    {{"attn_q_norm.weight"}, LAYER(q_norm), .need = QK_NORM},
    {{"attn_k_norm.weight"}, LAYER(k_norm), .need = QK_NORM},
    {{"attn_output.weight"}, LAYER(o)},
    {{"ffn_norm.weight"}, LAYER(ffn_norm)},
    {{"ffn_gate.weight", "ffn_up.weight"}, .order = PM_PACK_INTERLEAVED, LAYER(gate_up)},
    {{"ffn_down.weight"}, LAYER(down)},
};

enum {
    N_WHOLE = sizeof whole_rows / sizeof *whole_rows,
    N_LAYER = sizeof layer_rows / sizeof *layer_rows,
};

static bool is_needed(const pm_config *c, need when) {
    switch (when) {
    case UNTIED:
        return !c->tied_head;
    case QK_NORM:
        return c->qk_norm;
    case QKV_BIAS:
        return c->qkv_bias;
    default:
        return true;
    }
}

// The tensors "blk.LAYER.NAME", or NAME where layer < 0; the loader has checked that they are there and what shapes they have.
static pm_status find_parts(const pm_file *file, const row *of, int layer, pm_weight *weight) {
    *weight = (pm_weight){.order = of->order, .layer = layer, .offset = of->offset};
    for (int i = 0; i < PM_MAX_PARTS && of->names[i]; i++) {
        char name[96], prefix[24] = "";
        if (layer >= 0)
            snprintf(prefix, sizeof prefix, "blk.%d.", layer);
        snprintf(name, sizeof name, "%s%s", prefix, of->names[i]);
        weight->parts[weight->n_parts] = pm_file_find(file, name);
        if (!weight->parts[weight->n_parts++])
            return pm_fail(PM_ERR_FILE, "the model has no tensor %s", name);
    }
    return PM_OK;
}

// Parts of different types would have to become floats to be one matrix: they stay a matrix each, neighbours of one type together.
// Files often spend more bits on V. (A vector is floats anyway.) Adds one to three to the list.
static void add_by_type(const pm_weight *whole, pm_weight *weights, size_t *n) {
    pm_weight *w = NULL;
    uint32_t row0 = 0;
    size_t offset = whole->offset; // of the first of as many tensors as there may be
    for (int i = 0; i < whole->n_parts; i++) {
        const pm_tensor_view *part = whole->parts[i];
        bool joins = i > 0 && (part->n_dims == 1 || whole->order != PM_PACK_STACKED || part->dtype == whole->parts[i - 1]->dtype);
        if (!joins) {
            w = &weights[(*n)++];
            *w = (pm_weight){.order = whole->order, .row0 = row0, .layer = whole->layer, .offset = offset};
            offset += sizeof(pm_tensor);
        }
        w->parts[w->n_parts++] = part;
        row0 += (uint32_t)part->dims[0];
    }
}

static pm_status add_rows(const pm_file *file, const row *rows, int n_rows, int layer, pm_weight *weights, size_t *n) {
    for (int i = 0; i < n_rows; i++) {
        pm_weight whole;
        if (!is_needed(pm_file_config(file), rows[i].need))
            continue;
        PM_TRY(find_parts(file, &rows[i], layer, &whole));
        add_by_type(&whole, weights, n);
    }
    return PM_OK;
}

static pm_status fill_list(const pm_file *file, pm_weight *weights, size_t *n) {
    PM_TRY(add_rows(file, whole_rows, N_WHOLE, -1, weights, n));
    for (uint32_t layer = 0; layer < pm_file_config(file)->n_layers; layer++)
        PM_TRY(add_rows(file, layer_rows, N_LAYER, (int)layer, weights, n));
    return PM_OK;
}

pm_status pm_weights_list(const pm_file *file, pm_weight **weights, size_t *n) {
    size_t most = N_WHOLE + (size_t)(N_LAYER + PM_MAX_PARTS - 1) * pm_file_config(file)->n_layers;
    *n = 0;
    *weights = pm_calloc(most, sizeof **weights);
    if (!*weights)
        return pm_fail(PM_ERR_MEMORY, "no memory to list %zu matrices", most);
    pm_status status = fill_list(file, *weights, n);
    if (status != PM_OK) {
        pm_free(*weights);
        *weights = NULL;
    }
    return status;
}
