/* stats.c - counters, and a picture of the moment. */
#include "tiers/pager.h"

#include <stddef.h>
#include <string.h>

static void count_pages(const kvp_pager *p, kvp_stats *s)
{
    for (uint32_t i = 0; i < kvpi_page_table_end(&p->pages); i++) {
        const kvpi_page *pg = kvpi_page_at(&p->pages, i);
        if (!kvpi_page_is(pg, KVPI_PAGE_USED))
            continue;
        if (kvpi_page_is(pg, KVPI_PAGE_LOST))
            s->pages_lost++;
        else if (kvpi_page_is(pg, KVPI_PAGE_RESIDENT))
            s->pages[KVP_TIER_RAM]++;
        else if (pg->copy[KVPI_ZRAM].is_valid)
            s->pages[KVP_TIER_ZRAM]++;
        else
            s->pages[KVP_TIER_DISK]++;
    }
}

static void fill_tiers(kvp_pager *p, kvp_stats *s)
{
    kvp_tier_usage usage;
    if (p->lower[KVPI_ZRAM]) {
        pthread_mutex_lock(&p->zram_lock);
        kvpi_tier_usage(p->lower[KVPI_ZRAM], &usage);
        pthread_mutex_unlock(&p->zram_lock);
        s->zram_bytes = usage.bytes_used;
        s->zram_peak_bytes = usage.bytes_peak;
    }
    if (p->lower[KVPI_DISK]) {
        kvpi_tier_usage(p->lower[KVPI_DISK], &usage);
        s->disk_bytes = usage.bytes_used;
        s->disk_peak_bytes = usage.bytes_peak;
    }
    s->disk_engine = p->lower[KVPI_DISK] ? kvpi_tier_disk_engine(p->lower[KVPI_DISK]) : "";
}

kvp_status kvp_pager_stats(kvp_pager *p, kvp_stats *out)
{
    if (!p || !out)
        return kvp_fail(KVP_E_INVALID, "kvp_pager_stats: an argument is NULL");
    if (out->size < offsetof(kvp_stats, pages) || out->size > sizeof *out)
        return kvp_fail(KVP_E_INVALID, "kvp_pager_stats: set stats.size to sizeof(kvp_stats)");
    kvpi_lock(p);
    kvp_stats s = p->stats;
    s.size = out->size;
    count_pages(p, &s);
    fill_tiers(p, &s);
    s.ram_budget_bytes = p->cfg.ram_bytes;
    s.frame_bytes = (uint64_t)p->n_in_use * p->geometry.slot_bytes;
    s.staging_bytes = p->staging_bytes;
    s.metadata_bytes = p->fixed_bytes;
    s.linear_bytes = p->cfg.linear_bytes;
    s.ram_bytes = kvpi_ram_charged(p, p->n_in_use);
    s.table_bytes = kvpi_page_table_bytes(&p->pages);
    for (const kvp_seq *seq = p->seqs; seq; seq = seq->next)
        s.table_bytes += kvpi_seq_bytes(seq, &p->geometry);
    uint64_t held = kvpi_mem_held(p);
    uint64_t known = s.table_bytes + s.metadata_bytes;
    s.workspace_bytes = held > known ? held - known : 0;
    s.slot_bytes = p->geometry.slot_bytes;
    s.n_frames = p->n_frames;
    s.placement = p->cfg.placement->name;
    kvpi_unlock(p);
    memcpy(out, &s, s.size);
    return KVP_OK;
}
