/* done_queue.h - requests that a synchronous backend has finished inside submit and not yet handed
 * back: a FIFO through kvp_io.next. */
#ifndef KVPI_TIERS_DONE_QUEUE_H
#define KVPI_TIERS_DONE_QUEUE_H

#include <pthread.h>
#include <stddef.h>

#include "kvpager/tier.h"

typedef struct kvpi_done_queue {
    pthread_mutex_t lock; /* taken last, and for a few instructions */
    kvp_io *head;
    kvp_io **tail; /* where the next one is linked in */
} kvpi_done_queue;

static inline void kvpi_done_queue_init(kvpi_done_queue *q)
{
    pthread_mutex_init(&q->lock, NULL);
    q->head = NULL;
    q->tail = &q->head;
}

static inline void kvpi_done_queue_fini(kvpi_done_queue *q)
{
    pthread_mutex_destroy(&q->lock);
}

static inline void kvpi_done_queue_push(kvpi_done_queue *q, kvp_io *io)
{
    io->next = NULL;
    pthread_mutex_lock(&q->lock);
    *q->tail = io;
    q->tail = &io->next;
    pthread_mutex_unlock(&q->lock);
}

/* The oldest, or NULL. */
static inline kvp_io *kvpi_done_queue_pop(kvpi_done_queue *q)
{
    pthread_mutex_lock(&q->lock);
    kvp_io *io = q->head;
    if (io) {
        q->head = io->next;
        if (!q->head)
            q->tail = &q->head;
        io->next = NULL;
    }
    pthread_mutex_unlock(&q->lock);
    return io;
}

#endif
