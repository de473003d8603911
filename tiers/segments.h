/* segments.h - which part of a file holds what: segments, the records in them, and which segment is
 * to be cleaned next. Moves no bytes, makes no system calls, has no lock: the disk tier's protects
 * it.
 *
 * Room is counted in units. A *record* is a run of units inside one segment; it is known by a
 * number that stays the same while cleaning moves it. Records are written one after the other into
 * the *head*, a segment: an empty one or, with fills_holes, the one with the most room. So what
 * is allocated one after the other lies side by side, and what is freed together leaves room
 * together.
 *
 * A *run* is room for one record of slot_units. Without cleaning, kvpi_segments_runs() of those can
 * be had, whatever smaller records come between: a smaller one takes the beginning of free units,
 * and so costs at most one run. If all records have slot_units, that is every free unit.
 *
 * Cleaning moves the records of one segment to a segment of their own (the *cold head*: what has
 * lived long goes together), and leaves an empty one behind. It takes an empty segment before it
 * gives one back, so one is kept for it: the *reserve*, whose room is not counted. A segment is
 * worth cleaning if that makes at least one run more; while there is such a one, no room is lost to
 * fragments for good. With none, every segment has less than slot_units free beyond its runs.
 *
 * Cost and benefit: Rosenblum & Ousterhout, The Design and Implementation of a Log-Structured File
 * System, TOCS 1992, section 3.5. Filling holes: Lee et al., F2FS, FAST 2015, section 2.5 (adaptive
 * logging). */
#ifndef KVPI_TIERS_SEGMENTS_H
#define KVPI_TIERS_SEGMENTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tiers/chunks.h"

#define KVPI_NONE UINT32_MAX
#define KVPI_MAX_SEGMENT_UNITS 65535u

typedef struct kvpi_extent {
    uint32_t segment;
    uint16_t unit, n_units; /* unit: in the segment */
} kvpi_extent;

typedef enum kvpi_segment_state {
    KVPI_SEGMENT_EMPTY,
    KVPI_SEGMENT_LISTED, /* by the room that it has */
    KVPI_SEGMENT_HEAD,
    KVPI_SEGMENT_COLD_HEAD,
    KVPI_SEGMENT_CLEANED, /* its records are being moved */
    KVPI_SEGMENT_KEPT,    /* empty: the reserve */
} kvpi_segment_state;

typedef struct kvpi_segment {
    uint64_t written_at; /* clock of the last record written into it, or of those moved here */
    uint32_t first;      /* of its records */
    uint32_t prev, next; /* in its list */
    uint16_t n_units;    /* as all others, but the last one may be shorter */
    uint16_t n_used;
    uint16_t n_runs, max_run; /* that allocation may use; max_run: units, at most slot_units */
    uint8_t state;            /* kvpi_segment_state */
    bool is_stuck;            /* something in it could not be moved */
} kvpi_segment;

typedef struct kvpi_record {
    kvpi_extent at;
    uint32_t prev, next; /* in its segment; of a free record: the next free one */
    uint16_t n_reads;    /* the user's: in flight */
    bool is_written;     /* a write is in flight */
    bool is_moving;
    bool is_doomed; /* freed by the user while it is moved */
} kvpi_record;

typedef struct kvpi_segments_config {
    uint32_t segment_units; /* a multiple of slot_units; at most KVPI_MAX_SEGMENT_UNITS */
    uint32_t slot_units;    /* of the largest record */
    bool fills_holes;
    const kvp_mem *mem;
} kvpi_segments_config;

typedef struct kvpi_segments {
    kvpi_segments_config cfg;
    kvpi_chunks segments, bitmaps, records;
    uint32_t n_segments, n_words; /* n_words: of a segment's bitmap; set: in use */
    uint32_t *lists;              /* [n_lists] first segments; see list_of() */
    uint32_t n_lists;
    uint32_t reserve;                /* KVPI_NONE: none, and no cleaning */
    uint32_t head, cold_head;        /* KVPI_NONE: none */
    uint32_t head_unit, cold_unit;   /* where the search for room in them goes on */
    uint32_t free_record, n_records; /* n_records: numbers ever used are below */
    uint64_t n_units, n_used;        /* of the file; by records */
    uint64_t n_in_use, n_doomed;     /* records */
    uint64_t n_runs;                 /* of EMPTY, LISTED and HEAD segments */
    uint64_t clock;                  /* units ever allocated */
    uint32_t sweep;                  /* where the search for a segment to clean goes on */
} kvpi_segments;

KVP_NODISCARD kvp_status kvpi_segments_open(const kvpi_segments_config *cfg, kvpi_segments *s);
void kvpi_segments_close(kvpi_segments *s);

/* More room, in two steps, so that memory is allocated without the lock. */
typedef struct kvpi_segments_more {
    kvpi_chunks segments, bitmaps, records;
} kvpi_segments_more;

/* For n_units in all and n_records numbers. Only one at a time; needs no lock. Errors:
 * KVP_E_NOMEM. */
KVP_NODISCARD kvp_status kvpi_segments_prepare(const kvpi_segments *s, uint64_t n_units,
                                               uint64_t n_records, kvpi_segments_more *more);
/* The same n_units; never fails. With the lock. */
void kvpi_segments_extend(kvpi_segments *s, uint64_t n_units, kvpi_segments_more *more);
/* Afterwards, without it. */
void kvpi_segments_finish(const kvpi_segments *s, kvpi_segments_more *more);

/* If there is no reserve, and n_runs can be had without it, keep a whole empty segment as such. */
void kvpi_segments_keep(kvpi_segments *s, uint64_t n_runs);
/* Records of slot_units that can be had now. */
static inline uint64_t kvpi_segments_runs(const kvpi_segments *s)
{
    return s->n_runs;
}
/* Records that can be had before their table has to be extended. */
uint64_t kvpi_segments_records_left(const kvpi_segments *s);
/* A new record, in what kvpi_segments_runs() counts or a smaller hole; false: no room for it. */
bool kvpi_segments_alloc(kvpi_segments *s, uint32_t n_units, uint32_t *record);
/* Not while its bytes are in flight. If it is moving, its room is free when that has ended. */
void kvpi_segments_free(kvpi_segments *s, uint32_t record);
kvpi_record *kvpi_segments_at(const kvpi_segments *s, uint32_t record);
/* In units from the first segment's beginning. */
uint64_t kvpi_segments_place(const kvpi_segments *s, const kvpi_extent *at);

/* ---- cleaning (segments_clean.c): one segment at a time ---- */

/* The one with the best ratio of benefit to cost, or KVPI_NONE: cleaning would gain nothing, or
 * there is no reserve. */
uint32_t kvpi_segments_victim(kvpi_segments *s);
void kvpi_segments_clean_begin(kvpi_segments *s, uint32_t segment);
/* Room for the record among those that were moved before; it is in use from now on. */
kvpi_extent kvpi_segments_move_begin(kvpi_segments *s, uint32_t record);
/* The record is there now. */
void kvpi_segments_moved(kvpi_segments *s, uint32_t record, const kvpi_extent *to);
/* It stays where it is. The room at `to` is given up for good if it cannot be written. */
void kvpi_segments_not_moved(kvpi_segments *s, uint32_t record, const kvpi_extent *to, bool is_bad);
/* If something is left in it, it is not cleaned again until it is empty; else it is the new
 * reserve, if the old one was used. */
void kvpi_segments_clean_end(kvpi_segments *s, uint32_t segment);

/* ---- what both files use ---- */

kvpi_segment *kvpi_segment_at(const kvpi_segments *s, uint32_t segment);
/* The first `want` free units in a row, at or behind `from`; n_units: none. */
uint32_t kvpi_segment_find_room(const kvpi_segments *s, uint32_t segment, uint32_t from,
                                uint32_t want);
/* Its bits, or its state, are about to change: leave before, enter after. */
void kvpi_segment_leave(kvpi_segments *s, uint32_t segment);
void kvpi_segment_enter(kvpi_segments *s, uint32_t segment, kvpi_segment_state state);
/* The record, its number and its room are free. */
void kvpi_segment_forget(kvpi_segments *s, uint32_t record);
/* Units are taken, or given back. */
void kvpi_segment_mark(kvpi_segments *s, const kvpi_extent *at, bool is_used);
/* The record is one of the segment's that it lies in, or no longer. */
void kvpi_segment_add(kvpi_segments *s, uint32_t record);
void kvpi_segment_remove(kvpi_segments *s, uint32_t record);

#endif
