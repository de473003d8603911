/* placement_lru.c - the page that was used longest ago leaves first.
 *
 * A cold page counts as never used. The baseline: a cyclic scan over more pages than fit never
 * hits. */
#include "kvpager/placement.h"

#include "alloc/mem.h"
#include "tiers/placement_list.h"

#include <assert.h>

typedef struct placement_lru {
    kvp_placement placement;
    kvp_placement_config cfg;
    kvpi_page_list pages; /* the least recently used first */
} placement_lru;

enum { KEY_OUT = 0, KEY_IN = 1 };

static kvp_status lru_open(const kvp_placement_config *cfg, kvp_placement **out)
{
    placement_lru *p = NULL;
    kvp_status status = kvpi_alloc(cfg->mem, sizeof *p, "the placement policy", &p);
    if (status)
        return status;
    *p = (placement_lru){
        .placement.ops = &kvp_placement_lru, .cfg = *cfg, .pages = KVPI_PAGE_LIST_EMPTY};
    *out = &p->placement;
    return KVP_OK;
}

static void lru_close(kvp_placement *placement)
{
    placement_lru *p = (placement_lru *)placement;
    kvpi_free(p->cfg.mem, p, sizeof *p);
}

static void lru_insert(kvp_placement *placement, const kvp_placement_page *page)
{
    placement_lru *p = (placement_lru *)placement;
    kvp_placement_node *node = kvpi_placement_node(&p->cfg, page->page);
    assert(node->key == KEY_OUT);
    node->key = KEY_IN;
    if (page->is_cold)
        kvpi_page_list_push_front(&p->cfg, &p->pages, page->page);
    else
        kvpi_page_list_push_back(&p->cfg, &p->pages, page->page);
}

static void lru_remove(kvp_placement *placement, uint32_t page)
{
    placement_lru *p = (placement_lru *)placement;
    kvp_placement_node *node = kvpi_placement_node(&p->cfg, page);
    assert(node->key == KEY_IN);
    kvpi_page_list_unlink(&p->cfg, &p->pages, page);
    node->key = KEY_OUT;
}

static uint32_t lru_victim(kvp_placement *placement, uint32_t after)
{
    placement_lru *p = (placement_lru *)placement;
    if (after == KVP_PAGE_NONE)
        return p->pages.head;
    return kvpi_placement_node(&p->cfg, after)->next;
}

const kvp_placement_ops kvp_placement_lru = {
    .name = "lru",
    .open = lru_open,
    .close = lru_close,
    .insert = lru_insert,
    .remove = lru_remove,
    .victim = lru_victim,
};
