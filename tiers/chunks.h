/* chunks.h - a table of zeroed elements that never move, in chunks. It grows in two steps, so that
 * memory is allocated without the lock that protects what is in it. */
#ifndef KVPI_TIERS_CHUNKS_H
#define KVPI_TIERS_CHUNKS_H

#include <stdint.h>

#include "kvpager/mem.h"
#include "kvpager/status.h"

typedef struct kvpi_chunks {
    char **chunks;
    uint32_t n_chunks, capacity;
    uint32_t chunk_elements, element_bytes;
} kvpi_chunks;

void *kvpi_chunks_at(const kvpi_chunks *c, uint32_t i);
/* In *more, a copy of the table of pointers with room for n elements or more; `c` stays as it is.
 * more->chunks is NULL if `c` has that already. Errors: KVP_E_NOMEM. */
KVP_NODISCARD kvp_status kvpi_chunks_grow(const kvpi_chunks *c, uint64_t n, const kvp_mem *mem,
                                          kvpi_chunks *more);
/* Exchange: what is in `more` afterwards is the old table of pointers. */
void kvpi_chunks_adopt(kvpi_chunks *c, kvpi_chunks *more);
/* The chunks from `from` on, and the table of pointers. */
void kvpi_chunks_free(kvpi_chunks *c, uint32_t from, const kvp_mem *mem);

#endif
