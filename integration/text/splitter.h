/* splitter.h - cuts text into the words that byte-pair merges never cross: GPT-2's pattern. */
#ifndef KVPAGER_TEXT_SPLITTER_H
#define KVPAGER_TEXT_SPLITTER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kvpager/status.h"

typedef struct splitter splitter;

/* Errors: KVP_E_NOMEM, KVP_E_UNSUPPORTED (a PCRE2 without UTF). */
KVP_NODISCARD kvp_status splitter_open(splitter **out);
void splitter_close(splitter *s);

/* Call word() for each word of n bytes of valid UTF-8, in order; together they are the text.
 * Stops at the first failure of word() and returns it. Errors: KVP_E_NOMEM. */
KVP_NODISCARD kvp_status splitter_each(const splitter *s, const char *text, size_t n,
                                       kvp_status (*word)(void *opaque, const char *word, size_t n),
                                       void *opaque);

/* White_Space of the Unicode Character Database: what \s is to Hugging Face's tokenizers. */
bool text_is_space(uint32_t c);
/* Whether the character of `length` bytes at s is one of words (\w of Rust's regex crate). */
bool splitter_is_word_char(const splitter *s, const char *c, size_t length);

#endif
