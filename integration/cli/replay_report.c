/* replay_report.c - hit rates of placement policies on a trace. */
#include "integration/cli/replay_report.h"

#include <inttypes.h>
#include <stdio.h>

#include "integration/cli/output.h"

#define COLUMN 9 /* wide enough for what most policies are called */

static double share(uint64_t n, uint64_t of)
{
    return of ? (double)n / (double)of : 0;
}

static int column_of(const kvp_placement_ops *ops)
{
    int n = snprintf(NULL, 0, "%s", ops->name) + 2;
    return n > COLUMN ? n : COLUMN;
}

static kvp_status print_head(const replay_table *table)
{
    const trace *t = table->trace;
    char size[48] = "", line[512];
    if (t->page_bytes)
        snprintf(size, sizeof size, " of %" PRIu64 " bytes", t->page_bytes);
    kvp_status status =
        output_line("%s: %" PRIu64 " uses of %zu pages%s, up to %" PRIu32 " at a time, of %" PRIu64
                    " sequences\nShare of uses that find their page in RAM:\n",
                    t->name, t->n_uses, t->n_new, size, t->peak_live, t->n_seqs);
    int n = snprintf(line, sizeof line, "%10s %9s %9s", "frames", "of pages", "optimum");
    for (size_t i = 0; i < table->policies.n; i++)
        n += snprintf(line + n, sizeof line - (size_t)n, "%*s", column_of(table->policies.ops[i]),
                      table->policies.ops[i]->name);
    return status ? status : output_line("%s", line);
}

static kvp_status print_row(const replay_table *table, const replay_row *row)
{
    const trace *t = table->trace;
    char line[512];
    int n = snprintf(line, sizeof line, "%10" PRIu32 " %9.3f %9.4f", row->n_frames,
                     share(row->n_frames, t->peak_live), share(row->optimum, t->n_uses));
    for (size_t i = 0; i < table->policies.n; i++)
        n += snprintf(line + n, sizeof line - (size_t)n, "%*.4f", column_of(table->policies.ops[i]),
                      share(row->hits[i], t->n_uses));
    return output_line("%s", line);
}

kvp_status replay_print(const replay_table *table)
{
    kvp_status status = print_head(table);
    for (size_t i = 0; i < table->n_rows && !status; i++)
        status = print_row(table, &table->rows[i]);
    return status;
}

/* ---- for programs ---- */

static json_t *hits_json(const replay_table *table, uint64_t hits)
{
    return json_pack("{s:I, s:f}", "hits", (json_int_t)hits, "rate",
                     share(hits, table->trace->n_uses));
}

static json_t *row_json(const replay_table *table, const replay_row *row)
{
    json_t *policies = json_object();
    for (size_t i = 0; i < table->policies.n; i++)
        json_object_set_new(policies, table->policies.ops[i]->name, hits_json(table, row->hits[i]));
    return json_pack("{s:I, s:o, s:o}", "frames", (json_int_t)row->n_frames, "optimum",
                     hits_json(table, row->optimum), "policies", policies);
}

json_t *replay_json(const replay_table *table)
{
    const trace *t = table->trace;
    json_t *rows = json_array();
    for (size_t i = 0; i < table->n_rows; i++)
        json_array_append_new(rows, row_json(table, &table->rows[i]));
    return json_pack("{s:s, s:I, s:I, s:I, s:I, s:o, s:o}", "trace", t->name, "uses",
                     (json_int_t)t->n_uses, "pages", (json_int_t)t->n_new, "pages_at_a_time",
                     (json_int_t)t->peak_live, "sequences", (json_int_t)t->n_seqs, "page_bytes",
                     t->page_bytes ? json_integer((json_int_t)t->page_bytes) : json_null(),
                     "budgets", rows);
}
