/* cmd_memory_fit.c - kvpager memory-fit: how much --beyond recall believes its memory. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#include "integration/cli/commands.h"
#include "integration/cli/interrupt.h"
#include "integration/cli/message.h"
#include "integration/cli/output.h"
#include "integration/cli/progress.h"
#include "integration/cli/reading.h"
#include "integration/least.h"
#include "integration/recall/tune.h"

#define MIN_TOKENS 1000

typedef struct fit_options {
    uint64_t n_tokens;
} fit_options;

typedef struct fit_run {
    session session;
    progress progress;
    const char *what;
    size_t n; /* tokens of the text that are read */
    recall_fit fit;
    double *sum; /* [width] of hidden states */
    memory *memory;
    tune *tune;
    tune_result result;
} fit_run;

static bool show_progress(void *opaque, uint64_t n_read)
{
    fit_run *f = opaque;
    if (progress_is_due(&f->progress))
        progress_draw(&f->progress, NULL, "%s: %" PRIu64 " of %zu tokens", f->what, n_read, f->n);
    return !interrupted();
}

/* ---- the centre ---- */

static kvp_status add_to_sum(void *opaque, const reading_rows *rows)
{
    fit_run *f = opaque;
    for (size_t i = 0; i < rows->n; i++)
        for (uint32_t d = 0; d < f->fit.width; d++)
            f->sum[d] += (double)rows->hidden[i * f->fit.width + d];
    return KVP_OK;
}

static reading read_text(fit_run *f)
{
    const session *s = &f->session;
    return (reading){.session = s,
                     .rule = s->rule,
                     .text = s->tokens,
                     .n = f->n,
                     .progress = show_progress,
                     .opaque = f};
}

static kvp_status find_centre(fit_run *f)
{
    reading r = read_text(f);
    r.take = add_to_sum;
    f->what = "the centre of hidden states";
    f->sum = calloc(f->fit.width, sizeof *f->sum);
    if (!f->sum)
        return kvp_fail(KVP_E_NOMEM, "out of memory for the centre");
    kvp_status status = reading_run(&r);
    for (uint32_t d = 0; d < f->fit.width; d++)
        f->fit.centre[d] = (float)(f->sum[d] / (double)(f->n - 1));
    return status;
}

/* ---- the rest ---- */

static kvp_status remember_and_tune(void *opaque, const reading_rows *rows)
{
    fit_run *f = opaque;
    uint64_t ends[MEMORY_ROWS];
    for (size_t i = 0; i < rows->n; i++)
        ends[i] = rows->first + i;
    kvp_status status = memory_add(f->memory, rows->hidden, rows->next, rows->n);
    if (!status)
        status = memory_find(f->memory, rows->hidden, rows->n, NULL, ends);
    for (size_t i = 0; i < rows->n && !status; i++)
        tune_add(f->tune, f->memory, i, rows->next[i], rows->p_model[i]);
    return status;
}

static kvp_status find_values(fit_run *f)
{
    reading r = read_text(f);
    const memory_options options = {.fit = &f->fit,
                                    .n_vocab = f->session.info->n_vocab,
                                    .base = session_pager_config(&f->session, true)};
    r.take = remember_and_tune;
    r.wants_p = true;
    f->what = "theta and lambda";
    kvp_status status = memory_open(&options, &f->memory);
    if (!status)
        status = tune_open(f->n - 1, &f->tune);
    if (!status)
        status = reading_run(&r);
    if (!status)
        f->result = tune_solve(f->tune, &f->fit);
    return status;
}

static kvp_status fit_text(fit_run *f)
{
    const session *s = &f->session;
    kvp_status status = recall_fit_default(s->info->fingerprint, s->info->d_model, &f->fit);
    if (!status)
        status = find_centre(f);
    if (!status)
        status = find_values(f);
    if (!status)
        status = recall_fit_save(s->options->model_path, &f->fit, s->options->file, f->n);
    return status;
}

static kvp_status print_result(const fit_run *f)
{
    const session *s = &f->session;
    const double without = exp(f->result.model), with = exp(f->result.mixed);
    if (!s->options->json)
        return output_line("theta %g; perplexity of these %zu tokens %.2f without memory, %.2f "
                           "with it; stored beside %s",
                           f->fit.theta, f->n, without, with, s->options->model_path);
    json_t *lambda = json_array();
    for (size_t i = 0; i < RECALL_BUCKETS; i++)
        json_array_append_new(lambda, json_real(f->fit.lambda[i]));
    return output_json(json_pack("{s:I, s:f, s:o, s:f, s:f}", "tokens", (json_int_t)f->n, "theta",
                                 f->fit.theta, "lambda", lambda, "perplexity_without", without,
                                 "perplexity_with", with));
}

static int check_text(const fit_run *f)
{
    if (f->n > MIN_TOKENS)
        return EXIT_DONE;
    return usage_error("the text has %zu tokens: too few to fit a memory to, which takes more than "
                       "%d",
                       f->n, MIN_TOKENS);
}

static int run(int argc, char **argv)
{
    options o;
    fit_options own = {.n_tokens = 24000};
    static fit_run f;
    int code;
    if (!options_parse(&cmd_memory_fit, argc, argv, &o, &own, &code))
        return code;
    if (!o.file)
        return usage_error("memory-fit needs a text: give it with -f FILE");
    code = session_open(&f.session, &o, SESSION_WINDOWS);
    f.n = least(f.session.n_tokens, own.n_tokens);
    if (!code)
        code = check_text(&f);
    if (!code) {
        const window_feed feed = {.first = 1, .step = 1, .end = f.n};
        code = session_open_pager(&f.session, &feed);
    }
    if (!code) {
        progress_init(&f.progress);
        kvp_status status = fit_text(&f);
        progress_fini(&f.progress);
        if (!status)
            status = print_result(&f);
        code = status ? report_failure(status) : EXIT_DONE;
    }
    tune_close(f.tune);
    memory_close(f.memory);
    recall_fit_fini(&f.fit);
    free(f.sum);
    return session_close(&f.session, code);
}

/* The second in place of the shared one. */
static const option_row rows[] = {
    {"tokens", 'n', &value_positive, offsetof(fit_options, n_tokens), "N",
     "tokens of the text that are read, at most (default 24000)", 0},
    {"ctx", 0, &value_positive, offsetof(options, n_ctx), "N",
     "context: positions that the model uses, up to as many as it was trained for (default)",
     OPTIONS_BEYOND},
};

static const char *const shown[] = {"model",       "kv-dtype", "weights", "threads",
                                    "page-tokens", "file",     "json",    NULL};

const command cmd_memory_fit = {
    .name = "memory-fit",
    .summary = "fit the memory of --beyond recall to a model",
    .synopsis = "-m PATH -f TEXT [options]",
    .details =
        "Reads a text that is like those to come, and unlike them: not the same book. Finds how "
        "sharply a memory\nis to tell similar hidden states apart (theta), and how much it is to "
        "be believed (lambda), by the cosine\nof the most similar one. Stores that beside the "
        "model, as recall.json in its folder or FILE.recall.json for\na .gguf file, which is "
        "replaced.\n\n"
        "--json prints: tokens, theta, lambda (by ascending cosine), perplexity_without and "
        "perplexity_with (of\nthe text itself).",
    .groups = OPTIONS_MODEL | OPTIONS_INPUT | OPTIONS_OUTPUT,
    .own = rows,
    .n_own = sizeof rows / sizeof *rows,
    .shown = shown,
    .run = run,
};
