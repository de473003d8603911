/* tier_ram.c - frames: the slots of one region, which the CPU reads where they lie.
 *
 * Owns the region and which of its slots are in use. The budget is what frames take; the pager
 * charges the slot pool's bookkeeping (kvpi_slot_pool_bytes) beside it. The region is only
 * reserved: memory is taken when a frame is first written, and then kept, until a lower budget
 * empties the region's upper end and trim() gives it back.
 *
 * Threads: any call at any time, except open and close. */
#include "tiers/tier.h"

#include "alloc/mem.h"
#include "alloc/region.h"
#include "alloc/slot_pool.h"
#include "tiers/done_queue.h"

#include <assert.h>
#include <stdatomic.h>
#include <string.h>

typedef struct tier_ram {
    kvp_tier tier;
    const kvp_mem *mem;
    kvpi_region region;
    kvpi_slot_pool *pool;
    size_t slot_bytes;
    uint32_t n_slots;           /* of the region */
    atomic_uint end;            /* frames below it are handed out */
    atomic_uint n_used, n_peak; /* slots */
    kvpi_done_queue done;
} tier_ram;

static kvp_status count_slots(const kvp_tier_config *cfg, uint32_t *n_slots)
{
    uint64_t bytes = cfg->budget_bytes == KVP_UNLIMITED ? kvpi_machine_bytes() : cfg->budget_bytes;
    uint64_t n = bytes / cfg->slot_bytes;
    if (n == 0)
        return kvp_fail(KVP_E_BUDGET, "a RAM budget of %llu bytes holds no frame of %zu bytes",
                        (unsigned long long)bytes, cfg->slot_bytes);
    *n_slots = n < UINT32_MAX - 1 ? (uint32_t)n : UINT32_MAX - 1;
    return KVP_OK;
}

static kvp_status ram_open(const kvp_tier_config *cfg, kvp_tier **out)
{
    uint32_t n_slots = 0;
    tier_ram *t = NULL;
    kvp_status status = count_slots(cfg, &n_slots);
    if (status)
        return status;
    status = kvpi_alloc(cfg->mem, sizeof *t, "the RAM tier", &t);
    if (status)
        return status;
    status = kvpi_region_open((size_t)n_slots * cfg->slot_bytes, &t->region);
    if (status)
        goto fail_alloc;
    status = kvpi_slot_pool_open(cfg->mem, n_slots, &t->pool);
    if (status)
        goto fail_region;
    t->tier.ops = &kvpi_tier_ram;
    t->mem = cfg->mem;
    t->slot_bytes = cfg->slot_bytes;
    t->n_slots = n_slots;
    atomic_init(&t->end, n_slots);
    kvpi_done_queue_init(&t->done);
    *out = &t->tier;
    return KVP_OK;

fail_region:
    kvpi_region_close(&t->region);
fail_alloc:
    kvpi_free(cfg->mem, t, sizeof *t);
    return status;
}

static void ram_close(kvp_tier *tier)
{
    tier_ram *t = (tier_ram *)tier;
    kvpi_done_queue_fini(&t->done);
    kvpi_slot_pool_close(t->pool);
    kvpi_region_close(&t->region);
    kvpi_free(t->mem, t, sizeof *t);
}

static void note_peak(tier_ram *t, unsigned n_used)
{
    unsigned peak = atomic_load_explicit(&t->n_peak, memory_order_relaxed);
    while (n_used > peak && !atomic_compare_exchange_weak(&t->n_peak, &peak, n_used))
        continue;
}

static kvp_status ram_slot_alloc(kvp_tier *tier, size_t size_bytes, kvp_slot *out)
{
    tier_ram *t = (tier_ram *)tier;
    assert(size_bytes <= t->slot_bytes);
    (void)size_bytes;
    uint32_t slot = kvpi_slot_pool_alloc(t->pool);
    if (slot == KVPI_NO_SLOT)
        return KVP_E_NOSPACE; /* an answer that reclaim waits for: no message */
    note_peak(t, atomic_fetch_add(&t->n_used, 1) + 1);
    *out = slot;
    return KVP_OK;
}

static void ram_slot_free(kvp_tier *tier, kvp_slot slot)
{
    tier_ram *t = (tier_ram *)tier;
    assert(slot < t->n_slots);
    atomic_fetch_sub(&t->n_used, 1); /* first: never more in use than there are */
    kvpi_slot_pool_free(t->pool, (uint32_t)slot);
}

static void *ram_addr(kvp_tier *tier, kvp_slot slot)
{
    tier_ram *t = (tier_ram *)tier;
    assert(slot < t->n_slots);
    return t->region.base + slot * t->slot_bytes;
}

static void copy(tier_ram *t, const kvp_io *io)
{
    assert(io->len_bytes <= t->slot_bytes);
    void *frame = ram_addr(&t->tier, io->slot);
    if (io->op == KVP_IO_READ)
        memcpy(io->buf, frame, io->len_bytes);
    else
        memcpy(frame, io->buf, io->len_bytes);
}

static kvp_status ram_submit(kvp_tier *tier, kvp_io *io)
{
    tier_ram *t = (tier_ram *)tier;
    for (kvp_io *next; io; io = next) {
        next = io->next;
        copy(t, io);
        io->status = KVP_OK;
        io->native_error = 0;
        kvpi_done_queue_push(&t->done, io);
    }
    return KVP_OK;
}

static kvp_status ram_reap(kvp_tier *tier, uint64_t deadline_ns, kvp_io **done)
{
    (void)deadline_ns; /* whatever was submitted is done */
    *done = kvpi_done_queue_pop(&((tier_ram *)tier)->done);
    return KVP_OK;
}

static void ram_usage(kvp_tier *tier, kvp_tier_usage *out)
{
    tier_ram *t = (tier_ram *)tier;
    unsigned n_used = atomic_load(&t->n_used);
    *out = (kvp_tier_usage){
        .slots_used = n_used,
        .slots_free = kvpi_slot_pool_n_free(t->pool),
        .bytes_used = (uint64_t)n_used * t->slot_bytes,
        .bytes_peak = (uint64_t)atomic_load(&t->n_peak) * t->slot_bytes,
        .bytes_over = (uint64_t)kvpi_slot_pool_n_above(t->pool) * t->slot_bytes,
    };
}

static kvp_status ram_set_budget(kvp_tier *tier, uint64_t budget_bytes)
{
    tier_ram *t = (tier_ram *)tier;
    uint64_t n = budget_bytes == KVP_UNLIMITED ? t->n_slots : budget_bytes / t->slot_bytes;
    if (n == 0)
        return kvp_fail(KVP_E_BUDGET, "a RAM budget of %llu bytes holds no frame of %zu bytes",
                        (unsigned long long)budget_bytes, t->slot_bytes);
    if (n > t->n_slots)
        return kvp_fail(KVP_E_INVALID,
                        "a RAM budget of %llu bytes: it grows to the %llu of opening and no "
                        "further; open with more",
                        (unsigned long long)budget_bytes,
                        (unsigned long long)t->n_slots * t->slot_bytes);
    kvpi_slot_pool_set_end(t->pool, (uint32_t)n);
    atomic_store(&t->end, (unsigned)n);
    return KVP_OK;
}

static void ram_trim(kvp_tier *tier)
{
    tier_ram *t = (tier_ram *)tier;
    if (kvpi_slot_pool_n_above(t->pool) == 0)
        kvpi_region_trim(&t->region, atomic_load(&t->end) * t->slot_bytes);
}

void kvpi_tier_ram_range(const kvp_tier *tier, void **base, size_t *bytes)
{
    const tier_ram *t = (const tier_ram *)tier;
    assert(tier->ops == &kvpi_tier_ram);
    *base = t->region.base;
    *bytes = atomic_load(&t->end) * t->slot_bytes;
}

uint32_t kvpi_tier_ram_end(const kvp_tier *tier)
{
    assert(tier->ops == &kvpi_tier_ram);
    return atomic_load(&((const tier_ram *)tier)->end);
}

const kvp_tier_ops kvpi_tier_ram = {
    .abi = KVP_TIER_ABI,
    .caps = KVP_CAP_ADDRESSABLE,
    .name = "ram",
    .open = ram_open,
    .close = ram_close,
    .slot_alloc = ram_slot_alloc,
    .slot_free = ram_slot_free,
    .submit = ram_submit,
    .reap = ram_reap,
    .usage = ram_usage,
    .addr = ram_addr,
    .set_budget = ram_set_budget,
    .trim = ram_trim,
};
