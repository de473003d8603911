/* scan.c - stream over the pages of a layer, item by item.
 *
 * A part holds one frame, for the page in use; read-ahead (readahead.c) has frames of its own,
 * which it gives up when a scan needs them. Where there is room that nobody will miss, a part holds
 * as many frames as an item has pages, and takes those that are resident together: a page at a time
 * costs a tenth of decoding in locks and lists. */
#include "alloc/mem.h"
#include "kvpager/scan.h"
#include "tiers/pager.h"

#include <assert.h>

typedef struct part {
    kvpi_cursor next, end;                    /* what is left of the item */
    uint32_t held[KVP_SEGMENT_PAGES], n_held; /* in use: pinned */
} part;

struct kvp_scan {
    kvp_pager *p;
    kvp_seq *seq;
    kvp_group *account; /* of the sequence: whose frames these are */
    uint32_t layer;
    kvpi_walk walk;
    uint32_t n_parts, held;
    uint32_t max_run;         /* pages that a part may hold */
    uint32_t workspace_frame; /* UINT32_MAX: none */
    kvpi_cursor claim;        /* first entry that nobody has claimed */
    uint64_t n_claimed;
    kvp_scan *next_free;
    part parts[KVP_SCAN_MAX_PARTS];
};

/* ---- open and close ---- */

static uint32_t min_u32(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
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
    if (args->is_one_group && args->group >= seq->pager->geometry.layers[args->layer].n_groups)
        return kvp_fail(KVP_E_INVALID, "scan: head group %u, but layer %u has %u", args->group,
                        args->layer, seq->pager->geometry.layers[args->layer].n_groups);
    return KVP_OK;
}

static void set_up(kvp_scan *s, kvp_seq *seq, const kvp_scan_args *args)
{
    s->seq = seq;
    s->account = seq->account;
    s->layer = args->layer;
    s->walk = kvpi_seq_walk(seq, args->layer);
    s->walk.sinks_end = args->sinks_end;
    s->walk.begin = args->begin;
    s->walk.end = args->end;
    s->walk.skip = args->skip;
    if (args->is_one_group) {
        s->walk.first_group = args->group;
        s->walk.end_group = args->group + 1;
    }
    s->claim = (kvpi_cursor){0};
    s->n_claimed = 0;
    /* No more parts than items; and all that they hold is a sixth of RAM at most, since it
     * displaces pages that would otherwise stay. */
    uint32_t limit = min_u32(args->max_parts, KVP_SCAN_MAX_PARTS);
    uint32_t n_frames = kvpi_account_frames(s->account);
    limit = min_u32(limit, n_frames / 6 ? n_frames / 6 : 1);
    s->n_parts = 0;
    for (kvpi_cursor c = {0}; s->n_parts < limit && kvpi_walk_settle(&s->walk, &c); s->n_parts++)
        kvpi_walk_item(&s->walk, c, &c);
    s->n_parts += s->n_parts == 0;
}

/* Frames for more pages of each part, which are resident anyway: a quarter of what is left when
 * read-ahead has its own, and all that the parts hold stays a sixth of RAM. */
static void reserve_runs(kvp_scan *s)
{
    const kvp_pager *p = s->p;
    uint64_t room = kvpi_account_room(s->account, KVP_TIER_RAM), ahead = p->max_ahead + p->max_run;
    uint64_t limit = kvpi_account_frames(s->account) / 6, n = room > ahead ? (room - ahead) / 4 : 0;
    limit = limit > s->n_parts ? limit - s->n_parts : 0;
    n = (n < limit ? n : limit) / s->n_parts;
    s->max_run = 1 + (n < KVP_SEGMENT_PAGES - 1 ? (uint32_t)n : KVP_SEGMENT_PAGES - 1);
    uint32_t n_more = (s->max_run - 1) * s->n_parts;
    kvpi_account_hold(s->p, s->account, (int32_t)n_more);
    s->held += n_more;
}

/* With the lock held: a frame for each part and the workspace, or nothing. */
static kvp_status reserve(kvp_scan *s, const kvp_scan_args *args)
{
    const bool with_workspace = args->workspace_bytes > 0;
    uint32_t extra = with_workspace;
    s->workspace_frame = UINT32_MAX;
    kvpi_claim claim = {.account = s->account, .n_min = 1 + extra, .n_max = s->n_parts + extra};
    kvp_status status = kvpi_hold(s->p, &claim, args->only_now ? 0 : KVP_FOREVER, &s->held);
    if (status)
        return status;
    if (with_workspace)
        status = kvpi_frame_wait(s->p, s->account, &s->workspace_frame);
    if (status) {
        kvpi_unhold(s->p, s->account, s->held, false);
        return status;
    }
    s->n_parts = s->held - extra;
    reserve_runs(s);
    for (uint32_t i = 0; i < s->n_parts; i++)
        s->parts[i] = (part){.n_held = 0};
    kvpi_ahead_begin(s->seq, s->layer, &s->walk);
    return KVP_OK;
}

kvp_status kvp_scan_open(kvp_seq *seq, const kvp_scan_args *args, kvp_scan **scan)
{
    kvp_status status = check_args(seq, args);
    if (status)
        return status;
    kvp_pager *p = seq->pager;
    kvpi_lock(p);
    while (!p->free_scans && !args->only_now)
        (void)!kvpi_sleep(p, KVP_FOREVER);
    if (!p->free_scans) {
        kvpi_unlock(p);
        return kvp_fail(KVP_E_AGAIN, "scan: as many are open as the RAM budget allows");
    }
    kvp_scan *s = p->free_scans;
    p->free_scans = s->next_free;
    set_up(s, seq, args);
    status = reserve(s, args);
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

static void drop_held(kvp_scan *s, part *pt)
{
    if (!pt->n_held)
        return;
    for (uint32_t i = 0; i < pt->n_held; i++) {
        kvpi_set_hot(s->p, pt->held[i], s->seq->hot_layer == s->layer);
        kvpi_unpin(s->p, pt->held[i]);
    }
    pt->n_held = 0;
    kvpi_count_work(s->p, -1);
}

void kvp_scan_close(kvp_scan *s)
{
    if (!s)
        return;
    kvp_pager *p = s->p;
    kvpi_lock(p);
    for (uint32_t i = 0; i < s->n_parts; i++)
        drop_held(s, &s->parts[i]);
    if (s->workspace_frame != UINT32_MAX)
        kvpi_frame_give(p, s->account, s->workspace_frame);
    s->next_free = p->free_scans;
    p->free_scans = s;
    kvpi_unhold(p, s->account, s->held, false);
    kvpi_ahead_end(s->seq, s->layer);
    kvpi_ahead_fill(p, true);
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
    for (kvpi_cursor c = {0}; kvpi_walk_settle(&s->walk, &c); n++)
        kvpi_walk_item(&s->walk, c, &c);
    return n;
}

uint32_t kvp_scan_pages(const kvp_scan *s, uint32_t group)
{
    uint32_t n = 0;
    for (kvpi_cursor c = {.group = group}; kvpi_walk_settle(&s->walk, &c) && c.group == group;
         c.entry++)
        n++;
    return n;
}

void *kvp_scan_workspace(kvp_scan *s, size_t *bytes)
{
    *bytes = s->workspace_frame == UINT32_MAX ? 0 : s->p->geometry.slot_bytes;
    return *bytes ? kvpi_frame_addr(s->p, s->workspace_frame) : NULL;
}

/* ---- walking ---- */

kvp_status kvp_scan_claim(kvp_scan *s, uint32_t part_no, kvp_scan_item *item)
{
    assert(part_no < s->n_parts);
    part *pt = &s->parts[part_no];
    *item = (kvp_scan_item){0};
    kvpi_lock(s->p);
    drop_held(s, pt);
    if (!kvpi_walk_settle(&s->walk, &s->claim)) {
        pt->next = pt->end = s->claim;
        kvpi_unlock(s->p);
        return KVP_OK;
    }
    kvpi_cursor after, following;
    pt->next = s->claim;
    item->n_pages = kvpi_walk_item(&s->walk, s->claim, &after);
    pt->end = following = after;
    item->index = s->n_claimed++;
    item->group = pt->next.group;
    item->first_head = item->group * s->walk.layer->page_heads;
    item->n_heads = kvpi_layer_group_heads(s->walk.layer, item->group);
    item->ends_group = !kvpi_walk_settle(&s->walk, &following) || following.group != item->group;
    s->claim = after;
    kvpi_unlock(s->p);
    return KVP_OK;
}

/* The page of the part's item that comes next; KVP_PAGE_NONE: there are no more. */
static uint32_t next_page(const kvp_scan *s, part *pt)
{
    if (!kvpi_walk_settle(&s->walk, &pt->next) || !kvpi_cursor_is_before(pt->next, pt->end))
        return KVP_PAGE_NONE;
    return kvpi_walk_page(&s->walk, pt->next);
}

/* What this part will probably use next, if it is there now: a hint for kernels. */
static const void *next_address(const kvp_scan *s, part *pt)
{
    uint32_t page = next_page(s, pt);
    kvpi_cursor claim = s->claim;
    if (page == KVP_PAGE_NONE && kvpi_walk_settle(&s->walk, &claim))
        page = kvpi_walk_page(&s->walk, claim);
    if (page == KVP_PAGE_NONE)
        return NULL;
    const kvpi_page *pg = kvpi_page_at(&s->p->pages, page);
    return kvpi_page_is(pg, KVPI_PAGE_RESIDENT) ? kvpi_frame_addr(s->p, pg->frame) : NULL;
}

/* Whatever lies before it has been used. */
static kvpi_cursor oldest_place(const kvp_scan *s)
{
    kvpi_cursor oldest = s->claim;
    for (uint32_t i = 0; i < s->n_parts; i++) {
        const part *pt = &s->parts[i];
        if (kvpi_cursor_is_before(pt->next, pt->end) && kvpi_cursor_is_before(pt->next, oldest))
            oldest = pt->next;
    }
    return oldest;
}

static void take_from_window(kvp_pager *p, uint32_t page)
{
    kvpi_pin(p, page);
    kvpi_ahead_remove(p, page, true);
}

/* Pin the page at pt->next, which comes in if it is not there. */
static kvp_status take(kvp_scan *s, part *pt, uint32_t page)
{
    kvp_pager *p = s->p;
    bool was_ahead = kvpi_page_is(kvpi_page_at(&p->pages, page), KVPI_PAGE_AHEAD);
    if (was_ahead) /* out of the window now, so that it has room again */
        take_from_window(p, page);
    else /* demand first; fault_in() says what is wrong */
        (void)!kvpi_fault_start(p, page, false);
    kvpi_ahead_pass(s->seq, oldest_place(s));
    kvpi_ahead_fill(p, false);
    kvp_status status = kvpi_fault_in(s->seq, page, KVP_FOREVER);
    if (was_ahead) /* fault_in() pinned it once more */
        kvpi_unpin(p, page);
    if (!status) {
        pt->held[pt->n_held++] = page;
        kvpi_count_work(p, 1);
    }
    return status;
}

/* The same, if it is resident; never waits. */
static bool take_resident(kvp_scan *s, part *pt, uint32_t page)
{
    const kvpi_page *pg = kvpi_page_at(&s->p->pages, page);
    if (!kvpi_page_is(pg, KVPI_PAGE_RESIDENT))
        return false;
    kvpi_pin(s->p, page);
    if (kvpi_page_is(pg, KVPI_PAGE_AHEAD))
        kvpi_ahead_remove(s->p, page, true);
    pt->held[pt->n_held++] = page;
    return true;
}

kvp_status kvp_scan_next_run(kvp_scan *s, uint32_t part_no, uint32_t max, kvp_page_view *views,
                             uint32_t *n)
{
    part *pt = &s->parts[part_no];
    kvp_status status = KVP_OK;
    kvpi_lock(s->p);
    drop_held(s, pt);
    max = min_u32(max, s->max_run);
    uint32_t page = next_page(s, pt);
    if (page == KVP_PAGE_NONE)
        status = kvp_fail(KVP_E_RANGE, "scan: the item has no more pages");
    else
        status = take(s, pt, page);
    while (!status) {
        kvp_page_view *view = &views[pt->n_held - 1];
        kvpi_fill_view(s->p, s->seq, s->layer, pt->next.group, pt->next.entry, view);
        pt->next.entry++;
        view->next = next_address(s, pt);
        page = pt->n_held < max ? next_page(s, pt) : KVP_PAGE_NONE;
        if (page == KVP_PAGE_NONE || !take_resident(s, pt, page))
            break;
    }
    *n = pt->n_held;
    kvpi_unlock(s->p);
    return status;
}

kvp_status kvp_scan_next(kvp_scan *s, uint32_t part_no, kvp_page_view *view)
{
    uint32_t n;
    return kvp_scan_next_run(s, part_no, 1, view, &n);
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
