/* zero_blocks.c - finds blocks of zeros, takes them out and puts them back. */
#include "tiers/zero_blocks.h"

#include <string.h>

static size_t block_bytes(size_t block, size_t n)
{
    size_t left = n - block * KVPI_BLOCK_BYTES;
    return left < KVPI_BLOCK_BYTES ? left : KVPI_BLOCK_BYTES;
}

static size_t n_blocks(size_t n)
{
    return (n + KVPI_BLOCK_BYTES - 1) / KVPI_BLOCK_BYTES;
}

static bool is_live(const uint8_t *map, size_t block)
{
    return map[block / 8] >> (block % 8) & 1;
}

static bool is_zero(const uint8_t *p, size_t n)
{
    uint8_t any = 0;
    for (size_t i = 0; i < n; i++)
        any |= p[i];
    return any == 0;
}

size_t kvpi_blocks_find(const void *src, size_t n, uint8_t *map)
{
    size_t n_live = 0;
    memset(map, 0, kvpi_block_map_bytes(n));
    for (size_t b = 0; b < n_blocks(n); b++) {
        const uint8_t *p = (const uint8_t *)src + b * KVPI_BLOCK_BYTES;
        size_t len = block_bytes(b, n);
        bool zero = p[0] == 0 && /* most blocks that are not zero show it at once */
                    (len == KVPI_BLOCK_BYTES ? is_zero(p, KVPI_BLOCK_BYTES) : is_zero(p, len));
        if (zero)
            continue;
        map[b / 8] |= (uint8_t)(1u << (b % 8));
        n_live += len;
    }
    return n_live;
}

bool kvpi_blocks_count(const uint8_t *map, size_t n, size_t *n_live)
{
    *n_live = 0;
    for (size_t b = 0; b < 8 * kvpi_block_map_bytes(n); b++) {
        if (!is_live(map, b))
            continue;
        if (b >= n_blocks(n))
            return false;
        *n_live += block_bytes(b, n);
    }
    return true;
}

void kvpi_blocks_gather(const void *src, size_t n, const uint8_t *map, void *dst)
{
    uint8_t *to = dst;
    for (size_t b = 0; b < n_blocks(n); b++) {
        if (!is_live(map, b))
            continue;
        memcpy(to, (const uint8_t *)src + b * KVPI_BLOCK_BYTES, block_bytes(b, n));
        to += block_bytes(b, n);
    }
}

void kvpi_blocks_scatter(const void *src, const uint8_t *map, void *dst, size_t n)
{
    const uint8_t *from = src;
    for (size_t b = 0; b < n_blocks(n); b++) {
        uint8_t *to = (uint8_t *)dst + b * KVPI_BLOCK_BYTES;
        if (is_live(map, b)) {
            memcpy(to, from, block_bytes(b, n));
            from += block_bytes(b, n);
        } else {
            memset(to, 0, block_bytes(b, n));
        }
    }
}
