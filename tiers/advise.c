/* advise.c - hints of the caller about what it will use: they move no byte, only the order in which
 * pages leave. */
#include "tiers/pager.h"

static void cool_lane(kvp_pager *p, const kvpi_lane *lane, uint64_t begin, uint64_t end)
{
    uint32_t page_tokens = p->geometry.page_tokens;
    for (uint32_t i = kvpi_lane_find(lane, begin, page_tokens); i < lane->n_entries; i++) {
        if (kvpi_lane_first_position(lane, i, page_tokens) >= end)
            return;
        kvpi_cool(p, lane->entries[i].page);
    }
}

kvp_status kvp_seq_advise(kvp_seq *seq, uint64_t first, uint64_t n_tokens, kvp_advice advice)
{
    if (!seq)
        return kvp_fail(KVP_E_INVALID, "kvp_seq_advise: seq is NULL");
    if (advice != KVP_COLD)
        return kvp_fail(KVP_E_INVALID, "kvp_seq_advise: there is no advice %d", (int)advice);
    kvp_pager *p = seq->pager;
    uint64_t end = n_tokens < UINT64_MAX - first ? first + n_tokens : UINT64_MAX;
    kvpi_lock(p);
    for (uint32_t i = 0; i < p->geometry.n_lanes && n_tokens; i++)
        cool_lane(p, &seq->lanes[i], first, end);
    kvpi_unlock(p);
    return KVP_OK;
}
