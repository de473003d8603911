/* account.c - the tree of accounts: what is charged, claimed, and promised to whom. */
#include "tiers/account.h"

#include "alloc/mem.h"
#include "tiers/pager.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#define MAX_ACCOUNTS (UINT16_MAX + 1u)
#define FIRST_CAPACITY 16u
#define MAX_DEPTH 16u /* of groups; sequences in them may have accounts below */

/* ---- the tree ---- */

static kvp_status grow_table(kvp_pager *p)
{
    uint32_t capacity = p->accounts_capacity ? 2 * p->accounts_capacity : FIRST_CAPACITY;
    kvp_group **accounts;
    if (p->accounts_capacity == MAX_ACCOUNTS)
        return kvp_fail(KVP_E_INVALID, "at most %u groups, and sequences with a budget, at a time",
                        MAX_ACCOUNTS - 1);
    kvp_status status =
        kvpi_alloc(&p->table_mem, capacity * sizeof *accounts, "table of groups", &accounts);
    if (status)
        return status;
    if (p->accounts)
        memcpy(accounts, p->accounts, p->accounts_capacity * sizeof *accounts);
    kvpi_free(&p->table_mem, p->accounts, p->accounts_capacity * sizeof *accounts);
    p->accounts = accounts;
    p->accounts_capacity = capacity;
    return KVP_OK;
}

static kvp_status find_number(kvp_pager *p, uint16_t *no)
{
    uint32_t n = p->accounts_taken;
    while (n < p->accounts_capacity && p->accounts[n])
        n++;
    p->accounts_taken = n;
    kvp_status status = n == p->accounts_capacity ? grow_table(p) : KVP_OK;
    *no = (uint16_t)n;
    return status;
}

static void link_to_parent(kvp_group *g)
{
    g->next = g->parent->first_child;
    if (g->next)
        g->next->prev = g;
    g->parent->first_child = g;
    kvpi_account_ref(g->parent);
}

static void unlink_from_parent(kvp_group *g)
{
    *(g->prev ? &g->prev->next : &g->parent->first_child) = g->next;
    if (g->next)
        g->next->prev = g->prev;
}

kvp_status kvpi_account_new(kvp_pager *p, kvp_group *parent, bool is_seq, const char *name,
                            kvp_group **out)
{
    uint16_t no;
    kvp_group *g;
    if (parent && !is_seq && parent->depth == MAX_DEPTH)
        return kvp_fail(KVP_E_INVALID, "groups can be nested %u deep", MAX_DEPTH);
    kvp_status status = find_number(p, &no);
    if (!status)
        status = kvpi_alloc(&p->table_mem, sizeof *g, "group", &g);
    if (status)
        return status;
    *g = (kvp_group){.pager = p, .parent = parent, .n_refs = 1, .no = no, .is_seq = is_seq};
    for (uint32_t t = 0; t < KVP_N_TIERS; t++)
        g->quota[t].max = KVP_UNLIMITED;
    if (name)
        snprintf(g->name, sizeof g->name, "%s", name);
    else
        snprintf(g->name, sizeof g->name, "group %u", no);
    p->accounts[no] = g;
    if (parent) {
        g->depth = parent->depth + 1;
        link_to_parent(g);
    }
    *out = g;
    return KVP_OK;
}

void kvpi_account_ref(kvp_group *g)
{
    g->n_refs++;
}

static void delete_account(kvp_group *g)
{
    kvp_pager *p = g->pager;
    kvpi_policies_close(g);
    p->accounts[g->no] = NULL;
    p->accounts_taken = g->no < p->accounts_taken ? g->no : p->accounts_taken;
    kvpi_free(&p->table_mem, g, sizeof *g);
}

void kvpi_account_unref(kvp_group *g)
{
    while (g && --g->n_refs == 0) {
        kvp_group *parent = g->parent;
        assert(parent && !g->first_child && !g->n_needs && !g->held);
        for (uint32_t t = 0; t < KVP_N_TIERS; t++)
            kvpi_account_set_limits(g, t, 0, KVP_UNLIMITED);
        unlink_from_parent(g);
        delete_account(g);
        g = parent;
    }
}

kvp_status kvpi_accounts_open(kvp_pager *p)
{
    return kvpi_account_new(p, NULL, false, "the pager", &p->root);
}

void kvpi_accounts_close(kvp_pager *p)
{
    for (uint32_t i = p->accounts_capacity; i-- > 0;)
        if (p->accounts[i])
            delete_account(p->accounts[i]);
    kvpi_free(&p->table_mem, p->accounts, p->accounts_capacity * sizeof *p->accounts);
}

bool kvpi_account_has(const kvp_group *a, const kvp_group *b)
{
    while (b->depth > a->depth)
        b = b->parent;
    return a == b;
}

kvp_group *kvpi_account_next(const kvp_group *top, kvp_group *g)
{
    if (g->first_child)
        return g->first_child;
    while (g != top && !g->next)
        g = g->parent;
    return g == top ? NULL : g->next;
}

kvp_group *kvpi_account_of(const kvp_pager *p, const kvpi_page *pg)
{
    return p->accounts[pg->account];
}

void kvpi_account_add_page(kvp_pager *p, kvpi_page *pg, kvp_group *g)
{
    assert(p->accounts[g->no] == g);
    (void)p;
    pg->account = g->no;
    g->n_pages++;
    kvpi_account_ref(g);
}

void kvpi_account_drop_page(kvp_pager *p, kvpi_page *pg)
{
    kvp_group *g = kvpi_account_of(p, pg);
    g->n_pages--;
    kvpi_account_unref(g);
    pg->account = 0;
}

/* ---- used and claimed ---- */

void kvpi_account_use(kvp_group *g, kvp_tier_id tier, int64_t n)
{
    for (; g; g = g->parent) {
        assert(n >= 0 || g->used[tier] >= (uint64_t)-n);
        g->used[tier] += (uint64_t)n;
        if (g->used[tier] > g->peak[tier])
            g->peak[tier] = g->used[tier];
    }
}

/* The commitment of g was this until now: tell those above. */
static void pass_up(kvp_group *g, kvp_tier_id tier, uint64_t before)
{
    while (g->parent) {
        uint64_t now = kvpi_quota_commitment(&g->quota[tier]);
        if (now == before)
            return;
        g = g->parent;
        uint64_t above = kvpi_quota_commitment(&g->quota[tier]);
        g->quota[tier].below += now - before;
        before = above;
    }
}

void kvpi_account_claim(kvp_group *g, kvp_tier_id tier, int64_t n)
{
    uint64_t before = kvpi_quota_commitment(&g->quota[tier]);
    assert(n >= 0 || g->quota[tier].own >= (uint64_t)-n);
    g->quota[tier].own += (uint64_t)n;
    pass_up(g, tier, before);
}

void kvpi_account_set_limits(kvp_group *g, kvp_tier_id tier, uint64_t min, uint64_t max)
{
    uint64_t before = kvpi_quota_commitment(&g->quota[tier]);
    g->quota[tier].min = min;
    g->quota[tier].max = max;
    pass_up(g, tier, before);
}

/* What is claimed within a min is committed to already: those above do not notice it. */
uint64_t kvpi_account_room(const kvp_group *g, kvp_tier_id tier)
{
    uint64_t room = UINT64_MAX, slack = 0;
    for (; g; g = g->parent) {
        const kvpi_quota *q = &g->quota[tier];
        uint64_t claims = kvpi_quota_claims(q);
        if (q->max != KVP_UNLIMITED) {
            uint64_t here = q->max + slack > claims ? q->max + slack - claims : 0;
            room = here < room ? here : room;
        }
        slack += kvpi_quota_slack(q);
    }
    return room;
}

static void restate_ram(kvp_group *g)
{
    uint64_t claims = (uint64_t)g->held + kvpi_account_stuck(g);
    int64_t more = (int64_t)(claims - g->quota[KVP_TIER_RAM].own);
    if (more)
        kvpi_account_claim(g, KVP_TIER_RAM, more);
}

void kvpi_account_hold(kvp_pager *p, kvp_group *g, int32_t n)
{
    assert(n >= 0 || g->held >= (uint32_t)-n);
    g->held += (uint32_t)n;
    p->held += (uint32_t)n;
    restate_ram(g);
}

uint64_t kvpi_account_claims_if(const kvp_group *g, kvpi_holders holders)
{
    if (holders == KVPI_ALL_HOLDERS)
        return kvpi_quota_claims(&g->quota[KVP_TIER_RAM]);
    uint64_t claims = kvpi_account_stuck(g);
    uint32_t n_ahead = g->n_ahead;
    for (const kvp_group *c = g->first_child; c; c = c->next) {
        uint64_t below = kvpi_account_claims_if(c, holders);
        uint64_t min = c->quota[KVP_TIER_RAM].min;
        claims += below > min ? below : min;
        n_ahead -= c->n_ahead;
    }
    if (holders == KVPI_BUT_READ_AHEAD)
        return claims + g->held - n_ahead;
    return claims + (holders == KVPI_VIEWS_ONLY ? g->held_user : 0);
}

uint64_t kvpi_account_rise(const kvp_group *g, kvp_tier_id tier)
{
    uint64_t claims = kvpi_quota_claims(&g->quota[tier]), min = g->quota[tier].min, stays = 0;
    if (tier == KVP_TIER_RAM)
        stays = g->held - g->n_ahead;
    else if (tier == KVP_TIER_ZRAM)
        stays = claims - g->used[tier]; /* on its way there */
    return claims - stays + (stays > min ? stays : min) - (claims > min ? claims : min);
}

uint32_t kvpi_account_frames(const kvp_group *g)
{
    uint64_t n = UINT32_MAX;
    for (; g; g = g->parent)
        n = g->quota[KVP_TIER_RAM].max < n ? g->quota[KVP_TIER_RAM].max : n;
    return (uint32_t)n;
}

/* ---- disk slots, promised to who needs them ---- */

static void back(kvp_pager *p, kvp_group *g, int32_t n)
{
    g->n_backed += (uint32_t)n;
    p->n_backed += (uint64_t)(int64_t)n;
    kvpi_account_claim(g, KVP_TIER_DISK, n);
}

uint64_t kvpi_account_backable(const kvp_pager *p, const kvp_group *g)
{
    uint64_t room = kvpi_account_room(g, KVP_TIER_DISK);
    uint64_t spare = p->promised - p->n_backed;
    return room < spare ? room : spare;
}

void kvpi_account_settle(kvp_pager *p, kvp_group *g)
{
    if (g->n_backed > g->n_needs) {
        back(p, g, -(int32_t)(g->n_backed - g->n_needs));
    } else if (g->n_backed < g->n_needs && p->promised > p->n_backed) {
        uint64_t n = kvpi_account_backable(p, g), wanted = g->n_needs - g->n_backed;
        back(p, g, (int32_t)(n < wanted ? n : wanted));
    }
    restate_ram(g);
}

void kvpi_accounts_settle(kvp_pager *p)
{
    uint64_t n_needs = (uint64_t)p->n_homeless + p->n_admitted;
    if (p->n_backed == n_needs || p->n_backed == p->promised)
        return; /* no account is short of promises, or there are none */
    for (kvp_group *g = p->root; g; g = kvpi_account_next(p->root, g))
        kvpi_account_settle(p, g);
}

void kvpi_account_need(kvp_pager *p, kvp_group *g, int32_t n)
{
    assert(n >= 0 || g->n_needs >= (uint32_t)-n);
    g->n_needs += (uint32_t)n;
    kvpi_account_settle(p, g);
}

/* Pages that need a slot have the first claim on those that are promised. */
bool kvpi_account_may_take_slot(kvp_pager *p, kvp_group *g, bool is_needed)
{
    if (is_needed && g->n_backed)
        return true;
    return kvpi_account_room(g, KVP_TIER_DISK) > 0 &&
           (p->promised > p->n_backed || kvpi_promise(p, 1));
}

void kvpi_account_take_slot(kvp_pager *p, kvp_group *g, bool is_needed)
{
    if (is_needed && g->n_backed)
        back(p, g, -1); /* its need ends when the page says so */
    assert(p->promised > p->n_backed);
    p->promised--;
    kvpi_account_use(g, KVP_TIER_DISK, 1);
    kvpi_account_claim(g, KVP_TIER_DISK, 1);
}

/* That a whole slot has no room yet is no failure of the call that frees one: its message stays. */
static bool reserve_quietly(kvp_pager *p, uint64_t n)
{
    char message[512];
    snprintf(message, sizeof message, "%s", kvp_error());
    kvp_status status = kvpi_tier_reserve(p->lower[KVPI_DISK], n);
    return !status || !kvp_fail(status, "%s", message);
}

void kvpi_account_free_slot(kvp_pager *p, kvp_group *g)
{
    /* What a small slot leaves may be no room for a whole one. */
    p->promised += reserve_quietly(p, p->promised + 1);
    kvpi_account_use(g, KVP_TIER_DISK, -1);
    kvpi_account_claim(g, KVP_TIER_DISK, -1);
    if (g->n_needs > g->n_backed)
        kvpi_account_settle(p, g);
}
