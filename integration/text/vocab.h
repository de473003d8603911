/* vocab.h - the bytes of every token id, and the id of every token's bytes. */
#ifndef KVPAGER_TEXT_VOCAB_H
#define KVPAGER_TEXT_VOCAB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kvpager/status.h"

/* Ids lie in [0, VOCAB_MAX_IDS): tables are as long as the highest id, so a lying file must not
 * name an absurd one. The largest vocabularies have some 260,000. */
#define VOCAB_MAX_IDS (1 << 20)

typedef struct vocab_entry {
    size_t offset; /* n bytes in vocab.bytes */
    uint32_t n;
    bool is_present;
    bool is_literal; /* the file's spelling was taken as it is: not in the byte-level alphabet */
} vocab_entry;

/* All zeroes: empty. */
typedef struct vocab {
    vocab_entry *entries; /* [capacity], by id; n_ids of them are in use */
    size_t n_ids, capacity;
    char *bytes;
    size_t n_bytes, bytes_capacity;
    uint32_t *slots; /* [n_slots] id + 1, by the hash of its bytes; 0: empty */
    size_t n_slots, n_used;
} vocab;

void vocab_fini(vocab *v);
/* Give `id` these bytes. Errors: KVP_E_INVALID (the id is out of range or taken), KVP_E_NOMEM. */
KVP_NODISCARD kvp_status vocab_put(vocab *v, int64_t id, const char *bytes, size_t n,
                                   bool is_literal);
/* Give back the memory that growing has left over. */
void vocab_trim(vocab *v);
/* NULL if there is no such id. Borrowed until the next vocab_put(). */
const char *vocab_get(const vocab *v, int64_t id, size_t *n);
/* The id with these bytes (and this is_literal) that was put first, -1 if there is none. */
int64_t vocab_find(const vocab *v, const char *bytes, size_t n, bool is_literal);

#endif
