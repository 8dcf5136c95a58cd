// The program `pumice-bench`: measures models and kernels on a device, in the words of llama-bench. This file has the command line,
// opens what is measured, and closes it; what is done with it is tokens.c and ops.c.
#include "app/limits.h"
#include "app/version.h"
#include "bench/bench.h"

#include <cjson/cJSON.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---- options ----------------------------------------------------------------------------------------------------------

#define AT(field) .offset = offsetof(bench_options, field)
static const char *const presets[] = {"none", "qwen", NULL};                      // as BENCH_NO_PRESET and so on count
static const char *const outputs[] = {"md", "csv", "json", "jsonl", "sql", NULL}; // as BENCH_MD and so on count

// clang-format off
static const app_option options[] = {
    {.name = "--model", .letter = "-m", .value = "MODEL", .help = "folder, .safetensors, .gguf; again: the next",
     .kind = APP_READ, .read = bench_model_read, AT(models)},
    {.name = "--synthetic", .value = "MODEL", .help = "made up, no file: qwen3-4b:q4_k_m", .kind = APP_READ, .read = bench_synthetic_read,
     AT(models)},
    {.name = "--n-prompt", .letter = "-p", .value = "64,512", .help = "prompts of so many tokens (64); 0: none", .kind = APP_TEXT,
     AT(prompts)},
    {.name = "--n-gen", .letter = "-n", .value = "16", .help = "generate so many tokens (16); 0: none", .kind = APP_TEXT, AT(gens)},
    {.name = "--prompt-gen", .letter = "-pg", .value = "512,128", .help = "a prompt, then an answer; may be repeated",
     .kind = APP_READ, .read = bench_pair_read, AT(pairs)},
    {.name = "--n-depth", .letter = "-d", .value = "0,4096", .help = "behind so many others (0)", .kind = APP_TEXT, AT(depths)},
    {.name = "--batch", .letter = "-b", .value = "1,4,16", .help = "-n for so many sequences at once (1)", .kind = APP_TEXT,
     AT(batches)},
    {.name = "--repetitions", .letter = "-r", .value = "N", .help = "after one warm-up (3)", .kind = APP_U32, .least = 1,
     .most = BENCH_MAX_REPETITIONS, AT(repetitions)},
    {.name = "--output", .letter = "-o", .value = "FORMAT", .help = "md, csv, json, jsonl, sql (md)", .kind = APP_WORD, .words = outputs, AT(output)},
    {.name = "--ops", .help = "each kernel in passes of -p rows (1,8,64)", .kind = APP_FLAG, AT(ops)},
    {.name = "--ceilings", .help = "what the device can do at most; --ops does it too", .kind = APP_FLAG, AT(ceilings)},
    {.name = "--sustain", .value = "60s", .help = "in place of -r: as long, or until steady", .kind = APP_READ, .rare = true,
     .read = bench_seconds_read, AT(sustain_s)},
    {.name = "--preset", .value = "qwen", .help = "Qwen's speed page: 2048 new tokens behind 1 to 129024", .kind = APP_WORD,
     .words = presets, .rare = true, AT(preset)},
    {.name = "--compare-devices", .help = "all devices of this machine in turn", .kind = APP_FLAG, .rare = true, AT(all_devices)},
    {.name = "--peer", .value = "PROGRAM", .help = "run this llama-bench in turn with ours", .kind = APP_TEXT, AT(peer)},
    {.name = "--peer-device", .value = "N", .help = "the device by the Vulkan loader's count (0)", .kind = APP_U32, .most = 99,
     AT(peer_device)},
    {.name = "--device", .letter = "-dev", .value = "N|NAME", .help = "one that `pumice devices` lists", .kind = APP_TEXT, AT(device)},
    {.name = "--ctx", .letter = "-c", .value = "N", .help = "room for N tokens; else as many as are needed", .kind = APP_U32,
     .least = 1, .most = APP_MAX_CTX, AT(context.ctx)},
    APP_CACHE_OPTIONS(bench_options, context),
    {.name = "-ctv", .value = "TYPE", .help = "llama-bench's spelling: the type that -ctk says", .kind = APP_WORD, .words = app_kv_types,
     .rare = true, AT(kv_of_v)},
    {.name = "--no-proof", .help = "do not hold the device's logits against a reference", .kind = APP_FLAG, .rare = true,
     AT(no_proof)},
    {.name = "--sysfs", .value = "DIR", .help = "in place of /sys: what tells of power, clocks, heat", .kind = APP_TEXT,
     .rare = true, AT(sysfs)},
    APP_LIMITS_OPTION,
};
// clang-format on

static bool ends_with(const char *text, const char *end) {
    size_t n = strlen(text), m = strlen(end);
    return n >= m && !strcmp(text + n - m, end);
}

static pm_status check_peer(const bench_options *o) {
    if (o->sustain_s > 0 || o->preset != BENCH_NO_PRESET || o->all_devices)
        return pm_fail(PM_ERR_USAGE, "--sustain, --preset and --compare-devices go without --peer");
    if (o->ops)
        return pm_fail(PM_ERR_USAGE, "--ops looks into our kernels: it goes without --peer");
    if (o->n_seqs.n != 1 || o->n_seqs.values[0] != 1)
        return pm_fail(PM_ERR_USAGE, "--batch: llama-bench has no such tests, it goes without --peer");
    for (int i = 0; i < o->models.n; i++)
        if (!ends_with(o->models.paths[i], ".gguf"))
            return pm_fail(PM_ERR_USAGE, "%s: --peer reads .gguf files only", o->models.paths[i]);
    if (!pm_path_exists(o->peer))
        return pm_fail(PM_ERR_USAGE, "--peer %s: there is no such program", o->peer);
    return PM_OK;
}

static pm_status read_options(bench_options *o) {
    if (o->models.n == 0 && !o->ceilings)
        return pm_fail(PM_ERR_USAGE, "-m or --synthetic is missing; pumice-bench --help tells more");
    if (o->all_devices && o->device)
        return pm_fail(PM_ERR_USAGE, "--compare-devices takes all devices: it goes without --device");
    if (!o->gens)
        o->gens = o->preset == BENCH_QWEN ? "2048" : "16";
    if (!o->prompts)
        o->prompts = o->ops ? "1,8,64" : "64";
    PM_TRY(bench_list_read("-p", o->prompts, &o->n_prompt));
    PM_TRY(bench_list_read("-n", o->gens, &o->n_gen));
    PM_TRY(bench_list_read("-d", o->depths, &o->n_depth));
    PM_TRY(bench_list_read("-b", o->batches, &o->n_seqs));
    for (int i = 0; i < o->n_seqs.n; i++)
        if (o->n_seqs.values[i] < 1 || o->n_seqs.values[i] > BENCH_MAX_SEQS)
            return pm_fail(PM_ERR_USAGE, "-b %s: wanted 1 to %d sequences", o->batches, BENCH_MAX_SEQS);
    if (o->kv_of_v != PM_KV_DEFAULT && o->kv_of_v != o->context.kv)
        return pm_fail(PM_ERR_USAGE, "-ctv %s: K and V have one type here, say -ctk %s too", app_kv_types[o->kv_of_v],
                       app_kv_types[o->kv_of_v]);
    return o->peer ? check_peer(o) : PM_OK;
}

// ---- what is measured -------------------------------------------------------------------------------------------------

// The type that most bytes have names a mixed file, as its maker does.
static void describe(const char *architecture, const uint64_t bytes_of[PM_ALL_DTYPE_COUNT], bench_subject *s) {
    int most = 0;
    for (int i = 0; i < PM_ALL_DTYPE_COUNT; i++)
        most = bytes_of[i] > bytes_of[most] ? i : most;
    bool small = s->n_params < 100000000;
    snprintf(s->type, sizeof(s->type), "%.32s %.2g%s %s", architecture, (double)s->n_params / (small ? 1e6 : 1e9),
             small ? "M" : "B", pm_dtype_get((pm_dtype)most)->name);
}

static pm_status look_into(const char *path, bench_subject *s) {
    pm_file *file;
    PM_TRY(pm_file_open(path, &file));
    size_t n;
    const pm_tensor_view *t = pm_file_tensors(file, &n);
    uint64_t bytes_of[PM_ALL_DTYPE_COUNT] = {0};
    for (size_t i = 0; i < n; i++) {
        bytes_of[t[i].stored] += t[i].size;
        s->size += t[i].size;
        s->n_params += t[i].dims[0] * t[i].dims[1] * t[i].dims[2] * t[i].dims[3];
    }
    describe(pm_file_config(file)->architecture, bytes_of, s);
    pm_file_close(&file);
    return PM_OK;
}

// All of them before the first is measured: a wrong path is told at once.
static pm_status check_model(const char *path) {
    bench_subject subject = {.dev = NULL};
    return look_into(path, &subject);
}

static pm_status open_model(const bench_options *o, bench_subject *s) {
    PM_TRY(look_into(o->model, s));
    uint64_t began = pm_now_ns();
    PM_TRY(pm_model_open(s->dev, o->model, NULL, &s->model));
    s->load_ns = pm_now_ns() - began;
    return PM_OK;
}

pm_status bench_make_ids(const pm_model *model, uint32_t n, int32_t **ids) {
    *ids = pm_calloc(n, sizeof(**ids));
    if (!*ids)
        return pm_fail(PM_ERR_MEMORY, "no memory for %" PRIu32 " ids", n);
    uint32_t x = 1;
    for (uint32_t i = 0; i < n; i++) {
        x = x * 1664525 + 1013904223;
        (*ids)[i] = (int32_t)(((uint64_t)x * pm_model_config(model)->vocab_size) >> 32);
    }
    return PM_OK;
}

pm_status bench_fill(pm_session *session, int seq, const int32_t *ids, uint32_t depth, uint32_t *filled) {
    if (*filled > depth)
        *filled = depth;
    pm_session_rewind(session, seq, *filled);
    if (depth > *filled)
        PM_TRY(pm_session_eval(session, seq, ids + *filled, depth - *filled, NULL));
    *filled = depth;
    return PM_OK;
}

// ---- the program ------------------------------------------------------------------------------------------------------

int app_exit(pm_status status) {
    if (status == PM_OK)
        return APP_EXIT_OK;
    if (status == PM_ERR_CANCELLED)
        return APP_EXIT_INTERRUPTED;
    fprintf(stderr, "pumice-bench: %s\n", pm_error_text());
    if (status == PM_ERR_USAGE)
        return APP_EXIT_USAGE;
    return status == PM_ERR_NO_DEVICE ? APP_EXIT_NO_DEVICE : APP_EXIT_FAILED;
}

static pm_status measure_model(bench_options *o, bench_report *report, bench_subject *subject) {
    PM_TRY(open_model(o, subject));
    report->proof = (bench_proof){.known = false};
    if (!o->ops && !o->no_proof)
        PM_TRY(bench_prove(o, subject, &report->proof));
    return o->ops ? bench_ops(o, subject, report) : bench_tokens(o, subject, report);
}

static pm_status measure_ceilings(bench_report *report, pm_device *dev) {
    PM_TRY(bench_ceilings(dev, report->ceilings));
    return bench_report_ceilings(report);
}

// One after the other, so that each has the device's memory to itself.
static pm_status measure_models(bench_options *o, bench_report *report, pm_device *dev) {
    pm_status status = PM_OK;
    for (int i = 0; i < o->models.n && status == PM_OK; i++) {
        bench_subject subject = {.dev = dev, .device = pm_device_get_info(dev)};
        o->model = o->models.paths[i];
        report->subject = &subject;
        status = measure_model(o, report, &subject);
        pm_model_close(&subject.model);
        report->subject = NULL;
    }
    return status;
}

// A line for each thing that makes numbers worth less.
static void look_around(bench_machine *m) {
    pm_cpu_governor(m->governor, sizeof(m->governor));
    m->load = pm_load_average();
    if (m->load > pm_cpu_count() / 2.0)
        pm_log(PM_LOG_WARN, "other programs keep %.1f of %d processors busy: numbers will be low and spread", m->load,
               pm_cpu_count());
    if (!strcmp(m->governor, "powersave"))
        pm_log(PM_LOG_WARN, "the CPU's clock is governed by powersave: numbers may be low");
}

static void look_at_device(bench_report *report) {
    bench_machine *m = &report->machine;
    m->gpu_busy = bench_meter_busy(report->meter);
    if (m->gpu_busy > 10)
        pm_log(PM_LOG_WARN, "another program keeps %s %.0f %% busy: numbers will be low and spread", report->device->name,
               m->gpu_busy);
}

static pm_status measure_device(bench_options *o, bench_report *report, const char *pick) {
    pm_device *dev;
    PM_TRY(pm_device_open(pick, &dev));
    report->device = pm_device_get_info(dev);
    report->told = false;
    pm_status status = bench_meter_open(report->device, o->sysfs, NULL, &report->meter);
    if (status == PM_OK)
        look_at_device(report);
    if (status == PM_OK && (o->ceilings || o->ops))
        status = measure_ceilings(report, dev);
    if (status == PM_OK)
        status = measure_models(o, report, dev);
    bench_meter_close(&report->meter);
    pm_device_close(&dev);
    return status;
}

// One that fails is named, and the next is taken; all of them failing is a failure.
static pm_status measure_devices(bench_options *o, bench_report *report) {
    pm_device_info *infos;
    int n, n_failed = 0;
    PM_TRY(pm_device_list(&infos, &n));
    pm_status status = PM_OK;
    for (int i = 0; i < n && status != PM_ERR_CANCELLED; i++) {
        char pick[16];
        snprintf(pick, sizeof(pick), "%d", i);
        status = measure_device(o, report, pick);
        if (status == PM_OK || status == PM_ERR_CANCELLED)
            continue;
        n_failed++;
        pm_log(PM_LOG_WARN, "%s (%s) is left out: %s", infos[i].name, infos[i].driver_name, pm_error_text());
    }
    pm_free(infos);
    return status == PM_ERR_CANCELLED || n_failed == n ? status : PM_OK;
}

static pm_status measure(bench_options *o) {
    PM_TRY(read_options(o));
    for (int i = 0; i < o->models.n; i++)
        PM_TRY(check_model(o->models.paths[i]));
    bench_report report = {.options = o};
    look_around(&report.machine);
    app_watch(NULL);
    pm_status status = o->all_devices ? measure_devices(o, &report) : measure_device(o, &report, o->device);
    bench_report_end(&report);
    if (status == PM_OK && (fflush(stdout) != 0 || ferror(stdout)))
        return pm_fail(PM_ERR_IO, "standard output could not be written");
    return status;
}

static int run(int argc, char **argv);

static const app_command command = {
    .name = "pumice-bench",
    .summary = "measures a model on a Vulkan device as llama-bench does",
    .alone = true,
    .options = options,
    .n_options = sizeof(options) / sizeof(*options),
    .notes = "Ctrl-C keeps the rows that are finished.\npumice-bench report a.json b.json -o page.html compares.",
    .run = run,
};

static int run(int argc, char **argv) {
    bench_options o = {.depths = "0", .sysfs = "/sys", .batches = "1", .repetitions = 3};
    int exit_code;
    if (!app_parse(&command, argc, argv, &o, &exit_code))
        return exit_code;
    return app_exit(measure(&o));
}

int main(int argc, char **argv) {
    pm_program_begin(&argc, &argv);
    if (argc == 2 && !strcmp(argv[1], "--version"))
        return printf("pumice-bench %s\n", app_version()) < 0;
    if (argc > 1 && !strcmp(argv[1], PM_TRY_COMMAND))
        return pm_device_try_kernels(argc - 2, argv + 2);
    app_try_with_itself(argv[0]);
    cJSON_InitHooks(&(cJSON_Hooks){.malloc_fn = pm_malloc, .free_fn = pm_free});
    if (argc > 1 && !strcmp(argv[1], "report"))
        return bench_merge.run(argc - 2, argv + 2);
    if (argc > 1)
        return command.run(argc - 1, argv + 1);
    fputs("usage: pumice-bench -m MODEL [options], or pumice-bench report FILES; --help tells more\n", stderr);
    return APP_EXIT_USAGE;
}
