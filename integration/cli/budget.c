/* budget.c - finds out before a run whether its pages fit, and how many bytes would do.
 *
 * Of its frames the pager keeps BUDGET_RING_FRAMES for pages on their way; each of the others may hold a
 * page that has no place below, and each slot of the disk one more. */
#include "integration/cli/budget.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define SWAP_HEADER_BYTES 4096u
#define NEEDS "needs at least "

/* What an opened pager tells about pages. */
typedef struct page_facts {
    uint64_t n_lanes, n_frames, slot_bytes;
} page_facts;

kvp_status budget_count_lanes(const session *s, kvp_pager *pager, uint64_t *n_lanes)
{
    kvp_seq *seq;
    kvp_status status = kvp_seq_create(pager, &seq);
    if (status)
        return status;
    *n_lanes = 0;
    for (uint32_t layer = 0; layer < s->info->n_layers && !status; layer++) {
        kvp_layer_info info;
        status = kvp_seq_layer_info(seq, layer, &info);
        if (!status)
            *n_lanes += (info.kind.n_kv_heads + info.page_heads - 1) / info.page_heads;
    }
    kvp_seq_destroy(seq);
    return status;
}

static kvp_status learn(const session *s, kvp_pager *pager, page_facts *facts)
{
    kvp_stats stats = {.size = sizeof stats};
    kvp_status status = kvp_pager_stats(pager, &stats);
    facts->n_frames = stats.n_frames;
    facts->slot_bytes = stats.slot_bytes;
    return status ? status : budget_count_lanes(s, pager, &facts->n_lanes);
}

/* The same of a pager that is opened for this alone. */
static kvp_status probe(const session *s, const kvp_config *cfg, page_facts *facts)
{
    kvp_pager *pager;
    kvp_status status = kvp_pager_open(cfg, &pager);
    if (status)
        return status;
    status = learn(s, pager, facts);
    kvp_pager_close(pager);
    return status;
}

/* The library's message in terms of the command line. */
static kvp_status fail_ram(const session *s, uint64_t needed, const char *remedy)
{
    return kvp_fail(KVP_E_BUDGET, "--ram %s is too small: " NEEDS "%" PRIu64 " bytes (%s)",
                    s->options->ram.text, needed, remedy);
}

static kvp_status reword(const session *s, kvp_status status)
{
    const char *needs = strstr(kvp_error(), NEEDS);
    if (status != KVP_E_BUDGET || strncmp(kvp_error(), "ram_bytes ", 10) != 0 || !needs)
        return status;
    return fail_ram(s, strtoull(needs + strlen(NEEDS), NULL, 10), "less with --page-tokens N");
}

/* ---- RAM alone ---- */

/* Is the budget enough for n_frames? */
static kvp_status is_enough(const session *s, kvp_config *cfg, uint64_t bytes, uint64_t n_frames,
                            bool *yes)
{
    page_facts facts;
    cfg->ram_bytes = bytes;
    kvp_status status = probe(s, cfg, &facts);
    *yes = !status && facts.n_frames >= n_frames;
    return status == KVP_E_BUDGET ? KVP_OK : status;
}

/* The exact number of bytes lies between the frames alone and those with ample metadata. */
static kvp_status fail_without_lower_tier(const session *s, kvp_config cfg, uint64_t n_pages,
                                          uint64_t slot_bytes)
{
    uint64_t n_frames = n_pages + BUDGET_RING_FRAMES;
    uint64_t low = n_frames * slot_bytes, high = low + low / 4 + (1u << 20);
    while (low < high) {
        uint64_t middle = low + (high - low) / 2;
        bool yes;
        kvp_status status = is_enough(s, &cfg, middle, n_frames, &yes);
        if (status)
            return status;
        if (yes)
            high = middle;
        else
            low = middle + 1;
    }
    return fail_ram(s, low, "less with --zram or --disk");
}

static kvp_status open_in_ram(const session *s, const kvp_config *cfg, uint64_t pages_per_lane,
                              kvp_pager **pager)
{
    kvp_config unbounded = *cfg;
    unbounded.ram_bytes = KVP_UNLIMITED;
    page_facts facts;
    bool yes;
    kvp_status status = probe(s, &unbounded, &facts);
    if (status)
        return status;
    uint64_t n_pages = facts.n_lanes * pages_per_lane;
    n_pages = n_pages ? n_pages : 1; /* what the pager wants at least */
    kvp_config tried = *cfg;
    status = is_enough(s, &tried, cfg->ram_bytes, n_pages + BUDGET_RING_FRAMES, &yes);
    if (status)
        return status;
    return yes ? kvp_pager_open(cfg, pager)
               : fail_without_lower_tier(s, *cfg, n_pages, facts.slot_bytes);
}

/* ---- RAM and a bounded disk ---- */

static kvp_status open_on_disk(const session *s, const kvp_config *cfg, uint64_t pages_per_lane,
                               kvp_pager **pager)
{
    kvp_config unbounded = *cfg;
    unbounded.disk_bytes = KVP_UNLIMITED;
    page_facts facts;
    kvp_status status = probe(s, &unbounded, &facts);
    if (status)
        return reword(s, status);
    uint64_t n_pages = facts.n_lanes * pages_per_lane, in_ram = facts.n_frames - BUDGET_RING_FRAMES;
    uint64_t n_slots = n_pages > in_ram ? n_pages - in_ram : 1;
    uint64_t needed = SWAP_HEADER_BYTES + n_slots * facts.slot_bytes;
    if (cfg->disk_bytes < needed)
        return kvp_fail(KVP_E_BUDGET, "--disk %s is too small: " NEEDS "%" PRIu64 " bytes",
                        s->options->disk.text, needed);
    return kvp_pager_open(cfg, pager);
}

kvp_status budget_open(const session *s, uint64_t pages_per_lane, kvp_pager **pager)
{
    kvp_config cfg = session_pager_config(s, false);
    bool is_knowable = cfg.zram_bytes == 0;
    if (is_knowable && cfg.disk_bytes == 0 && cfg.ram_bytes != KVP_UNLIMITED)
        return open_in_ram(s, &cfg, pages_per_lane, pager);
    if (is_knowable && cfg.disk_bytes != 0 && cfg.disk_bytes != KVP_UNLIMITED)
        return open_on_disk(s, &cfg, pages_per_lane, pager);
    return reword(s, kvp_pager_open(&cfg, pager));
}
