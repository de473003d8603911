/* disk_threads.c - the disk engine that works everywhere: a few threads doing pread and pwrite.
 *
 * Invariants
 *   1. A request is in `waiting`, with exactly one worker, or in `finished`.
 *   2. n_taken = requests taken and not reaped.
 *
 * `lock` guards the queues; no I/O happens under it. After a fork the child has no workers: there
 * the engine can only be closed. */
#include "tiers/disk_engine.h"

#include <assert.h>
#include <pthread.h>
#include <time.h>
#include <unistd.h>

#include "alloc/mem.h"

#define MAX_THREADS 8u /* the device is full at this depth with 64 KiB requests */

typedef struct pool {
    kvp_disk base;
    const kvp_mem *mem;
    const kvp_env *env;
    int fd;
    pid_t owner; /* the process that has the workers */

    pthread_mutex_t lock;
    pthread_cond_t has_work, has_finished;
    kvpi_io_queue waiting, finished;
    uint32_t n_taken;
    bool is_closing;
    uint32_t n_threads;
    void *threads[MAX_THREADS];
} pool;

static void transfer(int fd, kvp_disk_io *io)
{
    int64_t n;
    do {
        n = io->op == KVP_IO_READ ? pread(fd, io->buf, io->len_bytes, (off_t)io->offset_bytes)
                                  : pwrite(fd, io->buf, io->len_bytes, (off_t)io->offset_bytes);
        n = n < 0 ? -errno : n;
    } while (kvpi_io_is_retry(n));
    kvpi_io_finish(io, n);
}

static void work(void *arg)
{
    pool *p = arg;
    pthread_mutex_lock(&p->lock);
    for (;;) {
        kvp_disk_io *io = kvpi_io_queue_take(&p->waiting);
        if (io) {
            pthread_mutex_unlock(&p->lock);
            transfer(p->fd, io);
            pthread_mutex_lock(&p->lock);
            kvpi_io_queue_put(&p->finished, io);
            pthread_cond_signal(&p->has_finished);
        } else if (p->is_closing) {
            break;
        } else {
            pthread_cond_wait(&p->has_work, &p->lock);
        }
    }
    pthread_mutex_unlock(&p->lock);
}

/* For n new requests; workers that are busy look for more before they sleep. Lock held. */
static void wake(pool *p, uint32_t n)
{
    for (uint32_t i = 0; i < n && i < p->n_threads; i++)
        pthread_cond_signal(&p->has_work);
}

static kvp_status pool_submit(kvp_disk *disk, kvp_disk_io *io)
{
    pool *p = (pool *)disk;
    pthread_mutex_lock(&p->lock);
    uint32_t n = kvpi_io_queue_put_all(&p->waiting, io);
    p->n_taken += n;
    wake(p, n);
    pthread_mutex_unlock(&p->lock);
    return KVP_OK;
}

static void sleep_until_finished(pool *p, uint64_t ns)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    ns += (uint64_t)t.tv_nsec;
    t.tv_sec += (time_t)(ns / 1000000000u);
    t.tv_nsec = (long)(ns % 1000000000u);
    pthread_cond_timedwait(&p->has_finished, &p->lock, &t);
}

static kvp_status pool_reap(kvp_disk *disk, uint64_t deadline_ns, kvp_disk_io **done)
{
    pool *p = (pool *)disk;
    pthread_mutex_lock(&p->lock);
    while (!p->finished.head && p->n_taken) {
        uint64_t ns = kvpi_io_sleep_ns(p->env, deadline_ns);
        if (!ns)
            break;
        sleep_until_finished(p, ns);
    }
    *done = kvpi_io_queue_take(&p->finished);
    p->n_taken -= *done ? 1 : 0;
    pthread_mutex_unlock(&p->lock);
    return KVP_OK;
}

static void pool_close(kvp_disk *disk)
{
    pool *p = (pool *)disk;
    if (p->owner == getpid()) {
        pthread_mutex_lock(&p->lock);
        assert(!p->waiting.head);
        p->is_closing = true;
        pthread_cond_broadcast(&p->has_work);
        pthread_mutex_unlock(&p->lock);
        for (uint32_t i = 0; i < p->n_threads; i++)
            p->env->thread_join(p->env->opaque, p->threads[i]);
        pthread_cond_destroy(&p->has_finished);
        pthread_cond_destroy(&p->has_work);
        pthread_mutex_destroy(&p->lock);
    }
    kvpi_free(p->mem, p, sizeof *p);
}

static const kvp_disk_ops pool_ops = {
    .name = "threads", .submit = pool_submit, .reap = pool_reap, .close = pool_close};

static void init_sync(pool *p)
{
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&p->has_finished, &monotonic);
    pthread_condattr_destroy(&monotonic);
    pthread_cond_init(&p->has_work, NULL);
    pthread_mutex_init(&p->lock, NULL);
}

kvp_status kvpi_disk_threads_open(const kvp_disk_config *cfg, kvp_disk **out)
{
    pool *p;
    kvp_status s = kvpi_alloc(cfg->mem, sizeof *p, "a disk engine", &p);
    if (s)
        return s;
    p->base.ops = &pool_ops;
    p->mem = cfg->mem;
    p->env = cfg->env;
    p->fd = cfg->fd;
    p->owner = getpid();
    init_sync(p);
    uint32_t wanted = cfg->max_depth < MAX_THREADS ? cfg->max_depth : MAX_THREADS;
    while (p->n_threads < wanted && !s) {
        s = cfg->env->thread_start(cfg->env->opaque, work, p, &p->threads[p->n_threads]);
        p->n_threads += s ? 0 : 1;
    }
    if (!p->n_threads) { /* fewer than wanted is slower, not wrong */
        pool_close(&p->base);
        return s;
    }
    *out = &p->base;
    return KVP_OK;
}
