// A conversation as JSON, in the words of the chat APIs, as what the chat format renders.
#ifndef PM_APP_MESSAGES_H
#define PM_APP_MESSAGES_H

#include <cjson/cJSON.h>

#include "backend/pumice.h"
#include "host/base.h"

// Zero-initialise; close takes half-built ones. The JSON must outlive it.
typedef struct app_conversation {
    pm_chat_message *messages;
    int n;
    pm_chat_options options;
    pm_arena arena;
} app_conversation;

// {"messages": [{"role", "content", "reasoning_content", "tool_calls": [{"function": {"name", "arguments"}}]}], "tools": [...],
// "enable_thinking": true, "add_generation_prompt": false}: all but messages may be missing or null. Other members are ignored.
// PM_ERR_USAGE, naming the member, where it is not that.
pm_status app_conversation_read(const cJSON *json, app_conversation *conversation);
void app_conversation_close(app_conversation *conversation);

#endif
