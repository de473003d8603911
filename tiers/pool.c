/* pool.c - a few threads that share the tasks of one loop at a time, and between two help who
 * waits.
 *
 * Threads take tasks from a counter, so one that is not scheduled delays nobody but for the task it
 * holds; they spin briefly between two runs, then sleep. An OpenMP team, whose threads spin for
 * each other, took 24 to 96 ms for a GPT-2 token instead of 2.2 with another process on one of two
 * cores.
 *
 * Invariants, under `lock`, which is a leaf
 *  1. A worker enters a run (n_inside) only while it is open; the caller closes it before waiting
 * for n_inside == 0, and only then may task and arg change.
 *  2. `generation` counts runs; a worker enters each at most once.
 *  3. Nobody waits for a worker that helps, but who retires what it helps with: a run goes on
 *     without it. */
#define _GNU_SOURCE
#include "tiers/pool.h"

#include "alloc/mem.h"
#include "tiers/pager.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>

/* About 20 us: longer than what lies between two steps of a layer, shorter than a time slice. */
#define SPINS 1000
#define MAX_THREADS 1024u

typedef struct worker {
    kvp_pool *pool;
    void *thread;
    uint32_t lane;
} worker;

struct kvp_pool {
    pthread_mutex_t lock;
    pthread_cond_t wake; /* workers: a new run, a call for help, or stop */
    pthread_cond_t done; /* whoever waits until nobody is inside */
    kvp_mem mem;
    kvp_env env;
    atomic_bool is_busy; /* a caller owns the run */
    atomic_uint_fast64_t generation;
    atomic_size_t n_inside;
    atomic_size_t next;          /* task to be taken */
    _Atomic(kvpi_help *) called; /* wanted by nobody yet; NULL: none */
    atomic_size_t n_idle;        /* workers outside of runs that do not help */
    size_t n_asleep;             /* of those */
    bool is_open, stop;
    size_t n;
    void (*task)(void *arg, size_t i);
    void *arg;
    uint32_t n_workers, capacity;
    worker workers[]; /* [capacity] */
};

static _Thread_local uint32_t current_lane;

uint32_t kvp_pool_lane(void)
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

static void take_tasks(kvp_pool *p, size_t n, void (*task)(void *arg, size_t i), void *arg)
{
    for (size_t i; (i = atomic_fetch_add(&p->next, 1)) < n;)
        task(arg, i);
}

/* ---- workers ---- */

static void spin(const kvp_pool *p, uint64_t seen)
{
    for (int i = 0; i < SPINS && atomic_load(&p->generation) == seen && !atomic_load(&p->called);
         i++)
        relax();
}

/* Drops the lock meanwhile. */
static void help(kvp_pool *p, kvpi_help *h, uint64_t seen)
{
    atomic_store(&p->called, NULL);
    atomic_fetch_sub(&p->n_idle, 1);
    h->n_inside++;
    pthread_mutex_unlock(&p->lock);
    while (atomic_load(&p->generation) == seen && h->some(h->arg))
        continue;
    pthread_mutex_lock(&p->lock);
    if (--h->n_inside == 0)
        pthread_cond_broadcast(&p->done);
    pthread_mutex_unlock(&p->lock);
    atomic_fetch_add(&p->n_idle, 1);
    spin(p, seen);
    pthread_mutex_lock(&p->lock);
}

/* Wait for a run that this worker has not seen. With the lock held at return. */
static void await_run(kvp_pool *p, uint64_t seen)
{
    atomic_fetch_add(&p->n_idle, 1);
    spin(p, seen);
    pthread_mutex_lock(&p->lock);
    while (atomic_load(&p->generation) == seen && !p->stop) {
        kvpi_help *called = atomic_load(&p->called);
        if (called) {
            help(p, called, seen);
            continue;
        }
        p->n_asleep++;
        pthread_cond_wait(&p->wake, &p->lock);
        p->n_asleep--;
    }
    atomic_fetch_sub(&p->n_idle, 1);
}

static void work(void *arg)
{
    worker *w = arg;
    kvp_pool *p = w->pool;
    current_lane = w->lane;
    for (uint64_t seen = 0;;) {
        await_run(p, seen);
        seen = atomic_load(&p->generation);
        bool stop = p->stop, enter = p->is_open && !stop;
        size_t n = p->n;
        void (*task)(void *, size_t) = p->task;
        void *task_arg = p->arg;
        if (enter)
            atomic_fetch_add(&p->n_inside, 1);
        pthread_mutex_unlock(&p->lock);
        if (stop)
            return;
        if (!enter)
            continue;
        take_tasks(p, n, task, task_arg);
        pthread_mutex_lock(&p->lock);
        if (atomic_fetch_sub(&p->n_inside, 1) == 1)
            pthread_cond_broadcast(&p->done);
        pthread_mutex_unlock(&p->lock);
    }
}

/* ---- the caller ---- */

static void open_run(kvp_pool *p, size_t n, void (*task)(void *arg, size_t i), void *arg)
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

static void close_run(kvp_pool *p)
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

void kvp_pool_run(kvp_pool *p, size_t n, void (*task)(void *arg, size_t i), void *arg)
{
    if (n < 2 || !p->n_workers || atomic_exchange(&p->is_busy, true)) {
        for (size_t i = 0; i < n; i++)
            task(arg, i);
        return;
    }
    open_run(p, n, task, arg);
    take_tasks(p, n, task, arg);
    close_run(p);
    atomic_store(&p->is_busy, false);
}

/* ---- help ---- */

void kvpi_pool_call(kvp_pool *p, kvpi_help *h)
{
    if (!p || !atomic_load(&p->n_idle) || atomic_load(&p->called) == h)
        return;
    pthread_mutex_lock(&p->lock);
    atomic_store(&p->called, h);
    if (p->n_asleep && p->n_asleep == atomic_load(&p->n_idle)) /* nobody is awake to see it */
        pthread_cond_signal(&p->wake);
    pthread_mutex_unlock(&p->lock);
}

void kvpi_pool_retire(kvp_pool *p, kvpi_help *h)
{
    if (!p)
        return;
    pthread_mutex_lock(&p->lock);
    if (atomic_load(&p->called) == h)
        atomic_store(&p->called, NULL);
    while (h->n_inside)
        pthread_cond_wait(&p->done, &p->lock);
    pthread_mutex_unlock(&p->lock);
}

/* ---- life ---- */

uint32_t kvpi_cpu_count(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set))
        return 1;
    return (uint32_t)CPU_COUNT(&set);
}

static size_t struct_bytes(uint32_t n_workers)
{
    return sizeof(kvp_pool) + n_workers * sizeof(worker);
}

uint32_t kvp_pool_threads(const kvp_pool *p)
{
    return p->n_workers + 1;
}

kvp_status kvp_pool_open(uint32_t n_threads, const kvp_mem *mem, const kvp_env *env, kvp_pool **out)
{
    uint32_t n = (n_threads ? n_threads : kvpi_cpu_count()) - 1;
    mem = mem ? mem : &kvpi_mem_default;
    if (n_threads > MAX_THREADS)
        return kvp_fail(KVP_E_INVALID, "%u threads, at most %u are possible", n_threads,
                        MAX_THREADS);
    kvp_pool *p;
    kvp_status status = kvpi_alloc(mem, struct_bytes(n), "threads", &p);
    if (status)
        return status;
    p->mem = *mem;
    p->env = env ? *env : *kvp_env_default();
    p->capacity = n;
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->wake, NULL);
    pthread_cond_init(&p->done, NULL);
    while (p->n_workers < n && !status) {
        worker *w = &p->workers[p->n_workers];
        *w = (worker){.pool = p, .lane = p->n_workers + 1};
        status = p->env.thread_start(p->env.opaque, work, w, &w->thread);
        p->n_workers += !status;
    }
    if (status) {
        kvp_pool_close(p);
        return status;
    }
    *out = p;
    return KVP_OK;
}

void kvp_pool_close(kvp_pool *p)
{
    if (!p)
        return;
    pthread_mutex_lock(&p->lock);
    p->stop = true;
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->lock);
    for (uint32_t i = 0; i < p->n_workers; i++)
        p->env.thread_join(p->env.opaque, p->workers[i].thread);
    pthread_cond_destroy(&p->done);
    pthread_cond_destroy(&p->wake);
    pthread_mutex_destroy(&p->lock);
    kvp_mem mem = p->mem;
    kvpi_free(&mem, p, struct_bytes(p->capacity));
}
