/* check.c - every invariant, looked at one by one. */
#include "tiers/pager.h"

#include <string.h>

#define FAIL(...) kvp_fail(KVP_E_CORRUPT, "pager invariant: " __VA_ARGS__)

/* What the ledger should say, counted from the pages. */
typedef struct census {
    uint32_t n_dirty, n_homeless, n_writing, n_framed, n_pinned, n_loading, n_ahead;
    uint64_t n_lost, n_in[KVP_N_TIERS];
} census;

static kvp_status check_page(kvp_pager *p, uint32_t i, census *c)
{
    const kvpi_page *pg = kvpi_page_at(&p->pages, i);
    if (!kvpi_page_is(pg, KVPI_PAGE_USED))
        return KVP_OK;
    const char *broken = kvpi_page_check(pg);
    if (broken)
        return FAIL("page %u: %s", i, broken);
    const unsigned policies = KVPI_PAGE_IN_RAM_POLICY | KVPI_PAGE_IN_ZRAM_POLICY;
    if ((pg->flags & policies) != kvpi_page_policies(pg))
        return FAIL("G4: page %u is in the wrong policies", i);
    bool dirty = kvpi_page_is_dirty(pg);
    c->n_dirty += dirty;
    c->n_homeless += dirty && kvpi_page_is_homeless(pg);
    c->n_writing += kvpi_page_is(pg, KVPI_PAGE_WRITING);
    c->n_framed += kvpi_page_is(pg, KVPI_PAGE_RESIDENT | KVPI_PAGE_LOADING);
    c->n_pinned += pg->pins > 0;
    c->n_ahead += kvpi_page_is(pg, KVPI_PAGE_AHEAD);
    bool resident = kvpi_page_is(pg, KVPI_PAGE_RESIDENT);
    if (kvpi_page_is(pg, KVPI_PAGE_LOST))
        c->n_lost++;
    else
        c->n_in[resident                              ? KVP_TIER_RAM
                : kvpi_page_is(pg, KVPI_PAGE_IN_ZRAM) ? KVP_TIER_ZRAM
                                                      : KVP_TIER_DISK]++;
    c->n_loading += kvpi_page_is(pg, KVPI_PAGE_LOADING);
    return KVP_OK;
}

static kvp_status check_ledger(const kvp_pager *p, const census *c)
{
    if (c->n_dirty != p->n_dirty || c->n_homeless != p->n_homeless || c->n_writing != p->n_writing)
        return FAIL("dirty %u homeless %u writing %u, the ledger says %u %u %u", c->n_dirty,
                    c->n_homeless, c->n_writing, p->n_dirty, p->n_homeless, p->n_writing);
    if (p->held > p->n_frames)
        return FAIL("G1: %u frames are held of %u", p->held, p->n_frames);
    uint32_t stuck = (uint32_t)(c->n_homeless + p->n_admitted - p->n_backed);
    if (p->held + stuck > p->n_frames)
        return FAIL("G2: %u held and %u stuck of %u frames", p->held, stuck, p->n_frames);
    if (c->n_pinned + c->n_ahead > p->held + c->n_loading + stuck)
        return FAIL("G3: %u pages are pinned, %u read ahead, %u frames held", c->n_pinned,
                    c->n_ahead, p->held);
    if (c->n_ahead != p->n_ahead || p->n_ahead > p->max_ahead + p->max_run)
        return FAIL("%u pages are read ahead, the window has %u of %u", c->n_ahead, p->n_ahead,
                    p->max_ahead + p->max_run);
    if (c->n_lost != p->stats.pages_lost || memcmp(c->n_in, p->stats.pages, sizeof c->n_in) != 0)
        return FAIL("the statistics count pages in tiers where they are not");
    unsigned n_in_use = (unsigned)p->root->used[KVP_TIER_RAM];
    if (c->n_framed > n_in_use || n_in_use > p->n_frames)
        return FAIL("%u pages have frames, %u are in use of %u", c->n_framed, n_in_use,
                    p->n_frames);
    return KVP_OK;
}

/* The window lists exactly the pages that say so (check_ledger counted them), and the counters add
 * up to it. */
static kvp_status check_window(const kvp_pager *p)
{
    for (uint32_t i = 0; i < p->n_ahead; i++) {
        const kvpi_page *pg = kvpi_page_at(&p->pages, p->ahead[i].page);
        if (!kvpi_page_is(pg, KVPI_PAGE_AHEAD) ||
            !kvpi_page_is(pg, KVPI_PAGE_RESIDENT | KVPI_PAGE_LOADING))
            return FAIL("A1: page %u is in the window, but not read ahead", p->ahead[i].page);
    }
    if (p->n_ahead + p->held_user > p->held)
        return FAIL("A1: %u frames are held, %u by views, %u for the window", p->held, p->held_user,
                    p->n_ahead);
    const kvp_stats *s = &p->stats;
    if (s->prefetches != s->prefetches_used + s->prefetches_wasted + p->n_ahead)
        return FAIL("%u prefetches are neither used nor wasted, the window has %u",
                    (unsigned)(s->prefetches - s->prefetches_used - s->prefetches_wasted),
                    p->n_ahead);
    return KVP_OK;
}

static kvp_status check_seq(const kvp_pager *p, const kvp_seq *seq)
{
    uint32_t page_tokens = p->geometry.page_tokens;
    for (uint32_t i = 0; i < p->geometry.n_lanes; i++) {
        const kvpi_lane *lane = &seq->lanes[i];
        const char *broken = kvpi_lane_check(lane, page_tokens);
        if (broken)
            return FAIL("sequence %u, lane %u: %s", seq->id, i, broken);
        for (uint32_t e = 0; e < lane->n_entries; e++) {
            const kvpi_page *pg = kvpi_page_at(&p->pages, lane->entries[e].page);
            if (!kvpi_page_is(pg, KVPI_PAGE_USED) || pg->lane != i ||
                pg->index != lane->entries[e].index ||
                pg->n_stored < kvpi_lane_n_valid(lane, e, page_tokens))
                return FAIL("sequence %u, lane %u, entry %u: not its page", seq->id, i, e);
        }
    }
    return KVP_OK;
}

/* Add n to the references of a page for each entry that names it. */
static void add_refs(const kvp_pager *p, uint32_t n)
{
    for (const kvp_seq *seq = p->seqs; seq; seq = seq->next)
        for (uint32_t i = 0; i < p->geometry.n_lanes; i++)
            for (uint32_t e = 0; e < seq->lanes[i].n_entries; e++)
                kvpi_page_at(&p->pages, seq->lanes[i].entries[e].page)->refs += n;
}

/* With the entries' references taken off: only an append or a release that is under way has a page
 * that is in no table. */
static kvp_status check_refs_left(const kvp_pager *p)
{
    for (uint32_t i = 0; i < kvpi_page_table_end(&p->pages); i++) {
        const kvpi_page *pg = kvpi_page_at(&p->pages, i);
        if (kvpi_page_is(pg, KVPI_PAGE_USED) && pg->refs > 1)
            return FAIL("P8: page %u has %d references more than tables name it", i, (int)pg->refs);
    }
    return KVP_OK;
}

static kvp_status check_refs(const kvp_pager *p)
{
    uint64_t n_shared = 0;
    for (uint32_t i = 0; i < kvpi_page_table_end(&p->pages); i++) {
        const kvpi_page *pg = kvpi_page_at(&p->pages, i);
        n_shared += kvpi_page_is(pg, KVPI_PAGE_USED) && pg->refs > 1;
    }
    if (n_shared != p->stats.pages_shared)
        return FAIL("%llu pages are shared, the statistics say %llu", (unsigned long long)n_shared,
                    (unsigned long long)p->stats.pages_shared);
    add_refs(p, UINT32_MAX);
    kvp_status status = check_refs_left(p);
    add_refs(p, 1);
    return status;
}

kvp_status kvp_pager_check(kvp_pager *p)
{
    census c = {0};
    kvp_status status = KVP_OK;
    kvpi_lock(p);
    for (uint32_t i = 0; i < kvpi_page_table_end(&p->pages) && !status; i++)
        status = check_page(p, i, &c);
    if (!status)
        status = check_ledger(p, &c);
    if (!status)
        status = check_window(p);
    if (!status)
        status = kvpi_linears_check(p);
    for (const kvp_seq *seq = p->seqs; seq && !status; seq = seq->next)
        status = check_seq(p, seq);
    if (!status)
        status = check_refs(p);
    if (!status)
        status = kvpi_check_accounts(p);
    kvpi_unlock(p);
    return status;
}
