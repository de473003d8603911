/* resize.c - budgets change while the pager is in use.
 *
 * The new limits are in force for claims at once, the old ones for what had been granted before.
 * What is above the new ones is brought down, or waited for. If that cannot be done, or not in
 * time, the old limits return: claims that would have fitted into those have waited meanwhile. One
 * budget is changed at a time. */
#include "tiers/account.h"
#include "tiers/pager.h"

typedef struct change {
    kvp_pager *p;
    kvp_group *g;
    kvp_tier_id tier;
    uint64_t deadline_ns;
} change;

/* ---- may it be so? ---- */

static unsigned long long to_bytes(const kvp_pager *p, kvp_tier_id tier, uint64_t n)
{
    if (n == KVP_UNLIMITED)
        return n;
    return tier == KVP_TIER_ZRAM ? n : n * p->geometry.slot_bytes;
}

/* What must be kept for the account, whatever others do; KVPI_MOST_UNITS: that, or more. */
static uint64_t guaranteed(const kvp_group *g, kvp_tier_id tier)
{
    uint64_t n = 0;
    for (const kvp_group *c = g->first_child; c && n < KVPI_MOST_UNITS; c = c->next)
        n += guaranteed(c, tier);
    n = n > g->quota[tier].min ? n : g->quota[tier].min;
    return n < KVPI_MOST_UNITS ? n : KVPI_MOST_UNITS;
}

static kvp_status check_mins(const change *c, const kvp_group *g)
{
    uint64_t n = guaranteed(g, c->tier), max = g->quota[c->tier].max;
    if (n < KVPI_MOST_UNITS && n <= max)
        return KVP_OK;
    if (max == KVP_UNLIMITED)
        return kvp_fail(KVP_E_BUDGET,
                        "the mins in \"%s\" are %llu bytes together or more, which no tier has",
                        g->name, to_bytes(c->p, c->tier, KVPI_MOST_UNITS));
    return kvp_fail(KVP_E_BUDGET,
                    "the mins in \"%s\" are %llu bytes together, more than its max of %llu",
                    g->name, to_bytes(c->p, c->tier, n), to_bytes(c->p, c->tier, max));
}

static kvp_status check_limits(const change *c)
{
    const kvpi_quota *q = &c->g->quota[c->tier];
    if (q->min > q->max)
        return kvp_fail(KVP_E_BUDGET, "the budget of \"%s\": min is %llu bytes, but max %llu",
                        c->g->name, to_bytes(c->p, c->tier, q->min),
                        to_bytes(c->p, c->tier, q->max));
    uint32_t least = kvpi_min_frames(c->p);
    if (c->tier == KVP_TIER_RAM && q->max < least)
        return kvp_fail(KVP_E_BUDGET,
                        "the RAM budget of \"%s\" holds %llu frames: needs at least %llu bytes, "
                        "which is %u frames%s",
                        c->g->name, (unsigned long long)q->max, to_bytes(c->p, c->tier, least),
                        least, c->g->parent ? "" : " beside their metadata and staging buffers");
    bool keeps_more = q->min > c->p->resized_from.min; /* those above must have room for that */
    kvp_status status = KVP_OK;
    for (const kvp_group *g = c->g; g && !status && (g == c->g || keeps_more); g = g->parent)
        status = check_mins(c, g);
    return status;
}

/* ---- bring down what is above ---- */

/* Bytes that the zram tier takes beside those of pages. */
static uint64_t cost_beside_pages(const change *c, const kvp_group *g)
{
    if (c->tier != KVP_TIER_ZRAM || g->parent || !c->p->lower[KVPI_ZRAM])
        return 0;
    kvp_tier_usage usage;
    kvpi_tier_usage(c->p->lower[KVPI_ZRAM], &usage);
    uint64_t used = g->used[KVP_TIER_ZRAM];
    return usage.bytes_used > used ? usage.bytes_used - used : 0;
}

/* The account, from the changed one up, that has or may come to have too much; NULL: none. */
static kvp_group *above_limits(const change *c)
{
    for (kvp_group *g = c->g; g; g = g->parent) {
        const kvpi_quota *q = &g->quota[c->tier];
        uint64_t cost = cost_beside_pages(c, g);
        if (kvpi_quota_commitment(q) + cost > q->max || g->used[c->tier] + cost > q->max)
            return g;
    }
    return NULL;
}

static kvp_status fail_in_use(const change *c, const kvp_group *at)
{
    static const char *const why[KVP_N_TIERS] = {
        [KVP_TIER_RAM] = "views pin them, the min of a group protects them, or the tiers below "
                         "have no room for what only RAM has; unpin, or raise the others' budgets",
        [KVP_TIER_ZRAM] = "the disk has no room for them; give it more",
        [KVP_TIER_DISK] = "there is no tier below; truncate or destroy sequences",
    };
    static const char *const name[KVP_N_TIERS] = {
        [KVP_TIER_RAM] = "RAM", [KVP_TIER_ZRAM] = "zram", [KVP_TIER_DISK] = "disk"};
    const kvpi_quota *q = &at->quota[c->tier];
    uint64_t n =
        kvpi_quota_commitment(q) > at->used[c->tier] ? kvpi_quota_commitment(q) : at->used[c->tier];
    return kvp_fail(KVP_E_NOSPACE,
                    "\"%s\" cannot keep to %llu bytes of %s: %llu are in use or promised, and %s. "
                    "The old budget is in force",
                    at->name, to_bytes(c->p, c->tier, q->max), name[c->tier],
                    to_bytes(c->p, c->tier, n), why[c->tier]);
}

/* Nothing could be set in motion: wait for what is moving, or for holders to end. */
static kvp_status wait_for_others(const change *c, const kvp_group *at)
{
    kvp_pager *p = c->p;
    kvp_status status = kvpi_wait(p, c->deadline_ns);
    if (status != KVP_E_NOSPACE)
        return status;
    bool nobody_ends = p->held == p->held_user + p->root->n_ahead && !p->n_admitted;
    bool is_pinned = c->tier == KVP_TIER_RAM &&
                     kvpi_account_claims_if(at, KVPI_VIEWS_ONLY) > at->quota[c->tier].max;
    if (is_pinned || nobody_ends || c->tier != KVP_TIER_RAM)
        return fail_in_use(c, at);
    return kvpi_sleep(p, c->deadline_ns);
}

static kvp_status lower_ram(const change *c, kvp_group *at)
{
    const unsigned any = KVPI_PAGE_RESIDENT | KVPI_PAGE_LOADING;
    const kvpi_claim none = {.account = at, .new_account = at};
    kvp_pager *p = c->p;
    if (kvpi_quota_commitment(&at->quota[KVP_TIER_RAM]) > at->quota[KVP_TIER_RAM].max) {
        if (kvpi_ahead_give_up(p, at, any) || kvpi_place_stuck(p, at, &none))
            return KVP_OK;
    } else if (kvpi_frame_reclaim(p, at, c->g) || !kvpi_demote_one(p, at, c->g)) {
        return KVP_OK;
    }
    return wait_for_others(c, at);
}

static kvp_status lower_zram(const change *c, kvp_group *at)
{
    kvp_status status = kvpi_migrate_one(c->p, at, c->g);
    return status ? wait_for_others(c, at) : KVP_OK;
}

static kvp_status lower(const change *c, kvp_group *at)
{
    if (c->tier == KVP_TIER_RAM)
        return lower_ram(c, at);
    if (c->tier == KVP_TIER_ZRAM)
        return lower_zram(c, at);
    return fail_in_use(c, at);
}

static kvp_status late(const change *c, kvp_status status)
{
    if (status != KVP_E_TIMEOUT)
        return status;
    return kvp_fail(
        KVP_E_TIMEOUT,
        "the deadline passed before \"%s\" had come down to its new budget; the old one "
        "is in force",
        c->g->name);
}

static kvp_status bring_down(const change *c)
{
    kvp_status status = KVP_OK;
    kvp_group *at;
    while (!status && (at = above_limits(c)))
        status = lower(c, at);
    return late(c, status);
}

/* ---- the change ---- */

/* Disk slots that are promised to nobody are not kept beyond the budget. */
static void drop_promises(kvp_pager *p)
{
    uint64_t max = p->root->quota[KVP_TIER_DISK].max, used = p->root->used[KVP_TIER_DISK];
    uint64_t most = max > used ? max - used : 0;
    if (p->promised > most)
        p->promised = most > p->n_backed ? most : p->n_backed;
}

static void finish(const change *c)
{
    kvp_pager *p = c->p;
    if (c->g == p->root && c->tier == KVP_TIER_RAM) {
        p->n_frames = (uint32_t)p->root->quota[KVP_TIER_RAM].max;
        kvpi_ahead_set_window(p);
    }
    drop_promises(p);
    kvpi_accounts_settle(p); /* there may be room now for promises that there was none for */
}

/* The tiers themselves: they give back what the pager does not use any more, or take it again. */
static kvp_status resize_tier(const change *c, uint64_t max, uint64_t deadline_ns)
{
    kvp_pager *p = c->p;
    uint64_t over_bytes;
    if (c->g->parent)
        return KVP_OK;
    if (c->tier == KVP_TIER_RAM)
        return kvpi_ram_resize(p, (uint32_t)max, deadline_ns);
    if (c->tier == KVP_TIER_DISK || !p->lower[KVPI_ZRAM])
        return KVP_OK;
    pthread_mutex_lock(&p->zram_lock);
    kvp_status status = kvpi_tier_resize(p->lower[KVPI_ZRAM], NULL, max, &over_bytes);
    pthread_mutex_unlock(&p->zram_lock);
    return status;
}

static kvp_status change_limits(const change *c, uint64_t min, uint64_t max)
{
    kvpi_quota old = c->p->resized_from = c->g->quota[c->tier];
    bool has_policy = c->tier == KVP_TIER_RAM || c->tier == KVP_TIER_ZRAM;
    kvp_status status = max > old.max ? resize_tier(c, max, c->deadline_ns) : KVP_OK;
    kvpi_account_set_limits(c->g, c->tier, min, max);
    if (!status)
        status = check_limits(c);
    if (!status && has_policy && (min || max != KVP_UNLIMITED))
        status = kvpi_policy_open(c->p, c->g, c->tier);
    if (!status)
        status = bring_down(c);
    bool is_cut = !status && max < old.max;
    if (is_cut)
        status = late(c, resize_tier(c, max, c->deadline_ns));
    if (!status) {
        finish(c);
        return KVP_OK;
    }
    if (is_cut && resize_tier(c, old.max, KVP_FOREVER)) /* first: there is room then */
        kvpi_log(c->p, KVP_LOG_WARNING, "a tier did not get its old size back");
    if (!c->g->is_gone)
        kvpi_account_set_limits(c->g, c->tier, old.min, old.max);
    return status;
}

kvp_status kvpi_account_resize(kvp_pager *p, kvp_group *g, kvp_tier_id tier, uint64_t min,
                               uint64_t max, uint64_t deadline_ns)
{
    change c = {.p = p, .g = g, .tier = tier, .deadline_ns = deadline_ns};
    kvpi_account_ref(g); /* it may be destroyed while we wait */
    kvp_status status = KVP_OK;
    while (p->resized && !status)
        status = kvpi_sleep(p, deadline_ns);
    if (!status && g->is_gone)
        status = kvp_fail(KVP_E_INVALID, "\"%s\" was destroyed before its budget changed", g->name);
    if (!status) {
        p->resized = g;
        p->resized_tier = tier;
        status = change_limits(&c, min, max);
        p->resized = NULL;
        pthread_cond_broadcast(&p->progress);
    }
    kvpi_account_unref(g);
    return status;
}
