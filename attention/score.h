/* score.h - scores of keys and nothing else: kernels for kvp_search(), per instruction set and
 * dtype.
 *
 * A score depends on query, key and instruction set alone, bit for bit: not on which queries or
 * keys share the call. */
#ifndef KVPI_ATTENTION_SCORE_H
#define KVPI_ATTENTION_SCORE_H

#include <stddef.h>

#include "kvpager/view.h"

#define KVPI_SCORE_KEYS 64u /* keys per call, at most: a page of the default size */

/* Consecutive rows of one KV head. Nothing beyond them is read. */
typedef struct kvpi_score_keys {
    const void *k; /* [n][width] */
    size_t n;      /* 1 .. KVPI_SCORE_KEYS */
    size_t width;
    /* As many rows that will probably be wanted next: prefetched, never read. NULL: not known. */
    const void *next;
} kvpi_score_keys;

/* scores[i][j] = queries[i] . key j, for j < n; [n_queries][KVPI_SCORE_KEYS]. */
typedef void (*kvpi_scorer)(const kvpi_score_keys *keys, const float *const *queries,
                            size_t n_queries, float *scores);
/* squares[j] = key j . key j */
typedef void (*kvpi_squarer)(const kvpi_score_keys *keys, float *squares);

typedef struct kvpi_scorers {
    const char *name;
    kvpi_scorer score[3];   /* [kvp_dtype] */
    kvpi_squarer square[3]; /* [kvp_dtype] */
} kvpi_scorers;

/* The readable reference, in plain C. */
extern const kvpi_scorers kvpi_scorers_scalar;
#if defined(__x86_64__)
/* AVX2, FMA and F16C. */
extern const kvpi_scorers kvpi_scorers_avx2;
/* AVX-512 F, BW, DQ and VL. */
extern const kvpi_scorers kvpi_scorers_avx512;
#endif

/* Those of the instruction set in use: see kvp_isa(). NULL, with a message, if there is none. */
const kvpi_scorers *kvpi_scorers_find(void);

#endif
