/* blocks.c - sets up the allocators that number slots; malloc needs nothing. */
#include "bench/alloc/blocks.h"

#include <string.h>
#include <sys/mman.h>

#include "alloc/mem.h"

blocks blocks_of;
_Thread_local uint32_t blocks_hint;

/* Every allocator's own bookkeeping is made in here, where its memory is counted. */
static bool open_slots(const char *kind)
{
    uint32_t n = blocks_of.n_slots;
    blocks_of.base = mmap(NULL, (size_t)n << blocks_of.shift, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (blocks_of.base == MAP_FAILED)
        return false;
    if (!strcmp(kind, "pool"))
        return kvpi_slot_pool_open(&kvpi_mem_default, n, &blocks_of.pool) == KVP_OK;
    if (!strcmp(kind, "bitmap"))
        return (blocks_of.bits = calloc(n / 64, sizeof *blocks_of.bits)) != NULL;
    blocks_of.next = malloc(n * sizeof *blocks_of.next);
    if (!blocks_of.next)
        return false;
    for (uint32_t i = 0; i < n; i++)
        blocks_of.next[i] = i + 1 < n ? i + 2 : 0;
    blocks_of.head = 1;
    return true;
}

bool blocks_open(const char *kind, size_t block_bytes, uint32_t n_slots)
{
    blocks_of.block_bytes = block_bytes;
    blocks_of.shift = (unsigned)__builtin_ctzll(block_bytes);
    blocks_of.n_slots = (n_slots + 63) / 64 * 64;
    return !strcmp(kind, "malloc") || !strcmp(kind, "nothing") || open_slots(kind);
}
