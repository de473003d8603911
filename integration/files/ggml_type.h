/* ggml_type.h - how ggml's tensor types lay numbers out: the sizes of their blocks. */
#ifndef KVPAGER_FILES_GGML_TYPE_H
#define KVPAGER_FILES_GGML_TYPE_H

#include <stdint.h>

typedef struct ggml_type {
    const char *name;
    uint32_t block_elements; /* a row is a whole number of blocks */
    uint32_t block_bytes;
} ggml_type;

/* Type `number` as files have it; NULL: there is none. Borrowed for ever. */
const ggml_type *ggml_type_find(uint32_t number);

#endif
