// A model file -> weights on the device. Q, K, V become one matrix and gate, up another, so that a layer is four products.
#include <stdio.h>
#include <string.h>

#include "backend/model.h"

// The upload in progress.
typedef struct loading {
    pm_model *model;
    pm_packer *packer;
    const pm_model_options *options;
    uint64_t done, total; // bytes of the file
} loading;

enum { MAX_PARTS = 3 };

// The tensors "blk.LAYER.NAME" (or NAME where layer < 0) for each name, as parts of one; the loader has checked that they are there
// and what shapes they have.
static int find_parts(const loading *l, int layer, const char *const *names, const pm_tensor_view **found) {
    int n = 0;
    for (; n < MAX_PARTS && names[n]; n++) {
        char name[96];
        if (layer < 0)
            snprintf(name, sizeof name, "%s", names[n]);
        else
            snprintf(name, sizeof name, "blk.%d.%s", layer, names[n]);
        found[n] = pm_file_find(l->model->file, name);
        if (!found[n]) {
            pm_fail(PM_ERR_FILE, "the model has no tensor %s", name);
            return 0;
        }
    }
    return n;
}

static pm_status load(loading *l, int layer, const char *const *names, pm_pack_order order, pm_tensor *out) {
    const pm_tensor_view *views[MAX_PARTS];
    pm_pack_part parts[MAX_PARTS];
    int n = find_parts(l, layer, names, views);
    if (n == 0)
        return PM_ERR_FILE;
    for (int i = 0; i < n; i++)
        parts[i] = (pm_pack_part){views[i]->data, views[i]->dtype, (uint32_t)views[i]->dims[0]};
    PM_TRY(views[0]->n_dims == 1 ? pm_pack_vector(l->packer, parts, n, out)
                                 : pm_pack_matrix(l->packer, parts, n, (uint32_t)views[0]->dims[1], order, out));
    for (int i = 0; i < n; i++) {
        pm_file_forget(l->model->file, views[i]);
        l->done += views[i]->size;
    }
    if (l->options && l->options->progress)
        l->options->progress(l->options->user, l->done, l->total);
    return PM_OK;
}

#define NAMES(...) ((const char *const[MAX_PARTS + 1]){__VA_ARGS__})

// Those that follow one another and have one type become one matrix: files often spend more bits on V.
static pm_status load_qkv(loading *l, int i, pm_layer *layer) {
    const char *const *names = NAMES("attn_q.weight", "attn_k.weight", "attn_v.weight");
    const pm_tensor_view *views[MAX_PARTS];
    uint32_t row0 = 0;
    int n = find_parts(l, i, names, views);
    if (n == 0)
        return PM_ERR_FILE;
    for (int first = 0, end; first < n; first = end) {
        const char *same[MAX_PARTS + 1] = {0};
        for (end = first; end < n && views[end]->dtype == views[first]->dtype; end++)
            same[end - first] = names[end];
        pm_tensor *matrix = &layer->qkv[layer->n_qkv++];
        PM_TRY(load(l, i, same, PM_PACK_STACKED, matrix));
        matrix->row0 = row0;
        row0 += matrix->rows;
    }
    return PM_OK;
}

static pm_status load_layer(loading *l, int i, pm_layer *layer) {
    const pm_config *c = &l->model->config;
    PM_TRY(load(l, i, NAMES("attn_norm.weight"), PM_PACK_STACKED, &layer->attn_norm));
    PM_TRY(load_qkv(l, i, layer));
    if (c->qkv_bias)
        PM_TRY(load(l, i, NAMES("attn_q.bias", "attn_k.bias", "attn_v.bias"), PM_PACK_STACKED, &layer->qkv_bias));
    if (c->qk_norm) {
        PM_TRY(load(l, i, NAMES("attn_q_norm.weight"), PM_PACK_STACKED, &layer->q_norm));
        PM_TRY(load(l, i, NAMES("attn_k_norm.weight"), PM_PACK_STACKED, &layer->k_norm));
    }
    PM_TRY(load(l, i, NAMES("attn_output.weight"), PM_PACK_STACKED, &layer->o));
    PM_TRY(load(l, i, NAMES("ffn_norm.weight"), PM_PACK_STACKED, &layer->ffn_norm));
    PM_TRY(load(l, i, NAMES("ffn_gate.weight", "ffn_up.weight"), PM_PACK_INTERLEAVED, &layer->gate_up));
    return load(l, i, NAMES("ffn_down.weight"), PM_PACK_STACKED, &layer->down);
}

static pm_status load_all(loading *l) {
    pm_model *m = l->model;
    PM_TRY(load(l, -1, NAMES("token_embd.weight"), PM_PACK_STACKED, &m->embedding));
    PM_TRY(load(l, -1, NAMES("output_norm.weight"), PM_PACK_STACKED, &m->out_norm));
    m->head = m->embedding;
    if (!m->config.tied_head)
        PM_TRY(load(l, -1, NAMES("output.weight"), PM_PACK_STACKED, &m->head));
    for (uint32_t i = 0; i < m->config.n_layers; i++)
        PM_TRY(load_layer(l, (int)i, &m->layers[i]));
    return pm_packer_finish(l->packer);
}

static pm_status upload(pm_model *m, const char *path, const pm_model_options *options) {
    loading l = {.model = m, .options = options};
    size_t n;
    const pm_tensor_view *tensors = pm_file_tensors(m->file, &n);
    for (size_t i = 0; i < n; i++)
        l.total += tensors[i].size;

    uint64_t need = pm_plan_weights(m->file), free_bytes = pm_device_free_memory(m->dev);
    if (need > free_bytes)
        return pm_fail(PM_ERR_DEVICE_MEMORY, "%s needs %llu MiB on the device, which has %llu MiB free: %llu MiB too little", path,
                       (unsigned long long)(need >> 20), (unsigned long long)(free_bytes >> 20),
                       (unsigned long long)((need - free_bytes + (1 << 20) - 1) >> 20));
    PM_TRY(pm_slabs_create(m->dev, need, "weights", &m->slabs));
    PM_TRY(pm_packer_open(m->dev, m->slabs, &l.packer));
    pm_status status = load_all(&l);
    pm_packer_close(&l.packer);
    return status;
}

static pm_status open_text(pm_model *m) {
    const pm_vocab_data *vocab = pm_file_vocab(m->file);
    m->n_valid = m->config.vocab_size;
    if (!vocab)
        return PM_OK;
    PM_TRY(pm_tokenizer_open(vocab, &m->tokenizer));
    uint32_t n_used = pm_tokenizer_n_used(m->tokenizer);
    if (n_used > 0 && n_used < m->n_valid)
        m->n_valid = n_used;
    return PM_OK;
}

static pm_status open_model(pm_model *m, const char *path, const pm_model_options *options) {
    PM_TRY(pm_file_open(path, &m->file));
    m->config = *pm_file_config(m->file);
    m->config.rope.bf16_frequencies |= options && options->bf16_frequencies;
    m->layers = pm_calloc(m->config.n_layers, sizeof *m->layers);
    if (!m->layers)
        return pm_fail(PM_ERR_MEMORY, "no memory for %u layers", m->config.n_layers);
    PM_TRY(open_text(m));
    return upload(m, path, options);
}

pm_status pm_model_open(pm_device *dev, const char *path, const pm_model_options *options, pm_model **model) {
    pm_model *m = pm_calloc(1, sizeof *m);
    *model = m;
    if (!m)
        return pm_fail(PM_ERR_MEMORY, "no memory for a model");
    m->dev = dev;
    pm_status status = open_model(m, path, options);
    if (status != PM_OK)
        pm_model_close(model);
    return status;
}

void pm_model_close(pm_model **model) {
    pm_model *m = *model;
    if (!m)
        return;
    pm_slabs_close(&m->slabs);
    pm_tokenizer_close(&m->tokenizer);
    pm_file_close(&m->file);
    pm_free(m->layers);
    pm_free(m);
    *model = NULL;
}

const pm_config *pm_model_config(const pm_model *model) {
    return &model->config;
}

const pm_tokenizer *pm_model_tokenizer(const pm_model *model) {
    return model->tokenizer;
}

pm_str pm_model_chat_template(const pm_model *model) {
    return pm_file_chat_template(model->file);
}

uint64_t pm_model_weight_bytes(const pm_model *model) {
    return pm_slabs_bytes(model->slabs);
}

bool pm_model_add_bos(const pm_model *model) {
    const pm_vocab_data *vocab = pm_file_vocab(model->file);
    return vocab && vocab->add_bos && model->config.bos >= 0;
}

bool pm_model_is_eos(const pm_model *model, int32_t id) {
    for (int i = 0; i < model->config.n_eos; i++)
        if (model->config.eos[i] == id)
            return true;
    return false;
}
