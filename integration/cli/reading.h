/* reading.h - what a model makes of a text, row by row: hidden states, and how likely it finds the
 * token that follows. For those who work with a memory of their own. */
#ifndef KVPAGER_CLI_READING_H
#define KVPAGER_CLI_READING_H

#include "integration/cli/context.h"
#include "integration/cli/session.h"

/* Rows [first, first + n) of a text. */
typedef struct reading_rows {
    uint64_t first;
    size_t n;
    const float *hidden;   /* [n][d_model] */
    const int32_t *next;   /* [n] tokens that follow */
    const double *p_model; /* [n] their probabilities; NULL where they are not wanted */
} reading_rows;

typedef struct reading {
    const session *session; /* its model and pager */
    window_rule rule;
    const int32_t *text;
    size_t n; /* tokens; all but the last one are rows */
    bool wants_p;
    /* At most MEMORY_ROWS rows at a time, in order; KVP_OK to go on. */
    kvp_status (*take)(void *opaque, const reading_rows *rows);
    /* Also between; false to stop. */
    bool (*progress)(void *opaque, uint64_t n_read);
    void *opaque;
} reading;

/* Errors: KVP_E_AGAIN progress said so; those of the model and of `take`. */
KVP_NODISCARD kvp_status reading_run(const reading *r);

#endif
