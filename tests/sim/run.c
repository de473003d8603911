/* run.c - a run from the opening of the pager to its close, and its log. */
#include "tests/sim/player.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "kvpager/scan.h"

#define CHECK_EVERY 50u /* operations: kvp_pager_check() looks at every page */
#define CALL_NS 500u    /* that an operation takes besides its waiting */

void sim_tally_add(sim_tally *sum, const sim_tally *more)
{
    uint64_t *to = (uint64_t *)sum;
    const uint64_t *from = (const uint64_t *)more;
    for (size_t i = 0; i < sizeof *sum / sizeof *to; i++)
        to[i] += from[i];
}

/* ---- the log ---- */

static void note(sim_player *p, const char *line)
{
    if (p->log)
        fputs(line, p->log);
    for (; *line; line++)
        p->out->digest = (p->out->digest ^ (unsigned char)*line) * UINT64_C(1099511628211);
}

static void log_op(sim_player *p, bool is_done, kvp_status status)
{
    char line[320];
    const sim_op *op = p->op;
    snprintf(line, sizeof line, "%5u %13llu actor %-2u %-8s %-7s %s\n", op->id,
             (unsigned long long)p->world.now_ns, op->actor, sim_op_names[op->kind],
             is_done ? kvp_status_str(status) : "-", p->detail);
    note(p, line);
}

static void log_stats(sim_player *p, const kvp_stats *s)
{
    char line[512];
    snprintf(line, sizeof line,
             "      pages %llu %llu %llu lost %llu faults %llu %llu ahead %llu %llu %llu advised "
             "%llu down %llu out %llu disk %llu %llu bad %llu %llu ram %llu %llu zram %llu %llu "
             "slots %llu tables %llu codec %llu %llu shared %llu copied %llu\n",
             (unsigned long long)s->pages[KVP_TIER_RAM],
             (unsigned long long)s->pages[KVP_TIER_ZRAM],
             (unsigned long long)s->pages[KVP_TIER_DISK], (unsigned long long)s->pages_lost,
             (unsigned long long)s->minor_faults, (unsigned long long)s->major_faults,
             (unsigned long long)s->prefetches, (unsigned long long)s->prefetches_used,
             (unsigned long long)s->prefetches_wasted, (unsigned long long)s->prefetches_advised,
             (unsigned long long)s->demotions, (unsigned long long)s->evictions,
             (unsigned long long)s->bytes_read, (unsigned long long)s->bytes_written,
             (unsigned long long)s->checksum_failures, (unsigned long long)s->io_errors,
             (unsigned long long)s->ram_bytes, (unsigned long long)s->ram_peak_bytes,
             (unsigned long long)s->zram_bytes, (unsigned long long)s->zram_peak_bytes,
             (unsigned long long)s->disk_bytes, (unsigned long long)s->table_bytes,
             (unsigned long long)s->codec_raw_bytes, (unsigned long long)s->codec_stored_bytes,
             (unsigned long long)s->pages_shared, (unsigned long long)s->copies_on_write);
    note(p, line);
}

void sim_detail(sim_player *p, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(p->detail, sizeof p->detail, format, args);
    va_end(args);
}

/* ---- failing ---- */

void sim_fail(sim_player *p, const char *format, ...)
{
    sim_outcome *o = p->out;
    if (o->has_failed)
        return;
    o->has_failed = true;
    o->failed_op = p->op ? p->op->id : UINT32_MAX;
    int n = p->op
                ? snprintf(o->message, sizeof o->message, "operation %u, actor %u, %s: ", p->op->id,
                           p->op->actor, sim_op_names[p->op->kind])
                : snprintf(o->message, sizeof o->message, "at the end: ");
    va_list args;
    va_start(args, format);
    vsnprintf(o->message + n, sizeof o->message - (size_t)n, format, args);
    va_end(args);
}

/* There may be no room: tiers that end, views that hold frames, slots that failed. */
static bool is_tight(const sim_player *p)
{
    return p->cfg.disk_bytes != KVP_UNLIMITED || p->w->device.capacity_bytes || p->n_holders ||
           p->w->n_groups || sim_n_errors(&p->world);
}

void sim_check_status(sim_player *p, kvp_status status)
{
    sim_tally *t = &p->out->tally;
    bool is_fine =
        status == KVP_OK || status == KVP_E_AGAIN || status == KVP_E_TIMEOUT ||
        (status == KVP_E_IO && sim_n_errors(&p->world)) ||
        ((status == KVP_E_CORRUPT || status == KVP_E_LOST) && sim_n_corruptions(&p->world)) ||
        (status == KVP_E_NOSPACE && is_tight(p));
    t->n_again += status == KVP_E_AGAIN;
    t->n_timeouts += status == KVP_E_TIMEOUT;
    t->n_io += status == KVP_E_IO;
    t->n_corrupt += status == KVP_E_CORRUPT;
    t->n_lost += status == KVP_E_LOST;
    t->n_refused += status == KVP_E_NOSPACE;
    if (!is_fine || (status && !kvp_error()[0]))
        sim_fail(p, "%s: %s", kvp_status_str(status), kvp_error());
}

static void check_pager(sim_player *p)
{
    if (kvp_pager_check(p->pager))
        sim_fail(p, "%s", kvp_error());
    if (p->world.violation[0])
        sim_fail(p, "disk: %s", p->world.violation);
}

static kvp_stats read_stats(sim_player *p)
{
    kvp_stats stats = {.size = sizeof stats};
    if (kvp_pager_stats(p->pager, &stats))
        sim_fail(p, "%s", kvp_error());
    return stats;
}

/* ---- from open to close ---- */

static bool open_world(sim_player *p)
{
    sim_init(&p->world, p->w->seed, &p->w->device);
    faulty_mem_init(&p->mem, 0);
    p->cfg = sim_world_config(p->w);
    p->cfg.env = &p->world.env;
    p->cfg.mem = &p->mem.mem;
    if (kvp_pager_open(&p->cfg, &p->pager)) {
        sim_fail(p, "open: %s", kvp_error());
        return false;
    }
    kvp_stats stats = read_stats(p);
    p->n_frames = stats.n_frames;
    p->slot_bytes = stats.slot_bytes;
    sim_groups_open(p);
    for (uint32_t i = 0; i < p->w->n_actors; i++) {
        p->actors[i].flat.page_tokens = p->cfg.geometry.page_tokens;
        if (sim_seq_create(p, &p->actors[i]))
            sim_fail(p, "create: %s", kvp_error());
    }
    return !p->out->has_failed;
}

static void play_all(sim_player *p, const sim_op *ops, uint32_t n)
{
    for (uint32_t i = 0; i < n && !p->out->has_failed; i++) {
        kvp_status status = KVP_OK;
        p->op = &ops[i];
        p->detail[0] = 0;
        /* What the device draws depends on the operation, not on those before it: leaving some out
         * changes the others as little as can be. */
        p->world.device_random = p->w->seed << 32 ^ p->op->id;
        bool is_done = sim_play(p, &status);
        sim_advance(&p->world, CALL_NS);
        log_op(p, is_done, status);
        p->out->tally.n_ops++;
        if (i % CHECK_EVERY == CHECK_EVERY - 1) {
            check_pager(p);
            kvp_stats stats = read_stats(p);
            log_stats(p, &stats);
        }
    }
    p->op = NULL;
}

static void read_everything_back(sim_player *p)
{
    for (uint32_t i = 0; i < p->w->n_actors && !p->out->has_failed; i++) {
        sim_let_go(p, &p->actors[i]);
        for (uint32_t layer = 0; layer < SIM_LAYERS; layer++) {
            kvp_scan_args args = {.layer = layer, .max_parts = 1, .end = UINT64_MAX};
            kvp_status status;
            sim_scan_all(p, &p->actors[i], &args, &status);
        }
    }
    check_pager(p);
}

/* Nothing is left of what was destroyed. */
static void check_empty(sim_player *p)
{
    kvp_stats s = read_stats(p);
    uint64_t n_pages = s.pages[KVP_TIER_RAM] + s.pages[KVP_TIER_ZRAM] + s.pages[KVP_TIER_DISK];
    if (n_pages + s.pages_lost + s.pages_shared + s.frame_bytes)
        sim_fail(p, "%llu pages, %llu lost, %llu shared and %llu bytes of frames are left",
                 (unsigned long long)n_pages, (unsigned long long)s.pages_lost,
                 (unsigned long long)s.pages_shared, (unsigned long long)s.frame_bytes);
    if (s.zram_bytes || (s.disk_bytes && !sim_n_errors(&p->world))) /* bad slots stay used */
        sim_fail(p, "%llu bytes of zram and %llu of the disk are left",
                 (unsigned long long)s.zram_bytes, (unsigned long long)s.disk_bytes);
    check_pager(p);
}

static void take_stats(sim_player *p)
{
    kvp_stats s = read_stats(p);
    sim_tally *t = &p->out->tally;
    log_stats(p, &s);
    t->minor_faults = s.minor_faults;
    t->major_faults = s.major_faults;
    t->demotions = s.demotions;
    t->evictions = s.evictions;
    t->copies_on_write = s.copies_on_write;
    t->prefetches = s.prefetches;
    t->n_direct = s.direct_reclaims;
    t->prefetches_advised = s.prefetches_advised;
    memcpy(t->n_injected, p->world.n_injected, sizeof t->n_injected);
    if (s.ram_peak_bytes > p->cfg.ram_bytes || s.zram_peak_bytes > p->cfg.zram_bytes ||
        s.disk_peak_bytes > p->cfg.disk_bytes)
        sim_fail(p, "a budget was exceeded");
}

static void close_world(sim_player *p)
{
    for (uint32_t i = 0; i < p->w->n_actors; i++) {
        sim_let_go(p, &p->actors[i]);
        kvp_seq_destroy(p->actors[i].seq);
    }
    if (!p->out->has_failed)
        check_empty(p);
    take_stats(p);
    kvp_pager_close(p->pager);
    if (p->world.violation[0])
        sim_fail(p, "disk: %s", p->world.violation);
    if (p->mem.outstanding_bytes)
        sim_fail(p, "%lld bytes were not given back", (long long)p->mem.outstanding_bytes);
    p->out->virtual_ns = p->world.now_ns;
    sim_fini(&p->world);
}

void sim_run_script(const sim_world *w, const sim_op *ops, uint32_t n, FILE *log, sim_outcome *out)
{
    sim_player *p = calloc(1, sizeof *p);
    if (!p)
        abort(); /* a test without memory */
    *out = (sim_outcome){.digest = UINT64_C(14695981039346656037)};
    p->w = w;
    p->out = out;
    p->log = log;
    if (open_world(p)) {
        play_all(p, ops, n);
        if (!out->has_failed)
            read_everything_back(p);
        close_world(p);
    }
    free(p);
}
