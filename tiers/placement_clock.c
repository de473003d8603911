/* placement_clock.c - first in, first out, with a second chance (CLOCK, Corbato 1968).
 *
 * Pages keep their places on the ring while they are used; a use only marks them. The hand is the
 * ring's head: a marked page that it meets loses its mark and goes behind all others. */
#include "kvpager/placement.h"

#include "alloc/mem.h"
#include "tiers/placement_lists.h"

enum { COLD, RING, OPEN, HOT, N_LISTS };

/* In node.key, of pages on the ring. */
#define MARKED (1u << 16) /* used since the hand last passed, or since it came */
#define IN_USE (1u << 17)

typedef struct placement_clock {
    kvp_placement placement;
    kvpi_page_lists lists;
    kvpi_page_list list[N_LISTS];
    uint64_t filled[KVPI_LISTS_WORDS(N_LISTS)];
    uint32_t n_idle; /* on the ring and not in use */
} placement_clock;

static kvp_status clock_open(const kvp_placement_config *cfg, kvp_placement **out)
{
    placement_clock *p = NULL;
    kvp_status status = kvpi_alloc(cfg->mem, sizeof *p, "the placement policy", &p);
    if (status)
        return status;
    p->placement.ops = &kvp_placement_clock;
    kvpi_lists_init(&p->lists, cfg, p->list, p->filled, N_LISTS);
    *out = &p->placement;
    return KVP_OK;
}

static void clock_close(kvp_placement *placement)
{
    placement_clock *p = (placement_clock *)placement;
    kvpi_free(p->lists.cfg.mem, p, sizeof *p);
}

static void clock_insert(kvp_placement *placement, const kvp_placement_page *page)
{
    placement_clock *p = (placement_clock *)placement;
    kvp_placement_node *node = kvpi_node(&p->lists, page->page);
    uint32_t special = kvpi_lists_special(&p->lists, page);
    bool has_place = node->key & IN_USE;
    p->n_idle += special == KVPI_LIST_NONE;
    if (has_place && special == KVPI_LIST_NONE) {
        node->key &= ~IN_USE;
        node->key |= page->is_used ? MARKED : 0;
        return;
    }
    if (has_place)
        kvpi_lists_take(&p->lists, page->page);
    if (special == KVPI_LIST_NONE)
        kvpi_lists_push_back(&p->lists, RING, page->page);
    else
        kvpi_lists_push_special(&p->lists, special, page->page);
}

static void clock_remove(kvp_placement *placement, uint32_t page, kvp_removal why)
{
    placement_clock *p = (placement_clock *)placement;
    bool is_on_ring = kvpi_list_of(&p->lists, page) == RING;
    p->n_idle -= is_on_ring;
    if (is_on_ring && why == KVP_REMOVED_FOR_USE)
        kvpi_node(&p->lists, page)->key |= IN_USE;
    else
        kvpi_lists_take(&p->lists, page);
}

/* The first page from here on, on the ring, that is not in use and is marked, or is not. */
static uint32_t find(const placement_clock *p, uint32_t page, bool is_marked)
{
    for (; page != KVP_PAGE_NONE; page = kvpi_node(&p->lists, page)->next) {
        uint32_t key = kvpi_node(&p->lists, page)->key;
        if (!(key & IN_USE) && !!(key & MARKED) == is_marked)
            break;
    }
    return page;
}

/* Let the hand pass what stays; there is a page that is not in use. */
static void turn(placement_clock *p)
{
    for (;;) {
        uint32_t head = p->list[RING].head, key = kvpi_node(&p->lists, head)->key;
        if (!(key & (MARKED | IN_USE)))
            return;
        kvpi_lists_take(&p->lists, head);
        kvpi_lists_push_back(&p->lists, RING, head);
        kvpi_node(&p->lists, head)->key |= key & IN_USE;
    }
}

static uint32_t clock_victim(kvp_placement *placement, uint32_t after)
{
    placement_clock *p = (placement_clock *)placement;
    uint32_t list = after == KVP_PAGE_NONE ? COLD : kvpi_list_of(&p->lists, after), next;
    if (list != RING) {
        next = after == KVP_PAGE_NONE ? p->list[COLD].head : kvpi_node(&p->lists, after)->next;
        if (next != KVP_PAGE_NONE)
            return next;
        if (list != COLD || !p->n_idle)
            return kvpi_lists_first(&p->lists, list < OPEN ? OPEN : list + 1);
        turn(p);
        return p->list[RING].head;
    }
    bool is_marked = kvpi_node(&p->lists, after)->key & MARKED;
    next = find(p, kvpi_node(&p->lists, after)->next, is_marked);
    if (next == KVP_PAGE_NONE && !is_marked)
        next = find(p, p->list[RING].head, true);
    return next != KVP_PAGE_NONE ? next : kvpi_lists_first(&p->lists, OPEN);
}

const kvp_placement_ops kvp_placement_clock = {
    .name = "clock",
    .open = clock_open,
    .close = clock_close,
    .insert = clock_insert,
    .remove = clock_remove,
    .victim = clock_victim,
};
