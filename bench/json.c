// A row of the report as a JSON object: llama-bench's fields with its meaning, null where they mean nothing here, and what it does
// not tell.
#include "app/version.h"
#include "bench/merge.h"
#include "bench/report.h"

#include <cjson/cJSON.h>
#include <inttypes.h>
#include <stdio.h>

// Failure of any addition sticks, so that the building below reads straight.
typedef struct json {
    cJSON *row;
    bool failed;
} json;

static void put(json *j, const char *name, cJSON *item) {
    if (item && cJSON_AddItemToObject(j->row, name, item))
        return;
    cJSON_Delete(item);
    j->failed = true;
}

static void put_in(json *j, cJSON *array, cJSON *item) {
    if (item && cJSON_AddItemToArray(array, item))
        return;
    cJSON_Delete(item);
    j->failed = true;
}

static void put_text(json *j, const char *name, const char *text) {
    put(j, name, text ? cJSON_CreateString(text) : cJSON_CreateNull());
}

static void put_number(json *j, const char *name, double number) {
    put(j, name, cJSON_CreateNumber(number));
}

// Below zero is unknown.
static void put_known(json *j, const char *name, double number) {
    put(j, name, number >= 0 ? cJSON_CreateNumber(number) : cJSON_CreateNull());
}

static void put_bool(json *j, const char *name, bool value) {
    put(j, name, cJSON_CreateBool(value));
}

static void put_nulls(json *j, const char *const *names) {
    for (; *names; names++)
        put(j, *names, cJSON_CreateNull());
}

static void put_matrices(json *j, const pm_device_info *d) {
    cJSON *list = cJSON_CreateArray();
    for (int i = 0; i < d->n_coopmats; i++) {
        const pm_coopmat_info *m = &d->coopmats[i];
        char text[64];
        snprintf(text, sizeof(text), "%" PRIu32 "x%" PRIu32 "x%" PRIu32 " %s-%s", m->m, m->n, m->k, m->a, m->c);
        put_in(j, list, cJSON_CreateString(text));
    }
    put(j, "coopmat", list);
}

static void put_device(json *j, const pm_device_info *d) {
    char driver[256], api[32], uuid[33];
    bench_format_driver(d, driver, sizeof(driver));
    bench_format_version(d->api_version, api);
    for (int i = 0; i < 16; i++)
        snprintf(uuid + 2 * i, 3, "%02x", d->device_uuid[i]);
    put_text(j, "driver_name", d->driver_name);
    put_text(j, "driver_info", driver);
    put_number(j, "driver_version", d->driver_version);
    put_number(j, "driver_id", d->driver_id);
    put_text(j, "device_uuid", uuid);
    put_number(j, "vendor_id", d->vendor_id);
    put_number(j, "device_id", d->device_id);
    put_text(j, "vulkan_api", api);
    put_number(j, "subgroup_size", d->subgroup_size);
    put_bool(j, "fp16", d->f16_arithmetic);
    put_bool(j, "int8_dot", d->int_dot_accelerated);
    put_matrices(j, d);
}

static void put_model(json *j, const bench_report *r, const char *type) {
    put_text(j, "model_filename", r->options->model);
    put_text(j, "model_type", type);
    put_number(j, "model_size", (double)r->subject->size);
    put_number(j, "model_n_params", (double)r->subject->n_params);
    put_text(j, "model_label", r->subject->type); // the same for the peer's rows
}

static void put_engine(json *j, const bench_report *r, bool is_peer) {
    put_number(j, "format", BENCH_FORMAT);
    put_text(j, "engine", is_peer ? "llama.cpp" : "pumice");
    put_text(j, "build_commit", is_peer ? r->peer.build : app_commit());
    put_nulls(j, (const char *const[]){"build_number", "cpu_info", NULL});
    put_text(j, "gpu_info", r->device->name);
    put_text(j, "backends", is_peer ? r->peer.backends : "Vulkan");
    if (r->subject)
        put_model(j, r, is_peer ? r->peer.type : r->subject->type);
}

// Null where it is that of the cache, which type_k tells.
static void put_precision(json *j, const bench_report *r) {
    put_text(j, "precision", r->options->context.precision == PM_PRECISION_FAST ? "fast" : NULL);
}

// Fields of llama-bench that mean nothing here, so that its readers find them.
static void put_settings(json *j, const bench_report *r) {
    static const char *const none[] = {"n_batch",       "n_ubatch",      "n_threads",  "cpu_mask",   "cpu_strict",
                                       "poll",          "n_cpu_moe",     "split_mode", "main_gpu",   "no_kv_offload",
                                       "devices",       "tensor_split",  "use_mmap",   "embeddings", "tensor_buft_overrides",
                                       "use_direct_io", "no_op_offload", "no_host",    "repack",     NULL};
    const char *type = app_context_kv_name(&r->options->context);
    put_text(j, "type_k", type);
    put_text(j, "type_v", type);
    put_precision(j, r);
    put_number(j, "n_gpu_layers", 99);
    put_bool(j, "flash_attn", true);
    put_nulls(j, none);
}

static void put_samples(json *j, const bench_line *l) {
    cJSON *ns = cJSON_CreateArray(), *ts = cJSON_CreateArray();
    for (int i = 0; i < l->samples->n; i++) {
        double time = (double)l->samples->ns[i];
        cJSON *a = cJSON_CreateNumber(time),
              *b = cJSON_CreateNumber(bench_tokens_of(&l->result->test) * 1e9 / (time > 0 ? time : 1));
        put_in(j, ns, a);
        put_in(j, ts, b);
    }
    put(j, "samples_ns", ns);
    put(j, "samples_ts", ts);
}

static void put_figures(json *j, const bench_line *l) {
    const bench_test *t = &l->result->test;
    put_number(j, "n_prompt", t->n_prompt);
    put_number(j, "n_gen", t->n_gen);
    put_number(j, "n_depth", t->n_depth);
    put_text(j, "test_time", l->result->test_time);
    put_number(j, "avg_ns", l->f.avg_ns);
    put_number(j, "stddev_ns", l->f.stddev_ns);
    put_number(j, "avg_ts", l->f.avg_ts);
    put_number(j, "stddev_ts", l->f.stddev_ts);
    put_samples(j, l);
    put_number(j, "n_seqs", t->n_seqs);
    put_number(j, "min_ts", l->f.min_ts);
    put_number(j, "max_ts", l->f.max_ts);
    put_number(j, "median_ts", l->f.median_ts);
    put_known(j, "ttft_ms", l->samples->first_ns > 0 ? l->samples->first_ns / l->samples->n / 1e6 : -1);
}

static void put_proof(json *j, const bench_proof *p) {
    char self_test[32] = "";
    cJSON *variants = cJSON_CreateArray();
    for (int i = 0; i < p->n_variants; i++)
        put_in(j, variants, cJSON_CreateString(p->variants[i]));
    if (p->n_tried)
        snprintf(self_test, sizeof(self_test), "%d of %d", p->n_right, p->n_tried);
    put_text(j, "proof", !p->known ? NULL : p->right ? "ok" : "failed");
    put_known(j, "greedy_match", p->known ? (double)p->n_agree / p->n : -1);
    put_known(j, "kl_vs_ref", p->known ? p->kl : -1);
    put_known(j, "logits_error", p->known ? p->error : -1);
    put_text(j, "self_test", self_test[0] ? self_test : NULL);
    put(j, "variants", variants);
}

static void put_power(json *j, const bench_report *r, const bench_line *l) {
    const bench_power none = {-1, -1, -1, -1, -1, -1}, *p = l->is_peer ? &none : &l->result->power;
    put_known(j, "watts", p->watts);
    put_known(j, "joules_per_token", p->watts >= 0 ? p->watts / l->f.avg_ts : -1);
    put_known(j, "clock_mhz_min", p->mhz_min);
    put_known(j, "clock_mhz_max", p->mhz_max);
    put_known(j, "temp_c_max", p->temp_max);
    put(j, "throttled", p->throttled < 0 ? cJSON_CreateNull() : cJSON_CreateBool(p->throttled));
    put_known(j, "gpu_busy_before", r->machine.gpu_busy);
}

static void put_sustain(json *j, const bench_sustain *s) {
    put_known(j, "sustain_s", s->n ? s->seconds : -1);
    put_known(j, "cold_ts", s->n ? bench_sustain_cold(s) : -1);
    put_known(j, "sustained_ts", s->n ? bench_sustain_kept(s) : -1);
    put_known(j, "throttle_s", s->n ? bench_sustain_throttle_s(s) : -1);
    if (s->n == 0)
        return;
    cJSON *rates = cJSON_CreateArray();
    for (int i = 0; i < s->n; i++)
        put_in(j, rates, cJSON_CreateNumber(s->rates[i]));
    put(j, "window_ts", rates);
}

static void put_row(json *j, const bench_report *r, const bench_line *l) {
    const bench_subject *s = r->subject;
    double weights = (double)pm_model_weight_bytes(s->model), session = (double)s->session_bytes;
    put_engine(j, r, l->is_peer);
    put_text(j, "row", "tokens");
    put_settings(j, r);
    put_figures(j, l);
    put_device(j, r->device);
    put_known(j, "load_ms", l->is_peer ? -1 : (double)s->load_ns / 1e6);
    put_known(j, "mem_bytes", l->is_peer ? -1 : weights + session);
    put_known(j, "weight_bytes", l->is_peer ? -1 : weights);
    put_known(j, "session_bytes", l->is_peer ? -1 : session);
    put_known(j, "peak_rss_bytes", l->is_peer || pm_peak_rss() == 0 ? -1 : (double)pm_peak_rss());
    put_text(j, "shader_hash", l->is_peer ? NULL : pm_shader_hash());
    put_text(j, "cpu_governor", r->machine.governor[0] ? r->machine.governor : NULL);
    put_known(j, "cpu_load_before", r->machine.load);
    put_proof(j, l->is_peer ? &(bench_proof){.known = false} : &r->proof);
    put_power(j, r, l);
    put_sustain(j, l->is_peer ? &(bench_sustain){.n = 0} : &l->result->sustain);
    put_text(j, "preset", r->options->preset == BENCH_QWEN ? "qwen" : NULL);
    put_known(j, "qwen_ts", r->options->preset == BENCH_QWEN ? l->f.avg_ts : -1);
    put_known(j, "cpu_s_per_token", l->cpu_seconds);
    put_known(j, "ratio_to_peer", l->ratio > 0 ? l->ratio : -1);
}

static void put_op(json *j, const bench_report *r, uint32_t n_rows, uint32_t depth, const pm_profile_row *op,
                   const bench_op_figures *f) {
    put_engine(j, r, false);
    put_text(j, "row", "op");
    put_device(j, r->device);
    put_text(j, "type_k", app_context_kv_name(&r->options->context));
    put_precision(j, r);
    put_number(j, "n_rows", n_rows);
    put_number(j, "n_depth", depth);
    put_text(j, "kernel", op->kernel);
    put_text(j, "where", op->label);
    put_text(j, "variant", f->variant);
    put_text(j, "type", f->type);
    put_text(j, "shape", f->shape[0] ? f->shape : NULL);
    put_number(j, "count", (double)op->count);
    put_number(j, "avg_ns", f->ns);
    put_number(j, "bytes", f->bytes);
    put_known(j, "bw_GBps", f->gb_s);
    put_known(j, "flops", f->flops > 0 ? f->flops : -1);
    put_known(j, "tflops", f->tflops);
    put_known(j, "bw_percent", f->bw_percent);
    put_known(j, "flops_percent", f->flops_percent);
    put_text(j, "bound", f->bound);
}

static void put_ceiling(json *j, const bench_report *r, const bench_ceiling *c) {
    char time[PM_UTC_SIZE];
    pm_utc_text(time);
    put_engine(j, r, false);
    put_text(j, "row", "ceiling");
    put_device(j, r->device);
    put_text(j, "test_time", time);
    put_text(j, "shader_hash", pm_shader_hash());
    put_text(j, "ceiling", c->name);
    put_number(j, "value", c->value);
    put_text(j, "unit", c->unit);
    put_number(j, "stddev", c->stddev);
    put_number(j, "min", c->min);
    put_number(j, "max", c->max);
    put_number(j, "n_samples", c->n);
}

// Prints the row that `j` holds, and lets it go.
static pm_status print(bench_report *r, json *j) {
    pm_status status = j->failed ? pm_fail(PM_ERR_MEMORY, "no memory for a row of the report") : bench_rows_print(r, j->row);
    cJSON_Delete(j->row);
    return status;
}

pm_status bench_json_line(bench_report *r, const bench_line *l) {
    json j = {.row = cJSON_CreateObject()};
    put_row(&j, r, l);
    return print(r, &j);
}

pm_status bench_json_op(bench_report *r, uint32_t n_rows, uint32_t depth, const pm_profile_row *op, const bench_op_figures *f) {
    json j = {.row = cJSON_CreateObject()};
    put_op(&j, r, n_rows, depth, op, f);
    return print(r, &j);
}

pm_status bench_json_ceiling(bench_report *r, const bench_ceiling *ceiling) {
    json j = {.row = cJSON_CreateObject()};
    put_ceiling(&j, r, ceiling);
    return print(r, &j);
}
