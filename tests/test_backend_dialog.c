// Conversations: the bundled model's golden answers word for word, what is run again and what is not, the budget of thinking, and
// every way to stop.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "chat_data.h"
#include "model_data.h"

static pm_model *model;
static const pm_dialog_options greedy; // all zero

static pm_session *open_session(uint32_t ctx) {
    pm_session *session;
    MUST(pm_session_open(model, &(pm_session_options){.ctx = ctx, .precision = PM_PRECISION_F32}, &session));
    return session;
}

typedef struct answer {
    int32_t ids[1024];
    size_t n;
    char text[8192];
} answer;

static void add_text(answer *a, pm_str text) {
    size_t n = strlen(a->text);
    snprintf(a->text + n, sizeof a->text - n, "%.*s", (int)text.n, text.p);
}

// Draws to the end of the turn, at most n ids.
static answer draw(pm_dialog *d, size_t n) {
    answer a = {.n = 0};
    pm_str text;
    while (a.n < n && (a.n == 0 || !pm_model_is_eos(model, a.ids[a.n - 1]))) {
        MUST(pm_dialog_next(d, &a.ids[a.n++], &text));
        add_text(&a, text);
    }
    MUST(pm_dialog_finish(d, &text));
    add_text(&a, text);
    return a;
}

static answer say(pm_dialog *d, const pm_chat_message *messages, int n, int thinking, pm_dialog_options options) {
    MUST(pm_dialog_start(d, messages, n, &(pm_chat_options){.add_generation_prompt = true, .enable_thinking = thinking}, &options));
    return draw(d, 512);
}

static void counts(const pm_dialog *d, uint32_t run, uint32_t reused) {
    uint32_t n_run, n_reused;
    pm_dialog_counts(d, &n_run, &n_reused);
    assert_int_equal(n_run, run);
    assert_int_equal(n_reused, reused);
}

// ---- goldens ------------------------------------------------------------------------------------------------------------

// Without <|im_end|>, which no text shows.
static int case_differs(pm_dialog *d, const cJSON *item) {
    static char expected[8192];
    conversation c = read_conversation(member(item, "messages"), member(item, "tools"), member(item, "enable_thinking"), true);
    size_t n, ids_differ;
    int32_t *ids = ids_of(item, "greedy", &n);
    MUST(pm_dialog_start(d, c.messages, c.n, &c.options, &greedy));
    answer a = draw(d, 512);
    snprintf(expected, sizeof expected, "%s", text_of(item, "text"));
    expected[strlen(expected) - strlen("<|im_end|>")] = 0;
    ids_differ = a.n != n || memcmp(a.ids, ids, n * sizeof *ids) != 0;
    free(ids);
    if (ids_differ || strcmp(a.text, expected) != 0)
        printf("answered:\n%s\nexpected:\n%s\n", a.text, expected);
    return ids_differ || strcmp(a.text, expected) != 0;
}

static void answers_word_for_word(void **state) {
    (void)state;
    cJSON *root = read_json(TINY "/golden.json");
    pm_session *session = open_session(0);
    pm_dialog *d;
    int bad = 0, n = 0;
    const cJSON *item;
    MUST(pm_dialog_open(session, 0, &d));
    cJSON_ArrayForEach(item, member(root, "cases")) { // one after another in one sequence: beginnings are shared
        n_written = 0;
        bad += case_differs(d, item);
        n++;
    }
    assert_int_equal(n, 31);
    assert_int_equal(bad, 0);
    pm_dialog_close(&d);
    pm_session_close(&session);
    cJSON_Delete(root);
}

static void sorts_the_answers(void **state) {
    (void)state;
    cJSON *root = read_json(TINY "/golden.json");
    const cJSON *item = cJSON_GetArrayItem(member(root, "cases"), 29); // the weather in Paris
    conversation c = read_conversation(member(item, "messages"), member(item, "tools"), member(item, "enable_thinking"), true);
    pm_session *session = open_session(0);
    pm_dialog *d;
    MUST(pm_dialog_open(session, 0, &d));
    MUST(pm_dialog_start(d, c.messages, c.n, &c.options, &greedy));
    draw(d, 512);
    pm_chat_message m = pm_turn_message(pm_dialog_turn(d));
    assert_string_equal(m.content, "");
    assert_null(m.reasoning_content);
    assert_int_equal(m.n_tool_calls, 1);
    assert_string_equal(m.tool_calls[0].name, "get_weather");
    assert_string_equal(m.tool_calls[0].arguments, "{\"city\": \"Paris\"}");
    pm_dialog_close(&d);
    pm_session_close(&session);
    cJSON_Delete(root);
}

// ---- what is run again ----------------------------------------------------------------------------------------------------

static void runs_only_what_is_new(void **state) {
    (void)state;
    pm_chat_message messages[3] = {{.role = "user", .content = "What is Vulkan?"}};
    pm_session *session = open_session(0);
    pm_dialog *d;
    MUST(pm_dialog_open(session, 0, &d));
    answer first = say(d, messages, 1, 0, greedy);
    counts(d, 19, 0);
    say(d, messages, 1, 0, greedy); // the same again: one id must be run to draw the next
    counts(d, 1, 18);
    // Thinking is not in what the next prompt says of this answer.
    messages[1] = (pm_chat_message){.role = "assistant", .content = first.text};
    messages[2] = (pm_chat_message){.role = "user", .content = "Who are you?"};
    char kept[8192];
    snprintf(kept, sizeof kept, "%s", first.text);
    messages[1].content = kept;
    answer second = say(d, messages, 3, -1, greedy);
    uint32_t n_run, n_reused;
    pm_dialog_counts(d, &n_run, &n_reused);
    assert_true(n_reused >= 13 && n_reused < 19);
    // A session that has not seen anything says the same.
    pm_session *fresh = open_session(0);
    pm_dialog *other;
    MUST(pm_dialog_open(fresh, 0, &other));
    answer again = say(other, messages, 3, -1, greedy);
    counts(other, n_run + n_reused, 0);
    assert_string_equal(again.text, second.text);
    pm_dialog_close(&other);
    pm_session_close(&fresh);
    pm_dialog_close(&d);
    pm_session_close(&session);
}

// With the block in the prompt of both turns the whole first answer is there already, but for what was drawn and not run.
static void keeps_the_answer_itself(void **state) {
    (void)state;
    const int32_t more[] = {198, 1255, 279, 198};
    pm_session *session = open_session(0);
    pm_dialog *d;
    cJSON *root = read_json(TINY "/golden.json");
    const cJSON *item = cJSON_GetArrayItem(member(root, "cases"), 13);
    size_t n, n_answer;
    int32_t *ids = ids_of(item, "ids", &n), *greedy_ids = ids_of(item, "greedy", &n_answer), all[256];
    memcpy(all, ids, n * sizeof *ids);
    memcpy(all + n, greedy_ids, n_answer * sizeof *ids);
    memcpy(all + n + n_answer, more, sizeof more);
    MUST(pm_dialog_open(session, 0, &d));
    MUST(pm_dialog_start_ids(d, ids, n, &greedy));
    draw(d, 512);
    MUST(pm_dialog_start_ids(d, all, n + n_answer + COUNT(more), &greedy));
    counts(d, COUNT(more) + 1, (uint32_t)(n + n_answer - 1));
    MUST(pm_dialog_end(d));
    pm_session_rewind(session, 0, 5); // by somebody else
    MUST(pm_dialog_start_ids(d, all, n, &greedy));
    counts(d, (uint32_t)n - 5, 5);
    free(ids);
    free(greedy_ids);
    cJSON_Delete(root);
    pm_dialog_close(&d);
    pm_session_close(&session);
}

// ---- thinking -------------------------------------------------------------------------------------------------------------

static void a_budget_ends_thinking(void **state) {
    (void)state;
    const pm_chat_message user = {.role = "user", .content = "How many r's in strawberry?"};
    const char *stop =
        "\n\nConsidering the limited time by the user, I have to give the solution based on the thinking directly now.\n"
        "</think>\n\n";
    pm_session *session = open_session(0);
    pm_dialog *d;
    MUST(pm_dialog_open(session, 0, &d));
    answer free_one = say(d, &user, 1, 1, greedy);
    answer a = say(d, &user, 1, 1, (pm_dialog_options){.think_budget = 6});
    assert_memory_equal(a.ids, free_one.ids, 6 * sizeof *a.ids);
    char *found = strstr(a.text, stop);
    assert_non_null(found);
    assert_true(found - a.text < 24);
    assert_true(pm_model_is_eos(model, a.ids[a.n - 1]));
    assert_null(strstr(pm_turn_content(pm_dialog_turn(d)).p, "Considering"));
    // What it says then is what it would have said to the same text.
    uint32_t pos = pm_session_pos(session, 0);
    assert_int_equal(pos, 15 + a.n - 1);
    // No budget is spent where it does not think, or stops before.
    a = say(d, &user, 1, 1, (pm_dialog_options){.think_budget = 500});
    assert_string_equal(a.text, free_one.text);
    a = say(d, &user, 1, 0, (pm_dialog_options){.think_budget = 1});
    assert_null(strstr(a.text, "Considering"));
    pm_dialog_close(&d);
    pm_session_close(&session);
}

// ---- ways to stop -----------------------------------------------------------------------------------------------------------

static void a_full_context_is_told(void **state) {
    (void)state;
    const pm_chat_message user = {.role = "user", .content = "How many r's in strawberry?"};
    const pm_chat_options chat = {.add_generation_prompt = true, .enable_thinking = -1};
    pm_session *session = open_session(20);
    pm_dialog *d;
    int32_t id;
    pm_str text;
    pm_status status = PM_OK;
    MUST(pm_dialog_open(session, 0, &d));
    for (int turn = 0; turn < 2; turn++) { // and again: nothing is broken by it
        int n = 0;
        MUST(pm_dialog_start(d, &user, 1, &chat, &greedy));
        while ((status = pm_dialog_next(d, &id, &text)) == PM_OK)
            n++;
        assert_int_equal(status, PM_ERR_CONTEXT);
        assert_int_equal(n, 6);
        MUST(pm_dialog_finish(d, &text));
    }
    MUST(pm_dialog_start(d, &user, 1, &chat, &(pm_dialog_options){.think_budget = 2})); // the early stop does not fit
    while ((status = pm_dialog_next(d, &id, &text)) == PM_OK)
        ;
    assert_int_equal(status, PM_ERR_CONTEXT);
    MUST(pm_dialog_finish(d, &text));
    const pm_chat_message longer = {.role = "user", .content = "How many r's in strawberry? How many r's in strawberry?"};
    assert_int_equal(pm_dialog_start(d, &longer, 1, &chat, &greedy), PM_ERR_CONTEXT);
    assert_non_null(strstr(pm_error_text(), "the context has room for 20"));
    assert_int_equal(pm_dialog_start_ids(d, NULL, 0, &greedy), PM_ERR_USAGE);
    MUST(pm_dialog_start(d, &user, 1, &chat, &greedy));
    counts(d, 1, 14);
    pm_dialog_close(&d);
    pm_session_close(&session);
}

static void every_allocation_may_fail(void **state) {
    (void)state;
    const pm_chat_message user = {.role = "user", .content = "hi"};
    const pm_chat_options chat = {.add_generation_prompt = true, .enable_thinking = -1};
    pm_session *session = open_session(64);
    pm_status status = PM_ERR_MEMORY;
    for (long n = 1; status != PM_OK; n++) {
        pm_dialog *d;
        pm_alloc_fail_after(n);
        status = pm_dialog_open(session, 0, &d);
        if (status == PM_OK)
            status = pm_dialog_start(d, &user, 1, &chat, &greedy);
        pm_alloc_fail_after(0);
        if (status != PM_OK && status != PM_ERR_MEMORY && status != PM_ERR_DEVICE_MEMORY)
            fail_msg("allocation %ld: %d: %s", n, status, pm_error_text());
        if (d)
            pm_dialog_end(d);
        pm_dialog_close(&d);
    }
    pm_session_close(&session);
}

int main(void) {
    int skip = open_device_or_skip();
    if (skip)
        return skip;
    MUST(pm_model_open(dev, TINY, NULL, &model));
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(answers_word_for_word),     cmocka_unit_test(sorts_the_answers),
        cmocka_unit_test(runs_only_what_is_new),     cmocka_unit_test(keeps_the_answer_itself),
        cmocka_unit_test(a_budget_ends_thinking),    cmocka_unit_test(a_full_context_is_told),
        cmocka_unit_test(every_allocation_may_fail),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    pm_model_close(&model);
    pm_device_close(&dev);
    return failed;
}
