/* page.h - page descriptors: what is known of a page, wherever its bytes are.
 *
 * There is one for every page of every sequence, so they are kept small: with its entry in a page
 * table a page takes less than 96 bytes.
 *
 * Invariants (kvpi_page_check looks at them; the pager's lock protects every field)
 *  P1  A page that is RESIDENT or LOADING (never both) has a frame. Of any other, the same word
 *      says when it left RAM.
 *  P2  A page is pinned only while it is RESIDENT or LOADING, or after a fault that failed.
 *  P3  A valid copy below carries the current bytes: it has the checksum `raw_sum` (SUMMED).
 *  P4  Not LOST: there is a valid copy somewhere (RESIDENT, or valid below), or the page is new.
 *  P5  WRITING: the frame is being read by a demotion, so its bytes may not change.
 *  P6  Rows >= n_stored of the content are zero.
 *  P7  Copies below have one form: a page that is valid in zram and on disk has the same stored
 *      bytes in both.
 *  P8  refs is the number of entries in page tables that name the page; one that is shared (refs >
 *      1) is not written to. */
#ifndef KVPI_ALLOC_PAGE_H
#define KVPI_ALLOC_PAGE_H

#include "kvpager.h"

/* Tiers below RAM that can hold a copy. */
typedef enum kvpi_lower { KVPI_ZRAM = 0, KVPI_DISK = 1, KVPI_N_LOWER = 2 } kvpi_lower;

enum {
    KVPI_PAGE_RESIDENT = 1,  /* the frame holds the content */
    KVPI_PAGE_LOADING = 2,   /* a fault is filling the frame */
    KVPI_PAGE_WRITING = 4,   /* a demotion is reading the frame */
    KVPI_PAGE_MOVING = 8,    /* the zram copy is on its way to disk */
    KVPI_PAGE_SEALED = 16,   /* full: immutable for ever */
    KVPI_PAGE_SUMMED = 32,   /* raw_sum is that of the content */
    KVPI_PAGE_LOST = 64,     /* the only copy was lost */
    KVPI_PAGE_USED = 128,    /* the descriptor is in use */
    KVPI_PAGE_IN_ZRAM = 256, /* a valid copy is there */
    KVPI_PAGE_ON_DISK = 512, /* likewise */
    KVPI_PAGE_COPIED = KVPI_PAGE_IN_ZRAM | KVPI_PAGE_ON_DISK,
    /* Whether it is, or should be, in a policy's lists. */
    KVPI_PAGE_IN_RAM_POLICY = 1024,
    KVPI_PAGE_IN_ZRAM_POLICY = 2048,
    KVPI_PAGE_AHEAD = 4096, /* in the window of read-ahead */
    KVPI_PAGE_HOT =
        8192, /* for the policies: it is wanted soon, until it is used or its layer full */
    KVPI_PAGE_LOW = 16384,  /* its priority; the caller's word */
    KVPI_PAGE_KEPT = 32768, /* likewise */
};

#define KVPI_DISK_SLOT_NONE UINT32_MAX

/* How the copies below are stored. */
typedef struct kvpi_form {
    uint64_t sum; /* of the stored bytes, if they are encoded: raw ones have raw_sum */
    uint32_t bytes;
    uint8_t codec;
} kvpi_form;

typedef struct kvpi_page {
    uint64_t serial;    /* new whenever the content changes; never used twice */
    uint64_t raw_sum;   /* checksum of the content under its identity */
    uint64_t form_sum;  /* kvpi_form.sum */
    kvp_slot blob;      /* in zram; KVP_SLOT_NONE: none */
    uint32_t disk_slot; /* outlives its validity: an open page that changes keeps its place, so that
                           rewriting it can never run out of room; but not one for less than a page
                         */
    uint32_t form_bytes;
    kvp_placement_node node; /* in zram; those of RAM belong to frames */
    union {
        uint32_t frame;   /* of a descriptor that is not in use: the next such */
        uint32_t left_at; /* how many pages had left RAM when it did, modulo 2^32 */
    };
    uint32_t pins;
    uint32_t refs;
    uint32_t index;    /* first position / page_tokens */
    uint16_t lane;     /* ordinal in its sequence */
    uint16_t account;  /* whom it is charged to */
    uint16_t flags;    /* state.c changes them */
    uint16_t n_stored; /* tokens in the content */
    uint8_t form_codec;
    int8_t error;     /* kvp_status of the last failed fault */
    uint8_t n_errors; /* how many failed, modulo 256: waiters compare */
} kvpi_page;

/* Page numbers 0 .. and their descriptors; descriptors never move. Behind those of a chunk are
 * n_memories words for each of its pages: what placement policies remember. */
typedef struct kvpi_page_table {
    const kvp_mem *mem;
    uint32_t n_memories;
    kvpi_page **chunks;
    uint32_t n_chunks, chunks_capacity;
    uint32_t free_head; /* chained through frame */
    uint32_t n_used;
} kvpi_page_table;

void kvpi_page_table_init(kvpi_page_table *t, uint32_t n_memories, const kvp_mem *mem);
void kvpi_page_table_fini(kvpi_page_table *t);
/* Make sure that `n` more kvpi_page_new() succeed. Errors: KVP_E_NOMEM. */
KVP_NODISCARD kvp_status kvpi_page_table_reserve(kvpi_page_table *t, uint32_t n);
/* A fresh descriptor; room must have been reserved. */
uint32_t kvpi_page_new(kvpi_page_table *t);
void kvpi_page_delete(kvpi_page_table *t, uint32_t page);
kvpi_page *kvpi_page_at(const kvpi_page_table *t, uint32_t page);
/* Word `which` of the page; zero for a fresh one. */
uint32_t *kvpi_page_memory(const kvpi_page_table *t, uint32_t page, uint32_t which);
/* Numbers ever used are below this. */
uint32_t kvpi_page_table_end(const kvpi_page_table *t);

/* Any of these flags. */
static inline bool kvpi_page_is(const kvpi_page *p, unsigned flags)
{
    return (p->flags & flags) != 0;
}
static inline bool kvpi_page_is_dirty(const kvpi_page *p)
{
    return kvpi_page_is(p, KVPI_PAGE_RESIDENT) && !kvpi_page_is(p, KVPI_PAGE_COPIED);
}
static inline bool kvpi_page_is_homeless(const kvpi_page *p)
{
    return p->disk_slot == KVPI_DISK_SLOT_NONE;
}
/* If its content changes: is its place on disk large enough for any? */
static inline bool kvpi_page_keeps_home(const kvpi_page *p)
{
    return !kvpi_page_is_homeless(p) && p->form_codec == 0; /* KVPI_CODEC_RAW */
}
static inline kvp_slot kvpi_page_slot(const kvpi_page *p, kvpi_lower lower)
{
    return lower == KVPI_ZRAM ? p->blob : p->disk_slot;
}

/* NULL, or which invariant does not hold. */
const char *kvpi_page_check(const kvpi_page *p);

#endif
