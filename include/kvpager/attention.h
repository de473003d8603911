/* kvpager/attention.h - attention over the pages of a sequence. */
#ifndef KVPAGER_ATTENTION_H
#define KVPAGER_ATTENTION_H

#include "kvpager.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What a call does; its two ways to add up differ in rounding. */
typedef enum kvp_attend_role {
    /* Few queries: bound by reading K and V. Threads share the keys, in segments of
     * KVP_SEGMENT_PAGES pages. */
    KVP_DECODE = 0,
    /* Many: bound by arithmetic. Threads share the queries. */
    KVP_PREFILL = 1,
} kvp_attend_role;

/* Attention over some keys, before it is divided: l = sum exp(s - m), o = sum exp(s - m) v, with m
 * the largest score s; m = -INFINITY, l = 0 and o = 0 where there is no key. */
typedef struct kvp_partial {
    float *m, *l; /* one each */
    float *o;     /* [v_width] */
} kvp_partial;

/* Arguments of kvp_attend(). Zero-initialise, then set what is needed. */
typedef struct kvp_attend_args {
    const float *q; /* [n_queries][n_heads][k_width], see q_stride */
    float *out;     /* [n_queries][n_heads][v_width], see out_stride; may not overlap q */
    size_t n_queries;
    uint32_t n_heads;  /* query heads: a multiple of the layer's KV heads; head h reads KV head
                          h / (n_heads / n_kv_heads) */
    float scale;       /* of q . k, usually 1 / sqrt(k_width) */
    size_t q_stride;   /* floats from one query to the next; 0: n_heads * k_width */
    size_t out_stride; /* floats from one output row to the next; 0: n_heads * v_width */
    /* Both work for any number of queries: KVP_DECODE is for up to about 16. */
    kvp_attend_role role;
    /* [n_queries], ascending; query i attends keys at positions <= positions[i]. NULL: the queries
     * are the lane's last n_queries tokens. */
    const uint64_t *positions;
    /* 0: every page. Otherwise a query at p attends only pages that contain a position > p - window
     * or a position < sinks (whole pages, StreamingLLM's shape: arXiv 2309.17453). */
    uint64_t window, sinks;
    /* Optional, laid out as q: what pages that hold a position < sinks (whole pages again) are
     * scored with instead. For rotary keys whose text was cut between sinks and window: rotate this
     * query as if the gap were not there, and the keys stay as they were written. NULL: q. */
    const float *q_sinks;
    /* Optional, both or none: [n_queries][n_heads], as in kvp_partial; `out` is not divided by l
     * then. For merging with attention over keys that lie elsewhere. */
    float *m, *l;
    /* Optional: [n_queries][n_heads][n_pages] attention mass of each page, n_pages as given by
     * kvp_seq_page_count(); a row sums to 1 (a page that was not visited has 0), or is all zeros
     * for a query that sees no key. The placement policy is told, if it wants to be
     * (kvp_pager_wants_mass()). */
    float *page_mass;
    /* Optional, of KVP_DECODE: the partial of each page, m and l [n_queries][n_heads][n_pages], o
     * with [v_width] more. They change no bit of `out`. For kvp_page_changes(), among others. */
    kvp_partial pages;
} kvp_attend_args;

/* out[i][h] = sum_j softmax_j(scale * q[i][h] . k_j) * v_j over the keys that query i may see, in
 * float32; a query that sees no key gets zeros. Pages are faulted in as needed.
 *
 * Invariants: an output row depends, bit for bit, on its query, on the keys that it sees and how
 * they lie in pages, on the role, and on the instruction set (avx2 and avx512 are one).
 * 1. Not on where pages lie, nor on threads, their number and what they do first.
 * 2. Not on what else is in the call: other queries, their number (a chunk of a prompt, tokens that
 *    are to be verified), other sequences (kvp_attend_batch()), statistics of pages.
 * 3. Not on keys that it does not see, even if they are NaN, nor on rows of a page that hold none.
 *
 * Threads: any; calls on one sequence must not overlap. May block on I/O.
 * Errors : KVP_E_INVALID, KVP_E_RANGE (positions); KVP_E_UNSUPPORTED the layer is opaque;
 *          KVP_E_CORRUPT, KVP_E_LOST (the message names the page), KVP_E_IO, KVP_E_NOSPACE. On
 *          failure all that is written to is unspecified.
 * Source : online softmax, Milakov and Gimelshein 2018 (arXiv 1805.02867); split along the keys and
 *          merged by log-sum-exp, Flash-Decoding (Dao et al. 2023); block tables, PagedAttention
 *          (Kwon et al. 2023), section 4. */
KVP_API KVP_NODISCARD kvp_status kvp_attend(kvp_seq *seq, uint32_t layer,
                                            const kvp_attend_args *args);

/* One call of many. */
typedef struct kvp_attend_item {
    kvp_seq *seq;
    uint32_t layer;
    kvp_attend_args args;
} kvp_attend_item;

/* kvp_attend() for each item, with the same bits; the sequences are of one pager. Threads share all
 * that decodes, segment by segment: many short sequences keep them as busy as a long one. Where the
 * RAM budget is short, fewer sequences are under way at a time.
 * Errors : as kvp_attend(), of the first item that failed; all items are unspecified then. */
KVP_API KVP_NODISCARD kvp_status kvp_attend_batch(const kvp_attend_item *items, size_t n_items);

/* Fold `next` into `into`, as kvp_attend() does. A `next` without keys changes nothing, whatever
 * its o. Errors: KVP_E_UNSUPPORTED as kvp_isa(). */
KVP_API KVP_NODISCARD kvp_status kvp_partial_merge(const kvp_partial *into, const kvp_partial *next,
                                                   size_t v_width);
/* o = o / l: the output; nothing if it saw no key. */
KVP_API void kvp_partial_finish(const kvp_partial *partial, size_t v_width);

/* How far the output of one query head would have moved without each page: changes[i] is the
 * Euclidean length of (output without page i) - (output), where a query without any key gets zeros.
 * `pages` has the row's partials of n_pages pages (kvp_attend_args.pages), `out` its output. */
KVP_API void kvp_page_changes(const kvp_partial *pages, size_t n_pages, size_t v_width,
                              const float *out, float *changes);

/* The instruction set in use: "scalar", "avx2", "avx512" (the last two give the same bits). Chosen
 * by the CPU, or by the environment variable KVP_ISA; NULL if KVP_ISA names one that is unknown or
 * not available here (kvp_error() says so). */
KVP_API const char *kvp_isa(void);

#ifdef __cplusplus
}
#endif
#endif
