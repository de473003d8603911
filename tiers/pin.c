/* pin.c - pins for callers: pages made resident, and held until the view is unpinned.
 *
 * A pin is a ticket that somebody carries on until it is over: the caller of kvp_seq_pin(), who
 * waits at once; or for a ticket of kvp_seq_prepare() whoever polls it, waits for it, or the thread
 * behind kvp_pager_eventfd() (ticket.c).
 *
 * Invariants
 *  T1  Frames are reserved all at once, before the first page is pinned: two tickets never wait for
 *      each other's.
 *  T2  view.pages[i].handle is page i from the beginning; the first n_pinned of them are pinned,
 *      and besides, while the ticket has frames, those that are marked as kept. */
#include "tiers/pager.h"

/* ---- which pages ---- */

static kvp_status find_entries(kvp_ticket *t, uint64_t first, uint64_t n_tokens)
{
    kvp_pager *p = t->seq->pager;
    uint64_t length = kvp_seq_layer_length(t->seq, t->layer);
    if (!n_tokens || first >= length || n_tokens > length - first)
        return kvp_fail(KVP_E_RANGE, "pin: tokens %llu..%llu, but layer %u has %llu",
                        (unsigned long long)first, (unsigned long long)(first + n_tokens), t->layer,
                        (unsigned long long)length);
    const kvpi_lane *lane = &t->seq->lanes[p->geometry.layers[t->layer].lane_base];
    uint32_t page_tokens = p->geometry.page_tokens;
    t->begin = t->end = kvpi_lane_find(lane, first, page_tokens);
    while (t->end < lane->n_entries &&
           kvpi_lane_first_position(lane, t->end, page_tokens) < first + n_tokens)
        t->end++;
    if (t->begin == t->end)
        return kvp_fail(KVP_E_RANGE, "pin: tokens %llu..%llu were evicted",
                        (unsigned long long)first, (unsigned long long)(first + n_tokens));
    return KVP_OK;
}

/* All lanes of a layer have the same entries. */
static void list_pages(kvp_ticket *t, const kvpi_layer *l)
{
    uint32_t n = t->end - t->begin;
    for (size_t i = 0; i < t->n_pages; i++) {
        const kvpi_lane *lane = &t->seq->lanes[l->lane_base + i / n];
        t->view.pages[i].handle = lane->entries[t->begin + i % n].page;
    }
}

kvp_status kvpi_pin_begin(kvp_ticket *t, kvp_seq *seq, uint32_t layer, uint64_t first,
                          uint64_t n_tokens)
{
    kvp_view empty = {.pages = t->view.pages, .max_pages = t->view.max_pages};
    kvp_pager *p = seq->pager;
    *t = (kvp_ticket){.view = empty, .seq = seq, .layer = layer};
    if (layer >= p->geometry.n_layers)
        return kvp_fail(KVP_E_INVALID, "pin: layer %u, but there are %u", layer,
                        p->geometry.n_layers);
    kvp_status status = find_entries(t, first, n_tokens);
    if (status)
        return status;
    const kvpi_layer *l = &p->geometry.layers[layer];
    t->n_pages = (size_t)(t->end - t->begin) * l->n_groups;
    if (t->n_pages > t->view.max_pages || !t->view.pages) {
        t->view.n_pages = t->n_pages;
        return kvp_fail(KVP_E_INVALID, "pin: view->pages has room for %zu pages, %zu are needed",
                        t->view.max_pages, t->n_pages);
    }
    uint32_t n_frames = kvpi_account_frames(seq->account);
    if (t->n_pages > n_frames)
        return kvp_fail(KVP_E_NOSPACE,
                        "pin: %zu pages, but the RAM budget holds %u; pin fewer, or scan",
                        t->n_pages, n_frames);
    list_pages(t, l);
    return KVP_OK;
}

/* ---- frames ---- */

/* Without a disk, a resident page that has no copy below is in the ledger as stuck, and stays so
 * while it is pinned: a pin does not take a frame for it once more. */
static bool is_stuck(const kvp_ticket *t, size_t i)
{
    const kvp_pager *p = t->seq->pager;
    const kvpi_page *pg = kvpi_page_at(&p->pages, t->view.pages[i].handle);
    return !p->lower[KVPI_DISK] && kvpi_page_is_dirty(pg) && !kvpi_page_is(pg, KVPI_PAGE_WRITING);
}

static uint32_t frames_taken(const kvp_ticket *t)
{
    uint32_t n = 0;
    for (size_t i = 0; i < t->n_pages; i++)
        n += !is_stuck(t, i);
    return n;
}

static void keep(kvp_ticket *t, size_t i)
{
    t->view.pages[i].index = true;
    kvpi_pin(t->seq->pager, t->view.pages[i].handle);
}

/* Keep the stuck pages stuck while others are waited for. */
static void keep_stuck(kvp_ticket *t)
{
    for (size_t i = 0; i < t->n_pages; i++) {
        t->view.pages[i].index = false;
        if (is_stuck(t, i))
            keep(t, i);
    }
}

static void release_kept(kvp_ticket *t)
{
    for (size_t i = 0; i < t->n_pages; i++)
        if (t->view.pages[i].index)
            kvpi_unpin(t->seq->pager, t->view.pages[i].handle);
}

/* Reserve what the pin takes; what that is may change while it is waited for. */
static kvp_status hold(kvp_ticket *t, uint64_t deadline_ns)
{
    for (;;) {
        uint32_t n = frames_taken(t);
        kvpi_claim claim = {.account = t->seq->account,
                            .n_min = n,
                            .n_max = n,
                            .is_user = true,
                            .waits_for_views = t->is_prepared};
        kvp_status status = kvpi_hold(t->seq->pager, &claim, deadline_ns, &t->view.held);
        if (status)
            return status;
        if (frames_taken(t) == n)
            break;
        kvpi_unhold(t->seq->pager, claim.account, t->view.held, true);
    }
    t->has_frames = true;
    keep_stuck(t);
    return KVP_OK;
}

/* ---- pages ---- */

/* Start as many faults as can be started: they overlap while the first is waited for. What others
 * decode before its turn must not leave before it. */
static void start_faults(kvp_ticket *t)
{
    for (size_t i = t->n_pinned; i < t->n_pages; i++) {
        const kvpi_page *pg = kvpi_page_at(&t->seq->pager->pages, t->view.pages[i].handle);
        if (kvpi_fault_start(t->seq->pager, t->view.pages[i].handle, false))
            break; /* no frame or transfer now, or an error that the pin itself will meet */
        if (pg->form_codec != KVPI_CODEC_RAW && !t->view.pages[i].index)
            keep(t, i);
    }
}

static void fill_view(kvp_ticket *t)
{
    kvp_pager *p = t->seq->pager;
    uint32_t n = t->end - t->begin;
    for (size_t i = 0; i < t->n_pages; i++)
        kvpi_fill_view(p, t->seq, t->layer, (uint32_t)(i / n), t->begin + (uint32_t)(i % n),
                       &t->view.pages[i]);
    t->view.seq = t->seq;
    t->view.n_pages = t->n_pages;
    t->view.n_groups = p->geometry.layers[t->layer].n_groups;
    kvpi_view_begin(&t->view);
}

kvp_status kvpi_pin_advance(kvp_ticket *t, uint64_t deadline_ns)
{
    kvp_status status = t->has_frames ? KVP_OK : hold(t, deadline_ns);
    while (!status && t->n_pinned < t->n_pages) {
        start_faults(t);
        status = kvpi_fault_in(t->seq, t->view.pages[t->n_pinned].handle, deadline_ns);
        t->n_pinned += !status;
    }
    if (!status) {
        release_kept(t);
        fill_view(t);
    }
    return status;
}

void kvpi_pin_abandon(kvp_ticket *t)
{
    if (!t->has_frames)
        return;
    release_kept(t);
    while (t->n_pinned > 0)
        kvpi_unpin(t->seq->pager, t->view.pages[--t->n_pinned].handle);
    kvpi_unhold(t->seq->pager, t->seq->account, t->view.held, true);
    t->has_frames = false;
}

/* ---- pin and wait ---- */

kvp_status kvp_seq_pin(kvp_seq *seq, uint32_t layer, uint64_t first, uint64_t n_tokens,
                       uint64_t deadline_ns, kvp_view *view)
{
    if (!seq || !view)
        return kvp_fail(KVP_E_INVALID, "pin: seq or view is NULL");
    kvp_ticket t = {.view = *view};
    kvpi_lock(seq->pager);
    kvp_status status = kvpi_pin_begin(&t, seq, layer, first, n_tokens);
    if (!status) {
        status = kvpi_pin_advance(&t, deadline_ns);
        if (status)
            kvpi_pin_abandon(&t);
    }
    kvpi_unlock(seq->pager);
    *view = t.view;
    return status;
}
