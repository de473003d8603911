/* real_pages.h - KV pages as a model makes them of a text. */
#ifndef TESTS_SUPPORT_REAL_PAGES_H
#define TESTS_SUPPORT_REAL_PAGES_H

#include "tiers/codec.h"

typedef struct real_pages {
    kvpi_codec_shape shape; /* of every page */
    size_t n_tokens;        /* of the text */
    size_t n, page_bytes;
    uint8_t *bytes; /* [n][page_bytes], layer by layer, each from the beginning of the text */
} real_pages;

/* The pages of the first max_tokens tokens, in pages of `dtype`; is_full: without open ones. */
KVP_NODISCARD kvp_status real_pages_make(const char *model_path, const char *text_path,
                                         size_t max_tokens, kvp_dtype dtype, bool is_full,
                                         real_pages *out);
void real_pages_free(real_pages *r);

static inline const uint8_t *real_page(const real_pages *r, size_t i)
{
    return r->bytes + i * r->page_bytes;
}

#endif
