// The messages of a chat: they grow, are taken back, saved and loaded.
#ifndef PM_APP_TALK_H
#define PM_APP_TALK_H

#include "app/messages.h"

// Zero-initialise. messages[i]'s texts live in arenas[i].
typedef struct app_talk {
    pm_chat_message *messages;
    pm_arena *arenas;
    int n, room;
} app_talk;

// Adds a copy.
pm_status app_talk_add(app_talk *talk, const pm_chat_message *message);
// Forgets the messages from n on.
void app_talk_cut(app_talk *talk, int n);
// The first message becomes this system message; an empty text takes it away.
pm_status app_talk_set_system(app_talk *talk, const char *text);
// The index of the last message of this role, -1 if there is none.
int app_talk_last(const app_talk *talk, const char *role);
void app_talk_close(app_talk *talk);

// One line of JSON as app_conversation_read takes it, and `pumice template --jsonl` too. options: the tools and the thinking.
pm_status app_talk_save(const app_talk *talk, const pm_chat_options *options, const char *path);
// Everything or nothing.
pm_status app_talk_load(app_talk *talk, const app_conversation *from);

#endif
