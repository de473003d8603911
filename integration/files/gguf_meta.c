/* gguf_meta.c - the metadata of a GGUF file: keys with typed values, which stay in the mapping.
 *
 * Invariants after open: those of gguf.c, and
 *  1. Values are sorted by key (length first); every element lies inside the mapping.
 *  2. A flag is 0 or 1; a number that is no array's element is finite; a text is UTF-8. */
#include "integration/files/gguf_file.h"

#include <endian.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define KEY_LIMIT_BYTES 65535u /* of the format */
#define LENGTH_BYTES 8u        /* of a text: in front of it */

static const unsigned char type_bytes[GGUF_N_TYPES] = {
    [GGUF_U8] = 1,  [GGUF_I8] = 1,   [GGUF_U16] = 2, [GGUF_I16] = 2, [GGUF_U32] = 4, [GGUF_I32] = 4,
    [GGUF_F32] = 4, [GGUF_BOOL] = 1, [GGUF_U64] = 8, [GGUF_I64] = 8, [GGUF_F64] = 8};

/* ---- elements -------------------------------------------------------------------------------- */

static bool is_signed(uint32_t type)
{
    return type == GGUF_I8 || type == GGUF_I16 || type == GGUF_I32 || type == GGUF_I64;
}

static uint64_t load_bits(const unsigned char *at, size_t n)
{
    uint64_t bits = 0;
    memcpy(&bits, at, n);
    return le64toh(bits);
}

static bool load_int(uint32_t type, const unsigned char *at, int64_t *out)
{
    if (type == GGUF_BOOL || type == GGUF_TEXT || type == GGUF_F32 || type == GGUF_F64)
        return false;
    unsigned n_bits = 8u * type_bytes[type];
    uint64_t bits = load_bits(at, type_bytes[type]);
    if (is_signed(type))
        bits = (uint64_t)((int64_t)(bits << (64 - n_bits)) >> (64 - n_bits));
    else if (bits > INT64_MAX)
        return false;
    *out = (int64_t)bits;
    return true;
}

static bool load_number(uint32_t type, const unsigned char *at, double *out)
{
    uint64_t bits = type == GGUF_TEXT ? 0 : load_bits(at, type_bytes[type]);
    int64_t whole;
    if (type == GGUF_F64) {
        memcpy(out, &bits, sizeof *out);
    } else if (type == GGUF_F32) {
        uint32_t half = (uint32_t)bits;
        float value;
        memcpy(&value, &half, sizeof value);
        *out = (double)value;
    } else if (load_int(type, at, &whole)) {
        *out = (double)whole;
    } else {
        return false;
    }
    return true;
}

/* ---- reading --------------------------------------------------------------------------------- */

static kvp_status corrupt(const gguf_cursor *c, const gguf_value *value, const char *what)
{
    int shown = value->key_bytes < 100 ? (int)value->key_bytes : 100;
    return kvp_fail(KVP_E_CORRUPT, "%s: metadata \"%.*s\": %s", c->file->path, shown, value->key,
                    what);
}

static kvp_status read_key(gguf_cursor *c, gguf_value *value)
{
    size_t begin = c->at;
    kvp_status status = gguf_take_text(c, "a metadata key", &value->key, &value->key_bytes);
    if (!status && (!value->key_bytes || value->key_bytes > KEY_LIMIT_BYTES))
        return kvp_fail(KVP_E_CORRUPT, "%s: byte %zu: a metadata key has %zu bytes", c->file->path,
                        begin, value->key_bytes);
    return status;
}

static kvp_status read_texts(gguf_cursor *c, gguf_value *value)
{
    kvp_status status = KVP_OK;
    value->at = c->file->bytes + c->at;
    for (uint64_t i = 0; i < value->n && !status; i++) {
        const char *text;
        size_t n;
        status = gguf_take_text(c, "a text of the metadata", &text, &n);
    }
    return status;
}

static kvp_status check_flags(const gguf_cursor *c, const gguf_value *value)
{
    for (uint64_t i = 0; i < value->n; i++) {
        if (value->at[i] > 1)
            return corrupt(c, value, "a flag is neither 0 nor 1");
    }
    return KVP_OK;
}

static kvp_status read_numbers(gguf_cursor *c, gguf_value *value)
{
    uint64_t bytes;
    if (__builtin_mul_overflow(value->n, type_bytes[value->type], &bytes))
        return corrupt(c, value, "it has more elements than can be counted");
    kvp_status status = gguf_take(c, bytes, "a value of the metadata", &value->at);
    if (status)
        return status;
    if (value->type == GGUF_BOOL)
        return check_flags(c, value);
    double number = 0;
    if (!value->is_array && load_number(value->type, value->at, &number) && !isfinite(number))
        return corrupt(c, value, "its value is not a finite number");
    return KVP_OK;
}

static kvp_status read_array_type(gguf_cursor *c, gguf_value *value)
{
    kvp_status status = gguf_take_u32(c, "an array's type", &value->type);
    if (status)
        return status;
    value->is_array = true;
    if (value->type == GGUF_ARRAY)
        return kvp_fail(KVP_E_UNSUPPORTED, "%s: byte %zu: the metadata has an array of arrays",
                        c->file->path, c->at);
    return gguf_take_u64(c, "an array's length", &value->n);
}

static kvp_status read_value(gguf_cursor *c, gguf_value *value)
{
    *value = (gguf_value){.n = 1};
    kvp_status status = read_key(c, value);
    if (!status)
        status = gguf_take_u32(c, "the type of a metadata value", &value->type);
    if (!status && value->type == GGUF_ARRAY)
        status = read_array_type(c, value);
    if (status)
        return status;
    if (value->type >= GGUF_N_TYPES)
        return corrupt(c, value, "its type is unknown");
    return value->type == GGUF_TEXT ? read_texts(c, value) : read_numbers(c, value);
}

static int by_key(const void *a, const void *b)
{
    const gguf_value *x = a, *y = b;
    if (x->key_bytes != y->key_bytes)
        return x->key_bytes < y->key_bytes ? -1 : 1;
    return memcmp(x->key, y->key, x->key_bytes);
}

kvp_status gguf_read_values(gguf_cursor *c, uint64_t n, gguf *g)
{
    while (g->n_values < n) {
        void *values = g->values;
        kvp_status status = gguf_grow(c, &values, g->n_values, sizeof *g->values);
        g->values = values;
        if (!status)
            status = read_value(c, &g->values[g->n_values]);
        if (status)
            return status;
        g->n_values++;
    }
    if (g->values)
        qsort(g->values, g->n_values, sizeof *g->values, by_key);
    for (size_t i = 1; i < g->n_values; i++) {
        if (by_key(&g->values[i - 1], &g->values[i]) == 0)
            return corrupt(c, &g->values[i], "the file has two of this key");
    }
    return KVP_OK;
}

/* ---- access ---------------------------------------------------------------------------------- */

static const gguf_value *find(const gguf *g, const char *key)
{
    const gguf_value wanted = {.key = key, .key_bytes = strlen(key)};
    if (!g->n_values)
        return NULL;
    return bsearch(&wanted, g->values, g->n_values, sizeof *g->values, by_key);
}

static const gguf_value *find_single(const gguf *g, const char *key)
{
    const gguf_value *value = find(g, key);
    return value && !value->is_array ? value : NULL;
}

bool gguf_has(const gguf *g, const char *key)
{
    return find(g, key) != NULL;
}

bool gguf_get_int(const gguf *g, const char *key, int64_t *out)
{
    const gguf_value *value = find_single(g, key);
    return value && load_int(value->type, value->at, out);
}

bool gguf_get_number(const gguf *g, const char *key, double *out)
{
    const gguf_value *value = find_single(g, key);
    return value && load_number(value->type, value->at, out);
}

bool gguf_get_flag(const gguf *g, const char *key, bool *out)
{
    const gguf_value *value = find_single(g, key);
    if (!value || value->type != GGUF_BOOL)
        return false;
    *out = *value->at;
    return true;
}

bool gguf_get_text(const gguf *g, const char *key, const char **text, size_t *n)
{
    const gguf_value *value = find_single(g, key);
    if (!value || value->type != GGUF_TEXT)
        return false;
    *text = (const char *)value->at + LENGTH_BYTES;
    *n = (size_t)load_bits(value->at, LENGTH_BYTES);
    return true;
}

size_t gguf_array_length(const gguf *g, const char *key)
{
    const gguf_value *value = find(g, key);
    return value && value->is_array ? (size_t)value->n : 0;
}

kvp_status gguf_each_text(const gguf *g, const char *key,
                          kvp_status (*take)(void *opaque, size_t i, const char *text, size_t n),
                          void *opaque)
{
    const gguf_value *value = find(g, key);
    if (!value || !value->is_array || value->type != GGUF_TEXT)
        return kvp_fail(KVP_E_INVALID, "%s: metadata \"%s\" %s", g->file.path, key,
                        value ? "is not an array of texts" : "is missing");
    const unsigned char *at = value->at;
    kvp_status status = KVP_OK;
    for (size_t i = 0; i < value->n && !status; i++) {
        size_t n = (size_t)load_bits(at, LENGTH_BYTES);
        status = take(opaque, i, (const char *)at + LENGTH_BYTES, n);
        at += LENGTH_BYTES + n;
    }
    return status;
}

static const unsigned char *array_element(const gguf_value *value, size_t i)
{
    if (!value || !value->is_array || value->type == GGUF_TEXT || i >= value->n)
        return NULL;
    return value->at + i * type_bytes[value->type];
}

bool gguf_array_int(const gguf *g, const char *key, size_t i, int64_t *out)
{
    const gguf_value *value = find(g, key);
    const unsigned char *at = array_element(value, i);
    return at && load_int(value->type, at, out);
}

bool gguf_array_number(const gguf *g, const char *key, size_t i, double *out)
{
    const gguf_value *value = find(g, key);
    const unsigned char *at = array_element(value, i);
    return at && load_number(value->type, at, out);
}
