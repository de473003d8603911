/* budget.c - finds out before a run whether its pages fit, and how many bytes would do.
 *
 * How many pages compressed RAM holds shows only while they are compressed; what surely does not
 * fit is refused: of an element, compression shortens the byte with the exponent, and no other. */
#include "integration/cli/budget.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "integration/cli/page_facts.h"
#include "integration/cli/recall.h"

#define NEEDS "needs at least "

/* The library's message in terms of the command line. */
static kvp_status fail_ram(const session *s, uint64_t needed, const char *remedy)
{
    return kvp_fail(KVP_E_BUDGET, "--ram %s is too small: " NEEDS "%" PRIu64 " bytes (%s)",
                    s->options->ram.text, recall_whole_budget(s->options, needed), remedy);
}

static kvp_status reword(const session *s, kvp_status status)
{
    const char *needs = strstr(kvp_error(), NEEDS);
    if (status != KVP_E_BUDGET || strncmp(kvp_error(), "ram_bytes ", 10) != 0 || !needs)
        return status;
    return fail_ram(s, strtoull(needs + strlen(NEEDS), NULL, 10), "less with --page-tokens N");
}

/* ---- RAM alone ------------------------------------------------------------------------------- */

static kvp_status check_ram(const session *s, const kvp_config *cfg, const budget_need *need)
{
    kvp_config unbounded = *cfg;
    unbounded.ram_bytes = KVP_UNLIMITED;
    page_facts facts;
    uint64_t needed;
    kvp_status status = page_facts_learn(&unbounded, &facts);
    if (!status)
        status = page_facts_ram(cfg, facts.n_lanes * need->pages_per_lane, &needed);
    if (status)
        return status;
    return cfg->ram_bytes >= needed ? KVP_OK : fail_ram(s, needed, "less with --zram or --disk");
}

/* Without --ram, as much as the machine has. */
static kvp_status check_machine(const page_facts *facts, uint64_t n_pages)
{
    uint64_t n_more = page_facts_overflow(facts, n_pages);
    if (!n_more)
        return KVP_OK;
    return kvp_fail(KVP_E_BUDGET,
                    "the KV of this run does not fit into this machine's RAM: it " NEEDS "%" PRIu64
                    " bytes; --ram SIZE limits it, and the rest goes to disk",
                    (facts->n_frames + n_more) * facts->slot_bytes);
}

/* ---- RAM and what is below it ---------------------------------------------------------------- */

/* Pages that RAM does not hold, and how many of them may end up in compressed RAM. */
typedef struct overflow {
    uint64_t n_pages, n_zram_at_best;
    uint64_t n_last; /* last pages of lanes */
} overflow;

/* The last page of a lane may be nearly empty, and takes no room then. */
static overflow find_overflow(const kvp_config *cfg, const page_facts *facts,
                              const budget_need *need)
{
    overflow o = {.n_pages = page_facts_overflow(facts, facts->n_lanes * need->pages_per_lane),
                  .n_last = facts->n_lanes * need->n_seqs};
    if (cfg->zram_bytes)
        o.n_zram_at_best = cfg->zram_bytes / facts->least_stored_bytes + o.n_last;
    return o;
}

/* Bytes of disk for all pages but `n_elsewhere`. */
static uint64_t disk_bytes_for(const page_facts *facts, const overflow *o, uint64_t n_elsewhere)
{
    return page_facts_disk(facts, o->n_pages > n_elsewhere ? o->n_pages - n_elsewhere : 0);
}

static kvp_status check_zram(const session *s, const kvp_config *cfg, const page_facts *facts,
                             const overflow *o)
{
    if (o->n_pages <= o->n_zram_at_best || cfg->disk_bytes)
        return KVP_OK;
    return kvp_fail(
        KVP_E_BUDGET,
        "--zram %s is too small: " NEEDS "%" PRIu64
        " bytes, however well pages compress; or give a --disk",
        s->options->zram.text,
        recall_whole_budget(s->options, (o->n_pages - o->n_last) * facts->least_stored_bytes));
}

static kvp_status check_disk(const session *s, const kvp_config *cfg, const page_facts *facts,
                             const overflow *o)
{
    uint64_t needed = disk_bytes_for(facts, o, o->n_zram_at_best);
    char note[96] = "";
    if (cfg->disk_bytes == 0 || cfg->disk_bytes >= needed)
        return KVP_OK;
    if (o->n_zram_at_best)
        snprintf(note, sizeof note, ", however well pages compress; %" PRIu64 " always do",
                 recall_whole_budget(s->options, disk_bytes_for(facts, o, 0)));
    return kvp_fail(KVP_E_BUDGET, "--disk %s is too small: " NEEDS "%" PRIu64 " bytes%s",
                    s->options->disk.text, recall_whole_budget(s->options, needed), note);
}

/* Does the file system have room for what will be written? */
static kvp_status check_free_space(const kvp_config *cfg, const page_facts *facts,
                                   const overflow *o)
{
    char folder[1024];
    const char *place = page_facts_swap_place(cfg->disk_path, folder, sizeof folder);
    uint64_t needed = disk_bytes_for(facts, o, o->n_zram_at_best);
    if (cfg->disk_bytes == 0 || o->n_pages == 0)
        return KVP_OK;
    uint64_t n_free = page_facts_free_bytes(place);
    if (n_free >= needed)
        return KVP_OK;
    return kvp_fail(
        KVP_E_NOSPACE,
        "%s: %" PRIu64 " bytes are free, and the KV of this run " NEEDS "%" PRIu64
        " there: free some space, name a file elsewhere with --swap, or give more --ram",
        place, n_free, needed);
}

/* A run would begin: would it end? */
static kvp_status check_room(const session *s, const kvp_config *cfg, const budget_need *need)
{
    page_facts facts;
    kvp_status status = page_facts_learn(cfg, &facts);
    if (status)
        return reword(s, status);
    if (cfg->ram_bytes == KVP_UNLIMITED && !cfg->zram_bytes && !cfg->disk_bytes)
        return check_machine(&facts, facts.n_lanes * need->pages_per_lane);
    const overflow o = find_overflow(cfg, &facts, need);
    status = check_zram(s, cfg, &facts, &o);
    if (!status)
        status = check_disk(s, cfg, &facts, &o);
    return status ? status : check_free_space(cfg, &facts, &o);
}

kvp_status budget_check(const session *s, const budget_need *need)
{
    const kvp_config cfg = session_pager_config(s, false);
    bool has_lower = cfg.zram_bytes || cfg.disk_bytes;
    return has_lower || cfg.ram_bytes == KVP_UNLIMITED ? check_room(s, &cfg, need)
                                                       : check_ram(s, &cfg, need);
}
