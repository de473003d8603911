/* checksum.h - XXH3 of token ids, and of a page. The latter is seeded with the page's identity: a
 * torn, stale, misdirected or wrongly interpreted page fails verification, also between two
 * sequences. */
#ifndef KVPI_TIERS_CHECKSUM_H
#define KVPI_TIERS_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>

/* What makes a page this page. Hashed byte by byte: no padding. */
typedef struct kvpi_identity {
    uint64_t store_id;    /* random per pager */
    uint64_t fingerprint; /* model and KV recipe */
    uint64_t serial;      /* never used twice in a store */
    uint64_t first_position;
    uint32_t layer, group;
    uint32_t format; /* dtype and layout */
    uint32_t n_valid;
} kvpi_identity;

uint64_t kvpi_identity_seed(const kvpi_identity *id);
/* The raw bytes of a page, zero tail included. */
uint64_t kvpi_checksum_raw(const void *page, size_t n, uint64_t seed);
/* The stored (encoded) bytes of a copy: covers the codec id too. */
uint64_t kvpi_checksum_stored(const void *bytes, size_t n, uint32_t codec, uint64_t seed);

/* A chain of blocks: the hash of what came before, then n more bytes. */
typedef struct kvpi_hash128 {
    uint64_t low, high;
} kvpi_hash128;

kvpi_hash128 kvpi_hash_chain(kvpi_hash128 before, const void *bytes, size_t n);

#endif
