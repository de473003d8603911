/* budget.h - does the whole run fit into what the budget options give it? */
#ifndef KVPAGER_CLI_BUDGET_H
#define KVPAGER_CLI_BUDGET_H

#include "integration/cli/session.h"

/* What a run holds at a time. */
typedef struct budget_need {
    uint64_t pages_per_lane; /* of all sequences together */
    uint64_t n_seqs;
} budget_need;

/* Would the session's pager take a run that needs this? Opens no file, and reads no weights.
 * Errors: KVP_E_BUDGET an option is too small: the message names it and says how many bytes work
 *         (how well pages compress is not known before: with --zram, what is refused would not fit
 *         however well they do); KVP_E_NOSPACE too little is free where the swap file is; as
 *         page_facts_learn(). */
KVP_NODISCARD kvp_status budget_check(const session *s, const budget_need *need);

#endif
