/* frames.c - the frame ledger: who may hold how many frames of RAM, and that a promise can be kept.
 *
 * A reservation (a kvpi_claim: frames, and new pages that will have no place below) is made all at
 * once or waited for while holding nothing, so two holders never wait for each other. It counts
 * pinned pages, whether they were resident before or not. */
#include "tiers/pager.h"

#include <assert.h>
#include <stdio.h>
#include <string.h>

#define VICTIMS_TRIED 8u  /* a clean page among the next few leaves before a dirty one */
#define PROMISE_SLOTS 16u /* disk slots asked for at a time */

uint32_t kvpi_stuck(const kvp_pager *p, uint32_t n_new)
{
    uint64_t homeless = (uint64_t)p->n_homeless + p->n_admitted + n_new;
    return homeless > p->promised ? (uint32_t)(homeless - p->promised) : 0;
}

/* Growing the file is a metadata operation, short enough for the lock. */
bool kvpi_promise(kvp_pager *p, uint32_t n_wanted)
{
    if (!p->lower[KVPI_DISK])
        return false;
    uint32_t n = n_wanted > PROMISE_SLOTS ? n_wanted : PROMISE_SLOTS;
    for (; n > 0; n /= 2) { /* what is left may be less than is wanted */
        if (!kvpi_tier_reserve(p->lower[KVPI_DISK], p->promised + n)) {
            p->promised += n;
            return true;
        }
    }
    snprintf(p->disk_full, sizeof p->disk_full, "%s",
             kvp_error()); /* why: the budget, or the disk */
    return false;
}

/* New pages must leave the frames that a scan needs. */
static bool leaves_a_ring(const kvp_pager *p, const kvpi_claim *c)
{
    return !c->n_new || kvpi_stuck(p, c->n_new) + KVPI_MIN_FRAMES <= p->n_frames;
}

/* Can the claim be granted if `held` frames are reserved? */
static bool fits(const kvp_pager *p, const kvpi_claim *c, uint32_t held)
{
    return leaves_a_ring(p, c) &&
           (uint64_t)held + c->n_min + kvpi_stuck(p, c->n_new) <= p->n_frames;
}

static kvp_status fail_full(kvp_pager *p)
{
    if (p->write_errors >= KVPI_MAX_WRITE_ERRORS) {
        p->write_errors--; /* the next call may try once more: the trouble may have passed */
        return kvp_fail(KVP_E_IO, "pages cannot be written to the swap file: %s",
                        p->write_errno ? strerror(p->write_errno) : "short write");
    }
    const char *disk = p->lower[KVPI_DISK] ? p->disk_full : "there is no disk tier";
    return kvp_fail(KVP_E_NOSPACE,
                    "the KV does not fit: ram_bytes holds %u pages of %zu bytes%s; %s; raise "
                    "ram_bytes%s",
                    p->n_frames, p->geometry.slot_bytes,
                    p->lower[KVPI_ZRAM] ? ", zram_bytes is used up" : "", disk,
                    p->lower[KVPI_DISK] ? ", or give the disk more room" : " or disk_bytes");
}

static kvp_status fail_claim(kvp_pager *p, const kvpi_claim *c)
{
    if (c->n_new || p->write_errors >= KVPI_MAX_WRITE_ERRORS)
        return fail_full(p);
    return kvp_fail(KVP_E_NOSPACE,
                    "the RAM budget holds %u pages of %zu bytes: %u are pinned by views, %u can go "
                    "nowhere else, %u more are wanted; unpin some, or raise ram_bytes",
                    p->n_frames, p->geometry.slot_bytes, p->held_user, kvpi_stuck(p, 0), c->n_min);
}

/* Bring the claim nearer: a place for pages that are stuck, or whatever is on its way, or what
 * other holders give back. */
static kvp_status work_for(kvp_pager *p, const kvpi_claim *c, uint64_t deadline_ns)
{
    uint32_t stuck = kvpi_stuck(p, c->n_new);
    if (stuck && (kvpi_promise(p, stuck) || !kvpi_demote_one(p)))
        return KVP_OK;
    kvp_status status = kvpi_wait(p, deadline_ns);
    if (status != KVP_E_NOSPACE)
        return status;
    /* Nothing moves. Nobody who waits here holds anything, so holders will come to an end. */
    uint32_t held_for_ever = c->waits_for_views ? 0 : p->held_user;
    if (!fits(p, c, held_for_ever) || (p->held == held_for_ever && !p->n_admitted))
        return fail_claim(p, c);
    return kvpi_sleep(p, deadline_ns);
}

kvp_status kvpi_hold(kvp_pager *p, const kvpi_claim *c, uint64_t deadline_ns, uint32_t *granted)
{
    while (!fits(p, c, p->held)) {
        if (fits(p, c, p->held - p->n_ahead)) {
            kvpi_ahead_give_up(p, KVPI_PAGE_RESIDENT | KVPI_PAGE_LOADING);
            continue;
        }
        p->n_waiting++;
        kvp_status status = work_for(p, c, deadline_ns);
        p->n_waiting--;
        if (status == KVP_E_TIMEOUT && deadline_ns == 0)
            return kvp_fail(KVP_E_AGAIN, "no frames are free at the moment");
        if (status)
            return status;
    }
    while (p->n_frames - p->held - kvpi_stuck(p, c->n_new) < c->n_max &&
           kvpi_ahead_give_up(p, KVPI_PAGE_RESIDENT | KVPI_PAGE_LOADING))
        continue;
    uint32_t room = p->n_frames - p->held - kvpi_stuck(p, c->n_new);
    *granted = room < c->n_max ? room : c->n_max;
    p->held += *granted;
    p->n_admitted += c->n_new;
    if (c->is_user)
        p->held_user += *granted;
    return KVP_OK;
}

void kvpi_unhold(kvp_pager *p, uint32_t n, bool is_user)
{
    assert(p->held >= n && (!is_user || p->held_user >= n));
    p->held -= n;
    if (is_user)
        p->held_user -= n;
    pthread_cond_broadcast(&p->progress);
}

/* The page whose frame to take: the first clean one among the next victims. But a hot page would be
 * back in a moment: rather wait for another to be written down. */
static uint32_t find_clean_victim(kvp_pager *p, uint32_t n_tried)
{
    uint32_t v = KVP_PAGE_NONE;
    for (uint32_t i = 0; i < n_tried; i++) {
        v = p->ram_policy->ops->victim(p->ram_policy, v);
        if (v == KVP_PAGE_NONE)
            return v;
        const kvpi_page *page = kvpi_page_at(&p->pages, v);
        bool is_wanted = kvpi_page_is(page, KVPI_PAGE_HOT | KVPI_PAGE_KEPT);
        if (i > 0 && is_wanted && n_tried == VICTIMS_TRIED)
            return KVP_PAGE_NONE;
        if (!kvpi_page_is(page, KVPI_PAGE_WRITING) && kvpi_page_is(page, KVPI_PAGE_COPIED))
            return v;
    }
    return KVP_PAGE_NONE;
}

static void count_frame(kvp_pager *p)
{
    p->n_in_use++;
    uint64_t charged = kvpi_ram_charged(p, p->n_in_use);
    if (charged > p->stats.ram_peak_bytes)
        p->stats.ram_peak_bytes = charged;
}

/* A frame that is free, or becomes so by dropping a clean page among the next n_tried victims. */
static kvp_status take_free_frame(kvp_pager *p, uint32_t n_tried, uint32_t *frame)
{
    if (p->n_in_use == p->n_frames) {
        uint32_t victim = find_clean_victim(p, n_tried);
        if (victim == KVP_PAGE_NONE)
            return KVP_E_NOSPACE;
        kvpi_page_evict(p, victim);
    }
    kvp_slot slot;
    kvp_status status = kvpi_tier_slot_alloc(p->ram, p->geometry.slot_bytes, &slot);
    if (!status) {
        *frame = (uint32_t)slot;
        count_frame(p);
    }
    return status;
}

kvp_status kvpi_frame_take(kvp_pager *p, bool is_prefetch, uint32_t *frame)
{
    kvpi_poll(p); /* a write that has completed leaves a clean page behind */
    kvp_status status = take_free_frame(p, VICTIMS_TRIED, frame);
    if (status == KVP_E_NOSPACE && !is_prefetch && kvpi_ahead_give_up(p, KVPI_PAGE_RESIDENT))
        status = take_free_frame(p, UINT32_MAX, frame);
    if (status != KVP_E_NOSPACE)
        return status;
    kvpi_demote_next(p);
    if (!kvpi_demote_one(p) || p->n_transfers || is_prefetch)
        return KVP_E_AGAIN;
    status = take_free_frame(p, UINT32_MAX, frame); /* nothing can be written: look at them all */
    return status == KVP_E_NOSPACE ? fail_full(p) : status;
}

kvp_status kvpi_frame_wait(kvp_pager *p, uint32_t *frame)
{
    kvp_status status;
    while ((status = kvpi_frame_take(p, false, frame)) == KVP_E_AGAIN) {
        status = kvpi_wait(p, KVP_FOREVER);
        if (status && status != KVP_E_NOSPACE)
            return status;
    }
    return status;
}

void kvpi_frame_give(kvp_pager *p, uint32_t frame)
{
    assert(p->n_in_use > 0);
    p->n_in_use--;
    kvpi_tier_slot_free(p->ram, frame);
}
