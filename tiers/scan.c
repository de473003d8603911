/* scan.c - the ring: pages of a layer, item by item, with read-ahead.
 *
 * Every part has its share of the ring: one frame for the page in use, the others for pages on
 * their way. Read-ahead looks past pages that are resident, so it fetches just those that will be
 * missed, and goes on into the item that will probably be claimed next: a guess costs a frame for a
 * while, never a result.
 *
 * Invariants
 *  S1  A part pins at most its share of the reservation.
 *  S2  Pages ahead are pinned in the order in which they will be used, so the part that waits for
 * one holds none that only it could release. */
#include "alloc/mem.h"
#include "kvpager/scan.h"
#include "tiers/pager.h"

#include <assert.h>
#include <string.h>

#define MAX_AHEAD 15u            /* pages on their way, per part */
#define AHEAD_BYTES (512u << 10) /* in flight in all: beyond that only latency grows */
#define LOOK_AHEAD 48u           /* pages looked at for ones that are missing */

/* A place in the order of pages: an entry of a lane. */
typedef struct cursor {
    uint32_t group, entry;
} cursor;

typedef struct part {
    cursor next, end; /* what is left of the item */
    uint32_t current; /* pinned, KVP_PAGE_NONE: none */
    uint32_t n_ahead, max_ahead;
    uint32_t ahead[MAX_AHEAD]; /* pinned, in order of use */
    cursor look;               /* where read-ahead goes on */
    bool looks_beyond;         /* `look` has left the item */
} part;

struct kvp_scan {
    kvp_pager *p;
    kvp_seq *seq;
    uint32_t layer;
    const kvpi_layer *l;
    uint64_t sinks_end, begin, end;
    uint32_t n_parts, held;
    uint32_t workspace_frame; /* UINT32_MAX: none */
    cursor claim;             /* first entry that nobody has claimed */
    uint64_t n_claimed;
    kvp_scan *next_free;
    part parts[KVP_SCAN_MAX_PARTS];
};

/* ---- the order of pages ---- */

static const kvpi_lane *lane_of(const kvp_scan *s, uint32_t group)
{
    return &s->seq->lanes[s->l->lane_base + group];
}

static bool is_visited(const kvp_scan *s, const kvpi_entry *e)
{
    uint64_t last = e->first_position + e->n_valid; /* exclusive */
    return e->first_position < s->sinks_end || (e->first_position < s->end && last > s->begin);
}

/* Move to the first visited entry at or after `c`; false at the end of all lanes. */
static bool settle(const kvp_scan *s, cursor *c)
{
    for (; c->group < s->l->n_groups; c->group++, c->entry = 0) {
        const kvpi_lane *lane = lane_of(s, c->group);
        while (c->entry < lane->n_entries) {
            const kvpi_entry *e = &lane->entries[c->entry];
            if (is_visited(s, e))
                return true;
            if (e->first_position >= s->end)
                break;
            uint32_t jump = kvpi_lane_find(lane, s->begin); /* over the gap behind the sinks */
            c->entry = jump > c->entry ? jump : c->entry + 1;
        }
    }
    return false;
}

static uint64_t segment_of(const kvp_scan *s, const kvpi_entry *e)
{
    return e->first_position / ((uint64_t)s->p->geometry.page_tokens * KVP_SEGMENT_PAGES);
}

/* The item that begins at the settled cursor `from`: *after is behind it. */
static uint32_t item_pages(const kvp_scan *s, cursor from, cursor *after)
{
    const kvpi_lane *lane = lane_of(s, from.group);
    uint64_t segment = segment_of(s, &lane->entries[from.entry]);
    uint32_t n = 0;
    for (*after = from; after->entry < lane->n_entries; after->entry++) {
        const kvpi_entry *e = &lane->entries[after->entry];
        if (segment_of(s, e) != segment)
            break;
        n += is_visited(s, e);
    }
    return n;
}

static uint32_t page_at(const kvp_scan *s, cursor c)
{
    return lane_of(s, c.group)->entries[c.entry].page;
}

static bool is_before(cursor a, cursor b)
{
    return a.group < b.group || (a.group == b.group && a.entry < b.entry);
}

/* ---- open and close ---- */

static uint32_t min_u32(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/* Frames wanted: for each part the page in use and some on their way; a third of RAM at most, since
 * they displace pages that would otherwise stay. */
static uint32_t ring_wanted(const kvp_pager *p, uint32_t n_parts)
{
    uint32_t in_flight = (uint32_t)(AHEAD_BYTES / p->geometry.slot_bytes);
    uint32_t ahead = min_u32(in_flight / n_parts + 1, MAX_AHEAD);
    uint32_t wanted = n_parts * (1 + ahead);
    uint32_t limit = p->n_frames / 3;
    return wanted < limit ? wanted : limit < 2 ? 2 : limit;
}

static kvp_status check_args(const kvp_seq *seq, const kvp_scan_args *args)
{
    if (!seq || !args)
        return kvp_fail(KVP_E_INVALID, "scan: seq or args is NULL");
    if (args->layer >= seq->pager->geometry.n_layers)
        return kvp_fail(KVP_E_INVALID, "scan: layer %u, but there are %u", args->layer,
                        seq->pager->geometry.n_layers);
    if (!args->max_parts)
        return kvp_fail(KVP_E_INVALID, "scan: max_parts is 0");
    return KVP_OK;
}

static void share_ring(kvp_scan *s, uint32_t ring)
{
    if (s->n_parts > ring / 2)
        s->n_parts = ring > 1 ? ring / 2 : 1;
    for (uint32_t i = 0; i < s->n_parts; i++) {
        uint32_t share = ring / s->n_parts + (i < ring % s->n_parts);
        s->parts[i] = (part){.current = KVP_PAGE_NONE, .max_ahead = min_u32(share - 1, MAX_AHEAD)};
    }
}

static void set_up(kvp_scan *s, kvp_seq *seq, const kvp_scan_args *args)
{
    s->seq = seq;
    s->layer = args->layer;
    s->l = &s->p->geometry.layers[args->layer];
    s->sinks_end = args->sinks_end;
    s->begin = args->begin;
    s->end = args->end;
    s->claim = (cursor){0};
    s->n_claimed = 0;
    /* No more parts than items: one that stays idle would waste its share of the ring. */
    uint32_t limit = min_u32(args->max_parts, KVP_SCAN_MAX_PARTS);
    s->n_parts = 0;
    for (cursor c = {0}; s->n_parts < limit && settle(s, &c); s->n_parts++)
        item_pages(s, c, &c);
    s->n_parts += s->n_parts == 0;
}

/* With the lock held: the ring and the workspace, or nothing. */
static kvp_status reserve(kvp_scan *s, bool with_workspace)
{
    uint32_t extra = with_workspace;
    uint32_t wanted = ring_wanted(s->p, s->n_parts);
    s->workspace_frame = UINT32_MAX;
    kvpi_claim claim = {.n_min = KVPI_MIN_FRAMES - 1 + extra, .n_max = wanted + extra};
    kvp_status status = kvpi_hold(s->p, &claim, KVP_FOREVER, &s->held);
    if (status)
        return status;
    if (with_workspace)
        status = kvpi_frame_wait(s->p, &s->workspace_frame);
    if (status)
        kvpi_unhold(s->p, s->held, false);
    else
        share_ring(s, s->held - extra);
    return status;
}

kvp_status kvp_scan_open(kvp_seq *seq, const kvp_scan_args *args, kvp_scan **scan)
{
    kvp_status status = check_args(seq, args);
    if (status)
        return status;
    kvp_pager *p = seq->pager;
    kvpi_lock(p);
    while (!p->free_scans)
        pthread_cond_wait(&p->progress, &p->lock);
    kvp_scan *s = p->free_scans;
    p->free_scans = s->next_free;
    set_up(s, seq, args);
    status = reserve(s, args->workspace_bytes > 0);
    if (status) {
        s->next_free = p->free_scans;
        p->free_scans = s;
        pthread_cond_broadcast(&p->progress);
    }
    kvpi_unlock(p);
    if (status)
        return status;
    *scan = s;
    return KVP_OK;
}

static void drop_current(kvp_scan *s, part *pt)
{
    if (pt->current != KVP_PAGE_NONE)
        kvpi_unpin(s->p, pt->current);
    pt->current = KVP_PAGE_NONE;
}

static void drop_ahead(kvp_scan *s, part *pt)
{
    while (pt->n_ahead)
        kvpi_unpin(s->p, pt->ahead[--pt->n_ahead]);
}

void kvp_scan_close(kvp_scan *s)
{
    if (!s)
        return;
    kvp_pager *p = s->p;
    kvpi_lock(p);
    for (uint32_t i = 0; i < s->n_parts; i++) {
        drop_current(s, &s->parts[i]);
        drop_ahead(s, &s->parts[i]);
    }
    if (s->workspace_frame != UINT32_MAX)
        kvpi_frame_give(p, s->workspace_frame);
    s->next_free = p->free_scans;
    p->free_scans = s;
    kvpi_unhold(p, s->held, false);
    kvpi_unlock(p);
}

/* ---- what is to come ---- */

uint32_t kvp_scan_parts(const kvp_scan *s)
{
    return s->n_parts;
}

uint64_t kvp_scan_items(const kvp_scan *s)
{
    uint64_t n = 0;
    for (cursor c = {0}; settle(s, &c); n++)
        item_pages(s, c, &c);
    return n;
}

uint32_t kvp_scan_pages(const kvp_scan *s, uint32_t group)
{
    uint32_t n = 0;
    for (cursor c = {.group = group}; settle(s, &c) && c.group == group; c.entry++)
        n++;
    return n;
}

void *kvp_scan_workspace(kvp_scan *s, size_t *bytes)
{
    *bytes = s->workspace_frame == UINT32_MAX ? 0 : s->p->geometry.slot_bytes;
    return *bytes ? kvpi_frame_addr(s->p, s->workspace_frame) : NULL;
}

/* ---- walking ---- */

static bool is_in_item(const kvp_scan *s, const part *pt, uint32_t page)
{
    for (cursor c = pt->next; is_before(c, pt->end); c.entry++)
        if (page_at(s, c) == page)
            return true;
    return false;
}

/* Pages that were fetched on the guess that this item comes next stay if the guess was right. */
static void adopt_ahead(kvp_scan *s, part *pt)
{
    if (pt->n_ahead && is_in_item(s, pt, pt->ahead[0])) {
        pt->looks_beyond = !is_before(pt->look, pt->end);
        return;
    }
    drop_ahead(s, pt);
    pt->look = pt->next;
    pt->looks_beyond = false;
}

kvp_status kvp_scan_claim(kvp_scan *s, uint32_t part_no, kvp_scan_item *item)
{
    assert(part_no < s->n_parts);
    part *pt = &s->parts[part_no];
    *item = (kvp_scan_item){0};
    kvpi_lock(s->p);
    drop_current(s, pt);
    if (!settle(s, &s->claim)) {
        drop_ahead(s, pt);
        pt->next = pt->end = s->claim;
        kvpi_unlock(s->p);
        return KVP_OK;
    }
    cursor after, following;
    pt->next = s->claim;
    item->n_pages = item_pages(s, s->claim, &after);
    pt->end = following = after;
    item->index = s->n_claimed++;
    item->group = pt->next.group;
    item->first_head = item->group * s->l->page_heads;
    item->n_heads = kvpi_layer_group_heads(s->l, item->group);
    item->ends_group = !settle(s, &following) || following.group != item->group;
    s->claim = after;
    adopt_ahead(s, pt);
    kvpi_unlock(s->p);
    return KVP_OK;
}

/* Where read-ahead looks next: in the item, then in what nobody has claimed. */
static bool next_look(kvp_scan *s, part *pt)
{
    if (!pt->looks_beyond) {
        if (settle(s, &pt->look) && is_before(pt->look, pt->end))
            return true;
        pt->looks_beyond = true;
        pt->look = s->claim;
    }
    return settle(s, &pt->look);
}

static void read_ahead(kvp_scan *s, part *pt)
{
    kvp_pager *p = s->p;
    for (uint32_t i = 0; i < LOOK_AHEAD && pt->n_ahead < pt->max_ahead; i++) {
        if (!next_look(s, pt))
            return;
        uint32_t page = page_at(s, pt->look);
        const kvpi_page *pg = kvpi_page_at(&p->pages, page);
        if (!kvpi_page_is(pg, KVPI_PAGE_RESIDENT)) {
            if (kvpi_fault_start(p, page, true))
                return; /* no frame now; or an error, to be met when it is the page's turn */
            kvpi_pin(p, page);
            pt->ahead[pt->n_ahead++] = page;
        }
        pt->look.entry++;
    }
}

/* Is this the first of the pages ahead? Then it is pinned already. */
static bool take_from_ahead(part *pt, uint32_t page)
{
    if (!pt->n_ahead || pt->ahead[0] != page)
        return false;
    pt->n_ahead--;
    memmove(pt->ahead, pt->ahead + 1, pt->n_ahead * sizeof pt->ahead[0]);
    return true;
}

/* The page after this one in the part's item, if it is there now: a hint for kernels. */
static const void *next_address(const kvp_scan *s, const part *pt)
{
    cursor c = pt->next;
    if (!settle(s, &c) || !is_before(c, pt->end))
        return NULL;
    const kvpi_page *pg = kvpi_page_at(&s->p->pages, page_at(s, c));
    return kvpi_page_is(pg, KVPI_PAGE_RESIDENT) ? kvpi_frame_addr(s->p, pg->frame) : NULL;
}

kvp_status kvp_scan_next(kvp_scan *s, uint32_t part_no, kvp_page_view *view)
{
    part *pt = &s->parts[part_no];
    kvp_pager *p = s->p;
    kvpi_lock(p);
    drop_current(s, pt);
    if (!settle(s, &pt->next) || !is_before(pt->next, pt->end)) {
        kvpi_unlock(p);
        return kvp_fail(KVP_E_RANGE, "scan: the item has no more pages");
    }
    uint32_t page = page_at(s, pt->next);
    bool was_ahead = take_from_ahead(pt, page);
    if (!is_before(pt->next, pt->look) && !pt->looks_beyond)
        pt->look = (cursor){.group = pt->next.group, .entry = pt->next.entry + 1};
    if (!was_ahead) /* demand first; if this fails now, fault_in() will say so */
        (void)!kvpi_fault_start(p, page, false);
    read_ahead(s, pt);
    kvp_status status = kvpi_fault_in(p, page, KVP_FOREVER);
    if (was_ahead) /* fault_in pinned it once more */
        kvpi_unpin(p, page);
    if (!status) {
        pt->current = page;
        kvpi_fill_view(p, s->seq, s->layer, pt->next.group, pt->next.entry, view);
        pt->next.entry++;
        view->next = next_address(s, pt);
    }
    kvpi_unlock(p);
    return status;
}

/* ---- the pool of scans ---- */

kvp_status kvpi_scans_open(kvp_pager *p)
{
    uint32_t n = p->n_frames / KVPI_MIN_FRAMES; /* more could not hold a ring at the same time */
    n = n < 64 ? n : 64;
    kvp_status status = kvpi_alloc(&p->mem, n * sizeof *p->scans, "scans", &p->scans);
    if (status)
        return status;
    p->n_scans = n;
    for (uint32_t i = n; i-- > 0;) {
        p->scans[i].p = p;
        p->scans[i].next_free = p->free_scans;
        p->free_scans = &p->scans[i];
    }
    return KVP_OK;
}

void kvpi_scans_close(kvp_pager *p)
{
    kvpi_free(&p->mem, p->scans, p->n_scans * sizeof *p->scans);
}
