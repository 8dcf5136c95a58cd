// Private to the command `chat`: its options, its state, and the commands that begin with a slash.
#ifndef PM_APP_CHAT_H
#define PM_APP_CHAT_H

#include "app/context.h"
#include "app/line.h"
#include "app/sampling.h"
#include "app/show.h"
#include "app/talk.h"

typedef struct chat_options {
    const char *model, *system, *tools, *device;
    int think; // -1: not given; else as in pm_chat_options
    int show;  // of app_show, -1: not given
    uint32_t n_tokens, think_budget;
    float tune_seconds; // as run_options
    app_context context;
    app_sampling sampling;
    app_stops stops;
} chat_options;

// Of the last answer.
typedef struct chat_stats {
    uint32_t n_run, n_reused, n; // ids of the prompt that were run, and that were there already; ids drawn
    uint64_t began_ns, first_ns, end_ns;
    uint64_t seed; // 0: a greedy answer
    const char *stop;
} chat_stats;

typedef struct chat {
    chat_options o; // what /set changes
    pm_device *dev;
    pm_model *model;
    pm_session *session;
    pm_dialog *dialog;
    app_line *line;
    app_talk talk;
    app_conversation tools; // its options: what belongs to each prompt
    cJSON *tools_json;
    chat_stats stats;
    char *text; // that was typed, lines joined
    size_t n, room;
    bool quit, failed;
} chat;

// What a line of input asks for.
typedef enum chat_wish { CHAT_NOTHING, CHAT_ANSWER } chat_wish;

// Obeys a line that begins with a slash. A failure is told by the caller, and the chat goes on.
pm_status chat_command(chat *c, const char *line, chat_wish *wish);
// Is it one, or a text like "/no_think Who are you?"
bool chat_is_command(const char *line);

// Renders the conversation as it stands, to learn whether that can be done.
pm_status chat_check(const chat *c);
// Tools of a file; takes the place of those there are.
pm_status chat_read_tools(chat *c, const char *path);

#endif
