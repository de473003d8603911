/* avx2.h - what block.h is written in, in AVX2, FMA and F16C: vectors of 8 floats. Every function
 * carries its target attribute, so that no compiler flags are needed. */
#ifndef KVPI_ATTENTION_AVX2_H
#define KVPI_ATTENTION_AVX2_H

#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "attention/kernels.h"

#define SIMD_TARGET __attribute__((target("avx2,fma,f16c")))
/* For templates: a constant argument (dtype, tile shape) becomes a constant of the loops inside. */
#define SIMD_INLINE static inline __attribute__((always_inline, target("avx2,fma,f16c")))
/* Tile loops must be unrolled at any -O level, or their accumulators live in memory. */
#define KVPI_UNROLL _Pragma("GCC unroll 16")

#define LANES 8

typedef __m256 vec;

/* Compilers fold a load into each of its uses, though a register would do: loads then are what
 * limits a tile. */
#define vec_keep(x) __asm__("" : "+x"(x))

SIMD_INLINE vec vec_set1(float x)
{
    return _mm256_set1_ps(x);
}

/* 8 elements at p, as float32. */
SIMD_INLINE vec vec_load(const void *p, kvp_dtype dtype)
{
    switch (dtype) {
    case KVP_F16:
        return _mm256_cvtph_ps(_mm_loadu_si128(p));
    case KVP_BF16:
        return _mm256_castsi256_ps(
            _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(p)), 16));
    default:
        return _mm256_loadu_ps(p);
    }
}

/* The first n < 8 elements at p, and zeros: never reads past them. */
SIMD_INLINE vec vec_load_part(const void *p, size_t n, kvp_dtype dtype)
{
    float whole[8] = {0};
    memcpy(whole, p, n * kvp_dtype_bytes(dtype));
    return vec_load(whole, dtype);
}

/* All ones in the first n lanes. */
SIMD_INLINE __m256i lanes_below(size_t n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

SIMD_INLINE void vec_store(float *p, vec x)
{
    _mm256_storeu_ps(p, x);
}

SIMD_INLINE void vec_store_part(float *p, size_t n, vec x)
{
    _mm256_maskstore_ps(p, lanes_below(n), x);
}

SIMD_INLINE vec vec_add(vec a, vec b)
{
    return _mm256_add_ps(a, b);
}

SIMD_INLINE vec vec_sub(vec a, vec b)
{
    return _mm256_sub_ps(a, b);
}

SIMD_INLINE vec vec_mul(vec a, vec b)
{
    return _mm256_mul_ps(a, b);
}

/* a * b + c, rounded once. */
SIMD_INLINE vec vec_fma(vec a, vec b, vec c)
{
    return _mm256_fmadd_ps(a, b, c);
}

/* b where either is NaN. */
SIMD_INLINE vec vec_max(vec a, vec b)
{
    return _mm256_max_ps(a, b);
}

SIMD_INLINE vec vec_min(vec a, vec b)
{
    return _mm256_min_ps(a, b);
}

/* To the nearest integer, even on a tie. */
SIMD_INLINE vec vec_round(vec x)
{
    return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

/* 2^n for integers n in -126 .. 127. */
SIMD_INLINE vec vec_power_of_2(vec n)
{
    __m256i biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23));
}

/* y, and 0 where x < limit. */
SIMD_INLINE vec vec_zero_below(vec x, vec limit, vec y)
{
    return _mm256_andnot_ps(_mm256_cmp_ps(x, limit, _CMP_LT_OQ), y);
}

/* x in the first n lanes, `other` in the rest. */
SIMD_INLINE vec vec_first(size_t n, vec x, vec other)
{
    return n >= LANES ? x : _mm256_blendv_ps(other, x, _mm256_castsi256_ps(lanes_below(n)));
}

SIMD_INLINE float vec_max_across(vec x)
{
    __m128 z = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    z = _mm_max_ps(z, _mm_movehl_ps(z, z));
    return _mm_cvtss_f32(_mm_max_ss(z, _mm_movehdup_ps(z)));
}

/* The sum of the lanes: those 4 apart first, then 2 and 1 apart. */
SIMD_INLINE float vec_sum_across(vec x)
{
    __m128 z = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
    z = _mm_add_ps(z, _mm_movehl_ps(z, z));
    return _mm_cvtss_f32(_mm_add_ss(z, _mm_movehdup_ps(z)));
}

/* vec_sum_across() of four. */
SIMD_INLINE __m128 sums_of_4(vec a, vec b, vec c, vec d)
{
    vec ac = _mm256_add_ps(_mm256_permute2f128_ps(a, c, 0x20), _mm256_permute2f128_ps(a, c, 0x31));
    vec bd = _mm256_add_ps(_mm256_permute2f128_ps(b, d, 0x20), _mm256_permute2f128_ps(b, d, 0x31));
    vec x = _mm256_add_ps(_mm256_shuffle_ps(ac, bd, 0x44), _mm256_shuffle_ps(ac, bd, 0xee));
    /* a0 a1 b0 b1 | c0 c1 d0 d1, what is left to add side by side */
    __m128 ab = _mm256_castps256_ps128(x), cd = _mm256_extractf128_ps(x, 1);
    return _mm_add_ps(_mm_shuffle_ps(ab, cd, 0x88), _mm_shuffle_ps(ab, cd, 0xdd));
}

/* Scores of a tile: n_rows x n_keys <= 12 sums across, of which that of row r and key j is at
 * sum_slot(r * n_keys + j). */
typedef float scores[KVPI_BLOCK_KEYS];

SIMD_INLINE int sum_slot(int i)
{
    return i;
}

/* s[r][j + i] = the sum across sum[sum_slot(r * n_keys + i)]. */
SIMD_INLINE void store_sums(const vec *sum, int n_rows, int n_keys, scores *s, size_t j)
{
    KVPI_UNROLL
    for (int i = 0; i < n_rows * n_keys; i += n_keys == 1 ? 1 : 4) {
        if (n_keys == 1) {
            s[i][j] = vec_sum_across(sum[i]);
            continue;
        }
        __m128 four = sums_of_4(sum[i], sum[i + 1], sum[i + 2], sum[i + 3]);
        if (n_keys == 2) { /* of two rows */
            _mm_storel_pi((__m64 *)&s[i / 2][j], four);
            _mm_storeh_pi((__m64 *)&s[i / 2 + 1][j], four);
        } else {
            _mm_storeu_ps(&s[i / n_keys][j + (size_t)(i % n_keys)], four);
        }
    }
}

/* Keys of a tile of so many rows. */
SIMD_INLINE int tile_keys(int n_rows)
{
    return n_rows == 1 ? 8 : n_rows == 4 ? 2 : 4;
}

/* Vectors of a strip of outputs, of the `left` that are whole: up to 8 accumulators. */
SIMD_INLINE size_t strip_vecs(size_t n_rows, size_t left)
{
    const size_t most = n_rows == 1 ? 6 : n_rows == 2 ? 4 : 2;
    return left < most ? left : most;
}

#endif
