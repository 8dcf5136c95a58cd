// pumice info: what a model file says, without any device.
#include "app/json.h"
#include "backend/pumice.h"
#include "loader/loader.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// ---- what is told -----------------------------------------------------------------------------------------------------

// Tensors of one type together.
typedef struct sum {
    uint64_t n_tensors, n_parameters, bytes;
} sum;

// The tensors of a layer lie side by side in the sorted table.
typedef struct layer {
    const pm_tensor_view *first;
    size_t n;
    bool told; // with another one that is alike
} layer;

typedef struct info {
    const char *path;
    pm_file *file;
    const pm_config *config;
    const pm_tensor_view *tensors;
    size_t n_tensors;
    layer *layers; // (config->n_layers)
    sum all, by_type[PM_ALL_DTYPE_COUNT];
} info;

static uint64_t count_parameters(const pm_tensor_view *t) {
    return t->dims[0] * t->dims[1] * t->dims[2] * t->dims[3];
}

static void add_tensor(sum *s, const pm_tensor_view *t) {
    s->n_tensors++;
    s->n_parameters += count_parameters(t);
    s->bytes += t->size;
}

// The layer that "blk.LAYER.NAME" belongs to and NAME; -1 and the whole name where it is of none.
static int64_t split_name(const info *in, const char *name, const char **rest) {
    char *end;
    *rest = name;
    if (strncmp(name, "blk.", 4) || name[4] < '0' || name[4] > '9')
        return -1;
    unsigned long long number = strtoull(name + 4, &end, 10);
    if (*end != '.' || number >= in->config->n_layers)
        return -1;
    *rest = end + 1;
    return (int64_t)number;
}

static pm_status gather(info *in) {
    in->config = pm_file_config(in->file);
    in->tensors = pm_file_tensors(in->file, &in->n_tensors);
    in->layers = pm_calloc(in->config->n_layers, sizeof(*in->layers));
    if (!in->layers)
        return pm_fail(PM_ERR_MEMORY, "no memory for %u layers", in->config->n_layers);
    for (size_t i = 0; i < in->n_tensors; i++) {
        const pm_tensor_view *t = &in->tensors[i];
        const char *rest;
        int64_t number = split_name(in, t->name, &rest);
        add_tensor(&in->all, t);
        add_tensor(&in->by_type[t->stored], t);
        if (number < 0)
            continue;
        layer *l = &in->layers[number];
        l->first = l->n++ ? l->first : t;
    }
    return PM_OK;
}

static const char *scaling_name(const pm_config *c) {
    static const char *const names[] = {[PM_ROPE_NONE] = "none", [PM_ROPE_LINEAR] = "linear", [PM_ROPE_YARN] = "yarn"};
    return names[c->rope.scaling];
}

static const char *template_family(pm_str text) {
    static const char *const names[] = {
        [PM_CHAT_NONE] = "unknown",  [PM_CHAT_QWEN3] = "Qwen3",    [PM_CHAT_QWEN2] = "Qwen2.5",
        [PM_CHAT_CHATML] = "ChatML", [PM_CHAT_LLAMA3] = "Llama 3",
    };
    static const char *const guesses[] = {
        [PM_CHAT_NONE] = "unknown",
        [PM_CHAT_QWEN3] = "a stranger, as Qwen3",
        [PM_CHAT_QWEN2] = "a stranger, as Qwen2.5",
        [PM_CHAT_CHATML] = "a stranger, as ChatML",
        [PM_CHAT_LLAMA3] = "a stranger, as Llama 3",
    };
    pm_chat_style style = pm_chat_recognise(text);
    return style.guessed ? guesses[style.format] : names[style.format];
}

static double bits_each(const sum *s) {
    return s->n_parameters ? 8 * (double)s->bytes / (double)s->n_parameters : 0;
}

// ---- for people: the model --------------------------------------------------------------------------------------------

static void print_rope(const pm_config *c) {
    const pm_rope_config *r = &c->rope;
    printf("rope           theta %g", r->theta);
    if (r->scaling != PM_ROPE_NONE)
        printf(", %s, factor %g", scaling_name(c), r->factor);
    if (r->scaling == PM_ROPE_YARN)
        printf(" of %" PRIu32 " positions", r->original_ctx);
    printf("\n");
}

static uint32_t count_dense(const pm_config *c) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < c->n_layers; i++)
        n += !pm_config_has_experts(c, i);
    return n;
}

static void print_experts(const pm_config *c) {
    if (c->n_experts == 0)
        return;
    printf("experts        %" PRIu32 " of %" PRIu32 ", %" PRIu32 " for a token%s", c->n_experts, c->expert_ffn_dim,
           c->n_experts_used, c->experts_normed ? ", normed" : "");
    if (count_dense(c))
        printf("; none in %" PRIu32 " layers", count_dense(c));
    printf("\n");
}

static void print_config(const pm_config *c) {
    printf("architecture   %s\n", c->architecture);
    printf("layers         %" PRIu32 "\n", c->n_layers);
    printf("width          %" PRIu32 ", feed-forward %" PRIu32 "\n", c->dim, c->ffn_dim);
    print_experts(c);
    printf("heads          %" PRIu32 " of %" PRIu32 ", %" PRIu32 " for keys and values%s%s\n", c->n_heads, c->head_dim,
           c->n_kv_heads, c->qk_norm ? ", normed" : "", c->qkv_bias ? ", with bias" : "");
    if (c->max_ctx)
        printf("context        %" PRIu32 "\n", c->max_ctx);
    else
        printf("context        not told\n");
    print_rope(c);
    printf("vocabulary     %" PRIu32 ", the head is %s\n", c->vocab_size, c->tied_head ? "the embedding" : "a matrix of its own");
}

static const pm_vocab_token *token_of(const info *in, int32_t id) {
    const pm_vocab_data *vocab = pm_file_vocab(in->file);
    return vocab && id >= 0 && (uint32_t)id < vocab->n_tokens ? &vocab->tokens[id] : NULL;
}

static void print_printable(pm_str text) {
    char *printable = app_printable(text);
    printf("%s", printable ? printable : "?");
    pm_free(printable);
}

static void print_ends(const info *in) {
    printf("ends with      ");
    for (int i = 0; i < in->config->n_eos; i++) {
        const pm_vocab_token *token = token_of(in, in->config->eos[i]);
        printf("%s%" PRId32, i ? ", " : "", in->config->eos[i]);
        if (token) {
            printf(" ");
            print_printable(token->text);
        }
    }
    printf("%s\n", in->config->n_eos ? "" : "no id");
}

static void count_kinds(const pm_vocab_data *vocab, uint32_t *n_used, uint32_t *n_added) {
    *n_used = *n_added = 0;
    for (uint32_t i = 0; i < vocab->n_tokens; i++) {
        *n_used += vocab->tokens[i].used;
        *n_added += vocab->tokens[i].used && vocab->tokens[i].added;
    }
}

static void print_text(const info *in) {
    const pm_vocab_data *vocab = pm_file_vocab(in->file);
    pm_str template = pm_file_chat_template(in->file);
    uint32_t n_used, n_added;
    if (vocab) {
        count_kinds(vocab, &n_used, &n_added);
        printf("tokenizer      byte-level BPE, %" PRIu32 " tokens, %" PRIu32 " of them added, %" PRIu32 " merges\n", n_used,
               n_added, vocab->n_merges);
    } else {
        printf("tokenizer      none\n");
    }
    print_ends(in);
    if (template.n)
        printf("chat template  %s, %zu bytes\n", template_family(template), template.n);
    else
        printf("chat template  none\n");
}

static void print_sampling(const pm_config *c) {
    if (!c->do_sample) {
        printf("sampling       greedy\n");
        return;
    }
    printf("sampling       temperature %g, top-k %d, top-p %g", c->temperature, c->top_k, c->top_p);
    if (c->min_p > 0)
        printf(", min-p %g", c->min_p);
    if (c->repetition_penalty != 1)
        printf(", repetition penalty %g", c->repetition_penalty);
    printf("\n");
}

static void print_sum(const char *name, const sum *s) {
    char count[APP_SHORT_TEXT], bytes[APP_SHORT_TEXT];
    printf("%-14s %9s parameters in %4" PRIu64 " tensors, %10s, %.3g bits each\n", name, app_count(s->n_parameters, count),
           s->n_tensors, app_bytes(s->bytes, bytes), bits_each(s));
}

static void print_sums(const info *in) {
    int n_types = 0;
    for (int i = 0; i < PM_ALL_DTYPE_COUNT; i++)
        n_types += in->by_type[i].n_tensors > 0;
    for (int i = 0; i < PM_ALL_DTYPE_COUNT; i++)
        if (in->by_type[i].n_tensors > 0)
            print_sum(pm_dtype_get((pm_dtype)i)->name, &in->by_type[i]);
    if (n_types > 1)
        print_sum("together", &in->all);
}

// ---- for people: the tensors ------------------------------------------------------------------------------------------

static void print_tensor(const char *indent, const pm_tensor_view *t, const char *name) {
    char shape[96] = "", bytes[APP_SHORT_TEXT];
    size_t n = 0;
    for (int i = 0; i < t->n_dims && n < sizeof(shape); i++)
        n += (size_t)snprintf(shape + n, sizeof(shape) - n, "%s%" PRIu64, i ? " x " : "", t->dims[i]);
    char *printable = app_printable((pm_str){name, strlen(name)});
    printf("%s%-*s %-6s %18s %12s\n", indent, 30 - (int)strlen(indent), printable ? printable : "?", pm_dtype_get(t->stored)->name,
           shape, app_bytes(t->size, bytes));
    pm_free(printable);
}

static bool same_tensor(const info *in, const pm_tensor_view *a, const pm_tensor_view *b) {
    const char *a_rest, *b_rest;
    split_name(in, a->name, &a_rest);
    split_name(in, b->name, &b_rest);
    return a->stored == b->stored && a->n_dims == b->n_dims && !memcmp(a->dims, b->dims, sizeof(a->dims)) &&
           !strcmp(a_rest, b_rest);
}

static bool same_layer(const info *in, const layer *a, const layer *b) {
    bool same = a->n == b->n;
    for (size_t i = 0; same && i < a->n; i++)
        same = same_tensor(in, &a->first[i], &b->first[i]);
    return same;
}

// "0 to 3, 8, 11 to 27": the layers like this one, which are marked; returns how many.
static uint32_t print_numbers(const info *in, uint32_t number) {
    uint32_t n = 0, n_layers = in->config->n_layers;
    const char *separator = "";
    for (uint32_t i = number; i < n_layers; i++) {
        uint32_t begin = i;
        while (i < n_layers && same_layer(in, &in->layers[number], &in->layers[i]))
            in->layers[i++].told = true;
        if (i == begin)
            continue;
        n += i - begin;
        printf("%s%" PRIu32, separator, begin);
        if (i - begin > 1)
            printf(" to %" PRIu32, i - 1);
        separator = ", ";
    }
    return n;
}

// "ffn_up.17.weight": how long "ffn_up" is; 0 for what is no matrix of one expert.
static size_t cut_expert(const char *rest) {
    size_t what = strcspn(rest, "."), digits = rest[what] ? strspn(rest + what + 1, "0123456789") : 0;
    return digits > 0 && !strcmp(rest + what + 1 + digits, ".weight") ? what : 0;
}

// How many tensors from t on are matrices of all experts that are alike: then they are told as the stack that they are.
static size_t count_stack(const info *in, const pm_tensor_view *t, size_t n) {
    const char *rest, *other;
    split_name(in, t->name, &rest);
    size_t what = cut_expert(rest), k = 1;
    for (; what > 0 && k < n && t[k].stored == t->stored && !memcmp(t[k].dims, t->dims, sizeof(t->dims)); k++) {
        split_name(in, t[k].name, &other);
        if (cut_expert(other) != what || strncmp(rest, other, what + 1))
            break;
    }
    return k > 1 && k == in->config->n_experts ? k : 1;
}

static void print_stack(const info *in, const pm_tensor_view *t, size_t n) {
    const char *rest;
    char name[64];
    pm_tensor_view stack = *t;
    split_name(in, t->name, &rest);
    snprintf(name, sizeof(name), "%.*s.{0..%zu}.weight", (int)cut_expert(rest), rest, n - 1);
    stack.n_dims = 3;
    stack.dims[0] = n;
    memcpy(stack.dims + 1, t->dims, 2 * sizeof(*t->dims));
    stack.size = 0;
    for (size_t i = 0; i < n; i++)
        stack.size += t[i].size;
    print_tensor("  ", &stack, name);
}

// The tensors of a layer, once for all that are alike.
static void print_group(const info *in, uint32_t number) {
    const layer *l = &in->layers[number];
    char bytes[APP_SHORT_TEXT];
    sum each = {0};
    for (size_t i = 0; i < l->n; i++)
        add_tensor(&each, &l->first[i]);
    printf("layers ");
    uint32_t n = print_numbers(in, number);
    printf(": %" PRIu32 " x %s\n", n, app_bytes(each.bytes, bytes));
    for (size_t i = 0, k; i < l->n; i += k) {
        const char *rest;
        split_name(in, l->first[i].name, &rest);
        k = count_stack(in, &l->first[i], l->n - i);
        if (k > 1)
            print_stack(in, &l->first[i], k);
        else
            print_tensor("  ", &l->first[i], rest);
    }
}

static void print_tensors(const info *in, bool all) {
    printf("\n%-30s %-6s %18s %12s\n", "tensor", "type", "shape", "bytes");
    for (size_t i = 0; i < in->n_tensors; i++) {
        const char *rest;
        if (all || split_name(in, in->tensors[i].name, &rest) < 0)
            print_tensor("", &in->tensors[i], in->tensors[i].name);
    }
    for (uint32_t i = 0; !all && i < in->config->n_layers; i++)
        if (!in->layers[i].told)
            print_group(in, i);
}

static void print_all(const info *in, bool all_tensors) {
    print_config(in->config);
    print_text(in);
    print_sampling(in->config);
    print_sums(in);
    print_tensors(in, all_tensors);
}

// ---- JSON -------------------------------------------------------------------------------------------------------------

static void put_rope(app_json *j, cJSON *o, const pm_config *c) {
    const pm_rope_config *r = &c->rope;
    cJSON *rope = app_json_object(j, o, "rope");
    app_json_real(j, rope, "theta", r->theta);
    app_json_text(j, rope, "scaling", scaling_name(c));
    if (r->scaling == PM_ROPE_NONE)
        return;
    app_json_real(j, rope, "factor", r->factor);
    if (r->scaling != PM_ROPE_YARN)
        return;
    app_json_number(j, rope, "original_context", r->original_ctx);
    app_json_real(j, rope, "attention_factor", r->attention_factor);
    app_json_real(j, rope, "beta_fast", r->beta_fast);
    app_json_real(j, rope, "beta_slow", r->beta_slow);
}

static void put_id(app_json *j, cJSON *o, const char *name, int32_t id) {
    if (id >= 0)
        app_json_number(j, o, name, (uint64_t)id);
    else
        app_json_text(j, o, name, NULL);
}

static void put_experts(app_json *j, cJSON *o, const pm_config *c) {
    if (c->n_experts == 0)
        return;
    cJSON *experts = app_json_object(j, o, "experts");
    app_json_number(j, experts, "count", c->n_experts);
    app_json_number(j, experts, "used", c->n_experts_used);
    app_json_number(j, experts, "feed_forward", c->expert_ffn_dim);
    app_json_bool(j, experts, "normed", c->experts_normed);
    app_json_number(j, experts, "dense_layers", count_dense(c));
}

static void put_config(app_json *j, cJSON *o, const pm_config *c) {
    app_json_text(j, o, "architecture", c->architecture);
    app_json_number(j, o, "layers", c->n_layers);
    app_json_number(j, o, "width", c->dim);
    app_json_number(j, o, "feed_forward", c->ffn_dim);
    put_experts(j, o, c);
    app_json_number(j, o, "heads", c->n_heads);
    app_json_number(j, o, "kv_heads", c->n_kv_heads);
    app_json_number(j, o, "head_dim", c->head_dim);
    app_json_number(j, o, "context", c->max_ctx);
    app_json_number(j, o, "vocabulary", c->vocab_size);
    app_json_float(j, o, "norm_eps", c->norm_eps);
    app_json_bool(j, o, "tied_head", c->tied_head);
    app_json_bool(j, o, "qk_norm", c->qk_norm);
    app_json_bool(j, o, "qkv_bias", c->qkv_bias);
    put_rope(j, o, c);
}

static void put_text(app_json *j, cJSON *o, const info *in) {
    const pm_config *c = in->config;
    const pm_vocab_data *vocab = pm_file_vocab(in->file);
    pm_str template = pm_file_chat_template(in->file);
    uint32_t n_used, n_added;
    put_id(j, o, "bos", c->bos);
    put_id(j, o, "padding", c->pad);
    cJSON *ends = app_json_array(j, o, "eos");
    for (int i = 0; i < c->n_eos; i++)
        put_id(j, ends, NULL, c->eos[i]);
    cJSON *tokenizer = app_json_put(j, o, "tokenizer", vocab ? cJSON_CreateObject() : cJSON_CreateNull());
    if (vocab) {
        count_kinds(vocab, &n_used, &n_added);
        app_json_text(j, tokenizer, "kind", "byte-level BPE");
        app_json_number(j, tokenizer, "tokens", n_used);
        app_json_number(j, tokenizer, "added", n_added);
        app_json_number(j, tokenizer, "merges", vocab->n_merges);
        app_json_str(j, tokenizer, "regex", vocab->regex);
        app_json_bool(j, tokenizer, "nfc", vocab->nfc);
        app_json_bool(j, tokenizer, "add_bos", vocab->add_bos);
    }
    cJSON *chat = app_json_put(j, o, "chat_template", template.n ? cJSON_CreateObject() : cJSON_CreateNull());
    if (template.n) {
        app_json_text(j, chat, "family", template_family(template));
        app_json_str(j, chat, "text", template);
    }
}

static void put_sampling(app_json *j, cJSON *o, const pm_config *c) {
    cJSON *sampling = app_json_object(j, o, "sampling");
    app_json_bool(j, sampling, "sample", c->do_sample);
    app_json_float(j, sampling, "temperature", c->temperature);
    app_json_number(j, sampling, "top_k", c->top_k > 0 ? (uint64_t)c->top_k : 0);
    app_json_float(j, sampling, "top_p", c->top_p);
    app_json_float(j, sampling, "min_p", c->min_p);
    app_json_float(j, sampling, "repetition_penalty", c->repetition_penalty);
}

static void put_sum(app_json *j, cJSON *o, const sum *s) {
    app_json_number(j, o, "n_tensors", s->n_tensors);
    app_json_number(j, o, "parameters", s->n_parameters);
    app_json_number(j, o, "bytes", s->bytes);
}

static void put_tensors(app_json *j, cJSON *o, const info *in) {
    cJSON *tensors = app_json_array(j, o, "tensors");
    for (size_t i = 0; i < in->n_tensors; i++) {
        const pm_tensor_view *t = &in->tensors[i];
        cJSON *tensor = app_json_object(j, tensors, NULL);
        app_json_text(j, tensor, "name", t->name);
        app_json_text(j, tensor, "type", pm_dtype_get(t->stored)->name);
        cJSON *shape = app_json_array(j, tensor, "shape");
        for (int k = 0; k < t->n_dims; k++)
            app_json_number(j, shape, NULL, t->dims[k]);
        app_json_number(j, tensor, "bytes", t->size);
    }
}

static pm_status print_json(const info *in) {
    app_json j = app_json_begin();
    app_json_text(&j, j.root, "path", in->path);
    put_config(&j, j.root, in->config);
    put_text(&j, j.root, in);
    put_sampling(&j, j.root, in->config);
    put_sum(&j, j.root, &in->all);
    cJSON *types = app_json_array(&j, j.root, "types");
    for (int i = 0; i < PM_ALL_DTYPE_COUNT; i++) {
        if (in->by_type[i].n_tensors == 0)
            continue;
        cJSON *type = app_json_object(&j, types, NULL);
        app_json_text(&j, type, "type", pm_dtype_get((pm_dtype)i)->name);
        put_sum(&j, type, &in->by_type[i]);
    }
    put_tensors(&j, j.root, in);
    return app_json_print(&j);
}

// ---- the command ------------------------------------------------------------------------------------------------------

typedef struct values {
    const char *model;
    bool json, tensors;
} values;

#define AT(field) .offset = offsetof(values, field)
static const app_option options[] = {
    {.name = "MODEL", .help = "folder, .safetensors or .gguf file", .kind = APP_TEXT, .required = true, AT(model)},
    {.name = "--tensors", .help = "every tensor, not one layer of those alike", .kind = APP_FLAG, AT(tensors)},
    {.name = "--json", .help = "all of it as JSON", .kind = APP_FLAG, AT(json)},
};

static pm_status tell(const values *v, info *in) {
    PM_TRY(pm_file_open(v->model, &in->file));
    PM_TRY(gather(in));
    if (v->json)
        return print_json(in);
    print_all(in, v->tensors);
    return PM_OK;
}

static int run(int argc, char **argv) {
    values v = {0};
    int exit_code;
    if (!app_parse(&app_info, argc, argv, &v, &exit_code))
        return exit_code;
    info in = {.path = v.model};
    exit_code = app_exit(tell(&v, &in));
    pm_free(in.layers);
    pm_file_close(&in.file);
    return exit_code;
}

const app_command app_info = {
    .name = "info",
    .summary = "tells what a model file holds; needs no device",
    .options = options,
    .n_options = sizeof(options) / sizeof(*options),
    .run = run,
};
