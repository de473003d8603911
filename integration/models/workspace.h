/* workspace.h - the activations of a forward, in one block. */
#ifndef KVPAGER_MODELS_WORKSPACE_H
#define KVPAGER_MODELS_WORKSPACE_H

#include "integration/models/decoder_config.h"

#define CHUNK_TOKENS ((size_t)128)

/* d = d_model, c = tokens of a chunk, other widths as in decoder_config.h. */
typedef struct workspace {
    float *block; /* all of it */
    size_t bytes;
    size_t n_tokens;     /* that it has room for */
    bool has_sinks;      /* and for q_sinks */
    float *hidden;       /* [n_tokens][d] */
    float *norm;         /* [c][d] */
    float *qkv;          /* [c][qkv width] */
    float *q_sinks;      /* [c][qkv width] q as pages of sinks are scored with it; no k, v */
    float *angles;       /* [c][rope.dim] */
    float *sinks_angles; /* the same, for q_sinks */
    float *attended;     /* [c][attended width] */
    float *up;           /* [c][up width] */
    float *gated;        /* [c][d_inner] */
    float *delta;        /* [c][d] what a block adds to hidden */
} workspace;

/* Room for n_tokens, which is never given up again; what was in it is lost where it grows.
 * Zero-initialise `w` before the first call. Errors: KVP_E_NOMEM; then it has no room at all. */
KVP_NODISCARD kvp_status workspace_reserve(workspace *w, const decoder_config *c, size_t n_tokens,
                                           bool has_sinks);
void workspace_fini(workspace *w);

#endif
