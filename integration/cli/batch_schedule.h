/* batch_schedule.h - which prompts of a batch are in flight, and which of those decode together.
 *
 * Up to n_parallel prompts are in flight: they have been read, and their KV is kept. Those whose KV
 * fits into the RAM budget together decode together, a token each in one pass over the weights. The
 * others wait, their KV demoted; every round of some steps it is the turn of those who have waited
 * longest. Whoever has finished makes place for the next prompt at once. */
#ifndef KVPAGER_CLI_BATCH_SCHEDULE_H
#define KVPAGER_CLI_BATCH_SCHEDULE_H

#include "integration/cli/batch_input.h"
#include "integration/cli/run.h"

typedef struct batch_counts {
    size_t n_started, n_finished;   /* prompts */
    size_t n_in_flight, n_together; /* now */
    size_t most_together;           /* in any step */
    uint64_t n_steps;               /* passes over the weights for one token each */
    uint64_t n_turns;               /* times that prompts which had waited took over */
    /* tokens of all prompts: read, chosen, and of those fed back */
    uint64_t n_read_tokens, n_chosen, n_decoded;
    run_seconds seconds;
} batch_counts;

/* Who watches. */
typedef struct batch_watcher {
    void *opaque;
    /* Prompt i has its result, which the watcher takes over; or has none for the reason that
     * kvp_error() gives. Anything but KVP_OK ends the batch. */
    kvp_status (*finished)(void *opaque, size_t i, run_result *result);
    kvp_status (*failed)(void *opaque, size_t i);
    /* After every step, and while a prompt is read. */
    void (*step)(void *opaque, const batch_counts *counts);
} batch_watcher;

/* Continue every prompt that has no error by up to -n tokens, with the budgets of `pager`, which is
 * the session's or another for the same model. Sampling: prompt i has the seed --seed + its index.
 * Every result is the same whatever the budgets, and whichever other prompts there are.
 * A prompt with a token that the model does not have, or whose numbers get out of hand while it is
 * read, has no result; anything else that fails ends the batch.
 * Interrupted, what is in flight finishes as it is, and the rest is never started. */
KVP_NODISCARD kvp_status batch_schedule_run(const session *s, kvp_pager *pager,
                                            const batch_input *input, uint32_t n_parallel,
                                            const batch_watcher *watcher, batch_counts *counts);

#endif
