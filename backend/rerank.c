// How well a document answers a query, by a model that was trained to say yes or no to that.
#include <math.h>
#include <string.h>

#include "backend/model.h"

// ---- the question -----------------------------------------------------------------------------------------------------

// The very words the models were trained with.
static const char HEAD[] =
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    "provided. Note that the answer can only be \"yes\" or \"no\".<|im_end|>\n<|im_start|>user\n";
static const char TAIL[] = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n";
static const char USUAL_INSTRUCT[] = "Given a web search query, retrieve relevant passages that answer the query";

static char *put(char *to, pm_str text) {
    if (text.n)
        memcpy(to, text.p, text.n);
    return to + text.n;
}

// "<Instruct>: ...\n<Query>: ...\n<Document>: ..."; NULL without memory.
static char *middle_of(const char *instruct, pm_str query, pm_str document, size_t *size) {
    const pm_str parts[] = {
        PM_STR("<Instruct>: "), {instruct, strlen(instruct)}, PM_STR("\n<Query>: "), query, PM_STR("\n<Document>: "), document,
    };
    enum { N = sizeof parts / sizeof *parts };
    *size = 0;
    for (int i = 0; i < N; i++)
        *size += parts[i].n;
    char *text = pm_malloc(*size + 1), *to = text;
    for (int i = 0; text && i < N; i++)
        to = put(to, parts[i]);
    return text;
}

// Each piece is encoded by itself, as the models' authors do: no token crosses from one to the other.
typedef struct pieces {
    int32_t *ids[3];
    size_t n[3];
} pieces;

static pm_status encode_pieces(const pm_tokenizer *tok, const char *middle, size_t size, unsigned flags, pieces *p) {
    PM_TRY(pm_tokenizer_encode(tok, HEAD, strlen(HEAD), PM_ENCODE_SPECIAL, &p->ids[0], &p->n[0]));
    PM_TRY(pm_tokenizer_encode(tok, middle, size, flags, &p->ids[1], &p->n[1]));
    return pm_tokenizer_encode(tok, TAIL, strlen(TAIL), PM_ENCODE_SPECIAL, &p->ids[2], &p->n[2]);
}

static pm_status join(const pieces *p, int32_t **ids, size_t *n) {
    *ids = pm_calloc(p->n[0] + p->n[1] + p->n[2], sizeof **ids);
    if (!*ids)
        return pm_fail(PM_ERR_MEMORY, "no memory for a prompt of %zu tokens", p->n[0] + p->n[1] + p->n[2]);
    for (int i = 0; i < 3; i++) {
        if (p->n[i])
            memcpy(*ids + *n, p->ids[i], p->n[i] * sizeof **ids);
        *n += p->n[i];
    }
    return PM_OK;
}

pm_status pm_rerank_prompt(const pm_tokenizer *tok, const char *instruct, pm_str query, pm_str document, unsigned flags,
                           int32_t **ids, size_t *n) {
    pieces p = {{NULL}, {0}};
    size_t size;
    *ids = NULL;
    *n = 0;
    char *middle = middle_of(instruct ? instruct : USUAL_INSTRUCT, query, document, &size);
    pm_status status = middle ? encode_pieces(tok, middle, size, flags, &p) : pm_fail(PM_ERR_MEMORY, "no memory for a document");
    if (status == PM_OK)
        status = join(&p, ids, n);
    for (int i = 0; i < 3; i++)
        pm_free(p.ids[i]);
    pm_free(middle);
    return status;
}

// ---- the answer -------------------------------------------------------------------------------------------------------

// Of the first against the second.
static double softmax_of_two(double yes, double no) {
    return 1 / (1 + exp(no - yes));
}

static pm_status find_word(const pm_tokenizer *tok, const char *word, int32_t *id) {
    int32_t *ids;
    size_t n;
    PM_TRY(pm_tokenizer_encode(tok, word, strlen(word), PM_ENCODE_SPECIAL, &ids, &n));
    *id = n == 1 ? ids[0] : -1;
    pm_free(ids);
    return n == 1 ? PM_OK : pm_fail(PM_ERR_UNSUPPORTED, "the vocabulary has no token \"%s\": it is no reranker's", word);
}

static pm_status ask_head(pm_session *s, int seq, const int32_t *ids, size_t n, double *score) {
    const pm_tokenizer *tok = pm_model_tokenizer(pm_session_model(s));
    const float *logits;
    int32_t yes, no;
    if (!tok)
        return pm_fail(PM_ERR_UNSUPPORTED, "the model comes without a tokenizer: nobody knows its \"yes\" and \"no\"");
    PM_TRY(find_word(tok, "yes", &yes));
    PM_TRY(find_word(tok, "no", &no));
    PM_TRY(pm_session_eval(s, seq, ids, n, &logits));
    *score = softmax_of_two(logits[yes], logits[no]);
    return PM_OK;
}

// Files made for ranking may keep these two rows of the head alone, "yes" first.
static const char CLASSIFIER[] = "cls.output.weight";

static void classify(const pm_model *m, const pm_tensor_view *classifier, const pm_hidden_rows *hidden, double *row, float *weights,
                     double *score) {
    double sums[2] = {0, 0};
    uint32_t dim = m->config.dim;
    pm_hidden_row(m, hidden, 0, row);
    pm_dequant(classifier->dtype, classifier->data, weights, 2 * (size_t)dim);
    for (uint32_t k = 0; k < 2 * dim; k++)
        sums[k / dim] += row[k % dim] * weights[k];
    *score = softmax_of_two(sums[0], sums[1]);
}

static pm_status ask_classifier(pm_session *s, const pm_tensor_view *classifier, int seq, const int32_t *ids, size_t n,
                                double *score) {
    const pm_model *m = pm_session_model(s);
    uint32_t dim = m->config.dim, first = 0;
    pm_hidden_rows hidden;
    if (classifier->n_dims != 2 || classifier->dims[0] != 2 || classifier->dims[1] != dim)
        return pm_fail(PM_ERR_UNSUPPORTED, "%s is not (2, %u): the model ranks in a way that we do not know", CLASSIFIER, dim);
    PM_TRY(pm_session_check(s, seq, ids, n));
    if (n > 1)
        PM_TRY(pm_session_eval(s, seq, ids, n - 1, NULL));
    PM_TRY(pm_session_eval_hidden(s, &(pm_batch_row){.seq = seq, .id = ids[n - 1]}, 1, &first, 1, &hidden));
    double *row = pm_calloc(dim, sizeof *row);
    float *weights = pm_calloc(2 * (size_t)dim, sizeof *weights);
    if (row && weights)
        classify(m, classifier, &hidden, row, weights, score);
    bool done = row && weights;
    pm_free(row);
    pm_free(weights);
    return done ? PM_OK : pm_fail(PM_ERR_MEMORY, "no memory to rank");
}

pm_status pm_session_rerank(pm_session *s, int seq, const int32_t *ids, size_t n, double *score) {
    const pm_tensor_view *classifier = pm_file_find(pm_session_model(s)->file, CLASSIFIER);
    return classifier ? ask_classifier(s, classifier, seq, ids, n, score) : ask_head(s, seq, ids, n, score);
}
