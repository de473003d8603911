/* workloads.h - what engines do to a pager, small enough to ship: the traces in tests/data/traces/
 * are made by these. Everything is in RAM, one thread, no randomness but a fixed seed's: the same
 * bytes every time. */
#ifndef TESTS_WORKLOADS_H
#define TESTS_WORKLOADS_H

#include "kvpager.h"

typedef struct workload {
    const char *name;
    uint32_t n_layers;
    kvp_status (*run)(kvp_pager *pager, uint32_t n_layers);
} workload;

/* cyclic_decode, chat_resume, fork_heavy, staggered_batch; ended by one without a name. */
extern const workload workloads[];

/* Run it and write its trace. */
KVP_NODISCARD kvp_status workload_record(const workload *w, const char *path);

#endif
