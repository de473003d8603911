/* placement_attention_mass.c - the page with the least attention mass leaves first.
 *
 * Mass is what kvp_attend() tells: the share of its lane's attention that a page had, averaged over
 * its uses (each new one counts a quarter), and halving with time while the page is not used, so
 * that a sequence that rests does not keep its heavy pages for ever. A page that has not been
 * measured yet counts as heavy. Among equals the one used last leaves first: they are pages of a
 * scan, and with the other order a cyclic scan would hit none of them.
 *
 * Averages are kept by page number, also of pages that are not here. */
#include "kvpager/placement.h"

#include "alloc/mem.h"
#include "tiers/placement_aging.h"

#include <math.h>
#include <string.h>

#define NEW_SHARE 0.25f
#define LEAST 0x1p-31f /* less counts as this */

typedef struct placement_mass {
    kvp_placement placement;
    kvpi_aging aging;
} placement_mass;

static kvp_status mass_open(const kvp_placement_config *cfg, kvp_placement **out)
{
    placement_mass *p = NULL;
    kvp_status status = kvpi_alloc(cfg->mem, sizeof *p, "the placement policy", &p);
    if (status)
        return status;
    p->placement.ops = &kvp_placement_attention_mass;
    kvpi_aging_init(&p->aging, cfg);
    *out = &p->placement;
    return KVP_OK;
}

static void mass_close(kvp_placement *placement)
{
    placement_mass *p = (placement_mass *)placement;
    kvpi_free(p->aging.lists.cfg.mem, p, sizeof *p);
}

/* The bits of the average; 0: not measured. */
static uint32_t *memory_of(const placement_mass *p, uint32_t page)
{
    return p->aging.lists.cfg.memory(p->aging.lists.cfg.opaque, page);
}

static float mass_of(const placement_mass *p, uint32_t page)
{
    float mass;
    memcpy(&mass, memory_of(p, page), sizeof mass);
    return mass;
}

static uint32_t step_of(const placement_mass *p, uint32_t page)
{
    float mass = mass_of(p, page);
    if (mass == 0)
        return KVPI_AGING_STEPS - 1;
    long step = lroundf(KVPI_AGING_OCTAVE * log2f(mass)) + (long)KVPI_AGING_STEPS - 1;
    return step > 0 ? (uint32_t)step : 0;
}

static void mass_insert(kvp_placement *placement, const kvp_placement_page *page)
{
    placement_mass *p = (placement_mass *)placement;
    if (page->is_used)
        kvpi_aging_tick(&p->aging);
    if (!kvpi_aging_push_special(&p->aging, page))
        kvpi_aging_push(&p->aging, page->page, step_of(p, page->page), true);
}

static void mass_remove(kvp_placement *placement, uint32_t page, kvp_removal why)
{
    (void)why;
    kvpi_aging_take(&((placement_mass *)placement)->aging, page);
}

static uint32_t mass_victim(kvp_placement *placement, uint32_t after)
{
    return kvpi_aging_walk(&((placement_mass *)placement)->aging, after);
}

static void mass_note(kvp_placement *placement, uint32_t page, float mass)
{
    placement_mass *p = (placement_mass *)placement;
    float before = mass_of(p, page);
    float now = mass > LEAST ? (mass < 1 ? mass : 1) : LEAST; /* a NaN is the least, too */
    now = before == 0 ? now : before + NEW_SHARE * (now - before);
    memcpy(memory_of(p, page), &now, sizeof now);
}

const kvp_placement_ops kvp_placement_attention_mass = {
    .name = "attention-mass",
    .open = mass_open,
    .close = mass_close,
    .insert = mass_insert,
    .remove = mass_remove,
    .victim = mass_victim,
    .mass = mass_note,
    .remembers = true,
};
