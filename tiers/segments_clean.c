/* segments_clean.c - which segment is cleaned next, and where what lives in it goes. */
#include "tiers/segments.h"

#include <assert.h>

#define MAX_SWEPT 4096u /* segments compared for one victim */

/* Runs that there would be more if the records were moved together. */
static uint32_t gain_of(const kvpi_segments *s, const kvpi_segment *seg)
{
    uint32_t n_runs = (uint32_t)(seg->n_units - seg->n_used) / s->cfg.slot_units;
    return n_runs > seg->n_runs ? n_runs - seg->n_runs : 0;
}

/* Free space generated, times the age of the data, by the cost: reading all, writing what lives. */
static double ratio_of(const kvpi_segments *s, const kvpi_segment *seg)
{
    double u = (double)seg->n_used / seg->n_units;
    return (1 - u) * (double)(s->clock - seg->written_at + 1) / (1 + u);
}

uint32_t kvpi_segments_victim(kvpi_segments *s)
{
    uint32_t best = KVPI_NONE, n = s->n_segments < MAX_SWEPT ? s->n_segments : MAX_SWEPT;
    double best_ratio = 0;
    if (s->reserve == KVPI_NONE)
        return KVPI_NONE;
    for (uint32_t i = 0; i < s->n_segments && (i < n || best == KVPI_NONE); i++) {
        s->sweep = (s->sweep + 1) % s->n_segments;
        const kvpi_segment *seg = kvpi_segment_at(s, s->sweep);
        if (seg->state != KVPI_SEGMENT_LISTED || seg->is_stuck || !gain_of(s, seg))
            continue;
        double ratio = ratio_of(s, seg);
        if (best == KVPI_NONE || ratio > best_ratio) {
            best = s->sweep;
            best_ratio = ratio;
        }
    }
    return best;
}

void kvpi_segments_clean_begin(kvpi_segments *s, uint32_t segment)
{
    assert(kvpi_segment_at(s, segment)->state == KVPI_SEGMENT_LISTED);
    kvpi_segment_leave(s, segment);
    kvpi_segment_enter(s, segment, KVPI_SEGMENT_CLEANED);
}

static void close_cold_head(kvpi_segments *s)
{
    if (s->cold_head == KVPI_NONE)
        return;
    kvpi_segment_enter(s, s->cold_head, KVPI_SEGMENT_LISTED);
    s->cold_head = KVPI_NONE;
}

/* The first free unit behind `from` in a row of n; KVPI_NONE: none. */
static uint32_t cold_room(const kvpi_segments *s, uint32_t n)
{
    if (s->cold_head == KVPI_NONE)
        return KVPI_NONE;
    uint32_t at = kvpi_segment_find_room(s, s->cold_head, s->cold_unit, n);
    return at < kvpi_segment_at(s, s->cold_head)->n_units ? at : KVPI_NONE;
}

kvpi_extent kvpi_segments_move_begin(kvpi_segments *s, uint32_t record)
{
    kvpi_record *r = kvpi_segments_at(s, record);
    uint32_t at = cold_room(s, r->at.n_units);
    if (at == KVPI_NONE) {
        close_cold_head(s);
        assert(s->reserve != KVPI_NONE && "what lives in a victim fits into one segment");
        s->cold_head = s->reserve;
        s->reserve = KVPI_NONE;
        kvpi_segment_enter(s, s->cold_head, KVPI_SEGMENT_COLD_HEAD);
        kvpi_segment_at(s, s->cold_head)->written_at = 0;
        at = 0;
    }
    kvpi_extent to = {s->cold_head, (uint16_t)at, r->at.n_units};
    s->cold_unit = at + r->at.n_units;
    uint64_t age = kvpi_segment_at(s, r->at.segment)->written_at;
    kvpi_segment *cold = kvpi_segment_at(s, s->cold_head);
    cold->written_at = age > cold->written_at ? age : cold->written_at;
    kvpi_segment_mark(s, &to, true);
    r->is_moving = true;
    return to;
}

/* The user freed it meanwhile. */
static void end_move(kvpi_segments *s, uint32_t record)
{
    kvpi_record *r = kvpi_segments_at(s, record);
    r->is_moving = false;
    if (!r->is_doomed)
        return;
    s->n_doomed--;
    kvpi_segment_forget(s, record);
}

void kvpi_segments_moved(kvpi_segments *s, uint32_t record, const kvpi_extent *to)
{
    kvpi_record *r = kvpi_segments_at(s, record);
    assert(r->is_moving && to->n_units == r->at.n_units);
    kvpi_segment_remove(s, record);
    kvpi_segment_mark(s, &r->at, false);
    r->at = *to;
    kvpi_segment_add(s, record);
    end_move(s, record);
}

void kvpi_segments_not_moved(kvpi_segments *s, uint32_t record, const kvpi_extent *to, bool is_bad)
{
    assert(kvpi_segments_at(s, record)->is_moving);
    if (!is_bad)
        kvpi_segment_mark(s, to, false);
    end_move(s, record);
}

void kvpi_segments_clean_end(kvpi_segments *s, uint32_t segment)
{
    kvpi_segment *seg = kvpi_segment_at(s, segment);
    assert(seg->state == KVPI_SEGMENT_CLEANED);
    seg->is_stuck = seg->n_used > 0;
    bool is_reserve = !seg->n_used && s->reserve == KVPI_NONE;
    if (is_reserve)
        s->reserve = segment;
    kvpi_segment_enter(s, segment, is_reserve ? KVPI_SEGMENT_KEPT : KVPI_SEGMENT_LISTED);
    if (s->cfg.fills_holes)
        close_cold_head(s);
}
