/* slot_pool.h - the slot allocator: numbers 0 .. n_slots - 1, handed out and taken back by any
 * thread. Per-thread magazines over a shared depot; no metadata in the slots themselves. */
#ifndef KVPI_ALLOC_SLOT_POOL_H
#define KVPI_ALLOC_SLOT_POOL_H

#include "alloc/slot_magazine.h"

#include "kvpager/mem.h"
#include "kvpager/status.h"

typedef struct kvpi_slot_pool kvpi_slot_pool;

/* Bytes of bookkeeping that a pool of n_slots takes: what open() asks of `mem`. */
size_t kvpi_slot_pool_bytes(uint32_t n_slots);

/* n_slots 1 .. UINT32_MAX - 1. Errors: KVP_E_NOMEM. */
KVP_NODISCARD kvp_status kvpi_slot_pool_open(const kvp_mem *mem, uint32_t n_slots,
                                             kvpi_slot_pool **out);
void kvpi_slot_pool_close(kvpi_slot_pool *pool); /* no other call running; NULL does nothing */

/* KVPI_NO_SLOT only if every slot is really in use: all magazines are drained first. Fresh pools
 * hand out ascending, adjacent slots. */
KVP_NODISCARD static inline uint32_t kvpi_slot_pool_alloc(kvpi_slot_pool *pool);
static inline void kvpi_slot_pool_free(kvpi_slot_pool *pool, uint32_t slot);

/* Hand out only slots below `end`, at most the n_slots of open, from now on. Those in use at or
 * above it stay until they are freed. */
void kvpi_slot_pool_set_end(kvpi_slot_pool *pool, uint32_t end);

/* Slots that can be had, and slots in use at or above the end (exact when no call is running). */
uint32_t kvpi_slot_pool_n_free(const kvpi_slot_pool *pool);
uint32_t kvpi_slot_pool_n_above(const kvpi_slot_pool *pool);

/* ---- private: the fast halves of alloc and free, inlined ---------------------------------------
 * Two calls would cost as much as all the rest. slot_pool.c says what makes this right. */

/* The first members of a pool. */
typedef struct kvpi_slot_pool_top {
    uint64_t id;        /* never used twice in a process */
    size_t memo_offset; /* of its place in kvpi_slot_memos */
} kvpi_slot_pool_top;

#define KVPI_SLOT_MEMOS 4u /* pools that a thread remembers */
extern _Thread_local __attribute__((tls_model("initial-exec")))
kvpi_slot_memo kvpi_slot_memos[KVPI_SLOT_MEMOS];

/* The rest of them: with no hot slot, or the place of it taken (memo may be NULL); with a hot slot
 * that was taken or put while somebody froze the magazine. */
uint32_t kvpi_slot_alloc_rest(kvpi_slot_pool *pool, const kvpi_slot_memo *memo);
void kvpi_slot_free_rest(kvpi_slot_pool *pool, const kvpi_slot_memo *memo, uint32_t slot);
uint32_t kvpi_slot_alloc_disturbed(kvpi_slot_pool *pool, uint32_t slot);
void kvpi_slot_free_disturbed(kvpi_slot_pool *pool, uint32_t slot);

/* NULL: the thread has no magazine in it, or does not remember it. */
static inline const kvpi_slot_memo *kvpi_slot_memo_of(const kvpi_slot_pool *pool)
{
    const kvpi_slot_pool_top *top = (const kvpi_slot_pool_top *)pool;
    const kvpi_slot_memo *memo =
        (const kvpi_slot_memo *)((const char *)kvpi_slot_memos + top->memo_offset);
    return KVPI_LIKELY(memo->pool_id == top->id) ? memo : NULL;
}

static inline uint32_t kvpi_slot_pool_alloc(kvpi_slot_pool *pool)
{
    const kvpi_slot_memo *memo = kvpi_slot_memo_of(pool);
    if (memo) {
        uint32_t slot = kvpi_load(&memo->magazine->hot);
        if (KVPI_LIKELY(slot < KVPI_HOT_CLOSED)) {
            kvpi_store(&memo->magazine->hot, KVPI_HOT_NONE);
            return kvpi_magazine_is_undisturbed(memo) ? slot
                                                      : kvpi_slot_alloc_disturbed(pool, slot);
        }
    }
    return kvpi_slot_alloc_rest(pool, memo);
}

static inline void kvpi_slot_pool_free(kvpi_slot_pool *pool, uint32_t slot)
{
    const kvpi_slot_memo *memo = kvpi_slot_memo_of(pool);
    if (memo && KVPI_LIKELY(kvpi_load(&memo->magazine->hot) == KVPI_HOT_NONE)) {
        /* Release: whoever takes it there may write to the slot. */
        atomic_store_explicit(&memo->magazine->hot, slot, memory_order_release);
        if (!kvpi_magazine_is_undisturbed(memo))
            kvpi_slot_free_disturbed(pool, slot);
        return;
    }
    kvpi_slot_free_rest(pool, memo, slot);
}

#endif
