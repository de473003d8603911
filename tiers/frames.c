/* frames.c - the frame ledger: who may hold how many frames of RAM, and that a promise can be kept.
 *
 * A reservation (a kvpi_claim: frames, and new pages that will have no place below) is made all at
 * once or waited for while holding nothing, so two holders never wait for each other. It counts
 * pinned pages, whether they were resident before or not. It is granted if it fits into the
 * holder's account and all above (account.h). */
#include "tiers/account.h"
#include "tiers/pager.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#define VICTIMS_TRIED 8u  /* a clean page among the next few leaves before a dirty one */
#define PROMISE_SLOTS 16u /* disk slots asked for at a time */

/* ---- disk slots ---- */

/* Growing the file is a metadata operation, short enough for the lock. */
bool kvpi_promise(kvp_pager *p, uint32_t n_wanted)
{
    if (!p->lower[KVPI_DISK])
        return false;
    uint64_t max = p->root->quota[KVP_TIER_DISK].max;
    uint64_t sure = p->root->used[KVP_TIER_DISK] + p->promised;
    uint32_t n = n_wanted > PROMISE_SLOTS ? n_wanted : PROMISE_SLOTS;
    for (; n > 0; n /= 2) { /* what is left may be less than is wanted */
        if (sure + n > max) {
            snprintf(p->disk_full, sizeof p->disk_full, "the disk budget of %llu bytes is used up",
                     (unsigned long long)p->cfg.disk_bytes);
            continue;
        }
        kvp_status status = kvpi_tier_reserve(p->lower[KVPI_DISK], p->promised + n);
        if (!status) {
            p->promised += n;
            return true;
        }
        p->is_making_room |= status == KVP_E_AGAIN;
        snprintf(p->disk_full, sizeof p->disk_full, "%s",
                 kvp_error()); /* why: the budget, or the disk */
    }
    return false;
}

/* Disk slots that accounts in `top` could use for pages that are stuck, and for the claim's. */
static uint64_t slots_wanted(kvp_group *top, const kvpi_claim *c)
{
    uint64_t n = 0;
    for (kvp_group *g = top; g; g = kvpi_account_next(top, g)) {
        uint64_t room = kvpi_account_room(g, KVP_TIER_DISK);
        uint64_t stuck = kvpi_account_stuck(g);
        if (g == c->new_account)
            stuck += c->n_new;
        n += stuck < room ? stuck : room;
    }
    return n < UINT32_MAX ? n : UINT32_MAX;
}

/* A place for pages in `top` that are stuck: promised slots, or new ones. */
static bool back_more(kvp_pager *p, kvp_group *top, const kvpi_claim *c)
{
    uint64_t backed = p->n_backed, spare = p->promised - p->n_backed;
    kvpi_accounts_settle(p);
    if (p->n_backed > backed)
        return true;
    uint64_t wanted = slots_wanted(top, c);
    if (wanted <= spare || !kvpi_promise(p, (uint32_t)(wanted - spare)))
        return false;
    kvpi_accounts_settle(p);
    return true;
}

static uint64_t stuck_in(kvp_group *top)
{
    uint64_t n = 0;
    for (kvp_group *g = top; g; g = kvpi_account_next(top, g))
        n += kvpi_account_stuck(g);
    return n;
}

bool kvpi_place_stuck(kvp_pager *p, kvp_group *top, const kvpi_claim *c)
{
    if (!stuck_in(top) && !c->n_new)
        return false;
    return back_more(p, top, c) || !kvpi_demote_one(p, top, c->account);
}

/* ---- reservations ---- */

/* Pages of the claim that would be stuck. */
static uint64_t newly_stuck(const kvp_pager *p, const kvpi_claim *c)
{
    uint64_t backable = c->n_new ? kvpi_account_backable(p, c->new_account) : 0;
    return c->n_new > backable ? c->n_new - backable : 0;
}

/* The account that cannot take n_frames more for c->account, and n_stuck for the new pages';
 * NULL: all can. */
static kvp_group *without_room(const kvpi_claim *c, uint64_t n_frames, uint64_t n_stuck,
                               kvpi_holders holders)
{
    uint64_t rise = n_frames;
    for (kvp_group *g = c->account; g; g = g->parent) {
        const kvpi_quota *q = &g->quota[KVP_TIER_RAM];
        uint64_t claims = kvpi_account_claims_if(g, holders);
        if (g == c->new_account)
            rise += n_stuck;
        if (claims + rise > q->max)
            return g;
        uint64_t slack = q->min > claims ? q->min - claims : 0;
        rise -= slack < rise ? slack : rise;
    }
    return NULL;
}

/* Who keeps the claim from being granted; NULL: nobody. New pages must leave the frames that a scan
 * needs. */
static kvp_group *obstacle(const kvp_pager *p, const kvpi_claim *c, kvpi_holders holders)
{
    uint64_t n_stuck = newly_stuck(p, c);
    kvp_group *g = without_room(c, c->n_min, n_stuck, holders);
    if (!g && n_stuck)
        g = without_room(c, KVPI_MIN_FRAMES, n_stuck, KVPI_NO_HOLDERS);
    return g;
}

static void say_what_is_full(const kvp_pager *p, const kvp_group *g, char *buf, size_t n)
{
    unsigned long long max = g->quota[KVP_TIER_RAM].max;
    if (g->parent)
        snprintf(buf, n,
                 "the KV of \"%s\" does not fit: its RAM budget holds %llu pages of %zu bytes",
                 g->name, max, p->geometry.slot_bytes);
    else
        snprintf(buf, n, "the KV does not fit: ram_bytes holds %llu pages of %zu bytes", max,
                 p->geometry.slot_bytes);
}

/* The nearest account, from this one up, whose disk budget is used up; NULL: there is none. */
static const kvp_group *full_on_disk(const kvp_group *g)
{
    while (g && kvpi_quota_claims(&g->quota[KVP_TIER_DISK]) < g->quota[KVP_TIER_DISK].max)
        g = g->parent;
    return g;
}

static void say_disk(const kvp_pager *p, const kvp_group *g, char *buf, size_t n)
{
    const kvp_group *full = full_on_disk(g);
    if (!p->lower[KVPI_DISK])
        snprintf(buf, n, "there is no disk tier");
    else if (full && full->parent)
        snprintf(buf, n, "the disk budget of \"%s\" is used up", full->name);
    else
        snprintf(buf, n, "%s", p->disk_full[0] ? p->disk_full : "the disk budget is used up");
}

static kvp_status fail_full(kvp_pager *p, const kvp_group *at, const kvp_group *g)
{
    char full[160], disk[300];
    if (p->write_errors >= KVPI_MAX_WRITE_ERRORS) {
        p->write_errors--; /* the next call may try once more: the trouble may have passed */
        return kvp_fail(KVP_E_IO, "pages cannot be written to the swap file: %s",
                        p->write_errno ? strerror(p->write_errno) : "short write");
    }
    say_what_is_full(p, at, full, sizeof full);
    say_disk(p, g, disk, sizeof disk);
    return kvp_fail(KVP_E_NOSPACE, "%s%s; %s; raise %s%s", full,
                    p->lower[KVPI_ZRAM] ? ", zram is used up" : "", disk,
                    at->parent ? "its budget" : "ram_bytes",
                    p->lower[KVPI_DISK] ? ", or give the disk more room" : " or disk_bytes");
}

static kvp_status fail_claim(kvp_pager *p, const kvpi_claim *c, const kvp_group *at)
{
    char whose[64] = "the RAM budget";
    if (c->n_new || p->write_errors >= KVPI_MAX_WRITE_ERRORS)
        return fail_full(p, at, c->new_account);
    if (at->parent)
        snprintf(whose, sizeof whose, "the RAM budget of \"%s\"", at->name);
    return kvp_fail(KVP_E_NOSPACE,
                    "%s holds %llu pages of %zu bytes: %llu are pinned by views, can go nowhere "
                    "else or are protected by the min of a group, %u more are wanted; unpin some, "
                    "or raise %s",
                    whose, (unsigned long long)at->quota[KVP_TIER_RAM].max, p->geometry.slot_bytes,
                    (unsigned long long)kvpi_account_claims_if(at, KVPI_VIEWS_ONLY), c->n_min,
                    at->parent ? "its budget" : "ram_bytes");
}

/* Bring the claim nearer: a place for pages that are stuck, or whatever is on its way, or what
 * other holders give back. */
static kvp_status work_for(kvp_pager *p, const kvpi_claim *c, kvp_group *at, uint64_t deadline_ns)
{
    if (kvpi_place_stuck(p, at, c))
        return KVP_OK;
    kvp_status status = kvpi_wait(p, deadline_ns);
    if (status != KVP_E_NOSPACE)
        return status;
    /* Nothing moves. Nobody who waits here holds anything, so holders will come to an end. But
     * views end only when the caller ends them. */
    uint32_t held_for_ever = c->waits_for_views ? 0 : p->held_user;
    at = obstacle(p, c, c->waits_for_views ? KVPI_NO_HOLDERS : KVPI_VIEWS_ONLY);
    bool nobody_ends = p->held == held_for_ever + p->root->n_ahead && !p->n_admitted;
    if (!at && nobody_ends)
        at = obstacle(p, c, KVPI_ALL_HOLDERS);
    if (!at && nobody_ends)
        return KVP_OK;     /* it fits now */
    if (at && !p->resized) /* a budget that shrinks is in force when that is over */
        return fail_claim(p, c, at);
    return kvpi_sleep(p, deadline_ns);
}

static kvp_status wait_for_room(kvp_pager *p, const kvpi_claim *c, uint64_t deadline_ns)
{
    const unsigned any = KVPI_PAGE_RESIDENT | KVPI_PAGE_LOADING;
    kvp_group *at;
    while ((at = obstacle(p, c, KVPI_ALL_HOLDERS))) {
        if (!obstacle(p, c, KVPI_BUT_READ_AHEAD) && kvpi_ahead_give_up(p, at, any))
            continue;
        p->n_waiting++;
        kvp_status status = work_for(p, c, at, deadline_ns);
        p->n_waiting--;
        if (status == KVP_E_TIMEOUT && deadline_ns == 0)
            return kvp_fail(KVP_E_AGAIN, "no frames are free at the moment");
        if (status)
            return status;
    }
    kvpi_claim wish = *c;
    wish.n_min = c->n_max;
    while ((at = obstacle(p, &wish, KVPI_ALL_HOLDERS)) && kvpi_ahead_give_up(p, at, any))
        continue;
    return KVP_OK;
}

kvp_status kvpi_hold(kvp_pager *p, const kvpi_claim *claim, uint64_t deadline_ns, uint32_t *granted)
{
    kvpi_claim c = *claim;
    c.account = c.account ? c.account : p->root;
    c.new_account = c.new_account ? c.new_account : c.account;
    assert(kvpi_account_has(c.new_account, c.account));
    kvp_status status = wait_for_room(p, &c, deadline_ns);
    if (status)
        return status;
    p->n_admitted += c.n_new;
    kvpi_account_need(p, c.new_account, (int32_t)c.n_new);
    uint64_t room = kvpi_account_room(c.account, KVP_TIER_RAM);
    *granted = room < c.n_max ? (uint32_t)room : c.n_max;
    assert(*granted >= c.n_min);
    kvpi_account_hold(p, c.account, (int32_t)*granted);
    if (c.is_user) {
        p->held_user += *granted;
        c.account->held_user += *granted;
    }
    return KVP_OK;
}

void kvpi_admitted(kvp_pager *p, kvp_group *account, uint32_t n_new)
{
    p->n_admitted -= n_new;
    kvpi_account_need(p, account, -(int32_t)n_new);
}

void kvpi_unhold(kvp_pager *p, kvp_group *account, uint32_t n, bool is_user)
{
    assert(p->held >= n && (!is_user || account->held_user >= n));
    if (is_user) {
        p->held_user -= n;
        account->held_user -= n;
    }
    kvpi_account_hold(p, account, -(int32_t)n);
    pthread_cond_broadcast(&p->progress);
}

/* ---- frames ---- */

/* The page whose frame to take: the first clean one among the next victims. But a hot page would be
 * back in a moment: rather wait for another to be written down. */
static uint32_t find_clean_victim(kvp_pager *p, kvpi_victims v, uint32_t n_tried)
{
    for (uint32_t i = 0; i < n_tried; i++) {
        uint32_t victim = kvpi_victim_next(&v);
        if (victim == KVP_PAGE_NONE)
            return victim;
        const kvpi_page *page = kvpi_page_at(&p->pages, victim);
        bool is_wanted = kvpi_page_is(page, KVPI_PAGE_HOT | KVPI_PAGE_KEPT);
        if (i > 0 && is_wanted && n_tried == VICTIMS_TRIED)
            return KVP_PAGE_NONE;
        if (!kvpi_page_is(page, KVPI_PAGE_WRITING) && kvpi_page_is(page, KVPI_PAGE_COPIED))
            return victim;
    }
    return KVP_PAGE_NONE;
}

bool kvpi_frame_reclaim(kvp_pager *p, kvp_group *scope, const kvp_group *cause)
{
    kvpi_victims v = kvpi_victims_of(scope, cause, KVP_TIER_RAM, true);
    uint32_t victim = find_clean_victim(p, v, UINT32_MAX);
    if (victim != KVP_PAGE_NONE) {
        kvpi_victims_pass(&v);
        kvpi_page_evict(p, victim, cause);
    }
    return victim != KVP_PAGE_NONE;
}

static void count_frame(kvp_pager *p, kvp_group *account)
{
    kvpi_account_use(account, KVP_TIER_RAM, 1);
    uint64_t charged = kvpi_ram_charged(p, (uint32_t)p->root->used[KVP_TIER_RAM]);
    if (charged > p->stats.ram_peak_bytes)
        p->stats.ram_peak_bytes = charged;
}

/* While a budget shrinks, what had been granted before still holds. */
static uint64_t frames_allowed(const kvp_group *g)
{
    const kvp_pager *p = g->pager;
    const kvpi_quota *q = &g->quota[KVP_TIER_RAM];
    bool shrinks = p->resized == g && p->resized_tier == KVP_TIER_RAM;
    if (!shrinks || p->resized_from.max <= q->max)
        return q->max;
    uint64_t committed = kvpi_quota_commitment(q);
    committed = committed < p->resized_from.max ? committed : p->resized_from.max;
    return committed > q->max ? committed : q->max;
}

kvp_group *kvpi_frame_scope(kvp_group *account, uint64_t *room)
{
    kvp_group *scope = account;
    *room = UINT64_MAX;
    for (kvp_group *g = account; g; g = g->parent) {
        uint64_t max = frames_allowed(g), used = g->used[KVP_TIER_RAM];
        uint64_t here = max > used ? max - used : 0;
        if (here < *room) {
            *room = here;
            scope = g;
        }
    }
    return scope;
}

/* The deepest account, from this one up, that has all its frames; NULL: none has. */
static kvp_group *full_account(kvp_group *account)
{
    uint64_t room;
    kvp_group *g = kvpi_frame_scope(account, &room);
    return room ? NULL : g;
}

/* A frame that is free, or becomes so by dropping a clean page among the next n_tried victims. */
static kvp_status take_free_frame(kvp_pager *p, kvp_group *account, uint32_t n_tried,
                                  bool spares_seqs, uint32_t *frame)
{
    kvp_group *full = full_account(account);
    if (full) {
        kvpi_victims v = kvpi_victims_of(full, account, KVP_TIER_RAM, spares_seqs);
        uint32_t victim = find_clean_victim(p, v, n_tried);
        if (victim == KVP_PAGE_NONE)
            return KVP_E_NOSPACE;
        kvpi_victims_pass(&v);
        kvpi_page_evict(p, victim, account);
    }
    kvp_slot slot;
    kvp_status status = kvpi_tier_slot_alloc(p->ram, p->geometry.slot_bytes, &slot);
    if (!status) {
        *frame = (uint32_t)slot;
        count_frame(p, account);
    }
    return status;
}

/* Nothing can be written: look at all pages; at last, at those that sequences keep by their mins:
 * pages that their groups share may all be pinned. */
static kvp_status take_any_frame(kvp_pager *p, kvp_group *account, uint32_t *frame)
{
    kvp_status status = take_free_frame(p, account, UINT32_MAX, true, frame);
    if (status == KVP_E_NOSPACE)
        status = take_free_frame(p, account, UINT32_MAX, false, frame);
    if (status == KVP_E_NOSPACE) {
        const kvp_group *full = full_account(account);
        return fail_full(p, full ? full : p->root, account);
    }
    return status;
}

kvp_status kvpi_frame_take(kvp_pager *p, kvp_group *account, bool is_prefetch, uint32_t *frame)
{
    kvpi_poll(p); /* a write that has completed leaves a clean page behind */
    kvp_status status = take_free_frame(p, account, VICTIMS_TRIED, true, frame);
    if (status == KVP_E_NOSPACE && !is_prefetch &&
        kvpi_ahead_give_up(p, full_account(account), KVPI_PAGE_RESIDENT))
        status = take_free_frame(p, account, UINT32_MAX, true, frame);
    if (status != KVP_E_NOSPACE)
        return status;
    kvpi_demote_next(p, account);
    if (!kvpi_demote_one(p, full_account(account), account) || p->n_transfers || p->n_finishing ||
        is_prefetch)
        return KVP_E_AGAIN;
    return take_any_frame(p, account, frame);
}

kvp_status kvpi_frame_wait(kvp_pager *p, kvp_group *account, uint32_t *frame)
{
    kvp_status status;
    while ((status = kvpi_frame_take(p, account, false, frame)) == KVP_E_AGAIN) {
        status = kvpi_wait(p, KVP_FOREVER);
        if (status && status != KVP_E_NOSPACE)
            return status;
    }
    return status;
}

void kvpi_frame_give(kvp_pager *p, kvp_group *account, uint32_t frame)
{
    kvpi_account_use(account, KVP_TIER_RAM, -1);
    kvpi_tier_slot_free(p->ram, frame);
}
