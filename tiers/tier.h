/* tier.h - checked wrappers around tier backends: the only callers of kvp_tier_ops. */
#ifndef KVPI_TIERS_TIER_H
#define KVPI_TIERS_TIER_H

#include "kvpager/tier.h"

extern const kvp_tier_ops kvpi_tier_ram;  /* frames: addressable slots of a region */
extern const kvp_tier_ops kvpi_tier_zram; /* blobs of any size up to slot_bytes */
extern const kvp_tier_ops kvpi_tier_disk; /* fixed slots of a swap file */

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

/* The disk tier's engine ("uring-fixed", ...). */
const char *kvpi_tier_disk_engine(const kvp_tier *tier);
/* The ram tier's whole range, for registering it. */
void kvpi_tier_ram_range(const kvp_tier *tier, void **base, size_t *bytes);

#endif
