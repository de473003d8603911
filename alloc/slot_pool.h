/* slot_pool.h - the slot allocator: numbers 0 .. n_slots - 1, handed out and taken back by any
 * thread. Per-thread magazines over a shared depot; no metadata in the slots themselves. */
#ifndef KVPI_ALLOC_SLOT_POOL_H
#define KVPI_ALLOC_SLOT_POOL_H

#include <stddef.h>
#include <stdint.h>

#include "kvpager/mem.h"
#include "kvpager/status.h"

typedef struct kvpi_slot_pool kvpi_slot_pool;

/* Bytes of bookkeeping that a pool of n_slots takes: what open() asks of `mem`. */
size_t kvpi_slot_pool_bytes(uint32_t n_slots);

/* n_slots 1 .. UINT32_MAX - 1. Errors: KVP_E_NOMEM. */
KVP_NODISCARD kvp_status kvpi_slot_pool_open(const kvp_mem *mem, uint32_t n_slots,
                                             kvpi_slot_pool **out);
void kvpi_slot_pool_close(kvpi_slot_pool *pool); /* no other call running; NULL does nothing */

/* KVP_E_NOSPACE only if every slot is really in use: all magazines are drained first. Fresh pools
 * hand out ascending, adjacent slots. */
KVP_NODISCARD kvp_status kvpi_slot_pool_alloc(kvpi_slot_pool *pool, uint32_t *slot);
void kvpi_slot_pool_free(kvpi_slot_pool *pool, uint32_t slot);

/* Slots not in use (exact when no call is running). */
uint32_t kvpi_slot_pool_n_free(const kvpi_slot_pool *pool);

#endif
