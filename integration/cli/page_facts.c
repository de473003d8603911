/* page_facts.c - opens pagers to see what they make of a budget.
 *
 * Of its frames the pager keeps RING_FRAMES for pages on their way; each of the others may hold a
 * page that has no place below, and each slot of the disk one more. With a disk it does with one
 * frame less; nothing else that is asked here depends on the disk. */
#include "integration/cli/page_facts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define RING_FRAMES 3u
#define SWAP_HEADER_BYTES 8192u
#define LEAST_SEGMENTS 16u

/* ---- learning -------------------------------------------------------------------------------- */

/* The smallest page of the layer, without the byte of each element that may vanish. */
static uint64_t least_stored_bytes(const kvp_layer_info *info)
{
    uint32_t rest = info->kind.n_kv_heads % info->page_heads;
    uint64_t n_heads = rest ? rest : info->page_heads;
    uint64_t n_elements =
        n_heads * info->page_tokens * ((uint64_t)info->kind.k_width + info->kind.v_width);
    return n_elements * (kvp_dtype_bytes(info->kind.dtype) - 1);
}

static kvp_status learn_lanes(kvp_pager *pager, uint32_t n_layers, page_facts *facts)
{
    kvp_seq *seq;
    kvp_status status = kvp_seq_create(pager, &seq);
    if (status)
        return status;
    for (uint32_t layer = 0; layer < n_layers && !status; layer++) {
        kvp_layer_info info;
        status = kvp_seq_layer_info(seq, layer, &info);
        if (status)
            break;
        uint64_t bytes = least_stored_bytes(&info);
        facts->n_lanes += (info.kind.n_kv_heads + info.page_heads - 1) / info.page_heads;
        facts->page_tokens = info.page_tokens;
        if (layer == 0 || bytes < facts->least_stored_bytes)
            facts->least_stored_bytes = bytes;
    }
    kvp_seq_destroy(seq);
    return status;
}

static kvp_status facts_of(kvp_pager *pager, uint32_t n_layers, page_facts *facts)
{
    kvp_stats stats = {.size = sizeof stats};
    kvp_status status = kvp_pager_stats(pager, &stats);
    *facts = (page_facts){.n_frames = stats.n_frames, .slot_bytes = stats.slot_bytes};
    return status ? status : learn_lanes(pager, n_layers, facts);
}

static kvp_status open_and_ask(const kvp_config *given, page_facts *facts)
{
    kvp_config cfg = *given;
    kvp_pager *pager;
    cfg.n_threads = 1; /* without a pool: nothing is computed */
    kvp_status status = kvp_pager_open(&cfg, &pager);
    if (status)
        return status;
    status = facts_of(pager, cfg.geometry.n_layers, facts);
    facts->has_zram = cfg.zram_bytes > 0;
    kvp_pager_close(pager);
    return status;
}

kvp_status page_facts_learn(const kvp_config *given, page_facts *facts)
{
    kvp_config cfg = *given;
    uint64_t least = 0;
    if (!given->disk_bytes)
        return open_and_ask(given, facts);
    cfg.disk_bytes = 0;
    cfg.disk_path = NULL;
    kvp_status status = open_and_ask(&cfg, facts);
    if (status != KVP_E_BUDGET)
        return status;
    status = page_facts_least_ram(given, &least);
    if (!status && given->ram_bytes < least)
        return open_and_ask(given, facts); /* which fails before it comes to the disk */
    if (!status)
        status = page_facts_least_ram(&cfg, &cfg.ram_bytes);
    if (!status)
        status = open_and_ask(&cfg, facts);
    if (!status)
        facts->n_frames--; /* the one that only the disk makes unnecessary */
    return status;
}

/* ---- what is enough -------------------------------------------------------------------------- */

uint64_t page_facts_room(uint64_t n_frames)
{
    return n_frames - RING_FRAMES;
}

uint64_t page_facts_overflow(const page_facts *facts, uint64_t n_pages)
{
    uint64_t in_ram = page_facts_room(facts->n_frames);
    return n_pages > in_ram ? n_pages - in_ram : 0;
}

/* Behind zram the file consists of whole segments, at least 16 or of one page each, and one of them
 * is kept empty. */
uint64_t page_facts_disk(const page_facts *facts, uint64_t n_pages)
{
    uint64_t n = n_pages ? n_pages : 1;
    if (facts->has_zram && n >= LEAST_SEGMENTS)
        n += 2 * (n / (LEAST_SEGMENTS - 2) + 1);
    return SWAP_HEADER_BYTES + n * facts->slot_bytes;
}

/* Does a budget of so many bytes hold all pages? */
static kvp_status is_enough(kvp_config *cfg, uint64_t bytes, uint64_t n_pages, bool *yes)
{
    page_facts facts;
    cfg->ram_bytes = bytes;
    kvp_status status = page_facts_learn(cfg, &facts);
    *yes = !status && page_facts_overflow(&facts, n_pages) == 0;
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
    n_pages = n_pages ? n_pages : 1; /* what the pager wants at least */
    uint64_t low = (n_pages + RING_FRAMES) * facts.slot_bytes, high = low + low / 4 + (1u << 20);
    while (low < high) {
        uint64_t middle = low + (high - low) / 2;
        bool yes;
        status = is_enough(&cfg, middle, n_pages, &yes);
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
    kvp_status status = open_and_ask(&cfg, &facts);
    const char *number = status == KVP_E_BUDGET ? strstr(kvp_error(), needs) : NULL;
    if (!number)
        return status;
    *bytes = strtoull(number + strlen(needs), NULL, 10);
    return KVP_OK;
}

/* ---- where ----------------------------------------------------------------------------------- */

const char *page_facts_swap_place(const char *swap, char *folder, size_t n)
{
    const char *tmp = getenv("TMPDIR"), *slash = swap ? strrchr(swap, '/') : NULL;
    if (!swap)
        return tmp && *tmp ? tmp : "/var/tmp";
    if (access(swap, F_OK) == 0)
        return swap;
    if (!slash)
        return ".";
    snprintf(folder, n, "%.*s/", (int)(slash - swap), swap);
    return folder;
}

uint64_t page_facts_free_bytes(const char *place)
{
    struct statvfs fs;
    struct stat file;
    if (statvfs(place, &fs) || fs.f_blocks == 0)
        return UINT64_MAX;
    uint64_t bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
    if (stat(place, &file) == 0 && S_ISREG(file.st_mode))
        bytes += (uint64_t)file.st_blocks * 512; /* the pager begins with an empty one */
    return bytes;
}
