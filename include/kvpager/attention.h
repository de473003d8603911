/* kvpager/attention.h - attention over the pages of a sequence. */
#ifndef KVPAGER_ATTENTION_H
#define KVPAGER_ATTENTION_H

#include "kvpager.h"

#ifdef __cplusplus
extern "C" {
#endif

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
    /* Optional: [n_queries][n_heads][n_pages] attention mass of each page, n_pages as given by
     * kvp_seq_page_count(); a row sums to 1 (a page that was not visited has 0), or is all zeros
     * for a query that sees no key. The placement policy is told, if it wants to be
     * (kvp_pager_wants_mass()). */
    float *page_mass;
} kvp_attend_args;

/* out[i][h] = sum_j softmax_j(scale * q[i][h] . k_j) * v_j over the keys that query i may see, in
 * float32; a query that sees no key gets zeros. Pages are faulted in as needed; where they lie does
 * not change a bit of the result, nor does the number of threads.
 * Threads: any; calls on one sequence must not overlap. May block on I/O.
 * Errors : KVP_E_INVALID, KVP_E_RANGE (positions); KVP_E_UNSUPPORTED the layer is opaque;
 *          KVP_E_CORRUPT, KVP_E_LOST (the message names the page), KVP_E_IO, KVP_E_NOSPACE. On
 *          failure `out` and `page_mass` are unspecified.
 * Source : online softmax, Milakov and Gimelshein 2018 (arXiv 1805.02867); split along the keys and
 *          merged by log-sum-exp, Flash-Decoding (Dao et al. 2023); block tables, PagedAttention
 *          (Kwon et al. 2023), section 4. */
KVP_API KVP_NODISCARD kvp_status kvp_attend(kvp_seq *seq, uint32_t layer,
                                            const kvp_attend_args *args);

/* The instruction set in use: "scalar", "avx2", "avx512" (the last two give the same bits). Chosen by
 * the CPU, or by the environment variable KVP_ISA; NULL if KVP_ISA names one that is unknown or not available here (kvp_error() says so).
 */
KVP_API const char *kvp_isa(void);

#ifdef __cplusplus
}
#endif
#endif
