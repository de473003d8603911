/* reclaim.c - demotion: which pages are written down, where to, and when.
 *
 * A page leaves RAM for zram where its compressed bytes fit, else for disk. When zram is full its
 * own first victim moves on to disk, unless the page itself would be that victim: then it goes to
 * disk directly. Dirty pages are written out ahead of need, in the order in which they leave: as
 * soon as there is one among the next few (the low watermark), all up to the high watermark. So a
 * fault finds a clean victim, whose frame is free to take. */
#include "tiers/pager.h"

#include <assert.h>

/* Room for one more page whatever it compresses to, beside those being encoded now. The tier may
 * still find no room (its memory is fragmented): then it counts as full until something leaves. */
static bool zram_has_room(kvp_pager *p)
{
    kvp_tier_usage usage;
    if (p->zram_is_full)
        return false;
    if (!p->lower[KVPI_DISK])
        return true; /* nowhere else to go: try to the last byte */
    kvpi_tier_usage(p->lower[KVPI_ZRAM], &usage);
    uint64_t wanted = (p->n_zram_jobs + 1) * (uint64_t)p->geometry.slot_bytes;
    return usage.bytes_used + wanted <= p->cfg.zram_bytes;
}

static kvp_status demote_to_zram(kvp_pager *p, uint32_t page)
{
    kvpi_transfer *t = kvpi_transfer_get(p, KVPI_DEMOTE_ZRAM, page, true);
    if (!t)
        return KVP_E_AGAIN;
    t->lower = KVPI_ZRAM;
    t->needs_sum = !kvpi_page_is(t->pg, KVPI_PAGE_SUMMED);
    p->n_zram_jobs++;
    kvpi_set_flags(p, page, KVPI_PAGE_WRITING, 0);
    kvpi_transfer_ready(p, t);
    return KVP_OK;
}

/* Give the page a place on disk, if it has none. */
static kvp_status find_home(kvp_pager *p, uint32_t page)
{
    kvpi_page *pg = kvpi_page_at(&p->pages, page);
    if (p->write_errors >= KVPI_MAX_WRITE_ERRORS)
        return KVP_E_IO;
    if (!kvpi_page_is_homeless(pg))
        return KVP_OK;
    kvp_slot slot;
    kvp_status status = kvpi_tier_slot_alloc(p->lower[KVPI_DISK], p->geometry.slot_bytes, &slot);
    if (status)
        return status;
    if (p->promised)
        p->promised--;
    kvpi_set_copy(p, page, KVPI_DISK, slot, false);
    return KVP_OK;
}

static kvp_status demote_to_disk(kvp_pager *p, uint32_t page)
{
    kvp_status status = find_home(p, page);
    if (status)
        return status;
    kvpi_transfer *t = kvpi_transfer_get(p, KVPI_DEMOTE_DISK, page, false);
    if (!t)
        return KVP_E_AGAIN;
    t->lower = KVPI_DISK;
    t->needs_sum = !kvpi_page_is(t->pg, KVPI_PAGE_SUMMED);
    t->io = (kvp_io){.op = KVP_IO_WRITE,
                     .slot = t->pg->disk_slot,
                     .buf = kvpi_frame_addr(p, t->pg->frame),
                     .len_bytes = kvpi_page_bytes(p, t->pg),
                     .owner = t};
    kvpi_set_flags(p, page, KVPI_PAGE_WRITING, 0);
    if (t->needs_sum)
        kvpi_transfer_ready(p, t);
    else
        kvpi_transfer_submit(p, t);
    return KVP_OK;
}

/* Make room in zram: its victim moves to disk as it is, or just goes if disk has it already. */
static kvp_status migrate(kvp_pager *p, uint32_t page)
{
    kvpi_page *pg = kvpi_page_at(&p->pages, page);
    if (kvpi_page_is(pg, KVPI_PAGE_ON_DISK)) {
        kvpi_drop_copy(p, page, KVPI_ZRAM);
        return KVP_OK;
    }
    kvp_status status = find_home(p, page);
    if (status)
        return status;
    kvpi_transfer *t = kvpi_transfer_get(p, KVPI_MIGRATE, page, true);
    if (!t)
        return KVP_E_AGAIN;
    t->lower = KVPI_ZRAM;
    t->slot = pg->blob;
    t->needs_fetch = true;
    kvpi_set_flags(p, page, KVPI_PAGE_MOVING, 0);
    kvpi_transfer_ready(p, t);
    return KVP_OK;
}

kvp_status kvpi_demote(kvp_pager *p, uint32_t page)
{
    kvpi_page *pg = kvpi_page_at(&p->pages, page);
    assert(kvpi_page_is_dirty(pg) && !kvpi_page_is(pg, KVPI_PAGE_WRITING));
    (void)pg;
    if (p->lower[KVPI_ZRAM]) {
        uint32_t victim;
        if (zram_has_room(p))
            return demote_to_zram(p, page);
        if (!p->lower[KVPI_DISK])
            return KVP_E_NOSPACE;
        /* Homeless pages have the first claim on promised slots: none may be left stuck. */
        bool can_move = p->promised > p->n_homeless || kvpi_promise(p, 1);
        if (can_move && !kvpi_leaves_zram_first(p, page, &victim))
            return migrate(p, victim);
    }
    return p->lower[KVPI_DISK] ? demote_to_disk(p, page) : KVP_E_NOSPACE;
}

kvp_status kvpi_demote_one(kvp_pager *p)
{
    bool has_lower = p->lower[KVPI_ZRAM] || p->lower[KVPI_DISK];
    if (!has_lower || p->n_dirty <= p->n_writing)
        return KVP_E_NOSPACE;
    uint32_t v = p->ram_policy->ops->victim(p->ram_policy, KVP_PAGE_NONE);
    for (; v != KVP_PAGE_NONE; v = p->ram_policy->ops->victim(p->ram_policy, v)) {
        const kvpi_page *page = kvpi_page_at(&p->pages, v);
        if (kvpi_page_is(page, KVPI_PAGE_WRITING) || !kvpi_page_is_dirty(page))
            continue;
        kvp_status status = kvpi_demote(p, v);
        if (status != KVP_E_NOSPACE)
            return status;
        /* No place for this one; a later one may have its place on disk. */
    }
    return KVP_E_NOSPACE;
}

/* Look at the frames that will be taken next, until n are free, clean, or being written down; dirty
 * pages on the way are written down if so wanted. False: fewer than n are so. */
static bool clean_next(kvp_pager *p, uint32_t n, bool may_demote)
{
    uint32_t n_clean = p->n_frames - p->n_in_use;
    uint32_t v = KVP_PAGE_NONE;
    while (n_clean < n) {
        v = p->ram_policy->ops->victim(p->ram_policy, v);
        if (v == KVP_PAGE_NONE)
            return false;
        const kvpi_page *page = kvpi_page_at(&p->pages, v);
        if (kvpi_page_is_dirty(page) && !kvpi_page_is(page, KVPI_PAGE_WRITING)) {
            if (!may_demote)
                return false;
            kvp_status status = kvpi_demote(p, v);
            if (status == KVP_E_NOSPACE) /* not for this one; others may have their place on disk */
                continue;
            if (status)
                return false;
        }
        n_clean++;
    }
    return true;
}

void kvpi_demote_next(kvp_pager *p)
{
    bool has_lower = p->lower[KVPI_ZRAM] || p->lower[KVPI_DISK];
    if (!has_lower || p->write_errors) /* after a failure one at a time, by those in need */
        return;
    if (!clean_next(p, p->low_water, false))
        clean_next(p, p->high_water, true);
}

void kvpi_reclaim_ahead(kvp_pager *p)
{
    kvpi_demote_next(p);
    while (p->ready_first) /* encode and sum now: a fault shall not have to */
        if (kvpi_wait(p, 0))
            break;
}
