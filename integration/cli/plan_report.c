/* plan_report.c - a plan, for people and for programs. */
#include "integration/cli/planning.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "integration/cli/output.h"
#include "integration/cli/report.h"

/* ---- the command line to use ---- */

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

static void add_tiers(const planning *p, command_line *c)
{
    const options *o = &p->shared;
    if (p->chosen == &p->rows[ROW_GIVEN])
        add_option(c, "--ram", o->ram.text);
    else
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

static void add_beyond(command_line *c, const beyond_option *beyond)
{
    char rolling[32];
    snprintf(rolling, sizeof rolling, "rolling:%" PRIu64, beyond->roll);
    if (beyond->kind == BEYOND_YARN)
        add_option(c, "--beyond", "yarn");
    else if (beyond->kind == BEYOND_STOP)
        add_option(c, "--beyond", "stop");
    else if (beyond->roll)
        add_option(c, "--beyond", rolling);
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
    add_beyond(c, &o->beyond);
    if (o->kv_dtype != standard.kv_dtype)
        add_option(c, "--kv-dtype", dtypes[o->kv_dtype]);
    if (o->weights != standard.weights)
        add_option(c, "--weights", "bf16");
    if (o->n_threads)
        add_number(c, "--threads", o->n_threads);
    if (o->page_tokens)
        add_number(c, "--page-tokens", o->page_tokens);
    if (p->chosen != &p->rows[ROW_ALL])
        add_tiers(p, c);
}

/* ---- for people ---- */

static void print_row(const planning *p, const budget_row *row)
{
    char ram[32], disk[32], process[32], read[32];
    printf("  %-6s %11s", row->name, report_bytes(row->ram_bytes, ram, sizeof ram));
    if (*row->why) {
        printf("  %s\n", row->why);
        return;
    }
    printf(" %11s", row->disk_bytes ? report_bytes(row->disk_bytes, disk, sizeof disk) : "-");
    printf(" %11s", report_bytes(planning_process_bytes(p, row), process, sizeof process));
    if (isnan(row->decode))
        printf("  the probe's pages had no place below RAM\n");
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
    printf("%-24s %s for the prefill, beside all that\n", "hidden states",
           report_bytes(p->hidden_bytes, a, sizeof a));
    printf("%-24s %s of memory, %s of disk\n\n", "free here",
           report_bytes(p->memory_free_bytes, b, sizeof b),
           report_bytes(p->disk_free_bytes, c, sizeof c));
}

kvp_status planning_print(const planning *p)
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

/* ---- for programs ---- */

static json_t *size_or_null(uint64_t n)
{
    return n == UINT64_MAX ? json_null() : json_integer((json_int_t)n);
}

static json_t *row_json(const planning *p, const budget_row *row)
{
    return json_pack("{s:s, s:o, s:o, s:o, s:b, s:o, s:o, s:o, s:o}", "budget", row->name,
                     "ram_bytes", json_integer((json_int_t)row->ram_bytes), "disk_bytes",
                     size_or_null(row->disk_bytes), "process_bytes",
                     json_integer((json_int_t)planning_process_bytes(p, row)), "works", !*row->why,
                     "why", *row->why ? json_string(row->why) : json_null(),
                     "prefill_tokens_per_second", json_finite(row->prefill),
                     "decode_tokens_per_second", json_finite(row->decode), "bytes_read_per_token",
                     isnan(row->decode) ? json_null() : json_real(row->missing_bytes));
}

json_t *planning_json(const planning *p)
{
    const plan_kv *kv = &p->kv;
    json_t *rows = json_array();
    command_line c = {.n = 0};
    for (size_t i = 0; i < p->n_rows; i++)
        json_array_append_new(rows, row_json(p, &p->rows[i]));
    if (p->chosen)
        make_command(p, &c);
    return json_pack(
        "{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o, s:o, s:o, s:o,"
        " s:{s:f, s:I, s:I}}",
        "architecture", p->info->architecture, "layers", (json_int_t)kv->n_layers, "tokens",
        (json_int_t)kv->n_tokens, "kv_bytes_per_token", (json_int_t)kv->token_bytes, "kv_bytes",
        (json_int_t)plan_kv_bytes(kv), "pages", (json_int_t)plan_pages(kv), "page_bytes",
        (json_int_t)kv->slot_bytes, "weights_bytes", (json_int_t)p->info->weights_bytes,
        "hidden_bytes", (json_int_t)p->hidden_bytes, "bytes_written_per_1000_tokens",
        (json_int_t)plan_written_bytes(kv, 1000), "least_ram_bytes", (json_int_t)p->least_ram_bytes,
        "zram_bytes", (json_int_t)p->shared.zram.bytes, "memory_free_bytes",
        p->memory_free_bytes ? size_or_null(p->memory_free_bytes) : json_null(), "disk_free_bytes",
        size_or_null(p->disk_free_bytes), "budgets", rows, "command",
        p->chosen ? json_string(c.text) : json_null(), "probe", "seconds", p->probe_seconds,
        "layers", (json_int_t)p->probe.n_layers, "tokens", (json_int_t)p->probe.n_tokens + 1);
}
