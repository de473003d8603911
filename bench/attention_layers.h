/* attention_layers.h - what bench_attention attends: K and V of several layers, in pages and copied
 * to contiguous memory, and one step of attention over either. */
#ifndef BENCH_ATTENTION_LAYERS_H
#define BENCH_ATTENTION_LAYERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "attention/kernels.h"
#include "harness.h"
#include "kvpager.h"

typedef struct shape {
    const char *name;
    uint32_t heads, kv_heads, width;
} shape;

typedef struct layers {
    shape s;
    kvp_dtype dtype;
    uint32_t n_threads, n_layers, next;
    size_t n_tokens;
    kvp_pager *pager;
    kvp_seq *seq;
    char *flat;        /* [n_layers][K, V][kv_heads][n_tokens][width] */
    size_t half_bytes; /* K or V of a layer */
    float *q, *out;    /* [n_queries][heads][width] */
    size_t n_queries;
    kvpi_kernel kernel;
    float *partials; /* contiguous: [kv_heads][segments][group][m, l, o] */
    /* What paged steps ask for beside the output: */
    kvp_attend_role role;
    bool wants_mass, wants_changes;
    size_t n_pages;
    float *mass, *changes; /* [n_queries][heads][n_pages]; [n_pages] */
    kvp_partial pages;
} layers;

/* As many layers as hold total_bytes, and one more. All exit with a message if they cannot. */
layers layers_make(shape s, kvp_dtype dtype, uint32_t n_threads, size_t n_tokens,
                   size_t total_bytes, size_t n_queries);
void layers_free(layers *x);
size_t layers_bytes(const layers *x); /* K and V of one */

/* Time as the speed of so many threads is taken: of one CPU time, since others may use its core. */
uint64_t layers_clock_ns(const layers *x);
/* One step over the next layer, in ns. */
double layers_attend_paged(layers *x);
double layers_attend_contiguous(layers *x);
/* That both give the same. */
void layers_check(bench *b, layers *x);

#endif
