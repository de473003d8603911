/* report.h - what a run cost: the closing table, and `seconds` and `stats` of the JSON object. */
#ifndef KVPAGER_CLI_REPORT_H
#define KVPAGER_CLI_REPORT_H

#include <jansson.h>
#include <stdio.h>

#include "integration/cli/recall.h"
#include "integration/cli/run.h"

typedef struct report {
    run_seconds seconds;
    uint64_t prefill_tokens, decode_tokens;
    kvp_stats stats;
    recall_report memory;
    uint64_t zram_budget_bytes, disk_budget_bytes; /* 0: there is no such tier */
    uint64_t weights_bytes, activation_bytes;
    uint64_t rss_bytes, rss_peak_bytes; /* of the whole process; 0: unknown */
    const char *weights;                /* "f32", "f16", "bf16" */
    const char *isa;
} report;

/* Look at pager and process now: before sequences are destroyed. */
KVP_NODISCARD kvp_status report_take(const session *s, const run_seconds *seconds, report *r);
/* Should the table be printed? */
bool report_is_wanted(const options *o);
void report_print(const report *r, FILE *out);
/* What a second run with everything in RAM said. */
typedef enum verdict { NOT_VERIFIED, IDENTICAL, DIFFERENT } verdict;

/* `what` was compared, e.g. "40 tokens and their logits"; nothing for NOT_VERIFIED. */
void report_print_verdict(const report *r, verdict v, const char *what);
json_t *verdict_to_json(verdict v);

/* "12.50 MiB"; returns `text`. */
const char *report_bytes(uint64_t bytes, char *text, size_t n);
/* Add "seconds" and "stats"; NULL: a command that computes nothing, all members are null. */
void report_add_json(const report *r, json_t *object);

#endif
