/* nfc.c - canonical composition, through utf8proc.
 *
 * An ASCII character never changes and is never composed with what stands before it. So the text
 * falls into stretches that begin with one, and only those that hold other characters are given to
 * utf8proc: what it needs is bounded by the longest of them. */
#include "integration/text/nfc.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <utf8proc.h>

/* What has been composed so far; text before the first change is copied only then. */
typedef struct output {
    char *bytes;
    size_t n, capacity;
} output;

static kvp_status append(output *o, const char *bytes, size_t n)
{
    if (o->n + n > o->capacity) {
        size_t capacity = 2 * (o->n + n);
        char *grown = realloc(o->bytes, capacity);
        if (!grown)
            return kvp_fail(KVP_E_NOMEM, "out of memory: %zu bytes of composed text", capacity);
        o->bytes = grown;
        o->capacity = capacity;
    }
    memcpy(o->bytes + o->n, bytes, n);
    o->n += n;
    return KVP_OK;
}

static bool is_ascii(char c)
{
    return !((unsigned char)c & 0x80);
}

/* Length of the stretch at the beginning: ASCII alone, or one such character and others. */
static size_t stretch(const char *text, size_t n, bool *is_plain)
{
    size_t at = 0;
    while (at < n && is_ascii(text[at]))
        at++;
    *is_plain = at > 1 || (at == 1 && n == 1);
    if (*is_plain)
        return at == n ? n : at - 1; /* the last one belongs to what comes after */
    while (at < n && !is_ascii(text[at]))
        at++;
    return at;
}

/* Compose the stretch text[at .. at + n) and append it, or leave it for later if nothing changes. */
static kvp_status compose(output *o, const char *text, size_t at, size_t n)
{
    utf8proc_uint8_t *composed = NULL;
    utf8proc_ssize_t length =
        utf8proc_map((const utf8proc_uint8_t *)text + at, (utf8proc_ssize_t)n, &composed,
                     UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    if (length < 0)
        return kvp_fail(KVP_E_NOMEM, "utf8proc could not compose %zu bytes of text: %s", n,
                        utf8proc_errmsg(length));
    bool is_same = (size_t)length == n && memcmp(composed, text + at, n) == 0;
    kvp_status status = KVP_OK;
    if (!is_same && !o->bytes)
        status = append(o, text, at);
    if (!status && (!is_same || o->bytes))
        status = append(o, (const char *)composed, (size_t)length);
    free(composed);
    return status;
}

kvp_status nfc_compose(const char *text, size_t n, char **out, size_t *n_out)
{
    output o = {0};
    kvp_status status = KVP_OK;
    for (size_t at = 0, length; at < n && !status; at += length) {
        bool is_plain;
        length = stretch(text + at, n - at, &is_plain);
        if (!is_plain)
            status = compose(&o, text, at, length);
        else if (o.bytes)
            status = append(&o, text + at, length);
    }
    if (status) {
        free(o.bytes);
        return status;
    }
    *out = o.bytes;
    *n_out = o.bytes ? o.n : n;
    return KVP_OK;
}
