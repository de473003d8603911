/* codec.h - lossless compression of pages: what zram and disk store.
 *
 * A codec is a file (codec_<name>.c) and a row in the table of codec.c; CODECS.md has the formats,
 * byte by byte. codec_choose.c decides which one a page gets, and nobody else does. */
#ifndef KVPI_TIERS_CODEC_H
#define KVPI_TIERS_CODEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kvpager/mem.h"
#include "kvpager/status.h"
#include "kvpager/view.h"
#include "tiers/planes.h"

/* Part of the swap format: append, never renumber. */
typedef enum kvpi_codec_id {
    KVPI_CODEC_RAW = 0,     /* the page as it is */
    KVPI_CODEC_HUFFMAN = 1, /* exponents entropy-coded by zstd, mantissas raw */
    KVPI_CODEC_ZSTD = 2,    /* opaque pages: one zstd frame */
    KVPI_CODEC_PALETTE = 3, /* exponents as 4-bit places in a palette, mantissas raw */
    KVPI_N_CODECS = 4
} kvpi_codec_id;

/* What the bytes of a page are: K [n_heads][n_tokens][k_width], then V likewise. */
typedef struct kvpi_codec_shape {
    kvp_dtype dtype;
    uint32_t n_heads, n_tokens;
    uint32_t k_width, v_width;
} kvpi_codec_shape;

static inline size_t kvpi_shape_bytes(const kvpi_codec_shape *s)
{
    return (size_t)s->n_heads * s->n_tokens * ((size_t)s->k_width + s->v_width) *
           kvp_dtype_bytes(s->dtype);
}

/* How a page is encoded; predictors are those of K and V, unless the codec has no use for them. */
typedef struct kvpi_plan {
    kvpi_codec_id codec;
    kvpi_predictor predictor[2];
} kvpi_plan;

typedef struct kvpi_codec kvpi_codec; /* contexts and scratch of one thread at a time */

/* For pages of up to max_bytes, opaque ones among them or not. *workspace_bytes: what it took from
 * `mem`. Errors: KVP_E_NOMEM, KVP_E_UNSUPPORTED (a zstd that cannot do it). */
KVP_NODISCARD kvp_status kvpi_codec_open(const kvp_mem *mem, size_t max_bytes, bool with_opaque,
                                         kvpi_codec **out, size_t *workspace_bytes);
void kvpi_codec_close(kvpi_codec *c);

/* "raw", "huffman", "zstd", "palette"; NULL: there is no such codec. */
const char *kvpi_codec_name(kvpi_codec_id id);
/* Whether the codec is for such pages, and this build has it. */
bool kvpi_codec_can(const kvpi_codec *c, kvpi_codec_id id, kvp_dtype dtype);

/* Encode a page into dst (as many bytes of room as the page has), by what makes it smallest. When
 * nothing is gained, *codec is KVPI_CODEC_RAW, *n_dst is the page's length, and dst a copy. Never
 * fails. */
void kvpi_codec_encode(kvpi_codec *c, const kvpi_codec_shape *shape, const void *src, void *dst,
                       size_t *n_dst, kvpi_codec_id *codec);
/* The same by a plan; false: it does not fit, or is not possible. */
bool kvpi_codec_encode_by(kvpi_codec *c, const kvpi_codec_shape *shape, const kvpi_plan *plan,
                          const void *src, void *dst, size_t *n_dst);
/* What kvpi_codec_encode() would choose. */
void kvpi_codec_choose(kvpi_codec *c, const kvpi_codec_shape *shape, const void *src,
                       kvpi_plan *plan);
/* The reverse: exactly the page or KVP_E_CORRUPT; never reads or writes out of bounds, whatever the
 * bytes are. */
KVP_NODISCARD kvp_status kvpi_codec_decode(kvpi_codec *c, kvpi_codec_id codec,
                                           const kvpi_codec_shape *shape, const void *src,
                                           size_t n_src, void *dst);

#endif
