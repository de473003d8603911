/* tokenizer.h - byte-level BPE, equal to Hugging Face's on any valid UTF-8. */
#ifndef KVPAGER_TEXT_TOKENIZER_H
#define KVPAGER_TEXT_TOKENIZER_H

#include <stddef.h>
#include <stdint.h>

#include "kvpager/status.h"

typedef struct tokenizer tokenizer;

/* Read vocab.json and merges.txt, or tokenizer.json, from folder `dir` (with tokenizer_config.json
 * and special tokens where present). Errors: KVP_E_IO, KVP_E_INVALID (malformed: file and place
 * named), KVP_E_UNSUPPORTED (another kind of tokenizer), KVP_E_NOMEM. */
KVP_NODISCARD kvp_status tokenizer_open(const char *dir, tokenizer **out);
void tokenizer_close(tokenizer *t);
uint32_t tokenizer_n_vocab(const tokenizer *t); /* highest id + 1 */
/* Id of an added/special token by its text, -1 if there is none. */
int32_t tokenizer_find_special(const tokenizer *t, const char *text);

/* Encode `n` bytes of UTF-8. *ids is malloc'd (the caller frees it; NULL when *n_ids is 0).
 * Errors: KVP_E_RANGE invalid UTF-8 (the message names the byte offset); KVP_E_INVALID a symbol
 * that the vocabulary lacks; KVP_E_NOMEM. */
KVP_NODISCARD kvp_status tokenizer_encode(const tokenizer *t, const char *text, size_t n,
                                          int32_t **ids, size_t *n_ids);
/* The bytes of one token (special tokens: their text). Borrowed; an unknown id gives *n = 0. */
const char *tokenizer_token_bytes(const tokenizer *t, int32_t id, size_t *n);

/* Streaming that never splits a UTF-8 character: push tokens, get whole characters. Bytes that can
 * never become valid come out as U+FFFD, as Hugging Face's decode does. */
typedef struct utf8_stream {
    unsigned char pending[4];
    size_t n_pending;
} utf8_stream;
/* Append the printable bytes for `n` more input bytes to out (capacity >= 3 * (n + 4)); returns how
 * many. */
size_t utf8_stream_push(utf8_stream *s, const char *bytes, size_t n, char *out);
/* What is left at the end (capacity >= 12). */
size_t utf8_stream_finish(utf8_stream *s, char *out);

/* Offset of the first byte that is not valid UTF-8, or n. */
size_t utf8_valid_prefix(const char *text, size_t n);

#endif
