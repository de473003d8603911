/* planes_scalar.c - the loops over elements in plain C: what the others are compared with. */
#include "tiers/planes.h"

#include <string.h>

/* An element of 2 or 4 bytes, rotated; the 16 or 32 bits of it are at the bottom. */
static uint32_t load_rotated(const uint8_t *p, size_t bytes)
{
    if (bytes == 2) {
        uint16_t x;
        memcpy(&x, p, sizeof x);
        return (uint16_t)(x << 1 | x >> 15);
    }
    uint32_t x;
    memcpy(&x, p, sizeof x);
    return x << 1 | x >> 31;
}

static void store_rotated(uint8_t *p, uint32_t u, size_t bytes)
{
    if (bytes == 2) {
        uint16_t x = (uint16_t)((u & 0xffff) >> 1 | u << 15);
        memcpy(p, &x, sizeof x);
    } else {
        uint32_t x = u >> 1 | u << 31;
        memcpy(p, &x, sizeof x);
    }
}

/* Zigzag numbers: 0, 1, 2, 3 ... are 0, -1, 1, -2 ... */
static uint32_t to_signed(uint32_t u)
{
    return u >> 1 ^ (0u - (u & 1));
}

static uint32_t to_zigzag(uint32_t d, size_t bytes)
{
    uint32_t sign = d >> (8 * bytes - 1) & 1;
    return (d << 1 ^ (0u - sign)) & (bytes == 2 ? 0xffffu : 0xffffffffu);
}

static inline void split(const void *src, const void *ref, size_t n, uint8_t *high, uint8_t *low,
                         size_t stride, size_t bytes, kvpi_against kind)
{
    const uint8_t *from = src, *against = ref;
    for (size_t i = 0; i < n; i++) {
        uint32_t u = load_rotated(from + i * bytes, bytes);
        if (kind == KVPI_AGAINST_VALUE) {
            uint32_t other = load_rotated(against + i * bytes, bytes);
            u = to_zigzag(to_signed(u) - to_signed(other), bytes);
        } else if (kind == KVPI_AGAINST_EXPONENT) {
            u -= (uint32_t)against[i] << (8 * (bytes - 1));
        }
        high[i] = (uint8_t)(u >> (8 * (bytes - 1)));
        for (size_t plane = 0; plane + 1 < bytes; plane++)
            low[plane * stride + i] = (uint8_t)(u >> (8 * plane));
    }
}

static inline void merge(void *dst, const void *ref, size_t n, const uint8_t *high,
                         const uint8_t *low, size_t stride, size_t bytes, kvpi_against kind)
{
    uint8_t *to = dst;
    const uint8_t *against = ref;
    for (size_t i = 0; i < n; i++) {
        uint32_t u = (uint32_t)high[i] << (8 * (bytes - 1));
        for (size_t plane = 0; plane + 1 < bytes; plane++)
            u |= (uint32_t)low[plane * stride + i] << (8 * plane);
        if (kind == KVPI_AGAINST_VALUE) {
            uint32_t other = load_rotated(against + i * bytes, bytes);
            u = to_zigzag(to_signed(u) + to_signed(other), bytes);
        } else if (kind == KVPI_AGAINST_EXPONENT) {
            u += (uint32_t)against[i] << (8 * (bytes - 1));
        }
        store_rotated(to + i * bytes, u, bytes);
    }
}

#define KERNELS(bytes, name, kind)                                                                 \
    static void split_##name(const void *src, const void *ref, size_t n, uint8_t *high,            \
                             uint8_t *low, size_t stride)                                          \
    {                                                                                              \
        split(src, ref, n, high, low, stride, bytes, kind);                                        \
    }                                                                                              \
    static void merge_##name(void *dst, const void *ref, size_t n, const uint8_t *high,            \
                             const uint8_t *low, size_t stride)                                    \
    {                                                                                              \
        merge(dst, ref, n, high, low, stride, bytes, kind);                                        \
    }

KERNELS(2, plain16, KVPI_AGAINST_NOTHING)
KERNELS(2, value16, KVPI_AGAINST_VALUE)
KERNELS(2, exponent16, KVPI_AGAINST_EXPONENT)
KERNELS(4, plain32, KVPI_AGAINST_NOTHING)
KERNELS(4, value32, KVPI_AGAINST_VALUE)
KERNELS(4, exponent32, KVPI_AGAINST_EXPONENT)

/* ---- palette ---- */

/* Where element i has its nibble: which byte, and the lower half of it or the upper. */
static size_t nibble_byte(size_t i, size_t n, bool *is_upper)
{
    size_t in_blocks = n / KVPI_NIBBLE_BLOCK * KVPI_NIBBLE_BLOCK, half = KVPI_NIBBLE_BLOCK / 2;
    if (i < in_blocks) {
        *is_upper = i % KVPI_NIBBLE_BLOCK >= half;
        return i / KVPI_NIBBLE_BLOCK * half + i % half;
    }
    *is_upper = (i - in_blocks) % 2;
    return in_blocks / 2 + (i - in_blocks) / 2;
}

static size_t nibbles_pack(const uint8_t *src, size_t n, const uint8_t *palette, uint8_t *nibbles,
                           uint8_t *escapes)
{
    uint8_t place[256];
    size_t n_escapes = 0;
    memset(place, KVPI_PALETTE_COLOURS, sizeof place);
    for (size_t k = KVPI_PALETTE_COLOURS; k-- > 0;)
        place[palette[k]] = (uint8_t)k;
    memset(nibbles, 0, kvpi_nibble_bytes(n));
    for (size_t i = 0; i < n; i++) {
        bool is_upper;
        size_t at = nibble_byte(i, n, &is_upper);
        uint8_t k = place[src[i]];
        nibbles[at] = (uint8_t)(nibbles[at] | k << (is_upper ? 4 : 0));
        if (k == KVPI_PALETTE_COLOURS)
            escapes[n_escapes++] = src[i];
    }
    return n_escapes;
}

static bool nibbles_unpack(const uint8_t *nibbles, size_t n, const uint8_t *palette,
                           const uint8_t *escapes, size_t n_escapes, uint8_t *dst)
{
    size_t used = 0;
    for (size_t i = 0; i < n; i++) {
        bool is_upper;
        size_t at = nibble_byte(i, n, &is_upper);
        uint8_t k = nibbles[at] >> (is_upper ? 4 : 0) & 15;
        if (k < KVPI_PALETTE_COLOURS)
            dst[i] = palette[k];
        else if (used < n_escapes)
            dst[i] = escapes[used++];
        else
            return false;
    }
    return used == n_escapes;
}

const kvpi_plane_kernels kvpi_plane_kernels_scalar = {
    .name = "scalar",
    .split = {{split_plain16, split_value16, split_exponent16},
              {split_plain32, split_value32, split_exponent32}},
    .merge = {{merge_plain16, merge_value16, merge_exponent16},
              {merge_plain32, merge_value32, merge_exponent32}},
    .nibbles_pack = nibbles_pack,
    .nibbles_unpack = nibbles_unpack,
};
