/* frames.c - the frame ledger: who may hold how many frames of RAM, and that a promise can be kept.
 *
 * A reservation is made all at once or waited for while holding nothing, so two holders never wait
 * for each other. It counts pinned pages, whether they were resident before or not. */
#include "tiers/pager.h"

#include <assert.h>
#include <string.h>

#define VICTIMS_TRIED 8u  /* a clean page among the next few leaves before a dirty one */
#define PROMISE_SLOTS 16u /* disk slots asked for at a time */

/* Dirty pages whose bytes have no sure place to go. */
static uint32_t stuck_frames(const kvp_pager *p, uint32_t n_homeless)
{
    return n_homeless > p->promised ? (uint32_t)(n_homeless - p->promised) : 0;
}

uint32_t kvpi_room(const kvp_pager *p)
{
    uint32_t used = p->held + stuck_frames(p, p->n_homeless);
    return used < p->n_frames ? p->n_frames - used : 0;
}

/* Promise more disk slots. Growing the file is a metadata operation, short enough for the lock. */
bool kvpi_promise(kvp_pager *p, uint64_t n_wanted)
{
    if (!p->lower[KVPI_DISK])
        return false;
    uint64_t chunk = n_wanted > PROMISE_SLOTS ? n_wanted : PROMISE_SLOTS;
    uint64_t tries[2] = {chunk, n_wanted};
    for (int i = 0; i < 2; i++) {
        if (!kvpi_tier_reserve(p->lower[KVPI_DISK], p->promised + tries[i])) {
            p->promised += tries[i];
            return true;
        }
    }
    return false;
}

/* Turn dirty pages that are stuck into pages that are not; false: nothing more can be done. */
static bool unstick(kvp_pager *p, uint32_t n_homeless)
{
    uint32_t stuck = stuck_frames(p, n_homeless);
    if (stuck && kvpi_promise(p, stuck))
        return true;
    if (stuck && p->lower[KVPI_ZRAM] && !kvpi_demote_one(p))
        return true;
    return false;
}

static kvp_status fail_pinned(const kvp_pager *p, uint32_t n_min)
{
    return kvp_fail(KVP_E_NOSPACE,
                    "the RAM budget holds %u pages of %zu bytes: %u are pinned by views, %u are "
                    "wanted; unpin some, or raise ram_bytes",
                    p->n_frames, p->geometry.slot_bytes, p->held_user, n_min);
}

/* Sleep until somebody gives frames back. */
static kvp_status wait_for_holders(kvp_pager *p, uint64_t deadline_ns)
{
    if (deadline_ns == KVP_FOREVER) {
        pthread_cond_wait(&p->progress, &p->lock);
        return KVP_OK;
    }
    struct timespec at = {.tv_sec = (time_t)(deadline_ns / 1000000000u),
                          .tv_nsec = (long)(deadline_ns % 1000000000u)};
    if (!pthread_cond_timedwait(&p->progress, &p->lock, &at))
        return KVP_OK;
    return kvp_fail(KVP_E_TIMEOUT, "the deadline passed while waiting for frames");
}

kvp_status kvpi_hold(kvp_pager *p, uint32_t n_min, uint32_t n_max, bool is_user,
                     uint64_t deadline_ns, uint32_t *granted)
{
    while (kvpi_room(p) < n_min) {
        if (n_min > p->n_frames - p->held_user)
            return fail_pinned(p, n_min);
        if (unstick(p, p->n_homeless)) {
            kvp_status status = kvpi_wait(p, deadline_ns);
            if (status == KVP_E_TIMEOUT)
                return status;
            continue;
        }
        if (p->held == p->held_user) { /* nobody is going to give any back by himself */
            if (kvpi_wait(p, deadline_ns) == KVP_E_NOSPACE)
                return fail_pinned(p, n_min);
            continue;
        }
        if (deadline_ns == 0)
            return kvp_fail(KVP_E_AGAIN, "no frames are free at the moment");
        kvp_status status = wait_for_holders(p, deadline_ns);
        if (status)
            return status;
    }
    uint32_t room = kvpi_room(p);
    *granted = room < n_max ? room : n_max;
    p->held += *granted;
    if (is_user)
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

static kvp_status fail_full(kvp_pager *p)
{
    if (p->write_errors >= KVPI_MAX_WRITE_ERRORS) {
        p->write_errors--; /* the next call may try once more: the trouble may have passed */
        return kvp_fail(KVP_E_IO, "pages cannot be written to the swap file: %s",
                        p->write_errno ? strerror(p->write_errno) : "short write");
    }
    return kvp_fail(
        KVP_E_NOSPACE,
        "the KV does not fit: all tiers are full (ram %u pages of %zu bytes%s%s); raise "
        "ram_bytes%s",
        p->n_frames, p->geometry.slot_bytes, p->lower[KVPI_ZRAM] ? ", zram" : "",
        p->lower[KVPI_DISK] ? ", disk" : "",
        p->lower[KVPI_DISK] ? ", zram_bytes or disk_bytes" : " or add zram or disk");
}

kvp_status kvpi_admit(kvp_pager *p)
{
    for (;;) {
        uint32_t stuck = stuck_frames(p, p->n_homeless + 1);
        bool leaves_a_ring = stuck + KVPI_MIN_FRAMES <= p->n_frames;
        if (leaves_a_ring && p->held + stuck <= p->n_frames)
            return KVP_OK;
        if (unstick(p, p->n_homeless + 1)) {
            kvpi_poll(p);
            continue;
        }
        kvp_status status = kvpi_wait(p, KVP_FOREVER);
        if (status == KVP_E_NOSPACE) { /* nothing is moving */
            /* Others hold frames beside this caller's one: they will give them back. */
            if (!leaves_a_ring || p->held - p->held_user <= 1)
                return fail_full(p);
            status = wait_for_holders(p, KVP_FOREVER);
        }
        if (status)
            return status;
    }
}

/* The page whose frame to take: the first clean one among the next victims. */
static uint32_t find_clean_victim(kvp_pager *p, uint32_t n_tried)
{
    uint32_t v = KVP_PAGE_NONE;
    for (uint32_t i = 0; i < n_tried; i++) {
        v = p->ram_policy->ops->victim(p->ram_policy, v);
        if (v == KVP_PAGE_NONE)
            return v;
        const kvpi_page *page = kvpi_page_at(&p->pages, v);
        if (!kvpi_page_is(page, KVPI_PAGE_WRITING) && kvpi_page_has_copy(page))
            return v;
    }
    return KVP_PAGE_NONE;
}

static void count_frame(kvp_pager *p)
{
    p->n_in_use++;
    uint64_t charged =
        p->fixed_bytes + p->staging_bytes + (uint64_t)p->n_in_use * p->geometry.slot_bytes;
    if (charged > p->stats.ram_peak_bytes)
        p->stats.ram_peak_bytes = charged;
}

/* A frame that is free, or becomes so by dropping a clean page among the next n_tried victims. */
static kvp_status take_free_frame(kvp_pager *p, uint32_t n_tried, uint32_t *frame)
{
    kvp_slot slot;
    kvp_status status = kvpi_tier_slot_alloc(p->ram, p->geometry.slot_bytes, &slot);
    if (status == KVP_E_NOSPACE) {
        uint32_t victim = find_clean_victim(p, n_tried);
        if (victim == KVP_PAGE_NONE)
            return status;
        kvpi_page_evict(p, victim);
        status = kvpi_tier_slot_alloc(p->ram, p->geometry.slot_bytes, &slot);
    }
    if (!status) {
        *frame = (uint32_t)slot;
        count_frame(p);
    }
    return status;
}

kvp_status kvpi_frame_take(kvp_pager *p, uint32_t *frame)
{
    kvpi_poll(p); /* a write that has completed leaves a clean page behind */
    kvp_status status = take_free_frame(p, VICTIMS_TRIED, frame);
    if (status != KVP_E_NOSPACE)
        return status;
    if (!kvpi_demote_one(p) || p->n_transfers)
        return KVP_E_AGAIN;
    status = take_free_frame(p, UINT32_MAX, frame); /* nothing can be written: look at them all */
    return status == KVP_E_NOSPACE ? fail_full(p) : status;
}

void kvpi_frame_give(kvp_pager *p, uint32_t frame)
{
    assert(p->n_in_use > 0);
    p->n_in_use--;
    kvpi_tier_slot_free(p->ram, frame);
}
