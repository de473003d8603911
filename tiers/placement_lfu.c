/* placement_lfu.c - the page that is used least frequently leaves first; aged.
 *
 * Aging: a use counts 1, and half of that after eight uses for each page that is here, a quarter
 * after sixteen: exponential decay (as in LRFU, Lee et al. 2001, with a small lambda), so that what
 * was popular once does not stay for ever. Among equals the least recently used leaves first. The
 * count begins anew when a page comes back: nothing is remembered of pages that are not here.
 *
 * The count is kept in the high half of node.key, as a logarithm on the scale that rises with time:
 * it decays without being touched. */
#include "kvpager/placement.h"

#include "alloc/mem.h"
#include "tiers/placement_aging.h"

#include <math.h>

#define FINE 16       /* units of the logarithm in a step */
#define KEY_SHIFT 16u /* of the logarithm, modulo 2^16; 0: the page has no count */
#define ONE_STEP 32u  /* where a count of 1 stands: down to 2^-8, up to 2^24 */

typedef struct placement_lfu {
    kvp_placement placement;
    kvpi_aging aging;
} placement_lfu;

static kvp_status lfu_open(const kvp_placement_config *cfg, kvp_placement **out)
{
    placement_lfu *p = NULL;
    kvp_status status = kvpi_alloc(cfg->mem, sizeof *p, "the placement policy", &p);
    if (status)
        return status;
    p->placement.ops = &kvp_placement_lfu;
    kvpi_aging_init(&p->aging, cfg);
    *out = &p->placement;
    return KVP_OK;
}

static void lfu_close(kvp_placement *placement)
{
    placement_lfu *p = (placement_lfu *)placement;
    kvpi_free(p->aging.lists.cfg.mem, p, sizeof *p);
}

/* 1 on the scale as it stands now. */
static uint16_t unit(const placement_lfu *p)
{
    return (uint16_t)(p->aging.turns * FINE);
}

/* The logarithm of a page's count, in fine units. */
static int log_count(const placement_lfu *p, uint32_t key)
{
    return (int16_t)(uint16_t)((key >> KEY_SHIFT) - unit(p));
}

static int one_more(int log_of_count)
{
    const float per_octave = FINE * KVPI_AGING_OCTAVE;
    return (int)lroundf(per_octave * log2f(exp2f((float)log_of_count / per_octave) + 1));
}

static void lfu_insert(kvp_placement *placement, const kvp_placement_page *page)
{
    placement_lfu *p = (placement_lfu *)placement;
    kvp_placement_node *node = kvpi_node(&p->aging.lists, page->page);
    uint32_t key = node->key;
    int count = key ? log_count(p, key) : 0;
    if (page->is_used) {
        kvpi_aging_tick(&p->aging);
        count = key ? one_more(log_count(p, key)) : 0;
    }
    node->key = 0;
    if (!kvpi_aging_push_special(&p->aging, page)) {
        int step = (int)ONE_STEP + (count < 0 ? count - FINE + 1 : count) / FINE;
        kvpi_aging_push(&p->aging, page->page, step > 0 ? (uint32_t)step : 0, false);
    }
    uint16_t log_now = (uint16_t)(count + unit(p));
    node->key |= (uint32_t)(log_now ? log_now : 1) << KEY_SHIFT;
}

static void lfu_remove(kvp_placement *placement, uint32_t page, kvp_removal why)
{
    placement_lfu *p = (placement_lfu *)placement;
    kvp_placement_node *node = kvpi_node(&p->aging.lists, page);
    uint32_t count = node->key & ~KVPI_KEY_LIST;
    kvpi_aging_take(&p->aging, page);
    if (why == KVP_REMOVED_FOR_USE)
        node->key = count;
}

static uint32_t lfu_victim(kvp_placement *placement, uint32_t after)
{
    return kvpi_aging_walk(&((placement_lfu *)placement)->aging, after);
}

const kvp_placement_ops kvp_placement_lfu = {
    .name = "lfu",
    .open = lfu_open,
    .close = lfu_close,
    .insert = lfu_insert,
    .remove = lfu_remove,
    .victim = lfu_victim,
};
