/* tokenizer.h - byte-level BPE, equal to Hugging Face's on any valid UTF-8. */
#ifndef KVPAGER_TEXT_TOKENIZER_H
#define KVPAGER_TEXT_TOKENIZER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kvpager/status.h"

typedef struct tokenizer tokenizer;

/* Read the tokenizer of the model at `path`: a folder with tokenizer.json, or vocab.json and
 * merges.txt (with tokenizer_config.json and special tokens where present), or a .gguf file.
 * Errors: KVP_E_IO, KVP_E_INVALID and KVP_E_CORRUPT (malformed: file and place named),
 *         KVP_E_UNSUPPORTED (another kind of tokenizer), KVP_E_NOMEM. */
KVP_NODISCARD kvp_status tokenizer_open(const char *path, tokenizer **out);
/* The same for the n bytes of a tokenizer.json; `path` is its name in messages. */
KVP_NODISCARD kvp_status tokenizer_open_bytes(const void *bytes, size_t n, const char *path,
                                              tokenizer **out);
void tokenizer_close(tokenizer *t);
uint32_t tokenizer_n_vocab(const tokenizer *t); /* highest id + 1 */
/* Id of an added/special token by its text, -1 if there is none. */
int32_t tokenizer_find_special(const tokenizer *t, const char *text);
/* What the model was trained to see before a text: usually nothing or its beginning-of-text token.
 * Not part of what the encoding functions give. Borrowed. */
const int32_t *tokenizer_prefix(const tokenizer *t, size_t *n);

/* Encode `n` bytes of UTF-8. *ids is malloc'd (the caller frees it; NULL when *n_ids is 0).
 * Bytes that the vocabulary lacks are its unknown token, or left out if it has none.
 * Errors: KVP_E_RANGE invalid UTF-8 (the message names the byte offset); KVP_E_NOMEM. */
KVP_NODISCARD kvp_status tokenizer_encode(const tokenizer *t, const char *text, size_t n,
                                          int32_t **ids, size_t *n_ids);

/* Of the encoding functions' errors, the first. */
KVP_NODISCARD kvp_status tokenizer_check_text(const char *text, size_t n);

/* Pieces of one text, which words may cross. */
typedef struct text_piece {
    const char *text;
    size_t n;
    bool is_foreign; /* written by a stranger: spells no special token */
} text_piece;

/* The same for the pieces put together, where no special token is recognised that reaches into a
 * foreign piece. Offsets in messages count from the first piece. */
KVP_NODISCARD kvp_status tokenizer_encode_pieces(const tokenizer *t, const text_piece *pieces,
                                                 size_t n_pieces, int32_t **ids, size_t *n_ids);

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
