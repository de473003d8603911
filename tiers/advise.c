/* advise.c - hints of the caller about what it will use. They change the order in which pages leave
 * RAM, send some away, or have some fetched in the background; nothing waits for them.
 *
 * What is to be fetched is a range per sequence (the last one that was named), followed lane by
 * lane whenever the disk has room: when the advice is given, and whenever anybody takes in
 * completions.
 * Fetching stops when RAM holds nothing else but pages that are wanted as well. A sequence whose
 * account has no room now lets others go first: they may be in other groups. */
#include "tiers/pager.h"
#include "tiers/trace.h"

#define MAX_TRIED 4u /* sequences that are looked at for one that can be gone on with */

/* ---- what is wanted ---- */

void kvpi_wanted_drop(kvp_seq *seq)
{
    kvp_pager *p = seq->pager;
    kvp_seq *prev = seq->wanted.prev, *next = seq->wanted.next;
    if (!seq->wanted.is_listed)
        return;
    *(prev ? &prev->wanted.next : &p->wanted) = next;
    *(next ? &next->wanted.prev : &p->last_wanted) = prev;
    seq->wanted.is_listed = false;
}

static void enlist_last(kvp_seq *seq)
{
    kvp_pager *p = seq->pager;
    kvpi_wanted_drop(seq);
    seq->wanted.prev = p->last_wanted; /* first come, first served */
    seq->wanted.next = NULL;
    seq->wanted.is_listed = true;
    *(p->last_wanted ? &p->last_wanted->wanted.next : &p->wanted) = seq;
    p->last_wanted = seq;
}

static void want(kvp_seq *seq, uint64_t begin, uint64_t end)
{
    seq->wanted.begin = begin;
    seq->wanted.end = end;
    seq->wanted.lane = seq->wanted.entry = 0;
    enlist_last(seq);
}

/* Would the account's next frame be one that is as much wanted? */
static bool is_full_of_wanted(kvp_pager *p, kvp_group *account)
{
    uint64_t room;
    kvp_group *scope = kvpi_frame_scope(account, &room);
    if (room)
        return false;
    kvpi_victims v = kvpi_victims_of(scope, account, KVP_TIER_RAM, true);
    uint32_t victim = kvpi_victim_next(&v);
    return victim == KVP_PAGE_NONE ||
           kvpi_page_is(kvpi_page_at(&p->pages, victim), KVPI_PAGE_HOT | KVPI_PAGE_KEPT);
}

/* The next page of the range that is not there yet; false: there is none. */
static bool next_missing(kvp_seq *seq, uint32_t *page)
{
    kvp_pager *p = seq->pager;
    uint32_t page_tokens = p->geometry.page_tokens;
    for (; seq->wanted.lane < p->geometry.n_lanes; seq->wanted.lane++, seq->wanted.entry = 0) {
        const kvpi_lane *lane = &seq->lanes[seq->wanted.lane];
        uint32_t first = kvpi_lane_find(lane, seq->wanted.begin, page_tokens);
        uint32_t i = seq->wanted.entry > first ? seq->wanted.entry : first;
        for (; i < lane->n_entries; i++) {
            if (kvpi_lane_first_position(lane, i, page_tokens) >= seq->wanted.end)
                break;
            *page = lane->entries[i].page;
            seq->wanted.entry = i;
            if (!kvpi_page_is(kvpi_page_at(&p->pages, *page),
                              KVPI_PAGE_RESIDENT | KVPI_PAGE_LOADING | KVPI_PAGE_LOST))
                return true;
        }
    }
    return false;
}

void kvpi_wanted_fill(kvp_pager *p)
{
    uint32_t page, n_tried = 0;
    while (p->wanted && !p->n_waiting && n_tried < MAX_TRIED) {
        kvp_seq *seq = p->wanted;
        kvp_group *account = NULL;
        if (next_missing(seq, &page))
            account = kvpi_account_of(p, kvpi_page_at(&p->pages, page));
        if (!account || is_full_of_wanted(p, account)) {
            kvpi_wanted_drop(seq);
            continue;
        }
        if (!kvpi_account_room(account, KVP_TIER_RAM) || kvpi_fault_start(p, page, true)) {
            /* No frame or transfer now; or an error, to be met by who uses the page. */
            enlist_last(seq);
            n_tried++;
            continue;
        }
        p->stats.prefetches_advised++;
        kvpi_set_hot(p, page, true);
        seq->wanted.entry++;
    }
}

/* ---- advice ---- */

static void send_away(kvp_pager *p, uint32_t page)
{
    const kvpi_page *pg = kvpi_page_at(&p->pages, page);
    kvpi_trace_page(p, KVP_TRACE_PAGE_COLD, page);
    if (!kvpi_page_is(pg, KVPI_PAGE_IN_RAM_POLICY)) /* not there, or in use */
        return;
    if (kvpi_page_is(pg, KVPI_PAGE_COPIED) && !kvpi_page_is(pg, KVPI_PAGE_WRITING)) {
        kvpi_page_evict(p, page, kvpi_account_of(p, pg));
        return;
    }
    kvpi_cool(p, page); /* what cannot be written down now leaves first later */
    if (!kvpi_page_is(pg, KVPI_PAGE_WRITING))
        (void)!kvpi_demote(p, page);
}

static void advise_page(kvp_pager *p, uint32_t page, kvp_advice advice)
{
    bool is_shared = kvpi_page_at(&p->pages, page)->refs > 1;
    switch (advice) {
    case KVP_COLD:
        if (!is_shared)
            kvpi_cool(p, page);
        break;
    case KVP_WILLNEED:
        if (kvpi_page_is(kvpi_page_at(&p->pages, page), KVPI_PAGE_RESIDENT | KVPI_PAGE_LOADING))
            kvpi_set_hot(p, page, true);
        break;
    case KVP_DONTNEED:
        kvpi_set_hot(p, page, false);
        if (!is_shared)
            send_away(p, page);
        break;
    case KVP_KEEP:
        kvpi_rank(p, page, KVPI_PAGE_KEPT, KVPI_PAGE_LOW);
        break;
    case KVP_LOW:
        kvpi_rank(p, page, is_shared ? 0 : KVPI_PAGE_LOW, KVPI_PAGE_KEPT);
        break;
    case KVP_NORMAL:
        kvpi_rank(p, page, 0, KVPI_PAGE_KEPT | KVPI_PAGE_LOW);
        break;
    }
}

static void advise_lane(kvp_pager *p, const kvpi_lane *lane, uint64_t begin, uint64_t end,
                        kvp_advice advice)
{
    uint32_t page_tokens = p->geometry.page_tokens;
    for (uint32_t i = kvpi_lane_find(lane, begin, page_tokens); i < lane->n_entries; i++) {
        if (kvpi_lane_first_position(lane, i, page_tokens) >= end)
            return;
        advise_page(p, lane->entries[i].page, advice);
    }
}

kvp_status kvp_seq_advise(kvp_seq *seq, uint64_t first, uint64_t n_tokens, kvp_advice advice)
{
    if (!seq)
        return kvp_fail(KVP_E_INVALID, "kvp_seq_advise: seq is NULL");
    if (advice < KVP_COLD || advice > KVP_NORMAL)
        return kvp_fail(KVP_E_INVALID, "kvp_seq_advise: there is no advice %d", (int)advice);
    if (!n_tokens)
        return KVP_OK;
    kvp_pager *p = seq->pager;
    uint64_t end = n_tokens < UINT64_MAX - first ? first + n_tokens : UINT64_MAX;
    kvpi_lock(p);
    for (uint32_t i = 0; i < p->geometry.n_lanes; i++)
        advise_lane(p, &seq->lanes[i], first, end, advice);
    if (advice == KVP_WILLNEED)
        want(seq, first, end);
    else if (advice == KVP_DONTNEED)
        kvpi_wanted_drop(seq);
    kvpi_wanted_fill(p);
    if (p->wanted)
        pthread_cond_broadcast(&p->progress); /* the thread of tickets goes on with it */
    kvpi_unlock(p);
    return KVP_OK;
}
