/* slot_depot.c - the bitmap of free slots.
 *
 * Invariants
 *  1. Bits past the end of a level are set.
 *  2. Bit i of level k + 1 is set if and only if word i of level k is all ones.
 *  3. n_free = clear bits below `end`, n_above = set bits of slots at or above it.
 *
 * Slots at or above `end` keep their bits, so that it can be moved at any time. That the lowest go
 * first means that none of them is taken: there are n_free lower ones. */
#include "alloc/slot_depot.h"

#include <assert.h>
#include <stdbool.h>

static size_t words_for(size_t n_bits)
{
    return (n_bits + 63) / 64;
}

size_t kvpi_slot_depot_words(uint32_t n_slots)
{
    size_t n_words = 0;
    for (size_t n = n_slots;; n = words_for(n)) {
        n_words += words_for(n);
        if (n <= 64)
            return n_words;
    }
}

void kvpi_slot_depot_init(kvpi_slot_depot *d, uint32_t n_slots, uint64_t *words)
{
    *d = (kvpi_slot_depot){.n_slots = n_slots, .end = n_slots, .n_free = n_slots};
    size_t n_bits = n_slots;
    do {
        size_t n_words = words_for(n_bits);
        d->level[d->n_levels++] = words;
        if (n_bits % 64)
            words[n_words - 1] = UINT64_MAX << (n_bits % 64);
        words += n_words;
        n_bits = n_words;
    } while (n_bits > 1);
}

/* `bits` of word i of the lowest level. */
static void mark_taken(kvpi_slot_depot *d, size_t i, uint64_t bits)
{
    d->level[0][i] |= bits;
    for (uint32_t k = 1; k < d->n_levels && d->level[k - 1][i] == UINT64_MAX; k++, i /= 64)
        d->level[k][i / 64] |= UINT64_C(1) << i % 64;
}

static void mark_free(kvpi_slot_depot *d, size_t i, uint64_t bits)
{
    bool was_full = d->level[0][i] == UINT64_MAX;
    d->level[0][i] &= ~bits;
    for (uint32_t k = 1; k < d->n_levels && was_full; k++, i /= 64) {
        was_full = d->level[k][i / 64] == UINT64_MAX;
        d->level[k][i / 64] &= ~(UINT64_C(1) << i % 64);
    }
}

void kvpi_slot_depot_take(kvpi_slot_depot *d, uint32_t *slots, uint32_t n)
{
    assert(n <= d->n_free);
    d->n_free -= n;
    while (n > 0) {
        size_t i = 0;
        for (uint32_t k = d->n_levels; k-- > 1;)
            i = i * 64 + (size_t)__builtin_ctzll(~d->level[k][i]);
        uint64_t left = ~d->level[0][i], all = left;
        for (; left && n > 0; left &= left - 1)
            slots[--n] = (uint32_t)(i * 64) + (uint32_t)__builtin_ctzll(left);
        mark_taken(d, i, all & ~left);
    }
}

/* The bits of word i that are slots below `end`. */
static uint64_t bits_below(uint32_t end, size_t i)
{
    if (end >= (i + 1) * 64)
        return UINT64_MAX;
    return end > i * 64 ? UINT64_MAX >> (64 - end % 64) : 0;
}

void kvpi_slot_depot_give(kvpi_slot_depot *d, const uint32_t *slots, uint32_t n)
{
    for (uint32_t i = 0; i < n;) {
        uint32_t word = slots[i] / 64, first = i;
        uint64_t bits = 0;
        do
            bits |= UINT64_C(1) << slots[i++] % 64;
        while (i < n && slots[i] / 64 == word);
        assert((d->level[0][word] & bits) == bits); /* else one was given back twice */
        mark_free(d, word, bits);
        uint32_t n_below = i - first;
        if (slots[first] / 64 >= d->end / 64)
            n_below = (uint32_t)__builtin_popcountll(bits & bits_below(d->end, word));
        d->n_free += n_below;
        d->n_above -= i - first - n_below;
    }
}

void kvpi_slot_depot_set_end(kvpi_slot_depot *d, uint32_t end)
{
    assert(end <= d->n_slots);
    uint32_t n_below = 0, n_all = 0;
    for (size_t i = 0; i < words_for(d->n_slots); i++) {
        uint64_t taken = d->level[0][i] & bits_below(d->n_slots, i);
        n_all += (uint32_t)__builtin_popcountll(taken);
        n_below += (uint32_t)__builtin_popcountll(taken & bits_below(end, i));
    }
    d->end = end;
    d->n_free = end - n_below;
    d->n_above = n_all - n_below;
}
