/* digest.h - what is known of the keys of sealed pages, wherever these are: bounds of the scores
 * that a search can find in them.
 *
 * Digests lie by page number, in chunks that are made when a page of a layer that has digests is
 * sealed. One is valid while its page has the serial that it had then: a page that is opened again,
 * or a number that is given to another page, invalidates it by itself. Whoever shares a page shares
 * its digest. */
#ifndef KVPI_TIERS_DIGEST_H
#define KVPI_TIERS_DIGEST_H

#include "alloc/geometry.h"

#define KVPI_DIGEST_CHUNK 64u /* pages */

typedef struct kvpi_digests {
    void **chunks; /* by page number / KVPI_DIGEST_CHUNK; NULL: none is needed */
    uint32_t n_chunks;
    size_t stride; /* from a page's digest to the next; 0: no layer has any */
} kvpi_digests;

void kvpi_digests_open(kvp_pager *p);
void kvpi_digests_close(kvp_pager *p);

/* With the lock held: room for the digest of a page that is about to be sealed. NULL: there is no
 * memory for it, the page has none. Nobody looks at it before kvpi_digest_seal(). */
void *kvpi_digest_open(kvp_pager *p, uint32_t page);
/* Fill it in from the page's bytes. Without the lock. */
void kvpi_digest_make(const kvpi_layer *l, uint32_t group, uint32_t page_tokens, const void *frame,
                      void *digest);
/* With the lock held: the page is sealed, and its digest, if there is room for one, made. */
void kvpi_digest_seal(kvp_pager *p, uint32_t page);

#endif
