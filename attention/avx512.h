/* avx512.h - what block.h is written in, in AVX-512: vectors of 16 floats. Every function carries
 * its target attribute, so that no compiler flags are needed. */
#ifndef KVPI_ATTENTION_AVX512_H
#define KVPI_ATTENTION_AVX512_H

#include <immintrin.h>
#include <math.h>

#include "attention/kernels.h"

#define SIMD_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")))
/* For templates: a constant argument (dtype, tile shape) becomes a constant of the loops inside. */
#define SIMD_INLINE                                                                                \
    static inline                                                                                  \
        __attribute__((always_inline, target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c")))

/* Tile loops must be unrolled at any -O level, or their accumulators live in memory. */
#define KVPI_UNROLL _Pragma("GCC unroll 16")

#define LANES 16

typedef __m512 vec;

/* Compilers fold a load into each of its uses, though a register would do: loads then are what
 * limits a tile. */
#define vec_keep(x) __asm__("" : "+v"(x))

SIMD_INLINE vec vec_set1(float x)
{
    return _mm512_set1_ps(x);
}

/* 16 elements at p, as float32. */
SIMD_INLINE vec vec_load(const void *p, kvp_dtype dtype)
{
    switch (dtype) {
    case KVP_F16:
        return _mm512_cvtph_ps(_mm256_loadu_si256(p));
    case KVP_BF16:
        return _mm512_castsi512_ps(
            _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(p)), 16));
    default:
        return _mm512_loadu_ps(p);
    }
}

SIMD_INLINE __mmask16 lanes_below(size_t n)
{
    return (__mmask16)((1u << n) - 1);
}

/* The first n < 16 elements at p, and zeros: never reads past them. */
SIMD_INLINE vec vec_load_part(const void *p, size_t n, kvp_dtype dtype)
{
    switch (dtype) {
    case KVP_F16:
        return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(lanes_below(n), p));
    case KVP_BF16:
        return _mm512_castsi512_ps(_mm512_slli_epi32(
            _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(lanes_below(n), p)), 16));
    default:
        return _mm512_maskz_loadu_ps(lanes_below(n), p);
    }
}

SIMD_INLINE void vec_store(float *p, vec x)
{
    _mm512_storeu_ps(p, x);
}

SIMD_INLINE void vec_store_part(float *p, size_t n, vec x)
{
    _mm512_mask_storeu_ps(p, lanes_below(n), x);
}

SIMD_INLINE vec vec_add(vec a, vec b)
{
    return _mm512_add_ps(a, b);
}

SIMD_INLINE vec vec_sub(vec a, vec b)
{
    return _mm512_sub_ps(a, b);
}

SIMD_INLINE vec vec_mul(vec a, vec b)
{
    return _mm512_mul_ps(a, b);
}

/* a * b + c, rounded once. */
SIMD_INLINE vec vec_fma(vec a, vec b, vec c)
{
    return _mm512_fmadd_ps(a, b, c);
}

/* b where either is NaN. */
SIMD_INLINE vec vec_max(vec a, vec b)
{
    return _mm512_max_ps(a, b);
}

SIMD_INLINE vec vec_min(vec a, vec b)
{
    return _mm512_min_ps(a, b);
}

/* To the nearest integer, even on a tie. */
SIMD_INLINE vec vec_round(vec x)
{
    return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

/* 2^n for integers n in -126 .. 127. */
SIMD_INLINE vec vec_power_of_2(vec n)
{
    __m512i biased = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
    return _mm512_castsi512_ps(_mm512_slli_epi32(biased, 23));
}

/* y, and 0 where x < limit. */
SIMD_INLINE vec vec_zero_below(vec x, vec limit, vec y)
{
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, limit, _CMP_NLT_UQ), y);
}

/* x in the first n lanes, `other` in the rest. */
SIMD_INLINE vec vec_first(size_t n, vec x, vec other)
{
    return n >= LANES ? x : _mm512_mask_blend_ps(lanes_below(n), other, x);
}

SIMD_INLINE float vec_max_across(vec x)
{
    x = _mm512_max_ps(x, _mm512_shuffle_f32x4(x, x, 0x4e));
    __m256 y = _mm512_castps512_ps256(x);
    __m128 z = _mm_max_ps(_mm256_castps256_ps128(y), _mm256_extractf128_ps(y, 1));
    z = _mm_max_ps(z, _mm_movehl_ps(z, z));
    return _mm_cvtss_f32(_mm_max_ss(z, _mm_movehdup_ps(z)));
}

/* The sum of the lanes i of a row of 16: those 8 apart first, then 4, 2, 1 apart. */
SIMD_INLINE float vec_sum_across(vec x)
{
    __m256 y = _mm256_add_ps(_mm512_castps512_ps256(x),
                             _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(x), 1)));
    __m128 z = _mm_add_ps(_mm256_castps256_ps128(y), _mm256_extractf128_ps(y, 1));
    z = _mm_add_ps(z, _mm_movehl_ps(z, z));
    return _mm_cvtss_f32(_mm_add_ss(z, _mm_movehdup_ps(z)));
}

/* vec_sum_across() of two at a time: lanes 8 apart, of a in the lower half. */
SIMD_INLINE vec add_8_apart(vec a, vec b)
{
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
}

SIMD_INLINE vec add_4_apart(vec a, vec b)
{
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
}

SIMD_INLINE vec add_2_apart(vec a, vec b)
{
    return _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x44), _mm512_shuffle_ps(a, b, 0xee));
}

SIMD_INLINE vec add_1_apart(vec a, vec b)
{
    return _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x88), _mm512_shuffle_ps(a, b, 0xdd));
}

/* Scores of a tile: n_rows x n_keys <= 16 sums across, of which that of row r and key j is at
 * sum_slot(r * n_keys + j). */
typedef float scores[KVPI_BLOCK_KEYS];

SIMD_INLINE int sum_slot(int i)
{
    return 4 * (i % 4) + i / 4;
}

/* s[r][j + i] = the sum across sum[sum_slot(r * n_keys + i)]: 15 additions and 30 shuffles for 16.
 */
SIMD_INLINE void store_sums(const vec *sum, int n_rows, int n_keys, scores *s, size_t j)
{
    if (n_keys == 1) {
        KVPI_UNROLL
        for (int r = 0; r < n_rows; r++)
            s[r][j] = vec_sum_across(sum[sum_slot(r)]);
        return;
    }
    vec four[4];
    KVPI_UNROLL
    for (int i = 0; i < 4; i++)
        four[i] = add_4_apart(add_8_apart(sum[4 * i], sum[4 * i + 1]),
                              add_8_apart(sum[4 * i + 2], sum[4 * i + 3]));
    vec all = add_1_apart(add_2_apart(four[0], four[1]), add_2_apart(four[2], four[3]));
    if (n_keys == 16) {
        _mm512_storeu_ps(&s[0][j], all);
        return;
    }
    KVPI_UNROLL
    for (int r = 0; r < n_rows; r++) /* n_keys is 4 */
        switch (r) {
        case 0:
            _mm_storeu_ps(&s[r][j], _mm512_castps512_ps128(all));
            break;
        case 1:
            _mm_storeu_ps(&s[r][j], _mm512_extractf32x4_ps(all, 1));
            break;
        case 2:
            _mm_storeu_ps(&s[r][j], _mm512_extractf32x4_ps(all, 2));
            break;
        default:
            _mm_storeu_ps(&s[r][j], _mm512_extractf32x4_ps(all, 3));
        }
}

/* Keys of a tile of so many rows. */
SIMD_INLINE int tile_keys(int n_rows)
{
    return n_rows == 1 ? 16 : 4;
}

/* Vectors of a strip of outputs, of the `left` that are whole: 4 rows x 6 fit the registers. */
SIMD_INLINE size_t strip_vecs(size_t n_rows, size_t left)
{
    (void)n_rows;
    return left <= 6 ? left : 4;
}

#endif
