/* gguf.h - a model in GGUF (versions 2 and 3, little-endian), checked before use.
 *
 * Source of the format: ggml's docs/gguf.md. Keys of the metadata are spelled as there. */
#ifndef KVPAGER_FILES_GGUF_H
#define KVPAGER_FILES_GGUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "integration/files/mapped_file.h"
#include "kvpager/status.h"

typedef struct gguf gguf;

#define GGUF_MAX_RANK 4

typedef struct gguf_tensor {
    const char *name;
    uint32_t type; /* ggml's number: of ggml_type.h */
    uint32_t rank;
    uint64_t shape[GGUF_MAX_RANK]; /* outermost first: the reverse of the file's order */
    const unsigned char *data;     /* [n_bytes], in the mapping */
    uint64_t n_bytes, n_elements;
} gguf_tensor;

/* Map the file read-only and check all of it but the tensors' data: magic, version, counts, every
 * length and offset, types, alignment, that names are unique and tensors do not overlap. `path` is
 * kept for messages. Errors: KVP_E_IO, KVP_E_CORRUPT (the message says what lies, and where),
 * KVP_E_UNSUPPORTED (another version, big-endian), KVP_E_NOMEM. */
KVP_NODISCARD kvp_status gguf_open(const char *path, gguf **out);
/* The same for n bytes in memory, which must outlive it. */
KVP_NODISCARD kvp_status gguf_open_bytes(const void *bytes, size_t n, const char *path, gguf **out);
void gguf_close(gguf *g);
const char *gguf_path(const gguf *g);
const mapped_file *gguf_mapping(const gguf *g);
bool gguf_is_named(const char *path); /* does it end in ".gguf"? */

/* In the order of their names. */
size_t gguf_n_tensors(const gguf *g);
const gguf_tensor *gguf_tensor_at(const gguf *g, size_t i);
const gguf_tensor *gguf_find_tensor(const gguf *g, const char *name);

/* ---- metadata: absent or of another type is `false`, and *out stays as it is ---- */

/* Any integer type, if the value fits. */
bool gguf_get_int(const gguf *g, const char *key, int64_t *out);
/* Floats and integers. */
bool gguf_get_number(const gguf *g, const char *key, double *out);
bool gguf_get_flag(const gguf *g, const char *key, bool *out);
/* Bytes in the mapping, not terminated; valid UTF-8. */
bool gguf_get_text(const gguf *g, const char *key, const char **text, size_t *n);
bool gguf_has(const gguf *g, const char *key); /* of any type */

/* Arrays: how many elements `key` has; 0 if it is no array. */
size_t gguf_array_length(const gguf *g, const char *key);
/* Every element of an array of texts, in order; stops at the first failure of take(), and returns
 * it. KVP_E_INVALID if it is no such array. */
KVP_NODISCARD kvp_status gguf_each_text(const gguf *g, const char *key,
                                        kvp_status (*take)(void *opaque, size_t i, const char *text,
                                                           size_t n),
                                        void *opaque);
/* Element i of an array of integers or numbers. */
bool gguf_array_int(const gguf *g, const char *key, size_t i, int64_t *out);
bool gguf_array_number(const gguf *g, const char *key, size_t i, double *out);

#endif
