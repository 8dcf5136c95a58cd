// One row of a report. What others wrote may be anything: every text and number is looked at here.
#include "bench/merge.h"
#include "bench/report.h"

#include <stdio.h>
#include <string.h>
#include <utf8proc.h>

enum { MAX_TEXT = 200 };

// ---- fields -----------------------------------------------------------------------------------------------------------

static const char *text_of(const cJSON *row, const char *name) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(row, name);
    return cJSON_IsString(item) && strlen(item->valuestring) <= MAX_TEXT ? item->valuestring : NULL;
}

static double number_of(const cJSON *row, const char *name, double unknown) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(row, name);
    bool sane = cJSON_IsNumber(item) && item->valuedouble >= 0 && item->valuedouble < 1e18;
    return !sane ? unknown : item->valuedouble < 1e-18 ? 0 : item->valuedouble; // within these, nothing that is computed overflows
}

static uint32_t count_of(const cJSON *row, const char *name, uint32_t unknown) {
    double number = number_of(row, name, unknown);
    return number <= APP_MAX_CTX ? (uint32_t)number : unknown;
}

typedef struct field {
    const char *name;
    size_t at;
} field;

#define AT(member) offsetof(merge_row, member)
// clang-format off
static const field texts[] = {
    {"engine", AT(engine)}, {"build_commit", AT(build)}, {"gpu_info", AT(gpu)}, {"driver_name", AT(driver)},
    {"driver_info", AT(driver_info)}, {"model_type", AT(model)}, {"model_label", AT(model)}, {"type_k", AT(kv)},
    {"precision", AT(kv)}, // rows in "fast" are compared with no others, as those of another cache
    {"proof", AT(proof)}, {"self_test", AT(self_test)}, {"cpu_governor", AT(governor)}, {"preset", AT(preset)},
    {"kernel", AT(kernel)}, {"where", AT(place)}, {"shape", AT(shape)}, {"variant", AT(variant)}, {"type", AT(type)},
    {"bound", AT(bound)}, {"ceiling", AT(ceiling)}, {"unit", AT(unit)},
};

static const field figures[] = {
    {"stddev_ts", AT(stddev)}, {"n_samples", AT(n_samples)}, {"ttft_ms", AT(ttft_ms)}, {"load_ms", AT(load_ms)},
    {"mem_bytes", AT(memory)}, {"qwen_ts", AT(qwen)}, {"greedy_match", AT(greedy)}, {"kl_vs_ref", AT(kl)}, {"logits_error", AT(error)}, {"ratio_to_peer", AT(ratio)},
    {"gpu_busy_before", AT(busy)}, {"watts", AT(watts)},
    {"clock_mhz_min", AT(clock_min)}, {"clock_mhz_max", AT(clock_max)}, {"temp_c_max", AT(temperature)},
    {"cold_ts", AT(cold)}, {"sustained_ts", AT(sustained)}, {"sustain_s", AT(sustain_s)}, {"throttle_s", AT(throttle_s)},
    {"count", AT(count)}, {"bytes", AT(bytes)}, {"bw_GBps", AT(gb_s)}, {"flops", AT(flops)}, {"tflops", AT(tflops)},
    {"bw_percent", AT(bw_percent)}, {"flops_percent", AT(flops_percent)},
};
// clang-format on

static void read_texts(const cJSON *json, merge_row *r) {
    for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++) {
        const char **text = (const char **)((char *)r + texts[i].at), *said = text_of(json, texts[i].name);
        *text = said ? said : *text;
    }
}

// Rates of tokens, or of a ceiling: where the spread is not told there is none to draw.
static void read_figures(const cJSON *json, merge_row *r) {
    bool ceiling = r->kind == MERGE_CEILING;
    for (size_t i = 0; i < sizeof(figures) / sizeof(*figures); i++)
        *(double *)((char *)r + figures[i].at) = number_of(json, figures[i].name, -1);
    r->avg = number_of(json, ceiling ? "value" : "avg_ts", -1);
    r->stddev = number_of(json, ceiling ? "stddev" : "stddev_ts", 0);
    r->min = number_of(json, ceiling ? "min" : "min_ts", r->avg);
    r->max = number_of(json, ceiling ? "max" : "max_ts", r->avg);
    double joules = number_of(json, "joules_per_token", 0);
    r->per_joule = joules > 0 ? 1 / joules : -1;
    r->us = number_of(json, "avg_ns", -1) / 1e3;
    r->throttled = cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(json, "throttled"));
    if (r->tflops < 0 && r->flops >= 0 && r->us > 0)
        r->tflops = r->flops / r->us / 1e6;
}

static void read_test(const cJSON *json, merge_row *r) {
    r->n_prompt = count_of(json, "n_prompt", 0);
    r->n_gen = count_of(json, "n_gen", 0);
    r->n_depth = count_of(json, "n_depth", 0);
    r->n_seqs = count_of(json, "n_seqs", 1);
    r->n_rows = count_of(json, "n_rows", 0);
}

static const char *const kinds[] = {[MERGE_TOKENS] = "tokens", [MERGE_OP] = "op", [MERGE_CEILING] = "ceiling"};

// Rows of before there were kinds do not tell theirs.
static merge_kind kind_of(const cJSON *json) {
    const char *said = text_of(json, "row");
    for (int i = 0; i < MERGE_KINDS && said; i++)
        if (!strcmp(said, kinds[i]))
            return (merge_kind)i;
    return said ? MERGE_KINDS : text_of(json, "kernel") ? MERGE_OP : MERGE_TOKENS;
}

merge_row merge_read_row(const cJSON *json) {
    merge_row r = {.json = json, .kind = kind_of(json), .engine = "", .build = "", .gpu = "", .driver = "", .driver_info = ""};
    r.model = r.kv = "";
    read_texts(json, &r);
    read_figures(json, &r);
    read_test(json, &r);
    return r;
}

// ---- what is no row ---------------------------------------------------------------------------------------------------

static bool has_figures(const merge_row *r) {
    if (r->kind == MERGE_CEILING)
        return r->ceiling && r->unit && r->avg >= 0 && r->max >= r->min; // a barrier may cost nothing
    if (r->kind == MERGE_OP)
        return r->kernel && r->us >= 0; // less than the clock ticks
    return r->n_prompt + r->n_gen > 0 && r->avg > 0 && r->n_seqs > 0 && r->max >= r->min;
}

// A proof that cannot be read must not pass for one that was not asked for.
static bool tells_proof(const cJSON *json) {
    const cJSON *proof = cJSON_GetObjectItemCaseSensitive(json, "proof");
    const char *text = text_of(json, "proof");
    return !proof || cJSON_IsNull(proof) || (text && (!strcmp(text, "ok") || !strcmp(text, "failed")));
}

const char *merge_fault(const cJSON *json) {
    if (!cJSON_IsObject(json) || !text_of(json, "engine") || !text_of(json, "gpu_info"))
        return "is not a report of pumice-bench";
    if (number_of(json, "format", 0) > BENCH_FORMAT || kind_of(json) == MERGE_KINDS)
        return "was written by a newer pumice-bench";
    if (kind_of(json) != MERGE_CEILING && !text_of(json, "model_type"))
        return "is not a report of pumice-bench";
    if (!tells_proof(json))
        return "has a row whose proof is neither ok nor failed";
    merge_row r = merge_read_row(json);
    return has_figures(&r) ? NULL : "has a row without figures";
}

// Control characters, those that turn the direction of text, what is no character, and what is no UTF-8 become question marks.
static void clean(char *text) {
    for (size_t at = 0, n = strlen(text); at < n;) {
        utf8proc_int32_t c = 0;
        utf8proc_ssize_t size = utf8proc_iterate((utf8proc_uint8_t *)text + at, (utf8proc_ssize_t)(n - at), &c);
        size_t taken = size < 1 ? 1 : (size_t)size;
        utf8proc_category_t category = utf8proc_category(c);
        if (size < 1 || category == UTF8PROC_CATEGORY_CC || category == UTF8PROC_CATEGORY_CF || category == UTF8PROC_CATEGORY_CN)
            memset(text + at, '?', taken);
        at += taken;
    }
}

void merge_clean(cJSON *item) {
    if (item->string)
        clean(item->string);
    if (item->valuestring)
        clean(item->valuestring);
    for (cJSON *child = item->child; child; child = child->next)
        merge_clean(child);
}

// ---- comparing --------------------------------------------------------------------------------------------------------

bool merge_same_hardware(const merge_row *a, const merge_row *b) {
    return !strcmp(a->gpu, b->gpu) && !strcmp(a->driver, b->driver) && !strcmp(a->driver_info, b->driver_info);
}

bool merge_same_device(const merge_row *a, const merge_row *b) {
    return merge_same_hardware(a, b) && !strcmp(a->engine, b->engine) && !strcmp(a->build, b->build);
}

bool merge_same_group(const merge_row *a, const merge_row *b) {
    return !strcmp(a->model, b->model) && !strcmp(a->kv, b->kv);
}

bool merge_same_test(const merge_row *a, const merge_row *b) {
    return a->n_prompt == b->n_prompt && a->n_gen == b->n_gen && a->n_depth == b->n_depth && a->n_seqs == b->n_seqs;
}

bool merge_failed(const merge_row *row) {
    return row->proof && strcmp(row->proof, "ok") != 0;
}

double merge_ceiling(const merge *m, const merge_row *row, const char *name) {
    double most = 0;
    for (int i = 0; i < m->n; i++) {
        const merge_row *r = &m->rows[i];
        if (r->kind == MERGE_CEILING && !strcmp(r->ceiling, name) && merge_same_hardware(r, row) && r->avg > most)
            most = r->avg;
    }
    return most;
}

// ---- names ------------------------------------------------------------------------------------------------------------

void merge_device_name(const merge_row *r, char text[MERGE_NAME_SIZE]) {
    snprintf(text, MERGE_NAME_SIZE, "%s, %s %s, %s %s", r->gpu, r->driver, r->driver_info, r->engine, r->build);
}

void merge_short_name(const merge *m, int device, char text[MERGE_NAME_SIZE]) {
    const merge_row *r = &m->rows[m->devices[device]];
    bool name_twice = false, driver_twice = false;
    for (int i = 0; i < m->n_devices; i++) {
        const merge_row *other = &m->rows[m->devices[i]];
        name_twice |= i != device && !strcmp(other->gpu, r->gpu);
        driver_twice |= i != device && merge_same_hardware(other, r);
    }
    snprintf(text, MERGE_NAME_SIZE, "%s%s%s%s%s%s%s", r->gpu, name_twice ? ", " : "", name_twice ? r->driver_info : "",
             driver_twice ? ", " : "", driver_twice ? r->engine : "", driver_twice ? " " : "", driver_twice ? r->build : "");
}

void merge_group_name(const merge_row *r, char text[MERGE_NAME_SIZE]) {
    snprintf(text, MERGE_NAME_SIZE, "%s%s%s", r->model, r->kv[0] ? ", KV cache " : "", r->kv);
}

void merge_test_name(const merge_row *r, char text[MERGE_NAME_SIZE]) {
    char test[BENCH_TEST_SIZE];
    bench_test t = {.n_prompt = r->n_prompt, .n_gen = r->n_gen, .n_depth = r->n_depth, .n_seqs = r->n_seqs};
    bench_format_test(&t, test);
    snprintf(text, MERGE_NAME_SIZE, "%s", test);
}
