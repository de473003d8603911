/* cmd_plan.c - kvpager plan: what a context of N tokens will take, before it is tried. */
#include "integration/cli/commands.h"
#include "integration/cli/interrupt.h"
#include "integration/cli/message.h"
#include "integration/cli/output.h"
#include "integration/cli/planning.h"
#include "integration/cli/progress.h"
#include "integration/cli/rule.h"
#include "integration/cli/run.h"

/* Below RAM: whatever is not forbidden. */
static kvp_config below_ram(const options *o)
{
    kvp_config cfg = kvp_config_default();
    bool is_forbidden = o->disk.given && o->disk.bytes == 0;
    cfg.zram_bytes = o->zram.bytes;
    cfg.disk_bytes = is_forbidden ? 0 : KVP_UNLIMITED;
    cfg.disk_path = o->swap;
    cfg.placement = o->placement;
    return cfg;
}

static int open_subject(planning *p)
{
    const options *o = &p->shared;
    plan_subject *s = &p->subject;
    window_rule rule;
    model_info headers;
    int code = rule_check_model(o, &headers);
    if (code)
        return code;
    *s = (plan_subject){
        .options = o, .model_options = rule_model_options(o), .budget = below_ram(o)};
    kvp_status status =
        model_open_hollow(o->model_path, &s->model_options, PLAN_FEW_LAYERS, &s->few);
    if (status)
        return report_failure(status);
    p->info = model_get_info(s->few);
    status = planning_learn(p);
    if (status)
        return report_failure(status);
    return rule_resolve(o, p->info, (uint32_t)p->kv.page_tokens, &rule);
}

static kvp_status measure(planning *p)
{
    progress panel;
    progress_init(&panel);
    progress_draw(&panel, NULL, "probing memory and disk for about 5 seconds");
    double begin = now_seconds();
    kvp_status status = plan_measure(&p->subject, &p->kv, &p->probe);
    p->probe_seconds = now_seconds() - begin;
    progress_fini(&panel);
    return status;
}

static int plan(planning *p)
{
    int code = open_subject(p);
    if (code)
        return code;
    interrupt_defer(); /* from here on there may be a file to remove */
    kvp_status status = planning_fill(p);
    if (!status)
        status = measure(p);
    if (status)
        return report_failure(status);
    planning_predict(p);
    status = p->shared.json ? output_json(planning_json(p)) : planning_print(p);
    return status ? report_failure(status) : EXIT_DONE;
}

static int run(int argc, char **argv)
{
    static planning p;
    int code;
    if (!options_parse(&cmd_plan, argc, argv, &p.shared, NULL, &code))
        return code;
    code = plan(&p);
    model_close(p.subject.few);
    return code;
}

/* What a window of the text takes, whatever comes after it. */
static bool parse_beyond(const char *text, void *value)
{
    beyond_option beyond;
    if (!value_beyond.parse(text, &beyond) || beyond.kind == BEYOND_SHIFT ||
        beyond.kind == BEYOND_RECALL)
        return false;
    *(beyond_option *)value = beyond;
    return true;
}

static const value_kind value_planned = {"rolling, rolling:W, stop or yarn (shift keeps a window: "
                                         "plan for that, as --ctx; recall's memory "
                                         "is not planned)",
                                         parse_beyond};

/* In place of the shared ones. */
static const option_row rows[] = {
    {"ctx", 0, &value_positive, offsetof(options, n_ctx), "N",
     "tokens of context to plan for, up to as many as the model was trained for (default), or "
     "beyond that with --beyond yarn",
     OPTIONS_BEYOND},
    {"beyond", 0, &value_planned, offsetof(options, beyond), "RULE",
     "as of generate: yarn stretches positions to --ctx; rolling[:W] and stop change the command "
     "line to use and nothing else. For a run with shift, plan for its window as --ctx (default "
     "rolling)",
     OPTIONS_BEYOND},
};

static const char *const shown[] = {"model",       "kv-dtype",  "weights", "threads",
                                    "page-tokens", "ram",       "zram",    "disk",
                                    "swap",        "placement", "json",    NULL};

const command cmd_plan = {
    .name = "plan",
    .summary = "tell what a context will take and how fast it will be",
    .synopsis = "-m PATH [--ctx N] [options]",
    .details =
        "Reads only headers of the model, probes memory and disk for about 5 seconds with weights "
        "and KV of its\nshapes, and predicts for KV of which 1/16, 1/8, 1/4, 1/2 or all is in RAM, "
        "and for --ram: the disk it\nneeds, tokens per second of reading a prompt of N tokens, and "
        "of decoding after it. Ends with a command\nline to use. Probing takes up to 1.5 GiB of "
        "memory, but never more than half of what is available.\nWith --swap PATH it writes PATH "
        "and PATH.2, and removes them.\n\n"
        "--json prints: architecture, layers, tokens, kv_bytes_per_token, kv_bytes, pages, "
        "page_bytes,\nweights_bytes, hidden_bytes, bytes_written_per_1000_tokens, "
        "least_ram_bytes, zram_bytes, memory_free_bytes,\ndisk_free_bytes, budgets (array of "
        "budget, ram_bytes, disk_bytes, process_bytes, works, why,\nprefill_tokens_per_second, "
        "decode_tokens_per_second, bytes_read_per_token), command and probe (seconds, layers, "
        "tokens).",
    .groups = OPTIONS_MODEL | OPTIONS_BUDGET | OPTIONS_BEYOND | OPTIONS_OUTPUT,
    .own = rows,
    .n_own = sizeof rows / sizeof *rows,
    .shown = shown,
    .run = run,
};
