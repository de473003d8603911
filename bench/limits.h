/* limits.h - what the machine gives: read bandwidth and the peak of multiply-adds. */
#ifndef BENCH_LIMITS_H
#define BENCH_LIMITS_H

#include <stddef.h>
#include <stdint.h>

#include "integration/models/isa.h"
#include "kvpager/pool.h"

typedef struct limits {
    kvp_pool *pool; /* its threads */
    model_isa isa;
    size_t bytes;
    char *memory;
} limits;

/* Zeros, backed by huge pages where there are any. Exits without memory. */
void *limits_map(size_t bytes);
void limits_unmap(void *p, size_t bytes);

limits limits_open(kvp_pool *pool, model_isa isa, size_t bytes);
void limits_close(limits *l);
/* Time as the pool's speed is taken: of one thread CPU time, since others may use its core. */
uint64_t limits_clock_ns(const kvp_pool *pool);
/* GB/s: every thread reads four streams. */
double limits_read(limits *l);
/* GFLOP/s of float32 multiply-adds, or with `pairs`, where there are such instructions, of bf16. */
double limits_multiply(limits *l, int pairs);

#endif
