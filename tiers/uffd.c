/* uffd.c - userfaultfd(2). The only file that knows it.
 *
 * With privileges, or where the sysctl allows it, the kernel's own touches (system calls that are
 * given the range) are reported like a program's; without, since Linux 5.11, only the program's. */
#define _GNU_SOURCE 1
#include "tiers/uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif

static int create(bool *has_system_calls)
{
    int flags = O_CLOEXEC | O_NONBLOCK;
    int fd = (int)syscall(SYS_userfaultfd, flags);
    *has_system_calls = fd >= 0;
    if (fd < 0 && errno == EPERM) {
        fd = (int)syscall(SYS_userfaultfd, flags | UFFD_USER_MODE_ONLY);
        if (fd < 0 && errno == EINVAL) /* a kernel before 5.11 does not know the flag */
            errno = EPERM;
    }
    return fd;
}

static kvp_status fail_create(void)
{
    if (errno == EMFILE || errno == ENFILE || errno == ENOMEM)
        return kvp_fail(KVP_E_IO, "userfaultfd: %m");
    return kvp_fail(KVP_E_UNSUPPORTED,
                    "linear views need userfaultfd: %m; containers forbid it: allow the system "
                    "call in their seccomp profile; kernels before 5.11 want root or sysctl "
                    "vm.unprivileged_userfaultfd=1; or pin pages instead");
}

kvp_status kvpi_uffd_open(kvpi_uffd *u)
{
    *u = (kvpi_uffd){.fd = -1, .stop_fd = -1};
    u->fd = create(&u->has_system_calls);
    if (u->fd < 0)
        return fail_create();
    struct uffdio_api api = {.api = UFFD_API};
    if (ioctl(u->fd, UFFDIO_API, &api)) {
        kvp_status status = fail_create();
        kvpi_uffd_close(u);
        return status;
    }
    u->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (u->stop_fd < 0) {
        kvp_status status = kvp_fail(KVP_E_IO, "eventfd: %m");
        kvpi_uffd_close(u);
        return status;
    }
    return KVP_OK;
}

void kvpi_uffd_close(kvpi_uffd *u)
{
    if (u->fd >= 0)
        close(u->fd);
    if (u->stop_fd >= 0)
        close(u->stop_fd);
    u->fd = u->stop_fd = -1;
}

static struct uffdio_range range_of(const void *range, size_t n)
{
    return (struct uffdio_range){.start = (uintptr_t)range, .len = n};
}

kvp_status kvpi_uffd_register(const kvpi_uffd *u, void *range, size_t n)
{
    struct uffdio_register r = {.range = range_of(range, n), .mode = UFFDIO_REGISTER_MODE_MISSING};
    if (!ioctl(u->fd, UFFDIO_REGISTER, &r))
        return KVP_OK;
    return kvp_fail(errno == ENOMEM ? KVP_E_NOMEM : KVP_E_UNSUPPORTED,
                    "userfaultfd does not take a range of %zu bytes: %m", n);
}

void kvpi_uffd_unregister(const kvpi_uffd *u, void *range, size_t n)
{
    struct uffdio_range r = range_of(range, n);
    (void)ioctl(u->fd, UFFDIO_UNREGISTER, &r);
    kvpi_uffd_wake(u, range, n); /* also where the range has been replaced */
}

kvp_status kvpi_uffd_copy(const kvpi_uffd *u, void *to, const void *from, size_t n)
{
    for (size_t done = 0; done < n;) {
        struct uffdio_copy c = {
            .dst = (uintptr_t)to + done, .src = (uintptr_t)from + done, .len = n - done};
        int error = ioctl(u->fd, UFFDIO_COPY, &c) ? errno : 0;
        if (c.copy > 0)
            done += (size_t)c.copy;
        else if (error != EAGAIN)
            return kvp_fail(KVP_E_NOMEM, "filling a linear view: %s", strerror(error));
    }
    return KVP_OK;
}

void kvpi_uffd_wake(const kvpi_uffd *u, void *range, size_t n)
{
    struct uffdio_range r = range_of(range, n);
    (void)ioctl(u->fd, UFFDIO_WAKE, &r);
}

bool kvpi_uffd_next(const kvpi_uffd *u, uintptr_t *address)
{
    for (;;) {
        struct pollfd fds[] = {{.fd = u->stop_fd, .events = POLLIN},
                               {.fd = u->fd, .events = POLLIN}};
        if (poll(fds, 2, -1) < 0)
            continue; /* a signal */
        if (fds[0].revents)
            return false;
        struct uffd_msg m;
        if (read(u->fd, &m, sizeof m) == sizeof m && m.event == UFFD_EVENT_PAGEFAULT) {
            *address = (uintptr_t)m.arg.pagefault.address;
            return true;
        }
    }
}

void kvpi_uffd_stop(const kvpi_uffd *u)
{
    (void)!write(u->stop_fd, &(uint64_t){1}, sizeof(uint64_t));
}
