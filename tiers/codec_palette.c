/* codec_palette.c - top bytes as 4-bit places in a palette of the 15 most frequent ones; others are
 * escapes, stored behind. Decodes several times as fast as Huffman codes, and needs no zstd. */
#include "tiers/codec_impl.h"

#include <string.h>

/* How often each byte occurs; four counters each, so that runs do not wait for one. */
static void count(const uint8_t *p, size_t n, uint32_t *total)
{
    uint32_t counts[4][256];
    memset(counts, 0, sizeof counts);
    size_t i = 0;
    for (; i + 4 <= n; i += 4)
        for (size_t k = 0; k < 4; k++)
            counts[k][p[i + k]]++;
    for (; i < n; i++)
        counts[0][p[i]]++;
    for (size_t b = 0; b < 256; b++)
        total[b] = counts[0][b] + counts[1][b] + counts[2][b] + counts[3][b];
}

size_t kvpi_palette_choose(const uint32_t *counts, uint8_t *palette)
{
    size_t n = 0, covered = 0;
    memset(palette, 0, KVPI_PALETTE_COLOURS);
    for (size_t b = 0; b < 256; b++) {
        if (!counts[b] ||
            (n == KVPI_PALETTE_COLOURS && counts[b] <= counts[palette[KVPI_PALETTE_COLOURS - 1]]))
            continue;
        size_t k = n < KVPI_PALETTE_COLOURS ? n++ : KVPI_PALETTE_COLOURS - 1;
        for (; k > 0 && counts[palette[k - 1]] < counts[b]; k--)
            palette[k] = palette[k - 1];
        palette[k] = (uint8_t)b;
    }
    for (size_t k = 0; k < n; k++)
        covered += counts[palette[k]];
    return covered;
}

static size_t pack(kvpi_codec *c, const uint8_t *high, size_t n, uint8_t *dst, size_t room)
{
    uint32_t counts[256];
    uint8_t palette[KVPI_PALETTE_COLOURS];
    count(high, n, counts);
    size_t n_escapes = n - kvpi_palette_choose(counts, palette);
    size_t fixed = sizeof palette + kvpi_nibble_bytes(n);
    if (fixed + n_escapes > room)
        return 0;
    memcpy(dst, palette, sizeof palette);
    return fixed + c->kernels->nibbles_pack(high, n, palette, dst + sizeof palette, dst + fixed);
}

static bool unpack(kvpi_codec *c, const uint8_t *src, size_t n_src, uint8_t *high, size_t n)
{
    size_t fixed = KVPI_PALETTE_COLOURS + kvpi_nibble_bytes(n);
    return n_src >= fixed && c->kernels->nibbles_unpack(src + KVPI_PALETTE_COLOURS, n, src,
                                                        src + fixed, n_src - fixed, high);
}

static const kvpi_high_coder coder = {.pack = pack, .unpack = unpack};

static size_t encode(kvpi_codec *c, const kvpi_plan *plan, const void *src, size_t n, void *dst,
                     size_t room)
{
    (void)src, (void)n;
    return kvpi_parts_encode(c, &coder, plan, dst, room);
}

static kvp_status decode(kvpi_codec *c, const kvpi_codec_shape *shape, const void *src,
                         size_t n_src, void *dst)
{
    return kvpi_parts_decode(c, &coder, shape, src, n_src, dst);
}

const kvpi_codec_ops kvpi_codec_palette = {
    .name = "palette",
    .is_for_floats = true,
    .encode = encode,
    .decode = decode,
};
