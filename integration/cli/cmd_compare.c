/* cmd_compare.c - kvpager compare: what the cache changes (nothing) and saves (time). */
#include <inttypes.h>

#include "integration/cli/commands.h"
#include "integration/cli/interrupt.h"
#include "integration/cli/message.h"
#include "integration/cli/output.h"
#include "integration/cli/progress.h"
#include "integration/cli/report.h"

typedef struct comparison {
    session session;
    progress progress;
    const char *phase;
    run_result cached, recomputed;
    report report; /* of the cached run */
} comparison;

static void watch_step(void *opaque, const context *c, size_t n_new, double fraction, bool quiet)
{
    comparison *k = opaque;
    (void)c, (void)fraction, (void)quiet;
    if (progress_is_due(&k->progress))
        progress_draw(&k->progress, NULL, "%s: %zu of up to %" PRIu64 " new tokens", k->phase,
                      n_new, k->session.options->n_new);
}

static kvp_status run_once(comparison *k, bool no_cache, run_result *result)
{
    session *s = &k->session;
    context context;
    kvp_status status = context_init(&context, s->model, s->pager, &s->rule);
    context.no_cache = no_cache;
    k->phase = no_cache ? "recomputed" : "with the cache";
    const run_watcher watcher = {
        .opaque = k, .step = watch_step, .follow = no_cache ? &k->cached : NULL};
    if (!status)
        status = run_generate(s, &context, &watcher, result);
    if (!status && result->stop == STOP_INTERRUPTED)
        status = kvp_fail(KVP_E_AGAIN, "interrupted");
    if (!status && !no_cache)
        status = report_take(s, &result->seconds, &k->report);
    context_fini(&context);
    return status;
}

static double total_seconds(const run_result *r)
{
    return r->seconds.prefill + r->seconds.decode;
}

static kvp_status print_result(const comparison *k, const run_differences *d)
{
    double with = total_seconds(&k->cached), without = total_seconds(&k->recomputed);
    double speedup = without / with;
    bool equal = d->n_others == 0;
    if (report_is_wanted(k->session.options))
        report_print(&k->report, stderr);
    if (k->session.options->json) {
        json_t *object =
            json_pack("{s:b, s:o, s:I, s:o, s:I, s:{s:f, s:f}}", "equal", equal, "first_difference",
                      equal ? json_null() : json_integer((json_int_t)d->first), "ties",
                      (json_int_t)d->n_ties, "speedup", json_finite(speedup), "compared_tokens",
                      (json_int_t)k->cached.n_new, "seconds_recomputed", "prefill",
                      k->recomputed.seconds.prefill, "decode", k->recomputed.seconds.decode);
        if (object)
            report_add_json(&k->report, object);
        return output_json(object);
    }
    char where[96] = "", ties[48] = "";
    if (!equal)
        snprintf(where, sizeof where, " (first at new token %zu)", d->first);
    if (d->n_ties)
        snprintf(ties, sizeof ties, " (%zu of them ties)", d->n_ties);
    return output_line(
        "%s%s: %zu tokens%s, with the cache %.3f s, recomputed %.3f s: speed-up %.2f",
        equal ? "equal" : "different", where, k->cached.n_new, ties, with, without, speedup);
}

static int compare(comparison *k)
{
    kvp_status status = run_once(k, false, &k->cached);
    if (!status)
        status = run_once(k, true, &k->recomputed);
    progress_fini(&k->progress);
    if (status)
        return report_failure(status);
    k->report.prefill_tokens = k->session.n_tokens;
    k->report.decode_tokens = k->cached.n_decoded;
    run_differences d = run_compare(&k->cached, &k->recomputed);
    status = print_result(k, &d);
    if (status)
        return report_failure(status);
    return d.n_others ? EXIT_FAILED : EXIT_DONE;
}

static int run(int argc, char **argv)
{
    options o;
    comparison k = {0};
    int code;
    if (!options_parse(&cmd_compare, argc, argv, &o, NULL, &code))
        return code;
    code = session_open(&k.session, &o, SESSION_INPUT);
    if (!code) {
        const window_feed feed = run_feed(&k.session.rule, k.session.n_tokens, o.n_new);
        code = session_open_pager(&k.session, &feed);
    }
    if (!code) {
        progress_init(&k.progress);
        code = compare(&k);
    }
    run_result_fini(&k.cached);
    run_result_fini(&k.recomputed);
    return session_close(&k.session, code);
}

const command cmd_compare = {
    .name = "compare",
    .summary = "generate with the cache and without, compare tokens and time",
    .synopsis = "-m PATH (-p TEXT | -f FILE | --ids FILE) [options]",
    .details =
        "Generates with paged keys and values, then computes those of the whole window anew for "
        "every token of\nthat text and compares what would have been chosen. A different token "
        "where the two highest logits are\nless than 0.001 apart is a tie, which rounding may "
        "decide; any other difference is exit status 1.\n\n"
        "--json prints: equal (but for ties), first_difference (index or null), ties, speedup "
        "(total time\nwithout / with), compared_tokens, seconds_recomputed, and seconds and stats "
        "of the run with the cache.",
    .groups = OPTIONS_MODEL | OPTIONS_INPUT | OPTIONS_BUDGET | OPTIONS_KEEP | OPTIONS_BEYOND |
              OPTIONS_GENERATION | OPTIONS_OUTPUT,
    .run = run,
};
