/* test_convert.c - dtype conversion, against arithmetic in double. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "tiers/convert.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static float float_of(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* ---- the oracle: formats by their definition ---- */

typedef struct format {
    kvp_dtype dtype;
    int mantissa_bits, min_exponent; /* of the least normal number */
    double max;                      /* finite */
    uint32_t exponent_mask;          /* of the encoded value */
} format;

static const format f16 = {KVP_F16, 10, -14, 65504, 0x1f};
static const format bf16 = {KVP_BF16, 7, -126, 0x1.fep127, 0xff};

static double decoded(const format *f, uint16_t x)
{
    int exponent = (int)((uint32_t)x >> f->mantissa_bits & f->exponent_mask);
    double mantissa = x & ((1 << f->mantissa_bits) - 1);
    if (exponent)
        mantissa += 1 << f->mantissa_bits;
    else
        exponent = 1;
    double magnitude = ldexp(mantissa, f->min_exponent + exponent - 1 - f->mantissa_bits);
    return x & 0x8000 ? -magnitude : magnitude;
}

/* Round to nearest even on the format's grid; NAN: not finite in it. */
static double rounded(const format *f, double x)
{
    if (!isfinite(x))
        return NAN;
    int exponent = x == 0 ? f->min_exponent : ilogb(x);
    if (exponent < f->min_exponent)
        exponent = f->min_exponent;
    double step = ldexp(1, exponent - f->mantissa_bits);
    double y = nearbyint(x / step) * step; /* exact but for the rounding asked for */
    return fabs(y) <= f->max ? y : NAN;
}

typedef bool convert_fn(void *, kvp_dtype, const void *, kvp_dtype, size_t);

static convert_fn *const paths[] = {kvpi_convert, kvpi_convert_scalar};

/* ---- wider and back, all values ---- */

static void check_all_values(const format *f, convert_fn *convert)
{
    uint16_t *narrow = malloc(65536 * 2), *back = malloc(65536 * 2);
    float *wide = malloc(65536 * 4);
    size_t n = 0;
    for (uint32_t x = 0; x < 65536; x++) {
        uint16_t one = (uint16_t)x, same;
        bool is_finite = (x >> f->mantissa_bits & f->exponent_mask) != f->exponent_mask;
        float y;
        assert_int_equal(convert(&y, KVP_F32, &one, f->dtype, 1), is_finite);
        assert_int_equal(convert(&same, f->dtype, &one, f->dtype, 1), is_finite);
        if (!is_finite)
            continue;
        assert_true((double)y == decoded(f, one));
        assert_int_equal(signbit(y) != 0, x >> 15);
        assert_int_equal(same, one);
        narrow[n++] = one;
    }
    assert_true(n > 60000);
    assert_true(convert(wide, KVP_F32, narrow, f->dtype, n));
    for (size_t i = 0; i < n; i++)
        assert_true((double)wide[i] == decoded(f, narrow[i]));
    assert_true(convert(back, f->dtype, wide, KVP_F32, n));
    assert_memory_equal(back, narrow, 2 * n);
    free(narrow);
    free(back);
    free(wide);
}

static void test_all_16_bit_values_widen_exactly_and_come_back(void **state)
{
    (void)state;
    for (size_t p = 0; p < 2; p++) {
        check_all_values(&f16, paths[p]);
        check_all_values(&bf16, paths[p]);
    }
}

/* ---- narrowing ---- */

static void check_narrowing(const format *f, convert_fn *convert, const float *src, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint16_t eight[8], alone;
        float same[8];
        for (int k = 0; k < 8; k++)
            same[k] = src[i]; /* a whole vector */
        double expected = rounded(f, (double)src[i]);
        assert_int_equal(convert(&alone, f->dtype, &src[i], KVP_F32, 1), !isnan(expected));
        assert_int_equal(convert(eight, f->dtype, same, KVP_F32, 8), !isnan(expected));
        if (isnan(expected))
            continue;
        assert_true(decoded(f, alone) == expected);
        assert_int_equal(alone >> 15, bits_of(src[i]) >> 31);
        for (int k = 0; k < 8; k++)
            assert_int_equal(eight[k], alone);
    }
}

/* Every value of the format, the midpoints to the next, and what is just beside those. */
static size_t boundary_values(const format *f, float *out)
{
    size_t n = 0;
    for (uint32_t x = 0; x < 0x7fff; x += f == &bf16 ? 5 : 1) {
        if ((x >> f->mantissa_bits & f->exponent_mask) == f->exponent_mask)
            break;
        double a = decoded(f, (uint16_t)x);
        double b =
            a == f->max ? a + (a - decoded(f, (uint16_t)(x - 1))) : decoded(f, (uint16_t)(x + 1));
        float mid = (float)((a + b) / 2);
        if (!isfinite(mid))
            break;
        out[n++] = mid;
        out[n++] = -mid;
        out[n++] = nextafterf(mid, INFINITY);
        out[n++] = nextafterf(mid, 0);
        out[n++] = nextafterf((float)a, INFINITY);
    }
    static const uint32_t special[] = {0x00000000, 0x80000000, 0x7f800000, 0xff800000, 0x7fc00000,
                                       0x7f800001, 0x7fffffff, 0xffffffff, 0x00000001, 0x80000001,
                                       0x007fffff, 0x7f7fffff, 0xff7fffff, 0x477fefff, 0x477ff000,
                                       0x477fe000, 0x33000000, 0x33000001, 0x7f7f7fff, 0x7f7f8000};
    for (size_t i = 0; i < sizeof special / sizeof special[0]; i++)
        out[n++] = float_of(special[i]);
    return n;
}

static void test_narrowing_rounds_to_nearest_even_at_every_boundary(void **state)
{
    (void)state;
    float *values = malloc(sizeof(float) * (5 * 0x8000 + 100));
    for (size_t p = 0; p < 2; p++) {
        check_narrowing(&f16, paths[p], values, boundary_values(&f16, values));
        check_narrowing(&bf16, paths[p], values, boundary_values(&bf16, values));
    }
    free(values);
}

static void test_random_floats_narrow_alike_on_every_path(void **state)
{
    (void)state;
    enum { N = 40000 };
    float *values = malloc(N * sizeof(float));
    uint64_t seed = 2024;
    for (size_t i = 0; i < N; i++) {
        uint32_t x = (uint32_t)next_random(&seed);
        if (i % 2) /* in the range of f16 */
            x = (x & 0x807fffff) | (95 + x / 7 % 52) << 23;
        values[i] = float_of(x);
    }
    print_message("seed 2024\n");
    for (size_t p = 0; p < 2; p++) {
        check_narrowing(&f16, paths[p], values, N);
        check_narrowing(&bf16, paths[p], values, N);
    }
    free(values);
}

/* ---- rows ---- */

/* Lengths around the vectors', any alignment, and one bad value anywhere. */
static void test_rows_of_every_length_convert_and_one_bad_value_is_found(void **state)
{
    (void)state;
    static const kvp_dtype dtypes[] = {KVP_F32, KVP_F16, KVP_BF16};
    enum { MAX = 600 };
    static unsigned char src[4 * MAX + 4], dst[4 * MAX + 8], expected[4 * MAX];
    for (size_t a = 0; a < 3; a++)
        for (size_t b = 0; b < 3; b++)
            for (size_t n = 0; n <= MAX; n += n < 40 ? 1 : 111) {
                size_t sa = kvp_dtype_bytes(dtypes[a]), sb = kvp_dtype_bytes(dtypes[b]);
                unsigned char *from = src + n % 3, *to = dst + n % 2; /* unaligned */
                for (size_t i = 0; i < n; i++) {
                    float x = (float)i - 7.25f;
                    assert_true(kvpi_convert_scalar(from + i * sa, dtypes[a], &x, KVP_F32, 1));
                    float y;
                    assert_true(kvpi_convert_scalar(&y, KVP_F32, from + i * sa, dtypes[a], 1));
                    assert_true(kvpi_convert_scalar(expected + i * sb, dtypes[b], &y, KVP_F32, 1));
                }
                for (size_t p = 0; p < 2; p++) {
                    memset(dst, 0x55, sizeof dst);
                    assert_true(paths[p](to, dtypes[b], from, dtypes[a], n));
                    assert_memory_equal(to, expected, n * sb);
                    assert_int_equal(to[n * sb], 0x55);
                    for (size_t bad = 0; bad < n; bad += n / 5 + 1) {
                        unsigned char saved[4];
                        memcpy(saved, from + bad * sa, sa);
                        memset(from + bad * sa, 0xff, sa); /* NaN in all three */
                        assert_false(paths[p](to, dtypes[b], from, dtypes[a], n));
                        memcpy(from + bad * sa, saved, sa);
                    }
                }
            }
}

static void test_bf16_values_too_large_for_f16_are_found(void **state)
{
    (void)state;
    uint16_t large[9] = {0x4780}, out[9]; /* 65536 */
    assert_false(kvpi_convert(out, KVP_F16, large, KVP_BF16, 9));
    large[0] = 0x477f; /* 65280 */
    assert_true(kvpi_convert(out, KVP_F16, large, KVP_BF16, 9));
    assert_int_equal(out[0], 0x7bf8);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_16_bit_values_widen_exactly_and_come_back),
        cmocka_unit_test(test_narrowing_rounds_to_nearest_even_at_every_boundary),
        cmocka_unit_test(test_random_floats_narrow_alike_on_every_path),
        cmocka_unit_test(test_rows_of_every_length_convert_and_one_bad_value_is_found),
        cmocka_unit_test(test_bf16_values_too_large_for_f16_are_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
