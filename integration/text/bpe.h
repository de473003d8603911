/* bpe.h - byte-pair merges of one word. */
#ifndef KVPAGER_TEXT_BPE_H
#define KVPAGER_TEXT_BPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kvpager/status.h"

/* A growing list of ids; all zeroes: empty. `ids` is malloc'd. */
typedef struct id_list {
    int32_t *ids;
    size_t n, capacity;
} id_list;

KVP_NODISCARD kvp_status id_list_push(id_list *list, int32_t id);

typedef struct bpe_slot {
    uint64_t pair; /* left id << 32 | right id */
    uint32_t rank; /* BPE_NO_RANK: the slot is empty */
} bpe_slot;

#define BPE_NO_RANK UINT32_MAX

typedef struct bpe {
    int32_t byte_ids[256]; /* id of each single byte; -1: the vocabulary lacks it */
    int32_t unknown_id;    /* stands for such bytes; -1: they are left out */
    bool fuses_unknown;    /* one for a run of them */
    int32_t *results;      /* [n_merges] id that the merge of this rank yields */
    size_t n_merges;
    bpe_slot *slots; /* [mask + 1] open addressing, at most half full */
    size_t mask;
} bpe;

/* Working memory of bpe_encode(), reused from word to word; all zeroes: none yet. */
typedef struct bpe_scratch {
    struct bpe_symbol *symbols; /* [capacity] */
    uint64_t *heap;             /* [2 * capacity] */
    size_t capacity;            /* bytes of the longest word so far */
} bpe_scratch;

/* Room for n_merges merges; all ids are -1. */
KVP_NODISCARD kvp_status bpe_init(bpe *b, size_t n_merges);
void bpe_fini(bpe *b);
/* The merge of `rank` (0: first) makes `result` of left and right. A pair that comes twice keeps
 * its last rank. */
void bpe_set_merge(bpe *b, size_t rank, int32_t left, int32_t right, int32_t result);

/* Append the ids of one word of n bytes, n < 2^32. Errors: KVP_E_NOMEM. */
KVP_NODISCARD kvp_status bpe_encode(const bpe *b, bpe_scratch *scratch, const char *word, size_t n,
                                    id_list *out);
void bpe_scratch_fini(bpe_scratch *scratch);

#endif
