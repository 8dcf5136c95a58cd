// What the tokenizer needs of Unicode: one step over UTF-8, repair, NFC, and GPT-2's byte alphabet. Private to the backend.
#ifndef PM_UNICODE_H
#define PM_UNICODE_H

#include "host/base.h"

typedef enum pm_utf8_kind {
    PM_UTF8_CHAR,    // a whole character
    PM_UTF8_INVALID, // bytes that no text can continue; together they are one U+FFFD
    PM_UTF8_CUT,     // the beginning of a character, up to the end of the input
} pm_utf8_kind;

// Looks at the n >= 1 bytes at p; *size is how many the step covers. Invalid bytes are grouped into the "maximal subparts" of the
// Unicode standard (section 3.9), as Python and Rust do.
pm_utf8_kind pm_utf8_step(const uint8_t *p, size_t n, size_t *size);

// The offset of the first byte that is not UTF-8; n when all of it is.
size_t pm_utf8_check(const char *text, size_t n);

// Copies n bytes to `to`, every invalid sequence as one U+FFFD, and returns the size written, at most 3 * n. An unfinished
// character at the end is replaced as well, or, when held_n is not NULL, is left out and *held_n says how many bytes it is.
size_t pm_utf8_repair(const char *text, size_t n, char *to, size_t *held_n);

// *out is the NFC of valid UTF-8, pm_malloc'ed and the caller's, or NULL when a look shows that the text is its own NFC.
pm_status pm_nfc(const char *text, size_t n, char **out, size_t *out_n);

// The alphabet in which a vocabulary writes bytes: printable Latin-1 stands for itself, the other 68 bytes follow from U+0100.
uint32_t pm_byte_to_char(uint8_t byte);
int pm_char_to_byte(uint32_t c); // -1: not in the alphabet

#endif
