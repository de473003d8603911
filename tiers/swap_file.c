/* swap_file.c - creates, checks, locks, grows and removes the swap file.
 *
 * Invariants
 *   1. While open, the process holds an exclusive lock (flock) on the file, and a named file's path
 *      leads to it: whoever locks a file that was removed meanwhile starts again.
 *   2. The file is a regular one, belongs to this user and has mode 0600.
 *   3. size_bytes <= max_bytes, and all of size_bytes is allocated where the file system can.
 *
 * Nothing in a swap file outlives the pager, so nothing is ever flushed. */
#define _GNU_SOURCE 1
#include "tiers/swap_file.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "alloc/mem.h"
#include "tiers/format.h"

#define GROW_BYTES ((uint64_t)16 << 20)
#define MAX_TRIES 16 /* races lost against other processes, before giving up */

#define LOCK_TRIES 20 /* 50 ms apart */

/* Writing past this limit would raise SIGXFSZ, and that kills the program. */
static bool is_over_file_limit(uint64_t bytes)
{
    struct rlimit limit;
    return !getrlimit(RLIMIT_FSIZE, &limit) && limit.rlim_cur != RLIM_INFINITY &&
           bytes > limit.rlim_cur;
}

static kvp_status status_of_errno(int error)
{
    bool is_full = error == ENOSPC || error == EDQUOT || error == EFBIG;
    return is_full ? KVP_E_NOSPACE : KVP_E_IO;
}

/* ---- the header -------------------------------------------------------------------------------*/

static kvp_status set_direct(kvpi_swap_file *f, bool on)
{
    /* Also ends the O_NONBLOCK that open() had: io_uring would take it as "fail, don't wait". */
    if (!fcntl(f->fd, F_SETFL, on ? O_DIRECT : 0)) {
        f->is_direct = on;
        return KVP_OK;
    }
    if (on && errno == EINVAL)
        return set_direct(f, false); /* this file system has no O_DIRECT */
    return kvp_fail(KVP_E_IO, "swap file %s: fcntl: %m", f->path);
}

/* Memory that O_DIRECT takes. */
static char *aligned(char *memory)
{
    return memory + (KVP_IO_ALIGN - (uintptr_t)memory % KVP_IO_ALIGN) % KVP_IO_ALIGN;
}

static kvp_status write_blocks(kvpi_swap_file *f, const void *blocks)
{
    ssize_t n = -1;
    errno = EFBIG;
    if (!is_over_file_limit(KVPI_SEGMENTS_AT)) {
        do
            n = pwrite(f->fd, blocks, KVPI_SEGMENTS_AT, 0);
        while (n < 0 && errno == EINTR);
    }
    if (n == (ssize_t)KVPI_SEGMENTS_AT)
        return KVP_OK;
    if (n < 0 && errno == EINVAL && f->is_direct) { /* the device wants larger blocks */
        kvp_status s = set_direct(f, false);
        return s ? s : write_blocks(f, blocks);
    }
    if (n >= 0)
        errno = ENOSPC;
    return kvp_fail(status_of_errno(errno), "swap file %s: writing its header: %m", f->path);
}

/* One superblock; the other one is empty: nothing in a swap file is ever replaced by something
 * newer. */
static kvp_status write_header(kvpi_swap_file *f)
{
    const size_t n = KVPI_SEGMENTS_AT + KVP_IO_ALIGN;
    char *memory;
    kvp_status s = kvpi_alloc(f->mem, n, "the swap header", &memory);
    if (s)
        return s;
    const kvpi_superblock sb = {.kind = KVPI_FILE_SWAP,
                                .epoch = 1,
                                .store_id = f->store_id,
                                .segment_bytes = f->segment_bytes,
                                .slot_bytes = (uint32_t)f->slot_bytes};
    kvpi_superblock_encode(&sb, aligned(memory) + KVPI_BLOCK_BYTES * (sb.epoch % 2));
    s = write_blocks(f, aligned(memory));
    kvpi_free(f->mem, memory, n);
    return s;
}

/* Is what is there a swap file that an unclean exit left behind? Empty files are taken: a crash
 * between creating and writing leaves one. */
static kvp_status check_is_swap_file(const kvpi_swap_file *f, const struct stat *st)
{
    char blocks[KVPI_SEGMENTS_AT] = {0};
    const kvpi_origin from = {f->path, 0};
    kvpi_superblock sb;
    uint32_t which;
    if (st->st_size == 0)
        return KVP_OK;
    ssize_t n = pread(f->fd, blocks, sizeof blocks, 0);
    if (n < 0)
        return kvp_fail(KVP_E_IO, "swap file %s: reading its header: %m", f->path);
    kvp_status s = kvpi_superblock_choose(blocks, &from, &sb, &which);
    if (!s && sb.kind == KVPI_FILE_SWAP)
        return KVP_OK;
    if (!s)
        return kvp_fail(KVP_E_INVALID, "%s is a kvpager store, not a swap file; name another path",
                        f->path);
    if (s == KVP_E_UNSUPPORTED)
        return s;
    return kvp_fail(KVP_E_INVALID,
                    "swap file %s exists and is not a kvpager swap file; name another path",
                    f->path);
}

/* ---- a named file -----------------------------------------------------------------------------*/

static kvp_status open_path(kvpi_swap_file *f)
{
    /* O_NONBLOCK: opening a pipe or a tape must not wait. */
    f->fd = open(f->path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0600);
    if (f->fd >= 0)
        return KVP_OK;
    if (errno == ELOOP)
        return kvp_fail(KVP_E_INVALID, "swap file %s is a symbolic link; name the file itself",
                        f->path);
    if (errno == EISDIR)
        return kvp_fail(KVP_E_INVALID, "swap file %s is a folder; name a file in it", f->path);
    if (errno == ENXIO || errno == ENODEV)
        return kvp_fail(KVP_E_INVALID, "swap file %s is not a regular file; name another path",
                        f->path);
    return kvp_fail(status_of_errno(errno), "cannot create swap file %s: %m", f->path);
}

static kvp_status check_kind(const kvpi_swap_file *f, const struct stat *st)
{
    if (!S_ISREG(st->st_mode))
        return kvp_fail(KVP_E_INVALID, "swap file %s is not a regular file; name another path",
                        f->path);
    if (st->st_uid != geteuid())
        return kvp_fail(KVP_E_INVALID, "swap file %s belongs to another user; name another path",
                        f->path);
    return KVP_OK;
}

/* The lock of a process that was killed lives until the kernel has taken its ring apart, a little
 * after the process: so it is asked for more than once. */
static bool try_lock(int fd)
{
    const struct timespec pause = {.tv_nsec = 50000000};
    for (int i = 0; i < LOCK_TRIES; i++) {
        if (!flock(fd, LOCK_EX | LOCK_NB))
            return true;
        if (errno != EWOULDBLOCK && errno != EINTR)
            return false;
        if (i + 1 < LOCK_TRIES)
            clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL);
    }
    errno = EWOULDBLOCK;
    return false;
}

static kvp_status lock_file(const kvpi_swap_file *f)
{
    if (try_lock(f->fd))
        return KVP_OK;
    if (errno == EWOULDBLOCK)
        return kvp_fail(KVP_E_BUSY, "swap file %s is in use by another pager; name another path",
                        f->path);
    return kvp_fail(KVP_E_IO, "swap file %s: flock: %m", f->path);
}

/* Is the open file the one that the path leads to? */
static bool is_at_path(const kvpi_swap_file *f, const struct stat *opened)
{
    struct stat st;
    return !lstat(f->path, &st) && st.st_dev == opened->st_dev && st.st_ino == opened->st_ino;
}

/* Open, lock and check once. *is_ours: the file may be used, and must be removed on failure; false
 * with success: another process removed it meanwhile. */
static kvp_status try_claim(kvpi_swap_file *f, bool *is_ours)
{
    struct stat st;
    kvp_status s = open_path(f);
    if (s)
        return s;
    if (fstat(f->fd, &st)) {
        s = kvp_fail(KVP_E_IO, "swap file %s: fstat: %m", f->path);
        goto fail;
    }
    if ((s = check_kind(f, &st)) || (s = lock_file(f)))
        goto fail;
    *is_ours = is_at_path(f, &st);
    if (!*is_ours)
        goto fail;
    if (fstat(f->fd, &st)) { /* again: its size may have changed before the lock */
        s = kvp_fail(KVP_E_IO, "swap file %s: fstat: %m", f->path);
        goto fail;
    }
    s = check_is_swap_file(f, &st);
    if (!s)
        return KVP_OK;
fail:
    *is_ours = false;
    close(f->fd);
    return s;
}

static kvp_status claim_path(kvpi_swap_file *f)
{
    bool is_ours = false;
    for (int i = 0; i < MAX_TRIES; i++) {
        kvp_status s = try_claim(f, &is_ours);
        if (s || is_ours)
            return s;
    }
    return kvp_fail(KVP_E_BUSY, "swap file %s keeps vanishing: other processes use that name",
                    f->path);
}

/* ---- a file without a name --------------------------------------------------------------------*/

/* For file systems without O_TMPFILE: create under a random name and remove the name. */
static kvp_status create_unlinked(kvpi_swap_file *f, const kvp_env *env)
{
    for (int i = 0; i < MAX_TRIES; i++) {
        char name[4096];
        uint64_t random;
        kvp_status s = env->random(env->opaque, &random, sizeof random);
        if (s)
            return s;
        if (snprintf(name, sizeof name, "%s/kvpager-%016" PRIx64, f->path, random) >=
            (int)sizeof name) {
            errno = ENAMETOOLONG;
            break;
        }
        f->fd = open(name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (f->fd >= 0) {
            unlink(name);
            return KVP_OK;
        }
        if (errno != EEXIST)
            break;
    }
    return kvp_fail(status_of_errno(errno),
                    "cannot create a swap file in %s: %m; set TMPDIR to a writable folder on disk, "
                    "or name the swap file",
                    f->path);
}

static kvp_status create_temporary(kvpi_swap_file *f, const kvp_env *env)
{
    f->fd = open(f->path, O_TMPFILE | O_RDWR | O_EXCL | O_CLOEXEC, 0600);
    return f->fd >= 0 ? KVP_OK : create_unlinked(f, env);
}

/* ---- open and close ---------------------------------------------------------------------------*/

static void free_path(kvpi_swap_file *f)
{
    kvpi_free(f->mem, f->path, strlen(f->path) + 1);
}

static void remove_name(const kvpi_swap_file *f)
{
    struct stat st;
    if (f->is_named && f->owner == getpid() && !fstat(f->fd, &st) && is_at_path(f, &st))
        unlink(f->path);
}

/* The file is open and ours: make it an empty swap file. */
static kvp_status prepare(kvpi_swap_file *f)
{
    if (fchmod(f->fd, 0600) || ftruncate(f->fd, 0))
        return kvp_fail(KVP_E_IO, "swap file %s: %m", f->path);
    kvp_status s = set_direct(f, true);
    if (!s)
        s = write_header(f);
    f->size_bytes = KVPI_SEGMENTS_AT;
    return s;
}

kvp_status kvpi_swap_file_open(const char *path, size_t slot_bytes, size_t segment_bytes,
                               uint64_t max_bytes, const kvp_mem *mem, const kvp_env *env,
                               kvpi_swap_file *f)
{
    const char *folder = getenv("TMPDIR");
    folder = folder && *folder ? folder : "/var/tmp";
    kvpi_swap_file n = {.fd = -1,
                        .max_bytes = max_bytes,
                        .slot_bytes = slot_bytes,
                        .segment_bytes = segment_bytes,
                        .is_named = path != NULL,
                        .owner = getpid(),
                        .mem = mem,
                        .env = env};
    const char *text = path ? path : folder;
    assert(max_bytes >= KVPI_SEGMENTS_AT);
    kvp_status s = kvpi_alloc(mem, strlen(text) + 1, "the swap file's name", &n.path);
    if (s)
        return s;
    strcpy(n.path, text);
    s = env->random(env->opaque, &n.store_id, sizeof n.store_id);
    n.store_id += !n.store_id;
    if (s)
        goto fail_path;
    s = path ? claim_path(&n) : create_temporary(&n, env);
    if (s)
        goto fail_path;
    s = prepare(&n);
    if (s)
        goto fail_file;
    *f = n;
    return KVP_OK;
fail_file:
    remove_name(&n);
    close(n.fd);
fail_path:
    free_path(&n);
    return s;
}

void kvpi_swap_file_close(kvpi_swap_file *f)
{
    remove_name(f); /* before close: nobody may lock it in between and lose the name */
    close(f->fd);
    free_path(f);
}

/* ---- growing ----------------------------------------------------------------------------------*/

/* Returns errno. On failure the file is as long as before.
 * UNTESTED: a fallocate that fails half-way; tmpfs, which tests can fill, undoes that by itself. */
static int extend(const kvpi_swap_file *f, uint64_t to_bytes)
{
    if (f->env->file_grow)
        return f->env->file_grow(f->env->opaque, f->fd, f->size_bytes, to_bytes);
    if (is_over_file_limit(to_bytes))
        return EFBIG;
    off_t from = (off_t)f->size_bytes, n = (off_t)(to_bytes - f->size_bytes);
    int error;
    do
        error = fallocate(f->fd, 0, from, n) ? errno : 0;
    while (error == EINTR);
    if (error == EOPNOTSUPP)
        error = ftruncate(f->fd, from + n) ? errno : 0;
    else if (error && ftruncate(f->fd, from))
        return errno; /* what was allocated before the failure stays: only room is lost */
    return error;
}

static kvp_status grow_failed(const kvpi_swap_file *f, uint64_t bytes, int error)
{
    kvp_status s = status_of_errno(error);
    const char *advice = "";
    if (error == EFBIG)
        advice = "; the file size limit is too small (ulimit -f)";
    else if (s == KVP_E_NOSPACE)
        advice = "; free some space, name a swap file elsewhere, or allow less disk";
    errno = error;
    return kvp_fail(s, "swap file %s%s: growing from %" PRIu64 " to %" PRIu64 " bytes: %m%s",
                    f->is_named ? "" : "in ", f->path, f->size_bytes, bytes, advice);
}

kvp_status kvpi_swap_file_grow(kvpi_swap_file *f, uint64_t bytes)
{
    assert(bytes <= f->max_bytes);
    if (bytes <= f->size_bytes)
        return KVP_OK;
    uint64_t room = f->max_bytes - f->size_bytes;
    uint64_t chunk = f->size_bytes + (room < GROW_BYTES ? room : GROW_BYTES);
    int error = chunk > bytes ? extend(f, chunk) : -1;
    if (!error)
        bytes = chunk;
    else
        error = extend(f, bytes); /* a chunk is a wish, `bytes` a need */
    if (error)
        return grow_failed(f, bytes, error);
    f->size_bytes = bytes;
    return KVP_OK;
}
