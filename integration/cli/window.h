/* window.h - which tokens the model sees when the text is longer than its context, and what of
 * them attention reads. Pure arithmetic.
 *
 * With rolling:W, token i of the text sees the tokens start .. i, where start is 0 as long as
 * i < n_ctx. When all n_ctx positions are full, the last W tokens, the new one included, are
 * prefilled again at positions 0 .. W - 1 and begin a new window; it lasts n_ctx - W + 1 tokens.
 * Prompt or generated makes no difference.
 *
 * With shift there is one window for the whole text. Its tokens lie at positions that grow without
 * end, but attention reads only `keep` and `sinks` of them, and counts as if there were no gap
 * between the pages of the sinks and those of the window. */
#ifndef KVPAGER_CLI_WINDOW_H
#define KVPAGER_CLI_WINDOW_H

#include <stdbool.h>
#include <stdint.h>

typedef struct window_rule {
    uint64_t n_ctx; /* tokens that a window may have, >= 1 */
    uint64_t roll;  /* W: tokens that begin a new window, 1 .. n_ctx; 0: the context is the end */
    uint64_t keep;  /* a query at p attends pages with a position > p - keep; 0: all */
    uint64_t sinks; /* ... or with a position < sinks */
    uint64_t chunk; /* tokens that are fed at a time, at most; 0: no limit */
    bool shift;     /* see above; needs keep */
} window_rule;

/* The first token that token `i` sees. With roll 0, i must be below n_ctx. */
uint64_t window_start(const window_rule *rule, uint64_t i);

/* With the next query at `position`: pages whose positions all lie in [*begin, *end) will not be
 * attended again. False if there are none. */
bool window_unreachable(const window_rule *rule, uint64_t position, uint64_t *begin, uint64_t *end);

/* Where feeding stops that has come to token `next` and goes to `end`: after a chunk. Then pages
 * that are out of reach are freed. */
uint64_t window_stop(const window_rule *rule, uint64_t next, uint64_t end);

/* How a text is fed to the model: `first` tokens at once, then `step` at a time up to `end`. After
 * every call, and every chunk, pages that are out of reach are freed. */
typedef struct window_feed {
    uint64_t first, step, end; /* step >= 1; first 1 .. end, or end is 0 */
} window_feed;

/* The most pages of page_tokens that a lane holds at a time. */
uint64_t window_peak_pages(const window_rule *rule, const window_feed *feed, uint32_t page_tokens);

#endif
