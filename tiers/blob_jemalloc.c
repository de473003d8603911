/* blob_jemalloc.c - blob memory from a private jemalloc arena inside a region of the cap's size.
 *
 * The arena's extent hooks carve from the region, so that compressed pages cannot take more than
 * the cap, fragmentation included. What jemalloc has no use for it "decommits", which here only
 * sets a bit per OS page: trim() gives those back to the system. A second range holds the arena's
 * own bookkeeping; both are unmapped when the arena is gone.
 *
 * What had to be found out about jemalloc 5.3
 *  - Large classes (16 KiB and up) get a page of padding each that sallocx() does not report; small
 *    powers of two lie in slabs of their own without waste. Hence the pieces of blob.h.
 *  - Decay must be 0, not "never": dirty extents are not reused for requests 64 times smaller, so a
 *    heap that was once emptied would call itself full. Retained extents know no such limit.
 *  - Every extent (here: 4 or 8 KiB) has 128 bytes of bookkeeping; the cost of a piece includes
 *    them. Bookkeeping comes in blocks aligned to 2 MiB, which no extent is: that tells them apart.
 *    Left to jemalloc's own mapping, each arena leaves one such block behind when it is destroyed.
 *
 * Invariants: pieces lie in the first carved_bytes of `extents`; carved_bytes only grows. No OS
 * page that is marked as unused has a piece, and none comes to have one while `unused_lock` is
 * held. */
#include "tiers/blob.h"

#include "alloc/mem.h"
#include "alloc/region.h"
#include "tiers/charge.h"

#include <jemalloc/jemalloc.h>
#include <pthread.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#define PAGE_BYTES ((size_t)4096)
#define BLOCK_BYTES ((size_t)2 << 20) /* what the arena takes from either range at a time */
#define EXTENT_BOOKKEEPING_BYTES 128u

typedef struct range {
    kvpi_region region;
    atomic_size_t carved_bytes;
} range;

struct kvpi_blob_heap {
    extent_hooks_t hooks;
    const kvp_mem *mem;
    range extents, bookkeeping;
    unsigned arena;
    kvpi_charge charge;
    pthread_mutex_t unused_lock; /* taken inside jemalloc's locks */
    uint64_t *unused;            /* a bit per OS page of `extents`: its content is of no use */
    size_t unused_bytes;         /* of the bits */
};

/* `alignment` is at most that of the region itself. NULL: exhausted. */
static void *carve(range *r, size_t size, size_t alignment)
{
    size_t carved = atomic_load(&r->carved_bytes), at;
    do {
        at = (carved + alignment - 1) & ~(alignment - 1);
        if (at > r->region.bytes || size > r->region.bytes - at)
            return NULL;
    } while (!atomic_compare_exchange_weak(&r->carved_bytes, &carved, at + size));
    return r->region.base + at;
}

/* ---- OS pages without use ---- */

static size_t page_of(const kvpi_blob_heap *heap, const void *p)
{
    return (size_t)((const char *)p - heap->extents.region.base) / PAGE_BYTES;
}

static bool is_unused(const kvpi_blob_heap *heap, size_t page)
{
    return heap->unused[page / 64] >> (page % 64) & 1;
}

/* Bookkeeping is always in use. */
static bool is_extent(const kvpi_blob_heap *heap, const void *p)
{
    const kvpi_region *r = &heap->extents.region;
    return (uintptr_t)p - (uintptr_t)r->base < r->bytes;
}

static void mark(kvpi_blob_heap *heap, const void *p, size_t n, bool unused)
{
    pthread_mutex_lock(&heap->unused_lock);
    for (size_t page = page_of(heap, p), end = page + n / PAGE_BYTES; page < end; page++) {
        uint64_t bit = UINT64_C(1) << (page % 64);
        if (unused)
            heap->unused[page / 64] |= bit;
        else
            heap->unused[page / 64] &= ~bit;
    }
    pthread_mutex_unlock(&heap->unused_lock);
}

bool kvpi_blob_trim(kvpi_blob_heap *heap)
{
    pthread_mutex_lock(&heap->unused_lock);
    size_t end = atomic_load(&heap->extents.carved_bytes) / PAGE_BYTES, first = 0;
    for (size_t page = 0; page <= end; page++) {
        if (page < end && is_unused(heap, page))
            continue;
        if (page > first)
            (void)madvise(heap->extents.region.base + first * PAGE_BYTES,
                          (page - first) * PAGE_BYTES, MADV_DONTNEED);
        first = page + 1;
    }
    pthread_mutex_unlock(&heap->unused_lock);
    return true;
}

/* ---- extent hooks: true means refused ---- */

static kvpi_blob_heap *heap_of(extent_hooks_t *hooks)
{
    return (kvpi_blob_heap *)((char *)hooks - offsetof(kvpi_blob_heap, hooks));
}

static void *extent_alloc(extent_hooks_t *hooks, void *new_addr, size_t size, size_t alignment,
                          bool *zero, bool *commit, unsigned arena)
{
    (void)arena;
    kvpi_blob_heap *heap = heap_of(hooks);
    if (new_addr || alignment > BLOCK_BYTES)
        return NULL;
    *zero = true; /* never touched before */
    if (alignment == BLOCK_BYTES) {
        *commit = true;
        return carve(&heap->bookkeeping, size, alignment);
    }
    void *p = carve(&heap->extents, size, alignment);
    if (p && *commit) /* else it is committed when it comes into use */
        mark(heap, p, size, false);
    return p;
}

static bool extent_dalloc(extent_hooks_t *hooks, void *addr, size_t size, bool committed,
                          unsigned arena)
{
    (void)hooks, (void)addr, (void)size, (void)committed, (void)arena;
    return true;
}

static bool extent_commit(extent_hooks_t *hooks, void *addr, size_t size, size_t offset,
                          size_t length, unsigned arena)
{
    (void)size, (void)arena;
    kvpi_blob_heap *heap = heap_of(hooks);
    if (is_extent(heap, addr))
        mark(heap, (char *)addr + offset, length, false);
    return false;
}

static bool extent_decommit(extent_hooks_t *hooks, void *addr, size_t size, size_t offset,
                            size_t length, unsigned arena)
{
    (void)size, (void)arena;
    kvpi_blob_heap *heap = heap_of(hooks);
    if (!is_extent(heap, addr))
        return true;
    mark(heap, (char *)addr + offset, length, true);
    return false;
}

static bool extent_purge(extent_hooks_t *hooks, void *addr, size_t size, size_t offset,
                         size_t length, unsigned arena)
{
    (void)hooks, (void)addr, (void)size, (void)offset, (void)length, (void)arena;
    return true;
}

static bool extent_split(extent_hooks_t *hooks, void *addr, size_t size, size_t size_a,
                         size_t size_b, bool committed, unsigned arena)
{
    (void)hooks, (void)addr, (void)size, (void)size_a, (void)size_b, (void)committed, (void)arena;
    return false;
}

static bool extent_merge(extent_hooks_t *hooks, void *addr_a, size_t size_a, void *addr_b,
                         size_t size_b, bool committed, unsigned arena)
{
    (void)hooks, (void)addr_a, (void)size_a, (void)addr_b, (void)size_b, (void)committed,
        (void)arena;
    return false;
}

static const extent_hooks_t region_hooks = {
    .alloc = extent_alloc,
    .dalloc = extent_dalloc,
    .commit = extent_commit,
    .decommit = extent_decommit,
    .purge_lazy = extent_purge,
    .purge_forced = extent_purge,
    .split = extent_split,
    .merge = extent_merge,
};

/* ---- arena ---- */

static int set_arena_option(const kvpi_blob_heap *heap, const char *option, void *value, size_t n)
{
    char name[64];
    snprintf(name, sizeof name, "arena.%u.%s", heap->arena, option);
    return mallctl(name, NULL, NULL, value, n);
}

static int create_arena(kvpi_blob_heap *heap)
{
    extent_hooks_t *hooks = &heap->hooks;
    size_t n = sizeof heap->arena;
    return mallctl("arenas.create", &heap->arena, &n, &hooks, sizeof hooks);
}

static void destroy_arena(kvpi_blob_heap *heap)
{
    (void)set_arena_option(heap, "destroy", NULL, 0);
}

static int configure_arena(kvpi_blob_heap *heap)
{
    ssize_t decay_ms = 0;
    size_t grow_limit = BLOCK_BYTES;
    int err = set_arena_option(heap, "dirty_decay_ms", &decay_ms, sizeof decay_ms);
    if (!err)
        err = set_arena_option(heap, "muzzy_decay_ms", &decay_ms, sizeof decay_ms);
    if (!err)
        err = set_arena_option(heap, "retain_grow_limit", &grow_limit, sizeof grow_limit);
    return err;
}

static kvp_status open_arena(kvpi_blob_heap *heap)
{
    int err = create_arena(heap);
    if (err)
        return kvp_fail(KVP_E_UNSUPPORTED, "jemalloc refuses a private arena (mallctl error %d)",
                        err);
    err = configure_arena(heap);
    if (err) {
        destroy_arena(heap);
        return kvp_fail(KVP_E_UNSUPPORTED, "jemalloc refuses an arena option (mallctl error %d)",
                        err);
    }
    return KVP_OK;
}

/* In small OS pages: of huge ones more would be taken than is charged, and not all that is trimmed
 * would be given back. */
static kvp_status open_range(range *r, size_t bytes)
{
    kvp_status status = kvpi_region_open(bytes, &r->region);
    if (status == KVP_OK)
        (void)madvise(r->region.base, r->region.bytes, MADV_NOHUGEPAGE);
    return status;
}

/* All unused at first. */
static kvp_status open_unused(kvpi_blob_heap *heap)
{
    size_t n_pages = heap->extents.region.bytes / PAGE_BYTES;
    heap->unused_bytes = (n_pages + 63) / 64 * sizeof *heap->unused;
    kvp_status status =
        kvpi_alloc(heap->mem, heap->unused_bytes, "a map of OS pages", &heap->unused);
    if (status == KVP_OK)
        memset(heap->unused, 0xff, heap->unused_bytes);
    return status;
}

kvp_status kvpi_blob_heap_open(const kvp_mem *mem, uint64_t cap_bytes, kvpi_blob_heap **out)
{
    kvpi_blob_heap *heap = NULL;
    kvp_status status = kvpi_alloc(mem, sizeof *heap, "the heap of compressed pages", &heap);
    if (status)
        return status;
    heap->mem = mem;
    heap->hooks = region_hooks;
    pthread_mutex_init(&heap->unused_lock, NULL);
    atomic_init(&heap->charge.cap_bytes, cap_bytes);
    status = open_range(&heap->extents, cap_bytes);
    if (status)
        goto fail_alloc;
    status = open_unused(heap);
    if (status)
        goto fail_extents;
    /* Address space for twice what extents need, plus the blocks that are never full. */
    status = open_range(&heap->bookkeeping, 4 * BLOCK_BYTES + cap_bytes / 16);
    if (status)
        goto fail_unused;
    status = open_arena(heap);
    if (status)
        goto fail_bookkeeping;
    *out = heap;
    return KVP_OK;

fail_bookkeeping:
    kvpi_region_close(&heap->bookkeeping.region);
fail_unused:
    kvpi_free(mem, heap->unused, heap->unused_bytes);
fail_extents:
    kvpi_region_close(&heap->extents.region);
fail_alloc:
    pthread_mutex_destroy(&heap->unused_lock);
    kvpi_free(mem, heap, sizeof *heap);
    return status;
}

void kvpi_blob_heap_close(kvpi_blob_heap *heap)
{
    if (!heap)
        return;
    destroy_arena(heap);
    kvpi_region_close(&heap->bookkeeping.region);
    kvpi_region_close(&heap->extents.region);
    kvpi_free(heap->mem, heap->unused, heap->unused_bytes);
    pthread_mutex_destroy(&heap->unused_lock);
    kvpi_free(heap->mem, heap, sizeof *heap);
}

/* ---- pieces ---- */

static uint64_t cost(size_t n)
{
    return n + EXTENT_BOOKKEEPING_BYTES * (n < PAGE_BYTES ? n : PAGE_BYTES) / PAGE_BYTES;
}

/* No thread cache: one of the thread's own may hand out other arenas' memory. */
static int flags(const kvpi_blob_heap *heap)
{
    return MALLOCX_ARENA(heap->arena) | MALLOCX_TCACHE_NONE;
}

void *kvpi_blob_alloc(kvpi_blob_heap *heap, size_t n)
{
    if (!kvpi_charge_add(&heap->charge, cost(n)))
        return NULL;
    void *p = mallocx(n, flags(heap));
    if (!p) {
        kvpi_charge_sub(&heap->charge, cost(n));
        return NULL;
    }
    assert((size_t)((char *)p - heap->extents.region.base) + n <=
           atomic_load(&heap->extents.carved_bytes));
    return p;
}

void kvpi_blob_free(kvpi_blob_heap *heap, void *p, size_t n)
{
    sdallocx(p, n, flags(heap));
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

uint64_t kvpi_blob_used(const kvpi_blob_heap *heap)
{
    return atomic_load(&heap->charge.used_bytes);
}

uint64_t kvpi_blob_peak(const kvpi_blob_heap *heap)
{
    return atomic_load(&heap->charge.peak_bytes);
}
