/* disk_room.c - see disk_room.h. */
#include "tiers/disk_room.h"

#include <assert.h>
#include <errno.h>

#include "tiers/format.h"

#define SEGMENT_BYTES ((uint64_t)2 << 20)
#define MIN_SEGMENTS 16u /* cleaning needs a choice: segments are smaller in a small file */
#define MAX_UNITS (uint64_t)(UINT32_MAX - 1) /* page descriptors keep 32 bits */

/* ---- growing (grow_lock held) -----------------------------------------------------------------*/

static uint64_t runs_of_segment(const kvpi_disk_room *r)
{
    return r->segments.cfg.segment_units / r->segments.cfg.slot_units;
}

/* To n_units <= max_units, with numbers for n_records in all. */
static kvp_status grow_to(kvpi_disk_room *r, uint64_t n_units, uint64_t n_records)
{
    kvpi_segments_more more;
    kvp_status s = kvpi_swap_file_grow(&r->file, KVPI_SEGMENTS_AT + n_units * r->unit_bytes);
    if (s)
        return s;
    /* As much as the file has now; but for no more records than are wanted: they take memory. */
    uint64_t in_file = (r->file.size_bytes - KVPI_SEGMENTS_AT) / r->unit_bytes;
    in_file -= in_file % r->step_units;
    in_file = in_file < r->max_units ? in_file : r->max_units;
    s = kvpi_segments_prepare(&r->segments, in_file, n_records, &more);
    if (s)
        return s;
    pthread_mutex_lock(&r->lock);
    kvpi_segments_extend(&r->segments, in_file, &more);
    pthread_mutex_unlock(&r->lock);
    kvpi_segments_finish(&r->segments, &more);
    return KVP_OK;
}

/* Units that the file should have for n slots more than can be had now. */
static uint64_t wanted_units(const kvpi_disk_room *r, uint64_t n)
{
    if (r->has_cleaner && r->segments.reserve == KVPI_NONE)
        n += runs_of_segment(r);
    if (n > r->max_units) /* before it overflows */
        return r->max_units;
    uint64_t units = r->segments.n_units + n * r->segments.cfg.slot_units;
    units = (units + r->step_units - 1) / r->step_units * r->step_units;
    return units < r->max_units ? units : r->max_units;
}

static kvp_status disk_full(kvpi_disk_room *r)
{
    if (r->cleaner.n_errors == KVPI_CLEANER_MAX_ERRORS) {
        errno = r->cleaner.native_error;
        return kvp_fail(
            KVP_E_NOSPACE,
            "the disk budget of %llu bytes is used up or in fragments, and those cannot "
            "be moved together: %m",
            (unsigned long long)r->file.max_bytes);
    }
    return kvp_fail(KVP_E_NOSPACE, "the disk budget of %llu bytes is used up",
                    (unsigned long long)r->file.max_bytes);
}

/* What the tables say now: can n slots be had? If not, will cleaning help? */
typedef enum room { ROOM, CLEANING, NO_ROOM } room;

static room look(kvpi_disk_room *r, uint64_t n)
{
    pthread_mutex_lock(&r->lock);
    if (r->has_cleaner)
        kvpi_segments_keep(&r->segments, n);
    uint64_t n_runs = kvpi_segments_runs(&r->segments);
    room found = n_runs >= n && kvpi_segments_records_left(&r->segments) >= n ? ROOM : NO_ROOM;
    bool is_short = r->has_cleaner && n_runs < n + runs_of_segment(r) &&
                    (r->segments.n_units == r->max_units || r->cannot_grow);
    if (is_short && kvpi_cleaner_can_help(&r->cleaner)) {
        r->cleaner.is_wanted = true; /* the next to submit or reap does it */
        found = found == ROOM ? ROOM : CLEANING;
    }
    pthread_mutex_unlock(&r->lock);
    return found;
}

static kvp_status grow_for(kvpi_disk_room *r, uint64_t n)
{
    pthread_mutex_lock(&r->lock);
    uint64_t n_runs = kvpi_segments_runs(&r->segments);
    uint64_t n_units = wanted_units(r, n > n_runs ? n - n_runs : 0);
    uint64_t n_records = r->segments.n_in_use + r->segments.n_doomed + n;
    pthread_mutex_unlock(&r->lock);
    kvp_status s = grow_to(r, n_units, n_records);
    r->cannot_grow = s == KVP_E_NOSPACE;
    return s;
}

/* Could there be n slots more, with the whole budget and not a fragment? */
static bool is_within_budget(kvpi_disk_room *r, uint64_t n)
{
    pthread_mutex_lock(&r->lock);
    uint64_t left = r->max_units - r->segments.n_used;
    pthread_mutex_unlock(&r->lock);
    return n <= left / r->segments.cfg.slot_units;
}

static kvp_status reserve(kvpi_disk_room *r, uint64_t n)
{
    if (!is_within_budget(r, n))
        return disk_full(r);
    room found = look(r, n);
    if (found == NO_ROOM) {
        kvp_status s = grow_for(r, n);
        found = look(r, n);
        if (s && found == NO_ROOM)
            return s;
    }
    if (found == CLEANING)
        return kvp_fail(KVP_E_AGAIN, "room in the swap file is being made");
    return found == ROOM ? KVP_OK : disk_full(r);
}

kvp_status kvpi_disk_room_reserve(kvpi_disk_room *r, uint64_t n)
{
    pthread_mutex_lock(&r->grow_lock);
    kvp_status s = reserve(r, n);
    pthread_mutex_unlock(&r->grow_lock);
    return s;
}

/* ---- slots ------------------------------------------------------------------------------------*/

static bool try_take(kvpi_disk_room *r, uint32_t n_units, kvp_slot *out)
{
    uint32_t record;
    pthread_mutex_lock(&r->lock);
    bool ok = kvpi_segments_records_left(&r->segments) &&
              kvpi_segments_alloc(&r->segments, n_units, &record);
    if (ok) {
        *out = record;
        if (r->segments.n_used > r->peak_units)
            r->peak_units = r->segments.n_used;
    }
    pthread_mutex_unlock(&r->lock);
    return ok;
}

kvp_status kvpi_disk_room_alloc(kvpi_disk_room *r, size_t size_bytes, kvp_slot *out)
{
    assert(size_bytes <= r->slot_bytes);
    uint32_t n_units = (uint32_t)((size_bytes + r->unit_bytes - 1) / r->unit_bytes);
    while (!try_take(r, n_units, out)) { /* what was grown may go to another thread */
        kvp_status s = kvpi_disk_room_reserve(r, 1);
        if (s)
            return s;
    }
    return KVP_OK;
}

void kvpi_disk_room_free(kvpi_disk_room *r, kvp_slot slot)
{
    pthread_mutex_lock(&r->lock);
    kvpi_segments_free(&r->segments, (uint32_t)slot);
    pthread_mutex_unlock(&r->lock);
}

void kvpi_disk_room_usage(kvpi_disk_room *r, kvp_tier_usage *out)
{
    pthread_mutex_lock(&r->lock);
    uint64_t left = (r->max_units - r->segments.n_used) / r->segments.cfg.slot_units;
    *out = (kvp_tier_usage){
        .slots_used = r->segments.n_in_use,
        .slots_free = r->is_unlimited || r->has_cleaner ? UINT64_MAX : left,
        .bytes_used = r->segments.n_used * r->unit_bytes,
        .bytes_peak = r->peak_units * r->unit_bytes,
        .bytes_moved = r->cleaner.bytes_moved,
        .segments_cleaned = r->cleaner.segments_cleaned,
    };
    pthread_mutex_unlock(&r->lock);
}

bool kvpi_disk_room_are_neighbours(kvpi_disk_room *r, kvp_slot a, kvp_slot b)
{
    pthread_mutex_lock(&r->lock);
    const kvpi_extent *x = &kvpi_segments_at(&r->segments, (uint32_t)a)->at;
    const kvpi_extent *y = &kvpi_segments_at(&r->segments, (uint32_t)b)->at;
    uint64_t at_x = kvpi_segments_place(&r->segments, x);
    uint64_t at_y = kvpi_segments_place(&r->segments, y);
    pthread_mutex_unlock(&r->lock);
    return at_x + x->n_units == at_y || at_y + y->n_units == at_x;
}

/* ---- open and close ---------------------------------------------------------------------------*/

/* Bytes of a segment: whole slots, and few enough that a small file has several. */
static uint64_t choose_segment(const kvp_tier_config *cfg, uint64_t budget)
{
    uint64_t bytes = cfg->segment_bytes ? cfg->segment_bytes : SEGMENT_BYTES;
    if (!cfg->segment_bytes && cfg->has_small_slots && bytes > budget / MIN_SEGMENTS)
        bytes = budget / MIN_SEGMENTS;
    uint64_t n_slots = bytes / cfg->slot_bytes;
    return (n_slots ? n_slots : 1) * cfg->slot_bytes;
}

static kvp_status open_tables(kvpi_disk_room *r, const kvp_tier_config *cfg, uint64_t segment_bytes,
                              uint64_t budget)
{
    r->unit_bytes = cfg->has_small_slots ? KVPI_BLOCK_BYTES : cfg->slot_bytes;
    const kvpi_segments_config c = {.segment_units = (uint32_t)(segment_bytes / r->unit_bytes),
                                    .slot_units = (uint32_t)(cfg->slot_bytes / r->unit_bytes),
                                    .fills_holes = true,
                                    .mem = cfg->mem};
    r->has_cleaner = cfg->has_small_slots && c.segment_units > c.slot_units;
    r->step_units = r->has_cleaner ? c.segment_units : c.slot_units;
    r->max_units = (budget - KVPI_SEGMENTS_AT) / r->unit_bytes;
    if (r->max_units > MAX_UNITS)
        r->max_units = MAX_UNITS;
    r->max_units -= r->max_units % r->step_units;
    kvp_status s = kvpi_segments_open(&c, &r->segments);
    if (s || !r->has_cleaner)
        return s;
    s = kvpi_cleaner_open(&r->cleaner, &r->segments, r->unit_bytes, KVPI_SEGMENTS_AT, cfg->mem);
    if (s)
        kvpi_segments_close(&r->segments);
    return s;
}

static void close_tables(kvpi_disk_room *r)
{
    if (r->has_cleaner)
        kvpi_cleaner_close(&r->cleaner);
    kvpi_segments_close(&r->segments);
}

static kvp_status check_budget(const kvp_tier_config *cfg, uint64_t budget, uint64_t segment_bytes)
{
    uint64_t least = KVPI_SEGMENTS_AT + cfg->slot_bytes;
    if (cfg->segment_bytes && cfg->has_small_slots)
        least = KVPI_SEGMENTS_AT + 2 * segment_bytes;
    if (budget < least)
        return kvp_fail(KVP_E_BUDGET,
                        "the disk budget of %llu bytes is too small: needs at least %llu",
                        (unsigned long long)budget, (unsigned long long)least);
    if (segment_bytes > KVPI_MAX_SEGMENT_BYTES)
        return kvp_fail(KVP_E_UNSUPPORTED,
                        "pages of %zu bytes are too large for a swap file, which takes up to %llu; "
                        "use a smaller page_tokens or page_heads",
                        cfg->slot_bytes, (unsigned long long)KVPI_MAX_SEGMENT_BYTES);
    return KVP_OK;
}

kvp_status kvpi_disk_room_open(const kvp_tier_config *cfg, kvpi_disk_room *r)
{
    uint64_t budget = cfg->budget_bytes < INT64_MAX ? cfg->budget_bytes : INT64_MAX;
    uint64_t segment_bytes = choose_segment(cfg, budget);
    *r = (kvpi_disk_room){.slot_bytes = cfg->slot_bytes,
                          .is_unlimited = cfg->budget_bytes >= INT64_MAX};
    kvp_status s = check_budget(cfg, budget, segment_bytes);
    if (s)
        return s;
    s = open_tables(r, cfg, segment_bytes, budget);
    if (s)
        return s;
    s = kvpi_swap_file_open(cfg->path, cfg->slot_bytes, segment_bytes, budget, cfg->mem, cfg->env,
                            &r->file);
    if (s) {
        close_tables(r);
        return s;
    }
    pthread_mutex_init(&r->lock, NULL);
    pthread_mutex_init(&r->grow_lock, NULL);
    return KVP_OK;
}

void kvpi_disk_room_close(kvpi_disk_room *r)
{
    kvpi_swap_file_close(&r->file);
    close_tables(r);
    pthread_mutex_destroy(&r->lock);
    pthread_mutex_destroy(&r->grow_lock);
}
