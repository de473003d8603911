/* pool.h - what a pool's workers do besides loops: help somebody who waits. */
#ifndef KVPI_TIERS_POOL_H
#define KVPI_TIERS_POOL_H

#include "kvpager/pool.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* CPUs that this process may use. */
uint32_t kvpi_cpu_count(void);

/* Work that any thread may take a piece of. The caller's, until it is retired. */
typedef struct kvpi_help {
    bool (*some)(void *arg); /* do a piece; false: there was none */
    void *arg;
    size_t n_inside; /* workers; the pool's */
} kvpi_help;

/* A worker that has no loop to work in goes on with it until there is nothing left, or a run is
 * opened. Returns at once, and asks for one worker, if there is an idle one. NULL pool: nobody
 * comes. */
void kvpi_pool_call(kvp_pool *pool, kvpi_help *help);
/* From now on nobody is inside. */
void kvpi_pool_retire(kvp_pool *pool, kvpi_help *help);

#endif
