/* memory.h - an output memory: what followed each hidden state that the model had, in a lane of its
 * own, and what that says of the next token.
 *
 * A pair is a key (the final hidden state of a token, less the centre, of length 1) and a value
 * (the id of the token that followed). Pairs are rows of a paged lane: key f16, value 4 opaque
 * bytes. */
#ifndef KVPAGER_RECALL_MEMORY_H
#define KVPAGER_RECALL_MEMORY_H

#include "integration/recall/fit.h"
#include "kvpager.h"

typedef struct memory memory;

typedef struct memory_options {
    const recall_fit *fit; /* copied */
    uint32_t n_vocab;
    uint64_t cap;    /* pairs that are looked at: the newest; older pages are freed. 0: all */
    kvp_config base; /* of the pager: budgets, pool, log; geometry and fingerprint are filled in */
} memory_options;

typedef struct memory_counts {
    uint64_t searches;             /* queries */
    uint64_t pages, pages_skipped; /* kvp_search_counts, summed up */
} memory_counts;

/* Layers of a memory's pager. */
typedef struct memory_layers {
    kvp_layer_kind kind;
    kvp_lookup_kind lookup;
} memory_layers;

/* The configuration that memory_open() opens a pager with; it borrows `layers`. */
kvp_config memory_config(const memory_options *options, memory_layers *layers);
/* Errors: those of kvp_pager_open(). */
KVP_NODISCARD kvp_status memory_open(const memory_options *options, memory **out);
void memory_close(memory *m);
kvp_pager *memory_pager(memory *m);
memory_counts memory_get_counts(const memory *m);
const recall_fit *memory_get_fit(const memory *m);
uint64_t memory_size(const memory *m); /* pairs ever added */

/* ---- step by step ---------------------------------------------------------------------------- */

#define MEMORY_ROWS 128u /* at a time, at most */

/* Add n pairs: hidden [n][width], tokens[n] that followed. */
KVP_NODISCARD kvp_status memory_add(memory *m, const float *hidden, const int32_t *tokens,
                                    size_t n);
/* Look n <= MEMORY_ROWS hidden states up among pairs [begins[i], ends[i]), both ascending. What was
 * found stays until the next call. */
KVP_NODISCARD kvp_status memory_find(memory *m, const float *hidden, size_t n,
                                     const uint64_t *begins, const uint64_t *ends);
/* The best cosine of row i; false: nothing was found. */
bool memory_best(const memory *m, size_t row, float *best);
/* What the hits of row i say: the probability of `token`, with this theta. 0 without hits. */
double memory_probability(const memory *m, size_t row, double theta, int32_t token);
/* logits of row i (float32 [n_vocab]) become log probabilities of the mixture; where lambda is 0
 * they stay as they are. */
void memory_mix(memory *m, size_t row, float *logits);

/* ---- as a text is read ----------------------------------------------------------------------- */

/* Rows of a text: tokens [first, first + n) and what the model made of them. */
typedef struct memory_rows {
    const int32_t *text; /* text[0] is token `first`: row 0 */
    uint64_t first;
    size_t n;
    const float *hidden; /* [n][width] */
    float *logits;       /* [n][n_vocab], to be mixed; NULL: only read */
} memory_rows;

/* Each row is looked up among the pairs of all rows before it, and its pair added once the token
 * that follows is known. Rows come in order; where some are missing, their pairs are. */
KVP_NODISCARD kvp_status memory_read(memory *m, const memory_rows *rows);
/* The row that comes next. */
uint64_t memory_next(const memory *m);

#endif
