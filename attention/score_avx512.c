/* score_avx512.c - scores in AVX-512: vectors of 16 floats. */
#include "attention/score.h"

#if defined(__x86_64__)
#include <immintrin.h>

#define TARGET "avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c"
#define SCORE_NAME "avx512"
#define SCORE_TABLE kvpi_scorers_avx512
#define SCORE_TARGET __attribute__((target(TARGET)))
#define SCORE_INLINE static inline __attribute__((always_inline, target(TARGET)))
#define SCORE_LANES 16
#define SCORE_TILE_KEYS 4

typedef __m512 vec;

SCORE_INLINE vec vec_zero(void)
{
    return _mm512_setzero_ps();
}

SCORE_INLINE vec vec_fma(vec a, vec b, vec c)
{
    return _mm512_fmadd_ps(a, b, c);
}

SCORE_INLINE vec from_bf16(__m256i x)
{
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
}

SCORE_INLINE vec vec_load(const void *p, kvp_dtype dtype)
{
    if (dtype == KVP_F16)
        return _mm512_cvtph_ps(_mm256_loadu_si256(p));
    if (dtype == KVP_BF16)
        return from_bf16(_mm256_loadu_si256(p));
    return _mm512_loadu_ps(p);
}

SCORE_INLINE vec vec_load_part(const void *p, size_t n, kvp_dtype dtype)
{
    const __mmask16 lanes = (__mmask16)((1u << n) - 1);
    if (dtype == KVP_F16)
        return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(lanes, p));
    if (dtype == KVP_BF16)
        return from_bf16(_mm256_maskz_loadu_epi16(lanes, p));
    return _mm512_maskz_loadu_ps(lanes, p);
}

SCORE_INLINE float vec_sum(vec a)
{
    return _mm512_reduce_add_ps(a);
}

#include "attention/score_block.h"
#endif
