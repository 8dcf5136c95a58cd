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
// Reads and parses a JSON file. PM_ERR_IO, PM_ERR_USAGE (not UTF-8), PM_ERR_FILE (not JSON).
pm_status app_json_read(const char *path, cJSON **json);

// FILE of --tools: a list of tools, or an object with one under "tools", each an object with a function that has a name, as in the
// chat APIs. Fills in options.tools; *json must be freed after the conversation is closed.
pm_status app_tools_read(const char *path, app_conversation *conversation, cJSON **json);
void app_conversation_close(app_conversation *conversation);

#endif
