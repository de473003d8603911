/* zero_blocks.h - blocks of a page that are all zero: rows that hold no token yet. A map has a bit
 * per block, set: not all zero. */
#ifndef KVPI_TIERS_ZERO_BLOCKS_H
#define KVPI_TIERS_ZERO_BLOCKS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KVPI_BLOCK_BYTES ((size_t)64)

static inline size_t kvpi_block_map_bytes(size_t n)
{
    return (n + 8 * KVPI_BLOCK_BYTES - 1) / (8 * KVPI_BLOCK_BYTES);
}

/* Fill the map of n bytes; returns how many bytes are in blocks that are not zero. */
size_t kvpi_blocks_find(const void *src, size_t n, uint8_t *map);
/* How many bytes a map of n bytes says are in such blocks; false: it names blocks past the end. */
bool kvpi_blocks_count(const uint8_t *map, size_t n, size_t *n_live);
/* Copy those blocks together, and back apart with zeros between them. */
void kvpi_blocks_gather(const void *src, size_t n, const uint8_t *map, void *dst);
void kvpi_blocks_scatter(const void *src, const uint8_t *map, void *dst, size_t n);

#endif
