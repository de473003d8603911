/* kvpager/env.h - the one seam to the outside world: time, randomness, threads and disk I/O.
 * Everything in kvpager that depends on them goes through here, so that a test can fail the n-th
 * operation and a simulator can replay a run from one seed. */
#ifndef KVPAGER_ENV_H
#define KVPAGER_ENV_H

#include "kvpager/disk.h"
#include "kvpager/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct kvp_env {
    void *opaque;
    /* Monotonic time in nanoseconds. */
    uint64_t (*now_ns)(void *opaque);
    /* Fill `buf` with unpredictable bytes. */
    kvp_status (*random)(void *opaque, void *buf, size_t n);
    /* Start `run(arg)` in a thread of its own; every started thread is joined. */
    kvp_status (*thread_start)(void *opaque, void (*run)(void *arg), void *arg, void **thread);
    void (*thread_join)(void *opaque, void *thread);
    /* Open a disk engine; the default is kvp_disk_open. */
    kvp_status (*disk_open)(void *opaque, const kvp_disk_config *cfg, kvp_disk **out);
    /* Make the swap file behind `fd` longer, with the room allocated: 0, or an errno, and the file
     * is as it was. NULL: fallocate(2). For engines that keep the bytes elsewhere. */
    int (*file_grow)(void *opaque, int fd, uint64_t from_bytes, uint64_t to_bytes);
} kvp_env;

/* The real world. Copy it and replace members to build your own. */
KVP_API const kvp_env *kvp_env_default(void);

#ifdef __cplusplus
}
#endif
#endif
