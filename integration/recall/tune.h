/* tune.h - finds theta and the lambdas of a fit, from what a memory said while a text was read. */
#ifndef KVPAGER_RECALL_TUNE_H
#define KVPAGER_RECALL_TUNE_H

#include "integration/recall/memory.h"

#define TUNE_THETAS 10u
extern const double tune_thetas[TUNE_THETAS]; /* that are tried, ascending */

typedef struct tune tune;

/* For n tokens. Errors: KVP_E_NOMEM. */
KVP_NODISCARD kvp_status tune_open(size_t n, tune **out);
void tune_close(tune *t);
/* A token that followed row `row` of the memory's last search; p_model: what the model alone gave
 * it. Rows without hits tell nothing. */
void tune_add(tune *t, const memory *m, size_t row, int32_t token, double p_model);

/* What the best fit makes of the tokens, and what the model alone does: nats per token. */
typedef struct tune_result {
    size_t n;
    double model, mixed;
} tune_result;

/* Set fit->theta, edges and lambda: buckets hold equally many tokens, lambda is found by EM in
 * each, and the theta is taken whose likelihood is the highest. Without tokens, all is left
 * alone. */
tune_result tune_solve(tune *t, recall_fit *fit);

#endif
