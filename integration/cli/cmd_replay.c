/* cmd_replay.c - kvpager replay: what placement policies would have hit on a recorded trace. */
#include <string.h>

#include "integration/cli/commands.h"
#include "integration/cli/message.h"
#include "integration/cli/output.h"
#include "integration/cli/replay_report.h"

typedef enum trace_kind { TRACE_OF_KVPAGER = 0, TRACE_OF_MOONCAKE } trace_kind;

typedef struct frame_counts {
    uint32_t n_frames[REPLAY_MAX_SIZES];
    size_t n;
} frame_counts;

typedef struct replay_options {
    const char *path;
    replay_policies policies; /* n == 0: all */
    frame_counts frames;
    size_option ram;
    trace_kind format;
} replay_options;

/* ---- values ---- */

/* The item that `*text` begins with, up to a comma; false: it is empty, or has no room. */
static bool next_item(const char **text, char *item, size_t room)
{
    size_t n = strcspn(*text, ",");
    if (n == 0 || n >= room)
        return false;
    memcpy(item, *text, n);
    item[n] = 0;
    *text += n;
    return true;
}

/* After an item: at the end, or at another one. */
static bool is_at_end(const char **text)
{
    bool is_end = **text == 0;
    *text += !is_end;
    return is_end;
}

static bool parse_policies(const char *text, void *value)
{
    replay_policies policies = {.n = 0};
    char name[32];
    if (strcmp(text, "all") == 0) {
        *(replay_policies *)value = policies;
        return true;
    }
    do {
        if (policies.n == REPLAY_MAX_POLICIES || !next_item(&text, name, sizeof name))
            return false;
        policies.ops[policies.n] = kvp_placement_find(name);
        if (!policies.ops[policies.n++])
            return false;
    } while (!is_at_end(&text));
    *(replay_policies *)value = policies;
    return true;
}

static bool parse_frames(const char *text, void *value)
{
    frame_counts counts = {.n = 0};
    char number[24];
    do {
        uint64_t n;
        if (counts.n == REPLAY_MAX_SIZES || !next_item(&text, number, sizeof number) ||
            !value_positive.parse(number, &n) || n > UINT32_MAX / 2)
            return false;
        counts.n_frames[counts.n++] = (uint32_t)n;
    } while (!is_at_end(&text));
    *(frame_counts *)value = counts;
    return true;
}

static bool parse_format(const char *text, void *value)
{
    bool is_mooncake = strcmp(text, "mooncake") == 0;
    if (!is_mooncake && strcmp(text, "kvpager") != 0)
        return false;
    *(trace_kind *)value = is_mooncake ? TRACE_OF_MOONCAKE : TRACE_OF_KVPAGER;
    return true;
}

static const value_kind value_policies = {
    "all, or of sticky, lru, lfu, clock, s3-fifo and attention-mass some, with commas between",
    parse_policies};
static const value_kind value_frames = {"a number of at least 1, or several with commas between",
                                        parse_frames};
static const value_kind value_format = {"kvpager or mooncake", parse_format};

/* ---- replay ---- */

/* Those that show most, of what all pages at a time would take. */
static frame_counts usual_frames(const trace *t)
{
    static const struct {
        uint32_t n, of;
    } shares[] = {{1, 16}, {1, 8}, {1, 4}, {1, 2}, {3, 4}};
    frame_counts counts = {.n = 0};
    for (size_t i = 0; i < sizeof shares / sizeof *shares; i++) {
        uint32_t n = (uint32_t)((uint64_t)t->peak_live * shares[i].n / shares[i].of);
        n = n > 1 ? n : 1;
        if (counts.n == 0 || counts.n_frames[counts.n - 1] != n)
            counts.n_frames[counts.n++] = n;
    }
    return counts;
}

static kvp_status frames_of_ram(const trace *t, const size_option *ram, frame_counts *counts)
{
    if (!t->page_bytes)
        return kvp_fail(KVP_E_INVALID, "%s does not say how large pages are: give --frames",
                        t->name);
    uint64_t n = ram->bytes / t->page_bytes;
    if (n == 0 || n > UINT32_MAX / 2)
        return kvp_fail(KVP_E_INVALID, "--ram %s is no number of pages of %llu bytes", ram->text,
                        (unsigned long long)t->page_bytes);
    *counts = (frame_counts){.n_frames = {(uint32_t)n}, .n = 1};
    return KVP_OK;
}

static kvp_status fill_row(replay_table *table, uint32_t n_frames)
{
    replay_row *row = &table->rows[table->n_rows++];
    row->n_frames = n_frames;
    kvp_status status = replay_optimum(table->trace, n_frames, &row->optimum);
    for (size_t i = 0; i < table->policies.n && !status; i++)
        status = replay_policy(table->trace, table->policies.ops[i], n_frames, &row->hits[i]);
    return status;
}

static kvp_status fill(const replay_options *o, replay_table *table)
{
    frame_counts frames = o->frames;
    kvp_status status = KVP_OK;
    if (o->ram.given)
        status = frames_of_ram(table->trace, &o->ram, &frames);
    else if (!frames.n)
        frames = usual_frames(table->trace);
    for (size_t i = 0; i < frames.n && !status; i++)
        status = fill_row(table, frames.n_frames[i]);
    return status;
}

static kvp_status replay_and_print(const replay_options *o, const trace *t, bool is_json)
{
    static replay_table table;
    table = (replay_table){.trace = t, .policies = o->policies};
    while (!o->policies.n && kvp_placement_at(table.policies.n)) {
        table.policies.ops[table.policies.n] = kvp_placement_at(table.policies.n);
        table.policies.n++;
    }
    kvp_status status = fill(o, &table);
    if (status)
        return status;
    return is_json ? output_json(replay_json(&table)) : replay_print(&table);
}

static int run(int argc, char **argv)
{
    options shared;
    replay_options own = {0};
    trace t = {0};
    int code;
    if (!options_parse(&cmd_replay, argc, argv, &shared, &own, &code))
        return code;
    if (own.ram.given && own.frames.n)
        return usage_error("replay: give --frames or --ram, not both");
    kvp_status status = own.format == TRACE_OF_MOONCAKE ? trace_read_mooncake(own.path, &t)
                                                        : trace_read(own.path, &t);
    if (!status)
        status = replay_and_print(&own, &t, shared.json);
    trace_free(&t);
    return status ? report_failure(status) : EXIT_DONE;
}

#define AT(member) offsetof(replay_options, member)

static const option_row file = {"file", 0, &value_text, AT(path), "FILE", "", 0};

static const option_row rows[] = {
    {"policy", 0, &value_policies, AT(policies), "LIST",
     "all, or of sticky, lru, lfu, clock, s3-fifo and attention-mass some, with commas between "
     "(default all)",
     0},
    {"frames", 0, &value_frames, AT(frames), "LIST",
     "budgets in pages, with commas between (default: 1/16, 1/8, 1/4, 1/2 and 3/4 of the pages "
     "that there were at a time)",
     0},
    {"ram", 0, &value_size, AT(ram), "SIZE",
     "one budget in bytes instead; a run with this --ram has a little less for pages", 0},
    {"format", 0, &value_format, AT(format), "NAME",
     "kvpager: as --trace writes it; mooncake: JSON Lines with hash_ids, ids of blocks of 512 "
     "tokens (default kvpager)",
     0},
};

static const char *const shown[] = {"json", NULL};

const command cmd_replay = {
    .name = "replay",
    .summary = "tell what placement policies would have hit on a recorded run",
    .synopsis = "FILE [options]",
    .details =
        "Plays the uses of pages that a run with --trace FILE has recorded through placement "
        "policies, the same\ncode that --placement runs, for several budgets. A use hits if its "
        "page is in RAM. Beside them stands the\noptimum (Belady's): who knows the future cannot "
        "hit more. New pages are not counted: nothing can have\nthem before. Read-ahead is left "
        "out; it makes faults cheaper, not fewer.\n\n"
        "--json prints: trace, uses, pages, pages_at_a_time, sequences, page_bytes (or null) and "
        "budgets (array of\nframes, optimum and policies, an object by name; optimum and each of "
        "those has hits and rate).",
    .groups = OPTIONS_OUTPUT,
    .own = rows,
    .n_own = sizeof rows / sizeof *rows,
    .operand = &file,
    .shown = shown,
    .run = run,
};
