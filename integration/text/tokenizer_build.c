/* tokenizer_build.c - puts a tokenizer together, whatever files its parts come from.
 *
 * The order in which added tokens are met decides: the first description of a text stays. */
#include "integration/text/tokenizer_build.h"

#include <stdlib.h>
#include <string.h>

#include "integration/text/byte_level.h"
#include "integration/text/nfc.h"
#include "integration/text/utf8.h"

kvp_status tokenizer_unsupported(const char *where, const char *part, const char *what)
{
    return kvp_fail(KVP_E_UNSUPPORTED,
                    "%s: %s %s is not supported; byte-level BPE is, with the words of GPT-2, "
                    "SmolLM, Qwen2 or Llama-3. Token ids made elsewhere do without: --ids",
                    where, part, what);
}

/* ---- spellings ------------------------------------------------------------------------------- */

#define SHORT_BYTES 256

/* What a spelling stands for. Short ones, nearly all, need no memory. */
typedef struct spelled {
    const char *bytes;
    size_t n;
    bool is_literal; /* not in the alphabet, so no merge makes it: it stands for itself */
    char *owned, room[SHORT_BYTES];
} spelled;

static kvp_status spelled_init(spelled *s, const char *spelling, size_t n)
{
    s->owned = NULL;
    if (n > SHORT_BYTES && !(s->owned = malloc(n)))
        return kvp_fail(KVP_E_NOMEM, "out of memory: a token of %zu bytes", n);
    char *bytes = s->owned ? s->owned : s->room;
    s->is_literal = !byte_level_to_bytes(spelling, n, bytes, &s->n);
    s->bytes = s->is_literal ? spelling : bytes;
    if (s->is_literal)
        s->n = n;
    return KVP_OK;
}

static void spelled_fini(spelled *s)
{
    free(s->owned);
}

kvp_status tokenizer_find_spelling(const tokenizer *t, const char *spelling, size_t n, int64_t *id)
{
    spelled s;
    kvp_status status = spelled_init(&s, spelling, n);
    if (status)
        return status;
    *id = vocab_find(&t->vocab, s.bytes, s.n, s.is_literal);
    spelled_fini(&s);
    return KVP_OK;
}

/* For messages: they have limited room. */
static int shown(size_t n)
{
    return (int)(n < 80 ? n : 80);
}

/* ---- vocabulary and merges ------------------------------------------------------------------- */

kvp_status tokenizer_put_token(tokenizer *t, int64_t id, const char *spelling, size_t n,
                               const char *where)
{
    spelled s;
    kvp_status status = spelled_init(&s, spelling, n);
    if (status)
        return status;
    status = vocab_put(&t->vocab, id, s.bytes, s.n, s.is_literal);
    spelled_fini(&s);
    return status
               ? kvp_fail(status, "%s: token \"%.*s\": %s", where, shown(n), spelling, kvp_error())
               : KVP_OK;
}

kvp_status tokenizer_start_merges(tokenizer *t, size_t n_merges)
{
    kvp_status status = bpe_init(&t->bpe, n_merges);
    if (status)
        return status;
    for (int byte = 0; byte < 256; byte++)
        t->bpe.byte_ids[byte] = (int32_t)vocab_find(&t->vocab, &(char){(char)byte}, 1, false);
    return KVP_OK;
}

bool merge_text_parse(const char *line, size_t n, merge_text *m)
{
    const char *space = memchr(line, ' ', n);
    if (!space || space == line || space + 1 == line + n)
        return false;
    *m = (merge_text){.left = line,
                      .n_left = (size_t)(space - line),
                      .right = space + 1,
                      .n_right = n - (size_t)(space - line) - 1};
    return !memchr(m->right, ' ', m->n_right);
}

static kvp_status find_joined(const tokenizer *t, const merge_text *m, int64_t *id)
{
    char room[SHORT_BYTES], *joined = room;
    size_t n = m->n_left + m->n_right;
    if (n > sizeof room && !(joined = malloc(n)))
        return kvp_fail(KVP_E_NOMEM, "out of memory: a merge of %zu bytes", n);
    memcpy(joined, m->left, m->n_left);
    memcpy(joined + m->n_left, m->right, m->n_right);
    kvp_status status = tokenizer_find_spelling(t, joined, n, id);
    if (joined != room)
        free(joined);
    return status;
}

kvp_status tokenizer_put_merge(tokenizer *t, size_t rank, const merge_text *m, const char *where)
{
    int64_t left = -1, right = -1, result = -1;
    kvp_status status = tokenizer_find_spelling(t, m->left, m->n_left, &left);
    if (!status)
        status = tokenizer_find_spelling(t, m->right, m->n_right, &right);
    if (!status)
        status = find_joined(t, m, &result);
    if (status)
        return status;
    if (left < 0 || right < 0 || result < 0)
        return kvp_fail(KVP_E_INVALID, "%s: merge %zu (\"%.*s %.*s\"): %s is not in the vocabulary",
                        where, rank + 1, shown(m->n_left), m->left, shown(m->n_right), m->right,
                        left < 0    ? "its left side"
                        : right < 0 ? "its right side"
                                    : "what it makes");
    bpe_set_merge(&t->bpe, rank, (int32_t)left, (int32_t)right, (int32_t)result);
    return KVP_OK;
}

/* ---- added tokens ---------------------------------------------------------------------------- */

static kvp_status choose_id(tokenizer *t, added_token *token)
{
    int64_t known = -1;
    kvp_status status = tokenizer_find_spelling(t, token->text, token->n, &known);
    if (!status && known < 0)
        known = vocab_find(&t->vocab, token->text, token->n, true);
    if (!status && known < 0) {
        known = token->id >= 0 ? token->id : (int64_t)t->vocab.n_ids;
        status = vocab_put(&t->vocab, known, token->text, token->n, true);
    }
    if (!status)
        token->id = (int32_t)known;
    return status;
}

/* What is looked for in composed text is composed itself. */
static kvp_status add(tokenizer *t, added_token *token)
{
    char *composed = NULL;
    if (t->composes && token->normalized) {
        kvp_status status = nfc_compose(token->text, token->n, &composed, &token->n);
        if (status)
            return status;
    }
    if (composed)
        token->text = composed;
    kvp_status status = added_tokens_add(&t->added, token);
    free(composed);
    return status;
}

kvp_status tokenizer_put_added(tokenizer *t, const added_token *token, const char *where)
{
    if (!token->n || added_tokens_find(&t->added, token->text, token->n))
        return KVP_OK;
    added_token own = *token;
    kvp_status status = choose_id(t, &own);
    if (status)
        return kvp_fail(status, "%s: added token \"%.*s\": %s", where, shown(token->n), token->text,
                        kvp_error());
    return add(t, &own);
}

static bool flag(const json_t *json, const char *key, bool missing)
{
    const json_t *value = json_object_get(json, key);
    return json_is_boolean(value) ? json_is_true(value) : missing;
}

kvp_status tokenizer_put_added_json(tokenizer *t, const json_t *json, int64_t id, bool is_special,
                                    const char *where)
{
    if (json_is_unset(json))
        return KVP_OK;
    const json_t *text = json_is_object(json) ? json_object_get(json, "content") : json;
    if (!json_is_string(text))
        return kvp_fail(KVP_E_INVALID, "%s: an added token has no text", where);
    if (id < -1 || id >= VOCAB_MAX_IDS)
        return kvp_fail(KVP_E_INVALID, "%s: added token \"%s\": token id %lld is outside 0 .. %d",
                        where, json_string_value(text), (long long)id, VOCAB_MAX_IDS - 1);
    is_special = flag(json, "special", is_special);
    return tokenizer_put_added(t,
                               &(added_token){.text = json_string_value(text),
                                              .n = json_string_length(text),
                                              .id = (int32_t)id,
                                              .single_word = flag(json, "single_word", false),
                                              .lstrip = flag(json, "lstrip", false),
                                              .rstrip = flag(json, "rstrip", false),
                                              .normalized = flag(json, "normalized", !is_special),
                                              .is_control = is_special},
                               where);
}
