/* tensor_walk.h - every tensor of a decoder, one after the other. */
#ifndef KVPAGER_MODELS_TENSOR_WALK_H
#define KVPAGER_MODELS_TENSOR_WALK_H

#include "integration/models/decoder_weights.h"

#define TENSOR_NAME_BYTES 128

/* In GGUF files: what frequencies of rotary positions are divided by, where they are scaled like
 * Llama 3's. */
#define TENSOR_ROPE_DIVIDERS "rope_freqs.weight"

/* A tensor of the model: floats, or outputs of a matrix. */
typedef struct weight {
    char name[TENSOR_NAME_BYTES]; /* as in the file */
    uint32_t rank;
    uint64_t shape[2];
    float **floats;      /* the array that it goes to */
    size_t n_floats;     /* of that array */
    matrix *matrix;      /* or this */
    size_t first;        /* where in the array, or in the matrix's outputs */
    bool is_interleaved; /* its rows: see model_arch */
} weight;

typedef struct tensor_walk {
    const weights_source *source;
    const tensor_names *names; /* of the files' kind */
    const char *prefix;        /* names->prefix, or its end */
    uint32_t n_layers;         /* to walk over */
    kvp_status (*visit)(void *opaque, const weight *w);
    void *opaque;
} tensor_walk;

/* Of all layers. The caller sets visit and opaque. */
tensor_walk tensor_walk_of(const weights_source *source);
/* Name every tensor that the model has, with its shape and its place in `w`; matrices get their
 * shapes. Stops at the first failure of visit(), and returns it. */
KVP_NODISCARD kvp_status tensor_walk_run(const tensor_walk *t, decoder_weights *w);

/* What a name is within a layer, and that layer's number: "ln_1.weight" of "h.7.ln_1.weight". NULL:
 * it is outside the layers; "": it should be within, but has no number. */
const char *tensor_walk_layer_part(const tensor_walk *t, const char *name, unsigned long *layer);
bool tensor_walk_is_gguf(const tensor_walk *t);
/* Do the files have a head that is not the embedding? */
bool tensor_walk_has_own_head(const tensor_walk *t);

#endif
