/* region.h - one address range per tier: reserved at once, never unmapped or moved before it is
 * closed. What is registered with io_uring must not be given back: MADV_DONTNEED on registered
 * memory silently loses data. */
#ifndef KVPI_ALLOC_REGION_H
#define KVPI_ALLOC_REGION_H

#include <stddef.h>

#include "kvpager/status.h"

typedef struct kvpi_region {
    char *base;   /* aligned to 2 MiB */
    size_t bytes; /* a multiple of 4 KiB */
    void *map;    /* what to unmap */
    size_t map_bytes;
} kvpi_region;

/* Reserve `bytes` (rounded up to 4 KiB), zero-filled on first touch, backed by transparent huge
 * pages in the whole 2 MiB units inside, left out of core dumps. Errors: KVP_E_NOMEM. */
KVP_NODISCARD kvp_status kvpi_region_open(size_t bytes, kvpi_region *out);
void kvpi_region_close(kvpi_region *r); /* a zeroed region: does nothing */

/* Give the memory of all whole units of 2 MiB that lie beyond the first `used_bytes` back to the
 * system. Their addresses stay reserved, and read as zeroes when they are touched again. */
void kvpi_region_trim(kvpi_region *r, size_t used_bytes);

/* All the RAM that the machine has: what an unlimited budget reserves. */
size_t kvpi_machine_bytes(void);

#endif
