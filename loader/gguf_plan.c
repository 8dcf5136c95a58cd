// What the GGUF file to be holds: the tensors of the source, experts in stacks, each with its type and its place.
#include "loader/gguf_plan.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// "blk.7.attn_q.weight": 7; -1 for a tensor of no layer. *kind: what comes behind, the same in every layer.
static int64_t layer_of(const char *name, const char **kind) {
    *kind = name;
    if (strncmp(name, "blk.", 4) != 0 || name[4] < '0' || name[4] > '9')
        return -1;
    char *rest;
    unsigned long layer = strtoul(name + 4, &rest, 10);
    *kind = rest;
    return (int64_t)layer;
}

// As layers follow each other, what belongs to none before: a reader goes through the file from front to back.
static int compare_places(const void *left, const void *right) {
    const pm_gguf_tensor *a = left, *b = right;
    const char *a_kind, *b_kind;
    const char *a_name = pm_gguf_tensor_name(a), *b_name = pm_gguf_tensor_name(b);
    int64_t a_layer = layer_of(a_name, &a_kind), b_layer = layer_of(b_name, &b_kind);
    if (a_layer != b_layer)
        return a_layer < b_layer ? -1 : 1;
    return strcmp(a_name, b_name);
}

// Files of other formats may hold layers that the model does not have (to predict further tokens); llama.cpp refuses extra tensors.
static bool is_written(const pm_file *file, const pm_tensor_view *t) {
    const char *kind;
    return file->gguf || layer_of(t->name, &kind) < (int64_t)file->config.n_layers;
}

// Some architectures keep the two rows of a rotary pair side by side in gguf, but not in the files they were published in.
static bool needs_pairs(const pm_file *file, const char *name) {
    const pm_architecture *architecture = pm_architecture_find(file->config.architecture);
    const char *kind;
    layer_of(name, &kind);
    return architecture && architecture->interleaved && !file->config.rope.interleaved &&
           (strncmp(kind, ".attn_q.", 8) == 0 || strncmp(kind, ".attn_k.", 8) == 0);
}

uint64_t pm_gguf_tensor_elements(const pm_gguf_tensor *t) {
    return t->dims[0] * t->dims[1] * t->dims[2] * t->dims[3];
}

// ---- experts: gguf has those of a layer in one stack ------------------------------------------------------------------

// ".ffn_up.3.weight", of a layer: 3, and *length is that of ".ffn_up"; -1 for what is no matrix of one expert.
static long expert_of(const char *kind, size_t *length) {
    const char *dot = strncmp(kind, ".ffn_", 5) == 0 ? strchr(kind + 1, '.') : NULL;
    if (!dot || dot[1] < '0' || dot[1] > '9')
        return -1;
    char *rest;
    long expert = strtol(dot + 1, &rest, 10);
    *length = (size_t)(dot - kind);
    return strcmp(rest, ".weight") == 0 ? expert : -1;
}

const pm_tensor_view *pm_gguf_find_expert(const pm_file *file, const pm_tensor_view *first, uint64_t expert) {
    const char *kind;
    size_t length;
    char name[80];
    int64_t layer = layer_of(first->name, &kind);
    expert_of(kind, &length);
    snprintf(name, sizeof(name), "blk.%lld%.*s.%llu.weight", (long long)layer, (int)length, kind, (unsigned long long)expert);
    return pm_file_find(file, name);
}

static pm_gguf_tensor *add_part(pm_gguf_plan *p, const pm_tensor_view *source, pm_gguf_parts parts) {
    pm_gguf_tensor *t = &p->tensors[p->n_tensors++];
    *t = (pm_gguf_tensor){.source = source, .parts = parts, .n_dims = source->n_dims ? source->n_dims : 1};
    memcpy(t->dims, source->dims, sizeof(t->dims));
    return t;
}

static void add_stack(pm_gguf_plan *p, const pm_tensor_view *first, int64_t layer, const char *kind, size_t length) {
    pm_gguf_tensor *t = add_part(p, first, PM_PARTS_STACK);
    snprintf(t->own_name, sizeof(t->own_name), "blk.%lld%.*s_exps.weight", (long long)layer, (int)length, kind);
    t->n_dims = 3;
    for (t->dims[0] = 1; pm_gguf_find_expert(p->file, first, t->dims[0]);)
        t->dims[0]++;
    t->dims[1] = first->dims[0];
    t->dims[2] = first->dims[1];
}

// Gate above up, in each matrix of a stack.
static void add_halves(pm_gguf_plan *p, const pm_tensor_view *both, int64_t layer) {
    static const char *const names[] = {[PM_PARTS_UPPER] = "gate", [PM_PARTS_LOWER] = "up"};
    for (pm_gguf_parts half = PM_PARTS_UPPER; half <= PM_PARTS_LOWER; half++) {
        pm_gguf_tensor *t = add_part(p, both, half);
        snprintf(t->own_name, sizeof(t->own_name), "blk.%lld.ffn_%s_exps.weight", (long long)layer, names[half]);
        t->dims[1] /= 2;
    }
}

static void add_tensor(pm_gguf_plan *p, const pm_tensor_view *source) {
    const char *kind;
    size_t length;
    int64_t layer = layer_of(source->name, &kind);
    long expert = layer >= 0 ? expert_of(kind, &length) : -1;
    if (expert == 0)
        add_stack(p, source, layer, kind, length);
    else if (!p->file->gguf && source->n_dims == 3 && strcmp(kind, ".ffn_gate_up_exps.weight") == 0)
        add_halves(p, source, layer);
    else if (expert < 0)
        add_part(p, source, PM_PARTS_ONE);
}

// ---- types and places ------------------------------------------------------------------------------------------------

// Once for all layers, unless told to tell more.
static void tell_fallback(const pm_gguf_plan *p, size_t i, pm_dtype wanted) {
    const pm_gguf_tensor *t = &p->tensors[i];
    const char *kind, *other;
    bool told = false;
    layer_of(pm_gguf_tensor_name(t), &kind);
    for (size_t k = 0; k < i && !told; k++) {
        layer_of(pm_gguf_tensor_name(&p->tensors[k]), &other);
        told = strcmp(kind, other) == 0;
    }
    pm_log(told ? PM_LOG_INFO : PM_LOG_WARN, "%s and its like: rows of %llu are no multiple of %s's block of %u: %s instead",
           pm_gguf_tensor_name(t), (unsigned long long)t->dims[t->n_dims - 1], pm_dtype_get(wanted)->name,
           pm_dtype_get(wanted)->block_elements, pm_dtype_get(t->dtype)->name);
}

static pm_status plan_tensor(const pm_gguf_plan *p, size_t i, uint64_t *offset) {
    pm_gguf_tensor *t = &p->tensors[i];
    pm_dtype wanted;
    pm_tensor_view shape = {.name = pm_gguf_tensor_name(t), .n_dims = t->n_dims};
    memcpy(shape.dims, t->dims, sizeof(shape.dims));
    t->dtype = pm_mix_choose(p->mix, &p->file->config, p->o, &shape, &wanted);
    t->pairs = needs_pairs(p->file, t->source->name);
    if (t->dtype != wanted)
        tell_fallback(p, i, wanted);
    const pm_dtype_info *info = pm_dtype_get(t->dtype);
    *offset = pm_round_up(*offset, p->alignment);
    t->offset = *offset;
    if (pm_mul_size(pm_gguf_tensor_elements(t) / info->block_elements, info->block_bytes, &t->size) != PM_OK ||
        pm_add_size(*offset, t->size, offset) != PM_OK)
        return pm_fail(PM_ERR_FILE, "%s: tensor %s is too large", p->file->shards[0].path, t->source->name);
    return PM_OK;
}

static bool is_block_type(pm_dtype dtype) {
    return pm_dtype_get(dtype)->block_elements > 1;
}

// Decoding cannot bring back what was lost: better from the original.
static void warn_twice(const pm_gguf_plan *p) {
    size_t n = 0;
    for (size_t i = 0; i < p->n_tensors; i++) {
        const pm_gguf_tensor *t = &p->tensors[i];
        n += t->dtype != t->source->dtype && is_block_type(t->dtype) && is_block_type(t->source->dtype);
    }
    if (n)
        pm_log(PM_LOG_WARN, "%zu tensors are quantized already: quantizing the original model loses less", n);
}

// GGUF says of a mixture of experts that all its layers have them.
static pm_status check_layers(const pm_file *file) {
    const pm_config *c = &file->config;
    for (uint32_t layer = 0; layer < c->n_layers && c->n_experts > 0; layer++)
        if (!pm_config_has_experts(c, layer))
            return pm_fail(PM_ERR_UNSUPPORTED, "%s: layer %u has no experts and others do: GGUF's %s cannot say so",
                           file->shards[0].path, layer, c->architecture);
    return PM_OK;
}

static pm_status make(pm_gguf_plan *p) {
    size_t n;
    uint64_t offset = 0;
    const pm_tensor_view *sources = pm_file_tensors(p->file, &n);
    PM_TRY(check_layers(p->file));
    p->tensors = pm_calloc(n, 2 * sizeof(*p->tensors)); // each may become two halves
    if (!p->tensors)
        return pm_no_memory(p->file->shards[0].path);
    for (size_t i = 0; i < n; i++)
        if (is_written(p->file, &sources[i]))
            add_tensor(p, &sources[i]);
    qsort(p->tensors, p->n_tensors, sizeof(*p->tensors), compare_places);
    PM_TRY(pm_gguf_write_alignment(p->file, &p->alignment));
    for (size_t i = 0; i < p->n_tensors; i++) {
        PM_TRY(plan_tensor(p, i, &offset));
        p->size += p->tensors[i].size;
    }
    warn_twice(p);
    return PM_OK;
}

pm_status pm_gguf_plan_make(const pm_file *file, const pm_quantize_options *options, pm_gguf_plan *plan) {
    *plan = (pm_gguf_plan){.file = file, .o = options, .mix = pm_mix_find(options->type)};
    pm_status status = make(plan);
    if (status != PM_OK)
        pm_gguf_plan_close(plan);
    return status;
}

void pm_gguf_plan_close(pm_gguf_plan *plan) {
    pm_free(plan->tensors);
    *plan = (pm_gguf_plan){0};
}
