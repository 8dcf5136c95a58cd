// The answer of `pumice run`: ids are drawn, decoded and written one by one.
#include "app/run.h"

#include <stdio.h>

typedef struct writer {
    const run_options *o;
    const pm_tokenizer *tokenizer; // NULL: the model has none
    app_view view;
    pm_loop_watch loops;
    bool warned;
} writer;

static writer open_writer(const run_options *o, const pm_model *model, const run_prompt *prompt) {
    bool plain = prompt->thinks < 0 && o->show < 0; // a text that goes on has no parts
    return (writer){.o = o, .tokenizer = pm_model_tokenizer(model), .view.how = plain ? APP_SHOW_PLAIN : app_show_choose(o->show)};
}

static bool writes_text(const writer *w) {
    return w->tokenizer && !w->o->print_ids && w->o->logprobs == APP_NOT_GIVEN;
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

static pm_status write_id(writer *w, const pm_session *session, const pm_dialog *dialog, int32_t id, pm_str text) {
    int n;
    char number[16];
    const pm_logprob *likely = pm_session_logprobs(session, &n);
    watch_loops(w, id);
    if (writes_text(w))
        return app_view_piece(&w->view, pm_dialog_turn(dialog), text);
    if (w->o->logprobs != APP_NOT_GIVEN) // what ends thinking is given, not drawn
        return n > 0 && likely[0].id == id ? run_logprobs_write(w->tokenizer, likely, n, &w->view.gone) : PM_OK;
    return app_view_write(&w->view, number, (size_t)snprintf(number, sizeof(number), w->view.inside ? " %d" : "%d", (int)id));
}

// Finishes the last character and the last line; also after a failure, whose message then has a line of its own.
static pm_status close_writer(writer *w, pm_dialog *dialog) {
    pm_str text;
    pm_status status = pm_dialog_finish(dialog, &text);
    if (status == PM_OK && writes_text(w))
        status = app_view_piece(&w->view, pm_dialog_turn(dialog), text);
    pm_status ended = app_view_end(&w->view, writes_text(w) ? pm_dialog_turn(dialog) : NULL);
    return status == PM_OK ? ended : status;
}

// ---- the loop ---------------------------------------------------------------------------------------------------------

// One id, and what it means. *more: go on.
static pm_status step(const pm_model *model, const pm_session *session, pm_dialog *dialog, writer *w, run_answer *a, bool *more) {
    pm_str text;
    *more = false;
    pm_status status = pm_dialog_next(dialog, &a->last_id, &text);
    if (status == PM_ERR_CONTEXT) {
        a->stop = RUN_STOP_CONTEXT;
        return PM_OK;
    }
    PM_TRY(status);
    a->end_ns = pm_now_ns();
    if (a->n++ == 0)
        a->first_ns = a->end_ns;
    PM_TRY(write_id(w, session, dialog, a->last_id, text));
    if (pm_dialog_is_stopped(dialog))
        a->stop = RUN_STOP_STRING;
    else if (pm_model_is_eos(model, a->last_id))
        a->stop = RUN_STOP_END;
    else if (w->view.gone)
        a->stop = RUN_STOP_READER;
    else if (app_interrupted())
        a->stop = RUN_STOP_INTERRUPTED;
    else
        *more = true;
    return PM_OK;
}

static pm_status draw(uint32_t most, const pm_model *model, const pm_session *session, pm_dialog *dialog, writer *w,
                      run_answer *a) {
    bool more = true;
    a->stop = RUN_STOP_N;
    while (more && a->n < most)
        PM_TRY(step(model, session, dialog, w, a, &more));
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

static pm_status run_all(const run_options *o, const pm_model *model, pm_session *session, pm_dialog *dialog,
                         const run_prompt *prompt, const pm_sampler *sampler, writer *w, run_answer *a) {
    pm_dialog_options how = {.sampler = *sampler,
                             .think_budget = prompt->thinks < 0 ? 0 : o->think_budget,
                             .stops = o->stops.strings,
                             .n_stops = (int)o->stops.n};
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
    PM_TRY(prompt_done(pm_dialog_start_ids(dialog, prompt->ids, prompt->n, &how), session, a));
    return a->stop == RUN_STOP_INTERRUPTED ? PM_OK : draw(o->n_tokens, model, session, dialog, w, a);
}

pm_status run_answer_write(const run_options *o, const pm_model *model, pm_session *session, const run_prompt *prompt,
                           const pm_sampler *sampler, run_answer *answer) {
    writer w = open_writer(o, model, prompt);
    pm_dialog *dialog;
    *answer = (run_answer){.last_id = -1};
    PM_TRY(pm_dialog_open(session, 0, &dialog));
    app_watch(session);
    pm_status status = run_all(o, model, session, dialog, prompt, sampler, &w, answer);
    app_watch(NULL);
    pm_status closed = close_writer(&w, dialog);
    pm_dialog_close(&dialog);
    return status == PM_OK ? closed : status;
}
