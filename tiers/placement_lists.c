/* placement_lists.c - lists of pages, and memory by page number. */
#include "tiers/placement_lists.h"

#include "alloc/mem.h"

#include <assert.h>
#include <string.h>

void kvpi_lists_init(kvpi_page_lists *l, const kvp_placement_config *cfg, kvpi_page_list *lists,
                     uint64_t *filled, uint32_t n)
{
    assert(n < KVPI_KEY_LIST);
    *l = (kvpi_page_lists){.cfg = *cfg, .n = n, .lists = lists, .filled = filled};
    for (uint32_t i = 0; i < n; i++)
        lists[i] = (kvpi_page_list){KVP_PAGE_NONE, KVP_PAGE_NONE};
}

uint32_t kvpi_lists_special(const kvpi_page_lists *l, const kvp_placement_page *page)
{
    if (page->is_cold)
        return 0;
    if (page->is_hot)
        return l->n - 1;
    return page->is_open ? l->n - 2 : KVPI_LIST_NONE;
}

/* Link the page in between two neighbours; KVP_PAGE_NONE is the end of the list. */
static void link_page(kvpi_page_lists *l, uint32_t i, uint32_t prev, uint32_t page, uint32_t next)
{
    kvpi_page_list *list = &l->lists[i];
    kvp_placement_node *node = kvpi_node(l, page);
    assert(!(node->key & KVPI_KEY_LIST));
    node->prev = prev;
    node->next = next;
    node->key |= i + 1;
    *(prev == KVP_PAGE_NONE ? &list->head : &kvpi_node(l, prev)->next) = page;
    *(next == KVP_PAGE_NONE ? &list->tail : &kvpi_node(l, next)->prev) = page;
    l->filled[i / 64] |= UINT64_C(1) << (i % 64);
    l->n_pages++;
    l->n_open += i == l->n - 2;
}

void kvpi_lists_push_front(kvpi_page_lists *l, uint32_t list, uint32_t page)
{
    link_page(l, list, KVP_PAGE_NONE, page, l->lists[list].head);
}

void kvpi_lists_push_back(kvpi_page_lists *l, uint32_t list, uint32_t page)
{
    link_page(l, list, l->lists[list].tail, page, KVP_PAGE_NONE);
}

void kvpi_lists_take(kvpi_page_lists *l, uint32_t page)
{
    uint32_t i = kvpi_list_of(l, page);
    assert(i != KVPI_LIST_NONE);
    kvpi_page_list *list = &l->lists[i];
    kvp_placement_node *node = kvpi_node(l, page);
    uint32_t prev = node->prev, next = node->next;
    *(prev == KVP_PAGE_NONE ? &list->head : &kvpi_node(l, prev)->next) = next;
    *(next == KVP_PAGE_NONE ? &list->tail : &kvpi_node(l, next)->prev) = prev;
    if (list->head == KVP_PAGE_NONE)
        l->filled[i / 64] &= ~(UINT64_C(1) << (i % 64));
    *node = (kvp_placement_node){0};
    l->n_pages--;
    l->n_open -= i == l->n - 2;
}

void kvpi_lists_push_special(kvpi_page_lists *l, uint32_t special, uint32_t page)
{
    kvpi_lists_push_back(l, special, page);
    if (l->n_open <= l->n_pages / 2 + 1)
        return;
    uint32_t oldest = l->lists[l->n - 2].head;
    uint32_t key = kvpi_node(l, oldest)->key & ~KVPI_KEY_LIST;
    kvpi_lists_take(l, oldest);
    kvpi_lists_push_back(l, 0, oldest);
    kvpi_node(l, oldest)->key |= key;
}

uint32_t kvpi_lists_first(const kvpi_page_lists *l, uint32_t from)
{
    for (uint32_t word = from / 64; word < KVPI_LISTS_WORDS(l->n); word++) {
        uint64_t bits = l->filled[word];
        if (word == from / 64)
            bits &= UINT64_MAX << (from % 64);
        if (bits)
            return l->lists[word * 64 + (uint32_t)__builtin_ctzll(bits)].head;
    }
    return KVP_PAGE_NONE;
}

uint32_t kvpi_lists_next(const kvpi_page_lists *l, uint32_t page)
{
    uint32_t next = kvpi_node(l, page)->next;
    return next != KVP_PAGE_NONE ? next : kvpi_lists_first(l, kvpi_list_of(l, page) + 1);
}
