/* limits.c - budgets that change while all goes on: of the pager, of groups, of sequences. */
#include "tests/sim/player.h"

static const kvp_tier_id tiers[] = {KVP_TIER_RAM, KVP_TIER_ZRAM, KVP_TIER_DISK};

/* What it takes to wait for ever: nobody but this thread could let go of views. */
static uint64_t deadline_of(const sim_player *p)
{
    uint32_t c = p->op->c;
    if (c >> 8 & 1)
        return p->n_holders ? 0 : KVP_FOREVER;
    return c >> 9 & 1 ? p->world.now_ns + 1 + (c >> 10) % 20000000u : 0;
}

static uint64_t max_of(const sim_player *p, uint32_t random)
{
    if (random % 4 == 0)
        return KVP_UNLIMITED;
    return (4 + (random >> 2) % (p->n_frames + 8)) * p->slot_bytes;
}

static uint64_t min_of(const sim_player *p, uint32_t random)
{
    return random % 3 ? 0 : (random >> 2) % 4 * p->slot_bytes;
}

/* Every refusal has a reason that the header names. */
static void check(sim_player *p, kvp_status status)
{
    p->out->tally.n_budget_refused += status == KVP_E_BUDGET;
    if (status != KVP_E_BUDGET)
        sim_check_status(p, status);
    p->out->tally.n_limits += !status;
}

static void check_usage(sim_player *p, kvp_status got, const kvp_group_usage *u)
{
    if (got)
        sim_fail(p, "%s", kvp_error());
    for (size_t i = 0; i < 3 && !got; i++)
        if (u->bytes[tiers[i]] > u->max_bytes[tiers[i]])
            sim_fail(p, "tier %d: %llu bytes, but max is %llu", (int)tiers[i],
                     (unsigned long long)u->bytes[tiers[i]],
                     (unsigned long long)u->max_bytes[tiers[i]]);
}

/* ---- groups ---- */

/* Some below the pager, some below another; not all worlds have them. */
void sim_groups_open(sim_player *p)
{
    for (uint32_t i = 0; i < p->w->n_groups && !p->out->has_failed; i++)
        if (kvp_group_create(p->pager, i % 2 ? p->groups[i - 1] : NULL, NULL, &p->groups[i]))
            sim_fail(p, "a group: %s", kvp_error());
}

kvp_status sim_seq_create(sim_player *p, sim_actor *a)
{
    uint32_t i = (uint32_t)(a - p->actors) % (p->w->n_groups + 1);
    a->seq = NULL;
    return i == 0 ? kvp_seq_create(p->pager, &a->seq)
                  : kvp_seq_create_in(p->groups[i - 1], &a->seq);
}

/* A new group in its place; who is in the old one stays there, without its limits. */
static kvp_status renew(sim_player *p, uint32_t i)
{
    kvp_budget b = kvp_budget_default();
    kvp_group *parent = i % 2 ? p->groups[i - 1] : NULL;
    kvp_group_destroy(p->groups[i]);
    kvp_status status = kvp_group_create(p->pager, parent, &b, &p->groups[i]);
    if (status)
        sim_fail(p, "a group: %s", kvp_error());
    return status;
}

static kvp_status limit_group(sim_player *p, kvp_tier_id tier)
{
    const sim_op *op = p->op;
    uint32_t i = op->a % p->w->n_groups;
    kvp_group_usage u = {.size = sizeof u};
    if ((op->c >> 4) % 16 == 0)
        return renew(p, i);
    kvp_status status = kvp_group_set_budget(p->groups[i], tier, min_of(p, op->b),
                                             max_of(p, op->b >> 8), deadline_of(p));
    sim_detail(p, "group %u, tier %d", i, (int)tier);
    check(p, status);
    check_usage(p, kvp_group_stats(p->groups[i], &u), &u);
    return status;
}

/* ---- sequences and the pager ---- */

static kvp_status limit_seq(sim_player *p, const sim_actor *a, kvp_tier_id tier)
{
    const sim_op *op = p->op;
    kvp_group_usage u = {.size = sizeof u};
    kvp_status status =
        kvp_seq_set_budget(a->seq, tier, min_of(p, op->b), max_of(p, op->b >> 8), deadline_of(p));
    sim_detail(p, "tier %d", (int)tier);
    if (status == KVP_E_BUSY && a->hold != HOLDS_NOTHING) {
        p->out->tally.n_busy++;
        return status;
    }
    check(p, status);
    check_usage(p, kvp_seq_stats(a->seq, &u), &u);
    return status;
}

static uint64_t at_open(const sim_player *p, kvp_tier_id tier)
{
    if (tier == KVP_TIER_RAM)
        return p->cfg.ram_bytes;
    return tier == KVP_TIER_ZRAM ? p->cfg.zram_bytes : p->cfg.disk_bytes;
}

static kvp_status limit_pager(sim_player *p, kvp_tier_id tier)
{
    uint64_t most = at_open(p, tier), bytes = KVP_UNLIMITED;
    if (p->op->b & 1)
        bytes = most == KVP_UNLIMITED ? 200 * p->slot_bytes
                                      : most / 4 + p->op->b % (most - most / 4 + 1);
    kvp_status status = kvp_pager_set_budget(p->pager, tier, bytes, deadline_of(p));
    kvp_stats s = {.size = sizeof s};
    sim_detail(p, "the pager's tier %d: %llu bytes", (int)tier, (unsigned long long)bytes);
    check(p, status);
    if (kvp_pager_stats(p->pager, &s) || s.ram_bytes > s.ram_budget_bytes)
        sim_fail(p, "%llu bytes of RAM, the budget is %llu", (unsigned long long)s.ram_bytes,
                 (unsigned long long)s.ram_budget_bytes);
    return status;
}

bool sim_limit(sim_player *p, sim_actor *a, kvp_status *status)
{
    if (!p->w->n_groups)
        return false;
    uint32_t whose = p->op->c % 4;
    kvp_tier_id tier = tiers[p->op->a / 64 % 3];
    *status = whose < 2    ? limit_group(p, tier)
              : whose == 2 ? limit_seq(p, a, tier)
                           : limit_pager(p, tier);
    return true;
}
