// Answers of a conversation in one sequence of a session. The whole conversation is rendered and encoded each time; what the
// sequence holds of it already is not run again.
#include <string.h>

#include "backend/model.h"

// What Qwen's recipe for a thinking budget appends.
static const char EARLY_STOP[] =
    "\n\nConsidering the limited time by the user, I have to give the solution based on the thinking directly now.\n</think>\n\n";

struct pm_dialog {
    pm_session *session;
    const pm_model *model;
    const pm_tokenizer *tokenizer; // NULL: ids only
    int seq;

    int32_t *held; // ids of the sequence's positions; room for the context and one drawn id more
    size_t n_held; // those that are known to have been run
    size_t n_ids;  // and those that were drawn behind them

    pm_turn *turn;
    pm_utf8_stream stream;
    char *piece; // text that one id completes
    pm_stops *stops;
    char *sure; // what of it and of what was held back can be no stop string
    bool stopped;

    pm_sampler sampler;
    uint32_t budget, n; // ids of thinking that may be drawn; ids given since start
    int32_t *early;     // the last drawn id and EARLY_STOP, to be given and run
    size_t n_early, next_early;
    uint32_t n_run, n_reused; // ids of the prompt
    bool running;

    uint32_t rope_room; // of the last start's options
    void (*rescaled)(void *user, double factor, size_t n_again);
    void *user;
};

// ---- opening ----------------------------------------------------------------------------------------------------------

static pm_status no_memory(void) {
    return pm_fail(PM_ERR_MEMORY, "no memory for a conversation's ids");
}

// Room for one id is left in front: the last one drawn.
static pm_status encode_early_stop(pm_dialog *d) {
    int32_t *ids;
    size_t n;
    PM_TRY(pm_tokenizer_encode(d->tokenizer, EARLY_STOP, sizeof(EARLY_STOP) - 1, PM_ENCODE_SPECIAL, &ids, &n));
    d->early = pm_malloc((n + 1) * sizeof(*ids));
    if (d->early) {
        memcpy(d->early + 1, ids, n * sizeof(*ids));
        d->n_early = n + 1;
    }
    pm_free(ids);
    return d->early ? PM_OK : no_memory();
}

static pm_status open_dialog(pm_dialog *d) {
    d->held = pm_malloc((pm_session_ctx(d->session) + (size_t)1) * sizeof(*d->held));
    d->piece = pm_malloc(d->tokenizer ? pm_tokenizer_text_max(d->tokenizer) : 1);
    d->sure = pm_malloc((d->tokenizer ? pm_tokenizer_text_max(d->tokenizer) : 1) + PM_STOP_MAX);
    if (!d->held || !d->piece || !d->sure)
        return no_memory();
    return d->tokenizer ? encode_early_stop(d) : PM_OK;
}

pm_status pm_dialog_open(pm_session *session, int seq, pm_dialog **dialog) {
    pm_dialog *d = *dialog = pm_calloc(1, sizeof(*d));
    if (!d)
        return no_memory();
    d->session = session;
    d->model = pm_session_model(session);
    d->tokenizer = pm_model_tokenizer(d->model);
    d->seq = seq;
    pm_status status = open_dialog(d);
    if (status != PM_OK)
        pm_dialog_close(dialog);
    return status;
}

void pm_dialog_close(pm_dialog **dialog) {
    pm_dialog *d = *dialog;
    if (!d)
        return;
    pm_turn_close(&d->turn);
    pm_stops_close(&d->stops);
    pm_free(d->held);
    pm_free(d->piece);
    pm_free(d->sure);
    pm_free(d->early);
    pm_free(d);
    *dialog = NULL;
}

// ---- the prompt -------------------------------------------------------------------------------------------------------

// The sequence may have been rewound by others, and a cancelled prompt is there in part.
static void count_held(pm_dialog *d) {
    size_t pos = pm_session_pos(d->session, d->seq);
    d->n_held = d->n_ids < pos ? d->n_ids : pos;
    d->n_ids = d->n_held;
}

// Forgets what differs from ids, and at least the last: something must be run to draw the next.
static void keep_common(pm_dialog *d, const int32_t *ids, size_t n) {
    size_t same = 0;
    count_held(d);
    while (same < d->n_held && same + 1 < n && d->held[same] == ids[same])
        same++;
    pm_session_rewind(d->session, d->seq, (uint32_t)same);
    d->n_ids = d->n_held = same;
}

// Does a prompt of ids end inside a thinking block? <think> and a newline are few tokens in any vocabulary.
static pm_status ends_thinking(const pm_dialog *d, const int32_t *ids, size_t n, bool *thinking) {
    const size_t most = 16;
    char *text;
    size_t size, count = n < most ? n : most;
    *thinking = false;
    if (!d->tokenizer)
        return PM_OK;
    PM_TRY(pm_tokenizer_decode(d->tokenizer, ids + n - count, count, 0, &text, &size));
    *thinking = pm_chat_is_thinking((pm_str){text, size});
    pm_free(text);
    return PM_OK;
}

// Starts behind the first n_before held ids, which penalties see: those from n_prompt on as drawn.
static pm_status draw_behind(pm_dialog *d, size_t n_before, size_t n_prompt, const int32_t *ids, size_t n) {
    pm_sampler sampler = d->sampler;
    sampler.history = d->held;
    sampler.n_history = n_before;
    sampler.n_history_drawn = n_before - n_prompt;
    return pm_session_start(d->session, d->seq, ids, n, &sampler);
}

// ---- the factor of YaRN -----------------------------------------------------------------------------------------------

// The least that reaches n positions and the room behind them.
static double factor_for(const pm_dialog *d, size_t n) {
    uint64_t wanted = (uint64_t)n + d->rope_room, ctx = pm_session_ctx(d->session);
    return pm_model_rope_factor(d->model, wanted < ctx ? wanted : ctx);
}

// Changes it where n positions want a larger one, or a smaller one and nothing is held: what is held was turned by the old one.
static pm_status choose_factor(pm_dialog *d, size_t n) {
    double factor = factor_for(d, n), now = pm_session_rope_factor(d->session, d->seq);
    if (d->rope_room == 0 || factor == now || (factor < now && d->n_held > 0))
        return PM_OK;
    if (factor > now && d->rescaled)
        d->rescaled(d->user, factor, d->n_held);
    pm_session_rewind(d->session, d->seq, 0);
    d->n_held = 0;
    return pm_session_set_rope_factor(d->session, d->seq, factor);
}

// Is there no room with this factor for what comes before this is asked again: the step that the device is ahead, an early stop?
static bool is_outgrown(const pm_dialog *d) {
    double reach = pm_session_rope_factor(d->session, d->seq) * pm_rope_trained_ctx(&d->model->config);
    return d->rope_room > 0 && (double)(d->n_ids + 2 + d->n_early) > reach &&
           factor_for(d, d->n_ids) > pm_session_rope_factor(d->session, d->seq);
}

// In the middle of an answer: all but the id that was drawn last is run anew, and the answer goes on from there.
static pm_status outgrow(pm_dialog *d) {
    size_t n = d->n_ids - 1;
    PM_TRY(pm_session_end(d->session));
    d->running = false;
    d->n_held = n;
    PM_TRY(choose_factor(d, d->n_ids));
    PM_TRY(pm_session_eval(d->session, d->seq, d->held, n, NULL));
    d->n_held = n;
    PM_TRY(draw_behind(d, d->n_ids, d->n_run + d->n_reused, &d->held[n], 1));
    d->running = true;
    return PM_OK;
}

// ---- a prompt and an answer -------------------------------------------------------------------------------------------

static pm_status begin_turn(pm_dialog *d, const int32_t *ids, size_t n, const pm_dialog_options *options) {
    bool thinking;
    pm_turn_close(&d->turn);
    pm_stops_close(&d->stops);
    d->stopped = false;
    if (options->n_stops > 0 && !d->tokenizer)
        return pm_fail(PM_ERR_USAGE, "stop strings are about text, and the model comes without a tokenizer");
    if (options->n_stops > 0)
        PM_TRY(pm_stops_open(options->stops, options->n_stops, &d->stops));
    d->stream = (pm_utf8_stream){.n = 0};
    PM_TRY(ends_thinking(d, ids, n, &thinking));
    return pm_turn_open(thinking, &d->turn);
}

pm_status pm_dialog_start_ids(pm_dialog *d, const int32_t *ids, size_t n, const pm_dialog_options *options) {
    uint32_t ctx = pm_session_ctx(d->session);
    PM_TRY(pm_dialog_end(d));
    if (n == 0)
        return pm_fail(PM_ERR_USAGE, "an empty prompt");
    if (n > ctx)
        return pm_fail(PM_ERR_CONTEXT, "the conversation has %zu tokens, the context has room for %u", n, ctx);
    PM_TRY(begin_turn(d, ids, n, options));
    d->sampler = options->sampler;
    d->budget = options->think_budget;
    d->n = 0;
    d->next_early = d->n_early;
    d->rope_room = options->rope_room;
    d->rescaled = options->rescaled;
    d->user = options->user;
    keep_common(d, ids, n);
    PM_TRY(choose_factor(d, n));
    size_t same = d->n_held;
    memcpy(d->held + same, ids + same, (n - same) * sizeof(*ids));
    d->n_ids = n;
    pm_status status = draw_behind(d, same, same, ids + same, n - same);
    d->running = status == PM_OK;
    d->n_reused = (uint32_t)same;
    d->n_run = pm_session_pos(d->session, d->seq) - d->n_reused;
    if (status != PM_OK)
        count_held(d);
    return status;
}

pm_status pm_dialog_start(pm_dialog *d, const pm_chat_message *messages, int n, const pm_chat_options *chat,
                          const pm_dialog_options *options) {
    char *text;
    int32_t *ids = NULL;
    size_t n_ids;
    if (!d->tokenizer)
        return pm_fail(PM_ERR_UNSUPPORTED, "the model comes without a tokenizer");
    PM_TRY(pm_chat_render(pm_model_chat_template(d->model), messages, n, chat, &text, NULL));
    pm_status status = pm_tokenizer_encode(d->tokenizer, text, strlen(text), PM_ENCODE_SPECIAL, &ids, &n_ids);
    pm_free(text);
    if (status == PM_OK)
        status = pm_dialog_start_ids(d, ids, n_ids, options);
    pm_free(ids);
    return status;
}

// ---- the answer -------------------------------------------------------------------------------------------------------

// Ends the thinking: what was drawn last and the early stop are given next, and run once they were given.
static bool is_over_budget(const pm_dialog *d, int32_t id) {
    bool spent = d->budget > 0 && d->n >= d->budget && d->next_early == d->n_early;
    return spent && d->tokenizer && d->stream.n == 0 && pm_turn_is_thinking(d->turn) && !pm_model_is_eos(d->model, id);
}

static pm_status stop_thinking(pm_dialog *d, int32_t id) {
    PM_TRY(pm_session_end(d->session));
    d->running = false;
    d->early[0] = id;
    d->next_early = 1; // the first was given
    d->budget = 0;
    return PM_OK;
}

// The next of the early stop; behind the last one the model goes on.
static pm_status give_early(pm_dialog *d, int32_t *id) {
    *id = d->early[d->next_early++];
    if (d->next_early < d->n_early)
        return PM_OK;
    PM_TRY(draw_behind(d, pm_session_pos(d->session, d->seq), d->n_run + d->n_reused, d->early, d->n_early));
    d->running = true;
    return PM_OK;
}

// The n bytes of the piece that can be no part of a stop string any more.
static pm_status take_text(pm_dialog *d, size_t n, pm_str *text) {
    *text = (pm_str){d->piece, n};
    if (d->stops) {
        d->stopped = pm_stops_next(d->stops, d->piece, n, d->sure, &n);
        *text = (pm_str){d->sure, n};
    }
    return pm_turn_add(d->turn, text->p, text->n);
}

static pm_status take(pm_dialog *d, int32_t id, pm_str *text) {
    if (d->n_ids <= pm_session_ctx(d->session))
        d->held[d->n_ids++] = id;
    d->n++;
    size_t n = d->tokenizer ? pm_tokenizer_decode_next(d->tokenizer, &d->stream, id, PM_DECODE_SKIP_SPECIAL, d->piece) : 0;
    return take_text(d, n, text);
}

pm_status pm_dialog_next(pm_dialog *d, int32_t *id, pm_str *text) {
    *text = (pm_str){"", 0};
    if (d->running && d->n > 0 && is_outgrown(d))
        PM_TRY(outgrow(d));
    if (d->next_early < d->n_early)
        PM_TRY(give_early(d, id));
    else
        PM_TRY(pm_session_next(d->session, id));
    PM_TRY(take(d, *id, text));
    return is_over_budget(d, *id) ? stop_thinking(d, *id) : PM_OK;
}

pm_status pm_dialog_finish(pm_dialog *d, pm_str *text) {
    *text = (pm_str){"", 0};
    PM_TRY(pm_dialog_end(d));
    if (!d->turn)
        return PM_OK;
    if (d->stopped)
        return pm_turn_end(d->turn);
    PM_TRY(take_text(d, pm_tokenizer_decode_end(&d->stream, d->piece), text));
    if (d->stops && !d->stopped) {
        size_t n = pm_stops_end(d->stops, d->sure + text->n);
        PM_TRY(pm_turn_add(d->turn, d->sure + text->n, n));
        text->n += n;
    }
    return pm_turn_end(d->turn);
}

bool pm_dialog_is_stopped(const pm_dialog *d) {
    return d->stopped;
}

pm_status pm_dialog_end(pm_dialog *d) {
    if (!d->running && d->next_early == d->n_early)
        return PM_OK;
    d->running = false;
    d->next_early = d->n_early;
    pm_status status = pm_session_end(d->session);
    count_held(d);
    return status;
}

const pm_turn *pm_dialog_turn(const pm_dialog *d) {
    return d->turn;
}

void pm_dialog_counts(const pm_dialog *d, uint32_t *n_run, uint32_t *n_reused) {
    *n_run = d->n_run;
    *n_reused = d->n_reused;
}
