/* codec_huffman.c - top bytes entropy-coded: a zstd frame of Huffman codes per part. The smallest
 * for almost every page of floats. */
#include "tiers/codec_impl.h"

static size_t pack(kvpi_codec *c, const uint8_t *high, size_t n, uint8_t *dst, size_t room)
{
    return kvpi_pack_huffman(c->entropy, high, n, dst, room);
}

static bool unpack(kvpi_codec *c, const uint8_t *src, size_t n_src, uint8_t *high, size_t n)
{
    return kvpi_unpack(c->entropy, src, n_src, high, n);
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

const kvpi_codec_ops kvpi_codec_huffman = {
    .name = "huffman",
    .is_for_floats = true,
    .needs_entropy = true,
    .encode = encode,
    .decode = decode,
};
