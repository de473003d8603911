/* test_planes.c - the rearrangements in front of the entropy coder, against their definitions, and
 * every instruction set against plain C. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "codec_pages.h"
#include "kvpager/attention.h"
#include "tiers/planes.h"

#include <stdlib.h>
#include <string.h>

enum { MAX = 4096 };

static const kvpi_plane_kernels *kernels[2];
static size_t n_kernels;

/* ---- definitions, in arithmetic instead of bits ---- */

static uint64_t modulus(size_t bytes)
{
    return UINT64_C(1) << (8 * bytes);
}

static uint64_t load(const uint8_t *p, size_t bytes)
{
    uint64_t x = 0;
    for (size_t i = bytes; i-- > 0;)
        x = 256 * x + p[i];
    return x;
}

/* Negative floats count down from -1. */
static int64_t ordered(uint64_t x, size_t bytes)
{
    int64_t half = (int64_t)(modulus(bytes) / 2);
    return (int64_t)x < half ? (int64_t)x : half - 1 - (int64_t)x;
}

static uint64_t zigzag(int64_t d, size_t bytes)
{
    int64_t half = (int64_t)(modulus(bytes) / 2);
    while (d >= half)
        d -= 2 * half;
    while (d < -half)
        d += 2 * half;
    return d >= 0 ? 2 * (uint64_t)d : 2 * (uint64_t)(-d) - 1;
}

static uint64_t rotated(uint64_t x, size_t bytes)
{
    uint64_t half = modulus(bytes) / 2;
    return x % half * 2 + x / half;
}

/* Element i of a stream as it should be in the planes. */
static uint64_t expected(const kvpi_plane_shape *s, kvpi_predictor p, const uint8_t *src,
                         const uint8_t *refs, size_t i)
{
    size_t slice_n = s->n / s->n_slices, at = i % slice_n, bytes = s->element_bytes;
    uint64_t x = load(src + i * bytes, bytes);
    if (p == KVPI_PREDICT_TOKEN && at >= s->width)
        return zigzag(ordered(x, bytes) - ordered(load(src + (i - s->width) * bytes, bytes), bytes),
                      bytes);
    x = rotated(x, bytes);
    if (p == KVPI_PREDICT_SCALE)
        x += modulus(bytes) - refs[i / slice_n * s->width + at % s->width] * (modulus(bytes) / 256);
    return x % modulus(bytes);
}

/* ---- split and merge ---- */

static void check_shape(const kvpi_plane_kernels *k, const kvpi_plane_shape *s, kvpi_predictor p,
                        const uint8_t *src, const uint8_t *refs)
{
    size_t n = s->n, bytes = s->element_bytes;
    uint8_t *high = malloc(n + 1), *low = malloc(3 * n + 1), *back = malloc(4 * n + 1);
    uint8_t *exact = malloc(n * bytes + 1), *exact_refs = malloc(kvpi_reference_bytes(s, p) + 1);
    memcpy(exact, src, n * bytes); /* no byte more than there is: ASan watches */
    memcpy(exact_refs, refs, kvpi_reference_bytes(s, p));
    kvpi_planes_split(k, s, p, exact, exact_refs, high, low);
    for (size_t i = 0; i < n; i++) {
        uint64_t want = expected(s, p, src, refs, i);
        assert_int_equal(high[i], want >> (8 * (bytes - 1)));
        for (size_t plane = 0; plane + 1 < bytes; plane++)
            assert_int_equal(low[plane * n + i], want >> (8 * plane) & 0xff);
    }
    memset(back, 0xee, 4 * n + 1);
    kvpi_planes_merge(k, s, p, back, exact_refs, high, low);
    assert_memory_equal(back, src, n * bytes);
    assert_int_equal(back[n * bytes], 0xee);
    free(high);
    free(low);
    free(back);
    free(exact);
    free(exact_refs);
}

static void test_planes_are_as_defined_and_merge_back(void **state)
{
    (void)state;
    static uint8_t src[4 * MAX + 1], refs[MAX];
    static const size_t widths[] = {1, 3, 32, 64, 80, 129};
    uint64_t seed = 11;
    for (size_t i = 0; i < sizeof src; i++)
        src[i] = (uint8_t)(page_random(&seed) >> 9);
    for (size_t i = 0; i < sizeof refs; i++)
        refs[i] = (uint8_t)(page_random(&seed) >> 9);
    for (size_t k = 0; k < n_kernels; k++)
        for (size_t bytes = 2; bytes <= 4; bytes += 2)
            for (kvpi_predictor p = KVPI_PREDICT_NONE; p < KVPI_N_PREDICTORS; p++)
                for (size_t w = 0; w < sizeof widths / sizeof widths[0]; w++)
                    for (size_t n = 0; n <= MAX / 3; n += n < 140 ? 1 : 131)
                        for (size_t slices = 1; slices <= 3; slices += 2) {
                            kvpi_plane_shape s = {.n = n * slices,
                                                  .n_slices = slices,
                                                  .element_bytes = bytes,
                                                  .width = widths[w]};
                            check_shape(kernels[k], &s, p, src + n % 2, refs);
                        }
}

static void test_exponents_of_bf16_and_f32_are_the_high_plane(void **state)
{
    (void)state;
    const float x[2] = {-1.5f, 0x1.8p-20f};
    const uint16_t bf16[2] = {0xbfc0, 0x35c0}; /* the same values */
    uint8_t high[2], low[6];
    for (size_t k = 0; k < n_kernels; k++) {
        kvpi_plane_shape s = {.n = 2, .n_slices = 1, .element_bytes = 4, .width = 2};
        kvpi_planes_split(kernels[k], &s, KVPI_PREDICT_NONE, x, NULL, high, low);
        assert_int_equal(high[0], 127);
        assert_int_equal(high[1], 107);
        s.element_bytes = 2;
        kvpi_planes_split(kernels[k], &s, KVPI_PREDICT_NONE, bf16, NULL, high, low);
        assert_int_equal(high[0], 127);
        assert_int_equal(high[1], 107);
        assert_int_equal(low[0] & 1, 1); /* the sign */
    }
}

/* ---- palette ---- */

static size_t place_of(const uint8_t *palette, uint8_t b)
{
    size_t k = 0;
    while (k < KVPI_PALETTE_COLOURS && palette[k] != b)
        k++;
    return k;
}

/* One in `rarity` bytes is no colour. */
static void fill_colours(uint8_t *src, size_t n, const uint8_t *palette, size_t rarity,
                         uint64_t *seed)
{
    for (size_t i = 0; i < n; i++) {
        uint64_t r = page_random(seed) >> 8;
        src[i] = r % rarity ? palette[(r >> 20) % KVPI_PALETTE_COLOURS] : (uint8_t)(r >> 40);
    }
}

static void check_nibbles(const kvpi_plane_kernels *k, const uint8_t *src, size_t n,
                          const uint8_t *palette)
{
    uint8_t *nibbles = malloc(kvpi_nibble_bytes(n) + 1), *escapes = malloc(n + 1);
    uint8_t *back = malloc(n + 1);
    size_t n_escapes = k->nibbles_pack(src, n, palette, nibbles, escapes), used = 0;
    size_t in_blocks = n / 64 * 64;
    for (size_t i = 0; i < n; i++) {
        size_t at = i < in_blocks ? i / 64 * 32 + i % 32 : i / 2;
        bool is_upper = i < in_blocks ? i % 64 >= 32 : (i - in_blocks) % 2;
        size_t place = place_of(palette, src[i]);
        assert_int_equal(is_upper ? nibbles[at] >> 4 : nibbles[at] & 15, place);
        if (place == KVPI_PALETTE_COLOURS)
            assert_int_equal(escapes[used++], src[i]);
    }
    assert_int_equal(used, n_escapes);
    if (n % 2)
        assert_int_equal(nibbles[n / 2] >> 4, 0);
    back[n] = 0xee;
    assert_true(k->nibbles_unpack(nibbles, n, palette, escapes, n_escapes, back));
    assert_memory_equal(back, src, n);
    assert_int_equal(back[n], 0xee);
    assert_false(k->nibbles_unpack(nibbles, n, palette, escapes, n_escapes + 1, back));
    if (n_escapes)
        assert_false(k->nibbles_unpack(nibbles, n, palette, escapes, n_escapes - 1, back));
    free(nibbles);
    free(escapes);
    free(back);
}

static void test_nibbles_are_as_defined_and_unpack(void **state)
{
    (void)state;
    static const uint8_t usual[] = {120, 121, 122, 123, 124, 125, 126, 127,
                                    119, 118, 117, 116, 115, 0,   255};
    static const uint8_t repeated[] = {7, 7, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
    uint8_t src[700];
    uint64_t seed = 3;
    for (size_t k = 0; k < n_kernels; k++)
        for (size_t n = 0; n < sizeof src; n += n < 200 ? 1 : 37)
            for (size_t rarity = 1; rarity < 2000; rarity *= 6) {
                fill_colours(src, n, usual, rarity, &seed);
                check_nibbles(kernels[k], src, n, usual);
                fill_colours(src, n, repeated, rarity, &seed);
                check_nibbles(kernels[k], src, n, repeated);
            }
}

int main(void)
{
    kernels[n_kernels++] = &kvpi_plane_kernels_scalar;
    unsetenv("KVP_ISA");
    if (kvpi_plane_kernels_find() != kernels[0])
        kernels[n_kernels++] = kvpi_plane_kernels_find();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_planes_are_as_defined_and_merge_back),
        cmocka_unit_test(test_exponents_of_bf16_and_f32_are_the_high_plane),
        cmocka_unit_test(test_nibbles_are_as_defined_and_unpack),
    };
    return cmocka_run_group_tests(tests, NULL, NULL) != 0;
}
