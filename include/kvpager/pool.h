/* kvpager/pool.h - a few threads that share the tasks of one loop at a time. A pager has one; a
 * program that computes on threads of its own can share one with its pagers (kvp_config.pool). */
#ifndef KVPAGER_POOL_H
#define KVPAGER_POOL_H

#include "kvpager/env.h"
#include "kvpager/mem.h"
#include "kvpager/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kvp_pool kvp_pool;

/* n_threads, the caller's included; 0: one per CPU that this process may use. `mem` and `env` NULL:
 * the defaults. The threads block all signals: those are for the program's own. Errors:
 * KVP_E_NOMEM. */
KVP_API KVP_NODISCARD kvp_status kvp_pool_open(uint32_t n_threads, const kvp_mem *mem,
                                               const kvp_env *env, kvp_pool **out);
/* NULL does nothing. No run may be going on. */
KVP_API void kvp_pool_close(kvp_pool *pool);
KVP_API uint32_t kvp_pool_threads(const kvp_pool *pool);

/* Run task(arg, 0 .. n - 1), each once, in this thread and the pool's; returns when all are done.
 * Tasks must not call it. A call while another thread's is going on runs all its tasks itself. */
KVP_API void kvp_pool_run(kvp_pool *pool, size_t n, void (*task)(void *arg, size_t i), void *arg);

/* Within a task: which thread of its run this is, 0 .. n_threads - 1 (0: the caller). */
KVP_API uint32_t kvp_pool_lane(void);

#ifdef __cplusplus
}
#endif
#endif
