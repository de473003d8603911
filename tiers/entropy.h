/* entropy.h - frames of zstd: bytes to fewer bytes and back. */
#ifndef KVPI_TIERS_ENTROPY_H
#define KVPI_TIERS_ENTROPY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct kvpi_entropy kvpi_entropy; /* contexts of one thread at a time */

/* Bytes that contexts for inputs of up to max_bytes take; 0: this build has no zstd. Whole frames
 * (kvpi_pack_plain) take more. */
size_t kvpi_entropy_bytes(size_t max_bytes, bool with_plain);
/* Contexts in `at` (aligned to 64 bytes), which stays the caller's; NULL: this zstd refuses what it
 * is asked for. */
kvpi_entropy *kvpi_entropy_init(void *at, size_t max_bytes, bool with_plain);
/* The version of zstd, for messages. */
const char *kvpi_entropy_version(void);

/* The frame's size, or 0 if it takes more than `room` bytes. Huffman codes alone, no matches: for
 * bytes whose order means nothing. */
size_t kvpi_pack_huffman(kvpi_entropy *e, const void *src, size_t n, void *dst, size_t room);
/* For bytes that nothing is known of. */
size_t kvpi_pack_plain(kvpi_entropy *e, const void *src, size_t n, void *dst, size_t room);
/* Of either: false if that is not what n bytes became. Any input is safe. */
bool kvpi_unpack(kvpi_entropy *e, const void *src, size_t n_src, void *dst, size_t n);

#endif
