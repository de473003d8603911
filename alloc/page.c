/* page.c - the descriptor table: chunks that never move, and a free list. */
#include "alloc/page.h"

#include "alloc/mem.h"

#include <assert.h>
#include <string.h>

#define CHUNK_PAGES 256u

_Static_assert(sizeof(kvpi_page) <= 80, "a descriptor and its entry take less than 96 bytes");

void kvpi_page_table_init(kvpi_page_table *t, uint32_t n_memories, const kvp_mem *mem)
{
    *t = (kvpi_page_table){.mem = mem, .n_memories = n_memories, .free_head = KVP_PAGE_NONE};
}

static size_t chunk_bytes(const kvpi_page_table *t)
{
    return CHUNK_PAGES * (sizeof(kvpi_page) + t->n_memories * sizeof(uint32_t));
}

void kvpi_page_table_fini(kvpi_page_table *t)
{
    for (uint32_t i = 0; i < t->n_chunks; i++)
        kvpi_free(t->mem, t->chunks[i], chunk_bytes(t));
    kvpi_free(t->mem, t->chunks, t->chunks_capacity * sizeof *t->chunks);
    kvpi_page_table_init(t, t->n_memories, t->mem);
}

static kvp_status grow_directory(kvpi_page_table *t)
{
    uint32_t capacity = t->chunks_capacity ? t->chunks_capacity * 2 : 16;
    kvpi_page **chunks;
    kvp_status status = kvpi_alloc(t->mem, capacity * sizeof *chunks, "page directory", &chunks);
    if (status)
        return status;
    if (t->n_chunks)
        memcpy(chunks, t->chunks, t->n_chunks * sizeof *chunks);
    kvpi_free(t->mem, t->chunks, t->chunks_capacity * sizeof *chunks);
    t->chunks = chunks;
    t->chunks_capacity = capacity;
    return KVP_OK;
}

static kvp_status add_chunk(kvpi_page_table *t)
{
    if (t->n_chunks >= UINT32_MAX / CHUNK_PAGES - 1)
        return kvp_fail(KVP_E_NOMEM, "out of page numbers");
    if (t->n_chunks == t->chunks_capacity) {
        kvp_status status = grow_directory(t);
        if (status)
            return status;
    }
    kvp_status status =
        kvpi_alloc(t->mem, chunk_bytes(t), "page descriptors", &t->chunks[t->n_chunks]);
    if (status)
        return status;
    uint32_t first = t->n_chunks++ * CHUNK_PAGES;
    for (uint32_t i = CHUNK_PAGES; i-- > 0;) { /* backwards: numbers come out ascending */
        kvpi_page_at(t, first + i)->frame = t->free_head;
        t->free_head = first + i;
    }
    return KVP_OK;
}

kvp_status kvpi_page_table_reserve(kvpi_page_table *t, uint32_t n)
{
    while (t->n_chunks * CHUNK_PAGES - t->n_used < n) {
        kvp_status status = add_chunk(t);
        if (status)
            return status;
    }
    return KVP_OK;
}

uint32_t kvpi_page_new(kvpi_page_table *t)
{
    uint32_t page = t->free_head;
    assert(page != KVP_PAGE_NONE);
    kvpi_page *p = kvpi_page_at(t, page);
    t->free_head = p->frame;
    t->n_used++;
    *p = (kvpi_page){.flags = KVPI_PAGE_USED,
                     .blob = KVP_SLOT_NONE,
                     .disk_slot = KVPI_DISK_SLOT_NONE,
                     .refs = 1};
    for (uint32_t i = 0; i < t->n_memories; i++)
        *kvpi_page_memory(t, page, i) = 0;
    return page;
}

void kvpi_page_delete(kvpi_page_table *t, uint32_t page)
{
    kvpi_page *p = kvpi_page_at(t, page);
    assert(kvpi_page_is(p, KVPI_PAGE_USED) && p->pins == 0);
    p->flags = 0;
    p->frame = t->free_head;
    t->free_head = page;
    t->n_used--;
}

kvpi_page *kvpi_page_at(const kvpi_page_table *t, uint32_t page)
{
    assert(page / CHUNK_PAGES < t->n_chunks);
    return &t->chunks[page / CHUNK_PAGES][page % CHUNK_PAGES];
}

uint32_t *kvpi_page_memory(const kvpi_page_table *t, uint32_t page, uint32_t which)
{
    assert(page / CHUNK_PAGES < t->n_chunks && which < t->n_memories);
    uint32_t *words = (uint32_t *)(t->chunks[page / CHUNK_PAGES] + CHUNK_PAGES);
    return &words[which * CHUNK_PAGES + page % CHUNK_PAGES];
}

uint32_t kvpi_page_table_end(const kvpi_page_table *t)
{
    return t->n_chunks * CHUNK_PAGES;
}

const char *kvpi_page_check(const kvpi_page *p)
{
    bool resident = kvpi_page_is(p, KVPI_PAGE_RESIDENT);
    bool loading = kvpi_page_is(p, KVPI_PAGE_LOADING);
    if (resident && loading)
        return "P1: in RAM, and on its way there";
    if (p->pins && !resident && !loading && !p->error)
        return "P2: pinned but not in RAM";
    bool has_copy = kvpi_page_is(p, KVPI_PAGE_COPIED);
    if (has_copy && !kvpi_page_is(p, KVPI_PAGE_SUMMED))
        return "P3: a copy below without a checksum";
    if (!kvpi_page_is(p, KVPI_PAGE_LOST) && !resident && !has_copy)
        return "P4: no copy anywhere, and not lost";
    if (kvpi_page_is(p, KVPI_PAGE_WRITING) && !resident)
        return "P5: written down without being resident";
    if (kvpi_page_is(p, KVPI_PAGE_IN_ZRAM) != (p->blob != KVP_SLOT_NONE) ||
        (kvpi_page_is(p, KVPI_PAGE_ON_DISK) && kvpi_page_is_homeless(p)))
        return "P3: a valid copy without a slot";
    if (!p->refs)
        return "P8: in no page table";
    return NULL;
}
