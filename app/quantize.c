// pumice quantize: writes a model as a GGUF file in other types. No device is needed.
#include "app/run.h"
#include "loader/quantize.h"

#include <inttypes.h>
#include <stdio.h>

typedef struct command_line {
    const char *in, *out;
    pm_quantize_options o;
} command_line;

#define AT(field) .offset = offsetof(command_line, field)
// clang-format off
static const app_option options[] = {
    {.name = "IN", .help = "folder, .safetensors or .gguf file (of a split one, any part)", .kind = APP_TEXT, .required = true, AT(in)},
    {.name = "OUT", .help = "the .gguf file to write, replaced when it is whole", .kind = APP_TEXT, .required = true, AT(out)},
    {.name = "TYPE", .help = "see below", .kind = APP_TEXT, .required = true, AT(o.type)},
    {.name = "--pure", .help = "all matrices in one type, no mix", .kind = APP_FLAG, AT(o.pure)},
    {.name = "--output-type", .value = "TYPE", .help = "of the head, whatever TYPE says", .kind = APP_TEXT, .rare = true,
     AT(o.output_type)},
    {.name = "--embedding-type", .value = "TYPE", .help = "of the embedding", .kind = APP_TEXT, .rare = true,
     AT(o.embedding_type)},
};
// clang-format on

static bool go_on(void *progress, uint64_t done, uint64_t total) {
    run_progress_show(progress, done, total);
    return !app_interrupted();
}

static void tell(const command_line *c, const pm_quantize_result *r) {
    char before[APP_SHORT_TEXT], after[APP_SHORT_TEXT];
    printf("%s: %" PRIu64 " tensors, %s (%s before), %.3g bits a weight\n", c->out, r->n_tensors, app_bytes(r->bytes, after),
           app_bytes(r->source_bytes, before), r->n_weights ? 8 * (double)r->bytes / (double)r->n_weights : 0);
}

static pm_status go(command_line *c) {
    run_progress progress = {.what = "writing"};
    pm_quantize_result result;
    pm_file *file;
    PM_TRY(pm_quantize_check(&c->o));
    PM_TRY(pm_file_open(c->in, &file));
    c->o.progress = go_on;
    c->o.user = &progress;
    app_watch(NULL);
    pm_status status = pm_quantize(file, c->out, &c->o, &result);
    run_progress_clear(&progress);
    if (status == PM_OK)
        tell(c, &result);
    pm_file_close(&file);
    return status;
}

static int run(int argc, char **argv) {
    command_line c = {0};
    int exit_code;
    if (!app_parse(&app_quantize, argc, argv, &c, &exit_code))
        return exit_code;
    pm_status status = go(&c);
    return status == PM_ERR_CANCELLED ? APP_EXIT_INTERRUPTED : app_exit(status);
}

const app_command app_quantize = {
    .name = "quantize",
    .summary = "writes a model as a GGUF file in other types, which llama.cpp reads too",
    .options = options,
    .n_options = sizeof(options) / sizeof(*options),
    .notes = "TYPE: F32 F16 BF16 Q8_0 Q4_0 Q4_1 Q5_0 Q5_1 IQ4_NL IQ4_XS MXFP4 Q6_K, or a mix: Q2_K,\n"
             "Q3_K_S Q3_K_M Q3_K_L, Q4_K_S Q4_K_M, Q5_K_S Q5_K_M; Q3_K, Q4_K and Q5_K are the medium ones",
    .run = run,
};
