/* disk_engine.h - what the disk engines share: queues of requests, and what a transfer's result
 * means. */
#ifndef KVPI_TIERS_DISK_ENGINE_H
#define KVPI_TIERS_DISK_ENGINE_H

#include <errno.h>
#include <stdbool.h>

#include "kvpager/disk.h"
#include "kvpager/env.h"

/* The three engines. Errors: KVP_E_UNSUPPORTED it does not work here; KVP_E_NOMEM. */
KVP_NODISCARD kvp_status kvpi_disk_uring_fixed_open(const kvp_disk_config *cfg, kvp_disk **out);
KVP_NODISCARD kvp_status kvpi_disk_uring_open(const kvp_disk_config *cfg, kvp_disk **out);
KVP_NODISCARD kvp_status kvpi_disk_threads_open(const kvp_disk_config *cfg, kvp_disk **out);

/* First in, first out, linked through kvp_disk_io.next. Zeroed: empty. */
typedef struct kvpi_io_queue {
    kvp_disk_io *head, *tail;
} kvpi_io_queue;

static inline void kvpi_io_queue_put(kvpi_io_queue *q, kvp_disk_io *io)
{
    io->next = NULL;
    if (q->head)
        q->tail->next = io;
    else
        q->head = io;
    q->tail = io;
}

/* A chain; returns its length. */
static inline uint32_t kvpi_io_queue_put_all(kvpi_io_queue *q, kvp_disk_io *io)
{
    uint32_t n = 0;
    for (kvp_disk_io *next; io; io = next, n++) {
        next = io->next;
        kvpi_io_queue_put(q, io);
    }
    return n;
}

/* The oldest, or NULL. */
static inline kvp_disk_io *kvpi_io_queue_take(kvpi_io_queue *q)
{
    kvp_disk_io *io = q->head;
    if (io) {
        q->head = io->next;
        io->next = NULL;
    }
    return io;
}

/* The kernel asks for the same again. ECANCELED: the thread that submitted it has exited. */
static inline bool kvpi_io_is_retry(int64_t result)
{
    return result == -EINTR || result == -EAGAIN || result == -ECANCELED;
}

/* Fill in the outcome from what the kernel returned: bytes, or -errno. */
static inline void kvpi_io_finish(kvp_disk_io *io, int64_t result)
{
    io->native_error = result < 0 ? (int)-result : 0;
    io->done_bytes = result < 0 ? 0 : (size_t)result;
    if (io->native_error == ENOSPC || io->native_error == EDQUOT)
        io->status = KVP_E_NOSPACE;
    else
        io->status = io->done_bytes == io->len_bytes ? KVP_OK : KVP_E_IO;
}

/* The longest that an engine sleeps before it looks again: a lost wake-up costs this much, and an
 * env whose clock does not run with the real one still sees its deadlines. */
#define KVPI_WAIT_SLICE_NS 100000000u

/* How long to sleep now; 0: the deadline has passed. */
static inline uint64_t kvpi_io_sleep_ns(const kvp_env *env, uint64_t deadline_ns)
{
    uint64_t now = deadline_ns ? env->now_ns(env->opaque) : 0;
    if (now >= deadline_ns)
        return 0;
    uint64_t left = deadline_ns - now;
    return left < KVPI_WAIT_SLICE_NS ? left : KVPI_WAIT_SLICE_NS;
}

#endif
