/* pressure.c - how long threads waited, and for which tier, as /proc/pressure has it.
 *
 * A thread is inside the pager while it holds the lock or waits; one that computes with a page that
 * a scan or an append holds for it is at work. Threads elsewhere count as idle. Time is only looked
 * at while somebody waits, so that a run without stalls does not pay for it. */
#include "tiers/pager.h"

void kvpi_pressure_pass(kvp_pager *p)
{
    if (!p->pressure.n_stalled)
        return;
    uint64_t now = p->env.now_ns(p->env.opaque), ns = now - p->pressure.since_ns;
    bool is_full = p->pressure.n_stalled == p->pressure.n_inside && !p->pressure.n_working;
    for (int t = 0; t < KVP_N_TIERS; t++) {
        if (!p->pressure.n_stalled_for[t])
            continue;
        p->stats.stall_some_ns[t] += ns;
        p->stats.stall_full_ns[t] += is_full ? ns : 0;
    }
    p->pressure.since_ns = now;
}

void kvpi_stall_begin(kvp_pager *p, kvp_tier_id tier)
{
    if (tier == KVPI_NO_STALL) {
        kvpi_pressure_pass(p);
        p->pressure.n_inside--;
        return;
    }
    if (p->pressure.n_stalled)
        kvpi_pressure_pass(p);
    else
        p->pressure.since_ns = p->env.now_ns(p->env.opaque);
    p->pressure.n_stalled++;
    p->pressure.n_stalled_for[tier]++;
    p->stats.stalls[tier]++;
}

void kvpi_stall_end(kvp_pager *p, kvp_tier_id tier)
{
    kvpi_pressure_pass(p);
    if (tier == KVPI_NO_STALL) {
        p->pressure.n_inside++;
        return;
    }
    p->pressure.n_stalled--;
    p->pressure.n_stalled_for[tier]--;
}

void kvpi_count_work(kvp_pager *p, int32_t n)
{
    kvpi_pressure_pass(p);
    p->pressure.n_working += (uint32_t)n;
}
