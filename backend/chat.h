// Inside the backend: what a chat template was recognised to do (chat_style.c), for who renders (chat.c), and small text tools.
#ifndef PM_CHAT_H
#define PM_CHAT_H

#include "backend/text.h"

// How the assistant's turn begins in the generation prompt.
typedef enum pm_prompt_kind {
    PM_PROMPT_PLAIN,     // Instruct-2507
    PM_PROMPT_SWITCH,    // the hybrids: an empty thinking block when enable_thinking is false
    PM_PROMPT_NO_THINK,  // qwen3_nonthinking.jinja: always the empty block
    PM_PROMPT_OPEN_THINK // Thinking-2507: the block is already open
} pm_prompt_kind;

typedef struct pm_chat_dialect {
    pm_chat_style style;
    bool history;          // thinking is kept after the last question and dropped before (last_query_index)
    bool last_block;       // the last answer has a thinking block, be it empty
    pm_prompt_kind prompt; // see above
    pm_str system;         // message of a conversation that has none, as it stands in Jinja's quotes; p NULL: none
    bool bos, trim;        // Llama 3: the text begins with its token; blanks around each message are taken off
    bool always_prompt;    // it asks for no add_generation_prompt
    bool dated;            // Llama 3.1: the system turn begins with two dates
    pm_str cutoff, date;   // "December 2023" and "26 Jul 2024"; views of the template
} pm_chat_dialect;

pm_chat_dialect pm_chat_dialect_of(pm_str template_text);

// ---- text -------------------------------------------------------------------------------------------------------------

pm_str pm_text(const char *text); // NULL is empty
bool pm_text_starts(pm_str s, const char *with);
bool pm_text_ends(pm_str s, const char *with);
bool pm_text_has(pm_str s, const char *mark);
// Cuts s at the first or the last `mark`: what stands before and behind it. False, and nothing changes, when there is none.
bool pm_text_cut(pm_str s, const char *mark, bool last, pm_str *before, pm_str *behind);

#endif
