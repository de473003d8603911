/* sampler.c - the next token from logits: greedy, or drawn after temperature, top-k and top-p in
 * that order (as Hugging Face's logits processors apply them).
 *
 * Randomness is PCG32 (XSH RR 64/32; O'Neill, "PCG: A Family of Simple Fast Space-Efficient
 * Statistically Good Algorithms for Random Number Generation", 2014), two draws per token, so that
 * a seed and a sequence of logits always give the same tokens.
 *
 * Candidates are a max-heap by (logit, lowest id first): top-k and top-p pop only what they keep,
 * which for a peaked distribution is far less than sorting the vocabulary. */
#include "integration/text/sampler.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>

typedef struct candidate {
    float logit;
    int32_t id;
} candidate;

struct sampler {
    sampler_options options;
    uint32_t n_vocab;
    uint64_t state;        /* of PCG32 */
    candidate *candidates; /* [n_vocab] */
    double *mass;          /* [n_vocab] unnormalised probability of each candidate */
};

/* ---- random numbers -------------------------------------------------------------------------- */

#define PCG_MULTIPLIER 6364136223846793005u
#define PCG_INCREMENT ((54u << 1) | 1u) /* the stream of the reference program */

static uint32_t pcg32(uint64_t *state)
{
    uint64_t old = *state;
    *state = old * PCG_MULTIPLIER + PCG_INCREMENT;
    uint32_t shifted = (uint32_t)(((old >> 18) ^ old) >> 27);
    uint32_t rotation = (uint32_t)(old >> 59);
    return shifted >> rotation | shifted << ((32 - rotation) & 31);
}

static void pcg32_seed(uint64_t *state, uint64_t seed)
{
    *state = 0;
    (void)pcg32(state);
    *state += seed;
    (void)pcg32(state);
}

/* Uniform in [0, 1), 53 bits. */
static double uniform(uint64_t *state)
{
    uint64_t high = pcg32(state), low = pcg32(state);
    return (double)((high << 32 | low) >> 11) * 0x1p-53;
}

/* ---- life ------------------------------------------------------------------------------------ */

kvp_status sampler_create(const sampler_options *o, uint32_t n_vocab, sampler **out)
{
    if (!(o->temperature >= 0) || isinf(o->temperature))
        return kvp_fail(KVP_E_INVALID, "temperature %g: it must be 0 (greedy) or more",
                        (double)o->temperature);
    if (!(o->top_p > 0 && o->top_p <= 1))
        return kvp_fail(KVP_E_INVALID, "top-p %g: it must be above 0 and at most 1",
                        (double)o->top_p);
    if (!n_vocab)
        return kvp_fail(KVP_E_INVALID, "a sampler needs a vocabulary");
    sampler *s = calloc(1, sizeof *s);
    if (!s)
        return kvp_fail(KVP_E_NOMEM, "out of memory: a sampler");
    s->options = *o;
    s->n_vocab = n_vocab;
    pcg32_seed(&s->state, o->seed);
    s->candidates = malloc(n_vocab * sizeof *s->candidates);
    s->mass = malloc(n_vocab * sizeof *s->mass);
    if (!s->candidates || !s->mass) {
        sampler_destroy(s);
        return kvp_fail(KVP_E_NOMEM, "out of memory: %u candidates", n_vocab);
    }
    *out = s;
    return KVP_OK;
}

void sampler_destroy(sampler *s)
{
    if (!s)
        return;
    free(s->candidates);
    free(s->mass);
    free(s);
}

/* ---- candidates ------------------------------------------------------------------------------ */

static bool is_before(candidate a, candidate b)
{
    return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

static void sift_down(candidate *heap, size_t n, size_t i)
{
    candidate moving = heap[i];
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        if (child + 1 < n && is_before(heap[child + 1], heap[child]))
            child++;
        if (!is_before(heap[child], moving))
            break;
        heap[i] = heap[child];
    }
    heap[i] = moving;
}

/* Move the best of heap[0, n) to heap[n - 1]. */
static void pop(candidate *heap, size_t n)
{
    candidate best = heap[0];
    heap[0] = heap[n - 1];
    heap[n - 1] = best;
    sift_down(heap, n - 1, 0);
}

static void heapify(const sampler *s)
{
    for (size_t i = s->n_vocab; i-- > 0;)
        sift_down(s->candidates, s->n_vocab, i);
}

/* The candidates that stay are the last ones of the array, the i-th best (once sorted) at
 * n_vocab - 1 - i; mass[i] belongs to it. */
static double weigh(sampler *s, size_t i, float best)
{
    double logit = (double)s->candidates[s->n_vocab - 1 - i].logit;
    s->mass[i] = exp((logit - (double)best) / (double)s->options.temperature);
    return s->mass[i];
}

/* Apply top-k and top-p; returns how many stay and their mass. */
static size_t choose(sampler *s, float best, double *total)
{
    size_t n = s->n_vocab, n_sorted = 0, kept = n;
    if (s->options.top_k && s->options.top_k < n) {
        heapify(s);
        for (kept = s->options.top_k; n_sorted < kept; n_sorted++)
            pop(s->candidates, n - n_sorted);
    }
    double all = 0;
    for (size_t i = 0; i < kept; i++)
        all += weigh(s, i, best);
    *total = all;
    if (s->options.top_p >= 1)
        return kept;
    if (!n_sorted)
        heapify(s);
    double mass = 0;
    size_t i = 0;
    for (; i < kept && mass < all * (double)s->options.top_p; i++) {
        if (i == n_sorted)
            pop(s->candidates, n - n_sorted++);
        mass += weigh(s, i, best);
    }
    *total = mass;
    return i;
}

static int32_t draw(sampler *s, const float *logits, float best)
{
    for (size_t i = 0; i < s->n_vocab; i++)
        s->candidates[i] = (candidate){.logit = logits[i], .id = (int32_t)i};
    double total;
    size_t kept = choose(s, best, &total);
    double at = uniform(&s->state) * total;
    size_t i = 0;
    for (; i + 1 < kept && at >= s->mass[i]; i++)
        at -= s->mass[i];
    while (i > 0 && s->mass[i] == 0) /* rounding must not yield what cannot be */
        i--;
    return s->candidates[s->n_vocab - 1 - i].id;
}

kvp_status sampler_next(sampler *s, const float *logits, int32_t *id, float *top2_margin)
{
    size_t best = 0;
    float second = -INFINITY;
    for (size_t i = 0; i < s->n_vocab; i++) {
        if (isnan(logits[i]))
            return kvp_fail(KVP_E_INVALID, "logit %zu is not a number", i);
        if (i == 0 || logits[i] <= logits[best]) {
            if (i > 0 && logits[i] > second)
                second = logits[i];
        } else {
            second = logits[best];
            best = i;
        }
    }
    if (isinf(logits[best]))
        return kvp_fail(KVP_E_INVALID, "the highest logit (%zu) is not finite", best);
    int32_t next = s->options.temperature > 0 ? draw(s, logits, logits[best]) : (int32_t)best;
    *id = next;
    if (top2_margin)
        *top2_margin = logits[best] - second;
    return KVP_OK;
}
