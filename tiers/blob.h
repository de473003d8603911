/* blob.h - memory for variable-sized things under a hard cap: what compressed pages lie in.
 *
 * Two implementations, of which the build picks one: blob_jemalloc.c (a private arena inside a
 * region of the cap's size) and blob_malloc.c (the C library's heap, the cap kept by counting). */
#ifndef KVPI_TIERS_BLOB_H
#define KVPI_TIERS_BLOB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kvpager/mem.h"
#include "kvpager/status.h"

/* Pieces are powers of two between these: sizes that either allocator packs without waste.
 * Larger things are made of several. */
#define KVPI_BLOB_MIN_BYTES ((size_t)64)
#define KVPI_BLOB_MAX_BYTES ((size_t)8192)

typedef struct kvpi_blob_heap kvpi_blob_heap;

/* Errors: KVP_E_NOMEM; KVP_E_UNSUPPORTED the allocator refuses such an arena. */
KVP_NODISCARD kvp_status kvpi_blob_heap_open(const kvp_mem *mem, uint64_t cap_bytes,
                                             kvpi_blob_heap **out);
/* Takes all pieces with it; no other call running. NULL does nothing. */
void kvpi_blob_heap_close(kvpi_blob_heap *heap);

/* A piece of n bytes, aligned to 16, or NULL when the cap does not allow it. Any thread. */
void *kvpi_blob_alloc(kvpi_blob_heap *heap, size_t n);
/* `n` is what was asked for. */
void kvpi_blob_free(kvpi_blob_heap *heap, void *p, size_t n);

/* What all pieces take now, the allocator's bookkeeping included: never more than the cap. */
uint64_t kvpi_blob_used(const kvpi_blob_heap *heap);
uint64_t kvpi_blob_peak(const kvpi_blob_heap *heap);

/* Another cap, at most the one of open; what is in use beyond it stays until it is freed. */
void kvpi_blob_set_cap(kvpi_blob_heap *heap, uint64_t cap_bytes);
uint64_t kvpi_blob_over(const kvpi_blob_heap *heap);
/* Give OS pages without a piece back to the system. Any thread. False: the allocator does that as
 * it sees fit. */
bool kvpi_blob_trim(kvpi_blob_heap *heap);

#endif
