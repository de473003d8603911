/* tokenizer_build.h - what a tokenizer is made of, and the pieces that the readers of folders,
 * tokenizer.json and GGUF build it from. `where` names the source in messages. */
#ifndef KVPAGER_TEXT_TOKENIZER_BUILD_H
#define KVPAGER_TEXT_TOKENIZER_BUILD_H

#include <stdbool.h>

#include "integration/files/json_file.h"
#include "integration/text/added_tokens.h"
#include "integration/text/bpe.h"
#include "integration/text/splitter.h"
#include "integration/text/tokenizer.h"
#include "integration/text/vocab.h"

struct tokenizer {
    vocab vocab; /* added tokens included */
    bpe bpe;
    added_tokens added;
    splitter *splitter;
    bool composes;         /* text is brought to NFC first */
    bool add_prefix_space; /* text that does not begin with a space is encoded as if it did */
    bool ignores_merges;   /* a word that is a token is that one, whatever merges make of it */
    int32_t bos, eos;      /* tokens that begin and end a text; -1: there is none */
    id_list prefix;        /* what goes before a text */
    char *chat_template;   /* Jinja; NULL: there is none */
};

/* ---- readers: fill a tokenizer that tokenizer_open() made, which finishes it in any case ----- */

/* A model folder: tokenizer.json, or vocab.json with merges.txt; the small files beside them. */
KVP_NODISCARD kvp_status tokenizer_load_folder(const char *dir, tokenizer *t);
/* tokenizer.json. Errors: KVP_E_UNSUPPORTED names the part that this tokenizer does not have. */
KVP_NODISCARD kvp_status tokenizer_load_json(tokenizer *t, const json_t *root, const char *where);
/* The metadata of a GGUF file. */
KVP_NODISCARD kvp_status tokenizer_load_gguf(const char *path, tokenizer *t);

/* KVP_E_UNSUPPORTED: "WHERE: PART WHAT is not supported", what is, and how to do without. */
kvp_status tokenizer_unsupported(const char *where, const char *part, const char *what);

/* ---- vocabulary and merges: all tokens first, then bpe_init(), then the merges --------------- */

/* The token spelled so in the byte-level alphabet; a spelling that is not stands for itself. */
KVP_NODISCARD kvp_status tokenizer_put_token(tokenizer *t, int64_t id, const char *spelling,
                                             size_t n, const char *where);
/* The same for an object of spelling -> id. */
KVP_NODISCARD kvp_status tokenizer_put_vocab_json(tokenizer *t, const json_t *vocab,
                                                  const char *where);
/* bpe_init(), and the tokens of single bytes. */
KVP_NODISCARD kvp_status tokenizer_start_merges(tokenizer *t, size_t n_merges);

/* One merge: the spellings of two tokens. */
typedef struct merge_text {
    const char *left, *right;
    size_t n_left, n_right;
} merge_text;
/* Split "left right". False if that is not what the n bytes are. */
bool merge_text_parse(const char *line, size_t n, merge_text *merge);
/* Add the merge of this rank. Errors: KVP_E_INVALID a spelling is not in the vocabulary. */
KVP_NODISCARD kvp_status tokenizer_put_merge(tokenizer *t, size_t rank, const merge_text *merge,
                                             const char *where);

/* ---- added tokens ---------------------------------------------------------------------------- */

/* Its id is that of the vocabulary's token with this spelling or text, otherwise token->id,
 * otherwise (that is -1) the next free one. One whose text is there already stays as it is. */
KVP_NODISCARD kvp_status tokenizer_put_added(tokenizer *t, const added_token *token,
                                             const char *where);
/* The same for a JSON text, or an object as Hugging Face writes them; null is none. `is_special`:
 * what the object does not say. */
KVP_NODISCARD kvp_status tokenizer_put_added_json(tokenizer *t, const json_t *json, int64_t id,
                                                  bool is_special, const char *where);
/* The id of the vocabulary's token with this spelling, -1 if there is none. */
KVP_NODISCARD kvp_status tokenizer_find_spelling(const tokenizer *t, const char *spelling, size_t n,
                                                 int64_t *id);

#endif
