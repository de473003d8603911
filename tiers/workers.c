/* workers.c - the library's own threads for computing: one job at a time, its tasks taken from a
 * shared counter, the caller working along. A second caller meanwhile runs its tasks itself: no
 * result depends on who runs what.
 *
 * Lock: kvpi_workers.lock is a leaf. */
#include "alloc/mem.h"
#include "tiers/pager.h"

#include <stdatomic.h>

struct kvpi_workers {
    pthread_mutex_t lock;
    pthread_cond_t has_job, job_done;
    const kvp_mem *mem;
    const kvp_env *env;
    atomic_bool is_busy; /* a caller owns the job fields */
    void (*task)(void *arg, size_t i);
    void *arg;
    size_t n_tasks;
    atomic_size_t next_task;
    uint64_t job;       /* number of the current job: under lock */
    uint32_t n_running; /* threads inside it: under lock */
    bool stop;
    uint32_t n_threads; /* beside the caller */
    void *threads[];
};

static size_t struct_bytes(uint32_t n_threads)
{
    return sizeof(kvpi_workers) + n_threads * sizeof(void *);
}

static void take_tasks(kvpi_workers *w)
{
    for (;;) {
        size_t i = atomic_fetch_add(&w->next_task, 1);
        if (i >= w->n_tasks)
            return;
        w->task(w->arg, i);
    }
}

static void worker_main(void *arg)
{
    kvpi_workers *w = arg;
    uint64_t seen = 0;
    pthread_mutex_lock(&w->lock);
    for (;;) {
        while (!w->stop && (w->job == seen || !w->task))
            pthread_cond_wait(&w->has_job, &w->lock);
        if (w->stop)
            break;
        seen = w->job;
        w->n_running++;
        pthread_mutex_unlock(&w->lock);
        take_tasks(w);
        pthread_mutex_lock(&w->lock);
        if (--w->n_running == 0)
            pthread_cond_signal(&w->job_done);
    }
    pthread_mutex_unlock(&w->lock);
}

static void stop_threads(kvpi_workers *w)
{
    pthread_mutex_lock(&w->lock);
    w->stop = true;
    pthread_cond_broadcast(&w->has_job);
    pthread_mutex_unlock(&w->lock);
    for (uint32_t i = 0; i < w->n_threads; i++)
        if (w->threads[i])
            w->env->thread_join(w->env->opaque, w->threads[i]);
}

kvp_status kvpi_workers_open(const kvp_mem *mem, const kvp_env *env, uint32_t n_threads,
                             kvpi_workers **out)
{
    uint32_t n = n_threads - 1;
    kvpi_workers *w;
    kvp_status status = kvpi_alloc(mem, struct_bytes(n), "worker threads", &w);
    if (status)
        return status;
    w->mem = mem;
    w->env = env;
    w->n_threads = n;
    pthread_mutex_init(&w->lock, NULL);
    pthread_cond_init(&w->has_job, NULL);
    pthread_cond_init(&w->job_done, NULL);
    for (uint32_t i = 0; i < n && !status; i++)
        status = env->thread_start(env->opaque, worker_main, w, &w->threads[i]);
    if (status) {
        kvpi_workers_close(w);
        return status;
    }
    *out = w;
    return KVP_OK;
}

void kvpi_workers_close(kvpi_workers *w)
{
    if (!w)
        return;
    stop_threads(w);
    pthread_mutex_destroy(&w->lock);
    pthread_cond_destroy(&w->has_job);
    pthread_cond_destroy(&w->job_done);
    kvpi_free(w->mem, w, struct_bytes(w->n_threads));
}

static void run_alone(size_t n, void (*task)(void *arg, size_t i), void *arg)
{
    for (size_t i = 0; i < n; i++)
        task(arg, i);
}

void kvpi_workers_run(kvpi_workers *w, size_t n, void (*task)(void *arg, size_t i), void *arg)
{
    if (n < 2 || w->n_threads == 0 || atomic_exchange(&w->is_busy, true)) {
        run_alone(n, task, arg);
        return;
    }
    pthread_mutex_lock(&w->lock);
    w->task = task;
    w->arg = arg;
    w->n_tasks = n;
    atomic_store(&w->next_task, 0);
    w->job++;
    pthread_cond_broadcast(&w->has_job);
    pthread_mutex_unlock(&w->lock);
    take_tasks(w);
    pthread_mutex_lock(&w->lock);
    while (w->n_running)
        pthread_cond_wait(&w->job_done, &w->lock);
    w->task = NULL; /* a thread that wakes up late finds no job */
    pthread_mutex_unlock(&w->lock);
    atomic_store(&w->is_busy, false);
}

void kvp_parallel_for(kvp_pager *pager, size_t n_tasks, void (*task)(void *arg, size_t i),
                      void *arg)
{
    if (pager->cfg.parallel_for)
        pager->cfg.parallel_for(pager->cfg.parallel_opaque, n_tasks, task, arg);
    else
        kvpi_workers_run(pager->workers, n_tasks, task, arg);
}

uint32_t kvp_pager_threads(const kvp_pager *pager)
{
    return pager->cfg.n_threads;
}
