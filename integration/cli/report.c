/* report.c - figures of a run, for people and for programs. */
#include "integration/cli/report.h"

#include <inttypes.h>
#include <unistd.h>

#include "integration/cli/proc.h"

kvp_status report_take(const session *s, const run_seconds *seconds, report *r)
{
    static const char *const dtypes[] = {[KVP_F32] = "f32", [KVP_F16] = "f16", [KVP_BF16] = "bf16"};
    kvp_config cfg = session_pager_config(s, false);
    *r = (report){
        .seconds = *seconds,
        .stats.size = sizeof r->stats,
        .zram_budget_bytes = cfg.zram_bytes,
        .disk_budget_bytes = cfg.disk_bytes,
        .weights_bytes = s->info->weights_bytes,
        .activation_bytes = model_workspace_bytes(s->model),
        .rss_bytes = proc_self_bytes("VmRSS"),
        .rss_peak_bytes = proc_self_bytes("VmHWM"),
        .weights = dtypes[s->options->weights],
        .isa = kvp_isa(),
    };
    kvp_status status = kvp_pager_stats(s->pager, &r->stats);
    return status ? status : recall_report_take(s->memory, &r->memory);
}

bool report_is_wanted(const options *o)
{
    return o->stats || isatty(STDERR_FILENO);
}

/* ---- table ---- */

const char *report_bytes(uint64_t bytes, char *text, size_t n)
{
    static const char units[][4] = {"B", "KiB", "MiB", "GiB", "TiB"};
    double value = (double)bytes;
    size_t unit = 0;
    for (; value >= 1024 && unit + 1 < sizeof units / sizeof *units; unit++)
        value /= 1024;
    if (bytes == KVP_UNLIMITED)
        snprintf(text, n, "unlimited");
    else
        snprintf(text, n, unit ? "%.2f %s" : "%.0f %s", value, units[unit]);
    return text;
}

static void print_rate(FILE *out, const char *label, uint64_t tokens, double seconds)
{
    fprintf(out, "%-24s %8" PRIu64 " tokens  %8.2f s  ", label, tokens, seconds);
    if (seconds > 0)
        fprintf(out, "%10.1f tokens/s\n", (double)tokens / seconds);
    else
        fprintf(out, "%10s tokens/s\n", "-");
}

#define NO_VALUE (UINT64_MAX - 1)

/* A row of the memory table; NO_VALUE leaves a column empty. */
static void print_memory(FILE *out, const char *label, uint64_t now, uint64_t peak, uint64_t budget)
{
    const uint64_t values[] = {now, peak, budget};
    char text[32];
    fprintf(out, "  %-30s", label);
    for (size_t i = 0; i < 3; i++)
        fprintf(out, " %13s",
                values[i] == NO_VALUE ? "" : report_bytes(values[i], text, sizeof text));
    fputc('\n', out);
}

/* What more RAM would have saved: where a quarter of the faults, half, and 9 of 10 are reached. */
static void print_refaults(const kvp_stats *s, FILE *out)
{
    static const unsigned percent[] = {25, 50, 90};
    uint64_t n_faults = 0, n = 0;
    char text[32];
    for (unsigned i = 0; i < KVP_REFAULT_BUCKETS; i++)
        n_faults += s->refaults[i];
    unsigned reached = 0;
    for (unsigned i = 0; i + 1 < KVP_REFAULT_BUCKETS && n_faults && reached < 3; i++) {
        n += s->refaults[i];
        if (n * 100 < n_faults * percent[reached])
            continue;
        fprintf(out, "%-24s with %s more, %.0f %% of these faults would not have happened%s\n",
                reached ? "" : "faults and RAM",
                report_bytes((uint64_t)s->slot_bytes << i, text, sizeof text),
                100.0 * (double)n / (double)n_faults, reached ? "" : " (in LRU order)");
        while (reached < 3 && n * 100 >= n_faults * percent[reached])
            reached++;
    }
}

static void print_waits(const kvp_stats *s, FILE *out)
{
    static const struct {
        kvp_tier_id tier;
        const char *what;
    } waits[] = {{KVP_TIER_RAM, "frames"}, {KVP_TIER_ZRAM, "compressed"}, {KVP_TIER_DISK, "disk"}};
    fprintf(out, "%-24s", "waited for");
    for (size_t i = 0; i < sizeof waits / sizeof *waits; i++)
        fprintf(out, "%s %s %.2f s (all threads %.2f s)", i ? "," : "", waits[i].what,
                (double)s->stall_some_ns[waits[i].tier] / 1e9,
                (double)s->stall_full_ns[waits[i].tier] / 1e9);
    fprintf(out, "; %" PRIu64 " faults found no frame\n", s->direct_reclaims);
}

static void print_compression(const kvp_stats *s, FILE *out)
{
    if (!s->codec_stored_bytes) {
        fprintf(out, "%-24s no page was compressed\n", "compression");
        return;
    }
    fprintf(out, "%-24s %.2f : 1 (", "compression",
            (double)s->codec_raw_bytes / (double)s->codec_stored_bytes);
    const char *comma = "";
    for (uint32_t i = 0; kvp_codec_name(i); i++)
        if (s->codecs[i].pages) {
            fprintf(out, "%s%" PRIu64 " %s", comma, s->codecs[i].pages, kvp_codec_name(i));
            comma = ", ";
        }
    fprintf(out, ")\n");
}

static void print_traffic(const kvp_stats *s, FILE *out)
{
    char read[32], written[32];
    fprintf(out,
            "%-24s RAM %" PRIu64 ", compressed %" PRIu64 ", disk %" PRIu64 " (%zu bytes each)\n",
            "KV pages", s->pages[KVP_TIER_RAM], s->pages[KVP_TIER_ZRAM], s->pages[KVP_TIER_DISK],
            s->slot_bytes);
    fprintf(out, "%-24s minor %" PRIu64 ", major %" PRIu64 " (%" PRIu64 " of them read ahead)\n",
            "faults", s->minor_faults, s->major_faults, s->prefetches);
    fprintf(out, "%-24s %" PRIu64 " written down, %" PRIu64 " clean frames dropped\n", "reclaim",
            s->demotions, s->evictions);
    fprintf(out, "%-24s read %s, written %s%s%s\n", "disk",
            report_bytes(s->bytes_read, read, sizeof read),
            report_bytes(s->bytes_written, written, sizeof written), *s->disk_engine ? ", " : "",
            s->disk_engine);
    print_waits(s, out);
    print_refaults(s, out);
    print_compression(s, out);
}

static void print_memory_table(const report *r, FILE *out)
{
    const kvp_stats *s = &r->stats;
    fprintf(out, "%-32s %13s %13s %13s\n", "memory", "now", "peak", "budget");
    print_memory(out, "KV frames", s->frame_bytes, NO_VALUE, NO_VALUE);
    print_memory(out, "metadata of frames", s->metadata_bytes, NO_VALUE, NO_VALUE);
    print_memory(out, "staging buffers", s->staging_bytes, NO_VALUE, NO_VALUE);
    print_memory(out, "= RAM charged (--ram)", s->ram_bytes, s->ram_peak_bytes,
                 s->ram_budget_bytes);
    print_memory(out, "compressed pages (--zram)", s->zram_bytes, s->zram_peak_bytes,
                 r->zram_budget_bytes);
    print_memory(out, "page tables", s->table_bytes, NO_VALUE, NO_VALUE);
    print_memory(out, "workspace of the pager", s->workspace_bytes, NO_VALUE, NO_VALUE);
    print_memory(out, "workspace of the model", r->activation_bytes, NO_VALUE, NO_VALUE);
    char label[32];
    snprintf(label, sizeof label, "weights (%s)", r->weights);
    print_memory(out, label, r->weights_bytes, NO_VALUE, NO_VALUE);
    if (r->rss_peak_bytes)
        print_memory(out, "whole process", r->rss_bytes, r->rss_peak_bytes, NO_VALUE);
    print_memory(out, "on disk, not in memory (--disk)", s->disk_bytes, s->disk_peak_bytes,
                 r->disk_budget_bytes);
}

void report_print(const report *r, FILE *out)
{
    print_rate(out, "prefill", r->prefill_tokens, r->seconds.prefill);
    if (r->decode_tokens)
        print_rate(out, "decode", r->decode_tokens, r->seconds.decode);
    fprintf(out, "%-24s %s, placement %s\n", "with", r->isa, r->stats.placement);
    print_traffic(&r->stats, out);
    recall_report_print(&r->memory, out);
    print_memory_table(r, out);
}

void report_print_verdict(const report *r, verdict v, const char *what)
{
    const kvp_stats *stats = &r->stats;
    if (v == NOT_VERIFIED)
        return;
    fprintf(stderr, "identical to all-in-RAM: %s (%s, against a second run)\n",
            v == IDENTICAL ? "yes" : "NO", what);
    if (stats->demotions == 0 && stats->minor_faults == 0 && stats->major_faults == 0)
        fprintf(stderr, "nothing was paged, both runs had everything in RAM: --ram sets a limit\n");
}

/* ---- JSON ---- */

json_t *verdict_to_json(verdict v)
{
    return v == NOT_VERIFIED ? json_null() : json_boolean(v == IDENTICAL);
}

static json_t *count(const report *r, uint64_t n)
{
    return r && n != KVP_UNLIMITED ? json_integer((json_int_t)n) : json_null();
}

static json_t *ratio(const report *r)
{
    if (!r || r->stats.codec_stored_bytes == 0)
        return json_null();
    return json_real((double)r->stats.codec_raw_bytes / (double)r->stats.codec_stored_bytes);
}

static json_t *name(const report *r, const char *text)
{
    return r && *text ? json_string(text) : json_null();
}

static json_t *stalls(const report *r, kvp_tier_id tier)
{
    if (!r)
        return json_null();
    return json_pack("{s:I, s:f, s:f}", "n", (json_int_t)r->stats.stalls[tier], "some_seconds",
                     (double)r->stats.stall_some_ns[tier] / 1e9, "full_seconds",
                     (double)r->stats.stall_full_ns[tier] / 1e9);
}

static json_t *codecs(const report *r)
{
    json_t *all = json_object();
    for (uint32_t i = 0; kvp_codec_name(i); i++) {
        const kvp_codec_stats *c = r ? &r->stats.codecs[i] : NULL;
        json_object_set_new(all, kvp_codec_name(i),
                            json_pack("{s:o, s:o, s:o, s:o}", "pages", count(r, c ? c->pages : 0),
                                      "raw_bytes", count(r, c ? c->raw_bytes : 0), "stored_bytes",
                                      count(r, c ? c->stored_bytes : 0), "decoded",
                                      count(r, c ? c->decoded : 0)));
    }
    return all;
}

void report_add_json(const report *r, json_t *object)
{
    static const report nothing;
    const report *v = r ? r : &nothing;
    const kvp_stats *s = &v->stats;
    json_object_set_new(object, "seconds",
                        json_pack("{s:o, s:o}", "prefill",
                                  r ? json_real(v->seconds.prefill) : json_null(), "decode",
                                  r ? json_real(v->seconds.decode) : json_null()));
    json_t *pages =
        json_pack("{s:o, s:o, s:o, s:o}", "vram", count(r, s->pages[KVP_TIER_VRAM]), "ram",
                  count(r, s->pages[KVP_TIER_RAM]), "zram", count(r, s->pages[KVP_TIER_ZRAM]),
                  "disk", count(r, s->pages[KVP_TIER_DISK]));
    const struct {
        const char *key;
        json_t *value;
    } members[] = {
        {"pages", pages},
        {"minor_faults", count(r, s->minor_faults)},
        {"major_faults", count(r, s->major_faults)},
        {"direct_reclaims", count(r, s->direct_reclaims)},
        {"stalls", json_pack("{s:o, s:o, s:o}", "ram", stalls(r, KVP_TIER_RAM), "zram",
                             stalls(r, KVP_TIER_ZRAM), "disk", stalls(r, KVP_TIER_DISK))},
        {"demotions", count(r, s->demotions)},
        {"bytes_read", count(r, s->bytes_read)},
        {"bytes_written", count(r, s->bytes_written)},
        {"ram_peak_bytes", count(r, s->ram_peak_bytes)},
        {"ram_budget_bytes", count(r, s->ram_budget_bytes)},
        {"zram_bytes", count(r, s->zram_peak_bytes)},
        {"disk_bytes", count(r, s->disk_peak_bytes)},
        {"compression_ratio", ratio(r)},
        {"codecs", codecs(r)},
        {"weights_bytes", count(r, v->weights_bytes)},
        {"checksum_failures", count(r, s->checksum_failures)},
        {"process_peak_bytes", v->rss_peak_bytes ? count(r, v->rss_peak_bytes) : json_null()},
        {"disk_engine", name(r, s->disk_engine)},
        {"placement", name(r, s->placement)},
        {"isa", name(r, v->isa)},
    };
    json_t *stats = json_object();
    for (size_t i = 0; i < sizeof members / sizeof *members; i++)
        json_object_set_new(stats, members[i].key, members[i].value);
    json_object_set_new(object, "stats", stats);
    if (v->memory.is_used)
        json_object_set_new(object, "memory", recall_report_json(&v->memory));
}
