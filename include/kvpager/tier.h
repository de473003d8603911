/* kvpager/tier.h - what a tier backend is: slots, and a way to move bytes in and out of them.
 *
 * kvpager brings ram (addressable frames), zram (variable-sized blobs in memory) and disk. The
 * pager decides what goes where; a backend only stores bytes. Only tiers/tier.c calls these
 * operations.
 *
 * Contract
 *   slot_alloc  KVP_E_NOSPACE when the tier's budget is used up; that is an answer, not a failure.
 *               KVP_E_AGAIN: room is being made; reap, then ask again. So does reserve.
 *   submit      takes a chain of requests, linked through `next`, or fails and takes none. A
 *               synchronous backend completes inside submit and hands them back from reap, so that
 *               there is one code path above. A request belongs to the tier until reaped.
 *   reap        at most one thread at a time; waits until something finished or the deadline
 *               passed. KVP_E_AGAIN: nothing of the caller's finished, but room was made.
 *   read        returns exactly the bytes last written to the slot. Backends need not checksum: the
 *               pager verifies everything that it reads. */
#ifndef KVPAGER_TIER_H
#define KVPAGER_TIER_H

#include <stdbool.h>

#include "kvpager/env.h"

#ifdef __cplusplus
extern "C" {
#endif

/* 2: submit takes a chain, no longer one request; 3: budgets change (set_budget, trim,
 * resize_range; bytes_over of the usage). */
#define KVP_TIER_ABI 3u

/* In the order of speed; a page may have a copy in several. */
typedef enum kvp_tier_id {
    KVP_TIER_VRAM = 0,
    KVP_TIER_RAM = 1,
    KVP_TIER_ZRAM = 2,
    KVP_TIER_DISK = 3,
    KVP_N_TIERS = 4,
} kvp_tier_id;

enum {
    KVP_CAP_ASYNC = 1,       /* submit returns before the bytes have moved */
    KVP_CAP_ADDRESSABLE = 2, /* addr() works: the CPU may read slots where they lie */
    KVP_CAP_VARIABLE = 4,    /* slots take the size asked for; otherwise all take slot_bytes */
};

typedef uint64_t kvp_slot;
#define KVP_SLOT_NONE UINT64_MAX

typedef struct kvp_tier kvp_tier;

typedef struct kvp_io {
    kvp_io_op op; /* KVP_IO_READ: tier to buf; KVP_IO_WRITE: buf to tier */
    kvp_slot slot;
    void *buf;
    size_t len_bytes; /* disk: a multiple of KVP_IO_ALIGN */

    kvp_status status; /* out */
    int native_error;  /* out */

    void *owner;         /* the submitter's */
    struct kvp_io *next; /* for whoever holds the request; at submit: the next of the chain */
    kvp_disk_io disk;    /* the backend's scratch */
} kvp_io;

typedef struct kvp_tier_config {
    uint64_t budget_bytes; /* hard limit; KVP_UNLIMITED: as much as there is */
    size_t slot_bytes;     /* of a fixed-size slot; a multiple of 4 KiB */
    uint32_t max_depth;    /* requests in flight at most */
    const kvp_mem *mem;
    const kvp_env *env;
    /* disk only */
    const char *path;     /* visible swap file; NULL: an unlinked one in $TMPDIR or /var/tmp */
    const char *engine;   /* see kvp_disk_config */
    bool has_small_slots; /* slots of less than slot_bytes will be asked for */
    size_t segment_bytes; /* 0: 2 MiB, or less where the budget is small */
    struct {
        void *base;
        size_t bytes;
    } ranges[2]; /* memory that I/O buffers come from */
    uint32_t n_ranges;
} kvp_tier_config;

#define KVP_UNLIMITED UINT64_MAX

typedef struct kvp_tier_usage {
    uint64_t slots_used;
    uint64_t slots_free; /* UINT64_MAX: unknown (variable sizes) */
    uint64_t bytes_used; /* charged against the budget now */
    uint64_t bytes_peak; /* the most ever charged */
    uint64_t bytes_over; /* what has to be freed before a lowered budget holds */
    /* disk: what cleaning wrote, and the segments that it emptied */
    uint64_t bytes_moved, segments_cleaned;
} kvp_tier_usage;

typedef struct kvp_tier_ops {
    uint32_t abi;  /* KVP_TIER_ABI; members are only ever appended */
    uint32_t caps; /* KVP_CAP_* */
    const char *name;
    kvp_status (*open)(const kvp_tier_config *cfg, kvp_tier **out);
    void (*close)(kvp_tier *tier); /* nothing in flight; slots need not be freed first */
    kvp_status (*slot_alloc)(kvp_tier *tier, size_t size_bytes, kvp_slot *out);
    void (*slot_free)(kvp_tier *tier, kvp_slot slot);
    kvp_status (*submit)(kvp_tier *tier, kvp_io *io);
    kvp_status (*reap)(kvp_tier *tier, uint64_t deadline_ns, kvp_io **done);
    void (*usage)(kvp_tier *tier, kvp_tier_usage *out);
    /* Optional (KVP_CAP_ADDRESSABLE): where a slot's bytes are; NULL: not addressable. */
    void *(*addr)(kvp_tier *tier, kvp_slot slot);
    /* Optional: make sure that `n` more slots can be had; NULL: nothing to do ahead of time. */
    kvp_status (*reserve)(kvp_tier *tier, uint64_t n_slots);
    /* Optional: another budget, at most the one of open; NULL: it stays what it is. Nothing is
     * handed out beyond it from now on. What is in use there stays until it is freed:
     * usage.bytes_over. Errors: KVP_E_BUDGET nothing fits; KVP_E_INVALID more than at open. */
    kvp_status (*set_budget)(kvp_tier *tier, uint64_t budget_bytes);
    /* Optional: give memory that the budget has no use for back to the system, once bytes_over is
     * 0. I/O engines must have let go of it. */
    void (*trim)(kvp_tier *tier);
    /* Optional: the range of the config that begins at `base` has `bytes` bytes from now on: see
     * kvp_disk_ops.resize. */
    void (*resize_range)(kvp_tier *tier, void *base, size_t bytes);
    /* Optional: do slots a and b lie side by side, so that reading both is one request? NULL: no
     * two do. */
    bool (*are_neighbours)(kvp_tier *tier, kvp_slot a, kvp_slot b);
} kvp_tier_ops;

/* First member of every backend's instance. */
struct kvp_tier {
    const kvp_tier_ops *ops;
};

#ifdef __cplusplus
}
#endif
#endif
