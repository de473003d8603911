/* tier.h - checked wrappers around tier backends: the only callers of kvp_tier_ops. */
#ifndef KVPI_TIERS_TIER_H
#define KVPI_TIERS_TIER_H

#include "kvpager/tier.h"

extern const kvp_tier_ops kvpi_tier_ram;  /* frames: addressable slots of a region */
extern const kvp_tier_ops kvpi_tier_zram; /* blobs of any size up to slot_bytes */
extern const kvp_tier_ops kvpi_tier_disk; /* records in segments of a swap file */

KVP_NODISCARD kvp_status kvpi_tier_open(const kvp_tier_ops *ops, const kvp_tier_config *cfg,
                                        kvp_tier **out);
void kvpi_tier_close(kvp_tier *tier); /* NULL does nothing */
KVP_NODISCARD kvp_status kvpi_tier_slot_alloc(kvp_tier *tier, size_t size_bytes, kvp_slot *out);
void kvpi_tier_slot_free(kvp_tier *tier, kvp_slot slot);
KVP_NODISCARD kvp_status kvpi_tier_submit(kvp_tier *tier, kvp_io *io);
/* *done is NULL when the deadline passed or nothing is in flight. */
KVP_NODISCARD kvp_status kvpi_tier_reap(kvp_tier *tier, uint64_t deadline_ns, kvp_io **done);
void kvpi_tier_usage(kvp_tier *tier, kvp_tier_usage *out);
void *kvpi_tier_addr(kvp_tier *tier, kvp_slot slot);
KVP_NODISCARD kvp_status kvpi_tier_reserve(kvp_tier *tier, uint64_t n_slots);

bool kvpi_tier_are_neighbours(kvp_tier *tier, kvp_slot a, kvp_slot b);

/* The disk tier's engine ("uring-fixed", ...). */
const char *kvpi_tier_disk_engine(const kvp_tier *tier);
/* The range of the ram tier's frames, as far as its budget goes; for registering it. */
void kvpi_tier_ram_range(const kvp_tier *tier, void **base, size_t *bytes);
/* Frames at or above it are beyond the budget. */
uint32_t kvpi_tier_ram_end(const kvp_tier *tier);

/* Give a tier another budget, at most the one that it was opened with. What is in use beyond it has
 * to be freed first, by the caller: as long as *over_bytes is not 0, call again. Then memory that
 * is not needed goes back to the system; `disk` (or NULL) is the tier whose engine may have
 * registered it, and lets go of it before, or takes it up again. Not two calls at a time.
 * Errors: KVP_E_BUDGET, KVP_E_INVALID; KVP_E_UNSUPPORTED it stays what it is. */
KVP_NODISCARD kvp_status kvpi_tier_resize(kvp_tier *tier, kvp_tier *disk, uint64_t budget_bytes,
                                          uint64_t *over_bytes);

#endif
