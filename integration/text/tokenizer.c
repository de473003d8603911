/* tokenizer.c - byte-level BPE: text -> special tokens -> NFC -> added tokens -> words -> merges.
 *
 * Owns the order in which text passes through the parts (tokenizer_build.h), which is that of
 * Hugging Face's tokenizers. A tokenizer does not change after open, so any number of threads may
 * encode with it. */
#include "integration/text/tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "integration/files/gguf.h"
#include "integration/text/nfc.h"
#include "integration/text/tokenizer_build.h"

/* ---- opening --------------------------------------------------------------------------------- */

/* Ids that files give outside of the vocabulary must be in it. */
static kvp_status check_ids(const tokenizer *t, const char *path)
{
    size_t n;
    for (size_t i = 0; i < t->prefix.n; i++) {
        if (!vocab_get(&t->vocab, t->prefix.ids[i], &n))
            return kvp_fail(KVP_E_INVALID,
                            "%s: token id %d goes before every text, but the vocabulary lacks it",
                            path, (int)t->prefix.ids[i]);
    }
    return KVP_OK;
}

static bool is_blank(const added_token *token)
{
    return strspn(token->text, " \t\r\n") == token->n;
}

/* What the chat template spells directs the model as special tokens do. */
static void mark_controls(tokenizer *t)
{
    for (size_t i = 0; t->chat_template && i < t->added.n; i++) {
        added_token *token = &t->added.tokens[i];
        if (!is_blank(token) && strstr(t->chat_template, token->text))
            token->is_control = true;
    }
}

static kvp_status create(tokenizer **out)
{
    tokenizer *t = calloc(1, sizeof *t);
    if (!t)
        return kvp_fail(KVP_E_NOMEM, "out of memory: a tokenizer");
    t->bos = t->eos = -1;
    *out = t;
    return KVP_OK;
}

/* Hand out what was loaded, unless that failed. */
static kvp_status finish(tokenizer *t, const char *path, kvp_status status, tokenizer **out)
{
    if (!status)
        status = check_ids(t, path);
    if (status) {
        tokenizer_close(t);
        return status;
    }
    mark_controls(t);
    vocab_trim(&t->vocab);
    *out = t;
    return KVP_OK;
}

kvp_status tokenizer_open(const char *path, tokenizer **out)
{
    tokenizer *t = NULL;
    kvp_status status = create(&t);
    if (status)
        return status;
    status = gguf_is_named(path) ? tokenizer_load_gguf(path, t) : tokenizer_load_folder(path, t);
    return finish(t, path, status, out);
}

kvp_status tokenizer_open_bytes(const void *bytes, size_t n, const char *path, tokenizer **out)
{
    tokenizer *t = NULL;
    json_t *root = NULL;
    kvp_status status = create(&t);
    if (status)
        return status;
    status = json_parse_object(bytes, n, path, KVP_E_INVALID, &root);
    if (!status)
        status = tokenizer_load_json(t, root, path);
    json_decref(root);
    return finish(t, path, status, out);
}

void tokenizer_close(tokenizer *t)
{
    if (!t)
        return;
    splitter_close(t->splitter);
    added_tokens_fini(&t->added);
    bpe_fini(&t->bpe);
    vocab_fini(&t->vocab);
    free(t->prefix.ids);
    free(t->chat_template);
    free(t);
}

/* ---- looking up ------------------------------------------------------------------------------ */

uint32_t tokenizer_n_vocab(const tokenizer *t)
{
    return (uint32_t)t->vocab.n_ids;
}

int32_t tokenizer_find_special(const tokenizer *t, const char *text)
{
    const added_token *token = added_tokens_find(&t->added, text, strlen(text));
    return token ? token->id : -1;
}

const int32_t *tokenizer_prefix(const tokenizer *t, size_t *n)
{
    *n = t->prefix.n;
    return t->prefix.ids;
}

const char *tokenizer_token_bytes(const tokenizer *t, int32_t id, size_t *n)
{
    const char *bytes = vocab_get(&t->vocab, id, n);
    if (!bytes)
        *n = 0;
    return bytes ? bytes : "";
}

/* ---- encoding -------------------------------------------------------------------------------- */

/* One call of tokenizer_encode_pieces(). */
typedef struct encoding {
    const tokenizer *t;
    const text_piece *pieces;
    size_t n_pieces;
    const char *text; /* [n] the pieces joined */
    size_t n;
    bool has_foreign;
    bool is_composed; /* the text at hand is not part of `text`, but composed from it */
    bpe_scratch scratch;
    id_list ids;
} encoding;

static kvp_status encode_word(void *opaque, const char *word, size_t n)
{
    encoding *e = opaque;
    if (e->t->ignores_merges) {
        int64_t id = vocab_find(&e->t->vocab, word, n, false);
        if (id >= 0)
            return id_list_push(&e->ids, (int32_t)id);
    }
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

/* Whether the bytes [begin, end) of the joined text reach into a foreign piece. */
static bool touches_foreign(const encoding *e, size_t begin, size_t end)
{
    size_t at = 0;
    for (size_t i = 0; i < e->n_pieces; at += e->pieces[i].n, i++) {
        if (e->pieces[i].is_foreign && begin < at + e->pieces[i].n && at < end)
            return true;
    }
    return false;
}

static bool may_be(void *opaque, const added_token *token, const char *text)
{
    const encoding *e = opaque;
    if (!e->has_foreign || !token->is_control)
        return true;
    if (e->is_composed) /* who wrote what is not known any more */
        return false;
    size_t begin = (size_t)(text - e->text);
    return !touches_foreign(e, begin, begin + token->n);
}

/* What is left after the tokens that are found in composed text. */
static kvp_status encode_late_piece(void *opaque, const added_token *token, const char *text,
                                    size_t n)
{
    encoding *e = opaque;
    return token ? id_list_push(&e->ids, token->id) : encode_plain(e, text, n);
}

static kvp_status encode_composed(encoding *e, const char *text, size_t n)
{
    const added_tokens_sink sink = {.opaque = e, .piece = encode_late_piece, .may_be = may_be};
    return added_tokens_split(&e->t->added, e->t->splitter, true, text, n, &sink);
}

/* What is left after the tokens that are found in the text as it is. */
static kvp_status encode_piece(void *opaque, const added_token *token, const char *text, size_t n)
{
    encoding *e = opaque;
    if (token)
        return id_list_push(&e->ids, token->id);
    char *composed = NULL;
    size_t n_composed = n;
    kvp_status status = e->t->composes ? nfc_compose(text, n, &composed, &n_composed) : KVP_OK;
    e->is_composed = composed != NULL;
    if (!status)
        status = encode_composed(e, composed ? composed : text, n_composed);
    e->is_composed = false;
    free(composed);
    return status;
}

kvp_status tokenizer_check_text(const char *text, size_t n)
{
    size_t valid = utf8_valid_prefix(text, n);
    if (valid == n)
        return KVP_OK;
    return kvp_fail(KVP_E_RANGE, "the text is not UTF-8: byte %zu (0x%02X) is invalid", valid,
                    (unsigned)(unsigned char)text[valid]);
}

static kvp_status encode(encoding *e)
{
    kvp_status invalid = tokenizer_check_text(e->text, e->n);
    if (invalid)
        return invalid;
    const added_tokens_sink sink = {.opaque = e, .piece = encode_piece, .may_be = may_be};
    kvp_status status =
        added_tokens_split(&e->t->added, e->t->splitter, false, e->text, e->n, &sink);
    bpe_scratch_fini(&e->scratch);
    if (status) {
        free(e->ids.ids);
        e->ids = (id_list){0};
    }
    return status;
}

static kvp_status join(const text_piece *pieces, size_t n_pieces, size_t n, char **out)
{
    char *text = malloc(n + 1);
    if (!text)
        return kvp_fail(KVP_E_NOMEM, "out of memory: %zu bytes of text", n);
    *out = text;
    for (size_t i = 0; i < n_pieces; text += pieces[i].n, i++)
        memcpy(text, pieces[i].text, pieces[i].n);
    return KVP_OK;
}

kvp_status tokenizer_encode_pieces(const tokenizer *t, const text_piece *pieces, size_t n_pieces,
                                   int32_t **ids, size_t *n_ids)
{
    encoding e = {.t = t, .pieces = pieces, .n_pieces = n_pieces};
    for (size_t i = 0; i < n_pieces; i++) {
        if (pieces[i].n >= INT32_MAX - e.n)
            return kvp_fail(KVP_E_RANGE, "a text of %zu bytes: at most 2 GiB are encoded at once",
                            e.n + pieces[i].n);
        e.n += pieces[i].n;
        e.has_foreign |= pieces[i].is_foreign;
    }
    char *joined = NULL;
    kvp_status status = n_pieces == 1 ? KVP_OK : join(pieces, n_pieces, e.n, &joined);
    if (status)
        return status;
    e.text = joined ? joined : pieces->text;
    status = encode(&e);
    free(joined);
    if (status)
        return status;
    *ids = e.ids.ids;
    *n_ids = e.ids.n;
    return KVP_OK;
}

kvp_status tokenizer_encode(const tokenizer *t, const char *text, size_t n, int32_t **ids,
                            size_t *n_ids)
{
    return tokenizer_encode_pieces(t, &(text_piece){.text = text, .n = n}, 1, ids, n_ids);
}
