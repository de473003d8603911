/* results.h - what bench_alloc measured: a table of medians, and whether the bars are met. */
#ifndef BENCH_ALLOC_RESULTS_H
#define BENCH_ALLOC_RESULTS_H

#include "bench/harness.h"

#define BENCH_ALLOC_KINDS 9
#define BENCH_ALLOC_MAX_CASES 256
#define BENCH_ALLOC_MAX_CYCLES 64
#define BENCH_ALLOC_BAR_KIB 64 /* the size that the bars are about */

typedef struct bench_alloc_kind {
    const char *name, *label;
    const char *source;      /* what the worker calls */
    const char *preload;     /* NULL: nothing */
    const char *probe;       /* a symbol that is there if it could be preloaded */
    const char *environment; /* NAME=VALUE, or NULL */
    const char *package;     /* Debian's */
} bench_alloc_kind;
extern const bench_alloc_kind bench_alloc_kinds[BENCH_ALLOC_KINDS];

/* One pattern, size and number of threads. */
typedef struct bench_alloc_case {
    const char *pattern;
    size_t block_bytes;
    uint32_t n_threads;
    bench_case *entries[BENCH_ALLOC_KINDS]; /* NULL: not measured */
    double cycles[BENCH_ALLOC_KINDS][BENCH_ALLOC_MAX_CYCLES];
    size_t n_cycles[BENCH_ALLOC_KINDS];
    double second[BENCH_ALLOC_KINDS];
} bench_alloc_case;

typedef struct bench_alloc_results {
    bench_alloc_case cases[BENCH_ALLOC_MAX_CASES];
    size_t n;
} bench_alloc_results;

/* NULL: not measured. */
const bench_alloc_case *bench_alloc_find(const bench_alloc_results *r, const char *pattern,
                                         size_t kib, uint32_t n_threads);
/* The median, or NAN. */
double bench_alloc_median(const bench_alloc_case *c, size_t kind);
double bench_alloc_cycles(const bench_alloc_case *c, size_t kind);

void bench_alloc_print(const bench_alloc_results *r);

#endif
