/* state.c - changes of a page's state, each of which keeps the ledger and the policies in step. */
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

size_t kvpi_page_bytes(const kvp_pager *p, const kvpi_page *page)
{
    uint32_t layer;
    const kvpi_layer *l = kvpi_geometry_layer_of(&p->geometry, page->lane, &layer);
    return kvpi_layer_page_bytes(&p->geometry, l, page->lane - l->lane_base);
}

static kvp_placement_page describe(const kvp_pager *p, uint32_t page)
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
    kvp_placement_page info = describe(p, page);
    kvp_removal why = pg->pins ? KVP_REMOVED_FOR_USE : KVP_REMOVED_GONE;
    if (wanted & ~is & KVPI_PAGE_IN_ZRAM_POLICY)
        p->zram_policy->ops->insert(p->zram_policy, &info);
    if (is & ~wanted & KVPI_PAGE_IN_ZRAM_POLICY)
        p->zram_policy->ops->remove(p->zram_policy, page, KVP_REMOVED_GONE);
    info.is_used = is_used;
    if (wanted & ~is & KVPI_PAGE_IN_RAM_POLICY)
        p->ram_policy->ops->insert(p->ram_policy, &info);
    if (is & ~wanted & KVPI_PAGE_IN_RAM_POLICY)
        p->ram_policy->ops->remove(p->ram_policy, page, why);
    pg->flags = (uint16_t)((pg->flags & ~all) | wanted);
}

bool kvpi_leaves_zram_first(kvp_pager *p, uint32_t page, uint32_t *victim)
{
    kvp_placement_page info = describe(p, page);
    assert(!kvpi_page_is(kvpi_page_at(&p->pages, page), KVPI_PAGE_IN_ZRAM_POLICY));
    p->zram_policy->ops->insert(p->zram_policy, &info);
    *victim = p->zram_policy->ops->victim(p->zram_policy, KVP_PAGE_NONE);
    p->zram_policy->ops->remove(p->zram_policy, page, KVP_REMOVED_RETOLD);
    return *victim == page;
}

static kvp_trace_kind rank_event(const kvp_placement_page *info)
{
    if (info->is_cold)
        return KVP_TRACE_PAGE_COLD;
    return info->is_hot ? KVP_TRACE_PAGE_HOT : KVP_TRACE_PAGE_COOL;
}

void kvpi_rank(kvp_pager *p, uint32_t page, unsigned set, unsigned clear)
{
    kvpi_page *pg = kvpi_page_at(&p->pages, page);
    unsigned flags = (pg->flags & ~clear) | set;
    if (flags == pg->flags)
        return;
    pg->flags = (uint16_t)flags;
    kvp_placement_page info = describe(p, page);
    kvpi_trace_page(p, rank_event(&info), page);
    kvp_placement *policies[] = {kvpi_page_is(pg, KVPI_PAGE_IN_RAM_POLICY) ? p->ram_policy : NULL,
                                 kvpi_page_is(pg, KVPI_PAGE_IN_ZRAM_POLICY) ? p->zram_policy
                                                                            : NULL};
    for (size_t i = 0; i < 2; i++) {
        if (policies[i]) {
            policies[i]->ops->remove(policies[i], page, KVP_REMOVED_RETOLD);
            policies[i]->ops->insert(policies[i], &info);
        }
    }
}

void kvpi_set_mass(kvp_pager *p, uint32_t page, float mass)
{
    const kvp_placement_page info = describe(p, page);
    const unsigned flags[] = {KVPI_PAGE_IN_RAM_POLICY, KVPI_PAGE_IN_ZRAM_POLICY};
    kvp_placement *policies[] = {p->ram_policy, p->lower[KVPI_ZRAM] ? p->zram_policy : NULL};
    for (size_t i = 0; i < 2 && policies[i]; i++) {
        bool is_in = kvpi_page_is(kvpi_page_at(&p->pages, page), flags[i]);
        if (is_in)
            policies[i]->ops->remove(policies[i], page, KVP_REMOVED_RETOLD);
        policies[i]->ops->mass(policies[i], page, mass);
        if (is_in)
            policies[i]->ops->insert(policies[i], &info);
    }
}

void kvpi_cool(kvp_pager *p, uint32_t page)
{
    kvp_placement_page info = describe(p, page);
    kvpi_trace_page(p, KVP_TRACE_PAGE_COLD, page);
    if (!kvpi_page_is(kvpi_page_at(&p->pages, page), KVPI_PAGE_IN_RAM_POLICY))
        return; /* not there, or in use */
    info.is_cold = true;
    p->ram_policy->ops->remove(p->ram_policy, page, KVP_REMOVED_RETOLD);
    p->ram_policy->ops->insert(p->ram_policy, &info);
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
    account(p, pg, -1);
    p->n_writing -= kvpi_page_is(pg, KVPI_PAGE_WRITING);
    pg->flags = (uint16_t)((pg->flags & ~clear) | set);
    p->n_writing += kvpi_page_is(pg, KVPI_PAGE_WRITING);
    account(p, pg, +1);
    sync_policies(p, page, false);
}

void kvpi_set_copy(kvp_pager *p, uint32_t page, kvpi_lower lower, kvp_slot slot, bool is_valid)
{
    kvpi_page *pg = kvpi_page_at(&p->pages, page);
    unsigned flag = lower == KVPI_ZRAM ? KVPI_PAGE_IN_ZRAM : KVPI_PAGE_ON_DISK;
    account(p, pg, -1);
    if (lower == KVPI_ZRAM)
        pg->blob = slot;
    else
        pg->disk_slot = (uint32_t)slot;
    pg->flags = (uint16_t)(is_valid ? pg->flags | flag : pg->flags & ~flag);
    account(p, pg, +1);
    sync_policies(p, page, false);
}

static void free_slot(kvp_pager *p, kvpi_lower lower, kvp_slot slot)
{
    if (lower == KVPI_DISK) {
        if (slot != KVPI_DISK_SLOT_NONE) {
            kvpi_tier_slot_free(p->lower[lower], slot);
            p->promised++;
        }
        return;
    }
    if (slot == KVP_SLOT_NONE)
        return;
    pthread_mutex_lock(&p->zram_lock);
    kvpi_tier_slot_free(p->lower[lower], slot);
    pthread_mutex_unlock(&p->zram_lock);
    p->zram_is_full = false;
}

void kvpi_drop_copy(kvp_pager *p, uint32_t page, kvpi_lower lower)
{
    kvp_slot slot = kvpi_page_slot(kvpi_page_at(&p->pages, page), lower);
    kvpi_set_copy(p, page, lower, lower == KVPI_ZRAM ? KVP_SLOT_NONE : KVPI_DISK_SLOT_NONE, false);
    free_slot(p, lower, slot);
}

void kvpi_page_invalidate(kvp_pager *p, uint32_t page)
{
    kvpi_page *pg = kvpi_page_at(&p->pages, page);
    assert(kvpi_page_is(pg, KVPI_PAGE_RESIDENT));
    assert(!kvpi_page_is(pg, KVPI_PAGE_WRITING | KVPI_PAGE_MOVING | KVPI_PAGE_SEALED));
    assert(pg->refs == 1); /* P8 */
    kvpi_drop_copy(p, page, KVPI_ZRAM);
    kvpi_set_copy(p, page, KVPI_DISK, pg->disk_slot, false); /* keeps its place */
    kvpi_set_flags(p, page, 0, KVPI_PAGE_SUMMED);
    pg->serial = p->next_serial++;
}

kvp_status kvpi_pages_reserve(kvp_pager *p, uint32_t n)
{
    kvp_status status = kvpi_page_table_reserve(&p->pages, n);
    if (!status && p->ram_policy->ops->reserve)
        status = p->ram_policy->ops->reserve(p->ram_policy, kvpi_page_table_end(&p->pages));
    if (!status && p->lower[KVPI_ZRAM] && p->zram_policy->ops->reserve)
        status = p->zram_policy->ops->reserve(p->zram_policy, kvpi_page_table_end(&p->pages));
    return status;
}

static void forget(kvp_placement *policy, uint32_t page)
{
    if (policy->ops->forget)
        policy->ops->forget(policy, page);
}

uint32_t kvpi_page_create(kvp_pager *p)
{
    uint32_t page = kvpi_page_new(&p->pages);
    kvpi_page *pg = kvpi_page_at(&p->pages, page);
    pg->serial = p->next_serial++;
    account(p, pg, +1);
    return page;
}

void kvpi_page_share(kvp_pager *p, uint32_t page)
{
    kvpi_page *pg = kvpi_page_at(&p->pages, page);
    assert(pg->refs < UINT32_MAX);
    p->stats.pages_shared += pg->refs++ == 1;
}

void kvpi_page_evict(kvp_pager *p, uint32_t page)
{
    kvpi_page *pg = kvpi_page_at(&p->pages, page);
    assert(pg->pins == 0 && kvpi_page_is(pg, KVPI_PAGE_COPIED) &&
           !kvpi_page_is(pg, KVPI_PAGE_WRITING));
    uint32_t frame = pg->frame;
    kvpi_set_flags(p, page, 0, KVPI_PAGE_RESIDENT);
    pg->frame = KVPI_FRAME_NONE;
    kvpi_frame_give(p, frame);
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
    uint32_t frame = pg->frame;
    kvpi_set_flags(p, page, 0, KVPI_PAGE_RESIDENT);
    if (frame != KVPI_FRAME_NONE)
        kvpi_frame_give(p, frame);
    pg->frame = KVPI_FRAME_NONE;
    kvpi_drop_copy(p, page, KVPI_ZRAM);
    kvpi_drop_copy(p, page, KVPI_DISK);
    account(p, pg, -1);
    forget(p->ram_policy, page);
    forget(p->zram_policy, page);
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
        .format = (uint32_t)l->dtype,
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
