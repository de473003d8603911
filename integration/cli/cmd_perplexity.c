/* cmd_perplexity.c - kvpager perplexity: how well the model predicts a text. */
#include <inttypes.h>
#include <math.h>

#include "integration/cli/commands.h"
#include "integration/cli/interrupt.h"
#include "integration/cli/message.h"
#include "integration/cli/output.h"
#include "integration/cli/progress.h"
#include "integration/cli/report.h"
#include "integration/cli/score.h"

typedef struct perplexity_options {
    uint64_t window, stride; /* 0: the default */
} perplexity_options;

typedef struct perplexity_run {
    session session;
    context context;
    progress progress;
    report report;
    uint64_t window, stride;
    score_window at;
    double nll_sum;
    uint64_t n_scored;
} perplexity_run;

static bool watch_forward(void *opaque, size_t done, size_t total)
{
    perplexity_run *p = opaque;
    (void)done, (void)total;
    if (progress_is_due(&p->progress))
        progress_draw(&p->progress, NULL, "%" PRIu64 " of %zu tokens scored, perplexity %.3f",
                      p->n_scored, p->session.n_tokens,
                      exp(p->n_scored ? p->nll_sum / (double)p->n_scored : 0));
    return !interrupted();
}

/* Row i of the window predicts token i + 1 of it. */
static kvp_status score_rows(void *opaque, uint64_t first, size_t n, const float *logits)
{
    perplexity_run *p = opaque;
    const int32_t *text = p->session.tokens + p->at.begin;
    size_t n_vocab = p->session.info->n_vocab;
    for (size_t i = 0; i < n; i++)
        p->nll_sum += score_nll(logits + i * n_vocab, n_vocab, text[first + i + 1]);
    p->n_scored += n;
    return interrupted() ? KVP_E_AGAIN : KVP_OK;
}

static kvp_status score_one_window(perplexity_run *p)
{
    const int32_t *text = p->session.tokens + p->at.begin;
    uint64_t first_row = p->at.first_scored - p->at.begin - 1, end = p->at.end - p->at.begin - 1;
    kvp_status status = context_restart(&p->context, 0);
    p->context.memory_first = p->at.begin;
    if (!status && first_row > 0 && first_row < end)
        status = context_extend(&p->context, text, first_row, NULL, 0);
    if (!status && first_row < end)
        status = context_rows(&p->context, text, first_row, end, score_rows, p);
    return status;
}

static kvp_status compute(perplexity_run *p)
{
    session *s = &p->session;
    double begin = now_seconds();
    kvp_status status = context_init(&p->context, s->model, s->pager, &s->rule);
    p->context.progress = watch_forward;
    p->context.progress_opaque = p;
    if (!status && s->memory)
        status = context_use_memory(&p->context, s->memory);
    while (!status && score_next_window(&p->at, s->n_tokens, p->window, p->stride))
        status = score_one_window(p);
    run_seconds seconds = {.prefill = now_seconds() - begin};
    /* What is scored so far is a result, too. */
    if (status && interrupted())
        status = KVP_OK;
    if (!status)
        status = report_take(s, &seconds, &p->report);
    p->report.prefill_tokens = s->n_tokens;
    return status;
}

static kvp_status print_result(const perplexity_run *p)
{
    const session *s = &p->session;
    double perplexity = p->n_scored ? exp(p->nll_sum / (double)p->n_scored) : NAN;
    if (report_is_wanted(s->options))
        report_print(&p->report, stderr);
    if (s->options->json) {
        json_t *object = json_pack("{s:o, s:f, s:I, s:I, s:I, s:b}", "perplexity",
                                   json_finite(perplexity), "nll_sum", p->nll_sum, "scored_tokens",
                                   (json_int_t)p->n_scored, "window", (json_int_t)p->window,
                                   "stride", (json_int_t)p->stride, "partial", interrupted());
        if (object)
            report_add_json(&p->report, object);
        return output_json(object);
    }
    if (!p->n_scored)
        return output_line("perplexity undefined: no token is scored");
    return output_line("%sperplexity %.4f (%" PRIu64 " tokens scored, windows of %" PRIu64
                       ", stride %" PRIu64 "%s)",
                       interrupted() ? "partial: " : "", perplexity, p->n_scored, p->window,
                       p->stride, s->memory ? ", with a memory: approximate" : "");
}

static int resolve_windows(perplexity_run *p, const perplexity_options *own)
{
    const session *s = &p->session;
    uint64_t n_ctx = s->rule.n_ctx, whole = s->n_tokens > 0 ? s->n_tokens : 1;
    p->window = n_ctx < UINT64_MAX ? n_ctx : whole;
    p->window = own->window ? own->window : p->window;
    p->stride = own->stride ? own->stride : (p->window + 1) / 2;
    if (p->window > n_ctx)
        return usage_error("--window %" PRIu64 " is more than the context of %" PRIu64 " tokens",
                           p->window, n_ctx);
    if (p->stride > p->window)
        return usage_error("--stride %" PRIu64 " is more than the window of %" PRIu64
                           " tokens: text in between would not be scored",
                           p->stride, p->window);
    return EXIT_DONE;
}

/* The last token of a window predicts nothing. */
static window_feed widest_window(const perplexity_run *p)
{
    uint64_t n = p->window < p->session.n_tokens ? p->window : p->session.n_tokens;
    uint64_t end = n ? n - 1 : 0, step = context_max_rows(p->session.info);
    uint64_t overlap = p->window - p->stride, first = overlap > step ? overlap : step;
    return (window_feed){.first = first < end ? first : end, .step = step, .end = end};
}

static int run(int argc, char **argv)
{
    options o;
    perplexity_options own = {0};
    perplexity_run p = {0};
    int code;
    if (!options_parse(&cmd_perplexity, argc, argv, &o, &own, &code))
        return code;
    code = session_open(&p.session, &o, SESSION_WINDOWS);
    if (!code)
        code = resolve_windows(&p, &own);
    if (!code) {
        const window_feed feed = widest_window(&p);
        code = session_open_pager(&p.session, &feed);
    }
    if (!code) {
        progress_init(&p.progress);
        kvp_status status = compute(&p);
        progress_fini(&p.progress);
        if (!status)
            status = print_result(&p);
        code = status || interrupted() ? report_failure(status) : EXIT_DONE;
    }
    context_fini(&p.context);
    return session_close(&p.session, code);
}

#define AT(member) offsetof(perplexity_options, member)

static const option_row rows[] = {
    {"window", 0, &value_positive, AT(window), "W",
     "tokens per window (default: the context; with --beyond shift and no --ctx: the whole text)",
     0},
    {"stride", 0, &value_positive, AT(stride), "S",
     "tokens from one window to the next, up to W (default: half of W)", 0},
};

const command cmd_perplexity = {
    .name = "perplexity",
    .summary = "measure how well the model predicts a text",
    .synopsis = "-m PATH (-p TEXT | -f FILE | --ids FILE) [options]",
    .details =
        "Hugging Face's strided recipe: windows of W tokens, S apart, each with a context "
        "of its own; a window\nscores the tokens that none before it scored. Token 0 is not "
        "scored.\nWindows are no longer than the context: --beyond stop and rolling mean the "
        "same here. With recall, a memory\nof all that was scored before has a say "
        "(approximate).\n\n"
        "--json prints: perplexity = exp(nll_sum / scored_tokens), nll_sum, scored_tokens, "
        "window, stride,\npartial (interrupted before the end), seconds and stats; with --beyond "
        "recall memory.",
    .groups = OPTIONS_MODEL | OPTIONS_INPUT | OPTIONS_BUDGET | OPTIONS_KEEP | OPTIONS_BEYOND |
              OPTIONS_OUTPUT,
    .own = rows,
    .n_own = sizeof rows / sizeof *rows,
    .can_recall = true,
    .run = run,
};
