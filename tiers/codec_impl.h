/* codec_impl.h - what the files of the codec share. */
#ifndef KVPI_TIERS_CODEC_IMPL_H
#define KVPI_TIERS_CODEC_IMPL_H

#include "tiers/codec.h"
#include "tiers/entropy.h"

/* K or V of a page that is being encoded. */
typedef struct kvpi_part {
    size_t bytes;            /* of the part */
    size_t n_live;           /* of those, in blocks that are not zero */
    kvpi_plane_shape planes; /* what is live, as elements */
    const uint8_t *live;     /* in the page, or gathered */
    uint8_t *map;            /* of its blocks */
    uint8_t *refs;           /* reference rows, once they have been made */
    bool has_refs;
} kvpi_part;

struct kvpi_codec {
    const kvp_mem *mem;
    size_t max_bytes;
    bool with_opaque;
    size_t block_bytes; /* of everything: this struct, and behind it what follows */
    const kvpi_plane_kernels *kernels;
    kvpi_entropy *entropy; /* NULL: this build has none */
    kvpi_part parts[2];    /* K and V of the page at hand */
    uint8_t *high;         /* [max_bytes / 2]: top bytes of a part */
    uint8_t *live;         /* [max_bytes] */
    uint8_t *map;          /* [map of max_bytes, and a byte] */
    uint8_t *refs;         /* [kvpi_reference_room(max_bytes)] */
    uint32_t *n_log_n;     /* [KVPI_MAX_SAMPLE + 1]: n log2 n in 1/256 */
};

typedef struct kvpi_codec_ops {
    const char *name;
    bool is_for_opaque, is_for_floats, needs_entropy;
    /* The encoded size, or 0: more than `room`. Those for floats find c->parts filled in. */
    size_t (*encode)(kvpi_codec *c, const kvpi_plan *plan, const void *src, size_t n, void *dst,
                     size_t room);
    kvp_status (*decode)(kvpi_codec *c, const kvpi_codec_shape *shape, const void *src,
                         size_t n_src, void *dst);
} kvpi_codec_ops;

extern const kvpi_codec_ops kvpi_codec_raw, kvpi_codec_huffman, kvpi_codec_zstd, kvpi_codec_palette;

/* The message of every refusal. Returns KVP_E_CORRUPT. */
kvp_status kvpi_codec_corrupt(const char *what);

/* ---- codec_choose.c ---- */

#define KVPI_MAX_SAMPLE ((size_t)4096) /* elements of a part that an estimate looks at */

/* Fill c->n_log_n. */
void kvpi_choose_init(kvpi_codec *c);
/* The plan for the page of floats in c->parts; KVPI_CODEC_RAW where nothing is gained. */
void kvpi_choose(kvpi_codec *c, kvpi_plan *plan);

/* ---- codec_palette.c ---- */

/* The most frequent bytes, most frequent first, the lower one first where two are as frequent; what
 * is left of the palette is 0. Returns how many of the counted bytes have a colour. */
size_t kvpi_palette_choose(const uint32_t *counts, uint8_t *palette);

/* ---- codec_parts.c: what all codecs of floats have in common ---- */

/* A slice of a part with fewer rows has no reference rows: they would cost too much. */
#define KVPI_REFERENCE_ROWS ((size_t)16)
/* Bytes that they take at most: one for each element of a row. */
static inline size_t kvpi_reference_room(size_t part_bytes)
{
    return part_bytes / 2 / KVPI_REFERENCE_ROWS;
}

/* How a codec stores top bytes: packed size or 0, and back. */
typedef struct kvpi_high_coder {
    size_t (*pack)(kvpi_codec *c, const uint8_t *high, size_t n, uint8_t *dst, size_t room);
    bool (*unpack)(kvpi_codec *c, const uint8_t *src, size_t n_src, uint8_t *high, size_t n);
} kvpi_high_coder;

/* Look at a page: fills in c->parts. */
void kvpi_parts_take(kvpi_codec *c, const kvpi_codec_shape *shape, const void *src);
/* Make sure that the part's reference rows are there; false: it has none for such a predictor. */
bool kvpi_part_refer(kvpi_part *part, kvpi_predictor p);
size_t kvpi_parts_encode(kvpi_codec *c, const kvpi_high_coder *coder, const kvpi_plan *plan,
                         uint8_t *dst, size_t room);
kvp_status kvpi_parts_decode(kvpi_codec *c, const kvpi_high_coder *coder,
                             const kvpi_codec_shape *shape, const uint8_t *src, size_t n_src,
                             uint8_t *dst);

#endif
