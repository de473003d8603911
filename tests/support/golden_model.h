/* golden_model.h - a model over a pager, beside what it must compute. */
#ifndef TESTS_GOLDEN_MODEL_H
#define TESTS_GOLDEN_MODEL_H

#include "integration/models/model.h"
#include "tests/support/golden.h"

typedef struct golden_model {
    model *m;
    const model_info *info;
    kvp_pager *pager;
    kvp_seq *seq;
    const char *dir; /* of the goldens */
    json_t *golden;
    int32_t *tokens; /* the text's first n_tokens */
    size_t n_tokens;
    float *logits; /* [n_tokens][n_vocab] */
} golden_model;

/* Fail the test, with the library's message, unless `status` is KVP_OK. */
void need(kvp_status status);

/* The model at `path` on 2 threads, with float32 KV that all stays in RAM. Fails the test. */
void golden_model_open(golden_model *g, const char *path, const char *golden_dir,
                       kvp_dtype weights);
void golden_model_close(golden_model *g);

/* Logits of the last n_logits of n tokens, appended to the sequence. */
void golden_model_forward(golden_model *g, const int32_t *tokens, size_t n, float *logits,
                          size_t n_logits);

/* Largest difference of g->logits at the golden positions among [first, n_tokens). */
double golden_model_difference(const golden_model *g, size_t first, size_t *n_checked);
/* The 8 highest golden logits of every token, and the likelihood of the next one. */
void golden_model_check_top8(const golden_model *g, double tolerance);
void golden_model_check_nll(const golden_model *g, double tolerance);

/* Above this margin of the two best logits, the choice must be the same. */
#define CLEAR_MARGIN 1e-2
/* Every golden token follows from the golden ones before it. At the end of the context the last
 * `window` tokens start again at position 0; returns how often that happened. */
size_t golden_model_check_greedy(golden_model *g, const json_t *golden, const int32_t *prompt,
                                 size_t window);

#endif
