/* placement_s3_fifo.c - three queues (S3-FIFO: Yang, Zhang, Qiu, Yue and Rashmi, SOSP 2023).
 *
 * A page comes into the small queue, a tenth of all, and leaves from there unless it has been used
 * twice more: then it moves to the main queue, where every use (three at most) buys it one more
 * round. A page that left from the small queue is remembered as a ghost, as many of them as there
 * are pages here; one that comes back while it is a ghost goes to the main queue at once.
 *
 * Pages keep their places while they are in use. Ghosts are times of leaving, by page number. */
#include "kvpager/placement.h"

#include "alloc/mem.h"
#include "tiers/placement_lists.h"

enum { COLD, SMALL, MAIN, OPEN, HOT, N_LISTS };

/* In node.key, of pages in the two queues. */
#define USES_SHIFT 16u
#define MAX_USES 3u
#define IN_USE (1u << 18)
#define SMALL_SHARE 10u /* the small queue's is 1 in so many */

typedef struct placement_s3_fifo {
    kvp_placement placement;
    kvpi_page_lists lists;
    kvpi_page_list list[N_LISTS];
    uint64_t filled[KVPI_LISTS_WORDS(N_LISTS)];
    uint32_t n[N_LISTS]; /* pages in each of the two queues, those in use included */
    uint32_t n_left;     /* how many have left from the small queue */
} placement_s3_fifo;

static kvp_status s3_open(const kvp_placement_config *cfg, kvp_placement **out)
{
    placement_s3_fifo *p = NULL;
    kvp_status status = kvpi_alloc(cfg->mem, sizeof *p, "the placement policy", &p);
    if (status)
        return status;
    p->placement.ops = &kvp_placement_s3_fifo;
    kvpi_lists_init(&p->lists, cfg, p->list, p->filled, N_LISTS);
    *out = &p->placement;
    return KVP_OK;
}

static void s3_close(kvp_placement *placement)
{
    placement_s3_fifo *p = (placement_s3_fifo *)placement;
    kvpi_free(p->lists.cfg.mem, p, sizeof *p);
}

/* n_left when the page left; 0: it is no ghost. */
static uint32_t *ghost(const placement_s3_fifo *p, uint32_t page)
{
    return p->lists.cfg.memory(p->lists.cfg.opaque, page);
}

static bool is_queue(uint32_t list)
{
    return list == SMALL || list == MAIN;
}

static void push(placement_s3_fifo *p, uint32_t list, uint32_t page)
{
    kvpi_lists_push_back(&p->lists, list, page);
    p->n[list]++;
}

static void take(placement_s3_fifo *p, uint32_t page)
{
    uint32_t list = kvpi_list_of(&p->lists, page);
    if (is_queue(list))
        p->n[list]--;
    kvpi_lists_take(&p->lists, page);
}

static bool is_ghost(const placement_s3_fifo *p, uint32_t page)
{
    uint32_t left = *ghost(p, page);
    return left && p->n_left - left < p->n[SMALL] + p->n[MAIN];
}

static void s3_insert(kvp_placement *placement, const kvp_placement_page *page)
{
    placement_s3_fifo *p = (placement_s3_fifo *)placement;
    kvp_placement_node *node = kvpi_node(&p->lists, page->page);
    uint32_t special = kvpi_lists_special(&p->lists, page);
    bool has_place = node->key & IN_USE;
    if (has_place && special == KVPI_LIST_NONE) {
        uint32_t n_uses = node->key >> USES_SHIFT & MAX_USES;
        node->key &= ~IN_USE;
        if (page->is_used && n_uses < MAX_USES)
            node->key += 1u << USES_SHIFT;
        return;
    }
    if (has_place)
        take(p, page->page);
    if (special == KVPI_LIST_NONE)
        push(p, is_ghost(p, page->page) ? MAIN : SMALL, page->page);
    else
        kvpi_lists_push_special(&p->lists, special, page->page);
    *ghost(p, page->page) = 0;
}

static void s3_remove(kvp_placement *placement, uint32_t page, kvp_removal why)
{
    placement_s3_fifo *p = (placement_s3_fifo *)placement;
    uint32_t list = kvpi_list_of(&p->lists, page);
    if (is_queue(list) && why == KVP_REMOVED_FOR_USE) {
        kvpi_node(&p->lists, page)->key |= IN_USE;
        return;
    }
    take(p, page);
    if (list == SMALL && why == KVP_REMOVED_GONE) {
        p->n_left += p->n_left + 1 ? 1 : 2; /* 0 stands for never */
        *ghost(p, page) = p->n_left;
    }
}

/* ---- who leaves ---- */

/* The first page from here on, in its queue, that is not in use. */
static uint32_t find_idle(const placement_s3_fifo *p, uint32_t page)
{
    while (page != KVP_PAGE_NONE && (kvpi_node(&p->lists, page)->key & IN_USE))
        page = kvpi_node(&p->lists, page)->next;
    return page;
}

/* The queue to evict from. */
static uint32_t first_queue(const placement_s3_fifo *p)
{
    bool is_small_full = p->n[SMALL] * SMALL_SHARE >= p->n[SMALL] + p->n[MAIN];
    uint32_t queue = is_small_full ? SMALL : MAIN;
    bool is_idle = find_idle(p, p->list[queue].head) != KVP_PAGE_NONE;
    return is_idle ? queue : SMALL + MAIN - queue;
}

/* Let pages that have earned it go on to the main queue's end, until the first one leaves. */
static uint32_t first_victim(placement_s3_fifo *p)
{
    for (;;) {
        uint32_t queue = first_queue(p), page = find_idle(p, p->list[queue].head);
        if (page == KVP_PAGE_NONE)
            return kvpi_lists_first(&p->lists, OPEN);
        uint32_t n_uses = kvpi_node(&p->lists, page)->key >> USES_SHIFT & MAX_USES;
        if (n_uses <= (queue == SMALL ? 1 : 0))
            return page;
        take(p, page);
        push(p, MAIN, page);
        if (queue == MAIN)
            kvpi_node(&p->lists, page)->key |= (n_uses - 1) << USES_SHIFT;
    }
}

static uint32_t s3_victim(kvp_placement *placement, uint32_t after)
{
    placement_s3_fifo *p = (placement_s3_fifo *)placement;
    uint32_t list = after == KVP_PAGE_NONE ? COLD : kvpi_list_of(&p->lists, after);
    if (list == COLD) {
        uint32_t next =
            after == KVP_PAGE_NONE ? p->list[COLD].head : kvpi_node(&p->lists, after)->next;
        return next != KVP_PAGE_NONE ? next : first_victim(p);
    }
    if (!is_queue(list))
        return kvpi_lists_next(&p->lists, after);
    uint32_t next = find_idle(p, kvpi_node(&p->lists, after)->next);
    if (next == KVP_PAGE_NONE && list == first_queue(p))
        next = find_idle(p, p->list[SMALL + MAIN - list].head);
    return next != KVP_PAGE_NONE ? next : kvpi_lists_first(&p->lists, OPEN);
}

const kvp_placement_ops kvp_placement_s3_fifo = {
    .name = "s3-fifo",
    .open = s3_open,
    .close = s3_close,
    .insert = s3_insert,
    .remove = s3_remove,
    .victim = s3_victim,
    .remembers = true,
};
