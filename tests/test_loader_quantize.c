// loader/quantize.c: what is written is read again as the same model; failures leave nothing behind.
#include "loader/internal.h"
#include "loader/quantize.h"

#include <dirent.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include "loader_model.h"

#define TINY        PM_TEST_DATA "/tiny-qwen3"
#define CHECKPOINTS PM_TEST_DATA "/checkpoints/"

static void write_as(const pm_file *file, const char *path, const char *type) {
    pm_quantize_result result;
    pm_status status = pm_quantize(file, path, &(pm_quantize_options){.type = type}, &result);
    if (status != PM_OK)
        fail_msg("%s: %s", type, pm_error_text());
}

// ---- the same model ------------------------------------------------------------------------------------------------------

static bool same_text(pm_str a, pm_str b) {
    return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0);
}

static void same_config(const pm_config *a, const pm_config *b) {
    assert_string_equal(a->architecture, b->architecture);
    assert_int_equal(a->n_layers, b->n_layers);
    assert_int_equal(a->dim, b->dim);
    assert_int_equal(a->n_heads, b->n_heads);
    assert_int_equal(a->n_kv_heads, b->n_kv_heads);
    assert_int_equal(a->head_dim, b->head_dim);
    assert_int_equal(a->ffn_dim, b->ffn_dim);
    assert_int_equal(a->vocab_size, b->vocab_size);
    assert_int_equal(a->max_ctx, b->max_ctx);
    assert_true(a->norm_eps == b->norm_eps);
    assert_true(a->tied_head == b->tied_head && a->qk_norm == b->qk_norm && a->qkv_bias == b->qkv_bias);
    assert_int_equal(a->bos, b->bos);
    assert_int_equal(a->pad, b->pad);
    assert_int_equal(a->n_eos, b->n_eos);
    assert_memory_equal(a->eos, b->eos, sizeof(a->eos));
    assert_true(a->do_sample == b->do_sample);
    if (a->do_sample)
        assert_true(a->temperature == b->temperature && a->top_p == b->top_p && a->top_k == b->top_k && a->min_p == b->min_p);
}

static void same_rope(const pm_rope_config *a, const pm_rope_config *b) {
    assert_true(a->theta == b->theta && a->scaling == b->scaling && a->truncate == b->truncate);
    if (a->scaling == PM_ROPE_NONE)
        return;
    assert_true(a->factor == b->factor && a->original_ctx == b->original_ctx);
    assert_true(a->beta_fast == b->beta_fast && a->beta_slow == b->beta_slow);
}

static void same_vocab(const pm_file *a, const pm_file *b) {
    const pm_vocab_data *x = pm_file_vocab(a), *y = pm_file_vocab(b);
    assert_true((x == NULL) == (y == NULL));
    assert_true(same_text(pm_file_chat_template(a), pm_file_chat_template(b)));
    if (!x)
        return;
    assert_int_equal(x->n_merges, y->n_merges);
    assert_true(same_text(x->regex, y->regex) && x->nfc == y->nfc && x->add_bos == y->add_bos);
    for (uint32_t i = 0; i < x->n_tokens; i++) {
        const pm_vocab_token *s = &x->tokens[i], *t = &y->tokens[i];
        assert_true(s->used == t->used && (!s->used || same_text(s->text, t->text)));
        assert_true(s->added == t->added && s->special == t->special);
    }
    for (uint32_t i = x->n_tokens; i < y->n_tokens; i++)
        assert_false(y->tokens[i].used);
    for (uint32_t i = 0; i < x->n_merges; i++)
        assert_true(same_text(x->merges[i].left, y->merges[i].left) && same_text(x->merges[i].right, y->merges[i].right));
}

// Where `pairs`, rows 2 j and 2 j + 1 of a head come from rows j and half + j.
static void same_values(const pm_tensor_view *a, const pm_tensor_view *b, bool pairs, uint32_t head_dim) {
    size_t n, m, cols = (size_t)(a->n_dims == 1 ? 1 : a->dims[1]);
    float *x = floats_of(a, &n), *y = floats_of(b, &m);
    assert_int_equal(n, m);
    for (size_t i = 0; i < n; i++) {
        size_t row = i / cols, in_head = row % head_dim;
        size_t from = pairs ? row - in_head + in_head % 2 * (head_dim / 2) + in_head / 2 : row;
        if (x[from * cols + i % cols] != y[i])
            fail_msg("%s: element %zu differs", a->name, i);
    }
    free(x);
    free(y);
}

static void same_model(const pm_file *a, const pm_file *b) {
    const pm_config *x = pm_file_config(a), *y = pm_file_config(b);
    size_t n, m;
    const pm_tensor_view *tensors = pm_file_tensors(a, &n);
    pm_file_tensors(b, &m);
    assert_int_equal(n, m);
    same_config(x, y);
    same_rope(&x->rope, &y->rope);
    same_vocab(a, b);
    for (size_t i = 0; i < n; i++) {
        const pm_tensor_view *t = pm_file_find(b, tensors[i].name);
        assert_non_null(t);
        bool qk = strstr(t->name, ".attn_q.") || strstr(t->name, ".attn_k.");
        same_values(&tensors[i], t, qk && x->rope.interleaved != y->rope.interleaved, x->head_dim);
    }
}

static void as_floats_it_is_the_same_model(void **state) {
    (void)state;
    static const char *const models[] = {TINY,
                                         CHECKPOINTS "llama",
                                         CHECKPOINTS "qwen2",
                                         CHECKPOINTS "qwen3-yarn",
                                         CHECKPOINTS "qwen3-gqa5",
                                         PM_TEST_DATA "/quantized/fp8",
                                         PM_TEST_DATA "/quantized/awq-32"};
    for (size_t i = 0; i < sizeof(models) / sizeof(models[0]); i++) {
        pm_file *source = open_model(models[i]);
        const char *once = temp_path("once.gguf"), *twice = temp_path("twice.gguf");
        write_as(source, once, "F32");
        pm_file *written = open_model(once);
        same_model(source, written);
        assert_true(pm_file_config(written)->rope.interleaved == (strcmp(pm_file_config(source)->architecture, "llama") == 0));

        write_as(written, twice, "f32"); // from a gguf file all is copied
        char *a, *b;
        size_t n, m;
        assert_int_equal(pm_file_read(once, 1 << 26, &a, &n), PM_OK);
        assert_int_equal(pm_file_read(twice, 1 << 26, &b, &m), PM_OK);
        assert_int_equal(n, m);
        assert_memory_equal(a, b, n);
        pm_free(a);
        pm_free(b);
        pm_file_close(&written);
        pm_file_close(&source);
    }
}

// ---- types -----------------------------------------------------------------------------------------------------------------

static const char *type_in(const char *path, const char *tensor) {
    pm_file *file = open_model(path);
    const pm_tensor_view *t = pm_file_find(file, tensor);
    assert_non_null(t);
    const char *name = pm_dtype_get(t->dtype)->name;
    pm_file_close(&file);
    return name;
}

static void each_tensor_takes_its_type(void **state) {
    (void)state;
    pm_file *source = open_model(TINY);
    const char *path = temp_path("types.gguf");
    pm_quantize_result r;
    write_as(source, path, "Q4_K_M"); // of 4 layers the first eighth is none, the last is layer 3, every third is layer 2
    assert_string_equal(type_in(path, "token_embd.weight"), "Q6_K");
    assert_string_equal(type_in(path, "blk.0.attn_v.weight"), "Q4_K");
    assert_string_equal(type_in(path, "blk.2.attn_v.weight"), "Q6_K");
    assert_string_equal(type_in(path, "blk.3.ffn_down.weight"), "Q6_K");
    assert_string_equal(type_in(path, "blk.3.ffn_up.weight"), "Q4_K");
    assert_string_equal(type_in(path, "blk.3.attn_q_norm.weight"), "F32");

    pm_quantize_options pure = {.type = "q4_k", .pure = true};
    assert_int_equal(pm_quantize(source, path, &pure, &r), PM_OK);
    assert_string_equal(type_in(path, "token_embd.weight"), "Q4_K");
    assert_string_equal(type_in(path, "blk.3.ffn_down.weight"), "Q4_K");
    assert_int_equal(r.n_tensors, 46);

    pm_quantize_options own = {.type = "Q4_0", .embedding_type = "BF16"};
    assert_int_equal(pm_quantize(source, path, &own, &r), PM_OK);
    assert_string_equal(type_in(path, "token_embd.weight"), "BF16");
    assert_string_equal(type_in(path, "blk.0.attn_q.weight"), "Q4_0");
    pm_file_close(&source);

    source = open_model(CHECKPOINTS "qwen3-hd64"); // whose rows no block of 256 divides
    write_as(source, path, "Q4_K_M");
    pm_file *written = open_model(path);
    size_t n;
    const pm_tensor_view *tensors = pm_file_tensors(written, &n);
    for (size_t i = 0; i < n; i++)
        assert_int_equal(tensors[i].dims[tensors[i].n_dims - 1] % pm_dtype_get(tensors[i].dtype)->block_elements, 0);
    pm_file_close(&written);
    pm_file_close(&source);
}

// ---- failures ----------------------------------------------------------------------------------------------------------

static int count_files(void) {
    DIR *folder = opendir(temp_folder);
    assert_non_null(folder);
    int n = 0;
    while (readdir(folder))
        n++;
    closedir(folder);
    return n;
}

static bool stop_at_half(void *user, uint64_t done, uint64_t total) {
    int *calls = user;
    ++*calls;
    return done < total / 2;
}

static void what_fails_leaves_nothing(void **state) {
    (void)state;
    pm_file *source = open_model(TINY);
    const char *path = temp_path("failed.gguf");
    int before = count_files(), calls = 0;
    pm_quantize_result r;
    pm_quantize_options o = {.type = "Q8_0", .progress = stop_at_half, .user = &calls};
    assert_int_equal(pm_quantize(source, path, &o, &r), PM_ERR_CANCELLED);
    assert_true(calls > 1);
    assert_int_equal(count_files(), before);

    o = (pm_quantize_options){.type = "Q9"};
    assert_int_equal(pm_quantize(source, path, &o, &r), PM_ERR_USAGE);
    o = (pm_quantize_options){.type = "Q8_0", .output_type = "Q4_K_M"}; // a mix is no type
    assert_int_equal(pm_quantize(source, path, &o, &r), PM_ERR_USAGE);
    o = (pm_quantize_options){.type = "Q8_0"};
    assert_int_equal(pm_quantize(source, TINY "/model.safetensors", &o, &r), PM_ERR_USAGE);
    assert_int_equal(pm_quantize(source, temp_folder, &o, &r), PM_ERR_IO);
    assert_int_equal(pm_quantize(source, temp_path("absent/x.gguf"), &o, &r), PM_ERR_IO);
    assert_int_equal(count_files(), before);
    pm_file_close(&source);

    source = open_model(PM_TEST_DATA "/checkpoints/qwen3moe");
    source->config.dense_layers[0] |= 2;
    assert_int_equal(pm_quantize(source, path, &o, &r), PM_ERR_UNSUPPORTED);
    assert_non_null(strstr(pm_error_text(), "layer 1 has no experts"));
    assert_int_equal(count_files(), before);
    pm_file_close(&source);
}

static void every_allocation_may_fail(void **state) {
    (void)state;
    pm_file *source = open_model(CHECKPOINTS "llama");
    const char *path = temp_path("memory.gguf");
    int before = count_files();
    pm_quantize_result r;
    for (long n = 1;; n++) {
        pm_alloc_fail_after(n);
        pm_status status = pm_quantize(source, path, &(pm_quantize_options){.type = "Q8_0"}, &r);
        pm_alloc_fail_after(0);
        assert_true(n < 20);
        if (status == PM_OK)
            break;
        assert_int_equal(status, PM_ERR_MEMORY);
        assert_int_equal(count_files(), before);
    }
    pm_file_close(&source);
}

// ---- a file made by hand -------------------------------------------------------------------------------------------------

static void make_file(pm_file *file, pm_shard *shard, pm_tensor_view *tensors, size_t n) {
    *shard = (pm_shard){.path = "memory/model.safetensors"};
    *file = (pm_file){.shards = shard, .n_shards = 1, .tensors = tensors, .n_tensors = n};
    pm_config_init(&file->config);
    file->config.architecture = "qwen3";
    file->config.n_layers = file->config.n_heads = file->config.n_kv_heads = 1;
    file->config.head_dim = 2;
    file->config.vocab_size = 8;
}

static pm_tensor_view view_of(const char *name, int n_dims, uint64_t a, uint64_t b, uint64_t c, const float *values) {
    return (pm_tensor_view){.name = name,
                            .dtype = PM_F32,
                            .n_dims = n_dims,
                            .dims = {a, b, c, 1},
                            .data = (const uint8_t *)values,
                            .size = a * b * c * sizeof(*values)};
}

// What stands in the written file under this name, as floats.
static void values_in(const char *path, const char *name, const uint64_t dims[3], const float *wanted) {
    pm_file file = {0};
    pm_shard shard = {.path = path};
    pm_gguf gguf;
    bool found = false;
    assert_int_equal(pm_map_open(path, &shard.map), PM_OK);
    assert_int_equal(pm_gguf_read(&file, &shard, &gguf), PM_OK);
    for (size_t i = 0; i < file.n_tensors; i++) {
        const pm_tensor_view *t = &file.tensors[i];
        if (strcmp(t->name, name) != 0)
            continue;
        found = true;
        assert_memory_equal(t->dims, dims, 3 * sizeof(*dims));
        assert_memory_equal(t->data, wanted, t->size);
    }
    assert_true(found);
    pm_map_close(&shard.map);
    pm_free(file.tensors);
    pm_arena_close(&file.arena);
}

// Experts that are matrices by themselves, or whose gate stands above their up, become the stacks that llama.cpp knows.
static void experts_are_stacked(void **state) {
    (void)state;
    enum { EXPERTS = 11, ROWS = 2, COLS = 4, EACH = ROWS * COLS };
    float down[EXPERTS * EACH], both[2 * 2 * EACH], gate[2 * EACH], up[2 * EACH];
    pm_tensor_view tensors[EXPERTS + 1];
    static const int sorted[EXPERTS] = {0, 1, 10, 2, 3, 4, 5, 6, 7, 8, 9}; // by name
    static char names[EXPERTS][40];
    for (int i = 0; i < EXPERTS * EACH; i++)
        down[i] = (float)i;
    for (int i = 0; i < 2 * 2 * EACH; i++) {
        int expert = i / (2 * EACH), in = i % (2 * EACH);
        both[i] = (float)-i;
        (in < EACH ? gate : up)[expert * EACH + in % EACH] = (float)-i;
    }
    for (int i = 0; i < EXPERTS; i++) {
        snprintf(names[i], sizeof(names[i]), "blk.0.ffn_down.%d.weight", sorted[i]);
        tensors[i] = view_of(names[i], 2, ROWS, COLS, 1, down + sorted[i] * EACH);
    }
    tensors[EXPERTS] = view_of("blk.0.ffn_gate_up_exps.weight", 3, 2, 2 * ROWS, COLS, both);
    pm_file file;
    pm_shard shard;
    make_file(&file, &shard, tensors, EXPERTS + 1);
    const char *path = temp_path("experts.gguf");
    write_as(&file, path, "F32");
    values_in(path, "blk.0.ffn_down_exps.weight", (uint64_t[]){EXPERTS, ROWS, COLS}, down);
    values_in(path, "blk.0.ffn_gate_exps.weight", (uint64_t[]){2, ROWS, COLS}, gate);
    values_in(path, "blk.0.ffn_up_exps.weight", (uint64_t[]){2, ROWS, COLS}, up);
}

static void what_no_type_can_hold_is_told(void **state) {
    (void)state;
    static const float bad[] = {NAN, INFINITY, 70000};
    for (size_t i = 0; i < 3; i++) {
        float values[8 * 32] = {0};
        values[77] = bad[i];
        pm_tensor_view t = view_of("token_embd.weight", 2, 8, 32, 1, values);
        pm_file file;
        pm_shard shard;
        make_file(&file, &shard, &t, 1);
        pm_quantize_result r;
        assert_int_equal(pm_quantize(&file, temp_path("bad.gguf"), &(pm_quantize_options){.type = "Q8_0"}, &r), PM_ERR_FILE);
        assert_non_null(strstr(pm_error_text(), "tensor token_embd.weight has values that Q8_0 cannot hold"));
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(as_floats_it_is_the_same_model),
        cmocka_unit_test(each_tensor_takes_its_type),
        cmocka_unit_test(what_fails_leaves_nothing),
        cmocka_unit_test(every_allocation_may_fail),
        cmocka_unit_test(experts_are_stacked),
        cmocka_unit_test(what_no_type_can_hold_is_told),
    };
    return cmocka_run_group_tests(tests, temp_open, temp_close);
}
