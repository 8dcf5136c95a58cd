// The two key styles of config.json and the several writings of a tokenizer: what they mean, not only that they open.
#include "loader/loader.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#include "loader_model.h"

static void quiet(pm_log_level level, const char *line, void *user) {
    (void)level, (void)line, (void)user;
}

// The seed's folder with one text of one file changed.
static pm_file *open_changed(const char *name, const char *seed, const char *from, const char *to) {
    write_folder();
    bytes b = read_seed(seed, 1);
    replace(&b, from, to);
    temp_write(name, b.p, b.n);
    bytes_close(&b);
    return open_model(temp_folder);
}

static void old_keys_of_rope_are_read(void **state) {
    (void)state;
    pm_file *file = open_changed("config.json", "json/config-old", "\"rope_theta\":1000000", "\"rope_theta\":500000");
    const pm_rope_config *rope = &pm_file_config(file)->rope;
    assert_true(rope->theta == 500000 && rope->scaling == PM_ROPE_LINEAR && rope->factor == 2);
    pm_file_close(&file);

    // Qwen's instructions for long texts: scaling added, max_position_embeddings left alone.
    file = open_changed("config.json", "json/config-old", "{\"type\":\"linear\",\"factor\":2.0}",
                        "{\"rope_type\":\"yarn\",\"factor\":4.0,\"original_max_position_embeddings\":32,\"attention_factor\":1.5,"
                        "\"beta_fast\":16,\"beta_slow\":2,\"mscale\":0.5,\"mscale_all_dim\":0.25,\"truncate\":false}");
    rope = &pm_file_config(file)->rope;
    assert_true(rope->theta == 1000000 && rope->scaling == PM_ROPE_YARN && rope->factor == 4 && rope->original_ctx == 32);
    assert_true(rope->attention_factor == 1.5 && rope->beta_fast == 16 && rope->beta_slow == 2 && !rope->truncate);
    assert_true(rope->mscale == 0.5 && rope->mscale_all_dim == 0.25);
    assert_int_equal(pm_file_config(file)->max_ctx, 128);
    pm_file_close(&file);

    file = open_changed("config.json", "json/config-old", "{\"type\":\"linear\",\"factor\":2.0}", "null");
    assert_int_equal(pm_file_config(file)->rope.scaling, PM_ROPE_NONE);
    pm_file_close(&file);
}

static void new_keys_of_rope_are_read(void **state) {
    (void)state;
    pm_file *file = open_changed("config.json", "json/config-new", "\"rope_theta\":1000000.0", "\"rope_theta\":5e6");
    const pm_config *c = pm_file_config(file);
    assert_true(c->rope.theta == 5e6 && c->rope.scaling == PM_ROPE_YARN && c->rope.factor == 4 && c->rope.original_ctx == 16);
    assert_int_equal(c->max_ctx, 64);
    pm_file_close(&file);
    // Without a factor it follows from the two lengths.
    file = open_changed("config.json", "json/config-new", "\"factor\":4.0,", "");
    assert_true(pm_file_config(file)->rope.factor == 4);
    pm_file_close(&file);
}

static void eos_is_one_or_a_list(void **state) {
    (void)state;
    pm_file *file = open_changed("generation_config.json", "json/generation", "[5,3]", "4");
    assert_int_equal(pm_file_config(file)->n_eos, 1);
    assert_int_equal(pm_file_config(file)->eos[0], 4);
    pm_file_close(&file);
    file = open_changed("generation_config.json", "json/generation", "[5,3]", "null"); // config.json's then
    assert_int_equal(pm_file_config(file)->n_eos, 2);
    pm_file_close(&file);
    file = open_changed("generation_config.json", "json/generation", "[5,3]", "[5,151645,5]"); // one foreign, one twice
    assert_int_equal(pm_file_config(file)->n_eos, 1);
    assert_int_equal(pm_file_config(file)->eos[0], 5);
    pm_file_close(&file);
    temp_remove("generation_config.json");
    file = open_model(temp_folder);
    assert_int_equal(pm_file_config(file)->n_eos, 2);
    assert_true(!pm_file_config(file)->do_sample && pm_file_config(file)->bos == -1);
    pm_file_close(&file);
    file = open_changed("generation_config.json", "json/generation", "\"temperature\":0.6", "\"temperature\":0");
    assert_true(!pm_file_config(file)->do_sample);
    pm_file_close(&file);
}

static void merges_are_pairs_or_texts(void **state) {
    (void)state;
    static const char *const seeds[] = {"json/tokenizer-pairs", "json/tokenizer-strings"};
    for (int i = 0; i < 2; i++) {
        pm_file *file = open_changed("tokenizer.json", seeds[i], "\"id\":6", "\"id\":7"); // 6 becomes a hole
        const pm_vocab_data *v = pm_file_vocab(file);
        assert_int_equal(v->n_merges, 2);
        assert_true(pm_str_is(v->merges[0].left, "a") && pm_str_is(v->merges[0].right, "b"));
        assert_true(pm_str_is(v->merges[1].left, "\xc4\xa0") && pm_str_is(v->merges[1].right, "a"));
        assert_int_equal(v->n_tokens, 8);
        assert_true(v->tokens[5].used && v->tokens[5].added && v->tokens[5].special);
        assert_true(!v->tokens[6].used && !v->tokens[6].added);
        assert_true(v->tokens[7].used && v->tokens[7].added && !v->tokens[7].special);
        assert_true(pm_str_is(v->tokens[7].text, "<think>") && pm_str_is(v->tokens[4].text, "\xc4\xa0"
                                                                                            "a"));
        assert_true(pm_str_is(v->regex, "(?i:'s|'t)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}|\\s+(?!\\S)|\\s+"));
        pm_file_close(&file);
    }
}

#define QWEN_STEPS "{\"type\":\"Sequence\",\"pretokenizers\":["
static void other_pre_tokenizers_become_one_regex(void **state) {
    (void)state;
    const struct {
        const char *to, *regex; // what stands where Qwen's Sequence does
    } cases[] = {
        {"{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":true},\"x\":{\"y\":[",
         "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"},
        {"{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Digits\",\"individual_digits\":true},{\"type\":\"ByteLevel\"}]},"
         "\"x\":{\"y\":[",
         "\\p{N}|'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?![^\\s\\p{N}])|\\s+"},
    };
    for (int i = 0; i < 2; i++) {
        pm_file *file = open_changed("tokenizer.json", "json/tokenizer-pairs", QWEN_STEPS, cases[i].to);
        assert_true(pm_str_is(pm_file_vocab(file)->regex, cases[i].regex));
        assert_true(pm_file_vocab(file)->nfc); // the normaliser's word
        pm_file_close(&file);
    }
    pm_file *file = open_changed("tokenizer.json", "json/tokenizer-pairs", "{\"type\":\"NFC\"}", "null");
    assert_false(pm_file_vocab(file)->nfc);
    pm_file_close(&file);
    file = open_changed(
        "tokenizer.json", "json/tokenizer-pairs", "{\"type\":\"ByteLevel\"},\"decoder\"",
        "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\"}},{\"Sequence\":{}}]},\"decoder\"");
    assert_true(pm_file_vocab(file)->add_bos);
    pm_file_close(&file);
}

// What an embedding model's files say belongs behind a text: <|im_end|>, 5, or nothing.
static void expect_end(pm_file *file, bool add, int32_t id) {
    const pm_vocab_data *v = pm_file_vocab(file);
    assert_int_equal(v->add_end, add);
    assert_int_equal(v->end_id, id);
    assert_false(v->add_bos);
    pm_file_close(&file);
}

static void the_end_of_a_text_is_found(void **state) {
    (void)state;
    static const char *const seed = "json/tokenizer-end", *const config = "json/tokenizer-config-eos";
    const char *single = "\"single\":[{\"Sequence\":{\"id\":\"A\"}},{\"SpecialToken\":{\"id\":\"<|im_end|>\"}}]";
    expect_end(open_changed("tokenizer.json", seed, "\"Sequence\":{\"id\":\"A\"}", "\"Sequence\":{}"), true, 5);
    expect_end(open_changed("tokenizer.json", seed, "\"TemplateProcessing\"", "\"ByteLevel\""), false, 0);
    expect_end(open_changed("tokenizer.json", seed, single, "\"single\":[{\"Sequence\":{}}]"), false, 0);
    expect_end(open_changed("tokenizer.json", seed, single, "\"single\":[{\"Sequence\":{}},{\"SpecialToken\":{\"id\":\"ab\"}}]"),
               true, 2);
    bytes b = read_seed(seed, 1);
    replace(&b, "{\"id\":\"<|im_end|>\"}", "{\"id\":\"<|none|>\"}");
    temp_write("tokenizer.json", b.p, b.n);
    bytes_close(&b);
    refused(temp_folder, PM_ERR_FILE, "the post-processor's last token is not in the vocabulary");

    expect_end(open_changed("tokenizer_config.json", config, "{\"content\":\"<|im_end|>\"}", "\"<|im_end|>\""), true, 5);
    expect_end(open_changed("tokenizer_config.json", config, "\"<|im_end|>\"", "\"b\""), true, 1);
    expect_end(open_changed("tokenizer_config.json", config, "\"<|im_end|>\"", "\"none\""), false, 0);
    expect_end(open_changed("tokenizer_config.json", config, "true", "false"), false, 0);
}

static void pooling_is_read(void **state) {
    (void)state;
    static const struct {
        const char *text;
        pm_pooling pooling;
    } cases[] = {
        {"{\"pooling_mode_lasttoken\":true}", PM_POOL_LAST},
        {"{\"pooling_mode_cls_token\":false,\"pooling_mode_mean_tokens\":true}", PM_POOL_MEAN},
        {"{\"pooling_mode_cls_token\":true}", PM_POOL_FIRST},
        {"{\"pooling_mode\":\"lasttoken\"}", PM_POOL_LAST},
    };
    write_folder();
    assert_true(make_folder(temp_path("1_Pooling")));
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        temp_text("1_Pooling/config.json", cases[i].text);
        pm_file *file = open_model(temp_folder);
        assert_int_equal(pm_file_config(file)->pooling, cases[i].pooling);
        pm_file_close(&file);
    }
    temp_text("1_Pooling/config.json", "{\"pooling_mode_max_tokens\":true}");
    refused(temp_folder, PM_ERR_UNSUPPORTED, "supported is one of lasttoken, mean and cls");
    temp_text("1_Pooling/config.json", "{\"pooling_mode_mean_tokens\":true,\"pooling_mode_lasttoken\":true}");
    refused(temp_folder, PM_ERR_UNSUPPORTED, "supported is one of lasttoken");
    temp_text("1_Pooling/config.json", "{\"pooling_mode_lasttoken\":1}");
    refused(temp_folder, PM_ERR_FILE, "1_Pooling/config.json");
    temp_remove("1_Pooling/config.json");
}

static void gguf_says_the_same(void **state) {
    (void)state;
    pm_file *file = open_model(SEEDS "gguf/embedding");
    assert_int_equal(pm_file_config(file)->pooling, PM_POOL_LAST);
    expect_end(file, true, 5);
    file = open_model(SEEDS "gguf/F32");
    assert_int_equal(pm_file_config(file)->pooling, PM_POOL_UNSAID);
    expect_end(file, false, 0);
    bytes b = read_seed("gguf/embedding", 0);
    b.p[find(&b, "pooling_type") + 12 + 4] = 5;
    refused(temp_write("odd.gguf", b.p, b.n), PM_ERR_UNSUPPORTED, "pooling type 5 is not supported");
    bytes_close(&b);
}

static void chat_template_is_found(void **state) {
    (void)state;
    const char *list = "[{\"name\":\"default\",\"template\":\"{{ x }}\"}]";
    const char *seed = "json/tokenizer-config-list";
    pm_file *file = open_changed("tokenizer_config.json", seed, list, "\"{{ one }}\"");
    assert_true(pm_str_is(pm_file_chat_template(file), "{{ one }}"));
    pm_file_close(&file);
    file = open_changed("tokenizer_config.json", seed, list,
                        "[{\"name\":\"rag\",\"template\":\"{{ rag }}\"},{\"name\":\"default\",\"template\":\"{{ d }}\"}]");
    assert_true(pm_str_is(pm_file_chat_template(file), "{{ d }}"));
    pm_file_close(&file);
    file = open_changed("tokenizer_config.json", seed, list, "[{\"name\":\"rag\",\"template\":\"{{ rag }}\"}]");
    assert_true(pm_str_is(pm_file_chat_template(file), "{{ rag }}"));
    pm_file_close(&file);
    temp_text("chat_template.jinja", "{{ beside }}\n");
    file = open_model(temp_folder);
    assert_true(pm_str_is(pm_file_chat_template(file), "{{ beside }}\n"));
    pm_file_close(&file);
    temp_remove("chat_template.jinja");
}

// Qwen3-0.6B stores a head although it is tied.
static void stored_tied_head_is_skipped(void **state) {
    (void)state;
    write_folder();
    bytes b = read_seed("safetensors/head", 0);
    temp_write("model.safetensors", b.p, b.n);
    bytes_close(&b);
    pm_file *file = open_model(temp_folder);
    assert_null(pm_file_find(file, "output.weight"));
    assert_true(pm_file_config(file)->tied_head);
    pm_file_close(&file);

    b = read_seed("json/config-new", 1);
    replace(&b, "\"tie_word_embeddings\":true", "\"tie_word_embeddings\":false");
    temp_write("config.json", b.p, b.n);
    bytes_close(&b);
    file = open_model(temp_folder);
    assert_non_null(pm_file_find(file, "output.weight"));
    pm_file_close(&file);
}

static void folders_lacking_something_say_what(void **state) {
    (void)state;
    write_folder();
    temp_remove("tokenizer.json");
    pm_file *file = open_model(temp_folder);
    assert_null(pm_file_vocab(file));
    pm_file_close(&file);
    temp_remove("model.safetensors");
    refused(temp_folder, PM_ERR_FILE, "neither model.safetensors nor model.safetensors.index.json");
    temp_text("model.safetensors.index.json", "{\"weight_map\":{}}");
    refused(temp_folder, PM_ERR_FILE, "weight_map is empty");
    temp_remove("model.safetensors.index.json");
    temp_remove("config.json");
    refused(temp_folder, PM_ERR_FILE, "no config.json");
    refused(temp_path("absent"), PM_ERR_IO, "absent");
    refused(temp_text("empty.gguf", ""), PM_ERR_FILE, "empty.gguf");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(old_keys_of_rope_are_read),
        cmocka_unit_test(new_keys_of_rope_are_read),
        cmocka_unit_test(eos_is_one_or_a_list),
        cmocka_unit_test(merges_are_pairs_or_texts),
        cmocka_unit_test(other_pre_tokenizers_become_one_regex),
        cmocka_unit_test(the_end_of_a_text_is_found),
        cmocka_unit_test(pooling_is_read),
        cmocka_unit_test(gguf_says_the_same),
        cmocka_unit_test(chat_template_is_found),
        cmocka_unit_test(stored_tied_head_is_skipped),
        cmocka_unit_test(folders_lacking_something_say_what),
    };
    pm_log_to(quiet, NULL);
    return cmocka_run_group_tests(tests, temp_open, temp_close);
}
