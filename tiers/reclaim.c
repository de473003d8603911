/* reclaim.c - demotion: which pages are written down, where to, and when.
 *
 * A page leaves RAM for zram where its compressed bytes fit, else for disk. When zram is full its
 * own first victim moves on to disk, unless the page itself would be that victim: then it goes to
 * disk directly. Dirty pages are written out ahead of need, in the order in which they leave: as
 * soon as there is one among the next few (the low watermark), all up to the high watermark. So a
 * fault finds a clean victim, whose frame is free to take. Where an account is full, the pages that
 * make room are those of the same account. */
#include "tiers/account.h"
#include "tiers/pager.h"

#include <assert.h>

/* Every append looks at so many of the pages that leave next: as many as are in flight together,
 * not a share of all. */
#define MAX_LOW_WATER 64u
#define MAX_HIGH_WATER 128u

/* Frames, of n, that should be clean among those that are taken next. */
static uint64_t low_water(uint64_t n)
{
    return n < 16 * MAX_LOW_WATER ? n / 16 + 1 : MAX_LOW_WATER;
}

static uint64_t high_water(uint64_t n)
{
    return n < 8 * MAX_HIGH_WATER ? n / 8 + 2 : MAX_HIGH_WATER;
}

/* Bytes that accounts may take in zram without being asked again. */
static uint64_t unmet_mins(const kvp_pager *p)
{
    uint64_t jobs = p->n_zram_jobs * (uint64_t)p->geometry.slot_bytes;
    return kvpi_quota_claims(&p->root->quota[KVP_TIER_ZRAM]) - p->root->used[KVP_TIER_ZRAM] - jobs;
}

/* The same for the tier, whose memory has a cost beside the bytes of pages. It may still find no
 * room (its memory is fragmented): then it counts as full until something leaves. */
static bool zram_takes(const kvp_pager *p, uint64_t bytes)
{
    const kvpi_quota *q = &p->root->quota[KVP_TIER_ZRAM];
    kvp_tier_usage usage;
    if (p->zram_is_full)
        return false;
    if (!p->lower[KVPI_DISK] && q->max == p->max_zram_bytes && !unmet_mins(p))
        return true; /* nowhere else to go: try to the last byte */
    kvpi_tier_usage(p->lower[KVPI_ZRAM], &usage);
    uint64_t used = p->root->used[KVP_TIER_ZRAM];
    uint64_t cost = usage.bytes_used > used ? usage.bytes_used - used : 0;
    return kvpi_quota_claims(q) + cost + bytes <= q->max;
}

/* The account, from this one up, that has no room for one more page whatever it compresses to,
 * beside those being encoded now; NULL: all have. */
static kvp_group *full_in_zram(const kvp_pager *p, kvp_group *g)
{
    uint64_t rise = p->geometry.slot_bytes;
    for (; g->parent; g = g->parent) {
        const kvpi_quota *q = &g->quota[KVP_TIER_ZRAM];
        if (kvpi_quota_claims(q) + rise > q->max)
            return g;
        uint64_t slack = kvpi_quota_slack(q);
        rise -= slack < rise ? slack : rise;
    }
    return zram_takes(p, rise) ? NULL : g;
}

static kvp_status demote_to_zram(kvp_pager *p, uint32_t page)
{
    kvpi_transfer *t = kvpi_transfer_get(p, KVPI_DEMOTE_ZRAM, page, true);
    if (!t)
        return KVP_E_AGAIN;
    t->lower = KVPI_ZRAM;
    t->needs_sum = !kvpi_page_is(t->pg, KVPI_PAGE_SUMMED);
    t->is_tried = kvpi_habit_tries(&p->habits[t->pg->lane]);
    p->n_zram_jobs++;
    t->account = kvpi_account_of(p, t->pg);
    kvpi_account_ref(t->account);
    kvpi_account_claim(t->account, KVP_TIER_ZRAM, (int64_t)p->geometry.slot_bytes);
    kvpi_set_flags(p, page, KVPI_PAGE_WRITING, 0);
    kvpi_transfer_ready(p, t);
    return KVP_OK;
}

/* Give the page a place of so many bytes on disk, if it has none. is_needed: nothing else has its
 * bytes. */
static kvp_status find_home(kvp_pager *p, uint32_t page, size_t bytes, bool is_needed)
{
    kvpi_page *pg = kvpi_page_at(&p->pages, page);
    kvp_group *account = kvpi_account_of(p, pg);
    if (p->write_errors >= KVPI_MAX_WRITE_ERRORS)
        return KVP_E_IO;
    if (!kvpi_page_is_homeless(pg))
        return KVP_OK;
    if (!kvpi_account_may_take_slot(p, account, is_needed))
        return KVP_E_NOSPACE;
    kvp_slot slot;
    kvp_status status = kvpi_tier_slot_alloc(p->lower[KVPI_DISK], bytes, &slot);
    p->is_making_room |= status == KVP_E_AGAIN;
    if (status)
        return status;
    kvpi_account_take_slot(p, account, is_needed);
    kvpi_set_copy(p, page, KVPI_DISK, slot, false);
    return KVP_OK;
}

static kvp_status demote_to_disk(kvp_pager *p, uint32_t page)
{
    if (kvpi_page_at(&p->pages, page)->form_codec != KVPI_CODEC_RAW)
        kvpi_drop_copy(p, page, KVPI_DISK); /* a place for less, which was never written */
    kvp_status status = find_home(p, page, p->geometry.slot_bytes, true);
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

/* Make room in zram: this page moves to disk as it is, or just goes if disk has it already. */
static kvp_status migrate(kvp_pager *p, uint32_t page)
{
    kvpi_page *pg = kvpi_page_at(&p->pages, page);
    if (kvpi_page_is(pg, KVPI_PAGE_ON_DISK)) {
        kvpi_drop_copy(p, page, KVPI_ZRAM);
        return KVP_OK;
    }
    kvp_status status = find_home(p, page, pg->form_bytes, false);
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

/* Make room in zram for the page. KVP_E_NOSPACE: it had better go to disk itself. */
static kvp_status make_room_in_zram(kvp_pager *p, uint32_t page, kvp_group *full)
{
    const kvp_group *account = kvpi_account_of(p, kvpi_page_at(&p->pages, page));
    kvpi_victims v = kvpi_victims_of(full, account, KVP_TIER_ZRAM, true);
    uint32_t victim = kvpi_victim_next(&v);
    if (victim == KVP_PAGE_NONE || kvpi_policy_leaves_first(p, page, &v))
        return KVP_E_NOSPACE;
    kvpi_victims_pass(&v);
    return migrate(p, victim);
}

kvp_status kvpi_demote(kvp_pager *p, uint32_t page)
{
    kvpi_page *pg = kvpi_page_at(&p->pages, page);
    assert(kvpi_page_is_dirty(pg) && !kvpi_page_is(pg, KVPI_PAGE_WRITING));
    if (p->lower[KVPI_ZRAM]) {
        kvp_group *full = full_in_zram(p, kvpi_account_of(p, pg));
        if (!full)
            return demote_to_zram(p, page);
        if (!p->lower[KVPI_DISK])
            return KVP_E_NOSPACE;
        kvp_status status = make_room_in_zram(p, page, full);
        if (status != KVP_E_NOSPACE)
            return status;
    }
    return p->lower[KVPI_DISK] ? demote_to_disk(p, page) : KVP_E_NOSPACE;
}

static kvp_status demote_first(kvp_pager *p, kvpi_victims v)
{
    for (uint32_t page; (page = kvpi_victim_next(&v)) != KVP_PAGE_NONE;) {
        const kvpi_page *pg = kvpi_page_at(&p->pages, page);
        if (kvpi_page_is(pg, KVPI_PAGE_WRITING) || !kvpi_page_is_dirty(pg))
            continue;
        kvp_status status = kvpi_demote(p, page);
        if (status != KVP_E_NOSPACE)
            return status;
        /* No place for this one; a later one may have its place on disk. */
    }
    return KVP_E_NOSPACE;
}

kvp_status kvpi_demote_one(kvp_pager *p, kvp_group *scope, const kvp_group *cause)
{
    bool has_lower = p->lower[KVPI_ZRAM] || p->lower[KVPI_DISK];
    if (!has_lower || p->n_dirty <= p->n_writing)
        return KVP_E_NOSPACE;
    kvp_status status = demote_first(p, kvpi_victims_of(scope, cause, KVP_TIER_RAM, true));
    if (status == KVP_E_NOSPACE && scope->first_child)
        status = demote_first(p, kvpi_victims_of(scope, cause, KVP_TIER_RAM, false));
    return status;
}

kvp_status kvpi_migrate_one(kvp_pager *p, kvp_group *scope, const kvp_group *cause)
{
    if (!p->lower[KVPI_DISK])
        return KVP_E_NOSPACE;
    kvpi_victims v = kvpi_victims_of(scope, cause, KVP_TIER_ZRAM, true);
    for (uint32_t page; (page = kvpi_victim_next(&v)) != KVP_PAGE_NONE;) {
        kvp_status status = migrate(p, page);
        if (status != KVP_E_NOSPACE)
            return status;
    }
    return KVP_E_NOSPACE;
}

/* Look at the frames that the account will take next, until n are free, clean, or being written
 * down; dirty pages on the way are written down if so wanted. False: fewer than n are so. */
static bool clean_next(kvp_pager *p, kvp_group *account, uint64_t (*water)(uint64_t),
                       bool may_demote)
{
    uint64_t n_clean;
    kvp_group *scope = kvpi_frame_scope(account, &n_clean);
    uint64_t n = water(scope->quota[KVP_TIER_RAM].max);
    kvpi_victims v = kvpi_victims_of(scope, account, KVP_TIER_RAM, true);
    while (n_clean < n) {
        uint32_t page = kvpi_victim_next(&v);
        if (page == KVP_PAGE_NONE)
            return false;
        const kvpi_page *pg = kvpi_page_at(&p->pages, page);
        if (kvpi_page_is_dirty(pg) && !kvpi_page_is(pg, KVPI_PAGE_WRITING)) {
            if (!may_demote)
                return false;
            kvp_status status = kvpi_demote(p, page);
            if (status == KVP_E_NOSPACE) /* not for this one; others may have their place on disk */
                continue;
            if (status)
                return false;
        }
        n_clean++;
    }
    return true;
}

void kvpi_demote_next(kvp_pager *p, kvp_group *account)
{
    bool has_lower = p->lower[KVPI_ZRAM] || p->lower[KVPI_DISK];
    if (!has_lower || p->write_errors) /* after a failure one at a time, by those in need */
        return;
    if (!clean_next(p, account, low_water, false))
        clean_next(p, account, high_water, true);
}

void kvpi_reclaim_ahead(kvp_pager *p, kvp_group *account)
{
    kvpi_demote_next(p, account);
    while (p->ready_first) /* encode and sum now: a fault shall not have to */
        if (kvpi_wait(p, 0))
            break;
}
