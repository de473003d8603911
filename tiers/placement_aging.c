/* placement_aging.c - pages ordered by a value that halves with time. */
#include "tiers/placement_aging.h"

enum { COLD = 0, RING = 1, OPEN = RING + KVPI_AGING_STEPS, N_LISTS = OPEN + 2 };

#define HALF_LIFE 8u /* uses per page */

void kvpi_aging_init(kvpi_aging *a, const kvp_placement_config *cfg)
{
    kvpi_lists_init(&a->lists, cfg, a->list, a->filled, N_LISTS);
}

static uint32_t list_of_step(const kvpi_aging *a, uint32_t step)
{
    return RING + (a->turns + step) % KVPI_AGING_STEPS;
}

/* The scale rises: what is at the lower end stays there, below what comes down to it. */
static void turn(kvpi_aging *a)
{
    uint32_t lowest = list_of_step(a, 0), next = list_of_step(a, 1);
    for (uint32_t page; (page = a->list[lowest].tail) != KVP_PAGE_NONE;) {
        uint32_t key = kvpi_node(&a->lists, page)->key & ~KVPI_KEY_LIST;
        kvpi_lists_take(&a->lists, page);
        kvpi_lists_push_front(&a->lists, next, page);
        kvpi_node(&a->lists, page)->key |= key;
    }
    a->turns++;
}

void kvpi_aging_tick(kvpi_aging *a)
{
    if (++a->n_uses <= a->lists.n_pages * (HALF_LIFE / KVPI_AGING_OCTAVE))
        return;
    a->n_uses = 0;
    turn(a);
}

bool kvpi_aging_push_special(kvpi_aging *a, const kvp_placement_page *page)
{
    uint32_t list = kvpi_lists_special(&a->lists, page);
    if (list == KVPI_LIST_NONE)
        return false;
    kvpi_lists_push_special(&a->lists, list, page->page);
    return true;
}

void kvpi_aging_push(kvpi_aging *a, uint32_t page, uint32_t step, bool leaves_first)
{
    uint32_t list = list_of_step(a, step < KVPI_AGING_STEPS ? step : KVPI_AGING_STEPS - 1);
    if (leaves_first)
        kvpi_lists_push_front(&a->lists, list, page);
    else
        kvpi_lists_push_back(&a->lists, list, page);
}

void kvpi_aging_take(kvpi_aging *a, uint32_t page)
{
    kvpi_lists_take(&a->lists, page);
}

/* The first page at a step from `step` on; then those that are open, and hot. */
static uint32_t first_from(const kvpi_aging *a, uint32_t step)
{
    for (; step < KVPI_AGING_STEPS; step++) {
        uint32_t page = a->list[list_of_step(a, step)].head;
        if (page != KVP_PAGE_NONE)
            return page;
    }
    return kvpi_lists_first(&a->lists, OPEN);
}

uint32_t kvpi_aging_walk(const kvpi_aging *a, uint32_t after)
{
    uint32_t next = after == KVP_PAGE_NONE ? a->list[COLD].head : kvpi_node(&a->lists, after)->next;
    if (next != KVP_PAGE_NONE)
        return next;
    uint32_t list = after == KVP_PAGE_NONE ? COLD : kvpi_list_of(&a->lists, after);
    if (list == COLD)
        return first_from(a, 0);
    if (list < OPEN)
        return first_from(a, (list - RING - a->turns) % KVPI_AGING_STEPS + 1);
    return kvpi_lists_next(&a->lists, after);
}
