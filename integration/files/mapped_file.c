/* mapped_file.c - a file mapped read-only. */
#include "integration/files/mapped_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* A fault on a file maps its neighbours as well, in windows of this size (Linux's
 * fault_around_bytes): they are released along with what was read. A multiple of every OS page. */
#define FAULT_AROUND_BYTES ((uintptr_t)64 << 10)

static kvp_status map(mapped_file *m, int fd)
{
    struct stat info;
    if (fstat(fd, &info))
        return kvp_fail(KVP_E_IO, "%s: %s", m->path, strerror(errno));
    if (!S_ISREG(info.st_mode))
        return kvp_fail(KVP_E_IO, "%s: is %s, not a file", m->path,
                        S_ISDIR(info.st_mode) ? "a directory" : "a special file");
    if (info.st_size == 0)
        return kvp_fail(KVP_E_CORRUPT, "%s: the file is empty", m->path);
    void *bytes = mmap(NULL, (size_t)info.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (bytes == MAP_FAILED)
        return kvp_fail(KVP_E_IO, "%s: cannot be mapped: %s", m->path, strerror(errno));
    m->bytes = bytes;
    m->n_bytes = (size_t)info.st_size;
    return KVP_OK;
}

static kvp_status keep_path(const char *path, mapped_file *m)
{
    *m = (mapped_file){.path = strdup(path)};
    return m->path ? KVP_OK : kvp_fail(KVP_E_NOMEM, "out of memory: opening %s", path);
}

kvp_status mapped_file_open(const char *path, mapped_file *out)
{
    mapped_file m;
    kvp_status status = keep_path(path, &m);
    if (status)
        return status;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        status = kvp_fail(KVP_E_IO, "%s: %s", path, strerror(errno));
    } else {
        status = map(&m, fd);
        close(fd);
    }
    if (status) {
        free(m.path);
        return status;
    }
    *out = m;
    return KVP_OK;
}

kvp_status mapped_file_borrow(const void *bytes, size_t n, const char *path, mapped_file *out)
{
    mapped_file m;
    kvp_status status = keep_path(path, &m);
    if (status)
        return status;
    m.bytes = bytes;
    m.n_bytes = n;
    m.is_borrowed = true;
    *out = m;
    return KVP_OK;
}

void mapped_file_close(mapped_file *m)
{
    if (m->bytes && !m->is_borrowed)
        munmap((void *)(uintptr_t)m->bytes, m->n_bytes);
    free(m->path);
    *m = (mapped_file){0};
}

void mapped_file_release(const mapped_file *m, const unsigned char *begin, size_t n)
{
    if (m->is_borrowed || !n)
        return;
    uintptr_t map_begin = (uintptr_t)m->bytes, map_end = map_begin + m->n_bytes;
    uintptr_t from = (uintptr_t)begin & ~(FAULT_AROUND_BYTES - 1);
    uintptr_t to = ((uintptr_t)begin + n + FAULT_AROUND_BYTES - 1) & ~(FAULT_AROUND_BYTES - 1);
    if (from < map_begin)
        from = map_begin;
    if (to > map_end)
        to = map_end;
    (void)madvise((void *)from, to - from, MADV_DONTNEED); /* a hint */
}
