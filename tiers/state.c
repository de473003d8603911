/* state.c - changes of a page's state, each of which keeps the ledger and the policies in step. */
#include "tiers/account.h"
#include "tiers/checksum.h"
#include "tiers/pager.h"
#include "tiers/trace.h"

#include <assert.h>
#include <stdio.h>

/* The fastest tier that has the page; a lost one is counted elsewhere. */
static uint64_t *count_of(kvp_pager *p, const kvpi_page *page)
{
    if (kvpi_page_is(page, KVPI_PAGE_LOST))
        return &p->stats.pages_lost;
    if (kvpi_page_is(page, KVPI_PAGE_RESIDENT))
        return &p->stats.pages[KVP_TIER_RAM];
    return &p->stats.pages[kvpi_page_is(page, KVPI_PAGE_IN_ZRAM) ? KVP_TIER_ZRAM : KVP_TIER_DISK];
}

/* Count the page in (+1) or out (-1): called around every change of what is counted. */
static void account(kvp_pager *p, const kvpi_page *page, int sign)
{
    *count_of(p, page) += (uint64_t)(int64_t)sign;
    if (!kvpi_page_is_dirty(page))
        return;
    p->n_dirty += (uint32_t)sign;
    if (kvpi_page_is_homeless(page))
        p->n_homeless += (uint32_t)sign;
}

/* It is dirty, and has no place on disk. */
static bool needs_slot(const kvpi_page *page)
{
    return kvpi_page_is_dirty(page) && kvpi_page_is_homeless(page);
}

/* Whether the page needs a slot may have changed. */
static void state_need(kvp_pager *p, const kvpi_page *page, bool needed_before)
{
    bool needs = needs_slot(page);
    if (needs != needed_before)
        kvpi_account_need(p, kvpi_account_of(p, page), needs ? 1 : -1);
}

size_t kvpi_page_bytes(const kvp_pager *p, const kvpi_page *page)
{
    uint32_t layer;
    const kvpi_layer *l = kvpi_geometry_layer_of(&p->geometry, page->lane, &layer);
    return kvpi_layer_page_bytes(&p->geometry, l, page->lane - l->lane_base);
}

kvp_placement_page kvpi_page_describe(const kvp_pager *p, uint32_t page)
{
    const kvpi_page *pg = kvpi_page_at(&p->pages, page);
    return (kvp_placement_page){
        .page = page,
        .lane_index = pg->index,
        .lane = pg->lane,
        .is_open = !kvpi_page_is(pg, KVPI_PAGE_SEALED),
        .is_hot = kvpi_page_is(pg, KVPI_PAGE_HOT | KVPI_PAGE_KEPT),
        .is_cold = kvpi_page_is(pg, KVPI_PAGE_LOW),
    };
}

unsigned kvpi_page_policies(const kvpi_page *pg)
{
    unsigned policies = 0;
    if (kvpi_page_is(pg, KVPI_PAGE_RESIDENT) && !pg->pins && !kvpi_page_is(pg, KVPI_PAGE_AHEAD))
        policies |= KVPI_PAGE_IN_RAM_POLICY;
    if (kvpi_page_is(pg, KVPI_PAGE_IN_ZRAM) &&
        !kvpi_page_is(pg, KVPI_PAGE_MOVING | KVPI_PAGE_LOADING))
        policies |= KVPI_PAGE_IN_ZRAM_POLICY;
    return policies;
}

/* Put the page into the policies that it belongs to now, take it out of the others (G4). */
static void sync_policies(kvp_pager *p, uint32_t page, bool is_used)
{
    const unsigned all = KVPI_PAGE_IN_RAM_POLICY | KVPI_PAGE_IN_ZRAM_POLICY;
    kvpi_page *pg = kvpi_page_at(&p->pages, page);
    unsigned wanted = kvpi_page_policies(pg), is = pg->flags & all;
    if (wanted == is)
        return;
    kvp_placement_page info = kvpi_page_describe(p, page);
    if (wanted & ~is & KVPI_PAGE_IN_ZRAM_POLICY)
        kvpi_policy_insert(p, KVP_TIER_ZRAM, &info);
    if (is & ~wanted & KVPI_PAGE_IN_ZRAM_POLICY)
        kvpi_policy_remove(p, KVP_TIER_ZRAM, page, KVP_REMOVED_GONE);
    info.is_used = is_used;
    if (wanted & ~is & KVPI_PAGE_IN_RAM_POLICY)
        kvpi_policy_insert(p, KVP_TIER_RAM, &info);
    if (is & ~wanted & KVPI_PAGE_IN_RAM_POLICY)
        kvpi_policy_remove(p, KVP_TIER_RAM, page,
                           pg->pins ? KVP_REMOVED_FOR_USE : KVP_REMOVED_GONE);
    pg->flags = (uint16_t)((pg->flags & ~all) | wanted);
}

static kvp_trace_kind rank_event(const kvp_placement_page *info)
{
    if (info->is_cold)
        return KVP_TRACE_PAGE_COLD;
    return info->is_hot ? KVP_TRACE_PAGE_HOT : KVP_TRACE_PAGE_COOL;
}

/* In the lists of which a page with these flags is. */
static const struct {
    unsigned flag;
    kvp_tier_id tier;
} LISTS[] = {{KVPI_PAGE_IN_RAM_POLICY, KVP_TIER_RAM}, {KVPI_PAGE_IN_ZRAM_POLICY, KVP_TIER_ZRAM}};

void kvpi_rank(kvp_pager *p, uint32_t page, unsigned set, unsigned clear)
{
    kvpi_page *pg = kvpi_page_at(&p->pages, page);
    unsigned flags = (pg->flags & ~clear) | set;
    if (flags == pg->flags)
        return;
    pg->flags = (uint16_t)flags;
    kvp_placement_page info = kvpi_page_describe(p, page);
    kvpi_trace_page(p, rank_event(&info), page);
    for (size_t i = 0; i < 2; i++) {
        if (kvpi_page_is(pg, LISTS[i].flag)) {
            kvpi_policy_remove(p, LISTS[i].tier, page, KVP_REMOVED_RETOLD);
            kvpi_policy_insert(p, LISTS[i].tier, &info);
        }
    }
}

void kvpi_set_mass(kvp_pager *p, uint32_t page, float mass)
{
    const kvp_placement_page info = kvpi_page_describe(p, page);
    size_t n = p->lower[KVPI_ZRAM] ? 2 : 1;
    for (size_t i = 0; i < n; i++) {
        bool is_in = kvpi_page_is(kvpi_page_at(&p->pages, page), LISTS[i].flag);
        if (is_in)
            kvpi_policy_remove(p, LISTS[i].tier, page, KVP_REMOVED_RETOLD);
        kvpi_policy_mass(p, LISTS[i].tier, page, mass);
        if (is_in)
            kvpi_policy_insert(p, LISTS[i].tier, &info);
    }
}

void kvpi_cool(kvp_pager *p, uint32_t page)
{
    kvp_placement_page info = kvpi_page_describe(p, page);
    kvpi_trace_page(p, KVP_TRACE_PAGE_COLD, page);
    if (!kvpi_page_is(kvpi_page_at(&p->pages, page), KVPI_PAGE_IN_RAM_POLICY))
        return; /* not there, or in use */
    info.is_cold = true;
    kvpi_policy_remove(p, KVP_TIER_RAM, page, KVP_REMOVED_RETOLD);
    kvpi_policy_insert(p, KVP_TIER_RAM, &info);
}

void kvpi_pin(kvp_pager *p, uint32_t page)
{
    kvpi_page *pg = kvpi_page_at(&p->pages, page);
    assert(kvpi_page_is(pg, KVPI_PAGE_RESIDENT | KVPI_PAGE_LOADING));
    if (pg->pins++ == 0)
        kvpi_trace_page(p, KVP_TRACE_PAGE_USED, page);
    sync_policies(p, page, false);
}

void kvpi_unpin(kvp_pager *p, uint32_t page)
{
    kvpi_page *pg = kvpi_page_at(&p->pages, page);
    assert(pg->pins > 0);
    pg->pins--;
    sync_policies(p, page, true);
    if (kvpi_page_is(pg, KVPI_PAGE_LOW) && !pg->pins) /* cold also after its use */
        kvpi_trace_page(p, KVP_TRACE_PAGE_COLD, page);
}

void kvpi_set_flags(kvp_pager *p, uint32_t page, unsigned set, unsigned clear)
{
    kvpi_page *pg = kvpi_page_at(&p->pages, page);
    if (set & ~pg->flags & KVPI_PAGE_SEALED)
        kvpi_trace_page(p, KVP_TRACE_PAGE_SEALED, page);
    if (clear & pg->flags & KVPI_PAGE_SEALED)
        kvpi_trace_page(p, KVP_TRACE_PAGE_OPENED, page);
    bool needed = needs_slot(pg);
    account(p, pg, -1);
    p->n_writing -= kvpi_page_is(pg, KVPI_PAGE_WRITING);
    pg->flags = (uint16_t)((pg->flags & ~clear) | set);
    p->n_writing += kvpi_page_is(pg, KVPI_PAGE_WRITING);
    account(p, pg, +1);
    state_need(p, pg, needed);
    sync_policies(p, page, false);
}

void kvpi_set_copy(kvp_pager *p, uint32_t page, kvpi_lower lower, kvp_slot slot, bool is_valid)
{
    kvpi_page *pg = kvpi_page_at(&p->pages, page);
    unsigned flag = lower == KVPI_ZRAM ? KVPI_PAGE_IN_ZRAM : KVPI_PAGE_ON_DISK;
    bool needed = needs_slot(pg);
    account(p, pg, -1);
    if (lower == KVPI_ZRAM)
        pg->blob = slot;
    else
        pg->disk_slot = (uint32_t)slot;
    pg->flags = (uint16_t)(is_valid ? pg->flags | flag : pg->flags & ~flag);
    account(p, pg, +1);
    state_need(p, pg, needed);
    sync_policies(p, page, false);
}

/* n bytes more, or less, that the account has in zram. */
static void charge_zram(kvp_group *account, int64_t n)
{
    kvpi_account_use(account, KVP_TIER_ZRAM, n);
    kvpi_account_claim(account, KVP_TIER_ZRAM, n);
}

void kvpi_set_blob(kvp_pager *p, uint32_t page, kvp_slot blob)
{
    kvpi_page *pg = kvpi_page_at(&p->pages, page);
    charge_zram(kvpi_account_of(p, pg), pg->form_bytes);
    kvpi_set_copy(p, page, KVPI_ZRAM, blob, true);
}

static void free_blob(kvp_pager *p, kvpi_page *pg, kvp_slot blob)
{
    charge_zram(kvpi_account_of(p, pg), -(int64_t)pg->form_bytes);
    pthread_mutex_lock(&p->zram_lock);
    kvpi_tier_slot_free(p->lower[KVPI_ZRAM], blob);
    pthread_mutex_unlock(&p->zram_lock);
    p->zram_is_full = false;
}

void kvpi_drop_copy(kvp_pager *p, uint32_t page, kvpi_lower lower)
{
    kvpi_page *pg = kvpi_page_at(&p->pages, page);
    kvp_slot slot = kvpi_page_slot(pg, lower);
    if (slot == (lower == KVPI_ZRAM ? KVP_SLOT_NONE : KVPI_DISK_SLOT_NONE))
        return;
    kvpi_set_copy(p, page, lower, lower == KVPI_ZRAM ? KVP_SLOT_NONE : KVPI_DISK_SLOT_NONE, false);
    if (lower == KVPI_ZRAM) {
        free_blob(p, pg, slot);
        return;
    }
    kvpi_tier_slot_free(p->lower[KVPI_DISK], slot);
    kvpi_account_free_slot(p, kvpi_account_of(p, pg));
}

void kvpi_page_invalidate(kvp_pager *p, uint32_t page)
{
    kvpi_page *pg = kvpi_page_at(&p->pages, page);
    assert(kvpi_page_is(pg, KVPI_PAGE_RESIDENT));
    assert(!kvpi_page_is(pg, KVPI_PAGE_WRITING | KVPI_PAGE_MOVING | KVPI_PAGE_SEALED));
    assert(pg->refs == 1); /* P8 */
    kvpi_drop_copy(p, page, KVPI_ZRAM);
    if (kvpi_page_keeps_home(pg))
        kvpi_set_copy(p, page, KVPI_DISK, pg->disk_slot, false);
    else
        kvpi_drop_copy(p, page, KVPI_DISK);
    pg->form_codec = KVPI_CODEC_RAW;
    kvpi_set_flags(p, page, 0, KVPI_PAGE_SUMMED);
    pg->serial = p->next_serial++;
}

uint32_t kvpi_page_create(kvp_pager *p, kvp_group *to)
{
    uint32_t page = kvpi_page_new(&p->pages);
    kvpi_page *pg = kvpi_page_at(&p->pages, page);
    kvpi_account_add_page(p, pg, to);
    pg->serial = p->next_serial++;
    account(p, pg, +1);
    return page;
}

/* What the page has, charged (+1) to the account, or no more (-1). */
static void charge(kvp_pager *p, const kvpi_page *pg, kvp_group *to, int sign)
{
    if (!kvpi_page_is_homeless(pg)) {
        kvpi_account_use(to, KVP_TIER_DISK, sign);
        kvpi_account_claim(to, KVP_TIER_DISK, sign);
    }
    if (kvpi_page_is(pg, KVPI_PAGE_IN_ZRAM))
        charge_zram(to, sign * (int64_t)pg->form_bytes);
    if (kvpi_page_is(pg, KVPI_PAGE_RESIDENT | KVPI_PAGE_LOADING))
        kvpi_account_use(to, KVP_TIER_RAM, sign);
    if (needs_slot(pg))
        kvpi_account_need(p, to, sign);
    if (kvpi_page_is(pg, KVPI_PAGE_AHEAD))
        kvpi_ahead_charge(p, to, sign);
}

void kvpi_page_move(kvp_pager *p, uint32_t page, kvp_group *to)
{
    kvpi_page *pg = kvpi_page_at(&p->pages, page);
    kvp_group *from = kvpi_account_of(p, pg);
    if (from == to)
        return;
    for (size_t i = 0; i < 2; i++)
        if (kvpi_policy_moves(p, LISTS[i].tier, page, to))
            pg->flags &= (uint16_t)~LISTS[i].flag;
    charge(p, pg, from, -1);
    kvpi_account_ref(from);
    kvpi_account_drop_page(p, pg);
    kvpi_account_add_page(p, pg, to);
    charge(p, pg, to, +1);
    kvpi_account_unref(from);
    sync_policies(p, page, false);
}

/* No sequence shall pay for, or be held up by, what others use: their group has the page now. */
void kvpi_page_share(kvp_pager *p, uint32_t page)
{
    kvpi_page *pg = kvpi_page_at(&p->pages, page);
    kvp_group *account = kvpi_account_of(p, pg);
    assert(pg->refs < UINT32_MAX);
    if (account->is_seq)
        kvpi_page_move(p, page, account->parent);
    p->stats.pages_shared += pg->refs++ == 1;
}

static void count_eviction(kvp_group *g, const kvp_group *cause)
{
    for (; g; g = g->parent)
        *(kvpi_account_has(g, cause) ? &g->evictions_self : &g->evictions_others) += 1;
}

void kvpi_page_evict(kvp_pager *p, uint32_t page, const kvp_group *cause)
{
    kvpi_page *pg = kvpi_page_at(&p->pages, page);
    assert(pg->pins == 0 && kvpi_page_is(pg, KVPI_PAGE_COPIED) &&
           !kvpi_page_is(pg, KVPI_PAGE_WRITING));
    uint32_t frame = pg->frame;
    kvpi_set_flags(p, page, 0, KVPI_PAGE_RESIDENT);
    pg->left_at = ++p->n_left;
    kvpi_frame_give(p, kvpi_account_of(p, pg), frame);
    count_eviction(kvpi_account_of(p, pg), cause);
    p->stats.evictions++;
}

void kvpi_page_release(kvp_pager *p, uint32_t page)
{
    kvpi_page *pg = kvpi_page_at(&p->pages, page);
    if (pg->refs > 1) {
        p->stats.pages_shared -= --pg->refs == 1;
        return;
    }
    if (kvpi_page_is(pg, KVPI_PAGE_AHEAD))
        kvpi_ahead_remove(p, page, false);
    while (kvpi_page_is(pg, KVPI_PAGE_LOADING | KVPI_PAGE_WRITING | KVPI_PAGE_MOVING))
        if (kvpi_wait(p, KVP_FOREVER))
            return; /* UNTESTED: the disk engine is broken; what it may still write to is not reused
                     */
    assert(pg->pins == 0);
    kvpi_trace_page(p, KVP_TRACE_PAGE_FREED, page);
    if (kvpi_page_is(pg, KVPI_PAGE_RESIDENT)) {
        kvpi_set_flags(p, page, 0, KVPI_PAGE_RESIDENT);
        kvpi_frame_give(p, kvpi_account_of(p, pg), pg->frame);
    }
    kvpi_drop_copy(p, page, KVPI_ZRAM);
    kvpi_drop_copy(p, page, KVPI_DISK);
    account(p, pg, -1);
    kvpi_account_drop_page(p, pg);
    kvpi_page_delete(&p->pages, page);
    pthread_cond_broadcast(&p->progress);
}

uint64_t kvpi_page_seed(const kvp_pager *p, const kvpi_page *page, uint32_t n_valid)
{
    uint32_t layer;
    const kvpi_layer *l = kvpi_geometry_layer_of(&p->geometry, page->lane, &layer);
    kvpi_identity id = {
        .store_id = p->store_id,
        .fingerprint = p->cfg.fingerprint,
        .serial = page->serial,
        .first_position = kvpi_page_first_position(p, page),
        .layer = layer,
        .group = page->lane - l->lane_base,
        .format = (uint32_t)l->dtype | (uint32_t)l->lookup.has_opaque_v << 8,
        .n_valid = n_valid,
    };
    return kvpi_identity_seed(&id);
}

void kvpi_page_name(const kvp_seq *seq, const kvpi_page *page, char *buf, size_t n)
{
    const kvp_pager *p = seq->pager;
    uint32_t layer;
    const kvpi_layer *l = kvpi_geometry_layer_of(&p->geometry, page->lane, &layer);
    uint32_t group = page->lane - l->lane_base;
    uint32_t head = group * l->page_heads;
    unsigned long long first = kvpi_page_first_position(p, page);
    snprintf(buf, n, "the page with tokens %llu..%llu of sequence %u, layer %u, KV heads %u..%u",
             first, first + (page->n_stored ? page->n_stored - 1u : 0u), seq->id, layer, head,
             head + kvpi_layer_group_heads(l, group) - 1);
}
