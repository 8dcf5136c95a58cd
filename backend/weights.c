// Which tensors of a file make which matrix on the device, in the order in which they go there: one list for loading and planning.
#include <stdio.h>

#include "backend/model.h"

typedef enum need { ALWAYS, UNTIED, QK_NORM, QKV_BIAS, DENSE, EXPERTS } need;

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
    {{"ffn_gate.weight", "ffn_up.weight"}, .order = PM_PACK_INTERLEAVED, LAYER(gate_up), .need = DENSE},
    {{"ffn_down.weight"}, LAYER(down), .need = DENSE},
    {{"ffn_gate_inp.weight"}, LAYER(router), .need = EXPERTS},
};

enum {
    N_WHOLE = sizeof whole_rows / sizeof *whole_rows,
    N_LAYER = sizeof layer_rows / sizeof *layer_rows,
};

static bool is_needed(const pm_config *c, need when, int layer) {
    switch (when) {
    case UNTIED:
        return !c->tied_head;
    case QK_NORM:
        return c->qk_norm;
    case QKV_BIAS:
        return c->qkv_bias;
    case DENSE:
        return !pm_config_has_experts(c, (uint32_t)layer);
    case EXPERTS:
        return pm_config_has_experts(c, (uint32_t)layer);
    default:
        return true;
    }
}

typedef struct list {
    const pm_file *file;
    pm_weight *weights;
    size_t n;
    pm_weight_part *next; // free ones
} list;

// The tensor "blk.LAYER.NAME", or NAME where layer < 0; NULL when there is none.
static const pm_tensor_view *find_view(const pm_file *file, int layer, const char *name) {
    char full[96], prefix[24] = "";
    if (layer >= 0)
        snprintf(prefix, sizeof prefix, "blk.%d.", layer);
    snprintf(full, sizeof full, "%s%s", prefix, name);
    return pm_file_find(file, full);
}

// The loader has checked that all are there and what shapes they have.
static pm_status need_view(const pm_file *file, int layer, const char *name, const pm_tensor_view **view) {
    *view = find_view(file, layer, name);
    return *view ? PM_OK : pm_fail(PM_ERR_FILE, "the model has no tensor %s", name);
}

static pm_status find_views(const list *l, const row *of, int layer, const pm_tensor_view *views[PM_MAX_PARTS], int *n) {
    for (*n = 0; *n < PM_MAX_PARTS && of->names[*n]; (*n)++)
        PM_TRY(need_view(l->file, layer, of->names[*n], &views[*n]));
    return PM_OK;
}

static pm_weight *add_weight(list *l, pm_weight weight) {
    weight.parts = l->next;
    l->weights[l->n] = weight;
    return &l->weights[l->n++];
}

static void add_part(list *l, pm_weight *w, const pm_tensor_view *view, uint32_t row0, uint32_t rows) {
    *l->next++ = (pm_weight_part){view, row0, rows};
    w->n_parts++;
    w->cols = (uint32_t)view->dims[view->n_dims - 1];
}

// All rows of a tensor, those of a stack one after the other.
static uint32_t rows_of(const pm_tensor_view *view) {
    return (uint32_t)(view->n_dims == 3 ? view->dims[0] * view->dims[1] : view->dims[0]);
}

static pm_status add_row(list *l, const row *of, int layer) {
    const pm_tensor_view *views[PM_MAX_PARTS];
    size_t offset = of->offset;
    uint32_t row0 = 0;
    int n;
    PM_TRY(find_views(l, of, layer, views, &n));
    for (int i = 0; i < n;) {
        pm_weight *w = add_weight(l, (pm_weight){.order = of->order, .layer = layer, .offset = offset, .row0 = row0});
        do {
            add_part(l, w, views[i], 0, rows_of(views[i]));
            row0 += rows_of(views[i++]);
        } while (i < n && (!of->by_type || views[i]->dtype == w->parts[0].view->dtype));
        offset += sizeof(pm_tensor);
    }
    return PM_OK;
}

static pm_status add_rows(list *l, const row *rows, int n_rows, int layer) {
    for (int i = 0; i < n_rows; i++)
        if (is_needed(pm_file_config(l->file), rows[i].need, layer))
            PM_TRY(add_row(l, &rows[i], layer));
    return PM_OK;
}

// ---- experts ----------------------------------------------------------------------------------------------------------

// How a file keeps the experts' gate and up.
typedef enum form {
    STACKED,  // ffn_gate_exps, ffn_up_exps
    FUSED,    // ffn_gate_up_exps: of each expert gate, then up
    SEPARATE, // ffn_gate.0, ffn_up.0, ffn_gate.1, ...
} form;

static form form_of(const pm_file *file, int layer) {
    if (find_view(file, layer, "ffn_gate.0.weight"))
        return SEPARATE;
    return find_view(file, layer, "ffn_gate_up_exps.weight") ? FUSED : STACKED;
}

// Of how many parts gate, up and down of a layer's experts are at most.
static size_t count_expert_parts(const pm_file *file, int layer) {
    bool separate = find_view(file, layer, "ffn_down.0.weight") || form_of(file, layer) != STACKED;
    return separate ? 3 * (size_t)pm_file_config(file)->n_experts : 3;
}

static pm_status add_separate(list *l, pm_weight *w, int layer, const char *what, uint32_t expert) {
    const pm_tensor_view *view;
    char name[48];
    snprintf(name, sizeof name, "%s.%u.weight", what, expert);
    PM_TRY(need_view(l->file, layer, name, &view));
    add_part(l, w, view, 0, rows_of(view));
    return PM_OK;
}

static pm_status add_fused(list *l, pm_weight *w, int layer) {
    const pm_config *c = pm_file_config(l->file);
    const pm_tensor_view *view;
    PM_TRY(need_view(l->file, layer, "ffn_gate_up_exps.weight", &view));
    for (uint32_t i = 0; i < 2 * c->n_experts; i++)
        add_part(l, w, view, i * c->expert_ffn_dim, c->expert_ffn_dim);
    return PM_OK;
}

static pm_status add_experts_gate_up(list *l, int layer) {
    static const row stacks = {{"ffn_gate_exps.weight", "ffn_up_exps.weight"}, .order = PM_PACK_INTERLEAVED, LAYER(gate_up)};
    form kind = form_of(l->file, layer);
    if (kind == STACKED)
        return add_row(l, &stacks, layer);
    pm_weight *w = add_weight(l, (pm_weight){.order = PM_PACK_INTERLEAVED, .layer = layer, LAYER(gate_up)});
    if (kind == FUSED)
        return add_fused(l, w, layer);
    for (uint32_t e = 0; e < pm_file_config(l->file)->n_experts; e++) {
        PM_TRY(add_separate(l, w, layer, "ffn_gate", e));
        PM_TRY(add_separate(l, w, layer, "ffn_up", e));
    }
    return PM_OK;
}

static pm_status add_experts_down(list *l, int layer) {
    static const row stack = {{"ffn_down_exps.weight"}, LAYER(down)};
    if (!find_view(l->file, layer, "ffn_down.0.weight"))
        return add_row(l, &stack, layer);
    pm_weight *w = add_weight(l, (pm_weight){.layer = layer, LAYER(down)});
    for (uint32_t e = 0; e < pm_file_config(l->file)->n_experts; e++)
        PM_TRY(add_separate(l, w, layer, "ffn_down", e));
    return PM_OK;
}

// ---- the list ---------------------------------------------------------------------------------------------------------

static pm_status fill_list(list *l) {
    const pm_config *c = pm_file_config(l->file);
    PM_TRY(add_rows(l, whole_rows, N_WHOLE, -1));
    for (uint32_t layer = 0; layer < c->n_layers; layer++) {
        PM_TRY(add_rows(l, layer_rows, N_LAYER, (int)layer));
        if (!pm_config_has_experts(c, layer))
            continue;
        PM_TRY(add_experts_gate_up(l, (int)layer));
        PM_TRY(add_experts_down(l, (int)layer));
    }
    return PM_OK;
}

// Matrices and parts of a model, at most.
static void count_most(const pm_file *file, size_t *weights, size_t *parts) {
    const pm_config *c = pm_file_config(file);
    *weights = N_WHOLE + (size_t)(N_LAYER + PM_MAX_PARTS - 1) * c->n_layers;
    *parts = N_WHOLE + (size_t)(N_LAYER + 3 * (PM_MAX_PARTS - 1)) * c->n_layers;
    for (uint32_t layer = 0; layer < c->n_layers; layer++)
        if (pm_config_has_experts(c, layer))
            *parts += count_expert_parts(file, (int)layer);
}

uint64_t pm_weight_part_bytes(const pm_weight_part *part) {
    return part->view->size / rows_of(part->view) * part->rows;
}

pm_status pm_weights_list(const pm_file *file, pm_weight **weights, size_t *n) {
    size_t most, most_parts;
    count_most(file, &most, &most_parts);
    list l = {.file = file, .weights = pm_calloc(1, most * sizeof **weights + most_parts * sizeof *l.next)};
    *weights = NULL;
    *n = 0;
    if (!l.weights)
        return pm_fail(PM_ERR_MEMORY, "no memory to list %zu matrices", most);
    l.next = (pm_weight_part *)(l.weights + most);
    pm_status status = fill_list(&l);
    if (status != PM_OK) {
        pm_free(l.weights);
        return status;
    }
    *weights = l.weights;
    *n = l.n;
    return PM_OK;
}
