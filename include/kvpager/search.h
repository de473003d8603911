/* kvpager/search.h - the keys of a lane that are nearest to a query: exact top-k over pages that
 * need not all fit in RAM.
 *
 * For a memory that a model or a program looks things up in: keys of any width as K, and as V what
 * is found there, e.g. bytes of the caller's (kvp_lookup_kind.has_opaque_v). Pages stream through
 * the bounded ring of a scan; of a layer with digests (kvp_lookup_kind.has_digests) those that
 * cannot hold a hit are neither read nor computed. */
#ifndef KVPAGER_SEARCH_H
#define KVPAGER_SEARCH_H

#include "kvpager.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum kvp_similarity {
    KVP_PRODUCT = 0, /* q . k */
    KVP_COSINE = 1,  /* q . k / (|q| |k|); 0 where a norm is 0 */
} kvp_similarity;

typedef struct kvp_hit {
    uint64_t position;
    float score;
    uint32_t place; /* among the query's hits: 0 is the best */
} kvp_hit;

/* How much of the lane was looked at. */
typedef struct kvp_search_counts {
    uint64_t pages;         /* with keys that a query may see */
    uint64_t pages_skipped; /* of those: neither read nor computed */
} kvp_search_counts;

/* Arguments of kvp_search(). Zero-initialise, then set what is needed. */
typedef struct kvp_search_args {
    const float *queries; /* [n_queries][k_width], finite */
    size_t n_queries;
    kvp_similarity similarity;
    size_t k; /* hits wanted per query; below 2^32 */
    /* [n_queries], ascending: query i sees positions from begins[i] to below ends[i]. NULL: from 0,
     * and to the lane's end. */
    const uint64_t *begins, *ends;
    kvp_hit *hits;  /* out: [n_queries][k], best first; among equal scores the lower position */
    size_t *n_hits; /* out: [n_queries], less than k where a query sees fewer keys */
    /* Optional, out: [n_queries][k] rows of V, those of the hits, as they lie in the pages. */
    void *values;
    kvp_search_counts *counts; /* optional, out */
} kvp_search_args;

/* The k nearest keys of KV head `head` of `layer`, for each query. A score is computed in float32
 * by the instruction set in use (kvp_isa()) and depends on query and key alone: so hits are the
 * same bits whatever the number of queries and threads, wherever pages lie, with digests and
 * without. A score beyond float32 counts as its largest number, an undefined one (infinities that
 * cancel) as the lowest; a cosine whose norms' squares are beyond float32 counts as 0.
 * Several queries share each reading of a page: with few queries, that is what takes time.
 * Threads: any; calls on one sequence must not overlap. May block on I/O.
 * Errors : KVP_E_INVALID; KVP_E_RANGE a query is not finite, or begins or ends do not ascend;
 *          KVP_E_UNSUPPORTED the layer is opaque; KVP_E_NOMEM; KVP_E_CORRUPT, KVP_E_LOST (the
 *          message names the page), KVP_E_IO, KVP_E_NOSPACE. On failure what is `out` is
 *          unspecified. */
KVP_API KVP_NODISCARD kvp_status kvp_search(kvp_seq *seq, uint32_t layer, uint32_t head,
                                            const kvp_search_args *args);

#ifdef __cplusplus
}
#endif
#endif
