// The transformer against what others computed: transformers in float32 (golden.json, logits.f32) and a double-precision program
// written from the papers (tests/make_forward_data.py), in one piece, cut anywhere, in batches, and on devices made small.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "loader_model.h"
#include "model_data.h"

// The checkpoint of a mixture of experts.
#define EXPERTS "qwen3moe"

static double bound_of(pm_precision precision) {
    return precision == PM_PRECISION_F32 ? BOUND_F32 : BOUND_F16;
}

// ---- goldens ------------------------------------------------------------------------------------------------------------

// The prompt's logits and, in floats, the very ids that follow: the data's maker saw to it that no two best logits are nearer than
// 1e-3.
static void check_case(pm_session *session, const golden_case *c, uint32_t vocab, pm_precision precision, const char *name) {
    pm_session_rewind(session, 0, 0);
    const float *logits = eval(session, 0, c->ids, c->n);
    assert_close(logits, c->logits, vocab, bound_of(precision), name, c->n);
    for (size_t k = 0; k < c->n_greedy && precision == PM_PRECISION_F32; k++) {
        int32_t id = argmax(logits, vocab);
        if (id != c->greedy[k])
            fail_msg("%s, prompt of %zu: id %zu is %d, wanted %d", name, c->n, k, (int)id, (int)c->greedy[k]);
        logits = eval(session, 0, &id, 1);
    }
}

static void check_cases(pm_model *model, const golden *g, const char *name, pm_session_options options) {
    options.ctx = 330;
    pm_session *session = session_of(model, options);
    for (size_t i = 0; i < N_CASES; i++)
        check_case(session, &g->cases[i], g->vocab, options.precision, name);
    pm_session_close(&session);
}

static void check_golden(const char *name, golden_kind kind) {
    golden g = golden_open(name, kind);
    pm_model *model = checkpoint_open(name, kind == TRANSFORMERS);
    assert_int_equal(pm_model_config(model)->vocab_size, g.vocab);
    check_cases(model, &g, name, (pm_session_options){.precision = PM_PRECISION_F32});
    check_cases(model, &g, name, (pm_session_options){.precision = PM_PRECISION_F16});
    pm_model_close(&model);
    golden_close(&g);
}

static void transformers_logits_and_ids(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(checkpoints); i++)
        check_golden(checkpoints[i], TRANSFORMERS);
}

// Biases on q, k and v and no head norms; neither.
static void transformers_logits_and_ids_of_kin(void **state) {
    (void)state;
    check_golden("qwen2", TRANSFORMERS);
    check_golden("llama", TRANSFORMERS);
}

// A choice of experts is a step: where two are almost equal, the rounding of a cache in half precision decides, so that the logits
// in half precision are compared with those of double precision and such a cache.
static void transformers_logits_and_ids_of_experts(void **state) {
    (void)state;
    golden exact = golden_open(EXPERTS, TRANSFORMERS), half = golden_open(EXPERTS, HALF_CACHE);
    pm_model *model = checkpoint_open(EXPERTS, true);
    check_cases(model, &exact, EXPERTS, (pm_session_options){.precision = PM_PRECISION_F32});
    check_cases(model, &half, EXPERTS, (pm_session_options){.precision = PM_PRECISION_F16});
    pm_model_close(&model);
    golden_close(&exact);
    golden_close(&half);
}

static void reference_logits_and_ids(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(checkpoints); i++)
        check_golden(checkpoints[i], REFERENCE);
}

// The two goldens are further apart than the bounds: neither test above can pass by doing the other's arithmetic.
static void the_goldens_differ(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(checkpoints); i++) {
        golden a = golden_open(checkpoints[i], TRANSFORMERS), b = golden_open(checkpoints[i], REFERENCE);
        assert_true(difference(a.cases[3].logits, b.cases[3].logits, a.vocab) > 5 * BOUND_F16);
        golden_close(&a);
        golden_close(&b);
    }
}

// ---- prompts in pieces --------------------------------------------------------------------------------------------------

static const size_t cuts[] = {1, 7, 31, 32, 33, 63, 64, 65, 127, 128, 129, 255, 256, 257, 299, 300};

// All cuts in one prompt: each piece attends to all before it, so that none can be wrong unseen.
static void check_many_cuts(pm_session *session, const golden_case *c, uint32_t vocab, double bound) {
    pm_session_rewind(session, 0, 0);
    size_t at = 0, last = COUNT(cuts) - 1;
    for (size_t i = 0; i < last; at = cuts[i++])
        assert_int_equal(pm_session_eval(session, 0, c->ids + at, cuts[i] - at, NULL), PM_OK);
    assert_int_equal(pm_session_pos(session, 0), at);
    assert_int_equal(cuts[last], c->n);
    assert_close(eval(session, 0, c->ids + at, c->n - at), c->logits, vocab, bound, "a prompt in pieces of", last);
    assert_int_equal(pm_session_pos(session, 0), c->n);
}

static void check_cut(pm_session *session, const golden_case *c, uint32_t vocab, size_t cut, double bound) {
    pm_session_rewind(session, 0, 0);
    eval(session, 0, c->ids, cut);
    assert_close(eval(session, 0, c->ids + cut, c->n - cut), c->logits, vocab, bound, "a prompt cut at", cut);
}

static void check_cuts(pm_model *model, const golden_case *c, uint32_t vocab, pm_precision precision, uint32_t chunk) {
    pm_session *session = session_of(model, (pm_session_options){.ctx = 300, .max_chunk = chunk, .precision = precision});
    check_many_cuts(session, c, vocab, bound_of(precision));
    for (size_t i = 0; i + 1 < COUNT(cuts) && slow_tests(); i++)
        check_cut(session, c, vocab, cuts[i], bound_of(precision));
    pm_session_close(&session);
}

static void a_prompt_can_be_cut_anywhere(void **state) {
    (void)state;
    static const uint32_t chunks[] = {8, 64, 300};
    for (size_t i = 0; i < COUNT(checkpoints); i++) {
        golden g = golden_open(checkpoints[i], REFERENCE);
        pm_model *model = checkpoint_open(checkpoints[i], false);
        for (size_t k = 0; k < COUNT(chunks); k++)
            check_cuts(model, &g.cases[3], g.vocab, k == 1 ? PM_PRECISION_F16 : PM_PRECISION_F32, chunks[k]);
        pm_model_close(&model);
        golden_close(&g);
    }
}

// ---- batches ------------------------------------------------------------------------------------------------------------

// Four sequences, each behind its prompt, go on with their golden ids: a step of all in one pass against one pass each.
static void check_decoding_batch(pm_session *one, pm_session *together, const golden *g, double bound) {
    uint32_t stride = pm_session_logits_stride(together);
    for (int i = 0; i < N_CASES; i++) {
        eval(one, i, g->cases[i].ids, g->cases[i].n);
        eval(together, i, g->cases[i].ids, g->cases[i].n);
    }
    for (size_t k = 0; k < g->cases[0].n_greedy; k++) {
        pm_batch_row rows[N_CASES];
        const float *logits;
        for (int i = 0; i < N_CASES; i++)
            rows[i] = (pm_batch_row){.seq = N_CASES - 1 - i, .id = g->cases[N_CASES - 1 - i].greedy[k]};
        assert_int_equal(pm_session_eval_batch(together, rows, N_CASES, &logits), PM_OK);
        for (int i = 0; i < N_CASES; i++)
            assert_close(logits + (size_t)i * stride, eval(one, rows[i].seq, &rows[i].id, 1), g->vocab, bound, "batched step", k);
    }
    for (int i = 0; i < N_CASES; i++)
        assert_int_equal(pm_session_pos(together, i), g->cases[i].n + g->cases[i].n_greedy);
}

// Pieces of two prompts in one pass, several rows of one sequence among them; every row's logits against the row alone.
static void check_mixed_batch(pm_session *one, pm_session *together, const golden *g, double bound) {
    static const int seqs[PM_BATCH_MAX] = {0, 1, 1, 0, 1, 1, 0, 1};
    uint32_t stride = pm_session_logits_stride(together);
    for (int i = 0; i < 2; i++) {
        pm_session_rewind(one, i, 0);
        pm_session_rewind(together, i, 0);
    }
    for (size_t round = 0; round < 10; round++) {
        pm_batch_row rows[PM_BATCH_MAX];
        const float *logits;
        int n = PM_BATCH_MAX - (int)(round % 3);
        for (int i = 0; i < n; i++)
            rows[i] = (pm_batch_row){.seq = seqs[i], .id = g->cases[3].ids[round * PM_BATCH_MAX + (size_t)i]};
        assert_int_equal(pm_session_eval_batch(together, rows, n, &logits), PM_OK);
        for (int i = 0; i < n; i++)
            assert_close(logits + (size_t)i * stride, eval(one, rows[i].seq, &rows[i].id, 1), g->vocab, bound, "mixed batch",
                         round);
    }
}

static void a_batch_is_its_rows(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(checkpoints); i++) {
        golden g = golden_open(checkpoints[i], TRANSFORMERS);
        pm_model *model = checkpoint_open(checkpoints[i], false);
        pm_precision precision = i == 0 ? PM_PRECISION_F16 : PM_PRECISION_F32;
        pm_session_options options = {.ctx = 330, .n_seqs = N_CASES, .precision = precision};
        pm_session *one = session_of(model, options), *together = session_of(model, options);
        check_decoding_batch(one, together, &g, bound_of(precision));
        check_mixed_batch(one, together, &g, bound_of(precision));
        pm_session_close(&one);
        pm_session_close(&together);
        pm_model_close(&model);
        golden_close(&g);
    }
}

// Experts one by one and grouped, with every number of rows that a group may have.
static void experts_in_pieces_and_batches(void **state) {
    (void)state;
    golden g = golden_open(EXPERTS, REFERENCE);
    pm_model *model = checkpoint_open(EXPERTS, false);
    check_cases(model, &g, EXPERTS, (pm_session_options){.precision = PM_PRECISION_F32});
    check_cuts(model, &g.cases[3], g.vocab, PM_PRECISION_F32, 8);
    check_cuts(model, &g.cases[3], g.vocab, PM_PRECISION_F32, 300);
    pm_session_options options = {.ctx = 330, .n_seqs = N_CASES, .precision = PM_PRECISION_F32};
    pm_session *one = session_of(model, options), *together = session_of(model, options);
    check_decoding_batch(one, together, &g, BOUND_F32);
    check_mixed_batch(one, together, &g, BOUND_F32);
    pm_session_close(&one);
    pm_session_close(&together);
    pm_model_close(&model);
    golden_close(&g);
}

// ---- devices made small -------------------------------------------------------------------------------------------------

// A checkpoint's logits and ids (all checkpoints' where there is time), on the device opened under an override of host/caps.h.
static void check_under(const char *name, const char *value, size_t checkpoint) {
    override_device(name, value);
    for (size_t i = 0; i < COUNT(checkpoints); i++) {
        if (i != checkpoint && !slow_tests())
            continue;
        golden g = golden_open(checkpoints[i], REFERENCE);
        pm_model *model = checkpoint_open(checkpoints[i], false);
        char what[128];
        snprintf(what, sizeof(what), "%s with %s=%s, prompt", checkpoints[i], name, value);
        check_cases(model, &g, what, (pm_session_options){.max_chunk = 32, .precision = PM_PRECISION_F32});
        pm_model_close(&model);
        golden_close(&g);
    }
}

static void check_experts_under(const char *name, const char *value) {
    override_device(name, value);
    golden g = golden_open(EXPERTS, REFERENCE);
    pm_model *model = checkpoint_open(EXPERTS, false);
    check_cases(model, &g, value, (pm_session_options){.max_chunk = 50, .precision = PM_PRECISION_F32});
    pm_model_close(&model);
    golden_close(&g);
    restore_device(NULL);
}

static void experts_on_devices_made_small(void **state) {
    (void)state;
    check_experts_under("PM_MAX_BINDING_BYTES", "413696"); // 12 experts' gate and up
    check_experts_under("PM_STAGING", "1");
    check_experts_under("PM_TILES", "1");
}

static void weights_split_over_bindings(void **state) {
    (void)state;
    check_under("PM_MAX_BINDING_BYTES", "413696", 0); // the cache of 330 positions just fits
}

static void weights_through_staging(void **state) {
    (void)state;
    check_under("PM_STAGING", "1", 1);
}

static void attention_split_over_the_cache(void **state) {
    (void)state;
    check_under("PM_ATTEND_SPLIT", "64", 2);
}

static void plain_kernels(void **state) {
    (void)state;
    check_under("PM_WITHOUT", "subgroup,f16,int_dot,coopmat", 0);
}

// Products and attention of prompts multiply halves, where the device has matrices: within the bound of halves all the same.
static void prompts_by_matrices(void **state) {
    (void)state;
    const char *name = checkpoints[1];
    if (pm_device_get_info(dev)->n_coopmats == 0) {
        print_message("%s has no cooperative matrices\n", pm_device_get_info(dev)->name);
        skip();
    }
    override_device("PM_TILES", "2");
    golden g = golden_open(name, REFERENCE);
    pm_model *model = checkpoint_open(name, false);
    check_cases(model, &g, name, (pm_session_options){.precision = PM_PRECISION_F16});
    pm_model_close(&model);
    golden_close(&g);
}

// ---- the bundled model --------------------------------------------------------------------------------------------------

static void answer(pm_session *session, const cJSON *item, int32_t *out, size_t n) {
    size_t n_ids;
    int32_t *ids = ids_of(item, "ids", &n_ids);
    pm_session_rewind(session, 0, 0);
    generate(session, 0, ids, n_ids, &(pm_sampler){0}, out, n);
    free(ids);
}

static void check_conversation(pm_model *model, pm_session *session, const cJSON *item, int which) {
    size_t n, size;
    int32_t out[512], *greedy = ids_of(item, "greedy", &n);
    char *text;
    assert_in_range(n, 1, COUNT(out));
    answer(session, item, out, n);
    for (size_t i = 0; i < n; i++)
        if (out[i] != greedy[i])
            fail_msg("conversation %d: id %zu is %d, wanted %d", which, i, (int)out[i], (int)greedy[i]);
    MUST(pm_tokenizer_decode(pm_model_tokenizer(model), out, n, 0, &text, &size));
    assert_string_equal(text, text_of(item, "text"));
    pm_free(text);
    free(greedy);
}

static void the_bundled_model_word_for_word(void **state) {
    (void)state;
    cJSON *root = read_json(TINY "/golden.json");
    const cJSON *item, *cases = member(root, "cases");
    pm_model *model = model_at(TINY, false);
    pm_session *session = session_of(model, (pm_session_options){.ctx = 1024, .precision = PM_PRECISION_F32});
    int which = 0;
    cJSON_ArrayForEach(item, cases) check_conversation(model, session, item, which++);
    assert_int_equal(which, 31);
    pm_session_close(&session);
    pm_model_close(&model);
    cJSON_Delete(root);
}

// ---- formats ------------------------------------------------------------------------------------------------------------

static void put_arch_u32(bytes *b, const pm_config *c, const char *key, uint32_t value, uint64_t *n) {
    char full[96];
    snprintf(full, sizeof(full), "%s.%s", c->architecture, key);
    put_u32(b, full, value);
    ++*n;
}

static void put_arch_f32(bytes *b, const pm_config *c, const char *key, float value, uint64_t *n) {
    char full[96];
    snprintf(full, sizeof(full), "%s.%s", c->architecture, key);
    put_f32(b, full, value);
    ++*n;
}

static void gguf_config(bytes *b, const pm_config *c, uint64_t *n) {
    put_string(b, "general.architecture", c->architecture);
    *n = 1;
    put_arch_u32(b, c, "block_count", c->n_layers, n);
    put_arch_u32(b, c, "context_length", c->max_ctx, n);
    put_arch_u32(b, c, "embedding_length", c->dim, n);
    put_arch_u32(b, c, "feed_forward_length", c->ffn_dim, n);
    put_arch_u32(b, c, "attention.head_count", c->n_heads, n);
    put_arch_u32(b, c, "attention.head_count_kv", c->n_kv_heads, n);
    put_arch_u32(b, c, "attention.key_length", c->head_dim, n);
    put_arch_u32(b, c, "attention.value_length", c->head_dim, n);
    put_arch_f32(b, c, "attention.layer_norm_rms_epsilon", c->norm_eps, n);
    put_arch_f32(b, c, "rope.freq_base", (float)c->rope.theta, n);
    if (c->n_experts > 0) {
        put_arch_u32(b, c, "expert_count", c->n_experts, n);
        put_arch_u32(b, c, "expert_used_count", c->n_experts_used, n);
        put_arch_u32(b, c, "expert_feed_forward_length", c->expert_ffn_dim, n);
    }
    if (c->rope.scaling == PM_ROPE_YARN) {
        put_string(b, "qwen3.rope.scaling.type", "yarn");
        put_f32(b, "qwen3.rope.scaling.factor", (float)c->rope.factor);
        put_u32(b, "qwen3.rope.scaling.original_context_length", c->rope.original_ctx);
        *n += 3;
    }
}

// "blk.LAYER.WHAT.EXPERT.weight": the numbers, and what.
static bool of_expert(const char *name, unsigned *layer, char what[32], unsigned *expert) {
    return sscanf(name, "blk.%u.%31[^.].%u.", layer, what, expert) == 3;
}

// Weights of about 0.1 in blocks of 32: random quants, and a scale (and a minimum) before them.
static void random_block(pm_dtype type, uint8_t *block) {
    static uint32_t state = 1;
    static const float greatest[PM_DTYPE_COUNT] = {
        [PM_Q8_0] = 127, [PM_Q4_0] = 8, [PM_Q4_1] = 15, [PM_Q5_1] = 31, [PM_IQ4_NL] = 127};
    for (uint32_t i = 0; i < pm_dtype_get(type)->block_bytes; i++) {
        state = state * 1664525u + 1013904223u;
        block[i] = (uint8_t)(state >> 24);
    }
    bool minimum = type == PM_Q4_1 || type == PM_Q5_1;
    uint16_t scale = pm_f32_to_f16(type == PM_MXFP4 ? 0 : (minimum ? 0.2f : 0.1f) / greatest[type]), least = pm_f32_to_f16(-0.1f);
    if (type == PM_MXFP4)
        block[0] = 121; // 2^-6 times up to 6
    else
        memcpy(block, &scale, sizeof(scale));
    if (minimum)
        memcpy(block + 2, &least, sizeof(least));
}

// A stack of the matrices of all experts, which the checkpoint has one by one: as they are, or random blocks of a type.
static void put_stack(gguf_writer *w, const pm_file *file, unsigned layer, const char *what, const pm_dtype *type) {
    uint32_t n_experts = pm_file_config(file)->n_experts;
    const pm_tensor_view *t = NULL;
    bytes stack = {0};
    char name[64];
    for (uint32_t e = 0; e < n_experts; e++) {
        snprintf(name, sizeof(name), "blk.%u.%s.%u.weight", layer, what, e);
        t = pm_file_find(file, name);
        assert_non_null(t);
        put(&stack, t->data, (size_t)t->size);
    }
    uint64_t dims[] = {n_experts, t->dims[0], t->dims[1]};
    if (type) {
        stack.n = 0;
        for (uint64_t i = 0; i < dims[0] * dims[1] * dims[2]; i += pm_dtype_get(*type)->block_elements) {
            uint8_t block[256];
            random_block(*type, block);
            put(&stack, block, pm_dtype_get(*type)->block_bytes);
        }
    }
    snprintf(name, sizeof(name), "blk.%u.%s_exps.weight", layer, what);
    gguf_tensor(w, name, type ? *type : t->dtype, 3, dims, stack.p, stack.n);
    bytes_close(&stack);
}

// A checkpoint's weights and dimensions as a GGUF: matrices as they are, vectors as floats, as converters write them, and the
// router and V too: files give it a type of its own.
static const char *write_gguf(const char *name, const pm_dtype *gate_up, const pm_dtype *down) {
    gguf_writer w = {0};
    pm_file *file = open_model(checkpoint_path(name, ""));
    size_t n, n_values;
    const pm_tensor_view *tensors = pm_file_tensors(file, &n);
    gguf_config(&w.entries, pm_file_config(file), &w.n_entries);
    for (size_t i = 0; i < n; i++) {
        const pm_tensor_view *t = &tensors[i];
        unsigned layer, expert;
        char what[32];
        if (of_expert(t->name, &layer, what, &expert)) {
            if (expert == 0)
                put_stack(&w, file, layer, what, strcmp(what, "ffn_down") == 0 ? down : gate_up);
            continue;
        }
        if (t->n_dims > 1 && !strstr(t->name, "attn_v.") && !strstr(t->name, "ffn_gate_inp.")) {
            gguf_tensor(&w, t->name, t->dtype, t->n_dims, t->dims, t->data, (size_t)t->size);
            continue;
        }
        float *values = floats_of(t, &n_values);
        gguf_tensor(&w, t->name, PM_F32, t->n_dims, t->dims, values, n_values * sizeof(*values));
        free(values);
    }
    bytes out;
    gguf_end(&w, &out);
    const char *path = temp_write("model.gguf", out.p, out.n);
    bytes_close(&out);
    pm_file_close(&file);
    return path;
}

static void check_gguf(const char *name) {
    golden g = golden_open(name, REFERENCE);
    pm_model *model = model_at(write_gguf(name, NULL, NULL), false);
    check_cases(model, &g, name, (pm_session_options){.precision = PM_PRECISION_F32});
    pm_model_close(&model);
    golden_close(&g);
}

static void a_gguf_gives_the_same_ids(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT(checkpoints); i++)
        check_gguf(checkpoints[i]);
    check_gguf(EXPERTS);
}

// A GGUF's tensors as floats, in a GGUF of their own.
static const char *write_floats(const char *path) {
    gguf_writer w = {0};
    pm_file *file = open_model(path);
    size_t n, n_values;
    const pm_tensor_view *tensors = pm_file_tensors(file, &n);
    gguf_config(&w.entries, pm_file_config(file), &w.n_entries);
    for (size_t i = 0; i < n; i++) {
        float *values = floats_of(&tensors[i], &n_values);
        gguf_tensor(&w, tensors[i].name, PM_F32, tensors[i].n_dims, tensors[i].dims, values, n_values * sizeof(*values));
        free(values);
    }
    bytes out;
    gguf_end(&w, &out);
    const char *floats = temp_write("floats.gguf", out.p, out.n);
    bytes_close(&out);
    pm_file_close(&file);
    return floats;
}

// Experts in blocks against the floats that they mean: a prompt, and a few ids one by one.
static void check_quantized(const golden *g, pm_dtype gate_up, pm_dtype down) {
    const char *path = write_gguf(EXPERTS, &gate_up, &down);
    pm_model *blocks = model_at(path, false), *floats = model_at(write_floats(path), false);
    pm_session_options options = {.ctx = 330, .precision = PM_PRECISION_F32};
    pm_session *got = session_of(blocks, options), *want = session_of(floats, options);
    const golden_case *c = &g->cases[2];
    assert_close(eval(got, 0, c->ids, c->n), eval(want, 0, c->ids, c->n), g->vocab, BOUND_F32, pm_dtype_get(gate_up)->name, c->n);
    for (size_t i = 0; i < 3; i++)
        assert_close(eval(got, 0, &c->greedy[i], 1), eval(want, 0, &c->greedy[i], 1), g->vocab, BOUND_F32, pm_dtype_get(down)->name,
                     i);
    pm_session_close(&got);
    pm_session_close(&want);
    pm_model_close(&blocks);
    pm_model_close(&floats);
}

// Experts have 64 columns and 128: types with blocks of 32.
static void quantized_experts_are_their_floats(void **state) {
    static const pm_dtype pairs[][2] = {{PM_Q8_0, PM_Q4_0}, {PM_Q4_1, PM_Q5_1}, {PM_IQ4_NL, PM_MXFP4}};
    (void)state;
    golden g = golden_open(EXPERTS, REFERENCE);
    for (size_t i = 0; i < COUNT(pairs); i++)
        check_quantized(&g, pairs[i][0], pairs[i][1]);
    golden_close(&g);
}

// ---- stacks in safetensors ------------------------------------------------------------------------------------------------

static void put_header(bytes *header, const char *name, int n_dims, const uint64_t *dims, size_t begin, size_t end) {
    char line[256];
    int n = snprintf(line, sizeof(line), "%c\"%s\":{\"dtype\":\"BF16\",\"shape\":[", header->n ? ',' : '{', name);
    for (int i = 0; i < n_dims; i++)
        n += snprintf(line + n, sizeof(line) - (size_t)n, "%s%llu", i ? "," : "", (unsigned long long)dims[i]);
    n += snprintf(line + n, sizeof(line) - (size_t)n, "],\"data_offsets\":[%zu,%zu]}", begin, end);
    put(header, line, (size_t)n);
}

// The experts of a layer as the two stacks that transformers holds in memory.
static void put_fused(bytes *header, bytes *data, const pm_file *file, uint32_t layer) {
    static const char *const parts[] = {"ffn_gate", "ffn_up", "ffn_down"};
    const pm_config *c = pm_file_config(file);
    for (int down = 0; down < 2; down++) {
        size_t begin = data->n;
        char name[96];
        for (uint32_t e = 0; e < c->n_experts; e++)
            for (int i = down ? 2 : 0; i < (down ? 3 : 2); i++) {
                snprintf(name, sizeof(name), "blk.%u.%s.%u.weight", layer, parts[i], e);
                const pm_tensor_view *t = pm_file_find(file, name);
                put(data, t->data, (size_t)t->size);
            }
        uint64_t dims[] = {c->n_experts, down ? c->dim : 2 * c->expert_ffn_dim, down ? c->expert_ffn_dim : c->dim};
        snprintf(name, sizeof(name), "model.layers.%u.mlp.experts.%s", layer, down ? "down_proj" : "gate_up_proj");
        put_header(header, name, 3, dims, begin, data->n);
    }
}

// A folder with the checkpoint's config: its experts as stacks, all else as it is in the file, under its name there.
static const char *write_fused(const pm_file *file) {
    char *text;
    size_t size;
    uint64_t header_size;
    bytes header = {0}, data = {0}, out = {0};
    MUST(pm_file_read(checkpoint_path(EXPERTS, "model.safetensors"), SIZE_MAX / 4, &text, &size));
    memcpy(&header_size, text, 8);
    cJSON *root = cJSON_ParseWithLength(text + 8, header_size), *entry;
    assert_non_null(root);
    cJSON_ArrayForEach(entry, root) {
        const cJSON *offsets = cJSON_GetObjectItem(entry, "data_offsets"), *shape = cJSON_GetObjectItem(entry, "shape");
        if (!offsets || strstr(entry->string, ".experts."))
            continue;
        size_t begin = (size_t)offsets->child->valuedouble, end = (size_t)offsets->child->next->valuedouble, at = data.n;
        uint64_t dims[2] = {(uint64_t)shape->child->valuedouble,
                            shape->child->next ? (uint64_t)shape->child->next->valuedouble : 1};
        put(&data, text + 8 + header_size + begin, end - begin);
        put_header(&header, entry->string, shape->child->next ? 2 : 1, dims, at, data.n);
    }
    for (uint32_t layer = 0; layer < pm_file_config(file)->n_layers; layer++)
        put_fused(&header, &data, file, layer);
    put(&header, "}", 1);
    put_number(&out, header.n, 8);
    put(&out, header.p, header.n);
    put(&out, data.p, data.n);
    temp_write("model.safetensors", out.p, out.n);
    temp_copy(checkpoint_path(EXPERTS, "config.json"), "config.json");
    cJSON_Delete(root);
    bytes_close(&header);
    bytes_close(&data);
    bytes_close(&out);
    pm_free(text);
    return temp_folder;
}

static void stacks_of_experts_in_safetensors(void **state) {
    (void)state;
    golden g = golden_open(EXPERTS, REFERENCE);
    pm_file *file = open_model(checkpoint_path(EXPERTS, ""));
    pm_model *model = model_at(write_fused(file), false);
    check_cases(model, &g, "experts in stacks", (pm_session_options){.precision = PM_PRECISION_F32});
    pm_model_close(&model);
    pm_file_close(&file);
    golden_close(&g);
}

int main(void) {
    int skip = open_device_or_skip();
    if (skip)
        return skip;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(transformers_logits_and_ids),
        cmocka_unit_test(transformers_logits_and_ids_of_kin),
        cmocka_unit_test(transformers_logits_and_ids_of_experts),
        cmocka_unit_test(reference_logits_and_ids),
        cmocka_unit_test(the_goldens_differ),
        cmocka_unit_test(a_prompt_can_be_cut_anywhere),
        cmocka_unit_test(a_batch_is_its_rows),
        cmocka_unit_test(experts_in_pieces_and_batches),
        cmocka_unit_test_teardown(experts_on_devices_made_small, restore_device),
        cmocka_unit_test_teardown(weights_split_over_bindings, restore_device),
        cmocka_unit_test_teardown(weights_through_staging, restore_device),
        cmocka_unit_test_teardown(attention_split_over_the_cache, restore_device),
        cmocka_unit_test_teardown(plain_kernels, restore_device),
        cmocka_unit_test_teardown(prompts_by_matrices, restore_device),
        cmocka_unit_test(the_bundled_model_word_for_word),
        cmocka_unit_test(a_gguf_gives_the_same_ids),
        cmocka_unit_test(quantized_experts_are_their_floats),
        cmocka_unit_test(stacks_of_experts_in_safetensors),
    };
    int failed = cmocka_run_group_tests(tests, temp_open, temp_close);
    pm_device_close(&dev);
    return failed;
}
