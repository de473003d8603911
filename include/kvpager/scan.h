/* kvpager/scan.h - stream over the pages of a layer through a bounded ring of frames, with
 * read-ahead. What kvp_attend() stands on; for code that computes over pages with kernels of its
 * own and whose pages need not all fit in RAM.
 *
 * The pages of a layer are cut into items: the pages of one lane (head group) whose positions fall
 * into one segment of KVP_SEGMENT_PAGES pages. A scan has up to `max_parts` parts that run
 * concurrently, one thread each: a part claims items in order and walks the pages of each in page
 * order. Which part gets which item depends on timing; what is in an item, and the order of its
 * pages, does not.
 *
 *     kvp_scan_open(seq, &args, &scan)
 *     per part:  while (kvp_scan_claim(scan, part, &item) == KVP_OK && item.n_pages)
 *                    for each page: kvp_scan_next(scan, part, &view)     valid until the next call
 *     kvp_scan_close(scan)
 *
 * Memory: the ring and the workspace are frames of the pager's RAM budget. kvp_scan_open() reserves
 * them all at once or waits while holding nothing, so concurrent scans cannot deadlock. A thread
 * that has a scan open must close it before it appends, pins, or waits for another: with a small
 * budget it would wait for itself. What does not wait (only_now) it may open beside, of another
 * sequence. */
#ifndef KVPAGER_SCAN_H
#define KVPAGER_SCAN_H

#include "kvpager.h"

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KVP_SEGMENT_PAGES                                                                          \
    16u /* the unit of threading and merging; part of the results' definition */
#define KVP_SCAN_MAX_PARTS 64u

typedef struct kvp_scan kvp_scan;

typedef struct kvp_scan_args {
    uint32_t layer;
    uint32_t max_parts; /* threads that will take part; at least 1 */
    /* Pages that hold a position in [0, sinks_end) or [begin, end) are visited. */
    uint64_t sinks_end, begin, end;
    size_t workspace_bytes; /* wanted: see kvp_scan_workspace(); at most one frame is given */
    bool is_one_group;      /* only the lane of head group `group` is visited */
    uint32_t group;
    /* Bit i % 64 of word i / 64: page i of a lane's page table (kvp_page_view.index) is passed
     * over. [kvp_seq_page_count() / 64, rounded up], borrowed until the scan is closed. NULL: none
     * is. */
    const uint64_t *skip;
    /* Fail with KVP_E_AGAIN rather than wait for frames or for other scans: for a thread that has
     * scans open, and can close them. */
    bool only_now;
} kvp_scan_args;

typedef struct kvp_scan_item {
    uint64_t index;      /* 0, 1, 2, ... in the order of claiming */
    uint32_t group;      /* head group: ordinal of the lane within the layer */
    uint32_t first_head; /* KV heads [first_head, first_head + n_heads) */
    uint32_t n_heads;
    uint32_t n_pages; /* 0: there are no more items */
    bool ends_group;  /* the last item of its lane */
} kvp_scan_item;

/* Reserve the ring and start. Errors: KVP_E_NOSPACE frames are pinned by others for good;
 * KVP_E_INVALID. The sequence must not be changed until the scan is closed. */
KVP_API KVP_NODISCARD kvp_status kvp_scan_open(kvp_seq *seq, const kvp_scan_args *args,
                                               kvp_scan **scan);
/* Give everything back; NULL does nothing. No part may be running. */
KVP_API void kvp_scan_close(kvp_scan *scan);

/* Parts that the ring has room for: 1 .. max_parts. */
KVP_API uint32_t kvp_scan_parts(const kvp_scan *scan);
/* Items in all, and visited pages per lane. */
KVP_API uint64_t kvp_scan_items(const kvp_scan *scan);
KVP_API uint32_t kvp_scan_pages(const kvp_scan *scan, uint32_t group);
/* Scratch memory, uninitialised, aligned to 64; `bytes` may be less than was asked for, and is at
 * least 4096. NULL and 0 if none was asked for. */
KVP_API void *kvp_scan_workspace(kvp_scan *scan, size_t *bytes);

/* Take the next item for `part`. item->n_pages is 0 when there are none left. */
KVP_API KVP_NODISCARD kvp_status kvp_scan_claim(kvp_scan *scan, uint32_t part, kvp_scan_item *item);
/* The next page of the part's item; faults it in and releases the one before.
 * Errors: KVP_E_CORRUPT, KVP_E_LOST, KVP_E_IO, KVP_E_NOSPACE. */
KVP_API KVP_NODISCARD kvp_status kvp_scan_next(kvp_scan *scan, uint32_t part, kvp_page_view *view);
/* The next page, and with it those that follow in the item for as long as they are resident: up to
 * `max` >= 1, or fewer where RAM is short. views [max]; all of *n are released by the next call. */
KVP_API KVP_NODISCARD kvp_status kvp_scan_next_run(kvp_scan *scan, uint32_t part, uint32_t max,
                                                   kvp_page_view *views, uint32_t *n);

/* What is known of the keys k of one KV head in a sealed page of a layer with digests
 * (kvp_lookup_kind.has_digests), wherever the page is. Of a page of which the sequence has only the
 * first tokens it is true as well. */
typedef struct kvp_digest {
    uint64_t first_position; /* of the page; set in any case */
    const uint16_t
        *centre;  /* bf16 [k_width]; NULL: nothing is known of the page. The pager's, until
                               the sequence changes */
    float radius; /* |k - centre| is at most this */
    float min_norm, max_norm; /* |k| is between them */
    float min_cosine;         /* of the angle between k and centre: at least this */
} kvp_digest;

/* Those of all pages, digests[kvp_seq_page_count()], by kvp_page_view.index. */
KVP_API void kvp_seq_digests(kvp_seq *seq, uint32_t layer, uint32_t head, kvp_digest *digests);

/* Is anybody to be told of attention mass: the placement policy, or a trace? Then it is worth its
 * price to ask kvp_attend() for it (page_mass), which passes it on. */
KVP_API bool kvp_pager_wants_mass(const kvp_pager *pager);
/* For kernels of the caller's own: what share of attention each page of `layer` had in its last
 * use. page_mass [n_queries][n_heads][kvp_seq_page_count()]: as kvp_attend_args.page_mass. The
 * sequence must not have changed since the pages were read. Does nothing if nobody wants it. */
KVP_API void kvp_seq_note_mass(kvp_seq *seq, uint32_t layer, const float *page_mass,
                               size_t n_queries, uint32_t n_heads);

/* Run task(arg, 0 .. n_tasks - 1) on the pager's threads (or the caller's parallel_for), returning
 * when all are done. Tasks must not call back into this function. */
KVP_API void kvp_parallel_for(kvp_pager *pager, size_t n_tasks, void (*task)(void *arg, size_t i),
                              void *arg);
KVP_API uint32_t kvp_pager_threads(const kvp_pager *pager);
KVP_API kvp_pager *kvp_seq_pager(const kvp_seq *seq);
/* Where its bookkeeping memory comes from; what is taken counts in kvp_stats.workspace_bytes. */
KVP_API const kvp_mem *kvp_pager_mem(const kvp_pager *pager);

#ifdef __cplusplus
}
#endif
#endif
