/* mem.h - applies kvp_mem: the only way the library gets bookkeeping memory. */
#ifndef KVPI_ALLOC_MEM_H
#define KVPI_ALLOC_MEM_H

#include "kvpager/mem.h"
#include "kvpager/status.h"

/* malloc and free. */
extern const kvp_mem kvpi_mem_default;

/* n zeroed bytes aligned to 64, or KVP_E_NOMEM with a message naming `what`. */
KVP_NODISCARD kvp_status kvpi_alloc(const kvp_mem *mem, size_t n, const char *what, void *out);

/* The same, not zeroed: what is never used costs no RAM. */
KVP_NODISCARD kvp_status kvpi_alloc_buffer(const kvp_mem *mem, size_t n, const char *what,
                                           void *out);
void kvpi_free(const kvp_mem *mem, void *p, size_t n);

#endif
