/* kv_file.h - the KV of one sequence in a file, so that one prefill serves every contender.
 *
 * The rows are those of the pages, bit for bit, whatever pages of the sequence were then in RAM;
 * planted into a fresh pager of the same geometry they give the same logits. */
#ifndef BENCH_OFFLOAD_KV_FILE_H
#define BENCH_OFFLOAD_KV_FILE_H

#include "kvpager.h"

/* What the file begins with. */
typedef struct kv_file_head {
    uint64_t magic, fingerprint; /* of the model with its options */
    uint64_t n_tokens;
    uint32_t n_layers;
    int32_t next; /* the token that comes after these */
} kv_file_head;

/* Write all layers of the sequence, through kvp_seq_pin(); head->magic is filled in. */
KVP_NODISCARD kvp_status kv_file_save(const char *path, kv_file_head *head, kvp_seq *seq);
KVP_NODISCARD kvp_status kv_file_head_read(const char *path, kv_file_head *head);
/* Append all of it to an empty sequence, layer by layer. The file leaves the page cache. */
KVP_NODISCARD kvp_status kv_file_plant(const char *path, kvp_seq *seq);

#endif
