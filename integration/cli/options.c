/* options.c - the shared options: one table that parses, checks and prints the help. */
#include "integration/cli/options.h"

#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "integration/cli/message.h"

#define COUNT(array) (sizeof(array) / sizeof *(array))
#define MAX_ROWS 64
#define HELP_COLUMN 26
#define HELP_WIDTH 100

/* ---- the table ---- */

#define AT(member) offsetof(options, member)

static const option_row shared_rows[] = {
    {"model", 'm', &value_text, AT(model_path), "PATH",
     "a Hugging Face folder (config.json, safetensors, and tokenizer.json or vocab.json with "
     "merges.txt) or a .gguf file (required)",
     OPTIONS_MODEL},
    {"kv-dtype", 0, &value_dtype, AT(kv_dtype), "TYPE",
     "what keys and values are stored as: f32, f16, bf16 (default f16)", OPTIONS_MODEL},
    {"weights", 0, &value_dtype, AT(weights), "TYPE",
     "what weights are held as: f32, f16, bf16 (default f32)", OPTIONS_MODEL},
    {"threads", 0, &value_threads, AT(n_threads), "N",
     "threads to compute with (default: one per CPU); changes no result of attention",
     OPTIONS_MODEL},
    {"page-tokens", 0, &value_page_tokens, AT(page_tokens), "N",
     "tokens per page (default 64); another size may round results differently. A page holds as "
     "many KV heads of a layer as make about 64 KiB",
     OPTIONS_MODEL},

    {"prompt", 'p', &value_text, AT(prompt), "TEXT", "the input itself", OPTIONS_INPUT},
    {"file", 'f', &value_text, AT(file), "FILE", "the input is this UTF-8 file; - is stdin",
     OPTIONS_INPUT},
    {"ids", 0, &value_text, AT(ids_file), "FILE",
     "the input is this JSON array of token ids; - is stdin", OPTIONS_INPUT},

    {"ram", 0, &value_size, AT(ram), "SIZE",
     "RAM for KV pages, a hard limit (default: everything stays in RAM). Sizes are bytes, or have "
     "K, M or G (binary)",
     OPTIONS_BUDGET},
    {"zram", 0, &value_size, AT(zram), "SIZE",
     "RAM for compressed pages, a hard limit of its own (default 0: none)", OPTIONS_BUDGET},
    {"disk", 0, &value_size, AT(disk), "SIZE",
     "disk for pages, a hard limit (default: none without --ram, as needed with it; 0: none)",
     OPTIONS_BUDGET},
    {"swap", 0, &value_text, AT(swap), "PATH",
     "name of the swap file, visible until exit (default: an unlinked file in $TMPDIR or "
     "/var/tmp); an existing file of another kind is refused",
     OPTIONS_BUDGET},
    {"placement", 0, &value_placement, AT(placement), "NAME",
     "which pages stay in RAM (default sticky): sticky, lru, lfu, clock, s3-fifo or "
     "attention-mass; "
     "kvpager replay compares them",
     OPTIONS_BUDGET},
    {"trace", 0, &value_text, AT(trace), "FILE",
     "write down there in which order pages are used, for kvpager replay; an existing file is "
     "replaced",
     OPTIONS_BUDGET},

    {"ctx", 0, &value_positive, AT(n_ctx), "N",
     "context: positions that the model uses, up to as many as it was trained for (default), or "
     "beyond that with --beyond yarn. With --beyond shift: tokens that the text may have (default: "
     "no limit)",
     OPTIONS_BEYOND},
    {"keep", 0, &value_keep, AT(keep), "RULE",
     "all, or window:N[,sinks:S]: a token attends pages that hold one of the last N positions or "
     "one of the first S; other pages are freed. Approximate (default all)",
     OPTIONS_KEEP},
    {"beyond", 0, &value_beyond, AT(beyond), "RULE",
     "when the context is full: rolling[:W] begins a new one with the last W tokens, older text is "
     "forgotten (exact: each token sees what a run over that window alone would show it; W by "
     "default half of the context); recall[:TOKENS] does the same, and mixes what the model says "
     "with "
     "what followed the most similar places among all earlier text, or its last TOKENS tokens, "
     "which a memory in pages of its own keeps (approximate; half of --ram, --zram and --disk is "
     "the memory's; kvpager memory-fit fits it to a model); stop ends there (exact); yarn "
     "stretches rotary positions to "
     "--ctx, from the first token on (approximate); shift never begins anew: what --keep leaves "
     "counts as if it had no gaps, so that positions stay inside the context (approximate; by "
     "default --keep is sinks:4 and the largest window that fits) (default rolling)",
     OPTIONS_BEYOND},

    {"tokens", 'n', &value_count, AT(n_new), "N",
     "new tokens at most (default 128); the end-of-text token ends earlier", OPTIONS_GENERATION},
    {"ignore-eos", 0, NULL, AT(ignore_eos), NULL, "go on after the end-of-text token (default off)",
     OPTIONS_GENERATION},
    {"temp", 0, &value_temperature, AT(sampler.temperature), "T",
     "temperature; 0 takes the most likely token (default 0)", OPTIONS_GENERATION},
    {"top-k", 0, &value_top_k, AT(sampler.top_k), "K",
     "sample among the K most likely tokens; 0: all (default 0)", OPTIONS_GENERATION},
    {"top-p", 0, &value_top_p, AT(sampler.top_p), "P",
     "sample among the most likely tokens that have probability P together (default 1: all)",
     OPTIONS_GENERATION},
    {"seed", 0, &value_count, AT(sampler.seed), "S",
     "of sampling: the same seed gives the same tokens (default 0)", OPTIONS_GENERATION},

    {"json", 0, NULL, AT(json), NULL, "print one JSON object on stdout and nothing else there",
     OPTIONS_OUTPUT},
    {"stats", 0, NULL, AT(stats), NULL,
     "print the closing table on stderr also when that is no terminal", OPTIONS_OUTPUT},
};

static const option_row help_row = {"help", 'h', NULL, 0, NULL, "print this and exit", 0};

static const struct {
    unsigned group;
    const char *title;
} group_titles[] = {
    {0, "Options of this command"},
    {OPTIONS_MODEL, "Model"},
    {OPTIONS_INPUT, "Input (exactly one)"},
    {OPTIONS_GENERATION, "Generation"},
    {OPTIONS_BUDGET, "Where KV pages lie (no result depends on it)"},
    {OPTIONS_KEEP | OPTIONS_BEYOND, "What the model sees"},
    {OPTIONS_OUTPUT, "Output"},
};

options options_default(void)
{
    return (options){
        .kv_dtype = KVP_F16,
        .weights = KVP_F32,
        .n_new = 128,
        .sampler = {.top_p = 1},
    };
}

/* ---- help ---- */

/* Print `text` from the column on, broken at spaces. */
static void print_wrapped(const char *text, int column)
{
    int room = HELP_WIDTH - column;
    while ((int)strlen(text) > room) {
        int n = room;
        while (n > 0 && text[n] != ' ')
            n--;
        printf("%.*s\n%*s", n, text, column, "");
        text += n + 1;
    }
    printf("%s\n", text);
}

static void print_option(const option_row *row)
{
    char left[64];
    int n = row->letter ? snprintf(left, sizeof left, "  -%c, --%s", row->letter, row->name)
                        : snprintf(left, sizeof left, "      --%s", row->name);
    if (row->metavar)
        n += snprintf(left + n, sizeof left - (size_t)n, " %s", row->metavar);
    if (n < HELP_COLUMN - 1)
        printf("%-*s", HELP_COLUMN, left);
    else
        printf("%s\n%*s", left, HELP_COLUMN, "");
    print_wrapped(row->help, HELP_COLUMN);
}

static bool is_shown(const command *cmd, const option_row *row)
{
    if (!cmd->shown)
        return true;
    for (const char *const *name = cmd->shown; *name; name++)
        if (strcmp(*name, row->name) == 0)
            return true;
    return false;
}

static size_t print_rows(const command *cmd, unsigned group, const char *title)
{
    bool is_own = group == 0;
    const option_row *rows = is_own ? cmd->own : shared_rows;
    size_t n_rows = is_own ? cmd->n_own : COUNT(shared_rows), n_printed = 0;
    for (size_t i = 0; i < n_rows; i++) {
        if (!is_own && (!(rows[i].group & group & cmd->groups) || !is_shown(cmd, &rows[i])))
            continue;
        if (n_printed++ == 0)
            printf("\n%s:\n", title);
        print_option(&rows[i]);
    }
    return n_printed;
}

void options_print_help(const command *cmd)
{
    printf("usage: kvpager %s %s\n\n%s\n", cmd->name, cmd->synopsis, cmd->details);
    for (size_t i = 0; i < COUNT(group_titles); i++) {
        size_t n = print_rows(cmd, group_titles[i].group, group_titles[i].title);
        if (n && group_titles[i].group == OPTIONS_OUTPUT)
            print_option(&help_row);
    }
}

/* ---- parsing ---- */

/* Levenshtein's distance, for words of up to 31 bytes; longer ones are far from everything. */
static size_t edit_distance(const char *a, const char *b)
{
    size_t row[32], n_a = strlen(a), n_b = strlen(b);
    if (n_a >= COUNT(row) || n_b >= COUNT(row))
        return SIZE_MAX;
    for (size_t j = 0; j <= n_b; j++)
        row[j] = j;
    for (size_t i = 1; i <= n_a; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= n_b; j++) {
            size_t above = row[j], best = diagonal + (a[i - 1] != b[j - 1]);
            best = above + 1 < best ? above + 1 : best;
            row[j] = row[j - 1] + 1 < best ? row[j - 1] + 1 : best;
            diagonal = above;
        }
    }
    return row[n_b];
}

const char *closest_name(const char *text, const char *const *names, size_t n)
{
    const char *best = NULL;
    size_t n_text = strlen(text);
    size_t best_distance = n_text < 3 ? 1 : n_text / 3; /* more errors than that: another word */
    for (size_t i = 0; i < n; i++) {
        size_t distance = names[i] ? edit_distance(text, names[i]) : SIZE_MAX;
        if (distance < best_distance || (distance == best_distance && !best)) {
            best = names[i];
            best_distance = distance;
        }
    }
    return best;
}

/* What a command understands, in getopt_long's form; rows[i] belongs to long_options[i]. */
typedef struct parser {
    const command *cmd;
    const option_row *rows[MAX_ROWS];
    struct option long_options[MAX_ROWS + 1];
    char letters[2 * MAX_ROWS + 2];
    size_t n_rows, n_letters;
} parser;

static void add_row(parser *p, const option_row *row)
{
    p->rows[p->n_rows] = row;
    p->long_options[p->n_rows] =
        (struct option){.name = row->name, .has_arg = row->kind ? required_argument : no_argument};
    p->n_rows++;
    if (!row->letter)
        return;
    p->letters[p->n_letters++] = row->letter;
    if (row->kind)
        p->letters[p->n_letters++] = ':';
}

static void init_parser(parser *p, const command *cmd)
{
    *p = (parser){.cmd = cmd, .letters = ":", .n_letters = 1};
    for (size_t i = 0; i < cmd->n_own; i++)
        add_row(p, &cmd->own[i]);
    for (size_t i = 0; i < COUNT(shared_rows); i++)
        if (shared_rows[i].group & cmd->groups)
            add_row(p, &shared_rows[i]);
    add_row(p, &help_row);
}

static const option_row *row_of_letter(const parser *p, int letter)
{
    for (size_t i = 0; i < p->n_rows; i++)
        if (p->rows[i]->letter == letter)
            return p->rows[i];
    return NULL;
}

static int complain_unknown(const parser *p, const char *word)
{
    const char *names[MAX_ROWS], *hint = NULL;
    for (size_t i = 0; i < p->n_rows; i++)
        names[i] = p->rows[i]->name;
    if (strncmp(word, "--", 2) == 0)
        hint = closest_name(word + 2, names, p->n_rows);
    if (hint)
        return usage_error("unknown option '%s'; did you mean --%s? See kvpager %s --help", word,
                           hint, p->cmd->name);
    return usage_error("unknown option '%s'; see kvpager %s --help", word, p->cmd->name);
}

/* getopt_long() did not take an option: say which and why. It leaves the letter of a short one in
 * optopt, and 0 there for a long one, which is then argv[optind - 1]. */
static int complain_option(const parser *p, int result, char **argv)
{
    char letter[3] = {'-', (char)optopt, 0};
    const char *word = optopt ? letter : argv[optind - 1];
    if (result == ':')
        return usage_error("option '%s' needs a value; see kvpager %s --help", word, p->cmd->name);
    const char *equals = strchr(word, '=');
    for (size_t i = 0; equals && i < p->n_rows; i++) {
        size_t n = strlen(p->rows[i]->name);
        if (word + 2 + n == equals && strncmp(word + 2, p->rows[i]->name, n) == 0)
            return usage_error("option '--%s' takes no value", p->rows[i]->name);
    }
    return complain_unknown(p, word);
}

static void complain_value(const option_row *row, const char *text)
{
    char letter[2] = {row->letter, 0}; /* as most people write it */
    const char *dashes = row->letter ? "-" : "--", *name = row->letter ? letter : row->name;
    if (errno == ERANGE)
        usage_error("%s%s: '%s' is too large", dashes, name, text);
    else
        usage_error("%s%s: '%s' is not %s", dashes, name, text, row->kind->expected);
}

static bool set_value(const option_row *row, const char *text, options *shared, void *own)
{
    char *target = (row->group ? (char *)shared : (char *)own) + row->offset;
    if (!row->kind) {
        *(bool *)target = true;
        return true;
    }
    if (row->group & OPTIONS_INPUT && *(const char **)(void *)target) {
        usage_error("more than one input: --%s is given twice", row->name);
        return false;
    }
    errno = 0;
    if (row->kind->parse(text, target))
        return true;
    complain_value(row, text);
    return false;
}

int options_check_input(const options *o)
{
    int n = !!o->prompt + !!o->file + !!o->ids_file;
    if (n == 1)
        return EXIT_DONE;
    return usage_error("%s: give exactly one of -p TEXT, -f FILE and --ids FILE",
                       n ? "more than one input" : "no input");
}

/* What no single option can see. */
static bool check(const command *cmd, const options *o)
{
    if ((cmd->groups & OPTIONS_MODEL) && !cmd->needs_no_model && !o->model_path)
        usage_error("no model: give its folder or .gguf file with -m PATH; see kvpager %s --help",
                    cmd->name);
    else if ((cmd->groups & OPTIONS_INPUT) && !cmd->checks_input && options_check_input(o))
        return false;
    else if ((cmd->groups & OPTIONS_BEYOND) && o->beyond.kind == BEYOND_YARN && !o->n_ctx)
        usage_error("--beyond yarn needs --ctx N: how many positions to stretch the model's to");
    else if (o->beyond.kind == BEYOND_RECALL && !cmd->can_recall)
        usage_error("--beyond recall works with generate, perplexity and logits, not with %s",
                    cmd->name);
    else if (o->swap && o->disk.given && o->disk.bytes == 0)
        usage_error("--swap names a file, but --disk 0 forbids to use it");
    else
        return true;
    return false;
}

bool options_parse(const command *cmd, int argc, char **argv, options *shared, void *own,
                   int *exit_code)
{
    parser p;
    init_parser(&p, cmd);
    *shared = options_default();
    *exit_code = EXIT_USAGE;
    optind = 0; /* glibc: start anew */
    opterr = 0;
    for (;;) {
        int index = -1;
        int result = getopt_long(argc, argv, p.letters, p.long_options, &index);
        if (result == -1)
            break;
        if (result == '?' || result == ':') {
            complain_option(&p, result, argv);
            return false;
        }
        const option_row *row = index >= 0 ? p.rows[index] : row_of_letter(&p, result);
        if (row == &help_row) {
            options_print_help(cmd);
            *exit_code = EXIT_DONE;
            return false;
        }
        if (!set_value(row, optarg, shared, own))
            return false;
    }
    if (cmd->operand && optind == argc) {
        usage_error("no %s; see kvpager %s --help", cmd->operand->metavar, cmd->name);
        return false;
    }
    if (cmd->operand && !set_value(cmd->operand, argv[optind++], shared, own))
        return false;
    if (optind < argc) {
        usage_error("unexpected argument '%s'; see kvpager %s --help", argv[optind], cmd->name);
        return false;
    }
    return check(cmd, shared);
}
