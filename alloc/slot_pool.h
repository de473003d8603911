/* slot_pool.h - the slot allocator: numbers 0 .. n_slots - 1, handed out and taken back by any
 * thread. Per-thread magazines over a shared depot; no metadata in the slots themselves. */
#ifndef KVPI_ALLOC_SLOT_POOL_H
#define KVPI_ALLOC_SLOT_POOL_H

#include <assert.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kvpager/mem.h"
#include "kvpager/status.h"

typedef struct kvpi_slot_pool kvpi_slot_pool;

#define KVPI_NO_SLOT UINT32_MAX

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

/* Hand out only slots below `end`, at most the n_slots of open, from now on. Those in use at or above
 * it stay until they are freed. Not two calls at a time. */
void kvpi_slot_pool_set_end(kvpi_slot_pool *pool, uint32_t end);

/* Slots that can be had, and slots in use at or above the end (exact when no call is running). */
uint32_t kvpi_slot_pool_n_free(const kvpi_slot_pool *pool);
uint32_t kvpi_slot_pool_n_above(const kvpi_slot_pool *pool);

/* ---- private: the fast halves of alloc and free, inlined ---------------------------------------
 * Two calls would cost as much as all the rest. slot_pool.c says what makes this right. */

/* In place of a hot slot. */
#define KVPI_HOT_NONE KVPI_NO_SLOT
#define KVPI_HOT_CLOSED (KVPI_NO_SLOT - 1) /* there may be none: the magazine has no room */

/* The first members of a magazine. */
typedef struct kvpi_magazine_top {
    atomic_uint epoch; /* odd: frozen */
    atomic_uint hot;   /* the slot that is handed out next, or KVPI_HOT_* */
} kvpi_magazine_top;

/* The first members of a pool. */
typedef struct kvpi_slot_pool_top {
    uint64_t id;        /* never used twice in a process */
    size_t memo_offset; /* of its place in kvpi_slot_memos */
} kvpi_slot_pool_top;

/* What a thread remembers of pools that it has a magazine in. */
typedef struct kvpi_slot_memo {
    uint64_t pool_id; /* 0: nothing */
    kvpi_magazine_top *top;
    uint32_t epoch; /* as last seen under the lock: even */
} kvpi_slot_memo;
#define KVPI_SLOT_MEMOS 4u
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
    const kvpi_slot_pool_top *p = (const kvpi_slot_pool_top *)pool;
    const kvpi_slot_memo *m =
        (const kvpi_slot_memo *)((const char *)kvpi_slot_memos + p->memo_offset);
    return __builtin_expect(m->pool_id == p->id, 1) ? m : NULL;
}

/* After the owner's store: nobody has frozen the magazine since it last saw the lock. */
static inline bool kvpi_is_undisturbed(const kvpi_slot_memo *m)
{
    atomic_signal_fence(memory_order_seq_cst); /* freeze() supplies the other CPUs' half */
    uint32_t epoch = atomic_load_explicit(&m->top->epoch, memory_order_acquire);
    return __builtin_expect(epoch == m->epoch, 1);
}

static inline uint32_t kvpi_slot_pool_alloc(kvpi_slot_pool *pool)
{
    const kvpi_slot_memo *m = kvpi_slot_memo_of(pool);
    if (m) {
        uint32_t slot = atomic_load_explicit(&m->top->hot, memory_order_relaxed);
        if (__builtin_expect(slot < KVPI_HOT_CLOSED, 1)) {
            atomic_store_explicit(&m->top->hot, KVPI_HOT_NONE, memory_order_relaxed);
            return kvpi_is_undisturbed(m) ? slot : kvpi_slot_alloc_disturbed(pool, slot);
        }
    }
    return kvpi_slot_alloc_rest(pool, m);
}

static inline void kvpi_slot_pool_free(kvpi_slot_pool *pool, uint32_t slot)
{
    const kvpi_slot_memo *m = kvpi_slot_memo_of(pool);
    if (m && __builtin_expect(
                 atomic_load_explicit(&m->top->hot, memory_order_relaxed) == KVPI_HOT_NONE, 1)) {
        /* Release: whoever takes it there may write to the slot. */
        atomic_store_explicit(&m->top->hot, slot, memory_order_release);
        if (!kvpi_is_undisturbed(m))
            kvpi_slot_free_disturbed(pool, slot);
        return;
    }
    kvpi_slot_free_rest(pool, m, slot);
}

#endif
