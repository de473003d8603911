/* bootstrap.c - with sums of prefixes, a block costs one subtraction. */
#include "integration/recall/bootstrap.h"

#include <stdlib.h>

#include "integration/least.h"
#include "integration/random.h"

static int compare(const void *a, const void *b)
{
    const double *x = a, *y = b;
    return *x < *y ? -1 : *x > *y;
}

/* prefix[i]: the sum of x[0 .. i) of the numbers written twice in a row. */
static void sum_up(const double *x, size_t n, double *prefix)
{
    prefix[0] = 0;
    for (size_t i = 0; i < 2 * n; i++)
        prefix[i + 1] = prefix[i] + x[i % n];
}

static double resample(const double *prefix, size_t n, size_t block, uint64_t *state)
{
    double sum = 0;
    for (size_t i = 0, part; i < n; i += part) {
        size_t first = random_next(state) % n;
        part = least(block, n - i);
        sum += prefix[first + part] - prefix[first];
    }
    return sum / (double)n;
}

kvp_status bootstrap_mean(const double *x, size_t n, size_t block, size_t n_resamples,
                          uint64_t seed, bootstrap_interval *out)
{
    uint64_t state = RANDOM_SEED ^ seed << 1;
    double *prefix = malloc((2 * n + 1) * sizeof *prefix);
    double *means = malloc(n_resamples * sizeof *means);
    kvp_status status =
        prefix && means ? KVP_OK : kvp_fail(KVP_E_NOMEM, "out of memory for a bootstrap");
    block = least(block, n);
    if (!status) {
        sum_up(x, n, prefix);
        for (size_t i = 0; i < n_resamples; i++)
            means[i] = resample(prefix, n, block, &state);
        qsort(means, n_resamples, sizeof *means, compare);
        *out = (bootstrap_interval){.mean = prefix[n] / (double)n,
                                    .low = means[n_resamples / 40],
                                    .high = means[n_resamples - 1 - n_resamples / 40]};
    }
    free(prefix);
    free(means);
    return status;
}
