/* bench_swap.c - GB/s of the disk tier's slots through kvpi_tier_*, for each engine, against a bare
 * io_uring loop (registered buffers and file) over a file of its own in the same run.
 *
 * Every case moves the same bytes in a random order that visits each slot at most once, with
 * O_DIRECT where the file system has it. Samples alternate between the bare loop and the engines,
 * so that other work on the machine hits them alike. */
#define _GNU_SOURCE 1
#include "harness.h"

#include <fcntl.h>
#include <liburing.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kvpager/env.h"
#include "tiers/tier.h"

#define MAX_DEPTH 8u
#define KIB ((size_t)1024)
#define MIB ((size_t)1 << 20)
#define N_ENGINES 3

static const char *const engine_names[N_ENGINES] = {"uring-fixed", "uring", "threads"};

static const bench_spec spec = {
    .name = "swap",
    .summary = "GB/s of the disk tier, through each engine, against a bare io_uring loop",
    .details = "Cases are <op>_<KiB>k_qd<depth>_<engine>, beside each the bare loop. GB is 10^9 "
               "bytes; random order, O_DIRECT "
               "where the file\nsystem has it. An engine that does not work here is left out.\n",
    .options = {{"--file-mib", "N", "size of each of the two files", "512"},
                {"--sample-mib", "N", "bytes moved per sample", "48"}},
};

typedef struct shape {
    const char *text; /* "64k_qd8" */
    size_t slot_bytes;
    uint32_t depth;
} shape;

static const shape shapes[] = {{"64k_qd1", 64 * KIB, 1},
                               {"64k_qd8", 64 * KIB, 8},
                               {"256k_qd1", 256 * KIB, 1},
                               {"256k_qd8", 256 * KIB, 8}};
#define N_SHAPES (sizeof shapes / sizeof *shapes)

/* What both sides of a comparison share. */
typedef struct work {
    bench *b;
    size_t file_bytes, n_slots, n_ios; /* slots in a file, transfers per sample */
    shape shape;
    kvp_io_op op;
    char *buffers;     /* [MAX_DEPTH][256 KiB], huge-page-backed */
    uint64_t *order;   /* [n_slots], shuffled */
    uint64_t position; /* in order[] */
} work;

static bool shuffle(work *w)
{
    uint64_t random = 88172645463325252u;
    free(w->order);
    w->order = malloc(w->n_slots * sizeof *w->order);
    if (!w->order)
        return false;
    for (size_t i = 0; i < w->n_slots; i++) {
        size_t j = bench_random(&random) % (i + 1);
        w->order[i] = w->order[j];
        w->order[j] = i;
    }
    return true;
}

static uint64_t next_slot(work *w)
{
    return w->order[w->position++ % w->n_slots];
}

static double gb_per_s(const work *w, uint64_t start_ns)
{
    return (double)(w->n_ios * w->shape.slot_bytes) / (double)(bench_now_ns() - start_ns);
}

/* ---- the bare loop ----------------------------------------------------------------------------*/

typedef struct bare {
    int fd;
    struct io_uring ring;
} bare;

/* Written once from end to end: reads of allocated but unwritten blocks never reach the device. */
static bool fill_file(work *w, int fd)
{
    for (size_t done = 0; done < w->file_bytes; done += MIB) {
        for (size_t i = 0; i < MIB; i += 8)
            memcpy(w->buffers + i, &(uint64_t){(done + i) * 0x9E3779B97F4A7C15u}, 8);
        if (pwrite(fd, w->buffers, MIB, (off_t)done) != (ssize_t)MIB)
            return false;
    }
    return true;
}

static bool bare_open(work *w, bare *r)
{
    struct iovec all = {w->buffers, MAX_DEPTH * 256 * KIB};
    r->fd = open(w->b->dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (r->fd < 0)
        return false;
    int direct = fcntl(r->fd, F_SETFL, O_DIRECT);
    if (direct)
        bench_note(w->b, "no O_DIRECT in %s: these are figures of the page cache", w->b->dir);
    if (fallocate(r->fd, 0, 0, (off_t)w->file_bytes) || !fill_file(w, r->fd)) {
        close(r->fd);
        return false;
    }
    if (io_uring_queue_init(MAX_DEPTH, &r->ring, 0)) {
        close(r->fd);
        return false;
    }
    if (io_uring_register_buffers(&r->ring, &all, 1) ||
        io_uring_register_files(&r->ring, &r->fd, 1)) {
        io_uring_queue_exit(&r->ring);
        close(r->fd);
        return false;
    }
    return true;
}

static void bare_close(bare *r)
{
    io_uring_queue_exit(&r->ring);
    close(r->fd);
}

static void bare_prepare(work *w, bare *r, size_t lane)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&r->ring);
    void *buf = w->buffers + lane * 256 * KIB;
    unsigned n = (unsigned)w->shape.slot_bytes;
    uint64_t offset = next_slot(w) * w->shape.slot_bytes;
    if (w->op == KVP_IO_READ)
        io_uring_prep_read_fixed(sqe, 0, buf, n, offset, 0);
    else
        io_uring_prep_write_fixed(sqe, 0, buf, n, offset, 0);
    io_uring_sqe_set_flags(sqe, IOSQE_FIXED_FILE);
    io_uring_sqe_set_data64(sqe, lane);
}

static double bare_sample(work *w, bare *r)
{
    uint64_t start_ns = bench_now_ns();
    size_t n_started = 0, n_done = 0;
    for (; n_started < w->shape.depth && n_started < w->n_ios; n_started++)
        bare_prepare(w, r, n_started);
    while (n_done < w->n_ios) {
        struct io_uring_cqe *cqe;
        if (io_uring_submit_and_wait(&r->ring, 1) < 0)
            continue;
        while (!io_uring_peek_cqe(&r->ring, &cqe)) {
            if (cqe->res != (int)w->shape.slot_bytes)
                bench_fail(w->b, "bare io_uring: result %d", cqe->res);
            uint64_t lane = io_uring_cqe_get_data64(cqe);
            io_uring_cqe_seen(&r->ring, cqe);
            n_done++;
            if (n_started < w->n_ios) {
                bare_prepare(w, r, lane);
                n_started++;
            }
        }
    }
    return gb_per_s(w, start_ns);
}

/* ---- the tier ---------------------------------------------------------------------------------*/

static void tier_start(work *w, kvp_tier *tier, kvp_io *io, size_t lane)
{
    *io = (kvp_io){.op = w->op,
                   .slot = next_slot(w),
                   .buf = w->buffers + lane * 256 * KIB,
                   .len_bytes = w->shape.slot_bytes};
    if (kvpi_tier_submit(tier, io))
        bench_fail(w->b, "submit: %s", kvp_error());
}

static double tier_sample(work *w, kvp_tier *tier)
{
    kvp_io ios[MAX_DEPTH], *io;
    uint64_t start_ns = bench_now_ns();
    size_t n_started = 0, n_done = 0;
    for (; n_started < w->shape.depth && n_started < w->n_ios; n_started++)
        tier_start(w, tier, &ios[n_started], n_started);
    while (n_done < w->n_ios) {
        if (kvpi_tier_reap(tier, KVP_FOREVER, &io) || !io) {
            bench_fail(w->b, "reap: %s", kvp_error());
            break;
        }
        if (io->status)
            bench_fail(w->b, "transfer: %s, errno %d", kvp_status_str(io->status),
                       io->native_error);
        n_done++;
        if (n_started < w->n_ios) {
            tier_start(w, tier, io, (size_t)(io - ios));
            n_started++;
        }
    }
    return gb_per_s(w, start_ns);
}

static bool write_all_slots(work *w, kvp_tier *tier)
{
    work once = *w;
    once.op = KVP_IO_WRITE;
    once.n_ios = w->n_slots;
    once.shape.depth = MAX_DEPTH;
    tier_sample(&once, tier);
    return !w->b->failed;
}

/* NULL: the engine does not work here, or (*w->b).failed. */
static kvp_tier *tier_open(work *w, const char *engine)
{
    kvp_tier_config cfg = {.budget_bytes = w->file_bytes + 4096,
                           .slot_bytes = w->shape.slot_bytes,
                           .max_depth = MAX_DEPTH,
                           .engine = engine,
                           .n_ranges = 1};
    kvp_tier *tier;
    kvp_slot slot;
    cfg.ranges[0].base = w->buffers;
    cfg.ranges[0].bytes = MAX_DEPTH * 256 * KIB;
    kvp_status s = kvpi_tier_open(&kvpi_tier_disk, &cfg, &tier);
    if (s == KVP_E_UNSUPPORTED)
        return NULL;
    if (s) {
        bench_fail(w->b, "%s", kvp_error());
        return NULL;
    }
    for (size_t i = 0; i < w->n_slots && !s; i++)
        s = kvpi_tier_slot_alloc(tier, w->shape.slot_bytes, &slot);
    if (s || !write_all_slots(w, tier)) {
        bench_fail(w->b, "filling the tier: %s", kvp_error());
        kvpi_tier_close(tier);
        return NULL;
    }
    return tier;
}

/* ---- cases ------------------------------------------------------------------------------------*/

static void make_name(const work *w, const char *engine, char name[64])
{
    snprintf(name, 64, "%s_%s_%s", w->op == KVP_IO_READ ? "read" : "write", w->shape.text, engine);
}

static bench_case *new_case(const work *w, const char *name, const char *engine)
{
    bench_case *c = bench_case_new(w->b, name, "GB/s");
    bench_param(c, "op", w->op == KVP_IO_READ ? "read" : "write");
    bench_param_num(c, "kib", (double)(w->shape.slot_bytes / KIB));
    bench_param_num(c, "depth", w->shape.depth);
    bench_param(c, "engine", engine);
    return c;
}

/* One engine and the bare loop, turn by turn; the first of each is a warm-up. */
static void compare(work *w, kvp_tier *tier, bare *r, bench_case *engine, bench_case *baseline)
{
    for (uint32_t i = 0; i <= w->b->reps && !w->b->failed; i++) {
        double bare_figure = r ? bare_sample(w, r) : 0, figure = tier_sample(w, tier);
        if (i && r)
            bench_add(baseline, bare_figure);
        if (i)
            bench_add(engine, figure);
    }
}

static void run_shape(work *w, const shape *s, kvp_tier *tier, const char *engine, bare *r)
{
    w->shape = *s;
    w->n_ios = bench_option_num(w->b, "--sample-mib") * MIB / s->slot_bytes;
    w->n_ios = w->b->quick || !w->n_ios ? MAX_DEPTH : w->n_ios;
    for (int op = KVP_IO_READ; op <= KVP_IO_WRITE; op++) {
        w->op = (kvp_io_op)op;
        char name[64], bare_name[72];
        make_name(w, engine, name);
        snprintf(bare_name, sizeof bare_name, "%s_bare", name);
        if (!bench_wants(w->b, name))
            continue;
        bench_case *baseline = r ? new_case(w, bare_name, "bare") : NULL;
        bench_case *c = new_case(w, name, engine);
        bench_versus(c, baseline);
        compare(w, tier, r, c, baseline);
    }
}

/* All shapes of one slot size over one tier. */
static void run_engine(work *w, const char *engine, size_t slot_bytes, bare *r)
{
    w->shape.slot_bytes = slot_bytes;
    w->n_slots = w->file_bytes / slot_bytes;
    if (!shuffle(w)) {
        bench_fail(w->b, "out of memory");
        return;
    }
    kvp_tier *tier = tier_open(w, engine);
    if (!tier) {
        if (!w->b->failed)
            bench_note(w->b, "left out: %s", kvp_error());
        return;
    }
    for (size_t i = 0; i < N_SHAPES && !w->b->failed; i++)
        if (shapes[i].slot_bytes == slot_bytes)
            run_shape(w, &shapes[i], tier, engine, r);
    kvpi_tier_close(tier);
}

int main(int argc, char **argv)
{
    bench b;
    int code;
    if (bench_init(&b, &spec, argc, argv, &code))
        return code;
    work w = {.b = &b, .file_bytes = bench_option_num(&b, "--file-mib") * MIB};
    if (b.quick || w.file_bytes < 4 * MIB)
        w.file_bytes = 4 * MIB;
    setenv("TMPDIR", b.dir, 1); /* where the tier puts its file */
    size_t n = MAX_DEPTH * 256 * KIB;
    w.buffers = mmap(NULL, 2 * n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (w.buffers == MAP_FAILED) {
        bench_fail(&b, "out of memory");
        return bench_finish(&b);
    }
    w.buffers += n - (uintptr_t)w.buffers % n; /* 2 MiB: one huge page */
    madvise(w.buffers, n, MADV_HUGEPAGE);
    memset(w.buffers, 1, n);
    bare r;
    bool has_bare = bare_open(&w, &r);
    if (!has_bare)
        bench_note(&b, "no bare io_uring here: figures stand without a baseline");
    for (size_t s = 64; s <= 256; s *= 4)
        for (size_t e = 0; e < N_ENGINES; e++)
            run_engine(&w, engine_names[e], s * KIB, has_bare ? &r : NULL);
    if (has_bare)
        bare_close(&r);
    code = bench_finish(&b);
    free(w.order);
    return code;
}
