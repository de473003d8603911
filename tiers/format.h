/* format.h - what swap files and stores are made of: superblocks, summaries of segments, page
 * records. FORMAT.md has every byte. */
#ifndef KVPI_TIERS_FORMAT_H
#define KVPI_TIERS_FORMAT_H

#include <stddef.h>
#include <stdint.h>

#include "kvpager/status.h"
#include "tiers/checksum.h"

#define KVPI_BLOCK_BYTES 4096u
#define KVPI_N_SUPERBLOCKS 2u
#define KVPI_SEGMENTS_AT (KVPI_N_SUPERBLOCKS * (uint64_t)KVPI_BLOCK_BYTES) /* of the file */
#define KVPI_MAX_SEGMENT_BYTES ((uint64_t)256 << 20)

/* Where something was read, for messages. */
typedef struct kvpi_origin {
    const char *path;
    uint64_t offset; /* in the file, of the first byte */
} kvpi_origin;

typedef enum kvpi_file_kind { KVPI_FILE_SWAP = 1, KVPI_FILE_STORE = 2 } kvpi_file_kind;

typedef struct kvpi_superblock {
    kvpi_file_kind kind;
    uint64_t epoch, store_id, fingerprint;
    uint64_t segment_bytes, n_segments;
    uint64_t next_serial, next_generation;
    uint32_t slot_bytes;
} kvpi_superblock;

/* `block`: KVPI_BLOCK_BYTES. */
void kvpi_superblock_encode(const kvpi_superblock *sb, void *block);
/* Errors: KVP_E_INVALID it is no superblock; KVP_E_CORRUPT a damaged one; KVP_E_UNSUPPORTED of a
 * newer version. */
KVP_NODISCARD kvp_status kvpi_superblock_decode(const void *block, const kvpi_origin *from,
                                                kvpi_superblock *sb);
/* The newest of both: blocks[KVPI_N_SUPERBLOCKS][KVPI_BLOCK_BYTES], from the file's beginning.
 * *which: its number. Errors: of the second, if neither can be read; if one is of a newer version,
 * that one's: what the other says may be out of date. */
KVP_NODISCARD kvp_status kvpi_superblock_choose(const void *blocks, const kvpi_origin *from,
                                                kvpi_superblock *sb, uint32_t *which);

typedef struct kvpi_page_record {
    kvpi_identity identity;
    uint64_t generation;
    uint64_t raw_sum, stored_sum;
    uint32_t raw_bytes, stored_bytes;
    uint32_t offset; /* in the segment */
    uint8_t codec;
} kvpi_page_record;

/* What a summary says of its batch, and what the file's superblock says of the summary. */
typedef struct kvpi_summary {
    uint64_t store_id, fingerprint; /* every record's as well; the latter is not in the summary */
    uint64_t generation, segment;
    uint32_t offset; /* in the segment */
    uint32_t n_records, batch_bytes;
} kvpi_summary;

/* Bytes of a summary of so many records; 0: more than a segment can hold. */
uint32_t kvpi_summary_bytes(uint32_t n_records);
/* `to`: kvpi_summary_bytes() of it. */
void kvpi_summary_encode(const kvpi_summary *s, const kvpi_page_record *records, void *to);
/* The summary at the beginning of `bytes`, of which there are n, in a segment of the file of `sb`
 * that begins `segment` * segment_bytes behind the first. Its records: kvpi_summary_record().
 * Errors: KVP_E_INVALID there is none, or it is that of another place or store; KVP_E_CORRUPT;
 * KVP_E_UNSUPPORTED. */
KVP_NODISCARD kvp_status kvpi_summary_decode(const void *bytes, size_t n, const kvpi_superblock *sb,
                                             uint64_t segment, uint32_t offset, const char *path,
                                             kvpi_summary *s);
/* Record i of a summary that has been decoded from these bytes; every record lies inside the batch,
 * behind the one before. */
void kvpi_summary_record(const kvpi_summary *s, const void *bytes, uint32_t i,
                         kvpi_page_record *record);

/* Do these stored_bytes, or raw_bytes, belong to the record? Errors: KVP_E_CORRUPT. */
KVP_NODISCARD kvp_status kvpi_record_verify_stored(const kvpi_page_record *r, const void *stored);
KVP_NODISCARD kvp_status kvpi_record_verify_raw(const kvpi_page_record *r, const void *raw);

#endif
