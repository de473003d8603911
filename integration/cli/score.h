/* score.h - negative log-likelihoods, and the windows of Hugging Face's strided perplexity. */
#ifndef KVPAGER_CLI_SCORE_H
#define KVPAGER_CLI_SCORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* -log softmax(logits [n])[id], in double. */
double score_nll(const float *logits, size_t n, int32_t id);

/* One forward: a fresh context of tokens [begin, end), of which [first_scored, end) are scored. */
typedef struct score_window {
    uint64_t begin, end, first_scored;
} score_window;

/* The windows of a text of n_tokens, in order: start with a zeroed one, until false. Every token
 * but those at the beginning of a window without overlap is scored exactly once; token 0 never.
 * Source: Hugging Face, "Perplexity of fixed-length models". 1 <= stride <= window. */
bool score_next_window(score_window *w, uint64_t n_tokens, uint64_t window, uint64_t stride);

#endif
