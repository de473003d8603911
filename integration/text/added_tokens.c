/* added_tokens.c - tokens that are recognised in the text before it is split into words.
 *
 * Follows AddedVocabulary of Hugging Face's tokenizers (added_vocabulary.rs, find_matches), which
 * uses an Aho-Corasick automaton; here a table of first bytes does: special tokens are few, and
 * most bytes of a text begin none. */
#include "integration/text/added_tokens.h"

#include <stdlib.h>
#include <string.h>

#include "integration/text/utf8.h"

void added_tokens_fini(added_tokens *a)
{
    for (size_t i = 0; i < a->n; i++)
        free((char *)(uintptr_t)a->tokens[i].text); /* our own copy, const for everyone else */
    free(a->tokens);
    *a = (added_tokens){0};
}

kvp_status added_tokens_add(added_tokens *a, const added_token *token)
{
    if (a->n == a->capacity) {
        size_t capacity = a->capacity ? a->capacity * 2 : 16;
        added_token *tokens = realloc(a->tokens, capacity * sizeof *tokens);
        if (!tokens)
            return kvp_fail(KVP_E_NOMEM, "out of memory: %zu added tokens", capacity);
        a->tokens = tokens;
        a->capacity = capacity;
    }
    char *text = malloc(token->n + 1);
    if (!text)
        return kvp_fail(KVP_E_NOMEM, "out of memory: an added token of %zu bytes", token->n);
    memcpy(text, token->text, token->n);
    text[token->n] = '\0';
    a->tokens[a->n] = *token;
    a->tokens[a->n++].text = text;
    a->begins[token->normalized][(unsigned char)text[0]] = true;
    return KVP_OK;
}

const added_token *added_tokens_find(const added_tokens *a, const char *text, size_t n)
{
    for (size_t i = 0; i < a->n; i++) {
        if (a->tokens[i].n == n && memcmp(a->tokens[i].text, text, n) == 0)
            return &a->tokens[i];
    }
    return NULL;
}

/* ---- what surrounds a match ------------------------------------------------------------------ */

static bool is_space_at(const char *text, size_t length)
{
    return length && text_is_space(utf8_decode(text, length));
}

/* White space at the end of n bytes, in bytes. */
static size_t spaces_before(const char *text, size_t n)
{
    size_t at = n;
    for (size_t length; (length = utf8_last(text, at)) && is_space_at(text + at - length, length);)
        at -= length;
    return n - at;
}

static size_t spaces_after(const char *text, size_t n)
{
    size_t at = 0;
    for (size_t length; (length = utf8_first(text + at, n - at)) && is_space_at(text + at, length);)
        at += length;
    return at;
}

static bool stands_alone(const splitter *s, const char *text, size_t n, size_t begin, size_t end)
{
    size_t before = utf8_last(text, begin), after = utf8_first(text + end, n - end);
    return !(before && splitter_is_word_char(s, text + begin - before, before)) &&
           !(after && splitter_is_word_char(s, text + end, after));
}

/* ---- matching -------------------------------------------------------------------------------- */

/* The longest token at the beginning of text, or NULL. */
static const added_token *match_at(const added_tokens *a, bool normalized, const char *text,
                                   size_t n, const added_tokens_sink *sink)
{
    if (!a->begins[normalized][(unsigned char)text[0]])
        return NULL;
    const added_token *best = NULL;
    for (size_t i = 0; i < a->n; i++) {
        const added_token *t = &a->tokens[i];
        if (t->normalized == normalized && t->n <= n && (!best || t->n > best->n) &&
            memcmp(t->text, text, t->n) == 0 && sink->may_be(sink->opaque, t, text))
            best = t;
    }
    return best;
}

kvp_status added_tokens_split(const added_tokens *a, const splitter *s, bool normalized,
                              const char *text, size_t n, const added_tokens_sink *sink)
{
    size_t done = 0; /* everything before was handed out */
    kvp_status status = KVP_OK;
    for (size_t at = 0; at < n && !status;) {
        const added_token *token = match_at(a, normalized, text + at, n - at, sink);
        if (!token) {
            at++;
            continue;
        }
        size_t begin = at, end = at + token->n;
        at = end;
        if (token->single_word && !stands_alone(s, text, n, begin, end))
            continue;
        if (token->lstrip)
            begin -= spaces_before(text, begin);
        if (begin < done) /* an rstrip before took them already */
            begin = done;
        if (token->rstrip)
            end += spaces_after(text + end, n - end);
        if (done < begin)
            status = sink->piece(sink->opaque, NULL, text + done, begin - done);
        if (!status)
            status = sink->piece(sink->opaque, token, text + begin, end > begin ? end - begin : 0);
        if (done < end)
            done = end;
    }
    if (!status && done < n)
        status = sink->piece(sink->opaque, NULL, text + done, n - done);
    return status;
}
