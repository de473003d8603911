/* budget.h - from the budget options to a pager in which the whole run fits. */
#ifndef KVPAGER_CLI_BUDGET_H
#define KVPAGER_CLI_BUDGET_H

#include "integration/cli/session.h"

/* What a run holds at a time. */
typedef struct budget_need {
    uint64_t pages_per_lane; /* of all sequences together */
    uint64_t n_seqs;
} budget_need;

/* Open a pager for a run that needs this.
 * Errors: KVP_E_BUDGET an option is too small: the message names it and says how many bytes work
 *         (how well pages compress is not known before: with --zram, what is refused would not fit
 *         however well they do); KVP_E_NOSPACE too little is free where the swap file is; as
 *         kvp_pager_open(). */
KVP_NODISCARD kvp_status budget_open(const session *s, const budget_need *need, kvp_pager **pager);

#endif
