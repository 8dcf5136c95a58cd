// The paged KV cache: which pages each sequence has, and where they lie on the device.
#include "backend/model.h"

static pm_status open_layers(const pm_model *model, const pm_session_sizes *sizes, pm_slabs *slabs, pm_slice pages,
                             pm_cache *cache) {
    const pm_config *c = &model->config;
    for (uint32_t i = 0; i < c->n_layers; i++) {
        pm_kv *kv = &cache->layers[i];
        *kv = (pm_kv){
            .dtype = sizes->kv_dtype,
            .pages = pages,
            .max_pages = cache->max_pages,
            .n_kv_heads = c->n_kv_heads,
            .head_dim = c->head_dim,
        };
        PM_TRY(pm_slabs_alloc(slabs, sizes->kv, &kv->k));
        PM_TRY(pm_slabs_alloc(slabs, sizes->kv, &kv->v));
    }
    return PM_OK;
}

pm_status pm_cache_open(const pm_model *model, const pm_session_sizes *sizes, pm_slabs *slabs, pm_slice pages, pm_cache *cache) {
    uint32_t n_seqs = sizes->n_seqs, max_pages = pm_pages_for(sizes->ctx), n = n_seqs * max_pages;
    *cache = (pm_cache){.n_seqs = n_seqs, .max_pages = max_pages};
    cache->table = pm_calloc(n, sizeof *cache->table);
    cache->n_pages = pm_calloc(n_seqs, sizeof *cache->n_pages);
    cache->free_pages = pm_calloc(n, sizeof *cache->free_pages);
    cache->layers = pm_calloc(model->config.n_layers, sizeof *cache->layers);
    if (!cache->table || !cache->n_pages || !cache->free_pages || !cache->layers)
        return pm_fail(PM_ERR_MEMORY, "no memory for the page table");
    for (uint32_t i = 0; i < n; i++)
        cache->free_pages[cache->n_free++] = n - 1 - i; // page 0 is taken first
    return open_layers(model, sizes, slabs, pages, cache);
}

void pm_cache_close(pm_cache *cache) {
    pm_free(cache->table);
    pm_free(cache->n_pages);
    pm_free(cache->free_pages);
    pm_free(cache->layers);
    *cache = (pm_cache){0};
}

pm_status pm_cache_reserve(pm_cache *cache, int seq, uint32_t n_positions) {
    uint32_t need = pm_pages_for(n_positions), *n = &cache->n_pages[seq];
    if (need > cache->max_pages || (need > *n && need - *n > cache->n_free))
        return pm_fail(PM_ERR_CONTEXT, "%u positions do not fit the context of %u", n_positions, cache->max_pages * PM_PAGE);
    while (*n < need)
        cache->table[(uint32_t)seq * cache->max_pages + (*n)++] = cache->free_pages[--cache->n_free];
    return PM_OK;
}

void pm_cache_shrink(pm_cache *cache, int seq, uint32_t n_positions) {
    uint32_t keep = pm_pages_for(n_positions), *n = &cache->n_pages[seq];
    while (*n > keep)
        cache->free_pages[cache->n_free++] = cache->table[(uint32_t)seq * cache->max_pages + --*n];
}
