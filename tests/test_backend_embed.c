// pm_session_embed and pm_session_rerank against what tests/make_embed_data.py computed in double precision from the same files, in
// any packing of texts into passes; models without a head; what is refused.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "backend/model.h"
#include "model_data.h"
#include "temp.h"

enum { DIM = 160, TINY_DIM = 256 };
static const char NAME[] = "qwen3-gqa5";

static void fails_with(pm_status status, pm_status wanted, const char *text) {
    if (status != wanted || !strstr(pm_error_text(), text))
        fail_msg("wanted %d with \"%s\", got %d: %s", wanted, text, status, status ? pm_error_text() : "");
}

static void embed(pm_session *session, const pm_embed_text *texts, int n, uint32_t dims, float *out) {
    if (pm_session_embed(session, texts, n, dims, out) != PM_OK)
        fail_msg("embedding %d texts: %s", n, pm_error_text());
}

static void embed_one(pm_session *session, int seq, const int32_t *ids, size_t n, float *out) {
    embed(session, &(pm_embed_text){seq, ids, n}, 1, 0, out);
}

static float *read_floats(const char *path, size_t *n) {
    char *data;
    MUST(pm_file_read(path, 1 << 20, &data, n));
    *n /= sizeof(float);
    return (float *)data;
}

// The first `dims` of a vector, of length 1.
static void unit(const float *from, uint32_t dims, float *to) {
    double squares = 0;
    for (uint32_t k = 0; k < dims; k++)
        squares += (double)from[k] * from[k];
    for (uint32_t k = 0; k < dims; k++)
        to[k] = (float)(from[k] / sqrt(squares));
}

static double cosine(const float *a, const float *b, uint32_t n) {
    double dot = 0, aa = 0, bb = 0;
    for (uint32_t k = 0; k < n; k++) {
        dot += (double)a[k] * b[k];
        aa += (double)a[k] * a[k];
        bb += (double)b[k] * b[k];
    }
    return dot / sqrt(aa * bb);
}

// Of length 1, within the bound of the greatest number, and in the same direction: 1 - cos is half the square of the error.
static void check_vector(const float *got, const float *want, uint32_t dims, double bound, const char *what, size_t which) {
    double squares = 0;
    for (uint32_t k = 0; k < dims; k++)
        squares += (double)got[k] * got[k];
    if (!(fabs(squares - 1) <= 1e-6))
        fail_msg("%s %zu: a length of %.8f", what, which, sqrt(squares));
    assert_close(got, want, dims, bound, what, which);
    double c = cosine(got, want, dims);
    if (!(1 - c <= bound * bound * dims / 2 + 1e-7))
        fail_msg("%s %zu: a cosine of %.9f", what, which, c);
}

// The golden's hidden states of the last token, and their means, by case.
static void check_checkpoint(pm_pooling pooling, pm_precision precision, double bound) {
    size_t n;
    golden g = golden_open(NAME, REFERENCE);
    float *hidden = read_floats(checkpoint_path(NAME, "hidden.f32"), &n), want[DIM], got[DIM];
    assert_int_equal(n, 2 * N_CASES * DIM);
    pm_model *model = checkpoint_open(NAME, false);
    model->config.pooling = pooling;
    pm_session *session = session_of(model, (pm_session_options){.ctx = 320, .precision = precision});
    for (size_t i = 0; i < N_CASES; i++) {
        unit(hidden + (2 * i + (pooling == PM_POOL_MEAN)) * DIM, DIM, want);
        embed_one(session, 0, g.cases[i].ids, g.cases[i].n, got);
        check_vector(got, want, DIM, bound, pooling == PM_POOL_MEAN ? "mean, case" : "last, case", i);
        assert_int_equal(pm_session_pos(session, 0), 0);
    }
    pm_session_close(&session);
    pm_model_close(&model);
    golden_close(&g);
    pm_free(hidden);
}

static void vectors_are_the_goldens(void **state) {
    (void)state;
    check_checkpoint(PM_POOL_UNSAID, PM_PRECISION_F32, BOUND_F32);
    check_checkpoint(PM_POOL_LAST, PM_PRECISION_F16, BOUND_F16);
    check_checkpoint(PM_POOL_MEAN, PM_PRECISION_F32, BOUND_F32);
    check_checkpoint(PM_POOL_MEAN, PM_PRECISION_F16, BOUND_F16);
}

// The trained model and its own tokenizer's ids.
static void texts_are_the_goldens(void **state) {
    (void)state;
    size_t n, n_floats;
    cJSON *root = read_json(PM_TEST_DATA "/embed.json");
    float *want = read_floats(PM_TEST_DATA "/embed.f32", &n_floats), got[TINY_DIM];
    pm_model *model = model_at(TINY, false);
    pm_session *session = session_of(model, (pm_session_options){.ctx = 256, .precision = PM_PRECISION_F32});
    const cJSON *texts = member(root, "texts");
    for (int i = 0; i < cJSON_GetArraySize(texts); i++) {
        int32_t *ids = ids_of(cJSON_GetArrayItem(texts, i), "ids", &n);
        embed_one(session, 0, ids, n, got);
        check_vector(got, want + (size_t)i * TINY_DIM, TINY_DIM, BOUND_F32, "text", (size_t)i);
        free(ids);
    }
    assert_int_equal(n_floats, (size_t)cJSON_GetArraySize(texts) * TINY_DIM);
    pm_session_close(&session);
    pm_model_close(&model);
    pm_free(want);
    cJSON_Delete(root);
}

// Packed: 12 texts in passes of `chunk` rows, of which `batch` can be the last of a text.
static void check_packed(pm_model *model, const golden *g, uint32_t chunk, uint32_t batch, uint32_t dims) {
    enum { N = 12 };
    static const size_t lengths[N] = {1, 7, 1, 1, 30, 2, 64, 1, 1, 1, 3, 5};
    static const int seqs[N] = {3, 1, 0, 2, 11, 4, 9, 8, 7, 6, 5, 10};
    pm_session *session = session_of(model, (pm_session_options){
                                                .ctx = 64,
                                                .n_seqs = N,
                                                .max_chunk = chunk,
                                                .max_batch = batch,
                                                .precision = PM_PRECISION_F32,
                                            });
    pm_embed_text texts[N];
    float together[N * DIM], alone[DIM], want[DIM];
    for (size_t i = 0; i < N; i++)
        texts[i] = (pm_embed_text){seqs[i], g->cases[3].ids + i, lengths[i]};
    for (int round = 0; round < 2; round++) { // recorded, then replayed
        embed(session, texts, N, dims, together);
        for (int i = 0; i < N; i++) {
            embed_one(session, (i + 5) % N, texts[i].ids, texts[i].n, alone);
            unit(alone, dims, want);
            check_vector(together + (size_t)i * dims, want, dims, BOUND_F32, "packed, text", (size_t)i);
            assert_int_equal(pm_session_pos(session, i), 0);
        }
    }
    pm_session_close(&session);
}

static void packing_changes_nothing(void **state) {
    (void)state;
    golden g = golden_open(NAME, REFERENCE);
    pm_model *model = checkpoint_open(NAME, false);
    check_packed(model, &g, 8, 8, DIM);
    check_packed(model, &g, 64, 12, 24);
    model->config.pooling = PM_POOL_MEAN;
    check_packed(model, &g, 20, 9, DIM);
    check_packed(model, &g, 64, 64, 1);
    pm_model_close(&model);
    golden_close(&g);
}

// Passes for vectors and for logits come in turn in one session, and know nothing of each other.
static void logits_stay_as_they_are(void **state) {
    (void)state;
    golden g = golden_open(NAME, REFERENCE);
    pm_model *model = checkpoint_open(NAME, false);
    pm_session *session = session_of(model, (pm_session_options){.ctx = 320, .n_seqs = 2, .precision = PM_PRECISION_F32});
    const golden_case *c = &g.cases[2];
    float before[DIM], after[DIM];
    embed_one(session, 0, c->ids, c->n, before);
    eval(session, 1, c->ids, c->n - 1);
    embed_one(session, 0, c->ids, c->n, after);
    assert_memory_equal(before, after, sizeof before);
    assert_close(eval(session, 1, c->ids + c->n - 1, 1), c->logits, g.vocab, BOUND_F32, "case", 2);
    assert_int_equal(pm_session_pos(session, 1), c->n);
    pm_session_close(&session);
    pm_model_close(&model);
    golden_close(&g);
}

static void nonsense_is_refused(void **state) {
    (void)state;
    golden g = golden_open(NAME, REFERENCE);
    pm_model *model = checkpoint_open(NAME, false);
    pm_session *session = session_of(model, (pm_session_options){.ctx = 64, .n_seqs = 2});
    int32_t ids[65];
    float out[2 * DIM];
    memcpy(ids, g.cases[3].ids, sizeof ids);
    pm_embed_text texts[2] = {{0, ids, 3}, {1, ids, 4}};
    fails_with(pm_session_embed(session, texts, 2, DIM + 1, out), PM_ERR_USAGE, "161 numbers: the model gives 160");
    texts[1].seq = 0;
    fails_with(pm_session_embed(session, texts, 2, 0, out), PM_ERR_USAGE, "texts 0 and 1 are both of sequence 0");
    texts[1].seq = 2;
    fails_with(pm_session_embed(session, texts, 2, 0, out), PM_ERR_USAGE, "no sequence 2");
    texts[1] = (pm_embed_text){1, ids, 65};
    fails_with(pm_session_embed(session, texts, 2, 0, out), PM_ERR_CONTEXT, "65 tokens does not fit");
    texts[1].n = 0;
    fails_with(pm_session_embed(session, texts, 2, 0, out), PM_ERR_USAGE, "an empty prompt");
    texts[1].n = 4;
    ids[3] = (int32_t)g.vocab;
    fails_with(pm_session_embed(session, texts, 2, 0, out), PM_ERR_USAGE, "outside the vocabulary");
    ids[3] = 1;
    eval(session, 1, ids, 2);
    fails_with(pm_session_embed(session, texts, 2, 0, out), PM_ERR_USAGE, "sequence 1 is not empty");
    assert_int_equal(pm_session_pos(session, 1), 2);
    pm_session_rewind(session, 1, 0);
    for (unsigned i = 1; i <= 5; i++) {
        pm_alloc_fail_after(i);
        fails_with(pm_session_embed(session, texts, 2, 0, out), PM_ERR_MEMORY, "no memory");
        pm_alloc_fail_after(0);
    }
    model->config.pooling = PM_POOL_FIRST;
    fails_with(pm_session_embed(session, texts, 2, 0, out), PM_ERR_UNSUPPORTED, "pools its first token");
    model->config.pooling = PM_POOL_LAST;
    embed(session, texts, 2, 0, out);
    pm_session_close(&session);
    pm_model_close(&model);
    golden_close(&g);
}

// ---- files of embedding models ----------------------------------------------------------------------------------------

// Each `from` of a file becomes `to`, of the same size.
static void rewrite(char *data, size_t size, const char *from, const char *to) {
    size_t n = strlen(from);
    for (size_t i = 0; i + n <= size; i++)
        if (memcmp(data + i, from, n) == 0)
            memcpy(data + i, to, n);
}

static void copy_changed(const char *from, const char *name, const char *const (*changes)[2], size_t n_changes) {
    char *data;
    size_t size;
    MUST(pm_file_read(from, SIZE_MAX / 4, &data, &size));
    for (size_t i = 0; i < n_changes; i++)
        rewrite(data, size, changes[i][0], changes[i][1]);
    temp_write(name, data, size);
    pm_free(data);
}

// As Qwen3-Embedding-8B has it: names without "model.", a head that is not the embedding, and no head.
static void a_model_without_head_embeds(void **state) {
    (void)state;
    static const char *const bare[][2] = {{"\"model.", "      \""}, {"\"lm_head", "\"lm_hexd"}};
    static const char *const headless[][2] = {{"\"Qwen3ForCausalLM\"", "\"Qwen3Model\"      "}};

    size_t n;
    golden g = golden_open(NAME, REFERENCE);
    float *hidden = read_floats(checkpoint_path(NAME, "hidden.f32"), &n), want[DIM], got[DIM];
    const float *logits;
    const pm_batch_row row = {0, 1};
    const pm_sampler greedy = {0};
    copy_changed(checkpoint_path(NAME, "model.safetensors"), "model.safetensors", bare, COUNT(bare));
    copy_changed(checkpoint_path(NAME, "config.json"), "config.json", headless, COUNT(headless));
    assert_true(make_folder(temp_path("1_Pooling")));
    temp_text("1_Pooling/config.json", "{\"pooling_mode_mean_tokens\": true, \"pooling_mode_lasttoken\": false}");
    pm_model *model = model_at(temp_folder, false);
    assert_true(model->config.no_head && model->config.pooling == PM_POOL_MEAN);
    pm_session *session = session_of(model, (pm_session_options){.ctx = 320, .precision = PM_PRECISION_F32});
    embed_one(session, 0, g.cases[1].ids, g.cases[1].n, got);
    unit(hidden + (size_t)3 * DIM, DIM, want);
    check_vector(got, want, DIM, BOUND_F32, "mean, case", 1);
    fails_with(pm_session_eval(session, 0, g.cases[1].ids, 2, &logits), PM_ERR_UNSUPPORTED, "has no head");
    fails_with(pm_session_eval_batch(session, &row, 1, &logits), PM_ERR_UNSUPPORTED, "has no head");
    fails_with(pm_session_start(session, 0, g.cases[1].ids, 2, &greedy), PM_ERR_UNSUPPORTED, "has no head");
    assert_int_equal(pm_session_eval(session, 0, g.cases[1].ids, 2, NULL), PM_OK);
    pm_session_close(&session);
    pm_model_close(&model);
    golden_close(&g);
    pm_free(hidden);
}

// ---- ranking ----------------------------------------------------------------------------------------------------------

// The tiny model knows "no".
static pm_model *reranker(void) {
    static const char *const words[][2] = {{"\"content\": \"<|fim_pad|>\"", "\"content\": \"yes\"        "}};
    temp_remove("1_Pooling/config.json");
    temp_copy(TINY "/model.safetensors", "model.safetensors");
    temp_copy(TINY "/config.json", "config.json");
    copy_changed(TINY "/tokenizer.json", "tokenizer.json", words, COUNT(words));
    return model_at(temp_folder, false);
}

static void ranking_is_the_golden(void **state) {
    (void)state;
    cJSON *root = read_json(PM_TEST_DATA "/embed.json");
    const cJSON *rerank = member(root, "rerank"), *documents = member(rerank, "documents");
    pm_str query = {text_of(rerank, "query"), strlen(text_of(rerank, "query"))};
    pm_model *model = reranker();
    pm_session *session = session_of(model, (pm_session_options){.ctx = 256, .precision = PM_PRECISION_F32});
    for (int i = 0; i < cJSON_GetArraySize(documents); i++) {
        const cJSON *item = cJSON_GetArrayItem(documents, i);
        pm_str document = {text_of(item, "document"), strlen(text_of(item, "document"))};
        size_t n, n_want;
        int32_t *ids, *want = ids_of(item, "ids", &n_want);
        double score, again;
        MUST(pm_rerank_prompt(pm_model_tokenizer(model), NULL, query, document, PM_ENCODE_SPECIAL, &ids, &n));
        assert_int_equal(n, n_want);
        assert_memory_equal(ids, want, n * sizeof *ids);
        pm_session_rewind(session, 0, 0);
        MUST(pm_session_rerank(session, 0, ids, n, &score));
        double golden_score = cJSON_GetNumberValue(member(item, "score"));
        // d score = score (1 - score) d logits, and logits are below 32
        if (!(fabs(score - golden_score) <= 0.25 * 2 * BOUND_F32 * 32))
            fail_msg("document %d: a score of %.6f, not %.6f", i, score, golden_score);
        pm_session_rewind(session, 0, (uint32_t)n - 9);
        MUST(pm_session_rerank(session, 0, ids + n - 9, 9, &again));
        assert_true(fabs(again - score) <= 1e-4);
        pm_free(ids);
        free(want);
    }
    pm_session_close(&session);
    pm_model_close(&model);
    cJSON_Delete(root);
}

static void no_reranker_is_told(void **state) {
    (void)state;
    double score;
    int32_t *ids, one = 1;
    size_t n;
    pm_model *model = model_at(TINY, false);
    pm_session *session = session_of(model, (pm_session_options){.ctx = 256});
    fails_with(pm_session_rerank(session, 0, &one, 1, &score), PM_ERR_UNSUPPORTED, "no token \"yes\"");
    pm_str bad = PM_STR("a\377");
    fails_with(pm_rerank_prompt(pm_model_tokenizer(model), "x", bad, bad, 0, &ids, &n), PM_ERR_USAGE, "UTF-8");
    assert_true(!ids && n == 0);
    pm_session_close(&session);
    pm_model_close(&model);
    model = checkpoint_open(NAME, false);
    session = session_of(model, (pm_session_options){.ctx = 256});
    fails_with(pm_session_rerank(session, 0, &one, 1, &score), PM_ERR_UNSUPPORTED, "without a tokenizer");
    pm_session_close(&session);
    pm_model_close(&model);
}

int main(void) {
    int skip = open_device_or_skip();
    if (skip)
        return skip;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(vectors_are_the_goldens), cmocka_unit_test(texts_are_the_goldens),
        cmocka_unit_test(packing_changes_nothing), cmocka_unit_test(logits_stay_as_they_are),
        cmocka_unit_test(nonsense_is_refused),     cmocka_unit_test(a_model_without_head_embeds),
        cmocka_unit_test(ranking_is_the_golden),   cmocka_unit_test(no_reranker_is_told),
    };
    int failed = cmocka_run_group_tests(tests, temp_open, temp_close);
    pm_device_close(&dev);
    return failed;
}
