/* parallel.c - whose threads compute: the pager's pool, one that the caller shares, or the caller's
 * own parallel_for. No result depends on it. */
#include "tiers/pager.h"

void kvp_parallel_for(kvp_pager *pager, size_t n_tasks, void (*task)(void *arg, size_t i),
                      void *arg)
{
    if (pager->cfg.parallel_for)
        pager->cfg.parallel_for(pager->cfg.parallel_opaque, n_tasks, task, arg);
    else
        kvp_pool_run(pager->cfg.pool, n_tasks, task, arg);
}

uint32_t kvp_pager_threads(const kvp_pager *pager)
{
    return pager->cfg.n_threads;
}
