/* model.h - a transformer whose KV lives in a kvpager sequence.
 *
 * Reads Hugging Face folders (config.json, model.safetensors). The model owns weights and
 * workspace; KV goes only through the public API of kvpager. */
#ifndef KVPAGER_MODELS_MODEL_H
#define KVPAGER_MODELS_MODEL_H

#include "kvpager.h"

typedef struct model model;

typedef enum model_weights { MODEL_WEIGHTS_F32 = 0, MODEL_WEIGHTS_BF16 = 1 } model_weights;

typedef struct model_options {
    model_weights weights; /* what matrices are kept as */
    uint32_t n_threads;    /* of the matrix products; 0: one per CPU */
} model_options;

typedef struct model_info {
    const char *architecture; /* "gpt2" */
    uint32_t n_layers, n_heads, n_kv_heads, head_dim, d_model;
    uint32_t n_ctx; /* positions that the model has */
    uint32_t n_vocab;
    int32_t eos_id;         /* -1: none */
    uint64_t fingerprint;   /* of weights and config */
    uint64_t weights_bytes; /* held in memory */
} model_info;

/* Load the model in folder `dir`. Errors (kvp_error() names file, tensor or key and what to do):
 * KVP_E_IO, KVP_E_CORRUPT (truncated, overlapping or lying safetensors), KVP_E_INVALID (config
 * contradicts weights), KVP_E_UNSUPPORTED (config flags this forward does not have), KVP_E_NOMEM.
 */
KVP_NODISCARD kvp_status model_open(const char *dir, const model_options *options, model **out);
void model_close(model *m);
const model_info *model_get_info(const model *m);

/* Geometry of this model's KV in `dtype` pages; page_tokens 0: the default. */
kvp_geometry model_geometry(const model *m, kvp_dtype dtype, uint32_t page_tokens);

/* Bytes of activations that model_forward() holds for n tokens at a time (reported as workspace).
 */
uint64_t model_workspace_bytes(const model *m);

typedef struct model_forward_args {
    const int32_t *tokens;  /* [n_tokens], each below n_vocab */
    size_t n_tokens;        /* positions continue at kvp_seq_length(seq) */
    uint64_t window, sinks; /* kvp_attend_args; window 0: everything */
    /* Logits of the last n_logits tokens, float32 [n_logits][n_vocab]; 0: none. */
    float *logits;
    size_t n_logits;
    /* Optional, called after every layer of a prefill with work done and in all. Returns false to
     * stop: model_forward() then fails with KVP_E_AGAIN and the sequence must be truncated. */
    bool (*progress)(void *opaque, size_t done, size_t total);
    void *progress_opaque;
} model_forward_args;

/* Run tokens through the model, layer by layer (design: every page is written at most once and one
 * layer is hot at a time), appending their KV to `seq`.
 * Errors: KVP_E_RANGE positions beyond n_ctx or an id outside the vocabulary; KVP_E_NOMEM; what
 *         kvp_seq_append() and kvp_attend() return. After a failure the lanes may differ in length:
 *         truncate the sequence to what it was. */
KVP_NODISCARD kvp_status model_forward(model *m, kvp_seq *seq, const model_forward_args *args);

/* The model's threads: for kvp_config.pool, so that attention uses the same ones. */
kvp_pool *model_pool(const model *m);

#endif
