/* session.c - from options to an open model, its input and a pager. */
#include "integration/cli/session.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "integration/cli/budget.h"
#include "integration/cli/input.h"
#include "integration/cli/interrupt.h"
#include "integration/cli/message.h"

static void log_message(void *opaque, kvp_log_level level, const char *message)
{
    (void)opaque;
    if (level == KVP_LOG_WARNING)
        complain_of_library(message);
}

/* --ram alone: no zram, and disk as needed. Without --ram nothing needs another tier. */
static kvp_config budget_config(const options *o)
{
    kvp_config cfg = kvp_config_default();
    bool bounded = o->ram.given;
    cfg.ram_bytes = bounded ? o->ram.bytes : KVP_UNLIMITED;
    cfg.zram_bytes = o->zram.bytes;
    if (o->disk.given)
        cfg.disk_bytes = o->disk.bytes;
    else
        cfg.disk_bytes = bounded || o->swap ? KVP_UNLIMITED : 0;
    cfg.disk_path = o->swap;
    cfg.placement = o->placement;
    return cfg;
}

kvp_config session_pager_config(const session *s, bool all_in_ram)
{
    const options *o = s->options;
    kvp_config cfg = all_in_ram ? kvp_config_default() : budget_config(o);
    cfg.geometry = model_geometry(s->model, o->kv_dtype, o->page_tokens);
    cfg.pool = model_pool(s->model);
    cfg.fingerprint = s->info->fingerprint;
    cfg.log = log_message;
    return cfg;
}

uint32_t session_page_tokens(const session *s)
{
    const uint32_t library_default = 64;
    const options *o = s->options;
    kvp_geometry geometry = model_geometry(s->model, o->kv_dtype, o->page_tokens);
    return geometry.page_tokens ? geometry.page_tokens : library_default;
}

kvp_status session_check_length(const session *s, size_t n_tokens)
{
    if (s->rule.roll || n_tokens <= s->rule.n_ctx)
        return KVP_OK;
    return kvp_fail(KVP_E_RANGE,
                    "the input has %zu tokens, the model's context %" PRIu64
                    "; --beyond rolling goes on past it",
                    n_tokens, s->rule.n_ctx);
}

/* The rule's parts that depend on the model. Combined, keep bounds what is prefilled again. */
static int resolve_rule(session *s)
{
    const options *o = s->options;
    uint64_t n_ctx = s->info->n_ctx, roll = o->beyond.roll ? o->beyond.roll : (n_ctx + 1) / 2;
    if (roll > n_ctx)
        return usage_error("--beyond rolling:%" PRIu64
                           " is more than the model's context of %" PRIu64 " tokens",
                           roll, n_ctx);
    if (o->keep.window && o->keep.window < roll)
        roll = o->keep.window;
    s->rule = (window_rule){.n_ctx = n_ctx,
                            .roll = o->beyond.stop ? 0 : roll,
                            .keep = o->keep.window,
                            .sinks = o->keep.sinks};
    return EXIT_DONE;
}

static kvp_status open_model(session *s)
{
    const options *o = s->options;
    model_options options = {.weights = o->weights, .n_threads = o->n_threads};
    kvp_status status = model_open(o->model_path, &options, &s->model);
    if (!status)
        s->info = model_get_info(s->model);
    return status;
}

/* The model is opened between reading the input and knowing which ids are valid, but after the
 * text was encoded: bad text should not cost loading the weights. */
static kvp_status open_model_and_tokens(session *s, const input *in, unsigned needs)
{
    const options *o = s->options;
    kvp_status status;
    if ((!o->ids_file || (needs & SESSION_TOKENIZER)) &&
        (status = tokenizer_open(o->model_path, &s->tokenizer)))
        return status;
    if (!o->ids_file && (status = input_encode(in, s->tokenizer, &s->tokens, &s->n_tokens)))
        return status;
    if ((status = open_model(s)))
        return status;
    if (o->ids_file)
        return input_parse_ids(in, s->info->n_vocab, &s->tokens, &s->n_tokens);
    return KVP_OK;
}

static int open_input(session *s, unsigned needs)
{
    input in;
    kvp_status status = input_read(s->options, &in);
    if (!status)
        status = open_model_and_tokens(s, &in, needs);
    input_free(&in);
    if (status)
        return report_failure(status);
    if ((needs & SESSION_INPUT) && s->n_tokens == 0)
        return usage_error("the prompt is empty: there is nothing to continue");
    return EXIT_DONE;
}

/* The library looks at it when there is a disk to open; a mistake should not wait until then. */
static kvp_status check_engine(void)
{
    static const char *const names[] = {"uring-fixed", "uring", "threads"};
    const char *engine = getenv("KVP_DISK_ENGINE");
    if (!engine || !*engine)
        return KVP_OK;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(engine, names[i]) == 0)
            return KVP_OK;
    return kvp_fail(KVP_E_UNSUPPORTED,
                    "KVP_DISK_ENGINE: no disk engine is called '%s'; there are uring-fixed, uring "
                    "and threads",
                    engine);
}

static int begin(session *s, const options *o)
{
    *s = (session){.options = o};
    return kvp_isa() && !check_engine() ? EXIT_DONE : report_failure(KVP_E_UNSUPPORTED);
}

int session_open_tokenizer(session *s, const options *o)
{
    int code = begin(s, o);
    if (code)
        return code;
    kvp_status status = tokenizer_open(o->model_path, &s->tokenizer);
    return status ? report_failure(status) : EXIT_DONE;
}

int session_open_model(session *s)
{
    kvp_status status = open_model(s);
    return status ? report_failure(status) : resolve_rule(s);
}

int session_open(session *s, const options *o, unsigned needs)
{
    int code = begin(s, o);
    if (!code)
        code = open_input(s, needs);
    if (!code)
        code = resolve_rule(s);
    if (code)
        return code;
    kvp_status status = session_check_length(s, s->n_tokens);
    return status ? report_failure(status) : EXIT_DONE;
}

int session_open_pager_for(session *s, uint64_t pages_per_lane)
{
    interrupt_defer(); /* from here on there may be a file to remove */
    kvp_status status = budget_open(s, pages_per_lane, &s->pager);
    return status ? report_failure(status) : EXIT_DONE;
}

int session_open_pager(session *s, const window_feed *feed)
{
    return session_open_pager_for(s, window_peak_pages(&s->rule, feed, session_page_tokens(s)));
}

void session_close(session *s)
{
    kvp_pager_close(s->pager);
    model_close(s->model);
    tokenizer_close(s->tokenizer);
    free(s->tokens);
    *s = (session){0};
}
