/* weights.h - the tensors of a model, whatever files they come in: one or several safetensors, or
 * GGUF. Everything here is checked: shapes agree with lengths, rows lie inside the mapping. */
#ifndef KVPAGER_MODELS_WEIGHTS_H
#define KVPAGER_MODELS_WEIGHTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "integration/files/gguf.h"
#include "kvpager/status.h"

#define TENSOR_MAX_RANK 8

typedef struct tensor {
    const char *name;  /* as the file spells it */
    const char *dtype; /* the same: "F16", "Q4_1" ... */
    uint32_t rank;
    uint64_t shape[TENSOR_MAX_RANK]; /* outermost first */
    uint64_t n_elements, n_bytes;
    bool is_readable; /* a dtype that weights_read_rows() takes */
    const unsigned char *data;
    uint32_t type; /* of quants.h, if is_readable */
} tensor;

typedef struct weights weights;

/* A .gguf file, or a folder with model.safetensors or model.safetensors.index.json and the shards
 * it names. Errors: KVP_E_IO, KVP_E_CORRUPT, KVP_E_INVALID (the index names a shard or
 * tensor that is not there: which), KVP_E_UNSUPPORTED, KVP_E_NOMEM. */
KVP_NODISCARD kvp_status weights_open(const char *path, weights **out);
void weights_close(weights *w);
/* The GGUF file's metadata; NULL for safetensors. */
const gguf *weights_gguf(const weights *w);

size_t weights_count(const weights *w);
const tensor *weights_at(const weights *w, size_t i);
const tensor *weights_find(const weights *w, const char *name); /* NULL: there is none */

/* Rows [first, first + n) as float32 [n][width], where width is the last dimension and all others
 * are rows (a vector has one row). For is_readable tensors. */
void weights_read_rows(const tensor *t, uint64_t first, uint64_t n, float *out);
/* The same dtype and bytes? Leaves nothing of them mapped in. */
bool weights_are_equal(const weights *w, const tensor *a, const tensor *b);
/* The tensor's pages of the mapping will not be needed again: they leave the process's memory. */
void weights_release(const weights *w, const tensor *t);

/* XXH3-64 of every byte of the files' tensors and headers, chained with `seed`; reads everything,
 * and leaves nothing of it mapped in. */
uint64_t weights_fingerprint(const weights *w, uint64_t seed);

#endif
