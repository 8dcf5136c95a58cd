// The answer of `pumice run`: ids are drawn, decoded and written one by one.
#include "app/run.h"

#include <stdio.h>

typedef struct writer {
    const run_options *o;
    const pm_tokenizer *tokenizer; // NULL: the model has none
    pm_utf8_stream stream;
    char *text; // room for what one id can give
    pm_stops *stops;
    char *sure;  // room for that and what was held back; both NULL where no string ends the answer
    bool inside; // a line is begun
    bool gone;   // nobody reads any more
    pm_loop_watch loops;
    bool warned;
} writer;

static bool writes_text(const writer *w) {
    return w->tokenizer && !w->o->print_ids && w->o->logprobs == APP_NOT_GIVEN;
}

static pm_status open_stops(writer *w, size_t room) {
    const app_stops *stops = &w->o->stops;
    if (stops->n == 0)
        return PM_OK;
    if (!w->tokenizer)
        return pm_fail(PM_ERR_USAGE, "--stop is about text, and the model comes without a tokenizer");
    w->sure = pm_malloc(room + PM_STOP_MAX);
    if (!w->sure)
        return pm_fail(PM_ERR_MEMORY, "no memory for the answer's text");
    return pm_stops_open(stops->strings, (int)stops->n, &w->stops);
}

static pm_status open_writer(const run_options *o, const pm_model *model, writer *w) {
    *w = (writer){.o = o, .tokenizer = pm_model_tokenizer(model)};
    size_t room = w->tokenizer ? pm_tokenizer_text_max(w->tokenizer) : 0;
    w->text = pm_malloc(room > 16 ? room : 16);
    return w->text ? open_stops(w, room) : pm_fail(PM_ERR_MEMORY, "no memory for the answer's text");
}

static pm_status write_text(writer *w, const char *text, size_t n) {
    if (n == 0 || w->gone)
        return PM_OK;
    w->inside = text[n - 1] != '\n';
    return app_write(text, n, &w->gone);
}

// Text of the answer, as far as it is sure that no stop string begins there. *stopped: one is complete.
static pm_status take_text(writer *w, size_t n, bool *stopped) {
    const char *text = w->text;
    if (w->stops) {
        *stopped = pm_stops_next(w->stops, w->text, n, w->sure, &n);
        text = w->sure;
    }
    return writes_text(w) ? write_text(w, text, n) : PM_OK;
}

// Once, and changes nothing: a table may repeat a line.
static void watch_loops(writer *w, int32_t id) {
    uint32_t block = pm_loop_watch_next(&w->loops, id);
    if (block == 0 || w->warned)
        return;
    w->warned = true;
    pm_log(PM_LOG_WARN, "the answer runs in circles: the last %u tokens came four times in a row (--presence-penalty 1.5 may help)",
           block);
}

static pm_status write_id(writer *w, const pm_session *session, int32_t id, bool *stopped) {
    int n;
    const pm_logprob *likely = pm_session_logprobs(session, &n);
    watch_loops(w, id);
    if (n > 0)
        PM_TRY(run_logprobs_write(w->tokenizer, likely, n, &w->gone));
    else if (!writes_text(w))
        PM_TRY(write_text(w, w->text, (size_t)snprintf(w->text, 16, w->inside ? " %d" : "%d", (int)id)));
    if (!w->tokenizer)
        return PM_OK;
    return take_text(w, pm_tokenizer_decode_next(w->tokenizer, &w->stream, id, PM_DECODE_SKIP_SPECIAL, w->text), stopped);
}

// What was held back: it is sure now.
static pm_status finish_text(writer *w, bool stopped) {
    if (!w->text || !writes_text(w) || stopped)
        return PM_OK;
    PM_TRY(take_text(w, pm_tokenizer_decode_end(&w->stream, w->text), &stopped));
    return w->stops && !stopped ? write_text(w, w->sure, pm_stops_end(w->stops, w->sure)) : PM_OK;
}

// Finishes the last character and the last line; also after a failure, whose message then has a line of its own.
static pm_status close_writer(writer *w, bool stopped) {
    pm_status status = finish_text(w, stopped);
    if (status == PM_OK && w->inside && !w->gone)
        status = app_write("\n", 1, &w->gone);
    pm_stops_close(&w->stops);
    pm_free(w->sure);
    pm_free(w->text);
    w->text = w->sure = NULL;
    return status;
}

// ---- the loop ---------------------------------------------------------------------------------------------------------

// One id, and what it means. *more: go on.
static pm_status step(const pm_model *model, pm_session *session, writer *w, run_answer *a, bool *more) {
    *more = false;
    pm_status status = pm_session_next(session, &a->last_id);
    if (status == PM_ERR_CONTEXT) {
        a->stop = RUN_STOP_CONTEXT;
        return PM_OK;
    }
    PM_TRY(status);
    a->end_ns = pm_now_ns();
    if (a->n++ == 0)
        a->first_ns = a->end_ns;
    bool stopped = false;
    PM_TRY(write_id(w, session, a->last_id, &stopped));
    if (stopped)
        a->stop = RUN_STOP_STRING;
    else if (pm_model_is_eos(model, a->last_id))
        a->stop = RUN_STOP_END;
    else if (w->gone)
        a->stop = RUN_STOP_READER;
    else if (app_interrupted())
        a->stop = RUN_STOP_INTERRUPTED;
    else
        *more = true;
    return PM_OK;
}

static pm_status draw(uint32_t most, const pm_model *model, pm_session *session, writer *w, run_answer *a) {
    bool more = true;
    a->stop = RUN_STOP_N;
    while (more && a->n < most)
        PM_TRY(step(model, session, w, a, &more));
    return PM_OK;
}

// Cancelled is a way to stop, not a failure.
static pm_status prompt_done(pm_status status, const pm_session *session, run_answer *a) {
    a->end_ns = a->first_ns = pm_now_ns();
    a->n_prompt = pm_session_pos(session, 0);
    if (status == PM_ERR_CANCELLED || app_interrupted())
        a->stop = RUN_STOP_INTERRUPTED;
    return status == PM_ERR_CANCELLED ? PM_OK : status;
}

// Runs the prompt for its logits, and forgets it: the answer must not depend on whether they were wanted.
static pm_status dump_logits(const char *path, const pm_model *model, pm_session *session, const run_prompt *prompt) {
    const float *logits;
    PM_TRY(pm_session_eval(session, 0, prompt->ids, prompt->n, &logits));
    PM_TRY(pm_file_write(path, logits, pm_model_config(model)->vocab_size * sizeof(*logits)));
    return PM_OK;
}

static pm_status run_all(const run_options *o, const pm_model *model, pm_session *session, const run_prompt *prompt,
                         const pm_sampler *sampler, writer *w, run_answer *a) {
    a->began_ns = pm_now_ns();
    if (o->dump_logits) {
        pm_status status = dump_logits(o->dump_logits, model, session, prompt);
        if (status != PM_OK || o->n_tokens == 0 || app_interrupted())
            return prompt_done(status, session, a);
        pm_session_rewind(session, 0, 0);
        a->began_ns = pm_now_ns();
    }
    if (o->n_tokens == 0)
        return prompt_done(pm_session_eval(session, 0, prompt->ids, prompt->n, NULL), session, a);
    pm_status status = pm_session_start(session, 0, prompt->ids, prompt->n, sampler);
    PM_TRY(prompt_done(status, session, a));
    if (a->stop == RUN_STOP_INTERRUPTED)
        return pm_session_end(session);
    PM_TRY(draw(o->n_tokens, model, session, w, a));
    return pm_session_end(session);
}

pm_status run_answer_write(const run_options *o, const pm_model *model, pm_session *session, const run_prompt *prompt,
                           const pm_sampler *sampler, run_answer *answer) {
    writer w;
    *answer = (run_answer){.last_id = -1};
    pm_status status = open_writer(o, model, &w);
    app_watch(session);
    if (status == PM_OK)
        status = run_all(o, model, session, prompt, sampler, &w, answer);
    app_watch(NULL);
    pm_status closed = close_writer(&w, answer->stop == RUN_STOP_STRING);
    return status == PM_OK ? closed : status;
}
