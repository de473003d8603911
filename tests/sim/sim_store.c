/* sim_store.c - a sparse file in memory. */
#include "tests/sim/sim.h"

#include <stdlib.h>
#include <string.h>

#define BLOCK_BYTES 65536u

void sim_store_fini(sim_store *store)
{
    for (size_t i = 0; i < store->n_blocks; i++)
        free(store->blocks[i]);
    free(store->blocks);
    *store = (sim_store){0};
}

static void *must(void *p)
{
    if (!p)
        abort(); /* a test without memory */
    return p;
}

static unsigned char *block_at(sim_store *store, size_t i)
{
    if (i >= store->n_blocks) {
        size_t n = 2 * i + 16;
        store->blocks = must(realloc(store->blocks, n * sizeof *store->blocks));
        memset(store->blocks + store->n_blocks, 0, (n - store->n_blocks) * sizeof *store->blocks);
        store->n_blocks = n;
    }
    if (!store->blocks[i])
        store->blocks[i] = must(calloc(1, BLOCK_BYTES));
    return store->blocks[i];
}

/* Of n bytes from `offset` on, those in the same block. */
static size_t part_of(uint64_t offset, size_t n)
{
    size_t room = BLOCK_BYTES - (size_t)(offset % BLOCK_BYTES);
    return n < room ? n : room;
}

void sim_store_write(sim_store *store, uint64_t offset, const void *from, size_t n)
{
    const char *at = from;
    for (size_t part; n > 0; n -= part, at += part, offset += part) {
        part = part_of(offset, n);
        memcpy(block_at(store, (size_t)(offset / BLOCK_BYTES)) + offset % BLOCK_BYTES, at, part);
    }
}

void sim_store_read(const sim_store *store, uint64_t offset, void *to, size_t n)
{
    char *at = to;
    for (size_t part; n > 0; n -= part, at += part, offset += part) {
        size_t i = (size_t)(offset / BLOCK_BYTES);
        part = part_of(offset, n);
        if (i < store->n_blocks && store->blocks[i])
            memcpy(at, store->blocks[i] + offset % BLOCK_BYTES, part);
        else
            memset(at, 0, part);
    }
}
