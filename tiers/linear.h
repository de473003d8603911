/* linear.h - linear views: what those who open them (linear.c) and those who fill them
 * (linear_fill.c) have in common.
 *
 * A view's address range is cut into blocks: as many OS pages as a page's rows of one head (its
 * strip) take. A block is filled at once, and dropped at once. Where strips are no whole OS pages,
 * a block has parts of several.
 *
 * One thread fills the views of a pager, one block after the other.
 *
 * Invariants
 *  V1  The blocks of a view that are there, and one to fill from, are not more than its share; the
 *      shares of all views are not more than cfg.linear_bytes.
 *  V2  A block is settled: it is there, for good or in the ring, or it failed and has been replaced
 *      by an empty file; or it is missing, and whoever touches it is stopped.
 *  V3  The filling thread reads sealed pages only: rows of the page that was open are settled
 *      before anybody knows the view, and its sequence is neither truncated nor evicted from
 *      (n_pins).
 *  V4  Of the views whose sequences share an account, one holds `n_frames` >= 1 frames that the
 *      account has reserved: filling never waits for a reservation, so that a reader may hold any.
 *
 * Lock order: kvpi_linears.lock comes after kvp_pager.lock, and is not held while anything is
 * filled. */
#ifndef KVPI_TIERS_LINEAR_H
#define KVPI_TIERS_LINEAR_H

#include "kvpager/linear.h"
#include "tiers/pager.h"
#include "tiers/uffd.h"

#define KVPI_LINEAR_MAX_RUN 8u /* blocks filled for one touch, pages fetched at once */

typedef struct kvpi_linear {
    kvpi_linears *all;
    kvp_seq *seq;
    uint32_t layer, group, head; /* `head` counts within the group */
    kvp_plane plane;
    uint32_t n_frames;    /* to fill with */
    bool is_holder;       /* gives them back */
    uint32_t first_entry; /* of the lane's table: the page of block 0 */
    size_t strip_bytes;   /* of a page */
    uint64_t n_bytes;     /* of rows */

    char *base; /* [n_blocks][block_bytes], and behind it a block to fill from */
    size_t block_bytes, map_bytes;
    uint32_t n_blocks, n_resident;
    uint32_t n_kept; /* the last blocks, which stay */
    uint64_t share_bytes;

    uint64_t *settled; /* [n_blocks] bits */
    uint32_t *ring;    /* [ring_blocks]: what may be dropped, oldest first */
    uint32_t ring_blocks, ring_first, n_in_ring;
    uint32_t expected, run; /* the block behind the last run; how long the next one is */

    kvp_status status; /* of the first failure */
    char message[256];
    size_t bytes; /* of this struct and its arrays */
    struct kvpi_linear *next;
} kvpi_linear;

struct kvpi_linears {
    kvp_pager *p;
    pthread_mutex_t lock;
    pthread_cond_t idle;
    kvpi_uffd uffd;
    int empty_fd; /* a file without bytes: what replaces blocks that failed */
    void *thread; /* NULL: nobody has opened a view */
    kvpi_linear *first;
    const kvpi_linear *busy; /* being filled by the thread */
    uint32_t n_views;
    uint64_t shared_bytes; /* the views' shares */
};

/* ---- linear_fill.c ---- */

/* The thread; arg: kvpi_linears. */
void kvpi_linear_run(void *arg);
/* Fill a block, which nobody drops: before the view is known to the thread. */
KVP_NODISCARD kvp_status kvpi_linear_fill(kvpi_linear *v, uint32_t block);

#endif
