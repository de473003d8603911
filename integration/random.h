/* random.h - pseudo-random numbers for what is measured: the same in every run. */
#ifndef KVPAGER_RANDOM_H
#define KVPAGER_RANDOM_H

#include <stdint.h>

#define RANDOM_SEED UINT64_C(88172645463325252) /* any but 0 */

/* xorshift64* (Vigna, "An experimental exploration of Marsaglia's xorshift generators, scrambled",
 * 2016). */
static inline uint64_t random_next(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * UINT64_C(0x2545F4914F6CDD1D);
}

/* In [-1, 1): such numbers compress like keys and values do, hardly. */
static inline float random_float(uint64_t *state)
{
    return (float)((double)(random_next(state) >> 11) * 0x1p-52 - 1);
}

#endif
