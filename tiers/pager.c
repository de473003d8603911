/* pager.c - open and close: from a configuration to tiers within their budgets. */
#include "tiers/pager.h"

#include "alloc/mem.h"
#include "alloc/slot_pool.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define STRING2(x) #x
#define STRING(x) STRING2(x)
#define REGISTER_LIMIT_BYTES (1ull << 30) /* registering populates: not for more than this */

const char *kvp_version(void)
{
    return STRING(KVP_VERSION_MAJOR) "." STRING(KVP_VERSION_MINOR) "." STRING(KVP_VERSION_PATCH);
}

kvp_config kvp_config_default(void)
{
    return (kvp_config){
        .size = sizeof(kvp_config), .ram_bytes = KVP_UNLIMITED, .placement = &kvp_placement_sticky};
}

/* ---- bookkeeping memory, counted ---- */

static void *counted_alloc(kvp_pager *p, uint64_t *bytes, size_t n, size_t align)
{
    void *mem = p->user_mem.alloc(p->user_mem.opaque, n, align);
    if (mem)
        __atomic_fetch_add(bytes, n, __ATOMIC_RELAXED);
    return mem;
}

static void counted_free(kvp_pager *p, uint64_t *bytes, void *mem, size_t n)
{
    __atomic_fetch_sub(bytes, n, __ATOMIC_RELAXED);
    p->user_mem.free(p->user_mem.opaque, mem, n);
}

static void *mem_alloc(void *opaque, size_t n, size_t align)
{
    kvp_pager *p = opaque;
    return counted_alloc(p, &p->mem_bytes, n, align);
}

static void mem_free(void *opaque, void *mem, size_t n)
{
    kvp_pager *p = opaque;
    counted_free(p, &p->mem_bytes, mem, n);
}

static void *table_alloc(void *opaque, size_t n, size_t align)
{
    kvp_pager *p = opaque;
    return counted_alloc(p, &p->table_bytes, n, align);
}

static void table_free(void *opaque, void *mem, size_t n)
{
    kvp_pager *p = opaque;
    counted_free(p, &p->table_bytes, mem, n);
}

void kvpi_log(const kvp_pager *p, kvp_log_level level, const char *message)
{
    if (p->cfg.log)
        p->cfg.log(p->cfg.log_opaque, level, message);
}

/* ---- the RAM budget ---- */

static size_t frame_metadata_bytes(uint64_t n_frames)
{
    return kvpi_slot_pool_bytes((uint32_t)n_frames) + n_frames * sizeof(kvp_placement_node);
}

/* What n frames with n_units staging buffers are charged. */
static uint64_t ram_charge(const kvp_pager *p, uint64_t n_frames, uint32_t n_units)
{
    return (n_frames + n_units) * p->geometry.slot_bytes + frame_metadata_bytes(n_frames) +
           p->cfg.linear_bytes;
}

/* The most frames that fit; 0: none. */
static uint64_t frames_that_fit(const kvp_pager *p, uint64_t bytes, uint32_t n_units)
{
    uint64_t low = 0, high = bytes / p->geometry.slot_bytes;
    high = high < UINT32_MAX / 2 ? high : UINT32_MAX / 2;
    while (low < high) {
        uint64_t mid = (low + high + 1) / 2;
        if (ram_charge(p, mid, n_units) <= bytes)
            low = mid;
        else
            high = mid - 1;
    }
    return low;
}

uint32_t kvpi_frames_in(const kvp_pager *p, uint64_t bytes)
{
    if (bytes == KVP_UNLIMITED)
        return p->max_frames;
    uint64_t fixed = kvpi_ram_charged(p, 0); /* metadata of all that is reserved */
    uint64_t n = bytes > fixed ? (bytes - fixed) / p->geometry.slot_bytes : 0;
    return n < p->max_frames ? (uint32_t)n : p->max_frames;
}

static kvp_status fail_budget(const kvp_pager *p, uint64_t needed)
{
    return kvp_fail(KVP_E_BUDGET,
                    "ram_bytes is %llu: needs at least %llu (frames of %zu bytes; fewer "
                    "page_tokens make them smaller)",
                    (unsigned long long)p->cfg.ram_bytes, (unsigned long long)needed,
                    p->geometry.slot_bytes);
}

/* Divide ram_bytes into frames, staging buffers and metadata. */
static kvp_status plan_ram(kvp_pager *p)
{
    bool has_zram = p->cfg.zram_bytes != 0;
    uint32_t min_frames = kvpi_min_frames(p);
    uint32_t n_units = has_zram ? 1 : 0;
    uint64_t bytes = p->cfg.ram_bytes == KVP_UNLIMITED ? kvpi_machine_bytes() : p->cfg.ram_bytes;
    if (ram_charge(p, min_frames, n_units) > bytes)
        return fail_budget(p, ram_charge(p, min_frames, n_units));
    while (has_zram && n_units < KVPI_MAX_UNITS &&
           frames_that_fit(p, bytes, n_units) >= 16 * n_units)
        n_units++;
    uint64_t n = frames_that_fit(p, bytes, n_units);
    p->n_frames = p->max_frames = (uint32_t)n;
    p->max_ram_bytes = p->cfg.ram_bytes;
    kvpi_account_set_limits(p->root, KVP_TIER_RAM, 0, n);
    p->n_units = n_units;
    p->staging_bytes = n_units * (uint64_t)p->geometry.slot_bytes;
    p->fixed_bytes = frame_metadata_bytes(p->n_frames);
    p->stats.ram_peak_bytes = kvpi_ram_charged(p, 0);
    kvpi_ahead_set_window(p);
    return KVP_OK;
}

/* ---- tiers ---- */

static kvp_status open_ram(kvp_pager *p)
{
    kvp_tier_config cfg = {.budget_bytes = (uint64_t)p->n_frames * p->geometry.slot_bytes,
                           .slot_bytes = p->geometry.slot_bytes,
                           .max_depth = 1,
                           .mem = &p->mem,
                           .env = &p->env};
    kvp_status status = kvpi_alloc(&p->mem, p->n_frames * sizeof *p->frame_nodes,
                                   "metadata of frames", &p->frame_nodes);
    return status ? status : kvpi_tier_open(&kvpi_tier_ram, &cfg, &p->ram);
}

static bool has_opaque_layer(const kvpi_geometry *g)
{
    for (uint32_t i = 0; i < g->n_layers; i++)
        if (g->layers[i].dtype == KVP_OPAQUE)
            return true;
    return false;
}

static kvp_status open_units(kvp_pager *p)
{
    if (!p->n_units)
        return KVP_OK;
    kvp_status status =
        kvpi_alloc(&p->mem, p->geometry.n_lanes * sizeof *p->habits, "the codec", &p->habits);
    if (!status)
        status = kvpi_region_open(p->staging_bytes, &p->staging);
    for (uint32_t i = 0; i < p->n_units && !status; i++) {
        size_t bytes;
        kvpi_unit *u = &p->units[i];
        u->staging = p->staging.base + i * p->geometry.slot_bytes;
        status = kvpi_codec_open(&p->mem, p->geometry.slot_bytes, has_opaque_layer(&p->geometry),
                                 &u->codec, &bytes);
        u->next = p->free_units;
        p->free_units = u;
    }
    return status;
}

static kvp_status open_zram(kvp_pager *p)
{
    if (!p->cfg.zram_bytes)
        return KVP_OK;
    p->max_zram_bytes = p->cfg.zram_bytes;
    kvpi_account_set_limits(p->root, KVP_TIER_ZRAM, 0, p->cfg.zram_bytes);
    kvp_tier_config cfg = {.budget_bytes = p->cfg.zram_bytes,
                           .slot_bytes = p->geometry.slot_bytes,
                           .max_depth = 1,
                           .mem = &p->mem,
                           .env = &p->env};
    return kvpi_tier_open(&kvpi_tier_zram, &cfg, &p->lower[KVPI_ZRAM]);
}

static void add_range(kvp_tier_config *cfg, void *base, size_t bytes)
{
    if (!bytes || bytes > REGISTER_LIMIT_BYTES)
        return;
    cfg->ranges[cfg->n_ranges].base = base;
    cfg->ranges[cfg->n_ranges].bytes = bytes;
    cfg->n_ranges++;
}

static kvp_status open_disk(kvp_pager *p)
{
    if (!p->cfg.disk_bytes)
        return KVP_OK;
    kvp_tier_config cfg = {.budget_bytes = p->cfg.disk_bytes,
                           .slot_bytes = p->geometry.slot_bytes,
                           .max_depth = KVPI_MAX_TRANSFERS,
                           .mem = &p->mem,
                           .env = &p->env,
                           .path = p->cfg.disk_path,
                           .engine = p->cfg.disk_engine,
                           .has_small_slots = p->cfg.zram_bytes > 0};
    void *base;
    size_t bytes;
    kvpi_tier_ram_range(p->ram, &base, &bytes);
    add_range(&cfg, base, bytes);
    add_range(&cfg, p->staging.base, p->staging.bytes);
    kvp_status status = kvpi_tier_open(&kvpi_tier_disk, &cfg, &p->lower[KVPI_DISK]);
    if (!status) {
        char message[96];
        snprintf(message, sizeof message, "disk engine: %s",
                 kvpi_tier_disk_engine(p->lower[KVPI_DISK]));
        kvpi_log(p, KVP_LOG_INFO, message);
        kvp_tier_usage usage;
        kvpi_tier_usage(p->lower[KVPI_DISK], &usage);
        p->max_slots = usage.slots_free;
        p->max_disk_bytes = p->cfg.disk_bytes;
        kvpi_account_set_limits(p->root, KVP_TIER_DISK, 0, p->max_slots);
    }
    return status;
}

/* ---- open and close ---- */

static void resolve_config(kvp_pager *p, const kvp_config *cfg)
{
    p->cfg = *cfg; /* its strings are used while opening only */
    p->env = cfg->env ? *cfg->env : *kvp_env_default();
    p->user_mem = cfg->mem ? *cfg->mem : kvpi_mem_default;
    p->mem = (kvp_mem){.alloc = mem_alloc, .free = mem_free, .opaque = p};
    p->table_mem = (kvp_mem){.alloc = table_alloc, .free = table_free, .opaque = p};
    if (!p->cfg.placement)
        p->cfg.placement = &kvp_placement_sticky;
}

static kvp_status check_config(const kvp_config *cfg)
{
    if (!cfg)
        return kvp_fail(KVP_E_INVALID, "kvp_pager_open: cfg is NULL");
    if (cfg->size != sizeof *cfg)
        return kvp_fail(KVP_E_INVALID, "kvp_pager_open: cfg was not made by kvp_config_default()");
    if (cfg->disk_path && !cfg->disk_bytes)
        return kvp_fail(KVP_E_INVALID, "disk_path is set, but disk_bytes is 0: give the disk a "
                                       "budget, e.g. KVP_UNLIMITED");
    if (cfg->zram_bytes == KVP_UNLIMITED)
        return kvp_fail(KVP_E_INVALID, "zram_bytes must be a number of bytes");
    if (cfg->linear_bytes && (cfg->linear_bytes >= cfg->ram_bytes || cfg->linear_bytes > INT64_MAX))
        return kvp_fail(KVP_E_INVALID, "linear_bytes is a part of ram_bytes, and must be less");
    return KVP_OK;
}

static void init_locks(kvp_pager *p)
{
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC); /* deadlines are on env.now_ns()'s clock */
    pthread_mutex_init(&p->lock, NULL);
    pthread_mutex_init(&p->zram_lock, NULL);
    pthread_cond_init(&p->progress, &attr);
    pthread_condattr_destroy(&attr);
}

/* Threads to compute on; from here on cfg.n_threads says how many. */
static kvp_status open_pool(kvp_pager *p)
{
    if (!p->cfg.pool && !p->cfg.parallel_for) {
        kvp_status status = kvp_pool_open(p->cfg.n_threads, &p->mem, &p->env, &p->own_pool);
        if (status)
            return status;
        p->cfg.pool = p->own_pool;
    }
    if (!p->cfg.parallel_for)
        p->cfg.n_threads = kvp_pool_threads(p->cfg.pool);
    else if (!p->cfg.n_threads)
        p->cfg.n_threads = kvpi_cpu_count();
    if (p->cfg.n_threads > KVP_SCAN_MAX_PARTS)
        p->cfg.n_threads = KVP_SCAN_MAX_PARTS;
    return KVP_OK;
}

static kvp_status open_parts(kvp_pager *p, const kvp_config *cfg)
{
    kvp_status status = kvpi_geometry_init(&p->geometry, &cfg->geometry, &p->mem);
    if (!status)
        status = kvpi_accounts_open(p);
    if (!status)
        status = p->env.random(p->env.opaque, &p->store_id, sizeof p->store_id);
    if (!status)
        status = plan_ram(p);
    if (!status)
        status = open_ram(p);
    if (!status)
        status = open_units(p);
    if (!status)
        status = open_zram(p);
    if (!status)
        status = open_disk(p);
    if (!status)
        status = kvpi_policy_open(p, p->root, KVP_TIER_RAM);
    if (!status)
        status = kvpi_policy_open(p, p->root, KVP_TIER_ZRAM);
    if (!status)
        status = kvpi_scans_open(p);
    if (!status)
        kvpi_digests_open(p);
    if (!status)
        status = kvpi_linears_open(p);
    if (!status)
        status = open_pool(p);
    return status;
}

kvp_status kvp_pager_open(const kvp_config *cfg, kvp_pager **out)
{
    kvp_status status = check_config(cfg);
    if (status)
        return status;
    const kvp_mem *mem = cfg->mem ? cfg->mem : &kvpi_mem_default;
    kvp_pager *p;
    status = kvpi_alloc(mem, sizeof *p, "pager", &p);
    if (status)
        return status;
    resolve_config(p, cfg);
    init_locks(p);
    kvpi_tickets_open(p);
    kvpi_page_table_init(&p->pages, kvpi_policy_memories(&p->cfg), &p->table_mem);
    p->next_serial = 1;
    p->last_seq = UINT32_MAX;
    p->help = (kvpi_help){.some = kvpi_help_out, .arg = p};
    p->ready_end = &p->ready_first;
    p->outbox_end = &p->outbox_first;
    for (uint32_t i = KVPI_MAX_TRANSFERS; i-- > 0;) {
        p->transfers[i].next = p->free_transfers;
        p->free_transfers = &p->transfers[i];
    }
    status = open_parts(p, cfg);
    if (status) {
        kvp_pager_close(p);
        return status;
    }
    *out = p;
    return KVP_OK;
}

void kvp_pager_close(kvp_pager *p)
{
    if (!p)
        return;
    kvpi_linears_close(p);
    kvpi_tickets_close(p);
    kvpi_lock(p);
    p->ahead_seq = NULL;
    kvpi_drain(p);
    kvpi_unlock(p);
    kvpi_pool_retire(p->cfg.pool, &p->help);
    for (kvp_seq *seq = p->seqs, *next; seq; seq = next) {
        next = seq->next;
        kvpi_seq_delete(seq, &p->geometry, &p->table_mem);
    }
    kvpi_free(&p->table_mem, p->chains, p->n_chains * sizeof *p->chains);
    kvp_pool_close(p->own_pool);
    kvpi_scans_close(p);
    kvpi_digests_close(p);
    kvpi_accounts_close(p);
    kvpi_tier_close(p->lower[KVPI_DISK]); /* before the memory that is registered with it */
    kvpi_tier_close(p->lower[KVPI_ZRAM]);
    for (uint32_t i = 0; i < p->n_units; i++)
        kvpi_codec_close(p->units[i].codec);
    kvpi_region_close(&p->staging);
    kvpi_tier_close(p->ram);
    kvpi_free(&p->mem, p->frame_nodes, p->max_frames * sizeof *p->frame_nodes);
    kvpi_page_table_fini(&p->pages);
    kvpi_free(&p->mem, p->habits, p->geometry.n_lanes * sizeof *p->habits);
    kvpi_geometry_fini(&p->geometry, &p->mem);
    pthread_cond_destroy(&p->progress);
    pthread_mutex_destroy(&p->zram_lock);
    pthread_mutex_destroy(&p->lock);
    kvp_mem mem = p->user_mem;
    kvpi_free(&mem, p, sizeof *p);
}
