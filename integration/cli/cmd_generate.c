/* cmd_generate.c - kvpager generate: continue a text. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "integration/cli/commands.h"
#include "integration/cli/generate.h"
#include "integration/cli/interrupt.h"
#include "integration/cli/message.h"
#include "integration/cli/report.h"
#include "integration/cli/watch.h"

#define DEFAULT_PARALLEL 8u

typedef struct generation {
    session session;
    context context;
    watch watch;
    run_result result;
    report report;
    page_map map;
    generate_options own;
    verdict verdict;
} generation;

/* ---- running ---- */

/* Tokens of the input before the window that its last token is in: without a memory they are never
 * read. */
static uint64_t skipped_tokens(const session *s)
{
    return s->memory ? 0 : window_start(&s->rule, s->n_tokens - 1);
}

/* Said before it begins: who gave a book should not have to wait to learn it. */
static void warn_of_skipped(const session *s)
{
    uint64_t n = skipped_tokens(s);
    if (n)
        complain("the input has %zu tokens, the context %" PRIu64 ": only the last %" PRIu64
                 " are read (see --beyond)",
                 s->n_tokens, s->rule.n_ctx, s->n_tokens - n);
}

static kvp_status generate(generation *g)
{
    session *s = &g->session;
    kvp_status status = context_init(&g->context, s->model, s->pager, &s->rule);
    if (status)
        return status;
    g->context.no_cache = g->own.no_cache;
    if (s->memory && (status = context_use_memory(&g->context, s->memory)))
        return status;
    const run_watcher watcher = watch_continuation(&g->watch, s->n_tokens - skipped_tokens(s));
    status = run_generate(s, &g->context, &watcher, &g->result);
    /* Whatever is said next does not belong to the text. */
    text_output *text = &g->watch.text;
    kvp_status finished = status && !text->n ? KVP_OK : text_output_finish(text);
    status = status ? status : finished;
    if (!status)
        status = report_take(s, &g->result.seconds, &g->report);
    g->report.prefill_tokens = g->result.n_prefilled;
    g->report.decode_tokens = g->result.n_decoded;
    if (!status && g->own.map)
        status = map_take(&g->context, s->page_tokens, &g->map);
    return status;
}

/* The same run once more, with a pager of its own that never moves a page. */
static kvp_status verify(generation *g)
{
    session *s = &g->session;
    kvp_pager *pager = NULL;
    context context = {0};
    memory *memory = NULL;
    run_result again = {0};
    kvp_config cfg = session_pager_config(s, true);
    kvp_status status = kvp_pager_open(&cfg, &pager);
    if (!status)
        status = context_init(&context, s->model, pager, &s->rule);
    context.no_cache = g->own.no_cache;
    if (!status && s->memory)
        status = recall_open(s, NULL, &memory);
    if (!status && memory)
        status = context_use_memory(&context, memory);
    const run_watcher watcher = watch_verification(&g->watch, g->result.n_new);
    if (!status)
        status = run_generate(s, &context, &watcher, &again);
    if (!status && again.stop != STOP_INTERRUPTED)
        g->verdict = run_is_same(&g->result, &again) ? IDENTICAL : DIFFERENT;
    run_result_fini(&again);
    context_fini(&context);
    memory_close(memory);
    kvp_pager_close(pager);
    return status;
}

/* ---- reporting ---- */

static void print_verdict(const generation *g)
{
    char what[96];
    snprintf(what, sizeof what, "%zu tokens and their logits, XXH3 %016" PRIx64, g->result.n_new,
             g->result.logits_xxh3);
    report_print_verdict(&g->report, g->verdict, what);
}

static void print_what_is_approximate(const session *s, const context *c)
{
    uint64_t begin, end;
    const window_rule *rule = &s->rule;
    if (s->info->n_ctx > s->info->n_ctx_trained)
        fprintf(stderr, "approximate: %u positions, stretched to %u (--beyond yarn)\n",
                s->info->n_ctx_trained, s->info->n_ctx);
    if (s->memory)
        fprintf(stderr, "approximate: what followed similar text in the memory has a say (--beyond "
                        "recall)\n");
    if (window_unreachable(rule, c->next - c->start, &begin, &end))
        fprintf(stderr,
                "approximate: at the end the model attended the last %" PRIu64
                " tokens and the first %" PRIu64 ", in whole pages (%s)\n",
                rule->keep, rule->sinks, rule->shift ? "--beyond shift" : "--keep");
}

static void print_what_is_seen(const generation *g)
{
    const window_rule *rule = &g->session.rule;
    if (g->result.restarts && g->context.next > g->context.start)
        fprintf(stderr,
                "beyond the model's context of %" PRIu64 " tokens: whenever it is full, the last "
                "%" PRIu64 " tokens begin a new one;\nolder text is %s. At the end the "
                "model saw tokens %" PRIu64 " to %" PRIu64 " of the text\n",
                rule->n_ctx, rule->roll, g->session.memory ? "in the memory" : "forgotten",
                g->context.start, g->context.next - 1);
    print_what_is_approximate(&g->session, &g->context);
}

static void print_closing(const generation *g)
{
    if (g->own.map)
        map_print(&g->map, stderr);
    if (report_is_wanted(g->session.options)) {
        fputc('\n', stderr);
        report_print(&g->report, stderr);
        print_verdict(g);
        print_what_is_seen(g);
    } else {
        print_verdict(g);
    }
}

static json_t *to_json(const generation *g)
{
    const run_result *r = &g->result;
    json_t *object = json_pack("{s:o, s:o, s:I, s:s, s:o}", "tokens", json_ids(r->tokens, r->n_new),
                               "text", text_output_json(&g->watch.text), "prompt_tokens",
                               (json_int_t)g->session.n_tokens, "stop_reason",
                               stop_reason_name(r->stop), "logits_xxh3", json_hash(r->logits_xxh3));
    if (object && g->own.verify)
        json_object_set_new(object, "identical", verdict_to_json(g->verdict));
    if (object)
        report_add_json(&g->report, object);
    return object;
}

static int generate_and_report(generation *g)
{
    kvp_status status = generate(g);
    if (!status && g->own.verify && g->result.stop != STOP_INTERRUPTED)
        status = verify(g);
    watch_stop(&g->watch);
    if (status)
        return report_failure(status);
    print_closing(g);
    if (g->session.options->json && (status = output_json(to_json(g))))
        return report_failure(status);
    if (g->result.stop == STOP_INTERRUPTED || (g->own.verify && g->verdict == NOT_VERIFIED))
        return report_failure(KVP_E_AGAIN);
    return g->verdict == DIFFERENT ? EXIT_FAILED : EXIT_DONE;
}

static int generate_text(const options *o, const generate_options *own)
{
    generation g = {.own = *own};
    int code = session_open(&g.session, o, SESSION_TOKENIZER | SESSION_INPUT);
    if (!code) {
        window_feed feed = run_feed(&g.session.rule, g.session.n_tokens, o->n_new);
        if (o->beyond.kind == BEYOND_RECALL)
            feed.first = 1; /* all is read, in pieces */
        code = session_open_pager(&g.session, &feed);
    }
    if (!code) {
        warn_of_skipped(&g.session);
        watch_init(&g.watch, &g.session, own->map);
        code = generate_and_report(&g);
    }
    map_free(&g.map);
    run_result_fini(&g.result);
    watch_fini(&g.watch);
    context_fini(&g.context);
    return session_close(&g.session, code);
}

/* ---- the command line ---- */

/* The inputs that there are, and options that go together. */
static int check(const options *o, const generate_options *own)
{
    const bool has_recall = o->beyond.kind == BEYOND_RECALL;
    const char *alone = own->map ? "map" : own->no_cache ? "no-cache" : NULL;
    if (own->batch && (o->prompt || o->file || o->ids_file))
        return usage_error("--batch brings its own prompts: give no -p, -f or --ids");
    if (own->batch && alone)
        return usage_error("--batch does not go with --%s", alone);
    if (has_recall && (own->batch || own->chat))
        return usage_error("--beyond recall does not go with --%s", own->batch ? "batch" : "chat");
    if (own->chat && o->ids_file)
        return usage_error("--chat does not go with --ids: turns are text");
    if (own->system && !own->chat)
        return usage_error("--system is for conversations: give --chat, too");
    if (!own->batch && (own->n_parallel || own->in_order))
        return usage_error("--%s is for batches: give --batch FILE, too",
                           own->n_parallel ? "parallel" : "in-order");
    return own->batch || own->chat ? EXIT_DONE : options_check_input(o);
}

static int run(int argc, char **argv)
{
    options o;
    generate_options own = {0};
    int code;
    if (!options_parse(&cmd_generate, argc, argv, &o, &own, &code))
        return code;
    code = check(&o, &own);
    if (code)
        return code;
    own.n_parallel = own.n_parallel ? own.n_parallel : DEFAULT_PARALLEL;
    return own.batch  ? generate_batch(&o, &own)
           : own.chat ? generate_chat(&o, &own)
                      : generate_text(&o, &own);
}

static bool parse_parallel(const char *text, void *value)
{
    uint64_t n;
    if (!value_positive.parse(text, &n) || n > GENERATE_MAX_PARALLEL)
        return false;
    *(uint32_t *)value = (uint32_t)n;
    return true;
}

static const value_kind value_parallel = {"a number from 1 to 64", parse_parallel};

#define AT(member) offsetof(generate_options, member)

static const option_row rows[] = {
    {"no-cache", 0, NULL, AT(no_cache), NULL,
     "compute keys and values of the whole window anew for every token (slow: a reference)", 0},
    {"map", 0, NULL, AT(map), NULL,
     "print where every page is, on stderr: at the end, and on a terminal while running. A "
     "character per page; a row per layer and group of KV heads that share pages (layer.group)",
     0},
    {"verify", 0, NULL, AT(verify), NULL,
     "run again with everything in RAM and compare tokens and logits bit by bit; exit 1 if they "
     "differ",
     0},
    {"chat", 0, NULL, AT(chat), NULL,
     "have a conversation in the model's own format (ChatML, Llama-3 or Zephyr), whose KV is kept "
     "from turn to turn. -f FILE, a blank line and -p TEXT are the first turn, if they are given; "
     "then each line of stdin is one (a \\ at its end: the turn goes on in the next line), until "
     "its end (Ctrl-D). -n limits each answer. Ctrl-C ends an answer, and between answers the "
     "command. With --batch: every prompt is the first turn of a conversation of its own",
     0},
    {"system", 0, &value_text, AT(system), "TEXT",
     "what the model is told before the conversation (default: what its format says)", 0},
    {"batch", 0, &value_text, AT(batch), "FILE",
     "continue every prompt of this file, many at a time; - is stdin. A prompt per line, as it "
     "stands; a line that is a JSON string is that string, one that begins with { must be an "
     "object {\"prompt\": TEXT, \"id\": ANYTHING}; lines of white space are skipped",
     0},
    {"parallel", 0, &value_parallel, AT(n_parallel), "N",
     "prompts of a batch that are worked on at a time, 1 to 64 (default 8). Those whose KV fits "
     "into --ram decode together; more take turns, the KV of waiting ones is demoted",
     0},
    {"in-order", 0, NULL, AT(in_order), NULL,
     "print a batch's results in the order of its prompts (default: as they are finished)", 0},
};

const command cmd_generate = {
    .name = "generate",
    .summary = "continue a text",
    .synopsis = "-m PATH (-p TEXT | -f FILE | --ids FILE | --chat | --batch FILE) [options]",
    .details =
        "Continues the input and prints the new text on stdout as it is produced.\n\n"
        "Where the input is ids and the tokenizer is of a kind that is not supported, ids are "
        "printed.\n\n"
        "--json prints: tokens (new ids), text (new text, or null), prompt_tokens, stop_reason "
        "(length, eos,\ncontext or interrupted), logits_xxh3 (hash of all steps' float32 logits), "
        "identical (with --verify),\nseconds (prefill, decode) and stats; with --beyond recall "
        "memory.\n\n"
        "--chat --json prints an object per turn, one in a line: turn (from 0), prompt_tokens "
        "(that "
        "the turn\nadded), prefill_tokens (that were read: never those of earlier turns), "
        "text_tokens (of all that was\nsaid), tokens, text, stop_reason, logits_xxh3, seconds and "
        "stats; and with --verify a last line with\nidentical.\n\n"
        "--batch prints an object per prompt, one in a line: index (of its line, from 0), id (if "
        "it "
        "has one),\nprompt_tokens, tokens, text, stop_reason, logits_xxh3; or index, id and error, "
        "and then the exit status\nis 1. With --json another line follows: prompts, failed, "
        "prompt_tokens, new_tokens, steps (passes over\nthe weights), together (most prompts in "
        "one), turns (times that waiting ones took over), identical\n(with --verify), seconds and "
        "stats. The prompt with index I is sampled with seed S + I. Results depend\nneither on "
        "budgets nor on the other prompts; --parallel may round them differently.",
    .can_recall = true,
    .checks_input = true,
    .groups = OPTIONS_MODEL | OPTIONS_INPUT | OPTIONS_BUDGET | OPTIONS_KEEP | OPTIONS_BEYOND |
              OPTIONS_GENERATION | OPTIONS_OUTPUT,
    .own = rows,
    .n_own = sizeof rows / sizeof *rows,
    .run = run,
};
