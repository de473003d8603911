/* run.h - a script on a pager, beside a flat model of what it must hold. One thread plays all the
 * actors: each operation is a call, or a few, of one of them, and none waits for another. */
#ifndef TESTS_SIM_RUN_H
#define TESTS_SIM_RUN_H

#include <stdio.h>

#include "tests/sim/script.h"

/* What happened in a run, or in many. */
typedef struct sim_tally {
    uint64_t n_ops, n_pages_checked, n_refused, n_busy, n_timeouts, n_again, n_tickets, n_scans;
    uint64_t n_limits, n_budget_refused, n_direct, n_forks, n_io, n_corrupt, n_lost, n_mended;
    uint64_t minor_faults, major_faults, demotions, evictions, copies_on_write, prefetches;
    uint64_t prefetches_advised;
    uint64_t n_injected[SIM_N_FAULTS];
} sim_tally;

void sim_tally_add(sim_tally *sum, const sim_tally *more);

typedef struct sim_outcome {
    bool has_failed;
    uint32_t failed_op; /* its id */
    char message[512];
    uint64_t digest; /* of the log, FNV-1a */
    uint64_t virtual_ns;
    sim_tally tally;
} sim_outcome;

/* Run the operations, then read everything back, destroy it, and look that nothing is left. The
 * log (operations, results, virtual times, statistics) goes to `log` unless that is NULL, and into
 * the digest anyway. */
void sim_run_script(const sim_world *w, const sim_op *ops, uint32_t n, FILE *log, sim_outcome *out);

#endif
