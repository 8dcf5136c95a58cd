// Rows of several machines from their JSON files. What others wrote may be anything: every text and number is looked at here.
#include "bench/merge.h"
#include "bench/report.h"

#include <stdio.h>
#include <string.h>

enum { MAX_FILE = 64 << 20, MAX_TEXT = 200 };

// ---- fields -----------------------------------------------------------------------------------------------------------

static const char *text_of(const cJSON *row, const char *name) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(row, name);
    return cJSON_IsString(item) && strlen(item->valuestring) <= MAX_TEXT ? item->valuestring : NULL;
}

static double number_of(const cJSON *row, const char *name, double unknown) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(row, name);
    bool sane = cJSON_IsNumber(item) && item->valuedouble >= 0 && item->valuedouble < 1e18;
    return sane ? item->valuedouble : unknown;
}

static uint32_t count_of(const cJSON *row, const char *name, uint32_t unknown) {
    double number = number_of(row, name, unknown);
    return number <= APP_MAX_CTX ? (uint32_t)number : unknown;
}

static const char *or_empty(const char *text) {
    return text ? text : "";
}

static void read_figures(const cJSON *json, merge_row *r) {
    r->avg = number_of(json, "avg_ts", 0);
    r->stddev = number_of(json, "stddev_ts", 0);
    r->min = number_of(json, "min_ts", r->avg);
    r->max = number_of(json, "max_ts", r->avg);
    r->ttft_ms = number_of(json, "ttft_ms", -1);
    r->memory = number_of(json, "mem_bytes", -1);
    r->load_ms = number_of(json, "load_ms", -1);
    r->joules = number_of(json, "joules_per_token", -1);
    r->us = number_of(json, "avg_ns", 0) / 1e3;
    r->gb_s = number_of(json, "bw_GBps", -1);
}

static void read_test(const cJSON *json, merge_row *r) {
    r->n_prompt = count_of(json, "n_prompt", 0);
    r->n_gen = count_of(json, "n_gen", 0);
    r->n_depth = count_of(json, "n_depth", 0);
    r->n_seqs = count_of(json, "n_seqs", 1);
    r->n_rows = count_of(json, "n_rows", 0);
}

static merge_row read_row(const cJSON *json, const char *file) {
    merge_row r = {
        .json = json,
        .file = file,
        .engine = or_empty(text_of(json, "engine")),
        .build = or_empty(text_of(json, "build_commit")),
        .gpu = or_empty(text_of(json, "gpu_info")),
        .driver = or_empty(text_of(json, "driver_name")),
        .driver_info = or_empty(text_of(json, "driver_info")),
        .model = or_empty(text_of(json, text_of(json, "model_label") ? "model_label" : "model_type")),
        .kv = or_empty(text_of(json, "type_k")),
        .kernel = text_of(json, "kernel"),
        .place = or_empty(text_of(json, "where")),
        .proof = text_of(json, "proof"),
    };
    read_figures(json, &r);
    read_test(json, &r);
    return r;
}

// NULL where the row is one of ours.
static const char *fault_of(const cJSON *json) {
    const char *engine = text_of(json, "engine");
    if (!cJSON_IsObject(json) || !engine || !text_of(json, "gpu_info") || !text_of(json, "model_type"))
        return "is not a report of pumice-bench";
    if (number_of(json, "format", 0) > BENCH_FORMAT)
        return "was written by a newer pumice-bench";
    merge_row r = read_row(json, "");
    bool test = r.n_prompt + r.n_gen > 0 && r.avg > 0 && r.n_seqs > 0 && r.max >= r.min;
    return test || (r.kernel && r.us > 0) ? NULL : "has a row without figures";
}

// ---- comparing --------------------------------------------------------------------------------------------------------

bool merge_same_device(const merge_row *a, const merge_row *b) {
    return !strcmp(a->gpu, b->gpu) && !strcmp(a->driver, b->driver) && !strcmp(a->driver_info, b->driver_info) &&
           !strcmp(a->engine, b->engine) && !strcmp(a->build, b->build);
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

void merge_device_name(const merge_row *r, char text[MERGE_NAME_SIZE]) {
    snprintf(text, MERGE_NAME_SIZE, "%s, %s %s, %s %s", r->gpu, r->driver, r->driver_info, r->engine, r->build);
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

static void number_row(merge *m, merge_row *r) {
    r->device = m->n_devices;
    r->group = m->n_groups;
    for (int i = m->n - 1; i >= 0; i--) {
        r->device = merge_same_device(r, &m->rows[i]) ? m->rows[i].device : r->device;
        r->group = merge_same_group(r, &m->rows[i]) ? m->rows[i].group : r->group;
    }
    m->n_devices += r->device == m->n_devices;
    m->n_groups += r->group == m->n_groups;
}

// ---- files ------------------------------------------------------------------------------------------------------------

static pm_status no_memory(void) {
    return pm_fail(PM_ERR_MEMORY, "no memory to merge reports");
}

static pm_status keep_row(merge *m, const cJSON *json, const char *path) {
    if (m->n == m->room) {
        int room = m->room ? 2 * m->room : 64;
        merge_row *grown = pm_realloc(m->rows, (size_t)room * sizeof(*grown));
        if (!grown)
            return no_memory();
        m->rows = grown;
        m->room = room;
    }
    merge_row row = read_row(json, path);
    number_row(m, &row);
    m->rows[m->n++] = row;
    return PM_OK;
}

// An array of rows (json), or one row after the other (jsonl); as one array. NULL: it is no JSON.
static cJSON *parse(const char *text, size_t size) {
    cJSON *all = cJSON_CreateArray();
    const char *p = text, *end = text + size;
    while (all) {
        p += strspn(p, " \t\r\n");
        if (p == end)
            return all;
        cJSON *next = cJSON_ParseWithLengthOpts(p, (size_t)(end - p), &p, 0);
        if (!next || !cJSON_AddItemToArray(all, next)) {
            cJSON_Delete(next);
            break;
        }
    }
    cJSON_Delete(all);
    return NULL;
}

static const char *fault_of_all(const cJSON *document) {
    const cJSON *part, *row;
    int n = 0;
    cJSON_ArrayForEach(part, document) {
        const char *fault = cJSON_IsArray(part) ? NULL : fault_of(part);
        n += !cJSON_IsArray(part);
        for (row = cJSON_IsArray(part) ? part->child : NULL; row && !fault; row = row->next, n++)
            fault = fault_of(row);
        if (fault)
            return fault;
    }
    return n ? NULL : "holds no rows";
}

static pm_status keep_all(merge *m, cJSON *document, const char *path) {
    cJSON **grown = pm_realloc(m->documents, (size_t)(m->n_documents + 1) * sizeof(*grown));
    if (!grown) {
        cJSON_Delete(document);
        return no_memory();
    }
    m->documents = grown;
    m->documents[m->n_documents++] = document;
    const cJSON *part, *row;
    cJSON_ArrayForEach(part, document) {
        if (!cJSON_IsArray(part))
            PM_TRY(keep_row(m, part, path));
        for (row = cJSON_IsArray(part) ? part->child : NULL; row; row = row->next)
            PM_TRY(keep_row(m, row, path));
    }
    return PM_OK;
}

pm_status merge_add(merge *m, const char *path, bool *added) {
    char *text;
    size_t size;
    *added = false;
    if (pm_file_read(path, MAX_FILE, &text, &size) != PM_OK) {
        pm_log(PM_LOG_WARN, "left out: %s", pm_error_text());
        return PM_OK;
    }
    cJSON *document = parse(text, size);
    pm_free(text);
    const char *fault = document ? fault_of_all(document) : "is no JSON, or cut off";
    if (!fault) {
        *added = true;
        return keep_all(m, document, path);
    }
    pm_log(PM_LOG_WARN, "left out: %s %s", path, fault);
    cJSON_Delete(document);
    return PM_OK;
}

void merge_close(merge *m) {
    for (int i = 0; i < m->n_documents; i++)
        cJSON_Delete(m->documents[i]);
    pm_free(m->documents);
    pm_free(m->rows);
    *m = (merge){.n = 0};
}
