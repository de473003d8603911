/* pool.c - a few threads that share the tasks of one loop at a time.
 *
 * oneDNN would bring OpenMP's threads. They wait for each other by spinning: with another process
 * on one of two cores a token took 24 to 96 ms instead of 2.2 ms on one thread (measured). Here
 * threads take tasks from a counter, so one that is not scheduled delays nobody but for the task it
 * holds, and they spin only briefly, then sleep.
 *
 * Invariants, under `lock`:
 *  1. A worker enters a job (n_inside) only while it is open; the caller closes it before it waits
 *     for n_inside == 0, and only then may task and arg change.
 *  2. generation counts jobs; a worker enters each at most once. */
#define _GNU_SOURCE
#include "integration/models/pool.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* About 20 us: longer than what lies between two products of a token, shorter than a time slice. */
#define SPINS 1000

typedef struct worker {
    pool *p;
    pthread_t thread;
    uint32_t lane;
} worker;

struct pool {
    pthread_mutex_t lock;
    pthread_cond_t wake; /* workers: a new job, or stop */
    pthread_cond_t done; /* the caller: nobody is inside */
    atomic_uint_fast64_t generation;
    atomic_size_t n_inside;
    atomic_size_t next; /* task to be taken */
    size_t n_asleep;
    bool is_open, stop;
    size_t n;
    void (*task)(void *arg, size_t i);
    void *arg;
    worker *workers; /* [n_workers] */
    uint32_t n_workers;
};

static _Thread_local uint32_t current_lane;

uint32_t pool_lane(void)
{
    return current_lane;
}

static void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#else
    sched_yield();
#endif
}

static void take_tasks(pool *p, size_t n, void (*task)(void *arg, size_t i), void *arg)
{
    for (size_t i; (i = atomic_fetch_add(&p->next, 1)) < n;)
        task(arg, i);
}

/* ---- workers ------------------------------------------------------------------------------------
 */

/* Wait for a job that this worker has not seen. With the lock held at return. */
static void await_job(pool *p, uint64_t seen)
{
    for (int i = 0; i < SPINS && atomic_load(&p->generation) == seen; i++)
        relax();
    pthread_mutex_lock(&p->lock);
    while (atomic_load(&p->generation) == seen && !p->stop) {
        p->n_asleep++;
        pthread_cond_wait(&p->wake, &p->lock);
        p->n_asleep--;
    }
}

static void *work(void *arg)
{
    worker *w = arg;
    pool *p = w->p;
    current_lane = w->lane;
    for (uint64_t seen = 0;;) {
        await_job(p, seen);
        seen = atomic_load(&p->generation);
        bool stop = p->stop, enter = p->is_open && !stop;
        size_t n = p->n;
        void (*task)(void *, size_t) = p->task;
        void *task_arg = p->arg;
        if (enter)
            atomic_fetch_add(&p->n_inside, 1);
        pthread_mutex_unlock(&p->lock);
        if (stop)
            return NULL;
        if (!enter)
            continue;
        take_tasks(p, n, task, task_arg);
        pthread_mutex_lock(&p->lock);
        if (atomic_fetch_sub(&p->n_inside, 1) == 1)
            pthread_cond_signal(&p->done);
        pthread_mutex_unlock(&p->lock);
    }
}

/* ---- the caller ---------------------------------------------------------------------------------
 */

static void open_job(pool *p, size_t n, void (*task)(void *arg, size_t i), void *arg)
{
    pthread_mutex_lock(&p->lock);
    p->n = n;
    p->task = task;
    p->arg = arg;
    p->is_open = true;
    atomic_store(&p->next, 0);
    atomic_fetch_add(&p->generation, 1);
    if (p->n_asleep)
        pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
}

static void close_job(pool *p)
{
    pthread_mutex_lock(&p->lock);
    p->is_open = false;
    pthread_mutex_unlock(&p->lock);
    for (int i = 0; i < SPINS && atomic_load(&p->n_inside); i++)
        relax();
    pthread_mutex_lock(&p->lock);
    while (atomic_load(&p->n_inside))
        pthread_cond_wait(&p->done, &p->lock);
    pthread_mutex_unlock(&p->lock);
}

void pool_run(pool *p, size_t n, void (*task)(void *arg, size_t i), void *arg)
{
    if (n < 2 || !p->n_workers) {
        for (size_t i = 0; i < n; i++)
            task(arg, i);
        return;
    }
    open_job(p, n, task, arg);
    take_tasks(p, n, task, arg);
    close_job(p);
}

/* ---- life ---------------------------------------------------------------------------------------
 */

static uint32_t count_cpus(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set))
        return 1;
    return (uint32_t)CPU_COUNT(&set);
}

uint32_t pool_n_threads(const pool *p)
{
    return p->n_workers + 1;
}

/* Signals are for the program's own threads. */
static int start_worker(worker *w)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&w->thread, NULL, work, w);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return error;
}

kvp_status pool_open(uint32_t n_threads, pool **out)
{
    if (!n_threads)
        n_threads = count_cpus();
    pool *p = calloc(1, sizeof *p);
    if (p)
        p->workers = calloc(n_threads, sizeof *p->workers);
    if (!p || !p->workers) {
        free(p);
        return kvp_fail(KVP_E_NOMEM, "out of memory: %u threads", n_threads);
    }
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->wake, NULL);
    pthread_cond_init(&p->done, NULL);
    while (p->n_workers + 1 < n_threads) {
        worker *w = &p->workers[p->n_workers];
        *w = (worker){.p = p, .lane = p->n_workers + 1};
        int error = start_worker(w);
        if (error) {
            uint32_t started = p->n_workers + 1;
            pool_close(p);
            return kvp_fail(KVP_E_NOMEM, "only %u of %u threads can be started: %s", started,
                            n_threads, strerror(error));
        }
        p->n_workers++;
    }
    *out = p;
    return KVP_OK;
}

void pool_close(pool *p)
{
    if (!p)
        return;
    pthread_mutex_lock(&p->lock);
    p->stop = true;
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
    for (uint32_t i = 0; i < p->n_workers; i++)
        pthread_join(p->workers[i].thread, NULL);
    pthread_cond_destroy(&p->done);
    pthread_cond_destroy(&p->wake);
    pthread_mutex_destroy(&p->lock);
    free(p->workers);
    free(p);
}
