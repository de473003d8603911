/* kvpager/mem.h - where the library's own bookkeeping memory comes from. Passed per pager, never
 * process-wide. Frames and compressed pages come from regions of their own, not from here. */
#ifndef KVPAGER_MEM_H
#define KVPAGER_MEM_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kvp_mem {
    /* `n` bytes aligned to `align` (a power of two), uninitialised; NULL when there are none. */
    void *(*alloc)(void *opaque, size_t n, size_t align);
    /* Give back `p`, which alloc() returned for the same `n`; NULL does nothing. */
    void (*free)(void *opaque, void *p, size_t n);
    void *opaque;
} kvp_mem;

#ifdef __cplusplus
}
#endif
#endif
