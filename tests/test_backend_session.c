// Sessions: replay, generation, sampling, rewinding, the context's end, cancelling, and everything that must be refused.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

#include "model_data.h"
#include "temp.h"

static const char smallest[] = "qwen3-yarn";
static pm_model *model; // the smallest checkpoint
static golden gold;     // its cases
static uint32_t vocab;

static pm_session *floats(uint32_t ctx) {
    return session_of(model, (pm_session_options){.ctx = ctx, .precision = PM_PRECISION_F32});
}

static const golden_case *longest(void) {
    return &gold.cases[3]; // 300 ids
}

static void fails_with(pm_status status, pm_status wanted, const char *text) {
    if (status != wanted || !strstr(pm_error_text(), text))
        fail_msg("wanted %d with \"%s\", got %d: %s", wanted, text, status, status ? pm_error_text() : "");
}

// ---- replay -------------------------------------------------------------------------------------------------------------

// One id after another, through the class of 256 cached positions into that of 512: logits of both sessions, bit for bit.
static void compare_steps(pm_session *replayed, pm_session *recorded, size_t n) {
    int32_t id = longest()->ids[0];
    for (size_t i = 0; i < n; i++) {
        const float *a = eval(replayed, 0, &id, 1), *b = eval(recorded, 0, &id, 1);
        if (memcmp(a, b, vocab * sizeof(*a)) != 0)
            fail_msg("step %zu: replay gives other bits", i);
        id = longest()->ids[(i * 7 + 1) % longest()->n];
    }
}

static void compare_generations(pm_session *replayed, pm_session *recorded, size_t n) {
    int32_t *a = malloc(n * sizeof(*a)), *b = malloc(n * sizeof(*b));
    pm_sampler sampler = {.temperature = 1.2f, .seed = 5};
    pm_session_rewind(replayed, 0, 0);
    pm_session_rewind(recorded, 0, 0);
    generate(replayed, 0, gold.cases[1].ids, gold.cases[1].n, &sampler, a, n);
    generate(recorded, 0, gold.cases[1].ids, gold.cases[1].n, &sampler, b, n);
    assert_memory_equal(a, b, n * sizeof(*a));
    free(a);
    free(b);
}

static void check_replay(pm_model *m, pm_precision precision) {
    pm_session_options options = {.ctx = 600, .precision = precision};
    pm_session *replayed = session_of(m, options), *recorded = session_of(m, options);
    pm_session_set_replay(recorded, false);
    compare_steps(replayed, recorded, 330);
    compare_generations(replayed, recorded, 330);
    pm_session_set_replay(replayed, false); // and back: what was recorded is still good
    pm_session_set_replay(recorded, true);
    pm_session_rewind(replayed, 0, 250);
    pm_session_rewind(recorded, 0, 250);
    compare_steps(replayed, recorded, 10);
    pm_session_close(&replayed);
    pm_session_close(&recorded);
}

static void replay_gives_the_bits_of_recording(void **state) {
    (void)state;
    check_replay(model, PM_PRECISION_F32);
}

// The number of splits is part of the recording: it must change with the class.
static void replay_with_a_split_cache(void **state) {
    (void)state;
    override_device("PM_ATTEND_SPLIT", "64");
    pm_model *m = checkpoint_open(smallest, false);
    check_replay(m, PM_PRECISION_F16);
    pm_model_close(&m);
}

// Pieces change no bits: not those of recordings made when nothing is known of the device's pace, and not those made later, where
// a submission may take a millisecond.
static void pieces_of_a_pass_give_the_same_bits(void **state) {
    (void)state;
    pm_session *whole = floats(600);
    override_device("PM_SUBMIT_MS", "1");
    pm_model *m = checkpoint_open(smallest, false);
    pm_session *cut = session_of(m, (pm_session_options){.ctx = 600, .precision = PM_PRECISION_F32});
    for (int i = 0; i < 3; i++) {
        const float *a = eval(whole, 0, longest()->ids, 100 + 3 * i), *b = eval(cut, 0, longest()->ids, 100 + 3 * i);
        assert_memory_equal(a, b, vocab * sizeof(*a));
    }
    compare_generations(whole, cut, 100);
    pm_session_close(&whole);
    pm_session_close(&cut);
    pm_model_close(&m);
}

static void a_decode_step_is_few_dispatches(void **state) {
    (void)state;
    pm_session *session;
    MUST(pm_session_open(model, &(pm_session_options){.ctx = 64, .profile = true}, &session));
    eval(session, 0, longest()->ids, 16);
    eval(session, 0, longest()->ids, 1);
    int n;
    uint32_t in_layers = 0, all = 0;
    const pm_profile_row *rows = pm_session_profile(session, &n);
    for (int i = 0; i < n; i++) {
        all += rows[i].last;
        if (!strcmp(rows[i].label, "attention") || !strcmp(rows[i].label, "feed-forward"))
            in_layers += rows[i].last;
    }
    uint32_t n_layers = pm_model_config(model)->n_layers;
    assert_int_equal(in_layers, 6 * n_layers); // qkv, rope_store, attend, add, glu, add
    assert_in_range(all, in_layers + 3, in_layers + 8);
    pm_session_close(&session);
}

// ---- generation ---------------------------------------------------------------------------------------------------------

static void generation_is_eval_and_argmax(void **state) {
    (void)state;
    pm_session *session = floats(330);
    for (int i = 0; i < N_CASES; i++) {
        const golden_case *c = &gold.cases[i];
        int32_t ids[24];
        pm_session_rewind(session, 0, 0);
        generate(session, 0, c->ids, c->n, &(pm_sampler){0}, ids, c->n_greedy);
        for (size_t k = 0; k < c->n_greedy; k++)
            assert_int_equal(ids[k], c->greedy[k]);
        assert_int_equal(pm_session_pos(session, 0), c->n + c->n_greedy - 1); // the last one was drawn, not run
    }
    pm_session_close(&session);
}

// What a generation leaves behind goes on as if it had been evaluated.
static void a_generation_can_be_continued(void **state) {
    (void)state;
    const golden_case *c = &gold.cases[2];
    pm_session *session = floats(200), *plain = floats(200);
    int32_t ids[24];
    generate(session, 0, c->ids, c->n, &(pm_sampler){0}, ids, 10);
    eval(plain, 0, c->ids, c->n);
    eval(plain, 0, ids, 9);
    assert_int_equal(pm_session_pos(session, 0), pm_session_pos(plain, 0));
    assert_close(eval(session, 0, &ids[9], 1), eval(plain, 0, &ids[9], 1), vocab, BOUND_F32, "after id", 10);

    generate(session, 0, &c->greedy[11 - 1], 1, &(pm_sampler){0}, ids, 5); // the 11th as a prompt of one
    for (size_t k = 0; k < 5; k++)
        assert_int_equal(ids[k], c->greedy[11 + k]);
    pm_session_close(&session);
    pm_session_close(&plain);
}

static void a_generation_may_end_at_once(void **state) {
    (void)state;
    const golden_case *c = &gold.cases[1];
    pm_session *session = floats(64);
    int32_t id;
    assert_int_equal(pm_session_end(session), PM_OK); // there is none
    fails_with(pm_session_next(session, &id), PM_ERR_USAGE, "no generation");
    for (int round = 0; round < 3; round++) {
        pm_session_rewind(session, 0, 0);
        assert_int_equal(pm_session_start(session, 0, c->ids, c->n, &(pm_sampler){0}), PM_OK);
        assert_int_equal(pm_session_end(session), PM_OK);
        assert_int_equal(pm_session_pos(session, 0), c->n);
    }
    assert_int_equal(argmax(eval(session, 0, &c->greedy[0], 1), vocab), c->greedy[1]);
    assert_int_equal(pm_session_start(session, 0, &c->greedy[1], 1, &(pm_sampler){0}), PM_OK);
    pm_session_close(&session); // while the device draws
}

static void a_prompt_in_chunks_starts_a_generation(void **state) {
    (void)state;
    pm_session *session = session_of(model, (pm_session_options){.ctx = 330, .max_chunk = 8, .precision = PM_PRECISION_F32});
    const golden_case *c = longest();
    int32_t ids[24];
    generate(session, 0, c->ids, c->n, &(pm_sampler){0}, ids, 24);
    for (size_t k = 0; k < 24; k++)
        assert_int_equal(ids[k], c->greedy[k]);
    pm_session_close(&session);
}

// ---- sequences and rewinding --------------------------------------------------------------------------------------------

static void rewound_is_fresh(void **state) {
    (void)state;
    static const uint32_t places[] = {0, 1, 31, 32, 33, 64, 100};
    const golden_case *c = &gold.cases[3];
    pm_session *session = floats(160), *fresh = floats(160);
    for (size_t i = 0; i < COUNT(places); i++) {
        uint32_t at = places[i];
        pm_session_rewind(session, 0, 0);
        eval(session, 0, c->ids, at ? at : 1);
        pm_session_rewind(session, 0, at);
        eval(session, 0, c->ids + 150, 40);      // a wrong turn over two pages
        pm_session_rewind(session, 0, at + 500); // beyond the end: nothing
        assert_int_equal(pm_session_pos(session, 0), at + 40);
        pm_session_rewind(session, 0, at);
        pm_session_rewind(fresh, 0, 0);
        if (at)
            eval(fresh, 0, c->ids, at);
        const float *a = eval(session, 0, c->ids + at, 50), *b = eval(fresh, 0, c->ids + at, 50);
        assert_memory_equal(a, b, vocab * sizeof(*a));
    }
    pm_session_close(&session);
    pm_session_close(&fresh);
}

// Sequences take pages in turn, and one takes the pages that another gave back: neither sees the other.
static void sequences_do_not_meet(void **state) {
    (void)state;
    const golden_case *c = longest();
    pm_session *alone = floats(160);
    pm_session *shared = session_of(model, (pm_session_options){.ctx = 192, .n_seqs = 3, .precision = PM_PRECISION_F32});
    float *want = copy_of(eval(alone, 0, c->ids, 20), vocab);
    for (int i = 0; i < 5; i++) {
        free(want);
        want = copy_of(eval(alone, 0, c->ids + 20 + 20 * i, 20), vocab);
    }
    for (int round = 0; round < 2; round++) {
        pm_session_rewind(shared, 1, 0);
        eval(shared, 1, c->ids, 20);
        const float *got = NULL;
        for (int i = 0; i < 5; i++) {
            eval(shared, i % 2 ? 0 : 2, c->ids + 50 + i, 45);
            got = eval(shared, 1, c->ids + 20 + 20 * i, 20);
        }
        assert_memory_equal(got, want, vocab * sizeof(*got));
        pm_session_rewind(shared, 0, 3);
        pm_session_rewind(shared, 2, 40);
    }
    free(want);
    pm_session_close(&alone);
    pm_session_close(&shared);
}

static void sessions_do_not_meet(void **state) {
    (void)state;
    pm_session *a = floats(100), *b = floats(100);
    const golden_case *c = &gold.cases[2];
    int32_t id;
    assert_int_equal(pm_session_start(a, 0, c->ids, c->n, &(pm_sampler){0}), PM_OK);
    assert_int_equal(pm_session_start(b, 0, gold.cases[1].ids, gold.cases[1].n, &(pm_sampler){0}), PM_OK);
    for (size_t k = 0; k < 24; k++) {
        assert_int_equal(pm_session_next(a, &id), PM_OK);
        assert_int_equal(id, c->greedy[k]);
        assert_int_equal(pm_session_next(b, &id), PM_OK);
        assert_int_equal(id, gold.cases[1].greedy[k]);
    }
    pm_session_close(&b);
    assert_int_equal(pm_session_end(a), PM_OK);
    pm_session_close(&a);
}

// ---- sampling -----------------------------------------------------------------------------------------------------------

enum { N_DRAWN = 40 };

static void draw(pm_session *session, const pm_sampler *sampler, int32_t ids[N_DRAWN]) {
    pm_session_rewind(session, 0, 0);
    generate(session, 0, gold.cases[2].ids, gold.cases[2].n, sampler, ids, N_DRAWN);
}

static void a_seed_is_an_answer(void **state) {
    (void)state;
    enum { N_SEEDS = 6 };
    static const uint64_t seeds[N_SEEDS] = {0, 1, 2, 77, UINT64_C(1) << 32, UINT64_MAX};
    int32_t ids[N_SEEDS][N_DRAWN], again[N_DRAWN];
    pm_session *session = floats(128), *other = floats(200);
    for (int i = 0; i < N_SEEDS; i++) {
        pm_sampler sampler = {.temperature = 1.5f, .top_p = 0.98f, .seed = seeds[i]};
        draw(session, &sampler, ids[i]);
        draw(i % 2 ? session : other, &sampler, again);
        assert_memory_equal(ids[i], again, sizeof(again));
        for (int k = 0; k < i; k++)
            assert_memory_not_equal(ids[i], ids[k], sizeof(again));
    }
    pm_session_close(&session);
    pm_session_close(&other);
}

// How many ids are better than this one.
static uint32_t rank_of(const float *logits, int32_t id) {
    uint32_t rank = 0;
    for (uint32_t i = 0; i < vocab; i++)
        rank += logits[i] > logits[id];
    return rank;
}

// Every id that was drawn lies within the top k of the logits it was drawn from, and not all are the best.
static void check_top_k(pm_session *session, pm_session *judge, uint32_t k) {
    int32_t ids[N_DRAWN];
    uint32_t worst = 0;
    draw(session, &(pm_sampler){.temperature = 3, .top_k = k, .seed = k}, ids);
    pm_session_rewind(judge, 0, 0);
    const float *logits = eval(judge, 0, gold.cases[2].ids, gold.cases[2].n);
    for (int i = 0; i < N_DRAWN; i++) {
        uint32_t rank = rank_of(logits, ids[i]);
        if (rank >= k)
            fail_msg("id %d, drawn of the best %u, has rank %u", i, k, rank);
        worst = rank > worst ? rank : worst;
        logits = eval(judge, 0, &ids[i], 1);
    }
    if (k <= 5)
        assert_int_equal(worst, k - 1); // at this temperature all of them come
    else
        assert_true(worst > 5);
}

static void drawn_ids_are_of_the_top_k(void **state) {
    (void)state;
    static const uint32_t ks[] = {1, 2, 5, 40};
    pm_session *session = floats(128), *judge = floats(128);
    for (size_t i = 0; i < COUNT(ks); i++)
        check_top_k(session, judge, ks[i]);
    pm_session_close(&session);
    pm_session_close(&judge);
}

// Samplers that leave only the best.
static void narrow_samplers_are_greedy(void **state) {
    (void)state;
    static const pm_sampler narrow[] = {
        {.temperature = 0, .top_k = 50, .seed = 3},
        {.temperature = 2, .top_k = 1, .seed = 3},
        {.temperature = 2, .top_p = 1e-6f, .seed = 3},
        {.temperature = 2, .min_p = 1, .seed = 3},
        {.temperature = 1e-4f, .seed = 3},
        {.temperature = 1e-30f, .top_k = 20, .top_p = 0.9f, .min_p = 0.1f, .seed = 3},
        {.temperature = 1e-45f, .top_k = 20, .top_p = 0.9f, .min_p = 0.1f, .seed = 3},
    };
    const golden_case *c = &gold.cases[2];
    pm_session *session = floats(128);
    for (size_t i = 0; i < COUNT(narrow); i++) {
        int32_t ids[N_DRAWN];
        draw(session, &narrow[i], ids);
        for (size_t k = 0; k < c->n_greedy; k++)
            if (ids[k] != c->greedy[k])
                fail_msg("sampler %zu: id %zu is %d, wanted %d", i, k, (int)ids[k], (int)c->greedy[k]);
    }
    pm_session_close(&session);
}

static void bad_samplers_are_refused(void **state) {
    (void)state;
    static const pm_sampler bad[] = {
        {.temperature = -1},
        {.temperature = NAN},
        {.temperature = INFINITY},
        {.temperature = 1, .top_p = -0.5f},
        {.temperature = 1, .top_p = 1.5f},
        {.temperature = 1, .top_p = NAN},
        {.temperature = 1, .min_p = -1},
        {.temperature = 1, .min_p = 2},
        {.temperature = 1, .min_p = NAN},
    };
    pm_session *session = floats(64);
    for (size_t i = 0; i < COUNT(bad); i++) {
        fails_with(pm_session_start(session, 0, gold.cases[1].ids, 3, &bad[i]), PM_ERR_USAGE, "sampl");
        assert_int_equal(pm_session_pos(session, 0), 0);
    }
    pm_session_close(&session);
}

// The checkpoint's 320 rows under a tokenizer of 7 ids: the others are padding, though the best logits are there.
static pm_model *padded_model(void) {
    char *data;
    size_t size;
    temp_copy(checkpoint_path(smallest, "config.json"), "config.json");
    temp_copy(checkpoint_path(smallest, "model.safetensors"), "model.safetensors");
    MUST(pm_file_read(PM_TEST_DATA "/../fuzz/seeds/json/tokenizer-pairs", 1 << 20, &data, &size));
    temp_write("tokenizer.json", data + 1, size - 1);
    pm_free(data);
    return model_at(temp_path(""), false);
}

static void padding_is_never_drawn(void **state) {
    (void)state;
    static const pm_sampler samplers[] = {
        {0}, {.temperature = 1, .seed = 1}, {.temperature = 100, .top_k = 300, .seed = 2}, {.temperature = 5, .top_p = 0.9f}};
    pm_model *padded = padded_model();
    uint32_t n_used = pm_tokenizer_n_used(pm_model_tokenizer(padded));
    assert_in_range(n_used, 2, 20);
    pm_session *session = session_of(padded, (pm_session_options){.ctx = 128, .precision = PM_PRECISION_F32});
    assert_true(argmax(eval(session, 0, gold.cases[2].ids, gold.cases[2].n), vocab) >= (int32_t)n_used);
    for (size_t i = 0; i < COUNT(samplers); i++) {
        int32_t ids[N_DRAWN];
        draw(session, &samplers[i], ids);
        for (int k = 0; k < N_DRAWN; k++)
            assert_in_range(ids[k], 0, n_used - 1);
    }
    pm_session_close(&session);
    pm_model_close(&padded);
}

// ---- the context's end --------------------------------------------------------------------------------------------------

static void check_end(uint32_t ctx, uint32_t n_prompt) {
    pm_session *session = floats(ctx);
    int32_t id;
    assert_int_equal(pm_session_ctx(session), ctx);
    assert_int_equal(pm_session_start(session, 0, longest()->ids, n_prompt, &(pm_sampler){0}), PM_OK);
    for (uint32_t i = 0; i < ctx - n_prompt + 1; i++) // as many run as there is room for, and each draws one
        assert_int_equal(pm_session_next(session, &id), PM_OK);
    char full[64];
    snprintf(full, sizeof(full), "context of %u is full", ctx);
    fails_with(pm_session_next(session, &id), PM_ERR_CONTEXT, full);
    fails_with(pm_session_next(session, &id), PM_ERR_CONTEXT, full);
    assert_int_equal(pm_session_end(session), PM_OK);
    assert_int_equal(pm_session_pos(session, 0), ctx);
    fails_with(pm_session_eval(session, 0, &id, 1, NULL), PM_ERR_CONTEXT, "does not fit");
    pm_session_rewind(session, 0, ctx - 1);
    eval(session, 0, &id, 1);
    pm_session_close(&session);
}

static void a_context_ends_exactly(void **state) {
    (void)state;
    check_end(32, 20);
    check_end(33, 33);
    check_end(33, 32);
    check_end(45, 44);
    check_end(64, 1);
    check_end(8, 3);
}

static void a_prompt_beyond_the_context_is_refused(void **state) {
    (void)state;
    pm_session *session = floats(40);
    const float *logits;
    fails_with(pm_session_eval(session, 0, longest()->ids, 41, &logits), PM_ERR_CONTEXT,
               "a prompt of 41 tokens does not fit: 0 of 40");
    fails_with(pm_session_start(session, 0, longest()->ids, 41, &(pm_sampler){0}), PM_ERR_CONTEXT, "41");
    eval(session, 0, longest()->ids, 40);
    fails_with(pm_session_eval(session, 0, longest()->ids, SIZE_MAX, &logits), PM_ERR_CONTEXT, "40 of 40");
    assert_int_equal(pm_session_pos(session, 0), 40);
    pm_session_close(&session);
}

// ---- misuse -------------------------------------------------------------------------------------------------------------

static void bad_prompts_are_refused(void **state) {
    (void)state;
    pm_session *session = session_of(model, (pm_session_options){.ctx = 64, .n_seqs = 2});
    int32_t ids[3] = {1, 2, 3};
    fails_with(pm_session_eval(session, 0, ids, 0, NULL), PM_ERR_USAGE, "an empty prompt");
    fails_with(pm_session_start(session, 0, ids, 0, &(pm_sampler){0}), PM_ERR_USAGE, "an empty prompt");
    fails_with(pm_session_eval(session, 2, ids, 3, NULL), PM_ERR_USAGE, "no sequence 2");
    fails_with(pm_session_eval(session, -1, ids, 3, NULL), PM_ERR_USAGE, "no sequence -1");
    ids[2] = -1;
    fails_with(pm_session_eval(session, 0, ids, 3, NULL), PM_ERR_USAGE, "id -1 at 2 is outside the vocabulary of 320");
    ids[2] = 320;
    fails_with(pm_session_start(session, 0, ids, 3, &(pm_sampler){0}), PM_ERR_USAGE, "id 320 at 2");
    assert_int_equal(pm_session_pos(session, 0), 0);
    ids[2] = 319;
    eval(session, 1, ids, 3);
    pm_session_close(&session);
}

static void nothing_else_runs_beside_a_generation(void **state) {
    (void)state;
    const golden_case *c = &gold.cases[1];
    pm_session *session = floats(64);
    pm_batch_row row = {0, 1};
    int32_t id;
    assert_int_equal(pm_session_start(session, 0, c->ids, c->n, &(pm_sampler){0}), PM_OK);
    for (size_t k = 0; k < 10; k++) {
        fails_with(pm_session_eval(session, 0, c->ids, 1, NULL), PM_ERR_USAGE, "a generation is running");
        fails_with(pm_session_start(session, 0, c->ids, 1, &(pm_sampler){0}), PM_ERR_USAGE, "a generation is running");
        fails_with(pm_session_eval_batch(session, &row, 1, NULL), PM_ERR_USAGE, "a generation is running");
        assert_int_equal(pm_session_next(session, &id), PM_OK);
        assert_int_equal(id, c->greedy[k]);
    }
    assert_int_equal(pm_session_end(session), PM_OK);
    pm_session_close(&session);
}

// A batch is run whole or not at all: the rows before a bad one leave no trace.
static void a_bad_row_refuses_the_batch(void **state) {
    (void)state;
    pm_session *session = session_of(model, (pm_session_options){.ctx = 33, .n_seqs = 2, .precision = PM_PRECISION_F32});
    pm_batch_row rows[PM_BATCH_MAX + 1] = {{0, 1}, {1, 2}, {0, 3}, {1, 320}};
    eval(session, 0, longest()->ids, 31);
    fails_with(pm_session_eval_batch(session, rows, 4, NULL), PM_ERR_USAGE, "id 320");
    rows[3].id = 5;
    rows[3].seq = 7;
    fails_with(pm_session_eval_batch(session, rows, 4, NULL), PM_ERR_USAGE, "no sequence 7");
    rows[3].seq = 0;
    fails_with(pm_session_eval_batch(session, rows, 4, NULL), PM_ERR_CONTEXT, "33 of 33"); // two rows fit, a third does not
    fails_with(pm_session_eval_batch(session, rows, 0, NULL), PM_ERR_USAGE, "0 rows");
    fails_with(pm_session_eval_batch(session, rows, PM_BATCH_MAX + 1, NULL), PM_ERR_USAGE, "9 rows");
    assert_int_equal(pm_session_pos(session, 0), 31);
    assert_int_equal(pm_session_pos(session, 1), 0);
    assert_int_equal(pm_session_eval_batch(session, rows, 3, NULL), PM_OK);
    assert_int_equal(pm_session_pos(session, 0), 33);
    assert_int_equal(pm_session_pos(session, 1), 1);
    pm_session_close(&session);
}

// ---- cancelling ---------------------------------------------------------------------------------------------------------

static atomic_bool done;

static void *cancel_again_and_again(void *session) {
    while (!done) {
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
        pm_session_cancel(session);
    }
    return NULL;
}

// Runs the whole prompt, as often as it is cancelled from where it was; how often that was.
static int run_cancelled(pm_session *session, const golden_case *c, const float **logits) {
    int n_cancelled = 0;
    uint32_t at = 0;
    pm_session_rewind(session, 0, 0);
    while (at < c->n) {
        pm_status status = pm_session_eval(session, 0, c->ids + at, c->n - at, logits);
        uint32_t pos = pm_session_pos(session, 0);
        n_cancelled += status == PM_ERR_CANCELLED;
        if (status != PM_OK)
            fails_with(status, PM_ERR_CANCELLED, "cancelled after");
        assert_true(pos >= at && ((pos - at) % 8 == 0 || status == PM_OK));
        at = pos;
    }
    return n_cancelled;
}

// Cancelled by another thread somewhere in the prompt: the pieces make the whole.
static void a_cancelled_prompt_can_go_on(void **state) {
    (void)state;
    const golden_case *c = longest();
    pm_session *session = session_of(model, (pm_session_options){.ctx = 300, .max_chunk = 8, .precision = PM_PRECISION_F32});
    const float *logits = NULL;
    pthread_t thread;
    int n_cancelled = 0;
    done = false;
    assert_int_equal(pthread_create(&thread, NULL, cancel_again_and_again, session), 0);
    for (int round = 0; round < 1000 && n_cancelled == 0; round++) // a fast device may be through before it is cancelled
        n_cancelled = run_cancelled(session, c, &logits);
    done = true;
    pthread_join(thread, NULL);
    assert_true(n_cancelled > 0);
    assert_close(logits, c->logits, vocab, BOUND_F32, "a prompt cancelled times", (size_t)n_cancelled);
    pm_session_close(&session);
}

// ---- memory -------------------------------------------------------------------------------------------------------------

static void sessions_that_do_not_fit_are_refused(void **state) {
    (void)state;
    static const struct {
        pm_session_options options;
        pm_status status;
        const char *text;
    } cases[] = {
        {{.ctx = 1 << 24, .n_seqs = 512}, PM_ERR_DEVICE_MEMORY, "MiB too little"},
        {{.ctx = 1 << 24, .n_seqs = 1024, .precision = PM_PRECISION_F32}, PM_ERR_DEVICE_MEMORY, "a context of 16777216 needs"},
        {{.ctx = 100, .max_chunk = UINT32_MAX, .n_seqs = 1}, PM_OK, ""}, // as many rows as the context has
        {{.ctx = (1 << 24) + 1}, PM_ERR_USAGE, "a context of 16777217"},
        {{.ctx = UINT32_MAX}, PM_ERR_USAGE, "a context of 4294967295"},
        {{.ctx = 64, .n_seqs = UINT32_MAX}, PM_ERR_USAGE, "4294967295 sequences"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        pm_session *session = NULL;
        pm_status status = pm_session_open(model, &cases[i].options, &session);
        if (cases[i].status == PM_OK)
            assert_int_equal(status, PM_OK);
        else
            fails_with(status, cases[i].status, cases[i].text);
        assert_true((session != NULL) == (status == PM_OK));
        pm_session_close(&session);
    }
}

static void a_cache_beyond_one_binding_is_refused(void **state) {
    (void)state;
    override_device("PM_MAX_BINDING_BYTES", "1048576");
    pm_model *m = checkpoint_open(smallest, false);
    pm_session *session = NULL;
    fails_with(pm_session_open(m, &(pm_session_options){.ctx = 1056, .precision = PM_PRECISION_F32}, &session),
               PM_ERR_DEVICE_MEMORY, "binds");
    assert_null(session);
    assert_int_equal(pm_session_open(m, &(pm_session_options){.ctx = 1024, .precision = PM_PRECISION_F32}, &session), PM_OK);
    pm_session_close(&session);
    pm_model_close(&m);
}

// A model, a session and a few ids; whatever fails leaves nothing behind.
static pm_status whole_life(pm_session_options options) {
    pm_model *m = (pm_model *)&m;
    pm_session *session = (pm_session *)&session;
    int32_t id = 0;
    pm_status status = pm_model_open(dev, checkpoint_path(smallest, ""), NULL, &m);
    if (status != PM_OK) {
        assert_null(m);
        return status;
    }
    status = pm_session_open(m, &options, &session);
    if (status != PM_OK)
        assert_null(session);
    if (status == PM_OK)
        status = pm_session_start(session, 0, gold.cases[1].ids, gold.cases[1].n, &(pm_sampler){0});
    for (int k = 0; k < 3 && status == PM_OK; k++) {
        status = pm_session_next(session, &id);
        assert_true(status != PM_OK || id == gold.cases[1].greedy[k]);
    }
    pm_session_close(&session);
    pm_model_close(&m);
    return status;
}

// The n-th allocation and all after it fail, for every n.
static void every_allocation_may_fail(void **state) {
    (void)state;
    pm_session_options options = {.ctx = 64, .precision = PM_PRECISION_F32, .profile = true};
    assert_int_equal(whole_life(options), PM_OK);
    pm_alloc_fail_after(1000000000);
    assert_int_equal(whole_life(options), PM_OK);
    long n_allocations = pm_alloc_count();
    assert_in_range(n_allocations, 20, 100000);
    for (long n = 1; n <= n_allocations; n++) {
        pm_alloc_fail_after(n);
        pm_status status = whole_life(options);
        pm_alloc_fail_after(0);
        if (status != PM_ERR_MEMORY)
            fail_msg("allocation %ld of %ld failed: status %d: %s", n, n_allocations, status, status ? pm_error_text() : "");
    }
    assert_int_equal(whole_life(options), PM_OK);
}

// ---- profile ------------------------------------------------------------------------------------------------------------

static void a_profile_counts_dispatches(void **state) {
    (void)state;
    pm_session *session = session_of(model, (pm_session_options){.ctx = 64, .profile = true});
    int n, n_matvecs = 0;
    for (int i = 0; i < 5; i++)
        eval(session, 0, longest()->ids + i, 1);
    const pm_profile_row *rows = pm_session_profile(session, &n);
    assert_true(n >= 6);
    for (int i = 0; i < n; i++) {
        assert_true(rows[i].kernel && rows[i].label && rows[i].count % 5 == 0);
        for (int k = 0; k < i; k++)
            assert_true(strcmp(rows[i].kernel, rows[k].kernel) != 0 || strcmp(rows[i].label, rows[k].label) != 0 ||
                        strcmp(rows[i].numbers, rows[k].numbers) != 0 || rows[i].rows != rows[k].rows);
        if (!strstr(rows[i].kernel, "matvec"))
            continue;
        n_matvecs += (int)rows[i].count;
        assert_int_equal(rows[i].flops, 2 * rows[i].count * rows[i].rows * rows[i].cols);
    }
    assert_int_equal(n_matvecs, 5 * (4 * (int)pm_model_config(model)->n_layers + 1));
    pm_session_close(&session);
}

// ---- the program --------------------------------------------------------------------------------------------------------

static int open_all(void **state) {
    gold = golden_open(smallest, REFERENCE);
    vocab = gold.vocab;
    model = checkpoint_open(smallest, false);
    return temp_open(state);
}

static int close_all(void **state) {
    pm_model_close(&model);
    golden_close(&gold);
    return temp_close(state);
}

int main(void) {
    int skip = open_device_or_skip();
    if (skip)
        return skip;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(replay_gives_the_bits_of_recording),
        cmocka_unit_test_teardown(replay_with_a_split_cache, restore_device),
        cmocka_unit_test_teardown(pieces_of_a_pass_give_the_same_bits, restore_device),
        cmocka_unit_test(a_decode_step_is_few_dispatches),
        cmocka_unit_test(generation_is_eval_and_argmax),
        cmocka_unit_test(a_generation_can_be_continued),
        cmocka_unit_test(a_generation_may_end_at_once),
        cmocka_unit_test(a_prompt_in_chunks_starts_a_generation),
        cmocka_unit_test(rewound_is_fresh),
        cmocka_unit_test(sequences_do_not_meet),
        cmocka_unit_test(sessions_do_not_meet),
        cmocka_unit_test(a_seed_is_an_answer),
        cmocka_unit_test(drawn_ids_are_of_the_top_k),
        cmocka_unit_test(narrow_samplers_are_greedy),
        cmocka_unit_test(bad_samplers_are_refused),
        cmocka_unit_test(padding_is_never_drawn),
        cmocka_unit_test(a_context_ends_exactly),
        cmocka_unit_test(a_prompt_beyond_the_context_is_refused),
        cmocka_unit_test(bad_prompts_are_refused),
        cmocka_unit_test(nothing_else_runs_beside_a_generation),
        cmocka_unit_test(a_bad_row_refuses_the_batch),
        cmocka_unit_test(a_cancelled_prompt_can_go_on),
        cmocka_unit_test(sessions_that_do_not_fit_are_refused),
        cmocka_unit_test_teardown(a_cache_beyond_one_binding_is_refused, restore_device),
        cmocka_unit_test(every_allocation_may_fail),
        cmocka_unit_test(a_profile_counts_dispatches),
    };
    int failed = cmocka_run_group_tests(tests, open_all, close_all);
    pm_device_close(&dev);
    return failed;
}
