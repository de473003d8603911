/* safetensors.h - a weights file in Hugging Face's safetensors format, checked before use. */
#ifndef KVPAGER_FILES_SAFETENSORS_H
#define KVPAGER_FILES_SAFETENSORS_H

#include <stddef.h>
#include <stdint.h>

#include "integration/files/mapped_file.h"
#include "kvpager/status.h"

#define SAFETENSORS_MAX_RANK 8

typedef struct safetensors_tensor {
    const char *name;
    const char *dtype; /* as the file spells it: "F32", "BF16", "BOOL" ... */
    uint32_t rank;
    uint64_t shape[SAFETENSORS_MAX_RANK];
    uint64_t n_elements;
    uint64_t begin, end; /* of its bytes, from the end of the header */
} safetensors_tensor;

typedef struct safetensors safetensors;

/* Map the file read-only and check all of its header: sizes, dtypes, shapes against lengths, and
 * that the tensors cover the data without overlap or hole (as the reference implementation does).
 * Errors: KVP_E_IO, KVP_E_CORRUPT, KVP_E_UNSUPPORTED (a dtype that is not known), KVP_E_NOMEM. */
KVP_NODISCARD kvp_status safetensors_open(const char *path, safetensors **out);
/* The same for n bytes in memory, which must outlive it. */
KVP_NODISCARD kvp_status safetensors_open_bytes(const void *bytes, size_t n, const char *path,
                                                safetensors **out);
void safetensors_close(safetensors *st);

/* The whole file, header included. */
const mapped_file *safetensors_mapping(const safetensors *st);
size_t safetensors_count(const safetensors *st);
/* In the order of their data. */
const safetensors_tensor *safetensors_at(const safetensors *st, size_t index);
/* Its bytes: end - begin of them, not aligned. Borrowed until close. */
const unsigned char *safetensors_data(const safetensors *st, const safetensors_tensor *t);

#endif
