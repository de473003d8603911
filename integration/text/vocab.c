/* vocab.c - the bytes of every token id: one table by id over one block of bytes, and a hash table
 * of ids (open addressing, at most half full). */
#include "integration/text/vocab.h"

#include <stdlib.h>
#include <string.h>

#include "integration/models/fingerprint.h"

void vocab_fini(vocab *v)
{
    free(v->entries);
    free(v->bytes);
    free(v->slots);
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

void vocab_trim(vocab *v)
{
    vocab_entry *entries = v->n_ids ? realloc(v->entries, v->n_ids * sizeof *entries) : NULL;
    if (entries) {
        v->entries = entries;
        v->capacity = v->n_ids;
    }
    char *bytes = v->n_bytes ? realloc(v->bytes, v->n_bytes) : NULL;
    if (bytes) {
        v->bytes = bytes;
        v->bytes_capacity = v->n_bytes;
    }
}

/* ---- by bytes -------------------------------------------------------------------------------- */

static bool is_entry(const vocab *v, uint32_t id, const char *bytes, size_t n, bool is_literal)
{
    const vocab_entry *e = &v->entries[id];
    return e->n == n && e->is_literal == is_literal && memcmp(v->bytes + e->offset, bytes, n) == 0;
}

/* The slot that holds the id of these bytes, or the empty one where it belongs. */
static uint32_t *find_slot(const vocab *v, const char *bytes, size_t n, bool is_literal)
{
    size_t i = (size_t)fingerprint(bytes, n, is_literal) & (v->n_slots - 1);
    while (v->slots[i] && !is_entry(v, v->slots[i] - 1, bytes, n, is_literal))
        i = (i + 1) & (v->n_slots - 1);
    return &v->slots[i];
}

static kvp_status reserve_slots(vocab *v)
{
    if (2 * (v->n_used + 1) <= v->n_slots)
        return KVP_OK;
    size_t n_old = v->n_slots;
    uint32_t *old = v->slots, *slots = calloc(n_old ? 2 * n_old : 1024, sizeof *slots);
    if (!slots)
        return kvp_fail(KVP_E_NOMEM, "out of memory: an index of %zu tokens", v->n_used);
    v->slots = slots;
    v->n_slots = n_old ? 2 * n_old : 1024;
    for (size_t i = 0; i < n_old; i++) {
        if (!old[i])
            continue;
        const vocab_entry *e = &v->entries[old[i] - 1];
        *find_slot(v, v->bytes + e->offset, e->n, e->is_literal) = old[i];
    }
    free(old);
    return KVP_OK;
}

int64_t vocab_find(const vocab *v, const char *bytes, size_t n, bool is_literal)
{
    return v->n_slots ? (int64_t)*find_slot(v, bytes, n, is_literal) - 1 : -1;
}

/* ---- by id ----------------------------------------------------------------------------------- */

static kvp_status reserve(vocab *v, int64_t id, size_t n)
{
    if (id < 0 || id >= VOCAB_MAX_IDS)
        return kvp_fail(KVP_E_INVALID, "token id %lld is outside 0 .. %d", (long long)id,
                        VOCAB_MAX_IDS - 1);
    if (n >= UINT32_MAX)
        return kvp_fail(KVP_E_INVALID, "token %lld has %zu bytes", (long long)id, n);
    if (id < (int64_t)v->n_ids && v->entries[id].is_present)
        return kvp_fail(KVP_E_INVALID, "two tokens have the id %lld", (long long)id);
    kvp_status status = reserve_entries(v, (size_t)id + 1);
    if (!status)
        status = reserve_bytes(v, v->n_bytes + n + 1); /* + 1: never a null block */
    return status ? status : reserve_slots(v);
}

kvp_status vocab_put(vocab *v, int64_t id, const char *bytes, size_t n, bool is_literal)
{
    kvp_status status = reserve(v, id, n);
    if (status)
        return status;
    memcpy(v->bytes + v->n_bytes, bytes, n);
    v->entries[id] = (vocab_entry){
        .offset = v->n_bytes, .n = (uint32_t)n, .is_present = true, .is_literal = is_literal};
    v->n_bytes += n;
    if ((size_t)id >= v->n_ids)
        v->n_ids = (size_t)id + 1;
    uint32_t *slot = find_slot(v, bytes, n, is_literal);
    if (!*slot) {
        *slot = (uint32_t)id + 1;
        v->n_used++;
    }
    return KVP_OK;
}

const char *vocab_get(const vocab *v, int64_t id, size_t *n)
{
    if (id < 0 || (size_t)id >= v->n_ids || !v->entries[id].is_present)
        return NULL;
    *n = v->entries[id].n;
    return v->bytes + v->entries[id].offset;
}
