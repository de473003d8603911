/* parking_report.c - what parked conversations cost, for people and for programs. */
#include <inttypes.h>
#include <math.h>

#include "integration/cli/output.h"
#include "integration/cli/parking.h"
#include "integration/cli/report.h"

/* Where pages are, and what may be waited for. */
static const struct {
    kvp_tier_id tier;
    const char *key, *place, *wait;
} tiers[] = {{KVP_TIER_RAM, "ram", "  in RAM", "  frames"},
             {KVP_TIER_ZRAM, "zram", "  in compressed RAM", "  compressed pages"},
             {KVP_TIER_DISK, "disk", "  on disk", "  disk"}};

#define N_TIERS (sizeof tiers / sizeof *tiers)

/* ---- figures ---- */

static double median(const parking_times *t)
{
    return t->n % 2 ? t->seconds[t->n / 2] : (t->seconds[t->n / 2 - 1] + t->seconds[t->n / 2]) / 2;
}

static double p95(const parking_times *t)
{
    return t->seconds[(t->n * 95 + 99) / 100 - 1];
}

static double sum(const parking_times *t)
{
    double seconds = 0;
    for (size_t i = 0; i < t->n; i++)
        seconds += t->seconds[i];
    return seconds;
}

static double speedup(const parking_result *r, const parking_times *t)
{
    return median(&r->computed) / median(t);
}

static uint64_t pages_wanted(const parking_costs *c)
{
    uint64_t n = 0;
    for (size_t i = 0; i < N_TIERS; i++)
        n += c->pages[tiers[i].tier];
    return n;
}

static double hit_rate(const parking_costs *c)
{
    return (double)c->pages[KVP_TIER_RAM] / (double)pages_wanted(c);
}

/* ---- table ---- */

static kvp_status print_times(const parking_result *r, const char *label, const parking_times *t)
{
    char ratio[32] = "";
    if (t != &r->computed)
        snprintf(ratio, sizeof ratio, " %8.1f x", speedup(r, t));
    return output_line("%-24s %5zu %9.1f ms %9.1f ms%s", label, t->n, median(t) * 1e3, p95(t) * 1e3,
                       ratio);
}

static kvp_status print_head(const parking_result *r)
{
    const parking_options *o = &r->options;
    char kv[32], ram[32];
    kvp_status status = output_line("%" PRIu64 " conversations of %" PRIu64
                                    " tokens, turns of %" PRIu64 ": %s of KV, %s of RAM\n",
                                    o->n_sessions, o->n_history, o->n_turn,
                                    report_bytes(r->kv_bytes, kv, sizeof kv),
                                    report_bytes(r->ram_bytes, ram, sizeof ram));
    return status ? status
                  : output_line("%-24s %5s %12s %12s %10s", "time to the first token", "n",
                                "median", "p95", "speedup");
}

static kvp_status print_pages(const parking_result *r)
{
    const parking_costs *c = &r->costs;
    double n_turns = (double)r->parked.n, n_wanted = (double)pages_wanted(c);
    char text[32];
    kvp_status status = output_line("\n%-24s %7.1f", "pages that a turn wants", n_wanted / n_turns);
    for (size_t i = 0; i < N_TIERS && !status; i++) {
        double n = (double)c->pages[tiers[i].tier];
        status =
            output_line("%-24s %7.1f %6.1f %%", tiers[i].place, n / n_turns, 100 * n / n_wanted);
    }
    return status ? status
                  : output_line("%-24s %s", "read from disk per turn",
                                report_bytes(c->bytes_read / r->parked.n, text, sizeof text));
}

static kvp_status print_waits(const parking_result *r)
{
    const parking_costs *c = &r->costs;
    double turn_ns = sum(&r->parked) * 1e9;
    kvp_status status =
        output_line("\n%-24s %20s   %20s", "waited by a turn for", "some thread", "all threads");
    for (size_t i = 0; i < N_TIERS && !status; i++) {
        double some = (double)c->stall_some_ns[tiers[i].tier];
        double full = (double)c->stall_full_ns[tiers[i].tier];
        status = output_line("%-24s %9.1f ms %6.1f %%   %9.1f ms %6.1f %%", tiers[i].wait,
                             some / 1e6 / (double)r->parked.n, 100 * some / turn_ns,
                             full / 1e6 / (double)r->parked.n, 100 * full / turn_ns);
    }
    return status ? status : output_line("  %" PRIu64 " faults found no frame", c->direct_reclaims);
}

kvp_status parking_print(const parking_result *r)
{
    kvp_status status = print_head(r);
    if (!status)
        status = print_times(r, "computed again", &r->computed);
    if (!status)
        status = print_times(r, "parked, then resumed", &r->parked);
    if (!status)
        status = print_times(r, "resumed again at once", &r->again);
    if (!status)
        status = print_pages(r);
    if (!status)
        status = print_waits(r);
    return status ? status
                  : output_line("\nthe same logits as before parking: %s",
                                r->n_different ? "NO" : "yes");
}

/* ---- JSON ---- */

static json_t *times_json(const parking_result *r, const parking_times *t)
{
    return json_pack("{s:I, s:f, s:f, s:f}", "n", (json_int_t)t->n, "median_seconds", median(t),
                     "p95_seconds", p95(t), "speedup", speedup(r, t));
}

static json_t *pages_json(const parking_costs *c)
{
    json_t *object = json_object();
    for (size_t i = 0; i < N_TIERS; i++)
        json_object_set_new(object, tiers[i].key,
                            json_integer((json_int_t)c->pages[tiers[i].tier]));
    return object;
}

static json_t *stalls_json(const parking_result *r)
{
    const parking_costs *c = &r->costs;
    double turn_ns = sum(&r->parked) * 1e9;
    json_t *object = json_object();
    for (size_t i = 0; i < N_TIERS; i++) {
        kvp_tier_id tier = tiers[i].tier;
        json_object_set_new(object, tiers[i].key,
                            json_pack("{s:I, s:f, s:f, s:f, s:f}", "n", (json_int_t)c->stalls[tier],
                                      "some_seconds", (double)c->stall_some_ns[tier] / 1e9,
                                      "some_share", (double)c->stall_some_ns[tier] / turn_ns,
                                      "full_seconds", (double)c->stall_full_ns[tier] / 1e9,
                                      "full_share", (double)c->stall_full_ns[tier] / turn_ns));
    }
    return object;
}

json_t *parking_json(const parking_result *r)
{
    const parking_options *o = &r->options;
    const parking_costs *c = &r->costs;
    return json_pack(
        "{s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:o, s:o, s:o, s:f, s:I, s:I, s:I, s:I, s:o, s:b}",
        "sessions", (json_int_t)o->n_sessions, "history_tokens", (json_int_t)o->n_history,
        "turn_tokens", (json_int_t)o->n_turn, "rounds", (json_int_t)o->n_rounds, "kv_bytes",
        (json_int_t)r->kv_bytes, "ram_budget_bytes", (json_int_t)r->ram_bytes, "computed",
        times_json(r, &r->computed), "parked", times_json(r, &r->parked), "again",
        times_json(r, &r->again), "pages", pages_json(c), "hit_rate", hit_rate(c), "minor_faults",
        (json_int_t)c->minor_faults, "major_faults", (json_int_t)c->major_faults, "bytes_read",
        (json_int_t)c->bytes_read, "direct_reclaims", (json_int_t)c->direct_reclaims, "stalls",
        stalls_json(r), "identical", r->n_different == 0);
}
