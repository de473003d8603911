/* kvpager/disk.h - the seam to storage: an engine moves aligned runs of bytes between memory and
 * one open file, asynchronously. kvpager brings three (io_uring with registered buffers, plain
 * io_uring, threads with pread/pwrite); a test or a simulator brings its own through
 * kvp_env.disk_open.
 *
 * Contract
 *   submit  takes the request and all that are linked behind it through `next`, or fails and takes
 *           none; once taken, they belong to the engine until reaped. Handing over many at a time
 *           is cheaper, and lets neighbours in the file become one transfer. Any thread may submit.
 *   reap    hands back finished requests with status, native_error and done_bytes filled in. A
 *           short transfer is KVP_E_IO with done_bytes < len_bytes. One thread at a time reaps. It
 *           waits until something finished or the deadline passed; with nothing in flight it
 *           returns at once with none.
 *   resize  optional: the range of the config that begins at `base` has `bytes` bytes from now on,
 *           at most as many as when it was opened. When it returns, what lies beyond is not
 *           registered any more, and the caller may give it back to the system: no request is in
 *           flight there. Memory that cannot be registered again is used as it is. Any thread, one
 *           at a time.
 *   close   nothing is in flight. */
#ifndef KVPAGER_DISK_H
#define KVPAGER_DISK_H

#include <stddef.h>
#include <stdint.h>

#include "kvpager/mem.h"
#include "kvpager/status.h"

#ifdef __cplusplus
extern "C" {
#endif

#define KVP_IO_ALIGN 4096u     /* of offsets, lengths and buffers */
#define KVP_FOREVER UINT64_MAX /* a deadline that never passes */

typedef enum kvp_io_op { KVP_IO_READ = 0, KVP_IO_WRITE = 1 } kvp_io_op;

/* One transfer; storage and lifetime are the submitter's. */
typedef struct kvp_disk_io {
    kvp_io_op op;
    void *buf; /* aligned to KVP_IO_ALIGN; inside the registered range where there is one */
    size_t len_bytes;
    uint64_t offset_bytes;

    kvp_status status; /* out */
    int native_error;  /* out: errno, 0 if none */
    size_t done_bytes; /* out */

    struct kvp_disk_io *next; /* for whoever holds the request; at submit: the next of a chain */
} kvp_disk_io;

struct kvp_env;

typedef struct kvp_disk_config {
    int fd;             /* open file; stays the caller's */
    uint32_t max_depth; /* requests in flight at most, >= 1 */
    /* Memory that buffers come from, for engines that register it; n_ranges may be 0. */
    struct {
        void *base;
        size_t bytes;
    } ranges[2];
    uint32_t n_ranges;
    const struct kvp_mem *mem;
    const struct kvp_env *env;
    const char *engine; /* "uring-fixed", "uring", "threads"; NULL: the best that works */
} kvp_disk_config;

typedef struct kvp_disk kvp_disk;

typedef struct kvp_disk_ops {
    const char *name; /* e.g. "uring-fixed" */
    kvp_status (*submit)(kvp_disk *disk, kvp_disk_io *io);
    kvp_status (*reap)(kvp_disk *disk, uint64_t deadline_ns, kvp_disk_io **done);
    void (*close)(kvp_disk *disk);
    /* NULL: the engine registers nothing. */
    void (*resize)(kvp_disk *disk, void *base, size_t bytes);
} kvp_disk_ops;

/* First member of every engine's instance. */
struct kvp_disk {
    const kvp_disk_ops *ops;
};

/* Open the engine that cfg->engine names, or the first of the three that works here.
 * Errors: KVP_E_UNSUPPORTED the named one does not work here (the message says why); KVP_E_NOMEM.
 */
KVP_API KVP_NODISCARD kvp_status kvp_disk_open(const kvp_disk_config *cfg, kvp_disk **out);

#ifdef __cplusplus
}
#endif
#endif
