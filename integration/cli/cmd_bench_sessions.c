/* cmd_bench_sessions.c - kvpager bench sessions: conversations that are parked and resumed. */
#include <inttypes.h>
#include <stdio.h>

#include "integration/cli/commands.h"
#include "integration/cli/interrupt.h"
#include "integration/cli/message.h"
#include "integration/cli/output.h"
#include "integration/cli/page_facts.h"
#include "integration/cli/parking.h"
#include "integration/cli/progress.h"
#include "integration/models/random_model.h"

#define RAM_SHARE 8u /* by default RAM is this part of the KV */

typedef struct sessions_run {
    options shared;
    parking_options own;
    session session;
    parking_result result;
    char folder[1024]; /* of the random model while it is there; "": none is */
    char ram_text[64];
} sessions_run;

/* ---- opening ---- */

static int check_context(const parking_options *own, uint64_t n_ctx)
{
    if (own->n_history < n_ctx && own->n_turn <= n_ctx - own->n_history)
        return EXIT_DONE;
    return usage_error("--history %" PRIu64 " and --turn %" PRIu64
                       " do not fit into the model's context of %" PRIu64
                       " tokens: give less, or with -m PATH a model that has more",
                       own->n_history, own->n_turn, n_ctx);
}

static bool show_progress(void *opaque, size_t done, size_t total)
{
    progress *panel = opaque;
    if (progress_is_due(panel))
        progress_draw(panel, NULL, "making a model with random weights: %zu %%",
                      100 * done / total);
    return !interrupted();
}

/* Without -m: a model of random weights, where the swap file would be. */
static int make_model(sessions_run *r)
{
    char parent[1024];
    progress panel;
    int code = check_context(&r->own, RANDOM_MODEL_CONTEXT);
    if (code)
        return code;
    interrupt_defer(); /* from here on there are files to remove */
    progress_init(&panel);
    kvp_status status = random_model_write(page_facts_swap_place(NULL, parent, sizeof parent),
                                           r->folder, sizeof r->folder, show_progress, &panel);
    progress_fini(&panel);
    if (status)
        *r->folder = 0;
    r->shared.model_path = r->folder;
    return status ? report_failure(status) : EXIT_DONE;
}

static void remove_model(sessions_run *r)
{
    if (*r->folder)
        random_model_remove(r->folder);
    *r->folder = 0;
}

static void choose_ram(sessions_run *r)
{
    uint64_t kv = parking_kv_bytes(&r->own, r->session.info, r->shared.kv_dtype);
    if (r->shared.ram.given)
        return;
    snprintf(r->ram_text, sizeof r->ram_text, "%" PRIu64 " (by default an eighth of the KV)",
             kv / RAM_SHARE);
    r->shared.ram = (size_option){.given = true, .bytes = kv / RAM_SHARE, .text = r->ram_text};
}

static int open_all(sessions_run *r)
{
    session *s = &r->session;
    int code = session_open_headers(s, &r->shared);
    if (!code)
        code = check_context(&r->own, s->info->n_ctx);
    if (code)
        return code;
    choose_ram(r);
    return session_open_pager_for(s, parking_pages(&r->own, s->page_tokens), r->own.n_sessions + 1);
}

/* ---- the run ---- */

static kvp_status print(const sessions_run *r, bool is_random)
{
    if (!r->shared.json)
        return parking_print(&r->result);
    json_t *object = parking_json(&r->result);
    if (object)
        json_object_set_new(object, "model",
                            is_random ? json_null() : json_string(r->shared.model_path));
    return output_json(object);
}

/* Is what was measured what was meant? */
static int check_result(const sessions_run *r)
{
    const parking_costs *c = &r->result.costs;
    if (r->result.n_different) {
        complain("%zu turns had other logits than before parking", r->result.n_different);
        return EXIT_FAILED;
    }
    if (c->minor_faults + c->major_faults == 0) {
        complain("no page was read, so no conversation was parked: --ram %s holds what is used; "
                 "give less, or more --sessions",
                 r->shared.ram.text);
        return EXIT_FAILED;
    }
    return EXIT_DONE;
}

static int measure(sessions_run *r, bool is_random)
{
    kvp_status status = parking_run(&r->session, &r->own, &r->result);
    if (!status)
        status = print(r, is_random);
    return status ? report_failure(status) : check_result(r);
}

static int run(int argc, char **argv)
{
    static sessions_run r;
    int code;
    r.own = (parking_options){.n_sessions = 64, .n_history = 900, .n_turn = 16, .n_rounds = 5};
    if (!options_parse(&cmd_bench_sessions, argc, argv, &r.shared, &r.own, &code))
        return code;
    bool is_random = !r.shared.model_path;
    code = is_random ? make_model(&r) : EXIT_DONE;
    if (!code)
        code = open_all(&r);
    remove_model(&r); /* it is in memory */
    if (!code)
        code = measure(&r, is_random);
    parking_result_fini(&r.result);
    return session_close(&r.session, code);
}

/* ---- the command line ---- */

static bool parse_up_to(const char *text, uint64_t max, void *value)
{
    uint64_t n;
    if (!value_positive.parse(text, &n) || n > max)
        return false;
    *(uint64_t *)value = n;
    return true;
}

static bool parse_sessions(const char *text, void *value)
{
    return parse_up_to(text, 65536, value);
}

static bool parse_rounds(const char *text, void *value)
{
    return parse_up_to(text, 10000, value);
}

static const value_kind value_sessions = {"a number from 1 to 65536", parse_sessions};
static const value_kind value_rounds = {"a number from 1 to 10000", parse_rounds};

#define AT(member) offsetof(parking_options, member)

/* The last three in place of the shared ones. */
static const option_row rows[] = {
    {"sessions", 0, &value_sessions, AT(n_sessions), "N", "conversations (default 64)", 0},
    {"history", 0, &value_positive, AT(n_history), "N", "tokens that each has (default 900)", 0},
    {"turn", 0, &value_positive, AT(n_turn), "N", "tokens of a turn (default 16)", 0},
    {"rounds", 0, &value_rounds, AT(n_rounds), "N",
     "rounds (default 5): each computes the KV of a conversation again, resumes 8 parked ones, and "
     "the last of them once more at once",
     0},
    {"model", 'm', &value_text, offsetof(options, model_path), "PATH",
     "a Hugging Face folder or .gguf file (default: random weights in the shape of GPT-2 124M; for "
     "a moment 249 MB in $TMPDIR or /var/tmp)",
     OPTIONS_MODEL},
    {"ram", 0, &value_size, offsetof(options, ram), "SIZE",
     "RAM for KV pages, a hard limit (default: an eighth of the KV of all conversations). Sizes "
     "are bytes, or have K, M or G (binary)",
     OPTIONS_BUDGET},
    {"disk", 0, &value_size, offsetof(options, disk), "SIZE",
     "disk for pages, a hard limit (default: as needed; 0: none)", OPTIONS_BUDGET},
};

static const char *const shown[] = {"kv-dtype", "weights",   "threads", "page-tokens", "zram",
                                    "swap",     "placement", "trace",   "json",        NULL};

const command cmd_bench_sessions = {
    .name = "bench sessions",
    .summary = "conversations that are parked and resumed, beside computing them again",
    .synopsis = "[-m PATH] [options]",
    .details =
        "Conversations have more KV together than RAM may hold. One after the other gets a turn; "
        "half of the turns\ngo to an eighth of them. A turn is announced (KVP_WILLNEED), its "
        "tokens are read, the logits of the next\none are there, and the conversation is parked "
        "(KVP_COLD). Printed are the time to this first token, beside\ncomputing the whole "
        "conversation again; where the pages of parked ones were; and what their turns waited\n"
        "for: how long at least one thread did, and how long all did. The histories' KV is random "
        "numbers, which\nfor times does not matter. Logits that are not those from before parking "
        "are a failure, and so is a\nrun in which no page was read.\n\n"
        "--json prints: sessions, history_tokens, turn_tokens, rounds, model (null: random "
        "weights), kv_bytes,\nram_budget_bytes; computed, parked and again (resumed once more at "
        "once), objects of n, median_seconds,\np95_seconds and speedup; and of all turns of parked "
        "conversations together pages (ram, zram, disk:\nwhere they were), hit_rate, minor_faults, "
        "major_faults, "
        "bytes_read, direct_reclaims, stalls (ram, zram and disk, objects of\nn, some_seconds, "
        "some_share, full_seconds and full_share, shares of the turns' time) and identical.",
    .groups = OPTIONS_MODEL | OPTIONS_BUDGET | OPTIONS_OUTPUT,
    .needs_no_model = true,
    .own = rows,
    .n_own = sizeof rows / sizeof *rows,
    .shown = shown,
    .run = run,
};
