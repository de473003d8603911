/* codec.c - the table of codecs, and the memory that they work in. Nothing is allocated after open.
 *
 * Losing designs, measured on real pages: exponents told against those of the token before, or
 * xor-ed with them (the difference of whole values does better); values told against a channel's
 * usual value; a Huffman table per head (costs 1 %). Entropy-coding the next byte too gains 5 % on
 * keys of one model, where tokens resemble each other, and nothing on another's, at half the
 * speed. */
#include "tiers/codec_impl.h"

#include "alloc/mem.h"
#include "tiers/zero_blocks.h"

#include <assert.h>
#include <string.h>

static const kvpi_codec_ops *const codecs[KVPI_N_CODECS] = {
    [KVPI_CODEC_RAW] = &kvpi_codec_raw,
    [KVPI_CODEC_HUFFMAN] = &kvpi_codec_huffman,
    [KVPI_CODEC_ZSTD] = &kvpi_codec_zstd,
    [KVPI_CODEC_PALETTE] = &kvpi_codec_palette,
};

static const kvpi_codec_ops *find(kvpi_codec_id id)
{
    return (unsigned)id < KVPI_N_CODECS ? codecs[id] : NULL;
}

const char *kvpi_codec_name(kvpi_codec_id id)
{
    const kvpi_codec_ops *ops = find(id);
    return ops ? ops->name : NULL;
}

bool kvpi_codec_can(const kvpi_codec *c, kvpi_codec_id id, kvp_dtype dtype)
{
    const kvpi_codec_ops *ops = find(id);
    if (!ops || !kvp_dtype_bytes(dtype) || (ops->needs_entropy && !c->entropy))
        return false;
    return dtype == KVP_OPAQUE ? ops->is_for_opaque : ops->is_for_floats;
}

kvp_status kvpi_codec_corrupt(const char *what)
{
    return kvp_fail(KVP_E_CORRUPT, "an encoded page is damaged: %s", what);
}

/* ---- memory ---- */

static size_t round64(size_t n)
{
    return (n + 63) & ~(size_t)63;
}

/* The next n bytes of a block; NULL block: count only. */
static void *carve(uint8_t *block, size_t *at, size_t n)
{
    void *p = block ? block + *at : NULL;
    *at += round64(n);
    return p;
}

/* Give the codec its pieces of the block that it lies in; NULL: only say how long that must be. */
static size_t lay_out(kvpi_codec *c, size_t max_bytes, bool with_opaque)
{
    uint8_t *block = (uint8_t *)c;
    size_t at = 0, n_entropy = kvpi_entropy_bytes(max_bytes, with_opaque);
    (void)carve(block, &at, sizeof *c);
    uint8_t *entropy = carve(block, &at, n_entropy);
    uint8_t *high = carve(block, &at, max_bytes / 2);
    uint8_t *live = carve(block, &at, max_bytes);
    uint8_t *map = carve(block, &at, kvpi_block_map_bytes(max_bytes) + 1);
    uint8_t *refs = carve(block, &at, kvpi_reference_room(max_bytes) + 1);
    uint32_t *n_log_n = carve(block, &at, (KVPI_MAX_SAMPLE + 1) * sizeof *n_log_n);
    if (c) {
        c->entropy = n_entropy ? kvpi_entropy_init(entropy, max_bytes, with_opaque) : NULL;
        c->high = high;
        c->live = live;
        c->map = map;
        c->refs = refs;
        c->n_log_n = n_log_n;
    }
    return at;
}

kvp_status kvpi_codec_open(const kvp_mem *mem, size_t max_bytes, bool with_opaque, kvpi_codec **out,
                           size_t *workspace_bytes)
{
    assert(max_bytes <= UINT32_MAX);
    kvpi_codec *c = NULL;
    size_t n = lay_out(NULL, max_bytes, with_opaque);
    kvp_status status = kvpi_alloc(mem, n, "the page codec", &c);
    if (status)
        return status;
    *c = (kvpi_codec){.mem = mem,
                      .max_bytes = max_bytes,
                      .with_opaque = with_opaque,
                      .block_bytes = n,
                      .kernels = kvpi_plane_kernels_find()};
    (void)lay_out(c, max_bytes, with_opaque);
    if (!c->entropy && kvpi_entropy_bytes(max_bytes, with_opaque)) {
        kvpi_codec_close(c);
        return kvp_fail(KVP_E_UNSUPPORTED, "this zstd (%s) refuses the page codec's parameters",
                        kvpi_entropy_version());
    }
    kvpi_choose_init(c);
    *workspace_bytes = n;
    *out = c;
    return KVP_OK;
}

void kvpi_codec_close(kvpi_codec *c)
{
    if (c)
        kvpi_free(c->mem, c, c->block_bytes);
}

/* ---- encode ---- */

void kvpi_codec_choose(kvpi_codec *c, const kvpi_codec_shape *shape, const void *src,
                       kvpi_plan *plan)
{
    assert(kvpi_shape_bytes(shape) <= c->max_bytes);
    if (shape->dtype == KVP_OPAQUE) {
        *plan = (kvpi_plan){.codec = c->entropy ? KVPI_CODEC_ZSTD : KVPI_CODEC_RAW};
        return;
    }
    kvpi_parts_take(c, shape, src);
    kvpi_choose(c, plan);
}

/* c->parts has been filled in. */
static size_t encode(kvpi_codec *c, const kvpi_codec_shape *shape, const kvpi_plan *plan,
                     const void *src, void *dst, size_t room)
{
    if (!kvpi_codec_can(c, plan->codec, shape->dtype))
        return 0;
    return find(plan->codec)->encode(c, plan, src, kvpi_shape_bytes(shape), dst, room);
}

bool kvpi_codec_encode_by(kvpi_codec *c, const kvpi_codec_shape *shape, const kvpi_plan *plan,
                          const void *src, void *dst, size_t *n_dst)
{
    if (shape->dtype != KVP_OPAQUE && plan->codec != KVPI_CODEC_RAW)
        kvpi_parts_take(c, shape, src);
    *n_dst = encode(c, shape, plan, src, dst, kvpi_shape_bytes(shape));
    return *n_dst > 0;
}

void kvpi_codec_encode(kvpi_codec *c, const kvpi_codec_shape *shape, const void *src, void *dst,
                       size_t *n_dst, kvpi_codec_id *codec)
{
    size_t n = kvpi_shape_bytes(shape);
    kvpi_plan plan;
    kvpi_codec_choose(c, shape, src, &plan);
    *codec = plan.codec;
    *n_dst = plan.codec != KVPI_CODEC_RAW ? encode(c, shape, &plan, src, dst, n - 1) : 0;
    if (*n_dst)
        return;
    *codec = KVPI_CODEC_RAW;
    *n_dst = n;
    memcpy(dst, src, n);
}

/* ---- decode ---- */

kvp_status kvpi_codec_decode(kvpi_codec *c, kvpi_codec_id codec, const kvpi_codec_shape *shape,
                             const void *src, size_t n_src, void *dst)
{
    assert(kvpi_shape_bytes(shape) <= c->max_bytes);
    if (!kvpi_codec_can(c, codec, shape->dtype))
        return kvp_fail(KVP_E_CORRUPT,
                        "this build has no codec %d for dtype %d: one with zstd has all there are",
                        (int)codec, (int)shape->dtype);
    return find(codec)->decode(c, shape, src, n_src, dst);
}
