/* placement_aging.h - pages ordered by a value that halves with time: what LFU and attention-mass
 * have in common.
 *
 * Values are kept as logarithms, a quarter of an octave to a step, each step a list. A value that
 * halves sinks by four steps: so it is the scale that rises, and no page need be touched. Lists are
 * a ring that turns by one step each time; pages at its lower end stay there together.
 *
 * Time is counted in uses, and values halve in as many as are eight for each page that is here. */
#ifndef KVPI_TIERS_PLACEMENT_AGING_H
#define KVPI_TIERS_PLACEMENT_AGING_H

#include "tiers/placement_lists.h"

#define KVPI_AGING_STEPS 128u /* 32 octaves */
#define KVPI_AGING_OCTAVE 4u  /* steps */

typedef struct kvpi_aging {
    kvpi_page_lists lists; /* cold, the ring, open, hot */
    kvpi_page_list list[KVPI_AGING_STEPS + 3];
    uint64_t filled[KVPI_LISTS_WORDS(KVPI_AGING_STEPS + 3)];
    uint32_t n_uses; /* since the scale rose */
    uint32_t turns;  /* steps that it has risen */
} kvpi_aging;

void kvpi_aging_init(kvpi_aging *a, const kvp_placement_config *cfg);
/* A page was used. */
void kvpi_aging_tick(kvpi_aging *a);

/* Put the page where the facts about it say; false: they say nothing, its value decides. */
bool kvpi_aging_push_special(kvpi_aging *a, const kvp_placement_page *page);
/* Put it at a step: above others of the same one, or below them. */
void kvpi_aging_push(kvpi_aging *a, uint32_t page, uint32_t step, bool leaves_first);
void kvpi_aging_take(kvpi_aging *a, uint32_t page);
/* As kvp_placement_ops.victim: the lowest first. */
uint32_t kvpi_aging_walk(const kvpi_aging *a, uint32_t after);

#endif
