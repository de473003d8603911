/* cleaner.h - moves what lives in a segment elsewhere, so that the segment becomes empty: a state
 * machine, resumed by completions, that keeps a few requests in flight beside the user's.
 *
 *   IDLE -> victim -> PICK -> reads -> READING -> writes -> WRITING -> SETTLE -> PICK ... -> IDLE
 *
 * While a record moves, reads of it go to its old place, writes and frees wait until it has
 * settled, and it settles when no read of it is in flight. A record that is being written is not
 * picked. What cannot be read or written stays where it is.
 *
 * The disk tier's lock protects it; it submits nothing itself. */
#ifndef KVPI_TIERS_CLEANER_H
#define KVPI_TIERS_CLEANER_H

#include "kvpager/disk.h"
#include "tiers/segments.h"

#define KVPI_CLEANER_MOVES 16u     /* records moved together */
#define KVPI_CLEANER_MAX_ERRORS 3u /* segments in a row; then it gives up */

typedef struct kvpi_move {
    kvp_disk_io io;
    uint32_t record;
    bool is_settled;
    kvpi_extent to;
} kvpi_move;

typedef enum kvpi_cleaner_state {
    KVPI_CLEANER_IDLE,
    KVPI_CLEANER_PICK,
    KVPI_CLEANER_READING,
    KVPI_CLEANER_WRITING,
    KVPI_CLEANER_SETTLE,
} kvpi_cleaner_state;

typedef struct kvpi_cleaner {
    kvpi_segments *segments;
    const kvp_mem *mem;
    uint64_t unit_bytes, data_at; /* data_at: of the first segment, in the file */
    char *memory, *buffer;        /* buffer: aligned */
    size_t memory_bytes, buffer_bytes;

    kvpi_cleaner_state state;
    bool is_wanted;   /* somebody needs room */
    uint32_t segment; /* unless IDLE */
    bool has_failed;  /* something of it could not be moved */
    uint32_t n_moves, n_pending;
    kvpi_move moves[KVPI_CLEANER_MOVES]; /* by place */

    uint32_t n_errors; /* segments in a row that stayed */
    int native_error;  /* of the last failure */
    uint64_t bytes_moved, segments_cleaned;
} kvpi_cleaner;

/* Errors: KVP_E_NOMEM. */
KVP_NODISCARD kvp_status kvpi_cleaner_open(kvpi_cleaner *c, kvpi_segments *segments,
                                           uint64_t unit_bytes, uint64_t data_at,
                                           const kvp_mem *mem);
void kvpi_cleaner_close(kvpi_cleaner *c);

/* Would cleaning make room? */
bool kvpi_cleaner_can_help(const kvpi_cleaner *c);
/* Go on as far as possible. What it returns is to be submitted, without the lock; each request
 * comes back through kvpi_cleaner_done(), then step again. *has_ended: with a segment. */
kvp_disk_io *kvpi_cleaner_step(kvpi_cleaner *c, bool *has_ended);
/* If the request is the cleaner's, take note of its result. */
bool kvpi_cleaner_done(kvpi_cleaner *c, const kvp_disk_io *io);

#endif
