/* lane.h - the page table of one lane: entries in order of position.
 *
 * Invariants
 *  L1  Entries ascend by index. Evicted pages leave gaps.
 *  L2  Every entry but the last is full, so only n_tokens says how many tokens an entry has.
 *  L3  n_tokens lies in the last entry, or at its end, or (it was just pushed) at its beginning;
 *      the last page is never evicted. */
#ifndef KVPI_ALLOC_LANE_H
#define KVPI_ALLOC_LANE_H

#include "kvpager.h"

#define KVPI_MAX_LANE_PAGES (UINT32_MAX - 1)

typedef struct kvpi_entry {
    uint32_t index; /* first position / page_tokens */
    uint32_t page;
} kvpi_entry;

typedef struct kvpi_lane {
    kvpi_entry *entries;
    uint32_t n_entries, capacity;
    uint64_t n_tokens; /* the next position */
} kvpi_lane;

/* Room for `n` entries in all. Errors: KVP_E_NOMEM. */
KVP_NODISCARD kvp_status kvpi_lane_reserve(kvpi_lane *lane, const kvp_mem *mem, uint32_t n);
void kvpi_lane_fini(kvpi_lane *lane, const kvp_mem *mem);

static inline uint64_t kvpi_lane_first_position(const kvpi_lane *lane, uint32_t i,
                                                uint32_t page_tokens)
{
    return (uint64_t)lane->entries[i].index * page_tokens;
}
/* The position behind the last token of entry i; at most that many of the page's n_stored tokens
 * belong to the sequence. */
static inline uint64_t kvpi_lane_end_position(const kvpi_lane *lane, uint32_t i,
                                              uint32_t page_tokens)
{
    return i + 1 == lane->n_entries ? lane->n_tokens
                                    : ((uint64_t)lane->entries[i].index + 1) * page_tokens;
}
static inline uint32_t kvpi_lane_n_valid(const kvpi_lane *lane, uint32_t i, uint32_t page_tokens)
{
    return (uint32_t)(kvpi_lane_end_position(lane, i, page_tokens) -
                      kvpi_lane_first_position(lane, i, page_tokens));
}

/* The entry that new tokens go to; NULL: a new page is needed. */
kvpi_entry *kvpi_lane_open_entry(const kvpi_lane *lane, uint32_t page_tokens);
/* Add an empty page at the end; room must have been reserved, and the others be full. */
void kvpi_lane_push(kvpi_lane *lane, uint32_t page, uint32_t page_tokens);
/* Forget the last entry. */
void kvpi_lane_pop(kvpi_lane *lane, uint32_t page_tokens);
/* First entry with a position >= `position`; n_entries: none. Binary search: works over gaps. */
uint32_t kvpi_lane_find(const kvpi_lane *lane, uint64_t position, uint32_t page_tokens);
/* Forget the entries [begin, end). */
void kvpi_lane_remove(kvpi_lane *lane, uint32_t begin, uint32_t end);

/* NULL, or which invariant does not hold. */
const char *kvpi_lane_check(const kvpi_lane *lane, uint32_t page_tokens);

#endif
