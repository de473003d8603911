/* budget.c - finds out before a run whether its pages fit, and how many bytes would do.
 *
 * Of its frames the pager keeps BUDGET_RING_FRAMES for pages on their way; each of the others may
 * hold a page that has no place below, and each slot of the disk one more. How many pages
 * compressed RAM holds shows only while they are compressed; what surely does not fit is refused:
 * of an element, compression shortens the byte with the exponent, and no other. */
#include "integration/cli/budget.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

#define SWAP_HEADER_BYTES 4096u
#define NEEDS "needs at least "

/* What an opened pager tells about pages. */
typedef struct page_facts {
    uint64_t n_lanes, n_frames, slot_bytes;
    uint64_t least_stored_bytes; /* of a full page when it is compressed */
} page_facts;

/* The smallest page of the layer, without the byte of each element that may vanish. */
static uint64_t least_stored_bytes(const kvp_layer_info *info)
{
    uint32_t rest = info->kind.n_kv_heads % info->page_heads;
    uint64_t n_heads = rest ? rest : info->page_heads;
    uint64_t n_elements =
        n_heads * info->page_tokens * ((uint64_t)info->kind.k_width + info->kind.v_width);
    return n_elements * (kvp_dtype_bytes(info->kind.dtype) - 1);
}

static kvp_status learn_lanes(const session *s, kvp_pager *pager, page_facts *facts)
{
    kvp_seq *seq;
    kvp_status status = kvp_seq_create(pager, &seq);
    if (status)
        return status;
    for (uint32_t layer = 0; layer < s->info->n_layers && !status; layer++) {
        kvp_layer_info info;
        status = kvp_seq_layer_info(seq, layer, &info);
        if (status)
            break;
        uint64_t bytes = least_stored_bytes(&info);
        facts->n_lanes += (info.kind.n_kv_heads + info.page_heads - 1) / info.page_heads;
        if (layer == 0 || bytes < facts->least_stored_bytes)
            facts->least_stored_bytes = bytes;
    }
    kvp_seq_destroy(seq);
    return status;
}

static kvp_status learn(const session *s, kvp_pager *pager, page_facts *facts)
{
    kvp_stats stats = {.size = sizeof stats};
    kvp_status status = kvp_pager_stats(pager, &stats);
    *facts = (page_facts){.n_frames = stats.n_frames, .slot_bytes = stats.slot_bytes};
    return status ? status : learn_lanes(s, pager, facts);
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

/* ---- RAM alone ------------------------------------------------------------------------------- */

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

static kvp_status open_in_ram(const session *s, const kvp_config *cfg, const budget_need *need,
                              kvp_pager **pager)
{
    kvp_config unbounded = *cfg;
    unbounded.ram_bytes = KVP_UNLIMITED;
    page_facts facts;
    bool yes;
    kvp_status status = probe(s, &unbounded, &facts);
    if (status)
        return status;
    uint64_t n_pages = facts.n_lanes * need->pages_per_lane;
    n_pages = n_pages ? n_pages : 1; /* what the pager wants at least */
    kvp_config tried = *cfg;
    status = is_enough(s, &tried, cfg->ram_bytes, n_pages + BUDGET_RING_FRAMES, &yes);
    if (status)
        return status;
    return yes ? kvp_pager_open(cfg, pager)
               : fail_without_lower_tier(s, *cfg, n_pages, facts.slot_bytes);
}

/* Without --ram, as much as the machine has. */
static kvp_status check_machine(const page_facts *facts, uint64_t n_pages)
{
    if (n_pages + BUDGET_RING_FRAMES <= facts->n_frames)
        return KVP_OK;
    return kvp_fail(KVP_E_BUDGET,
                    "the KV of this run does not fit into this machine's RAM: it " NEEDS "%" PRIu64
                    " bytes; --ram SIZE limits it, and the rest goes to disk",
                    (n_pages + BUDGET_RING_FRAMES) * facts->slot_bytes);
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
    uint64_t n_pages = facts->n_lanes * need->pages_per_lane,
             in_ram = facts->n_frames - BUDGET_RING_FRAMES;
    overflow o = {.n_pages = n_pages > in_ram ? n_pages - in_ram : 0,
                  .n_last = facts->n_lanes * need->n_seqs};
    if (cfg->zram_bytes)
        o.n_zram_at_best = cfg->zram_bytes / facts->least_stored_bytes + o.n_last;
    return o;
}

/* Bytes of disk for all pages but `n_elsewhere`. */
static uint64_t disk_bytes_for(const page_facts *facts, const overflow *o, uint64_t n_elsewhere)
{
    uint64_t n_slots = o->n_pages > n_elsewhere ? o->n_pages - n_elsewhere : 1;
    return SWAP_HEADER_BYTES + n_slots * facts->slot_bytes;
}

static kvp_status check_zram(const session *s, const kvp_config *cfg, const page_facts *facts,
                             const overflow *o)
{
    if (o->n_pages <= o->n_zram_at_best || cfg->disk_bytes)
        return KVP_OK;
    return kvp_fail(KVP_E_BUDGET,
                    "--zram %s is too small: " NEEDS "%" PRIu64
                    " bytes, however well pages compress; or give a --disk",
                    s->options->zram.text, (o->n_pages - o->n_last) * facts->least_stored_bytes);
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
                 disk_bytes_for(facts, o, 0));
    return kvp_fail(KVP_E_BUDGET, "--disk %s is too small: " NEEDS "%" PRIu64 " bytes%s",
                    s->options->disk.text, needed, note);
}

/* Does the file system have room for what will be written? */
static kvp_status check_free_space(const kvp_config *cfg, const page_facts *facts,
                                   const overflow *o)
{
    const char *tmp = getenv("TMPDIR");
    const char *path = cfg->disk_path ? cfg->disk_path : tmp && *tmp ? tmp : "/var/tmp";
    struct statvfs fs;
    uint64_t needed = disk_bytes_for(facts, o, o->n_zram_at_best);
    if (cfg->disk_bytes == 0 || o->n_pages == 0 || statvfs(path, &fs) || fs.f_blocks == 0)
        return KVP_OK;
    uint64_t n_free = (uint64_t)fs.f_bavail * fs.f_frsize;
    if (n_free >= needed)
        return KVP_OK;
    return kvp_fail(
        KVP_E_NOSPACE,
        "%s: %" PRIu64 " bytes are free, and the KV of this run " NEEDS "%" PRIu64
        " there: free some space, name a file elsewhere with --swap, or give more --ram",
        path, n_free, needed);
}

/* An opened pager would begin the run: would it end? */
static kvp_status check_room(const session *s, const kvp_config *cfg, kvp_pager *pager,
                             const budget_need *need)
{
    page_facts facts;
    kvp_status status = learn(s, pager, &facts);
    if (status)
        return status;
    if (cfg->ram_bytes == KVP_UNLIMITED && !cfg->zram_bytes && !cfg->disk_bytes)
        return check_machine(&facts, facts.n_lanes * need->pages_per_lane);
    const overflow o = find_overflow(cfg, &facts, need);
    status = check_zram(s, cfg, &facts, &o);
    if (!status)
        status = check_disk(s, cfg, &facts, &o);
    return status ? status : check_free_space(cfg, &facts, &o);
}

/* A disk that is too small even for the pager itself is found out after what the pages need. */
static kvp_status check_small_disk(const session *s, const kvp_config *cfg, const budget_need *need)
{
    kvp_config unbounded = *cfg;
    kvp_pager *pager;
    unbounded.disk_bytes = KVP_UNLIMITED;
    kvp_status status = kvp_pager_open(&unbounded, &pager);
    if (status)
        return status;
    status = check_room(s, cfg, pager, need);
    kvp_pager_close(pager);
    return status;
}

kvp_status budget_open(const session *s, const budget_need *need, kvp_pager **pager)
{
    const kvp_config cfg = session_pager_config(s, false);
    bool has_lower = cfg.zram_bytes || cfg.disk_bytes;
    if (!has_lower && cfg.ram_bytes != KVP_UNLIMITED)
        return open_in_ram(s, &cfg, need, pager);
    kvp_status status = KVP_OK;
    if (cfg.disk_bytes && cfg.disk_bytes != KVP_UNLIMITED)
        status = check_small_disk(s, &cfg, need);
    kvp_pager *opened = NULL;
    if (!status)
        status = kvp_pager_open(&cfg, &opened);
    if (!status)
        status = check_room(s, &cfg, opened, need);
    if (status) {
        kvp_pager_close(opened);
        return reword(s, status);
    }
    *pager = opened;
    return KVP_OK;
}
