/* faulty_disk.c - wraps a real disk engine. A request that is to fail travels as a stand-in of our
 * own, so that the engine below still has something to complete and a sleeping reaper wakes up.
 *
 * `faulty_disk.lock` guards the counters, `wrapper.lock` the list of stand-ins. */
#define _GNU_SOURCE 1
#include "faulty_disk.h"

#include <errno.h>
#include <stdlib.h>

typedef struct stand_in {
    kvp_disk_io io; /* what the real engine sees */
    kvp_disk_io *original;
    faulty_plan plan;
    void *scratch;
    struct stand_in *next;
} stand_in;

typedef struct wrapper {
    kvp_disk base;
    kvp_disk_ops ops; /* carries the real engine's name */
    faulty_disk *f;
    kvp_disk *real;
    pthread_mutex_t lock;
    stand_in *list;
} wrapper;

/* Count the request; what is to happen to it. */
static faulty_plan decide(faulty_disk *f, const kvp_disk_io *io)
{
    bool is_read = io->op == KVP_IO_READ;
    pthread_mutex_lock(&f->lock);
    faulty_plan plan = f->plan;
    *(is_read ? &f->n_reads : &f->n_writes) += 1;
    bool counts = plan.kind && (plan.op == FAULT_ALL || (plan.op == FAULT_READS) == is_read);
    if (counts)
        f->n_counted++;
    bool fires =
        counts && (f->n_counted == plan.nth || (plan.is_persistent && f->n_counted > plan.nth));
    if (plan.kind == FAULT_FLIP && !is_read)
        fires = false;
    if (fires)
        f->n_fired++;
    else
        plan.kind = FAULT_NONE;
    pthread_mutex_unlock(&f->lock);
    return plan;
}

static stand_in *make_stand_in(kvp_disk_io *io, faulty_plan plan)
{
    stand_in *s = calloc(1, sizeof *s);
    if (!s)
        abort();
    s->io = *io;
    s->original = io;
    s->plan = plan;
    if (plan.kind == FAULT_SHORT)
        s->io.len_bytes = io->len_bytes / 2 / KVP_IO_ALIGN * KVP_IO_ALIGN;
    bool moves_nothing = plan.kind == FAULT_EIO || plan.kind == FAULT_ENOSPC || !s->io.len_bytes;
    if (moves_nothing) {
        s->scratch = aligned_alloc(KVP_IO_ALIGN, KVP_IO_ALIGN);
        if (!s->scratch)
            abort();
        s->io = (kvp_disk_io){.op = KVP_IO_READ, .buf = s->scratch, .len_bytes = KVP_IO_ALIGN};
    }
    return s;
}

/* The request itself, or what travels in its place. */
static kvp_disk_io *replace(wrapper *w, kvp_disk_io *io)
{
    faulty_plan plan = decide(w->f, io);
    if (!plan.kind)
        return io;
    stand_in *s = make_stand_in(io, plan);
    pthread_mutex_lock(&w->lock);
    s->next = w->list;
    w->list = s;
    pthread_mutex_unlock(&w->lock);
    return &s->io;
}

static kvp_status faulty_submit(kvp_disk *disk, kvp_disk_io *io)
{
    wrapper *w = (wrapper *)disk;
    kvp_disk_io *first = NULL, **end = &first;
    for (kvp_disk_io *next; io; io = next) {
        next = io->next;
        *end = replace(w, io);
        end = &(*end)->next;
    }
    *end = NULL;
    return w->real->ops->submit(w->real, first);
}

static stand_in *take_stand_in(wrapper *w, const kvp_disk_io *io)
{
    pthread_mutex_lock(&w->lock);
    stand_in **at = &w->list, *s;
    while (*at && &(*at)->io != io)
        at = &(*at)->next;
    s = *at;
    if (s)
        *at = s->next;
    pthread_mutex_unlock(&w->lock);
    return s;
}

static kvp_disk_io *finish(stand_in *s)
{
    kvp_disk_io *io = s->original;
    io->status = s->io.status;
    io->native_error = s->io.native_error;
    io->done_bytes = s->io.done_bytes;
    if (s->plan.kind == FAULT_FLIP && io->done_bytes) {
        uint64_t bit = s->plan.flip_bit % (io->done_bytes * 8);
        ((unsigned char *)io->buf)[bit / 8] ^= (unsigned char)(1u << bit % 8);
    } else if (s->plan.kind == FAULT_SHORT) {
        io->status = KVP_E_IO;
        io->done_bytes = s->scratch ? 0 : io->done_bytes;
    } else if (s->plan.kind == FAULT_EIO || s->plan.kind == FAULT_ENOSPC) {
        bool is_full = s->plan.kind == FAULT_ENOSPC;
        io->status = is_full ? KVP_E_NOSPACE : KVP_E_IO;
        io->native_error = is_full ? ENOSPC : EIO;
        io->done_bytes = 0;
    }
    free(s->scratch);
    free(s);
    return io;
}

static kvp_status faulty_reap(kvp_disk *disk, uint64_t deadline_ns, kvp_disk_io **done)
{
    wrapper *w = (wrapper *)disk;
    kvp_status status = w->real->ops->reap(w->real, deadline_ns, done);
    stand_in *s = !status && *done ? take_stand_in(w, *done) : NULL;
    if (s)
        *done = finish(s);
    return status;
}

static void faulty_resize(kvp_disk *disk, void *base, size_t bytes)
{
    wrapper *w = (wrapper *)disk;
    w->real->ops->resize(w->real, base, bytes);
}

static void faulty_close(kvp_disk *disk)
{
    wrapper *w = (wrapper *)disk;
    w->real->ops->close(w->real);
    pthread_mutex_destroy(&w->lock);
    free(w);
}

static kvp_status faulty_open(void *opaque, const kvp_disk_config *cfg, kvp_disk **out)
{
    faulty_disk *f = opaque;
    wrapper *w = calloc(1, sizeof *w);
    if (!w)
        return kvp_fail(KVP_E_NOMEM, "faulty disk");
    kvp_disk_config inner = *cfg;
    inner.env = f->real;
    kvp_status s = f->real->disk_open(f->real->opaque, &inner, &w->real);
    if (s) {
        free(w);
        return s;
    }
    w->ops = (kvp_disk_ops){.name = w->real->ops->name,
                            .submit = faulty_submit,
                            .reap = faulty_reap,
                            .close = faulty_close,
                            .resize = w->real->ops->resize ? faulty_resize : NULL};
    w->base.ops = &w->ops;
    w->f = f;
    pthread_mutex_init(&w->lock, NULL);
    *out = &w->base;
    return KVP_OK;
}

/* The other members of the env get the real one's opaque. */
static uint64_t real_now_ns(void *opaque)
{
    faulty_disk *f = opaque;
    return f->real->now_ns(f->real->opaque);
}

static kvp_status real_random(void *opaque, void *buf, size_t n)
{
    faulty_disk *f = opaque;
    return f->real->random(f->real->opaque, buf, n);
}

static kvp_status real_thread_start(void *opaque, void (*run)(void *), void *arg, void **thread)
{
    faulty_disk *f = opaque;
    return f->real->thread_start(f->real->opaque, run, arg, thread);
}

static void real_thread_join(void *opaque, void *thread)
{
    faulty_disk *f = opaque;
    f->real->thread_join(f->real->opaque, thread);
}

void faulty_disk_init(faulty_disk *f, const kvp_env *real)
{
    *f = (faulty_disk){.real = real ? real : kvp_env_default(),
                       .env = {.opaque = f,
                               .now_ns = real_now_ns,
                               .random = real_random,
                               .thread_start = real_thread_start,
                               .thread_join = real_thread_join,
                               .disk_open = faulty_open}};
    pthread_mutex_init(&f->lock, NULL);
}

void faulty_disk_fini(faulty_disk *f)
{
    pthread_mutex_destroy(&f->lock);
}

void faulty_disk_arm(faulty_disk *f, faulty_plan plan)
{
    pthread_mutex_lock(&f->lock);
    f->plan = plan;
    f->n_counted = f->n_fired = 0;
    pthread_mutex_unlock(&f->lock);
}

static uint64_t locked(faulty_disk *f, const uint64_t *counter)
{
    pthread_mutex_lock(&f->lock);
    uint64_t n = *counter;
    pthread_mutex_unlock(&f->lock);
    return n;
}

uint64_t faulty_disk_fired(faulty_disk *f)
{
    return locked(f, &f->n_fired);
}

uint64_t faulty_disk_reads(faulty_disk *f)
{
    return locked(f, &f->n_reads);
}

uint64_t faulty_disk_writes(faulty_disk *f)
{
    return locked(f, &f->n_writes);
}
