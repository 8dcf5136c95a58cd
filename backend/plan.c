// What a model and its sessions take on a device. All sizes are computed here, for those who allocate and for those who ask before:
// from a file's header alone, on a device that was opened dry.
#include <stdio.h>
#include <string.h>

#include "backend/model.h"

enum { DEFAULT_CTX = 4096, MOST_CTX = 1 << 24, MOST_SEQS = 1 << 10 };

static unsigned long long mib(uint64_t bytes) {
    return (unsigned long long)(bytes >> 20);
}

static unsigned long long mib_up(uint64_t bytes) {
    return mib(bytes + (1 << 20) - 1);
}

// ---- weights ----------------------------------------------------------------------------------------------------------

// Gate and up of different types become halves (pack.c), but for floats beyond a half's range, which a header does not tell.
static pm_dtype common_dtype(const pm_weight *w) {
    for (int i = 1; i < w->n_parts; i++)
        if (w->parts[i].view->dtype != w->parts[0].view->dtype)
            return PM_F16;
    return w->parts[0].view->dtype;
}

// Norms and biases become floats; matrices keep their type, or have `as` where rows are whole blocks of it.
enum { AS_IT_IS = -1 };
static uint64_t bytes_of(const pm_weight *w, int as) {
    uint64_t rows = 0;
    for (int i = 0; i < w->n_parts; i++)
        rows += w->parts[i].rows;
    if (w->parts[0].view->n_dims == 1)
        return pm_packed_bytes(PM_F32, 1, rows);
    bool possible = as != AS_IT_IS && w->cols % pm_dtype_get((pm_dtype)as)->block_elements == 0;
    return pm_packed_bytes(possible ? (pm_dtype)as : common_dtype(w), rows, w->cols);
}

// A slice is aligned to at most 256 bytes, in each of two planes.
static uint64_t add_weights(const pm_weight *weights, size_t n, int as) {
    uint64_t bytes = 0;
    for (size_t i = 0; i < n; i++)
        bytes += 512 + bytes_of(&weights[i], as);
    return bytes;
}

uint64_t pm_plan_weights(const pm_weight *weights, size_t n) {
    return add_weights(weights, n, AS_IT_IS);
}

pm_status pm_plan_check_weights(const pm_device *dev, const char *path, uint64_t need) {
    uint64_t free_bytes = pm_device_free_memory(dev);
    if (need <= free_bytes)
        return PM_OK;
    return pm_fail(PM_ERR_DEVICE_MEMORY, "%s needs %llu MiB on the device, which has %llu MiB free: %llu MiB too little", path,
                   mib(need), mib(free_bytes), mib_up(need - free_bytes));
}

// ---- sessions ---------------------------------------------------------------------------------------------------------

// What was asked for, as far as a kernel can see its logits whole and the sequences have room for it.
static uint32_t choose_batch(const pm_device *dev, const pm_config *c, const pm_session_sizes *s, uint32_t asked) {
    uint64_t most = pm_device_get_info(dev)->max_binding / pm_activation_bytes(1, c->vocab_size);
    uint64_t room = (uint64_t)s->ctx * s->n_seqs, batch = asked;
    batch = batch < most ? batch : most;
    batch = batch < room ? batch : room;
    return batch > PM_BATCH_MAX ? (uint32_t)batch : PM_BATCH_MAX;
}

static pm_dtype choose_kv(const pm_session_options *o) {
    static const uint32_t bits[] = {[PM_KV_F16] = 16, [PM_KV_F32] = 32, [PM_KV_Q8_0] = 8};
    if (o->kv != PM_KV_DEFAULT)
        return pm_kv_dtype(bits[o->kv]);
    return o->precision == PM_PRECISION_F32 ? PM_F32 : PM_F16;
}

// What no device will ever have room for is refused before sizes are computed with it.
static pm_status fill_defaults(const pm_device *dev, const pm_config *c, const pm_session_options *options,
                               pm_session_sizes *sizes) {
    pm_session_options o = options ? *options : (pm_session_options){0};
    uint32_t ctx = o.ctx ? o.ctx : c->max_ctx && c->max_ctx < DEFAULT_CTX ? c->max_ctx : DEFAULT_CTX;
    uint32_t rows = o.max_chunk ? o.max_chunk : pm_device_chunk(dev);
    *sizes = (pm_session_sizes){
        .ctx = ctx,
        .n_seqs = o.n_seqs ? o.n_seqs : 1,
        .max_rows = rows > ctx ? ctx : rows,
        .kv_dtype = choose_kv(&o),
    };
    sizes->max_out = choose_batch(dev, c, sizes, o.max_batch);
    if (sizes->max_rows < sizes->max_out)
        sizes->max_rows = sizes->max_out;
    if (ctx > MOST_CTX)
        return pm_fail(PM_ERR_USAGE, "a context of %u: at most %d are possible", ctx, MOST_CTX);
    if (c->head_dim % pm_dtype_get(sizes->kv_dtype)->block_elements != 0)
        return pm_fail(PM_ERR_UNSUPPORTED, "a KV cache in Q8_0 wants heads of a multiple of 32 elements; here they have %u",
                       c->head_dim);
    if (sizes->n_seqs > MOST_SEQS)
        return pm_fail(PM_ERR_USAGE, "%u sequences: at most %d are possible", sizes->n_seqs, MOST_SEQS);
    return PM_OK;
}

uint32_t pm_kv_class(uint32_t n_positions) {
    uint32_t bound = 256;
    while (bound < n_positions)
        bound *= 2;
    return bound;
}

// Attention splits the cache for few rows and not for many: the most that any number of rows needs.
static uint64_t attend_bytes(const pm_device *dev, const pm_config *c, const pm_session_sizes *s) {
    uint64_t most = 0;
    for (uint32_t n = 1; n <= s->max_rows; n++) {
        uint64_t bytes = pm_attend_scratch_bytes(dev, n, c->n_heads, c->head_dim, pm_kv_class(s->ctx));
        most = bytes > most ? bytes : most;
    }
    return most;
}

static bool has_dense_layers(const pm_config *c) {
    for (uint32_t layer = 0; layer < c->n_layers; layer++)
        if (!pm_config_has_experts(c, layer))
            return true;
    return false;
}

static void fill_expert_pieces(const pm_config *c, uint32_t rows, uint64_t *p) {
    uint32_t pairs = rows * c->n_experts_used;
    p[PM_PIECE_ROUTER] = pm_activation_bytes(rows, c->n_experts);
    p[PM_PIECE_ROUTES] = pm_routes_bytes(rows, c->n_experts_used);
    p[PM_PIECE_EXPERTS] = pm_activation_bytes(pairs, c->expert_ffn_dim);
    p[PM_PIECE_PRODUCTS] = pm_activation_bytes(pairs, c->dim);
}

static void fill_pieces(const pm_device *dev, const pm_config *c, pm_session_sizes *s) {
    uint32_t rows = s->max_rows, out = s->max_out;
    uint64_t *p = s->pieces;
    p[PM_PIECE_X] = p[PM_PIECE_NORMED] = p[PM_PIECE_SQUARES] = pm_activation_bytes(rows, c->dim);
    p[PM_PIECE_QKV] = pm_activation_bytes(rows, pm_q_dim(c) + 2 * pm_kv_dim(c));
    p[PM_PIECE_Q] = p[PM_PIECE_ATT] = pm_activation_bytes(rows, pm_q_dim(c));
    p[PM_PIECE_FFN] = has_dense_layers(c) ? pm_activation_bytes(rows, c->ffn_dim) : 0;
    if (c->n_experts > 0)
        fill_expert_pieces(c, rows, p);
    p[PM_PIECE_OUT_NORMED] = p[PM_PIECE_OUT_SQUARES] = pm_activation_bytes(out, c->dim);
    p[PM_PIECE_LOGITS] = pm_activation_bytes(out, c->vocab_size);
    p[PM_PIECE_ATTEND] = attend_bytes(dev, c, s);
    p[PM_PIECE_ANGLES] = pm_angles_bytes(c, s->ctx);
    p[PM_PIECE_PAGES] = (uint64_t)s->n_seqs * pm_pages_for(s->ctx) * sizeof(uint32_t);
    p[PM_PIECE_IDENTITY] = p[PM_PIECE_INDEX] = out * sizeof(uint32_t);
    p[PM_PIECE_ROWS] = rows * sizeof(struct pm_row);
    p[PM_PIECE_SAMPLING] = out * sizeof(struct pm_sampling);
    p[PM_PIECE_SIEVED] = pm_sample_scratch_bytes(out, c->vocab_size);
    p[PM_PIECE_NEXT] = out * sizeof(struct pm_row);
    p[PM_PIECE_SEEN] = p[PM_PIECE_BIAS] = c->vocab_size * sizeof(uint32_t);
    p[PM_PIECE_ADJUSTED] = pm_activation_bytes(1, c->vocab_size);
}

// The widest row that a product reads.
static uint64_t quants_bytes(const pm_config *c, uint32_t rows) {
    uint32_t cols = pm_q_dim(c) > c->dim ? pm_q_dim(c) : c->dim;
    cols = has_dense_layers(c) && c->ffn_dim > cols ? c->ffn_dim : cols;
    return pm_quants_bytes(rows, cols);
}

static uint64_t rounded(uint64_t bytes) {
    return pm_round_up(bytes, PM_PIECE_ALIGN);
}

pm_status pm_plan_session(const pm_device *dev, const pm_config *c, const pm_session_options *options, pm_session_sizes *sizes) {
    PM_TRY(fill_defaults(dev, c, options, sizes));
    fill_pieces(dev, c, sizes);
    if (options && options->precision == PM_PRECISION_FAST)
        sizes->pieces[PM_PIECE_QUANTS] = quants_bytes(c, sizes->max_rows);
    const uint64_t *p = sizes->pieces;
    for (int i = 0; i < PM_N_PIECES; i++)
        sizes->scratch += rounded(p[i]);
    sizes->kv = pm_kv_page_bytes(sizes->kv_dtype, c->n_kv_heads, c->head_dim) * sizes->n_seqs * pm_pages_for(sizes->ctx);
    sizes->cache = 2 * sizes->kv * c->n_layers;
    sizes->upload = PM_N_SLOTS * (rounded(p[PM_PIECE_ROWS]) + rounded(p[PM_PIECE_INDEX]) + rounded(p[PM_PIECE_SAMPLING])) +
                    rounded(p[PM_PIECE_PAGES]);
    sizes->readback = PM_N_SLOTS * (rounded(p[PM_PIECE_INDEX]) + rounded(PM_LIKELY_BYTES)) + rounded(p[PM_PIECE_LOGITS]) +
                      rounded(p[PM_PIECE_OUT_NORMED]) + p[PM_PIECE_OUT_SQUARES];
    return PM_OK;
}

pm_status pm_plan_check_session(const pm_device *dev, const pm_session_sizes *s) {
    uint64_t need = s->scratch + s->cache, free_bytes = pm_device_free_memory(dev);
    if (need <= free_bytes)
        return PM_OK;
    return pm_fail(PM_ERR_DEVICE_MEMORY,
                   "a context of %u needs %llu MiB of cache and %llu MiB of scratch on the device, which has %llu MiB free: "
                   "%llu MiB too little; try a smaller --ctx",
                   s->ctx, mib(s->cache), mib(s->scratch), mib(free_bytes), mib_up(need - free_bytes));
}

pm_status pm_plan_check_bindings(const pm_device *dev, const pm_session_sizes *s) {
    uint64_t most = pm_device_get_info(dev)->max_binding;
    for (int i = 0; i < PM_N_PIECES; i++)
        if (s->pieces[i] > most)
            return pm_fail(PM_ERR_DEVICE_MEMORY,
                           "a context of %u in passes of %u rows needs %llu KiB in one piece, and this device binds %llu at once",
                           s->ctx, s->max_rows, (unsigned long long)(s->pieces[i] >> 10), (unsigned long long)(most >> 10));
    if (s->kv > most)
        return pm_fail(PM_ERR_DEVICE_MEMORY,
                       "a context of %u positions needs %llu MiB a layer for keys, and this device binds %llu at once", s->ctx,
                       mib(s->kv), mib(most));
    return PM_OK;
}

// ---- a plan -----------------------------------------------------------------------------------------------------------

// What all steps of a plan look at. The device is dry: slabs on it are sizes.
typedef struct planning {
    pm_device *dev;
    const pm_config *config;
    const pm_weight *weights;
    size_t n_weights;
    int as; // the type that all matrices shall have, or AS_IT_IS
    const pm_session_options *options;
} planning;

static pm_status add_to(pm_slabs *slabs, uint64_t bytes) {
    pm_slice slice;
    return pm_slabs_alloc(slabs, bytes, &slice);
}

static pm_status put_weights(const planning *p, pm_slabs *slabs) {
    for (size_t i = 0; i < p->n_weights; i++)
        PM_TRY(add_to(slabs, bytes_of(&p->weights[i], p->as)));
    return PM_OK;
}

// Bytes that the slabs of the weights will have; where that cannot be, the sum of the weights.
static pm_status rehearse_weights(const planning *p, uint64_t *bytes) {
    pm_slabs *slabs;
    *bytes = add_weights(p->weights, p->n_weights, p->as);
    PM_TRY(pm_slabs_create(p->dev, *bytes, "weights", &slabs));
    pm_status status = put_weights(p, slabs);
    if (status == PM_OK)
        *bytes = pm_slabs_bytes(slabs);
    pm_slabs_close(&slabs);
    return status;
}

static pm_status put_session(const planning *p, const pm_session_sizes *s, pm_slabs *slabs) {
    for (int i = 0; i < PM_N_PIECES; i++)
        if (s->pieces[i])
            PM_TRY(add_to(slabs, s->pieces[i]));
    for (uint32_t i = 0; i < 2 * p->config->n_layers; i++)
        PM_TRY(add_to(slabs, s->kv));
    return PM_OK;
}

static pm_status rehearse_session(const planning *p, const pm_session_sizes *s, uint64_t *bytes) {
    pm_slabs *slabs;
    *bytes = s->scratch + s->cache;
    PM_TRY(pm_slabs_create(p->dev, *bytes, "session", &slabs));
    pm_status status = put_session(p, s, slabs);
    if (status == PM_OK)
        *bytes = pm_slabs_bytes(slabs);
    pm_slabs_close(&slabs);
    return status;
}

static void add_to_heaps(const pm_device *dev, uint64_t device, const pm_session_sizes *s, uint64_t need[16]) {
    const int *heap_of = pm_device_get_info(dev)->heap_of;
    const uint64_t bytes[PM_MEM_COUNT] = {[PM_MEM_DEVICE] = device, [PM_MEM_UPLOAD] = s->upload, [PM_MEM_READBACK] = s->readback};
    memset(need, 0, 16 * sizeof *need);
    for (int i = 0; i < PM_MEM_COUNT; i++)
        if (heap_of[i] >= 0)
            need[heap_of[i]] += bytes[i];
}

static pm_status check_heaps(const pm_device *dev, const uint64_t need[16]) {
    for (int i = 0; i < pm_device_get_info(dev)->n_heaps; i++) {
        uint64_t free_bytes = pm_device_heap_free(dev, i);
        if (need[i] > free_bytes)
            return pm_fail(PM_ERR_DEVICE_MEMORY, "heap %d: %llu MiB too little", i, mib_up(need[i] - free_bytes));
    }
    return PM_OK;
}

// PM_ERR_DEVICE_MEMORY where a context does not go with weights of so many bytes.
static pm_status try_ctx(const planning *p, uint64_t weight_bytes, uint32_t ctx) {
    pm_session_options options = *p->options;
    pm_session_sizes sizes;
    uint64_t bytes, need[16];
    options.ctx = ctx;
    PM_TRY(pm_plan_session(p->dev, p->config, &options, &sizes));
    PM_TRY(pm_plan_check_bindings(p->dev, &sizes));
    PM_TRY(rehearse_session(p, &sizes, &bytes));
    add_to_heaps(p->dev, weight_bytes + bytes, &sizes, need);
    return check_heaps(p->dev, need);
}

// By halves: a longer context never takes less.
static pm_status find_longest(const planning *p, uint64_t weight_bytes, uint32_t *longest) {
    uint32_t fits = 0, too_long = MOST_CTX + 1;
    while (too_long - fits > 1) {
        uint32_t middle = fits + (too_long - fits) / 2;
        pm_status status = try_ctx(p, weight_bytes, middle);
        if (status != PM_OK && status != PM_ERR_DEVICE_MEMORY)
            return status;
        if (status == PM_OK)
            fits = middle;
        else
            too_long = middle;
    }
    *longest = fits;
    return PM_OK;
}

// Of the types narrower than what the file has the largest with which it fits.
static pm_status find_narrower(const planning *p, pm_plan *plan) {
    planning q = *p;
    for (q.as = 0; q.as < PM_GGUF_DTYPE_COUNT; q.as++) {
        uint64_t bytes;
        pm_status status = rehearse_weights(&q, &bytes);
        if (status == PM_OK && (bytes <= plan->narrower_bytes || bytes >= plan->weight_bytes))
            continue;
        if (status == PM_OK)
            status = try_ctx(&q, bytes, plan->ctx);
        if (status != PM_OK && status != PM_ERR_DEVICE_MEMORY)
            return status;
        if (status == PM_OK) {
            plan->narrower = pm_dtype_get((pm_dtype)q.as)->name;
            plan->narrower_bytes = bytes;
        }
    }
    return PM_OK;
}

// What does not fit is a finding, not a failure; the first one is told.
static pm_status take_reason(pm_plan *plan, pm_status status) {
    if (status != PM_ERR_DEVICE_MEMORY)
        return status;
    if (plan->fits)
        snprintf(plan->reason, sizeof plan->reason, "%s", pm_error_text());
    plan->fits = false;
    return PM_OK;
}

static pm_status add_up(const planning *p, pm_plan *plan) {
    pm_session_sizes s;
    PM_TRY(pm_plan_session(p->dev, p->config, p->options, &s));
    PM_TRY(take_reason(plan, rehearse_session(p, &s, &plan->session_bytes)));
    PM_TRY(take_reason(plan, pm_plan_check_bindings(p->dev, &s)));
    plan->ctx = s.ctx;
    plan->kv_bytes = 2 * pm_kv_page_bytes(s.kv_dtype, p->config->n_kv_heads, p->config->head_dim) * p->config->n_layers / PM_PAGE;
    plan->cache_bytes = s.cache;
    plan->scratch_bytes = plan->session_bytes - plan->cache_bytes;
    plan->host_bytes = s.upload + s.readback;
    add_to_heaps(p->dev, plan->weight_bytes + plan->session_bytes, &s, plan->heap_need);
    return take_reason(plan, check_heaps(p->dev, plan->heap_need));
}

static pm_status make_plan(const planning *p, pm_plan *plan) {
    const pm_device_info *info = pm_device_get_info(p->dev);
    for (int i = 0; i < info->n_heaps; i++)
        plan->heap_free[i] = pm_device_heap_free(p->dev, i);
    plan->fits = true;
    PM_TRY(take_reason(plan, rehearse_weights(p, &plan->weight_bytes)));
    if (plan->fits)
        PM_TRY(find_longest(p, plan->weight_bytes, &plan->longest_ctx));
    PM_TRY(add_up(p, plan));
    return plan->fits ? PM_OK : find_narrower(p, plan);
}

static pm_status plan_device(const planning *p, const pm_device_info *info, pm_plan *plan) {
    planning q = *p;
    *plan = (pm_plan){.model_ctx = p->config->max_ctx};
    PM_TRY(pm_device_open_dry(info, &q.dev));
    pm_status status = make_plan(&q, plan);
    pm_device_close(&q.dev);
    return status;
}

static pm_status plan_devices(const pm_file *file, const pm_device_info *infos, int n, const pm_session_options *options,
                              pm_plan *plans) {
    planning p = {.config = pm_file_config(file), .as = AS_IT_IS, .options = options};
    pm_weight *weights;
    pm_status status = pm_weights_list(file, &weights, &p.n_weights);
    p.weights = weights;
    for (int i = 0; i < n && status == PM_OK; i++)
        status = plan_device(&p, &infos[i], &plans[i]);
    pm_free(weights);
    return status;
}

pm_status pm_plan_make(const char *path, const pm_device_info *infos, int n, const pm_session_options *options, pm_plan *plans) {
    const pm_session_options usual = {0};
    pm_file *file;
    PM_TRY(pm_file_open(path, &file));
    pm_status status = plan_devices(file, infos, n, options ? options : &usual, plans);
    pm_file_close(&file);
    return status;
}
