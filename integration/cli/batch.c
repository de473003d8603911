/* batch.c - kvpager generate --batch: a file of prompts in, JSON Lines out. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "integration/cli/batch_schedule.h"
#include "integration/cli/generate.h"
#include "integration/cli/input.h"
#include "integration/cli/interrupt.h"
#include "integration/cli/message.h"
#include "integration/cli/output.h"
#include "integration/cli/progress.h"
#include "integration/cli/report.h"

typedef struct batch {
    session session;
    batch_input input;
    const generate_options *own;
    size_t n_good;       /* prompts without an error */
    run_result *results; /* [input.n]; kept until printed, or compared */
    bool *is_done;       /* [input.n] */
    size_t n_printed;    /* of those that come in order */
    progress progress;
    const char *phase;
    batch_counts counts;
    report report;
    verdict verdict;
} batch;

/* ---- opening ---- */

/* A prompt as the first turn of a conversation. */
static kvp_status encode_turn(const batch *b, const char *text, size_t n, int32_t **ids,
                              size_t *n_ids)
{
    if (memchr(text, 0, n))
        return kvp_fail(KVP_E_RANGE, "the prompt has a zero byte, which is no text");
    char *copy = strndup(text, n);
    if (!copy)
        return kvp_fail(KVP_E_NOMEM, "out of memory for a prompt of %zu bytes", n);
    kvp_status status = chat_first_turn(b->session.chat, b->own->system, copy, ids, n_ids);
    free(copy);
    return status;
}

static kvp_status encode(const void *opaque, const char *text, size_t n, int32_t **ids,
                         size_t *n_ids)
{
    const batch *b = opaque;
    if (b->session.chat)
        return encode_turn(b, text, n, ids, n_ids);
    const input prompt = {.name = "the prompt", .bytes = (char *)text, .n_bytes = n};
    return input_encode(&prompt, b->session.tokenizer, ids, n_ids);
}

static int read_prompts(batch *b)
{
    options file = *b->session.options;
    file.file = b->own->batch;
    input in;
    kvp_status status = input_read(&file, &in);
    const batch_encoder encoder = {encode, b};
    if (!status)
        status = batch_input_parse(in.bytes, in.n_bytes, &encoder, &b->input);
    int code = status ? report_failure(status) : EXIT_DONE;
    if (!code && b->input.n == 0)
        code = usage_error("%s: no prompts: every line is empty", in.name);
    input_free(&in);
    return code;
}

/* What only the model can tell of a prompt. */
static kvp_status check_prompts(batch *b)
{
    kvp_status status = KVP_OK;
    for (size_t i = 0; i < b->input.n && !status; i++) {
        batch_prompt *p = &b->input.prompts[i];
        if (!p->error && session_check_length(&b->session, p->n_tokens))
            status = batch_prompt_reject(p);
        b->n_good += !p->error;
    }
    b->results = calloc(b->input.n, sizeof *b->results);
    b->is_done = calloc(b->input.n, sizeof *b->is_done);
    if (!b->results || !b->is_done)
        return kvp_fail(KVP_E_NOMEM, "out of memory for %zu results", b->input.n);
    return status;
}

static int more_first(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x < y) - (x > y);
}

/* Of one lane, when the prompts that need most are in flight together. */
static kvp_status peak_pages(const batch *b, uint64_t *pages)
{
    const session *s = &b->session;
    uint64_t *peaks = calloc(b->input.n, sizeof *peaks);
    if (!peaks)
        return kvp_fail(KVP_E_NOMEM, "out of memory for %zu prompts", b->input.n);
    for (size_t i = 0; i < b->input.n; i++) {
        const window_feed feed =
            run_feed(&s->rule, b->input.prompts[i].n_tokens, s->options->n_new);
        if (!b->input.prompts[i].error)
            peaks[i] = window_peak_pages(&s->rule, &feed, s->page_tokens);
    }
    qsort(peaks, b->input.n, sizeof *peaks, more_first);
    *pages = 0;
    for (size_t i = 0; i < b->input.n && i < b->own->n_parallel; i++)
        *pages += peaks[i];
    free(peaks);
    return KVP_OK;
}

static int open_batch(batch *b, const options *o)
{
    uint64_t pages = 0;
    int code = session_open_tokenizer(&b->session, o, b->own->chat);
    if (!code)
        code = read_prompts(b);
    if (code)
        return code;
    kvp_status status = check_prompts(b);
    if (!status)
        status = peak_pages(b, &pages);
    return status ? report_failure(status)
                  : session_open_pager_for(&b->session, pages, b->own->n_parallel);
}

/* ---- results ---- */

static json_t *text_of(const batch *b, const run_result *r)
{
    const session *s = &b->session;
    text_output text = {.tokenizer = s->tokenizer};
    kvp_status status = KVP_OK;
    for (size_t i = 0; i < r->n_new && !status; i++)
        if (!session_is_end(s, r->tokens[i]))
            status = text_output_token(&text, r->tokens[i]);
    if (!status)
        status = text_output_finish(&text);
    json_t *string = status ? NULL : text_output_json(&text);
    text_output_fini(&text);
    return string;
}

static json_t *result_to_json(const batch *b, size_t i)
{
    const batch_prompt *p = &b->input.prompts[i];
    const run_result *r = &b->results[i];
    json_t *object = json_pack("{s:I}", "index", (json_int_t)p->index);
    if (object && p->id)
        json_object_set(object, "id", p->id);
    if (object && p->error) {
        json_object_set_new(object, "error", json_string(p->error));
        return object;
    }
    json_t *rest =
        json_pack("{s:I, s:o, s:o, s:s, s:o}", "prompt_tokens", (json_int_t)p->n_tokens, "tokens",
                  json_ids(r->tokens, r->n_new), "text", text_of(b, r), "stop_reason",
                  stop_reason_name(r->stop), "logits_xxh3", json_hash(r->logits_xxh3));
    if (!rest || json_object_update(object, rest))
        json_decref(object), object = NULL;
    json_decref(rest);
    return object;
}

static kvp_status print_result(batch *b, size_t i)
{
    kvp_status status = output_json(result_to_json(b, i));
    if (!b->own->verify)
        run_result_fini(&b->results[i]);
    return status;
}

/* Prompt i has its result, or never will. */
static kvp_status deliver(batch *b, size_t i)
{
    b->is_done[i] = true;
    if (!b->own->in_order)
        return print_result(b, i);
    kvp_status status = KVP_OK;
    while (b->n_printed < b->input.n && b->is_done[b->n_printed] && !status)
        status = print_result(b, b->n_printed++);
    return status;
}

static kvp_status deliver_errors(batch *b)
{
    kvp_status status = KVP_OK;
    for (size_t i = 0; i < b->input.n && !status; i++)
        if (b->input.prompts[i].error)
            status = deliver(b, i);
    return status;
}

/* Of an interrupted batch in order: what waited for a result that never came. */
static kvp_status deliver_rest(batch *b)
{
    kvp_status status = KVP_OK;
    for (; b->own->in_order && b->n_printed < b->input.n && !status; b->n_printed++)
        if (b->is_done[b->n_printed])
            status = print_result(b, b->n_printed);
    return status;
}

static kvp_status take_result(void *opaque, size_t i, run_result *result)
{
    batch *b = opaque;
    b->results[i] = *result;
    return deliver(b, i);
}

static kvp_status take_failure(void *opaque, size_t i)
{
    batch *b = opaque;
    b->n_good--;
    kvp_status status = batch_prompt_reject(&b->input.prompts[i]);
    return status ? status : deliver(b, i);
}

static void watch_step(void *opaque, const batch_counts *c)
{
    batch *b = opaque;
    double seconds = c->seconds.decode;
    if (progress_is_due(&b->progress))
        progress_draw(&b->progress, NULL,
                      "%s%zu of %zu prompts done, %zu in flight, %zu of them together, %.1f/s",
                      b->phase, c->n_finished, b->n_good, c->n_in_flight, c->n_together,
                      seconds > 0 ? (double)c->n_chosen / seconds : 0);
}

/* ---- verifying ---- */

static kvp_status compare_result(void *opaque, size_t i, run_result *again)
{
    batch *b = opaque;
    if (!run_is_same(&b->results[i], again))
        b->verdict = DIFFERENT;
    run_result_fini(again);
    return KVP_OK;
}

static kvp_status compare_failure(void *opaque, size_t i)
{
    batch *b = opaque;
    (void)i;
    b->verdict = DIFFERENT;
    return KVP_OK;
}

/* All prompts once more, with a pager that never moves a page: then all decode together. */
static kvp_status verify(batch *b)
{
    kvp_pager *pager = NULL;
    batch_counts counts;
    kvp_config cfg = session_pager_config(&b->session, true);
    kvp_status status = kvp_pager_open(&cfg, &pager);
    const batch_watcher watcher = {
        .opaque = b, .finished = compare_result, .failed = compare_failure, .step = watch_step};
    b->phase = "the same with everything in RAM: ";
    b->verdict = IDENTICAL;
    if (!status)
        status = batch_schedule_run(&b->session, pager, &b->input, b->own->n_parallel, &watcher,
                                    &counts);
    if (status || interrupted())
        b->verdict = NOT_VERIFIED;
    kvp_pager_close(pager);
    return status;
}

/* ---- reporting ---- */

static void print_closing(const batch *b)
{
    const batch_counts *c = &b->counts;
    if (report_is_wanted(b->session.options)) {
        report_print(&b->report, stderr);
        fprintf(stderr,
                "%-24s %zu done, %zu with errors; up to %zu at a time, in %" PRIu64
                " steps and %" PRIu64 " changes of turns\n",
                "prompts", c->n_finished, b->input.n - b->n_good, c->most_together, c->n_steps,
                c->n_turns);
    }
    char what[96];
    snprintf(what, sizeof what, "%zu prompts, %" PRIu64 " tokens and their logits", c->n_finished,
             c->n_chosen);
    report_print_verdict(&b->report, b->verdict, what);
}

static kvp_status print_summary(const batch *b)
{
    const batch_counts *c = &b->counts;
    json_t *object = json_pack(
        "{s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "prompts", (json_int_t)b->input.n, "failed",
        (json_int_t)(b->input.n - b->n_good), "prompt_tokens", (json_int_t)c->n_read_tokens,
        "new_tokens", (json_int_t)c->n_chosen, "steps", (json_int_t)c->n_steps, "together",
        (json_int_t)c->most_together, "turns", (json_int_t)c->n_turns);
    if (object && b->own->verify)
        json_object_set_new(object, "identical", verdict_to_json(b->verdict));
    if (object)
        report_add_json(&b->report, object);
    return output_json(object);
}

static int run_and_report(batch *b)
{
    const batch_watcher watcher = {
        .opaque = b, .finished = take_result, .failed = take_failure, .step = watch_step};
    kvp_status status = deliver_errors(b);
    b->phase = "";
    if (!status)
        status = batch_schedule_run(&b->session, b->session.pager, &b->input, b->own->n_parallel,
                                    &watcher, &b->counts);
    if (!status)
        status = deliver_rest(b);
    if (!status)
        status = report_take(&b->session, &b->counts.seconds, &b->report);
    b->report.prefill_tokens = b->counts.n_read_tokens;
    b->report.decode_tokens = b->counts.n_decoded;
    if (!status && b->own->verify && !interrupted())
        status = verify(b);
    progress_fini(&b->progress);
    if (status)
        return report_failure(status);
    print_closing(b);
    if (b->session.options->json && (status = print_summary(b)))
        return report_failure(status);
    if (interrupted())
        return report_failure(KVP_E_AGAIN);
    if (b->n_good < b->input.n)
        complain("%zu of %zu prompts could not be continued: see \"error\" in their lines",
                 b->input.n - b->n_good, b->input.n);
    return b->verdict == DIFFERENT || b->n_good < b->input.n ? EXIT_FAILED : EXIT_DONE;
}

int generate_batch(const options *o, const generate_options *own)
{
    batch b = {.own = own};
    int code = open_batch(&b, o);
    if (!code) {
        progress_init(&b.progress);
        code = run_and_report(&b);
    }
    for (size_t i = 0; b.results && i < b.input.n; i++)
        run_result_fini(&b.results[i]);
    free(b.results);
    free(b.is_done);
    batch_input_fini(&b.input);
    session_close(&b.session);
    return code;
}
