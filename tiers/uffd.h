/* uffd.h - userfaultfd: address ranges whose missing OS pages are filled by a thread of ours. */
#ifndef KVPI_TIERS_UFFD_H
#define KVPI_TIERS_UFFD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kvpager/status.h"

typedef struct kvpi_uffd {
    int fd, stop_fd;
    bool has_system_calls; /* touches by the kernel itself are reported, too */
} kvpi_uffd;

/* Errors: KVP_E_UNSUPPORTED (missing or forbidden; the message says what to do), KVP_E_IO. */
KVP_NODISCARD kvp_status kvpi_uffd_open(kvpi_uffd *u);
void kvpi_uffd_close(kvpi_uffd *u);

/* From now on, touching a page of the range that is not there stops the thread that does. The range
 * is made of whole OS pages of private memory. Errors: KVP_E_UNSUPPORTED, KVP_E_NOMEM. */
KVP_NODISCARD kvp_status kvpi_uffd_register(const kvpi_uffd *u, void *range, size_t n);
/* No longer, and whoever is stopped tries again. */
void kvpi_uffd_unregister(const kvpi_uffd *u, void *range, size_t n);

/* Fill n bytes of missing pages, and let those go on that wait for them. Errors: KVP_E_NOMEM. */
KVP_NODISCARD kvp_status kvpi_uffd_copy(const kvpi_uffd *u, void *to, const void *from, size_t n);
/* Let those that wait for the range try again. */
void kvpi_uffd_wake(const kvpi_uffd *u, void *range, size_t n);

/* Wait until somebody touches a missing page: *address is where. False: kvpi_uffd_stop() was
 * called. */
bool kvpi_uffd_next(const kvpi_uffd *u, uintptr_t *address);
void kvpi_uffd_stop(const kvpi_uffd *u);

#endif
