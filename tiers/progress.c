/* progress.c - how transfers get on: what was set in motion is handed to the disk tier, what has
 * completed is taken in, and whoever can do neither sleeps until another thread has.
 *
 * Requests are collected in the outbox and handed over together, without the lock: one system call
 * for many, and neighbours on disk become one request in the kernel (5 of 48 KiB: 2.8 GB/s, one by
 * one 2.0).
 *
 * Invariant: the outbox is empty whenever nobody holds the lock. */
#include "tiers/pager.h"

/* Hand the outbox to the disk tier. Drops the lock meanwhile. */
static void push_outbox(kvp_pager *p)
{
    kvp_io *first = p->outbox_first;
    uint32_t n = p->n_outbox;
    p->outbox_first = NULL;
    p->outbox_end = &p->outbox_first;
    p->n_outbox = 0;
    p->n_in_flight += n;
    p->n_submitting += n;
    pthread_mutex_unlock(&p->lock);
    kvp_status status = kvpi_tier_submit(p->lower[KVPI_DISK], first);
    pthread_mutex_lock(&p->lock);
    p->n_submitting -= n;
    if (status)
        p->n_in_flight -= n;
    for (kvp_io *io = status ? first : NULL, *next; io; io = next) {
        next = io->next;
        io->status = status;
        kvpi_transfer_completed(p, io->owner);
    }
    if (!p->has_reaper)
        pthread_cond_broadcast(&p->progress);
}

void kvpi_lock(kvp_pager *p)
{
    pthread_mutex_lock(&p->lock);
    kvpi_pressure_pass(p);
    p->pressure.n_inside++;
}

void kvpi_unlock(kvp_pager *p)
{
    while (p->outbox_first)
        push_outbox(p);
    kvpi_pressure_pass(p);
    p->pressure.n_inside--;
    pthread_mutex_unlock(&p->lock);
}

static kvp_status fail_timeout(void)
{
    return kvp_fail(KVP_E_TIMEOUT, "the deadline passed; the fault goes on");
}

static void take_completion(kvp_pager *p, kvp_io *io)
{
    p->n_in_flight--;
    kvpi_transfer_completed(p, io->owner);
}

static kvp_status reap(kvp_pager *p, kvp_tier_id wanted, uint64_t deadline_ns)
{
    kvp_io *io = NULL;
    p->has_reaper = true;
    p->is_making_room = false;
    if (deadline_ns) /* else it is only a look */
        kvpi_stall_begin(p, wanted);
    pthread_mutex_unlock(&p->lock);
    kvp_status status = kvpi_tier_reap(p->lower[KVPI_DISK], deadline_ns, &io);
    pthread_mutex_lock(&p->lock);
    if (deadline_ns)
        kvpi_stall_end(p, wanted);
    p->has_reaper = false;
    if (io) {
        take_completion(p, io);
        kvpi_poll(p);
        if (p->n_open_scans)
            kvpi_ahead_fill(p, false);
        kvpi_wanted_fill(p);
    }
    pthread_cond_broadcast(&p->progress); /* somebody else may reap now */
    if (status && status != KVP_E_AGAIN)  /* AGAIN: there is room now */
        return status;
    return io || status ? KVP_OK : fail_timeout();
}

static kvp_status sleep_for(kvp_pager *p, kvp_tier_id wanted, uint64_t deadline_ns)
{
    struct timespec at = {.tv_sec = (time_t)(deadline_ns / 1000000000u),
                          .tv_nsec = (long)(deadline_ns % 1000000000u)};
    int error = 0;
    if (deadline_ns)
        kvpi_stall_begin(p, wanted);
    if (deadline_ns == KVP_FOREVER)
        pthread_cond_wait(&p->progress, &p->lock);
    else
        error = pthread_cond_timedwait(&p->progress, &p->lock, &at);
    if (deadline_ns)
        kvpi_stall_end(p, wanted);
    return error ? fail_timeout() : KVP_OK;
}

kvp_status kvpi_sleep(kvp_pager *p, uint64_t deadline_ns)
{
    return sleep_for(p, KVP_TIER_RAM, deadline_ns);
}

/* What whoever waits for the page is short of: the bytes below, or (there is no page, or it is not
 * on its way) a frame. */
static kvp_tier_id wanted_for(const kvp_pager *p, uint32_t page)
{
    if (page == KVP_PAGE_NONE)
        return KVP_TIER_RAM;
    const kvpi_page *pg = kvpi_page_at(&p->pages, page);
    if (!kvpi_page_is(pg, KVPI_PAGE_LOADING))
        return KVP_TIER_RAM;
    return kvpi_page_is(pg, KVPI_PAGE_IN_ZRAM) ? KVP_TIER_ZRAM : KVP_TIER_DISK;
}

static kvp_status step(kvp_pager *p, uint32_t page, bool is_idle, uint64_t deadline_ns)
{
    bool has_pushed = p->outbox_first != NULL;
    if (has_pushed)
        push_outbox(p);
    if (kvpi_ready_is_spare(p))
        kvpi_pool_call(p->cfg.pool, &p->help);
    if (kvpi_ready_finish(p, page))
        return KVP_OK;
    if ((p->n_in_flight > p->n_submitting || p->is_making_room) && !p->has_reaper)
        return reap(p, is_idle ? KVPI_NO_STALL : wanted_for(p, page), deadline_ns);
    if (p->has_reaper || p->n_finishing || p->n_submitting)
        return sleep_for(p, is_idle ? KVPI_NO_STALL : wanted_for(p, page), deadline_ns);
    return has_pushed ? KVP_OK : KVP_E_NOSPACE; /* meanwhile others may have finished it */
}

kvp_status kvpi_wait_for(kvp_pager *p, uint32_t page, uint64_t deadline_ns)
{
    return step(p, page, false, deadline_ns);
}

kvp_status kvpi_wait_idle(kvp_pager *p)
{
    return step(p, KVP_PAGE_NONE, true, KVP_FOREVER);
}

kvp_status kvpi_wait(kvp_pager *p, uint64_t deadline_ns)
{
    return kvpi_wait_for(p, KVP_PAGE_NONE, deadline_ns);
}

bool kvpi_help_out(void *pager)
{
    kvp_pager *p = pager;
    pthread_mutex_lock(&p->lock);
    if (kvpi_ready_is_spare(p)) /* for yet another worker */
        kvpi_pool_call(p->cfg.pool, &p->help);
    bool has_helped = kvpi_ready_finish_spare(p);
    while (p->outbox_first)
        push_outbox(p);
    pthread_mutex_unlock(&p->lock);
    return has_helped;
}

void kvpi_poll(kvp_pager *p)
{
    while (p->n_in_flight > p->n_submitting && !p->has_reaper) {
        kvp_io *io = NULL;
        if (kvpi_tier_reap(p->lower[KVPI_DISK], 0, &io) || !io)
            break;
        take_completion(p, io);
    }
}

void kvpi_drain(kvp_pager *p)
{
    while (p->n_transfers && !kvpi_wait(p, KVP_FOREVER))
        ;
}
