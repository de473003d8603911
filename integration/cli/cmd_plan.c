/* cmd_plan.c - kvpager plan: what a context of N tokens will take, before it is tried. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "integration/cli/commands.h"
#include "integration/cli/interrupt.h"
#include "integration/cli/message.h"
#include "integration/cli/output.h"
#include "integration/cli/page_facts.h"
#include "integration/cli/plan.h"
#include "integration/cli/plan_measure.h"
#include "integration/cli/proc.h"
#include "integration/cli/progress.h"
#include "integration/cli/report.h"
#include "integration/cli/rule.h"

/* A budget of RAM, and what comes of it. */
typedef struct budget_row {
    const char *name; /* "1/16" ... "all", or "--ram" */
    uint64_t ram_bytes, disk_bytes, n_frames;
    char why[160];          /* that a run with it would be refused; "": it would not */
    double prefill, decode; /* tokens per second; NAN: not known */
    double missing_bytes;   /* read per token */
} budget_row;

enum { N_FRACTIONS = 5, MAX_ROWS = N_FRACTIONS + 1 };
static const struct {
    const char *name;
    uint64_t divisor;
} fractions[N_FRACTIONS] = {{"1/16", 16}, {"1/8", 8}, {"1/4", 4}, {"1/2", 2}, {"all", 1}};
enum { ROW_ALL = N_FRACTIONS - 1, ROW_GIVEN = N_FRACTIONS };

typedef struct planning {
    options shared;
    plan_subject subject;
    const model_info *info; /* of the real model, but for the number of layers */
    plan_kv kv;
    plan_probe probe;
    double probe_seconds;
    uint64_t hidden_bytes; /* of a prefill */
    uint64_t least_ram_bytes;
    uint64_t disk_free_bytes; /* UINT64_MAX: unknown */
    budget_row rows[MAX_ROWS];
    size_t n_rows;
    const budget_row *chosen;
} planning;

/* ---- sizes ---- */

static kvp_config real_config(const planning *p)
{
    const options *o = &p->shared;
    kvp_config cfg = p->subject.budget;
    cfg.geometry = model_geometry(p->subject.few, o->kv_dtype, o->page_tokens);
    cfg.geometry.n_layers = model_real_layers(p->subject.few);
    cfg.pool = model_pool(p->subject.few);
    return cfg;
}

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

static kvp_status learn_kv(planning *p)
{
    const options *o = &p->shared;
    kvp_config cfg = real_config(p);
    page_facts facts;
    cfg.zram_bytes = cfg.disk_bytes = 0;
    cfg.disk_path = NULL;
    kvp_status status = page_facts_learn(&cfg, &facts);
    if (status)
        return status;
    p->kv = (plan_kv){.n_tokens = o->n_ctx ? o->n_ctx : p->info->n_ctx,
                      .n_layers = cfg.geometry.n_layers,
                      .n_lanes = facts.n_lanes,
                      .page_tokens = facts.page_tokens,
                      .slot_bytes = facts.slot_bytes,
                      .token_bytes = (uint64_t)cfg.geometry.n_layers * p->info->n_kv_heads *
                                     p->info->head_dim * 2 * kvp_dtype_bytes(o->kv_dtype)};
    p->hidden_bytes = p->kv.n_tokens * p->info->d_model * sizeof(float);
    return KVP_OK;
}

/* Would a run be refused? Compressed RAM counts as nothing: how well pages compress is not known.
 */
static void judge(const planning *p, budget_row *row)
{
    const options *o = &p->shared;
    uint64_t n_pages = plan_pages(&p->kv);
    uint64_t zram_pages = o->zram.bytes / p->kv.slot_bytes;
    if (!row->disk_bytes)
        return;
    if (o->disk.given && o->disk.bytes == 0) {
        if (n_pages > row->n_frames + zram_pages)
            snprintf(row->why, sizeof row->why, "no disk, and RAM does not hold it");
    } else if (o->disk.given && row->disk_bytes > o->disk.bytes) {
        snprintf(row->why, sizeof row->why, "--disk is too small");
    } else if (row->disk_bytes > p->disk_free_bytes) {
        snprintf(row->why, sizeof row->why, "only %" PRIu64 " bytes of the disk are free",
                 p->disk_free_bytes);
    }
}

static kvp_status fill_row(const planning *p, budget_row *row)
{
    kvp_config cfg = real_config(p);
    page_facts facts;
    cfg.ram_bytes = row->ram_bytes;
    row->prefill = row->decode = NAN;
    kvp_status status = page_facts_learn(&cfg, &facts);
    if (status == KVP_E_BUDGET) {
        snprintf(row->why, sizeof row->why, "the pager needs at least %" PRIu64 " bytes",
                 p->least_ram_bytes);
        row->disk_bytes = UINT64_MAX;
        return KVP_OK;
    }
    if (status)
        return status;
    row->n_frames = facts.n_frames;
    uint64_t n_below = page_facts_overflow(&facts, plan_pages(&p->kv));
    row->disk_bytes = n_below ? page_facts_disk(&facts, n_below) : 0;
    judge(p, row);
    return KVP_OK;
}

static kvp_status fill_rows(planning *p)
{
    kvp_config cfg = real_config(p);
    budget_row *all = &p->rows[ROW_ALL];
    kvp_status status = page_facts_ram(&cfg, plan_pages(&p->kv), &all->ram_bytes);
    if (!status)
        status = page_facts_least_ram(&cfg, &p->least_ram_bytes);
    char folder[1024];
    p->disk_free_bytes =
        page_facts_free_bytes(page_facts_swap_place(p->shared.swap, folder, sizeof folder));
    p->n_rows = N_FRACTIONS;
    for (size_t i = 0; i < N_FRACTIONS; i++) {
        p->rows[i].name = fractions[i].name;
        if (i != ROW_ALL)
            p->rows[i].ram_bytes = plan_kv_bytes(&p->kv) / fractions[i].divisor;
    }
    if (p->shared.ram.given)
        p->rows[p->n_rows++] = (budget_row){.name = "--ram", .ram_bytes = p->shared.ram.bytes};
    for (size_t i = 0; i < p->n_rows && !status; i++)
        status = fill_row(p, &p->rows[i]);
    return status;
}

/* ---- predictions ---- */

static uint64_t process_bytes(const planning *p, const budget_row *row)
{
    return p->info->weights_bytes + p->hidden_bytes + row->ram_bytes + p->shared.zram.bytes;
}

/* What was asked for; else the fastest that the machine has memory for, or the smallest that
 * works. */
static const budget_row *choose(const planning *p)
{
    if (p->n_rows > ROW_GIVEN)
        return &p->rows[ROW_GIVEN];
    uint64_t available = proc_machine_bytes("MemAvailable");
    const budget_row *smallest = NULL;
    for (size_t i = N_FRACTIONS; i-- > 0;) {
        if (*p->rows[i].why)
            continue;
        if (process_bytes(p, &p->rows[i]) <= available)
            return &p->rows[i];
        smallest = &p->rows[i];
    }
    return smallest;
}

static void predict(planning *p)
{
    for (size_t i = 0; i < p->n_rows; i++) {
        budget_row *row = &p->rows[i];
        bool is_paged = row->disk_bytes != 0;
        if (*row->why || (is_paged && !p->probe.has_paged))
            continue;
        uint64_t n_frames = is_paged ? row->n_frames : UINT64_MAX;
        row->prefill = (double)p->kv.n_tokens / plan_prefill(&p->kv, &p->probe, n_frames);
        row->decode = 1 / plan_step(&p->kv, &p->probe, n_frames);
        row->missing_bytes =
            plan_missing_pages(&p->kv, &p->probe, n_frames) * (double)p->kv.slot_bytes;
    }
    p->chosen = choose(p);
}

/* ---- printing ---- */

/* As a word of a shell. */
static size_t put_word(char *out, size_t max, const char *word)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                "_-./:,+=@%";
    size_t n = 0;
    if (*word && word[strspn(word, plain)] == 0)
        return (size_t)snprintf(out, max, "%s", word);
    n += (size_t)snprintf(out, max, "'");
    for (; *word && n < max; word++)
        n += (size_t)snprintf(out + n, max - n, *word == '\'' ? "'\\''" : "%c", *word);
    return n + (n < max ? (size_t)snprintf(out + n, max - n, "'") : 0);
}

typedef struct command_line {
    char text[4096];
    size_t n;
} command_line;

static void add_option(command_line *c, const char *option, const char *value)
{
    size_t max = sizeof c->text;
    if (c->n < max)
        c->n += (size_t)snprintf(c->text + c->n, max - c->n, " %s ", option);
    if (c->n < max)
        c->n += put_word(c->text + c->n, max - c->n, value);
}

static void add_number(command_line *c, const char *option, uint64_t n)
{
    char text[24];
    snprintf(text, sizeof text, "%" PRIu64, n);
    add_option(c, option, text);
}

/* The run that the plan is for. */
static void make_command(const planning *p, command_line *c)
{
    static const char *const dtypes[] = {[KVP_F32] = "f32", [KVP_F16] = "f16", [KVP_BF16] = "bf16"};
    const options *o = &p->shared, standard = options_default();
    c->n = (size_t)snprintf(c->text, sizeof c->text, "kvpager generate");
    add_option(c, "-m", o->model_path);
    add_option(c, "-f", "FILE");
    if (o->n_ctx)
        add_number(c, "--ctx", o->n_ctx);
    if (o->beyond.kind == BEYOND_YARN)
        add_option(c, "--beyond", "yarn");
    if (o->kv_dtype != standard.kv_dtype)
        add_option(c, "--kv-dtype", dtypes[o->kv_dtype]);
    if (o->weights != standard.weights)
        add_option(c, "--weights", "bf16");
    if (o->n_threads)
        add_number(c, "--threads", o->n_threads);
    if (o->page_tokens)
        add_number(c, "--page-tokens", o->page_tokens);
    if (p->chosen->disk_bytes || o->ram.given)
        add_number(c, "--ram", p->chosen->ram_bytes);
    if (o->zram.bytes)
        add_option(c, "--zram", o->zram.text);
    if (o->disk.given)
        add_option(c, "--disk", o->disk.text);
    if (o->swap)
        add_option(c, "--swap", o->swap);
    if (o->placement)
        add_option(c, "--placement", o->placement->name);
}

static void print_row(const planning *p, const budget_row *row)
{
    char ram[32], disk[32], process[32], read[32];
    printf("  %-6s %11s", row->name, report_bytes(row->ram_bytes, ram, sizeof ram));
    if (*row->why) {
        printf("  %s\n", row->why);
        return;
    }
    printf(" %11s", row->disk_bytes ? report_bytes(row->disk_bytes, disk, sizeof disk) : "-");
    printf(" %11s", report_bytes(process_bytes(p, row), process, sizeof process));
    if (isnan(row->decode))
        printf("  not known without a place below RAM to probe\n");
    else
        printf(" %10.1f %10.2f %11s\n", row->prefill, row->decode,
               report_bytes((uint64_t)row->missing_bytes, read, sizeof read));
}

static void print_head(const planning *p)
{
    char a[32], b[32], c[32];
    const plan_kv *kv = &p->kv;
    printf("%-24s %s, %" PRIu64 " layers, %u positions; weights %s\n", "model",
           p->info->architecture, kv->n_layers, p->info->n_ctx,
           report_bytes(p->info->weights_bytes, a, sizeof a));
    printf("%-24s %s per token; of %" PRIu64 " tokens %s, in %" PRIu64 " pages of %s\n", "KV",
           report_bytes(kv->token_bytes, a, sizeof a), kv->n_tokens,
           report_bytes(plan_kv_bytes(kv), b, sizeof b), plan_pages(kv),
           report_bytes(kv->slot_bytes, c, sizeof c));
    printf("%-24s %s per 1,000 tokens, once RAM is full\n", "written to disk",
           report_bytes(plan_written_bytes(kv, 1000), a, sizeof a));
    printf("%-24s at least %s; %s with nothing on disk\n", "RAM for KV",
           report_bytes(p->least_ram_bytes, a, sizeof a),
           report_bytes(p->rows[ROW_ALL].ram_bytes, b, sizeof b));
    printf("%-24s %s for the prefill, beside all that\n\n", "hidden states",
           report_bytes(p->hidden_bytes, a, sizeof a));
}

static kvp_status print_plan(const planning *p)
{
    print_head(p);
    printf("  %-6s %11s %11s %11s %10s %10s %11s\n", "", "RAM for KV", "disk", "process",
           "prefill/s", "decode/s", "read/token");
    for (size_t i = 0; i < p->n_rows; i++)
        print_row(p, &p->rows[i]);
    printf("\nprobed in %.1f s with %" PRIu64 " of the layers and %" PRIu64
           " tokens; decode is at the end of the context\n",
           p->probe_seconds, p->probe.n_layers, p->probe.n_tokens + 1);
    if (p->shared.zram.bytes)
        printf("the disk is enough even if no page compresses\n");
    command_line c = {.n = 0};
    if (p->chosen)
        make_command(p, &c);
    return p->chosen ? output_line("\n%s", c.text)
                     : output_line("\nno budget works: see the reasons above");
}

static json_t *size_or_null(uint64_t n)
{
    return n == UINT64_MAX ? json_null() : json_integer((json_int_t)n);
}

static json_t *row_json(const planning *p, const budget_row *row)
{
    return json_pack(
        "{s:s, s:o, s:o, s:o, s:b, s:o, s:o, s:o, s:o}", "budget", row->name, "ram_bytes",
        size_or_null(row->ram_bytes), "disk_bytes", size_or_null(row->disk_bytes), "process_bytes",
        size_or_null(process_bytes(p, row)), "works", !*row->why, "why",
        *row->why ? json_string(row->why) : json_null(), "prefill_tokens_per_second",
        json_finite(row->prefill), "decode_tokens_per_second", json_finite(row->decode),
        "bytes_read_per_token", isnan(row->decode) ? json_null() : json_real(row->missing_bytes));
}

static json_t *to_json(const planning *p)
{
    const plan_kv *kv = &p->kv;
    json_t *rows = json_array();
    command_line c = {.n = 0};
    for (size_t i = 0; i < p->n_rows; i++)
        json_array_append_new(rows, row_json(p, &p->rows[i]));
    if (p->chosen)
        make_command(p, &c);
    return json_pack(
        "{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:o, s:{s:f, s:I, s:I}}",
        "architecture", p->info->architecture, "layers", (json_int_t)kv->n_layers, "tokens",
        (json_int_t)kv->n_tokens, "kv_bytes_per_token", (json_int_t)kv->token_bytes, "kv_bytes",
        (json_int_t)plan_kv_bytes(kv), "pages", (json_int_t)plan_pages(kv), "page_bytes",
        (json_int_t)kv->slot_bytes, "weights_bytes", (json_int_t)p->info->weights_bytes,
        "hidden_bytes", (json_int_t)p->hidden_bytes, "bytes_written_per_1000_tokens",
        (json_int_t)plan_written_bytes(kv, 1000), "least_ram_bytes", (json_int_t)p->least_ram_bytes,
        "zram_bytes", (json_int_t)p->shared.zram.bytes, "budgets", rows, "command",
        p->chosen ? json_string(c.text) : json_null(), "probe", "seconds", p->probe_seconds,
        "layers", (json_int_t)p->probe.n_layers, "tokens", (json_int_t)p->probe.n_tokens + 1);
}

/* ---- running ---- */

static int open_subject(planning *p)
{
    const options *o = &p->shared;
    plan_subject *s = &p->subject;
    window_rule rule;
    *s = (plan_subject){
        .options = o, .model_options = rule_model_options(o), .budget = below_ram(o)};
    kvp_status status =
        model_open_hollow(o->model_path, &s->model_options, PLAN_FEW_LAYERS, &s->few);
    if (status == KVP_E_RANGE && o->n_ctx)
        return rule_refuse_ctx(o);
    if (status)
        return report_failure(status);
    p->info = model_get_info(s->few);
    status = learn_kv(p);
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
    kvp_status status = fill_rows(p);
    if (!status)
        status = measure(p);
    if (status)
        return report_failure(status);
    predict(p);
    status = p->shared.json ? output_json(to_json(p)) : print_plan(p);
    return status ? report_failure(status) : EXIT_DONE;
}

static int run(int argc, char **argv)
{
    static planning p;
    int code;
    if (!options_parse(&cmd_plan, argc, argv, &p.shared, NULL, &code))
        return code;
    if (p.shared.beyond.kind == BEYOND_SHIFT)
        return usage_error("plan: with --beyond shift a window is kept: give its size as --ctx, "
                           "without --beyond");
    code = plan(&p);
    model_close(p.subject.few);
    return code;
}

static const char *const shown[] = {"model", "kv-dtype", "weights", "threads", "page-tokens",
                                    "ram",   "zram",     "disk",    "swap",    "placement",
                                    "ctx",   "beyond",   "json",    NULL};

const command cmd_plan = {
    .name = "plan",
    .summary = "tell what a context will take and how fast it will be",
    .synopsis = "-m PATH [--ctx N] [options]",
    .details =
        "Reads only headers of the model, probes memory and disk for about 5 seconds with weights "
        "and KV of its\nshapes, and predicts for KV of which 1/16, 1/8, 1/4, 1/2 or all is in RAM, "
        "and for --ram: the disk it\nneeds, tokens per second of reading a prompt of N tokens, and "
        "of decoding after it. Ends with a command\nline to use.\n\n"
        "--json prints: architecture, layers, tokens, kv_bytes_per_token, kv_bytes, pages, "
        "page_bytes,\nweights_bytes, hidden_bytes, bytes_written_per_1000_tokens, "
        "least_ram_bytes, zram_bytes, budgets (array\nof budget, ram_bytes, disk_bytes, "
        "process_bytes, works, why, prefill_tokens_per_second,\ndecode_tokens_per_second, "
        "bytes_read_per_token), command and probe (seconds, layers, tokens).",
    .groups = OPTIONS_MODEL | OPTIONS_BUDGET | OPTIONS_BEYOND | OPTIONS_OUTPUT,
    .shown = shown,
    .run = run,
};
