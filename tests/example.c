// A program that links Pumice, in C11 or C++17: example MODEL PROMPT PROMPT. Answers the first prompt as a stream of text, then
// begins both answers at once. cc example.c $(pkg-config --static --cflags --libs pumice)
#include <pumice/pumice.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct prompt {
    int32_t *ids;
    size_t n;
} prompt;

// A user's message in the model's chat format.
static pm_status encode(const pm_model *model, const char *text, prompt *p) {
    const pm_chat_message message = {"user", text, NULL, NULL, 0};
    const pm_chat_options options = {true, -1, NULL, 0};
    char *chat;
    PM_TRY(pm_chat_render(pm_model_chat_template(model), &message, 1, &options, &chat, NULL));
    pm_status status = pm_tokenizer_encode(pm_model_tokenizer(model), chat, strlen(chat), PM_ENCODE_SPECIAL, &p->ids, &p->n);
    pm_free(chat);
    return status;
}

static pm_status stream(const pm_model *model, pm_session *session, const prompt *p) {
    const pm_tokenizer *tok = pm_model_tokenizer(model);
    pm_sampler greedy;
    pm_utf8_stream utf8 = {{0, 0, 0, 0}, 0};
    char text[4096];
    memset(&greedy, 0, sizeof greedy);
    if (pm_tokenizer_text_max(tok) > sizeof text)
        return PM_ERR_UNSUPPORTED;
    PM_TRY(pm_session_start(session, 0, p->ids, p->n, &greedy));
    for (int32_t i = 0, id = -1; i < 128 && !pm_model_is_eos(model, id); i++) {
        PM_TRY(pm_session_next(session, &id));
        fwrite(text, 1, pm_tokenizer_decode_next(tok, &utf8, id, PM_DECODE_SKIP_SPECIAL, text), stdout);
        fflush(stdout);
    }
    fwrite(text, 1, pm_tokenizer_decode_end(&utf8, text), stdout);
    return pm_session_end(session);
}

// Sequence 0 holds the first prompt, sequence 1 nothing. Each pass runs one token of both.
static pm_status begin_both(const pm_tokenizer *tok, pm_session *session, const prompt p[2]) {
    pm_batch_row row[2] = {{0, p[0].ids[p[0].n - 1]}, {1, p[1].ids[p[1].n - 1]}};
    const float *logits;
    pm_session_rewind(session, 0, (uint32_t)p[0].n - 1);
    PM_TRY(pm_session_eval(session, 1, p[1].ids, p[1].n - 1, NULL));
    for (int i = 0; i < 16; i++) {
        PM_TRY(pm_session_eval_batch(session, row, 2, &logits));
        for (int seq = 0; seq < 2; seq++, logits += pm_session_logits_stride(session)) {
            row[seq].id = 0;
            for (int32_t id = 1; id < (int32_t)pm_tokenizer_n_used(tok); id++)
                row[seq].id = logits[id] > logits[row[seq].id] ? id : row[seq].id;
            printf(seq ? " %d" : "\n%d", (int)row[seq].id);
        }
    }
    return PM_OK;
}

int main(int argc, char **argv) {
    const pm_session_options options = {512, 2, 0, 0, PM_PRECISION_F16, PM_KV_DEFAULT, false};
    pm_device *dev = NULL;
    pm_model *model = NULL;
    pm_session *session = NULL;
    prompt p[2] = {{NULL, 0}, {NULL, 0}};
    if (argc != 4)
        return 2;
    bool done = pm_device_open(NULL, &dev) == PM_OK && pm_model_open(dev, argv[1], NULL, &model) == PM_OK &&
                pm_session_open(model, &options, &session) == PM_OK && encode(model, argv[2], &p[0]) == PM_OK &&
                encode(model, argv[3], &p[1]) == PM_OK && stream(model, session, &p[0]) == PM_OK &&
                begin_both(pm_model_tokenizer(model), session, p) == PM_OK;
    if (!done)
        fprintf(stderr, "%s: %s\n", argv[0], pm_error_text());
    pm_free(p[0].ids);
    pm_free(p[1].ids);
    pm_session_close(&session);
    pm_model_close(&model);
    pm_device_close(&dev);
    return !done;
}
