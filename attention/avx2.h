/* avx2.h - what the AVX2 kernels share: rows of any dtype into float32 lanes, sums across lanes,
 * exp. Every function carries its target attribute, so that no compiler flags are needed. */
#ifndef KVPI_ATTENTION_AVX2_H
#define KVPI_ATTENTION_AVX2_H

#include <immintrin.h>
#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "attention/kernels.h"

#define KVPI_AVX2 __attribute__((target("avx2,fma,f16c")))
/* For templates: a constant argument (dtype, tile shape) becomes a constant of the loops inside. */
#define KVPI_AVX2_INLINE static inline __attribute__((always_inline, target("avx2,fma,f16c")))
/* Tile loops must be unrolled at any -O level, or their accumulators live in memory. */
#define KVPI_UNROLL _Pragma("GCC unroll 16")

/* 8 elements at p, as float32. */
KVPI_AVX2_INLINE __m256 load8(const void *p, kvp_dtype dtype)
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
KVPI_AVX2_INLINE __m256 load_part(const void *p, size_t n, kvp_dtype dtype)
{
    float whole[8] = {0};
    memcpy(whole, p, n * kvp_dtype_bytes(dtype));
    return load8(whole, dtype);
}

/* All ones in the first n lanes. */
KVPI_AVX2_INLINE __m256i lanes_below(size_t n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

/* {sum of a, sum of b, sum of c, sum of d}: each sum in the same order. */
KVPI_AVX2_INLINE __m128 sum_lanes4(__m256 a, __m256 b, __m256 c, __m256 d)
{
    __m256 abcd = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    return _mm_add_ps(_mm256_castps256_ps128(abcd), _mm256_extractf128_ps(abcd, 1));
}

KVPI_AVX2_INLINE float sum_lanes(__m256 a)
{
    return _mm_cvtss_f32(sum_lanes4(a, a, a, a));
}

KVPI_AVX2_INLINE float max_lanes(__m256 a)
{
    __m128 x = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    x = _mm_max_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
}

/* Scaled scores, cut to the range where the softmax stays finite. NaN stays NaN: min and max
 * return their second operand then. */
KVPI_AVX2_INLINE __m256 clamp_scores(__m256 s)
{
    s = _mm256_min_ps(_mm256_set1_ps(KVPI_SCORE_MAX), s);
    return _mm256_max_ps(_mm256_set1_ps(-KVPI_SCORE_MAX), s);
}

/* exp(x) for x <= 0, within 2 ulp; 0 where it would be subnormal; NaN stays NaN.
 * Source: Cephes expf (S. Moshier): Cody-Waite reduction by ln 2 and a polynomial of degree 5. */
KVPI_AVX2_INLINE __m256 exp8(__m256 x)
{
    const __m256 smallest = _mm256_set1_ps(-87.33654f); /* ln FLT_MIN */
    __m256 is_zero = _mm256_cmp_ps(x, smallest, _CMP_LT_OQ);
    x = _mm256_max_ps(smallest, x);

    __m256 n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.44269504f)),
                               _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693359375f), x);
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(-2.12194440e-4f), r);

    __m256 y = _mm256_set1_ps(1.9875691500e-4f);
    y = _mm256_fmadd_ps(y, r, _mm256_set1_ps(1.3981999507e-3f));
    y = _mm256_fmadd_ps(y, r, _mm256_set1_ps(8.3334519073e-3f));
    y = _mm256_fmadd_ps(y, r, _mm256_set1_ps(4.1665795894e-2f));
    y = _mm256_fmadd_ps(y, r, _mm256_set1_ps(1.6666665459e-1f));
    y = _mm256_fmadd_ps(y, r, _mm256_set1_ps(5.0000001201e-1f));
    y = _mm256_fmadd_ps(y, _mm256_mul_ps(r, r), _mm256_add_ps(r, _mm256_set1_ps(1.0f)));

    __m256i power = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    y = _mm256_mul_ps(y, _mm256_castsi256_ps(_mm256_slli_epi32(power, 23)));
    return _mm256_andnot_ps(is_zero, y);
}

void kvpi_avx2_many_f32(const kvpi_keys *keys, kvpi_row *rows, size_t n_rows);
void kvpi_avx2_many_f16(const kvpi_keys *keys, kvpi_row *rows, size_t n_rows);
void kvpi_avx2_many_bf16(const kvpi_keys *keys, kvpi_row *rows, size_t n_rows);

#endif
