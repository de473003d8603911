/* blocks.h - the allocators of fixed-size blocks that are measured: get a block, put it back.
 *
 * A handle is what the user of such an allocator keeps: the address, or the number of a slot, plus
 * 1, from which the address is computed when it is handed out. Inlined into every pattern; what a
 * library exports stays a call. */
#ifndef BENCH_ALLOC_BLOCKS_H
#define BENCH_ALLOC_BLOCKS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "alloc/slot_pool.h"

/* Set by blocks_open(). */
typedef struct blocks {
    size_t block_bytes; /* a power of two */
    unsigned shift;     /* its logarithm */
    uint32_t n_slots;
    char *base; /* of the slots */
    kvpi_slot_pool *pool;
    /* Treiber (1986): a stack of free slots; the tag of its head counts, against ABA. */
    _Alignas(64) _Atomic uint64_t head; /* tag << 32 | slot + 1; 0 in the low half: empty */
    _Alignas(64) uint32_t *next;        /* [n_slots] slot + 1 */
    _Atomic uint64_t *bits;             /* [n_slots / 64], set: taken */
} blocks;
extern blocks blocks_of;

/* `kind`: pool, malloc, treiber, bitmap or nothing. False: no memory. */
bool blocks_open(const char *kind, size_t block_bytes, uint32_t n_slots);

static inline uint32_t slot_of(const void *handle)
{
    return (uint32_t)((uintptr_t)handle - 1);
}

static inline void *slot_address(const void *handle)
{
    return blocks_of.base + ((size_t)slot_of(handle) << blocks_of.shift);
}

static inline void *handle_of(uint32_t slot)
{
    void *handle = (void *)(uintptr_t)(uint32_t)(slot + 1); /* NULL for KVPI_NO_SLOT */
    __asm__ volatile("" : : "r"(slot_address(handle)));
    return handle;
}

static inline void *own_address(const void *handle)
{
    return (void *)(uintptr_t)handle;
}

static inline void *pool_get(void)
{
    return handle_of(kvpi_slot_pool_alloc(blocks_of.pool));
}

static inline void pool_put(void *p)
{
    kvpi_slot_pool_free(blocks_of.pool, slot_of(p));
}

static inline void *malloc_get(void)
{
    return malloc(blocks_of.block_bytes);
}

static inline void malloc_put(void *p)
{
    free(p);
}

static inline void *treiber_get(void)
{
    uint64_t head = atomic_load_explicit(&blocks_of.head, memory_order_acquire), after;
    uint32_t top;
    do {
        top = (uint32_t)head;
        if (!top)
            return NULL;
        uint32_t next = __atomic_load_n(&blocks_of.next[top - 1], __ATOMIC_RELAXED);
        after = ((head >> 32) + 1) << 32 | next;
    } while (!atomic_compare_exchange_weak_explicit(&blocks_of.head, &head, after,
                                                    memory_order_acquire, memory_order_acquire));
    return handle_of(top - 1);
}

static inline void treiber_put(void *p)
{
    uint32_t slot = slot_of(p);
    uint64_t head = atomic_load_explicit(&blocks_of.head, memory_order_relaxed), after;
    do {
        __atomic_store_n(&blocks_of.next[slot], (uint32_t)head, __ATOMIC_RELAXED);
        after = ((head >> 32) + 1) << 32 | (slot + 1);
    } while (!atomic_compare_exchange_weak_explicit(&blocks_of.head, &head, after,
                                                    memory_order_release, memory_order_relaxed));
}

/* Where a thread found its last free slot. */
extern _Thread_local uint32_t blocks_hint;

static inline void *bitmap_get(void)
{
    uint32_t n_words = blocks_of.n_slots / 64, i = blocks_hint;
    for (uint32_t tried = 0; tried <= n_words; tried++, i = i + 1 == n_words ? 0 : i + 1) {
        uint64_t word = atomic_load_explicit(&blocks_of.bits[i], memory_order_relaxed);
        while (~word) {
            uint64_t bit = ~word & (word + 1); /* the lowest clear one */
            word = atomic_fetch_or_explicit(&blocks_of.bits[i], bit, memory_order_acquire);
            if (!(word & bit)) {
                blocks_hint = i;
                return handle_of(i * 64 + (uint32_t)__builtin_ctzll(bit));
            }
        }
    }
    return NULL;
}

static inline void bitmap_put(void *p)
{
    uint32_t slot = slot_of(p);
    atomic_fetch_and_explicit(&blocks_of.bits[slot / 64], ~(UINT64_C(1) << slot % 64),
                              memory_order_release);
    blocks_hint = slot / 64;
}

static inline void *nothing_get(void)
{
    return &blocks_of;
}

static inline void nothing_put(void *p)
{
    __asm__ volatile("" : : "r"(p) : "memory");
}

#endif
