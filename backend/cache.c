// The paged KV cache: which pages each sequence has, and where they lie on the device.
#include "backend/model.h"

static uint32_t pages_for(uint32_t n_positions) {
    return (n_positions + PM_PAGE - 1) / PM_PAGE;
}

uint64_t pm_cache_bytes(const pm_config *c, uint32_t n_seqs, uint32_t ctx, pm_dtype dtype) {
    return 2 * pm_kv_page_bytes(dtype, c->n_kv_heads, c->head_dim) * c->n_layers * n_seqs * pages_for(ctx);
}

static pm_status open_layers(const pm_model *model, pm_dtype dtype, pm_slabs *slabs, pm_slice pages, pm_cache *cache) {
    const pm_config *c = &model->config;
    uint64_t bytes = pm_kv_page_bytes(dtype, c->n_kv_heads, c->head_dim) * cache->n_seqs * cache->max_pages;
    uint64_t most = pm_device_get_info(model->dev)->max_binding;
    if (bytes > most)
        return pm_fail(PM_ERR_DEVICE_MEMORY,
                       "a context of %u positions needs %llu MiB a layer for keys, and this device binds %llu at once",
                       cache->max_pages * PM_PAGE, (unsigned long long)(bytes >> 20), (unsigned long long)(most >> 20));
    for (uint32_t i = 0; i < c->n_layers; i++) {
        pm_kv *kv = &cache->layers[i];
        *kv = (pm_kv){
            .dtype = dtype, .pages = pages, .max_pages = cache->max_pages, .n_kv_heads = c->n_kv_heads, .head_dim = c->head_dim};
        PM_TRY(pm_slabs_alloc(slabs, bytes, &kv->k));
        PM_TRY(pm_slabs_alloc(slabs, bytes, &kv->v));
    }
    return PM_OK;
}

pm_status pm_cache_open(const pm_model *model, uint32_t n_seqs, uint32_t ctx, pm_dtype dtype, pm_slabs *slabs, pm_slice pages,
                        pm_cache *cache) {
    uint32_t max_pages = pages_for(ctx), n = n_seqs * max_pages;
    *cache = (pm_cache){.n_seqs = n_seqs, .max_pages = max_pages};
    cache->table = pm_calloc(n, sizeof *cache->table);
    cache->n_pages = pm_calloc(n_seqs, sizeof *cache->n_pages);
    cache->free_pages = pm_calloc(n, sizeof *cache->free_pages);
    cache->layers = pm_calloc(model->config.n_layers, sizeof *cache->layers);
    if (!cache->table || !cache->n_pages || !cache->free_pages || !cache->layers)
        return pm_fail(PM_ERR_MEMORY, "no memory for the page table");
    for (uint32_t i = 0; i < n; i++)
        cache->free_pages[cache->n_free++] = n - 1 - i; // page 0 is taken first
    return open_layers(model, dtype, slabs, pages, cache);
}

void pm_cache_close(pm_cache *cache) {
    pm_free(cache->table);
    pm_free(cache->n_pages);
    pm_free(cache->free_pages);
    pm_free(cache->layers);
    *cache = (pm_cache){0};
}

pm_status pm_cache_reserve(pm_cache *cache, int seq, uint32_t n_positions) {
    uint32_t need = pages_for(n_positions), *n = &cache->n_pages[seq];
    if (need > cache->max_pages || (need > *n && need - *n > cache->n_free))
        return pm_fail(PM_ERR_CONTEXT, "%u positions do not fit the context of %u", n_positions, cache->max_pages * PM_PAGE);
    while (*n < need)
        cache->table[(uint32_t)seq * cache->max_pages + (*n)++] = cache->free_pages[--cache->n_free];
    return PM_OK;
}

void pm_cache_shrink(pm_cache *cache, int seq, uint32_t n_positions) {
    uint32_t keep = pages_for(n_positions), *n = &cache->n_pages[seq];
    while (*n > keep)
        cache->free_pages[cache->n_free++] = cache->table[(uint32_t)seq * cache->max_pages + --*n];
}
