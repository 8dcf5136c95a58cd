// A model's turn is sorted into thinking, content and calls, the same way in whatever pieces it comes.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "tests/chat_data.h"

typedef struct wanted {
    bool open;
    const char *text, *thinking, *content;
    const char *calls; // "name arguments|" each
} wanted;

#define CALL(inner) "<tool_call>\n" inner "\n</tool_call>"

static const wanted cases[] = {
    {false, "Hello.", "", "Hello.", ""},
    {false, "<think>\na\nb\n</think>\n\nc\nd", "a\nb", "c\nd", ""},
    {false, "\n <think>a</think>b", "a", "b", ""},
    {false, "<think>\n\n</think>\n\nb", "", "b", ""},
    {true, "a\n</think>\n\nb", "a", "b", ""},
    {true, "<think>\na</think>b", "a", "b", ""},
    {true, "never ends\n\n", "never ends", "", ""},
    {false, "<think>\nnever ends </thin", "never ends </thin", "", ""},
    {false, "<thi", "", "<thi", ""},
    {false, "a <think> b </think> c", "", "a <think> b </think> c", ""},
    {false, "<think>a</think>b</think>c", "a", "b</think>c", ""},
    {false, "", "", "", ""},
    {false, "\n\n", "", "", ""},
    {false, "a\n\n\nb\n\n", "", "a\n\n\nb", ""},
    {false, CALL("{\"name\": \"f\", \"arguments\": {\"a\": 1}}"), "", "", "f {\"a\": 1}|"},
    {false,
     "Well.\n" CALL("{\"name\": \"f\", \"arguments\": {}}") "\n" CALL(
         "{\"arguments\": {\"b\":[1, {\"name\": \"x\"}]}, \"name\": \"g\"}"),
     "", "Well.", "f {}|g {\"b\":[1, {\"name\": \"x\"}]}|"},
    {false, "a\n" CALL("{\"name\": \"f\", \"arguments\": {}}") "\nb", "", "a\nb", "f {}|"},
    // Not inside thinking.
    {false, "<think>\n" CALL("{\"name\": \"f\", \"arguments\": {}}") "\n</think>\n\nno",
     CALL("{\"name\": \"f\", \"arguments\": {}}"), "no", ""},
    {false, "<think>\nhm\n</think>\n\n" CALL("{\"name\": \"f\", \"arguments\": {\"s\": \"\\u00e4</tool\"}}"), "hm", "",
     "f {\"s\": \"\\u00e4</tool\"}|"},
    {false,
     CALL("{\"name\": \"f\\u0020g\", \"x\": 12345678901234567890, \"arguments\": {\"n\": 12345678901234567890, \"e\": 1e2}}"), "",
     "", "f g {\"n\": 12345678901234567890, \"e\": 1e2}|"},
    {false, "<tool_call>{\"name\":\"f\",\"arguments\":\"{\\\"a\\\": 1}\"}</tool_call>", "", "", "f {\"a\": 1}|"},
    // No calls.
    {false, CALL("{\"name\": \"f\"}"), "", CALL("{\"name\": \"f\"}"), ""},
    {false, CALL("{\"arguments\": {}}"), "", CALL("{\"arguments\": {}}"), ""},
    {false, CALL("{\"name\": \"\", \"arguments\": {}}"), "", CALL("{\"name\": \"\", \"arguments\": {}}"), ""},
    {false, CALL("{\"name\": 5, \"arguments\": {}}"), "", CALL("{\"name\": 5, \"arguments\": {}}"), ""},
    {false, CALL("{\"name\": \"f\", \"arguments\": 5}"), "", CALL("{\"name\": \"f\", \"arguments\": 5}"), ""},
    {false, CALL("{\"name\": \"f\", \"arguments\": \"x\"}"), "", CALL("{\"name\": \"f\", \"arguments\": \"x\"}"), ""},
    {false, CALL("{\"name\": \"f\", \"arguments\": {}"), "", CALL("{\"name\": \"f\", \"arguments\": {}"), ""},
    {false, CALL("[]"), "", CALL("[]"), ""},
    {false, CALL(""), "", CALL(""), ""},
    {false, "x\n" CALL("nonsense") "\n" CALL("{\"name\": \"f\", \"arguments\": {}}"), "", "x\n" CALL("nonsense"), "f {}|"},
    {false, "x <tool_call>\n{\"name\": \"f\", \"arguments\": {}}", "", "x <tool_call>\n{\"name\": \"f\", \"arguments\": {}}", ""},
    {false, "x <tool_cal", "", "x <tool_cal", ""},
};

static void is(pm_str got, const char *expected) {
    assert_int_equal(got.n, strlen(expected));
    assert_memory_equal(got.p, expected, got.n);
}

static void has_calls(const pm_turn *turn, const char *expected) {
    char text[512] = "";
    int n;
    const pm_chat_tool_call *calls = pm_turn_calls(turn, &n);
    for (int i = 0; i < n; i++)
        snprintf(text + strlen(text), sizeof text - strlen(text), "%s %s|", calls[i].name, calls[i].arguments);
    assert_string_equal(text, expected);
}

// In pieces of `size` bytes; what was sure before stays.
static void sort_in_pieces(const wanted *w, size_t size) {
    pm_turn *turn;
    size_t n = strlen(w->text), content = 0, thinking = 0;
    MUST(pm_turn_open(w->open, &turn));
    for (size_t at = 0; at < n; at += size) {
        MUST(pm_turn_add(turn, w->text + at, n - at < size ? n - at : size));
        assert_true(pm_turn_content(turn).n >= content && pm_turn_thinking(turn).n >= thinking);
        content = pm_turn_content(turn).n;
        thinking = pm_turn_thinking(turn).n;
        assert_memory_equal(pm_turn_content(turn).p, w->content, content);
        assert_memory_equal(pm_turn_thinking(turn).p, w->thinking, thinking);
    }
    MUST(pm_turn_end(turn));
    is(pm_turn_text(turn), w->text);
    is(pm_turn_thinking(turn), w->thinking);
    is(pm_turn_content(turn), w->content);
    has_calls(turn, w->calls);
    pm_chat_message m = pm_turn_message(turn);
    assert_string_equal(m.content, w->content);
    assert_true((m.reasoning_content == NULL) == (w->thinking[0] == 0));
    pm_turn_close(&turn);
}

static void sorts_in_any_pieces(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (size_t size = 1; size < 80; size++)
            sort_in_pieces(&cases[i], size);
}

static void tells_when_it_thinks(void **state) {
    (void)state;
    pm_turn *turn;
    MUST(pm_turn_open(true, &turn));
    assert_true(pm_turn_is_thinking(turn));
    MUST(pm_turn_add(turn, "a</think>", 9));
    assert_false(pm_turn_is_thinking(turn));
    pm_turn_close(&turn);
    MUST(pm_turn_open(false, &turn));
    assert_false(pm_turn_is_thinking(turn));
    MUST(pm_turn_add(turn, "<think>", 7));
    assert_true(pm_turn_is_thinking(turn));
    pm_turn_close(&turn);
    pm_turn_close(&turn);
}

// What is parsed out of a turn renders to what was written.
static void calls_render_as_they_were_written(void **state) {
    (void)state;
    const char *text =
        "<think>\nhm\n</think>\n\nSo.\n" CALL("{\"name\": \"f\", \"arguments\": {\"a\":  [1,2], \"z\": \"\\u4f60\"}}");
    cJSON *config = read_json(PM_TEST_DATA "/tiny-qwen3/tokenizer_config.json");
    pm_turn *turn;
    char *rendered, expected[512];
    MUST(pm_turn_open(false, &turn));
    MUST(pm_turn_add(turn, text, strlen(text)));
    MUST(pm_turn_end(turn));
    const pm_chat_message messages[] = {{.role = "user", .content = "q"}, pm_turn_message(turn)};
    MUST(pm_chat_render(pm_text(text_of(config, "chat_template")), messages, 2, &(pm_chat_options){.enable_thinking = -1},
                        &rendered, NULL));
    snprintf(expected, sizeof expected, "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n%s<|im_end|>\n", text);
    assert_string_equal(rendered, expected);
    pm_free(rendered);
    pm_turn_close(&turn);
    cJSON_Delete(config);
}

static pm_status sort_all(const char *text) {
    pm_turn *turn;
    pm_status status = pm_turn_open(false, &turn);
    for (size_t at = 0; status == PM_OK && text[at]; at++)
        status = pm_turn_add(turn, text + at, 1);
    if (status == PM_OK)
        status = pm_turn_end(turn);
    pm_turn_close(&turn);
    return status;
}

static void survives_failing_allocations(void **state) {
    (void)state;
    const char *text = "<think>hm</think>So " CALL("{\"name\": \"f\", \"arguments\": {\"a\": 1}}") CALL("{\"name\": \"f\"}");
    pm_status status = PM_ERR_MEMORY;
    long n = 0;
    while (status != PM_OK) {
        pm_alloc_fail_after(++n);
        status = sort_all(text);
        pm_alloc_fail_after(0);
        assert_true(status == PM_OK || status == PM_ERR_MEMORY);
    }
    assert_true(n > 5);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sorts_in_any_pieces),
        cmocka_unit_test(tells_when_it_thinks),
        cmocka_unit_test(calls_render_as_they_were_written),
        cmocka_unit_test(survives_failing_allocations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
