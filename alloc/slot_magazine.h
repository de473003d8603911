/* slot_magazine.h - a thread's small stack of free slots in front of the depot, and the halves of
 * its protocols that the owner runs, inlined. slot_pool.c says who may do what, and has the others.
 *
 * The top of the stack, the hot slot, has a word of its own: so a free and the alloc after it do
 * not wait for each other's count, and need no more than a store and two looks. */
#ifndef KVPI_ALLOC_SLOT_MAGAZINE_H
#define KVPI_ALLOC_SLOT_MAGAZINE_H

#include <stdalign.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KVPI_NO_SLOT UINT32_MAX
/* In place of a hot slot. */
#define KVPI_HOT_NONE KVPI_NO_SLOT
#define KVPI_HOT_CLOSED (KVPI_NO_SLOT - 1) /* there may be none: the magazine has no room */

#define KVPI_MAGAZINE_SLOTS 59u /* with the five words before them: four cache lines */

typedef struct kvpi_magazine {
    alignas(64) atomic_uint epoch; /* odd: frozen */
    atomic_uint hot;               /* the slot that is handed out next, or KVPI_HOT_* */
    atomic_uint busy;              /* its owner is at the stack */
    atomic_uint n;
    uint32_t stolen;                     /* the hot slot that was taken while it was frozen */
    uint32_t slots[KVPI_MAGAZINE_SLOTS]; /* [n], the stack below the hot slot */
} kvpi_magazine;

/* What a thread remembers of a pool that it has a magazine in. */
typedef struct kvpi_slot_memo {
    uint64_t pool_id; /* 0: nothing */
    kvpi_magazine *magazine;
    uint32_t epoch; /* as last seen under the lock: even */
} kvpi_slot_memo;

#define KVPI_LIKELY(x) __builtin_expect(x, 1)

static inline uint32_t kvpi_load(const atomic_uint *field)
{
    return atomic_load_explicit(field, memory_order_relaxed);
}

static inline void kvpi_store(atomic_uint *field, uint32_t value)
{
    atomic_store_explicit(field, value, memory_order_relaxed);
}

/* After the owner's store: nobody has frozen the magazine since it last saw the lock. */
static inline bool kvpi_magazine_is_undisturbed(const kvpi_slot_memo *memo)
{
    atomic_signal_fence(memory_order_seq_cst); /* freeze() supplies the other CPUs' half */
    uint32_t epoch = atomic_load_explicit(&memo->magazine->epoch, memory_order_acquire);
    return KVPI_LIKELY(epoch == memo->epoch);
}

static inline void kvpi_magazine_leave(kvpi_magazine *m)
{
    atomic_store_explicit(&m->busy, 0, memory_order_release);
}

/* False, and not inside, when it is or was frozen. */
static inline bool kvpi_magazine_enter(const kvpi_slot_memo *memo)
{
    kvpi_store(&memo->magazine->busy, 1);
    if (kvpi_magazine_is_undisturbed(memo))
        return true;
    kvpi_magazine_leave(memo->magazine);
    return false;
}

static inline uint32_t kvpi_magazine_count(const kvpi_magazine *m)
{
    return kvpi_load(&m->n) + (kvpi_load(&m->hot) < KVPI_HOT_CLOSED);
}

/* From the stack, or KVPI_NO_SLOT. */
static inline uint32_t kvpi_magazine_pop(kvpi_magazine *m)
{
    uint32_t n = kvpi_load(&m->n);
    if (n == 0)
        return KVPI_NO_SLOT;
    kvpi_store(&m->n, n - 1);
    return m->slots[n - 1];
}

/* Put a slot where the hot one is, and that on the stack. False: there is no room. */
static inline bool kvpi_magazine_push(kvpi_magazine *m, uint32_t slot, uint32_t limit)
{
    uint32_t n = kvpi_load(&m->n), hot = kvpi_load(&m->hot);
    if (hot == KVPI_HOT_CLOSED || n + 1 >= limit)
        return false;
    m->slots[n] = hot;
    kvpi_store(&m->n, n + 1);
    kvpi_store(&m->hot, slot);
    return true;
}

#endif
