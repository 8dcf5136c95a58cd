// What the tests of conversations share: messages and tools of JSON files as the renderer takes them. Include after cmocka.h.
#ifndef CHAT_DATA_H
#define CHAT_DATA_H

#include <stdarg.h>
#include <string.h>

#include "backend/chat.h"
#include "text_data.h"

// ---- JSON as Python's json.dumps(x, ensure_ascii=False) writes it --------------------------------------------------------

typedef struct writer {
    char p[8192];
    size_t n;
} writer;

static inline void put(writer *w, const char *format, ...) {
    va_list args;
    va_start(args, format);
    w->n += (size_t)vsnprintf(w->p + w->n, sizeof w->p - w->n, format, args);
    va_end(args);
    assert_true(w->n < sizeof w->p);
}

static inline void put_string(writer *w, const char *s) {
    static const char escaped[] = "\"\\\n\r\t\b\f", as[] = "\"\\nrtbf";
    put(w, "\"");
    for (; *s != 0; s++) {
        const char *found = strchr(escaped, *s);
        if (found != NULL)
            put(w, "\\%c", as[found - escaped]);
        else
            put(w, (unsigned char)*s < 32 ? "\\u%04x" : "%c", *s);
    }
    put(w, "\"");
}

static inline void put_json(writer *w, const cJSON *item) {
    if (cJSON_IsString(item)) {
        put_string(w, item->valuestring);
    } else if (cJSON_IsNumber(item)) {
        assert_true(item->valuedouble == item->valueint); // the data has no others
        put(w, "%d", item->valueint);
    } else if (cJSON_IsObject(item) || cJSON_IsArray(item)) {
        put(w, cJSON_IsObject(item) ? "{" : "[");
        for (const cJSON *child = item->child; child != NULL; child = child->next) {
            if (cJSON_IsObject(item)) {
                put_string(w, child->string);
                put(w, ": ");
            }
            put_json(w, child);
            put(w, child->next != NULL ? ", " : "");
        }
        put(w, cJSON_IsObject(item) ? "}" : "]");
    } else {
        put(w, cJSON_IsNull(item) ? "null" : cJSON_IsTrue(item) ? "true" : "false");
    }
}

static writer written[256]; // what json_text wrote lives as long as the program
static int n_written;

// A string as it is, anything else as JSON.
static inline const char *json_text(const cJSON *item) {
    if (cJSON_IsString(item))
        return item->valuestring;
    assert_true(n_written < (int)(sizeof(written) / sizeof(*written)));
    writer *w = &written[n_written++];
    w->n = 0;
    put_json(w, item);
    return w->p;
}

// ---- conversations ------------------------------------------------------------------------------------------------------

enum { ROOM = 32 };

typedef struct conversation {
    pm_chat_message messages[ROOM];
    pm_chat_tool_call calls[ROOM];
    const char *tools[ROOM];
    int n, n_calls;
    pm_chat_options options;
} conversation;

static inline void read_message(conversation *c, const cJSON *from) {
    pm_chat_message *m = &c->messages[c->n++];
    assert_true(c->n <= ROOM);
    *m = (pm_chat_message){text_of(from, "role"), text_of(from, "content"), text_of(from, "reasoning_content"),
                           &c->calls[c->n_calls], 0};
    const cJSON *call;
    cJSON_ArrayForEach(call, member(from, "tool_calls")) {
        const cJSON *function = member(call, "function");
        assert_true(c->n_calls < ROOM);
        c->calls[c->n_calls++] = (pm_chat_tool_call){text_of(function, "name"), json_text(member(function, "arguments"))};
        m->n_tool_calls++;
    }
}

static inline conversation read_conversation(const cJSON *messages, const cJSON *tools, const cJSON *thinking, bool generate) {
    static conversation c; // its own pointers point into it
    c = (conversation){
        .options = {.add_generation_prompt = generate, .enable_thinking = thinking == NULL ? -1 : cJSON_IsTrue(thinking)}};
    const cJSON *item;
    cJSON_ArrayForEach(item, messages) read_message(&c, item);
    cJSON_ArrayForEach(item, tools) c.tools[c.options.n_tools++] = json_text(item);
    c.options.tools = c.tools;
    return c;
}

#endif
