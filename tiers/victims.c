/* victims.c - whose page leaves a tier: placement policies, one for each account that has limits
 * of its own there, and one at the root for all others.
 *
 * A page is in the policy of the nearest account at or above its own that has one. To find a victim
 * accounts are looked at, and then pages in the order of one policy. Not all accounts: those from
 * which nothing is to be had are not come by (B5), and of those that may give a page some are
 * compared, from a hand on that goes round so that each has its turn. */
#include "tiers/account.h"
#include "tiers/pager.h"

#include <assert.h>

/* Accounts that could give a page, among which the one furthest above its min does. */
#define MAX_COMPARED 64u

/* ---- policies ---- */

static kvp_placement_node *ram_node(void *opaque, uint32_t page)
{
    kvp_pager *p = opaque;
    return &p->frame_nodes[kvpi_page_at(&p->pages, page)->frame];
}

static kvp_placement_node *zram_node(void *opaque, uint32_t page)
{
    return &kvpi_page_at(&((kvp_pager *)opaque)->pages, page)->node;
}

static uint32_t *ram_memory(void *opaque, uint32_t page)
{
    return kvpi_page_memory(&((kvp_pager *)opaque)->pages, page, 0);
}

static uint32_t *zram_memory(void *opaque, uint32_t page)
{
    return kvpi_page_memory(&((kvp_pager *)opaque)->pages, page, 1);
}

uint32_t kvpi_policy_memories(const kvp_config *cfg)
{
    return cfg->placement->remembers ? cfg->zram_bytes ? 2 : 1 : 0;
}

static unsigned flag_of(kvp_tier_id tier)
{
    return tier == KVP_TIER_RAM ? KVPI_PAGE_IN_RAM_POLICY : KVPI_PAGE_IN_ZRAM_POLICY;
}

/* The account whose policy has g's pages; NULL only while the root has none. */
static kvp_group *owner_of(kvp_group *g, kvp_tier_id tier)
{
    while (g && !g->policies[tier])
        g = g->parent;
    return g;
}

/* ---- givers ---- */

/* The account that comes after g on the way round the scope: of givers only. */
static kvp_group *next_in(kvp_group *scope, kvp_group *g, kvp_tier_id tier)
{
    if (g->givers[tier].first)
        return g->givers[tier].first;
    while (g != scope && !g->givers[tier].next)
        g = g->parent;
    return g == scope ? scope : g->givers[tier].next;
}

static void begin_giving(kvp_group *g, kvp_tier_id tier)
{
    kvpi_givers *own = &g->givers[tier], *all = &g->parent->givers[tier];
    own->next = NULL;
    own->prev = all->last;
    *(own->prev ? &own->prev->givers[tier].next : &all->first) = g;
    all->last = g;
}

static void end_giving(kvp_group *g, kvp_tier_id tier)
{
    kvpi_givers *own = &g->givers[tier], *all = &g->parent->givers[tier];
    for (kvp_group *above = g->parent; above; above = above->parent)
        if (above->givers[tier].hand == g)
            above->givers[tier].hand = next_in(above, g, tier);
    *(own->prev ? &own->prev->givers[tier].next : &all->first) = own->next;
    *(own->next ? &own->next->givers[tier].prev : &all->last) = own->prev;
    own->prev = own->next = NULL;
}

/* So many more pages are in g's policy. */
static void list_pages(kvp_group *g, kvp_tier_id tier, int64_t n)
{
    bool was = kvpi_is_giver(g, tier);
    assert(n >= 0 || g->givers[tier].n_listed >= (uint64_t)-n);
    g->givers[tier].n_listed += (uint64_t)n;
    for (kvp_group *parent; (parent = g->parent) && was != kvpi_is_giver(g, tier); g = parent) {
        bool parent_was = kvpi_is_giver(parent, tier);
        if (was)
            end_giving(g, tier);
        else
            begin_giving(g, tier);
        was = parent_was;
    }
}

/* ---- pages move between policies ---- */

/* The page would be in g's policy if g had one. */
static bool moves_to(kvp_pager *p, const kvpi_page *pg, const kvp_group *g, kvp_tier_id tier)
{
    if (!kvpi_page_is(pg, KVPI_PAGE_USED))
        return false;
    kvp_group *account = kvpi_account_of(p, pg);
    return kvpi_account_has(g, account) && kvpi_account_has(owner_of(account, tier), g);
}

/* The policy shall know nothing of the page any more: it is another one's from now on. */
static void expel(kvp_pager *p, kvp_group *from, kvp_tier_id tier, uint32_t page)
{
    const kvpi_page *pg = kvpi_page_at(&p->pages, page);
    kvp_placement *policy = from->policies[tier];
    bool is_listed = kvpi_page_is(pg, flag_of(tier));
    bool is_in_use = !is_listed && tier == KVP_TIER_RAM && kvpi_page_is(pg, KVPI_PAGE_RESIDENT);
    if (is_in_use) { /* it may have kept the page's place */
        kvp_placement_page info = kvpi_page_describe(p, page);
        policy->ops->insert(policy, &info);
    }
    if (is_listed || is_in_use)
        policy->ops->remove(policy, page, KVP_REMOVED_GONE);
    if (is_listed)
        list_pages(from, tier, -1);
    uint32_t which = tier == KVP_TIER_RAM ? 0 : 1;
    if (which < p->pages.n_memories) /* not of a tier that is not there */
        *kvpi_page_memory(&p->pages, page, which) = 0;
}

static bool has_pages(kvp_group *g)
{
    kvp_group *in = g;
    while (in && !in->n_pages)
        in = kvpi_account_next(g, in);
    return in != NULL;
}

static int64_t move_pages(kvp_pager *p, kvp_group *g, kvp_tier_id tier, kvp_placement *policy)
{
    kvp_group *from = owner_of(g, tier);
    int64_t n = 0;
    if (!from || !has_pages(g))
        return 0;
    for (uint32_t i = 0; i < kvpi_page_table_end(&p->pages); i++) {
        const kvpi_page *pg = kvpi_page_at(&p->pages, i);
        if (!moves_to(p, pg, g, tier))
            continue;
        expel(p, from, tier, i);
        if (!kvpi_page_is(pg, flag_of(tier)))
            continue;
        kvp_placement_page info = kvpi_page_describe(p, i);
        policy->ops->insert(policy, &info);
        n++;
    }
    return n;
}

kvp_status kvpi_policy_open(kvp_pager *p, kvp_group *g, kvp_tier_id tier)
{
    uint32_t n = (uint32_t)(KVP_GROUP_BYTES / p->geometry.slot_bytes);
    kvp_placement_config cfg = {.mem = g->parent ? &p->table_mem : &p->mem,
                                .opaque = p,
                                .group_pages = n ? n : 1,
                                .node = tier == KVP_TIER_RAM ? ram_node : zram_node,
                                .memory = tier == KVP_TIER_RAM ? ram_memory : zram_memory};
    kvp_placement *policy;
    if (g->policies[tier])
        return KVP_OK;
    kvp_status status = p->cfg.placement->open(&cfg, &policy);
    if (status)
        return status;
    int64_t n_moved = move_pages(p, g, tier, policy);
    g->policies[tier] = policy;
    list_pages(g, tier, n_moved);
    return KVP_OK;
}

void kvpi_policies_close(kvp_group *g)
{
    for (uint32_t t = 0; t < KVP_N_TIERS; t++)
        if (g->policies[t])
            g->policies[t]->ops->close(g->policies[t]);
}

void kvpi_policy_insert(kvp_pager *p, kvp_tier_id tier, const kvp_placement_page *info)
{
    kvp_group *g = owner_of(kvpi_account_of(p, kvpi_page_at(&p->pages, info->page)), tier);
    g->policies[tier]->ops->insert(g->policies[tier], info);
    list_pages(g, tier, 1);
}

void kvpi_policy_remove(kvp_pager *p, kvp_tier_id tier, uint32_t page, kvp_removal why)
{
    kvp_group *g = owner_of(kvpi_account_of(p, kvpi_page_at(&p->pages, page)), tier);
    g->policies[tier]->ops->remove(g->policies[tier], page, why);
    list_pages(g, tier, -1);
}

void kvpi_policy_mass(kvp_pager *p, kvp_tier_id tier, uint32_t page, float mass)
{
    kvp_group *g = owner_of(kvpi_account_of(p, kvpi_page_at(&p->pages, page)), tier);
    g->policies[tier]->ops->mass(g->policies[tier], page, mass);
}

bool kvpi_policy_moves(kvp_pager *p, kvp_tier_id tier, uint32_t page, kvp_group *to)
{
    kvp_group *from = owner_of(kvpi_account_of(p, kvpi_page_at(&p->pages, page)), tier);
    if (from == owner_of(to, tier))
        return false;
    expel(p, from, tier, page);
    return true;
}

/* ---- victims ---- */

/* A min that is being raised protects nothing before others have made room for it. */
static uint64_t min_in_force(const kvp_group *g, kvp_tier_id tier)
{
    const kvp_pager *p = g->pager;
    uint64_t min = g->quota[tier].min;
    bool is_raised = p->resized == g && p->resized_tier == tier && p->resized_from.min < min;
    return is_raised ? p->resized_from.min : min;
}

/* Is what g has protected from whoever looks for victims? */
static bool is_spared(const kvpi_victims *v, const kvp_group *g)
{
    for (; g != v->scope; g = g->parent) {
        bool is_own = kvpi_account_has(g, v->cause);
        bool may_be_spared = v->spares_seqs || !g->is_seq;
        if (!is_own && may_be_spared && g->used[v->tier] <= min_in_force(g, v->tier))
            return true;
    }
    return false;
}

static bool gives(const kvpi_victims *v, const kvp_group *g)
{
    return g->policies[v->tier] && g->givers[v->tier].n_listed && !is_spared(v, g);
}

/* How far g is above its min, as far as pages in its policy can change that. */
static uint64_t excess(const kvpi_victims *v, const kvp_group *g)
{
    uint64_t used = g->used[v->tier], min = g->quota[v->tier].min;
    uint64_t above = used > min ? used - min : 0;
    uint64_t listed = g->givers[v->tier].n_listed;
    return v->tier == KVP_TIER_RAM && listed < above ? listed : above;
}

static kvp_group *next_of(const kvpi_victims *v, kvp_group *g)
{
    kvp_group *next = next_in(v->scope, g, v->tier);
    return next == v->start ? NULL : next;
}

static kvp_group *next_giver(kvpi_victims *v)
{
    while (v->walk) {
        kvp_group *g = v->walk;
        v->walk = next_of(v, g);
        if (g != v->first && gives(v, g))
            return g;
    }
    return NULL;
}

kvpi_victims kvpi_victims_of(kvp_group *scope, const kvp_group *cause, kvp_tier_id tier,
                             bool spares_seqs)
{
    kvp_group *start = scope->givers[tier].hand ? scope->givers[tier].hand : scope;
    kvpi_victims v = {.tier = tier,
                      .spares_seqs = spares_seqs,
                      .scope = scope,
                      .cause = cause,
                      .start = start,
                      .walk = start,
                      .page = KVP_PAGE_NONE};
    uint64_t most = 0;
    uint32_t n_compared = 0;
    assert(scope->policies[tier]);
    for (kvp_group *g = start; g; g = next_of(&v, g)) {
        if (!gives(&v, g))
            continue;
        v.is_cut = n_compared++ == MAX_COMPARED;
        if (v.is_cut)
            break;
        if (v.first && excess(&v, g) <= most)
            continue;
        v.first = g;
        most = excess(&v, g);
    }
    v.at = v.first;
    return v;
}

void kvpi_victims_pass(const kvpi_victims *v)
{
    if (v->is_cut)
        v->scope->givers[v->tier].hand = next_in(v->scope, v->start, v->tier);
}

uint32_t kvpi_victim_next(kvpi_victims *v)
{
    while (v->at) {
        kvp_placement *policy = v->at->policies[v->tier];
        v->page = policy->ops->victim(policy, v->page);
        if (v->page != KVP_PAGE_NONE)
            return v->page;
        v->at = next_giver(v);
    }
    return KVP_PAGE_NONE;
}

bool kvpi_policy_leaves_first(kvp_pager *p, uint32_t page, const kvpi_victims *v)
{
    kvpi_page *pg = kvpi_page_at(&p->pages, page);
    kvp_group *g = owner_of(kvpi_account_of(p, pg), v->tier);
    kvp_placement *policy = g->policies[v->tier];
    if (g != v->at)
        return false;
    assert(!kvpi_page_is(pg, flag_of(v->tier)));
    kvp_placement_page info = kvpi_page_describe(p, page);
    policy->ops->insert(policy, &info);
    uint32_t victim = policy->ops->victim(policy, KVP_PAGE_NONE);
    policy->ops->remove(policy, page, KVP_REMOVED_RETOLD);
    return victim == page;
}
