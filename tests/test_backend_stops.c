// Stop strings: however a text is cut into pieces, what comes out is the text before the first string that is complete, and nothing
// is held back longer than it may be the beginning of one.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include <string.h>

#include "backend/text.h"
#include "host/base.h"

enum { MAX_TEXT = 300 };

static uint32_t seed = 1;

static uint32_t below(uint32_t n) {
    seed = seed * 1664525u + 1013904223u;
    return (uint32_t)((uint64_t)seed * n >> 32);
}

static pm_stops *stops_of(const char *const *strings, int n) {
    pm_stops *stops;
    if (pm_stops_open(strings, n, &stops) != PM_OK)
        fail_msg("stops: %s", pm_error_text());
    return stops;
}

// Where the text ends by looking at all of it; its length where no string is in it.
static size_t end_of(const char *text, const char *const *strings, int n, bool *found) {
    *found = false;
    for (size_t end = 1; end <= strlen(text); end++)
        for (size_t begin = 0; begin < end; begin++)
            for (int i = 0; i < n; i++)
                if (strlen(strings[i]) == end - begin && !memcmp(text + begin, strings[i], end - begin)) {
                    *found = true;
                    return begin;
                }
    return strlen(text);
}

// Is an end of the first n bytes the beginning of a string?
static size_t may_be_held(const char *text, size_t n, const char *const *strings, int n_strings) {
    for (size_t held = n; held > 0; held--)
        for (int i = 0; i < n_strings; i++)
            if (strlen(strings[i]) > held && !memcmp(text + n - held, strings[i], held))
                return held;
    return 0;
}

static void check(const char *text, const char *const *strings, int n) {
    pm_stops *stops = stops_of(strings, n);
    char out[MAX_TEXT + 2 * PM_STOP_MAX];
    size_t size = strlen(text), n_out = 0, at = 0, piece_out;
    bool wanted, found = false;
    size_t end = end_of(text, strings, n, &wanted);
    while (at < size && !found) {
        size_t piece = 1 + below(5);
        piece = piece < size - at ? piece : size - at;
        found = pm_stops_next(stops, text + at, piece, out + n_out, &piece_out);
        n_out += piece_out;
        at += piece;
        if (!found)
            assert_int_equal(n_out, at - may_be_held(text, at, strings, n));
    }
    if (!found)
        n_out += pm_stops_end(stops, out + n_out);
    assert_int_equal(found, wanted);
    if (n_out != end || memcmp(out, text, end) != 0)
        fail_msg("of \"%s\" came \"%.*s\", wanted the first %zu bytes", text, (int)n_out, out, end);
    pm_stops_close(&stops);
}

static void known_texts(void **state) {
    (void)state;
    check("one two three", (const char *[]){"two"}, 1);
    check("one tw", (const char *[]){"two"}, 1);
    check("aab", (const char *[]){"ab"}, 1);
    check("ababababac", (const char *[]){"ababac"}, 1);
    check("xabcd", (const char *[]){"abcd", "bc"}, 2);
    check("xabc", (const char *[]){"bc", "abc", "c"}, 3);
    check("\n\nUser", (const char *[]){"\n\nUser:", "\n\n"}, 2);
    check("你好！有什么可以", (const char *[]){"有"}, 1);
    check("你好！有什么可以", (const char *[]){"有谁", "可以"}, 2);
    check("", (const char *[]){"x"}, 1);
}

// Words of two letters, which begin and overlap in every way.
static void random_texts(void **state) {
    (void)state;
    for (int k = 0; k < 20000; k++) {
        char text[MAX_TEXT], words[4][9];
        const char *strings[4];
        int n = 1 + (int)below(4);
        size_t size = below(40);
        for (size_t i = 0; i < size; i++)
            text[i] = (char)('a' + below(2));
        text[size] = 0;
        for (int i = 0; i < n; i++) {
            size_t length = 1 + below(8);
            for (size_t c = 0; c < length; c++)
                words[i][c] = (char)('a' + below(2));
            words[i][length] = 0;
            strings[i] = words[i];
        }
        check(text, strings, n);
    }
}

static void bad_strings_are_refused(void **state) {
    (void)state;
    static char longest[PM_STOP_MAX + 2];
    pm_stops *stops;
    memset(longest, 'x', PM_STOP_MAX);
    check("xxx", (const char *[]){longest}, 1);
    longest[PM_STOP_MAX] = 'x';
    const char *const bad[] = {"", longest, "caf\xc3", "\xff"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_int_equal(pm_stops_open((const char *[]){"ok", bad[i]}, 2, &stops), PM_ERR_USAGE);
        assert_null(stops);
        assert_non_null(strstr(pm_error_text(), "stop string"));
    }
    pm_stops_close(&stops);
}

static void every_allocation_may_fail(void **state) {
    (void)state;
    pm_status status = PM_ERR_MEMORY;
    for (long n = 1; status == PM_ERR_MEMORY; n++) {
        pm_stops *stops;
        pm_alloc_fail_after(n);
        status = pm_stops_open((const char *[]){"a", "bc"}, 2, &stops);
        pm_alloc_fail_after(0);
        assert_true((status == PM_OK) == (stops != NULL));
        pm_stops_close(&stops);
    }
    assert_int_equal(status, PM_OK);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_texts),
        cmocka_unit_test(random_texts),
        cmocka_unit_test(bad_strings_are_refused),
        cmocka_unit_test(every_allocation_may_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
