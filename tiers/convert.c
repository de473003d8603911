/* convert.c - dtype conversion, to nearest even, in integer arithmetic or with F16C.
 *
 * Both paths give the same bits whatever the caller has set in the floating-point environment:
 * F16C is told its rounding mode and ignores flush-to-zero, and the rest never touches a float.
 * Every conversion goes through binary32, which holds the other two exactly: one rounding.
 *
 * "Not finite" is gathered as a flag, not branched on, so that the loops vectorise. */
#include "tiers/convert.h"

#include <stdint.h>
#include <string.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#define F32_INFINITY 0x7f800000u
#define F16_INFINITY 0x7c00u
#define CHUNK 256u /* elements on the stack between two conversions */

/* Each returns 0 if all n values were finite in the destination. */
typedef uint32_t convert_fn(void *dst, const void *src, size_t n);

/* ---- one value ---- */

static inline uint32_t not_finite32(uint32_t x)
{
    return (x & F32_INFINITY) == F32_INFINITY;
}

static inline uint16_t bf16_of(uint32_t x)
{
    return (uint16_t)((x + 0x7fffu + (x >> 16 & 1)) >> 16);
}

/* Shift right by 1 .. 31, to nearest even. */
static inline uint32_t shift_round(uint32_t x, uint32_t by)
{
    uint32_t kept = x >> by, half = 1u << (by - 1), cut = x & ((half << 1) - 1);
    return kept + (cut > half || (cut == half && (kept & 1)));
}

static inline uint16_t f16_of(uint32_t x)
{
    uint32_t sign = x >> 16 & 0x8000u, exponent = x >> 23 & 0xffu, mantissa = x & 0x7fffffu;
    uint32_t magnitude;
    if (exponent >= 143) /* 2^16 and above, infinity, NaN */
        magnitude = F16_INFINITY;
    else if (exponent >= 113) /* a normal number; rounding up may carry into infinity, rightly */
        magnitude = shift_round((exponent - 112) << 23 | mantissa, 13);
    else if (exponent >= 102) /* a subnormal one, or the least normal one by rounding */
        magnitude = shift_round(mantissa | 0x800000u, 126 - exponent);
    else
        magnitude = 0;
    return (uint16_t)(sign | magnitude);
}

static inline uint32_t f32_of_f16(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000u) << 16, exponent = h >> 10 & 0x1fu, m = h & 0x3ffu;
    if (exponent == 0x1f)
        return sign | F32_INFINITY | m << 13;
    if (exponent)
        return sign | (exponent + 112) << 23 | m << 13;
    if (m == 0)
        return sign;
    uint32_t shift = (uint32_t)__builtin_clz(m) - 21; /* brings the leading one to bit 10 */
    return sign | (113 - shift) << 23 | (m << shift & 0x3ffu) << 13;
}

/* ---- rows, scalar ---- */

static uint32_t copy32(void *dst, const void *src, size_t n)
{
    uint32_t bad = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t x;
        memcpy(&x, (const char *)src + 4 * i, sizeof x);
        bad |= not_finite32(x);
        memcpy((char *)dst + 4 * i, &x, sizeof x);
    }
    return bad;
}

/* For both 16-bit types: `infinity` is the exponent's mask. */
static inline uint32_t copy16(void *dst, const void *src, size_t n, uint16_t infinity)
{
    uint32_t bad = 0;
    for (size_t i = 0; i < n; i++) {
        uint16_t x;
        memcpy(&x, (const char *)src + 2 * i, sizeof x);
        bad |= (x & infinity) == infinity;
        memcpy((char *)dst + 2 * i, &x, sizeof x);
    }
    return bad;
}

static uint32_t copy_f16(void *dst, const void *src, size_t n)
{
    return copy16(dst, src, n, F16_INFINITY);
}

static uint32_t copy_bf16(void *dst, const void *src, size_t n)
{
    return copy16(dst, src, n, F32_INFINITY >> 16);
}

static uint32_t f32_to_bf16(void *dst, const void *src, size_t n)
{
    uint32_t bad = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t x;
        memcpy(&x, (const char *)src + 4 * i, sizeof x);
        uint16_t y = bf16_of(x);
        bad |= not_finite32(x) | not_finite32((uint32_t)y << 16);
        memcpy((char *)dst + 2 * i, &y, sizeof y);
    }
    return bad;
}

static uint32_t bf16_to_f32(void *dst, const void *src, size_t n)
{
    uint32_t bad = 0;
    for (size_t i = 0; i < n; i++) {
        uint16_t x;
        memcpy(&x, (const char *)src + 2 * i, sizeof x);
        uint32_t y = (uint32_t)x << 16;
        bad |= not_finite32(y);
        memcpy((char *)dst + 4 * i, &y, sizeof y);
    }
    return bad;
}

static uint32_t f32_to_f16(void *dst, const void *src, size_t n)
{
    uint32_t bad = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t x;
        memcpy(&x, (const char *)src + 4 * i, sizeof x);
        uint16_t y = f16_of(x);
        bad |= (y & F16_INFINITY) == F16_INFINITY;
        memcpy((char *)dst + 2 * i, &y, sizeof y);
    }
    return bad;
}

static uint32_t f16_to_f32(void *dst, const void *src, size_t n)
{
    uint32_t bad = 0;
    for (size_t i = 0; i < n; i++) {
        uint16_t x;
        memcpy(&x, (const char *)src + 2 * i, sizeof x);
        uint32_t y = f32_of_f16(x);
        bad |= not_finite32(y);
        memcpy((char *)dst + 4 * i, &y, sizeof y);
    }
    return bad;
}

/* ---- rows, F16C ---- */

#if defined(__x86_64__)
#define F16C __attribute__((target("avx2,f16c")))

F16C static uint32_t f32_to_f16_f16c(void *dst, const void *src, size_t n)
{
    const __m128i infinity = _mm_set1_epi16(F16_INFINITY);
    __m128i bad = _mm_setzero_si128();
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m256 x = _mm256_loadu_ps((const float *)((const char *)src + 4 * i));
        __m128i y = _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT);
        bad = _mm_or_si128(bad, _mm_cmpeq_epi16(_mm_and_si128(y, infinity), infinity));
        _mm_storeu_si128((__m128i *)((char *)dst + 2 * i), y);
    }
    return (uint32_t)_mm_movemask_epi8(bad) |
           f32_to_f16((char *)dst + 2 * i, (const char *)src + 4 * i, n - i);
}

F16C static uint32_t f16_to_f32_f16c(void *dst, const void *src, size_t n)
{
    const __m128i infinity = _mm_set1_epi16(F16_INFINITY);
    __m128i bad = _mm_setzero_si128();
    size_t i = 0;
    for (; i + 8 <= n; i += 8) {
        __m128i x = _mm_loadu_si128((const __m128i *)((const char *)src + 2 * i));
        bad = _mm_or_si128(bad, _mm_cmpeq_epi16(_mm_and_si128(x, infinity), infinity));
        _mm256_storeu_ps((float *)((char *)dst + 4 * i), _mm256_cvtph_ps(x));
    }
    return (uint32_t)_mm_movemask_epi8(bad) |
           f16_to_f32((char *)dst + 4 * i, (const char *)src + 2 * i, n - i);
}

static bool has_f16c(void)
{
    return __builtin_cpu_supports("avx2"); /* all such CPUs have F16C, which clang 14 cannot name */
}
#else
#define f32_to_f16_f16c f32_to_f16
#define f16_to_f32_f16c f16_to_f32

static bool has_f16c(void)
{
    return false;
}
#endif

/* ---- any to any ---- */

static convert_fn *to_f32(kvp_dtype dtype, bool f16c)
{
    if (dtype == KVP_F32)
        return copy32;
    return dtype == KVP_BF16 ? bf16_to_f32 : f16c ? f16_to_f32_f16c : f16_to_f32;
}

static convert_fn *from_f32(kvp_dtype dtype, bool f16c)
{
    if (dtype == KVP_F32)
        return copy32;
    return dtype == KVP_BF16 ? f32_to_bf16 : f16c ? f32_to_f16_f16c : f32_to_f16;
}

/* Between the 16-bit types. */
static uint32_t convert_twice(char *dst, convert_fn *second, const char *src, convert_fn *first,
                              size_t n)
{
    uint32_t f32[CHUNK], bad = 0;
    for (size_t i = 0; i < n; i += CHUNK) {
        size_t len = n - i < CHUNK ? n - i : CHUNK;
        bad |= first(f32, src + 2 * i, len);
        bad |= second(dst + 2 * i, f32, len);
    }
    return bad;
}

static bool convert(void *dst, kvp_dtype dst_dtype, const void *src, kvp_dtype src_dtype, size_t n,
                    bool f16c)
{
    if (dst_dtype == KVP_OPAQUE) {
        memcpy(dst, src, n);
        return true;
    }
    if (dst_dtype == KVP_F16 && src_dtype == KVP_F16)
        return copy_f16(dst, src, n) == 0;
    if (dst_dtype == KVP_BF16 && src_dtype == KVP_BF16)
        return copy_bf16(dst, src, n) == 0;
    if (src_dtype == KVP_F32)
        return from_f32(dst_dtype, f16c)(dst, src, n) == 0;
    if (dst_dtype == KVP_F32)
        return to_f32(src_dtype, f16c)(dst, src, n) == 0;
    return convert_twice(dst, from_f32(dst_dtype, f16c), src, to_f32(src_dtype, f16c), n) == 0;
}

bool kvpi_convert(void *dst, kvp_dtype dst_dtype, const void *src, kvp_dtype src_dtype, size_t n)
{
    return convert(dst, dst_dtype, src, src_dtype, n, has_f16c());
}

bool kvpi_convert_scalar(void *dst, kvp_dtype dst_dtype, const void *src, kvp_dtype src_dtype,
                         size_t n)
{
    return convert(dst, dst_dtype, src, src_dtype, n, false);
}
