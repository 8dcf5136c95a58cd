// pumice plan: what a model would take of each device here and whether it fits, from the file's header alone.
#include "app/context.h"
#include "app/json.h"
#include "app/limits.h"
#include "backend/pumice.h"

#include <inttypes.h>
#include <stdio.h>

typedef struct values {
    const char *model;
    app_context context; // the cache's rows of it
    bool json;
} values;

typedef struct state {
    const values *v;
    pm_device_info *infos;
    pm_plan *plans; // (n)
    int n;
} state;

static bool is_short(const pm_plan *p, int heap) {
    return p->heap_need[heap] > p->heap_free[heap];
}

// ---- for people -------------------------------------------------------------------------------------------------------

static void print_size(const char *what, uint64_t size) {
    char bytes[APP_SHORT_TEXT];
    printf("   %-10s %10s", what, app_bytes(size, bytes));
}

static void print_model(const state *s) {
    char kv[APP_SHORT_TEXT];
    printf("%s, KV cache in %s: %s a position\n", s->v->model, app_context_kv_name(&s->v->context),
           app_bytes(s->plans[0].kv_bytes, kv));
}

// The heaps that something is asked of.
static bool print_heaps(const pm_device_info *d, const pm_plan *p) {
    bool any_short = false;
    for (int i = 0; i < d->n_heaps; i++) {
        char name[16], bytes[APP_SHORT_TEXT];
        if (p->heap_need[i] == 0)
            continue;
        snprintf(name, sizeof(name), d->n_heaps > 1 ? "heap %d" : "together", i);
        print_size(name, p->heap_need[i]);
        printf(" of %s%s%s", app_bytes(p->heap_free[i], bytes), d->budget_known ? " free" : "",
               d->heaps[i].device_local ? "" : " of the host");
        any_short |= is_short(p, i);
        if (is_short(p, i))
            printf(": %s too little", app_bytes(p->heap_need[i] - p->heap_free[i], bytes));
        printf("\n");
    }
    return any_short;
}

static void print_longest(const pm_plan *p) {
    if (p->longest_ctx == 0)
        printf("   no context fits: the weights are too large\n");
    else
        printf("   the longest context that fits is %" PRIu32, p->longest_ctx);
    if (p->longest_ctx && p->model_ctx)
        printf("; the model was made for %" PRIu32, p->model_ctx);
    if (p->longest_ctx)
        printf("\n");
}

static void print_narrower(const pm_plan *p) {
    char bytes[APP_SHORT_TEXT];
    if (p->narrower)
        printf("   with matrices in %s it would fit: %s of weights\n", p->narrower, app_bytes(p->narrower_bytes, bytes));
    else
        printf("   and no narrower type that is run here would make it fit\n");
}

static void print_plan(const pm_device_info *d, const pm_plan *p) {
    char bytes[APP_SHORT_TEXT];
    printf("\n%d  %s: a context of %" PRIu32 " %s\n", d->index, d->name, p->ctx, p->fits ? "fits" : "does not fit");
    print_size("weights", p->weight_bytes);
    printf("\n");
    print_size("KV cache", p->cache_bytes);
    printf("\n");
    print_size("scratch", p->scratch_bytes);
    printf(", and %s to pass rows and results\n", app_bytes(p->host_bytes, bytes));
    if (!print_heaps(d, p) && !p->fits)
        printf("   %s\n", p->reason);
    print_longest(p);
    if (!p->fits)
        print_narrower(p);
}

// ---- JSON -------------------------------------------------------------------------------------------------------------

static void put_heaps(app_json *j, cJSON *o, const pm_device_info *d, const pm_plan *p) {
    cJSON *heaps = app_json_array(j, o, "heaps");
    for (int i = 0; i < d->n_heaps; i++) {
        cJSON *heap = app_json_object(j, heaps, NULL);
        app_json_number(j, heap, "need", p->heap_need[i]);
        app_json_number(j, heap, "free", p->heap_free[i]);
        app_json_number(j, heap, "size", d->heaps[i].size);
        app_json_bool(j, heap, "device_local", d->heaps[i].device_local);
    }
    app_json_bool(j, o, "budget_known", d->budget_known);
}

static void put_plan(app_json *j, cJSON *o, const pm_device_info *d, const pm_plan *p) {
    app_json_number(j, o, "index", (uint64_t)d->index);
    app_json_text(j, o, "name", d->name);
    app_json_number(j, o, "context", p->ctx);
    app_json_number(j, o, "weight_bytes", p->weight_bytes);
    app_json_number(j, o, "session_bytes", p->session_bytes);
    app_json_number(j, o, "cache_bytes", p->cache_bytes);
    app_json_number(j, o, "scratch_bytes", p->scratch_bytes);
    app_json_number(j, o, "host_bytes", p->host_bytes);
    put_heaps(j, o, d, p);
    app_json_bool(j, o, "fits", p->fits);
    app_json_text(j, o, "reason", p->fits ? NULL : p->reason);
    app_json_number(j, o, "longest_context", p->longest_ctx);
    cJSON *narrower = app_json_put(j, o, "narrower", p->narrower ? cJSON_CreateObject() : cJSON_CreateNull());
    if (p->narrower) {
        app_json_text(j, narrower, "type", p->narrower);
        app_json_number(j, narrower, "weight_bytes", p->narrower_bytes);
    }
}

static pm_status print_json(const state *s) {
    app_json j = app_json_begin();
    app_json_text(&j, j.root, "path", s->v->model);
    app_json_text(&j, j.root, "precision", app_precisions[s->v->context.precision]);
    app_json_text(&j, j.root, "kv", app_context_kv_name(&s->v->context));
    app_json_number(&j, j.root, "model_context", s->plans[0].model_ctx);
    app_json_number(&j, j.root, "kv_bytes", s->plans[0].kv_bytes);
    cJSON *devices = app_json_array(&j, j.root, "devices");
    for (int i = 0; i < s->n; i++)
        put_plan(&j, app_json_object(&j, devices, NULL), &s->infos[i], &s->plans[i]);
    return app_json_print(&j);
}

// ---- the command ------------------------------------------------------------------------------------------------------

#define AT(field) .offset = offsetof(values, field)
static const app_option options[] = {
    {.name = "MODEL", .help = "folder, .safetensors or .gguf file", .kind = APP_TEXT, .required = true, AT(model)},
    {.name = "--ctx",
     .letter = "-c",
     .value = "N",
     .help = "room for N tokens; else the model's, up to 4096",
     .kind = APP_U32,
     .least = 1,
     .most = APP_MAX_CTX,
     AT(context.ctx)},
    APP_CACHE_OPTIONS(values, context),
    {.name = "--json", .help = "the numbers as JSON", .kind = APP_FLAG, AT(json)},
    APP_LIMITS_OPTION,
};

static pm_status make_plans(state *s) {
    pm_session_options session = {.ctx = s->v->context.ctx};
    app_context_cache(&s->v->context, &session);
    s->plans = pm_calloc((size_t)s->n, sizeof(*s->plans));
    if (!s->plans)
        return pm_fail(PM_ERR_MEMORY, "no memory for %d plans", s->n);
    return pm_plan_make(s->v->model, s->infos, s->n, &session, s->plans);
}

static pm_status go(state *s) {
    PM_TRY(pm_device_list(&s->infos, &s->n));
    PM_TRY(make_plans(s));
    if (s->v->json)
        return print_json(s);
    print_model(s);
    for (int i = 0; i < s->n; i++)
        print_plan(&s->infos[i], &s->plans[i]);
    return PM_OK;
}

static int run(int argc, char **argv) {
    values v = {.json = false};
    int exit_code;
    if (!app_parse(&app_plan, argc, argv, &v, &exit_code))
        return exit_code;
    state s = {.v = &v};
    exit_code = app_exit(go(&s));
    pm_free(s.plans);
    pm_free(s.infos);
    return exit_code;
}

const app_command app_plan = {
    .name = "plan",
    .summary = "tells whether a model fits the devices here, before anything is loaded",
    .options = options,
    .n_options = sizeof(options) / sizeof(*options),
    .notes = "The bytes are those `pumice run` will take; what does not fit is no failure",
    .run = run,
};
