/* state.c - changes of a page's state, each of which keeps the ledger and the policies in step. */
#include "tiers/checksum.h"
#include "tiers/pager.h"

#include <assert.h>
#include <stdio.h>

/* Count the page in (+1) or out (-1): called around every change of what makes it dirty. */
static void account(kvp_pager *p, const kvpi_page *page, int sign)
{
    if (!kvpi_page_is_dirty(page))
        return;
    p->n_dirty += (uint32_t)sign;
    if (page->copy[KVPI_DISK].slot == KVP_SLOT_NONE)
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
        .lane_index = (uint32_t)(pg->first_position / p->geometry.page_tokens),
        .lane = pg->lane,
        .is_open = !kvpi_page_is(pg, KVPI_PAGE_SEALED),
        .is_hot = pg->is_hot,
    };
}

/* Put the page into the policies that it belongs to now, take it out of the others (G4). */
static void sync_policies(kvp_pager *p, uint32_t page)
{
    kvpi_page *pg = kvpi_page_at(&p->pages, page);
    bool in_ram = kvpi_page_is(pg, KVPI_PAGE_RESIDENT) && !pg->pins && !pg->is_ahead;
    bool in_zram =
        pg->copy[KVPI_ZRAM].is_valid && !kvpi_page_is(pg, KVPI_PAGE_MOVING | KVPI_PAGE_LOADING);
    kvp_placement_page info = describe(p, page);
    if (in_ram && !pg->in_ram_policy)
        p->ram_policy->ops->insert(p->ram_policy, &info);
    if (!in_ram && pg->in_ram_policy)
        p->ram_policy->ops->remove(p->ram_policy, page);
    if (in_zram && !pg->in_zram_policy)
        p->zram_policy->ops->insert(p->zram_policy, &info);
    if (!in_zram && pg->in_zram_policy)
        p->zram_policy->ops->remove(p->zram_policy, page);
    pg->in_ram_policy = in_ram;
    pg->in_zram_policy = in_zram;
}

bool kvpi_leaves_zram_first(kvp_pager *p, uint32_t page, uint32_t *victim)
{
    kvp_placement_page info = describe(p, page);
    kvpi_page *pg = kvpi_page_at(&p->pages, page);
    assert(!pg->in_zram_policy);
    (void)pg;
    p->zram_policy->ops->insert(p->zram_policy, &info);
    *victim = p->zram_policy->ops->victim(p->zram_policy, KVP_PAGE_NONE);
    p->zram_policy->ops->remove(p->zram_policy, page);
    return *victim == page;
}

void kvpi_set_hot(kvp_pager *p, uint32_t page, bool is_hot)
{
    kvpi_page *pg = kvpi_page_at(&p->pages, page);
    if (pg->is_hot == is_hot)
        return;
    pg->is_hot = is_hot;
    kvp_placement_page info = describe(p, page);
    kvp_placement *policies[] = {pg->in_ram_policy ? p->ram_policy : NULL,
                                 pg->in_zram_policy ? p->zram_policy : NULL};
    for (size_t i = 0; i < 2; i++) {
        if (policies[i]) {
            policies[i]->ops->remove(policies[i], page);
            policies[i]->ops->insert(policies[i], &info);
        }
    }
}

void kvpi_cool(kvp_pager *p, uint32_t page)
{
    kvp_placement_page info = describe(p, page);
    if (!kvpi_page_at(&p->pages, page)->in_ram_policy)
        return; /* not there, or in use */
    info.is_cold = true;
    p->ram_policy->ops->remove(p->ram_policy, page);
    p->ram_policy->ops->insert(p->ram_policy, &info);
}

void kvpi_pin(kvp_pager *p, uint32_t page)
{
    kvpi_page *pg = kvpi_page_at(&p->pages, page);
    assert(kvpi_page_is(pg, KVPI_PAGE_RESIDENT | KVPI_PAGE_LOADING));
    pg->pins++;
    sync_policies(p, page);
}

void kvpi_unpin(kvp_pager *p, uint32_t page)
{
    kvpi_page *pg = kvpi_page_at(&p->pages, page);
    assert(pg->pins > 0);
    pg->pins--;
    sync_policies(p, page);
}

void kvpi_set_flags(kvp_pager *p, uint32_t page, unsigned set, unsigned clear)
{
    kvpi_page *pg = kvpi_page_at(&p->pages, page);
    account(p, pg, -1);
    p->n_writing -= kvpi_page_is(pg, KVPI_PAGE_WRITING);
    pg->flags = (uint8_t)((pg->flags & ~clear) | set);
    p->n_writing += kvpi_page_is(pg, KVPI_PAGE_WRITING);
    account(p, pg, +1);
    sync_policies(p, page);
}

void kvpi_set_ahead(kvp_pager *p, uint32_t page, bool is_ahead)
{
    kvpi_page_at(&p->pages, page)->is_ahead = is_ahead;
    sync_policies(p, page);
}

void kvpi_set_copy(kvp_pager *p, uint32_t page, kvpi_lower lower, const kvpi_copy *copy)
{
    kvpi_page *pg = kvpi_page_at(&p->pages, page);
    account(p, pg, -1);
    pg->copy[lower] = *copy;
    account(p, pg, +1);
    sync_policies(p, page);
}

static void free_slot(kvp_pager *p, kvpi_lower lower, kvp_slot slot)
{
    if (slot == KVP_SLOT_NONE)
        return;
    if (lower == KVPI_DISK) {
        kvpi_tier_slot_free(p->lower[lower], slot);
        p->promised++;
        return;
    }
    pthread_mutex_lock(&p->zram_lock);
    kvpi_tier_slot_free(p->lower[lower], slot);
    pthread_mutex_unlock(&p->zram_lock);
    p->zram_is_full = false;
}

void kvpi_drop_copy(kvp_pager *p, uint32_t page, kvpi_lower lower)
{
    kvp_slot slot = kvpi_page_at(&p->pages, page)->copy[lower].slot;
    kvpi_set_copy(p, page, lower, &(kvpi_copy){.slot = KVP_SLOT_NONE});
    free_slot(p, lower, slot);
}

void kvpi_page_invalidate(kvp_pager *p, uint32_t page)
{
    kvpi_page *pg = kvpi_page_at(&p->pages, page);
    assert(kvpi_page_is(pg, KVPI_PAGE_RESIDENT));
    assert(!kvpi_page_is(pg, KVPI_PAGE_WRITING | KVPI_PAGE_MOVING | KVPI_PAGE_SEALED));
    if (pg->copy[KVPI_ZRAM].slot != KVP_SLOT_NONE)
        kvpi_drop_copy(p, page, KVPI_ZRAM);
    kvpi_copy stale = {.slot = pg->copy[KVPI_DISK].slot}; /* keeps its place */
    kvpi_set_copy(p, page, KVPI_DISK, &stale);
    kvpi_set_flags(p, page, 0, KVPI_PAGE_SUMMED);
    pg->serial = p->next_serial++;
}

void kvpi_page_evict(kvp_pager *p, uint32_t page)
{
    kvpi_page *pg = kvpi_page_at(&p->pages, page);
    assert(pg->pins == 0 && kvpi_page_has_copy(pg) && !kvpi_page_is(pg, KVPI_PAGE_WRITING));
    uint32_t frame = pg->frame;
    kvpi_set_flags(p, page, 0, KVPI_PAGE_RESIDENT);
    pg->frame = UINT32_MAX;
    kvpi_frame_give(p, frame);
    p->stats.evictions++;
}

void kvpi_page_free(kvp_pager *p, uint32_t page)
{
    kvpi_page *pg = kvpi_page_at(&p->pages, page);
    if (pg->is_ahead)
        kvpi_ahead_remove(p, page, false);
    while (kvpi_page_is(pg, KVPI_PAGE_LOADING | KVPI_PAGE_WRITING | KVPI_PAGE_MOVING))
        if (kvpi_wait(p, KVP_FOREVER))
            return; /* UNTESTED: the disk engine is broken; what it may still write to is not reused
                     */
    assert(pg->pins == 0);
    uint32_t frame = pg->frame;
    kvpi_set_flags(p, page, 0, KVPI_PAGE_RESIDENT);
    if (frame != UINT32_MAX)
        kvpi_frame_give(p, frame);
    pg->frame = UINT32_MAX;
    kvpi_drop_copy(p, page, KVPI_ZRAM);
    kvpi_drop_copy(p, page, KVPI_DISK);
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
        .first_position = page->first_position,
        .layer = layer,
        .group = page->lane - l->lane_base,
        .format = (uint32_t)l->dtype,
        .n_valid = n_valid,
    };
    return kvpi_identity_seed(&id);
}

void kvpi_page_name(const kvp_pager *p, const kvpi_page *page, char *buf, size_t n)
{
    uint32_t layer;
    const kvpi_layer *l = kvpi_geometry_layer_of(&p->geometry, page->lane, &layer);
    uint32_t group = page->lane - l->lane_base;
    uint32_t head = group * l->page_heads;
    snprintf(buf, n, "the page with tokens %llu..%llu of sequence %u, layer %u, KV heads %u..%u",
             (unsigned long long)page->first_position,
             (unsigned long long)page->first_position + (page->n_stored ? page->n_stored - 1u : 0u),
             page->seq_id, layer, head, head + kvpi_layer_group_heads(l, group) - 1);
}
