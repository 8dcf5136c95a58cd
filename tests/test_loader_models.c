// Whole models in every format: the same weights, config and vocabulary must come out of each.
#include "loader/loader.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include "loader_model.h"

#include <fcntl.h>

#define TINY             PM_TEST_DATA "/tiny-qwen3"
#define CHECKPOINT(name) PM_TEST_DATA "/checkpoints/" name

static bool same_text(pm_str a, pm_str b) {
    return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0);
}

// The same names, shapes and values.
static void assert_same_tensors(const pm_file *a, const pm_file *b) {
    size_t n, m;
    const pm_tensor_view *tensors = pm_file_tensors(a, &n);
    pm_file_tensors(b, &m);
    assert_int_equal(n, m);
    for (size_t i = 0; i < n; i++) {
        const pm_tensor_view *other = pm_file_find(b, tensors[i].name);
        assert_non_null(other);
        assert_int_equal(tensors[i].n_dims, other->n_dims);
        assert_memory_equal(tensors[i].dims, other->dims, sizeof(other->dims));
        float *x = floats_of(&tensors[i], &n), *y = floats_of(other, &m);
        assert_int_equal(n, m);
        assert_memory_equal(x, y, n * sizeof(*x));
        free(x);
        free(y);
        pm_file_tensors(a, &n);
    }
}

// ---- tiny-qwen3 as safetensors ------------------------------------------------------------------------------------------

static void tiny_config_is_read(void **state) {
    (void)state;
    pm_file *file = open_model(TINY);
    const pm_config *c = pm_file_config(file);
    assert_string_equal(c->architecture, "qwen3");
    assert_int_equal(c->n_layers, 4);
    assert_int_equal(c->dim, 256);
    assert_int_equal(c->n_heads, 4);
    assert_int_equal(c->n_kv_heads, 2);
    assert_int_equal(c->head_dim, 128);
    assert_int_equal(c->ffn_dim, 768);
    assert_int_equal(c->vocab_size, 1280);
    assert_int_equal(c->max_ctx, 2048);
    assert_true(c->norm_eps == 1e-6f && c->tied_head && c->qk_norm && !c->qkv_bias);
    assert_true(c->rope.theta == 1e6 && c->rope.scaling == PM_ROPE_NONE);
    assert_int_equal(c->bos, 1254);
    assert_int_equal(c->pad, 1254);
    assert_int_equal(c->n_eos, 2); // generation_config.json's, not config.json's one
    assert_int_equal(c->eos[0], 1256);
    assert_int_equal(c->eos[1], 1254);
    assert_true(c->do_sample && c->temperature == 0.6f && c->top_k == 20 && c->top_p == 0.95f && c->min_p == 0);
    pm_file_close(&file);
    assert_null(file);
    pm_file_close(&file);
}

static void tiny_tensors_are_found(void **state) {
    (void)state;
    pm_file *file = open_model(TINY);
    size_t n;
    const pm_tensor_view *tensors = pm_file_tensors(file, &n);
    assert_int_equal(n, 2 + 4 * 11);
    for (size_t i = 0; i < n; i++) {
        assert_ptr_equal(pm_file_find(file, tensors[i].name), &tensors[i]);
        assert_int_equal(tensors[i].dtype, PM_BF16);
        assert_int_equal(tensors[i].size, 2 * tensors[i].dims[0] * tensors[i].dims[1]);
    }
    const pm_tensor_view *wo = pm_file_find(file, "blk.3.attn_output.weight");
    assert_non_null(wo);
    assert_true(wo->n_dims == 2 && wo->dims[0] == 256 && wo->dims[1] == 512);
    assert_null(pm_file_find(file, "blk.4.attn_q.weight"));
    assert_null(pm_file_find(file, ""));
    uint8_t first = wo->data[0];
    pm_file_forget(file, wo);
    assert_int_equal(wo->data[0], first);
    pm_file_close(&file);
}

static void tiny_vocabulary_is_read(void **state) {
    (void)state;
    pm_file *file = open_model(TINY);
    const pm_vocab_data *v = pm_file_vocab(file);
    assert_non_null(v);
    assert_int_equal(v->n_tokens, 1280);
    assert_int_equal(v->n_merges, 998);
    assert_true(v->nfc && !v->add_bos);
    assert_true(pm_str_is(v->regex,
                          "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
                          "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"));
    assert_true(pm_str_is(v->tokens[0].text, "!") && v->tokens[0].used && !v->tokens[0].added);
    assert_true(pm_str_is(v->merges[0].left, "i") && pm_str_is(v->merges[0].right, "n"));
    for (uint32_t i = 1254; i < 1280; i++) { // 14 control tokens, then 12 that plain text keeps
        assert_true(v->tokens[i].added && v->tokens[i].used);
        assert_int_equal(v->tokens[i].special, i < 1254 + 14);
    }
    assert_true(pm_str_is(v->tokens[1256].text, "<|im_end|>"));
    assert_true(pm_str_is(v->tokens[1279].text, "</think>"));
    pm_str chat = pm_file_chat_template(file);
    assert_int_equal(chat.n, 4116);
    assert_memory_equal(chat.p, "{%- if tools %}\n", 16);
    pm_file_close(&file);
}

// ---- the same weights as GGUF ----------------------------------------------------------------------------------------------

// gguf-py's own header of tiny-qwen3-F16.gguf, and behind it the data it had: matrices as halves, vectors as floats, in its order.
static const char *write_tiny_gguf(const pm_file *tiny) {
    static const char *const order[] = {"attn_norm", "ffn_down",    "ffn_gate",    "ffn_up", "ffn_norm", "attn_k_norm",
                                        "attn_k",    "attn_output", "attn_q_norm", "attn_q", "attn_v"};
    char *head, name[64];
    size_t n;
    assert_int_equal(pm_file_read(PM_TEST_DATA "/tiny-qwen3-F16.head", 1 << 20, &head, &n), PM_OK);
    bytes out = {0};
    put(&out, head, n);
    pm_free(head);
    for (int i = -1; i <= 4 * 11; i++) {
        snprintf(name, sizeof(name), "blk.%d.%s.weight", i / 11, order[i < 0 ? 0 : i % 11]);
        const pm_tensor_view *t = pm_file_find(tiny, i < 0 ? "token_embd.weight" : i == 44 ? "output_norm.weight" : name);
        assert_non_null(t);
        float *values = floats_of(t, &n);
        for (size_t j = 0; j < n; j++)
            t->n_dims == 1 ? put(&out, &values[j], 4) : put_number(&out, pm_f32_to_f16(values[j]), 2);
        free(values);
        put_padding(&out, 32);
    }
    const char *path = temp_write("tiny.gguf", out.p, out.n);
    bytes_close(&out);
    return path;
}

static void assert_same_vocab(const pm_vocab_data *a, const pm_vocab_data *b) {
    assert_int_equal(a->n_tokens, b->n_tokens);
    assert_int_equal(a->n_merges, b->n_merges);
    for (uint32_t i = 0; i < a->n_tokens; i++) {
        const pm_vocab_token *x = &a->tokens[i], *y = &b->tokens[i];
        assert_true(same_text(x->text, y->text) && x->added == y->added && x->special == y->special && x->used == y->used);
    }
    for (uint32_t i = 0; i < a->n_merges; i++)
        assert_true(same_text(a->merges[i].left, b->merges[i].left) && same_text(a->merges[i].right, b->merges[i].right));
    assert_true(same_text(a->regex, b->regex) && a->nfc == b->nfc && a->add_bos == b->add_bos);
}

static void gguf_and_safetensors_agree(void **state) {
    (void)state;
    pm_file *a = open_model(TINY), *b = open_model(write_tiny_gguf(a));
    size_t n;
    pm_file_tensors(b, &n);
    assert_int_equal(n, 46);
    const pm_tensor_view *embedding = pm_file_find(b, "token_embd.weight");
    assert_int_equal(embedding->dtype, PM_F16);
    assert_same_vocab(pm_file_vocab(a), pm_file_vocab(b));
    assert_true(same_text(pm_file_chat_template(a), pm_file_chat_template(b)));

    const pm_tensor_view *tensors = pm_file_tensors(a, &n);
    for (size_t i = 0; i < n; i++) { // bfloat16 to half may underflow, and does nothing else to these weights
        const pm_tensor_view *other = pm_file_find(b, tensors[i].name);
        size_t n_values;
        float *x = floats_of(&tensors[i], &n_values), *y = floats_of(other, &n_values);
        for (size_t j = 0; j < n_values; j++)
            assert_true(x[j] == y[j] || fabsf(x[j] - y[j]) <= 0x1p-25f);
        free(x);
        free(y);
    }

    pm_config x = *pm_file_config(a), y = *pm_file_config(b);
    assert_true(!y.do_sample); // this gguf was made without general.sampling
    assert_true(x.n_layers == y.n_layers && x.dim == y.dim && x.n_heads == y.n_heads && x.n_kv_heads == y.n_kv_heads);
    assert_true(x.head_dim == y.head_dim && x.ffn_dim == y.ffn_dim && x.vocab_size == y.vocab_size && x.max_ctx == y.max_ctx);
    assert_true(x.norm_eps == y.norm_eps && x.tied_head == y.tied_head && x.qk_norm == y.qk_norm && x.qkv_bias == y.qkv_bias);
    assert_true(x.bos == y.bos && x.pad == y.pad && x.n_eos == y.n_eos && x.rope.theta == y.rope.theta);
    assert_true(x.eos[0] == y.eos[0] && x.eos[1] == y.eos[1]); // gguf names one; the other is known by its text
    pm_file_close(&a);
    pm_file_close(&b);
}

// ---- written in parts --------------------------------------------------------------------------------------------------------

#ifndef _WIN32
// The same model by an open descriptor, which is not needed any more once it is open.
static void a_descriptor_is_a_model(void **state) {
    (void)state;
    char path[32];
    pm_file *tiny = open_model(TINY);
    const char *gguf = write_tiny_gguf(tiny);
    pm_file_close(&tiny);
    int fd = open(gguf, O_RDONLY);
    snprintf(path, sizeof(path), "fd:%d", fd);
    pm_file *a = open_model(gguf), *b = open_model(path);
    close(fd);
    assert_same_tensors(a, b);
    assert_same_vocab(pm_file_vocab(a), pm_file_vocab(b));
    pm_file_close(&b);
    pm_file_close(&a);
    refused(path, PM_ERR_IO, path);
}
#endif

static void put_config(gguf_writer *w, const pm_config *c) {
    const struct {
        const char *key;
        uint32_t value;
    } numbers[] = {
        {"qwen3.block_count", c->n_layers},          {"qwen3.embedding_length", c->dim},
        {"qwen3.attention.head_count", c->n_heads},  {"qwen3.attention.head_count_kv", c->n_kv_heads},
        {"qwen3.attention.key_length", c->head_dim}, {"qwen3.feed_forward_length", c->ffn_dim},
        {"qwen3.context_length", c->max_ctx},
    };
    put_string(&w->entries, "general.architecture", "qwen3");
    for (size_t i = 0; i < 7; i++)
        put_u32(&w->entries, numbers[i].key, numbers[i].value);
    put_f32(&w->entries, "qwen3.rope.freq_base", (float)c->rope.theta);
    w->n_entries += 9;
}

static void put_split(gguf_writer *w, uint32_t no, uint32_t count, uint32_t n_tensors) {
    put_u32(&w->entries, "split.no", no);
    put_u32(&w->entries, "split.count", count);
    put_u32(&w->entries, "split.tensors.count", n_tensors);
    w->n_entries += 3;
}

// The checkpoint as three gguf files, the metadata in the first, tensors dealt out in turn.
static void write_split(const pm_file *model) {
    size_t n;
    const pm_tensor_view *tensors = pm_file_tensors(model, &n);
    for (uint32_t part = 0; part < 3; part++) {
        gguf_writer w = {0};
        bytes out;
        char name[64];
        if (part == 0)
            put_config(&w, pm_file_config(model));
        put_split(&w, part, 3, (uint32_t)n);
        for (size_t i = part; i < n; i += 3)
            gguf_tensor(&w, tensors[i].name, tensors[i].dtype, tensors[i].n_dims, tensors[i].dims, tensors[i].data,
                        tensors[i].size);
        gguf_end(&w, &out);
        snprintf(name, sizeof(name), "split-%05u-of-00003.gguf", part + 1);
        temp_write(name, out.p, out.n);
        bytes_close(&out);
    }
}

static void split_gguf_is_one_model(void **state) {
    (void)state;
    pm_file *whole = open_model(CHECKPOINT("qwen3-gqa5"));
    write_split(whole);
    for (int part = 1; part <= 3; part++) {
        char name[64];
        snprintf(name, sizeof(name), "split-%05d-of-00003.gguf", part);
        pm_file *parts = open_model(temp_path(name));
        assert_same_tensors(whole, parts);
        assert_null(pm_file_vocab(parts));
        assert_false(pm_file_config(parts)->tied_head);
        pm_file_close(&parts);
    }
    pm_file_close(&whole);
    temp_copy(temp_path("split-00002-of-00003.gguf"), "odd.gguf");
    refused(temp_path("odd.gguf"), PM_ERR_FILE, "not named");
    temp_copy(temp_path("split-00002-of-00003.gguf"), "split-00003-of-00003.gguf");
    refused(temp_path("split-00001-of-00003.gguf"), PM_ERR_FILE, "says it is part 2");
    temp_remove("split-00003-of-00003.gguf");
    refused(temp_path("split-00001-of-00003.gguf"), PM_ERR_FILE, "split-00003-of-00003.gguf is missing");
}

// The model as two shards with an index: even tensors in one, odd in the other, under transformers' names.
static void write_shards(const char *from, const char *index_extra) {
    char *data, *entry;
    size_t size;
    bytes header[2] = {{0}, {0}}, body[2] = {{0}, {0}}, index = {0};
    assert_int_equal(pm_file_read(from, SIZE_MAX / 4, &data, &size), PM_OK);
    uint64_t header_size;
    memcpy(&header_size, data, 8);
    char *text = data + 8, *start = text + header_size;
    put(&index, "{\"weight_map\":{", 15);
    int i = 0;
    for (entry = strstr(text, "\"model."); entry && entry < start; i++) { // as safetensors writes them, one after another
        char name[100], shape[100], line[400];
        unsigned long long begin, end;
        assert_int_equal(sscanf(entry, "\"%99[^\"]\":{\"dtype\":\"BF16\",\"shape\":[%99[^]]],\"data_offsets\":[%llu,%llu]", name,
                                shape, &begin, &end),
                         4);
        bytes *h = &header[i % 2], *b = &body[i % 2];
        int n = snprintf(line, sizeof(line), "%c\"%s\":{\"dtype\":\"BF16\",\"shape\":[%s],\"data_offsets\":[%zu,%zu]}",
                         h->n ? ',' : '{', name, shape, b->n, b->n + (size_t)(end - begin));
        put(h, line, (size_t)n);
        put(b, start + begin, (size_t)(end - begin));
        n = snprintf(line, sizeof(line), "%s\"%s\":\"part-%d.safetensors\"", i ? "," : "", name, i % 2);
        put(&index, line, (size_t)n);
        entry = strstr(entry + 1, "\"model.");
    }
    for (int s = 0; s < 2; s++) {
        bytes out = {0};
        put_number(&out, header[s].n + 1, 8);
        put(&out, header[s].p, header[s].n);
        put(&out, "}", 1);
        put(&out, body[s].p, body[s].n);
        temp_write(s ? "shards/part-1.safetensors" : "shards/part-0.safetensors", out.p, out.n);
        bytes_close(&out);
        bytes_close(&header[s]);
        bytes_close(&body[s]);
    }
    put(&index, index_extra, strlen(index_extra));
    put(&index, "}}", 2);
    temp_write("shards/model.safetensors.index.json", index.p, index.n);
    bytes_close(&index);
    pm_free(data);
}

static void sharded_safetensors_are_one_model(void **state) {
    (void)state;
    assert_true(make_folder(temp_path("shards")));
    temp_copy(CHECKPOINT("qwen3-hd64/config.json"), "shards/config.json");
    write_shards(CHECKPOINT("qwen3-hd64/model.safetensors"), "");
    pm_file *whole = open_model(CHECKPOINT("qwen3-hd64")), *shards = open_model(temp_path("shards"));
    assert_same_tensors(whole, shards);
    assert_int_equal(pm_file_config(shards)->n_eos, 0);
    pm_file_close(&whole);
    pm_file_close(&shards);

    write_shards(CHECKPOINT("qwen3-hd64/model.safetensors"), ",\"x\":\"../shards/part-0.safetensors\"");
    refused(temp_path("shards"), PM_ERR_FILE, "no file of this folder");
    write_shards(CHECKPOINT("qwen3-hd64/model.safetensors"), ",\"x\":\"part-2.safetensors\"");
    refused(temp_path("shards"), PM_ERR_FILE, "part-2.safetensors is missing");
    temp_copy(temp_path("shards/part-0.safetensors"), "shards/part-2.safetensors");
    refused(temp_path("shards"), PM_ERR_FILE, "is there twice");
}

// ---- the checkpoints of others ---------------------------------------------------------------------------------------

static void checkpoints_have_their_flags(void **state) {
    (void)state;
    pm_file *gqa5 = open_model(CHECKPOINT("qwen3-gqa5")), *yarn = open_model(CHECKPOINT("qwen3-yarn"));
    const pm_config *c = pm_file_config(gqa5);
    assert_true(c->n_heads == 10 && c->n_kv_heads == 2 && c->vocab_size == 331 && !c->tied_head);
    assert_non_null(pm_file_find(gqa5, "output.weight"));
    assert_true(c->bos == -1 && c->pad == -1 && c->n_eos == 0 && !c->do_sample);
    assert_null(pm_file_vocab(gqa5));
    assert_int_equal(pm_file_chat_template(gqa5).n, 0);
    c = pm_file_config(yarn);
    assert_true(c->rope.scaling == PM_ROPE_YARN && c->rope.factor == 4 && c->rope.original_ctx == 64 && c->rope.theta == 1e6);
    assert_true(c->rope.beta_fast == 32 && c->rope.beta_slow == 1 && c->rope.attention_factor == 0 && c->rope.truncate);
    assert_int_equal(c->max_ctx, 256);
    pm_file_close(&gqa5);
    pm_file_close(&yarn);
    pm_file *file = open_model(CHECKPOINT("qwen3-hd64/model.safetensors")); // the file itself, its config beside it
    assert_int_equal(pm_file_config(file)->head_dim, 64);
    pm_file_close(&file);
}

int main(void) {
    const struct CMUnitTest tests[] = {
#ifndef _WIN32
        cmocka_unit_test(a_descriptor_is_a_model),
#endif
        cmocka_unit_test(tiny_config_is_read),          cmocka_unit_test(tiny_tensors_are_found),
        cmocka_unit_test(tiny_vocabulary_is_read),      cmocka_unit_test(gguf_and_safetensors_agree),
        cmocka_unit_test(split_gguf_is_one_model),      cmocka_unit_test(sharded_safetensors_are_one_model),
        cmocka_unit_test(checkpoints_have_their_flags),
    };
    return cmocka_run_group_tests(tests, temp_open, temp_close);
}
