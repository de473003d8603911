/* blob_malloc.c - blob memory from the C library's heap: for builds without jemalloc.
 *
 * The cap counts what the heap takes for each piece; what it loses to fragmentation between them
 * cannot be counted here. Pieces are chained, so that close() finds those still in use.
 *
 * Invariant: a piece is in the chain from alloc to free. */
#include "tiers/blob.h"

#include "alloc/mem.h"
#include "tiers/charge.h"

#include <pthread.h>
#include <stdlib.h>

/* In front of every piece; 16 bytes, so that the piece keeps the heap's alignment. */
typedef struct piece_head {
    struct piece_head *next, **link; /* link: what points here */
} piece_head;

struct kvpi_blob_heap {
    const kvp_mem *mem;
    kvpi_charge charge;
    pthread_mutex_t lock; /* guards the chain */
    piece_head *pieces;
};

/* glibc puts a word before each chunk and rounds to 16. */
static uint64_t cost(size_t n)
{
    return (sizeof(piece_head) + n + sizeof(size_t) + 15) & ~(uint64_t)15;
}

kvp_status kvpi_blob_heap_open(const kvp_mem *mem, uint64_t cap_bytes, kvpi_blob_heap **out)
{
    kvpi_blob_heap *heap = NULL;
    kvp_status status = kvpi_alloc(mem, sizeof *heap, "the heap of compressed pages", &heap);
    if (status)
        return status;
    heap->mem = mem;
    atomic_init(&heap->charge.cap_bytes, cap_bytes);
    pthread_mutex_init(&heap->lock, NULL);
    *out = heap;
    return KVP_OK;
}

void kvpi_blob_heap_close(kvpi_blob_heap *heap)
{
    if (!heap)
        return;
    for (piece_head *p = heap->pieces, *next; p; p = next) {
        next = p->next;
        free(p);
    }
    pthread_mutex_destroy(&heap->lock);
    kvpi_free(heap->mem, heap, sizeof *heap);
}

void *kvpi_blob_alloc(kvpi_blob_heap *heap, size_t n)
{
    if (!kvpi_charge_add(&heap->charge, cost(n)))
        return NULL;
    piece_head *p = malloc(sizeof *p + n);
    if (!p) {
        kvpi_charge_sub(&heap->charge, cost(n));
        return NULL;
    }
    pthread_mutex_lock(&heap->lock);
    *p = (piece_head){.next = heap->pieces, .link = &heap->pieces};
    if (p->next)
        p->next->link = &p->next;
    heap->pieces = p;
    pthread_mutex_unlock(&heap->lock);
    return p + 1;
}

void kvpi_blob_free(kvpi_blob_heap *heap, void *piece, size_t n)
{
    piece_head *p = (piece_head *)piece - 1;
    pthread_mutex_lock(&heap->lock);
    *p->link = p->next;
    if (p->next)
        p->next->link = p->link;
    pthread_mutex_unlock(&heap->lock);
    free(p);
    kvpi_charge_sub(&heap->charge, cost(n));
}

void kvpi_blob_set_cap(kvpi_blob_heap *heap, uint64_t cap_bytes)
{
    atomic_store(&heap->charge.cap_bytes, cap_bytes);
}

uint64_t kvpi_blob_over(const kvpi_blob_heap *heap)
{
    return kvpi_charge_over(&heap->charge);
}

bool kvpi_blob_trim(kvpi_blob_heap *heap)
{
    (void)heap;
    return false;
}

uint64_t kvpi_blob_used(const kvpi_blob_heap *heap)
{
    return atomic_load(&heap->charge.used_bytes);
}

uint64_t kvpi_blob_peak(const kvpi_blob_heap *heap)
{
    return atomic_load(&heap->charge.peak_bytes);
}
