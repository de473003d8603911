/* added_tokens.h - tokens that are recognised in the text before it is split into words. */
#ifndef KVPAGER_TEXT_ADDED_TOKENS_H
#define KVPAGER_TEXT_ADDED_TOKENS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "integration/text/splitter.h"
#include "kvpager/status.h"

/* As in Hugging Face's AddedToken. */
typedef struct added_token {
    const char *text; /* n bytes, copied by added_tokens_add(); NUL-terminated there */
    size_t n;
    int32_t id;
    bool single_word;    /* only where no word character touches it */
    bool lstrip, rstrip; /* takes the white space before, after it */
    bool normalized;     /* found after, not before, those that are not */
    bool is_control;     /* no text that a stranger wrote may spell it */
} added_token;

/* All zeroes: none. */
typedef struct added_tokens {
    added_token *tokens;
    size_t n, capacity;
    bool begins[2][256]; /* [normalized][byte]: a token begins with this byte */
} added_tokens;

void added_tokens_fini(added_tokens *a);
KVP_NODISCARD kvp_status added_tokens_add(added_tokens *a, const added_token *token);
/* NULL if there is none with this text. */
const added_token *added_tokens_find(const added_tokens *a, const char *text, size_t n);

/* Who gets what a text is cut into. */
typedef struct added_tokens_sink {
    void *opaque;
    /* A token found (token != NULL), or a stretch between two; never an empty one. */
    kvp_status (*piece)(void *opaque, const added_token *token, const char *text, size_t n);
    /* Whether these bytes of the text may be that token. */
    bool (*may_be)(void *opaque, const added_token *token, const char *text);
} added_tokens_sink;

/* Cut text (valid UTF-8) at the tokens whose `normalized` is the one given, in order: the longest
 * that begins leftmost wins. Stops at the first failure of piece() and returns it. */
KVP_NODISCARD kvp_status added_tokens_split(const added_tokens *a, const splitter *s,
                                            bool normalized, const char *text, size_t n,
                                            const added_tokens_sink *sink);

#endif
