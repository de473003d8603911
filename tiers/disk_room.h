/* disk_room.h - the room of the disk tier: the swap file, how it grows, which segment has what, and
 * who cleans.
 *
 * A slot is the number of a record (segments.h). Its place is given out with it, and stays until it
 * is freed or cleaning moves it: a slot can be written over without asking for room. Where all
 * slots have slot_bytes, that is the unit, every free one can be had, and nothing is ever cleaned.
 * Otherwise room is counted in blocks, one empty segment is kept back for the cleaner, and what
 * is asked for when only fragments are left waits for it (KVP_E_AGAIN).
 *
 * The file grows as room is asked for, up to what fits into the budget behind the superblocks:
 * whole segments where there is a cleaner, else whole slots.
 *
 * Invariants
 *   1. The file has room for all of the segments' units, and never more than max_units.
 *   2. Until it is freed, `lock` keeps a record in its place, or its n_reads and is_written do.
 *
 * Locks: `grow_lock` (the file's size; held across fallocate) before `lock` (the rest; never held
 * across a system call). */
#ifndef KVPI_TIERS_DISK_ROOM_H
#define KVPI_TIERS_DISK_ROOM_H

#include <pthread.h>

#include "tiers/cleaner.h"
#include "tiers/swap_file.h"
#include "tiers/tier.h"

typedef struct kvpi_disk_room {
    size_t slot_bytes, unit_bytes;
    uint64_t max_units;
    uint32_t step_units; /* of the file's growth */
    bool is_unlimited, has_cleaner;

    pthread_mutex_t grow_lock;
    kvpi_swap_file file;
    bool cannot_grow; /* the device refused more room */

    pthread_mutex_t lock;
    kvpi_segments segments;
    kvpi_cleaner cleaner; /* if has_cleaner */
    uint64_t peak_units;
} kvpi_disk_room;

/* Errors: KVP_E_BUDGET, KVP_E_UNSUPPORTED, KVP_E_NOMEM, and those of kvpi_swap_file_open(). */
KVP_NODISCARD kvp_status kvpi_disk_room_open(const kvp_tier_config *cfg, kvpi_disk_room *r);
/* The cleaner is idle. Removes the file. */
void kvpi_disk_room_close(kvpi_disk_room *r);

/* As kvp_tier_ops say. */
KVP_NODISCARD kvp_status kvpi_disk_room_alloc(kvpi_disk_room *r, size_t size_bytes, kvp_slot *out);
void kvpi_disk_room_free(kvpi_disk_room *r, kvp_slot slot);
KVP_NODISCARD kvp_status kvpi_disk_room_reserve(kvpi_disk_room *r, uint64_t n_slots);
void kvpi_disk_room_usage(kvpi_disk_room *r, kvp_tier_usage *out);
bool kvpi_disk_room_are_neighbours(kvpi_disk_room *r, kvp_slot a, kvp_slot b);

#endif
