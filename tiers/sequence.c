/* sequence.c - sequences: create, fork, destroy, truncate, evict, and what they look like. */
#include "alloc/mem.h"
#include "tiers/pager.h"
#include "tiers/trace.h"

#include <string.h>

/* ---- all sequences: a list, and chains by number; with the lock held ---- */

static kvp_seq **chain_of(const kvp_pager *p, uint32_t id)
{
    return &p->chains[id & (p->n_chains - 1)];
}

/* Twice as many chains, if there is memory; numbers ascend, so all get as long. */
static void add_chains(kvp_pager *p)
{
    kvp_seq **chains, **old = p->chains;
    uint32_t n = p->n_chains ? 2 * p->n_chains : 16;
    if (p->n_seqs < p->n_chains || n > UINT32_MAX / 2 ||
        kvpi_alloc(&p->table_mem, n * sizeof *chains, "sequences", &chains))
        return;
    kvpi_free(&p->table_mem, old, p->n_chains * sizeof *old);
    p->chains = chains;
    p->n_chains = n;
    for (kvp_seq *seq = p->seqs; seq; seq = seq->next) {
        kvp_seq **chain = chain_of(p, seq->id);
        seq->chained = *chain;
        *chain = seq;
    }
}

static kvp_status enlist(kvp_pager *p, kvp_seq *seq, kvp_group *group)
{
    add_chains(p);
    if (!p->n_chains)
        return kvp_fail(KVP_E_NOMEM, "out of memory for the table of sequences");
    seq->account = group;
    kvpi_account_ref(group);
    group->n_seqs++;
    seq->id = p->next_seq_id++;
    kvp_seq **chain = chain_of(p, seq->id);
    seq->chained = *chain;
    *chain = seq;
    seq->next = p->seqs;
    if (seq->next)
        seq->next->prev = seq;
    p->seqs = seq;
    p->n_seqs++;
    return KVP_OK;
}

static void strike(kvp_pager *p, kvp_seq *seq)
{
    kvp_seq **at = chain_of(p, seq->id);
    while (*at != seq)
        at = &(*at)->chained;
    *at = seq->chained;
    *(seq->prev ? &seq->prev->next : &p->seqs) = seq->next;
    if (seq->next)
        seq->next->prev = seq->prev;
    p->n_seqs--;
    kvpi_seq_group(seq)->n_seqs--;
    kvpi_account_unref(seq->account);
}

kvp_seq *kvpi_seq_find(kvp_pager *p, uint32_t id)
{
    kvp_seq *seq = p->n_chains ? *chain_of(p, id) : NULL;
    while (seq && seq->id != id)
        seq = seq->chained;
    return seq;
}

/* ---- create and destroy ---- */

kvp_status kvp_seq_create_in(kvp_group *group, kvp_seq **out)
{
    if (!group || !out)
        return kvp_fail(KVP_E_INVALID, "kvp_seq_create_in: group or seq is NULL");
    kvp_pager *p = group->pager;
    kvp_seq *seq;
    kvp_status status = kvpi_seq_new(p, &p->geometry, &p->table_mem, &seq);
    if (status)
        return status;
    kvpi_lock(p);
    status = enlist(p, seq, group);
    if (!status)
        kvpi_trace(p, &(kvp_trace_event){.kind = KVP_TRACE_SEQ_CREATED, .seq = seq->id});
    kvpi_unlock(p);
    if (status)
        kvpi_seq_delete(seq, &p->geometry, &p->table_mem);
    else
        *out = seq;
    return status;
}

kvp_status kvp_seq_create(kvp_pager *pager, kvp_seq **out)
{
    if (!pager || !out)
        return kvp_fail(KVP_E_INVALID, "kvp_seq_create: pager or seq is NULL");
    return kvp_seq_create_in(pager->root, out);
}

/* ---- fork ---- */

static kvp_status copy_tables(const kvp_seq *parent, kvp_seq *child)
{
    kvp_pager *p = parent->pager;
    for (uint32_t i = 0; i < p->geometry.n_lanes; i++) {
        const kvpi_lane *from = &parent->lanes[i];
        kvpi_lane *to = &child->lanes[i];
        kvp_status status = kvpi_lane_reserve(to, &p->table_mem, from->n_entries);
        if (status)
            return status;
        if (from->n_entries)
            memcpy(to->entries, from->entries, from->n_entries * sizeof *from->entries);
        to->n_entries = from->n_entries;
        to->n_tokens = from->n_tokens;
    }
    return KVP_OK;
}

/* What two sequences share is their group's: has it room for that, and the min of the first? */
static kvp_status check_share(kvp_pager *p, const kvp_seq *parent)
{
    kvp_group *account = parent->account;
    uint64_t rise;
    if (!account->is_seq)
        return KVP_OK;
    while ((rise = kvpi_account_rise(account, KVP_TIER_RAM)) >
           kvpi_account_room(account->parent, KVP_TIER_RAM)) {
        uint32_t n = (uint32_t)rise;
        kvpi_claim claim = {.account = account->parent, .n_min = n, .n_max = n};
        kvp_status status = kvpi_hold(p, &claim, KVP_FOREVER, &n); /* others give room back */
        if (status)
            return status;
        kvpi_unhold(p, claim.account, n, false);
    }
    static const kvp_tier_id below[] = {KVP_TIER_ZRAM, KVP_TIER_DISK};
    for (size_t i = 0; i < 2; i++)
        if (kvpi_account_rise(account, below[i]) > kvpi_account_room(account->parent, below[i]))
            return kvp_fail(KVP_E_NOSPACE,
                            "fork: \"%s\" has no room for the pages that are shared beside what "
                            "is kept for %s: lower the min of the sequence",
                            account->parent->name, account->name);
    return KVP_OK;
}

/* Those without a place on disk come last: what they are promised is of what is left then. */
static void share_pages(kvp_pager *p, const kvp_seq *child, bool homeless)
{
    for (uint32_t i = 0; i < p->geometry.n_lanes; i++)
        for (uint32_t e = 0; e < child->lanes[i].n_entries; e++) {
            uint32_t page = child->lanes[i].entries[e].page;
            if (kvpi_page_is_homeless(kvpi_page_at(&p->pages, page)) == homeless)
                kvpi_page_share(p, page);
        }
}

kvp_status kvp_seq_fork(const kvp_seq *parent, kvp_seq **out)
{
    if (!parent || !out)
        return kvp_fail(KVP_E_INVALID, "kvp_seq_fork: parent or child is NULL");
    kvp_pager *p = parent->pager;
    kvp_seq *child;
    kvp_status status = kvpi_seq_new(p, &p->geometry, &p->table_mem, &child);
    if (status)
        return status;
    status = copy_tables(parent, child);
    if (status) {
        kvpi_seq_delete(child, &p->geometry, &p->table_mem);
        return status;
    }
    kvpi_lock(p);
    status = check_share(p, parent);
    if (!status)
        status = enlist(p, child, kvpi_seq_group(parent));
    if (!status) {
        share_pages(p, child, false);
        share_pages(p, child, true);
        kvpi_trace(p, &(kvp_trace_event){
                          .kind = KVP_TRACE_SEQ_FORKED, .seq = child->id, .parent = parent->id});
    }
    kvpi_unlock(p);
    if (status)
        kvpi_seq_delete(child, &p->geometry, &p->table_mem);
    else
        *out = child;
    return status;
}

void kvp_seq_destroy(kvp_seq *seq)
{
    if (!seq)
        return;
    kvp_pager *p = seq->pager;
    kvpi_lock(p);
    if (p->ahead_seq == seq)
        p->ahead_seq = NULL;
    kvpi_wanted_drop(seq);
    for (uint32_t i = 0; i < p->geometry.n_lanes; i++)
        kvpi_lane_cut(p, seq, i, 0);
    strike(p, seq);
    kvpi_trace(p, &(kvp_trace_event){.kind = KVP_TRACE_SEQ_ENDED, .seq = seq->id});
    kvpi_unlock(p);
    kvpi_seq_delete(seq, &p->geometry, &p->table_mem);
}

kvpi_walk kvpi_seq_walk(const kvp_seq *seq, uint32_t layer)
{
    const kvpi_geometry *g = &seq->pager->geometry;
    const kvpi_layer *l = &g->layers[layer];
    return (kvpi_walk){.layer = l,
                       .lanes = &seq->lanes[l->lane_base],
                       .end = UINT64_MAX,
                       .page_tokens = g->page_tokens,
                       .segment_pages = KVP_SEGMENT_PAGES,
                       .end_group = l->n_groups};
}

/* ---- the layer that is being filled ---- */

static void cool_layer(kvp_seq *seq)
{
    kvp_pager *p = seq->pager;
    if (seq->hot_layer == UINT32_MAX)
        return;
    kvpi_walk walk = kvpi_seq_walk(seq, seq->hot_layer);
    kvpi_lock(p);
    for (kvpi_cursor c = {0}; kvpi_walk_settle(&walk, &c); c.entry++)
        kvpi_set_hot(p, kvpi_walk_page(&walk, c), false);
    seq->hot_layer = UINT32_MAX;
    kvpi_unlock(p);
}

void kvpi_seq_fill(kvp_seq *seq, uint32_t layer, size_t n_tokens)
{
    if (seq->hot_layer == layer)
        return;
    cool_layer(seq);
    if (n_tokens < seq->pager->geometry.page_tokens)
        return;
    kvpi_lock(seq->pager); /* read-ahead of others looks at it */
    seq->hot_layer = layer;
    kvpi_unlock(seq->pager);
}

void kvpi_seq_filled(kvp_seq *seq)
{
    bool is_level = true;
    for (uint32_t i = 1; i < seq->pager->geometry.n_lanes; i++)
        is_level = is_level && seq->lanes[i].n_tokens == seq->lanes[0].n_tokens;
    if (is_level)
        cool_layer(seq);
}

kvp_status kvp_seq_reserve(kvp_seq *seq, uint64_t n_tokens)
{
    if (!seq)
        return kvp_fail(KVP_E_INVALID, "kvp_seq_reserve: seq is NULL");
    kvp_pager *p = seq->pager;
    uint64_t n_pages = n_tokens / p->geometry.page_tokens;
    n_pages += n_tokens % p->geometry.page_tokens > 0;
    if (n_pages > UINT32_MAX / 2 / p->geometry.n_lanes)
        return kvp_fail(KVP_E_NOMEM, "kvp_seq_reserve: %llu tokens are too many",
                        (unsigned long long)n_tokens);
    uint64_t n_new = 0;
    kvp_status status = KVP_OK;
    kvpi_lock(p);
    for (uint32_t i = 0; i < p->geometry.n_lanes && !status; i++) {
        status = kvpi_lane_reserve(&seq->lanes[i], &p->table_mem, (uint32_t)n_pages);
        if (n_pages > seq->lanes[i].n_entries)
            n_new += n_pages - seq->lanes[i].n_entries;
    }
    if (!status)
        status = kvpi_page_table_reserve(&p->pages, (uint32_t)n_new);
    kvpi_unlock(p);
    return status;
}

void kvpi_lane_cut(kvp_pager *p, kvp_seq *seq, uint32_t lane_no, uint64_t n)
{
    uint32_t page_tokens = p->geometry.page_tokens;
    kvpi_lane *lane = &seq->lanes[lane_no];
    while (lane->n_entries &&
           kvpi_lane_first_position(lane, lane->n_entries - 1, page_tokens) >= n) {
        uint32_t page = lane->entries[lane->n_entries - 1].page;
        kvpi_lane_pop(lane, page_tokens); /* in order whenever releasing drops the lock */
        kvpi_page_release(p, page);
    }
    lane->n_tokens = n < lane->n_tokens ? n : lane->n_tokens;
}

/* Would the lane, cut to n tokens, still end with a page? Not if those were evicted. */
static kvp_status check_cut(const kvp_seq *seq, uint32_t lane_no, uint64_t n)
{
    const kvpi_lane *lane = &seq->lanes[lane_no];
    if (n == 0 || n >= lane->n_tokens)
        return KVP_OK;
    uint32_t page_tokens = seq->pager->geometry.page_tokens;
    uint32_t i = kvpi_lane_find(lane, n - 1, page_tokens);
    if (i < lane->n_entries && kvpi_lane_first_position(lane, i, page_tokens) < n)
        return KVP_OK;
    return kvp_fail(KVP_E_RANGE,
                    "truncate: the tokens before %llu were evicted; truncate to 0 or to where "
                    "tokens are left",
                    (unsigned long long)n);
}

/* With the lock held: the thread of tickets may be at it. */
static kvp_status check_not_in_use(const kvp_seq *seq, const char *what)
{
    if (seq->n_pins)
        return kvp_fail(KVP_E_BUSY,
                        "%s: %u pages of the sequence are pinned, or shown by linear views; unpin "
                        "them, and close its linear views first",
                        what, seq->n_pins);
    if (seq->n_tickets)
        return kvp_fail(KVP_E_BUSY,
                        "%s: %u tickets of the sequence are open; take or cancel them "
                        "first",
                        what, seq->n_tickets);
    if (seq->n_scans)
        return kvp_fail(KVP_E_BUSY, "%s: %u scans of the sequence are open; close them first", what,
                        seq->n_scans);
    return KVP_OK;
}

kvp_status kvp_seq_truncate(kvp_seq *seq, uint64_t n_tokens)
{
    if (!seq)
        return kvp_fail(KVP_E_INVALID, "truncate: seq is NULL");
    kvp_pager *p = seq->pager;
    kvpi_lock(p);
    kvp_status status = check_not_in_use(seq, "truncate");
    for (uint32_t i = 0; i < p->geometry.n_lanes && !status; i++)
        status = check_cut(seq, i, n_tokens);
    for (uint32_t i = 0; i < p->geometry.n_lanes && !status; i++)
        kvpi_lane_cut(p, seq, i, n_tokens);
    kvpi_unlock(p);
    return status;
}

static void evict_from_lane(kvp_pager *p, kvpi_lane *lane, uint64_t begin, uint64_t end)
{
    uint32_t page_tokens = p->geometry.page_tokens;
    uint32_t first = kvpi_lane_find(lane, begin, page_tokens);
    if (first < lane->n_entries && kvpi_lane_first_position(lane, first, page_tokens) < begin)
        first++;
    uint32_t last = first;
    while (last + 1 < lane->n_entries && kvpi_lane_end_position(lane, last, page_tokens) <= end)
        last++;
    for (; first < last; last--) { /* out of the table first: releasing may drop the lock */
        uint32_t page = lane->entries[first].page;
        kvpi_lane_remove(lane, first, first + 1);
        kvpi_page_release(p, page);
    }
}

kvp_status kvp_seq_evict(kvp_seq *seq, uint32_t layer, uint64_t begin, uint64_t end)
{
    if (!seq)
        return kvp_fail(KVP_E_INVALID, "evict: seq is NULL");
    kvp_pager *p = seq->pager;
    if (layer != KVP_ALL_LAYERS && layer >= p->geometry.n_layers)
        return kvp_fail(KVP_E_INVALID, "evict: layer %u, but there are %u", layer,
                        p->geometry.n_layers);
    uint32_t lane = 0, lanes_end = p->geometry.n_lanes;
    if (layer != KVP_ALL_LAYERS) {
        lane = p->geometry.layers[layer].lane_base;
        lanes_end = lane + p->geometry.layers[layer].n_groups;
    }
    kvpi_lock(p);
    kvp_status status = check_not_in_use(seq, "evict");
    for (; lane < lanes_end && !status; lane++)
        evict_from_lane(p, &seq->lanes[lane], begin, end);
    kvpi_unlock(p);
    return status;
}

kvp_status kvp_seq_lost(kvp_seq *seq, uint64_t *first, uint64_t *n_tokens)
{
    if (!seq || !first || !n_tokens)
        return kvp_fail(KVP_E_INVALID, "kvp_seq_lost: an argument is NULL");
    kvp_pager *p = seq->pager;
    uint64_t begin = UINT64_MAX, end = 0;
    kvpi_lock(p);
    for (uint32_t i = 0; i < p->geometry.n_lanes && p->stats.pages_lost; i++) {
        const kvpi_lane *lane = &seq->lanes[i];
        for (uint32_t e = 0; e < lane->n_entries; e++) {
            if (!kvpi_page_is(kvpi_page_at(&p->pages, lane->entries[e].page), KVPI_PAGE_LOST))
                continue;
            uint64_t b = kvpi_lane_first_position(lane, e, p->geometry.page_tokens);
            uint64_t e_end = kvpi_lane_end_position(lane, e, p->geometry.page_tokens);
            begin = b < begin ? b : begin;
            end = e_end > end ? e_end : end;
        }
    }
    kvpi_unlock(p);
    *first = end ? begin : 0;
    *n_tokens = end ? end - begin : 0;
    return KVP_OK;
}

uint64_t kvp_seq_layer_length(const kvp_seq *seq, uint32_t layer)
{
    if (layer >= seq->pager->geometry.n_layers)
        return 0;
    const kvpi_layer *l = &seq->pager->geometry.layers[layer];
    uint64_t n = UINT64_MAX;
    for (uint32_t g = 0; g < l->n_groups; g++) {
        uint64_t lane = seq->lanes[l->lane_base + g].n_tokens;
        n = lane < n ? lane : n;
    }
    return n;
}

uint64_t kvp_seq_length(const kvp_seq *seq)
{
    uint64_t n = UINT64_MAX;
    for (uint32_t i = 0; i < seq->pager->geometry.n_lanes; i++)
        n = seq->lanes[i].n_tokens < n ? seq->lanes[i].n_tokens : n;
    return n;
}

uint32_t kvp_seq_page_count(const kvp_seq *seq, uint32_t layer)
{
    if (layer >= seq->pager->geometry.n_layers)
        return 0;
    return seq->lanes[seq->pager->geometry.layers[layer].lane_base].n_entries;
}

const kvp_mem *kvp_pager_mem(const kvp_pager *pager)
{
    return &pager->mem;
}

kvp_pager *kvp_seq_pager(const kvp_seq *seq)
{
    return seq->pager;
}

kvp_status kvp_seq_layer_info(const kvp_seq *seq, uint32_t layer, kvp_layer_info *info)
{
    const kvpi_geometry *g = &seq->pager->geometry;
    if (!info || layer >= g->n_layers)
        return kvp_fail(KVP_E_INVALID, "layer %u, but there are %u", layer, g->n_layers);
    const kvpi_layer *l = &g->layers[layer];
    *info = (kvp_layer_info){.kind = {.n_kv_heads = l->n_kv_heads,
                                      .k_width = l->k_width,
                                      .v_width = l->v_width,
                                      .dtype = l->dtype},
                             .lookup = l->lookup,
                             .page_tokens = g->page_tokens,
                             .page_heads = l->page_heads};
    return KVP_OK;
}

static kvp_page_info page_info(const kvp_pager *p, const kvpi_lane *lane, uint32_t i)
{
    const kvpi_page *pg = kvpi_page_at(&p->pages, lane->entries[i].page);
    kvp_page_info info = {.first_position =
                              kvpi_lane_first_position(lane, i, p->geometry.page_tokens),
                          .n_valid = kvpi_lane_n_valid(lane, i, p->geometry.page_tokens),
                          .is_open = !kvpi_page_is(pg, KVPI_PAGE_SEALED),
                          .is_lost = kvpi_page_is(pg, KVPI_PAGE_LOST)};
    info.tier = kvpi_page_is(pg, KVPI_PAGE_RESIDENT)  ? KVP_TIER_RAM
                : kvpi_page_is(pg, KVPI_PAGE_IN_ZRAM) ? KVP_TIER_ZRAM
                                                      : KVP_TIER_DISK;
    return info;
}

kvp_status kvp_seq_pages(kvp_seq *seq, kvp_page_info *infos, size_t max, size_t *n_pages)
{
    if (!seq || !n_pages || (max && !infos))
        return kvp_fail(KVP_E_INVALID, "kvp_seq_pages: an argument is NULL");
    kvp_pager *p = seq->pager;
    size_t n = 0;
    kvpi_lock(p);
    for (uint32_t layer = 0; layer < p->geometry.n_layers; layer++) {
        const kvpi_layer *l = &p->geometry.layers[layer];
        for (uint32_t g = 0; g < l->n_groups; g++) {
            const kvpi_lane *lane = &seq->lanes[l->lane_base + g];
            for (uint32_t i = 0; i < lane->n_entries; i++, n++) {
                if (n >= max)
                    continue;
                infos[n] = page_info(p, lane, i);
                infos[n].layer = layer;
                infos[n].group = g;
            }
        }
    }
    kvpi_unlock(p);
    *n_pages = n;
    return KVP_OK;
}
