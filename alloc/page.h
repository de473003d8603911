/* page.h - page descriptors: what is known of a page, wherever its bytes are.
 *
 * Invariants (kvpi_page_check looks at them; the pager's lock protects every field)
 *  P1  A page that is RESIDENT or LOADING has a frame, any other has none; never both.
 *  P2  A page is pinned only while it is RESIDENT or LOADING, or after a fault that failed.
 *  P3  A valid copy below carries the current bytes: it has the checksum `raw_sum` (SUMMED).
 *  P4  Not LOST: there is a valid copy somewhere (RESIDENT, or valid below), or the page is new.
 *  P5  WRITING: the frame is being read by a demotion, so its bytes may not change.
 *  P6  Rows >= n_stored of the content are zero. */
#ifndef KVPI_ALLOC_PAGE_H
#define KVPI_ALLOC_PAGE_H

#include "kvpager.h"

/* Tiers below RAM that can hold a copy. */
typedef enum kvpi_lower { KVPI_ZRAM = 0, KVPI_DISK = 1, KVPI_N_LOWER = 2 } kvpi_lower;

enum {
    KVPI_PAGE_RESIDENT = 1, /* the frame holds the content */
    KVPI_PAGE_LOADING = 2,  /* a fault is filling the frame */
    KVPI_PAGE_WRITING = 4,  /* a demotion is reading the frame */
    KVPI_PAGE_MOVING = 8,   /* the zram copy is on its way to disk */
    KVPI_PAGE_SEALED = 16,  /* full: immutable for ever */
    KVPI_PAGE_SUMMED = 32,  /* raw_sum is that of the content */
    KVPI_PAGE_LOST = 64,    /* the only copy was lost */
    KVPI_PAGE_USED = 128,   /* the descriptor is in use */
};

/* A copy in a lower tier. The disk slot outlives its validity: an open page that changes keeps its
 * place, so that rewriting it can never run out of room. */
typedef struct kvpi_copy {
    kvp_slot slot; /* KVP_SLOT_NONE: none */
    uint64_t sum;  /* of the stored bytes */
    uint32_t bytes;
    uint8_t codec;
    bool is_valid;
} kvpi_copy;

typedef struct kvpi_page {
    uint64_t serial;  /* new whenever the content changes; never used twice */
    uint64_t raw_sum; /* checksum of the content under its identity */
    uint64_t first_position;
    kvpi_copy copy[KVPI_N_LOWER];
    kvp_placement_node node[2]; /* in RAM; in zram */
    uint32_t frame;
    uint32_t pins;
    uint32_t lane; /* ordinal in its sequence */
    uint32_t seq_id;
    uint16_t n_stored; /* tokens in the content */
    uint8_t flags;
    int8_t error;      /* kvp_status of the last failed fault */
    uint16_t n_errors; /* how many failed: waiters compare */
    bool in_ram_policy, in_zram_policy;
    bool is_ahead; /* in the window of read-ahead */
    bool is_hot;   /* for the policies: its layer is being filled */
    uint32_t next_free;
} kvpi_page;

/* Page numbers 0 .. and their descriptors; descriptors never move. */
typedef struct kvpi_page_table {
    const kvp_mem *mem;
    kvpi_page **chunks;
    uint32_t n_chunks, chunks_capacity;
    uint32_t free_head; /* chained through next_free */
    uint32_t n_used;
} kvpi_page_table;

void kvpi_page_table_init(kvpi_page_table *t, const kvp_mem *mem);
void kvpi_page_table_fini(kvpi_page_table *t);
/* Make sure that `n` more kvpi_page_new() succeed. Errors: KVP_E_NOMEM. */
KVP_NODISCARD kvp_status kvpi_page_table_reserve(kvpi_page_table *t, uint32_t n);
/* A fresh descriptor; room must have been reserved. */
uint32_t kvpi_page_new(kvpi_page_table *t);
void kvpi_page_delete(kvpi_page_table *t, uint32_t page);
kvpi_page *kvpi_page_at(const kvpi_page_table *t, uint32_t page);
/* Numbers ever used are below this. */
uint32_t kvpi_page_table_end(const kvpi_page_table *t);
size_t kvpi_page_table_bytes(const kvpi_page_table *t);

static inline bool kvpi_page_has_copy(const kvpi_page *p)
{
    return p->copy[KVPI_ZRAM].is_valid || p->copy[KVPI_DISK].is_valid;
}
static inline bool kvpi_page_is(const kvpi_page *p, unsigned flags)
{
    return (p->flags & flags) != 0;
}
static inline bool kvpi_page_is_dirty(const kvpi_page *p)
{
    return kvpi_page_is(p, KVPI_PAGE_RESIDENT) && !kvpi_page_has_copy(p);
}

/* NULL, or which invariant does not hold. */
const char *kvpi_page_check(const kvpi_page *p);

#endif
