/* stats.c - counters, and a picture of the moment. */
#include "tiers/pager.h"

#include <stddef.h>
#include <string.h>

_Static_assert(KVPI_N_CODECS <= KVP_MAX_CODECS, "kvp_stats.codecs has room for all");

const char *kvp_codec_name(uint32_t codec)
{
    return kvpi_codec_name((kvpi_codec_id)codec);
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
        s->disk_bytes_moved = usage.bytes_moved;
        s->disk_segments_cleaned = usage.segments_cleaned;
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
    kvpi_pressure_pass(p);
    kvp_stats s = p->stats;
    s.size = out->size;
    fill_tiers(p, &s);
    s.ram_budget_bytes = p->cfg.ram_bytes;
    s.frame_bytes = p->root->used[KVP_TIER_RAM] * p->geometry.slot_bytes;
    s.staging_bytes = p->staging_bytes;
    s.metadata_bytes = p->fixed_bytes;
    s.linear_bytes = p->cfg.linear_bytes;
    s.ram_bytes = kvpi_ram_charged(p, (uint32_t)p->root->used[KVP_TIER_RAM]);
    s.table_bytes = __atomic_load_n(&p->table_bytes, __ATOMIC_RELAXED);
    s.workspace_bytes = __atomic_load_n(&p->mem_bytes, __ATOMIC_RELAXED) - s.metadata_bytes;
    s.slot_bytes = p->geometry.slot_bytes;
    s.n_frames = p->n_frames;
    s.placement = p->cfg.placement->name;
    kvpi_unlock(p);
    memcpy(out, &s, s.size);
    return KVP_OK;
}
