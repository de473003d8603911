/* placement_lru.c - the page that was used longest ago leaves first.
 *
 * The baseline: a cyclic scan over more pages than fit never hits. */
#include "kvpager/placement.h"

#include "alloc/mem.h"
#include "tiers/placement_lists.h"

enum { COLD, USED, OPEN, HOT, N_LISTS };

typedef struct placement_lru {
    kvp_placement placement;
    kvpi_page_lists lists; /* in each the least recently used first */
    kvpi_page_list list[N_LISTS];
    uint64_t filled[KVPI_LISTS_WORDS(N_LISTS)];
} placement_lru;

static kvp_status lru_open(const kvp_placement_config *cfg, kvp_placement **out)
{
    placement_lru *p = NULL;
    kvp_status status = kvpi_alloc(cfg->mem, sizeof *p, "the placement policy", &p);
    if (status)
        return status;
    p->placement.ops = &kvp_placement_lru;
    kvpi_lists_init(&p->lists, cfg, p->list, p->filled, N_LISTS);
    *out = &p->placement;
    return KVP_OK;
}

static void lru_close(kvp_placement *placement)
{
    placement_lru *p = (placement_lru *)placement;
    kvpi_free(p->lists.cfg.mem, p, sizeof *p);
}

static void lru_insert(kvp_placement *placement, const kvp_placement_page *page)
{
    placement_lru *p = (placement_lru *)placement;
    uint32_t special = kvpi_lists_special(&p->lists, page);
    if (special == KVPI_LIST_NONE)
        kvpi_lists_push_back(&p->lists, USED, page->page);
    else
        kvpi_lists_push_special(&p->lists, special, page->page);
}

static void lru_remove(kvp_placement *placement, uint32_t page, kvp_removal why)
{
    (void)why;
    kvpi_lists_take(&((placement_lru *)placement)->lists, page);
}

static uint32_t lru_victim(kvp_placement *placement, uint32_t after)
{
    return kvpi_lists_walk(&((placement_lru *)placement)->lists, after);
}

const kvp_placement_ops kvp_placement_lru = {
    .name = "lru",
    .open = lru_open,
    .close = lru_close,
    .insert = lru_insert,
    .remove = lru_remove,
    .victim = lru_victim,
};
