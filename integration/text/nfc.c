/* nfc.c - canonical composition, through utf8proc, as Hugging Face's tokenizers compose.
 *
 * ASCII characters never change, and are never composed or reordered with what stands before them.
 * So the text falls into stretches that begin with one, and only those that hold other characters
 * are given to utf8proc: what it needs is bounded by the longest of them. Marks that Unicode 9 did
 * not have are stretches of their own: the tokenizers know that version, utf8proc 2.8 the 15th. */
#include "integration/text/nfc.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include <utf8proc.h>

#include "integration/text/utf8.h"

/* What has been composed so far; text before the first change is copied only then. */
typedef struct output {
    char *bytes;
    size_t n, capacity;
} output;

static kvp_status append(output *o, const char *bytes, size_t n)
{
    if (o->n + n >= o->capacity) { /* never a null block */
        size_t capacity = 2 * (o->n + n) + 1;
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

/* Combining marks that came after Unicode 9, and the half of a letter (U+11930). */
static const uint32_t newer[][2] = {
    {0x7FD, 0x7FD},     {0x898, 0x89F},     {0x8CA, 0x8D3},     {0x9FE, 0x9FE},
    {0xC3C, 0xC3C},     {0xD3B, 0xD3C},     {0xEBA, 0xEBA},     {0x1715, 0x1715},
    {0x1ABF, 0x1ACE},   {0x1DF6, 0x1DFA},   {0xA82C, 0xA82C},   {0x10D24, 0x10D27},
    {0x10EAB, 0x10EAC}, {0x10EFD, 0x10EFF}, {0x10F46, 0x10F50}, {0x10F82, 0x10F85},
    {0x11070, 0x11070}, {0x1133B, 0x1133B}, {0x1145E, 0x1145E}, {0x11839, 0x1183A},
    {0x11930, 0x11930}, {0x1193D, 0x1193E}, {0x11943, 0x11943}, {0x119E0, 0x119E0},
    {0x11A34, 0x11A34}, {0x11A47, 0x11A47}, {0x11A99, 0x11A99}, {0x11D42, 0x11D42},
    {0x11D44, 0x11D45}, {0x11D97, 0x11D97}, {0x11F41, 0x11F42}, {0x16FF0, 0x16FF1},
    {0x1E08F, 0x1E08F}, {0x1E130, 0x1E136}, {0x1E2AE, 0x1E2AE}, {0x1E2EC, 0x1E2EF},
    {0x1E4EC, 0x1E4EF},
};

static int compare_range(const void *key, const void *range)
{
    uint32_t c = *(const uint32_t *)key;
    const uint32_t *r = range;
    return c < r[0] ? -1 : c > r[1];
}

static bool is_newer(uint32_t c)
{
    return bsearch(&c, newer, sizeof newer / sizeof *newer, sizeof *newer, compare_range) != NULL;
}

static bool is_ascii(char c)
{
    return !((unsigned char)c & 0x80);
}

/* Length of the stretch at the beginning; *is_plain: nothing in it can change. */
static size_t stretch(const char *text, size_t n, bool *is_plain)
{
    size_t at = 0;
    while (at < n && is_ascii(text[at]))
        at++;
    *is_plain = at > 1 || at == n;
    if (*is_plain)
        return at == n ? n : at - 1; /* the last one belongs to what comes after */
    for (size_t length; at < n && !is_ascii(text[at]); at += length) {
        (void)utf8_classify(text + at, n - at, &length);
        if (is_newer(utf8_decode(text + at, length)))
            return at ? at : length;
    }
    return at;
}

/* Compose the stretch text[at .. at + n) and append it, or leave it for later. */
static kvp_status compose(output *o, const char *text, size_t at, size_t n)
{
    utf8proc_uint8_t *composed = NULL;
    utf8proc_ssize_t length = utf8proc_map((const utf8proc_uint8_t *)text + at, (utf8proc_ssize_t)n,
                                           &composed, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
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
