/* ggml_type.h - how ggml's tensor types lay numbers out: the sizes of their blocks. */
#ifndef KVPAGER_FILES_GGML_TYPE_H
#define KVPAGER_FILES_GGML_TYPE_H

#include <stdint.h>

/* Those that are named elsewhere. */
enum {
    GGML_F32 = 0,
    GGML_F16 = 1,
    GGML_Q4_0 = 2,
    GGML_Q4_1 = 3,
    GGML_Q8_0 = 8,
    GGML_Q4_K = 12,
    GGML_Q6_K = 14,
    GGML_BF16 = 30
};

typedef struct ggml_type {
    const char *name;
    uint32_t block_elements; /* a row is a whole number of blocks */
    uint32_t block_bytes;
} ggml_type;

/* Type `number` as files have it; NULL: there is none. Borrowed for ever. */
const ggml_type *ggml_type_find(uint32_t number);

#endif
