/* codec.h - lossless compression of pages: what swap stores. */
#ifndef KVPI_TIERS_CODEC_H
#define KVPI_TIERS_CODEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kvpager/mem.h"
#include "kvpager/status.h"
#include "kvpager/view.h"

/* Part of the swap format: append, never renumber. */
typedef enum kvpi_codec_id {
    KVPI_CODEC_RAW = 0,    /* the page as it is */
    KVPI_CODEC_PLANES = 1, /* exponent plane entropy-coded by zstd, mantissa planes raw */
    KVPI_CODEC_ZSTD = 2,   /* opaque pages: one zstd frame */
} kvpi_codec_id;

typedef struct kvpi_codec kvpi_codec; /* contexts and scratch of one thread at a time */

/* For pages of up to max_bytes, opaque ones among them or not. *workspace_bytes: what it took from
 * `mem`. Errors: KVP_E_NOMEM. */
KVP_NODISCARD kvp_status kvpi_codec_open(const kvp_mem *mem, size_t max_bytes, bool with_opaque,
                                         kvpi_codec **out, size_t *workspace_bytes);
void kvpi_codec_close(kvpi_codec *c);

/* Encode n bytes of `dtype` elements into dst (capacity n). When nothing is gained, *codec is
 * KVPI_CODEC_RAW, *n_dst is n, and dst is a copy. Never fails. */
void kvpi_codec_encode(kvpi_codec *c, kvp_dtype dtype, const void *src, size_t n, void *dst,
                       size_t *n_dst, kvpi_codec_id *codec);
/* The reverse: exactly n_dst bytes or KVP_E_CORRUPT; never reads or writes out of bounds, whatever
 * the bytes are. */
KVP_NODISCARD kvp_status kvpi_codec_decode(kvpi_codec *c, kvpi_codec_id codec, kvp_dtype dtype,
                                           const void *src, size_t n_src, void *dst, size_t n_dst);

#endif
