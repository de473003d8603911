/* faulty_mem.c - allocations that fail on request. */
#include "tests/support/faulty_mem.h"

#include <stdlib.h>

static void *faulty_alloc(void *opaque, size_t n, size_t align)
{
    faulty_mem *m = opaque;
    pthread_mutex_lock(&m->lock);
    int fails = ++m->n_allocs == m->fail_at;
    m->n_failed += (uint64_t)fails;
    void *p = fails ? NULL : aligned_alloc(align, (n + align - 1) / align * align);
    m->outstanding_bytes += p ? (int64_t)n : 0;
    pthread_mutex_unlock(&m->lock);
    return p;
}

static void faulty_free(void *opaque, void *p, size_t n)
{
    faulty_mem *m = opaque;
    if (!p)
        return;
    pthread_mutex_lock(&m->lock);
    m->outstanding_bytes -= (int64_t)n;
    pthread_mutex_unlock(&m->lock);
    free(p);
}

void faulty_mem_init(faulty_mem *m, uint64_t fail_at)
{
    *m = (faulty_mem){.fail_at = fail_at};
    pthread_mutex_init(&m->lock, NULL);
    m->mem = (kvp_mem){.alloc = faulty_alloc, .free = faulty_free, .opaque = m};
}
