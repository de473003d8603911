/* tier.c - the only caller of kvp_tier_ops: checks arguments, fills in what a backend leaves out.
 *
 * It keeps no state, and knows of the backends only that frames may be registered for I/O. */
#include "tiers/tier.h"

#include <assert.h>
#include <stdbool.h>

#include "alloc/mem.h"

static bool is_complete(const kvp_tier_ops *ops)
{
    return ops->name && ops->open && ops->close && ops->slot_alloc && ops->slot_free &&
           ops->submit && ops->reap && ops->usage &&
           (ops->addr || !(ops->caps & KVP_CAP_ADDRESSABLE));
}

kvp_status kvpi_tier_open(const kvp_tier_ops *ops, const kvp_tier_config *cfg, kvp_tier **out)
{
    if (ops->abi != KVP_TIER_ABI)
        return kvp_fail(KVP_E_UNSUPPORTED, "tier backend %s has ABI %u, this library %u",
                        ops->name ? ops->name : "?", ops->abi, KVP_TIER_ABI);
    if (!is_complete(ops))
        return kvp_fail(KVP_E_INVALID, "tier backend %s lacks operations",
                        ops->name ? ops->name : "?");
    assert(cfg->slot_bytes && cfg->slot_bytes % KVP_IO_ALIGN == 0);
    assert(cfg->max_depth >= 1 && cfg->n_ranges <= 2);
    kvp_tier_config c = *cfg;
    if (!c.mem)
        c.mem = &kvpi_mem_default;
    if (!c.env)
        c.env = kvp_env_default();
    kvp_status s = ops->open(&c, out);
    assert(s || (*out)->ops == ops);
    return s;
}

void kvpi_tier_close(kvp_tier *tier)
{
    if (tier)
        tier->ops->close(tier);
}

kvp_status kvpi_tier_slot_alloc(kvp_tier *tier, size_t size_bytes, kvp_slot *out)
{
    assert(size_bytes);
    return tier->ops->slot_alloc(tier, size_bytes, out);
}

void kvpi_tier_slot_free(kvp_tier *tier, kvp_slot slot)
{
    assert(slot != KVP_SLOT_NONE);
    tier->ops->slot_free(tier, slot);
}

kvp_status kvpi_tier_submit(kvp_tier *tier, kvp_io *io)
{
    for (const kvp_io *i = io; i; i = i->next) {
        assert(i->op == KVP_IO_READ || i->op == KVP_IO_WRITE);
        assert(i->slot != KVP_SLOT_NONE && i->buf && i->len_bytes);
    }
    return tier->ops->submit(tier, io);
}

kvp_status kvpi_tier_reap(kvp_tier *tier, uint64_t deadline_ns, kvp_io **done)
{
    *done = NULL;
    return tier->ops->reap(tier, deadline_ns, done);
}

void kvpi_tier_usage(kvp_tier *tier, kvp_tier_usage *out)
{
    tier->ops->usage(tier, out);
}

void *kvpi_tier_addr(kvp_tier *tier, kvp_slot slot)
{
    assert(slot != KVP_SLOT_NONE);
    return tier->ops->addr ? tier->ops->addr(tier, slot) : NULL;
}

kvp_status kvpi_tier_reserve(kvp_tier *tier, uint64_t n_slots)
{
    return tier->ops->reserve ? tier->ops->reserve(tier, n_slots) : KVP_OK;
}

bool kvpi_tier_are_neighbours(kvp_tier *tier, kvp_slot a, kvp_slot b)
{
    assert(a != KVP_SLOT_NONE && b != KVP_SLOT_NONE);
    return tier->ops->are_neighbours && tier->ops->are_neighbours(tier, a, b);
}

kvp_status kvpi_tier_resize(kvp_tier *tier, kvp_tier *disk, uint64_t budget_bytes,
                            uint64_t *over_bytes)
{
    if (!tier->ops->set_budget)
        return kvp_fail(KVP_E_UNSUPPORTED,
                        "the budget of the tier %s cannot be changed while it is open",
                        tier->ops->name);
    kvp_status s = tier->ops->set_budget(tier, budget_bytes);
    if (s)
        return s;
    kvp_tier_usage usage;
    kvpi_tier_usage(tier, &usage);
    *over_bytes = usage.bytes_over;
    if (usage.bytes_over)
        return KVP_OK;
    if (disk && disk->ops->resize_range && tier->ops == &kvpi_tier_ram) {
        void *base;
        size_t bytes;
        kvpi_tier_ram_range(tier, &base, &bytes);
        disk->ops->resize_range(disk, base, bytes);
    }
    if (tier->ops->trim)
        tier->ops->trim(tier);
    return KVP_OK;
}
