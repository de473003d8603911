/* slot_depot.h - which slots are free: a bitmap with summaries above it, an eighth of a byte per
 * slot. The lowest free slots go first, so that slots taken one after the other are neighbours, and
 * the upper end is the first to be empty. Not thread-safe. */
#ifndef KVPI_ALLOC_SLOT_DEPOT_H
#define KVPI_ALLOC_SLOT_DEPOT_H

#include <stddef.h>
#include <stdint.h>

#define KVPI_DEPOT_LEVELS 6u /* 64^6 > 2^32 */

typedef struct kvpi_slot_depot {
    uint32_t n_slots;
    uint32_t end;     /* slots below it are handed out */
    uint32_t n_free;  /* below `end` */
    uint32_t n_above; /* taken, at or above `end` */
    uint32_t n_levels;
    uint64_t *level[KVPI_DEPOT_LEVELS]; /* [0]: a bit per slot, set: taken; [k]: a bit per word
                                           below, set: all taken */
} kvpi_slot_depot;

/* Words that the bitmaps take. */
size_t kvpi_slot_depot_words(uint32_t n_slots);
/* All free. `words` are zeroed, and stay the caller's. */
void kvpi_slot_depot_init(kvpi_slot_depot *d, uint32_t n_slots, uint64_t *words);

/* The n <= n_free lowest free slots, the lowest last. */
void kvpi_slot_depot_take(kvpi_slot_depot *d, uint32_t *slots, uint32_t n);
void kvpi_slot_depot_give(kvpi_slot_depot *d, const uint32_t *slots, uint32_t n);
/* end <= n_slots. What is taken beyond it is still given back. */
void kvpi_slot_depot_set_end(kvpi_slot_depot *d, uint32_t end);

#endif
