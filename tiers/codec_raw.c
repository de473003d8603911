/* codec_raw.c - a page as it is. */
#include "tiers/codec_impl.h"

#include <string.h>

static size_t encode(kvpi_codec *c, const kvpi_plan *plan, const void *src, size_t n, void *dst,
                     size_t room)
{
    (void)c, (void)plan;
    if (n > room)
        return 0;
    memcpy(dst, src, n);
    return n;
}

static kvp_status decode(kvpi_codec *c, const kvpi_codec_shape *shape, const void *src,
                         size_t n_src, void *dst)
{
    (void)c;
    size_t n = kvpi_shape_bytes(shape);
    if (n_src != n)
        return kvp_fail(KVP_E_CORRUPT, "a raw page of %zu bytes should have %zu", n_src, n);
    memcpy(dst, src, n);
    return KVP_OK;
}

const kvpi_codec_ops kvpi_codec_raw = {
    .name = "raw",
    .is_for_opaque = true,
    .is_for_floats = true,
    .encode = encode,
    .decode = decode,
};
