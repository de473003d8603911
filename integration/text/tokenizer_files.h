/* tokenizer_files.h - what a tokenizer is made of, and reading it from a model folder. */
#ifndef KVPAGER_TEXT_TOKENIZER_FILES_H
#define KVPAGER_TEXT_TOKENIZER_FILES_H

#include <stdbool.h>

#include "integration/text/added_tokens.h"
#include "integration/text/bpe.h"
#include "integration/files/json_file.h"
#include "integration/text/splitter.h"
#include "integration/text/vocab.h"

struct tokenizer {
    vocab vocab; /* added tokens included */
    bpe bpe;
    added_tokens added;
    splitter *splitter;
    bool add_prefix_space; /* text that does not begin with a space is encoded as if it did */
};

/* Fill an all-zero *t from the folder; the caller finishes it also after a failure. */
KVP_NODISCARD kvp_status tokenizer_files_load(const char *dir, struct tokenizer *t);

/* Parts of that, by file. `where` names the source in messages. */

/* A BPE vocabulary: an object of spelling -> id. */
KVP_NODISCARD kvp_status tokenizer_load_vocab(struct tokenizer *t, const json_t *vocab,
                                              const char *where);
/* Merges, one after the other; each side is a spelling in `vocab`. */
typedef struct merge_text {
    const char *left, *right;
    size_t n_left, n_right;
} merge_text;
/* Add the merge of this rank. Errors: KVP_E_INVALID a spelling is not in the vocabulary. */
KVP_NODISCARD kvp_status tokenizer_load_merge(struct tokenizer *t, const json_t *vocab, size_t rank,
                                              const merge_text *merge, const char *where);
/* Split "left right". False if that is not what the n bytes are. */
bool merge_text_parse(const char *line, size_t n, merge_text *merge);

/* An added token: `json` is its text, or an object as Hugging Face writes them. Its id is that of
 * the vocabulary entry with this text, otherwise `id`, otherwise (-1) the next free one. One that
 * is there already stays as it is. `special`: what a missing "normalized" follows. */
KVP_NODISCARD kvp_status tokenizer_load_added(struct tokenizer *t, const json_t *json, int64_t id,
                                              bool special, const char *where);

/* tokenizer.json, the whole pipeline. Errors: KVP_E_UNSUPPORTED names the part that is not
 * byte-level BPE of GPT-2's kind. */
KVP_NODISCARD kvp_status tokenizer_load_json(struct tokenizer *t, const json_t *root,
                                             const char *where);

#endif
