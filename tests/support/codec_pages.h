/* codec_pages.h - pages of floats and of bytes to compress: ordinary ones, and those that a codec
 * would stumble over. */
#ifndef TESTS_SUPPORT_CODEC_PAGES_H
#define TESTS_SUPPORT_CODEC_PAGES_H

#include "tiers/codec.h"

typedef enum page_kind {
    PAGE_NORMAL,    /* independent and normally distributed */
    PAGE_CHANNELS,  /* the same with a scale for each channel, as keys have */
    PAGE_DRIFT,     /* a token resembles the one before */
    PAGE_NOISE,     /* any bits */
    PAGE_ZEROS,     /* */
    PAGE_CONSTANT,  /* one byte throughout */
    PAGE_SPECIAL,   /* infinities, NaNs with any payload, zeros of both signs */
    PAGE_DENORMAL,  /* */
    PAGE_EXPONENTS, /* every exponent in turn */
    PAGE_FEW,       /* 15 exponents, equally frequent: a palette's worth */
    PAGE_SPARSE,    /* zeros, and a few elements of any bits */
    PAGE_TEXT,      /* repeats itself */
    N_PAGE_KINDS
} page_kind;

uint64_t page_random(uint64_t *state); /* not 0 */
/* Elements from the shape's dtype (opaque: bytes); the last tokens from n_valid on are zero. */
void page_fill(void *page, const kvpi_codec_shape *shape, page_kind kind, uint32_t n_valid,
               uint64_t seed);

#endif
