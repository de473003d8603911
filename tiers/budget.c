/* budget.c - groups, and budgets as callers see them: in bytes. */
#include "kvpager/budget.h"

#include "tiers/account.h"
#include "tiers/format.h"
#include "tiers/pager.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

static const kvp_tier_id tiers[] = {KVP_TIER_RAM, KVP_TIER_ZRAM, KVP_TIER_DISK};
#define N_TIERS (sizeof tiers / sizeof tiers[0])

/* ---- bytes and units ---- */

static uint64_t to_units(const kvp_pager *p, kvp_tier_id tier, uint64_t bytes)
{
    uint64_t n = tier == KVP_TIER_ZRAM ? bytes : bytes / p->geometry.slot_bytes;
    return bytes == KVP_UNLIMITED || n >= KVPI_MOST_UNITS ? KVP_UNLIMITED : n;
}

static uint64_t to_bytes(const kvp_pager *p, kvp_tier_id tier, uint64_t n)
{
    if (n == KVP_UNLIMITED || tier == KVP_TIER_ZRAM)
        return n;
    return n * p->geometry.slot_bytes;
}

static kvp_status check_tier(kvp_tier_id tier)
{
    for (size_t i = 0; i < N_TIERS; i++)
        if (tiers[i] == tier)
            return KVP_OK;
    return kvp_fail(KVP_E_INVALID, "budget: tier %d: RAM, zram and disk have budgets", (int)tier);
}

/* ---- groups ---- */

kvp_budget kvp_budget_default(void)
{
    kvp_budget b = {.size = sizeof b};
    for (size_t i = 0; i < KVP_N_TIERS; i++)
        b.max[i] = KVP_UNLIMITED;
    return b;
}

static kvp_status check_budget(const kvp_pager *pager, const kvp_group *parent, const kvp_budget *b)
{
    if (b->size != sizeof *b)
        return kvp_fail(KVP_E_INVALID,
                        "kvp_group_create: budget was not made by kvp_budget_default()");
    if (parent && parent->pager != pager)
        return kvp_fail(KVP_E_INVALID, "kvp_group_create: parent is in another pager");
    return KVP_OK;
}

/* Its limits end; what others have in it stays. */
static void let_go(kvp_pager *p, kvp_group *g)
{
    for (size_t i = 0; i < N_TIERS; i++)
        kvpi_account_set_limits(g, tiers[i], 0, KVP_UNLIMITED);
    g->is_gone = true;
    kvpi_account_unref(g);
    pthread_cond_broadcast(&p->progress); /* there may be room now */
}

kvp_status kvp_group_create(kvp_pager *p, kvp_group *parent, const kvp_budget *budget,
                            kvp_group **out)
{
    kvp_budget b = budget ? *budget : kvp_budget_default();
    kvp_group *g = NULL;
    if (!p || !out)
        return kvp_fail(KVP_E_INVALID, "kvp_group_create: pager or group is NULL");
    kvp_status status = check_budget(p, parent, &b);
    if (status)
        return status;
    kvpi_lock(p);
    status = kvpi_account_new(p, parent ? parent : p->root, false, b.name, &g);
    for (size_t i = 0; i < N_TIERS && !status; i++)
        if (b.min[tiers[i]] || b.max[tiers[i]] != KVP_UNLIMITED)
            status = kvpi_account_resize(p, g, tiers[i], to_units(p, tiers[i], b.min[tiers[i]]),
                                         to_units(p, tiers[i], b.max[tiers[i]]), KVP_FOREVER);
    if (status && g)
        let_go(p, g);
    kvpi_unlock(p);
    if (!status)
        *out = g;
    return status;
}

void kvp_group_destroy(kvp_group *g)
{
    if (!g)
        return;
    kvp_pager *p = g->pager;
    kvpi_lock(p);
    let_go(p, g);
    kvpi_unlock(p);
}

/* ---- budgets change ---- */

kvp_status kvp_group_set_budget(kvp_group *g, kvp_tier_id tier, uint64_t min_bytes,
                                uint64_t max_bytes, uint64_t deadline_ns)
{
    if (!g)
        return kvp_fail(KVP_E_INVALID, "kvp_group_set_budget: group is NULL");
    kvp_status status = check_tier(tier);
    if (status)
        return status;
    kvp_pager *p = g->pager;
    kvpi_lock(p);
    status = kvpi_account_resize(p, g, tier, to_units(p, tier, min_bytes),
                                 to_units(p, tier, max_bytes), deadline_ns);
    kvpi_unlock(p);
    return status;
}

/* An account of its own: what it shares with others stays the group's. */
static kvp_status give_account(kvp_pager *p, kvp_seq *seq)
{
    kvp_group *group = seq->account, *own;
    char name[KVPI_ACCOUNT_NAME_BYTES];
    if (seq->n_pins || seq->n_tickets || seq->n_scans)
        return kvp_fail(
            KVP_E_BUSY,
            "kvp_seq_set_budget: %u pages of the sequence are pinned or shown by linear "
            "views, %u tickets are open%s; unpin, close, take or cancel them first",
            seq->n_pins, seq->n_tickets, seq->n_scans ? ", and a scan is" : "");
    snprintf(name, sizeof name, "sequence %u", seq->id);
    kvp_status status = kvpi_account_new(p, group, true, name, &own);
    if (status)
        return status;
    for (uint32_t i = 0; i < p->geometry.n_lanes; i++)
        for (uint32_t e = 0; e < seq->lanes[i].n_entries; e++) {
            uint32_t page = seq->lanes[i].entries[e].page;
            const kvpi_page *pg = kvpi_page_at(&p->pages, page);
            if (pg->refs == 1 && kvpi_account_of(p, pg) == group)
                kvpi_page_move(p, page, own);
        }
    seq->account = own;
    kvpi_account_unref(group);
    return KVP_OK;
}

kvp_status kvp_seq_set_budget(kvp_seq *seq, kvp_tier_id tier, uint64_t min_bytes,
                              uint64_t max_bytes, uint64_t deadline_ns)
{
    if (!seq)
        return kvp_fail(KVP_E_INVALID, "kvp_seq_set_budget: seq is NULL");
    kvp_status status = check_tier(tier);
    if (status)
        return status;
    kvp_pager *p = seq->pager;
    kvpi_lock(p);
    if (!seq->account->is_seq)
        status = give_account(p, seq);
    if (!status)
        status = kvpi_account_resize(p, seq->account, tier, to_units(p, tier, min_bytes),
                                     to_units(p, tier, max_bytes), deadline_ns);
    kvpi_unlock(p);
    return status;
}

/* The budgets of the pager itself, as they were at open. */
static uint64_t most(const kvp_pager *p, kvp_tier_id tier)
{
    if (tier == KVP_TIER_RAM)
        return p->max_ram_bytes;
    return tier == KVP_TIER_ZRAM ? p->max_zram_bytes : p->max_disk_bytes;
}

static uint64_t *configured(kvp_pager *p, kvp_tier_id tier)
{
    if (tier == KVP_TIER_RAM)
        return &p->cfg.ram_bytes;
    return tier == KVP_TIER_ZRAM ? &p->cfg.zram_bytes : &p->cfg.disk_bytes;
}

/* What the pager has for pages, of so many bytes. */
static uint64_t root_units(const kvp_pager *p, kvp_tier_id tier, uint64_t bytes)
{
    if (tier == KVP_TIER_RAM)
        return kvpi_frames_in(p, bytes);
    if (tier == KVP_TIER_ZRAM)
        return bytes;
    if (bytes == p->max_disk_bytes)
        return p->max_slots;
    return bytes > KVPI_SEGMENTS_AT ? to_units(p, tier, bytes - KVPI_SEGMENTS_AT) : 0;
}

kvp_status kvp_pager_set_budget(kvp_pager *p, kvp_tier_id tier, uint64_t bytes,
                                uint64_t deadline_ns)
{
    if (!p)
        return kvp_fail(KVP_E_INVALID, "kvp_pager_set_budget: pager is NULL");
    kvp_status status = check_tier(tier);
    if (status)
        return status;
    if (bytes == KVP_UNLIMITED)
        bytes = most(p, tier);
    if (bytes > most(p, tier))
        return kvp_fail(KVP_E_INVALID,
                        "kvp_pager_set_budget: %llu bytes, but the pager was opened with %llu, "
                        "which is the most that it can have",
                        (unsigned long long)bytes, (unsigned long long)most(p, tier));
    kvpi_lock(p);
    status = kvpi_account_resize(p, p->root, tier, 0, root_units(p, tier, bytes), deadline_ns);
    if (!status)
        *configured(p, tier) = bytes;
    kvpi_unlock(p);
    return status;
}

/* ---- statistics ---- */

static void fill_usage(const kvp_group *g, kvp_group_usage *u)
{
    const kvp_pager *p = g->pager;
    for (size_t i = 0; i < N_TIERS; i++) {
        kvp_tier_id t = tiers[i];
        u->bytes[t] = to_bytes(p, t, g->used[t]);
        u->peak_bytes[t] = to_bytes(p, t, g->peak[t]);
        u->min_bytes[t] = to_bytes(p, t, g->quota[t].min);
        u->max_bytes[t] = to_bytes(p, t, g->quota[t].max);
    }
    u->minor_faults = g->minor_faults;
    u->major_faults = g->major_faults;
    u->evictions_self = g->evictions_self;
    u->evictions_others = g->evictions_others;
    u->n_seqs = g->is_seq ? 1 : g->n_seqs;
}

static kvp_status usage_of(kvp_group *g, kvp_group_usage *out)
{
    kvp_group_usage u = {.size = out->size};
    if (out->size < offsetof(kvp_group_usage, minor_faults) || out->size > sizeof u)
        return kvp_fail(KVP_E_INVALID, "usage->size must be sizeof(kvp_group_usage)");
    fill_usage(g, &u);
    memcpy(out, &u, u.size);
    return KVP_OK;
}

kvp_status kvp_group_stats(kvp_group *g, kvp_group_usage *usage)
{
    if (!g || !usage)
        return kvp_fail(KVP_E_INVALID, "kvp_group_stats: an argument is NULL");
    kvpi_lock(g->pager);
    kvp_status status = usage_of(g, usage);
    kvpi_unlock(g->pager);
    return status;
}

kvp_status kvp_seq_stats(kvp_seq *seq, kvp_group_usage *usage)
{
    if (!seq || !usage)
        return kvp_fail(KVP_E_INVALID, "kvp_seq_stats: an argument is NULL");
    kvpi_lock(seq->pager);
    kvp_status status =
        seq->account->is_seq
            ? usage_of(seq->account, usage)
            : kvp_fail(KVP_E_INVALID,
                       "kvp_seq_stats: the sequence has no budget of its own, and so no account: "
                       "its group's has its pages");
    kvpi_unlock(seq->pager);
    return status;
}
