/* safetensors.c - a weights file in Hugging Face's safetensors format.
 *
 * Format (github.com/huggingface/safetensors): u64 little-endian header length, that many bytes of
 * JSON {name: {dtype, shape, data_offsets: [begin, end]}}, then the data.
 *
 * Invariants after open:
 *  1. tensors[i].begin <= tensors[i].end, and tensors[i].end == tensors[i + 1].begin: no overlap,
 *     no hole; the last one ends where the file does.
 *  2. end - begin == n_elements * (bytes of the dtype), computed without overflow. */
#include "integration/files/safetensors.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "integration/files/json_file.h"

#define LENGTH_BYTES 8u
#define HEADER_LIMIT_BYTES 100000000u /* of the reference implementation */

struct safetensors {
    mapped_file file;
    uint64_t header_bytes;
    json_t *header; /* owns names and dtypes */
    safetensors_tensor *tensors;
    size_t n_tensors;
};

typedef struct dtype_size {
    const char *name;
    uint64_t bytes;
} dtype_size;

static const dtype_size dtype_sizes[] = {{"BOOL", 1},    {"U8", 1},  {"I8", 1},  {"F8_E5M2", 1},
                                         {"F8_E4M3", 1}, {"I16", 2}, {"U16", 2}, {"F16", 2},
                                         {"BF16", 2},    {"I32", 4}, {"U32", 4}, {"F32", 4},
                                         {"F64", 8},     {"I64", 8}, {"U64", 8}, {"C64", 8}};

/* ---- one tensor ------------------------------------------------------------------------------ */

static kvp_status corrupt(const safetensors *st, const char *tensor, const char *what)
{
    return kvp_fail(KVP_E_CORRUPT, "%s: tensor \"%s\": %s", st->file.path, tensor, what);
}

static bool get_u64(const json_t *json, uint64_t *out)
{
    if (!json_is_integer(json) || json_integer_value(json) < 0)
        return false;
    *out = (uint64_t)json_integer_value(json);
    return true;
}

static kvp_status read_dtype(const safetensors *st, const json_t *info, safetensors_tensor *t,
                             uint64_t *element_bytes)
{
    t->dtype = json_string_value(json_object_get(info, "dtype"));
    if (!t->dtype)
        return corrupt(st, t->name, "it has no dtype");
    for (size_t i = 0; i < sizeof dtype_sizes / sizeof *dtype_sizes; i++) {
        if (strcmp(t->dtype, dtype_sizes[i].name) == 0) {
            *element_bytes = dtype_sizes[i].bytes;
            return KVP_OK;
        }
    }
    return kvp_fail(KVP_E_UNSUPPORTED, "%s: tensor \"%s\" has the unknown dtype \"%.32s\"",
                    st->file.path, t->name, t->dtype);
}

static kvp_status read_shape(const safetensors *st, const json_t *info, safetensors_tensor *t)
{
    const json_t *shape = json_object_get(info, "shape");
    if (!json_is_array(shape))
        return corrupt(st, t->name, "it has no shape");
    if (json_array_size(shape) > SAFETENSORS_MAX_RANK)
        return corrupt(st, t->name, "it has too many dimensions");
    t->rank = (uint32_t)json_array_size(shape);
    t->n_elements = 1;
    for (uint32_t i = 0; i < t->rank; i++) {
        if (!get_u64(json_array_get(shape, i), &t->shape[i]))
            return corrupt(st, t->name, "a dimension is not a whole number");
        if (__builtin_mul_overflow(t->n_elements, t->shape[i], &t->n_elements))
            return corrupt(st, t->name, "its shape has more elements than can be counted");
    }
    return KVP_OK;
}

static kvp_status read_offsets(const safetensors *st, const json_t *info, safetensors_tensor *t,
                               uint64_t element_bytes)
{
    const json_t *offsets = json_object_get(info, "data_offsets");
    if (json_array_size(offsets) != 2 || !get_u64(json_array_get(offsets, 0), &t->begin) ||
        !get_u64(json_array_get(offsets, 1), &t->end))
        return corrupt(st, t->name, "data_offsets are not two whole numbers");
    uint64_t data_bytes = st->file.n_bytes - LENGTH_BYTES - st->header_bytes;
    if (t->begin > t->end)
        return corrupt(st, t->name, "its data ends before it begins");
    if (t->end > data_bytes)
        return kvp_fail(KVP_E_CORRUPT,
                        "%s: tensor \"%s\" ends at byte %llu of %llu bytes of data: the file is "
                        "truncated, or its header lies",
                        st->file.path, t->name, (unsigned long long)t->end,
                        (unsigned long long)data_bytes);
    uint64_t bytes;
    if (__builtin_mul_overflow(t->n_elements, element_bytes, &bytes) || bytes != t->end - t->begin)
        return kvp_fail(KVP_E_CORRUPT,
                        "%s: tensor \"%s\": %llu elements of %s do not take the %llu bytes it has",
                        st->file.path, t->name, (unsigned long long)t->n_elements, t->dtype,
                        (unsigned long long)(t->end - t->begin));
    return KVP_OK;
}

static kvp_status read_tensor(const safetensors *st, const char *name, const json_t *info,
                              safetensors_tensor *t)
{
    *t = (safetensors_tensor){.name = name};
    uint64_t element_bytes = 0;
    if (!json_is_object(info))
        return corrupt(st, name, "its description is not an object");
    kvp_status status = read_dtype(st, info, t, &element_bytes);
    if (!status)
        status = read_shape(st, info, t);
    if (!status)
        status = read_offsets(st, info, t, element_bytes);
    return status;
}

/* ---- all of them ----------------------------------------------------------------------------- */

static int by_offset(const void *a, const void *b)
{
    const safetensors_tensor *x = a, *y = b;
    if (x->begin != y->begin)
        return x->begin < y->begin ? -1 : 1;
    if (x->end != y->end) /* empty ones first */
        return x->end < y->end ? -1 : 1;
    return strcmp(x->name, y->name);
}

static kvp_status check_coverage(const safetensors *st)
{
    uint64_t at = 0;
    for (size_t i = 0; i < st->n_tensors; i++) {
        const safetensors_tensor *t = &st->tensors[i];
        if (t->begin < at)
            return kvp_fail(KVP_E_CORRUPT, "%s: tensors \"%s\" and \"%s\" overlap", st->file.path,
                            st->tensors[i - 1].name, t->name);
        if (t->begin > at)
            return kvp_fail(KVP_E_CORRUPT,
                            "%s: bytes %llu to %llu of the data, before tensor \"%s\", belong to "
                            "no tensor",
                            st->file.path, (unsigned long long)at, (unsigned long long)t->begin,
                            t->name);
        at = t->end;
    }
    if (at != st->file.n_bytes - LENGTH_BYTES - st->header_bytes)
        return kvp_fail(
            KVP_E_CORRUPT, "%s: %llu bytes after the last tensor belong to no tensor",
            st->file.path,
            (unsigned long long)(st->file.n_bytes - LENGTH_BYTES - st->header_bytes - at));
    return KVP_OK;
}

static kvp_status read_tensors(safetensors *st)
{
    st->tensors = calloc(json_object_size(st->header) + 1, sizeof *st->tensors);
    if (!st->tensors)
        return kvp_fail(KVP_E_NOMEM, "out of memory: the header of %s", st->file.path);
    const char *name;
    json_t *info;
    json_object_foreach(st->header, name, info)
    {
        if (strcmp(name, "__metadata__") == 0)
            continue;
        kvp_status status = read_tensor(st, name, info, &st->tensors[st->n_tensors]);
        if (status)
            return status;
        st->n_tensors++;
    }
    qsort(st->tensors, st->n_tensors, sizeof *st->tensors, by_offset);
    return check_coverage(st);
}

static kvp_status read_header(safetensors *st)
{
    if (st->file.n_bytes < LENGTH_BYTES)
        return kvp_fail(KVP_E_CORRUPT, "%s: %zu bytes are too few for a safetensors file",
                        st->file.path, st->file.n_bytes);
    for (size_t i = 0; i < LENGTH_BYTES; i++)
        st->header_bytes |= (uint64_t)st->file.bytes[i] << (8 * i);
    if (st->header_bytes > HEADER_LIMIT_BYTES)
        return kvp_fail(KVP_E_CORRUPT,
                        "%s: a header of %llu bytes: damaged, or not a safetensors file",
                        st->file.path, (unsigned long long)st->header_bytes);
    if (st->header_bytes > st->file.n_bytes - LENGTH_BYTES)
        return kvp_fail(KVP_E_CORRUPT,
                        "%s: truncated: the header has %llu bytes, the file only %zu",
                        st->file.path, (unsigned long long)st->header_bytes, st->file.n_bytes);
    kvp_status status =
        json_parse_object((const char *)st->file.bytes + LENGTH_BYTES, (size_t)st->header_bytes,
                          st->file.path, KVP_E_CORRUPT, &st->header);
    return status ? status : read_tensors(st);
}

/* ---- life ------------------------------------------------------------------------------------ */

/* Takes the file over. */
static kvp_status open_file(mapped_file *file, safetensors **out)
{
    kvp_status status;
    safetensors *st = calloc(1, sizeof *st);
    if (!st) {
        status = kvp_fail(KVP_E_NOMEM, "out of memory: opening %s", file->path);
        mapped_file_close(file);
        return status;
    }
    st->file = *file;
    status = read_header(st);
    if (status) {
        safetensors_close(st);
        return status;
    }
    *out = st;
    return KVP_OK;
}

kvp_status safetensors_open(const char *path, safetensors **out)
{
    mapped_file file;
    kvp_status status = mapped_file_open(path, &file);
    return status ? status : open_file(&file, out);
}

kvp_status safetensors_open_bytes(const void *bytes, size_t n, const char *path, safetensors **out)
{
    mapped_file file;
    kvp_status status = mapped_file_borrow(bytes, n, path, &file);
    return status ? status : open_file(&file, out);
}

void safetensors_close(safetensors *st)
{
    if (!st)
        return;
    json_decref(st->header);
    free(st->tensors);
    mapped_file_close(&st->file);
    free(st);
}

/* ---- access ---------------------------------------------------------------------------------- */

const mapped_file *safetensors_mapping(const safetensors *st)
{
    return &st->file;
}

size_t safetensors_count(const safetensors *st)
{
    return st->n_tensors;
}

const safetensors_tensor *safetensors_at(const safetensors *st, size_t index)
{
    return &st->tensors[index];
}

const unsigned char *safetensors_data(const safetensors *st, const safetensors_tensor *t)
{
    return st->file.bytes + LENGTH_BYTES + st->header_bytes + t->begin;
}
