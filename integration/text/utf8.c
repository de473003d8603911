/* utf8.c - UTF-8: validity, single characters, and a decoder for streams of token bytes.
 *
 * Well-formed sequences are those of table 3-7 of the Unicode Standard; ill-formed ones are
 * replaced by one U+FFFD per maximal subpart, as Rust's from_utf8_lossy (which Hugging Face's
 * decoder uses) does.
 *
 * Invariant of a utf8_stream: pending bytes are the beginning of a valid character (at most 3). */
#include "integration/text/utf8.h"

#include <assert.h>
#include <string.h>

#include "integration/text/tokenizer.h"

/* Length of the character that begins with this byte, and the range of its second byte; 0: no
 * character begins so. */
static size_t lead(unsigned char b, unsigned char *low, unsigned char *high)
{
    *low = 0x80;
    *high = 0xBF;
    if (b < 0x80)
        return 1;
    if (b >= 0xC2 && b <= 0xDF)
        return 2;
    if (b >= 0xE0 && b <= 0xEF) {
        if (b == 0xE0)
            *low = 0xA0; /* shorter forms exist */
        if (b == 0xED)
            *high = 0x9F; /* surrogates */
        return 3;
    }
    if (b >= 0xF0 && b <= 0xF4) {
        if (b == 0xF0)
            *low = 0x90;
        if (b == 0xF4)
            *high = 0x8F; /* above U+10FFFF */
        return 4;
    }
    return 0;
}

utf8_kind utf8_classify(const char *s, size_t n, size_t *length)
{
    unsigned char low, high;
    size_t want = lead((unsigned char)s[0], &low, &high);
    size_t have = 1;
    for (; have < want && have < n; have++) {
        unsigned char b = (unsigned char)s[have];
        if (b < low || b > high)
            break;
        low = 0x80;
        high = 0xBF;
    }
    *length = have;
    if (have == want)
        return UTF8_CHAR;
    return want && have == n ? UTF8_INCOMPLETE : UTF8_INVALID;
}

size_t utf8_first(const char *s, size_t n)
{
    size_t length;
    return n && utf8_classify(s, n, &length) == UTF8_CHAR ? length : 0;
}

size_t utf8_last(const char *s, size_t n)
{
    for (size_t length = 1; length <= 4 && length <= n; length++) {
        if (utf8_first(s + n - length, length) == length)
            return length;
    }
    return 0;
}

uint32_t utf8_decode(const char *s, size_t length)
{
    static const unsigned char lead_bits[5] = {0, 0x7F, 0x1F, 0x0F, 0x07};
    uint32_t c = (uint32_t)((unsigned char)s[0] & lead_bits[length]);
    for (size_t i = 1; i < length; i++)
        c = c << 6 | ((unsigned char)s[i] & 0x3Fu);
    return c;
}

size_t utf8_encode(uint32_t c, char s[4])
{
    if (c < 0x80) {
        s[0] = (char)c;
        return 1;
    }
    size_t length = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    static const unsigned char lead_mark[5] = {0, 0, 0xC0, 0xE0, 0xF0};
    for (size_t i = length - 1; i > 0; i--, c >>= 6)
        s[i] = (char)(0x80 | (c & 0x3F));
    s[0] = (char)(lead_mark[length] | c);
    return length;
}

size_t utf8_valid_prefix(const char *text, size_t n)
{
    size_t at = 0;
    while (at < n) {
        size_t length;
        if (utf8_classify(text + at, n - at, &length) != UTF8_CHAR)
            break;
        at += length;
    }
    return at;
}

static size_t put_replacement(char *out)
{
    memcpy(out, "\xEF\xBF\xBD", 3);
    return 3;
}

/* Decode as much of buf as is decided; *used is what was consumed. */
static size_t decode_some(const char *buf, size_t n, size_t *used, char *out)
{
    size_t n_out = 0, at = 0;
    while (at < n) {
        size_t length;
        utf8_kind kind = utf8_classify(buf + at, n - at, &length);
        if (kind == UTF8_INCOMPLETE)
            break;
        if (kind == UTF8_CHAR) {
            memcpy(out + n_out, buf + at, length);
            n_out += length;
        } else {
            n_out += put_replacement(out + n_out);
        }
        at += length;
    }
    *used = at;
    return n_out;
}

/* Move bytes one by one behind the pending ones until that character is decided. */
static size_t resolve_pending(utf8_stream *s, const char **bytes, size_t *n, char *out)
{
    size_t n_out = 0;
    while (s->n_pending && *n) {
        assert(s->n_pending < sizeof s->pending);
        s->pending[s->n_pending++] = (unsigned char)*(*bytes)++;
        --*n;
        size_t used;
        n_out += decode_some((const char *)s->pending, s->n_pending, &used, out + n_out);
        s->n_pending -= used;
        memmove(s->pending, s->pending + used, s->n_pending);
    }
    return n_out;
}

size_t utf8_stream_push(utf8_stream *s, const char *bytes, size_t n, char *out)
{
    size_t n_out = resolve_pending(s, &bytes, &n, out);
    if (!n)
        return n_out;
    size_t used;
    n_out += decode_some(bytes, n, &used, out + n_out);
    s->n_pending = n - used;
    assert(s->n_pending < sizeof s->pending);
    memcpy(s->pending, bytes + used, s->n_pending);
    return n_out;
}

size_t utf8_stream_finish(utf8_stream *s, char *out)
{
    size_t n_out = s->n_pending ? put_replacement(out) : 0; /* one incomplete character */
    s->n_pending = 0;
    return n_out;
}
