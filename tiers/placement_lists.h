/* placement_lists.h - what policies are built from: lists of pages that leave one after the other,
 * linked through their nodes.
 *
 * The low half of node.key says which list a page is in, the high half is the policy's own.
 *
 * Invariants
 *  1. KVPI_KEY_LIST of a node is 0 for a page that is in no list, else the list's index + 1.
 *  2. A list's bit is set exactly while it has pages. */
#ifndef KVPI_TIERS_PLACEMENT_LISTS_H
#define KVPI_TIERS_PLACEMENT_LISTS_H

#include "kvpager/placement.h"

#define KVPI_KEY_LIST 0xffffu /* of node.key */
#define KVPI_LIST_NONE UINT32_MAX

typedef struct kvpi_page_list {
    uint32_t head, tail; /* KVP_PAGE_NONE: empty */
} kvpi_page_list;

/* List 0 leaves first. Where kvpi_lists_special() is used, it has cold pages, the last list but one
 * has open ones, the last hot ones. */
typedef struct kvpi_page_lists {
    kvp_placement_config cfg;
    uint32_t n_pages, n_open; /* in lists; in the last but one */
    uint32_t n;               /* lists */
    kvpi_page_list *lists;
    uint64_t *filled;
} kvpi_page_lists;

#define KVPI_LISTS_WORDS(n) (((n) + 63) / 64)

/* lists: [n], n < 65535; filled: [KVPI_LISTS_WORDS(n)], zero. */
void kvpi_lists_init(kvpi_page_lists *l, const kvp_placement_config *cfg, kvpi_page_list *lists,
                     uint64_t *filled, uint32_t n);

static inline kvp_placement_node *kvpi_node(const kvpi_page_lists *l, uint32_t page)
{
    return l->cfg.node(l->cfg.opaque, page);
}

/* The list that a page is in. */
static inline uint32_t kvpi_list_of(const kvpi_page_lists *l, uint32_t page)
{
    uint32_t key = kvpi_node(l, page)->key & KVPI_KEY_LIST;
    return key ? key - 1 : KVPI_LIST_NONE;
}

/* Where every policy would put the page; KVPI_LIST_NONE: this one decides. */
uint32_t kvpi_lists_special(const kvpi_page_lists *l, const kvp_placement_page *page);
/* Put it there; if then there are too many open pages, the one used longest ago goes to the cold
 * ones. The high half of its key stays. */
void kvpi_lists_push_special(kvpi_page_lists *l, uint32_t special, uint32_t page);

void kvpi_lists_push_front(kvpi_page_lists *l, uint32_t list, uint32_t page);
void kvpi_lists_push_back(kvpi_page_lists *l, uint32_t list, uint32_t page);
/* Out of its list; the node is zero again. */
void kvpi_lists_take(kvpi_page_lists *l, uint32_t page);
/* The first page of list `from` or a later one; KVP_PAGE_NONE. */
uint32_t kvpi_lists_first(const kvpi_page_lists *l, uint32_t from);
/* The page after this one, in its list or a later one. */
uint32_t kvpi_lists_next(const kvpi_page_lists *l, uint32_t page);
/* All pages in order: as kvp_placement_ops.victim. */
static inline uint32_t kvpi_lists_walk(const kvpi_page_lists *l, uint32_t after)
{
    return after == KVP_PAGE_NONE ? kvpi_lists_first(l, 0) : kvpi_lists_next(l, after);
}

#endif
