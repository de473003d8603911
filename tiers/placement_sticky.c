/* placement_sticky.c - a fixed subset stays, spread evenly; the rest is streamed.
 *
 * Every group of neighbours in a lane has a rank in [0, 1) that depends on nothing but where it is:
 * frac(group * golden ratio + lane * sqrt 2). Pages of the highest ranks leave first, so what stays
 * are those below budget / size, and
 *  - they are spread evenly over a lane, and over lanes that have only a few groups: computing on
 *    resident groups overlaps with reading the others;
 *  - the choice is nested: as a sequence grows the threshold sinks, groups are only ever dropped,
 *    and none is fetched back to keep the spread.
 * Decode scans all pages in a cycle, so hits are budget / size, where LRU has none.
 *
 * While a layer is being filled (prefill layer by layer) its pages are hot: each chunk reads all of
 * them again, before any other layer is read. They leave after all others, in the same order.
 *
 * Ranks are quantised into buckets. Within one the page inserted last leaves first: that is one
 * that was just streamed through, while those that stay were there before it. Open pages, which are
 * about to be written again, leave last of all, the least recently used first; cold ones first.
 *
 * Invariants: node.key is 0 for a page that is not here, else its list's index + 1; a bucket's bit
 * is set exactly while it has pages. */
#include "kvpager/placement.h"

#include "alloc/mem.h"
#include "tiers/placement_list.h"

#include <assert.h>

#define BUCKET_LOG 10u
#define N_BUCKETS (1u << BUCKET_LOG)
/* Lists, in the order of leaving, backwards: open pages, buckets of hot pages, buckets of the
 * others, cold pages. */
#define OPEN_LIST 0u
#define HOT_LIST(bucket) (1u + (bucket))
#define LIST(bucket) (1u + N_BUCKETS + (bucket))
#define COLD_LIST (1u + 2 * N_BUCKETS)
#define N_LISTS (2u + 2 * N_BUCKETS)
#define N_WORDS ((N_LISTS + 63) / 64)

/* Fractions of 2^32: multiplying by them takes the fractional part for free. */
#define GOLDEN_RATIO 0x9e3779b9u
#define SQRT_2 0x6a09e667u

typedef struct placement_sticky {
    kvp_placement placement;
    kvp_placement_config cfg;
    uint64_t filled[N_WORDS]; /* a bit per list that has pages */
    kvpi_page_list lists[N_LISTS];
} placement_sticky;

static kvp_status sticky_open(const kvp_placement_config *cfg, kvp_placement **out)
{
    placement_sticky *p = NULL;
    kvp_status status = kvpi_alloc(cfg->mem, sizeof *p, "the placement policy", &p);
    if (status)
        return status;
    p->placement.ops = &kvp_placement_sticky;
    p->cfg = *cfg;
    if (p->cfg.group_pages == 0)
        p->cfg.group_pages = 1;
    for (uint32_t i = 0; i < N_LISTS; i++)
        p->lists[i] = KVPI_PAGE_LIST_EMPTY;
    *out = &p->placement;
    return KVP_OK;
}

static void sticky_close(kvp_placement *placement)
{
    placement_sticky *p = (placement_sticky *)placement;
    kvpi_free(p->cfg.mem, p, sizeof *p);
}

static uint32_t list_of(const placement_sticky *p, const kvp_placement_page *page)
{
    if (page->is_cold)
        return COLD_LIST;
    if (page->is_open)
        return OPEN_LIST;
    uint32_t group = page->lane_index / p->cfg.group_pages;
    uint32_t rank = group * GOLDEN_RATIO + page->lane * SQRT_2;
    uint32_t bucket = rank >> (32 - BUCKET_LOG);
    return page->is_hot ? HOT_LIST(bucket) : LIST(bucket);
}

static void sticky_insert(kvp_placement *placement, const kvp_placement_page *page)
{
    placement_sticky *p = (placement_sticky *)placement;
    kvp_placement_node *node = kvpi_placement_node(&p->cfg, page->page);
    assert(node->key == 0);
    uint32_t i = list_of(p, page);
    if (i == OPEN_LIST || i == COLD_LIST)
        kvpi_page_list_push_back(&p->cfg, &p->lists[i], page->page);
    else
        kvpi_page_list_push_front(&p->cfg, &p->lists[i], page->page);
    p->filled[i / 64] |= UINT64_C(1) << (i % 64);
    node->key = i + 1;
}

static void sticky_remove(kvp_placement *placement, uint32_t page)
{
    placement_sticky *p = (placement_sticky *)placement;
    kvp_placement_node *node = kvpi_placement_node(&p->cfg, page);
    assert(node->key != 0);
    uint32_t i = node->key - 1;
    kvpi_page_list_unlink(&p->cfg, &p->lists[i], page);
    if (p->lists[i].head == KVP_PAGE_NONE)
        p->filled[i / 64] &= ~(UINT64_C(1) << (i % 64));
    node->key = 0;
}

/* The first page of the highest list below `end` that has pages. */
static uint32_t first_below(const placement_sticky *p, uint32_t end)
{
    for (uint32_t word = (end + 63) / 64; word-- > 0;) {
        uint64_t bits = p->filled[word];
        if (end - word * 64 < 64)
            bits &= (UINT64_C(1) << (end % 64)) - 1;
        if (bits) {
            uint32_t i = word * 64 + 63 - (uint32_t)__builtin_clzll(bits);
            return p->lists[i].head;
        }
    }
    return KVP_PAGE_NONE;
}

static uint32_t sticky_victim(kvp_placement *placement, uint32_t after)
{
    placement_sticky *p = (placement_sticky *)placement;
    if (after == KVP_PAGE_NONE)
        return first_below(p, N_LISTS);
    const kvp_placement_node *node = kvpi_placement_node(&p->cfg, after);
    assert(node->key != 0);
    return node->next != KVP_PAGE_NONE ? node->next : first_below(p, node->key - 1);
}

const kvp_placement_ops kvp_placement_sticky = {
    .name = "sticky",
    .open = sticky_open,
    .close = sticky_close,
    .insert = sticky_insert,
    .remove = sticky_remove,
    .victim = sticky_victim,
};
