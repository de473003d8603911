/* pool.h - a few threads that share the tasks of one loop at a time. */
#ifndef KVPAGER_MODELS_POOL_H
#define KVPAGER_MODELS_POOL_H

#include <stddef.h>
#include <stdint.h>

#include "kvpager/status.h"

typedef struct pool pool;

/* n_threads, the caller's included; 0: one per CPU that this process may use. */
KVP_NODISCARD kvp_status pool_open(uint32_t n_threads, pool **out);
void pool_close(pool *p);
uint32_t pool_n_threads(const pool *p);

/* Run task(arg, 0 .. n - 1), each once, in this thread and the pool's; returns when all are done.
 * One call at a time; tasks must not call it. */
void pool_run(pool *p, size_t n, void (*task)(void *arg, size_t i), void *arg);

/* Within a task: which of the pool's threads this is, 0 .. n_threads - 1 (0: the caller's). */
uint32_t pool_lane(void);

#endif
