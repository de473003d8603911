/* disk_uring.c - two disk engines over io_uring: "uring-fixed" registers the file and the memory
 * that buffers come from, "uring" registers nothing.
 *
 * Any thread submits; one at a time reaps. Submitting never fails for depth: what the ring has no
 * room for waits in `pending` until completions make room. No kernel polling: SQPOLL burns a core,
 * IOPOLL works on few devices, and neither was faster where measured.
 *
 * Invariants
 *   1. The submission side of the ring (SQEs, `prepared`) belongs to whoever set `is_submitting`.
 *   2. The completion side belongs to the reaper.
 *   3. n_ring = requests in SQEs or in the kernel <= depth <= entries of the ring, so that neither
 *      queue of the ring ever overflows.
 *   4. n_taken = requests taken and not reaped, wherever they are.
 *   5. Which pieces are registered is read and changed by whoever set `is_submitting`. The kernel
 *      looks a piece up when it consumes the request, and holds on to it until that is done: so
 *      only what is prepared and not consumed must not name a piece that goes away.
 *
 * `lock` guards everything else and is never held across a system call. */
#include "tiers/disk_engine.h"

#ifdef KVP_HAVE_URING

#include <assert.h>
#include <liburing.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <unistd.h>

#include "alloc/mem.h"

#define MAX_DEPTH 4096u
/* Ranges are registered in pieces: a range that shrinks or grows has to register one again. */
#define PIECE_BYTES ((size_t)64 << 20)
#define RETRY_NS 1000000u /* after the kernel had no memory for a request */

typedef struct range {
    char *base;
    size_t bytes;
    uint32_t first_piece, n_pieces;
} range;

/* A registered buffer. */
typedef struct piece {
    char *base;
    size_t max_bytes;
    size_t bytes; /* registered: none, or the beginning */
} piece;

/* In an SQE that the kernel has not consumed. */
typedef struct prepared_io {
    kvp_disk_io *io;
    struct io_uring_sqe *sqe;
} prepared_io;

typedef struct uring {
    kvp_disk base;
    struct io_uring ring;
    const kvp_mem *mem;
    const kvp_env *env;
    int fd;
    bool is_fixed;
    range ranges[2];
    uint32_t n_ranges; /* registered ones */
    piece *pieces;
    uint32_t n_pieces;
    uint32_t depth;
    size_t bytes, pieces_bytes; /* of this instance, of `pieces` */
    pid_t owner;                /* the process that opened it */

    pthread_mutex_t lock;
    kvpi_io_queue pending;  /* not in the ring yet */
    kvpi_io_queue finished; /* not reaped yet */
    uint32_t n_ring, n_taken;
    bool is_submitting;
    int broken; /* errno: the ring takes nothing any more */
    uint32_t n_prepared;
    prepared_io prepared[]; /* [depth], the oldest first */
} uring;

/* ---- submitting -------------------------------------------------------------------------------*/

/* The registered buffer that holds all of [buf, buf + n), or -1. */
static int find_piece(const uring *u, const void *buf, size_t n)
{
    for (uint32_t i = 0; i < u->n_ranges; i++) {
        const range *r = &u->ranges[i];
        size_t offset = (size_t)((uintptr_t)buf - (uintptr_t)r->base);
        if ((uintptr_t)buf < (uintptr_t)r->base || offset >= r->bytes || n > r->bytes - offset)
            continue;
        uint32_t i_piece = r->first_piece + (uint32_t)(offset / PIECE_BYTES);
        if (offset % PIECE_BYTES + n <= u->pieces[i_piece].bytes)
            return (int)i_piece;
    }
    return -1;
}

static void prepare(uring *u, kvp_disk_io *io)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);
    assert(sqe && "depth never exceeds the ring");
    bool is_read = io->op == KVP_IO_READ;
    int piece = find_piece(u, io->buf, io->len_bytes);
    int opcode = piece >= 0 ? (is_read ? IORING_OP_READ_FIXED : IORING_OP_WRITE_FIXED)
                            : (is_read ? IORING_OP_READ : IORING_OP_WRITE);
    io_uring_prep_rw(opcode, sqe, u->is_fixed ? 0 : u->fd, io->buf, (unsigned)io->len_bytes,
                     io->offset_bytes);
    if (piece >= 0)
        sqe->buf_index = (uint16_t)piece;
    if (u->is_fixed)
        io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE);
    io_uring_sqe_set_data(sqe, io);
    u->prepared[u->n_prepared++] = (prepared_io){io, sqe};
    u->n_ring++;
}

/* The kernel consumed the oldest n. They may have finished, even been reaped: do not touch them. */
static void drop_prepared(uring *u, uint32_t n)
{
    assert(n <= u->n_prepared);
    u->n_prepared -= n;
    memmove(u->prepared, u->prepared + n, u->n_prepared * sizeof *u->prepared);
}

static void fail_io(uring *u, kvp_disk_io *io)
{
    kvpi_io_finish(io, -u->broken);
    kvpi_io_queue_put(&u->finished, io);
}

/* The ring is unusable: everything that the kernel does not have fails, now and from here on. */
static void fail_unsubmitted(uring *u)
{
    for (uint32_t i = 0; i < u->n_prepared; i++)
        fail_io(u, u->prepared[i].io);
    u->n_ring -= u->n_prepared;
    u->n_prepared = 0;
    for (kvp_disk_io *io; (io = kvpi_io_queue_take(&u->pending));)
        fail_io(u, io);
}

/* Give the kernel as much as the depth allows. Lock held; released around the system call. Whoever
 * finds another thread at it leaves the work to that thread, which looks again before it stops. */
static void flush(uring *u)
{
    if (u->is_submitting)
        return;
    u->is_submitting = true;
    for (;;) {
        if (u->broken)
            fail_unsubmitted(u);
        while (u->pending.head && u->n_ring < u->depth)
            prepare(u, kvpi_io_queue_take(&u->pending));
        if (!u->n_prepared)
            break;
        pthread_mutex_unlock(&u->lock);
        int n = io_uring_submit(&u->ring);
        pthread_mutex_lock(&u->lock);
        if (n > 0)
            drop_prepared(u, (uint32_t)n);
        else if (n == 0 || n == -EAGAIN || n == -EBUSY)
            break; /* no memory for requests just now: reap tries again */
        else if (n != -EINTR)
            u->broken = -n;
    }
    u->is_submitting = false;
}

static kvp_status uring_submit(kvp_disk *disk, kvp_disk_io *io)
{
    uring *u = (uring *)disk;
    pthread_mutex_lock(&u->lock);
    u->n_taken += kvpi_io_queue_put_all(&u->pending, io);
    flush(u);
    pthread_mutex_unlock(&u->lock);
    return KVP_OK;
}

/* ---- registered memory ------------------------------------------------------------------------*/

/* What has been prepared and not consumed does without registered buffers. */
static void unfix_prepared(uring *u)
{
    for (uint32_t i = 0; i < u->n_prepared; i++) {
        struct io_uring_sqe *sqe = u->prepared[i].sqe;
        sqe->opcode = u->prepared[i].io->op == KVP_IO_READ ? IORING_OP_READ : IORING_OP_WRITE;
        sqe->buf_index = 0;
    }
}

static int update_piece(uring *u, uint32_t i, size_t bytes)
{
    struct iovec at = {.iov_base = bytes ? u->pieces[i].base : NULL, .iov_len = bytes};
    __u64 tag = 0;
    int n = io_uring_register_buffers_update_tag(&u->ring, i, &at, &tag, 1);
    u->pieces[i].bytes = n == 1 ? bytes : 0;
    return n == 1 ? 0 : -1;
}

static void unregister_all(uring *u)
{
    io_uring_unregister_buffers(&u->ring);
    for (uint32_t i = 0; i < u->n_pieces; i++)
        u->pieces[i].bytes = 0;
    u->n_pieces = 0; /* nothing is registered again */
}

/* Let go of the piece before its new size is registered: both count against RLIMIT_MEMLOCK. A
 * kernel that cannot do it for one (before 5.13) does it for all. */
static void resize_piece(uring *u, uint32_t i, size_t bytes)
{
    if (i >= u->n_pieces || u->pieces[i].bytes == bytes)
        return;
    if (u->pieces[i].bytes && update_piece(u, i, 0))
        unregister_all(u);
    else if (bytes)
        (void)update_piece(u, i, bytes); /* refused: transfers there do without */
}

static void uring_resize(kvp_disk *disk, void *base, size_t bytes)
{
    uring *u = (uring *)disk;
    pthread_mutex_lock(&u->lock);
    while (u->is_submitting) { /* for as long as a system call */
        pthread_mutex_unlock(&u->lock);
        sched_yield();
        pthread_mutex_lock(&u->lock);
    }
    u->is_submitting = true;
    unfix_prepared(u);
    pthread_mutex_unlock(&u->lock);

    for (uint32_t i = 0; i < u->n_ranges; i++) {
        const range *r = &u->ranges[i];
        for (uint32_t k = 0; r->base == base && k < r->n_pieces; k++) {
            size_t begin = k * PIECE_BYTES, left = bytes > begin ? bytes - begin : 0;
            size_t max = u->pieces[r->first_piece + k].max_bytes;
            resize_piece(u, r->first_piece + k, left < max ? left : max);
        }
    }
    pthread_mutex_lock(&u->lock);
    u->is_submitting = false;
    flush(u);
    pthread_mutex_unlock(&u->lock);
}

/* ---- reaping ----------------------------------------------------------------------------------*/

/* Move what the kernel has finished to `finished`. Lock held. */
static void drain(uring *u)
{
    unsigned head, n = 0;
    struct io_uring_cqe *cqe;
    io_uring_for_each_cqe(&u->ring, head, cqe)
    {
        kvp_disk_io *io = io_uring_cqe_get_data(cqe);
        if (kvpi_io_is_retry(cqe->res)) {
            kvpi_io_queue_put(&u->pending, io);
        } else {
            kvpi_io_finish(io, cqe->res);
            kvpi_io_queue_put(&u->finished, io);
        }
        n++;
    }
    io_uring_cq_advance(&u->ring, n);
    assert(n <= u->n_ring);
    u->n_ring -= n;
}

static int wait_for_completion(uring *u, uint64_t ns)
{
    struct io_uring_cqe *cqe;
    struct __kernel_timespec t = {.tv_sec = (int64_t)(ns / 1000000000u),
                                  .tv_nsec = (long long)(ns % 1000000000u)};
    int error = -io_uring_wait_cqe_timeout(&u->ring, &cqe, &t);
    return error == ETIME || error == EINTR || error == EAGAIN ? 0 : error;
}

static kvp_status uring_reap(kvp_disk *disk, uint64_t deadline_ns, kvp_disk_io **done)
{
    uring *u = (uring *)disk;
    for (;;) {
        pthread_mutex_lock(&u->lock);
        if (!u->finished.head)
            drain(u);
        flush(u);
        kvp_disk_io *io = kvpi_io_queue_take(&u->finished);
        bool is_idle = u->n_taken == 0;
        bool was_refused = u->n_prepared && !u->is_submitting;
        u->n_taken -= io ? 1 : 0;
        pthread_mutex_unlock(&u->lock);

        uint64_t sleep_ns = io || is_idle ? 0 : kvpi_io_sleep_ns(u->env, deadline_ns);
        if (!sleep_ns) {
            *done = io;
            return KVP_OK;
        }
        if (was_refused && sleep_ns > RETRY_NS)
            sleep_ns = RETRY_NS;
        int error = wait_for_completion(u, sleep_ns);
        if (error) {
            errno = error;
            return kvp_fail(KVP_E_IO, "waiting for io_uring completions: %m");
        }
    }
}

/* ---- opening and closing ----------------------------------------------------------------------*/

static void uring_close(kvp_disk *disk)
{
    uring *u = (uring *)disk;
    /* The kernel takes a ring apart later, and until then its buffers count against
     * RLIMIT_MEMLOCK: the next ring would not get them. A forked child leaves the parent's alone.
     */
    if (u->n_pieces && u->owner == getpid())
        io_uring_unregister_buffers(&u->ring);
    io_uring_queue_exit(&u->ring);
    pthread_mutex_destroy(&u->lock);
    kvpi_free(u->mem, u->pieces, u->pieces_bytes);
    kvpi_free(u->mem, u, u->bytes);
}

static const kvp_disk_ops uring_fixed_ops = {.name = "uring-fixed",
                                             .submit = uring_submit,
                                             .reap = uring_reap,
                                             .close = uring_close,
                                             .resize = uring_resize};
static const kvp_disk_ops uring_ops = {
    .name = "uring", .submit = uring_submit, .reap = uring_reap, .close = uring_close};

static kvp_status cannot(const char *engine, const char *step, int error)
{
    const char *advice = "use another engine";
    if (error == EPERM || error == EACCES)
        advice = "io_uring is forbidden here, by a container profile or kernel.io_uring_disabled: "
                 "allow it, or use the engine threads";
    else if (error == ENOSYS || error == EINVAL)
        advice = "this kernel has no io_uring, or one before 5.11: use the engine threads";
    else if (error == ENOMEM)
        advice = "raise RLIMIT_MEMLOCK (ulimit -l), or use the engine uring or threads";
    errno = error;
    return kvp_fail(KVP_E_UNSUPPORTED, "disk engine %s does not work here: %s: %m; %s", engine,
                    step, advice);
}

static void cut_range(uring *u, char *base, size_t bytes)
{
    range *r = &u->ranges[u->n_ranges++];
    *r = (range){.base = base, .bytes = bytes, .first_piece = u->n_pieces};
    for (size_t done = 0; done < bytes; done += PIECE_BYTES, r->n_pieces++) {
        size_t left = bytes - done, n = left < PIECE_BYTES ? left : PIECE_BYTES;
        u->pieces[u->n_pieces++] = (piece){.base = base + done, .max_bytes = n, .bytes = n};
    }
}

/* Register the caller's memory. On failure the ring is the caller's to take apart. */
static kvp_status register_ranges(uring *u, const kvp_disk_config *cfg)
{
    size_t n = 0;
    for (uint32_t i = 0; i < cfg->n_ranges; i++)
        n += (cfg->ranges[i].bytes + PIECE_BYTES - 1) / PIECE_BYTES;
    if (!n)
        return KVP_OK;
    u->pieces_bytes = n * sizeof *u->pieces;
    kvp_status s = kvpi_alloc(u->mem, u->pieces_bytes, "registered buffers", &u->pieces);
    if (s)
        return s;
    for (uint32_t i = 0; i < cfg->n_ranges; i++)
        cut_range(u, cfg->ranges[i].base, cfg->ranges[i].bytes);
    struct iovec *at;
    s = kvpi_alloc(u->mem, n * sizeof *at, "registering buffers", &at);
    if (s)
        return s;
    for (size_t i = 0; i < n; i++)
        at[i] = (struct iovec){u->pieces[i].base, u->pieces[i].max_bytes};
    int error = -io_uring_register_buffers(&u->ring, at, (unsigned)n);
    kvpi_free(u->mem, at, n * sizeof *at);
    return error ? cannot(u->base.ops->name, "registering the buffers", error) : KVP_OK;
}

/* Make the ring, and register with it what is to be registered. */
static kvp_status set_up(uring *u, const kvp_disk_config *cfg)
{
    const char *name = u->base.ops->name;
    int error = -io_uring_queue_init(u->depth, &u->ring, 0);
    if (error)
        return cannot(name, "io_uring_setup", error);
    kvp_status s = KVP_OK;
    if (!(u->ring.features & IORING_FEAT_EXT_ARG))
        s = cannot(name, "waiting with a deadline", EINVAL);
    else if (u->is_fixed && (error = -io_uring_register_files(&u->ring, &u->fd, 1)))
        s = cannot(name, "registering the file", error);
    else if (u->is_fixed)
        s = register_ranges(u, cfg);
    if (s)
        io_uring_queue_exit(&u->ring);
    return s;
}

static kvp_status open_uring(const kvp_disk_config *cfg, const kvp_disk_ops *ops, kvp_disk **out)
{
    uint32_t depth = cfg->max_depth < MAX_DEPTH ? cfg->max_depth : MAX_DEPTH;
    size_t bytes = sizeof(uring) + depth * sizeof(prepared_io);
    uring *u;
    kvp_status s = kvpi_alloc(cfg->mem, bytes, "a disk engine", &u);
    if (s)
        return s;
    u->base.ops = ops;
    u->mem = cfg->mem;
    u->env = cfg->env;
    u->fd = cfg->fd;
    u->is_fixed = ops == &uring_fixed_ops;
    u->depth = depth;
    u->bytes = bytes;
    u->owner = getpid();
    s = set_up(u, cfg);
    if (s) {
        kvpi_free(cfg->mem, u->pieces, u->pieces_bytes);
        kvpi_free(cfg->mem, u, bytes);
        return s;
    }
    pthread_mutex_init(&u->lock, NULL);
    *out = &u->base;
    return KVP_OK;
}

kvp_status kvpi_disk_uring_fixed_open(const kvp_disk_config *cfg, kvp_disk **out)
{
    return open_uring(cfg, &uring_fixed_ops, out);
}

kvp_status kvpi_disk_uring_open(const kvp_disk_config *cfg, kvp_disk **out)
{
    return open_uring(cfg, &uring_ops, out);
}

#else

kvp_status kvpi_disk_uring_fixed_open(const kvp_disk_config *cfg, kvp_disk **out)
{
    (void)cfg;
    (void)out;
    return kvp_fail(KVP_E_UNSUPPORTED, "disk engine uring-fixed: built without liburing; use the "
                                       "engine threads");
}

kvp_status kvpi_disk_uring_open(const kvp_disk_config *cfg, kvp_disk **out)
{
    (void)cfg;
    (void)out;
    return kvp_fail(KVP_E_UNSUPPORTED,
                    "disk engine uring: built without liburing; use the engine threads");
}

#endif
