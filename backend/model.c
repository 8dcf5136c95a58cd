// A model file -> weights on the device. Q, K, V become one matrix and gate, up another, so that a layer is four products.
#include "backend/model.h"

// The upload in progress.
typedef struct loading {
    pm_model *model;
    pm_packer *packer;
    pm_pack_part *parts; // of the matrix at hand: room for the most
    const pm_model_options *options;
    uint64_t done, total; // bytes of the file
} loading;

// Where a matrix of the list is kept.
static pm_tensor *place_of(pm_model *m, const pm_weight *w) {
    char *owner = w->layer < 0 ? (char *)m : (char *)&m->layers[w->layer];
    return (pm_tensor *)(owner + w->offset);
}

static void read_rows(const void *view, uint32_t row, uint32_t n_rows, uint32_t col, uint32_t n_cols, uint8_t *out) {
    pm_view_read(view, row, n_rows, col, n_cols, out);
}

// Rows that are copied as they stand, or that the loader makes.
static pm_pack_part part_of(const pm_weight_part *part) {
    const pm_tensor_view *t = part->view;
    if (!t->data)
        return (pm_pack_part){t, t->dtype, part->rows, read_rows, part->row0};
    return (pm_pack_part){t->data + part->row0 * (pm_weight_part_bytes(part) / part->rows), t->dtype, part->rows, NULL, 0};
}

static pm_status load(loading *l, const pm_weight *w) {
    pm_tensor *out = place_of(l->model, w);
    for (int i = 0; i < w->n_parts; i++)
        l->parts[i] = part_of(&w->parts[i]);
    PM_TRY(w->parts[0].view->n_dims == 1 ? pm_pack_vector(l->packer, l->parts, w->n_parts, out)
                                         : pm_pack_matrix(l->packer, l->parts, w->n_parts, w->cols, w->order, out));
    out->row0 = w->row0;
    for (int i = 0; i < w->n_parts; i++) {
        if (i == 0 || w->parts[i].view != w->parts[i - 1].view)
            pm_file_forget(l->model->file, w->parts[i].view);
        l->done += pm_weight_part_bytes(&w->parts[i]);
    }
    if (l->options && l->options->progress)
        l->options->progress(l->options->user, l->done, l->total);
    return PM_OK;
}

static pm_status load_all(loading *l, const pm_weight *weights, size_t n) {
    pm_model *m = l->model;
    int most = 0;
    for (size_t i = 0; i < n; i++) {
        most = weights[i].n_parts > most ? weights[i].n_parts : most;
        for (int k = 0; k < weights[i].n_parts; k++)
            l->total += pm_weight_part_bytes(&weights[i].parts[k]);
    }
    l->parts = pm_calloc((size_t)most, sizeof *l->parts);
    if (!l->parts)
        return pm_fail(PM_ERR_MEMORY, "no memory for a matrix of %d parts", most);
    PM_TRY(pm_packer_open(m->dev, m->slabs, &l->packer));
    for (size_t i = 0; i < n; i++)
        PM_TRY(load(l, &weights[i]));
    if (m->config.tied_head)
        m->head = m->embedding;
    return pm_packer_finish(l->packer);
}

static pm_status upload(pm_model *m, const char *path, const pm_model_options *options, const pm_weight *weights, size_t n) {
    loading l = {.model = m, .options = options};
    uint64_t need = pm_plan_weights(weights, n);
    PM_TRY(pm_plan_check_weights(m->dev, path, need));
    PM_TRY(pm_slabs_create(m->dev, need, "weights", &m->slabs));
    pm_status status = load_all(&l, weights, n);
    pm_packer_close(&l.packer);
    pm_free(l.parts);
    return status;
}

static pm_status load_weights(pm_model *m, const char *path, const pm_model_options *options) {
    pm_weight *weights;
    size_t n;
    PM_TRY(pm_weights_list(m->file, &weights, &n));
    pm_status status = upload(m, path, options, weights, n);
    pm_free(weights);
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
    if (options && options->rope.given)
        PM_TRY(pm_rope_choose(path, &options->rope, &m->config));
    m->layers = pm_calloc(m->config.n_layers, sizeof *m->layers);
    if (!m->layers)
        return pm_fail(PM_ERR_MEMORY, "no memory for %u layers", m->config.n_layers);
    PM_TRY(open_text(m));
    return load_weights(m, path, options);
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

double pm_model_rope_factor(const pm_model *model, uint64_t n_positions) {
    uint64_t trained = pm_rope_trained_ctx(&model->config);
    if (trained == 0 || n_positions <= trained)
        return 1;
    return n_positions <= 2 * trained ? 2 : 4;
}

bool pm_model_add_bos(const pm_model *model) {
    const pm_vocab_data *vocab = pm_file_vocab(model->file);
    return vocab && vocab->add_bos && model->config.bos >= 0;
}

int32_t pm_model_end_id(const pm_model *model) {
    const pm_vocab_data *vocab = pm_file_vocab(model->file);
    return vocab && vocab->add_end ? vocab->end_id : -1;
}

bool pm_model_is_eos(const pm_model *model, int32_t id) {
    for (int i = 0; i < model->config.n_eos; i++)
        if (model->config.eos[i] == id)
            return true;
    return false;
}
