/* replay_report.h - hit rates of placement policies on a trace, for people and for programs. */
#ifndef KVPAGER_CLI_REPLAY_REPORT_H
#define KVPAGER_CLI_REPLAY_REPORT_H

#include <jansson.h>

#include "integration/replay/replay.h"

#define REPLAY_MAX_POLICIES 16u
#define REPLAY_MAX_SIZES 32u

typedef struct replay_policies {
    const kvp_placement_ops *ops[REPLAY_MAX_POLICIES];
    size_t n;
} replay_policies;

typedef struct replay_row {
    uint32_t n_frames;
    uint64_t optimum, hits[REPLAY_MAX_POLICIES]; /* uses that found their page there */
} replay_row;

typedef struct replay_table {
    const trace *trace;
    replay_policies policies;
    replay_row rows[REPLAY_MAX_SIZES];
    size_t n_rows;
} replay_table;

KVP_NODISCARD kvp_status replay_print(const replay_table *table);
json_t *replay_json(const replay_table *table);

#endif
