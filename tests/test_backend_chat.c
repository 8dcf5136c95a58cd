// Rendered conversations against what jinja2 makes of the same templates: the 30 cases of qwen3-chat.json and the 31 prompts of the
// bundled model's golden.json; then the kin of the template, and what is refused.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "backend/chat.h"
#include "tests/chat_data.h"

#define MODEL PM_TEST_DATA "/tiny-qwen3/"

static cJSON *config;
static pm_str template_text;

// ---- goldens ----------------------------------------------------------------------------------------------------------

static int differs(conversation *c, pm_str how, const char *expected) {
    char *text;
    pm_chat_format format;
    MUST(pm_chat_render(how, c->messages, c->n, &c->options, &text, &format));
    bool same = strcmp(text, expected) == 0 && format == PM_CHAT_QWEN3;
    if (!same)
        printf("rendered:\n%s\nexpected:\n%s\n", text, expected);
    pm_free(text);
    return !same;
}

static void renders_the_goldens(void **state) {
    (void)state;
    cJSON *root = read_json(PM_TEST_DATA "/qwen3-chat.json");
    int bad = 0;
    const cJSON *item;
    cJSON_ArrayForEach(item, root) {
        const cJSON *args = member(item, "args");
        conversation c = read_conversation(member(item, "messages"), member(args, "tools"), member(args, "enable_thinking"),
                                           cJSON_IsTrue(member(args, "add_generation_prompt")));
        bad += differs(&c, template_text, text_of(item, "text"));
    }
    assert_int_equal(cJSON_GetArraySize(root), 30);
    assert_int_equal(bad, 0);
    cJSON_Delete(root);
}

static void renders_the_prompts_of_the_bundled_model(void **state) {
    (void)state;
    cJSON *root = read_json(MODEL "golden.json");
    int bad = 0;
    const cJSON *item;
    cJSON_ArrayForEach(item, member(root, "cases")) {
        conversation c = read_conversation(member(item, "messages"), member(item, "tools"), member(item, "enable_thinking"), true);
        bad += differs(&c, template_text, text_of(item, "prompt"));
    }
    assert_int_equal(cJSON_GetArraySize(member(root, "cases")), 31);
    assert_int_equal(bad, 0);
    cJSON_Delete(root);
}

// ---- other families -----------------------------------------------------------------------------------------------------

static pm_chat_format format_of(const char *name) {
    static const char *const names[] = {
        [PM_CHAT_QWEN3] = "QWEN3", [PM_CHAT_QWEN2] = "QWEN2", [PM_CHAT_CHATML] = "CHATML", [PM_CHAT_LLAMA3] = "LLAMA3"};
    int i = PM_CHAT_QWEN3;
    while (strcmp(names[i], name) != 0)
        i++;
    return (pm_chat_format)i;
}

static int family_differs(const cJSON *family, const cJSON *tools, const cJSON *item) {
    pm_str how = pm_text(text_of(family, "template"));
    pm_chat_style style = pm_chat_recognise(how);
    conversation c = read_conversation(member(item, "messages"), cJSON_IsTrue(member(item, "tools")) ? tools : NULL, NULL,
                                       cJSON_IsTrue(member(item, "prompt")));
    char *text;
    MUST(pm_chat_render(how, c.messages, c.n, &c.options, &text, NULL));
    bool same = !strcmp(text, text_of(item, "text")) && !style.guessed && style.format == format_of(text_of(family, "format"));
    if (!same)
        printf("%s\nrendered:\n%s\nexpected:\n%s\n", text_of(family, "name"), text, text_of(item, "text"));
    pm_free(text);
    return !same;
}

static void renders_other_families(void **state) {
    (void)state;
    cJSON *root = read_json(PM_TEST_DATA "/templates.json");
    int bad = 0, n = 0;
    const cJSON *family, *item;
    cJSON_ArrayForEach(family, member(root, "templates")) {
        n_written = 0;
        cJSON_ArrayForEach(item, member(family, "cases")) {
            bad += family_differs(family, member(root, "tools"), item);
            n++;
        }
    }
    printf("%d renders of %d templates\n", n, cJSON_GetArraySize(member(root, "templates")));
    assert_int_equal(bad, 0);
    assert_int_equal(cJSON_GetArraySize(member(root, "templates")), 10);
    cJSON_Delete(root);
}

static void tells_who_thinks(void **state) {
    (void)state;
    cJSON *root = read_json(PM_TEST_DATA "/templates.json");
    const cJSON *family;
    assert_int_equal(pm_chat_recognise(template_text).thinking, PM_CHAT_MAY_THINK);
    cJSON_ArrayForEach(family, member(root, "templates")) {
        pm_chat_style style = pm_chat_recognise(pm_text(text_of(family, "template")));
        bool always = !strcmp(text_of(family, "name"), "qwen3-thinking-2507");
        assert_int_equal(style.thinking, always ? PM_CHAT_ALWAYS_THINKS : PM_CHAT_NEVER_THINKS);
        assert_int_equal(style.tools, !strncmp(text_of(family, "name"), "qwen", 4));
    }
    cJSON_Delete(root);
    assert_true(pm_chat_is_thinking(PM_STR("<|im_start|>assistant\n<think>\n")));
    assert_false(pm_chat_is_thinking(PM_STR("<|im_start|>assistant\n<think>\n\n</think>\n\n")));
    assert_false(pm_chat_is_thinking(PM_STR("")));
}

static void tells_strangers(void **state) {
    (void)state;
    const char *strangers[] = {
        "<|im_start|>{% if tools %}",
        "{{ bos_token }}<|im_start|>",
        "<|start_header_id|> <|eot_id|> {% if tools %}",
        "<|start_header_id|>",
        "<|start_header_id|> <|eot_id|> {{ strftime_now(\"%d\") }}",
        ("<|start_header_id|> <|eot_id|> \"Cutting Knowledge Date: x\\n\" \"Today Date: \" + date_string + \"\\n\\n\" set "
         "date_string = now()"),
        "<|im_start|>system\nBe.<|im_end|> # Tools <args-json-object> <tool_response> <think>",
    };
    for (size_t i = 0; i < sizeof strangers / sizeof *strangers; i++)
        assert_true(pm_chat_recognise(pm_text(strangers[i])).guessed);
}

// ---- the corners that the goldens leave ---------------------------------------------------------------------------------

static char *render(pm_str how, const pm_chat_message *messages, int n, pm_chat_options options) {
    static char kept[4096];
    char *text;
    MUST(pm_chat_render(how, messages, n, &options, &text, NULL));
    snprintf(kept, sizeof kept, "%s", text);
    pm_free(text);
    return kept;
}

// Expected texts of this test come from jinja2 3.1.6 and the model's own template.
static void strips_as_jinja_does(void **state) {
    (void)state;
    const pm_chat_options none = {.enable_thinking = -1};
    const pm_chat_tool_call call = {"f", "{}"};
    const struct {
        pm_chat_message last;
        const char *expected;
    } cases[] = {
        {{.content = "\n\na\n", .reasoning_content = "\n\nr\n"}, "<think>\nr\n</think>\n\na\n"},
        {{.content = "\n\na\n", .reasoning_content = "\n"}, "<think>\n\n</think>\n\na\n"},
        {{.content = "\n\na\n", .reasoning_content = ""}, "<think>\n\n</think>\n\na\n"},
        {{.content = "x<think>y<think>\n\nr\n\n</think>\n\na</think>\n\nb"}, "<think>\nr\n</think>\n\nb"},
        {{.content = "<think>only"}, "<think>\n\n</think>\n\n<think>only"},
        {{.content = "</think>"}, "<think>\n\n</think>\n\n"},
        {{.content = "\n", .tool_calls = &call, .n_tool_calls = 1},
         "<think>\n\n</think>\n\n\n<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>"},
        {{.content = "", .tool_calls = &call, .n_tool_calls = 1},
         "<think>\n\n</think>\n\n<tool_call>\n{\"name\": \"f\", \"arguments\": {}}\n</tool_call>"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        pm_chat_message messages[] = {{.role = "user", .content = "q"}, cases[i].last};
        messages[1].role = "assistant";
        char expected[512];
        snprintf(expected, sizeof expected, "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n%s<|im_end|>\n",
                 cases[i].expected);
        assert_string_equal(render(template_text, messages, 2, none), expected);
    }
}

static void takes_null_and_developer(void **state) {
    (void)state;
    const pm_chat_message messages[] = {{.role = "developer", .content = "d"}, {.role = "user"}};
    assert_string_equal(render(template_text, messages, 2, (pm_chat_options){.enable_thinking = -1}),
                        "<|im_start|>system\nd<|im_end|>\n<|im_start|>user\n<|im_end|>\n");
}

// The tail of the template is what the 2507 models and the forced non-thinking variant change.
static void knows_the_kin(void **state) {
    (void)state;
    const char *tells = "<|im_start|> # Tools <args-json-object> <tool_response> last_query_index reasoning_content ";
    const struct {
        const char *tail, *expected;
    } cases[] = {
        {"{%- if add_generation_prompt %} '<|im_start|>assistant\\n<think>\\n' }}{%- endif %}", "<think>\n"},
        {"{%- if add_generation_prompt %} '<|im_start|>assistant\\n<think>\\n\\n</think>\\n\\n' }}", "<think>\n\n</think>\n\n"},
        {"{%- if add_generation_prompt %} '<|im_start|>assistant\\n' }}{%- endif %}", ""},
    };
    const pm_chat_message user = {.role = "user", .content = "q"};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char text[512], expected[128];
        int n = snprintf(text, sizeof text, "%s%s", tells, cases[i].tail);
        snprintf(expected, sizeof expected, "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n%s", cases[i].expected);
        pm_str how = {text, (size_t)n};
        assert_int_equal(pm_chat_recognise(how).format, PM_CHAT_QWEN3);
        assert_string_equal(render(how, &user, 1, (pm_chat_options){.add_generation_prompt = true, .enable_thinking = 0}),
                            expected);
    }
}

// Instruct-2507 never thought: nothing is cut from its history, and nothing added.
static void leaves_content_alone_without_thinking(void **state) {
    (void)state;
    pm_str how = PM_STR("<|im_start|> # Tools <args-json-object> <tool_response> add_generation_prompt '<|im_start|>assistant\\n'");
    const pm_chat_message messages[] = {{.role = "user", .content = "q"}, {.role = "assistant", .content = "r</think>\n\na"}};
    assert_string_equal(render(how, messages, 2, (pm_chat_options){.enable_thinking = -1}),
                        "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\nr</think>\n\na<|im_end|>\n");
}

static void falls_back_to_chatml(void **state) {
    (void)state;
    pm_str how = PM_STR("{% for m in messages %}<|im_start|>{{ m.role }}...");
    const pm_chat_message messages[] = {{.role = "system", .content = "s"}, {.role = "assistant", .content = "a</think>b"}};
    pm_chat_options options = {.add_generation_prompt = true};
    assert_int_equal(pm_chat_recognise(how).format, PM_CHAT_CHATML);
    assert_string_equal(render(how, messages, 2, options),
                        "<|im_start|>system\ns<|im_end|>\n<|im_start|>assistant\na</think>b<|im_end|>\n<|im_start|>assistant\n");
    char *text;
    const char *tool = "{}";
    options.tools = &tool, options.n_tools = 1;
    assert_int_equal(pm_chat_render(how, messages, 2, &options, &text, NULL), PM_ERR_UNSUPPORTED);
    assert_null(text);
}

static void refuses(void **state) {
    (void)state;
    char *text;
    const pm_chat_options options = {0};
    pm_chat_message message = {.role = "user", .content = "q"};
    assert_int_equal(pm_chat_render(PM_STR(""), &message, 1, &options, &text, NULL), PM_ERR_UNSUPPORTED);
    assert_non_null(strstr(pm_error_text(), "--raw"));
    assert_int_equal(pm_chat_render((pm_str){NULL, 0}, &message, 1, &options, &text, NULL), PM_ERR_UNSUPPORTED);
    assert_int_equal(pm_chat_render(PM_STR("[INST]"), &message, 1, &options, &text, NULL), PM_ERR_UNSUPPORTED);
    assert_int_equal(pm_chat_render(template_text, &message, 0, &options, &text, NULL), PM_ERR_USAGE);
    message.role = "narrator";
    assert_int_equal(pm_chat_render(template_text, &message, 1, &options, &text, NULL), PM_ERR_USAGE);
    assert_non_null(strstr(pm_error_text(), "narrator"));
    message.role = NULL;
    assert_int_equal(pm_chat_render(template_text, &message, 1, &options, &text, NULL), PM_ERR_USAGE);
}

static void survives_failing_allocations(void **state) {
    (void)state;
    const pm_chat_message messages[] = {{.role = "system", .content = "s"}, {.role = "user", .content = "a longer question"}};
    const pm_chat_options options = {.add_generation_prompt = true};
    pm_status status = PM_ERR_MEMORY;
    long n = 0;
    while (status != PM_OK) {
        char *text;
        pm_alloc_fail_after(++n);
        status = pm_chat_render(template_text, messages, 2, &options, &text, NULL);
        pm_alloc_fail_after(0);
        assert_true(status == (text != NULL ? PM_OK : PM_ERR_MEMORY));
        pm_free(text);
    }
    assert_true(n > 2);
}

int main(void) {
    config = read_json(MODEL "tokenizer_config.json");
    const char *text = text_of(config, "chat_template");
    template_text = (pm_str){text, strlen(text)};
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(renders_the_goldens),
        cmocka_unit_test(renders_the_prompts_of_the_bundled_model),
        cmocka_unit_test(renders_other_families),
        cmocka_unit_test(tells_who_thinks),
        cmocka_unit_test(tells_strangers),
        cmocka_unit_test(strips_as_jinja_does),
        cmocka_unit_test(takes_null_and_developer),
        cmocka_unit_test(knows_the_kin),
        cmocka_unit_test(leaves_content_alone_without_thinking),
        cmocka_unit_test(falls_back_to_chatml),
        cmocka_unit_test(refuses),
        cmocka_unit_test(survives_failing_allocations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
