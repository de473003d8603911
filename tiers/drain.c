/* drain.c - the RAM tier gets smaller or larger: frames beyond its new end are emptied, so that
 * whole regions go back to the system.
 *
 * The ledger has brought down how many frames are in use before; here it is about which. A page
 * beyond the end moves to a frame below it: its bytes are copied without the lock, while it is
 * WRITING, which keeps whoever would change them away. If somebody has pinned it meanwhile, he
 * knows the old address, and it stays for now. */
#include "tiers/account.h"
#include "tiers/pager.h"

#include <string.h>

/* Nothing is handed out beyond n_frames from now on; *is_empty: nothing is left there. */
static kvp_status set_end(kvp_pager *p, uint32_t n_frames, bool *is_empty)
{
    uint64_t bytes = (uint64_t)n_frames * p->geometry.slot_bytes, over_bytes = 0;
    pthread_mutex_unlock(&p->lock); /* memory is deregistered, and given back */
    kvp_status status = kvpi_tier_resize(p->ram, p->lower[KVPI_DISK], bytes, &over_bytes);
    pthread_mutex_lock(&p->lock);
    *is_empty = !over_bytes;
    return status;
}

static bool can_move(const kvpi_page *pg, uint32_t end)
{
    return kvpi_page_is(pg, KVPI_PAGE_USED) && kvpi_page_is(pg, KVPI_PAGE_RESIDENT) &&
           !kvpi_page_is(pg, KVPI_PAGE_WRITING) && !pg->pins && pg->frame >= end;
}

/* The policy's words about the page go with it. */
static void change_frame(kvp_pager *p, kvpi_page *pg, uint32_t to)
{
    uint32_t from = pg->frame;
    p->frame_nodes[to] = p->frame_nodes[from];
    p->frame_nodes[from] = (kvp_placement_node){0};
    pg->frame = to;
    kvpi_tier_slot_free(p->ram, from);
}

/* False: no frame is free below the end now. */
static bool move_page(kvp_pager *p, uint32_t page)
{
    kvpi_page *pg = kvpi_page_at(&p->pages, page);
    kvp_slot to;
    if (kvpi_tier_slot_alloc(p->ram, p->geometry.slot_bytes, &to))
        return false;
    kvpi_set_flags(p, page, KVPI_PAGE_WRITING, 0);
    p->n_finishing++; /* whoever waits for the page sleeps until this is over */
    pthread_mutex_unlock(&p->lock);
    memcpy(kvpi_frame_addr(p, (uint32_t)to), kvpi_frame_addr(p, pg->frame), p->geometry.slot_bytes);
    pthread_mutex_lock(&p->lock);
    p->n_finishing--;
    if (pg->pins)
        kvpi_tier_slot_free(p->ram, to);
    else
        change_frame(p, pg, (uint32_t)to);
    kvpi_set_flags(p, page, 0, KVPI_PAGE_WRITING);
    pthread_cond_broadcast(&p->progress);
    return true;
}

static bool move_pages(kvp_pager *p, uint32_t end)
{
    bool has_moved = false;
    for (uint32_t i = 0; i < kvpi_page_table_end(&p->pages); i++)
        if (can_move(kvpi_page_at(&p->pages, i), end) && move_page(p, i))
            has_moved = true;
    return has_moved;
}

static kvp_status wait_for_frames(kvp_pager *p, uint64_t deadline_ns)
{
    kvp_status status = kvpi_wait(p, deadline_ns);
    if (status != KVP_E_NOSPACE)
        return status;
    if (p->held == p->held_user + p->root->n_ahead && !p->n_admitted)
        return kvp_fail(KVP_E_NOSPACE,
                        "views pin pages in the part of RAM that is to be given back; unpin them. "
                        "The old budget is in force");
    return kvpi_sleep(p, deadline_ns);
}

kvp_status kvpi_ram_resize(kvp_pager *p, uint32_t n_frames, uint64_t deadline_ns)
{
    bool is_empty;
    kvp_status status = set_end(p, n_frames, &is_empty);
    while (!status && !is_empty) {
        if (!move_pages(p, n_frames))
            status = wait_for_frames(p, deadline_ns);
        if (!status)
            status = set_end(p, n_frames, &is_empty);
    }
    return status;
}
