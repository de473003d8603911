/* tiny_llama.h - writes Llama folders of a few thousand weights, and computes in float64 what they
 * must answer, for whole texts and for texts of which attention sees only sinks and a window. */
#ifndef TESTS_TINY_LLAMA_H
#define TESTS_TINY_LLAMA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct tiny_llama {
    uint32_t n_layers, n_heads, n_kv_heads, head_dim, d_model, d_inner, n_ctx, n_vocab;
} tiny_llama;

/* Two layers, 4 heads over 2 of 12, 64 positions, 29 tokens; f32, untied. */
tiny_llama tiny_llama_default(void);
/* config.json and model.safetensors into an existing folder. */
void tiny_llama_write(const char *dir, const tiny_llama *t);

/* What a token attends: pages of page_tokens with one of the last `keep` positions, its own
 * included, or with one of the first `sinks`; keep 0: everything before it. With `compact` it
 * counts positions as if nothing else had been there. */
typedef struct tiny_view {
    uint64_t keep, sinks;
    uint32_t page_tokens;
    bool compact;
} tiny_view;

/* Logits of every token, [n][n_vocab]: keys are kept as they are before rotation, and rotated for
 * each token anew. */
void tiny_llama_forward(const tiny_llama *t, const int32_t *tokens, size_t n, const tiny_view *view,
                        double *logits);

#endif
