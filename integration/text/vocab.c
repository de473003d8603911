/* vocab.c - the bytes of every token id: one table by id over one block of bytes. */
#include "integration/text/vocab.h"

#include <stdlib.h>
#include <string.h>

void vocab_fini(vocab *v)
{
    free(v->entries);
    free(v->bytes);
    *v = (vocab){0};
}

static size_t grown(size_t capacity, size_t need)
{
    size_t doubled = capacity * 2;
    return doubled > need ? doubled : need;
}

static kvp_status reserve_entries(vocab *v, size_t n_ids)
{
    if (n_ids <= v->capacity)
        return KVP_OK;
    size_t capacity = grown(v->capacity, n_ids);
    vocab_entry *entries = realloc(v->entries, capacity * sizeof *entries);
    if (!entries)
        return kvp_fail(KVP_E_NOMEM, "out of memory: a vocabulary of %zu ids", capacity);
    memset(entries + v->capacity, 0, (capacity - v->capacity) * sizeof *entries);
    v->entries = entries;
    v->capacity = capacity;
    return KVP_OK;
}

static kvp_status reserve_bytes(vocab *v, size_t n_bytes)
{
    if (n_bytes <= v->bytes_capacity)
        return KVP_OK;
    size_t capacity = grown(v->bytes_capacity, n_bytes);
    char *bytes = realloc(v->bytes, capacity);
    if (!bytes)
        return kvp_fail(KVP_E_NOMEM, "out of memory: %zu bytes of vocabulary", capacity);
    v->bytes = bytes;
    v->bytes_capacity = capacity;
    return KVP_OK;
}

kvp_status vocab_put(vocab *v, int64_t id, const char *bytes, size_t n, bool is_literal)
{
    if (id < 0 || id >= VOCAB_MAX_IDS)
        return kvp_fail(KVP_E_INVALID, "token id %lld is outside 0 .. %d", (long long)id,
                        VOCAB_MAX_IDS - 1);
    size_t index = (size_t)id;
    kvp_status status = reserve_entries(v, index + 1);
    if (status)
        return status;
    if (v->entries[index].is_present)
        return kvp_fail(KVP_E_INVALID, "two tokens have the id %lld", (long long)id);
    status = reserve_bytes(v, v->n_bytes + n + 1); /* + 1: never a null block */
    if (status)
        return status;
    memcpy(v->bytes + v->n_bytes, bytes, n);
    v->entries[index] =
        (vocab_entry){.offset = v->n_bytes, .n = n, .is_present = true, .is_literal = is_literal};
    v->n_bytes += n;
    if (index >= v->n_ids)
        v->n_ids = index + 1;
    return KVP_OK;
}

const char *vocab_get(const vocab *v, int64_t id, size_t *n)
{
    if (id < 0 || (size_t)id >= v->n_ids || !v->entries[id].is_present)
        return NULL;
    *n = v->entries[id].n;
    return v->bytes + v->entries[id].offset;
}

int64_t vocab_find(const vocab *v, const char *bytes, size_t n, bool is_literal)
{
    for (size_t id = 0; id < v->n_ids; id++) {
        const vocab_entry *e = &v->entries[id];
        if (e->is_present && e->n == n && e->is_literal == is_literal &&
            memcmp(v->bytes + e->offset, bytes, n) == 0)
            return (int64_t)id;
    }
    return -1;
}
