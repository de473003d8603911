/* search.h - what the files of kvp_search() share.
 *
 *   search.c        arguments; which pages are scanned, wave by wave; scoring a page
 *   search_bound.c  what a page's digest says of the scores in it
 *   search_hits.c   the k best so far of a query */
#ifndef KVPI_ATTENTION_SEARCH_H
#define KVPI_ATTENTION_SEARCH_H

#include "attention/score.h"
#include "kvpager/search.h"

/* ---- search_hits.c: the best k of a query, the worst of them first (a heap) ------------------ */

typedef struct kvpi_hits {
    kvp_hit *heap; /* [k], of which n are there */
    size_t n, k;
    char *values; /* [k][value_bytes]; NULL: not wanted */
    size_t value_bytes;
    /* No score below it is a hit any more. Only ever rises; may be read while others add. */
    _Atomic float least;
} kvpi_hits;

void kvpi_hits_init(kvpi_hits *h, kvp_hit *heap, size_t k, char *values, size_t value_bytes);
/* A key that may be a hit; value: its V. */
void kvpi_hits_offer(kvpi_hits *h, uint64_t position, float score, const void *value);
/* All have been offered: best first. */
void kvpi_hits_sort(kvpi_hits *h);

/* ---- search_bound.c -------------------------------------------------------------------------- */

/* Of a query and a page's digest. */
typedef struct kvpi_bound_terms {
    size_t width;
    double query_norm, centre_norm;
    float product; /* query . centre, of the scorers */
} kvpi_bound_terms;

/* No score that the scorers compute for a key of the page is above it. INFINITY: nothing is known.
 */
float kvpi_search_bound(const kvp_digest *digest, kvp_similarity similarity,
                        const kvpi_bound_terms *terms);

#endif
