/* model.h - a transformer whose KV lives in a kvpager sequence.
 *
 * Reads Hugging Face folders (config.json, safetensors) and GGUF files. The model owns weights and
 * workspace; KV goes only through the public API of kvpager. */
#ifndef KVPAGER_MODELS_MODEL_H
#define KVPAGER_MODELS_MODEL_H

#include <stdbool.h>

#include "kvpager.h"

typedef struct model model;

typedef struct model_options {
    kvp_dtype weights;  /* what matrices are kept as: KVP_F32, KVP_F16, KVP_BF16 */
    uint32_t n_threads; /* of the matrix products; 0: one per CPU */
    uint64_t n_ctx;     /* positions wanted; 0: as many as the model was made for */
    bool yarn;          /* more positions than that: stretch RoPE (YaRN, arXiv 2309.00071) */
} model_options;

#define MODEL_MAX_EOS 8u

typedef struct model_info {
    const char *architecture; /* "gpt2", "llama", "mistral", "qwen2", "opt" */
    uint32_t n_layers, n_heads, n_kv_heads, head_dim, d_model;
    uint32_t n_ctx;         /* positions that it has, as the options say */
    uint32_t n_ctx_trained; /* that its config says (a RoPE scaling there included) */
    bool has_rope;          /* positions are rotations: shift is possible */
    bool can_stretch;       /* and not scaled already: yarn is possible */
    uint32_t n_vocab;
    int32_t eos_ids[MODEL_MAX_EOS]; /* tokens that end a text */
    uint32_t n_eos;
    /* What only the weights tell; 0 before they are read. */
    uint64_t fingerprint;   /* of weights, config and the options that change K or V */
    uint64_t weights_bytes; /* held in memory */
} model_info;

/* What model_open() would say of the config, by reading headers alone. With KVP_E_RANGE, *out is
 * the model as it is without options. */
KVP_NODISCARD kvp_status model_check(const char *path, const model_options *options,
                                     model_info *out);
/* Load the model at `path`, a folder or a .gguf file. Errors (kvp_error() names file, tensor or key
 * and what to do): KVP_E_IO, KVP_E_CORRUPT (a truncated or lying weights file), KVP_E_INVALID
 * (config contradicts weights), KVP_E_UNSUPPORTED (another architecture: the message lists those
 * that work; config flags this forward does not have), KVP_E_RANGE (n_ctx positions cannot be had;
 * nothing else), KVP_E_NOMEM. */
KVP_NODISCARD kvp_status model_open(const char *path, const model_options *options, model **out);
/* The same model without its weights: only headers are read, matrices hold arbitrary numbers, and
 * it has n_layers layers (at most its own). For measuring what the real one will cost;
 * info.weights_bytes is what the real one would hold, info.fingerprint is 0. */
KVP_NODISCARD kvp_status model_open_hollow(const char *path, const model_options *options,
                                           uint32_t n_layers, model **out);
void model_close(model *m);
const model_info *model_get_info(const model *m);
/* Layers of the real model: info.n_layers, also for a hollow one with fewer. */
uint32_t model_real_layers(const model *m);
bool model_is_eos(const model_info *info, int32_t id);

/* Geometry of such a model's KV in `dtype` pages; page_tokens 0: the default. */
kvp_geometry model_geometry(const model_info *info, kvp_dtype dtype, uint32_t page_tokens);

/* Bytes of activations that are held: as many as the largest model_forward() so far took (reported
 * as workspace). */
uint64_t model_workspace_bytes(const model *m);

typedef struct model_forward_args {
    const int32_t *tokens;  /* [n_tokens], each below n_vocab */
    size_t n_tokens;        /* positions continue at kvp_seq_length(seq) */
    uint64_t window, sinks; /* kvp_attend_args; window 0: everything */
    /* RoPE only, with a window up to model_widest_shift(): positions may go on without end; what
     * was kept of the text counts as if it had no gap (StreamingLLM, arXiv 2309.17453; here the
     * query is rotated for the sinks, keys are never rewritten). */
    bool shift;
    /* Logits of the last n_logits tokens, float32 [n_logits][n_vocab]; 0: none. In a batch,
     * neighbouring items share a product if their logits follow one another in memory. */
    float *logits;
    size_t n_logits;
    /* What logits are made of: hidden states behind the last norm, float32 [n_hidden][d_model], of
     * the last n_hidden tokens; 0: none. Asking for them changes no logit. */
    float *hidden;
    size_t n_hidden;
    /* Optional, called after every layer of a prefill with work done and in all. Returns false to
     * stop: model_forward() then fails with KVP_E_AGAIN and the sequence must be truncated. */
    bool (*progress)(void *opaque, size_t done, size_t total);
    void *progress_opaque;
} model_forward_args;

/* The widest window with which, counted like that and in whole pages, no key is n_ctx positions
 * away from a query. 0: there is none. */
uint64_t model_widest_shift(const model_info *info, uint64_t sinks, uint32_t page_tokens);

/* Run tokens through the model, layer by layer (design: every page is written at most once and one
 * layer is hot at a time), appending their KV to `seq`.
 * Errors: KVP_E_RANGE positions beyond n_ctx or an id outside the vocabulary; KVP_E_NOMEM; what
 *         kvp_seq_append() and kvp_attend() return. After a failure the lanes may differ in length:
 *         truncate the sequence to what it was. */
KVP_NODISCARD kvp_status model_forward(model *m, kvp_seq *seq, const model_forward_args *args);

typedef struct model_item {
    kvp_seq *seq;
    model_forward_args args; /* progress: of the first item only */
} model_item;

/* The same for several sequences at once: one pass over the weights. Sequences differ. Logits that
 * lie side by side in memory, in the order of the items, are one product. An item's results are,
 * bit for bit, those of model_forward(): what else is in the batch does not matter. Errors: as
 * model_forward(), then any of the sequences may have lanes that differ in length. */
KVP_NODISCARD kvp_status model_forward_batch(model *m, const model_item *items, size_t n_items);

/* The model's threads: for kvp_config.pool, so that attention uses the same ones. */
kvp_pool *model_pool(const model *m);

#endif
