/* env.c - the real world behind kvp_env: the monotonic clock, getrandom, POSIX threads and the disk
 * engines.
 *
 * Invariant: a thread started here has every signal blocked, so that the program's handlers run in
 * the program's own threads. */
#define _GNU_SOURCE 1
#include "kvpager/env.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <sys/random.h>
#include <time.h>

#include "alloc/mem.h"

typedef struct env_thread {
    pthread_t id;
    void (*run)(void *arg);
    void *arg;
} env_thread;

static uint64_t now_ns(void *opaque)
{
    (void)opaque;
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static kvp_status random_bytes(void *opaque, void *buf, size_t n)
{
    (void)opaque;
    for (size_t got = 0; got < n;) {
        ssize_t r = getrandom((char *)buf + got, n - got, 0);
        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0)
            return kvp_fail(KVP_E_IO, "getrandom: %m");
        got += (size_t)r;
    }
    return KVP_OK;
}

static void *run_thread(void *arg)
{
    env_thread *t = arg;
    t->run(t->arg);
    return NULL;
}

static kvp_status thread_start(void *opaque, void (*run)(void *arg), void *arg, void **thread)
{
    (void)opaque;
    env_thread *t;
    kvp_status s = kvpi_alloc(&kvpi_mem_default, sizeof *t, "a thread", &t);
    if (s)
        return s;
    *t = (env_thread){.run = run, .arg = arg};

    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&t->id, NULL, run_thread, t);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error) {
        kvpi_free(&kvpi_mem_default, t, sizeof *t);
        errno = error;
        return kvp_fail(KVP_E_NOMEM, "cannot start a thread: %m; see ulimit -u");
    }
    *thread = t;
    return KVP_OK;
}

static void thread_join(void *opaque, void *thread)
{
    (void)opaque;
    env_thread *t = thread;
    pthread_join(t->id, NULL);
    kvpi_free(&kvpi_mem_default, t, sizeof *t);
}

static kvp_status disk_open(void *opaque, const kvp_disk_config *cfg, kvp_disk **out)
{
    (void)opaque;
    return kvp_disk_open(cfg, out);
}

const kvp_env *kvp_env_default(void)
{
    static const kvp_env env = {
        .now_ns = now_ns,
        .random = random_bytes,
        .thread_start = thread_start,
        .thread_join = thread_join,
        .disk_open = disk_open,
    };
    return &env;
}
