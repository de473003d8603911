/* mem_disk.c - see mem_disk.h. */
#include "mem_disk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

uint32_t mem_disk_random(mem_disk *d, uint32_t below)
{
    d->seed = d->seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(d->seed >> 33) % below;
}

static bool overlap(uint64_t a, uint64_t b, uint64_t a_len, uint64_t b_len)
{
    return a < b + b_len && b < a + a_len;
}

static void check(mem_disk *d, const kvp_disk_io *io, const kvp_disk_io *other)
{
    bool writes = io->op == KVP_IO_WRITE || other->op == KVP_IO_WRITE;
    bool reads = io->op == KVP_IO_READ || other->op == KVP_IO_READ;
    if (writes && overlap(io->offset_bytes, other->offset_bytes, io->len_bytes, other->len_bytes))
        d->violation = "two requests for the same place, and one of them writes";
    if (reads &&
        overlap((uintptr_t)io->buf, (uintptr_t)other->buf, io->len_bytes, other->len_bytes))
        d->violation = "two requests for the same memory, and one of them reads into it";
}

static void take(mem_disk *d, kvp_disk_io *io)
{
    if (d->n == MEM_DISK_DEPTH)
        abort();
    if (io->offset_bytes < 8192 || io->offset_bytes + io->len_bytes > d->n_bytes)
        d->violation = "a request beyond the budget, or in the superblocks";
    for (uint32_t i = 0; i < d->n; i++)
        check(d, io, d->flights[i]);
    if (d->stuck)
        check(d, io, d->stuck);
    d->n_counted += io->op == d->fault_op;
    if (d->fault == MEM_DISK_STUCK && io->op == d->fault_op && d->n_counted == d->nth) {
        d->stuck = io;
        d->has_fired = true;
        return;
    }
    io->status = KVP_OK;
    if (d->fault && io->op == d->fault_op && d->n_counted == d->nth) {
        d->has_fired = true;
        io->status = d->fault == MEM_DISK_ENOSPC ? KVP_E_NOSPACE : KVP_E_IO;
        io->native_error = d->fault == MEM_DISK_EIO      ? EIO
                           : d->fault == MEM_DISK_ENOSPC ? ENOSPC
                                                         : 0;
    }
    d->flights[d->n++] = io;
}

static kvp_status mem_submit(kvp_disk *disk, kvp_disk_io *io)
{
    for (kvp_disk_io *next; io; io = next) {
        next = io->next;
        take((mem_disk *)disk, io);
    }
    return KVP_OK;
}

/* The bytes move when it is reaped: whoever touches them earlier is found out. */
static void move(mem_disk *d, kvp_disk_io *io)
{
    size_t n = io->len_bytes;
    if (io->status)
        n = io->native_error ? 0 : n / 2;
    char *at = d->bytes + io->offset_bytes;
    if (io->op == KVP_IO_WRITE) {
        memcpy(at, io->buf, n);
        d->n_written += n;
    } else {
        memcpy(io->buf, at, n);
    }
    io->done_bytes = n;
}

static kvp_status mem_reap(kvp_disk *disk, uint64_t deadline_ns, kvp_disk_io **done)
{
    mem_disk *d = (mem_disk *)disk;
    *done = NULL;
    if (!d->n) {
        if (d->stuck && deadline_ns == KVP_FOREVER)
            return kvp_fail(KVP_E_IO, "waiting for ever for a request that is stuck");
        if (d->stuck && deadline_ns > d->now_ns)
            d->now_ns = deadline_ns;
        return KVP_OK;
    }
    uint32_t i = mem_disk_random(d, d->n);
    kvp_disk_io *io = d->flights[i];
    d->flights[i] = d->flights[--d->n];
    move(d, io);
    *done = io;
    return KVP_OK;
}

static void mem_close(kvp_disk *disk)
{
    mem_disk *d = (mem_disk *)disk;
    if (d->n || d->stuck)
        d->violation = "closed with requests in flight";
}

static const kvp_disk_ops ops = {
    .name = "memory", .submit = mem_submit, .reap = mem_reap, .close = mem_close};

static kvp_status mem_open(void *opaque, const kvp_disk_config *cfg, kvp_disk **out)
{
    (void)cfg;
    *out = &((mem_disk *)opaque)->base;
    return KVP_OK;
}

static uint64_t mem_now(void *opaque)
{
    return ((mem_disk *)opaque)->now_ns;
}

static int mem_grow(void *opaque, int fd, uint64_t from_bytes, uint64_t to_bytes)
{
    (void)fd;
    (void)from_bytes;
    return to_bytes <= ((mem_disk *)opaque)->n_bytes ? 0 : ENOSPC;
}

static kvp_status mem_bytes(void *opaque, void *buf, size_t n)
{
    for (size_t i = 0; i < n; i++)
        ((unsigned char *)buf)[i] = (unsigned char)mem_disk_random(opaque, 256);
    return KVP_OK;
}

void mem_disk_init(mem_disk *d, size_t n_bytes, uint64_t seed)
{
    *d = (mem_disk){.base = {.ops = &ops},
                    .env = {.opaque = d,
                            .now_ns = mem_now,
                            .random = mem_bytes,
                            .disk_open = mem_open,
                            .file_grow = mem_grow},
                    .n_bytes = n_bytes,
                    .seed = seed};
    d->bytes = calloc(1, n_bytes);
    if (!d->bytes)
        abort();
}

void mem_disk_fini(mem_disk *d)
{
    free(d->bytes);
}

void mem_disk_arm(mem_disk *d, mem_disk_fault fault, kvp_io_op op, uint64_t nth)
{
    d->fault = fault;
    d->fault_op = op;
    d->nth = nth;
    d->n_counted = 0;
    d->has_fired = false;
}

void mem_disk_release(mem_disk *d)
{
    kvp_disk_io *io = d->stuck;
    d->stuck = NULL;
    d->fault = MEM_DISK_OK;
    if (!io)
        return;
    io->status = KVP_OK;
    d->flights[d->n++] = io;
}
