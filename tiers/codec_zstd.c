/* codec_zstd.c - pages whose bytes nothing is known of: one zstd frame. */
#include "tiers/codec_impl.h"

#include <assert.h>

static size_t encode(kvpi_codec *c, const kvpi_plan *plan, const void *src, size_t n, void *dst,
                     size_t room)
{
    (void)plan;
    assert(c->with_opaque);
    return kvpi_pack_plain(c->entropy, src, n, dst, room);
}

static kvp_status decode(kvpi_codec *c, const kvpi_codec_shape *shape, const void *src,
                         size_t n_src, void *dst)
{
    return kvpi_unpack(c->entropy, src, n_src, dst, kvpi_shape_bytes(shape))
               ? KVP_OK
               : kvpi_codec_corrupt("it does not decode to its length");
}

const kvpi_codec_ops kvpi_codec_zstd = {
    .name = "zstd",
    .is_for_opaque = true,
    .needs_entropy = true,
    .encode = encode,
    .decode = decode,
};
