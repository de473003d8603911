/* planes_avx2.c - the loops over elements with AVX2: 32 elements at a time, the rest in plain C. */
#include "tiers/planes.h"

#if defined(__x86_64__)
#include <immintrin.h>
#include <string.h>

#define AVX2 __attribute__((target("avx2")))
/* For templates: a constant argument becomes a constant of the loops inside. */
#define AVX2_INLINE static inline __attribute__((always_inline, target("avx2")))
#define STEP ((size_t)32)

AVX2_INLINE __m256i load(const void *p)
{
    return _mm256_loadu_si256(p);
}

AVX2_INLINE void store(void *p, __m256i x)
{
    _mm256_storeu_si256(p, x);
}

/* ---- elements of 2 bytes ---- */

AVX2_INLINE __m256i rotate_left16(__m256i x)
{
    return _mm256_or_si256(_mm256_slli_epi16(x, 1), _mm256_srli_epi16(x, 15));
}

AVX2_INLINE __m256i rotate_right16(__m256i x)
{
    return _mm256_or_si256(_mm256_srli_epi16(x, 1), _mm256_slli_epi16(x, 15));
}

AVX2_INLINE __m256i to_signed16(__m256i u)
{
    __m256i sign = _mm256_and_si256(u, _mm256_set1_epi16(1));
    return _mm256_xor_si256(_mm256_srli_epi16(u, 1),
                            _mm256_sub_epi16(_mm256_setzero_si256(), sign));
}

AVX2_INLINE __m256i to_zigzag16(__m256i d)
{
    return _mm256_xor_si256(_mm256_slli_epi16(d, 1), _mm256_srai_epi16(d, 15));
}

/* 16 bytes, each in the upper half of an element. */
AVX2_INLINE __m256i exponents16(const uint8_t *p)
{
    return _mm256_slli_epi16(_mm256_cvtepu8_epi16(_mm_loadu_si128((const void *)p)), 8);
}

/* 16 elements at i, rotated and told against their reference. */
AVX2_INLINE __m256i take16(const uint8_t *src, const uint8_t *ref, size_t i, kvpi_against kind)
{
    __m256i u = rotate_left16(load(src + 2 * i));
    if (kind == KVPI_AGAINST_VALUE) {
        __m256i other = rotate_left16(load(ref + 2 * i));
        u = to_zigzag16(_mm256_sub_epi16(to_signed16(u), to_signed16(other)));
    } else if (kind == KVPI_AGAINST_EXPONENT) {
        u = _mm256_sub_epi16(u, exponents16(ref + i));
    }
    return u;
}

AVX2_INLINE void put16(uint8_t *dst, const uint8_t *ref, size_t i, __m256i u, kvpi_against kind)
{
    if (kind == KVPI_AGAINST_VALUE) {
        __m256i other = rotate_left16(load(ref + 2 * i));
        u = to_zigzag16(_mm256_add_epi16(to_signed16(u), to_signed16(other)));
    } else if (kind == KVPI_AGAINST_EXPONENT) {
        u = _mm256_add_epi16(u, exponents16(ref + i));
    }
    store(dst + 2 * i, rotate_right16(u));
}

AVX2_INLINE size_t split16(const uint8_t *src, const uint8_t *ref, size_t n, uint8_t *high,
                           uint8_t *low, kvpi_against kind)
{
    const __m256i bottom = _mm256_set1_epi16(0xff);
    size_t i = 0;
    for (; i + STEP <= n; i += STEP) {
        __m256i a = take16(src, ref, i, kind), b = take16(src, ref, i + 16, kind);
        __m256i top = _mm256_packus_epi16(_mm256_srli_epi16(a, 8), _mm256_srli_epi16(b, 8));
        __m256i rest =
            _mm256_packus_epi16(_mm256_and_si256(a, bottom), _mm256_and_si256(b, bottom));
        store(high + i, _mm256_permute4x64_epi64(top, 0xd8));
        store(low + i, _mm256_permute4x64_epi64(rest, 0xd8));
    }
    return i;
}

AVX2_INLINE size_t merge16(uint8_t *dst, const uint8_t *ref, size_t n, const uint8_t *high,
                           const uint8_t *low, kvpi_against kind)
{
    size_t i = 0;
    for (; i + STEP <= n; i += STEP) {
        __m256i top = _mm256_permute4x64_epi64(load(high + i), 0xd8);
        __m256i rest = _mm256_permute4x64_epi64(load(low + i), 0xd8);
        put16(dst, ref, i, _mm256_unpacklo_epi8(rest, top), kind);
        put16(dst, ref, i + 16, _mm256_unpackhi_epi8(rest, top), kind);
    }
    return i;
}

/* ---- elements of 4 bytes ---- */

AVX2_INLINE __m256i rotate_left32(__m256i x)
{
    return _mm256_or_si256(_mm256_slli_epi32(x, 1), _mm256_srli_epi32(x, 31));
}

AVX2_INLINE __m256i rotate_right32(__m256i x)
{
    return _mm256_or_si256(_mm256_srli_epi32(x, 1), _mm256_slli_epi32(x, 31));
}

AVX2_INLINE __m256i to_signed32(__m256i u)
{
    __m256i sign = _mm256_and_si256(u, _mm256_set1_epi32(1));
    return _mm256_xor_si256(_mm256_srli_epi32(u, 1),
                            _mm256_sub_epi32(_mm256_setzero_si256(), sign));
}

AVX2_INLINE __m256i to_zigzag32(__m256i d)
{
    return _mm256_xor_si256(_mm256_slli_epi32(d, 1), _mm256_srai_epi32(d, 31));
}

AVX2_INLINE __m256i exponents32(const uint8_t *p)
{
    return _mm256_slli_epi32(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)p)), 24);
}

AVX2_INLINE __m256i take32(const uint8_t *src, const uint8_t *ref, size_t i, kvpi_against kind)
{
    __m256i u = rotate_left32(load(src + 4 * i));
    if (kind == KVPI_AGAINST_VALUE) {
        __m256i other = rotate_left32(load(ref + 4 * i));
        u = to_zigzag32(_mm256_sub_epi32(to_signed32(u), to_signed32(other)));
    } else if (kind == KVPI_AGAINST_EXPONENT) {
        u = _mm256_sub_epi32(u, exponents32(ref + i));
    }
    return u;
}

AVX2_INLINE void put32(uint8_t *dst, const uint8_t *ref, size_t i, __m256i u, kvpi_against kind)
{
    if (kind == KVPI_AGAINST_VALUE) {
        __m256i other = rotate_left32(load(ref + 4 * i));
        u = to_zigzag32(_mm256_add_epi32(to_signed32(u), to_signed32(other)));
    } else if (kind == KVPI_AGAINST_EXPONENT) {
        u = _mm256_add_epi32(u, exponents32(ref + i));
    }
    store(dst + 4 * i, rotate_right32(u));
}

/* Four bytes of four elements, plane by plane, in each half of the register. */
AVX2_INLINE __m256i by_plane(__m256i u)
{
    const __m256i order = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15));
    return _mm256_shuffle_epi8(u, order);
}

AVX2_INLINE size_t split32(const uint8_t *src, const uint8_t *ref, size_t n, uint8_t *high,
                           uint8_t *low, size_t stride, kvpi_against kind)
{
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    size_t i = 0;
    for (; i + STEP <= n; i += STEP) {
        __m256i a = by_plane(take32(src, ref, i, kind));
        __m256i b = by_plane(take32(src, ref, i + 8, kind));
        __m256i c = by_plane(take32(src, ref, i + 16, kind));
        __m256i d = by_plane(take32(src, ref, i + 24, kind));
        __m256i ab01 = _mm256_unpacklo_epi32(a, b), ab23 = _mm256_unpackhi_epi32(a, b);
        __m256i cd01 = _mm256_unpacklo_epi32(c, d), cd23 = _mm256_unpackhi_epi32(c, d);
        __m256i plane[4] = {_mm256_unpacklo_epi64(ab01, cd01), _mm256_unpackhi_epi64(ab01, cd01),
                            _mm256_unpacklo_epi64(ab23, cd23), _mm256_unpackhi_epi64(ab23, cd23)};
        for (size_t p = 0; p < 3; p++)
            store(low + p * stride + i, _mm256_permutevar8x32_epi32(plane[p], order));
        store(high + i, _mm256_permutevar8x32_epi32(plane[3], order));
    }
    return i;
}

AVX2_INLINE size_t merge32(uint8_t *dst, const uint8_t *ref, size_t n, const uint8_t *high,
                           const uint8_t *low, size_t stride, kvpi_against kind)
{
    const __m256i order = _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7);
    size_t i = 0;
    for (; i + STEP <= n; i += STEP) {
        __m256i plane[4];
        for (size_t p = 0; p < 4; p++)
            plane[p] =
                _mm256_permutevar8x32_epi32(load(p < 3 ? low + p * stride + i : high + i), order);
        __m256i ab01 = _mm256_unpacklo_epi8(plane[0], plane[1]);
        __m256i cd01 = _mm256_unpackhi_epi8(plane[0], plane[1]);
        __m256i ab23 = _mm256_unpacklo_epi8(plane[2], plane[3]);
        __m256i cd23 = _mm256_unpackhi_epi8(plane[2], plane[3]);
        put32(dst, ref, i, _mm256_unpacklo_epi16(ab01, ab23), kind);
        put32(dst, ref, i + 8, _mm256_unpackhi_epi16(ab01, ab23), kind);
        put32(dst, ref, i + 16, _mm256_unpacklo_epi16(cd01, cd23), kind);
        put32(dst, ref, i + 24, _mm256_unpackhi_epi16(cd01, cd23), kind);
    }
    return i;
}

/* ---- kernels ---- */

AVX2_INLINE void split(const void *src, const void *ref, size_t n, uint8_t *high, uint8_t *low,
                       size_t stride, size_t bytes, kvpi_against kind)
{
    size_t i = bytes == 2 ? split16(src, ref, n, high, low, kind)
                          : split32(src, ref, n, high, low, stride, kind);
    size_t ref_bytes = kind == KVPI_AGAINST_VALUE ? bytes : 1;
    if (i < n)
        kvpi_plane_kernels_scalar.split[bytes == 4][kind](
            (const uint8_t *)src + i * bytes, ref ? (const uint8_t *)ref + i * ref_bytes : NULL,
            n - i, high + i, low + i, stride);
}

AVX2_INLINE void merge(void *dst, const void *ref, size_t n, const uint8_t *high,
                       const uint8_t *low, size_t stride, size_t bytes, kvpi_against kind)
{
    size_t i = bytes == 2 ? merge16(dst, ref, n, high, low, kind)
                          : merge32(dst, ref, n, high, low, stride, kind);
    size_t ref_bytes = kind == KVPI_AGAINST_VALUE ? bytes : 1;
    if (i < n)
        kvpi_plane_kernels_scalar.merge[bytes == 4][kind](
            (uint8_t *)dst + i * bytes, ref ? (const uint8_t *)ref + i * ref_bytes : NULL, n - i,
            high + i, low + i, stride);
}

#define KERNELS(bytes, name, kind)                                                                 \
    AVX2 static void split_##name(const void *src, const void *ref, size_t n, uint8_t *high,       \
                                  uint8_t *low, size_t stride)                                     \
    {                                                                                              \
        split(src, ref, n, high, low, stride, bytes, kind);                                        \
    }                                                                                              \
    AVX2 static void merge_##name(void *dst, const void *ref, size_t n, const uint8_t *high,       \
                                  const uint8_t *low, size_t stride)                               \
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

/* The place in the palette of each of 32 bytes, or 15. */
AVX2_INLINE __m256i find_places(__m256i x, const uint8_t *palette)
{
    __m256i place = _mm256_set1_epi8(KVPI_PALETTE_COLOURS);
    for (size_t k = KVPI_PALETTE_COLOURS; k-- > 0;) {
        __m256i is_it = _mm256_cmpeq_epi8(x, _mm256_set1_epi8((char)palette[k]));
        place = _mm256_blendv_epi8(place, _mm256_set1_epi8((char)k), is_it);
    }
    return place;
}

/* A bit per element of a block that is an escape. */
AVX2_INLINE uint64_t find_escapes(__m256i first, __m256i second)
{
    const __m256i escape = _mm256_set1_epi8(KVPI_PALETTE_COLOURS);
    uint32_t a = (uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(first, escape));
    uint32_t b = (uint32_t)_mm256_movemask_epi8(_mm256_cmpeq_epi8(second, escape));
    return (uint64_t)b << 32 | a;
}

AVX2 static size_t nibbles_pack(const uint8_t *src, size_t n, const uint8_t *palette,
                                uint8_t *nibbles, uint8_t *escapes)
{
    size_t i = 0, n_escapes = 0;
    for (; i + KVPI_NIBBLE_BLOCK <= n; i += KVPI_NIBBLE_BLOCK) {
        __m256i first = find_places(load(src + i), palette);
        __m256i second = find_places(load(src + i + 32), palette);
        store(nibbles + i / 2, _mm256_or_si256(first, _mm256_slli_epi16(second, 4)));
        for (uint64_t left = find_escapes(first, second); left; left &= left - 1)
            escapes[n_escapes++] = src[i + (size_t)__builtin_ctzll(left)];
    }
    return n_escapes + kvpi_plane_kernels_scalar.nibbles_pack(src + i, n - i, palette,
                                                              nibbles + i / 2, escapes + n_escapes);
}

AVX2 static bool nibbles_unpack(const uint8_t *nibbles, size_t n, const uint8_t *palette,
                                const uint8_t *escapes, size_t n_escapes, uint8_t *dst)
{
    uint8_t colours[16] = {0};
    memcpy(colours, palette, KVPI_PALETTE_COLOURS);
    const __m256i colour = _mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)colours));
    const __m256i lower = _mm256_set1_epi8(15);
    size_t i = 0, used = 0;
    for (; i + KVPI_NIBBLE_BLOCK <= n; i += KVPI_NIBBLE_BLOCK) {
        __m256i both = load(nibbles + i / 2);
        __m256i first = _mm256_and_si256(both, lower);
        __m256i second = _mm256_and_si256(_mm256_srli_epi16(both, 4), lower);
        store(dst + i, _mm256_shuffle_epi8(colour, first));
        store(dst + i + 32, _mm256_shuffle_epi8(colour, second));
        uint64_t left = find_escapes(first, second);
        if ((size_t)__builtin_popcountll(left) > n_escapes - used)
            return false;
        for (; left; left &= left - 1)
            dst[i + (size_t)__builtin_ctzll(left)] = escapes[used++];
    }
    return kvpi_plane_kernels_scalar.nibbles_unpack(nibbles + i / 2, n - i, palette, escapes + used,
                                                    n_escapes - used, dst + i);
}

const kvpi_plane_kernels kvpi_plane_kernels_avx2 = {
    .name = "avx2",
    .split = {{split_plain16, split_value16, split_exponent16},
              {split_plain32, split_value32, split_exponent32}},
    .merge = {{merge_plain16, merge_value16, merge_exponent16},
              {merge_plain32, merge_value32, merge_exponent32}},
    .nibbles_pack = nibbles_pack,
    .nibbles_unpack = nibbles_unpack,
};
#endif
