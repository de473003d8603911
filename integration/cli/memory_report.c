/* memory_report.c - losses, how sure their differences are, and what they cost. */
#include "integration/cli/memory_report.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#include "integration/cli/output.h"
#include "integration/recall/plot.h"

#define BLOCK_TOKENS 256u /* of the bootstrap: topics last longer than sentences */
#define RESAMPLES 2000u

/* ---- taking ---------------------------------------------------------------------------------- */

static kvp_status take_gain(const arms *a, memory_arm arm, uint64_t seed, memory_report *r)
{
    double *x = malloc(a->n * sizeof *x);
    if (!x)
        return kvp_fail(KVP_E_NOMEM, "out of memory for %zu differences", a->n);
    for (size_t i = 0; i < a->n; i++)
        x[i] = a->loss[arm][i] - a->loss[ARM_RECALL][i];
    kvp_status status = bootstrap_mean(x, a->n, BLOCK_TOKENS, RESAMPLES, seed, &r->gain[arm]);
    free(x);
    return status;
}

static void take_slices(const arms *a, memory_arm arm, memory_report *r)
{
    for (size_t i = 0; i < MEMORY_SLICES; i++) {
        size_t first = i * a->n / MEMORY_SLICES, end = (i + 1) * a->n / MEMORY_SLICES;
        r->slices[arm][i] = arm_mean(a, arm, first, end);
        r->positions[i] = (double)a->first + (double)(first + end) / 2;
    }
}

kvp_status memory_report_take(const arms *a, uint64_t seed, memory_report *r)
{
    kvp_stats kv = {.size = sizeof kv}, memory = {.size = sizeof memory};
    *r = (memory_report){.arms = a};
    kvp_status status = kvp_pager_stats(a->session->pager, &kv);
    if (!status)
        status = kvp_pager_stats(memory_pager(a->session->memory), &memory);
    r->ram_peak_bytes = kv.ram_peak_bytes + memory.ram_peak_bytes;
    for (memory_arm arm = 0; arm < N_ARMS && !status; arm++) {
        r->loss[arm] = NAN;
        if (!a->loss[arm])
            continue;
        r->loss[arm] = arm_mean(a, arm, 0, a->n);
        take_slices(a, arm, r);
        status = take_gain(a, arm, seed, r);
    }
    return status;
}

/* ---- for people ------------------------------------------------------------------------------ */

static double per(uint64_t n, uint64_t of)
{
    return of ? (double)n / (double)of : 0;
}

static kvp_status print_arm(const memory_report *r, memory_arm arm)
{
    const arm_cost *c = &r->arms->costs[arm];
    const bootstrap_interval *g = &r->gain[arm];
    char gain[64] = "", cost[96] = "";
    if (arm != ARM_RECALL)
        snprintf(gain, sizeof gain, "%+.4f [%+.4f, %+.4f]", g->mean, g->low, g->high);
    if (c->searches)
        snprintf(cost, sizeof cost, "%8.0f %10.1f %8.1f %%", per(c->bytes_read, c->searches),
                 1e3 * per(c->faults, c->searches), 100 * per(c->pages_skipped, c->pages));
    return output_line("%-12s %10.2f   %-30s %s", arm_name(arm), exp(r->loss[arm]), gain, cost);
}

static kvp_status print_sentence(const memory_report *r)
{
    const arms *a = r->arms;
    char other[96] = "";
    if (a->other)
        snprintf(other, sizeof other, " (with that of another book: %.1f)",
                 exp(r->loss[ARM_OTHER]));
    return output_line("At each word this model sees up to %" PRIu64 " tokens and hesitates as if "
                       "between %.1f. With a memory of the\n%zu tokens that it has read, only "
                       "between %.1f%s.",
                       a->session->rule.n_ctx, exp(r->loss[ARM_ROLLING]), a->n_tokens,
                       exp(r->loss[ARM_RECALL]), other);
}

kvp_status memory_report_print(const memory_report *r)
{
    const session *s = r->arms->session;
    char peak[32], budget[32];
    kvp_status status =
        output_line("%-12s %10s   %-30s %8s %10s %10s\n%-12s %10s   %-30s %8s %10s %10s", "", "",
                    "recall gains", "read", "faults per", "pages", "memory", "perplexity",
                    "nats per token [95 %]", "B/token", "1,000", "skipped");
    for (memory_arm arm = 0; arm < N_ARMS && !status; arm++)
        if (r->arms->loss[arm])
            status = print_arm(r, arm);
    if (status)
        return status;
    status = output_line("%zu of %zu tokens scored; windows of %" PRIu64 ", rolling by %" PRIu64
                         "; RAM for KV and memory at most %s of %s\n",
                         r->arms->n, r->arms->n_tokens, s->rule.n_ctx, s->rule.roll,
                         report_bytes(r->ram_peak_bytes, peak, sizeof peak),
                         report_bytes(s->options->ram.given ? s->options->ram.bytes : KVP_UNLIMITED,
                                      budget, sizeof budget));
    return status ? status : print_sentence(r);
}

/* ---- for programs ---------------------------------------------------------------------------- */

static json_t *arm_json(const memory_report *r, memory_arm arm)
{
    const arm_cost *c = &r->arms->costs[arm];
    const bootstrap_interval *g = &r->gain[arm];
    json_t *slices = json_array();
    for (size_t i = 0; i < MEMORY_SLICES; i++)
        json_array_append_new(slices, json_finite(r->slices[arm][i]));
    return json_pack("{s:f, s:f, s:{s:f, s:f, s:f}, s:o, s:I, s:I, s:I, s:I, s:I}", "perplexity",
                     exp(r->loss[arm]), "nats", r->loss[arm], "recall_gains", "mean", g->mean,
                     "low", g->low, "high", g->high, "nats_by_position", slices, "searches",
                     (json_int_t)c->searches, "pages", (json_int_t)c->pages, "pages_skipped",
                     (json_int_t)c->pages_skipped, "faults", (json_int_t)c->faults, "bytes_read",
                     (json_int_t)c->bytes_read);
}

kvp_status memory_report_print_json(const memory_report *r)
{
    const session *s = r->arms->session;
    json_t *arms = json_object(), *positions = json_array();
    for (memory_arm arm = 0; arm < N_ARMS; arm++)
        if (r->arms->loss[arm])
            json_object_set_new(arms, arm_name(arm), arm_json(r, arm));
    for (size_t i = 0; i < MEMORY_SLICES; i++)
        json_array_append_new(positions, json_real(r->positions[i]));
    return output_json(json_pack(
        "{s:I, s:I, s:I, s:I, s:o, s:I, s:o, s:o}", "tokens", (json_int_t)r->arms->n_tokens,
        "scored_tokens", (json_int_t)r->arms->n, "window", (json_int_t)s->rule.n_ctx, "roll",
        (json_int_t)s->rule.roll, "ram_budget_bytes",
        s->options->ram.given ? json_integer((json_int_t)s->options->ram.bytes) : json_null(),
        "ram_peak_bytes", (json_int_t)r->ram_peak_bytes, "positions", positions, "arms", arms));
}

kvp_status memory_report_plot(const memory_report *r, const char *path)
{
    plot_curve curves[N_ARMS];
    size_t n = 0;
    for (memory_arm arm = 0; arm < N_ARMS; arm++)
        if (r->arms->loss[arm])
            curves[n++] = (plot_curve){arm_name(arm), r->slices[arm]};
    const plot p = {.title = "What a memory of earlier text is worth",
                    .x_label = "token of the book",
                    .y_label = "loss, nats per token",
                    .x = r->positions,
                    .n = MEMORY_SLICES,
                    .curves = curves,
                    .n_curves = n};
    return plot_write(path, &p);
}
