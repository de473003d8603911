/* tokenizer.c - byte-level BPE: text -> added tokens -> words -> merges.
 *
 * Owns the parts (tokenizer_files.h) and the order in which text passes through them. A tokenizer
 * does not change after open, so any number of threads may encode with it. */
#include "integration/text/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "integration/text/tokenizer_files.h"

kvp_status tokenizer_open(const char *dir, tokenizer **out)
{
    tokenizer *t = calloc(1, sizeof *t);
    if (!t)
        return kvp_fail(KVP_E_NOMEM, "out of memory: a tokenizer");
    kvp_status status = tokenizer_files_load(dir, t);
    if (status) {
        tokenizer_close(t);
        return status;
    }
    *out = t;
    return KVP_OK;
}

void tokenizer_close(tokenizer *t)
{
    if (!t)
        return;
    splitter_close(t->splitter);
    added_tokens_fini(&t->added);
    bpe_fini(&t->bpe);
    vocab_fini(&t->vocab);
    free(t);
}

uint32_t tokenizer_n_vocab(const tokenizer *t)
{
    return (uint32_t)t->vocab.n_ids;
}

int32_t tokenizer_find_special(const tokenizer *t, const char *text)
{
    const added_token *token = added_tokens_find(&t->added, text, strlen(text));
    return token ? token->id : -1;
}

const char *tokenizer_token_bytes(const tokenizer *t, int32_t id, size_t *n)
{
    const char *bytes = vocab_get(&t->vocab, id, n);
    if (!bytes)
        *n = 0;
    return bytes ? bytes : "";
}

/* ---- encoding -------------------------------------------------------------------------------- */

/* One call of tokenizer_encode(). */
typedef struct encoding {
    const tokenizer *t;
    bpe_scratch scratch;
    id_list ids;
} encoding;

static kvp_status encode_word(void *opaque, const char *word, size_t n)
{
    encoding *e = opaque;
    return bpe_encode(&e->t->bpe, &e->scratch, word, n, &e->ids);
}

static kvp_status encode_with_prefix_space(encoding *e, const char *text, size_t n)
{
    char *prefixed = malloc(n + 1);
    if (!prefixed)
        return kvp_fail(KVP_E_NOMEM, "out of memory: %zu bytes of text", n);
    prefixed[0] = ' ';
    memcpy(prefixed + 1, text, n);
    kvp_status status = splitter_each(e->t->splitter, prefixed, n + 1, encode_word, e);
    free(prefixed);
    return status;
}

static kvp_status encode_plain(encoding *e, const char *text, size_t n)
{
    if (e->t->add_prefix_space && text[0] != ' ')
        return encode_with_prefix_space(e, text, n);
    return splitter_each(e->t->splitter, text, n, encode_word, e);
}

static kvp_status encode_late_piece(void *opaque, const added_token *token, const char *text,
                                    size_t n)
{
    encoding *e = opaque;
    return token ? id_list_push(&e->ids, token->id) : encode_plain(e, text, n);
}

static kvp_status encode_piece(void *opaque, const added_token *token, const char *text, size_t n)
{
    encoding *e = opaque;
    if (token)
        return id_list_push(&e->ids, token->id);
    return added_tokens_split(&e->t->added, e->t->splitter, true, text, n, encode_late_piece, e);
}

kvp_status tokenizer_encode(const tokenizer *t, const char *text, size_t n, int32_t **ids,
                            size_t *n_ids)
{
    if (n >= INT32_MAX)
        return kvp_fail(KVP_E_RANGE, "a text of %zu bytes: at most 2 GiB are encoded at once", n);
    size_t valid = utf8_valid_prefix(text, n);
    if (valid < n)
        return kvp_fail(KVP_E_RANGE, "the text is not UTF-8: byte %zu (0x%02X) is invalid", valid,
                        (unsigned)(unsigned char)text[valid]);
    encoding e = {.t = t};
    kvp_status status =
        added_tokens_split(&t->added, t->splitter, false, text, n, encode_piece, &e);
    bpe_scratch_fini(&e.scratch);
    if (status) {
        free(e.ids.ids);
        return status;
    }
    *ids = e.ids.ids;
    *n_ids = e.ids.n;
    return KVP_OK;
}
