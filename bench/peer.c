// llama-bench as a measuring stick: run on the same file and device, in a process of its own, once a round.
#include "bench/report.h"

#include <cjson/cJSON.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { N_ARGS = 21, MAX_ARGS = N_ARGS + 2 * BENCH_MAX_PAIRS + 1, MAX_OUTPUT = 16 << 20 };

// ---- running it -------------------------------------------------------------------------------------------------------

// What to type to see what it says.
static void quote_command(const char *env, const char *const *argv, char *text, size_t size) {
    size_t n = (size_t)snprintf(text, size, "%s", env);
    for (; *argv && n < size; argv++)
        n += (size_t)snprintf(text + n, size - n, " %s", *argv);
}

// *out: the array of its results, as JSON.
static pm_status run(const bench_options *o, char **out) {
    char device[48], command[2048];
    snprintf(device, sizeof(device), "GGML_VK_VISIBLE_DEVICES=%" PRIu32, o->peer_device);
    const char *type = app_context_kv_name(&o->context);
    const char *argv[MAX_ARGS] = {o->peer, "-m", o->model, "-p", o->prompts, "-n", o->gens, "-d", o->depths, "-r",  "1",
                                  "-fa",   "1",  "-ngl",   "99", "-ctk",     type, "-ctv",  type, "-o",      "json"};
    for (int i = 0; i < o->pairs.n; i++) {
        argv[N_ARGS + 2 * i] = "-pg";
        argv[N_ARGS + 1 + 2 * i] = o->pairs.pairs[i].text;
    }
    const char *env[] = {device, NULL};
    size_t size;
    int exit_code;
    PM_TRY(pm_program_run(&(pm_program){.argv = argv, .env = env, .quiet = true}, MAX_OUTPUT, out, &size, &exit_code));
    if (exit_code == 0 && !app_interrupted())
        return PM_OK;
    pm_free(*out);
    *out = NULL;
    if (app_interrupted())
        return pm_fail(PM_ERR_CANCELLED, "interrupted");
    quote_command(device, argv, command, sizeof(command));
    return pm_fail(PM_ERR_IO, "the peer ended with exit code %d: %s", exit_code, command);
}

// ---- reading what it says ---------------------------------------------------------------------------------------------

static uint64_t get_number(const cJSON *row, const char *name) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(row, name);
    double value = cJSON_IsNumber(item) ? item->valuedouble : 0;
    return value > 0 && value < 1e18 ? (uint64_t)value : 0;
}

static const char *get_text(const cJSON *row, const char *name) {
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(row, name);
    return cJSON_IsString(item) ? item->valuestring : "";
}

// The same test may have been asked for twice: the one that has fewer samples.
static bench_result *find(bench_result *results, int n, const cJSON *row) {
    bench_result *found = NULL;
    for (int i = 0; i < n; i++) {
        const bench_test *t = &results[i].test;
        bool same = t->n_prompt == get_number(row, "n_prompt") && t->n_gen == get_number(row, "n_gen") &&
                    t->n_depth == get_number(row, "n_depth");
        if (same && (!found || results[i].peer.n < found->peer.n))
            found = &results[i];
    }
    return found;
}

static void read_peer(const cJSON *row, bench_peer *peer) {
    snprintf(peer->build, sizeof(peer->build), "%s (%" PRIu64 ")", get_text(row, "build_commit"), get_number(row, "build_number"));
    snprintf(peer->backends, sizeof(peer->backends), "%s", get_text(row, "backends"));
    snprintf(peer->type, sizeof(peer->type), "%s", get_text(row, "model_type"));
}

// Numbers of another device would compare nothing.
static pm_status check_device(const cJSON *row, const bench_options *o, const bench_subject *s) {
    const char *name = get_text(row, "gpu_info");
    if (strstr(name, s->device->name))
        return PM_OK;
    return pm_fail(PM_ERR_USAGE, "the peer ran on %s, ours on %s: choose with --device and --peer-device (now %" PRIu32 ")",
                   name[0] ? name : "no Vulkan device", s->device->name, o->peer_device);
}

static pm_status read_row(const cJSON *row, const bench_options *o, const bench_subject *s, bench_peer *peer, bench_result *results,
                          int n) {
    bench_result *result = find(results, n, row);
    uint64_t ns = get_number(row, "avg_ns");
    if (!result || ns == 0)
        return PM_OK;
    PM_TRY(check_device(row, o, s));
    read_peer(row, peer);
    result->peer.ns[result->peer.n++] = ns;
    return PM_OK;
}

static pm_status no_result(const bench_options *o, const bench_test *t) {
    char test[BENCH_TEST_SIZE];
    bench_format_test(t, test);
    return pm_fail(PM_ERR_FILE, "%s: no result for %s in what it says", o->peer, test);
}

static pm_status read_rows(const cJSON *rows, const bench_options *o, const bench_subject *s, bench_peer *peer,
                           bench_result *results, int n) {
    int before = results[0].peer.n;
    const cJSON *row;
    cJSON_ArrayForEach(row, rows) {
        PM_TRY(read_row(row, o, s, peer, results, n));
    }
    for (int i = 0; i < n; i++)
        if (results[i].peer.n != before + 1)
            return no_result(o, &results[i].test);
    return PM_OK;
}

pm_status bench_peer_run(const bench_options *options, const bench_subject *subject, bench_peer *peer, bench_result *results,
                         int n) {
    char *out;
    PM_TRY(run(options, &out));
    cJSON *rows = cJSON_Parse(out);
    pm_free(out);
    pm_status status = cJSON_IsArray(rows) ? read_rows(rows, options, subject, peer, results, n)
                                           : pm_fail(PM_ERR_FILE, "%s: what it says is no JSON", options->peer);
    cJSON_Delete(rows);
    return status;
}
