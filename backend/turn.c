// Splits what a model writes in its turn, as it comes, into thinking, content and tool calls.
#include "backend/chat.h"
#include "host/base.h"
#include "loader/loader.h"

#include <string.h>

static const char THINK[] = "<think>", END_THINK[] = "</think>", CALL[] = "<tool_call>", END_CALL[] = "</tool_call>";

typedef enum state {
    AT_BEGIN, // blanks so far: a thinking block may follow
    IN_THINKING,
    IN_CONTENT,
    IN_CALL, // behind its opening
} state;

// A growing text, a 0 behind it. Newlines wait until something follows them: around a part they belong to the format.
typedef struct part {
    char *p;
    size_t n, room, newlines;
} part;

struct pm_turn {
    state state;
    bool begun_open; // the prompt opened the thinking block
    part all, thinking, content;
    size_t at;   // of all: what stands before is sorted
    size_t scan; // no mark begins before
    pm_chat_tool_call *calls;
    int n_calls, call_room;
    pm_arena arena;
};

static pm_status no_memory(void) {
    return pm_fail(PM_ERR_MEMORY, "no memory for the model's turn");
}

// ---- parts ------------------------------------------------------------------------------------------------------------

static pm_status make_room(part *to, size_t n) {
    size_t wanted = to->n + n + 1;
    if (wanted <= to->room)
        return PM_OK;
    char *p = pm_realloc(to->p, wanted * 2);
    if (!p)
        return no_memory();
    to->p = p;
    to->room = wanted * 2;
    return PM_OK;
}

static pm_status append(part *to, const char *text, size_t n) {
    PM_TRY(make_room(to, n));
    if (n)
        memcpy(to->p + to->n, text, n);
    to->n += n;
    to->p[to->n] = 0;
    return PM_OK;
}

// Appends without newlines at the beginning, and holds those at the end.
static pm_status append_inner(part *to, const char *text, size_t n) {
    size_t end = n;
    while (end > 0 && text[end - 1] == '\n')
        end--;
    if (end == 0) {
        to->newlines += to->n > 0 ? n : 0;
        return PM_OK;
    }
    size_t begin = 0;
    while (to->n == 0 && text[begin] == '\n')
        begin++;
    PM_TRY(make_room(to, to->newlines + end - begin));
    for (; to->newlines > 0; to->newlines--)
        to->p[to->n++] = '\n';
    to->newlines = n - end;
    return append(to, text + begin, end - begin);
}

static pm_str view(const part *p) {
    return p->n ? (pm_str){p->p, p->n} : (pm_str){"", 0};
}

// ---- the parser -------------------------------------------------------------------------------------------------------

static pm_str rest(const pm_turn *t, size_t from) {
    return t->all.n > from ? (pm_str){t->all.p + from, t->all.n - from} : (pm_str){"", 0};
}

// How many bytes at the end of s may be the beginning of `mark`.
static size_t held_back(pm_str s, const char *mark) {
    size_t n = strlen(mark) - 1;
    for (n = n < s.n ? n : s.n; n > 0; n--)
        if (!memcmp(s.p + s.n - n, mark, n))
            return n;
    return 0;
}

// Looks for `mark` in what is not sorted yet. *before: where it begins, else where it might still begin.
static bool find(pm_turn *t, const char *mark, size_t *before) {
    pm_str text = rest(t, t->scan), left, right;
    if (pm_text_cut(text, mark, false, &left, &right)) {
        *before = t->scan + left.n;
        t->scan = *before + strlen(mark);
        return true;
    }
    *before = t->all.n - held_back(text, mark);
    t->scan = *before;
    return false;
}

// Each of these sorts what it can; true: another state has come, and more may be sorted.
static bool begin(pm_turn *t, bool last) {
    size_t at = t->at;
    while (at < t->all.n && strchr(" \t\r\n", t->all.p[at]) && t->all.p[at])
        at++;
    pm_str text = rest(t, at);
    if (pm_text_starts(text, THINK)) {
        t->at = t->scan = at + strlen(THINK);
        t->state = IN_THINKING;
        return true;
    }
    if (!last && held_back(text, THINK) == text.n)
        return false;
    t->state = t->begun_open ? IN_THINKING : IN_CONTENT;
    t->scan = t->at;
    return true;
}

static pm_status think(pm_turn *t, bool last, bool *more) {
    size_t before;
    *more = find(t, END_THINK, &before);
    before = last && !*more ? t->all.n : before;
    PM_TRY(append_inner(&t->thinking, t->all.p + t->at, before - t->at));
    t->at = before;
    if (*more) {
        t->at = t->scan;
        t->state = IN_CONTENT;
    }
    return PM_OK;
}

static pm_status content(pm_turn *t, bool last, bool *more) {
    size_t before;
    *more = find(t, CALL, &before);
    before = last && !*more ? t->all.n : before;
    PM_TRY(append_inner(&t->content, t->all.p + t->at, before - t->at));
    t->at = before; // where the block begins: it is content if it is no call
    if (*more)
        t->state = IN_CALL;
    return PM_OK;
}

static pm_status room_for_call(pm_turn *t) {
    if (t->n_calls < t->call_room)
        return PM_OK;
    size_t room = (size_t)t->call_room * 2 + 4;
    pm_chat_tool_call *calls = pm_realloc(t->calls, room * sizeof(*calls));
    if (!calls)
        return no_memory();
    t->calls = calls;
    t->call_room = (int)room;
    return PM_OK;
}

// A block [at, end) with its marks: a call, or text.
static pm_status take_block(pm_turn *t, size_t end) {
    size_t open = strlen(CALL), close = strlen(END_CALL);
    pm_str inner = {t->all.p + t->at + open, end - t->at - open - close};
    PM_TRY(room_for_call(t));
    pm_chat_tool_call *call = &t->calls[t->n_calls];
    pm_status status = pm_call_parse(inner, &t->arena, &call->name, &call->arguments);
    if (status == PM_ERR_MEMORY)
        return status;
    if (status != PM_OK)
        return append_inner(&t->content, t->all.p + t->at, end - t->at);
    t->n_calls++;
    t->content.newlines = 0;
    return PM_OK;
}

static pm_status call(pm_turn *t, bool last, bool *more) {
    size_t before;
    *more = find(t, END_CALL, &before);
    if (*more) {
        PM_TRY(take_block(t, t->scan));
        t->at = t->scan;
        t->state = IN_CONTENT;
    } else if (last) {
        PM_TRY(append_inner(&t->content, t->all.p + t->at, t->all.n - t->at));
        t->at = t->all.n;
    }
    return PM_OK;
}

static pm_status sort(pm_turn *t, bool last) {
    bool more = true;
    while (more) {
        if (t->state == AT_BEGIN)
            more = begin(t, last);
        else if (t->state == IN_THINKING)
            PM_TRY(think(t, last, &more));
        else if (t->state == IN_CONTENT)
            PM_TRY(content(t, last, &more));
        else
            PM_TRY(call(t, last, &more));
    }
    return PM_OK;
}

// ---- the face ---------------------------------------------------------------------------------------------------------

pm_status pm_turn_open(bool thinking, pm_turn **turn) {
    pm_turn *t = *turn = pm_calloc(1, sizeof(*t));
    if (!t)
        return no_memory();
    t->begun_open = thinking;
    pm_status status = append(&t->all, "", 0); // there is always a text to point into
    if (status != PM_OK)
        pm_turn_close(turn);
    return status;
}

void pm_turn_close(pm_turn **turn) {
    pm_turn *t = *turn;
    if (!t)
        return;
    pm_free(t->all.p);
    pm_free(t->thinking.p);
    pm_free(t->content.p);
    pm_free(t->calls);
    pm_arena_close(&t->arena);
    pm_free(t);
    *turn = NULL;
}

pm_status pm_turn_add(pm_turn *t, const char *text, size_t n) {
    PM_TRY(append(&t->all, text, n));
    return sort(t, false);
}

pm_status pm_turn_end(pm_turn *t) {
    return sort(t, true);
}

bool pm_turn_is_thinking(const pm_turn *t) {
    return t->state == IN_THINKING || (t->state == AT_BEGIN && t->begun_open);
}

pm_str pm_turn_text(const pm_turn *t) {
    return view(&t->all);
}

pm_str pm_turn_thinking(const pm_turn *t) {
    return view(&t->thinking);
}

pm_str pm_turn_content(const pm_turn *t) {
    return view(&t->content);
}

const pm_chat_tool_call *pm_turn_calls(const pm_turn *t, int *n) {
    *n = t->n_calls;
    return t->calls;
}

pm_chat_message pm_turn_message(const pm_turn *t) {
    return (pm_chat_message){
        .role = "assistant",
        .content = view(&t->content).p,
        .reasoning_content = t->thinking.n ? t->thinking.p : NULL,
        .tool_calls = t->calls,
        .n_tool_calls = t->n_calls,
    };
}
