/* session.c - from options to an open model, its input and a pager. */
#include "integration/cli/session.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "integration/cli/budget.h"
#include "integration/cli/input.h"
#include "integration/cli/interrupt.h"
#include "integration/cli/message.h"
#include "integration/cli/page_facts.h"
#include "integration/cli/progress.h"
#include "integration/cli/recall.h"
#include "integration/cli/rule.h"

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
    cfg.geometry = model_geometry(s->info, o->kv_dtype, o->page_tokens);
    cfg.pool = s->model ? model_pool(s->model) : NULL;
    cfg.fingerprint = s->info->fingerprint;
    cfg.log = log_message;
    if (o->beyond.kind == BEYOND_RECALL)
        recall_share_budget(&cfg);
    if (s->trace && !all_in_ram)
        trace_writer_configure(s->trace, &cfg);
    return cfg;
}

bool session_is_end(const session *s, int32_t id)
{
    return !s->options->ignore_eos &&
           (model_is_eos(s->info, id) || (s->chat && chat_is_end(s->chat, id)));
}

kvp_status session_check_length(const session *s, size_t n_tokens)
{
    if (s->rule.roll || n_tokens <= s->rule.n_ctx)
        return KVP_OK;
    bool is_limited_by_model = s->options->beyond.kind == BEYOND_STOP;
    return kvp_fail(KVP_E_RANGE, "the input has %zu tokens, the context %" PRIu64 "; %s", n_tokens,
                    s->rule.n_ctx,
                    is_limited_by_model ? "--beyond rolling goes on past it"
                                        : "give --ctx room for it and what comes after");
}

static int open_model(session *s)
{
    const model_options options = rule_model_options(s->options);
    progress panel;
    progress_init(&panel);
    progress_draw(&panel, NULL, "loading %s", s->options->model_path);
    kvp_status status = model_open(s->options->model_path, &options, &s->model);
    progress_fini(&panel);
    if (!status)
        s->info = model_get_info(s->model);
    return status ? report_failure(status) : EXIT_DONE;
}

static int resolve_rule(session *s)
{
    const kvp_config cfg = session_pager_config(s, true);
    page_facts facts;
    kvp_status status = page_facts_learn(&cfg, &facts);
    if (status)
        return report_failure(status);
    s->page_tokens = facts.page_tokens;
    return rule_resolve(s->options, s->info, s->page_tokens, &s->rule);
}

/* Of a model that is not supported, the tokenizer mostly is not, either: it is the model that the
 * user should hear of. */
static int open_headers(session *s)
{
    int code = rule_check_model(s->options, &s->headers);
    s->info = &s->headers;
    return code ? code : resolve_rule(s);
}

static int open_with_text(session *s, const input *in)
{
    kvp_status status = tokenizer_open(s->options->model_path, &s->tokenizer);
    if (!status)
        status = input_encode(in, s->tokenizer, &s->tokens, &s->n_tokens);
    return status ? report_failure(status) : EXIT_DONE;
}

/* Ids need no tokenizer: without one, ids come out, too. */
static int open_with_ids(session *s, const input *in, unsigned needs)
{
    kvp_status status = input_parse_ids(in, s->info->n_vocab, &s->tokens, &s->n_tokens);
    if (status)
        return report_failure(status);
    if ((needs & SESSION_TOKENIZER) && tokenizer_open(s->options->model_path, &s->tokenizer))
        complain("token ids will be printed, not text: %s", kvp_error());
    return EXIT_DONE;
}

static int open_input(session *s, unsigned needs)
{
    input in;
    kvp_status status = input_read(s->options, &in);
    int code = status ? report_failure(status) : open_headers(s);
    if (!code)
        code = s->options->ids_file ? open_with_ids(s, &in, needs) : open_with_text(s, &in);
    input_free(&in);
    if (!code && (needs & SESSION_INPUT) && s->n_tokens == 0)
        return usage_error("the prompt is empty: there is nothing to continue");
    return code;
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

int session_open_headers(session *s, const options *o)
{
    int code = begin(s, o);
    return code ? code : open_headers(s);
}

int session_open_tokenizer(session *s, const options *o, bool with_chat)
{
    int code = session_open_headers(s, o);
    if (code)
        return code;
    kvp_status status = tokenizer_open(o->model_path, &s->tokenizer);
    if (!status && with_chat)
        status = chat_open(s->tokenizer, &s->chat);
    if (status == KVP_E_UNSUPPORTED && s->tokenizer)
        return usage_error("--chat: %s", kvp_error());
    return status ? report_failure(status) : EXIT_DONE;
}

int session_open(session *s, const options *o, unsigned needs)
{
    int code = begin(s, o);
    if (!code)
        code = open_input(s, needs);
    if (code || (needs & SESSION_WINDOWS))
        return code;
    kvp_status status = session_check_length(s, s->n_tokens);
    return status ? report_failure(status) : EXIT_DONE;
}

int session_open_pager_for(session *s, uint64_t pages_per_lane, uint64_t n_seqs)
{
    const budget_need need = {pages_per_lane, n_seqs};
    kvp_status status = budget_check(s, &need);
    int code = status ? report_failure(status) : open_model(s);
    if (code)
        return code;
    interrupt_defer(); /* from here on there may be a file to remove */
    if (s->options->trace)
        status = trace_writer_open(s->options->trace, &s->trace);
    const kvp_config cfg = session_pager_config(s, false);
    if (!status)
        status = kvp_pager_open(&cfg, &s->pager);
    if (!status && s->trace)
        status = trace_writer_begin(s->trace, s->pager);
    if (!status && s->options->beyond.kind == BEYOND_RECALL)
        status = recall_open(s, "memory", &s->memory);
    return status ? report_failure(status) : EXIT_DONE;
}

int session_open_pager(session *s, const window_feed *feed)
{
    uint64_t pages = window_peak_pages(&s->rule, feed, s->page_tokens);
    return session_open_pager_for(s, pages, 1);
}

int session_close(session *s, int code)
{
    memory_close(s->memory);
    kvp_pager_close(s->pager);
    kvp_status status = trace_writer_close(s->trace);
    if (status && !code)
        code = report_failure(status);
    model_close(s->model);
    chat_close(s->chat);
    tokenizer_close(s->tokenizer);
    free(s->tokens);
    *s = (session){0};
    return code;
}
