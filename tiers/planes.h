/* planes.h - the reversible rearrangements in front of the entropy coder. */
#ifndef KVPI_TIERS_PLANES_H
#define KVPI_TIERS_PLANES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Rotate each element (2 or 4 bytes, little-endian) left by one bit, so that the sign goes to the
 * bottom and the exponent to the top byte (binary16: exponent and three bits of mantissa), and take
 * the bytes apart: high [n], low [element_bytes - 1][n], the least significant plane first. */
void kvpi_planes_split(const void *src, size_t n, size_t element_bytes, uint8_t *high,
                       uint8_t *low);
void kvpi_planes_merge(void *dst, size_t n, size_t element_bytes, const uint8_t *high,
                       const uint8_t *low);

/* Zero blocks: rows that hold no token yet. A bit per 64-byte block of a page, set: not all zero.
 */
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
