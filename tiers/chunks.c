/* chunks.c - a table in chunks: what is in it never moves, and it grows without a lock. */
#include "tiers/chunks.h"

#include <string.h>

#include "alloc/mem.h"

void *kvpi_chunks_at(const kvpi_chunks *c, uint32_t i)
{
    return c->chunks[i / c->chunk_elements] + (size_t)(i % c->chunk_elements) * c->element_bytes;
}

static size_t chunk_bytes(const kvpi_chunks *c)
{
    return (size_t)c->chunk_elements * c->element_bytes;
}

void kvpi_chunks_free(kvpi_chunks *c, uint32_t from, const kvp_mem *mem)
{
    for (uint32_t i = from; i < c->n_chunks; i++)
        kvpi_free(mem, c->chunks[i], chunk_bytes(c));
    kvpi_free(mem, c->chunks, c->capacity * sizeof *c->chunks);
    c->chunks = NULL;
}

kvp_status kvpi_chunks_grow(const kvpi_chunks *c, uint64_t n, const kvp_mem *mem, kvpi_chunks *out)
{
    uint32_t n_chunks = (uint32_t)((n + c->chunk_elements - 1) / c->chunk_elements);
    *out = *c;
    out->chunks = NULL; /* nothing to be done */
    if (n_chunks <= c->n_chunks)
        return KVP_OK;
    if (n_chunks > out->capacity)
        out->capacity = n_chunks + n_chunks / 2 + 4;
    kvp_status s =
        kvpi_alloc(mem, out->capacity * sizeof *out->chunks, "the disk's table", &out->chunks);
    if (s)
        return s;
    if (c->n_chunks)
        memcpy(out->chunks, c->chunks, c->n_chunks * sizeof *c->chunks);
    while (!s && out->n_chunks < n_chunks) {
        s = kvpi_alloc(mem, chunk_bytes(c), "the disk's table", &out->chunks[out->n_chunks]);
        out->n_chunks += !s;
    }
    if (s)
        kvpi_chunks_free(out, c->n_chunks, mem);
    return s;
}

void kvpi_chunks_adopt(kvpi_chunks *c, kvpi_chunks *more)
{
    if (!more->chunks)
        return;
    kvpi_chunks old = *c;
    *c = *more;
    *more = old;
}
