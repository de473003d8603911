/* bits.h - runs of bits in a bitmap of 64-bit words. */
#ifndef KVPI_TIERS_BITS_H
#define KVPI_TIERS_BITS_H

#include <assert.h>
#include <stdbool.h>
#include <stdint.h>

#define KVPI_WORD_BITS 64u

/* The first bit in [from, n) that is set (or clear), or n. */
static inline uint32_t kvpi_find_bit(const uint64_t *bits, uint32_t from, uint32_t n, bool set)
{
    uint64_t flip = set ? 0 : UINT64_MAX;
    while (from < n) {
        uint64_t word = (bits[from / KVPI_WORD_BITS] ^ flip) >> from % KVPI_WORD_BITS;
        if (word) {
            from += (uint32_t)__builtin_ctzll(word);
            return from < n ? from : n;
        }
        from += KVPI_WORD_BITS - from % KVPI_WORD_BITS;
    }
    return n;
}

/* Set (or clear) n bits, all of which are not. */
static inline void kvpi_set_bits(uint64_t *bits, uint32_t from, uint32_t n, bool set)
{
    for (uint32_t i = from; i < from + n;) {
        uint32_t in_word = KVPI_WORD_BITS - i % KVPI_WORD_BITS, left = from + n - i;
        uint32_t k = in_word < left ? in_word : left;
        uint64_t mask = (k == KVPI_WORD_BITS ? UINT64_MAX : ((uint64_t)1 << k) - 1)
                        << i % KVPI_WORD_BITS;
        assert(set ? !(bits[i / KVPI_WORD_BITS] & mask)
                   : (bits[i / KVPI_WORD_BITS] & mask) == mask);
        bits[i / KVPI_WORD_BITS] =
            set ? bits[i / KVPI_WORD_BITS] | mask : bits[i / KVPI_WORD_BITS] & ~mask;
        i += k;
    }
}

#endif
