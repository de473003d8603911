/* cleaner.c - see cleaner.h. */
#include "tiers/cleaner.h"

#include <assert.h>
#include <string.h>

#include "alloc/mem.h"

#define BUFFER_BYTES ((uint64_t)256 << 10) /* and at least a slot */

kvp_status kvpi_cleaner_open(kvpi_cleaner *c, kvpi_segments *segments, uint64_t unit_bytes,
                             uint64_t data_at, const kvp_mem *mem)
{
    uint64_t slot_bytes = segments->cfg.slot_units * unit_bytes;
    *c = (kvpi_cleaner){
        .segments = segments, .mem = mem, .unit_bytes = unit_bytes, .data_at = data_at};
    c->buffer_bytes = (size_t)(slot_bytes > BUFFER_BYTES ? slot_bytes : BUFFER_BYTES);
    c->memory_bytes = c->buffer_bytes + KVP_IO_ALIGN;
    kvp_status status =
        kvpi_alloc_buffer(mem, c->memory_bytes, "cleaning the swap file", &c->memory);
    if (status)
        return status;
    c->buffer = c->memory + (KVP_IO_ALIGN - (uintptr_t)c->memory % KVP_IO_ALIGN) % KVP_IO_ALIGN;
    return KVP_OK;
}

void kvpi_cleaner_close(kvpi_cleaner *c)
{
    assert(c->state == KVPI_CLEANER_IDLE);
    kvpi_free(c->mem, c->memory, c->memory_bytes);
}

bool kvpi_cleaner_can_help(const kvpi_cleaner *c)
{
    if (!c->memory || c->n_errors == KVPI_CLEANER_MAX_ERRORS)
        return false;
    if (c->state != KVPI_CLEANER_IDLE || c->is_wanted)
        return true;
    return kvpi_segments_victim(c->segments) != KVPI_NONE;
}

static kvpi_record *record_of(const kvpi_cleaner *c, const kvpi_move *m)
{
    return kvpi_segments_at(c->segments, m->record);
}

/* ---- picking ----------------------------------------------------------------------------------*/

/* Among the moves, by place; the last one goes if there are too many. */
static void insert(kvpi_cleaner *c, uint32_t record)
{
    uint16_t unit = kvpi_segments_at(c->segments, record)->at.unit;
    uint32_t i = c->n_moves;
    while (i > 0 && record_of(c, &c->moves[i - 1])->at.unit > unit)
        i--;
    if (i == KVPI_CLEANER_MOVES)
        return;
    if (c->n_moves == KVPI_CLEANER_MOVES)
        c->n_moves--;
    memmove(&c->moves[i + 1], &c->moves[i], (c->n_moves - i) * sizeof c->moves[0]);
    c->moves[i] = (kvpi_move){.record = record};
    c->n_moves++;
}

static void put(kvpi_cleaner *c, kvpi_move *m, kvp_io_op op, const kvpi_extent *at,
                kvp_disk_io ***end)
{
    m->io.op = op;
    m->io.offset_bytes = c->data_at + kvpi_segments_place(c->segments, at) * c->unit_bytes;
    m->io.next = NULL;
    **end = &m->io;
    *end = &m->io.next;
    c->n_pending++;
}

/* The first records of the segment, as many as the buffer holds. */
static kvp_disk_io *pick(kvpi_cleaner *c)
{
    uint32_t next = kvpi_segment_at(c->segments, c->segment)->first;
    kvp_disk_io *chain = NULL, **end = &chain;
    size_t used = 0;
    c->n_moves = 0;
    for (; next != KVPI_NONE; next = kvpi_segments_at(c->segments, next)->next)
        if (!kvpi_segments_at(c->segments, next)->is_written)
            insert(c, next);
    for (uint32_t i = 0; i < c->n_moves; i++) {
        kvpi_move *m = &c->moves[i];
        size_t n = (size_t)(record_of(c, m)->at.n_units * c->unit_bytes);
        if (used + n > c->buffer_bytes) {
            c->n_moves = i;
            break;
        }
        m->to = kvpi_segments_move_begin(c->segments, m->record);
        m->io.buf = c->buffer + used;
        m->io.len_bytes = n;
        put(c, m, KVP_IO_READ, &record_of(c, m)->at, &end);
        used += n;
    }
    return chain;
}

/* ---- after reading, after writing -------------------------------------------------------------*/

static void settle(kvpi_cleaner *c, kvpi_move *m)
{
    m->is_settled = true;
    if (!m->io.status) {
        kvpi_segments_moved(c->segments, m->record, &m->to);
        c->bytes_moved += m->io.len_bytes;
        return;
    }
    c->has_failed = true;
    c->native_error = m->io.native_error;
    kvpi_segments_not_moved(c->segments, m->record, &m->to, m->io.op == KVP_IO_WRITE);
}

static kvp_disk_io *write_all(kvpi_cleaner *c)
{
    kvp_disk_io *chain = NULL, **end = &chain;
    for (uint32_t i = 0; i < c->n_moves; i++)
        if (!c->moves[i].io.status)
            put(c, &c->moves[i], KVP_IO_WRITE, &c->moves[i].to, &end);
    return chain;
}

/* False: reads of some are in flight. */
static bool settle_all(kvpi_cleaner *c)
{
    bool done = true;
    for (uint32_t i = 0; i < c->n_moves; i++) {
        kvpi_move *m = &c->moves[i];
        if (!m->is_settled && !record_of(c, m)->n_reads)
            settle(c, m);
        done &= m->is_settled;
    }
    return done;
}

static void end(kvpi_cleaner *c)
{
    kvpi_segments_clean_end(c->segments, c->segment);
    c->n_errors = c->has_failed ? c->n_errors + 1 : 0;
    c->segments_cleaned += !c->has_failed;
    c->is_wanted = false;
    c->state = KVPI_CLEANER_IDLE;
}

static bool begin(kvpi_cleaner *c)
{
    uint32_t victim = kvpi_segments_victim(c->segments);
    if (victim == KVPI_NONE) {
        c->is_wanted = false;
        return false;
    }
    kvpi_segments_clean_begin(c->segments, victim);
    c->segment = victim;
    c->has_failed = false;
    c->state = KVPI_CLEANER_PICK;
    return true;
}

kvp_disk_io *kvpi_cleaner_step(kvpi_cleaner *c, bool *has_ended)
{
    kvp_disk_io *chain;
    for (;;) {
        if (c->n_pending)
            return NULL;
        switch (c->state) {
        case KVPI_CLEANER_IDLE:
            if (!c->is_wanted)
                return NULL;
            if (begin(c))
                break;
            *has_ended = true; /* who waits shall look again: others may have freed room */
            return NULL;
        case KVPI_CLEANER_PICK:
            chain = c->has_failed ? NULL : pick(c);
            if (chain) {
                c->state = KVPI_CLEANER_READING;
                return chain;
            }
            if (!c->has_failed && kvpi_segment_at(c->segments, c->segment)->first != KVPI_NONE)
                return NULL; /* the rest is being written just now */
            end(c);
            *has_ended = true;
            return NULL;
        case KVPI_CLEANER_READING:
            c->state = KVPI_CLEANER_WRITING;
            chain = write_all(c);
            if (chain)
                return chain;
            break;
        case KVPI_CLEANER_WRITING:
            c->state = KVPI_CLEANER_SETTLE;
            break;
        case KVPI_CLEANER_SETTLE:
            if (!settle_all(c))
                return NULL;
            c->state = KVPI_CLEANER_PICK;
            break;
        }
    }
}

bool kvpi_cleaner_done(kvpi_cleaner *c, const kvp_disk_io *io)
{
    if ((uintptr_t)io - (uintptr_t)c->moves >= sizeof c->moves)
        return false;
    assert(c->n_pending);
    c->n_pending--;
    return true;
}
