/* lane.h - the page table of one lane: entries in order of position.
 *
 * Invariants
 *  L1  Entries ascend by first_position; first_position is a multiple of page_tokens.
 *  L2  Every entry but the last is full: n_valid == page_tokens. Evicted pages leave gaps.
 *  L3  n_tokens == last entry's first_position + n_valid; the last page is never evicted. */
#ifndef KVPI_ALLOC_LANE_H
#define KVPI_ALLOC_LANE_H

#include "kvpager.h"

typedef struct kvpi_entry {
    uint64_t first_position;
    uint32_t page;
    uint32_t n_valid; /* tokens of the sequence in it: <= the page's n_stored */
} kvpi_entry;

typedef struct kvpi_lane {
    kvpi_entry *entries;
    uint32_t n_entries, capacity;
    uint64_t n_tokens; /* the next position */
} kvpi_lane;

/* Room for `n` entries in all. Errors: KVP_E_NOMEM. */
KVP_NODISCARD kvp_status kvpi_lane_reserve(kvpi_lane *lane, const kvp_mem *mem, uint32_t n);
void kvpi_lane_fini(kvpi_lane *lane, const kvp_mem *mem);

/* The entry that new tokens go to; NULL: a new page is needed. */
kvpi_entry *kvpi_lane_open_entry(const kvpi_lane *lane, uint32_t page_tokens);
/* Add an empty page at the end; room must have been reserved. */
kvpi_entry *kvpi_lane_push(kvpi_lane *lane, uint32_t page);
/* First entry whose last position is >= position; n_entries: none. Binary search: works over gaps.
 */
uint32_t kvpi_lane_find(const kvpi_lane *lane, uint64_t position);
/* Forget the entries [begin, end). */
void kvpi_lane_remove(kvpi_lane *lane, uint32_t begin, uint32_t end);

/* NULL, or which invariant does not hold. */
const char *kvpi_lane_check(const kvpi_lane *lane, uint32_t page_tokens);

#endif
