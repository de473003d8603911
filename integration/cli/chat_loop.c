/* chat_loop.c - kvpager generate --chat: a conversation, whose KV is kept from turn to turn.
 *
 * Everything that was said is one text on one sequence. A turn adds the tokens that close the last
 * answer, those of what the user says, and the beginning of an answer; only these are read. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "integration/cli/chat_turns.h"
#include "integration/cli/generate.h"
#include "integration/cli/input.h"
#include "integration/cli/interrupt.h"
#include "integration/cli/message.h"
#include "integration/cli/output.h"
#include "integration/cli/report.h"
#include "integration/cli/watch.h"

/* What was said in a turn, in tokens of the text, and what came of it. */
typedef struct chat_turn {
    size_t first, n_said;
    run_result answer;
} chat_turn;

typedef struct conversation {
    session session;
    const generate_options *own;
    chat_turns input;
    context context;
    text_run run;
    chat_turn *turns; /* [n_turns] */
    size_t n_turns, capacity;
    uint64_t n_restarts; /* that the user knows of */
    bool was_cut;        /* a turn was interrupted before it was read to the end */
    watch watch;
    report report;
    page_map map;
    verdict verdict;
} conversation;

/* ---- what the user says ---- */

/* -f FILE, a blank line, -p TEXT: either, or both. *text is malloc'd; NULL: there is neither. */
static kvp_status first_text(const options *o, char **text)
{
    const options file = {.file = o->file};
    const char *prompt = o->prompt ? o->prompt : "";
    input in = {0};
    *text = NULL;
    if (!o->file && !o->prompt)
        return KVP_OK;
    kvp_status status = o->file ? input_read(&file, &in) : KVP_OK;
    size_t n = in.n_bytes, n_prompt = strlen(prompt);
    while (o->prompt && n && in.bytes[n - 1] == '\n')
        n--;
    if (!status && n && memchr(in.bytes, 0, n))
        status = kvp_fail(KVP_E_RANGE, "%s: it has a zero byte, which is no text", in.name);
    if (!status && n && tokenizer_check_text(in.bytes, n))
        status = kvp_fail(KVP_E_RANGE, "%s: %s", in.name, kvp_error());
    if (!status && !(*text = malloc(n + n_prompt + 3)))
        status = kvp_fail(KVP_E_NOMEM, "%s: out of memory for %zu bytes", in.name, n);
    if (!status) {
        char *at = *text;
        if (n)
            at = (char *)memcpy(at, in.bytes, n) + n;
        if (n && o->prompt)
            at = (char *)memcpy(at, "\n\n", 2) + 2;
        memcpy(at, prompt, n_prompt + 1);
    }
    input_free(&in);
    return status;
}

/* The ids that a turn adds to the text, malloc'd. */
static kvp_status encode_turn(const conversation *c, const char *text, int32_t **ids, size_t *n)
{
    const session *s = &c->session;
    if (c->run.n_text)
        return chat_next_turn(s->chat, c->run.text[c->run.n_text - 1], text, ids, n);
    return chat_first_turn(s->chat, c->own->system, text, ids, n);
}

/* A turn that cannot be said leaves the conversation as it was: at a terminal it goes on. Without
 * that turn what follows in a file is another conversation. */
static kvp_status reject_turn(const conversation *c, kvp_status status)
{
    bool is_fault = status != KVP_E_RANGE && status != KVP_E_INVALID;
    if (is_fault || interrupted() || !c->input.is_terminal)
        return status;
    complain_of_library(kvp_error());
    return KVP_OK;
}

/* ---- answers ---- */

static kvp_status add_turn(conversation *c, const int32_t *ids, size_t n)
{
    if (c->n_turns == c->capacity) {
        size_t capacity = c->capacity ? 2 * c->capacity : 16;
        chat_turn *turns = realloc(c->turns, capacity * sizeof *turns);
        if (!turns)
            return kvp_fail(KVP_E_NOMEM, "out of memory for %zu turns", capacity);
        c->turns = turns;
        c->capacity = capacity;
    }
    c->turns[c->n_turns++] = (chat_turn){.first = c->run.n_text, .n_said = n};
    return text_run_add(&c->run, ids, n);
}

static kvp_status print_json(const conversation *c, const chat_turn *turn)
{
    const run_result *r = &turn->answer;
    json_t *object = json_pack(
        "{s:I, s:I, s:I, s:I, s:o, s:o, s:s, s:o}", "turn", (json_int_t)(turn - c->turns),
        "prompt_tokens", (json_int_t)turn->n_said, "prefill_tokens", (json_int_t)r->n_prefilled,
        "text_tokens", (json_int_t)c->run.n_text, "tokens", json_ids(r->tokens, r->n_new), "text",
        text_output_json(&c->watch.text), "stop_reason", stop_reason_name(r->stop), "logits_xxh3",
        json_hash(r->logits_xxh3));
    if (object)
        report_add_json(&c->report, object);
    return output_json(object);
}

/* What the user should know of the answer. */
static void comment(conversation *c, const run_result *answer)
{
    const window_rule *rule = &c->session.rule;
    if (answer->restarts > c->n_restarts)
        complain("the context of %" PRIu64 " tokens is full: a new one has begun with the last "
                 "%" PRIu64 ", what was said before is forgotten",
                 rule->n_ctx, rule->roll);
    if (answer->stop == STOP_CONTEXT)
        complain("the context of %" PRIu64 " tokens is full: the answer ends here", rule->n_ctx);
    c->n_restarts = answer->restarts;
}

/* Read the turn that was added last, and answer. */
static kvp_status answer(conversation *c)
{
    const session *s = &c->session;
    chat_turn *turn = &c->turns[c->n_turns - 1];
    watch_init(&c->watch, s, c->own->map);
    c->watch.text.ends_line = true;
    const run_watcher watcher = watch_continuation(&c->watch, turn->n_said);
    kvp_status status = text_run_continue(&c->run, s->options->n_new, &watcher, &turn->answer);
    const run_result *r = &turn->answer;
    c->was_cut = c->was_cut || (r->stop == STOP_INTERRUPTED && r->n_new == 0);
    /* Whatever is said next does not belong to the answer. */
    kvp_status finished = status && !c->watch.text.n ? KVP_OK : text_output_finish(&c->watch.text);
    status = status ? status : finished;
    watch_stop(&c->watch);
    if (!status)
        status = report_take(s, &r->seconds, &c->report);
    c->report.prefill_tokens = r->n_prefilled;
    c->report.decode_tokens = r->n_decoded;
    if (!status && s->options->json)
        status = print_json(c, turn);
    if (!status)
        comment(c, r);
    watch_fini(&c->watch);
    return status;
}

/* Say `text`, and answer. SIGINT at a terminal ends the answer alone. */
static kvp_status take_turn(conversation *c, const char *text)
{
    int32_t *ids = NULL;
    size_t n = 0;
    kvp_status status = encode_turn(c, text, &ids, &n);
    if (!status)
        status = session_check_length(&c->session, c->run.n_text + n);
    if (status) {
        status = reject_turn(c, status);
    } else {
        status = add_turn(c, ids, n);
        if (!status)
            status = answer(c);
        if (!status && c->input.is_terminal)
            interrupt_forgive();
    }
    free(ids);
    return status;
}

static kvp_status converse(conversation *c, const char *first)
{
    kvp_status status = KVP_OK;
    if (first)
        status = take_turn(c, first);
    while (!status && !interrupted()) {
        const char *text;
        status = chat_turns_next(&c->input, &text);
        if (status)
            status = reject_turn(c, status);
        else if (!text)
            break;
        else
            status = take_turn(c, text);
    }
    return status;
}

/* ---- the same again ---- */

/* The same turns with a pager that never moves a page. */
static kvp_status repeat(conversation *c, text_run *again)
{
    kvp_status status = KVP_OK;
    c->verdict = IDENTICAL;
    for (size_t i = 0; i < c->n_turns && !status && c->verdict == IDENTICAL; i++) {
        const chat_turn *turn = &c->turns[i];
        run_result answer = {0};
        const run_watcher watcher = watch_verification(&c->watch, turn->answer.n_new);
        status = text_run_add(again, c->run.text + turn->first, turn->n_said);
        if (!status)
            status = text_run_continue(again, turn->answer.n_new, &watcher, &answer);
        if (!run_is_same(&turn->answer, &answer))
            c->verdict = DIFFERENT;
        run_result_fini(&answer);
    }
    if (status || interrupted())
        c->verdict = NOT_VERIFIED;
    return status;
}

static kvp_status verify(conversation *c)
{
    const session *s = &c->session;
    kvp_pager *pager = NULL;
    context context = {0};
    text_run again = {0};
    kvp_config cfg = session_pager_config(s, true);
    kvp_status status = kvp_pager_open(&cfg, &pager);
    if (!status)
        status = context_init(&context, s->model, pager, &s->rule);
    context.no_cache = c->own->no_cache;
    if (!status)
        status = text_run_init(&again, s, &context, &s->options->sampler);
    watch_init(&c->watch, s, false);
    if (!status)
        status = repeat(c, &again);
    watch_fini(&c->watch);
    text_run_fini(&again);
    context_fini(&context);
    kvp_pager_close(pager);
    return status;
}

/* ---- reporting ---- */

static size_t sum_up(conversation *c)
{
    size_t n_new = 0;
    c->report.seconds = (run_seconds){0};
    c->report.prefill_tokens = c->report.decode_tokens = 0;
    for (size_t i = 0; i < c->n_turns; i++) {
        const run_result *r = &c->turns[i].answer;
        c->report.seconds.prefill += r->seconds.prefill;
        c->report.seconds.decode += r->seconds.decode;
        c->report.prefill_tokens += r->n_prefilled;
        c->report.decode_tokens += r->n_decoded;
        n_new += r->n_new;
    }
    return n_new;
}

static kvp_status print_closing(conversation *c)
{
    const options *o = c->session.options;
    char what[96];
    size_t n_new = sum_up(c);
    if (c->own->map && c->n_turns)
        map_print(&c->map, stderr);
    if (report_is_wanted(o) && c->n_turns) {
        fputc('\n', stderr);
        report_print(&c->report, stderr);
    }
    snprintf(what, sizeof what, "%zu turns, %zu tokens and their logits", c->n_turns, n_new);
    report_print_verdict(&c->report, c->verdict, what);
    if (!c->own->verify || !o->json)
        return KVP_OK;
    return output_json(json_pack("{s:o}", "identical", verdict_to_json(c->verdict)));
}

static int converse_and_report(conversation *c, const char *first)
{
    const session *s = &c->session;
    kvp_status status = context_init(&c->context, s->model, s->pager, &s->rule);
    c->context.no_cache = c->own->no_cache;
    if (!status)
        status = text_run_init(&c->run, s, &c->context, &s->options->sampler);
    if (!status)
        status = converse(c, first);
    if (!status && c->own->map)
        status = map_take(&c->context, s->page_tokens, &c->map);
    if (!status && c->own->verify && !c->was_cut && !interrupted())
        status = verify(c);
    if (status)
        return report_failure(status);
    status = print_closing(c);
    if (status || interrupted())
        return report_failure(status);
    if (c->own->verify && c->verdict == NOT_VERIFIED) {
        complain("not verified: a turn was interrupted before it was read to the end");
        return EXIT_FAILED;
    }
    return c->verdict == DIFFERENT ? EXIT_FAILED : EXIT_DONE;
}

/* The first turn is known before the model is opened, and has to fit. */
static int open_conversation(conversation *c, const options *o, char **first)
{
    int32_t *ids = NULL;
    size_t n = 0;
    int code = session_open_tokenizer(&c->session, o, true);
    if (code)
        return code;
    kvp_status status = first_text(o, first);
    if (!status && *first)
        status = encode_turn(c, *first, &ids, &n);
    free(ids);
    if (status)
        return report_failure(status);
    if (*first && !**first)
        return usage_error("the first turn is empty: there is nothing to answer");
    status = session_check_length(&c->session, n);
    if (status)
        return report_failure(status);
    const window_feed nothing = {.step = 1};
    const window_feed feed = n ? run_feed(&c->session.rule, n, o->n_new) : nothing;
    return session_open_pager(&c->session, &feed);
}

int generate_chat(const options *o, const generate_options *own)
{
    conversation c = {.own = own};
    char *first = NULL;
    chat_turns_init(&c.input);
    int code = open_conversation(&c, o, &first);
    if (!code)
        code = converse_and_report(&c, first);
    free(first);
    for (size_t i = 0; i < c.n_turns; i++)
        run_result_fini(&c.turns[i].answer);
    free(c.turns);
    map_free(&c.map);
    text_run_fini(&c.run);
    context_fini(&c.context);
    chat_turns_fini(&c.input);
    session_close(&c.session);
    return code;
}
