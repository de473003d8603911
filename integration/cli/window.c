/* window.c - the rule of text beyond the context. */
#include "integration/cli/window.h"

#include <assert.h>

uint64_t window_start(const window_rule *rule, uint64_t i)
{
    if (i < rule->n_ctx)
        return 0;
    assert(rule->roll >= 1 && rule->roll <= rule->n_ctx);
    uint64_t step = rule->n_ctx - rule->roll + 1;
    return ((i - rule->n_ctx) / step + 1) * step;
}

bool window_unreachable(const window_rule *rule, uint64_t position, uint64_t *begin, uint64_t *end)
{
    if (!rule->keep || position < rule->keep)
        return false;
    *begin = rule->sinks;
    *end = position - rule->keep + 1;
    return *begin < *end;
}

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* Pages that are freed when `n` tokens are in: all of their tokens are unreachable. The last page
 * stays. */
static uint64_t freed_pages(const window_rule *rule, uint64_t n, uint32_t page_tokens)
{
    uint64_t begin, end;
    if (n == 0 || !window_unreachable(rule, n, &begin, &end))
        return 0;
    uint64_t first = (begin + page_tokens - 1) / page_tokens;
    uint64_t stop = least(end / page_tokens, (n - 1) / page_tokens);
    return stop > first ? stop - first : 0;
}

/* The same within one window, whose tokens are counted from its beginning. */
static uint64_t peak_of_window(const window_rule *rule, const window_feed *feed,
                               uint32_t page_tokens)
{
    uint64_t peak = 0, step = rule->keep ? feed->step : feed->end; /* without freeing: at the end */
    for (uint64_t n = 0, stop = feed->first; n < feed->end;
         n = stop, stop = least(n + step, feed->end)) {
        uint64_t pages = (stop + page_tokens - 1) / page_tokens - freed_pages(rule, n, page_tokens);
        peak = pages > peak ? pages : peak;
    }
    return peak;
}

uint64_t window_peak_pages(const window_rule *rule, const window_feed *feed, uint32_t page_tokens)
{
    uint64_t peak = 0, next = feed->first;
    /* All windows after the first are alike, but that the last may be shorter. */
    for (int i = 0; i < 2 && next <= feed->end && feed->end; i++) {
        uint64_t start = window_start(rule, next - 1), stop = least(feed->end, start + rule->n_ctx);
        const window_feed part = {next - start, feed->step, stop - start};
        uint64_t pages = peak_of_window(rule, &part, page_tokens);
        peak = pages > peak ? pages : peak;
        next = stop + 1;
    }
    return peak;
}
