/* placement_list.h - doubly linked lists of pages through their kvp_placement_nodes. */
#ifndef KVPI_TIERS_PLACEMENT_LIST_H
#define KVPI_TIERS_PLACEMENT_LIST_H

#include "kvpager/placement.h"

typedef struct kvpi_page_list {
    uint32_t head, tail; /* KVP_PAGE_NONE: empty */
} kvpi_page_list;

#define KVPI_PAGE_LIST_EMPTY ((kvpi_page_list){KVP_PAGE_NONE, KVP_PAGE_NONE})

static inline kvp_placement_node *kvpi_placement_node(const kvp_placement_config *cfg,
                                                      uint32_t page)
{
    return cfg->node(cfg->opaque, page);
}

/* Link `page` in between two neighbours; KVP_PAGE_NONE is the end of the list. */
static inline void kvpi_page_list_link(const kvp_placement_config *cfg, kvpi_page_list *list,
                                       uint32_t prev, uint32_t page, uint32_t next)
{
    kvp_placement_node *node = kvpi_placement_node(cfg, page);
    node->prev = prev;
    node->next = next;
    *(prev == KVP_PAGE_NONE ? &list->head : &kvpi_placement_node(cfg, prev)->next) = page;
    *(next == KVP_PAGE_NONE ? &list->tail : &kvpi_placement_node(cfg, next)->prev) = page;
}

static inline void kvpi_page_list_push_front(const kvp_placement_config *cfg, kvpi_page_list *list,
                                             uint32_t page)
{
    kvpi_page_list_link(cfg, list, KVP_PAGE_NONE, page, list->head);
}

static inline void kvpi_page_list_push_back(const kvp_placement_config *cfg, kvpi_page_list *list,
                                            uint32_t page)
{
    kvpi_page_list_link(cfg, list, list->tail, page, KVP_PAGE_NONE);
}

static inline void kvpi_page_list_unlink(const kvp_placement_config *cfg, kvpi_page_list *list,
                                         uint32_t page)
{
    kvp_placement_node *node = kvpi_placement_node(cfg, page);
    uint32_t prev = node->prev, next = node->next;
    *(prev == KVP_PAGE_NONE ? &list->head : &kvpi_placement_node(cfg, prev)->next) = next;
    *(next == KVP_PAGE_NONE ? &list->tail : &kvpi_placement_node(cfg, next)->prev) = prev;
}

#endif
