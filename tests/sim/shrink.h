/* shrink.h - runs in processes of their own, and the shortest script that still fails. */
#ifndef TESTS_SIM_SHRINK_H
#define TESTS_SIM_SHRINK_H

#include "tests/sim/run.h"

/* sim_run_script() in a child: an assertion or a crash is a failure like others, and so is a run
 * that does not end. */
void sim_try_script(const sim_world *w, const sim_op *ops, uint32_t n, sim_outcome *out);

/* Leave out operations while the rest still fails (delta debugging), trying at most max_tries runs.
 * ops becomes the rest; returns how many. *out: of the last run that failed. The run of all has
 * failed. */
uint32_t sim_shrink(const sim_world *w, sim_op *ops, uint32_t n, uint32_t max_tries,
                    sim_outcome *out);

#endif
