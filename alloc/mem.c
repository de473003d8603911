/* mem.c - applies kvp_mem. */
#include "alloc/mem.h"

#include <stdlib.h>
#include <string.h>

#define ALIGN_BYTES 64u /* a cache line: no two objects share one */

static void *default_alloc(void *opaque, size_t n, size_t align)
{
    (void)opaque;
    return aligned_alloc(align, (n + align - 1) & ~(align - 1));
}

static void default_free(void *opaque, void *p, size_t n)
{
    (void)opaque;
    (void)n;
    free(p);
}

const kvp_mem kvpi_mem_default = {.alloc = default_alloc, .free = default_free};

kvp_status kvpi_alloc_buffer(const kvp_mem *mem, size_t n, const char *what, void *out)
{
    void *p = mem->alloc(mem->opaque, n ? n : 1, ALIGN_BYTES);
    if (!p)
        return kvp_fail(KVP_E_NOMEM, "out of memory: %zu bytes for %s", n, what);
    memcpy(out, &p, sizeof p); /* through memcpy: `out` is a pointer to a pointer of any type */
    return KVP_OK;
}

kvp_status kvpi_alloc(const kvp_mem *mem, size_t n, const char *what, void *out)
{
    void *p = NULL;
    kvp_status status = kvpi_alloc_buffer(mem, n, what, &p);
    if (status)
        return status;
    memset(p, 0, n);
    memcpy(out, &p, sizeof p);
    return KVP_OK;
}

void kvpi_free(const kvp_mem *mem, void *p, size_t n)
{
    if (p)
        mem->free(mem->opaque, p, n ? n : 1);
}
