/* charge.h - a counter with a hard cap, which may be moved, and a memory of its highest value. */
#ifndef KVPI_TIERS_CHARGE_H
#define KVPI_TIERS_CHARGE_H

#include <assert.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct kvpi_charge {
    atomic_uint_fast64_t cap_bytes;
    /* used <= peak, and at every instant nothing is added that would pass the cap. */
    atomic_uint_fast64_t used_bytes, peak_bytes;
} kvpi_charge;

/* False, and nothing charged, when it would pass the cap. */
static inline bool kvpi_charge_add(kvpi_charge *c, uint64_t n)
{
    uint_fast64_t used = atomic_load(&c->used_bytes);
    do {
        uint64_t cap = atomic_load(&c->cap_bytes);
        if (n > cap || used > cap - n)
            return false;
    } while (!atomic_compare_exchange_weak(&c->used_bytes, &used, used + n));
    uint_fast64_t peak = atomic_load(&c->peak_bytes);
    while (used + n > peak && !atomic_compare_exchange_weak(&c->peak_bytes, &peak, used + n))
        continue;
    return true;
}

/* What has to be given back before a lowered cap holds. */
static inline uint64_t kvpi_charge_over(const kvpi_charge *c)
{
    uint64_t used = atomic_load(&c->used_bytes), cap = atomic_load(&c->cap_bytes);
    return used > cap ? used - cap : 0;
}

static inline void kvpi_charge_sub(kvpi_charge *c, uint64_t n)
{
    uint_fast64_t before = atomic_fetch_sub(&c->used_bytes, n);
    assert(before >= n);
    (void)before;
}

#endif
