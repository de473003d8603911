/* window.h - which tokens the model sees when the text is longer than its context, and what of
 * them attention reads. Pure arithmetic.
 *
 * With rolling:W, token i of the text sees the tokens start .. i, where start is 0 as long as
 * i < n_ctx. When all n_ctx positions are full, the last W tokens, the new one included, are
 * prefilled again at positions 0 .. W - 1 and begin a new window; it lasts n_ctx - W + 1 tokens.
 * Prompt or generated makes no difference. */
#ifndef KVPAGER_CLI_WINDOW_H
#define KVPAGER_CLI_WINDOW_H

#include <stdbool.h>
#include <stdint.h>

typedef struct window_rule {
    uint64_t n_ctx; /* positions the model has, >= 1 */
    uint64_t roll;  /* W: tokens that begin a new window, 1 .. n_ctx; 0: the context is the end */
    uint64_t keep;  /* a query at p attends pages with a position > p - keep; 0: all */
    uint64_t sinks; /* ... or with a position < sinks */
} window_rule;

/* The first token that token `i` sees. With roll 0, i must be below n_ctx. */
uint64_t window_start(const window_rule *rule, uint64_t i);

/* With the next query at `position`: pages whose positions all lie in [*begin, *end) will not be
 * attended again. False if there are none. */
bool window_unreachable(const window_rule *rule, uint64_t position, uint64_t *begin, uint64_t *end);

/* How a text is fed to the model: `first` tokens at once, then `step` at a time up to `end`. After
 * every call, pages that are out of reach are freed. */
typedef struct window_feed {
    uint64_t first, step, end; /* step >= 1; first 1 .. end, or end is 0 */
} window_feed;

/* The most pages of page_tokens that a lane holds at a time. */
uint64_t window_peak_pages(const window_rule *rule, const window_feed *feed, uint32_t page_tokens);

#endif
