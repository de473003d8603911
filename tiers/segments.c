/* segments.c - where records lie: allocation, accounting, and the choice of what to clean.
 *
 * Invariants
 *   1. A unit's bit is set while a record or a move has it, or when it was given up.
 *   2. An EMPTY segment is in list 0, a LISTED one in that of its room; no other is in any.
 *   3. n_runs and max_run of a segment are those of its bitmap behind the head's place, and, unless
 *      holes are filled, 0 for a segment that is LISTED.
 *   4. n_runs = the sum over EMPTY, LISTED and HEAD segments; n_used = the units of all records in
 *      use: those that are doomed are not.
 *   5. What counts as room stays room: n_runs falls by at most one for each record that is made,
 *      and by nothing else but kvpi_segments_keep() and, until it has been cleaned, what the victim
 *      had. */
#include "tiers/segments.h"

#include <assert.h>

#include "alloc/mem.h"
#include "tiers/bits.h"

#define SEGMENT_CHUNK 64u
#define RECORD_CHUNK 1024u

/* ---- rooms -----------------------------------------------------------------------------------*/

kvpi_record *kvpi_segments_at(const kvpi_segments *s, uint32_t record)
{
    assert(record < s->n_records);
    return kvpi_chunks_at(&s->records, record);
}

kvpi_segment *kvpi_segment_at(const kvpi_segments *s, uint32_t segment)
{
    assert(segment < s->n_segments);
    return kvpi_chunks_at(&s->segments, segment);
}

static uint64_t *bits_of(const kvpi_segments *s, uint32_t segment)
{
    return kvpi_chunks_at(&s->bitmaps, segment);
}

uint32_t kvpi_segment_find_room(const kvpi_segments *s, uint32_t segment, uint32_t from,
                                uint32_t want)
{
    const uint64_t *bits = bits_of(s, segment);
    uint32_t n = kvpi_segment_at(s, segment)->n_units;
    while (s->cfg.fills_holes && from && kvpi_find_bit(bits, from - 1, from, false) < from)
        from--; /* from the beginning of a hole, or it would cost two runs */
    for (uint32_t at = kvpi_find_bit(bits, from, n, false); at < n;) {
        uint32_t end = kvpi_find_bit(bits, at, n, true);
        if (end - at >= want)
            return at;
        at = kvpi_find_bit(bits, end, n, false);
    }
    return n;
}

/* ---- lists ------------------------------------------------------------------------------------*/

/* 0: empty; 1 + max_run; or, with runs, slot_units + n_runs. */
static uint32_t list_of(const kvpi_segments *s, const kvpi_segment *seg)
{
    if (seg->state == KVPI_SEGMENT_EMPTY)
        return 0;
    return seg->n_runs ? s->cfg.slot_units + seg->n_runs : 1u + seg->max_run;
}

static void list(kvpi_segments *s, uint32_t segment)
{
    kvpi_segment *seg = kvpi_segment_at(s, segment);
    uint32_t *first = &s->lists[list_of(s, seg)];
    seg->prev = KVPI_NONE;
    seg->next = *first;
    if (*first != KVPI_NONE)
        kvpi_segment_at(s, *first)->prev = segment;
    *first = segment;
}

static void unlist(kvpi_segments *s, uint32_t segment)
{
    kvpi_segment *seg = kvpi_segment_at(s, segment);
    if (seg->prev == KVPI_NONE)
        s->lists[list_of(s, seg)] = seg->next;
    else
        kvpi_segment_at(s, seg->prev)->next = seg->next;
    if (seg->next != KVPI_NONE)
        kvpi_segment_at(s, seg->next)->prev = seg->prev;
}

static bool is_listed(const kvpi_segment *seg)
{
    return seg->state == KVPI_SEGMENT_EMPTY || seg->state == KVPI_SEGMENT_LISTED;
}

static bool is_counted(const kvpi_segment *seg)
{
    return is_listed(seg) || seg->state == KVPI_SEGMENT_HEAD;
}

/* Where allocation may begin in the segment, by its state. */
static uint32_t usable_from(const kvpi_segments *s, const kvpi_segment *seg)
{
    if (s->cfg.fills_holes || !seg->n_used)
        return 0;
    return seg->state == KVPI_SEGMENT_HEAD ? s->head_unit : seg->n_units;
}

static void count_room(const kvpi_segments *s, uint32_t segment)
{
    kvpi_segment *seg = kvpi_segment_at(s, segment);
    const uint64_t *bits = bits_of(s, segment);
    uint32_t n_runs = 0, max_run = 0, n = seg->n_units;
    for (uint32_t at = kvpi_find_bit(bits, usable_from(s, seg), n, false); at < n;) {
        uint32_t end = kvpi_find_bit(bits, at, n, true);
        n_runs += (end - at) / s->cfg.slot_units;
        max_run = end - at > max_run ? end - at : max_run;
        at = kvpi_find_bit(bits, end, n, false);
    }
    seg->n_runs = (uint16_t)n_runs;
    seg->max_run = (uint16_t)(max_run < s->cfg.slot_units ? max_run : s->cfg.slot_units);
}

void kvpi_segment_leave(kvpi_segments *s, uint32_t segment)
{
    kvpi_segment *seg = kvpi_segment_at(s, segment);
    s->n_runs -= is_counted(seg) ? seg->n_runs : 0;
    if (is_listed(seg))
        unlist(s, segment);
}

void kvpi_segment_enter(kvpi_segments *s, uint32_t segment, kvpi_segment_state state)
{
    kvpi_segment *seg = kvpi_segment_at(s, segment);
    if (state == KVPI_SEGMENT_LISTED && !seg->n_used)
        state = KVPI_SEGMENT_EMPTY;
    if (state == KVPI_SEGMENT_EMPTY)
        seg->is_stuck = false;
    seg->state = (uint8_t)state;
    count_room(s, segment);
    s->n_runs += is_counted(seg) ? seg->n_runs : 0;
    if (is_listed(seg))
        list(s, segment);
}

/* ---- open, extend -----------------------------------------------------------------------------*/

kvp_status kvpi_segments_open(const kvpi_segments_config *cfg, kvpi_segments *s)
{
    assert(cfg->slot_units && cfg->segment_units % cfg->slot_units == 0);
    assert(cfg->segment_units <= KVPI_MAX_SEGMENT_UNITS);
    uint32_t n_words = (cfg->segment_units + KVPI_WORD_BITS - 1) / KVPI_WORD_BITS;
    kvpi_segments n = {
        .cfg = *cfg,
        .segments = {.chunk_elements = SEGMENT_CHUNK, .element_bytes = sizeof(kvpi_segment)},
        .bitmaps = {.chunk_elements = SEGMENT_CHUNK,
                    .element_bytes = n_words * (KVPI_WORD_BITS / 8)},
        .records = {.chunk_elements = RECORD_CHUNK, .element_bytes = sizeof(kvpi_record)},
        .n_words = n_words,
        .n_lists = 1 + cfg->slot_units + cfg->segment_units / cfg->slot_units,
        .reserve = KVPI_NONE,
        .head = KVPI_NONE,
        .cold_head = KVPI_NONE,
        .free_record = KVPI_NONE,
    };
    kvp_status status =
        kvpi_alloc(cfg->mem, n.n_lists * sizeof *n.lists, "the disk's lists", &n.lists);
    if (status)
        return status;
    for (uint32_t i = 0; i < n.n_lists; i++)
        n.lists[i] = KVPI_NONE;
    *s = n;
    return KVP_OK;
}

void kvpi_segments_close(kvpi_segments *s)
{
    kvpi_chunks_free(&s->segments, 0, s->cfg.mem);
    kvpi_chunks_free(&s->bitmaps, 0, s->cfg.mem);
    kvpi_chunks_free(&s->records, 0, s->cfg.mem);
    kvpi_free(s->cfg.mem, s->lists, s->n_lists * sizeof *s->lists);
}

kvp_status kvpi_segments_prepare(const kvpi_segments *s, uint64_t n_units, uint64_t n_records,
                                 kvpi_segments_more *more)
{
    const kvp_mem *mem = s->cfg.mem;
    uint64_t n_segments = (n_units + s->cfg.segment_units - 1) / s->cfg.segment_units;
    assert(n_segments < KVPI_NONE && n_records < KVPI_NONE);
    kvp_status status = kvpi_chunks_grow(&s->segments, n_segments, mem, &more->segments);
    if (status)
        return status;
    status = kvpi_chunks_grow(&s->bitmaps, n_segments, mem, &more->bitmaps);
    if (status)
        goto fail_segments;
    status = kvpi_chunks_grow(&s->records, n_records, mem, &more->records);
    if (!status)
        return KVP_OK;
    if (more->bitmaps.chunks)
        kvpi_chunks_free(&more->bitmaps, s->bitmaps.n_chunks, mem);
fail_segments:
    if (more->segments.chunks)
        kvpi_chunks_free(&more->segments, s->segments.n_chunks, mem);
    return status;
}

void kvpi_segments_extend(kvpi_segments *s, uint64_t n_units, kvpi_segments_more *more)
{
    uint32_t of_segment = s->cfg.segment_units, n_before = s->n_segments;
    assert(n_units >= s->n_units);
    kvpi_chunks_adopt(&s->segments, &more->segments);
    kvpi_chunks_adopt(&s->bitmaps, &more->bitmaps);
    kvpi_chunks_adopt(&s->records, &more->records);
    s->n_segments = (uint32_t)((n_units + of_segment - 1) / of_segment);
    s->n_units = n_units;
    if (n_before && kvpi_segment_at(s, n_before - 1)->n_units < of_segment)
        n_before--; /* it was cut short by the end of the file */
    for (uint32_t i = s->n_segments; i-- > n_before;) { /* so that the first will be taken first */
        kvpi_segment *seg = kvpi_segment_at(s, i);
        bool is_new = !seg->n_units;
        uint64_t left = n_units - (uint64_t)i * of_segment;
        if (is_new)
            *seg = (kvpi_segment){.first = KVPI_NONE};
        else
            kvpi_segment_leave(s, i);
        seg->n_units = (uint16_t)(left < of_segment ? left : of_segment);
        kvpi_segment_enter(s, i, is_new ? KVPI_SEGMENT_EMPTY : (kvpi_segment_state)seg->state);
    }
}

void kvpi_segments_finish(const kvpi_segments *s, kvpi_segments_more *more)
{
    kvpi_chunks *all[] = {&more->segments, &more->bitmaps, &more->records};
    for (size_t i = 0; i < 3; i++)
        if (all[i]->chunks)
            kvpi_chunks_free(all[i], all[i]->n_chunks, s->cfg.mem);
}

/* ---- records ----------------------------------------------------------------------------------*/

void kvpi_segments_keep(kvpi_segments *s, uint64_t n_runs)
{
    uint32_t segment = s->lists[0];
    while (segment != KVPI_NONE && kvpi_segment_at(s, segment)->n_units < s->cfg.segment_units)
        segment = kvpi_segment_at(s, segment)->next;
    if (s->reserve != KVPI_NONE || segment == KVPI_NONE)
        return;
    if (s->n_runs < n_runs + kvpi_segment_at(s, segment)->n_runs)
        return;
    kvpi_segment_leave(s, segment);
    kvpi_segment_enter(s, segment, KVPI_SEGMENT_KEPT);
    s->reserve = segment;
}

uint64_t kvpi_segments_records_left(const kvpi_segments *s)
{
    return (uint64_t)s->records.n_chunks * RECORD_CHUNK - s->n_in_use - s->n_doomed;
}

uint64_t kvpi_segments_place(const kvpi_segments *s, const kvpi_extent *at)
{
    return (uint64_t)at->segment * s->cfg.segment_units + at->unit;
}

static uint32_t new_record(kvpi_segments *s)
{
    uint32_t record = s->free_record;
    if (record == KVPI_NONE)
        record = s->n_records++;
    else
        s->free_record = kvpi_segments_at(s, record)->next;
    assert(record / RECORD_CHUNK < s->records.n_chunks);
    *kvpi_segments_at(s, record) = (kvpi_record){0};
    s->n_in_use++;
    return record;
}

void kvpi_segment_add(kvpi_segments *s, uint32_t record)
{
    kvpi_record *r = kvpi_segments_at(s, record);
    kvpi_segment *seg = kvpi_segment_at(s, r->at.segment);
    r->prev = KVPI_NONE;
    r->next = seg->first;
    if (seg->first != KVPI_NONE)
        kvpi_segments_at(s, seg->first)->prev = record;
    seg->first = record;
}

void kvpi_segment_remove(kvpi_segments *s, uint32_t record)
{
    kvpi_record *r = kvpi_segments_at(s, record);
    if (r->prev == KVPI_NONE)
        kvpi_segment_at(s, r->at.segment)->first = r->next;
    else
        kvpi_segments_at(s, r->prev)->next = r->next;
    if (r->next != KVPI_NONE)
        kvpi_segments_at(s, r->next)->prev = r->prev;
}

void kvpi_segment_mark(kvpi_segments *s, const kvpi_extent *at, bool is_used)
{
    kvpi_segment *seg = kvpi_segment_at(s, at->segment);
    kvpi_segment_leave(s, at->segment);
    kvpi_set_bits(bits_of(s, at->segment), at->unit, at->n_units, is_used);
    seg->n_used = (uint16_t)(is_used ? seg->n_used + at->n_units : seg->n_used - at->n_units);
    kvpi_segment_enter(s, at->segment, (kvpi_segment_state)seg->state);
}

/* What is to be the next head for a record of so many units: an empty one; then the one with the
 * most runs; then, for a small record, the one with the least room that is enough. */
static uint32_t find_head(const kvpi_segments *s, uint32_t n_units)
{
    if (s->lists[0] != KVPI_NONE)
        return s->lists[0];
    for (uint32_t i = s->n_lists; i-- > s->cfg.slot_units + 1;)
        if (s->lists[i] != KVPI_NONE)
            return s->lists[i];
    for (uint32_t room = n_units; room < s->cfg.slot_units; room++)
        if (s->lists[1 + room] != KVPI_NONE)
            return s->lists[1 + room];
    return KVPI_NONE;
}

/* Close the head, and go on in another one; false: there is no room. */
static bool next_head(kvpi_segments *s, uint32_t n_units)
{
    if (s->head != KVPI_NONE) {
        kvpi_segment_leave(s, s->head);
        kvpi_segment_enter(s, s->head, KVPI_SEGMENT_LISTED);
    }
    s->head = find_head(s, n_units);
    s->head_unit = 0;
    if (s->head == KVPI_NONE)
        return false;
    kvpi_segment_leave(s, s->head);
    kvpi_segment_enter(s, s->head, KVPI_SEGMENT_HEAD);
    return true;
}

bool kvpi_segments_alloc(kvpi_segments *s, uint32_t n_units, uint32_t *record)
{
    assert(n_units && n_units <= s->cfg.slot_units && kvpi_segments_records_left(s));
    uint32_t at = KVPI_MAX_SEGMENT_UNITS;
    if (s->head != KVPI_NONE)
        at = kvpi_segment_find_room(s, s->head, s->head_unit, n_units);
    if (s->head == KVPI_NONE || at == kvpi_segment_at(s, s->head)->n_units) {
        if (!next_head(s, n_units))
            return false;
        at = kvpi_segment_find_room(s, s->head, 0, n_units);
        assert(at < kvpi_segment_at(s, s->head)->n_units);
    }
    *record = new_record(s);
    kvpi_record *r = kvpi_segments_at(s, *record);
    r->at = (kvpi_extent){s->head, (uint16_t)at, (uint16_t)n_units};
    s->head_unit = at + n_units;
    s->clock += n_units;
    s->n_used += n_units;
    kvpi_segment_mark(s, &r->at, true);
    kvpi_segment_at(s, s->head)->written_at = s->clock;
    kvpi_segment_add(s, *record);
    return true;
}

void kvpi_segment_forget(kvpi_segments *s, uint32_t record)
{
    kvpi_record *r = kvpi_segments_at(s, record);
    kvpi_segment_remove(s, record);
    kvpi_segment_mark(s, &r->at, false);
    *r = (kvpi_record){.next = s->free_record};
    s->free_record = record;
}

void kvpi_segments_free(kvpi_segments *s, uint32_t record)
{
    kvpi_record *r = kvpi_segments_at(s, record);
    assert(r->at.n_units && !r->is_doomed && !r->n_reads && !r->is_written);
    s->n_used -= r->at.n_units;
    s->n_in_use--;
    r->is_doomed = r->is_moving;
    s->n_doomed += r->is_doomed;
    if (!r->is_doomed)
        kvpi_segment_forget(s, record);
}
