/* budget.h - from the budget options to a pager in which the whole run fits. */
#ifndef KVPAGER_CLI_BUDGET_H
#define KVPAGER_CLI_BUDGET_H

#include "integration/cli/session.h"

#define BUDGET_RING_FRAMES 3u /* that the pager keeps for pages on their way */

/* Lanes of a sequence of the session's model. */
KVP_NODISCARD kvp_status budget_count_lanes(const session *s, kvp_pager *pager, uint64_t *n_lanes);

/* Open a pager for a run that holds up to `pages_per_lane` pages of every lane at a time.
 * Errors: KVP_E_BUDGET an option is too small: the message names it and says how many bytes work
 *         (how well pages compress is not known before: with --zram only the pager's own minimum
 *         is checked); as kvp_pager_open(). */
KVP_NODISCARD kvp_status budget_open(const session *s, uint64_t pages_per_lane, kvp_pager **pager);

#endif
