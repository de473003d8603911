/* fit.h - how much a memory is believed: centre, sharpness and weights, fitted on a text and stored
 * beside the model.
 *
 * p = (1 - lambda) p_model + lambda p_memory, where p_memory is the softmax over the hits of theta
 * times their cosines, and lambda depends on the cosine of the best hit.
 * Sources: continuous cache (Grave et al., arXiv 1612.04426 and 1711.02604), kNN-LM
 * (1911.00172). */
#ifndef KVPAGER_RECALL_FIT_H
#define KVPAGER_RECALL_FIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kvpager/status.h"

#define RECALL_BUCKETS 13u /* of the best cosine */
#define RECALL_K 1024u     /* hits per token */
#define RECALL_FILE "recall.json"

typedef struct recall_fit {
    uint64_t fingerprint; /* of the model */
    uint32_t width;       /* of hidden states */
    double theta;
    float edges[RECALL_BUCKETS - 1]; /* ascending: bucket i has cosines below edges[i] */
    double lambda[RECALL_BUCKETS];   /* in [0, 1] */
    float *centre;                   /* [width]: subtracted from hidden states; malloc'd */
} recall_fit;

/* That of the model at `path` (a folder, or a .gguf file, whose fit is <file>.recall.json).
 * *is_fitted false: there is none; what is stated by recall_fit_default() is used. Errors:
 * KVP_E_IO, KVP_E_INVALID (malformed, or of another model or revision: the fingerprint says so),
 * KVP_E_NOMEM. recall_fit_fini() in any case. */
KVP_NODISCARD kvp_status recall_fit_load(const char *path, uint64_t fingerprint, uint32_t width,
                                         recall_fit *fit, bool *is_fitted);
/* Replace it, whole or not at all. Errors: KVP_E_IO, KVP_E_NOMEM. */
KVP_NODISCARD kvp_status recall_fit_save(const char *path, const recall_fit *fit,
                                         const char *tuned_on, uint64_t n_tokens);
void recall_fit_fini(recall_fit *fit);

/* theta 16, lambda 0.1, no centre. Errors: KVP_E_NOMEM. */
KVP_NODISCARD kvp_status recall_fit_default(uint64_t fingerprint, uint32_t width, recall_fit *fit);
/* The bucket that the best cosine belongs to. */
size_t recall_bucket(const recall_fit *fit, float best);

#endif
