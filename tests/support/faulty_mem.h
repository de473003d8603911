/* faulty_mem.h - a kvp_mem that fails the n-th allocation and knows what has not been given back.
 */
#ifndef KVP_TESTS_FAULTY_MEM_H
#define KVP_TESTS_FAULTY_MEM_H

#include "kvpager/mem.h"

#include <pthread.h>
#include <stdint.h>

typedef struct faulty_mem {
    kvp_mem mem; /* hand out its address */
    pthread_mutex_t lock;
    uint64_t n_allocs, fail_at, n_failed; /* fail_at 0: never */
    int64_t outstanding_bytes;
} faulty_mem;

/* The fail_at-th allocation (from 1) fails, those after it succeed. */
void faulty_mem_init(faulty_mem *m, uint64_t fail_at);

#endif
