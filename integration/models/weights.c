/* weights.c - the tensors of a model, whatever files they come in.
 *
 * Invariants after open:
 *  1. tensors are sorted by name, and no name is there twice, over all files.
 *  2. data .. data + n_bytes lies in one file's mapping; a readable tensor's rows are whole blocks,
 *     so that rows [0, n_elements / width) are exactly its bytes. */
#include "integration/models/weights.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "integration/files/folder.h"
#include "integration/files/ggml_type.h"
#include "integration/files/safetensors.h"
#include "integration/models/fingerprint.h"
#include "integration/models/quants.h"
#include "integration/models/shard_index.h"

#define FINGERPRINT_BYTES ((size_t)4 << 20) /* mapped in at a time; part of what it is */
#define COMPARE_BYTES FINGERPRINT_BYTES

static_assert(TENSOR_MAX_RANK >= GGUF_MAX_RANK && TENSOR_MAX_RANK >= SAFETENSORS_MAX_RANK,
              "tensors of every file fit");

struct weights {
    gguf *gguf;           /* either */
    safetensors **shards; /* or [n_shards] */
    size_t n_shards;
    tensor *tensors;
    size_t n_tensors;
};

/* ---- tensors of either format ---------------------------------------------------------------- */

static tensor tensor_of_gguf(const gguf_tensor *from)
{
    tensor t = {.name = from->name,
                .dtype = ggml_type_find(from->type)->name,
                .rank = from->rank,
                .n_elements = from->n_elements,
                .n_bytes = from->n_bytes,
                .is_readable = quants_can_read(from->type),
                .data = from->data,
                .type = from->type};
    memcpy(t.shape, from->shape, sizeof from->shape);
    return t;
}

static tensor tensor_of_safetensors(const safetensors *st, const safetensors_tensor *from)
{
    static const uint32_t types[] = {GGML_F32, GGML_F16, GGML_BF16}; /* the same in both formats */
    tensor t = {.name = from->name,
                .dtype = from->dtype,
                .rank = from->rank,
                .n_elements = from->n_elements,
                .n_bytes = from->end - from->begin,
                .data = safetensors_data(st, from)};
    memcpy(t.shape, from->shape, sizeof from->shape);
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        if (strcmp(t.dtype, ggml_type_find(types[i])->name) == 0) {
            t.is_readable = true;
            t.type = types[i];
        }
    }
    return t;
}

static const mapped_file *mapping_of(const weights *w, const tensor *t)
{
    for (size_t i = 0; i < w->n_shards; i++) {
        const mapped_file *file = safetensors_mapping(w->shards[i]);
        uintptr_t begin = (uintptr_t)file->bytes, at = (uintptr_t)t->data;
        if (at - begin <= file->n_bytes)
            return file;
    }
    return gguf_mapping(w->gguf);
}

static int by_name(const void *a, const void *b)
{
    const tensor *x = a, *y = b;
    return strcmp(x->name, y->name);
}

static kvp_status sort_tensors(weights *w)
{
    qsort(w->tensors, w->n_tensors, sizeof *w->tensors, by_name);
    for (size_t i = 1; i < w->n_tensors; i++) {
        const tensor *a = &w->tensors[i - 1], *b = &w->tensors[i];
        if (by_name(a, b) == 0)
            return kvp_fail(KVP_E_INVALID, "tensor \"%.100s\" is both in %s and in %s", a->name,
                            mapping_of(w, a)->path, mapping_of(w, b)->path);
    }
    return KVP_OK;
}

static kvp_status allocate_tensors(size_t n, weights *w)
{
    w->tensors = calloc(n + 1, sizeof *w->tensors);
    return w->tensors ? KVP_OK : kvp_fail(KVP_E_NOMEM, "out of memory: %zu tensors", n);
}

/* ---- GGUF ------------------------------------------------------------------------------------ */

static kvp_status open_gguf(const char *path, weights *w)
{
    kvp_status status = gguf_open(path, &w->gguf);
    size_t n = status ? 0 : gguf_n_tensors(w->gguf);
    if (!status)
        status = allocate_tensors(n, w);
    if (status)
        return status;
    for (size_t i = 0; i < n; i++)
        w->tensors[w->n_tensors++] = tensor_of_gguf(gguf_tensor_at(w->gguf, i));
    return sort_tensors(w);
}

/* ---- folders --------------------------------------------------------------------------------- */

static kvp_status take_shards(weights *w)
{
    size_t n = 0;
    for (size_t i = 0; i < w->n_shards; i++)
        n += safetensors_count(w->shards[i]);
    kvp_status status = allocate_tensors(n, w);
    if (status)
        return status;
    for (size_t i = 0; i < w->n_shards; i++) {
        const safetensors *st = w->shards[i];
        for (size_t k = 0; k < safetensors_count(st); k++)
            w->tensors[w->n_tensors++] = tensor_of_safetensors(st, safetensors_at(st, k));
    }
    return sort_tensors(w);
}

static kvp_status open_shards(const char *dir, const char *const *files, size_t n, weights *w)
{
    w->shards = calloc(n, sizeof(safetensors *));
    if (!w->shards)
        return kvp_fail(KVP_E_NOMEM, "out of memory: %zu files of weights", n);
    for (size_t i = 0; i < n; i++) {
        char path[FOLDER_PATH_BYTES];
        kvp_status status = folder_path(dir, files[i], path);
        if (!status)
            status = safetensors_open(path, &w->shards[i]);
        if (status)
            return status;
        w->n_shards++;
    }
    return take_shards(w);
}

static kvp_status check_index(const weights *w, const shard_index *index)
{
    const char *name;
    const json_t *file;
    json_object_foreach(index->map, name, file)
    {
        const safetensors *shard = w->shards[shard_index_file_of(index, file)];
        const tensor *t = weights_find(w, name);
        if (!t || mapping_of(w, t) != safetensors_mapping(shard))
            return kvp_fail(KVP_E_INVALID, "%s: tensor \"%.100s\" is not in %.100s, but %s%s",
                            index->where, name, json_string_value(file), t ? "in " : "nowhere",
                            t ? mapping_of(w, t)->path : "");
    }
    return KVP_OK;
}

static kvp_status open_sharded(const char *dir, weights *w)
{
    shard_index index;
    kvp_status status = shard_index_init(dir, &index);
    if (status)
        return status;
    for (size_t i = 0; i < index.n_files && !status; i++) {
        if (!folder_has(dir, index.files[i]))
            status =
                kvp_fail(KVP_E_INVALID,
                         "%s: %.100s, one of the %zu files that it names, is missing: download "
                         "the model again",
                         index.where, index.files[i], index.n_files);
    }
    if (!status)
        status = open_shards(dir, index.files, index.n_files, w);
    if (!status)
        status = check_index(w, &index);
    shard_index_fini(&index);
    return status;
}

/* The message for a folder without weights says what to do with what is there. */
static kvp_status open_folder(const char *dir, weights *w)
{
    static const char name[] = "model.safetensors";
    const char *const files[] = {name};
    kvp_status status = folder_check(dir);
    if (status)
        return status;
    if (!folder_has(dir, name) && shard_index_is_there(dir))
        return open_sharded(dir, w);
    if (!folder_has(dir, name) && folder_has(dir, "pytorch_model.bin"))
        return kvp_fail(KVP_E_UNSUPPORTED, "%s: only pytorch_model.bin is there: convert it to %s",
                        dir, name);
    return open_shards(dir, files, 1, w);
}

/* ---- life ------------------------------------------------------------------------------------ */

kvp_status weights_open(const char *path, weights **out)
{
    weights *w = calloc(1, sizeof *w);
    if (!w)
        return kvp_fail(KVP_E_NOMEM, "out of memory: opening %s", path);
    kvp_status status = gguf_is_named(path) ? open_gguf(path, w) : open_folder(path, w);
    if (status) {
        weights_close(w);
        return status;
    }
    *out = w;
    return KVP_OK;
}

void weights_close(weights *w)
{
    if (!w)
        return;
    for (size_t i = 0; i < w->n_shards; i++)
        safetensors_close(w->shards[i]);
    free(w->shards);
    gguf_close(w->gguf);
    free(w->tensors);
    free(w);
}

/* ---- access ---------------------------------------------------------------------------------- */

const gguf *weights_gguf(const weights *w)
{
    return w->gguf;
}

size_t weights_count(const weights *w)
{
    return w->n_tensors;
}

const tensor *weights_at(const weights *w, size_t i)
{
    return &w->tensors[i];
}

const tensor *weights_find(const weights *w, const char *name)
{
    const tensor wanted = {.name = name};
    return bsearch(&wanted, w->tensors, w->n_tensors, sizeof *w->tensors, by_name);
}

void weights_read_rows(const tensor *t, uint64_t first, uint64_t n, float *out)
{
    const ggml_type *type = ggml_type_find(t->type);
    uint64_t width = t->rank ? t->shape[t->rank - 1] : 1;
    uint64_t row_bytes = width / type->block_elements * type->block_bytes;
    assert(t->is_readable && n * row_bytes <= t->n_bytes - first * row_bytes);
    quants_read(t->type, t->data + first * row_bytes, out, (size_t)(n * width));
}

bool weights_are_equal(const weights *w, const tensor *a, const tensor *b)
{
    bool is_same = strcmp(a->dtype, b->dtype) == 0 && a->n_bytes == b->n_bytes;
    for (size_t at = 0, n; at < a->n_bytes && is_same; at += n) {
        n = a->n_bytes - at < COMPARE_BYTES ? (size_t)a->n_bytes - at : COMPARE_BYTES;
        is_same = memcmp(a->data + at, b->data + at, n) == 0;
        mapped_file_release(mapping_of(w, a), a->data + at, n);
        mapped_file_release(mapping_of(w, b), b->data + at, n);
    }
    return is_same;
}

void weights_release(const weights *w, const tensor *t)
{
    mapped_file_release(mapping_of(w, t), t->data, (size_t)t->n_bytes);
}

static uint64_t fingerprint_file(const mapped_file *file, uint64_t seed)
{
    for (size_t at = 0, n; at < file->n_bytes; at += n) {
        n = file->n_bytes - at < FINGERPRINT_BYTES ? file->n_bytes - at : FINGERPRINT_BYTES;
        seed = fingerprint(file->bytes + at, n, seed);
        mapped_file_release(file, file->bytes + at, n);
    }
    return seed;
}

uint64_t weights_fingerprint(const weights *w, uint64_t seed)
{
    if (w->gguf)
        return fingerprint_file(gguf_mapping(w->gguf), seed);
    for (size_t i = 0; i < w->n_shards; i++)
        seed = fingerprint_file(safetensors_mapping(w->shards[i]), seed);
    return seed;
}
