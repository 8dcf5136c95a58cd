// A model's turn: the first byte says how it is cut into pieces, the rest is its text. All of it at once must give the same.
#include "fuzz.h"

#include "backend/pumice.h"

static pm_turn *sort(bool open, const char *text, size_t n, size_t piece) {
    pm_turn *turn;
    if (pm_turn_open(open, &turn) != PM_OK)
        abort();
    for (size_t at = 0; at < n; at += piece)
        if (pm_turn_add(turn, text + at, n - at < piece ? n - at : piece) != PM_OK)
            abort();
    if (pm_turn_end(turn) != PM_OK)
        abort();
    return turn;
}

static void same(pm_str a, pm_str b) {
    if (a.n != b.n || memcmp(a.p, b.p, a.n) != 0)
        abort();
}

static bool is_object(const char *text) {
    while (*text > 0 && *text <= 32)
        text++;
    return *text == '{';
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    pm_log_to(fuzz_silence, NULL);
    if (size == 0)
        return 0;
    bool open = data[0] & 1;
    const char *text = (const char *)data + 1;
    pm_turn *pieces = sort(open, text, size - 1, (size_t)(data[0] >> 1) + 1), *whole = sort(open, text, size - 1, size);
    int n, m;
    const pm_chat_tool_call *a = pm_turn_calls(pieces, &n), *b = pm_turn_calls(whole, &m);
    same(pm_turn_thinking(pieces), pm_turn_thinking(whole));
    same(pm_turn_content(pieces), pm_turn_content(whole));
    if (n != m)
        abort();
    for (int i = 0; i < n; i++)
        if (strcmp(a[i].name, b[i].name) || strcmp(a[i].arguments, b[i].arguments) || !is_object(a[i].arguments))
            abort();
    pm_turn_close(&pieces);
    pm_turn_close(&whole);
    return 0;
}
