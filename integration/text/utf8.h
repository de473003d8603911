/* utf8.h - one UTF-8 character at a time (the streaming decoder is in tokenizer.h). */
#ifndef KVPAGER_TEXT_UTF8_H
#define KVPAGER_TEXT_UTF8_H

#include <stddef.h>
#include <stdint.h>

/* What the bytes at a position are. */
typedef enum utf8_kind {
    UTF8_CHAR,       /* a whole valid character of `length` bytes */
    UTF8_INCOMPLETE, /* `length` (all) bytes begin a character that more bytes may complete */
    UTF8_INVALID     /* `length` bytes can never be part of a valid character */
} utf8_kind;

/* Classify what begins at s, n >= 1 bytes of it being there. For UTF8_INVALID, *length is the
 * maximal subpart of Unicode 3.9 (D93b): what one U+FFFD replaces. */
utf8_kind utf8_classify(const char *s, size_t n, size_t *length);

/* Length of the valid character that n bytes begin or end with; 0: there is none. */
size_t utf8_first(const char *s, size_t n);
size_t utf8_last(const char *s, size_t n);

/* The code point of a valid character at s. */
uint32_t utf8_decode(const char *s, size_t length);
/* Write code point c (a valid scalar value) to s; returns 1 .. 4. */
size_t utf8_encode(uint32_t c, char s[4]);

#endif
