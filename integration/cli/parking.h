/* parking.h - conversations that are parked and resumed: what a turn of one costs, beside computing
 * its KV again. */
#ifndef KVPAGER_CLI_PARKING_H
#define KVPAGER_CLI_PARKING_H

#include <jansson.h>

#include "integration/cli/session.h"

#define PARKING_TURNS 8u /* parked conversations that a round resumes */

typedef struct parking_options {
    uint64_t n_sessions; /* conversations */
    uint64_t n_history;  /* tokens that each has */
    uint64_t n_turn;     /* tokens of a turn */
    uint64_t n_rounds;
} parking_options;

/* Seconds, in ascending order. */
typedef struct parking_times {
    double *seconds; /* [n], malloc'd */
    size_t n;
} parking_times;

/* Of all turns of parked conversations together. */
typedef struct parking_costs {
    uint64_t pages[KVP_N_TIERS]; /* of histories, where they were when the turn began */
    uint64_t minor_faults, major_faults, bytes_read, direct_reclaims;
    uint64_t stalls[KVP_N_TIERS], stall_some_ns[KVP_N_TIERS], stall_full_ns[KVP_N_TIERS];
} parking_costs;

typedef struct parking_result {
    parking_options options;
    uint64_t kv_bytes; /* of all histories, without the rest of their last pages */
    uint64_t ram_bytes, slot_bytes;
    parking_times computed, parked, again; /* again: at once, not parked in between */
    parking_costs costs;
    size_t n_different; /* turns whose logits were not those from before parking */
} parking_result;

/* KV that the histories take of this model. */
uint64_t parking_kv_bytes(const parking_options *o, const model_info *info, kvp_dtype dtype);
/* The most pages per lane that there are at a time. */
uint64_t parking_pages(const parking_options *o, uint32_t page_tokens);

/* Measure with the session's model and pager. parking_result_fini() in any case. */
KVP_NODISCARD kvp_status parking_run(const session *s, const parking_options *o,
                                     parking_result *result);
void parking_result_fini(parking_result *result);

KVP_NODISCARD kvp_status parking_print(const parking_result *r);
json_t *parking_json(const parking_result *r);

#endif
