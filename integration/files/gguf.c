/* gguf.c - a model in GGUF: header and tensors. Metadata is in gguf_meta.c.
 *
 * Format (ggml's docs/gguf.md), little-endian: "GGUF", u32 version, u64 tensors, u64 values; the
 * values; per tensor its name, u32 rank, u64 dimensions (innermost first), u32 type, u64 offset;
 * padding to general.alignment; the data.
 *
 * Invariants after open:
 *  1. Every text, element and tensor lies inside the mapping.
 *  2. Keys and names are unique, UTF-8, and sorted.
 *  3. n_bytes == n_elements / block_elements * block_bytes, computed without overflow, and the
 *     innermost dimension is a multiple of block_elements.
 *  4. Tensors begin at multiples of the alignment and do not overlap. */
#include "integration/files/gguf.h"

#include <endian.h>
#include <stdlib.h>
#include <string.h>

#include "integration/files/ggml_type.h"
#include "integration/files/gguf_file.h"
#include "integration/text/utf8.h"

#define DEFAULT_ALIGNMENT 32
#define NAME_LIMIT_BYTES 64 /* of the format */

/* ---- bytes ----------------------------------------------------------------------------------- */

kvp_status gguf_take(gguf_cursor *c, uint64_t n, const char *what, const unsigned char **out)
{
    size_t left = c->file->n_bytes - c->at;
    if (n > left)
        return kvp_fail(KVP_E_CORRUPT,
                        "%s: byte %zu: %s takes %llu bytes, and %zu are left: the file is "
                        "truncated, or lies",
                        c->file->path, c->at, what, (unsigned long long)n, left);
    *out = c->file->bytes + c->at;
    c->at += (size_t)n;
    return KVP_OK;
}

kvp_status gguf_take_u32(gguf_cursor *c, const char *what, uint32_t *out)
{
    const unsigned char *bytes = NULL;
    kvp_status status = gguf_take(c, sizeof *out, what, &bytes);
    if (status)
        return status;
    memcpy(out, bytes, sizeof *out);
    *out = le32toh(*out);
    return KVP_OK;
}

kvp_status gguf_take_u64(gguf_cursor *c, const char *what, uint64_t *out)
{
    const unsigned char *bytes = NULL;
    kvp_status status = gguf_take(c, sizeof *out, what, &bytes);
    if (status)
        return status;
    memcpy(out, bytes, sizeof *out);
    *out = le64toh(*out);
    return KVP_OK;
}

static bool is_utf8(const char *text, size_t n)
{
    for (size_t at = 0, length; at < n; at += length) {
        if ((unsigned char)text[at] < 0x80)
            length = 1;
        else if (utf8_classify(text + at, n - at, &length) != UTF8_CHAR)
            return false;
    }
    return true;
}

kvp_status gguf_take_text(gguf_cursor *c, const char *what, const char **text, size_t *n)
{
    size_t begin = c->at;
    uint64_t length = 0;
    const unsigned char *bytes = NULL;
    kvp_status status = gguf_take_u64(c, what, &length);
    if (!status)
        status = gguf_take(c, length, what, &bytes);
    if (status)
        return status;
    if (!is_utf8((const char *)bytes, (size_t)length))
        return kvp_fail(KVP_E_CORRUPT, "%s: byte %zu: %s is not UTF-8", c->file->path, begin, what);
    *text = (const char *)bytes;
    *n = (size_t)length;
    return KVP_OK;
}

kvp_status gguf_grow(const gguf_cursor *c, void **array, size_t n, size_t element_bytes)
{
    if (n & (n - 1))
        return KVP_OK;
    void *grown = realloc(*array, (n ? 2 * n : 1) * element_bytes);
    if (!grown)
        return kvp_fail(KVP_E_NOMEM, "out of memory: the header of %s", c->file->path);
    *array = grown;
    return KVP_OK;
}

/* ---- one tensor ------------------------------------------------------------------------------ */

static kvp_status corrupt(const gguf_cursor *c, const char *tensor, const char *what)
{
    return kvp_fail(KVP_E_CORRUPT, "%s: tensor \"%s\": %s", c->file->path, tensor, what);
}

static kvp_status read_name(gguf_cursor *c, const char **name)
{
    const char *text = NULL;
    size_t n = 0, begin = c->at;
    kvp_status status = gguf_take_text(c, "a tensor's name", &text, &n);
    if (status)
        return status;
    if (n > NAME_LIMIT_BYTES || memchr(text, '\0', n))
        return kvp_fail(KVP_E_CORRUPT, "%s: byte %zu: a tensor's name %s", c->file->path, begin,
                        n > NAME_LIMIT_BYTES ? "is longer than 64 bytes" : "has a NUL in it");
    *name = strndup(text, n);
    return *name ? KVP_OK : kvp_fail(KVP_E_NOMEM, "out of memory: the header of %s", c->file->path);
}

static kvp_status read_shape(gguf_cursor *c, gguf_tensor *t)
{
    kvp_status status = gguf_take_u32(c, "a tensor's rank", &t->rank);
    if (status)
        return status;
    if (t->rank > GGUF_MAX_RANK)
        return corrupt(c, t->name, "it has too many dimensions");
    t->n_elements = 1;
    for (uint32_t i = 0; i < t->rank; i++) {
        uint64_t *dimension = &t->shape[t->rank - 1 - i];
        status = gguf_take_u64(c, "a tensor's dimension", dimension);
        if (status)
            return status;
        if (__builtin_mul_overflow(t->n_elements, *dimension, &t->n_elements))
            return corrupt(c, t->name, "its shape has more elements than can be counted");
    }
    return KVP_OK;
}

static kvp_status read_type(gguf_cursor *c, gguf_tensor *t)
{
    kvp_status status = gguf_take_u32(c, "a tensor's type", &t->type);
    if (status)
        return status;
    const ggml_type *type = ggml_type_find(t->type);
    if (!type)
        return kvp_fail(KVP_E_UNSUPPORTED, "%s: tensor \"%s\" has the unknown type %u",
                        c->file->path, t->name, t->type);
    uint64_t width = t->rank ? t->shape[t->rank - 1] : 1;
    if (width % type->block_elements)
        return kvp_fail(KVP_E_CORRUPT,
                        "%s: tensor \"%s\": rows of %llu elements are not whole blocks of %s's %u",
                        c->file->path, t->name, (unsigned long long)width, type->name,
                        type->block_elements);
    if (__builtin_mul_overflow(t->n_elements / type->block_elements, type->block_bytes,
                               &t->n_bytes))
        return corrupt(c, t->name, "it has more bytes than can be counted");
    return KVP_OK;
}

static kvp_status read_tensor(gguf_cursor *c, gguf_entry *entry)
{
    kvp_status status = read_shape(c, &entry->tensor);
    if (!status)
        status = read_type(c, &entry->tensor);
    if (!status)
        status = gguf_take_u64(c, "a tensor's offset", &entry->offset);
    return status;
}

/* ---- all of them ----------------------------------------------------------------------------- */

/* Counted as they are read: a number of tensors that lies costs nothing. */
static kvp_status read_tensors(gguf_cursor *c, uint64_t n, gguf *g)
{
    kvp_status status = KVP_OK;
    while (g->n_entries < n && !status) {
        void *entries = g->entries;
        status = gguf_grow(c, &entries, g->n_entries, sizeof *g->entries);
        g->entries = entries;
        if (status)
            return status;
        gguf_entry *entry = &g->entries[g->n_entries];
        *entry = (gguf_entry){0};
        status = read_name(c, &entry->tensor.name);
        if (status)
            return status;
        g->n_entries++;
        status = read_tensor(c, entry);
    }
    return status;
}

static int by_offset(const void *a, const void *b)
{
    const gguf_entry *x = a, *y = b;
    if (x->offset != y->offset)
        return x->offset < y->offset ? -1 : 1;
    if (x->tensor.n_bytes != y->tensor.n_bytes) /* empty ones first */
        return x->tensor.n_bytes < y->tensor.n_bytes ? -1 : 1;
    return strcmp(x->tensor.name, y->tensor.name);
}

static int by_name(const void *a, const void *b)
{
    const gguf_entry *x = a, *y = b;
    return strcmp(x->tensor.name, y->tensor.name);
}

static void sort_entries(gguf *g, int (*order)(const void *, const void *))
{
    if (g->entries) /* else there are none */
        qsort(g->entries, g->n_entries, sizeof *g->entries, order);
}

static kvp_status read_alignment(const gguf *g, uint64_t *alignment)
{
    static const char key[] = "general.alignment";
    int64_t value = DEFAULT_ALIGNMENT;
    if (gguf_has(g, key) && (!gguf_get_int(g, key, &value) || value <= 0 || value & (value - 1)))
        return kvp_fail(KVP_E_CORRUPT, "%s: metadata \"%s\" is not a power of two", g->file.path,
                        key);
    *alignment = (uint64_t)value;
    return KVP_OK;
}

/* Where tensors lie: `from` is where their descriptions end. */
static kvp_status place_tensors(gguf *g, uint64_t from)
{
    uint64_t alignment = 0;
    kvp_status status = read_alignment(g, &alignment);
    if (status)
        return status;
    uint64_t data_begin = (from + alignment - 1) & ~(alignment - 1); /* both below 2^63 */
    /* A file without data may lack the padding before it. */
    uint64_t data_bytes = data_begin < g->file.n_bytes ? g->file.n_bytes - data_begin : 0;
    sort_entries(g, by_offset);
    for (size_t i = 0; i < g->n_entries; i++) {
        gguf_tensor *t = &g->entries[i].tensor;
        uint64_t offset = g->entries[i].offset;
        if (offset % alignment)
            return corrupt(&(gguf_cursor){.file = &g->file}, t->name,
                           "its offset is not a multiple of the alignment");
        if (offset > data_bytes || t->n_bytes > data_bytes - offset)
            return kvp_fail(KVP_E_CORRUPT,
                            "%s: tensor \"%s\" has %llu bytes from %llu of %llu bytes of data: the "
                            "file is truncated, or its header lies",
                            g->file.path, t->name, (unsigned long long)t->n_bytes,
                            (unsigned long long)offset, (unsigned long long)data_bytes);
        if (i && offset - g->entries[i - 1].offset < g->entries[i - 1].tensor.n_bytes)
            return kvp_fail(KVP_E_CORRUPT, "%s: tensors \"%s\" and \"%s\" overlap", g->file.path,
                            g->entries[i - 1].tensor.name, t->name);
        t->data = g->file.bytes + (data_bytes ? data_begin + offset : 0);
    }
    return KVP_OK;
}

static kvp_status check_names(gguf *g)
{
    sort_entries(g, by_name);
    for (size_t i = 1; i < g->n_entries; i++) {
        if (by_name(&g->entries[i - 1], &g->entries[i]) == 0)
            return corrupt(&(gguf_cursor){.file = &g->file}, g->entries[i].tensor.name,
                           "the file has two of this name");
    }
    return KVP_OK;
}

/* ---- the file -------------------------------------------------------------------------------- */

static kvp_status read_header(gguf_cursor *c, uint64_t *n_tensors, uint64_t *n_values)
{
    const unsigned char *magic = NULL;
    uint32_t version = 0;
    if (c->file->n_bytes < 4 || memcmp(c->file->bytes, "GGUF", 4) != 0)
        return kvp_fail(KVP_E_CORRUPT,
                        "%s: damaged, or not a GGUF file: it does not begin with "
                        "\"GGUF\"",
                        c->file->path);
    kvp_status status = gguf_take(c, 4, "the magic", &magic);
    if (!status)
        status = gguf_take_u32(c, "the version", &version);
    if (status)
        return status;
    if (version && !(version & 0xFFFF))
        return kvp_fail(KVP_E_UNSUPPORTED, "%s: is big-endian; little-endian GGUF is supported",
                        c->file->path);
    if (version != 2 && version != 3)
        return kvp_fail(KVP_E_UNSUPPORTED,
                        "%s: is GGUF version %u; 2 and 3 are supported: convert the model anew",
                        c->file->path, version);
    status = gguf_take_u64(c, "the number of tensors", n_tensors);
    return status ? status : gguf_take_u64(c, "the number of metadata values", n_values);
}

static kvp_status read_file(gguf *g)
{
    gguf_cursor c = {.file = &g->file};
    uint64_t n_tensors = 0, n_values = 0;
    kvp_status status = read_header(&c, &n_tensors, &n_values);
    if (!status)
        status = gguf_read_values(&c, n_values, g);
    if (!status)
        status = read_tensors(&c, n_tensors, g);
    if (!status)
        status = place_tensors(g, c.at);
    return status ? status : check_names(g);
}

/* Takes the file over. */
static kvp_status open_file(mapped_file *file, gguf **out)
{
    kvp_status status;
    gguf *g = calloc(1, sizeof *g);
    if (!g) {
        status = kvp_fail(KVP_E_NOMEM, "out of memory: opening %s", file->path);
        mapped_file_close(file);
        return status;
    }
    g->file = *file;
    status = read_file(g);
    if (status) {
        gguf_close(g);
        return status;
    }
    *out = g;
    return KVP_OK;
}

kvp_status gguf_open(const char *path, gguf **out)
{
    mapped_file file;
    kvp_status status = mapped_file_open(path, &file);
    return status ? status : open_file(&file, out);
}

kvp_status gguf_open_bytes(const void *bytes, size_t n, const char *path, gguf **out)
{
    mapped_file file;
    kvp_status status = mapped_file_borrow(bytes, n, path, &file);
    return status ? status : open_file(&file, out);
}

void gguf_close(gguf *g)
{
    if (!g)
        return;
    for (size_t i = 0; i < g->n_entries; i++)
        free((char *)(uintptr_t)g->entries[i].tensor.name);
    free(g->entries);
    free(g->values);
    mapped_file_close(&g->file);
    free(g);
}

/* ---- access ---------------------------------------------------------------------------------- */

const char *gguf_path(const gguf *g)
{
    return g->file.path;
}

const mapped_file *gguf_mapping(const gguf *g)
{
    return &g->file;
}

bool gguf_is_named(const char *path)
{
    static const char suffix[] = ".gguf";
    size_t n = strlen(path), n_suffix = sizeof suffix - 1;
    return n >= n_suffix && strcmp(path + n - n_suffix, suffix) == 0;
}

size_t gguf_n_tensors(const gguf *g)
{
    return g->n_entries;
}

const gguf_tensor *gguf_tensor_at(const gguf *g, size_t i)
{
    return &g->entries[i].tensor;
}

const gguf_tensor *gguf_find_tensor(const gguf *g, const char *name)
{
    const gguf_entry wanted = {.tensor = {.name = name}};
    const gguf_entry *found =
        g->n_entries ? bsearch(&wanted, g->entries, g->n_entries, sizeof *g->entries, by_name)
                     : NULL;
    return found ? &found->tensor : NULL;
}
