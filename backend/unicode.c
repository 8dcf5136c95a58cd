// UTF-8, NFC and the byte alphabet. The tables of Unicode are utf8proc's.
#include "backend/unicode.h"

#include <string.h>
#include <utf8proc.h>

#define REPLACEMENT "\xEF\xBF\xBD"

// ---- UTF-8 ------------------------------------------------------------------------------------------------------------

// Bytes that follow a lead byte, and the range of the first of them: it excludes overlong forms, surrogates and values past
// U+10FFFF. -1: no lead byte.
static int lead_byte(uint8_t lead, uint8_t *low, uint8_t *high) {
    *low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    *high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    if (lead < 0x80)
        return 0;
    if (lead < 0xC2 || lead > 0xF4)
        return -1;
    return lead < 0xE0 ? 1 : lead < 0xF0 ? 2 : 3;
}

pm_utf8_kind pm_utf8_step(const uint8_t *p, size_t n, size_t *size) {
    uint8_t low, high;
    int follow = lead_byte(p[0], &low, &high);
    *size = 1;
    if (follow < 0)
        return PM_UTF8_INVALID;
    for (; follow > 0; follow--, ++*size) {
        if (*size == n)
            return PM_UTF8_CUT;
        if (p[*size] < low || p[*size] > high)
            return PM_UTF8_INVALID;
        low = 0x80, high = 0xBF;
    }
    return PM_UTF8_CHAR;
}

size_t pm_utf8_check(const char *text, size_t n) {
    size_t i = 0, size;
    while (i < n && pm_utf8_step((const uint8_t *)text + i, n - i, &size) == PM_UTF8_CHAR)
        i += size;
    return i;
}

size_t pm_utf8_repair(const char *text, size_t n, char *to, size_t *held_n) {
    size_t out = 0, size;
    if (held_n != NULL)
        *held_n = 0;
    for (size_t i = 0; i < n; i += size) {
        pm_utf8_kind kind = pm_utf8_step((const uint8_t *)text + i, n - i, &size);
        if (kind == PM_UTF8_CUT && held_n != NULL) {
            *held_n = size;
            return out;
        }
        pm_str piece = kind == PM_UTF8_CHAR ? (pm_str){text + i, size} : PM_STR(REPLACEMENT);
        memcpy(to + out, piece.p, piece.n);
        out += piece.n;
    }
    return out;
}

// ---- NFC --------------------------------------------------------------------------------------------------------------

static const utf8proc_option_t NFC = (utf8proc_option_t)(UTF8PROC_STABLE | UTF8PROC_COMPOSE);

static int combining_class(utf8proc_int32_t c) {
    return utf8proc_get_property(c)->combining_class;
}

// Below U+0300 everything is its own NFC and combines with nothing before it; bytes from 0xCC on begin the characters above.
static bool is_plainly_nfc(const char *text, size_t n) {
    for (size_t i = 0; i < n; i++)
        if ((uint8_t)text[i] >= 0xCC)
            return false;
    return true;
}

// Writes the full canonical decomposition of each character, unordered; returns how many code points there are. With to NULL it
// only counts.
static size_t decompose(const char *text, size_t n, utf8proc_int32_t *to, size_t room) {
    size_t count = 0;
    for (size_t i = 0; i < n;) {
        utf8proc_int32_t c;
        i += (size_t)utf8proc_iterate((const utf8proc_uint8_t *)text + i, (utf8proc_ssize_t)(n - i), &c);
        int unused = 0;
        count += (size_t)utf8proc_decompose_char(c, to == NULL ? NULL : to + count, (utf8proc_ssize_t)(room - count), NFC, &unused);
    }
    return count;
}

// Stable counting sort of a run of marks by combining class. (utf8proc's own ordering swaps neighbours, which takes minutes for a
// hostile megabyte of marks.)
static pm_status sort_marks(utf8proc_int32_t *marks, size_t n) {
    size_t at[256] = {0}, sum = 0;
    utf8proc_int32_t *copy = pm_malloc(n * sizeof *copy);
    if (copy == NULL)
        return pm_fail(PM_ERR_MEMORY, "no memory for %zu combining marks", n);
    memcpy(copy, marks, n * sizeof *copy);
    for (size_t i = 0; i < n; i++)
        at[combining_class(copy[i]) & 255]++;
    for (int c = 0; c < 256; c++) {
        size_t count = at[c];
        at[c] = sum;
        sum += count;
    }
    for (size_t i = 0; i < n; i++)
        marks[at[combining_class(copy[i]) & 255]++] = copy[i];
    pm_free(copy);
    return PM_OK;
}

// Canonical ordering: every run of characters with a combining class other than 0 is sorted by it.
static pm_status order_marks(utf8proc_int32_t *points, size_t n) {
    for (size_t i = 0; i < n; i++) {
        size_t begin = i;
        bool ordered = true;
        for (int last = 0, next; i < n && (next = combining_class(points[i])) != 0; i++) {
            ordered = ordered && last <= next;
            last = next;
        }
        if (!ordered)
            PM_TRY(sort_marks(points + begin, i - begin));
    }
    return PM_OK;
}

pm_status pm_nfc(const char *text, size_t n, char **out, size_t *out_n) {
    *out = NULL;
    *out_n = 0;
    if (is_plainly_nfc(text, n))
        return PM_OK;
    size_t count = decompose(text, n, NULL, 0);
    utf8proc_int32_t *points = pm_calloc(count + 1, sizeof *points); // reencode writes a 0 after the text
    if (points == NULL)
        return pm_fail(PM_ERR_MEMORY, "no memory to normalise %zu bytes of text", n);
    decompose(text, n, points, count);
    pm_status status = order_marks(points, count);
    if (status != PM_OK) {
        pm_free(points);
        return status;
    }
    *out_n = (size_t)utf8proc_reencode(points, (utf8proc_ssize_t)count, NFC); // composes, then becomes UTF-8 in place
    *out = (char *)points;
    return PM_OK;
}

// ---- the byte alphabet ------------------------------------------------------------------------------------------------

// The bytes without a printable Latin-1 character are 0..32, 127..160 and 173; in this order they take U+0100, U+0101, ...
uint32_t pm_byte_to_char(uint8_t byte) {
    if (byte <= 32)
        return 256u + byte;
    if (byte >= 127 && byte <= 160)
        return 256u + 33 + byte - 127;
    return byte == 173 ? 256u + 67 : byte;
}

int pm_char_to_byte(uint32_t c) {
    if (c < 256)
        return pm_byte_to_char((uint8_t)c) == c ? (int)c : -1;
    if (c < 256 + 33)
        return (int)(c - 256);
    if (c < 256 + 67)
        return (int)(c - (256 + 33) + 127);
    return c == 256 + 67 ? 173 : -1;
}
