/* page_facts.c - opens pagers to see what they make of a budget.
 *
 * Of its frames the pager keeps RING_FRAMES for pages on their way; each of the others may hold a
 * page that has no place below, and each slot of the disk one more. */
#include "integration/cli/page_facts.h"

#include <stdlib.h>
#include <string.h>

#define RING_FRAMES 3u
#define SWAP_HEADER_BYTES 4096u

static kvp_status count_lanes(kvp_pager *pager, uint32_t n_layers, page_facts *facts)
{
    kvp_seq *seq;
    kvp_status status = kvp_seq_create(pager, &seq);
    if (status)
        return status;
    facts->n_lanes = 0;
    for (uint32_t layer = 0; layer < n_layers && !status; layer++) {
        kvp_layer_info info;
        status = kvp_seq_layer_info(seq, layer, &info);
        if (status)
            break;
        facts->n_lanes += (info.kind.n_kv_heads + info.page_heads - 1) / info.page_heads;
        facts->page_tokens = info.page_tokens;
    }
    kvp_seq_destroy(seq);
    return status;
}

kvp_status page_facts_of(kvp_pager *pager, uint32_t n_layers, page_facts *facts)
{
    kvp_stats stats = {.size = sizeof stats};
    kvp_status status = kvp_pager_stats(pager, &stats);
    facts->n_frames = stats.n_frames;
    facts->slot_bytes = stats.slot_bytes;
    return status ? status : count_lanes(pager, n_layers, facts);
}

kvp_status page_facts_learn(const kvp_config *cfg, page_facts *facts)
{
    kvp_pager *pager;
    kvp_status status = kvp_pager_open(cfg, &pager);
    if (status)
        return status;
    status = page_facts_of(pager, cfg->geometry.n_layers, facts);
    kvp_pager_close(pager);
    return status;
}

/* Is the budget enough for n_frames? */
static kvp_status is_enough(kvp_config *cfg, uint64_t bytes, uint64_t n_frames, bool *yes)
{
    page_facts facts;
    cfg->ram_bytes = bytes;
    kvp_status status = page_facts_learn(cfg, &facts);
    *yes = !status && facts.n_frames >= n_frames;
    return status == KVP_E_BUDGET ? KVP_OK : status;
}

/* The exact number of bytes lies between the frames alone and those with ample metadata. */
kvp_status page_facts_ram(const kvp_config *given, uint64_t n_pages, uint64_t *bytes)
{
    kvp_config cfg = *given;
    page_facts facts;
    cfg.ram_bytes = KVP_UNLIMITED;
    cfg.zram_bytes = cfg.disk_bytes = 0;
    cfg.disk_path = NULL;
    kvp_status status = page_facts_learn(&cfg, &facts);
    if (status)
        return status;
    uint64_t n_frames = (n_pages ? n_pages : 1) + RING_FRAMES; /* one: what the pager wants */
    uint64_t low = n_frames * facts.slot_bytes, high = low + low / 4 + (1u << 20);
    while (low < high) {
        uint64_t middle = low + (high - low) / 2;
        bool yes;
        status = is_enough(&cfg, middle, n_frames, &yes);
        if (status)
            return status;
        if (yes)
            high = middle;
        else
            low = middle + 1;
    }
    *bytes = low;
    return KVP_OK;
}

kvp_status page_facts_least_ram(const kvp_config *given, uint64_t *bytes)
{
    static const char needs[] = "needs at least "; /* kvp_pager_open()'s promise */
    kvp_config cfg = *given;
    page_facts facts;
    cfg.ram_bytes = 1;
    kvp_status status = page_facts_learn(&cfg, &facts);
    const char *number = status == KVP_E_BUDGET ? strstr(kvp_error(), needs) : NULL;
    if (!number)
        return status;
    *bytes = strtoull(number + strlen(needs), NULL, 10);
    return KVP_OK;
}

uint64_t page_facts_disk(const page_facts *facts, uint64_t n_pages)
{
    uint64_t in_ram = facts->n_frames - RING_FRAMES;
    uint64_t n_slots = n_pages > in_ram ? n_pages - in_ram : 1;
    return SWAP_HEADER_BYTES + n_slots * facts->slot_bytes;
}
