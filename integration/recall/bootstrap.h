/* bootstrap.h - how sure a mean of dependent numbers is: a block bootstrap. */
#ifndef KVPAGER_RECALL_BOOTSTRAP_H
#define KVPAGER_RECALL_BOOTSTRAP_H

#include <stddef.h>
#include <stdint.h>

#include "kvpager/status.h"

typedef struct bootstrap_interval {
    double mean, low, high; /* low, high: of 95 % of resampled means */
} bootstrap_interval;

/* x[n], of which neighbours resemble each other: circular blocks of `block` numbers are drawn
 * (Politis and Romano, "A circular block-resampling procedure for stationary data", 1992), the same
 * ones for the same seed. Differences of two runs over the same tokens are paired by that. n >= 1,
 * block >= 1, n_resamples >= 40. Errors: KVP_E_NOMEM. */
KVP_NODISCARD kvp_status bootstrap_mean(const double *x, size_t n, size_t block, size_t n_resamples,
                                        uint64_t seed, bootstrap_interval *out);

#endif
