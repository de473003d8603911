/* gguf_file.h - what gguf.c and gguf_meta.c share: the reader of a file's bytes, and what was read.
 */
#ifndef KVPAGER_FILES_GGUF_FILE_H
#define KVPAGER_FILES_GGUF_FILE_H

#include "integration/files/gguf.h"
#include "integration/files/mapped_file.h"

/* Type of a metadata value, by its number in files. */
typedef enum gguf_type {
    GGUF_U8 = 0,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL,
    GGUF_TEXT,
    GGUF_ARRAY,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64,
    GGUF_N_TYPES
} gguf_type;

/* A metadata value; key and elements are bytes in the mapping. */
typedef struct gguf_value {
    const char *key;
    size_t key_bytes;
    uint32_t type; /* of the value, or of an array's elements; never GGUF_ARRAY */
    bool is_array;
    uint64_t n;              /* elements: 1 for what is no array */
    const unsigned char *at; /* the first */
} gguf_value;

typedef struct gguf_entry {
    gguf_tensor tensor;
    uint64_t offset; /* of its bytes, from data_begin */
} gguf_entry;

struct gguf {
    mapped_file file;
    gguf_value *values; /* by key */
    size_t n_values;
    gguf_entry *entries; /* by name; these names are malloc'd */
    size_t n_entries;
};

/* Where reading has come to. */
typedef struct gguf_cursor {
    const mapped_file *file;
    size_t at;
} gguf_cursor;

/* The next n bytes, which `what` names in messages. Errors: KVP_E_CORRUPT: the file ends first. */
KVP_NODISCARD kvp_status gguf_take(gguf_cursor *c, uint64_t n, const char *what,
                                   const unsigned char **out);
KVP_NODISCARD kvp_status gguf_take_u32(gguf_cursor *c, const char *what, uint32_t *out);
KVP_NODISCARD kvp_status gguf_take_u64(gguf_cursor *c, const char *what, uint64_t *out);
/* A text: its length, then as many bytes. Errors: KVP_E_CORRUPT: it is no UTF-8, or too long. */
KVP_NODISCARD kvp_status gguf_take_text(gguf_cursor *c, const char *what, const char **text,
                                        size_t *n);
/* One more element behind n of a growing array; doubles it where n is a power of two. */
KVP_NODISCARD kvp_status gguf_grow(const gguf_cursor *c, void **array, size_t n,
                                   size_t element_bytes);

/* Read n metadata values. They are counted as they are read: a number that lies costs nothing. */
KVP_NODISCARD kvp_status gguf_read_values(gguf_cursor *c, uint64_t n, gguf *g);

#endif
