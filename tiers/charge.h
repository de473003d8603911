/* charge.h - a counter with a hard cap and a memory of its highest value. */
#ifndef KVPI_TIERS_CHARGE_H
#define KVPI_TIERS_CHARGE_H

#include <assert.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct kvpi_charge {
    uint64_t cap_bytes;
    atomic_uint_fast64_t used_bytes, peak_bytes; /* used <= peak <= cap, at every instant */
} kvpi_charge;

/* False, and nothing charged, when it would pass the cap. */
static inline bool kvpi_charge_add(kvpi_charge *c, uint64_t n)
{
    uint_fast64_t used = atomic_load(&c->used_bytes);
    do {
        if (n > c->cap_bytes || used > c->cap_bytes - n)
            return false;
    } while (!atomic_compare_exchange_weak(&c->used_bytes, &used, used + n));
    uint_fast64_t peak = atomic_load(&c->peak_bytes);
    while (used + n > peak && !atomic_compare_exchange_weak(&c->peak_bytes, &peak, used + n))
        continue;
    return true;
}

static inline void kvpi_charge_sub(kvpi_charge *c, uint64_t n)
{
    uint_fast64_t before = atomic_fetch_sub(&c->used_bytes, n);
    assert(before >= n);
    (void)before;
}

#endif
