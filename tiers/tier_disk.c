/* tier_disk.c - the disk tier: records in segments of a swap file (disk_room.h), moved by a disk
 * engine. The user's requests and the cleaner's go through the same engine, and whoever submits or
 * reaps lets the cleaner go on.
 *
 * Invariants
 *   1. A record's n_reads and is_written tell what the user has in flight.
 *   2. `deferred` has the writes that wait for a record to be moved. While there are any, the
 *      cleaner has requests in flight, or waits for the user's. */
#include "tiers/tier.h"

#include <assert.h>
#include <stddef.h>

#include "alloc/mem.h"
#include "tiers/disk_engine.h"
#include "tiers/disk_room.h"
#include "tiers/format.h"

typedef struct tier_disk {
    kvp_tier base;
    const kvp_mem *mem;
    kvp_disk *disk;
    kvpi_disk_room room;
    /* room.lock protects: */
    kvpi_io_queue deferred; /* writes of records that are being moved */
    kvpi_io_queue refused;  /* of those: the engine did not take them */
} tier_disk;

/* ---- slots ------------------------------------------------------------------------------------*/

static kvp_status disk_slot_alloc(kvp_tier *tier, size_t size_bytes, kvp_slot *out)
{
    return kvpi_disk_room_alloc(&((tier_disk *)tier)->room, size_bytes, out);
}

static void disk_slot_free(kvp_tier *tier, kvp_slot slot)
{
    kvpi_disk_room_free(&((tier_disk *)tier)->room, slot);
}

static kvp_status disk_reserve(kvp_tier *tier, uint64_t n)
{
    return kvpi_disk_room_reserve(&((tier_disk *)tier)->room, n);
}

static void disk_usage(kvp_tier *tier, kvp_tier_usage *out)
{
    kvpi_disk_room_usage(&((tier_disk *)tier)->room, out);
}

static bool disk_are_neighbours(kvp_tier *tier, kvp_slot a, kvp_slot b)
{
    return kvpi_disk_room_are_neighbours(&((tier_disk *)tier)->room, a, b);
}

/* ---- transfers --------------------------------------------------------------------------------*/

static kvp_io *io_of(kvp_disk_io *io)
{
    return (kvp_io *)((char *)io - offsetof(kvp_io, disk));
}

static kvpi_record *record_of(const tier_disk *t, const kvp_io *io)
{
    return kvpi_segments_at(&t->room.segments, (uint32_t)io->slot);
}

/* From here on the record stays where it is. Lock held. */
static void aim(tier_disk *t, kvp_io *io)
{
    kvpi_record *r = record_of(t, io);
    assert(io->len_bytes <= r->at.n_units * t->room.unit_bytes);
    io->disk.offset_bytes =
        KVPI_SEGMENTS_AT + kvpi_segments_place(&t->room.segments, &r->at) * t->room.unit_bytes;
    if (io->op == KVP_IO_WRITE)
        r->is_written = true;
    else
        r->n_reads++;
}

static void take_back(tier_disk *t, const kvp_io *io)
{
    kvpi_record *r = record_of(t, io);
    if (io->op == KVP_IO_WRITE)
        r->is_written = false;
    else
        r->n_reads--;
}

/* The cleaner's next requests, and writes that it has kept waiting. Lock held. */
static kvp_disk_io *next_requests(tier_disk *t, bool *has_ended)
{
    kvp_disk_io *chain =
        t->room.has_cleaner ? kvpi_cleaner_step(&t->room.cleaner, has_ended) : NULL;
    kvpi_io_queue waiting = t->deferred;
    t->deferred = (kvpi_io_queue){0};
    for (kvp_disk_io *io; (io = kvpi_io_queue_take(&waiting));) {
        if (record_of(t, io_of(io))->is_moving) {
            kvpi_io_queue_put(&t->deferred, io);
            continue;
        }
        aim(t, io_of(io));
        io->next = chain;
        chain = io;
    }
    return chain;
}

/* The engine took none of them. Lock held. */
static void refuse(tier_disk *t, kvp_disk_io *chain, kvp_status status)
{
    for (kvp_disk_io *next; chain; chain = next) {
        next = chain->next;
        chain->status = status;
        chain->native_error = 0;
        if (!kvpi_cleaner_done(&t->room.cleaner, chain)) {
            take_back(t, io_of(chain));
            kvpi_io_queue_put(&t->refused, chain);
        }
    }
}

/* Let the cleaner go on; *has_ended: with a segment. */
static void drive(tier_disk *t, bool *has_ended)
{
    pthread_mutex_lock(&t->room.lock);
    for (kvp_disk_io *chain; (chain = next_requests(t, has_ended));) {
        pthread_mutex_unlock(&t->room.lock);
        kvp_status s = t->disk->ops->submit(t->disk, chain);
        pthread_mutex_lock(&t->room.lock);
        if (!s)
            break;
        refuse(t, chain, s);
    }
    pthread_mutex_unlock(&t->room.lock);
}

/* Those that may go now, linked; the others wait in *deferred. Lock held. */
static kvp_disk_io *sort_out(tier_disk *t, kvp_io *first, kvpi_io_queue *deferred)
{
    kvp_disk_io *chain = NULL, **end = &chain;
    for (kvp_io *io = first; io; io = io->next) {
        io->disk = (kvp_disk_io){.op = io->op, .buf = io->buf, .len_bytes = io->len_bytes};
        if (io->op == KVP_IO_WRITE && record_of(t, io)->is_moving) {
            kvpi_io_queue_put(deferred, &io->disk);
            continue;
        }
        aim(t, io);
        *end = &io->disk;
        end = &io->disk.next;
    }
    return chain;
}

static kvp_status disk_submit(kvp_tier *tier, kvp_io *first)
{
    tier_disk *t = (tier_disk *)tier;
    kvpi_io_queue deferred = {0};
    for (const kvp_io *io = first; io; io = io->next)
        assert(io->len_bytes % KVP_IO_ALIGN == 0 && (uintptr_t)io->buf % KVP_IO_ALIGN == 0);
    pthread_mutex_lock(&t->room.lock);
    kvp_disk_io *chain = sort_out(t, first, &deferred);
    pthread_mutex_unlock(&t->room.lock);
    kvp_status s = chain ? t->disk->ops->submit(t->disk, chain) : KVP_OK;
    if (!t->room.has_cleaner && !s)
        return KVP_OK;
    pthread_mutex_lock(&t->room.lock);
    if (!s && deferred.head)
        kvpi_io_queue_put_all(&t->deferred, deferred.head);
    for (kvp_disk_io *io = s ? chain : NULL; io; io = io->next)
        take_back(t, io_of(io));
    pthread_mutex_unlock(&t->room.lock);
    bool has_ended = false;
    if (t->room.has_cleaner && !s)
        drive(t, &has_ended);
    return s;
}

/* One that the user waits for; NULL: the deadline passed, nothing is in flight, or it was the
 * cleaner's (*is_cleaners). */
static kvp_status reap_one(tier_disk *t, uint64_t deadline_ns, kvp_disk_io **done,
                           bool *is_cleaners)
{
    kvp_status s = KVP_OK;
    pthread_mutex_lock(&t->room.lock);
    *done = kvpi_io_queue_take(&t->refused);
    pthread_mutex_unlock(&t->room.lock);
    if (*done)
        return KVP_OK;
    s = t->disk->ops->reap(t->disk, deadline_ns, done);
    if (s || !*done)
        return s;
    pthread_mutex_lock(&t->room.lock);
    *is_cleaners = kvpi_cleaner_done(&t->room.cleaner, *done);
    if (!*is_cleaners)
        take_back(t, io_of(*done));
    pthread_mutex_unlock(&t->room.lock);
    return KVP_OK;
}

static kvp_status disk_reap(kvp_tier *tier, uint64_t deadline_ns, kvp_io **out)
{
    tier_disk *t = (tier_disk *)tier;
    for (bool has_ended = false;; has_ended = false) {
        kvp_disk_io *done = NULL;
        bool is_cleaners = false;
        if (t->room.has_cleaner)
            drive(t, &has_ended);
        kvp_status s = has_ended ? KVP_E_AGAIN : reap_one(t, deadline_ns, &done, &is_cleaners);
        if (is_cleaners)
            continue;
        if (done) {
            *out = io_of(done);
            (*out)->status = done->status;
            (*out)->native_error = done->native_error;
        }
        return s;
    }
}

static void disk_resize_range(kvp_tier *tier, void *base, size_t bytes)
{
    kvp_disk *disk = ((tier_disk *)tier)->disk;
    if (disk->ops->resize)
        disk->ops->resize(disk, base, bytes);
}

/* ---- open and close ---------------------------------------------------------------------------*/

/* The cleaner may be in the middle of a segment. */
static void stop_cleaner(tier_disk *t)
{
    t->room.cleaner.is_wanted = false;
    for (kvp_io *io = NULL; t->room.cleaner.state != KVPI_CLEANER_IDLE; io = NULL) {
        kvp_status s = disk_reap(&t->base, KVP_FOREVER, &io);
        assert(!io);
        if (s && s != KVP_E_AGAIN) /* UNTESTED: the engine is broken */
            break;
    }
}

static void disk_close(kvp_tier *tier)
{
    tier_disk *t = (tier_disk *)tier;
    if (t->room.has_cleaner)
        stop_cleaner(t);
    t->disk->ops->close(t->disk);
    kvpi_disk_room_close(&t->room);
    kvpi_free(t->mem, t, sizeof *t);
}

static kvp_status open_engine(tier_disk *t, const kvp_tier_config *cfg)
{
    kvp_disk_config d = {.fd = t->room.file.fd,
                         .max_depth = cfg->max_depth,
                         .n_ranges = cfg->n_ranges,
                         .mem = cfg->mem,
                         .env = cfg->env,
                         .engine = cfg->engine};
    for (uint32_t i = 0; i < cfg->n_ranges; i++) {
        d.ranges[i].base = cfg->ranges[i].base;
        d.ranges[i].bytes = cfg->ranges[i].bytes;
    }
    return cfg->env->disk_open(cfg->env->opaque, &d, &t->disk);
}

static kvp_status disk_open(const kvp_tier_config *cfg, kvp_tier **out)
{
    tier_disk *t;
    kvp_status s = kvpi_alloc(cfg->mem, sizeof *t, "the disk tier", &t);
    if (s)
        return s;
    t->base.ops = &kvpi_tier_disk;
    t->mem = cfg->mem;
    s = kvpi_disk_room_open(cfg, &t->room);
    if (s)
        goto fail_tier;
    s = open_engine(t, cfg);
    if (s)
        goto fail_room;
    *out = &t->base;
    return KVP_OK;
fail_room:
    kvpi_disk_room_close(&t->room);
fail_tier:
    kvpi_free(cfg->mem, t, sizeof *t);
    return s;
}

const kvp_tier_ops kvpi_tier_disk = {
    .abi = KVP_TIER_ABI,
    .caps = KVP_CAP_ASYNC,
    .name = "disk",
    .open = disk_open,
    .close = disk_close,
    .slot_alloc = disk_slot_alloc,
    .slot_free = disk_slot_free,
    .submit = disk_submit,
    .reap = disk_reap,
    .usage = disk_usage,
    .reserve = disk_reserve,
    .resize_range = disk_resize_range,
    .are_neighbours = disk_are_neighbours,
};

const char *kvpi_tier_disk_engine(const kvp_tier *tier)
{
    assert(tier->ops == &kvpi_tier_disk);
    return ((const tier_disk *)tier)->disk->ops->name;
}
