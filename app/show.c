#include "app/show.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

const char *const app_show_words[] = {
    [APP_SHOW_PLAIN] = "plain", [APP_SHOW_DIM] = "dim", [APP_SHOW_FOLD] = "fold", [APP_SHOW_HIDE] = "hide", NULL,
};

app_show app_show_choose(int given) {
    if (given >= 0)
        return (app_show)given;
    return pm_takes_escapes(1) ? APP_SHOW_DIM : APP_SHOW_PLAIN;
}

pm_status app_view_write(app_view *v, const char *text, size_t n) {
    if (n == 0 || v->gone)
        return PM_OK;
    v->inside = text[n - 1] != '\n';
    return app_write(text, n, &v->gone);
}

static pm_status write_text(app_view *v, const char *text) {
    return app_view_write(v, text, strlen(text));
}

// ---- thinking -----------------------------------------------------------------------------------------------------------

// In a pair of escapes for each piece: whatever stops the answer, the terminal's shade is its own again.
static pm_status dim(app_view *v, pm_str text) {
    if (text.n == 0)
        return PM_OK;
    PM_TRY(write_text(v, "\033[2m"));
    PM_TRY(app_view_write(v, text.p, text.n));
    bool inside = v->inside;
    PM_TRY(write_text(v, "\033[0m"));
    v->inside = inside;
    return PM_OK;
}

// On a terminal the line grows with the thinking.
static void fold(app_view *v, bool thinking) {
    v->n_thinking += thinking;
    if (thinking && v->n_thinking % 8 == 1 && pm_is_terminal(2))
        fprintf(stderr, "\rthinking, %" PRIu32 " tokens", v->n_thinking);
    if (thinking || v->n_thinking == 0 || v->told)
        return;
    fprintf(stderr, "%sthought for %" PRIu32 " tokens\n", pm_is_terminal(2) ? "\r" : "", v->n_thinking);
    v->told = true;
}

static pm_status show_thinking(app_view *v, const pm_turn *turn) {
    pm_str all = pm_turn_thinking(turn), added = {all.p + v->thinking, all.n - v->thinking};
    v->thinking = all.n;
    if (v->how == APP_SHOW_FOLD)
        fold(v, pm_turn_is_thinking(turn));
    return v->how == APP_SHOW_DIM ? dim(v, added) : PM_OK;
}

// ---- the rest -----------------------------------------------------------------------------------------------------------

static pm_status end_thinking(app_view *v) {
    return v->how == APP_SHOW_DIM && v->thinking > 0 && v->content == 0 ? write_text(v, v->inside ? "\n\n" : "\n") : PM_OK;
}

static pm_status show_content(app_view *v, const pm_turn *turn) {
    pm_str all = pm_turn_content(turn);
    if (all.n == v->content)
        return PM_OK;
    PM_TRY(end_thinking(v));
    PM_TRY(app_view_write(v, all.p + v->content, all.n - v->content));
    v->content = all.n;
    return PM_OK;
}

static pm_status show_call(app_view *v, const pm_chat_tool_call *call) {
    PM_TRY(write_text(v, v->inside ? "\ncall " : "call "));
    PM_TRY(write_text(v, call->name));
    PM_TRY(write_text(v, " "));
    PM_TRY(write_text(v, call->arguments));
    return write_text(v, "\n");
}

pm_status app_view_piece(app_view *v, const pm_turn *turn, pm_str piece) {
    if (v->how == APP_SHOW_PLAIN || !turn)
        return app_view_write(v, piece.p, piece.n);
    PM_TRY(show_thinking(v, turn));
    return show_content(v, turn);
}

pm_status app_view_end(app_view *v, const pm_turn *turn) {
    int n = 0;
    const pm_chat_tool_call *calls = turn && v->how != APP_SHOW_PLAIN ? pm_turn_calls(turn, &n) : NULL;
    if (v->how == APP_SHOW_FOLD)
        fold(v, false);
    if (n > 0)
        PM_TRY(end_thinking(v));
    for (int i = 0; i < n; i++)
        PM_TRY(show_call(v, &calls[i]));
    return v->inside ? write_text(v, "\n") : PM_OK;
}
