/* attend_problem.h - a problem for kvp_attend(): random K, V and queries in a sequence, and the
 * solution computed in float64 over flat arrays. The pages come from kv_source.h.
 *
 *     problem p = problem_make((shape){.n_tokens = 97, .n_queries = 1});
 *     problem_solve(&p);
 *     problem_run(&p);
 *     problem_assert_solved(&p);
 *     problem_free(&p);
 *
 * Whatever goes wrong fails the test. One thread. */
#ifndef TESTS_ATTEND_PROBLEM_H
#define TESTS_ATTEND_PROBLEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kvpager.h"

#define PROBLEM_SEED UINT64_C(0x6b767061676572)

/* Values are uniform in [-1, 1], so outputs are below 1 in magnitude. float32 arithmetic over a few
 * hundred keys of width 256 stays below this; masses are below 1 too. */
#define PROBLEM_TOLERANCE 2e-5

/* What to attend; members that are 0 take the values of problem_make(). */
typedef struct shape {
    uint32_t kv_heads, group, k_width, v_width;
    kvp_dtype dtype;
    uint32_t page_tokens, page_heads;
    size_t n_tokens, n_queries;
    uint64_t window, sinks;
    bool has_q_sinks; /* pages that hold a sink are scored with queries of their own */
    uint32_t n_threads;
    bool runs_backwards, swaps_items;
    uint64_t ram_bytes;
    size_t evict_begin, evict_end; /* tokens that are gone; the case evicts them */
    size_t stride_gap;             /* floats between rows of q and of out */
    const uint64_t *positions;
} shape;

typedef struct problem {
    shape s;
    float *k, *v, *q, *q_sinks, *out, *mass;
    double *want, *want_mass;
    kvp_seq *seq;
    kvp_attend_args args;
    size_t n_pages, n_heads;
} problem;

/* Where the random numbers of the next problem start; PROBLEM_SEED at first. */
void problem_seed(uint64_t seed);

/* Random rows in a sequence, everything to call kvp_attend() with, and no solution yet. */
problem problem_make(shape s);
void problem_free(problem *p);

/* Make p->seq of p->k and p->v again, after kv_source_close(p->seq) and a change of them. */
void problem_open(problem *p);

/* want and want_mass by the rule of attention.h, of p as it stands; call it once. */
void problem_solve(problem *p);

/* kvp_attend(): to out and mass. */
void problem_run(problem *p);

/* out, and mass unless it was not asked for, are as wanted. */
void problem_assert_solved(const problem *p);

/* Let kvp_attend() use instruction set i, from 0, the scalar one. False: this CPU cannot. */
#define PROBLEM_N_ISAS ((size_t)3)
bool problem_use_isa(size_t i);

/* Make, solve, and run in both roles on every instruction set of this CPU. */
void problem_check(shape s);

/* Zeroed memory. */
void *must_calloc(size_t n, size_t size);

#endif
