/* segment_churn.h - sequences that grow side by side, fork, and die whole, in segments of which a
 * given part is in use: what cleaning has to cope with. No bytes, only places. */
#ifndef TESTS_SEGMENT_CHURN_H
#define TESTS_SEGMENT_CHURN_H

#include <stdbool.h>
#include <stdint.h>

typedef struct segment_churn_spec {
    uint32_t n_segments, segment_units, slot_units;
    uint32_t least_units; /* records have between so many units and slot_units */
    uint32_t burst;       /* pages that a sequence writes in its turn */
    double utilisation;   /* mean; of the units without the reserve */
    double capacities;    /* written after the file was full once */
    bool fills_holes;
    bool is_uniform; /* pages die one by one, at random: the worst case, in place of sequences */
    uint64_t seed;
} segment_churn_spec;

typedef struct segment_churn_result {
    uint64_t units_written, units_moved; /* of the user; by cleaning */
    uint64_t n_cleaned, n_deaths, n_forks, n_shared;
    double utilisation;   /* mean, at each record */
    double neighbours;    /* part of a sequence's successive pages that lie side by side */
    double amplification; /* units written in all, for each of the user's */
    uint64_t n_failed;    /* records for which there was no room; must be 0 */
} segment_churn_result;

void segment_churn(const segment_churn_spec *spec, segment_churn_result *r);

#endif
