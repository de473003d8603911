/* readahead.c - fetches pages before they are asked for: what is missing of the open scan, and then
 * of the scan that will probably be opened next, so that the disk has work while the caller
 * computes.
 *
 * Which scan comes next: the one that came next last time, if it did so twice in a row; for a scan
 * that never had a successor, the next layer of its sequence. That is exact for decoding one
 * sequence, or a batch in a fixed order. A wrong guess costs bandwidth, and frames until somebody
 * wants them.
 *
 * The window is what was fetched, or is on its way, and has not been asked for yet.
 *
 * Invariants
 *  A1  A page in the window is RESIDENT or LOADING; its frame is counted in `held`, and no policy
 *      has it.
 *  A2  Nobody waits for the window: a page leaves it without waiting, also while it is LOADING. */
#include "tiers/account.h"
#include "tiers/pager.h"

#include <assert.h>
#include <string.h>

/* Measured with 14 MB of weights read between two scans, on a virtual disk that reports nothing
 * until it has finished all that it was given. Steps/s against these figures: a window of 1 MiB
 * 0.83, of 1.5 MiB 0.92, of 2 MiB 0.97; all of the window in flight 0.95; topped up page by page,
 * so that neighbours do not become one request, 0.7. What lies on disk behind the last page of a
 * top-up comes with it, 1.04: a request of 64 KiB costs as much again as its bytes. Windows of 6
 * MiB lose more: frames that return soon are still in the cache when the device writes to them (2.9
 * GB/s against 2.4 into 45 MB). */
#define WINDOW_BYTES (3u << 20)
#define MAX_WINDOW (KVPI_MAX_AHEAD - MAX_RUN)
#define MAX_RUN 16u    /* pages beyond the window that end a request */
#define MAX_LOOKED 64u /* pages looked at in one go */
#define MAX_HOPS 2u    /* scans looked into behind the one that is open */

static uint32_t at_least_1(uint32_t n)
{
    return n ? n : 1;
}

/* Pages that are read ahead displace others that would stay. */
static uint32_t share_of(uint64_t n_frames)
{
    uint64_t n = n_frames / 4;
    return at_least_1(n < UINT32_MAX ? (uint32_t)n : UINT32_MAX);
}

void kvpi_ahead_set_window(kvp_pager *p)
{
    const unsigned any = KVPI_PAGE_RESIDENT | KVPI_PAGE_LOADING;
    uint64_t n = WINDOW_BYTES / p->geometry.slot_bytes;
    n = n < MAX_WINDOW ? n : MAX_WINDOW;
    n = n < share_of(p->n_frames) ? n : share_of(p->n_frames);
    p->max_ahead = at_least_1((uint32_t)n);
    p->max_run = p->max_ahead / 4 < MAX_RUN ? p->max_ahead / 4 : MAX_RUN;
    while (p->n_ahead > p->max_ahead + p->max_run && kvpi_ahead_give_up(p, p->root, any))
        continue;
}

/* ---- the window ---- */

void kvpi_ahead_charge(kvp_pager *p, kvp_group *account, int32_t n)
{
    for (kvp_group *g = account; g; g = g->parent)
        g->n_ahead += (uint32_t)n;
    kvpi_account_hold(p, account, n);
}

void kvpi_ahead_remove(kvp_pager *p, uint32_t page, bool is_used)
{
    uint32_t i = 0;
    while (p->ahead[i].page != page)
        i++;
    assert(i < p->n_ahead);
    p->n_ahead--;
    memmove(p->ahead + i, p->ahead + i + 1, (p->n_ahead - i) * sizeof p->ahead[0]);
    kvpi_ahead_charge(p, kvpi_account_of(p, kvpi_page_at(&p->pages, page)), -1);
    kvpi_set_flags(p, page, 0, KVPI_PAGE_AHEAD);
    *(is_used ? &p->stats.prefetches_used : &p->stats.prefetches_wasted) += 1;
}

bool kvpi_ahead_give_up(kvp_pager *p, const kvp_group *scope, unsigned state)
{
    for (uint32_t i = p->n_ahead; i-- > 0;) {
        const kvpi_page *pg = kvpi_page_at(&p->pages, p->ahead[i].page);
        if (kvpi_page_is(pg, state) && kvpi_account_has(scope, kvpi_account_of(p, pg))) {
            kvpi_ahead_remove(p, p->ahead[i].page, false);
            return true;
        }
    }
    return false;
}

/* No account may have more than its share of frames in the window. */
static bool has_room(const kvp_pager *p, const kvp_group *account)
{
    if (p->n_ahead == p->max_ahead + p->max_run || !kvpi_account_room(account, KVP_TIER_RAM))
        return false;
    for (const kvp_group *g = account; g->parent; g = g->parent)
        if (g->n_ahead >= share_of(g->quota[KVP_TIER_RAM].max))
            return false;
    return true;
}

/* Into the window with a page that is missing; false: not now. */
static bool fetch(kvp_pager *p, uint32_t page)
{
    kvp_group *account = kvpi_account_of(p, kvpi_page_at(&p->pages, page));
    if (!has_room(p, account))
        return false;
    kvpi_ahead_charge(p, account, 1);
    if (kvpi_fault_start(p, page, true)) { /* no frame now; or an error, to be met in its turn */
        kvpi_ahead_charge(p, account, -1);
        return false;
    }
    p->stats.prefetches++;
    p->ahead[p->n_ahead].page = page;
    p->ahead[p->n_ahead++].scan_no = p->scan_no;
    kvpi_set_flags(p, page, KVPI_PAGE_AHEAD, 0);
    return true;
}

/* What was fetched for scans that did not come. */
static void drop_stale(kvp_pager *p)
{
    uint32_t age = (MAX_HOPS + 1) * (1 + p->n_open_scans);
    while (p->n_ahead && p->scan_no - p->ahead[0].scan_no > age)
        kvpi_ahead_remove(p, p->ahead[0].page, false);
}

/* ---- what comes next ---- */

static void look_at(kvp_seq *seq, uint32_t layer, const kvpi_walk *walk)
{
    seq->ahead.walk = *walk;
    seq->ahead.layer = layer;
    seq->ahead.at = (kvpi_cursor){0};
}

static void observe(kvp_pager *p, const kvp_seq *seq, uint32_t layer)
{
    kvp_seq *last = p->n_open_scans ? NULL : kvpi_seq_find(p, p->last_seq);
    if (!last)
        return;
    kvpi_trail *t = &last->trails[p->last_layer];
    t->is_sure = !t->is_known || (t->next_seq == seq->id && t->next_layer == layer);
    t->is_known = true;
    t->next_seq = seq->id;
    t->next_layer = layer;
}

void kvpi_ahead_begin(kvp_seq *seq, uint32_t layer, const kvpi_walk *walk)
{
    kvpi_trail *t = &seq->trails[layer];
    observe(seq->pager, seq, layer);
    t->sinks_end = walk->sinks_end;
    t->begin = walk->begin;
    look_at(seq, layer, walk); /* from the start: what a guess had fetched may have left since */
    seq->ahead.is_guess = false;
    seq->ahead.n_hops = 0;
    seq->n_scans++;
    seq->pager->ahead_seq = seq;
    seq->pager->scan_no++;
    drop_stale(seq->pager);
    seq->pager->n_open_scans++;
}

void kvpi_ahead_end(kvp_seq *seq, uint32_t layer)
{
    kvp_pager *p = seq->pager;
    seq->n_scans--;
    if (seq->ahead.walk.skip) { /* borrowed; and what is passed over next time, nobody knows */
        seq->ahead.walk.skip = NULL;
        seq->ahead.walk.end_group = 0;
    }
    p->n_open_scans--;
    p->last_seq = p->n_open_scans ? UINT32_MAX : seq->id;
    p->last_layer = layer;
    p->ahead_seq = seq;
}

void kvpi_ahead_pass(kvp_seq *seq, kvpi_cursor used)
{
    kvpi_outlook *o = &seq->ahead;
    if (!o->is_guess && kvpi_cursor_is_before(o->at, used))
        o->at = used;
    seq->pager->ahead_seq = seq;
}

/* The sequence whose outlook is to be followed when that of `seq` has come to its end; NULL: not
 * known, or it is being scanned and looks ahead itself. */
static kvp_seq *successor(kvp_seq *seq, uint32_t *layer)
{
    kvp_pager *p = seq->pager;
    const kvpi_trail *t = &seq->trails[seq->ahead.layer];
    *layer = t->is_known ? t->next_layer : (seq->ahead.layer + 1) % p->geometry.n_layers;
    if (!t->is_known)
        return seq;
    return t->is_sure ? kvpi_seq_find(p, t->next_seq) : NULL;
}

static kvp_seq *hop(kvp_seq *root, kvp_seq *seq)
{
    uint32_t layer;
    kvp_seq *next = successor(seq, &layer);
    if (seq->hot_layer != UINT32_MAX) /* it will be filled further, with what is in RAM */
        return NULL;
    if (!next || (next->n_scans && next != root))
        return NULL;
    if (next != seq && next->ahead.is_guess && next->ahead.layer == layer)
        return next;
    if (root->ahead.n_hops == MAX_HOPS)
        return NULL;
    root->ahead.n_hops++;
    kvpi_walk walk = kvpi_seq_walk(next, layer);
    walk.sinks_end = next->trails[layer].sinks_end;
    walk.begin = next->trails[layer].begin;
    look_at(next, layer, &walk);
    next->ahead.is_guess = true;
    return next;
}

/* Pages that may be fetched now; 0: rather more at once later. */
static uint32_t room_for(const kvp_pager *p, bool to_the_brim)
{
    uint32_t room = p->max_ahead > p->n_ahead ? p->max_ahead - p->n_ahead : 0;
    if (to_the_brim)
        return room;
    uint32_t batch = at_least_1(p->max_ahead / 6);
    uint32_t max_in_flight = p->max_ahead * 2 / 3 + 2; /* beside demand */
    uint32_t n_in_flight = p->n_in_flight + p->n_outbox;
    uint32_t idle = max_in_flight > n_in_flight ? max_in_flight - n_in_flight : 0;
    room = room < idle ? room : idle;
    return room < batch ? 0 : room;
}

/* Together they are one request. */
static bool are_neighbours(const kvp_pager *p, uint32_t a, uint32_t b)
{
    return a != KVPI_DISK_SLOT_NONE && b != KVPI_DISK_SLOT_NONE &&
           kvpi_tier_are_neighbours(p->lower[KVPI_DISK], a, b);
}

void kvpi_ahead_fill(kvp_pager *p, bool to_the_brim)
{
    kvp_seq *seq = p->ahead_seq;
    uint32_t room = room_for(p, to_the_brim), n_hops = 0;
    uint32_t last = KVPI_DISK_SLOT_NONE;
    bool is_wanted_back = p->n_waiting > 0; /* by who waits for a reservation */
    bool is_all_there = !p->stats.pages[KVP_TIER_ZRAM] && !p->stats.pages[KVP_TIER_DISK];
    if (!seq || !room || is_wanted_back || is_all_there)
        return;
    for (uint32_t n_looked = 0; n_looked < MAX_LOOKED; n_looked++) {
        kvpi_outlook *o = &seq->ahead;
        if (!kvpi_walk_settle(&o->walk, &o->at)) {
            seq = n_hops++ < MAX_HOPS ? hop(p->ahead_seq, seq) : NULL;
            if (!seq)
                return;
            continue;
        }
        uint32_t page = kvpi_walk_page(&o->walk, o->at);
        const kvpi_page *pg = kvpi_page_at(&p->pages, page);
        bool is_there = kvpi_page_is(pg, KVPI_PAGE_RESIDENT | KVPI_PAGE_LOADING | KVPI_PAGE_LOST);
        /* Decoding what is compressed in RAM is work for whoever waits, not for the disk. */
        bool is_for_cpu = o->is_guess && kvpi_page_is(pg, KVPI_PAGE_IN_ZRAM);
        bool is_wanted = !is_there && !is_for_cpu;
        if (!room && !(is_wanted && are_neighbours(p, last, pg->disk_slot)))
            return;
        if (is_wanted) {
            last = pg->disk_slot;
            if (!fetch(p, page))
                return;
            room -= room > 0;
        }
        o->at.entry++;
    }
}
