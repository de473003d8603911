/* kvpager.h - a pager for the key/value cache of transformer inference. Start here.
 *
 * kvpager keeps the KV of many sequences in pages and the pages in tiers: RAM, compressed RAM,
 * disk. A page table per sequence says where each page lies. Attention walks the table, faulting
 * pages in as it goes; when a tier is full, reclaim moves pages down. Budgets are hard limits,
 * every byte that comes back is verified, and where a page lies never changes a bit of the result.
 *
 *     kvp_config cfg = kvp_config_default();
 *     cfg.geometry   = (kvp_geometry){.n_layers = 12, .n_kv_heads = 12, .head_dim = 64,
 *                                     .dtype = KVP_F16};
 *     cfg.ram_bytes  = 64u << 20;
 *     cfg.disk_bytes = KVP_UNLIMITED;
 *     kvp_pager *pager;
 *     kvp_seq *seq;
 *     if (kvp_pager_open(&cfg, &pager) || kvp_seq_create(pager, &seq))
 *         die(kvp_error());
 *     kvp_seq_append(seq, layer, k, v, n_tokens);      for each layer, as tokens come
 *     kvp_attend(seq, layer, &(kvp_attend_args){.q = q, .out = out, .n_queries = n, .n_heads = 12,
 *                                               .scale = 0.125f});
 *
 * Words: a *lane* is one head group of one layer of a sequence: what has a page table. A *page*
 * holds K and V of up to page_tokens tokens of a lane. The last page of a lane is *open*; a full
 * page is *sealed* and never changes again. A *fault* brings a page into RAM: minor when its bytes
 * are already in memory (compressed), major when it takes I/O. Each layer's lanes grow
 * independently; the length of a sequence is that of its shortest lane.
 *
 * Threads: any thread may call; calls on one sequence must not overlap. No call waits for
 * I/O while it holds a lock, none prints, and the library installs no signal handlers. */
#ifndef KVPAGER_H
#define KVPAGER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kvpager/env.h"
#include "kvpager/mem.h"
#include "kvpager/placement.h"
#include "kvpager/pool.h"
#include "kvpager/status.h"
#include "kvpager/tier.h"
#include "kvpager/trace.h"
#include "kvpager/view.h"

#ifdef __cplusplus
extern "C" {
#endif

#define KVP_VERSION_MAJOR 0
#define KVP_VERSION_MINOR 1
#define KVP_VERSION_PATCH 0

/* "0.1.0", of the library that is running. */
KVP_API const char *kvp_version(void);

/* ---- configuration --------------------------------------------------------------------------- */

/* The KV of one layer, for models whose layers differ. */
typedef struct kvp_layer_kind {
    uint32_t n_kv_heads;
    uint32_t k_width, v_width; /* elements (opaque: bytes) per head, >= 1; opaque V may have 0 */
    kvp_dtype dtype;
} kvp_layer_kind;

/* Of a layer that things are looked up in (kvpager/search.h). */
typedef struct kvp_lookup_kind {
    /* V is v_width bytes of the caller's per row, whatever K is: stored and handed out, never
     * computed with. A multiple of the bytes of K's elements; may be 0. */
    bool has_opaque_v;
    /* A digest of the keys of every page is kept once it is sealed, so that kvp_search() need not
     * read it: 8 bytes, and 16 + 2 * k_width per KV head, in kvp_stats.table_bytes. */
    bool has_digests;
} kvp_lookup_kind;

typedef struct kvp_geometry {
    uint32_t n_layers;
    /* Uniform models: every layer has n_kv_heads heads of head_dim in both K and V. */
    uint32_t n_kv_heads, head_dim;
    kvp_dtype dtype;
    /* Others: [n_layers], copied at open; then the three members above are ignored. NULL: uniform.
     */
    const kvp_layer_kind *layers;
    const kvp_lookup_kind *lookups; /* [n_layers], copied at open; NULL: all zero */
    uint32_t page_tokens;           /* 1 .. 65535; 0: 64 */
    uint32_t page_heads; /* KV heads per page; 0: as many as make pages of about 64 KiB */
} kvp_geometry;

typedef enum kvp_log_level { KVP_LOG_WARNING = 1, KVP_LOG_INFO = 2 } kvp_log_level;

typedef struct kvp_config {
    size_t size; /* set by kvp_config_default() */
    kvp_geometry geometry;

    /* Hard limits. ram: frames, staging buffers, metadata of frames, linear views; KVP_UNLIMITED:
     * as much as the machine has. zram, disk: 0 means that there is no such tier; disk may be
     * unlimited. If one is too small, kvp_pager_open() fails with KVP_E_BUDGET and says how many
     * bytes work. */
    uint64_t ram_bytes, zram_bytes, disk_bytes;
    /* Of ram_bytes: set aside for linear views (kvpager/linear.h); 0: none can be opened. */
    uint64_t linear_bytes;
    /* A swap file that stays visible until close, created 0600; an existing file that is not a
     * kvpager swap file is refused. NULL: an unlinked file in $TMPDIR or /var/tmp. */
    const char *disk_path;
    const char
        *disk_engine; /* "uring-fixed", "uring", "threads"; NULL: $KVP_DISK_ENGINE, else best */
    const kvp_placement_ops *placement; /* NULL: kvp_placement_sticky */

    uint32_t n_threads; /* that kvp_attend() may use, the caller's included; 0: one per CPU */
    kvp_pool *pool;     /* whose threads to use, borrowed; NULL: the pager opens one of n_threads */
    /* Or threads of the caller's own make: runs task(arg, 0 .. n - 1), returns when all are done.
     */
    void (*parallel_for)(void *opaque, size_t n, void (*task)(void *arg, size_t i), void *arg);
    void *parallel_opaque;

    uint64_t fingerprint; /* of model and KV recipe; part of every page's identity */
    const kvp_mem *mem;   /* NULL: malloc and free */
    const kvp_env *env;   /* NULL: kvp_env_default() */
    void (*log)(void *opaque, kvp_log_level level, const char *message); /* NULL: silence */
    void *log_opaque;
    /* Told what happens to pages, as kvpager/trace.h says; NULL: nobody is. */
    void (*trace)(void *opaque, const kvp_trace_event *event);
    void *trace_opaque;
} kvp_config;

/* Everything in RAM, no other tier, all CPUs. */
KVP_API kvp_config kvp_config_default(void);

/* ---- pager ----------------------------------------------------------------------------------- */

typedef struct kvp_pager kvp_pager;
typedef struct kvp_seq kvp_seq;

/* Errors: KVP_E_INVALID, KVP_E_BUDGET ("needs at least N bytes": exactly N works), KVP_E_NOMEM,
 *         KVP_E_IO, KVP_E_NOSPACE (for the swap file), KVP_E_BUSY (the swap file is in use),
 *         KVP_E_UNSUPPORTED (the forced engine). */
KVP_API KVP_NODISCARD kvp_status kvp_pager_open(const kvp_config *cfg, kvp_pager **pager);
/* Frees everything, sequences included; removes the swap file. NULL does nothing.
 * No other call may be running, nothing may be pinned. */
KVP_API void kvp_pager_close(kvp_pager *pager);

/* Check every invariant (slow, for tests and debugging). KVP_E_CORRUPT and a message if one is
 * violated. May run at any time. */
KVP_API KVP_NODISCARD kvp_status kvp_pager_check(kvp_pager *pager);

/* ---- sequences ------------------------------------------------------------------------------- */

#define KVP_ALL_LAYERS UINT32_MAX

KVP_API KVP_NODISCARD kvp_status kvp_seq_create(kvp_pager *pager, kvp_seq **seq);
/* A sequence with the tokens that `parent` has now; from here on the two are independent. Copies
 * page tables only, reads no page, also if the parent is swapped out: pages are shared until one of
 * the two writes to its last page, which then is copied. Threads: a call on the parent. Errors:
 * KVP_E_NOMEM; KVP_E_NOSPACE the parent has a min of its own (kvpager/budget.h), and the group no
 * room for that beside what is shared now. */
KVP_API KVP_NODISCARD kvp_status kvp_seq_fork(const kvp_seq *parent, kvp_seq **child);
/* Frees its pages in every tier but those that other sequences share; NULL does nothing. Nothing of
 * it may be pinned. */
KVP_API void kvp_seq_destroy(kvp_seq *seq);

/* Where appended rows come from, for callers whose rows are not dense float32. */
typedef struct kvp_rows {
    const void *k, *v; /* row of token 0, head 0; v may be NULL where v_width is 0 */
    kvp_dtype dtype;   /* of these rows: converted (round to nearest even) if the layer's differs;
                          opaque V is bytes in any case */
    size_t k_token_stride, v_token_stride; /* bytes from a token to the next; 0: dense */
    size_t k_head_stride, v_head_stride;   /* bytes from a head to the next; 0: dense */
} kvp_rows;

/* Append n_tokens tokens to every lane of `layer`, at the lane's next positions.
 * Shapes : k [n_tokens][n_kv_heads][k_width], v [n_tokens][n_kv_heads][v_width], float32, dense.
 *          Opaque layers take opaque rows only, and others none: bytes are copied as they are.
 * Errors : KVP_E_NOSPACE no tier has room; KVP_E_RANGE a value is not finite in the layer's dtype
 *          (e.g. above 65504 in f16); KVP_E_IO, KVP_E_CORRUPT, KVP_E_LOST bringing the open page
 *          back; KVP_E_BUSY the open page is pinned. On failure no lane is longer than before.
 * Threads: may block on I/O. */
KVP_API KVP_NODISCARD kvp_status kvp_seq_append(kvp_seq *seq, uint32_t layer, const float *k,
                                                const float *v, size_t n_tokens);
KVP_API KVP_NODISCARD kvp_status kvp_seq_append_rows(kvp_seq *seq, uint32_t layer,
                                                     const kvp_rows *rows, size_t n_tokens);

/* Make room for the metadata of `n_tokens` tokens in all, so that later appends up to there find
 * their bookkeeping memory (as long as no other sequence takes it). Errors: KVP_E_NOMEM. */
KVP_API KVP_NODISCARD kvp_status kvp_seq_reserve(kvp_seq *seq, uint64_t n_tokens);

/* Forget the tokens at positions >= n_tokens in every lane. No I/O. Errors: KVP_E_BUSY pages are
 * pinned, or scanned; KVP_E_RANGE the tokens before n_tokens were evicted (0 always works). */
KVP_API KVP_NODISCARD kvp_status kvp_seq_truncate(kvp_seq *seq, uint64_t n_tokens);

/* Retention: free the pages of `layer` (or KVP_ALL_LAYERS) whose positions all lie in [begin, end).
 * The lane's last page always stays. Remaining tokens keep their positions. No I/O.
 * Errors: KVP_E_BUSY pages are pinned, or scanned; KVP_E_INVALID no such layer. */
KVP_API KVP_NODISCARD kvp_status kvp_seq_evict(kvp_seq *seq, uint32_t layer, uint64_t begin,
                                               uint64_t end);

typedef enum kvp_advice {
    KVP_COLD = 1, /* not needed soon: these pages leave RAM before others, until they are used */
    KVP_WILLNEED = 2, /* needed soon: what is missing is fetched in the background as far as RAM has
                         room for it; all leave after others, until they are used */
    KVP_DONTNEED = 3, /* not needed for long: they leave RAM now; those that have to be written
                         first, as soon as others want the room */
    KVP_KEEP = 4,     /* they leave RAM after all others, for good: the highest priority */
    KVP_LOW = 5,      /* they leave RAM before all others, for good: the lowest priority */
    KVP_NORMAL = 6,   /* takes KVP_KEEP and KVP_LOW back */
} kvp_advice;

/* A hint about the pages that hold a position in [first, first + n_tokens), for all layers. It
 * changes no result, and nothing waits for it. Pages that several sequences share are not sent away
 * for one of them (COLD, DONTNEED, LOW). Errors: KVP_E_INVALID there is no such advice. */
KVP_API KVP_NODISCARD kvp_status kvp_seq_advise(kvp_seq *seq, uint64_t first, uint64_t n_tokens,
                                                kvp_advice advice);

/* Which tokens' KV is lost, once a call has failed with KVP_E_CORRUPT (what was read back is not
 * what was written) or KVP_E_LOST (that was found out earlier): the smallest range that contains
 * them all, [*first, *first + *n_tokens); n_tokens 0: none is. To put them back, truncate the
 * sequence to *first and append again from there. */
KVP_API KVP_NODISCARD kvp_status kvp_seq_lost(kvp_seq *seq, uint64_t *first, uint64_t *n_tokens);

/* The next position: tokens appended to the shortest lane, evicted ones included. `seq` is not
 * NULL. */
KVP_API uint64_t kvp_seq_length(const kvp_seq *seq);
/* The same for one layer; 0 if there is no such layer. */
KVP_API uint64_t kvp_seq_layer_length(const kvp_seq *seq, uint32_t layer);
/* Pages per lane of a layer that are there (not evicted). */
KVP_API uint32_t kvp_seq_page_count(const kvp_seq *seq, uint32_t layer);

/* What the lanes of a layer hold and how they are cut into pages. */
typedef struct kvp_layer_info {
    kvp_layer_kind kind;
    kvp_lookup_kind lookup;
    uint32_t page_tokens, page_heads; /* as chosen: never 0 */
} kvp_layer_info;

/* Errors: KVP_E_INVALID there is no such layer. */
KVP_API KVP_NODISCARD kvp_status kvp_seq_layer_info(const kvp_seq *seq, uint32_t layer,
                                                    kvp_layer_info *info);

/* Where the pages of a sequence are now. */
typedef struct kvp_page_info {
    uint32_t layer, group; /* lane */
    uint64_t first_position;
    uint32_t n_valid; /* tokens */
    kvp_tier_id tier; /* the fastest tier that has a copy */
    bool is_open, is_lost;
} kvp_page_info;

/* Copy out up to `max` infos in the order layer, group, position; *n_pages: how many there are. */
KVP_API KVP_NODISCARD kvp_status kvp_seq_pages(kvp_seq *seq, kvp_page_info *infos, size_t max,
                                               size_t *n_pages);

/* ---- pinning: pages for the caller's own kernels --------------------------------------------- */

/* Set pages and max_pages; the rest is filled in. */
typedef struct kvp_view {
    kvp_page_view *pages; /* the caller's array: [n_groups of the layer][pages of the range] */
    size_t max_pages;
    size_t n_pages;  /* filled; when max_pages is too small: how many are needed */
    size_t n_groups; /* head groups: lanes of the layer */
    kvp_seq *seq;    /* private */
    uint32_t held;   /* private: frames reserved */
} kvp_view;

/* Make the pages of `layer` that hold a position in [first, first + n_tokens) resident and hold
 * them. deadline_ns: on kvp_env.now_ns()'s clock; 0: do not wait, KVP_FOREVER: as long as it takes.
 * Errors : KVP_E_AGAIN (deadline 0) and KVP_E_TIMEOUT: not all are there yet, the faults go on,
 *          call again; KVP_E_NOSPACE the budget cannot hold them beside what else is pinned;
 *          KVP_E_INVALID max_pages too small (view->n_pages says what is needed); KVP_E_RANGE no
 *          such tokens; KVP_E_CORRUPT, KVP_E_LOST, KVP_E_IO. On failure nothing is pinned.
 * Threads: a pinned sequence may be pinned again, scanned and attended; it may not be truncated,
 *          evicted from or destroyed, and its open page must not be pinned during append. */
KVP_API KVP_NODISCARD kvp_status kvp_seq_pin(kvp_seq *seq, uint32_t layer, uint64_t first,
                                             uint64_t n_tokens, uint64_t deadline_ns,
                                             kvp_view *view);
/* NULL, and a view that pins nothing, do nothing. */
KVP_API void kvp_view_unpin(kvp_view *view);

/* ---- asynchronous pins ----------------------------------------------------------------------- */

/* A pin that goes on while the caller does something else. It stays where it is, and its memory the
 * caller's, until it is taken or cancelled. */
typedef struct kvp_ticket {
    kvp_view view; /* before: set pages and max_pages; after: what is pinned, to be unpinned */
    /* private */
    kvp_seq *seq; /* NULL: not open */
    struct kvp_ticket *prev, *next;
    size_t n_pages, n_pinned;
    uint32_t layer, begin, end, round;
    kvp_status status;
    bool is_prepared, has_frames, is_busy, is_over;
    char message[160];
} kvp_ticket;

/* Begin to pin, as kvp_seq_pin() does, and return at once.
 * Frames that views or other tickets have are waited for.
 * Errors : those of kvp_seq_pin() that need no waiting; then the ticket is not open. KVP_E_BUSY it
 *          is open from before, and stays so.
 * Threads: until the ticket is taken or cancelled the sequence may be pinned, scanned, attended and
 *          appended to (not to a page of the ticket), but not truncated, evicted from or
 *          destroyed. */
KVP_API KVP_NODISCARD kvp_status kvp_seq_prepare(kvp_seq *seq, uint32_t layer, uint64_t first,
                                                 uint64_t n_tokens, kvp_ticket *ticket);
/* Take the pages: KVP_OK, and ticket->view is pinned. KVP_E_AGAIN (deadline 0), KVP_E_TIMEOUT: not
 * all are there yet; the faults go on, ask again. Other errors are those of kvp_seq_pin(): nothing
 * is pinned, and the ticket is not open any more. One thread at a time per ticket. */
KVP_API KVP_NODISCARD kvp_status kvp_ticket_wait(kvp_ticket *ticket, uint64_t deadline_ns);
/* Give up a ticket that is open; NULL and others do nothing. */
KVP_API void kvp_ticket_cancel(kvp_ticket *ticket);
/* A descriptor for poll(2) that becomes readable when a ticket can be taken: read its 8 bytes, then
 * ask for the open tickets with deadline 0. The first call starts a thread that carries tickets and
 * KVP_WILLNEED on; without it they move when somebody calls the library. The pager's: do not close
 * it.
 * Errors: KVP_E_UNSUPPORTED, KVP_E_NOMEM. */
KVP_API KVP_NODISCARD kvp_status kvp_pager_eventfd(kvp_pager *pager, int *fd);

/* ---- statistics ------------------------------------------------------------------------------ */

#define KVP_REFAULT_BUCKETS 24

#define KVP_MAX_CODECS 8u

/* Pages that a codec has encoded, their bytes before and after; and pages it has decoded. */
typedef struct kvp_codec_stats {
    uint64_t pages, raw_bytes, stored_bytes, decoded;
} kvp_codec_stats;

/* "raw", "huffman", "zstd", "palette": how pages are stored below RAM; NULL: no such codec. */
KVP_API const char *kvp_codec_name(uint32_t codec);

/* Counters since open, and what is there now. Set `size` before the call. */
typedef struct kvp_stats {
    size_t size;
    uint64_t pages[KVP_N_TIERS]; /* by the fastest tier that has a copy */
    uint64_t pages_lost;
    uint64_t minor_faults;              /* pages brought up from memory (zram) */
    uint64_t major_faults;              /* pages brought up by I/O (disk) */
    uint64_t prefetches;                /* of those faults, started by read-ahead */
    uint64_t demotions;                 /* copies written down: RAM to zram or disk, zram to disk */
    uint64_t evictions;                 /* clean frames dropped: nothing had to be written */
    uint64_t bytes_read, bytes_written; /* disk I/O of pages */
    uint64_t checksum_failures;
    uint64_t io_errors;

    uint64_t ram_budget_bytes; /* KVP_UNLIMITED: no limit */
    /* charged: frames in use, staging, metadata of frames, what is set aside for linear views */
    uint64_t ram_bytes, ram_peak_bytes;
    uint64_t frame_bytes;                 /* of those: frames in use now */
    uint64_t staging_bytes;               /* of those: staging buffers */
    uint64_t metadata_bytes;              /* of those: metadata of frames */
    uint64_t zram_bytes, zram_peak_bytes; /* charged */
    uint64_t disk_bytes, disk_peak_bytes; /* slots in use */
    uint64_t table_bytes;                 /* page tables and descriptors: grow with the context */
    uint64_t workspace_bytes;             /* codec contexts and the pager itself */
    /* Compressed pages: raw bytes over stored bytes of every page ever encoded; 0: none was. */
    uint64_t codec_raw_bytes, codec_stored_bytes;

    size_t slot_bytes;       /* of a frame: a page rounded up to 4 KiB */
    uint64_t n_frames;       /* that the RAM budget holds */
    const char *disk_engine; /* "uring-fixed", ...; "" without a disk tier */
    const char *placement;
    uint64_t prefetches_used,
        prefetches_wasted;       /* of `prefetches`: asked for, or given up before */
    uint64_t pages_shared;       /* that more than one sequence has, now */
    uint64_t copies_on_write;    /* of shared pages */
    uint64_t prefetches_advised; /* faults started by KVP_WILLNEED; not in `prefetches` */
    /* Linear views: set aside (charged to RAM); taken by their rows now; touches of rows that were
     * not there; pieces of rows dropped. */
    uint64_t linear_bytes, linear_resident_bytes, linear_faults, linear_evictions;

    uint64_t direct_reclaims; /* faults that found no frame: no clean page to take it from */
    /* What threads waited for. RAM: frames; zram: bytes that another thread was encoding or
     * decoding; disk: I/O. As in /proc/pressure, *some*: at least one thread waited; *full*: all
     * threads in the pager did, and none computed with a page of a scan or an append. */
    uint64_t stalls[KVP_N_TIERS], stall_some_ns[KVP_N_TIERS], stall_full_ns[KVP_N_TIERS];
    /* Faults by how many frames more, up to 2^i, would have kept the page in RAM, if pages left in
     * the order of their last use. The last: that or more. */
    uint64_t refaults[KVP_REFAULT_BUCKETS];
    kvp_codec_stats codecs[KVP_MAX_CODECS]; /* by number; see kvp_codec_name() */
    uint64_t codec_untried; /* of the raw ones: those before them had not shrunk either */

    /* What cleaning wrote, beside bytes_written: pages moved together where compressed ones had
     * left fragments of the swap file; and how many segments it emptied. */
    uint64_t disk_bytes_moved, disk_segments_cleaned;

    uint64_t codec_helped; /* pages that idle threads of the pool encoded or decoded for others */
} kvp_stats;

/* Errors: KVP_E_INVALID stats->size is not one this library knows. */
KVP_API KVP_NODISCARD kvp_status kvp_pager_stats(kvp_pager *pager, kvp_stats *stats);

#ifdef __cplusplus
}
#endif

#include "kvpager/attention.h"
#include "kvpager/budget.h"
#include "kvpager/linear.h"
#include "kvpager/scan.h"
#include "kvpager/search.h"

#endif
