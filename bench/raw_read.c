/* raw_read.c - a bare io_uring loop: the figure that reads of pages are held against. */
#define _GNU_SOURCE 1
#include "raw_read.h"

#include <fcntl.h>
#include <liburing.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "harness.h"

#define MAX_DEPTH 32u
#define MAX_BLOCK ((size_t)1 << 20)
#define BUFFER_BYTES (MAX_DEPTH * MAX_BLOCK)

struct raw_file {
    int fd;
    size_t bytes;
    bool is_direct;
    char *mapping, *buffers; /* [MAX_DEPTH][MAX_BLOCK], huge-page-backed */
    uint64_t *order;         /* of blocks; room for the smallest */
    struct io_uring ring;
};

/* Written once: reads of allocated but unwritten blocks never reach the device. */
static bool fill(raw_file *f)
{
    for (size_t done = 0; done < f->bytes; done += MAX_BLOCK) {
        size_t n = f->bytes - done < MAX_BLOCK ? f->bytes - done : MAX_BLOCK;
        for (size_t i = 0; i < n; i += 8)
            memcpy(f->buffers + i, &(uint64_t){(done + i) * 0x9E3779B97F4A7C15u}, 8);
        if (pwrite(f->fd, f->buffers, n, (off_t)done) != (ssize_t)n)
            return false;
    }
    return true;
}

static bool map_buffers(raw_file *f)
{
    const size_t huge = (size_t)2 << 20;
    f->mapping =
        mmap(NULL, BUFFER_BYTES + huge, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (f->mapping == MAP_FAILED)
        return false;
    f->buffers = f->mapping + (huge - (uintptr_t)f->mapping % huge);
    madvise(f->buffers, BUFFER_BYTES, MADV_HUGEPAGE);
    memset(f->buffers, 1, BUFFER_BYTES);
    return true;
}

static bool set_up_ring(raw_file *f)
{
    struct iovec all = {f->buffers, BUFFER_BYTES};
    if (io_uring_queue_init(MAX_DEPTH, &f->ring, 0))
        return false;
    if (!io_uring_register_buffers(&f->ring, &all, 1) &&
        !io_uring_register_files(&f->ring, &f->fd, 1))
        return true;
    io_uring_queue_exit(&f->ring);
    return false;
}

raw_file *raw_open(const char *dir, size_t bytes)
{
    raw_file *f = calloc(1, sizeof *f);
    if (!f)
        return NULL;
    f->bytes = bytes / MAX_BLOCK * MAX_BLOCK;
    f->order = malloc(f->bytes / 4096 * sizeof *f->order);
    f->fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (!f->order || f->fd < 0 || !map_buffers(f))
        goto fail;
    f->is_direct = !fcntl(f->fd, F_SETFL, O_DIRECT);
    if (!fallocate(f->fd, 0, 0, (off_t)f->bytes) && fill(f) && set_up_ring(f))
        return f;
    munmap(f->mapping, BUFFER_BYTES);
fail:
    if (f->fd >= 0)
        close(f->fd);
    free(f->order);
    free(f);
    return NULL;
}

void raw_close(raw_file *f)
{
    if (!f)
        return;
    io_uring_queue_exit(&f->ring);
    munmap(f->mapping, BUFFER_BYTES);
    close(f->fd);
    free(f->order);
    free(f);
}

bool raw_is_direct(const raw_file *f)
{
    return f->is_direct;
}

static void shuffle(raw_file *f, size_t n)
{
    uint64_t random = 88172645463325252u;
    for (size_t i = 0; i < n; i++) {
        size_t j = bench_random(&random) % (i + 1);
        f->order[i] = f->order[j];
        f->order[j] = i;
    }
}

static void prepare(raw_file *f, raw_shape shape, uint64_t block, uint64_t lane)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&f->ring);
    io_uring_prep_read_fixed(sqe, 0, f->buffers + lane * MAX_BLOCK, (unsigned)shape.block_bytes,
                             block * shape.block_bytes, 0);
    io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE);
    io_uring_sqe_set_data64(sqe, lane);
}

double raw_read(raw_file *f, raw_shape shape)
{
    size_t n = f->bytes / shape.block_bytes, n_started = 0, n_done = 0;
    bool ok = true;
    shuffle(f, n);
    uint64_t start_ns = bench_now_ns();
    for (; n_started < shape.depth && n_started < n; n_started++)
        prepare(f, shape, f->order[n_started], n_started);
    while (n_done < n) {
        struct io_uring_cqe *cqe;
        if (io_uring_submit_and_wait(&f->ring, 1) < 0)
            continue;
        while (!io_uring_peek_cqe(&f->ring, &cqe)) {
            ok &= cqe->res == (int)shape.block_bytes;
            uint64_t lane = io_uring_cqe_get_data64(cqe);
            io_uring_cqe_seen(&f->ring, cqe);
            n_done++;
            if (n_started < n)
                prepare(f, shape, f->order[n_started++], lane);
        }
    }
    return ok ? (double)(n * shape.block_bytes) / (double)(bench_now_ns() - start_ns) : 0;
}
