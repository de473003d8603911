/* tiny_gpt2.h - writes GPT-2 folders of a few hundred weights, with quirks of published ones. */
#ifndef TESTS_TINY_GPT2_H
#define TESTS_TINY_GPT2_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct tiny_gpt2 {
    uint32_t n_layers, n_heads, d_model, n_ctx, n_vocab;
    uint32_t d_inner;         /* 0: 4 * d_model, and config.json does not name it */
    const char *prefix;       /* of tensor names: "transformer." or "" */
    const char *dtype;        /* "F32", "F16", "BF16" */
    bool has_buffers;         /* h.N.attn.bias (BOOL) and masked_bias, as older exports have */
    bool is_untied;           /* lm_head.weight of its own */
    const char *config_extra; /* members for config.json, each with a comma before it */
    uint32_t config_layers;   /* what config.json says instead; 0: the truth */
    const char *left_out;     /* name (without prefix) of a tensor that is not written */
    const char *added;        /* name of a tensor [1] that is written besides */
} tiny_gpt2;

/* Two layers, two heads of 4, 16 positions, 11 tokens, F32, prefix, tied. */
tiny_gpt2 tiny_gpt2_default(void);
/* config.json and model.safetensors into an existing folder. */
void tiny_gpt2_write(const char *dir, const tiny_gpt2 *t);

/* Logits of every token, [n][n_vocab], by plain loops in float64. */
void tiny_gpt2_forward(const tiny_gpt2 *t, const int32_t *tokens, size_t n, bool scale_by_width,
                       bool scale_by_layer, double *logits);

#endif
