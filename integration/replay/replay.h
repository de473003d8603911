/* replay.h - what a budget of RAM would have hit, had it been given to this trace. */
#ifndef KVPAGER_REPLAY_REPLAY_H
#define KVPAGER_REPLAY_REPLAY_H

#include "integration/replay/trace.h"

/* Run the trace through a policy, called as the pager calls it, over a tier of n_frames (at least
 * 1): each page that is used and is not there takes the frame of the first victim. Read-ahead,
 * which guesses, and writing down, which makes a clean page leave before a dirty one, are left out.
 * *n_hits: uses that found their page there. Errors: KVP_E_NOMEM. */
KVP_NODISCARD kvp_status replay_policy(const trace *t, const kvp_placement_ops *ops,
                                       uint32_t n_frames, uint64_t *n_hits);

/* The same with the page that is used again last as the victim: no choice can hit more (Belady,
 * A study of replacement algorithms for a virtual-storage computer, 1966). */
KVP_NODISCARD kvp_status replay_optimum(const trace *t, uint32_t n_frames, uint64_t *n_hits);

#endif
