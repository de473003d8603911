/* window.c - the rule of text beyond the context. */
#include "integration/cli/window.h"

#include <assert.h>

#include "integration/least.h"

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

/* ---- arithmetic that does not overflow ------------------------------------------------------- */

/* at + n, but at most `end`. */
static uint64_t advance(uint64_t at, uint64_t n, uint64_t end)
{
    return end - at < n ? end : at + n;
}

static uint64_t pages_of(uint64_t n_tokens, uint32_t page_tokens)
{
    return n_tokens / page_tokens + (n_tokens % page_tokens != 0);
}

/* ---- feeding --------------------------------------------------------------------------------- */

uint64_t window_stop(const window_rule *rule, uint64_t next, uint64_t end)
{
    return rule->chunk ? advance(next, rule->chunk, end) : end;
}

/* ---- peaks ----------------------------------------------------------------------------------- */

/* Pages that are freed when `n` tokens are in: all of their tokens are unreachable. The last page
 * stays. */
static uint64_t freed_pages(const window_rule *rule, uint64_t n, uint32_t page_tokens)
{
    uint64_t begin, end;
    if (n == 0 || !window_unreachable(rule, n, &begin, &end))
        return 0;
    uint64_t first = pages_of(begin, page_tokens);
    uint64_t stop = least(end / page_tokens, (n - 1) / page_tokens);
    return stop > first ? stop - first : 0;
}

typedef struct peak {
    const window_rule *rule;
    uint32_t page_tokens;
    uint64_t n;     /* tokens that are in */
    uint64_t pages; /* the most so far */
} peak;

static void feed_chunk(peak *p, uint64_t stop)
{
    uint64_t pages = pages_of(stop, p->page_tokens) - freed_pages(p->rule, p->n, p->page_tokens);
    p->pages = pages > p->pages ? pages : p->pages;
    p->n = stop;
}

static void feed_to(peak *p, uint64_t stop)
{
    while (p->n < stop)
        feed_chunk(p, window_stop(p->rule, p->n, stop));
}

/* The peak within one window, whose tokens are counted from its beginning. */
static uint64_t peak_of_window(const window_rule *rule, const window_feed *feed,
                               uint32_t page_tokens)
{
    peak p = {.rule = rule, .page_tokens = page_tokens};
    if (!rule->keep) { /* nothing is freed */
        feed_chunk(&p, feed->end);
        return p.pages;
    }
    feed_to(&p, feed->first);
    /* Up to here nothing is freed, and the last stop has the most pages. */
    uint64_t all_reachable = advance(least(rule->keep, feed->end), rule->sinks, feed->end);
    if (p.n < all_reachable)
        feed_chunk(&p, p.n + (all_reachable - p.n) / feed->step * feed->step);
    /* Not later than two pages on, the number of pages depends on n modulo a page alone. */
    for (uint64_t i = 0; p.n < feed->end && i < 4 * (uint64_t)page_tokens; i++)
        feed_to(&p, advance(p.n, feed->step, feed->end));
    return p.pages;
}

uint64_t window_peak_pages(const window_rule *rule, const window_feed *feed, uint32_t page_tokens)
{
    uint64_t most = 0, next = feed->first;
    /* All windows after the first are alike, but that the last may be shorter. */
    for (int i = 0; i < 2 && feed->end; i++) {
        uint64_t start = window_start(rule, next - 1);
        uint64_t stop = advance(start, rule->n_ctx, feed->end);
        const window_feed part = {next - start, feed->step, stop - start};
        uint64_t pages = peak_of_window(rule, &part, page_tokens);
        most = pages > most ? pages : most;
        if (stop == feed->end)
            break;
        next = stop + 1;
    }
    return most;
}
