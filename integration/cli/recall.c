/* recall.c - opens the memory of --beyond recall within its half of the budget. */
#define _GNU_SOURCE
#include "integration/cli/recall.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "integration/cli/message.h"
#include "integration/cli/page_facts.h"
#include "integration/cli/report.h"

#define NEEDS "needs at least "

static uint64_t half(uint64_t bytes)
{
    return bytes == KVP_UNLIMITED ? bytes : bytes / 2;
}

void recall_share_budget(kvp_config *cfg)
{
    cfg->ram_bytes = half(cfg->ram_bytes);
    cfg->zram_bytes = half(cfg->zram_bytes);
    cfg->disk_bytes = half(cfg->disk_bytes);
}

uint64_t recall_whole_budget(const options *o, uint64_t bytes)
{
    return o->beyond.kind == BEYOND_RECALL ? 2 * bytes : bytes;
}

/* ---- opening --------------------------------------------------------------------------------- */

static kvp_status fail_budget(const session *s, const char *option, const char *text,
                              uint64_t needed)
{
    return kvp_fail(KVP_E_BUDGET,
                    "%s %s is too small for KV and memory, which get half of it each: it " NEEDS
                    "%" PRIu64 " bytes (less with --beyond recall:TOKENS)",
                    option, text, recall_whole_budget(s->options, needed));
}

/* Pairs that there are at a time, at most. */
static uint64_t most_pairs(const session *s, uint32_t page_tokens)
{
    const uint64_t n_new = s->options->n_new, cap = s->options->beyond.recall;
    const uint64_t n = n_new < UINT64_MAX - s->n_tokens ? s->n_tokens + n_new : UINT64_MAX;
    return cap && cap < n ? cap + page_tokens : n; /* pages leave whole */
}

/* Is there room for all of them? */
static kvp_status check_room(const session *s, const kvp_config *cfg)
{
    page_facts facts;
    uint64_t needed;
    kvp_config unbounded = *cfg;
    unbounded.ram_bytes = KVP_UNLIMITED;
    if (cfg->ram_bytes == KVP_UNLIMITED || cfg->zram_bytes || cfg->disk_bytes == KVP_UNLIMITED)
        return KVP_OK;
    kvp_status status = page_facts_learn(cfg->disk_bytes ? cfg : &unbounded, &facts);
    if (status)
        return status;
    const uint64_t n = most_pairs(s, facts.page_tokens) / facts.page_tokens + 1;
    if (!cfg->disk_bytes) {
        status = page_facts_ram(cfg, n, &needed);
        return status || cfg->ram_bytes >= needed
                   ? status
                   : fail_budget(s, "--ram", s->options->ram.text, needed);
    }
    needed = page_facts_disk(&facts, page_facts_overflow(&facts, n));
    return cfg->disk_bytes >= needed ? KVP_OK
                                     : fail_budget(s, "--disk", s->options->disk.text, needed);
}

/* The library's message in terms of the command line. */
static kvp_status reword(const session *s, kvp_status status)
{
    const char *needs = strstr(kvp_error(), NEEDS);
    if (status != KVP_E_BUDGET || strncmp(kvp_error(), "ram_bytes ", 10) != 0 || !needs)
        return status;
    return fail_budget(s, "--ram", s->options->ram.text, strtoull(needs + strlen(NEEDS), NULL, 10));
}

static void say_that_nothing_is_fitted(const session *s, const recall_fit *fit)
{
    complain("%s has no fitted values for a memory; it goes with theta %g, lambda %g and no "
             "centre. kvpager memory-fit -m %s -f TEXT finds better ones",
             s->options->model_path, fit->theta, fit->lambda[0], s->options->model_path);
}

static kvp_status open_with(const session *s, const recall_fit *fit, const char *name, memory **out)
{
    kvp_config base = session_pager_config(s, !name);
    char *swap = NULL;
    base.trace = NULL;
    if (base.disk_path && asprintf(&swap, "%s.%s", base.disk_path, name) < 0)
        return kvp_fail(KVP_E_NOMEM, "out of memory: a memory");
    base.disk_path = swap;
    const memory_options options = {
        .fit = fit, .n_vocab = s->info->n_vocab, .cap = s->options->beyond.recall, .base = base};
    memory_layers layers;
    const kvp_config cfg = memory_config(&options, &layers);
    kvp_status status = check_room(s, &cfg);
    if (!status)
        status = memory_open(&options, out);
    free(swap);
    return reword(s, status);
}

kvp_status recall_open(const session *s, const char *name, memory **out)
{
    recall_fit fit;
    bool is_fitted;
    kvp_status status = recall_fit_load(s->options->model_path, s->info->fingerprint,
                                        s->info->d_model, &fit, &is_fitted);
    if (!status && !is_fitted && name && !s->memory) /* once */
        say_that_nothing_is_fitted(s, &fit);
    if (!status)
        status = open_with(s, &fit, name, out);
    recall_fit_fini(&fit);
    return status;
}

/* ---- what it did ----------------------------------------------------------------------------- */

kvp_status recall_report_take(memory *m, recall_report *r)
{
    *r = (recall_report){.is_used = m != NULL, .stats.size = sizeof r->stats};
    if (!m)
        return KVP_OK;
    r->n_pairs = memory_size(m);
    r->counts = memory_get_counts(m);
    return kvp_pager_stats(memory_pager(m), &r->stats);
}

static double share(uint64_t part, uint64_t whole)
{
    return whole ? (double)part / (double)whole : 0;
}

void recall_report_print(const recall_report *r, FILE *out)
{
    char read[32], peak[32], budget[32];
    if (!r->is_used)
        return;
    fprintf(out,
            "%-24s %" PRIu64 " tokens of earlier text, searched %" PRIu64
            " times; %.1f %% of pages skipped\n",
            "memory", r->n_pairs, r->counts.searches,
            100 * share(r->counts.pages_skipped, r->counts.pages));
    fprintf(out,
            "%-24s faults minor %" PRIu64 ", major %" PRIu64 "; disk read %s; RAM at most %s of "
            "%s\n",
            "", r->stats.minor_faults, r->stats.major_faults,
            report_bytes(r->stats.bytes_read, read, sizeof read),
            report_bytes(r->stats.ram_peak_bytes, peak, sizeof peak),
            report_bytes(r->stats.ram_budget_bytes, budget, sizeof budget));
}

json_t *recall_report_json(const recall_report *r)
{
    return json_pack(
        "{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "tokens", (json_int_t)r->n_pairs,
        "searches", (json_int_t)r->counts.searches, "pages", (json_int_t)r->counts.pages,
        "pages_skipped", (json_int_t)r->counts.pages_skipped, "minor_faults",
        (json_int_t)r->stats.minor_faults, "major_faults", (json_int_t)r->stats.major_faults,
        "demotions", (json_int_t)r->stats.demotions, "bytes_read", (json_int_t)r->stats.bytes_read,
        "ram_peak_bytes", (json_int_t)r->stats.ram_peak_bytes);
}
