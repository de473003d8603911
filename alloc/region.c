/* region.c - one address range per tier.
 *
 * The whole 2 MiB units inside the range ask for huge pages (a cold 64 KiB direct read is a third
 * faster into them, and registering them with io_uring six times faster); the rest refuses them, so
 * that a huge page never reaches past the budget. The range is mapped once and unmapped once; its
 * upper end can lose its memory in between. */
#include "alloc/region.h"

#include "kvpager/status.h"

#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define SMALL_BYTES ((size_t)4096)
#define HUGE_BYTES ((size_t)2 << 20)

static size_t round_up(size_t n, size_t unit)
{
    return (n + unit - 1) & ~(unit - 1);
}

/* Huge pages are an optimisation: a kernel built without them refuses, and that is fine. */
static void advise_huge_pages(char *base, size_t bytes)
{
    size_t whole_bytes = bytes & ~(HUGE_BYTES - 1);
    if (whole_bytes)
        (void)madvise(base, whole_bytes, MADV_HUGEPAGE);
    if (bytes > whole_bytes)
        (void)madvise(base + whole_bytes, bytes - whole_bytes, MADV_NOHUGEPAGE);
}

kvp_status kvpi_region_open(size_t bytes, kvpi_region *out)
{
    if (bytes == 0 || bytes > SIZE_MAX - SMALL_BYTES - HUGE_BYTES)
        return kvp_fail(KVP_E_NOMEM, "cannot reserve a memory range of %zu bytes", bytes);
    size_t usable_bytes = round_up(bytes, SMALL_BYTES);
    size_t map_bytes = usable_bytes + HUGE_BYTES;
    void *map = mmap(NULL, map_bytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED)
        return kvp_fail(KVP_E_NOMEM,
                        "cannot reserve %zu bytes of address space: %s; ask for less, or raise "
                        "ulimit -v",
                        usable_bytes, strerror(errno));
    char *base = (char *)map + (round_up((size_t)(uintptr_t)map, HUGE_BYTES) - (uintptr_t)map);
    if (madvise(map, map_bytes, MADV_DONTDUMP)) {
        kvp_status status = kvp_fail(KVP_E_NOMEM, "cannot keep %zu bytes out of core dumps: %s",
                                     usable_bytes, strerror(errno));
        munmap(map, map_bytes);
        return status;
    }
    advise_huge_pages(base, usable_bytes);
    *out = (kvpi_region){.base = base, .bytes = usable_bytes, .map = map, .map_bytes = map_bytes};
    return KVP_OK;
}

void kvpi_region_close(kvpi_region *r)
{
    if (r->map)
        munmap(r->map, r->map_bytes);
    *r = (kvpi_region){0};
}

void kvpi_region_trim(kvpi_region *r, size_t used_bytes)
{
    size_t from = used_bytes < r->bytes ? round_up(used_bytes, HUGE_BYTES) : r->bytes;
    if (from < r->bytes)
        (void)madvise(r->base + from, r->bytes - from, MADV_DONTNEED); /* fails for locked memory */
}

size_t kvpi_machine_bytes(void)
{
    long n_pages = sysconf(_SC_PHYS_PAGES), page_bytes = sysconf(_SC_PAGESIZE);
    return n_pages > 0 && page_bytes > 0 ? (size_t)n_pages * (size_t)page_bytes : SIZE_MAX / 4;
}
