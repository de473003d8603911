/* budget.h - from the budget options to a pager in which the whole run fits. */
#ifndef KVPAGER_CLI_BUDGET_H
#define KVPAGER_CLI_BUDGET_H

#include "integration/cli/session.h"

/* Open a pager for a run that holds up to `pages_per_lane` pages of every lane at a time.
 * Errors: KVP_E_BUDGET an option is too small: the message names it and says how many bytes work
 *         (how well pages compress is not known before: with --zram, what is refused would not fit
 *         however well they do); KVP_E_NOSPACE too little is free where the swap file is; as
 *         kvp_pager_open(). */
KVP_NODISCARD kvp_status budget_open(const session *s, uint64_t pages_per_lane, kvp_pager **pager);

#endif
