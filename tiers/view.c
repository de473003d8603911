/* view.c - pins for callers: pages held resident until the view is unpinned. */
#include "tiers/pager.h"

void kvpi_fill_view(kvp_pager *p, const kvp_seq *seq, uint32_t layer, uint32_t group,
                    uint32_t index, kvp_page_view *view)
{
    const kvpi_layer *l = &p->geometry.layers[layer];
    const kvpi_lane *lane = &seq->lanes[l->lane_base + group];
    uint32_t page = lane->entries[index].page;
    const char *frame = kvpi_frame_addr(p, kvpi_page_at(&p->pages, page)->frame);
    uint32_t n_heads = kvpi_layer_group_heads(l, group);
    size_t k_bytes =
        (size_t)n_heads * p->geometry.page_tokens * l->k_width * kvp_dtype_bytes(l->dtype);
    *view = (kvp_page_view){.k = frame,
                            .v = frame + k_bytes,
                            .first_position =
                                kvpi_lane_first_position(lane, index, p->geometry.page_tokens),
                            .n_valid = kvpi_lane_n_valid(lane, index, p->geometry.page_tokens),
                            .index = index,
                            .layer = layer,
                            .first_head = group * l->page_heads,
                            .n_heads = n_heads,
                            .page_tokens = p->geometry.page_tokens,
                            .k_width = l->k_width,
                            .v_width = l->v_width,
                            .dtype = l->dtype,
                            .handle = page};
}

/* The pages of a pin: entries [begin, end) of every lane of the layer. */
typedef struct span {
    kvp_pager *p;
    kvp_seq *seq;
    uint32_t layer;
    const kvpi_layer *l;
    uint32_t begin, n; /* per lane: all lanes of a layer have the same entries */
    kvp_page_view *views;
} span;

static uint32_t span_page(const span *s, size_t i)
{
    const kvpi_lane *lane = &s->seq->lanes[s->l->lane_base + i / s->n];
    return lane->entries[s->begin + i % s->n].page;
}

static size_t span_pages(const span *s)
{
    return (size_t)s->n * s->l->n_groups;
}

static kvp_status find_span(kvp_seq *seq, uint32_t layer, uint64_t first, uint64_t n_tokens,
                            span *s)
{
    *s = (span){.p = seq->pager, .seq = seq, .layer = layer};
    if (layer >= s->p->geometry.n_layers)
        return kvp_fail(KVP_E_INVALID, "pin: layer %u, but there are %u", layer,
                        s->p->geometry.n_layers);
    s->l = &s->p->geometry.layers[layer];
    uint64_t length = kvp_seq_layer_length(seq, layer);
    if (!n_tokens || first >= length || n_tokens > length - first)
        return kvp_fail(KVP_E_RANGE, "pin: tokens %llu..%llu, but layer %u has %llu",
                        (unsigned long long)first, (unsigned long long)(first + n_tokens), layer,
                        (unsigned long long)length);
    const kvpi_lane *lane = &seq->lanes[s->l->lane_base];
    uint32_t page_tokens = s->p->geometry.page_tokens, end;
    s->begin = end = kvpi_lane_find(lane, first, page_tokens);
    while (end < lane->n_entries &&
           kvpi_lane_first_position(lane, end, page_tokens) < first + n_tokens)
        end++;
    s->n = end - s->begin;
    if (!s->n)
        return kvp_fail(KVP_E_RANGE, "pin: tokens %llu..%llu were evicted",
                        (unsigned long long)first, (unsigned long long)(first + n_tokens));
    return KVP_OK;
}

/* Start as many faults as can be started: they overlap while the first is waited for. */
static void start_faults(const span *s, size_t from)
{
    for (size_t i = from; i < span_pages(s); i++)
        if (kvpi_fault_start(s->p, span_page(s, i), false))
            break; /* no frame or transfer now, or an error that the pin itself will meet */
}

static kvp_status pin_pages(const span *s, uint64_t deadline_ns, size_t *n_pinned)
{
    kvp_status status = KVP_OK;
    for (; *n_pinned < span_pages(s) && !status; *n_pinned += !status) {
        start_faults(s, *n_pinned);
        status = kvpi_fault_in(s->p, span_page(s, *n_pinned), deadline_ns);
    }
    return status;
}

/* Without a disk, a resident page that has no copy below is in the ledger as stuck, and stays so
 * while it is pinned: a pin does not take a frame for it once more. */
static bool is_stuck(const span *s, size_t i)
{
    const kvpi_page *pg = kvpi_page_at(&s->p->pages, span_page(s, i));
    return !s->p->lower[KVPI_DISK] && kvpi_page_is_dirty(pg) &&
           !kvpi_page_is(pg, KVPI_PAGE_WRITING);
}

static uint32_t frames_taken(const span *s)
{
    uint32_t n = 0;
    for (size_t i = 0; i < span_pages(s); i++)
        n += !is_stuck(s, i);
    return n;
}

/* Keep the stuck pages stuck while others are waited for; the view's handles remember which. */
static void keep_stuck(const span *s)
{
    for (size_t i = 0; i < span_pages(s); i++) {
        s->views[i].handle = is_stuck(s, i) ? span_page(s, i) : KVP_PAGE_NONE;
        if (s->views[i].handle != KVP_PAGE_NONE)
            kvpi_pin(s->p, s->views[i].handle);
    }
}

static void release_stuck(const span *s)
{
    for (size_t i = 0; i < span_pages(s); i++)
        if (s->views[i].handle != KVP_PAGE_NONE)
            kvpi_unpin(s->p, s->views[i].handle);
}

/* Reserve what the pin takes; what that is may change while it is waited for. */
static kvp_status hold_span(const span *s, uint64_t deadline_ns, uint32_t *held)
{
    for (;;) {
        uint32_t n = frames_taken(s);
        kvpi_claim claim = {.n_min = n, .n_max = n, .is_user = true};
        kvp_status status = kvpi_hold(s->p, &claim, deadline_ns, held);
        if (status || frames_taken(s) == n)
            return status;
        kvpi_unhold(s->p, *held, true);
    }
}

static kvp_status pin_span(const span *s, uint64_t deadline_ns, uint32_t *held)
{
    size_t n = span_pages(s), n_pinned = 0;
    if (n > s->p->n_frames)
        return kvp_fail(KVP_E_NOSPACE,
                        "pin: %zu pages, but the RAM budget holds %u; pin fewer, or scan", n,
                        s->p->n_frames);
    kvp_status status = hold_span(s, deadline_ns, held);
    if (status)
        return status;
    keep_stuck(s);
    status = pin_pages(s, deadline_ns, &n_pinned);
    release_stuck(s);
    if (!status)
        return KVP_OK;
    while (n_pinned-- > 0)
        kvpi_unpin(s->p, span_page(s, n_pinned));
    kvpi_unhold(s->p, *held, true);
    return status;
}

kvp_status kvp_seq_pin(kvp_seq *seq, uint32_t layer, uint64_t first, uint64_t n_tokens,
                       uint64_t deadline_ns, kvp_view *view)
{
    if (!seq || !view)
        return kvp_fail(KVP_E_INVALID, "pin: seq or view is NULL");
    view->seq = NULL;
    view->n_pages = view->n_groups = 0;
    span s;
    kvp_status status = find_span(seq, layer, first, n_tokens, &s);
    if (status)
        return status;
    size_t n = span_pages(&s);
    if (n > view->max_pages || !view->pages) {
        view->n_pages = n;
        return kvp_fail(KVP_E_INVALID, "pin: view->pages has room for %zu pages, %zu are needed",
                        view->max_pages, n);
    }
    s.views = view->pages;
    kvpi_lock(s.p);
    uint32_t held;
    status = pin_span(&s, deadline_ns, &held);
    for (size_t i = 0; i < n && !status; i++)
        kvpi_fill_view(s.p, seq, layer, (uint32_t)(i / s.n), s.begin + (uint32_t)(i % s.n),
                       &view->pages[i]);
    if (!status)
        seq->n_pins += (uint32_t)n;
    kvpi_unlock(s.p);
    if (status)
        return status;
    view->seq = seq;
    view->held = held;
    view->n_pages = n;
    view->n_groups = s.l->n_groups;
    return KVP_OK;
}

void kvp_view_unpin(kvp_view *view)
{
    if (!view || !view->seq)
        return;
    kvp_pager *p = view->seq->pager;
    kvpi_lock(p);
    for (size_t i = 0; i < view->n_pages; i++)
        kvpi_unpin(p, view->pages[i].handle);
    view->seq->n_pins -= (uint32_t)view->n_pages;
    kvpi_unhold(p, view->held, true);
    kvpi_unlock(p);
    view->seq = NULL;
    view->n_pages = 0;
}
