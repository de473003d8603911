/* splitter.h - cuts text into the words that byte-pair merges never cross. */
#ifndef KVPAGER_TEXT_SPLITTER_H
#define KVPAGER_TEXT_SPLITTER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kvpager/status.h"

/* By the model that introduced the pattern. */
typedef enum splitter_kind {
    SPLITTER_GPT2,
    SPLITTER_SMOLLM, /* GPT-2's, but every numeral is a word */
    SPLITTER_DIGITS, /* GPT-2's, but every ASCII digit is a word */
    SPLITTER_QWEN2,  /* a letter run takes the mark before it, a mark run the newlines after it */
    SPLITTER_LLAMA3  /* Qwen2's, but up to three digits are a word */
} splitter_kind;

/* The kind whose pattern tokenizer.json spells like this; false: none. */
bool splitter_kind_of_regex(const char *regex, splitter_kind *kind);

typedef struct splitter splitter;

/* Errors: KVP_E_NOMEM, KVP_E_UNSUPPORTED (a PCRE2 without UTF). */
KVP_NODISCARD kvp_status splitter_open(splitter_kind kind, splitter **out);
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
