/* check_accounts.c - the invariants of account.h, looked at one by one. Slow: all pages for each
 * account. */
#include "tiers/account.h"
#include "tiers/pager.h"

#define FAIL(...) kvp_fail(KVP_E_CORRUPT, "pager invariant: " __VA_ARGS__)

/* What an account should say, counted from the pages. */
typedef struct tally {
    uint64_t used[KVP_N_TIERS], n_ahead; /* here and below */
    uint64_t n_pages, n_needs;           /* here */
} tally;

static void count_page(const kvpi_page *pg, bool is_here, tally *t)
{
    t->used[KVP_TIER_RAM] += kvpi_page_is(pg, KVPI_PAGE_RESIDENT | KVPI_PAGE_LOADING);
    t->used[KVP_TIER_ZRAM] += kvpi_page_is(pg, KVPI_PAGE_IN_ZRAM) ? pg->form_bytes : 0;
    t->used[KVP_TIER_DISK] += !kvpi_page_is_homeless(pg);
    t->n_ahead += kvpi_page_is(pg, KVPI_PAGE_AHEAD);
    t->n_pages += is_here;
    t->n_needs += is_here && kvpi_page_is_dirty(pg) && kvpi_page_is_homeless(pg);
}

static tally count_pages(const kvp_pager *p, const kvp_group *g)
{
    tally t = {0};
    for (uint32_t i = 0; i < kvpi_page_table_end(&p->pages); i++) {
        const kvpi_page *pg = kvpi_page_at(&p->pages, i);
        if (!kvpi_page_is(pg, KVPI_PAGE_USED))
            continue;
        const kvp_group *account = kvpi_account_of(p, pg);
        if (kvpi_account_has(g, account))
            count_page(pg, account == g, &t);
    }
    return t;
}

static kvp_status check_used(const kvp_pager *p, const kvp_group *g, const tally *t)
{
    uint64_t ram = g->used[KVP_TIER_RAM], framed = t->used[KVP_TIER_RAM];
    if (ram < framed || ram > framed + p->n_open_scans)
        return FAIL("B3: \"%s\" has %llu frames, its pages %llu", g->name, (unsigned long long)ram,
                    (unsigned long long)framed);
    for (int tier = KVP_TIER_ZRAM; tier <= KVP_TIER_DISK; tier++)
        if (g->used[tier] != t->used[tier])
            return FAIL("B3: \"%s\" has %llu of tier %d, its pages %llu", g->name,
                        (unsigned long long)g->used[tier], tier, (unsigned long long)t->used[tier]);
    if (g->n_ahead != t->n_ahead)
        return FAIL("B3: \"%s\" has %u pages read ahead, it says %u", g->name, (int)t->n_ahead,
                    g->n_ahead);
    if (g->n_needs < t->n_needs || g->n_backed > g->n_needs)
        return FAIL("B3: \"%s\" needs %u slots, %u are promised, its pages need %u", g->name,
                    g->n_needs, g->n_backed, (unsigned)t->n_needs);
    if (g->n_pages != t->n_pages || g->n_refs < t->n_pages)
        return FAIL("B3: \"%s\" has %u pages, it says %u, with %u references", g->name,
                    (unsigned)t->n_pages, (unsigned)g->n_pages, g->n_refs);
    return KVP_OK;
}

/* Used by the account itself. */
static uint64_t used_here(const kvp_group *g, kvp_tier_id tier)
{
    uint64_t n = g->used[tier];
    for (const kvp_group *c = g->first_child; c; c = c->next)
        n -= c->used[tier];
    return n;
}

static kvp_status check_claims(const kvp_pager *p, const kvp_group *g)
{
    for (int tier = KVP_TIER_RAM; tier <= KVP_TIER_DISK; tier++) {
        uint64_t below = 0;
        for (const kvp_group *c = g->first_child; c; c = c->next)
            below += kvpi_quota_commitment(&c->quota[tier]);
        if (below != g->quota[tier].below)
            return FAIL("B3: the accounts in \"%s\" commit to %llu of tier %d, it says %llu",
                        g->name, (unsigned long long)below, tier,
                        (unsigned long long)g->quota[tier].below);
    }
    uint64_t zram = g->quota[KVP_TIER_ZRAM].own - used_here(g, KVP_TIER_ZRAM);
    if (g->quota[KVP_TIER_RAM].own != (uint64_t)g->held + kvpi_account_stuck(g) ||
        g->quota[KVP_TIER_DISK].own != used_here(g, KVP_TIER_DISK) + g->n_backed ||
        zram % p->geometry.slot_bytes || zram / p->geometry.slot_bytes > p->n_zram_jobs)
        return FAIL("B3: \"%s\" claims %llu frames, %llu bytes of zram, %llu slots", g->name,
                    (unsigned long long)g->quota[KVP_TIER_RAM].own,
                    (unsigned long long)g->quota[KVP_TIER_ZRAM].own,
                    (unsigned long long)g->quota[KVP_TIER_DISK].own);
    return KVP_OK;
}

static kvp_status check_limits(const kvp_pager *p, const kvp_group *g)
{
    if (p->resized && kvpi_account_has(g, p->resized))
        return KVP_OK;
    for (int tier = KVP_TIER_RAM; tier <= KVP_TIER_DISK; tier++) {
        const kvpi_quota *q = &g->quota[tier];
        if (g->used[tier] > q->max)
            return FAIL("B1: \"%s\" has %llu of tier %d, its max is %llu", g->name,
                        (unsigned long long)g->used[tier], tier, (unsigned long long)q->max);
        /* Without a disk zram is filled to the last byte: pages may turn out to fit. */
        bool is_tried = tier == KVP_TIER_ZRAM && !g->parent && !p->lower[KVPI_DISK];
        if (!is_tried && kvpi_quota_commitment(q) > q->max)
            return FAIL("B2: \"%s\" commits to %llu of tier %d, its max is %llu", g->name,
                        (unsigned long long)kvpi_quota_commitment(q), tier,
                        (unsigned long long)q->max);
    }
    return KVP_OK;
}

static bool gives_to(const kvp_group *above, const kvp_group *g, kvp_tier_id tier)
{
    return kvpi_account_has(above, g) && kvpi_is_giver(g, tier);
}

static kvp_status check_givers(const kvp_group *g)
{
    for (kvp_tier_id t = KVP_TIER_RAM; t <= KVP_TIER_ZRAM; t++) {
        const kvpi_givers *all = &g->givers[t];
        uint32_t n = 0;
        for (const kvp_group *c = g->first_child; c; c = c->next)
            n += kvpi_is_giver(c, t);
        for (const kvp_group *c = all->first; c; c = c->givers[t].next, n--)
            if (!n || c->parent != g || !gives_to(g, c, t))
                return FAIL("B5: \"%s\" has nothing to give in \"%s\"", c->name, g->name);
        if (n)
            return FAIL("B5: %u accounts in \"%s\" are not come by", n, g->name);
        if (all->hand && all->hand != g && !gives_to(g, all->hand, t))
            return FAIL("B5: \"%s\" looks for victims in \"%s\"", g->name, all->hand->name);
    }
    return KVP_OK;
}

/* Over all accounts. */
static kvp_status check_sums(const kvp_pager *p)
{
    uint64_t held = 0, held_user = 0, needs = 0, backed = 0;
    for (kvp_group *g = p->root; g; g = kvpi_account_next(p->root, g)) {
        held += g->held;
        held_user += g->held_user;
        needs += g->n_needs;
        backed += g->n_backed;
    }
    if (held != p->held || held_user != p->held_user || backed != p->n_backed ||
        needs != (uint64_t)p->n_homeless + p->n_admitted || p->n_backed > p->promised)
        return FAIL("B3: held %u by views %u needed %u backed %u; accounts say %u %u %u %u",
                    p->held, p->held_user, p->n_homeless + p->n_admitted, (unsigned)p->n_backed,
                    (unsigned)held, (unsigned)held_user, (unsigned)needs, (unsigned)backed);
    return KVP_OK;
}

/* B4: a page is in an account of every sequence that names it. */
static kvp_status check_reach(const kvp_pager *p, const kvp_seq *seq)
{
    for (uint32_t i = 0; i < p->geometry.n_lanes; i++)
        for (uint32_t e = 0; e < seq->lanes[i].n_entries; e++) {
            const kvpi_page *pg = kvpi_page_at(&p->pages, seq->lanes[i].entries[e].page);
            if (!kvpi_account_has(kvpi_account_of(p, pg), seq->account))
                return FAIL("B4: sequence %u has a page that is charged to \"%s\"", seq->id,
                            kvpi_account_of(p, pg)->name);
        }
    return KVP_OK;
}

kvp_status kvpi_check_accounts(kvp_pager *p)
{
    kvp_status status = check_sums(p);
    for (kvp_group *g = p->root; g && !status; g = kvpi_account_next(p->root, g)) {
        tally t = count_pages(p, g);
        status = check_used(p, g, &t);
        if (!status)
            status = check_claims(p, g);
        if (!status)
            status = check_limits(p, g);
        if (!status)
            status = check_givers(g);
    }
    for (const kvp_seq *seq = p->seqs; seq && !status; seq = seq->next)
        status = check_reach(p, seq);
    return status;
}
