// Text in and out of a model: the tokenizer (tokenizer.c) and the chat template (chat.c). Part of the public API, by way of
// pumice.h. All text is UTF-8; sizes are bytes.
#ifndef PM_TEXT_H
#define PM_TEXT_H

#include "host/status.h"

PM_API_BEGIN

// ---- tokenizer --------------------------------------------------------------------------------------------------------

// Byte-level BPE, as the tokenizers library runs a tokenizer.json of the GPT-2 kind. A model has one (pm_model_tokenizer). It never
// changes: several threads may encode and decode with one.
typedef struct pm_tokenizer pm_tokenizer;

typedef enum pm_encode_flags {
    PM_ENCODE_SPECIAL = 1, // added tokens found in the text (<|im_start|>, <think>) become their ids; else they are plain text
    PM_ENCODE_REPAIR = 2,  // invalid UTF-8 becomes U+FFFD; else it is PM_ERR_USAGE naming the byte offset
} pm_encode_flags;

// Encodes `size` bytes, which may contain zeros. *ids (*n of them) is the caller's to pm_free; NULL when *n is 0. Nothing is put
// before or after: a bos that the model wants is the caller's to add. PM_ERR_USAGE: not UTF-8; PM_ERR_MEMORY.
pm_status pm_tokenizer_encode(const pm_tokenizer *tok, const char *text, size_t size, unsigned flags, int32_t **ids, size_t *n);

// The bytes that one token stands for, a view into the tokenizer: often no whole character. Added tokens give their text.
// n == 0 for padding rows and for ids outside the vocabulary.
pm_str pm_tokenizer_bytes(const pm_tokenizer *tok, int32_t id);

// A control token, which plain text leaves out: <|im_end|> is one; <think> and <tool_call> are not.
bool pm_tokenizer_is_special(const pm_tokenizer *tok, int32_t id);
// False for holes and padding rows and outside the vocabulary: such an id must never be sampled.
bool pm_tokenizer_is_used(const pm_tokenizer *tok, int32_t id);
// One past the last used id: the model's logits from here on belong to padding rows.
uint32_t pm_tokenizer_n_used(const pm_tokenizer *tok);

typedef enum pm_decode_flags {
    PM_DECODE_SKIP_SPECIAL = 1, // control tokens give no text
} pm_decode_flags;

// Decodes a whole sequence. *text is the caller's to pm_free, *size bytes long and followed by a 0. It is always valid UTF-8:
// every invalid or unfinished sequence becomes one U+FFFD, as Python's errors="replace" does. PM_ERR_MEMORY.
pm_status pm_tokenizer_decode(const pm_tokenizer *tok, const int32_t *ids, size_t n, unsigned flags, char **text, size_t *size);

// The same, one token at a time. A character's bytes may be spread over tokens; the ones that wait for the rest are held here.
// Zero-initialise. The pieces put together are what pm_tokenizer_decode gives.
typedef struct pm_utf8_stream {
    uint8_t held[4]; // the beginning of a character, at most 3 bytes
    int n;
} pm_utf8_stream;

// The most bytes that one pm_tokenizer_decode_next or _end can write: allocate once, for nothing is allocated per token.
size_t pm_tokenizer_text_max(const pm_tokenizer *tok);
// Writes the text that is complete with this id to `text` (no 0 after it) and returns its size; 0 is usual.
size_t pm_tokenizer_decode_next(const pm_tokenizer *tok, pm_utf8_stream *stream, int32_t id, unsigned flags, char *text);
// At the end of the sequence: U+FFFD if a character was left unfinished. The stream is empty again after it.
size_t pm_tokenizer_decode_end(pm_utf8_stream *stream, char *text);

// ---- stop strings -----------------------------------------------------------------------------------------------------

// Looks in a text that comes piece by piece for strings that end it. What may be the beginning of one is held back until it is
// sure.
typedef struct pm_stops pm_stops;
enum { PM_STOP_MAX = 1024 }; // bytes of a string

// For n >= 1 strings of valid UTF-8, which are copied. PM_ERR_USAGE for one that is empty, too long or not UTF-8.
pm_status pm_stops_open(const char *const *strings, int n, pm_stops **stops);
void pm_stops_close(pm_stops **stops);
// Takes a piece of n bytes and writes to `out`, which has room for n + PM_STOP_MAX, the *n_out bytes that are sure now. True: a
// stop string is complete with this piece; the text ends before it and what was written is the last of it. The first one that is
// complete counts, of several that end together the longest.
bool pm_stops_next(pm_stops *stops, const char *text, size_t n, char *out, size_t *n_out);
// At the end of the text: what was held back was no stop. Writes at most PM_STOP_MAX bytes and returns how many.
size_t pm_stops_end(pm_stops *stops, char *out);

// ---- chat -------------------------------------------------------------------------------------------------------------

typedef struct pm_chat_tool_call {
    const char *name;
    const char *arguments; // JSON text, written as it is (Qwen3 was trained on Python's spacing: {"tz": "UTC", "n": 1})
} pm_chat_tool_call;

// NULL strings count as empty, except reasoning_content.
typedef struct pm_chat_message {
    const char *role; // "system" (or "developer", which means the same), "user", "assistant", "tool"
    const char *content;
    const char *reasoning_content; // assistant: the thinking, apart from content; NULL: it may stand in content, up to </think>
    const pm_chat_tool_call *tool_calls;
    int n_tool_calls;
} pm_chat_message;

typedef struct pm_chat_options {
    bool add_generation_prompt; // end with the beginning of the assistant's turn
    int enable_thinking;        // -1 not given, 0 false, 1 true: zero switches thinking off
    const char *const *tools;   // one JSON text each, on one line, in Python's spacing as above; written as they are
    int n_tools;
} pm_chat_options;

// How turns are written. QWEN2: QWEN3's without thinking, with a system message of the template's where the conversation has none.
typedef enum pm_chat_format { PM_CHAT_NONE, PM_CHAT_QWEN3, PM_CHAT_QWEN2, PM_CHAT_CHATML, PM_CHAT_LLAMA3 } pm_chat_format;

// Whether the template lets the model think: enable_thinking is obeyed by those that may.
typedef enum pm_chat_thinking { PM_CHAT_NEVER_THINKS, PM_CHAT_MAY_THINK, PM_CHAT_ALWAYS_THINKS } pm_chat_thinking;

typedef struct pm_chat_style {
    pm_chat_format format; // PM_CHAT_NONE: pm_chat_render refuses
    pm_chat_thinking thinking;
    bool tools;   // there is a place for them
    bool guessed; // the template is a stranger or does more than we know: its marks suggest the format, and this is what is used
} pm_chat_style;

// How pm_chat_render will treat this Jinja text.
pm_chat_style pm_chat_recognise(pm_str template_text);

// Renders n >= 1 messages. There is no Jinja here: templates of Qwen3's family (hybrid, Instruct-2507, Thinking-2507, forced
// non-thinking), Qwen2.5, plain ChatML (a default system message as SmolLM2's included) and Llama 3 are known by what their text
// does and are rendered natively, byte for byte; a stranger with <|im_start|> or <|start_header_id|> is taken as plain ChatML or
// Llama 3 without tools: see pm_chat_style.guessed. *format (may be NULL) is the style's. *text is 0-terminated and the caller's to
// pm_free. No template, or none of these: PM_ERR_UNSUPPORTED. Unknown roles: PM_ERR_USAGE (the templates would drop such a message
// in silence).
// Text of users is not escaped: "<|im_end|>" in it becomes a control token when the result is encoded with PM_ENCODE_SPECIAL.
pm_status pm_chat_render(pm_str template_text, const pm_chat_message *messages, int n, const pm_chat_options *options, char **text,
                         pm_chat_format *format);

// Does a rendered prompt end inside a thinking block, so that the model goes on thinking?
bool pm_chat_is_thinking(pm_str prompt);

// ---- turn -------------------------------------------------------------------------------------------------------------

// The model's turn, sorted while it is written: thinking up to </think>, then content with <tool_call> blocks taken out of it. A
// block that holds no call stays in the content as it stands; thinking that never ends is thinking. Newlines that surround a part
// belong to the format and are left out.
typedef struct pm_turn pm_turn;

// thinking: the prompt opened the block already, see pm_chat_is_thinking. PM_ERR_MEMORY, here and below.
pm_status pm_turn_open(bool thinking, pm_turn **turn);
void pm_turn_close(pm_turn **turn);

pm_status pm_turn_add(pm_turn *turn, const char *text, size_t n); // what was written next, in pieces of any size
pm_status pm_turn_end(pm_turn *turn);                             // no more will come: what was held back is sorted

// What is sure so far; it only grows. Views that live until the next add, end or close.
pm_str pm_turn_text(const pm_turn *turn); // all of it, as it was written
pm_str pm_turn_thinking(const pm_turn *turn);
pm_str pm_turn_content(const pm_turn *turn);
bool pm_turn_is_thinking(const pm_turn *turn);                             // in the block at present
const pm_chat_tool_call *pm_turn_calls(const pm_turn *turn, int *n_calls); // arguments: JSON as the model wrote it
// All as an assistant's message, whose texts are such views; without thinking reasoning_content is NULL.
pm_chat_message pm_turn_message(const pm_turn *turn);

PM_API_END
#endif
