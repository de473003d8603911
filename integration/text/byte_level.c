/* byte_level.c - the alphabet that byte-level BPE vocabularies are written in. */
#include "integration/text/byte_level.h"

#include "integration/text/utf8.h"

#define FIRST_SUBSTITUTE 0x100u

static bool is_itself(uint32_t byte)
{
    return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

void byte_level_alphabet(uint32_t chars[256])
{
    uint32_t next = FIRST_SUBSTITUTE;
    for (uint32_t byte = 0; byte < 256; byte++)
        chars[byte] = is_itself(byte) ? byte : next++;
}

/* The byte that character c stands for, or -1. */
static int byte_of(uint32_t c)
{
    if (c < 256)
        return is_itself(c) ? (int)c : -1;
    /* The n-th substitute stands for the n-th byte that is not itself. */
    uint32_t n = c - FIRST_SUBSTITUTE;
    if (n < 0x21)
        return (int)n;
    n += 0x7F - 0x21;
    if (n < 0xA1)
        return (int)n;
    return n == 0xA1 ? 0xAD : -1;
}

bool byte_level_to_bytes(const char *spelling, size_t n, char *bytes, size_t *n_bytes)
{
    for (int pass = 0; pass < 2; pass++) { /* check everything before writing anything */
        size_t count = 0;
        for (size_t at = 0, length; at < n; at += length, count++) {
            if (utf8_classify(spelling + at, n - at, &length) != UTF8_CHAR)
                return false;
            int byte = byte_of(utf8_decode(spelling + at, length));
            if (byte < 0)
                return false;
            if (pass)
                bytes[count] = (char)byte;
        }
        *n_bytes = count;
    }
    return true;
}
