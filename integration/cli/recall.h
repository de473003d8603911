/* recall.h - the memory of --beyond recall: from options to an open one, and what it did. */
#ifndef KVPAGER_CLI_RECALL_H
#define KVPAGER_CLI_RECALL_H

#include <jansson.h>
#include <stdio.h>

#include "integration/cli/session.h"

/* KV and memory have a pager each, with half of what the options give. */
void recall_share_budget(kvp_config *cfg);
/* What the options must give, where KV or memory alone needs so much. */
uint64_t recall_whole_budget(const options *o, uint64_t bytes);

/* Open a memory for the session, whose model is loaded. Without fitted values, say which ones are
 * used. With --swap, its file is that with .NAME behind; name NULL: all is in RAM. Errors:
 * KVP_E_BUDGET an option is too small: the message says how many bytes work; as recall_fit_load()
 * and kvp_pager_open(). */
KVP_NODISCARD kvp_status recall_open(const session *s, const char *name, memory **out);

/* What a memory cost. */
typedef struct recall_report {
    bool is_used;
    uint64_t n_pairs;
    memory_counts counts;
    kvp_stats stats;
} recall_report;

KVP_NODISCARD kvp_status recall_report_take(memory *m, recall_report *r);
void recall_report_print(const recall_report *r, FILE *out);
json_t *recall_report_json(const recall_report *r);

#endif
