/* sim_disk.c - the simulated device: requests that complete in virtual time.
 *
 * A request waits for a free channel, takes its latency there, and then its bytes pass the one
 * link. Of several that are due, any may be reaped first. What is wrong with a request is decided
 * when it is submitted; the bytes move when it is reaped, so whoever reads them earlier, or changes
 * what is being written, is found out.
 *
 * Invariants: flights[0 .. n) are what the pager has submitted and not reaped, n <= max_depth; of
 * two with bytes of the file, or of memory, in common, none writes to them. */
#include "tests/sim/sim.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "alloc/mem.h"

#define MAX_CHANNELS 64u
#define GARBAGE 0xa5 /* in the buffer of a read until it is reaped */

typedef struct flight {
    kvp_disk_io *io;
    uint64_t due_ns;
    sim_fault fault;  /* SIM_N_FAULTS: none */
    uint64_t draw;    /* which bit, which place, whether half got there */
    uint64_t content; /* of what is being written: a hash */
} flight;

typedef struct sim_disk {
    kvp_disk base;
    sim *s;
    const kvp_mem *mem;
    sim_store store;
    uint64_t link_free_ns, channel_free_ns[MAX_CHANNELS];
    uint32_t n, max_depth;
    flight flights[]; /* [max_depth] */
} sim_disk;

const char *const sim_fault_names[SIM_N_FAULTS] = {"EIO", "short",      "stuck",      "flip",
                                                   "rot", "lost write", "misdirected"};

/* ---- what the pager must not do ---- */

static void violate(sim *s, const kvp_disk_io *io, const char *what)
{
    if (!s->violation[0])
        snprintf(s->violation, sizeof s->violation, "%s of %zu bytes at %llu: %s",
                 io->op == KVP_IO_READ ? "read" : "write", io->len_bytes,
                 (unsigned long long)io->offset_bytes, what);
}

static bool overlap(uint64_t a, uint64_t b, uint64_t a_len, uint64_t b_len)
{
    return a < b + b_len && b < a + a_len;
}

static void check_apart(sim_disk *d, const kvp_disk_io *io, const kvp_disk_io *other)
{
    bool same_place =
        overlap(io->offset_bytes, other->offset_bytes, io->len_bytes, other->len_bytes);
    bool same_memory =
        overlap((uintptr_t)io->buf, (uintptr_t)other->buf, io->len_bytes, other->len_bytes);
    if (same_place && (io->op == KVP_IO_WRITE || other->op == KVP_IO_WRITE))
        violate(d->s, io, "another request there is in flight, and one of them writes");
    if (same_memory && (io->op == KVP_IO_READ || other->op == KVP_IO_READ))
        violate(d->s, io, "another request with that memory is in flight, and one of them reads");
}

static void check_request(sim_disk *d, const kvp_disk_io *io)
{
    if (!io->len_bytes || io->len_bytes % KVP_IO_ALIGN || io->offset_bytes % KVP_IO_ALIGN ||
        (uintptr_t)io->buf % KVP_IO_ALIGN)
        violate(d->s, io, "not aligned");
    if (io->offset_bytes < KVP_IO_ALIGN || io->len_bytes > d->s->file_bytes ||
        io->offset_bytes > d->s->file_bytes - io->len_bytes)
        violate(d->s, io, "outside the slots of the file");
    for (uint32_t i = 0; i < d->n; i++)
        check_apart(d, io, d->flights[i].io);
}

/* FNV-1a over words: to notice a change. */
static uint64_t hash_of(const void *bytes, size_t n)
{
    uint64_t hash = UINT64_C(14695981039346656037), word;
    for (size_t i = 0; i + sizeof word <= n; i += sizeof word) {
        memcpy(&word, (const char *)bytes + i, sizeof word);
        hash = (hash ^ word) * UINT64_C(1099511628211);
    }
    return hash;
}

/* ---- submit ---- */

static bool can_happen(sim_fault fault, kvp_io_op op)
{
    bool is_write = op == KVP_IO_WRITE;
    return fault == SIM_FLIP ? !is_write
                             : is_write || (fault != SIM_ROT && fault != SIM_LOST_WRITE);
}

static sim_fault draw_fault(sim *s, kvp_io_op op)
{
    uint32_t at = (uint32_t)(sim_random(&s->device_random) & 65535u), end = 0;
    for (uint32_t i = 0; i < SIM_N_FAULTS; i++) {
        end += s->device.rates[i];
        if (at < end)
            return can_happen(i, op) ? (sim_fault)i : SIM_N_FAULTS;
    }
    return SIM_N_FAULTS;
}

static uint64_t later(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

static uint64_t schedule(sim_disk *d, size_t len_bytes)
{
    const sim_device *dev = &d->s->device;
    uint64_t *channel = &d->channel_free_ns[0];
    for (uint32_t i = 1; i < dev->n_channels; i++)
        if (d->channel_free_ns[i] < *channel)
            channel = &d->channel_free_ns[i];
    uint64_t jitter = sim_random(&d->s->device_random) % (dev->latency_ns + 1);
    uint64_t ready = later(*channel, d->s->now_ns) + dev->latency_ns / 2 + jitter;
    uint64_t due = later(ready, d->link_free_ns) + len_bytes * 1000000000u / dev->bytes_per_s;
    d->link_free_ns = due;
    *channel = due;
    return due;
}

static void begin(sim_disk *d, kvp_disk_io *io)
{
    sim *s = d->s;
    if (d->n == d->max_depth) {
        violate(s, io, "more requests than max_depth");
        abort();
    }
    check_request(d, io);
    flight *f = &d->flights[d->n];
    *f = (flight){.io = io, .fault = draw_fault(s, io->op)};
    f->due_ns = schedule(d, io->len_bytes);
    f->draw = sim_random(&s->device_random);
    if (f->fault == SIM_STUCK)
        f->due_ns = s->now_ns + s->device.timeout_ns;
    if (f->fault != SIM_N_FAULTS)
        s->n_injected[f->fault]++;
    *(io->op == KVP_IO_READ ? &s->n_reads : &s->n_writes) += 1;
    if (s->device.keeps_bytes && io->op == KVP_IO_READ)
        memset(io->buf, GARBAGE, io->len_bytes);
    else if (s->device.keeps_bytes)
        f->content = hash_of(io->buf, io->len_bytes);
    d->n++;
}

static kvp_status submit(kvp_disk *disk, kvp_disk_io *io)
{
    for (kvp_disk_io *next; io; io = next) {
        next = io->next;
        begin((sim_disk *)disk, io);
    }
    return KVP_OK;
}

/* ---- completion ---- */

static void flip_bit(unsigned char *bytes, size_t n, uint64_t draw)
{
    uint64_t bit = draw % (n * 8);
    bytes[bit / 8] ^= (unsigned char)(1u << bit % 8);
}

/* Another place in the file with room for the request. */
static uint64_t other_place(const sim *s, const flight *f)
{
    uint64_t n = (s->file_bytes - f->io->len_bytes) / KVP_IO_ALIGN;
    return n ? (1 + f->draw % n) * KVP_IO_ALIGN : f->io->offset_bytes;
}

static void finish_read(sim_disk *d, const flight *f, size_t n)
{
    kvp_disk_io *io = f->io;
    uint64_t from = f->fault == SIM_MISDIRECTED ? other_place(d->s, f) : io->offset_bytes;
    if (d->s->device.keeps_bytes)
        sim_store_read(&d->store, from, io->buf, n);
    else
        memset(io->buf, 0, n);
    if (f->fault == SIM_FLIP)
        flip_bit(io->buf, n, f->draw);
}

static void finish_write(sim_disk *d, const flight *f, size_t n)
{
    kvp_disk_io *io = f->io;
    if (!d->s->device.keeps_bytes)
        return;
    if (hash_of(io->buf, io->len_bytes) != f->content)
        violate(d->s, io, "its bytes were changed while it was in flight");
    uint64_t to = f->fault == SIM_MISDIRECTED ? other_place(d->s, f) : io->offset_bytes;
    if (f->fault == SIM_LOST_WRITE)
        return;
    sim_store_write(&d->store, to, io->buf, n);
    if (f->fault == SIM_ROT) {
        uint64_t at = f->draw % n;
        unsigned char byte;
        sim_store_read(&d->store, to + at, &byte, 1);
        flip_bit(&byte, 1, f->draw >> 32);
        sim_store_write(&d->store, to + at, &byte, 1);
    }
}

static kvp_disk_io *finish(sim_disk *d, uint32_t i)
{
    flight f = d->flights[i];
    kvp_disk_io *io = f.io;
    bool is_error = f.fault == SIM_EIO || f.fault == SIM_STUCK, is_short = f.fault == SIM_SHORT;
    size_t half = io->len_bytes / 2 / KVP_IO_ALIGN * KVP_IO_ALIGN;
    bool is_half = is_short || (is_error && io->op == KVP_IO_WRITE && f.draw & 1);
    size_t n = is_half ? half : is_error ? 0 : io->len_bytes;
    if (io->op == KVP_IO_WRITE)
        finish_write(d, &f, n);
    else
        finish_read(d, &f, n);
    io->status = is_error || is_short ? KVP_E_IO : KVP_OK;
    io->native_error = f.fault == SIM_EIO ? EIO : f.fault == SIM_STUCK ? ETIMEDOUT : 0;
    io->done_bytes = is_error ? 0 : n;
    io->next = NULL;
    d->flights[i] = d->flights[--d->n];
    return io;
}

/* ---- reap ---- */

/* The index of one that is due, any; UINT32_MAX: none is. *next_ns: when the first will be. */
static uint32_t pick_due(sim_disk *d, uint64_t *next_ns)
{
    uint32_t picked = UINT32_MAX, n_due = 0;
    *next_ns = UINT64_MAX;
    for (uint32_t i = 0; i < d->n; i++) {
        uint64_t due = d->flights[i].due_ns;
        *next_ns = due < *next_ns ? due : *next_ns;
        if (due <= d->s->now_ns && sim_random(&d->s->device_random) % ++n_due == 0)
            picked = i;
    }
    return picked;
}

static kvp_status reap(kvp_disk *disk, uint64_t deadline_ns, kvp_disk_io **done)
{
    sim_disk *d = (sim_disk *)disk;
    sim *s = d->s;
    uint64_t next_ns;
    uint32_t i = pick_due(d, &next_ns);
    *done = NULL;
    if (!d->n)
        return KVP_OK;
    if (i == UINT32_MAX) { /* time passes */
        s->now_ns = later(s->now_ns, next_ns < deadline_ns ? next_ns : deadline_ns);
        i = pick_due(d, &next_ns);
    }
    if (i != UINT32_MAX)
        *done = finish(d, i);
    return KVP_OK;
}

/* ---- open and close ---- */

static size_t struct_bytes(uint32_t depth)
{
    return sizeof(sim_disk) + depth * sizeof(flight);
}

static void sim_close(kvp_disk *disk)
{
    sim_disk *d = (sim_disk *)disk;
    if (d->n)
        violate(d->s, d->flights[0].io, "in flight when the engine was closed");
    sim_store_fini(&d->store);
    kvpi_free(d->mem, d, struct_bytes(d->max_depth));
}

static const kvp_disk_ops ops = {
    .name = "simulated", .submit = submit, .reap = reap, .close = sim_close};

kvp_status sim_disk_open(sim *s, const kvp_disk_config *cfg, kvp_disk **out)
{
    sim_disk *d;
    if (!s->device.bytes_per_s || !s->device.n_channels || s->device.n_channels > MAX_CHANNELS)
        return kvp_fail(KVP_E_INVALID, "simulated disk: %u channels (1 to %u), %llu bytes/s",
                        s->device.n_channels, MAX_CHANNELS,
                        (unsigned long long)s->device.bytes_per_s);
    kvp_status status = kvpi_alloc(cfg->mem, struct_bytes(cfg->max_depth), "simulated disk", &d);
    if (status)
        return status;
    d->base.ops = &ops;
    d->s = s;
    d->mem = cfg->mem;
    d->max_depth = cfg->max_depth;
    s->file_bytes = KVP_IO_ALIGN;
    *out = &d->base;
    return KVP_OK;
}
