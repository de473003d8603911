/* score.c - the arithmetic of perplexity. */
#include "integration/cli/score.h"

#include <assert.h>
#include <math.h>

double score_nll(const float *logits, size_t n, int32_t id)
{
    assert(id >= 0 && (size_t)id < n);
    double max = logits[0], sum = 0;
    for (size_t i = 1; i < n; i++)
        max = logits[i] > max ? logits[i] : max;
    for (size_t i = 0; i < n; i++)
        sum += exp(logits[i] - max);
    return max + log(sum) - logits[id];
}

bool score_next_window(score_window *w, uint64_t n_tokens, uint64_t window, uint64_t stride)
{
    assert(stride >= 1 && stride <= window);
    bool is_first = w->end == 0;
    if (w->end >= n_tokens)
        return false;
    uint64_t scored_to = w->end;
    w->begin = is_first ? 0 : w->begin + stride;
    w->end = n_tokens - w->begin < window ? n_tokens : w->begin + window;
    /* The first token of a window has nothing before it to be predicted from. */
    w->first_scored = scored_to > w->begin ? scored_to : w->begin + 1;
    return true;
}
