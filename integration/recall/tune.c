/* tune.c - quantiles, and EM for the weight of a mixture of two: its likelihood is concave in the
 * weight, so that where it begins does not matter. */
#include "integration/recall/tune.h"

#include <math.h>
#include <stdlib.h>

#define EM_STEPS 100
#define MAX_LAMBDA 0.95 /* what no text that is fitted to may argue away: the model's own say */

const double tune_thetas[TUNE_THETAS] = {4, 6, 8, 10, 12, 16, 20, 25, 32, 40};

typedef struct sample {
    float best; /* cosine */
    double p_model;
    double p_memory[TUNE_THETAS];
} sample;

struct tune {
    sample *samples;
    size_t n, capacity;
};

kvp_status tune_open(size_t n, tune **out)
{
    tune *t = calloc(1, sizeof *t);
    if (t)
        t->samples = malloc((n ? n : 1) * sizeof *t->samples);
    if (!t || !t->samples) {
        free(t);
        return kvp_fail(KVP_E_NOMEM, "out of memory to fit a memory on %zu tokens", n);
    }
    t->capacity = n;
    *out = t;
    return KVP_OK;
}

void tune_close(tune *t)
{
    if (!t)
        return;
    free(t->samples);
    free(t);
}

void tune_add(tune *t, const memory *m, size_t row, int32_t token, double p_model)
{
    sample *s = &t->samples[t->n];
    if (t->n == t->capacity || !memory_best(m, row, &s->best))
        return;
    s->p_model = p_model;
    for (size_t i = 0; i < TUNE_THETAS; i++)
        s->p_memory[i] = memory_probability(m, row, tune_thetas[i], token);
    t->n++;
}

static int compare_best(const void *a, const void *b)
{
    const sample *x = a, *y = b;
    return x->best < y->best ? -1 : x->best > y->best;
}

/* Samples [first, end) are one bucket. */
static double find_lambda(const sample *samples, size_t first, size_t end, size_t theta)
{
    double lambda = 0.1;
    for (int step = 0; step < EM_STEPS && first < end; step++) {
        double share = 0;
        for (size_t i = first; i < end; i++) {
            double memory = lambda * samples[i].p_memory[theta];
            share += memory / (memory + (1 - lambda) * samples[i].p_model);
        }
        lambda = fmin(share / (double)(end - first), MAX_LAMBDA);
    }
    return lambda;
}

static double loss_of(const sample *samples, size_t first, size_t end, size_t theta, double lambda)
{
    double loss = 0;
    for (size_t i = first; i < end; i++)
        loss -= log((1 - lambda) * samples[i].p_model + lambda * samples[i].p_memory[theta]);
    return loss;
}

/* The fit's lambdas with this theta; returns the loss of all samples. */
static double solve_for(const tune *t, size_t theta, double *lambda)
{
    double loss = 0;
    for (size_t b = 0; b < RECALL_BUCKETS; b++) {
        size_t first = b * t->n / RECALL_BUCKETS, end = (b + 1) * t->n / RECALL_BUCKETS;
        lambda[b] = find_lambda(t->samples, first, end, theta);
        loss += loss_of(t->samples, first, end, theta, lambda[b]);
    }
    return loss;
}

tune_result tune_solve(tune *t, recall_fit *fit)
{
    tune_result r = {.n = t->n, .mixed = INFINITY};
    if (t->n < RECALL_BUCKETS)
        return (tune_result){0};
    qsort(t->samples, t->n, sizeof *t->samples, compare_best);
    for (size_t b = 0; b + 1 < RECALL_BUCKETS; b++)
        fit->edges[b] = t->samples[(b + 1) * t->n / RECALL_BUCKETS].best;
    for (size_t theta = 0; theta < TUNE_THETAS; theta++) {
        double lambda[RECALL_BUCKETS], loss = solve_for(t, theta, lambda);
        if (!(loss < r.mixed))
            continue;
        r.mixed = loss;
        fit->theta = tune_thetas[theta];
        for (size_t b = 0; b < RECALL_BUCKETS; b++)
            fit->lambda[b] = lambda[b];
    }
    for (size_t i = 0; i < t->n; i++)
        r.model -= log(t->samples[i].p_model);
    r.model /= (double)t->n;
    r.mixed /= (double)t->n;
    return r;
}
