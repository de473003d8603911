#define _GNU_SOURCE 1
#include "frames.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

void *__real_mmap(void *at, size_t bytes, int protection, int flags, int fd, off_t offset);
int __real_madvise(void *at, size_t bytes, int advice);
void *__wrap_mmap(void *at, size_t bytes, int protection, int flags, int fd, off_t offset);
int __wrap_madvise(void *at, size_t bytes, int advice);

static struct {
    bool is_set, is_small, is_sequential;
    int fd; /* -1: anonymous */
    char *base;
    size_t bytes;
} frames = {.fd = -1};

kvp_status frames_put(const frames_place *place)
{
    frames.is_set = true;
    frames.is_sequential = place->advice && strcmp(place->advice, "sequential") == 0;
    frames.is_small = place->advice != NULL;
    if (place->advice && !frames.is_sequential && strcmp(place->advice, "small") != 0)
        return kvp_fail(KVP_E_INVALID, "no advice is called '%s': small, sequential",
                        place->advice);
    if (!place->file)
        return KVP_OK;
    frames.fd = open(place->file, O_CREAT | O_TRUNC | O_RDWR | O_CLOEXEC, 0600);
    return frames.fd >= 0 ? KVP_OK : kvp_fail(KVP_E_IO, "%s: %s", place->file, strerror(errno));
}

kvp_status frames_flush(void)
{
    if (frames.fd < 0)
        return KVP_OK;
    if (fsync(frames.fd))
        return kvp_fail(KVP_E_IO, "the file of frames: %s", strerror(errno));
    return KVP_OK;
}

void *__wrap_mmap(void *at, size_t bytes, int protection, int flags, int fd, off_t offset)
{
    bool is_frames = frames.is_set && !frames.base && (flags & MAP_NORESERVE);
    if (!is_frames)
        return __real_mmap(at, bytes, protection, flags, fd, offset);
    if (frames.fd >= 0) {
        if (ftruncate(frames.fd, (off_t)bytes))
            return MAP_FAILED;
        flags = MAP_SHARED;
        fd = frames.fd;
    }
    void *base = __real_mmap(at, bytes, protection, flags, fd, offset);
    if (base == MAP_FAILED)
        return base;
    frames.base = base;
    frames.bytes = bytes;
    if (frames.is_sequential)
        (void)__real_madvise(base, bytes, MADV_SEQUENTIAL);
    return base;
}

int __wrap_madvise(void *at, size_t bytes, int advice)
{
    bool is_frames =
        frames.base && (char *)at >= frames.base && (char *)at < frames.base + frames.bytes;
    if (is_frames && frames.is_small && advice == MADV_HUGEPAGE)
        advice = MADV_NOHUGEPAGE;
    return __real_madvise(at, bytes, advice);
}
