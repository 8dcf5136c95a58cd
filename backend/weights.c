// Which tensors of a file make which matrix on the device, in the order in which they go there: one list for loading and planning.
#include <stdio.h>

#include "backend/model.h"

typedef enum need { ALWAYS, UNTIED, QK_NORM, QKV_BIAS } need;

typedef struct row {
    const char *names[PM_MAX_PARTS];
    pm_pack_order order;
    size_t offset;
    need need;
    bool by_type; // those that follow one another and have one type become one matrix of several: files often spend more bits on V
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
    {{"attn_q.weight", "attn_k.weight", "attn_v.weight"}, LAYER(qkv), .by_type = true},
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

typedef struct list {
    const pm_file *file;
    pm_weight *weights;
    size_t n;
} list;

// The tensors "blk.LAYER.NAME", or NAME where layer < 0; the loader has checked that they are there and what shapes they have.
static pm_status find_views(const list *l, const row *of, int layer, const pm_tensor_view *views[PM_MAX_PARTS], int *n) {
    for (*n = 0; *n < PM_MAX_PARTS && of->names[*n]; (*n)++) {
        char name[96], prefix[24] = "";
        if (layer >= 0)
            snprintf(prefix, sizeof prefix, "blk.%d.", layer);
        snprintf(name, sizeof name, "%s%s", prefix, of->names[*n]);
        views[*n] = pm_file_find(l->file, name);
        if (!views[*n])
            return pm_fail(PM_ERR_FILE, "the model has no tensor %s", name);
    }
    return PM_OK;
}

static pm_status add_row(list *l, const row *of, int layer) {
    const pm_tensor_view *views[PM_MAX_PARTS];
    size_t offset = of->offset;
    uint32_t row0 = 0;
    int n;
    PM_TRY(find_views(l, of, layer, views, &n));
    for (int i = 0; i < n;) {
        pm_weight *w = &l->weights[l->n++];
        *w = (pm_weight){.order = of->order, .layer = layer, .offset = offset, .row0 = row0};
        do {
            w->parts[w->n_parts++] = views[i];
            row0 += (uint32_t)views[i++]->dims[0];
        } while (i < n && (!of->by_type || views[i]->dtype == w->parts[0]->dtype));
        offset += sizeof(pm_tensor);
    }
    return PM_OK;
}

static pm_status add_rows(list *l, const row *rows, int n_rows, int layer) {
    for (int i = 0; i < n_rows; i++)
        if (is_needed(pm_file_config(l->file), rows[i].need))
            PM_TRY(add_row(l, &rows[i], layer));
    return PM_OK;
}

static pm_status fill_list(list *l) {
    PM_TRY(add_rows(l, whole_rows, N_WHOLE, -1));
    for (uint32_t layer = 0; layer < pm_file_config(l->file)->n_layers; layer++)
        PM_TRY(add_rows(l, layer_rows, N_LAYER, (int)layer));
    return PM_OK;
}

pm_status pm_weights_list(const pm_file *file, pm_weight **weights, size_t *n) {
    size_t most = N_WHOLE + (size_t)(N_LAYER + PM_MAX_PARTS - 1) * pm_file_config(file)->n_layers;
    list l = {.file = file, .weights = pm_calloc(most, sizeof **weights)};
    *weights = NULL;
    *n = 0;
    if (!l.weights)
        return pm_fail(PM_ERR_MEMORY, "no memory to list %zu matrices", most);
    pm_status status = fill_list(&l);
    if (status != PM_OK) {
        pm_free(l.weights);
        return status;
    }
    *weights = l.weights;
    *n = l.n;
    return PM_OK;
}
