/* kv_source.h - a sequence with one layer of given K and V, for tests of what reads pages. Two
 * implementations, chosen by linking: flat_scan.c (arrays, no pager) and pager_source.c (the real
 * one). */
#ifndef KVPAGER_TESTS_KV_SOURCE_H
#define KVPAGER_TESTS_KV_SOURCE_H

#include "kvpager.h"

typedef struct kv_source {
    kvp_layer_kind kind;
    uint32_t page_tokens, page_heads;
    size_t n_tokens;
    const float *k, *v; /* [n_tokens][n_kv_heads][width], exact in kind.dtype */
    uint32_t n_threads;
    bool runs_backwards; /* tasks run one after another, the last first */
    /* With 2 threads, flat_scan: items finish in the order 1, 0, 3, 2, 5, 4, ... */
    bool swaps_items;
    uint64_t ram_bytes; /* pager_source: budget, the rest on disk; 0: everything in RAM */
} kv_source;

/* Fails the test if it cannot. */
kvp_seq *kv_source_open(const kv_source *source);
void kv_source_close(kvp_seq *seq);

/* Let the n-th kvp_scan_next() from now on fail with KVP_E_IO; 0: none. False: this source can't.
 */
bool kv_source_fail_next(kvp_seq *seq, uint64_t n);

/* Major faults so far. False: this source has no disk. */
bool kv_source_major_faults(kvp_seq *seq, uint64_t *n);

#endif
