// An answer on its way to standard output: thinking as it stands, dimmed, folded or hidden.
#ifndef PM_APP_SHOW_H
#define PM_APP_SHOW_H

#include "app/app.h"

typedef enum app_show {
    APP_SHOW_PLAIN, // every character as the model wrote it
    APP_SHOW_DIM,   // thinking in another shade
    APP_SHOW_FOLD,  // a line on stderr tells how long it thought
    APP_SHOW_HIDE,
} app_show;

// As given on the command line, where -1 is: dim on a terminal, else plain.
app_show app_show_choose(int given);

// The row of a table of options, for a struct `type` of values with an int `field`, -1 where it is not given.
extern const char *const app_show_words[];
// clang-format off
#define APP_SHOW_OPTION(type, field, is_rare)                                                                                     \
    {.name = "--show-thinking", .value = "HOW", .help = "dim, fold, hide or plain; in a pipe it is plain", .kind = APP_WORD,      \
     .words = app_show_words, .rare = is_rare, .offset = offsetof(type, field)}
#define APP_BUDGET_OPTION(type, field, is_rare)                                                                                   \
    {.name = "--think-budget", .value = "N", .help = "end thinking after N tokens; 0: when it is done", .kind = APP_U32,          \
     .most = INT32_MAX, .rare = is_rare, .offset = offsetof(type, field)}
// clang-format on

// Zero-initialise but for `how`.
typedef struct app_view {
    app_show how;
    size_t thinking, content; // bytes of the turn that were shown
    uint32_t n_thinking;      // pieces in which it thought
    bool told;                // how long
    bool inside;              // a line is begun
    bool gone;                // nobody reads any more
} app_view;

// What one id brought: `piece` was added to the turn, which is NULL where no answer was begun.
pm_status app_view_piece(app_view *view, const pm_turn *turn, pm_str piece);
// After the last piece: tool calls, and the last line's end.
pm_status app_view_end(app_view *view, const pm_turn *turn);
pm_status app_view_write(app_view *view, const char *text, size_t n);

#endif
