/* planes.h - elements taken apart into a byte that can be compressed and bytes that cannot.
 *
 * An element (2 or 4 bytes, little-endian) is rotated left by one bit, so that the sign goes to the
 * bottom and the exponent to the top byte (binary16: exponent and three bits of mantissa). It may
 * be told against a reference, so that top bytes differ less. Then its bytes go to planes: the top
 * bytes to `high` [n], the others to `low` [element_bytes - 1][n], the least significant first.
 *
 * Against a value: rotated elements, read as zigzag numbers, are in the order of the floats. Their
 * difference, zigzag again, takes the element's place; against zero that changes nothing. Against
 * an exponent: it is subtracted from the top byte. Both modulo 2^bits, so any bits come back. */
#ifndef KVPI_TIERS_PLANES_H
#define KVPI_TIERS_PLANES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What elements are told against. Part of the format of encoded pages: append, never renumber. */
typedef enum kvpi_predictor {
    KVPI_PREDICT_NONE = 0,
    KVPI_PREDICT_TOKEN = 1, /* the same channel's value one row before */
    KVPI_PREDICT_SCALE = 2, /* the channel's usual exponent: a reference row per slice */
    KVPI_N_PREDICTORS = 3
} kvpi_predictor;

/* Elements as n_slices slices (heads) of rows (tokens) of `width` channels. A slice may end in the
 * middle of a row. */
typedef struct kvpi_plane_shape {
    size_t n; /* elements, a multiple of n_slices */
    size_t n_slices;
    size_t element_bytes; /* 2 or 4 */
    size_t width;
} kvpi_plane_shape;

/* How a row is told against another one: of elements, or of top bytes. */
typedef enum kvpi_against {
    KVPI_AGAINST_NOTHING,
    KVPI_AGAINST_VALUE,
    KVPI_AGAINST_EXPONENT,
    KVPI_N_AGAINST
} kvpi_against;

/* Planes of a row lie `stride` bytes apart. Nothing needs to be aligned. */
typedef void (*kvpi_split_fn)(const void *src, const void *ref, size_t n, uint8_t *high,
                              uint8_t *low, size_t stride);
typedef void (*kvpi_merge_fn)(void *dst, const void *ref, size_t n, const uint8_t *high,
                              const uint8_t *low, size_t stride);

#define KVPI_PALETTE_COLOURS 15u
#define KVPI_NIBBLE_BLOCK ((size_t)64)

static inline size_t kvpi_nibble_bytes(size_t n)
{
    return (n + 1) / 2;
}

/* The loops, per instruction set; all give the same bytes. */
typedef struct kvpi_plane_kernels {
    const char *name;
    kvpi_split_fn split[2][KVPI_N_AGAINST]; /* [4-byte elements][kvpi_against] */
    kvpi_merge_fn merge[2][KVPI_N_AGAINST];
    /* Bytes as their places in a palette, or as 15 and the byte itself among the escapes (room for
     * n); returns how many of those there are. Nibbles: of each whole block of 64 elements 32 bytes
     * with element i in the lower half of byte i and element 32 + i in the upper; then of what is
     * left two after each other per byte, an odd one with 0. */
    size_t (*nibbles_pack)(const uint8_t *src, size_t n, const uint8_t *palette, uint8_t *nibbles,
                           uint8_t *escapes);
    /* The reverse. False: the nibbles ask for another number of escapes than n_escapes. */
    bool (*nibbles_unpack)(const uint8_t *nibbles, size_t n, const uint8_t *palette,
                           const uint8_t *escapes, size_t n_escapes, uint8_t *dst);
} kvpi_plane_kernels;

/* The readable reference, in plain C. */
extern const kvpi_plane_kernels kvpi_plane_kernels_scalar;
#if defined(__x86_64__)
extern const kvpi_plane_kernels kvpi_plane_kernels_avx2;
#endif
/* Those that kvp_isa() allows. */
const kvpi_plane_kernels *kvpi_plane_kernels_find(void);

static inline kvpi_split_fn kvpi_split_of(const kvpi_plane_kernels *k, size_t element_bytes,
                                          kvpi_against against)
{
    return k->split[element_bytes == 4][against];
}

/* Bytes of the reference rows: a top byte for every channel of every slice. */
size_t kvpi_reference_bytes(const kvpi_plane_shape *s, kvpi_predictor p);
/* refs: those rows; NULL where there are none. */
void kvpi_planes_split(const kvpi_plane_kernels *k, const kvpi_plane_shape *s, kvpi_predictor p,
                       const void *src, const void *refs, uint8_t *high, uint8_t *low);
void kvpi_planes_merge(const kvpi_plane_kernels *k, const kvpi_plane_shape *s, kvpi_predictor p,
                       void *dst, const void *refs, const uint8_t *high, const uint8_t *low);

#endif
