/* ticket.c - asynchronous pins: tickets that are carried on by whoever polls or waits for one, and
 * by a thread once somebody has asked for the descriptor that becomes readable. The same thread
 * goes on fetching what was said to be needed (advise.c).
 *
 * Invariants, under the pager's lock
 *  K1  The pager's list has the tickets that are open: not taken by the caller yet.
 *  K2  Whoever carries a ticket on may drop the lock meanwhile, and has set is_busy: nobody else
 *      touches it then. */
#include "tiers/pager.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

static void enlist(kvp_pager *p, kvp_ticket *t)
{
    t->prev = p->last_ticket;
    *(t->prev ? &t->prev->next : &p->tickets) = t;
    p->last_ticket = t;
    t->seq->n_tickets++;
}

static void strike(kvp_pager *p, kvp_ticket *t)
{
    *(t->prev ? &t->prev->next : &p->tickets) = t->next;
    *(t->next ? &t->next->prev : &p->last_ticket) = t->prev;
    t->seq->n_tickets--;
    t->prev = t->next = NULL;
}

static void signal_readable(const kvp_pager *p)
{
    const uint64_t one = 1;
    if (p->event_fd >= 0 && write(p->event_fd, &one, sizeof one) < 0)
        assert(errno == EAGAIN); /* so many events that nobody has read: it is readable */
}

/* A step of a ticket that nobody else carries on. */
static void carry_on(kvp_pager *p, kvp_ticket *t, uint64_t deadline_ns)
{
    assert(!t->is_busy && !t->is_over);
    t->is_busy = true;
    kvp_status status = kvpi_pin_advance(t, deadline_ns);
    t->is_busy = false;
    t->is_over = status != KVP_E_AGAIN && status != KVP_E_TIMEOUT;
    if (t->is_over) {
        t->status = status;
        if (status) {
            strncpy(t->message, kvp_error(), sizeof t->message - 1);
            kvpi_pin_abandon(t);
        }
        signal_readable(p);
    }
    pthread_cond_broadcast(&p->progress);
}

/* ---- the thread behind the descriptor ---- */

/* One step of every open ticket; false: there is none that goes on. */
static bool carry_all_on(kvp_pager *p)
{
    bool goes_on = false;
    uint32_t round = ++p->ticket_round;
    for (kvp_ticket *t = p->tickets; t;) {
        if (t->is_over || t->is_busy || t->round == round) {
            t = t->next;
            continue;
        }
        t->round = round;
        carry_on(p, t, 0);
        goes_on = goes_on || !t->is_over;
        t = p->tickets; /* the list may have changed meanwhile */
    }
    return goes_on;
}

/* Others have to give something back, or to ask for something. Nobody is held up by that. */
static void sleep_idle(kvp_pager *p)
{
    kvpi_stall_begin(p, KVPI_NO_STALL);
    pthread_cond_wait(&p->progress, &p->lock);
    kvpi_stall_end(p, KVPI_NO_STALL);
}

static void run(void *arg)
{
    kvp_pager *p = arg;
    kvpi_lock(p);
    while (!p->stop_tickets) {
        bool has_work = carry_all_on(p) || p->wanted || p->n_transfers;
        kvp_status status = has_work ? kvpi_wait_idle(p) : KVP_E_NOSPACE;
        if (status == KVP_E_NOSPACE && !p->stop_tickets)
            sleep_idle(p);
    }
    kvpi_unlock(p);
}

kvp_status kvp_pager_eventfd(kvp_pager *p, int *fd)
{
    if (!p || !fd)
        return kvp_fail(KVP_E_INVALID, "kvp_pager_eventfd: an argument is NULL");
    kvp_status status = KVP_OK;
    pthread_mutex_lock(&p->ticket_lock);
    if (p->event_fd < 0) {
        int event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
        if (event_fd < 0)
            status = kvp_fail(KVP_E_UNSUPPORTED, "eventfd: %s", strerror(errno));
        kvpi_lock(p);
        p->event_fd = event_fd;
        kvpi_unlock(p);
        if (!status)
            status = p->env.thread_start(p->env.opaque, run, p, &p->ticket_thread);
        if (status && event_fd >= 0) {
            kvpi_lock(p);
            p->event_fd = -1;
            kvpi_unlock(p);
            close(event_fd);
        }
    }
    if (!status)
        *fd = p->event_fd;
    pthread_mutex_unlock(&p->ticket_lock);
    return status;
}

void kvpi_tickets_open(kvp_pager *p)
{
    p->event_fd = -1;
    pthread_mutex_init(&p->ticket_lock, NULL);
}

void kvpi_tickets_close(kvp_pager *p)
{
    if (p->event_fd >= 0) {
        kvpi_lock(p);
        p->stop_tickets = true;
        pthread_cond_broadcast(&p->progress);
        kvpi_unlock(p);
        p->env.thread_join(p->env.opaque, p->ticket_thread);
        close(p->event_fd);
    }
    pthread_mutex_destroy(&p->ticket_lock);
}

/* ---- for callers ---- */

bool kvpi_ticket_has(const kvp_seq *seq, uint32_t layer, uint32_t entry)
{
    if (!seq->n_tickets)
        return false;
    for (const kvp_ticket *t = seq->pager->tickets; t; t = t->next)
        if (t->seq == seq && t->layer == layer && entry >= t->begin && entry < t->end)
            return true;
    return false;
}

/* It may be in no known state: only the list tells. */
static bool is_open(const kvp_pager *p, const kvp_ticket *t)
{
    const kvp_ticket *open = p->tickets;
    while (open && open != t)
        open = open->next;
    return open;
}

kvp_status kvp_seq_prepare(kvp_seq *seq, uint32_t layer, uint64_t first, uint64_t n_tokens,
                           kvp_ticket *t)
{
    if (!seq || !t)
        return kvp_fail(KVP_E_INVALID, "prepare: seq or ticket is NULL");
    kvp_pager *p = seq->pager;
    kvpi_lock(p);
    if (is_open(p, t)) {
        kvpi_unlock(p);
        return kvp_fail(KVP_E_BUSY, "prepare: the ticket is open: take or cancel it first");
    }
    kvp_status status = kvpi_pin_begin(t, seq, layer, first, n_tokens);
    if (status) {
        t->seq = NULL;
    } else {
        t->is_prepared = true;
        enlist(p, t);
        carry_on(p, t, 0); /* set in motion what can be */
    }
    kvpi_unlock(p);
    return status;
}

kvp_status kvp_ticket_wait(kvp_ticket *t, uint64_t deadline_ns)
{
    if (!t || !t->seq)
        return kvp_fail(KVP_E_INVALID, "kvp_ticket_wait: the ticket is not open");
    kvp_pager *p = t->seq->pager;
    kvp_status status = KVP_OK;
    kvpi_lock(p);
    while (t->is_busy && !status && deadline_ns)
        status = kvpi_sleep(p, deadline_ns);
    if (!t->is_over && !t->is_busy)
        carry_on(p, t, deadline_ns);
    bool is_over = t->is_over;
    status = t->status;
    if (is_over) {
        strike(p, t);
        t->seq = NULL;
    }
    kvpi_unlock(p);
    if (!is_over)
        return deadline_ns ? kvp_fail(KVP_E_TIMEOUT, "the deadline passed; the faults go on")
                           : kvp_fail(KVP_E_AGAIN, "pages are on their way");
    return status ? kvp_fail(status, "%s", t->message) : KVP_OK;
}

void kvp_ticket_cancel(kvp_ticket *t)
{
    if (!t || !t->seq)
        return;
    kvp_pager *p = t->seq->pager;
    kvpi_lock(p);
    while (t->is_busy)
        pthread_cond_wait(&p->progress, &p->lock);
    strike(p, t);
    if (!t->is_over)
        kvpi_pin_abandon(t);
    kvpi_unlock(p);
    if (t->is_over)
        kvp_view_unpin(&t->view);
    t->seq = NULL;
}
