// Small texts of the commands: sizes for people, and words of files made fit to be printed.
#include "app/app.h"

#include <stdio.h>
#include <string.h>
#include <utf8proc.h>

const char *app_bytes(uint64_t bytes, char text[APP_SHORT_TEXT]) {
    static const char *const units[] = {"KiB", "MiB", "GiB", "TiB"};
    double value = (double)bytes / 1024;
    int unit = 0;
    for (; value >= 1024 && unit < 3; unit++)
        value /= 1024;
    if (bytes < 1024)
        snprintf(text, APP_SHORT_TEXT, "%u B", (unsigned)bytes);
    else
        snprintf(text, APP_SHORT_TEXT, "%.*f %s", unit >= 2 ? 2 : 1, value, units[unit]);
    return text;
}

const char *app_count(uint64_t count, char text[APP_SHORT_TEXT]) {
    static const char *const units[] = {"K", "M", "B", "T"};
    double value = (double)count / 1000;
    int unit = 0;
    for (; value >= 999.95 && unit < 3; unit++)
        value /= 1000;
    if (count < 1000)
        snprintf(text, APP_SHORT_TEXT, "%u", (unsigned)count);
    else
        snprintf(text, APP_SHORT_TEXT, "%.*f %s", unit >= 2 ? 2 : 1, value, units[unit]);
    return text;
}

static size_t put_utf8(pm_str text, bool printable, char *to) {
    size_t n = 0;
    for (size_t at = 0; at < text.n;) {
        utf8proc_int32_t c = 0;
        utf8proc_ssize_t size = utf8proc_iterate((const utf8proc_uint8_t *)text.p + at, (utf8proc_ssize_t)(text.n - at), &c);
        bool hidden = printable && utf8proc_category(c) == UTF8PROC_CATEGORY_CC;
        at += size < 1 ? 1 : (size_t)size;
        n += (size_t)utf8proc_encode_char(size < 1 || hidden || c == 0 ? 0xfffd : c, (utf8proc_uint8_t *)to + n);
    }
    to[n] = 0;
    return n;
}

static char *copy_utf8(pm_str text, bool printable) {
    char *copy = text.n < SIZE_MAX / 4 ? pm_malloc(3 * text.n + 1) : NULL; // U+FFFD takes 3 bytes
    if (copy)
        put_utf8(text, printable, copy);
    return copy;
}

char *app_utf8(pm_str text) {
    return copy_utf8(text, false);
}

char *app_printable(pm_str text) {
    return copy_utf8(text, true);
}

pm_status app_check_utf8(const char *from, const char *text, size_t n) {
    const utf8proc_uint8_t *bytes = (const utf8proc_uint8_t *)text;
    for (size_t at = 0; at < n;) {
        utf8proc_int32_t character;
        utf8proc_ssize_t size = utf8proc_iterate(bytes + at, (utf8proc_ssize_t)(n - at), &character);
        if (size < 1)
            return pm_fail(PM_ERR_USAGE, "%s: not UTF-8: invalid byte 0x%02X at offset %zu", from, bytes[at], at);
        at += (size_t)size;
    }
    return PM_OK;
}

pm_status app_check_zeros(const char *from, const char *text, size_t n, const char *remedy) {
    const char *zero = n ? memchr(text, 0, n) : NULL;
    return zero ? pm_fail(PM_ERR_USAGE, "%s: a zero byte at offset %zu%s", from, (size_t)(zero - text), remedy) : PM_OK;
}
