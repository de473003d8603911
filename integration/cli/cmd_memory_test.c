/* cmd_memory_test.c - kvpager memory-test: is a memory of earlier text worth anything, and is it
 * that text that makes it so? */
#include <inttypes.h>
#include <stdlib.h>

#include "integration/cli/commands.h"
#include "integration/cli/input.h"
#include "integration/cli/interrupt.h"
#include "integration/cli/memory_report.h"
#include "integration/cli/message.h"
#include "integration/cli/progress.h"
#include "integration/least.h"

typedef struct test_options {
    const char *other, *svg;
    uint64_t n_tokens, n_scored, seed;
} test_options;

typedef struct test_run {
    session session;
    test_options own;
    progress progress;
    int32_t *other_text; /* [n_other], malloc'd */
    size_t n_other;
    arms arms;
    memory_report report;
} test_run;

static bool show_progress(void *opaque, const char *what, uint64_t n_read)
{
    test_run *t = opaque;
    if (progress_is_due(&t->progress))
        progress_draw(&t->progress, NULL, "%s: %" PRIu64 " of %zu tokens", what, n_read,
                      t->arms.n_tokens);
    return !interrupted();
}

/* As many tokens of the other book as of the first. */
static kvp_status read_other(test_run *t)
{
    const options o = {.file = t->own.other};
    input in;
    kvp_status status = input_read(&o, &in);
    if (!status)
        status = input_encode(&in, t->session.tokenizer, &t->other_text, &t->n_other);
    input_free(&in);
    t->n_other = least(t->n_other, t->arms.n_tokens);
    return status;
}

static int check_text(const test_run *t)
{
    if (t->arms.n_tokens > MEMORY_SLICES)
        return EXIT_DONE;
    return usage_error("the text has %zu tokens: too few to score", t->arms.n_tokens);
}

static int open_all(test_run *t, const options *o)
{
    arms *a = &t->arms;
    int code = session_open(&t->session, o, SESSION_WINDOWS | SESSION_TOKENIZER);
    if (code)
        return code;
    a->session = &t->session;
    a->n_tokens = t->session.n_tokens = least(t->session.n_tokens, t->own.n_tokens);
    a->progress = show_progress;
    a->opaque = t;
    code = check_text(t);
    if (code)
        return code;
    a->n = least(a->n_tokens - 1, t->own.n_scored);
    a->first = a->n_tokens - 1 - a->n;
    kvp_status status = t->own.other ? read_other(t) : KVP_OK;
    const window_feed feed = {.first = 1, .step = 1, .end = a->n_tokens};
    return status ? report_failure(status) : session_open_pager(&t->session, &feed);
}

static kvp_status run_and_report(test_run *t)
{
    progress_init(&t->progress);
    kvp_status status = arms_run(&t->arms, t->other_text, t->n_other);
    progress_fini(&t->progress);
    if (!status)
        status = memory_report_take(&t->arms, t->own.seed, &t->report);
    if (!status && t->own.svg)
        status = memory_report_plot(&t->report, t->own.svg);
    if (status)
        return status;
    return t->session.options->json ? memory_report_print_json(&t->report)
                                    : memory_report_print(&t->report);
}

static int run(int argc, char **argv)
{
    options o;
    static test_run t;
    int code;
    t.own = (test_options){.n_tokens = 24000, .n_scored = UINT64_MAX};
    if (!options_parse(&cmd_memory_test, argc, argv, &o, &t.own, &code))
        return code;
    if (!o.file)
        return usage_error("memory-test needs a book: give it with -f FILE");
    o.beyond = (beyond_option){.kind = BEYOND_RECALL};
    code = open_all(&t, &o);
    if (!code) {
        kvp_status status = run_and_report(&t);
        code = status ? report_failure(status) : EXIT_DONE;
    }
    arms_fini(&t.arms);
    free(t.other_text);
    return session_close(&t.session, code);
}

#define AT(member) offsetof(test_options, member)

/* The last in place of the shared one. */
static const option_row rows[] = {
    {"other", 0, &value_text, AT(other), "BOOK2",
     "another book: an arm remembers as much of it, and nothing else (default: no such arm)", 0},
    {"tokens", 'n', &value_positive, AT(n_tokens), "N",
     "tokens of the book, at most (default 24000)", 0},
    {"score", 0, &value_positive, AT(n_scored), "N",
     "score only the last N of them; those before are read (default: all)", 0},
    {"seed", 0, &value_count, AT(seed), "S", "of the bootstrap (default 0)", 0},
    {"svg", 0, &value_text, AT(svg), "FILE", "draw loss by position in the book", 0},
    {"ctx", 0, &value_positive, offsetof(options, n_ctx), "N",
     "context: positions that the model uses, up to as many as it was trained for (default)",
     OPTIONS_BEYOND},
};

static const char *const shown[] = {"model",     "kv-dtype", "weights", "threads", "page-tokens",
                                    "file",      "ram",      "zram",    "disk",    "swap",
                                    "placement", "json",     NULL};

const command cmd_memory_test = {
    .name = "memory-test",
    .summary = "measure what a memory of earlier text is worth",
    .synopsis = "-m PATH -f BOOK [--other BOOK2] [options]",
    .details =
        "Scores the same tokens under conditions that differ in what is remembered: reset (windows "
        "that know\nnothing of each other), rolling (--beyond rolling), recall (--beyond recall), "
        "and with recall's memory filled\nfrom other_book, limited to what the window holds anyway "
        "(window_only) and to the last 1,024, 4,096, 16,384\nand 65,536 tokens. If it is what was "
        "read in this book that helps, recall is better than all the others.\nIntervals are of a "
        "paired block bootstrap. Half of the budgets is the KV's, half that of each memory.\n\n"
        "--json prints: tokens, scored_tokens, window, roll, ram_budget_bytes, ram_peak_bytes (KV "
        "and memory),\npositions (of slices of the book), and arms, by name: perplexity, nats (per "
        "token), recall_gains (mean,\nlow and high, nats per token), nats_by_position, and of its "
        "searches: searches, pages, pages_skipped,\nfaults, bytes_read.",
    .groups = OPTIONS_MODEL | OPTIONS_INPUT | OPTIONS_BUDGET | OPTIONS_OUTPUT,
    .can_recall = true,
    .own = rows,
    .n_own = sizeof rows / sizeof *rows,
    .shown = shown,
    .run = run,
};
