/* score_avx2.c - scores in AVX2: vectors of 8 floats. */
#include "attention/score.h"

#if defined(__x86_64__)
#include <immintrin.h>
#include <string.h>

#define SCORE_NAME "avx2"
#define SCORE_TABLE kvpi_scorers_avx2
#define SCORE_TARGET __attribute__((target("avx2,fma,f16c")))
#define SCORE_INLINE static inline __attribute__((always_inline, target("avx2,fma,f16c")))
#define SCORE_LANES 8
#define SCORE_TILE_KEYS 2

typedef __m256 vec;

SCORE_INLINE vec vec_zero(void)
{
    return _mm256_setzero_ps();
}

SCORE_INLINE vec vec_fma(vec a, vec b, vec c)
{
    return _mm256_fmadd_ps(a, b, c);
}

SCORE_INLINE vec vec_load(const void *p, kvp_dtype dtype)
{
    if (dtype == KVP_F16)
        return _mm256_cvtph_ps(_mm_loadu_si128(p));
    if (dtype == KVP_BF16)
        return _mm256_castsi256_ps(
            _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(p)), 16));
    return _mm256_loadu_ps(p);
}

SCORE_INLINE vec vec_load_part(const void *p, size_t n, kvp_dtype dtype)
{
    float whole[SCORE_LANES] = {0};
    memcpy(whole, p, n * kvp_dtype_bytes(dtype));
    return vec_load(whole, dtype);
}

SCORE_INLINE float vec_sum(vec a)
{
    __m128 x = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
}

#include "attention/score_block.h"
#endif
